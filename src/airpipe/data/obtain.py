"""Have one file of a data set on disk, checked: kept from an earlier run, dropped in by hand, or fetched."""

import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from airpipe.data.addresses import address_of
from airpipe.data.archive_rules import BadArchive, DamagedArchive
from airpipe.data.archives import SUFFIXES, archive_kind
from airpipe.data.checksums import Recorded
from airpipe.data.remote import Wanted, transfer_of
from airpipe.data.streams import MEGABYTE, Meter
from airpipe.data.transfer import QUOTA, SourceFailed
from airpipe.progress import LINE_SECONDS
from airpipe.provenance import write_json
from airpipe.settings.datasets import DatasetSettings, RemoteFile, Source

POLL_SECONDS = 2.0
"""Time between two looks into the folder that a file is dropped into."""
UNFINISHED = (".part", ".crdownload", ".download", ".opdownload", ".wrong", ".json")
"""Suffixes of files that are no finished download: first those of browsers, then our own."""


@dataclass(frozen=True)
class Received:
    """Note about a downloaded file: its address, and the bytes that came over the network in all runs."""

    address: str
    sha256: str
    received: int
    """Number of bytes that came."""
    again: int
    """Number of them that were thrown away to start again."""
    length_unknown: bool = False
    """Whether no server said how long the file is, so that it may be cut."""


@dataclass(frozen=True)
class Obtained:
    """A file of a data set that is there and checked. `received` is None when it was dropped in by hand."""

    wanted: Wanted
    path: Path
    sha256: str
    bytes: int
    received: Received | None

    @property
    def address(self) -> str:
        """Address that the bytes came from; a text that stands for it when somebody dropped the file in."""
        return self.wanted.address if self.received else self.wanted.dropped_address

    @property
    def length_unknown(self) -> bool:
        """Whether the file may have been cut without anybody noticing."""
        return self.received is not None and self.received.length_unknown


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

    def expected(self, wanted: Wanted, dropped: bool = False) -> tuple[str | None, str]:
        """Return the sha256 that a file must have (None: nobody knows), and who says so.

        Args:
            wanted: the file.
            dropped: whether somebody dropped it in, so that it did not come over the network.
        """
        if wanted.sha256:
            return wanted.sha256, "the registry"
        if wanted.folder_zip:
            return None, ""
        entry = self.recorded.get(wanted.address)
        if dropped and entry is None:
            entry = self.recorded.get(wanted.dropped_address)
        return (entry.sha256 if entry else None), str(self.lock)

    def obtain(self, wanted: Wanted, source: Source, wait_minutes: float) -> Obtained:
        """Have a file on disk, checked.

        Raises:
            SourceFailed: it cannot be had from this address, or is not what was expected.
            AirpipeError: the disk is full.
        """
        if wanted.file.by_hand:
            return self._by_hand(wanted, source, wait_minutes)
        path = self.downloads / wanted.name
        if wanted.folder_zip:
            return self._taken(wanted, path)
        return self._kept(wanted, path) or self._fetched(wanted, path)

    def set_aside(self, file: Obtained, error: DamagedArchive) -> BadArchive:
        """Move a damaged archive away so that the next run fetches it again; returns the error to raise.

        Nothing is moved when a checksum says that the file is the right one, or when somebody dropped it in.
        """
        if file.received is None or self.expected(file.wanted)[0] is not None:
            return error
        wrong = self._wrong(file.wanted)
        _received_file(file.path).unlink(missing_ok=True)
        file.path.replace(wrong)
        cut = "; the server did not say how long it is, so it may have been cut" if file.length_unknown else ""
        return BadArchive(
            f"{error.problem}{cut}. It was moved to {wrong}: run the same command again to fetch it again, or unpack "
            "it by hand and set the data set's root to that folder"
        )

    def _kept(self, wanted: Wanted, path: Path) -> Obtained | None:
        """A complete file of an earlier run, or one that was dropped in."""
        if not path.is_file():
            return None
        sha256 = hash_file(path)
        received = read_received(path, sha256)
        expected, who = self.expected(wanted, dropped=received is None)
        if expected is None and received and received.address != wanted.address:
            return None  # the file of another address under the same name; the new one replaces it
        try:
            self._check(wanted, path, sha256, expected, who)
        except SourceFailed as error:
            print(f"{error}\nit is fetched again", file=sys.stderr)
            return None
        return Obtained(wanted, path, sha256, path.stat().st_size, received)

    def _fetched(self, wanted: Wanted, path: Path) -> Obtained:
        expected, who = self.expected(wanted)
        transfer = transfer_of(wanted, self.downloads, known=expected is not None)
        state = transfer.run()
        sha256 = hash_file(transfer.part)
        if expected is None and state.sha256:
            expected, who = state.sha256, "Hugging Face"
        self._check(wanted, transfer.part, sha256, expected, who)
        size = transfer.part.stat().st_size
        received = Received(wanted.address, sha256, state.again + size, state.again, state.length_unknown)
        # the note before the file: a file without a note counts as dropped in by hand
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
        return self._taken(wanted, path)

    def _taken(self, wanted: Wanted, path: Path) -> Obtained:
        """A file that somebody dropped in, checked."""
        sha256 = hash_file(path)
        self._check(wanted, path, sha256, *self.expected(wanted, dropped=True))
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

    def _wrong(self, wanted: Wanted) -> Path:
        return self.downloads / f"{wanted.name}.wrong"

    def _check(self, wanted: Wanted, path: Path, sha256: str, expected: str | None, who: str) -> None:
        """Refuse a file that is not what was expected (`who` expects it); it is renamed, not deleted."""
        size = path.stat().st_size
        archive_missing = wanted.name.lower().endswith(SUFFIXES) and archive_kind(path) is None
        if expected is not None and sha256 != expected:
            problem = f"wrong checksum: expected sha256 {expected} ({who}), found {sha256}"
        elif wanted.size is not None and size != wanted.size:
            problem = f"wrong size: expected {wanted.size} bytes (the registry), found {size}"
        elif archive_missing:
            problem = f"not an archive, although it is called {wanted.name}. {QUOTA}"
        else:
            return
        wrong, name = self._wrong(wanted), path.name
        path.replace(wrong)
        if path.suffix == ".part":
            name = Path(wanted.name).name
            path.with_name(path.name + ".json").unlink(missing_ok=True)
        raise SourceFailed(
            f"{name} from {wanted.address}: {problem}. It was moved to {wrong} and is not unpacked. If the publisher "
            f"has replaced the file, correct the registry or delete the entry in {self.lock}; otherwise delete the "
            ".wrong file and run the same command again"
        )


def hash_file(path: Path) -> str:
    """Return the hex sha256 of a file of many gigabytes and show progress (for others: `provenance.sha256_file`)."""
    digest = hashlib.sha256()
    with Meter(f"checking {path.name}", path.stat().st_size) as meter, path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            meter.add(len(chunk))
    return digest.hexdigest()


def read_received(path: Path, sha256: str) -> Received | None:
    """Read where a downloaded file came from; None when it was dropped in by hand."""
    try:
        received = Received(**json.loads(_received_file(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # no such note, or not one of ours
        return None
    return received if received.sha256 == sha256 else None


def _received_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def manual_steps(file: RemoteFile, downloads: Path) -> str:
    """Say what a person does to get a file: where to look, where to put it."""
    name = f"{file.name}.zip" if file.gdrive_folder else file.name
    size = f" ({file.bytes / MEGABYTE:.0f} MB)" if file.bytes else ""
    place = shlex.quote(os.path.realpath(downloads / name))
    return f"  - open: {address_of(file)}\n    and put the file{size} at: {place}"


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
