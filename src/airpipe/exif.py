"""EXIF blocks: made upright, and carried from one file to another.

A block here is what follows `Exif\\0\\0` in a JPEG: a TIFF header and its directories. It is edited
where it stands, so that everything else (lens, place, the camera's own notes) keeps its bytes.

Source: CIPA DC-008 (Exif), section 4; TIFF 6.0, section 2.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
EXIF_FOLDER, GPS_FOLDER, INTEROP_FOLDER = 0x8769, 0x8825, 0xA005
FOLDERS = (EXIF_FOLDER, GPS_FOLDER, INTEROP_FOLDER)
PIXEL_WIDTH, PIXEL_HEIGHT = 0xA002, 0xA003
DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
"""Entries of a TIFF file's own directory that describe the picture: description, make, model, software, date, artist,
copyright."""
TIFFFILE_TEXTS = {0x010E: "description", 0x0131: "software", 0x0132: "datetime"}
"""Entries that tifffile writes by itself."""
SHORT, LONG = 3, 4
"""TIFF types of unsigned numbers of 16 and 32 bit."""
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Size of a value in bytes, by TIFF type."""


@dataclass(frozen=True)
class _Field:
    """One entry of a directory."""

    tag: int
    kind: int
    count: int
    value_at: int
    """Place in the block of its four bytes of value, or of the offset of its values."""

    @property
    def size(self) -> int:
        """Bytes of all its values."""
        return self.count * SIZES.get(self.kind, 1)


