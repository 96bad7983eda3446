"""Make packs (`airpipe.data.packs`): decode every image of a pair list once, on several processes.

A pack grows in `<folder>.partial`. Its size is known before it starts, so that a disk that is too
small is told at once. `done.bin` there remembers finished images; a build that was killed goes on
behind them and ends with the same bytes.
"""

import os
import shlex
import shutil
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.data.locks import OWNER, only_process
from airpipe.data.pack_contents import Contents, read_contents
from airpipe.data.packs import FORMAT, IMAGE, INDEX, PAIR, VERSION, Pack
from airpipe.data.streams import write_all
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.progress import end_with_parent, track
from airpipe.provenance import sha256_file, write_failed, write_json

MARGIN = 0.02
"""Part of a pack's size that must stay free beside it."""
CHUNK = 16
"""Number of images in one task of a process."""
FLUSH_SECONDS = 2.0
"""Time between two flushes to the disk: what a power cut can cost."""
NAMED = 10
"""Largest number of bad files that a message names."""


class Job(NamedTuple):
    """One image to decode."""

    number: int
    """Number of the image in the pack."""
    path: Path
    sha256: str
    """Checksum of the file, as the manifest says it."""
    height: int
    width: int
    offset: int
    """Place of its first byte in pixels.bin."""


class Packed(NamedTuple):
    """Result of a job."""

    number: int
    crc32: int
    """Checksum of the pixels; 0 where the file cannot be used."""
    problem: str
    """Why the file cannot be used; "" if it can."""


def pack_pairs(pair_list: Path, manifest: Path, root: Path, packed: Path, threads: int) -> dict[str, Any]:
    """Decode the images of a pair list into a pack, or find the finished pack.

    Args:
        pair_list: csv file of the list, named `<dataset>.<split>.csv`.
        manifest: csv with the columns path, sha256, width, height for every file of the list.
        root: the data set's folder.
        packed: folder of all packs.
        threads: number of processes that decode.

    Returns:
        Facts for JSON: list, pairs_sha256, folder, pairs, images, bytes, seconds.

    Raises:
        AirpipeError: there is no space (told before anything is written), files differ from the manifest,
            the pack is damaged, or another process makes it.
    """
    started = time.monotonic()
    contents = read_contents(pair_list, manifest)
    folder = packed / f"{contents.name}.{contents.key}"
    counts = f"{len(contents.files)} images of {len(contents.pairs)} pairs"
    size = f"{contents.name}: {counts}, {_gigabytes(contents.total_bytes)}"
    if folder.is_dir():
        print(f"{size}: packed already in {folder}", flush=True)
    else:
        _make(contents, root, folder, threads, size)
    pack = Pack.open(folder)
    return {
        "list": contents.name,
        "pairs_sha256": contents.pairs_sha256,
        "folder": folder.as_posix(),
        "pairs": len(pack),
        "images": pack.images,
        "bytes": contents.total_bytes,
        "seconds": round(time.monotonic() - started, 1),
    }


def tell_old_packs(name: str, packed: Path, reports: Path) -> None:
    """Print one line about packs of a list that no report names any more; they are not deleted.

    Args:
        name: id of the list, `<dataset>.<split>`.
        packed: folder of all packs.
        reports: folder of the JSON files that `pack_pairs` gave the facts for; the list's own is written already.
    """
    said = "".join(path.read_text(encoding="utf-8") for path in reports.glob("*.json"))
    old = [folder for folder in sorted(packed.glob(f"{name}.*")) if folder.is_dir() and folder.name not in said]
    if old:
        listed = ", ".join(f"{folder} ({_gigabytes(_on_disk(folder))})" for folder in old)
        remedy = shlex.join(["rm", "-r", *map(str, old)])
        print(f"{name}: older packs that nothing in {reports} names: {listed}. To remove them: {remedy}", flush=True)


def _on_disk(folder: Path) -> int:
    """Bytes that the files of a folder take."""
    total = 0
    with suppress(FileNotFoundError):  # not begun, or another process finishes or removes it
        for path in folder.iterdir():
            total += path.stat().st_blocks * 512  # the unit of st_blocks on Linux, whatever the disk uses
    return total


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3f} GB"


def _make(contents: Contents, root: Path, folder: Path, threads: int, size: str) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        _check_space(contents, partial, size)
        busy = f"{partial}: {OWNER} makes this pack. Wait for it, then run again"
        with only_process(partial / "lock", wait=False, message=busy):
            if folder.is_dir():  # another process finished it between the first look and the lock
                with suppress(FileNotFoundError):  # the lock may have moved with the other's work
                    shutil.rmtree(partial)
                return
            if not (partial / "header.json").is_file():
                _decode_all(contents, root, partial, threads)
                write_header(contents.name, partial)
            (partial / "done.bin").unlink(missing_ok=True)
            partial.replace(folder)
            _sync(folder.parent)
        (folder / "lock").unlink(missing_ok=True)
    except OSError as error:
        raise write_failed(folder, error) from None


def _check_space(contents: Contents, partial: Path, size: str) -> None:
    needed = max(0, contents.total_bytes - _on_disk(partial))
    free = shutil.disk_usage(partial.parent).free
    print(f"{size} to pack; {_gigabytes(free)} free in {partial.parent}", flush=True)
    if needed * (1 + MARGIN) > free:
        raise AirpipeError(
            f"{partial.parent}: {contents.name} needs {_gigabytes(needed)} and a margin of {MARGIN:.0%}, "
            f"{_gigabytes(free)} are free. Set `pack: false` in compute, free space, "
            "or make this folder a link to another disk"
        )


