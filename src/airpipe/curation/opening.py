"""The pictures behind the lines of a list: files, members of tar files, or files fetched from addresses."""

import argparse
import stat
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import IO, BinaryIO, NamedTuple, cast

import numpy as np

from airpipe.curation.listing import LONGEST, Line, parse_sources, unfit
from airpipe.curation.polite import Fetcher
from airpipe.data.archive_rules import CHUNK, Limits
from airpipe.data.archives import DAMAGED, archive_kind, open_tar, tar_members
from airpipe.data.files import is_image
from airpipe.data.streams import write_all
from airpipe.data.transfer import SourceFailed, Unanswered
from airpipe.errors import AirpipeError
from airpipe.images import Picture, decoder_words, glance, read_picture
from airpipe.pixels import Rgb8
from airpipe.provenance import sha256_file, write_failed

SPARSE = 50
"""One of so many rows is looked at first, to see that a picture has colours."""
LARGEST_MEMBER = 500_000_000
"""Bytes of the largest picture that is read from a tar file."""


class Key(NamedTuple):
    """What a picture is called: the line of the list, and its number among the images of a tar file (else 0)."""

    line: int
    member: int

    def __str__(self) -> str:
        return f"{self.line}:{self.member}"


class Found(NamedTuple):
    """A picture, or why it cannot be had."""

    key: Key
    name: str
    """Name in the tar file; "" outside of one."""
    file: Path | None
    """Where its bytes lie until the next picture is asked for; None: it cannot be had."""
    problem: str
    """Why not; "" if it can."""
    passing: bool = False
    """Whether that says nothing of the picture: nobody answered, see `Opener.again`."""


class Opened(NamedTuple):
    """A decoded picture."""

    pixels: Rgb8
    """RGB (H, W, 3)."""
    grey: bool
    """Whether its file has one channel, or three equal ones."""
    alpha: bool
    """Whether it is transparent somewhere, or could be."""
    sha256: str = ""
    """Checksum of its file."""
    shown: str = ""
    """What it is called in messages."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where pictures are, for `Opener.of`."""
    parser.add_argument("--source", action="append", required=True, help="name=kind:place; kind images, tars or urls")
    parser.add_argument("--cache", type=Path, default=Path("resources/downloads/pictures"), help="of fetched pictures")
    parser.add_argument("--per-second", type=float, default=1.0, help="requests to one host, at most")