class _Block:
    """A block that is read and edited; what lies outside it raises struct.error or ValueError."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4], "")
        if not self.order:
            raise ValueError("no TIFF header")
        self.first = self.number(4, LONG)

    def number(self, place: int, kind: int) -> int:
        """Read a SHORT or LONG."""
        value: int = struct.unpack_from(self.order + ("H" if kind == SHORT else "I"), self.data, place)[0]
        return value

    def put(self, place: int, kind: int, value: int) -> None:
        """Write a SHORT or LONG."""
        struct.pack_into(self.order + ("H" if kind == SHORT else "I"), self.data, place, value)

    def fields(self, directory: int) -> list[_Field]:
        """All entries of a directory."""
        entries = [directory + 2 + 12 * index for index in range(self.number(directory, SHORT))]
        return [
            _Field(self.number(e, SHORT), self.number(e + 2, SHORT), self.number(e + 4, LONG), e + 8) for e in entries
        ]

    def directories(self) -> Iterator[int]:
        """The first directory and those below it; each once."""
        waiting, seen = [self.first], set[int]()
        while waiting:
            directory = waiting.pop()
            if directory not in seen:
                seen.add(directory)
                yield directory
                waiting += [self.number(f.value_at, LONG) for f in self.fields(directory) if f.tag in FOLDERS]


def upright(data: bytes, turned: bool = False) -> bytes | None:
    """Change a block to that of a picture whose pixels have been turned upright; None when it is damaged.

    Orientation becomes 1, the thumbnail (of the picture before) is cut off.

    Args:
        data: the block, with or without `PREFIX`.
        turned: whether width and height of the picture have been exchanged; those in the block are then, too.
    """
    try:
        block = _Block(data.removeprefix(PREFIX))
        end = block.first + 2 + 12 * block.number(block.first, SHORT)
        block.put(end, LONG, 0)  # the next directory describes the thumbnail
        sizes: dict[int, _Field] = {}
        for directory in block.directories():
            for field in block.fields(directory):
                if field.tag == ORIENTATION and directory == block.first:
                    block.put(field.value_at, SHORT, 1)
                elif field.tag in (PIXEL_WIDTH, PIXEL_HEIGHT) and field.kind in (SHORT, LONG):
                    sizes[field.tag] = field
        if turned and len(sizes) == 2:
            _exchange(block, sizes[PIXEL_WIDTH], sizes[PIXEL_HEIGHT])
    except (struct.error, ValueError):
        return None
    return bytes(block.data)


def _exchange(block: _Block, width: _Field, height: _Field) -> None:
    values = block.number(width.value_at, width.kind), block.number(height.value_at, height.kind)
    # a SHORT cannot take a side of 2^16 pixels or more: both sizes then stay as they were
    if max(values) < 2**16 or width.kind == height.kind == LONG:
        block.put(width.value_at, width.kind, values[1])
        block.put(height.value_at, height.kind, values[0])


def from_tiff(tags: Any) -> bytes | None:
    """Make a block of the descriptive entries of a TIFF file; None when it has none.

    Args:
        tags: Pillow's `Image.Exif` of the file.
    """
    from PIL import Image

    kept = Image.Exif()
    for tag in DESCRIPTIVE:
        if tag in tags:
            kept[tag] = tags[tag]
    for folder in (EXIF_FOLDER, GPS_FOLDER):
        if below := tags.get_ifd(folder):
            kept[folder] = dict(below)
    return kept.tobytes().removeprefix(PREFIX) if len(kept) else None


def tiff_options(data: bytes | None) -> dict[str, Any]:
    """Return keyword arguments for `tifffile.imwrite`, so that `append_to_tiff` can follow; none without a block."""
    if data is None:
        return {}
    block = _Block(data)
    fields = block.fields(block.first)
    texts = {f.tag: _text(block, f) for f in fields if f.tag in DESCRIPTIVE and f.kind == 2}
    extra: list[Any] = [(tag, "s", 0, text, True) for tag, text in texts.items() if tag not in TIFFFILE_TEXTS]
    own = {name: texts.get(tag) for tag, name in TIFFFILE_TEXTS.items()}
    # metadata=None keeps tifffile from writing a description of its own
    return {"byteorder": block.order, "extratags": extra, "metadata": None, **own}


def _text(block: _Block, field: _Field) -> str:
    start = field.value_at if field.size <= 4 else block.number(field.value_at, LONG)
    text = bytes(block.data[start : start + field.size]).split(b"\0")[0]
    return text.decode("ascii", "replace").replace("\ufffd", "?")


def append_to_tiff(path: Path, data: bytes) -> None:
    """Append a block to a TIFF file that was written with `tiff_options`.

    The file's directory is written anew behind it, because a directory cannot grow where it stands.

    Args:
        path: the file, changed in place.
        data: the block, without `PREFIX`.
    """
    order = byte_order(data)
    with path.open("r+b") as stream:
        stream.seek(4)
        stream.seek(struct.unpack(order + "I", stream.read(4))[0])
        count = struct.unpack(order + "H", stream.read(2))[0]
        entries = [stream.read(12) for _ in range(count)]
        base = stream.seek(0, os.SEEK_END)
        base += base % 2  # TIFF wants even offsets
        block, below = _moved(data, base)
        entries += [struct.pack(order + "HHII", tag, LONG, 1, place) for tag, place in below.items()]
        # TIFF wants ascending tags
        entries.sort(key=lambda entry: int(struct.unpack(order + "H", entry[:2])[0]))
        stream.seek(base)
        stream.write(block + b"\0" * (len(block) % 2))
        directory = stream.tell()
        stream.write(struct.pack(order + "H", len(entries)) + b"".join(entries) + b"\0\0\0\0")
        stream.seek(4)
        stream.write(struct.pack(order + "I", directory))


def _moved(data: bytes, base: int) -> tuple[bytes, dict[int, int]]:
    """The block for a place `base` bytes into a file, whose offsets count from the file's start.

    Returns:
        The block, and where its Exif and GPS directories then are.
    """
    block = _Block(data)
    below: dict[int, int] = {}
    for directory in list(block.directories()):
        for field in block.fields(directory):
            if field.tag in FOLDERS or field.size > 4:  # shorter values stand in the entry itself
                place = block.number(field.value_at, LONG) + base
                block.put(field.value_at, LONG, place)
                if directory == block.first and field.tag in (EXIF_FOLDER, GPS_FOLDER):
                    below[field.tag] = place
    return bytes(block.data), below


def byte_order(data: bytes) -> str:
    """Return the byte order of a block as `struct` writes it: "<" (low byte first) or ">"."""
    return _Block(data).order
