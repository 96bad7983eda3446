"""Fingerprints of a list's clean images: checksums and a perceptual hash, the material of the leakage report."""

import csv
import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.data.compact import Chosen, compact_texts
from airpipe.data.packages import locate
from airpipe.data.pairs import read_rows
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.progress import track
from airpipe.provenance import atomic_path, sha256_file, write_failed
from airpipe.rows import read_columns, read_journal
from airpipe.settings.base import shown

COLUMNS = ("name", "path", "bytes_sha256", "pixels_sha256", "phash", "width", "height")
"""Columns of a finished table."""
STAMP = ("file_bytes", "file_mtime_ns")
"""Further columns of a table in the making: a file that was changed since is read again."""
RECORD = np.dtype(
    [("bytes_sha256", "V32"), ("pixels_sha256", "V32"), ("phash", "<u8"), ("width", "<u4"), ("height", "<u4")]
    + [(name, "<i8") for name in STAMP]
)
"""What is kept of an image while a table is in the making."""
BATCH = 1024
"""Number of images handed to the threads at a time."""
DCT_SIDE = 32
"""Side in pixels of the picture that is transformed."""
HASH_SIDE = 8
"""Side of the square of lowest coefficients that make the hash."""


@dataclass(frozen=True)
class Fingerprint:
    """Fingerprint of an image, which identifies it exactly (checksums) and roughly (perceptual hash)."""

    bytes_sha256: str
    """Checksum of the file."""
    pixels_sha256: str
    """Checksum of size and decoded 8-bit RGB pixels."""
    phash: int
    """Perceptual hash of 64 bit; similar pictures differ in few."""
    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""


@dataclass(frozen=True)
class FingerprintTable:
    """The fingerprints of one list, column by column (2 million rows take 0.4 GB)."""

    list_id: str
    """Id of the list, dataset.split."""
    paths: Sequence[str]
    """Path of each image below the data set's root, each once."""
    bytes_sha256: npt.NDArray[np.bytes_]
    pixels_sha256: npt.NDArray[np.bytes_]
    phash: npt.NDArray[np.uint64]


def fingerprint(path: Path) -> Fingerprint:
    """Read an image and take its fingerprint.

    Raises:
        AirpipeError: the file is missing or corrupt.
    """
    pixels = read_rgb8(path)
    height, width = pixels.shape[:2]
    return Fingerprint(sha256_file(path), pixels_sha256(pixels), perceptual_hash(pixels), width, height)