class Opener:
    """Opener of the pictures of a list; a context that keeps a scratch folder.

    Args:
        sources: kind and place of each source by its name.
        fetcher: fetcher of addresses.
    """

    def __init__(self, sources: Mapping[str, tuple[str, str]], fetcher: Fetcher) -> None:
        self.sources, self.fetcher = sources, fetcher

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Opener":
        """Make an opener of a script's arguments, see `add_arguments`."""
        return cls(parse_sources(given.source), Fetcher(given.cache, given.per_second))

    def __enter__(self) -> "Opener":
        for name, (kind, root) in self.sources.items():
            if kind != "urls" and _folder(root) is None:
                raise AirpipeError(f"source {name}: {root} is not a folder on this machine. Mount it, or correct root")
        self._folders = {name: _folder(root) for name, (_, root) in self.sources.items()}
        self._folder = TemporaryDirectory(prefix="airpipe.")
        self._scratch = Path(self._folder.name) / "picture"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def find(self, line: Line, wanted: Callable[[Key], bool] = lambda _: True) -> Iterator[Found]:
        """Yield the pictures of a line one by one: of a tar file all images, else one.

        Args:
            line: line of the list.
            wanted: whether a picture is asked for; others are passed over.

        Raises:
            AirpipeError: the line names an unknown source, or a disk is full.
        """
        if line.source not in self.sources:
            raise AirpipeError(f"line {line.number}: no source {line.source!r} was given (--source name=kind:place)")
        kind, root = self.sources[line.source]
        key = Key(line.number, 0)
        if kind == "tars":
            yield from self._members(line, Path(root) / line.path, wanted)
        elif wanted(key):
            yield self._fetched(key, line.path) if kind == "urls" else Found(key, "", Path(root) / line.path, "")

    def again(self, found: Found, line: Line) -> Found:
        """Ask once more for the picture of a line of which nobody answered."""
        return self._fetched(found.key, line.path)

    def check_folder(self, source: str) -> None:
        """Look whether a source is still there: what lies in a folder that is gone cannot be read, either.

        Raises:
            AirpipeError: its folder is gone, or another one is there.
        """
        kind, root = self.sources[source]
        if kind != "urls" and _folder(root) != self._folders[source]:
            raise AirpipeError(
                f"source {source}: {root} is no longer the folder that was there. Mount it again, then run again: it "
                "goes on where it stopped"
            )

    def _fetched(self, key: Key, address: str) -> Found:
        try:
            return Found(key, "", self.fetcher.fetch(address), "")
        except SourceFailed as error:
            return Found(key, "", None, str(error), isinstance(error, Unanswered))

    def _members(self, line: Line, archive: Path, wanted: Callable[[Key], bool]) -> Iterator[Found]:
        number = -1
        try:
            kind = archive_kind(archive)
            if kind not in ("tar", "tar.gz"):
                raise tarfile.ReadError(f"not a tar file, but {kind or 'something else'}")
            with open_tar(archive, kind, Limits()) as (tar, source):
                for member in tar_members(tar, source):
                    if not is_image(member.name):
                        continue
                    number += 1
                    key = Key(line.number, number)
                    if not wanted(key):
                        continue
                    name = ascii(member.name)[1:-1][:LONGEST] if (reason := _bad_name(member.name)) else member.name
                    if not member.isreg() or member.issparse():
                        reason = "is a link or a special file"
                    elif member.size > LARGEST_MEMBER:
                        reason = f"has {member.size} bytes, more than {LARGEST_MEMBER}"
                    if reason:
                        yield Found(key, name, None, reason)
                        continue
                    self._copy(cast(IO[bytes], tar.extractfile(member)))
                    yield Found(key, name, self._scratch, "")
        except DAMAGED as error:
            key = Key(line.number, number + 1)
            if wanted(key):
                yield Found(key, "", None, f"the rest of the tar file cannot be read ({_brief(error)})")

    def _copy(self, stream: IO[bytes]) -> None:
        try:
            opened = self._scratch.open("wb", buffering=0)
        except OSError as error:  # a full disk says nothing of the picture
            raise write_failed(self._scratch, error) from None
        with opened as target:
            while chunk := stream.read(CHUNK):
                write_all(cast(BinaryIO, target), chunk, self._scratch)


def _folder(root: str) -> tuple[int, int] | None:
    """What tells a folder from another one at its place, as after an unmount; None where there is none."""
    try:
        state = Path(root).stat()
    except OSError:
        return None
    return (state.st_dev, state.st_ino) if stat.S_ISDIR(state.st_mode) else None


def _brief(error: BaseException) -> str:
    """Text of an error without the file's place on this machine."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200]


def _bad_name(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the name is not UTF-8"
    return unfit(name)


def open_picture(found: Found, shown: str, largest: int) -> Opened | str:
    """Decode a picture, or say why not.

    Args:
        found: the picture.
        shown: what it is called in the reason.
        largest: most pixels that are decoded.

    Raises:
        AirpipeError: the disk for temporary files is full.
    """
    if found.file is None:
        return found.problem
    with decoder_words() as words:
        read = _read(found.file, shown, largest)
    if isinstance(read, str):
        return read
    for word in words:
        print(f"{shown}: {word}", file=sys.stderr)
    picture, checksum = read
    pixels = picture.pixels if picture.pixels.dtype == np.uint8 else (picture.pixels >> 8).astype(np.uint8)
    grey = picture.grey or all(bool((one == one[..., :1]).all()) for one in (pixels[::SPARSE], pixels))
    return Opened(np.ascontiguousarray(pixels, np.uint8), grey, picture.alpha is not None, checksum, shown)


def _read(file: Path, shown: str, largest: int) -> tuple[Picture, str] | str:
    """A picture and the checksum of its file, or why it cannot be read."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # to open a pipe would wait for ever
            return f"{shown}: is no regular file"
        height, width, _ = glance(file)
        if height * width > largest:
            return f"{shown}: {width}x{height} pixels, more than {largest}"
        return read_picture(file), sha256_file(file)
    except OSError as error:
        return f"{shown}: cannot be read ({error.strerror})"
    except AirpipeError as error:
        # bytes of a tar file or an address lie under a name of ours
        return " ".join(str(error).replace(str(file), shown).split())
