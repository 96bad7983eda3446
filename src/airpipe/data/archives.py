"""Unpack an archive that a stranger made: nothing outside the folder, no links, no bombs, one kind of error.

The format is told by the first bytes. zip and tar are read here; rar and 7z by a tool on PATH
(`airpipe.data.archive_tools`) under the same rules.
"""

import bz2
import errno
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from airpipe.data.archive_rules import CHUNK, BadArchive, DamagedArchive, Limits, Listing, Writer
from airpipe.data.archive_tools import unpack_with_tool
from airpipe.data.streams import Meter, enough_space
from airpipe.errors import AirpipeError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".rar", ".7z")
"""Suffixes of archives that can be unpacked."""
MAGIC = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "tar.gz",
    b"BZh": "tar.bz2",
    b"\xfd7zXZ\x00": "tar.xz",
    b"Rar!\x1a\x07": "rar",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
"""Kind of an archive by its first bytes."""
TAR_MAGIC_AT = 257
"""Place of the word ustar in a tar file, which has no first bytes of its own."""
BLOCK = 512
"""Bytes of a tar file's blocks."""
LARGEST_HEADER = 16 << 20
"""Largest tar header in bytes; tarfile would read a larger one into memory at once."""
DAMAGED = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(EOFError, OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError),
    *(NotImplementedError, RuntimeError, MemoryError, RecursionError, struct.error),
)
"""Exceptions that zipfile, tarfile and the decompressors raise for damaged bytes."""
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Ways to compress a zip member that zipfile unpacks piece by piece; the others would fill the memory."""
UNBOUNDED = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz"}
"""Names of other ways, for messages."""
OCCUPIED = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR)
"""Error numbers of a place that a file or folder of the other kind takes."""


def archive_kind(path: Path) -> str | None:
    """Tell the kind of an archive by its first bytes: zip, tar, tar.gz, tar.bz2, tar.xz, rar, 7z; None for others."""
    with path.open("rb") as stream:
        start = stream.read(BLOCK)
    if start[TAR_MAGIC_AT : TAR_MAGIC_AT + 5] == b"ustar":
        return "tar"
    return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None)


def unpack(archive: Path, folder: Path, limits: Limits | None = None) -> int:
    """Unpack an archive and return the number of files.

    When it fails, part of the files may be in `folder`: give a temporary one. A file that is there
    with the same bytes is left as it is.

    Args:
        archive: zip, tar (plain, gz, bz2, xz), rar or 7z, whatever it is called.
        folder: where its members go; made when missing.
        limits: bounds against archives that unpack to far more than they are.

    Raises:
        BadArchive: the archive is damaged, encrypted, unsafe or too large; says which member and why.
        AirpipeError: the folder cannot be written or the disk is full.
    """
    limits = limits or Limits()
    try:
        kind = archive_kind(archive)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise occupied(archive, error) or AirpipeError(f"{error.filename}: {error.strerror}") from None
    if kind is None:
        raise BadArchive(
            f"{archive}: not an archive (zip, tar, tar.gz, tar.bz2, tar.xz, rar or 7z). Look at its first bytes: "
            "it may be an error page of the server. Remove it and fetch it again"
        )
    try:
        if kind in ("rar", "7z"):
            return unpack_with_tool(archive, folder, limits, kind)
        return _unpack_zip(archive, folder, limits) if kind == "zip" else _unpack_tar(archive, folder, limits, kind)
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise occupied(archive, error) or AirpipeError(
                f"{archive}: cannot be unpacked into {folder} ({error.strerror}). "
                "Free disk space or make the folder writable, then run the same command again"
            ) from None
        raise DamagedArchive(
            f"{archive}: the {kind} archive is damaged or of an unsupported kind ({type(error).__name__}: "
            f"{str(error)[:200]})"
        ) from None


def occupied(file: Path, error: OSError) -> BadArchive | None:
    """Return the error for a folder and a file of the data set that want one place; None for any other reason."""
    if error.errno not in OCCUPIED:
        return None
    return BadArchive(
        f"{file}: {error.filename} is in the way: a file where a folder is wanted, or a folder where a file is wanted. "
        "Another file of the data set brought it; give one of the two `into`"
    )


def _unpack_zip(archive: Path, folder: Path, limits: Limits) -> int:
    with zipfile.ZipFile(archive) as bundle:
        listing = Listing(archive, limits)
        # names and sizes of all members are checked before anything is written
        members = [(info, listing.accept(*_zip_member(info, listing))) for info in bundle.infolist()]
        _refuse_overlap(members, listing, bundle.start_dir)
        enough_space(folder / archive.name, listing.size)
        with Meter(f"unpacking {archive.name}", listing.size) as meter:
            writer = Writer(listing, folder, meter)
            for info, path in members:
                if info.is_dir():
                    (folder / path).mkdir(parents=True, exist_ok=True)
                    continue
                with bundle.open(info) as stream:
                    writer.write(path, info.file_size, stream)
    return writer.count


def _zip_member(info: zipfile.ZipInfo, listing: Listing) -> tuple[str, int, bool]:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise listing.refused(info.filename, "it is a link or a special file")
    if info.flag_bits & 0x1:
        raise listing.refused(info.filename, "it is encrypted")
    if info.compress_type not in BOUNDED:
        method = UNBOUNDED.get(info.compress_type, f"method {info.compress_type}")
        raise listing.refused(info.filename, f"it is compressed with {method}; expected stored or deflate")
    if "\x00" in info.orig_filename:
        raise listing.refused(info.orig_filename, "the name has a control character")
    return info.filename, info.file_size, info.is_dir()


def _refuse_overlap(members: list[tuple[zipfile.ZipInfo, PurePosixPath]], listing: Listing, end: int) -> None:
    """Refuse members that share compressed bytes: how a small zip becomes a large one."""
    header = 30  # bytes of a member's local header, without name and extra field
    for info, _ in sorted(members, key=lambda member: member[0].header_offset, reverse=True):
        if info.header_offset + header + info.compress_size > end:
            raise listing.refused(info.filename, "it overlaps another member")
        end = info.header_offset


def _unpack_tar(archive: Path, folder: Path, limits: Limits, kind: str) -> int:
    """Plain tar: list, then write. Compressed: in one pass, for listing would decompress everything twice."""
    total = None
    if kind == "tar":
        listing = Listing(archive, limits)
        with open_tar(archive, kind, limits) as (tar, source):
            for member in tar_members(tar, source):
                _accept(member, listing)
        total = listing.size
        enough_space(folder / archive.name, total)
    listing = Listing(archive, limits)
    with open_tar(archive, kind, limits) as (tar, source), Meter(f"unpacking {archive.name}", total) as meter:
        writer = Writer(listing, folder, meter)
        for member in tar_members(tar, source):
            path = _accept(member, listing)
            if member.isdir():
                (folder / path).mkdir(parents=True, exist_ok=True)
            else:
                writer.write(path, member.size, cast(BinaryIO, tar.extractfile(member)))
    return writer.count


class _Source:
    """The decompressed bytes of a tar file; refuses what would fill the memory or never end."""

    def __init__(self, stream: BinaryIO, allowed: int) -> None:
        self.stream, self.allowed = stream, allowed

    def read(self, count: int) -> bytes:
        if not 0 <= count <= LARGEST_HEADER:
            raise tarfile.ReadError(f"a header claims {count} bytes")
        return self.stream.read(count)

    def tell(self) -> int:
        return self.stream.tell()

    def seek(self, position: int) -> int:
        if not 0 <= position <= self.allowed:
            raise tarfile.ReadError(f"a member claims to end at byte {position}")
        return self.stream.seek(position)


@contextmanager
def open_tar(archive: Path, kind: str, limits: Limits) -> Iterator[tuple[tarfile.TarFile, _Source]]:
    """Open a tar file of a stranger: no header fills the memory, no member ends beyond all bounds.

    Args:
        archive: the file.
        kind: tar, tar.gz, tar.bz2 or tar.xz, as `archive_kind` tells it.
        limits: bounds of what it may unpack to.

    Returns:
        The open tar file and its decompressed bytes; reading either may raise any of `DAMAGED`.
    """
    openers = {"tar": Path.open, "tar.gz": gzip.open, "tar.bz2": bz2.open, "tar.xz": lzma.open}
    with openers[kind](archive, "rb") as stream:  # type: ignore[operator]
        source = _Source(stream, 2 * limits.bytes_for(archive))  # headers and padding come on top of the files
        with tarfile.open(fileobj=cast(BinaryIO, source), mode="r:", encoding="utf-8") as tar:
            yield tar, source


def _accept(member: tarfile.TarInfo, listing: Listing) -> PurePosixPath:
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise listing.refused(member.name, "it is a link or a special file")
    return listing.accept(member.name, member.size, member.isdir())


def tar_members(tar: tarfile.TarFile, source: _Source) -> Iterator[tarfile.TarInfo]:
    """Yield the members of what `open_tar` opened, to the end mark and the end of the compressed stream.

    Raises:
        tarfile.ReadError: headers run in a circle, or the end mark is missing; others of `DAMAGED` for damaged bytes.
    """
    before = -1
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # they would fill the memory
        if member.offset <= before or member.size < 0:
            raise tarfile.ReadError("its headers run in a circle")
        before = member.offset
        yield member
    source.seek(tar.offset)
    block = source.read(BLOCK)
    if len(block) < BLOCK or block.strip(b"\x00"):
        raise tarfile.ReadError("the end mark is missing")
    while source.tell() <= source.allowed and source.read(CHUNK):
        pass  # the checksum of a compressed stream stands at its end
