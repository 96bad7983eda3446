"""Leakage: training images that show what a test image shows.

Fingerprints give candidates, pixels decide. Found are copies, cuts (of 4 % of a side around the
middle, 2 % at one end: all of 134 photographs), resampled, recompressed and brightened copies, and
the same scene photographed again. Not found are mirrored or rotated copies and small cut-outs.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.data.compact import Chosen
from airpipe.data.fingerprints import FingerprintTable, luminance
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.progress import track
from airpipe.provenance import atomic_path, write_json
from airpipe.rows import read_records

Rgb = npt.NDArray[np.uint8]
Relation = Literal["same file", "same pixels", "crop", "near"]
MAX_DISTANCE = 10
"""Most differing bits of two perceptual hashes whose pictures are compared further. In 107,000 pairs of 611 images of
26 benchmark lists, the 39 true pairs differ in 0 to 4 bits and all others in 14 or more; cuts of 4 % of a side reach
10."""
MIN_CORRELATION = 0.95
"""Least correlation of luminance at 64x64 of two pictures that show the same. The 39 true pairs have 0.988 and more,
all others at most 0.914; a copy of half size at JPEG quality 10 has 0.953 and more."""
MAX_CUT = 0.1
"""Largest part of a side that may be cut off; pairs that differ by more are resized, not laid over one another."""
PATCH = 512
"""Side in pixels of the middle part that finds where a cut was made."""
THUMBNAIL = 64
"""Side in pixels at which luminance is correlated."""
FLAT = 1.0
"""Least standard deviation in grey levels; flatter pictures correlate with nothing."""
TRAIN_CHUNK, TEST_CHUNK = 1 << 13, 16
"""Numbers of hashes that are compared at a time, in 1 MB that a processor keeps at hand."""


@dataclass(frozen=True)
class Leak:
    """A training image and a test image that show the same."""

    train_list: str
    train_image: str
    """Path below the data set's root, as in the pair list's column clean."""
    test_list: str
    test_image: str
    """Path of the test image, likewise."""
    relation: Relation
    """How the images are related. same file; same pixels (of another file); crop: a pixel-equal cut; near:
    resampled, recompressed, brightened or taken again."""
    distance: int
    """Number of differing bits of the perceptual hashes, of 64."""
    correlation: float
    """Correlation of luminance at 64x64, aligned; 1 for equal pixels."""


COLUMNS = tuple(field.name for field in fields(Leak))
"""Columns of the csv of leaks."""


def find_leaks(
    train: Sequence[FingerprintTable], test: Sequence[FingerprintTable], find: Callable[[str, str], Path]
) -> list[Leak]:
    """Compare every training list with every test list; a list is never compared with itself.

    Args:
        train: fingerprints of training lists.
        test: fingerprints of test lists.
        find: function that gives the file of (dataset.split, relative path); only files of candidates are read.

    Returns:
        Leaks in the order of the lists, of two lists in that of their images.

    Raises:
        AirpipeError: the file of a candidate is missing or corrupt.
    """
    leaks = []
    read = lru_cache(maxsize=8)(read_rgb8)
    for one in train:
        for other in test:
            if one.list_id == other.list_id:
                continue
            label = f"{one.list_id} with {other.list_id}"
            pairs = sorted(_candidates(one.phash, other.phash, label))
            for i, j, distance in track(pairs, len(pairs), f"comparing pixels of {label}"):
                relation: Relation | None
                # equal pixels need no second look at the files
                if one.pixels_sha256[i] == other.pixels_sha256[j]:
                    relation = "same file" if one.bytes_sha256[i] == other.bytes_sha256[j] else "same pixels"
                    correlation = 1.0
                else:
                    files = find(one.list_id, one.paths[i]), find(other.list_id, other.paths[j])
                    relation, correlation = compare(read(files[0]), read(files[1]))
                if relation is not None:
                    names = (one.list_id, one.paths[i], other.list_id, other.paths[j])
                    leaks.append(Leak(*names, relation, distance, round(correlation, 4)))
    return leaks


def _candidates(
    train: npt.NDArray[np.uint64], test: npt.NDArray[np.uint64], label: str
) -> Iterator[tuple[int, int, int]]:
    """Yield (train index, test index, distance) of hashes that are close, in any order."""
    starts = range(0, len(test), TEST_CHUNK)
    for j in track(starts, len(starts), f"comparing fingerprints of {label}"):
        for i in range(0, len(train), TRAIN_CHUNK):
            # a row of the block is one test hash against many training hashes, which lie side by side
            distance = np.bitwise_count(test[j : j + TEST_CHUNK, None] ^ train[i : i + TRAIN_CHUNK])
            for place in np.flatnonzero(distance <= MAX_DISTANCE):
                row, column = divmod(int(place), distance.shape[1])
                yield i + column, j + row, int(distance[row, column])


def compare(one: Rgb, other: Rgb) -> tuple[Relation | None, float]:
    """Tell how two pictures of different pixels are related.

    Args:
        one: uint8 RGB (H, W, 3).
        other: another one, of any size.

    Returns:
        "crop", "near" or None, and the correlation of luminance, at most 1.
    """
    correlation = _correlation(one, other)
    if (laid := _laid_over(one, other)) is not None:
        if np.array_equal(*laid):
            return "crop", 1.0
        correlation = max(correlation, _correlation(*laid))
    return ("near" if correlation >= MIN_CORRELATION else None), correlation


def _laid_over(one: Rgb, other: Rgb) -> tuple[Rgb, Rgb] | None:
    """The smaller picture and the part of the larger one where it fits best; None when the sizes are too far apart."""
    small, large = sorted((one, other), key=lambda picture: picture.shape)
    height, width = small.shape[:2]
    spare = large.shape[0] - height, large.shape[1] - width
    # a negative spare width: neither picture holds the other
    if spare[1] < 0 or spare[0] > MAX_CUT * large.shape[0] or spare[1] > MAX_CUT * large.shape[1]:
        return None
    top, left = max(0, (height - PATCH) // 2), max(0, (width - PATCH) // 2)
    patch = small[top : top + PATCH, left : left + PATCH]
    window = large[top : top + patch.shape[0] + spare[0], left : left + patch.shape[1] + spare[1]]
    # only the middle is searched for: it gives the place of the whole
    misfit = cv2.matchTemplate(luminance(window), luminance(patch), cv2.TM_SQDIFF)
    x, y = cv2.minMaxLoc(misfit)[2]
    return small, large[y : y + height, x : x + width]


def _correlation(one: Rgb, other: Rgb) -> float:
    """Correlation of luminance, both resized to 64x64; 0 when one of them is flat."""
    first, second = (
        cv2.resize(luminance(picture), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).ravel()
        for picture in (one, other)
    )
    if min(first.std(), second.std()) < FLAT:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


# The report


def write_leaks(
    path: Path, leaks: Sequence[Leak], train: Sequence[FingerprintTable], test: Sequence[FingerprintTable]
) -> list[str]:
    """Write the leaks as csv and a summary as JSON beside it.

    Returns:
        One warning line per pair of lists that share images.
    """
    shared = []
    for one in train:
        for other in test:
            found = [leak for leak in leaks if (leak.train_list, leak.test_list) == (one.list_id, other.list_id)]
            if found:
                shared.append(
                    {
                        "train_list": one.list_id,
                        "train_images": len({leak.train_image for leak in found}),
                        "test_list": other.list_id,
                        "test_images": len({leak.test_image for leak in found}),
                        "of_test_images": len(other.paths),
                        "relations": dict(Counter(leak.relation for leak in found)),
                    }
                )
    write_json(
        path.with_suffix(".json"),
        {
            "train": {one.list_id: len(one.paths) for one in train},
            "test": {one.list_id: len(one.paths) for one in test},
            "shared": shared,
            "max_distance": MAX_DISTANCE,
            "min_correlation": MIN_CORRELATION,
        },
    )
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(leak) for leak in leaks)
    return [
        f"{entry['train_list']} shows {entry['test_images']} of the {entry['of_test_images']} "
        f"test images of {entry['test_list']}"
        for entry in shared
    ]


def read_leaks(path: Path) -> tuple[list[Leak], dict[str, Any]]:
    """Read the leaks and the summary that `write_leaks` wrote.

    Raises:
        AirpipeError: a file is missing or damaged.
    """
    remedy = "Make it again: scripts/find_leaks.py"
    try:
        summary = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AirpipeError(f"{path}: cannot be read with its JSON ({error}). {remedy}") from None
    leaks = []
    for number, row in enumerate(read_records(path, remedy, COLUMNS), start=2):
        try:
            if row["relation"] not in get_args(Relation):
                raise ValueError(f"unknown relation {row['relation']!r}")
            numbers = {"distance": int(row["distance"]), "correlation": float(row["correlation"])}
            leaks.append(Leak(**{**cast(dict[str, Any], row), **numbers}))
        except (ValueError, TypeError) as error:
            raise AirpipeError(f"{path}: row {number} is damaged ({error}). {remedy}") from None
    return leaks, summary


def without_leaks(
    rows: Sequence[Mapping[str, str]], list_id: str, path: Path, against: Sequence[str] = ()
) -> tuple[Sequence[Mapping[str, str]], list[str]]:
    """Keep the rows of a training list whose clean image is shown by no test image.

    Args:
        rows: rows of the pair list.
        list_id: dataset.split of the list.
        path: csv file that `write_leaks` wrote.
        against: test lists that count; none: all.

    Returns:
        The rows that stay, and the names of those that go.

    Raises:
        AirpipeError: a list was not compared, or no row stays.
    """
    leaks, summary = read_leaks(path)
    for one, side in ((list_id, "train"), *((one, "test") for one in against)):
        if one not in summary.get(side, ()):
            raise AirpipeError(
                f"{path}: {one} was not compared; {side} lists in it: {', '.join(summary.get(side, ())) or 'none'}. "
                f"Make it again: scripts/find_leaks.py with --{side} and the fingerprints of {one}"
            )
    counted = [leak for leak in leaks if leak.train_list == list_id and (not against or leak.test_list in against)]
    shown = {leak.train_image for leak in counted}
    kept = Chosen(rows, (number for number, row in enumerate(rows) if row["clean"] not in shown))
    if not kept:
        raise AirpipeError(
            f"{list_id}: every one of its {len(rows)} pairs shows a test image, none is left to train on. "
            "Choose another training list, or fewer test lists to compare with"
        )
    return kept, [row["name"] for row in rows if row["clean"] in shown]
