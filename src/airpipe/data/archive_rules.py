"""Rules for what an archive of any format may hold, and the writing of its members."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from airpipe.data.streams import MEGABYTE, Meter, write_all
from airpipe.errors import AirpipeError

CHUNK = 1 << 18
"""Bytes that are read at a time."""


class BadArchive(AirpipeError):
    """The archive is damaged, unsafe or of a kind that cannot be read here."""


class DamagedArchive(BadArchive):
    """The bytes are no whole archive; another download may bring one.

    Args:
        problem: what was found, without what to do about it.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"{problem}. Remove it and fetch it again, or unpack it by hand and set the data set's root to that folder"
        )
        self.problem = problem


@dataclass(frozen=True)
class Limits:
    """Limits of what an archive may unpack to: `max_ratio` times its size and `slack` bytes, `max_members` entries."""

    max_ratio: float = 100.0
    slack: int = 64_000_000
    max_members: int = 1_000_000
    max_name: int = 255
    """Bytes of a file's or folder's name; more than most file systems take."""
    max_path: int = 1000
    """Bytes of a whole path."""
    max_depth: int = 50
    """Parts of a path."""

    def bytes_for(self, archive: Path) -> int:
        """Return the largest number of bytes that an archive may unpack to."""
        return int(self.max_ratio * archive.stat().st_size) + self.slack


@dataclass
class Listing:
    """Members of an archive that were accepted so far; refuses what must not be unpacked."""

    archive: Path
    limits: Limits
    files: set[PurePosixPath] = field(default_factory=set)
    folders: set[PurePosixPath] = field(default_factory=set)
    size: int = 0
    """Listed bytes of all files together."""

    def accept(self, name: str, size: int, is_folder: bool) -> PurePosixPath:
        """Check one member's name and listed size, and return its path below the folder.

        Raises:
            BadArchive: the name is unsafe, too long or taken, or the sizes add up to a bomb.
        """
        if reason := _bad_name(name, self.limits):
            raise self.refused(name, reason)
        path = PurePosixPath(name)
        if not path.parts and not is_folder:
            raise self.refused(name, "it has no name")
        if path in self.files or (path in self.folders and not is_folder):
            raise self.refused(name, "two members have this path")
        if any(parent in self.files for parent in path.parents):
            raise self.refused(name, "a part of its path is a file")
        self.folders.update(path.parents)
        (self.folders if is_folder else self.files).add(path)
        if len(self.files) + len(self.folders) > self.limits.max_members:
            raise self.refused(name, f"it has more than {self.limits.max_members} members")
        self.size += max(size, 0)
        if size < 0 or self.size > self.limits.bytes_for(self.archive):
            raise self.refused(name, too_much(self.archive, self.limits))
        return path

    def refused(self, name: str, reason: str) -> BadArchive:
        """Return the error for a member that must not be unpacked."""
        return BadArchive(
            f"{self.archive}: refused because of its member {name[:100]!r}: {reason}. If you trust it, unpack it by "
            "hand and set the data set's root to that folder"
        )


def too_much(archive: Path, limits: Limits) -> str:
    """Say why an archive is taken for a bomb."""
    allowed = limits.bytes_for(archive) / MEGABYTE
    return f"it unpacks to more than {allowed:.0f} MB ({limits.max_ratio:g} times its size), as decompression bombs do"


def _bad_name(name: str, limits: Limits) -> str:
    path = PurePosixPath(name)
    try:
        longest = max((len(part.encode()) for part in path.parts), default=0)
    except UnicodeEncodeError:
        return "the name is not valid text"
    checks = {
        "an absolute path": name.startswith("/") or name[1:2] == ":",
        "the path leads out of the folder": ".." in path.parts,
        "the name has a backslash": "\\" in name,
        "the name has a control character": any(ord(letter) < 32 or ord(letter) == 127 for letter in name),
        "the name is too long": longest > limits.max_name or len(name.encode()) > limits.max_path,
        "the folders are too deep": len(path.parts) > limits.max_depth,
    }
    return next((reason for reason, found in checks.items() if found), "")


@dataclass
class Writer:
    """Writer of members below `folder`; counts the bytes that really come."""

    listing: Listing
    folder: Path
    meter: Meter
    written: int = 0
    count: int = 0

    def __post_init__(self) -> None:
        self.allowed = self.listing.limits.bytes_for(self.listing.archive)
        self.root = self.folder.resolve()

    def write(self, path: PurePosixPath, size: int, stream: IO[bytes]) -> None:
        """Write one file of `size` listed bytes.

        Raises:
            BadArchive: the path leads out of the folder, another file is there, or too many bytes come.
            EOFError: too few bytes come.
            AirpipeError: the disk is full.
        """
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # a link in the folder could lead out, whatever the name says
        if not target.parent.resolve().is_relative_to(self.root):
            raise self.listing.refused(str(path), "the path leads out of the folder")
        if target.exists():
            self._compare(path, target, stream)
        else:
            with target.open("xb", buffering=0) as output:
                for chunk in self._chunks(path, size, stream):
                    write_all(cast(BinaryIO, output), chunk, target)
        self.count += 1

    def _chunks(self, path: PurePosixPath, size: int, stream: IO[bytes]) -> Iterable[bytes]:
        came = 0
        while chunk := stream.read(CHUNK):
            came += len(chunk)
            self.written += len(chunk)
            if self.written > self.allowed:
                raise self.listing.refused(str(path), too_much(self.listing.archive, self.listing.limits))
            if came > size:
                raise self.listing.refused(str(path), f"it has more than the {size} bytes it claims")
            yield chunk
            self.meter.add(len(chunk))
        if came != size:
            raise EOFError(f"{path} has {came} of {size} bytes")

    def _compare(self, path: PurePosixPath, target: Path, stream: IO[bytes]) -> None:
        with target.open("rb") as there:
            same = all(there.read(len(chunk)) == chunk for chunk in iter(lambda: stream.read(CHUNK), b""))
            same = same and not there.read(1)
        if not same:
            raise self.listing.refused(
                str(path), "another archive of the data set wrote another file there; give one of them `into`"
            )
