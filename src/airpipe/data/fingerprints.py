"""Fingerprints of a list's clean images: checksums and a perceptual hash, the material of the leakage report."""

import csv
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.data.packages import locate
from airpipe.data.pairs import read_rows
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.progress import track
from airpipe.provenance import atomic_path, sha256_file, write_failed
from airpipe.rows import read_csv, read_journal

COLUMNS = ("name", "path", "bytes_sha256", "pixels_sha256", "phash", "width", "height")
"""Columns of a finished table."""
STAMP = ("file_bytes", "file_mtime_ns")
"""Further columns of a table in the making: a file that was changed since is read again."""
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
    """The fingerprints of one list, column by column (2 million rows take about 500 MB)."""

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
    names: dict[str, str] = {}
    for row in read_rows(pair_list):
        names.setdefault(row["clean"], row["name"])
    if not names:
        raise AirpipeError(f"{pair_list}: holds no pairs. Make it again: snakemake {pair_list}")
    files = {path: find(pair_list.stem, path) for path in names}
    part = output.with_name(output.name + ".part")
    done = _read_part(part, files)
    todo = [(names[path], path, file) for path, file in files.items() if path not in done]
    _write(part, COLUMNS + STAMP, done.values())
    try:
        with part.open("a", newline="", encoding="utf-8", buffering=1) as stream:
            writer = csv.DictWriter(stream, COLUMNS + STAMP)
            for row in track(_rows(todo, threads), len(todo), f"fingerprints of {pair_list.stem}"):
                done[row["path"]] = row
                writer.writerow(row)
    except OSError as error:
        raise write_failed(part, error) from None
    _write(output, COLUMNS, (done[path] for path in names))
    part.unlink()
    return len(names)


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _read_part(part: Path, files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Complete rows of an earlier attempt whose files are unchanged."""
    done = {}
    rows = read_journal(part)
    names = next(rows, [])
    for values in rows:
        row = dict(zip(names, values, strict=False))  # the last one may be half
        file = files.get(row.get("path", ""))
        if file is not None and file.is_file() and _stamp(file) == {key: row.get(key) for key in STAMP}:
            done[row["path"]] = row
    return done


def _stamp(file: Path) -> dict[str, str]:
    state = file.stat()
    return {"file_bytes": str(state.st_size), "file_mtime_ns": str(state.st_mtime_ns)}


def _row(task: tuple[str, str, Path]) -> dict[str, Any]:
    name, path, file = task
    found = fingerprint(file)
    described = {"name": name, "path": path, **asdict(found), "phash": f"{found.phash:016x}"}
    return {**described, **_stamp(file)}


def _rows(todo: Sequence[tuple[str, str, Path]], threads: int) -> Iterator[dict[str, Any]]:
    with ThreadPoolExecutor(threads) as pool:  # decoding and hashing release Python's lock
        try:
            for start in range(0, len(todo), BATCH):
                yield from pool.map(_row, todo[start : start + BATCH])
        finally:
            pool.shutdown(cancel_futures=True)


def read_fingerprints(path: Path) -> FingerprintTable:
    """Read a table that `write_fingerprints` wrote; its name is that of the list.

    Raises:
        AirpipeError: the table is missing or empty, or has other columns or damaged rows.
    """
    remedy = "Make it again: scripts/fingerprint.py"
    paths: list[str] = []
    hex_columns: tuple[list[str], list[str], list[str]] = ([], [], [])
    rows = read_csv(path, remedy)
    _, header = next(rows, (0, []))
    if tuple(header) != COLUMNS:
        raise AirpipeError(f"{path}: columns {str(header)[:80]}; expected {list(COLUMNS)}. {remedy}")
    try:
        for _, (_, name, *values, _, _) in rows:
            for column, value, digits in zip(hex_columns, values, (64, 64, 16), strict=True):
                if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
                    raise ValueError(f"expected {digits} hexadecimal digits, found {value[:80]!r}")
                column.append(value)
            paths.append(name)
    except ValueError as error:
        raise AirpipeError(f"{path}: row {len(paths) + 2} is damaged ({error}). {remedy}") from None
    if not paths:
        raise AirpipeError(f"{path}: holds no fingerprints. {remedy}")
    of_bytes, of_pixels, hashes = hex_columns
    phash = np.array([int(one, 16) for one in hashes], np.uint64)
    return FingerprintTable(path.stem, paths, np.array(of_bytes, "S64"), np.array(of_pixels, "S64"), phash)
