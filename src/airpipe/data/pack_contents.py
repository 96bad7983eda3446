"""Contents of a pack, laid out from a pair list and its manifest before anything is decoded."""

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from airpipe.data.compact import compact_texts
from airpipe.data.packs import CROPS, FORMAT, IMAGE, NO_IMAGE, PAIR, VERSION
from airpipe.data.pairs import COLUMNS, WINDOW
from airpipe.errors import AirpipeError
from airpipe.provenance import sha256_file
from airpipe.rows import read_columns

NAMED = 10
"""Largest number of missing files that a message names."""
AS_BYTES = struct.Struct("<IIBQI")
"""A `PAIR` record as Python packs it."""


@dataclass(frozen=True)
class Contents:
    """Contents of a pack, known before it is made."""

    name: str
    """List id, `<dataset>.<split>`."""
    pairs_sha256: str
    """Checksum of the pair list."""
    key: str
    """First 12 hex digits of the sha256 over format version, pairs, and checksums and sizes of their files."""
    files: Sequence[str]
    """Path of each image below the root."""
    sha256: npt.NDArray[np.uint8]
    """Checksums of the files, (images, 32) uint8."""
    images: npt.NDArray[Any]
    """One `IMAGE` record per image, its checksum still 0."""
    pairs: npt.NDArray[Any]
    """One `PAIR` record per pair, in the order of the list."""
    text: bytes
    """Bytes of text.bin."""

    @property
    def pixel_bytes(self) -> int:
        """Size of pixels.bin in bytes."""
        last = self.images[-1]
        return int(last["offset"]) + 3 * int(last["height"]) * int(last["width"])

    @property
    def total_bytes(self) -> int:
        """Size of the pack in bytes, but for its header."""
        return self.pixel_bytes + self.images.nbytes + self.pairs.nbytes + len(self.text)


def read_contents(pair_list: Path, manifest: Path) -> Contents:
    """Lay out the pack of a pair list.

    Args:
        pair_list: csv file with the columns of a pair list.
        manifest: csv file with path, sha256, width and height of its files.

    Raises:
        AirpipeError: a list is unreadable, a crop rule unknown, or the manifest lacks a file.
    """
    key = hashlib.sha256(f"{FORMAT} {VERSION}\n".encode())
    numbers: dict[str, int] = {}
    pairs, text = bytearray(), bytearray()
    for row in _rows(pair_list, COLUMNS, WINDOW):
        key.update(json.dumps(row).encode())
        degraded, clean, degradation, level, crop, name, _, *window = row
        if crop not in CROPS:
            raise AirpipeError(f"{pair_list}: {name} has crop {crop!r}; expected one of {', '.join(CROPS)}")
        first = numbers.setdefault(clean, len(numbers))
        second = numbers.setdefault(degraded, len(numbers)) if degraded else NO_IMAGE
        words = "\0".join((name, level, degradation, *window)).encode()
        pairs += AS_BYTES.pack(first, second, CROPS.index(crop), len(text), len(words))
        text += words
    if not pairs:
        raise AirpipeError(f"{pair_list}: holds no pairs. Make it again: snakemake {pair_list}")
    sha256, images = _images(numbers, manifest)
    for path, digest, image in zip(numbers, sha256, images, strict=True):
        key.update(json.dumps([path, digest.tobytes().hex(), *image.item()[1:3]]).encode())  # height and width
    return Contents(
        name=pair_list.stem,
        pairs_sha256=sha256_file(pair_list),
        key=key.hexdigest()[:12],
        files=compact_texts(numbers),
        sha256=sha256,
        images=images,
        pairs=np.frombuffer(pairs, PAIR),
        text=bytes(text),
    )


def _rows(path: Path, columns: tuple[str, ...], *optional: str) -> Iterator[list[str]]:
    """The named columns of a csv file, row by row, and those of the optional ones that it has."""
    remedy = f"Make it again: snakemake {path}"
    header, rows = read_columns(path, remedy)
    if missing := [name for name in columns if name not in header]:
        raise AirpipeError(f"{path}: columns {str(header)[:80]}; expected {', '.join(missing)}, too")
    places = [header.index(name) for name in (*columns, *optional) if name in header]
    for row in rows:
        yield [row[place] for place in places]


def _images(numbers: dict[str, int], manifest: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Checksums of the files, and the records of their images."""
    sha256 = np.zeros((len(numbers), 32), np.uint8)
    images = np.zeros(len(numbers), IMAGE)
    for path, digest, width, height in _rows(manifest, ("path", "sha256", "width", "height")):
        number = numbers.get(path)
        if number is None:
            continue
        try:
            sha256[number] = np.frombuffer(bytes.fromhex(digest), np.uint8)
            images[number] = (0, int(height), int(width), 0)
        except ValueError as error:
            raise AirpipeError(f"{manifest}: row of {path}: {error}. Check the data set again") from None
    sizes = 3 * images["height"].astype(np.uint64) * images["width"]
    missing = [path for path, size in zip(numbers, sizes, strict=True) if size == 0]
    if missing:
        raise AirpipeError(
            f"{manifest}: lacks {len(missing)} files of the pair list; the first: {', '.join(missing[:NAMED])}. "
            "Check the data set again"
        )
    images["offset"][1:] = np.cumsum(sizes)[:-1]
    return sha256, images
