"""Labelled folders: which class each image shows, what is odd about the layout, and shares of classes."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from airpipe.data.files import list_images, matching
from airpipe.errors import AirpipeError
from airpipe.settings.datasets import ClassShare, SplitSettings

MARKET_NAME = re.compile(r"(-1|\d{4})_c(\d)s\d_\d+_\d+")
"""File names of Market-1501, with person and camera: `0002_c1s1_000451_03.jpg`."""
JUNK = "-1"
"""Number in place of a person, for detections that Market-1501's protocol leaves out."""
CUB_LISTS = ("images.txt", "image_class_labels.txt", "classes.txt", "train_test_split.txt")
"""Text files of CUB-200-2011: files, their classes, names of classes, sides of the published division."""


@dataclass(frozen=True)
class Label:
    """Label of an image: what it shows."""

    category: str
    """Class of what it shows."""
    camera: str = ""
    """Camera that took it; empty where nobody says it."""


def label_of(path: str, split: SplitSettings) -> Label | str:
    """Read class and camera of an image off its path.

    Args:
        path: path of the image below the root.
        split: settings of a split that has classes.

    Returns:
        The label, or why there is none.
    """
    where = PurePosixPath(path)
    if split.classes == "market":
        match = MARKET_NAME.match(where.stem)
        if not match:
            return f"{path}: expected a name as in Market-1501, such as 0002_c1s1_000451_03.jpg"
        return Label(match[1], match[2])
    if not where.parent.name:
        return f"{path}: lies directly in the folder; expected <class>/{where.name}"
    return Label(where.parent.name)


def name_of(category: str, stem: str) -> str:
    """Return the name of a labelled pair, fit for a file name.

    Example:
        >>> name_of("brown bear", "0001")
        'brown_bear__0001'
    """
    return "__".join(re.sub(r"[^\w.+-]+", "_", part).lstrip(".-") or "_" for part in (category, stem))


# Which files of a labelled folder are taken


def chosen_files(root: Path, paths: Sequence[str], split: SplitSettings) -> tuple[list[str], list[str]]:
    """Choose the files of a labelled split, before they are paired.

    Args:
        root: folder of the data set.
        paths: image files below it.
        split: settings of a split that has classes.

    Returns:
        Paths that stay, in order; and problems, one line each: images outside of class folders, a single
        class, classes that a share cannot divide, names and lists that do not fit.
    """
    left_out = set(matching(paths, split.leave_out))
    originals = set(matching(paths, [glob for layout in split.layouts for glob in layout.clean])) - left_out
    others = set(paths) - originals  # degraded files, and those that pairing reports as left out
    clean, problems = _of_this_kind(root, sorted(originals), split)
    labels = {path: label_of(path, split) for path in clean}
    problems += [found for found in labels.values() if isinstance(found, str)]
    classes = {path: found.category for path, found in labels.items() if isinstance(found, Label)}
    if clean and not problems:
        problems += _too_few(classes, split)
    chosen = set(clean)
    if split.share_of_class is not None and not problems:
        shared, problems = shared_out(classes, split.share_of_class)
        chosen = set(shared)
    return [path for path in paths if path in chosen or path in others], problems


def _of_this_kind(root: Path, clean: list[str], split: SplitSettings) -> tuple[list[str], list[str]]:
    """What the layout of a known data set takes of its clean files, and what does not fit it."""
    if split.classes == "market":
        return [path for path in clean if not PurePosixPath(path).name.startswith(f"{JUNK}_")], []
    return _cub_part(root, clean, split) if split.classes == "cub" else (clean, _strays(root, split))


def _too_few(classes: Mapping[str, str], split: SplitSettings) -> list[str]:
    counts = Counter(classes.values())
    if len(counts) < 2:
        return [
            f"{len(classes)} images are all of class {next(iter(counts))!r}; expected at least two classes (classes: "
            "folder takes the folder that holds the file: the glob has to end in <class>/<file>, such as 'train/*/*')"
        ]
    lone = sorted(name for name, count in counts.items() if count < 2)
    if split.share_of_class is None or not lone:
        return []
    return [
        f"class {name}: has one image; a share of it needs at least two. Add images, or leave it out (leave_out)"
        for name in lone
    ]