def _decode_all(contents: Contents, root: Path, partial: Path, threads: int) -> None:
    pixels = partial / "pixels.bin"
    if not _resumable(contents, partial):
        (partial / "done.bin").unlink(missing_ok=True)
        write_index(contents, partial)
        # takes the whole space now, so that the disk cannot fill up halfway
        with pixels.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, contents.pixel_bytes)
        np.zeros(len(contents.files), np.uint8).tofile(partial / "done.bin")
    done = np.memmap(partial / "done.bin", np.uint8, mode="r+")
    images = np.memmap(partial / "images.bin", IMAGE, mode="r+")
    problems: list[str] = []
    finished: list[int] = []

    def flush() -> None:
        # pixels before checksums before marks: after a power cut, a mark still means a whole image
        _sync(pixels)
        images.flush()
        done[finished] = 1
        done.flush()
        finished.clear()

    left = np.flatnonzero(done == 0)
    last = time.monotonic()
    results = _in_processes(_jobs(contents, root, left), pixels, threads)
    for result in track(results, len(left), f"packing {contents.name}"):
        if result.problem:
            problems.append(result.problem)
        else:
            images[result.number]["crc32"] = result.crc32
            finished.append(result.number)
        if time.monotonic() - last > FLUSH_SECONDS:
            flush()
            last = time.monotonic()
    flush()
    if problems:
        first = "\n  ".join(sorted(problems)[:NAMED])
        raise AirpipeError(
            f"{contents.name}: {len(problems)} of {len(contents.files)} files are not what the manifest says; check "
            f"the data set again:\n  {first}"
        )


def write_index(contents: Contents, folder: Path) -> None:
    """Write images.bin, pairs.bin and text.bin of a pack into a folder."""
    contents.images.tofile(folder / "images.bin")
    contents.pairs.tofile(folder / "pairs.bin")
    (folder / "text.bin").write_bytes(contents.text)


def _resumable(contents: Contents, partial: Path) -> bool:
    """Whether an earlier build got as far as the images, and its files are complete."""
    expected = {
        "done.bin": len(contents.files),
        "pixels.bin": contents.pixel_bytes,
        "images.bin": contents.images.nbytes,
        "pairs.bin": contents.pairs.nbytes,
        "text.bin": len(contents.text),
    }
    return {path.name: path.stat().st_size for path in partial.glob("*.bin")} == expected


def _jobs(contents: Contents, root: Path, numbers: npt.NDArray[np.int64]) -> Iterator[Job]:
    for number in map(int, numbers):
        offset, height, width, _ = contents.images[number].item()
        digest = contents.sha256[number].tobytes().hex()
        yield Job(number, root / contents.files[number], digest, height, width, offset)


def _in_processes(jobs: Iterator[Job], pixels: Path, threads: int) -> Iterator[Packed]:
    """Results of the jobs in any order; only a few tasks wait at a time."""
    chunks = iter(lambda: list(islice(jobs, CHUNK)), [])
    waiting: set[Future[list[Packed]]] = set()
    cv2.setNumThreads(1)  # here: in a forked process the call may wait for ever
    with ProcessPoolExecutor(threads, initializer=end_with_parent) as pool:
        try:
            while True:
                waiting |= {pool.submit(_pack_chunk, c, pixels) for c in islice(chunks, 4 * threads - len(waiting))}
                if not waiting:
                    return
                ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield from future.result()
        except BrokenProcessPool:
            raise AirpipeError(
                f"{pixels.parent}: a process that decodes was killed, perhaps for its memory. "
                "Run again with fewer threads; finished images are kept"
            ) from None


def _pack_chunk(jobs: list[Job], pixels: Path) -> list[Packed]:
    with pixels.open("r+b", buffering=0) as stream:
        return [_pack_image(job, cast(BinaryIO, stream), pixels) for job in jobs]


def _pack_image(job: Job, stream: BinaryIO, pixels: Path) -> Packed:
    try:
        if sha256_file(job.path) != job.sha256:
            return Packed(job.number, 0, f"{job.path}: the sha256 is not the manifest's {job.sha256[:12]}...")
        image = np.ascontiguousarray(read_rgb8(job.path))
    except OSError as error:
        return Packed(job.number, 0, f"{job.path}: cannot be read ({error.strerror})")
    except AirpipeError as error:
        return Packed(job.number, 0, str(error))
    if image.shape != (job.height, job.width, 3):
        found = f"{image.shape[1]}x{image.shape[0]}"
        return Packed(job.number, 0, f"{job.path}: {found} pixels, the manifest says {job.width}x{job.height}")
    stream.seek(job.offset)
    write_all(stream, image.data.cast("B"), pixels)
    return Packed(job.number, zlib.crc32(image.data), "")


def write_header(name: str, partial: Path) -> None:
    """Write header.json, which completes a pack of that name; the other files are there."""
    files = ("pixels.bin", *INDEX)
    for file in files:
        _sync(partial / file)
    sizes = {file: (partial / file).stat().st_size for file in files}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "list": name,
        "pairs": sizes["pairs.bin"] // PAIR.itemsize,
        "images": sizes["images.bin"] // IMAGE.itemsize,
        "bytes": sizes,
        "sha256": {file: sha256_file(partial / file) for file in INDEX},
    }
    write_json(partial / "header.json", header)
    _sync(partial)


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
