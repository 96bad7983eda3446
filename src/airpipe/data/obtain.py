"""Have one file of a data set on disk, checked: kept from an earlier run, dropped in by hand, or fetched."""

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from airpipe.data.archives import SUFFIXES, archive_kind
from airpipe.data.checksums import Recorded
from airpipe.data.remote import Wanted, address_of, transfer_of
from airpipe.data.streams import MEGABYTE, Meter
from airpipe.data.transfer import QUOTA, SourceFailed
from airpipe.datasets import DatasetSettings, RemoteFile, Source
from airpipe.progress import LINE_SECONDS
from airpipe.provenance import write_json

POLL_SECONDS = 2.0
"""Between two looks into the folder that a file is dropped into."""
UNFINISHED = (".part", ".crdownload", ".download", ".opdownload", ".wrong", ".json")


@dataclass(frozen=True)
class Received:
    """What came over the network for a file, over all runs."""

    address: str
    sha256: str
    received: int
    again: int


@dataclass(frozen=True)
class Obtained:
    """A file that is there and checked. `received` is None when it was dropped in by hand."""

    wanted: Wanted
    path: Path
    sha256: str
    bytes: int
    received: Received | None


@dataclass(frozen=True)
class Shelf:
    """The folder of downloads of one data set, and what is known of its files.

    Args:
        downloads: the folder.
        recorded: checksums of the lock file, by address.
        lock: the lock file, for messages.
        entry: the data set.
    """

    downloads: Path
    recorded: dict[str, Recorded]
    lock: Path
    entry: DatasetSettings

    def expected(self, wanted: Wanted) -> tuple[str | None, str]:
        """The sha256 that a file must have, and who says so."""
        if wanted.sha256:
            return wanted.sha256, "the registry"
        entry = self.recorded.get(wanted.address)
        return (entry.sha256 if entry else None), str(self.lock)

    def obtain(self, wanted: Wanted, source: Source, wait_minutes: float) -> Obtained:
        """Have the file on disk.

        Raises:
            SourceFailed: it cannot be had from this address, or is not what was expected.
            AirpipeError: the disk is full.
        """
        if wanted.file.by_hand:
            return self._by_hand(wanted, source, wait_minutes)
        path = self.downloads / wanted.name
        return self._kept(wanted, path) or self._fetched(wanted, path)

    def _kept(self, wanted: Wanted, path: Path) -> Obtained | None:
        """A complete file of an earlier run, or one that was dropped in."""
        if not path.is_file():
            return None
        sha256 = hash_file(path)
        received = read_received(path, sha256)
        expected, _ = self.expected(wanted)
        if expected is None and received and received.address != wanted.address:
            return None  # the file of another address under the same name; the new one replaces it
        try:
            self._check(wanted, path, path.name, sha256, expected)
        except SourceFailed as error:
            print(f"{error}\nit is fetched again", file=sys.stderr)
            return None
        return Obtained(wanted, path, sha256, path.stat().st_size, received)

    def _fetched(self, wanted: Wanted, path: Path) -> Obtained:
        transfer = transfer_of(wanted, self.downloads)
        state = transfer.run()
        sha256 = hash_file(transfer.part)
        expected, _ = self.expected(wanted)
        self._check(wanted, transfer.part, path.name, sha256, expected or state.sha256 or None)
        size = transfer.part.stat().st_size
        received = Received(wanted.address, sha256, state.again + size, state.again)
        path.unlink(missing_ok=True)
        write_json(_received_file(path), vars(received))
        transfer.finish()
        return Obtained(wanted, path, sha256, size, received)

    def _by_hand(self, wanted: Wanted, source: Source, wait_minutes: float) -> Obtained:
        path = self._dropped(wanted.file, source)
        if path is None and wait_minutes > 0:
            print(manual_steps(wanted.file, self.downloads), file=sys.stderr)
            path = wait_for(lambda: self._dropped(wanted.file, source), wanted.name, wait_minutes)
        if path is None:
            raise SourceFailed(f"{wanted.name}: this file has to be downloaded by hand and is not there yet")
        sha256 = hash_file(path)
        self._check(wanted, path, path.name, sha256, self.expected(wanted)[0])
        return Obtained(wanted, path, sha256, path.stat().st_size, None)

    def _dropped(self, file: RemoteFile, source: Source) -> Path | None:
        """The listed name, or the only strange archive when the source has a single file."""
        exact = self.downloads / file.name
        if exact.is_file():
            return exact
        if len(source.files) > 1:
            return None
        listed = {other.name for one in self.entry.sources for other in one.files}
        strange = [
            path
            for path in sorted(self.downloads.iterdir())
            if path.is_file() and path.name not in listed and not path.name.startswith(".")
            if not path.name.endswith(UNFINISHED) and archive_kind(path)
        ]
        if len(strange) > 1:
            names = ", ".join(path.name for path in strange)
            raise SourceFailed(
                f"{self.downloads}: several archives ({names}); leave the right one there, named {file.name}"
            )
        return strange[0] if strange else None

    def _check(self, wanted: Wanted, path: Path, name: str, sha256: str, expected: str | None) -> None:
        """Refuse a file that is not what was expected; it is renamed, not deleted."""
        size, who = path.stat().st_size, self.expected(wanted)[1] if self.expected(wanted)[0] else "Hugging Face"
        archive_missing = wanted.name.lower().endswith(SUFFIXES) and archive_kind(path) is None
        if expected is not None and sha256 != expected:
            problem = f"wrong checksum: expected sha256 {expected} ({who}), found {sha256}"
        elif wanted.size is not None and size != wanted.size:
            problem = f"wrong size: expected {wanted.size} bytes (the registry), found {size}"
        elif archive_missing:
            problem = f"not an archive, although it is called {wanted.name}. {QUOTA}"
        else:
            return
        wrong = self.downloads / f"{wanted.name}.wrong"
        path.replace(wrong)
        if path.suffix == ".part":
            path.with_name(path.name + ".json").unlink(missing_ok=True)
        raise SourceFailed(
            f"{name} from {wanted.address}: {problem}. It was moved to {wrong} and is not unpacked. If the publisher "
            f"has replaced the file, correct the registry or delete the entry in {self.lock}; otherwise delete the "
            ".wrong file and run the same command again"
        )


