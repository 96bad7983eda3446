"""Image files of all kinds, whole and damaged: each is read and restored rightly, or refused in one line."""

import io
import os
import random
import resource
import time
from contextlib import redirect_stderr, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import nn

from airpipe.data.manifest import FileFacts, describe
from airpipe.errors import AirpipeError
from airpipe.evaluation.restore import restore_file
from airpipe.images import read_picture, read_rgb8

from . import Outcome

COUNT = 300
MEMORY = 1 << 20
"""KiB by which all files together may raise the peak of this process."""
LONGEST = 500
"""Characters of the longest message."""
KINDS = {
    "PNG": (".png", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    "JPEG": (".jpg", ("L", "RGB", "CMYK")),
    "BMP": (".bmp", ("1", "L", "P", "RGB")),
    "TIFF": (".tif", ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F")),
    "WEBP": (".webp", ("RGB", "RGBA")),
    "GIF": (".png", ("P",)),
}
"""Suffix and kinds of pixels by format; a GIF is read by its content."""


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Write, check and restore `count` files."""
    outcome, before = Outcome(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        generator = random.Random(f"{seed} {number}")
        path, said, whole = make(folder / f"{number}", generator)
        begin = time.monotonic()
        how, fault = judge(path, whole)
        outcome.add(f"try {number}, {said}", how, fault, time.monotonic() - begin)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > MEMORY:
        outcome.faults.append(f"the peak of memory grew by {grown / 2**20:.1f} GiB")
    return outcome


def make(folder: Path, generator: random.Random) -> tuple[Path, str, Image.Image | None]:
    """One file in a folder, what it is in words, and the picture that it holds where nothing damaged it."""
    folder.mkdir()
    kind = generator.choice(sorted(KINDS))
    suffix, modes = KINDS[kind]
    mode = generator.choice(modes)
    size = generator.choice(((1, 1), (1, 700), (700, 1), (generator.randint(2, 90), generator.randint(2, 90))))
    pixels = np.random.default_rng(generator.getrandbits(32)).integers(0, 256, (*size[::-1], 3), np.uint8)
    image = Image.fromarray(pixels).convert("RGBA" if mode == "RGBA" else "RGB")
    image = image.convert("L").convert(mode) if mode in ("I;16", "F", "LA", "1") else image.convert(mode)
    exif = Image.Exif()
    if kind in ("JPEG", "PNG", "TIFF", "WEBP") and generator.random() < 0.4:
        exif[0x0112] = generator.randint(1, 9)  # orientation; there is no 9
    stream = io.BytesIO()
    image.save(stream, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    how = generator.choice(("whole", "whole", *DAMAGES))
    path = folder / f"picture{suffix}"
    data = stream.getvalue()
    damaged = how != "whole" and DAMAGES[how](data, generator)
    if how == "link":
        path.symlink_to(generator.choice(("gone.png", path.name, "../..")))
    elif how == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(damaged or (b"" if how == "empty" else data))
    return path, f"{kind} {mode} {size[0]}x{size[1]} {how}", Image.open(io.BytesIO(data)) if how == "whole" else None


def flipped(data: bytes, generator: random.Random) -> bytes:
    """Some bytes changed."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 3, 20))):
        changed[generator.randrange(len(data))] = generator.randrange(256)
    return bytes(changed)


def header(data: bytes, generator: random.Random) -> bytes:
    """Bytes of the header changed to extremes."""
    place = generator.randrange(min(60, len(data)))
    return data[:place] + generator.choice((b"\xff", b"\x00", b"\x7f")) * 4 + data[place + 4 :]


def zeroed(data: bytes, generator: random.Random) -> bytes:
    """A stretch of zeros in the middle."""
    place, length = generator.randrange(len(data)), generator.randint(1, 200)
    return data[:place] + bytes(len(data[place : place + length])) + data[place + length :]


DAMAGES = {
    "cut": lambda data, generator: data[: generator.randrange(1, len(data))],
    "flipped": flipped,
    "header": header,
    "zeroed": zeroed,
    "longer": lambda data, generator: data + generator.randbytes(generator.randint(1, 300)),
    "twice": lambda data, generator: data + data,
    "text": lambda data, generator: b"<html>quota exceeded</html>",
    "noise": lambda data, generator: data[:4] + generator.randbytes(400),
    "empty": lambda data, generator: b"",
    "link": lambda data, generator: b"",
    "pipe": lambda data, generator: b"",
}


def judge(path: Path, whole: Image.Image | None) -> tuple[str, str]:
    """How a file ends, and the fault where that is one."""
    said = io.StringIO()
    try:
        found = describe((path.name, str(path)))
        if isinstance(found, FileFacts):
            with redirect_stderr(said):
                result = restore_file(path, path.parent / "out", nn.Identity(), in_folder=True).target
            fault = differs(path, result, whole)
            return "restored", fault
    except AirpipeError as error:  # accepted by the check: nothing may refuse it afterwards
        return "", f"checked, then refused: {str(error)[:300]!r}"
    except Exception as error:  # what a user would see as a traceback: counted, that is the campaign
        return "", f"{type(error).__name__}: {str(error)[:300]!r}"
    if "\n" in found or len(found) > LONGEST:
        return "", f"a message of {len(found)} characters: {found[:200]!r}"
    if whole is not None and whole.mode != "F":
        return "", f"whole, and refused: {found[:200]!r}"
    return "refused", ""


def differs(path: Path, result: Path, whole: Image.Image | None) -> str:
    """What is wrong with the pixels: those of both readers, and those that came back; "" where nothing is."""
    read, again = read_picture(path), read_picture(result)
    if result.suffix != ".jpg" and result.suffix != ".webp" and not np.array_equal(read.pixels, again.pixels):
        return "restored to other pixels by a network that changes none"
    if list(path.parent.glob(".*.png")) or list((path.parent / "out").glob("*.tmp")):
        return "something half-written stays"
    if whole is None:
        return ""
    with suppress(OSError):
        shown = np.asarray(ImageOps.exif_transpose(whole).convert("RGB"))
        eight = read.pixels if read.pixels.dtype == np.uint8 else None
        if eight is not None and not np.array_equal(eight, shown):
            return "read as other pixels than Pillow's"
        if read_rgb8(path).shape != read.pixels.shape:
            return "the fast reader has another size"
    return ""
