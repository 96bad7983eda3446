"""Packs: decoded images of a pair list in one memory-mapped file, and how a loader reads them.

A pack is a folder `resources/packed/<dataset>.<split>.<hash>/` that holds

- `pixels.bin`: uint8 RGB pixels of every image, one after the other, each image once;
- `images.bin`: an `IMAGE` record per image;
- `pairs.bin`: a `PAIR` record per pair, in list order;
- `text.bin`: name, level and degradation of every pair, in lists of windows the window, UTF-8;
- `header.json`: format, counts, sizes and checksums of the others.

Nothing of it is read into memory: all loader processes share the pages that they touch.
`airpipe.data.packing` makes packs.
"""

import json
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from airpipe.data.crops import align
from airpipe.data.windows import Window, cut_out
from airpipe.errors import AirpipeError
from airpipe.pixels import Rgb8
from airpipe.progress import track
from airpipe.provenance import sha256_file

FORMAT = "airpipe pack"
VERSION = 1
IMAGE = np.dtype([("offset", "<u8"), ("height", "<u4"), ("width", "<u4"), ("crc32", "<u4")])
"""Place of an image in pixels.bin, its size in pixels, and the crc32 of its pixels."""
PAIR = np.dtype([("clean", "<u4"), ("degraded", "<u4"), ("crop", "u1"), ("text", "<u8"), ("length", "<u4")])
"""Image numbers, index into `CROPS`, and the pair's bytes in text.bin: name, level, degradation and, in lists of
windows, the window ("" for a whole image), with NUL between."""
NO_IMAGE = 2**32 - 1
"""Image number that stands for the degraded image of a pair that has none."""
CROPS = ("none", "centre", "top_left")
"""Crop rules, in the order that `PAIR` records count them."""
INDEX = ("images.bin", "pairs.bin", "text.bin")
"""Files whose checksums stand in the header; pixels have one for each image."""
SAMPLED = 4
"""Number of images whose checksum is compared whenever a pack is opened."""


def check_index(header: dict[str, Any], sizes: dict[str, int]) -> str | None:
    """Say why a header does not describe files of these sizes in bytes; None if it does."""
    if header.get("format") != FORMAT:
        return f"header.json says format {header.get('format')!r}, expected {FORMAT!r}"
    if header.get("version") != VERSION:
        return f"made as version {header.get('version')!r} of the format, expected {VERSION}"
    for name in ("pixels.bin", *INDEX):
        expected = header.get("bytes", {}).get(name)
        if sizes.get(name) != expected:
            return f"{name} has {sizes.get(name, 'no')} bytes, header.json says {expected}"
    records = (("images.bin", "images", IMAGE), ("pairs.bin", "pairs", PAIR))
    for name, count, record in records:
        if not header.get(count) or sizes[name] != header[count] * record.itemsize:
            return f"{name} has {sizes[name]} bytes for {header.get(count)!r} {count}"
    return None