def hash_file(path: Path) -> str:
    """Hex sha256 of a file, with progress."""
    digest = hashlib.sha256()
    with Meter(f"checking {path.name}", path.stat().st_size) as meter, path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            meter.add(len(chunk))
    return digest.hexdigest()


def read_received(path: Path, sha256: str) -> Received | None:
    """Where a file of downloads came from; None when it was dropped in by hand."""
    try:
        received = Received(**json.loads(_received_file(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # no such note, or not one of ours
        return None
    return received if received.sha256 == sha256 else None


def _received_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def manual_steps(file: RemoteFile, downloads: Path) -> str:
    """What a person does to get a file: where to look, where to put it."""
    name = f"{file.name}.zip" if file.gdrive_folder else file.name
    size = f" ({file.bytes / MEGABYTE:.0f} MB)" if file.bytes else ""
    return (
        f"  - open: {address_of(file)}\n    and put the file{size} at: {shlex.quote(str((downloads / name).resolve()))}"
    )


def wait_for(find: Callable[[], Path | None], name: str, minutes: float) -> Path | None:
    """Wait until `find` gives a file that has stopped growing; None when the time is over."""
    end = time.monotonic() + 60 * minutes
    said, before = float("-inf"), (Path(), -1)
    while (now := time.monotonic()) < end:
        path = find()
        size = path.stat().st_size if path else -1
        if path and size > 0 and (path, size) == before and not _still_coming(path):
            return path
        before = (path or Path(), size)
        if now - said > LINE_SECONDS:
            said = now
            print(f"waiting for {name}: {(end - now) / 60:.0f} minutes left", file=sys.stderr, flush=True)
        time.sleep(min(POLL_SECONDS, max(end - now, 0)))
    return None


def _still_coming(path: Path) -> bool:
    """Whether a browser keeps an unfinished download beside the file."""
    return any(path.with_name(path.name + suffix).exists() for suffix in UNFINISHED[:4])
