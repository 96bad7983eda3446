"""Fetch a data set: its files from the first source that gives them, checked and unpacked into a new folder."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airpipe.data.addresses import address_of
from airpipe.data.archive_rules import BadArchive, DamagedArchive
from airpipe.data.archives import archive_kind, occupied, unpack
from airpipe.data.checksums import Recorded, read_checksums, record_checksums, today
from airpipe.data.files import FETCHED, is_image
from airpipe.data.locks import OWNER, only_process
from airpipe.data.obtain import Obtained, Shelf, manual_steps
from airpipe.data.remote import Wanted, list_files
from airpipe.data.streams import FULL, MEGABYTE, enough_space
from airpipe.data.transfer import SourceFailed
from airpipe.errors import AirpipeError
from airpipe.provenance import write_failed, write_json
from airpipe.settings.datasets import DatasetSettings, RemoteFile, Source

ZIP_INSIDE = (".npz", ".pth", ".pt", ".ckpt", ".docx", ".xlsx", ".pptx", ".jar", ".whl")
"""Suffixes of files that are zip archives by their bytes and are not unpacked."""


WAIT_MINUTES = 60.0
"""Minutes that a person at a terminal is given to drop a file in by hand."""


@dataclass(frozen=True)
class Places:
    """Places of a data set on disk.

    Args:
        folder: folder of the finished data set; appears by a rename.
        downloads: folder of received files, kept until somebody deletes them; also where files are dropped by hand.
        lock: the tracked file of checksums.
    """

    folder: Path
    downloads: Path
    lock: Path

    @property
    def facts(self) -> Path:
        """JSON file beside the folder that says what was fetched from where."""
        return self.folder.with_name(f"{self.folder.name}{FETCHED}")

    @property
    def unpacking(self) -> Path:
        """The folder while it is being filled."""
        return self.folder.with_name(f".{self.folder.name}.unpacking")


def fetch_dataset(dataset: str, entry: DatasetSettings, places: Places, wait_minutes: float = 0) -> dict[str, Any]:
    """Make `places.folder` from the first source that works, and return the facts written beside it.

    A folder that is there is taken as it is. Files that are complete in `places.downloads` are not
    fetched again. The call may be killed at any moment and repeated.

    Args:
        dataset: name of the data set, for messages and the lock file.
        entry: its sources, home and licence.
        places: its folders, and the lock file.
        wait_minutes: minutes to wait for files that only a person can download; after all other
            sources have failed.

    Raises:
        AirpipeError: no source worked (with each one's reason and the steps to go on by hand), the disk
            is full, or another process is fetching the same data set.
    """
    if places.folder.is_symlink() or (places.folder.exists() and not _is_empty(places.folder)):
        return _taken_as_it_is(dataset, places)
    if not entry.sources:
        raise AirpipeError(
            f"data set {dataset!r}: {places.folder} is not there and the registry names no source. Get it from "
            f"{entry.home or 'its home page'} and set its `root` to the folder"
        )
    message = f"{places.downloads}: {OWNER} is fetching {dataset!r}; wait for it, then run the same command"
    with only_process(places.downloads / ".busy", wait=False, message=message):
        if places.facts.exists():
            print(f"{places.facts}: its folder is gone; it is removed and {dataset} is fetched again", file=sys.stderr)
            places.facts.unlink()
        _announce(dataset, entry)
        failures: dict[int, str] = {}
        # all sources without waiting first; a person is asked when none of them works
        for patience in (0.0, wait_minutes)[: 2 if wait_minutes > 0 else 1]:
            for number, source in enumerate(entry.sources, start=1):
                if patience and not any(file.by_hand for file in source.files):
                    continue
                try:
                    return _fetch_source(dataset, entry, source, places, patience)
                except (SourceFailed, BadArchive) as error:
                    failures[number] = str(error)
                    print(f"source {number} of {dataset} does not work: {error}", file=sys.stderr)
                except OSError as error:
                    raise write_failed(Path(error.filename or places.downloads), error) from None
        raise AirpipeError(_all_failed(dataset, entry, places, failures))


def default_wait() -> float:
    """Return the minutes to wait for files by hand: `WAIT_MINUTES` on a terminal, none in a log."""
    return WAIT_MINUTES if sys.stdin.isatty() and sys.stderr.isatty() else 0.0


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is None


def _taken_as_it_is(dataset: str, places: Places) -> dict[str, Any]:
    if not places.folder.is_dir():
        raise AirpipeError(
            f"{places.folder}: expected a folder, found a file or a broken link. Remove it, then run again"
        )
    print(f"{dataset}: {places.folder} is there and is taken as it is; nothing is fetched", file=sys.stderr)
    return {"dataset": dataset, "source": "the folder was there", "files": []}


def _announce(dataset: str, entry: DatasetSettings) -> None:
    print(
        f"{dataset}: {entry.title}\n  home: {entry.home or 'unknown'}\n  licence: {entry.licence or 'unknown'}\n"
        "  by fetching you accept the licence and the terms of the home page",
        file=sys.stderr,
    )


def _fetch_source(
    dataset: str, entry: DatasetSettings, source: Source, places: Places, wait_minutes: float
) -> dict[str, Any]:
    if not source.verified:
        print(f"{dataset}: nobody has tried these addresses yet; they were read in {source.read_in}", file=sys.stderr)
    shelf = Shelf(places.downloads, read_checksums(places.lock, dataset), places.lock, entry)
    wanted = [one for file in source.files for one in _wanted(file, places.downloads)]
    missing = [one for one in wanted if not (places.downloads / one.name).exists()]
    enough_space(places.downloads / dataset, sum(one.size or 0 for one in missing) - _partial(places.downloads))
    files = [shelf.obtain(one, source, wait_minutes) for one in wanted]
    try:
        count = _fill(files, shelf, places)
        _record(dataset, files, shelf, places)
        facts = _facts(dataset, source, files, count)
        places.unpacking.rename(places.folder)
    finally:
        if places.unpacking.exists():
            shutil.rmtree(places.unpacking)
    write_json(places.facts, facts)  # afterwards: Snakemake takes it for a sign that the folder is there
    size = sum(path.stat().st_size for path in places.downloads.rglob("*") if path.is_file())
    print(
        f"{dataset}: {count} files in {places.folder}. {places.downloads} holds {size / MEGABYTE:.0f} MB of downloads "
        "and may be deleted",
        file=sys.stderr,
    )
    return facts


def _record(dataset: str, files: list[Obtained], shelf: Shelf, places: Places) -> None:
    """Write down the checksums that nobody knew, except of bytes that are other ones next time or may be cut."""
    new = {}
    for file in files:
        known, _ = shelf.expected(file.wanted, dropped=file.received is None)
        if known or file.wanted.folder_zip or not file.bytes:
            continue
        if file.length_unknown and _kind(file) is None:  # of an archive the end has been seen
            print(f"{file.wanted.address}: length unknown, may be cut; no checksum is recorded", file=sys.stderr)
            continue
        new[file.address] = Recorded(name=file.path.name, sha256=file.sha256, bytes=file.bytes, recorded=today())
    if new:
        record_checksums(places.lock, places.downloads.parent / ".checksums", dataset, new)
        print(f"{dataset}: checksums of {len(new)} files were recorded in {places.lock}", file=sys.stderr)


def _wanted(file: RemoteFile, downloads: Path) -> list[Wanted]:
    """The files behind an entry; a Drive folder may have been dropped in as the zip that a browser gets."""
    dropped = f"{file.name}.zip"
    if file.gdrive_folder and (downloads / dropped).is_file():
        return [Wanted(file, dropped, address_of(file), folder_zip=True)]
    return list_files(file)


def _partial(downloads: Path) -> int:
    return sum(path.stat().st_size for path in downloads.rglob("*.part"))


def _fill(files: list[Obtained], shelf: Shelf, places: Places) -> int:
    """Unpack or link all files into a fresh folder and return how many files it holds."""
    if places.unpacking.exists():
        shutil.rmtree(places.unpacking)
    places.unpacking.mkdir(parents=True)
    if _is_empty(places.folder):
        places.folder.rmdir()
    for file in files:
        try:
            _place(file, places.unpacking / file.wanted.into)
        except DamagedArchive as error:
            raise shelf.set_aside(file, error) from None
    found = [path.name for path in _walk(places.unpacking)]
    archives = [file.path.name for file in files if _kind(file)]
    if archives and not any(map(is_image, found)):
        raise BadArchive(
            f"{', '.join(archives)}: none of the {len(found)} unpacked files is an image (first: {min(found)[:80]!r}). "
            f"Remove them from {places.downloads} to fetch them again, or set the data set's root to a folder of images"
        )
    return len(found)


def _walk(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        yield from (Path(where) / name for name in names)


def _kind(file: Obtained) -> str | None:
    """Kind of archive that a file is unpacked as; None: it is placed as it is."""
    return None if file.path.name.lower().endswith(ZIP_INSIDE) else archive_kind(file.path)


def _place(file: Obtained, folder: Path) -> None:
    kind = _kind(file)
    if kind:
        if not file.path.name.lower().endswith((kind, kind.replace("tar.", "t"))):
            print(f"{file.path.name} is a {kind} archive by its bytes and is unpacked as one", file=sys.stderr)
        if not unpack(file.path, folder):
            raise DamagedArchive(f"{file.path}: the {kind} archive holds no file")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise occupied(file.path, error) or error from None
    target = folder / file.path.name
    if target.exists():
        raise BadArchive(
            f"{file.path}: another file of the data set is at {target.name} already; give one of them `into`"
        )
    try:
        os.link(file.path, target)
    except OSError as error:
        if error.errno in FULL:
            raise
        shutil.copyfile(file.path, target)  # another file system, or one without links


def _facts(dataset: str, source: Source, files: list[Obtained], count: int) -> dict[str, Any]:
    rows = [
        {
            "name": file.wanted.name,
            "address": file.address,
            "sha256": file.sha256,
            "bytes": file.bytes,
            "length_unknown": file.length_unknown,
            "bytes_received": file.received.received if file.received else 0,
            "bytes_received_twice": file.received.again if file.received else 0,
        }
        for file in files
    ]
    return {
        "dataset": dataset,
        "source": source.read_in,
        "fetched": today(),
        "files": rows,
        "unpacked_files": count,
        "bytes_received": sum(int(str(row["bytes_received"])) for row in rows),
        "bytes_received_twice": sum(int(str(row["bytes_received_twice"])) for row in rows),
    }


def _all_failed(dataset: str, entry: DatasetSettings, places: Places, failures: dict[int, str]) -> str:
    lines = [f"data set {dataset!r} could not be fetched; sources tried: {len(failures)}"]
    lines += [f"source {number}: {reason}" for number, reason in failures.items()]
    lines += ["To go on by hand, take the files of one source that are not there yet:"]
    for number, source in enumerate(entry.sources, start=1):
        missing = [file for file in source.files if not (places.downloads / file.name).is_file()]
        lines += [f"source {number} (read in {source.read_in})"] * bool(missing)
        lines += [manual_steps(file, places.downloads) for file in missing]
    lines += ["then run the same command again, or set `root` of the data set to a folder that holds it unpacked"]
    return "\n  ".join(lines)