def _strays(root: Path, split: SplitSettings) -> list[str]:
    """Images directly beside class folders, or deeper than these."""
    problems: list[str] = []
    for glob in dict.fromkeys(glob for layout in split.layouts for glob in layout.clean):
        *folders, last = glob.split("/")
        for globs, what in (
            (["/".join([*folders[:-1], last])] if folders else [], "lies beside the class folders"),
            (["/".join([*folders, "*", last])], "lies deeper than its class folder"),
        ):
            found = list_images(root, globs)[0]
            named = {path for one in split.layouts for path in matching(found, (*one.clean, *(one.degraded or ())))}
            kept = set(found) - set(matching(found, split.leave_out)) - named
            problems += [f"{path}: {what} ({glob} names what is read)" for path in sorted(kept)]
    return problems


def place_of(path: str, seed: int) -> float:
    """Give a file a place in [0, 1) that depends on nothing but seed and path."""
    # not Python's hash, which differs from run to run
    digest = hashlib.sha256(f"{seed}/{path}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def shared_out(classes: Mapping[str, str], share: ClassShare) -> tuple[list[str], list[str]]:
    """Choose the files that lie in a share of every class.

    A file stays on its side whatever other files come, unless a side had to be filled: where all places of a class lie
    on one side of a cut, the other gets the nearest file, and gives it back once files of its own are there.

    Args:
        classes: class of each file, by its path.
        share: start and stop in [0, 1], and the seed of the places.

    Returns:
        Paths, sorted; and problems: classes of which nothing lies in the share.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for path in sorted(classes):
        members[classes[path]].append(path)
    chosen: list[str] = []
    problems: list[str] = []
    for name, paths in sorted(members.items()):
        order = sorted((place_of(path, share.seed), path) for path in paths)
        first, behind = (_cut(order, at) for at in (share.start, share.stop))
        chosen += [path for _, path in order[first:behind]]
        if first >= behind:
            problems.append(
                f"class {name}: none of its {len(order)} images lies in the share from {share.start} to {share.stop}; "
                "add images, widen the share, or choose another seed"
            )
    return sorted(chosen), problems


def _cut(order: Sequence[tuple[float, str]], at: float) -> int:
    """Number of files below a cut: at least one, and at least one above, unless it is an end."""
    below = sum(place < at for place, _ in order)
    return below if at in (0.0, 1.0) else min(max(below, 1), len(order) - 1)


# CUB-200-2011


def _cub_part(root: Path, paths: Sequence[str], split: SplitSettings) -> tuple[list[str], list[str]]:
    """Files of one side of the published division, compared with the lists of the data set."""
    folders = {PurePosixPath(path).parents[1] if path.count("/") > 1 else None for path in paths}
    images = folders.pop() if len(folders) == 1 else None
    if images is None or images.name != "images":
        return [], ["expected one folder `images` of CUB-200-2011 with files <class>/<file>"] if paths else []
    base = images.parent
    listed, labels, names, sides = (_cub_list(root / base / name) for name in CUB_LISTS)
    wanted = {"train": "1", "test": "0", None: None}[split.part]
    problems, chosen = [], []
    known = {str(images / file): number for number, file in listed.items()}
    for path in paths:
        number = known.get(path)
        folder = PurePosixPath(path).parent.name
        if number is None:
            problems.append(f"{path}: images.txt does not list it")
        elif names.get(labels.get(number, "")) != folder:
            problems.append(f"{path}: the lists say class {names.get(labels.get(number, ''))!r}, its folder {folder!r}")
        elif number not in sides:
            problems.append(f"{path}: train_test_split.txt does not list it")
        elif wanted in (None, sides[number]):
            chosen.append(path)
    there = set(paths)
    problems += [f"{path}: listed in images.txt, but not there" for path in sorted(set(known) - there)]
    return chosen, problems


def _cub_list(path: Path) -> dict[str, str]:
    """Second column by first column of a text file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AirpipeError(
            f"{path}: cannot be read ({error}). Expected the folder of CUB-200-2011 with {', '.join(CUB_LISTS)}"
        ) from None
    rows = [line.split(maxsplit=1) for line in lines if line.strip()]
    odd = [row for row in rows if len(row) != 2]
    if odd or not rows:
        raise AirpipeError(f"{path}: {odd[0] if odd else 'no lines'}; expected lines of two columns")
    return {number: value.strip() for number, value in rows}