class Pack:
    """A pack, as a source of pairs (`airpipe.data.sources.Source`); pickled by its path.

    Args:
        folder: folder of the pack; use `open` for one that may be damaged.

    Raises:
        AirpipeError: the pack is missing, truncated or foreign.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            header = json.loads((folder / "header.json").read_text(encoding="utf-8"))
            sizes = {path.name: path.stat().st_size for path in folder.glob("*.bin")}
        except (OSError, ValueError) as error:
            raise self._damaged(f"header.json cannot be read ({error})") from None
        reason = check_index(header, sizes) if isinstance(header, dict) else "header.json is not a mapping"
        if reason is not None:
            raise self._damaged(reason)
        self.header: dict[str, Any] = header
        self._pixels = self._mapped("pixels.bin", np.dtype(np.uint8))
        self._images, self._pairs = self._mapped("images.bin", IMAGE), self._mapped("pairs.bin", PAIR)
        self._text = self._mapped("text.bin", np.dtype(np.uint8))

    @classmethod
    def open(cls, folder: Path) -> "Pack":
        """Open a pack and compare a few evenly spaced images with their checksums; large packs take no longer.

        Raises:
            AirpipeError: the pack is missing, truncated, foreign or damaged.
        """
        pack = cls(folder)
        images = len(pack._images)
        pack._compare(sorted({i * (images - 1) // max(SAMPLED - 1, 1) for i in range(SAMPLED)}))
        return pack

    def __reduce__(self) -> tuple[Any, ...]:
        return Pack, (self.folder,)

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def images(self) -> int:
        """Number of images in the pack; one that several pairs share counts once."""
        return len(self._images)

    @property
    def pixel_bytes(self) -> int:
        """Size of pixels.bin in bytes."""
        return len(self._pixels)

    def layers(self, index: int) -> list[npt.NDArray[Any]]:
        """Return [clean] or [clean, degraded] of a pair, equally large: read-only views (H, W, 3), uint8.

        Raises:
            AirpipeError: sizes differ after the list's crop rule, or a window does not fit, as for files.
        """
        clean, degraded, crop, *_ = self._pairs[index].item()
        name, _, _, *window = self._words(index)
        layers = [self._image(clean)]
        if degraded != NO_IMAGE:
            seen, original = align(self._image(degraded), layers[0], CROPS[crop], name)
            layers = [original, seen]
        return cut_out(layers, Window.parse(window[0]), name) if any(window) else layers

    def sides(self) -> npt.NDArray[np.int64]:
        """Return width and height of every pair in pixels, (pairs, 2): of the smaller image, or of the window."""
        sizes = np.stack([self._images["width"], self._images["height"]], axis=1).astype(np.int64)
        clean, degraded = self._pairs["clean"], self._pairs["degraded"]
        found: npt.NDArray[np.int64] = np.minimum(sizes[clean], sizes[np.where(degraded == NO_IMAGE, clean, degraded)])
        if len(self) and len(self._words(0)) > 3:  # a list of windows
            for index in range(len(self)):
                if text := self._words(index)[3]:
                    found[index] = Window.parse(text)[:2]
        return found

    def paired(self, index: int) -> bool:
        """Tell whether a pair has a degraded image."""
        return bool(self._pairs[index]["degraded"] != NO_IMAGE)

    def name(self, index: int) -> str:
        """Name of the image, unique in the list."""
        return self._words(index)[0]

    def level(self, index: int) -> str:
        """Level of the degradation, as the list says it."""
        return self._words(index)[1]

    def degradation(self, index: int) -> str:
        """Degradation of the image, as the list says it."""
        return self._words(index)[2]

    def verify(self) -> None:
        """Compare all files and images with their checksums.

        Raises:
            AirpipeError: something differs.
        """
        for name in INDEX:
            if sha256_file(self.folder / name) != self.header["sha256"].get(name):
                raise self._damaged(f"{name} has another checksum")
        self._compare(range(len(self._images)), f"verifying {self.folder.name}")

    def _words(self, index: int) -> list[str]:
        *_, start, length = self._pairs[index].item()
        return self._text[start : start + length].tobytes().decode().split("\0")

    def _image(self, number: int) -> Rgb8:
        start, height, width, _ = self._images[number].item()
        stop = start + 3 * height * width
        if stop > len(self._pixels):
            raise self._damaged(f"image {number} ends at byte {stop} of {len(self._pixels)}")
        return self._pixels[start:stop].reshape(height, width, 3)

    def _compare(self, numbers: Sequence[int], label: str | None = None) -> None:
        for number in numbers if label is None else track(numbers, len(numbers), label):
            if zlib.crc32(self._image(number).data) != self._images[number]["crc32"]:
                raise self._damaged(f"image {number} has another checksum")

    def _mapped(self, name: str, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        # a plain array: slices of np.memmap cost microseconds each
        return np.asarray(np.memmap(self.folder / name, kind, mode="r"))

    def _damaged(self, reason: str) -> AirpipeError:
        return AirpipeError(
            f"{self.folder}: not a usable pack: {reason}. Delete this folder and run again; it is made from the files"
        )


class JoinedPacks:
    """Several packs as one source of pairs, one behind the other.

    Args:
        packs: the packs, in order.
    """

    def __init__(self, packs: Sequence[Pack]) -> None:
        self.packs = list(packs)
        self._ends = list(accumulate(map(len, self.packs)))

    @classmethod
    def open(cls, folders: Sequence[Path]) -> "JoinedPacks":
        """Open packs, and compare some images of a few evenly spaced ones with their checksums.

        Raises:
            AirpipeError: a pack is missing, truncated, foreign or damaged.
        """
        last = len(folders) - 1
        compared = {i * last // max(SAMPLED - 1, 1) for i in range(SAMPLED)}
        return cls([Pack.open(path) if i in compared else Pack(path) for i, path in enumerate(folders)])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def layers(self, index: int) -> list[npt.NDArray[Any]]:
        """Return the layers of a pair, see `Pack.layers`."""
        pack, own = self._at(index)
        return pack.layers(own)

    def sides(self) -> npt.NDArray[np.int64]:
        """Return width and height of every pair in pixels, (pairs, 2), see `Pack.sides`."""
        return np.concatenate([pack.sides() for pack in self.packs])

    def paired(self, index: int) -> bool:
        """Tell whether a pair has a degraded image."""
        pack, own = self._at(index)
        return pack.paired(own)

    def name(self, index: int) -> str:
        """Name of the image, unique in the list."""
        pack, own = self._at(index)
        return pack.name(own)

    def level(self, index: int) -> str:
        """Level of the degradation, as the list says it."""
        pack, own = self._at(index)
        return pack.level(own)

    def _at(self, index: int) -> tuple[Pack, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        return self.packs[number], index - (self._ends[number - 1] if number else 0)


def usable_packs(lists: Sequence[Path], facts: Sequence[Path]) -> dict[str, Pack | JoinedPacks]:
    """Find packs that may stand for pair lists; print one line for each one that may not.

    Args:
        lists: pair lists of a mix.
        facts: JSON files of scripts/pack_dataset.py.

    Returns:
        Pack by list id (`dataset.split`); several for a list whose JSON names several folders.

    Raises:
        AirpipeError: a JSON file cannot be read, a pack is damaged, or it is not there and its list has no files.
    """
    by_id = {path.stem: path for path in lists}
    packs: dict[str, Pack | JoinedPacks] = {}
    for path in facts:
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            name, folder, pairs_sha256 = known["list"], known["folder"], known["pairs_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AirpipeError(
                f"{path}: not the JSON of a pack ({error}). Make it with scripts/pack_dataset.py"
            ) from None
        if name not in by_id:
            continue
        reason = None
        folders = [folder] if isinstance(folder, str) else folder or []
        if folder is None:
            reason = "packing is off"
        elif pairs_sha256 != sha256_file(by_id[name]):
            reason = "the pack was made from another version of the list"
        elif gone := [one for one in folders if not Path(one).is_dir()]:
            reason = f"{gone[0]} is gone"
        if reason is not None and isinstance(folder, list):
            raise AirpipeError(f"{name}: {reason}, and its images are nowhere else. Remove {path} and make it again")
        if reason is None:
            opened = Pack.open(Path(folder)) if isinstance(folder, str) else JoinedPacks.open([*map(Path, folders)])
            packs[name] = opened
        else:
            print(f"{name}: read from its files ({reason})", flush=True)
    return packs