def pixels_sha256(pixels: npt.NDArray[np.uint8]) -> str:
    """Hash size and pixels of a picture (H, W, 3), uint8 RGB, to 64 hexadecimal digits."""
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(f"{width}x{height}:".encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def perceptual_hash(pixels: npt.NDArray[np.uint8]) -> int:
    """Hash a picture to 64 bits that survive resampling, recompression and small cuts, not mirroring or rotation.

    They are the signs, against their median, of the 8x8 lowest DCT coefficients of luminance at 32x32.

    Args:
        pixels: picture (H, W, 3), uint8 RGB.

    Source: the DCT hash in C. Zauner, Implementation and Benchmarking of Perceptual Image Hash
    Functions, 2010; own code, averaging instead of its 7x7 blur.
    """
    return hash_of(luminance(pixels))


def hash_of(grey: npt.NDArray[np.float32]) -> int:
    """The perceptual hash of a picture whose `luminance` (H, W) is there already."""
    small = cv2.resize(grey, (DCT_SIDE, DCT_SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small)[:HASH_SIDE, :HASH_SIDE].ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def luminance(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the grey values of RGB pixels, float32 (H, W) in [0, 255]."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.float32)


def file_finder(roots: Sequence[str]) -> Callable[[str, str], Path]:
    """Make a function from (dataset.split, relative path) to the file.

    Args:
        roots: texts `dataset=folder`; a data set without one is the embedded one.

    Raises:
        AirpipeError: a text has no "=".
    """
    if wrong := [text for text in roots if "=" not in text]:
        raise AirpipeError(f"--root {wrong[0]}: expected dataset=folder, for example bsd400=/data/BSD400")
    folders = dict(text.split("=", 1) for text in roots)

    def find(list_id: str, path: str) -> Path:
        folder = folders.get(list_id.split(".")[0])
        return Path(folder) / path if folder else locate(path)

    return find


def write_fingerprints(pair_list: Path, find: Callable[[str, str], Path], output: Path, threads: int = 1) -> int:
    """Fingerprint the distinct clean images of a pair list; a killed run goes on where it was.

    Args:
        pair_list: csv file of the list, named dataset.split.csv.
        find: function that gives the file of (dataset.split, relative path).
        output: csv file with `COLUMNS`; `name` is that of the first pair with the image. Beside it lies
            `<output>.part` until all is done.
        threads: number of images read at the same time.

    Returns:
        The number of images.

    Raises:
        AirpipeError: the list is empty, or an image is missing or corrupt.
    """
    images = _Images(pair_list, find)
    if not len(images):
        raise AirpipeError(f"{pair_list}: holds no pairs. Make it again: snakemake {pair_list}")
    part = output.with_name(output.name + ".part")
    images.read_part(part)
    _write(part, COLUMNS + STAMP, map(images.row, images.numbers(done=True)))
    todo = images.numbers(done=False)
    try:
        with part.open("a", newline="", encoding="utf-8", buffering=1) as stream:
            writer = csv.DictWriter(stream, COLUMNS + STAMP)
            for number in track(images.described(todo, threads), len(todo), f"fingerprints of {pair_list.stem}"):
                writer.writerow(images.row(number))
    except OSError as error:
        raise write_failed(part, error) from None
    _write(output, COLUMNS, map(images.row, range(len(images))))
    part.unlink()
    return len(images)


class _Images:
    """The distinct clean images of a pair list in the order of their first pairs, and what is known of each.

    Args:
        pair_list: csv file of the list.
        find: function that gives the file of (dataset.split, relative path).
    """

    def __init__(self, pair_list: Path, find: Callable[[str, str], Path]) -> None:
        self._rows, self._list, self._find = read_rows(pair_list), pair_list.stem, find
        self._numbers: dict[str, int] = {}
        first = array("Q")
        for place, row in enumerate(self._rows):
            if self._numbers.setdefault(row["clean"], len(first)) == len(first):
                first.append(place)
        self._first = Chosen(self._rows, first)
        self._found = np.zeros(len(first), RECORD)
        self._done = np.zeros(len(first), np.bool_)

    def __len__(self) -> int:
        return len(self._first)

    def numbers(self, done: bool) -> list[int]:
        """Return the numbers of the images that are described, or of the others."""
        return np.flatnonzero(self._done == done).tolist()

    def row(self, number: int) -> dict[str, Any]:
        """Return what a table says of an image that is described, by its number."""
        listed, found = self._first[number], self._found[number]
        digests = {name: found[name].tobytes().hex() for name in ("bytes_sha256", "pixels_sha256")}
        numbers = {name: int(found[name]) for name in ("width", "height", *STAMP)}
        return {
            "name": listed["name"],
            "path": listed["clean"],
            **digests,
            "phash": f"{found['phash']:016x}",
            **numbers,
        }

    def read_part(self, part: Path) -> None:
        """Take over the complete rows of an earlier attempt whose files are unchanged."""
        rows = read_journal(part)
        names = next(rows, [])
        for values in rows:
            row = dict(zip(names, values, strict=False))  # the last one may be half
            number = self._numbers.get(row.get("path", ""))
            if number is None:
                continue
            file = self._file(number)
            if file.is_file() and {key: str(known) for key, known in _stamp(file).items()} == {
                key: row.get(key) for key in STAMP
            }:
                self._keep(number, row)

    def described(self, numbers: Sequence[int], threads: int) -> Iterator[int]:
        """Describe images by their numbers, several at a time; yield the numbers in order."""
        with ThreadPoolExecutor(threads) as pool:  # decoding and hashing release Python's lock
            try:
                for start in range(0, len(numbers), BATCH):
                    batch = numbers[start : start + BATCH]
                    for number, described in zip(batch, pool.map(_describe, map(self._file, batch)), strict=True):
                        self._keep(number, described)
                        yield number
            finally:
                pool.shutdown(cancel_futures=True)

    def _file(self, number: int) -> Path:
        return self._find(self._list, self._first[number]["clean"])

    def _keep(self, number: int, known: Mapping[str, Any]) -> None:
        digests = (bytes.fromhex(known[name]) for name in ("bytes_sha256", "pixels_sha256"))
        sides = (int(known[name]) for name in ("width", "height", *STAMP))
        self._found[number] = (*digests, int(known["phash"], 16), *sides)
        self._done[number] = True


def _describe(file: Path) -> dict[str, Any]:
    found = fingerprint(file)
    return {**asdict(found), "phash": f"{found.phash:016x}", **_stamp(file)}


def _stamp(file: Path) -> dict[str, int]:
    state = file.stat()
    return {"file_bytes": state.st_size, "file_mtime_ns": state.st_mtime_ns}


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def read_fingerprints(path: Path) -> FingerprintTable:
    """Read a table that `write_fingerprints` wrote; its name is that of the list.

    Raises:
        AirpipeError: the table is missing or empty, or has other columns or damaged rows.
    """
    remedy = "Make it again: scripts/fingerprint.py"
    of_bytes, of_pixels, hashes = bytearray(), bytearray(), array("Q")

    def paths(rows: Iterable[list[str]]) -> Iterator[str]:
        for _, name, *values, _, _ in rows:
            for value, digits in zip(values, (64, 64, 16), strict=True):
                if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
                    raise ValueError(f"expected {digits} hexadecimal digits, found {shown(value)}")
            of_bytes.extend(values[0].encode())
            of_pixels.extend(values[1].encode())
            hashes.append(int(values[2], 16))
            yield name

    _, rows = read_columns(path, remedy, COLUMNS)
    try:
        listed = compact_texts(paths(rows))
    except ValueError as error:
        raise AirpipeError(f"{path}: row {len(hashes) + 2} is damaged ({error}). {remedy}") from None
    if not listed:
        raise AirpipeError(f"{path}: holds no fingerprints. {remedy}")
    digests = [np.frombuffer(known, "S64") for known in (of_bytes, of_pixels)]
    return FingerprintTable(path.stem, listed, digests[0], digests[1], np.array(hashes, np.uint64))
