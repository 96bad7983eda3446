"""Manifests: the files of one split, read completely once, so that later rules need not look at folders."""

import csv
import os
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path

from airpipe.data.compact import Compact, read_table
from airpipe.data.files import is_image
from airpipe.errors import AirpipeError
from airpipe.images import decoder_words, read_picture, read_rgb8
from airpipe.links import link_problem
from airpipe.progress import in_parallel
from airpipe.provenance import atomic_path, sha256_file, write_failed
from airpipe.rows import read_journal

COLUMNS = ("path", "bytes", "sha256", "width", "height")
"""Columns of a manifest."""
LONGEST_NAME = 200
"""Longest file name in bytes; restored images are written under the same name, with something added."""
SIGNATURES = {
    b"\x89PNG": (".png",),
    b"\xff\xd8\xff": (".jpg", ".jpeg"),
    b"BM": (".bmp",),
    b"II*\0": (".tif", ".tiff"),
    b"MM\0*": (".tif", ".tiff"),
    b"RIFF": (".webp",),
}
"""Suffixes that fit a file, by its first bytes."""


@dataclass(frozen=True)
class FileFacts:
    """Facts of one file: a row of a manifest, and what is worth a note."""

    path: str
    """Path relative to the data set's root."""
    bytes: int
    sha256: str
    width: int
    """Width of the upright picture in pixels."""
    height: int
    """Height of the upright picture in pixels."""
    kinds: str = ""
    """What is special about the file: words such as "grey" or "16 bit", joined by ", "."""
    said: str = ""
    """What its decoders said of it, such as "Corrupt JPEG data: premature end of data segment"."""

    def row(self) -> dict[str, str | int]:
        """Return the row that is written into the manifest."""
        return {key: value for key, value in asdict(self).items() if key in COLUMNS}


def describe(task: tuple[str, str]) -> FileFacts | str:
    """Read one file completely, with both decoders.

    Args:
        task: path below the root, and where the file lies.

    Returns:
        Facts of the file, or why it cannot be used.
    """
    path, place = task
    if len(os.fsencode(Path(path).name)) > LONGEST_NAME:
        return f"{path}: the name is longer than {LONGEST_NAME} bytes. Rename the file"
    if problem := link_problem(Path(place)):
        return f"{path}: {problem}"
    if Path(place).exists() and not Path(place).is_file():
        return f"{path}: not a regular file. Remove it"
    with decoder_words() as words:  # a full temporary disk is no fault of the file: its error passes
        try:
            picture = read_picture(Path(place))
            trained_on = read_rgb8(Path(place))  # another decoder, less tolerant of damage
        except AirpipeError as error:
            return str(error)
    height, width = picture.pixels.shape[:2]
    if trained_on.shape != (height, width, 3):
        return f"{place}: decoders disagree about its size ({width}x{height}, {trained_on.shape[1::-1]}). Save it anew"
    kinds = [word for word, true in (("grey", picture.grey), ("with alpha", picture.alpha is not None)) if true]
    kinds += ["16 bit"] if picture.pixels.itemsize == 2 else []
    kinds += _other_format(Path(place))
    size, digest = Path(place).stat().st_size, sha256_file(Path(place))
    return FileFacts(path, size, digest, width, height, ", ".join(kinds), "; ".join(dict.fromkeys(words)))


def _other_format(path: Path) -> list[str]:
    with path.open("rb") as stream:
        head = stream.read(4)
    for signature, suffixes in SIGNATURES.items():
        if head.startswith(signature) and is_image(path.name) and path.suffix.lower() not in suffixes:
            return [f"{suffixes[0]} inside {path.suffix.lower()}"]
    return []


class Journal:
    """Journal of the files that a check has read; after a kill, the next check does not read them again.

    A row counts while the file's size and time of change stay as they were.

    Args:
        path: file of the journal, removed by `close`; None keeps no journal.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[tuple[str, ...], FileFacts] = {}
        for row in read_journal(path) if path is not None else ():
            # a kill may cut the last row off: whole ones end with a dot
            if len(row) == 9 and row[-1] == "." and all(row[n].isdecimal() for n in (2, 4, 5)):
                facts = FileFacts(row[1], int(row[2]), row[3], int(row[4]), int(row[5]), *row[6:8])
                self._known[(row[0], row[1])] = facts

    def known(self, path: str, place: str) -> FileFacts | None:
        """Return the facts of a file that has not changed since it was read; None for others."""
        return self._known.get((_stamp(place), path))

    def describe(self, tasks: Sequence[tuple[str, str]], threads: int, label: str) -> list[FileFacts | str]:
        """Describe every (path, place), in order, without reading known files again; see the function `describe`."""
        results: dict[str, FileFacts | str] = {}
        for path, place in tasks:
            facts = self.known(path, place)
            if facts is not None:
                results[path] = facts
        left = [task for task in tasks if task[0] not in results]
        if self.path is None:
            fresh = zip(left, in_parallel(describe, left, threads, label), strict=True)
            return self._ordered(tasks, results | {task[0]: found for task, found in fresh})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", newline="", encoding="utf-8", buffering=1) as stream:
                writer = csv.writer(stream)
                for (path, place), found in zip(left, in_parallel(describe, left, threads, label), strict=True):
                    results[path] = found
                    if isinstance(found, FileFacts):
                        writer.writerow([_stamp(place), *astuple(found), "."])
        except OSError as error:
            raise write_failed(self.path, error) from None
        return self._ordered(tasks, results)

    def close(self) -> None:
        """Remove the journal, once the manifest is written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    @staticmethod
    def _ordered(tasks: Sequence[tuple[str, str]], found: dict[str, FileFacts | str]) -> list[FileFacts | str]:
        return [found[path] for path, _ in tasks]


def _stamp(place: str) -> str:
    try:
        state = Path(place).stat()
    except OSError:
        return "gone"
    return f"{state.st_size}.{state.st_mtime_ns}"


def write_manifest(path: Path, files: Sequence[FileFacts]) -> bool:
    """Write a manifest as csv, atomically; one with the same content stays as it is.

    Returns:
        Whether anything changed.
    """
    with atomic_path(path) as temporary:
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(file.row() for file in files)
        if path.is_file() and path.read_bytes() == temporary.read_bytes():
            # with the old times, so that Snakemake does not redo what depends on it
            os.utime(temporary, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
            return False
    return True


def read_manifest(path: Path) -> Compact[FileFacts]:
    """Read the rows of a manifest; facts of a file are made when they are asked for.

    Raises:
        AirpipeError: the file is missing, or no manifest.
    """
    remedy = f"Make it: snakemake {path}"
    try:
        header, rows = read_table(path, remedy)
        files = rows.convert(partial(_facts_of, [header.index(name) for name in COLUMNS]))
        deque(files, maxlen=0)  # makes each once: a damaged row is told now
    except ValueError as error:
        raise AirpipeError(f"{path}: not a manifest ({error}). {remedy}") from None
    return files


def _facts_of(places: Sequence[int], row: Sequence[str]) -> FileFacts:
    path, size, sha256, width, height = (row[place] for place in places)
    return FileFacts(path, int(size), sha256, int(width), int(height))


def file_sizes(files: Iterable[FileFacts]) -> dict[str, tuple[int, int]]:
    """Return width and height in pixels of files by path; equally large files share a tuple."""
    known: dict[tuple[int, int], tuple[int, int]] = {}
    return {file.path: known.setdefault(size := (file.width, file.height), size) for file in files}
