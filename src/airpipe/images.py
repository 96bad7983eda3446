"""The one place where image files become arrays, and back.

Files hold 8 or 16 bit. Inside, a picture is uint8 or uint16 `(H, W, 3)` RGB; `airpipe.pixels` makes tensors of it.
"""

import os
import struct
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from airpipe import exif
from airpipe.errors import AirpipeError
from airpipe.links import link_problem
from airpipe.pixels import Pixels
from airpipe.provenance import TEMPORARY, atomic_path, write_failed

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""Suffixes of images that are read and written."""
MAX_PIXELS = 400_000_000
"""Larger pictures are refused: a lying header could otherwise claim all memory."""
CHECK_AGAIN = "Check the data set again: snakemake check"
Image.MAX_IMAGE_PIXELS = None  # the limit above is checked by us, with a message
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
"""Decoders that may run, whatever a file is called."""
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16L", "I;16B")
"""Kinds of pixels that are read, as Pillow calls them."""
TIFF_WIDTH, TIFF_BITS_PER_SAMPLE = 256, 258
"""Tags of entries in a TIFF directory."""
DECODER_ERRORS = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError),
    *(struct.error, zlib.error, cv2.error),
)
"""Exceptions that Pillow and OpenCV raise for damaged bytes."""
LARGEST_EXIF_IN_JPEG = 65_527
"""Largest EXIF block of a JPEG in bytes, without `exif.PREFIX`: the length of a marker has 16 bit."""
LARGEST_SIDE = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
"""Longest side that a format can hold, in pixels, by suffix."""
BAND = 256
"""Number of rows that are converted at a time: a large picture is never held in two layouts."""


@dataclass(frozen=True)
class Picture:
    """A decoded file: upright RGB pixels and what is needed to write it back as it was."""

    pixels: Pixels
    """Colours (H, W, 3), RGB, uint8 or uint16."""
    alpha: Pixels | None = None
    """Opacity (H, W), of the same type as `pixels`; None: the file has none."""
    grey: bool = False
    """Whether the file had one channel, which `pixels` repeats."""
    icc: bytes | None = field(default=None, repr=False)
    """ICC colour profile, as it stands in the file; None where there is none that fits `pixels`."""
    exif: bytes | None = field(default=None, repr=False)
    """Other facts (camera, time, place), as a block of `airpipe.exif`; its orientation is 1."""


def read_picture(path: Path) -> Picture:
    """Read any supported file completely and carefully: orientation applied, alpha set apart.

    Grey, palette and CMYK files become RGB; 16-bit files keep their depth. A damaged EXIF block is left out.

    Raises:
        AirpipeError: the file is missing, truncated, not an image, animated, of a depth other than 8 or 16
            bit, or larger than `MAX_PIXELS`.
    """
    if problem := link_problem(path):
        raise AirpipeError(f"{path}: {problem}")
    if path.exists() and not path.is_file() and not path.is_dir():  # opening a pipe would wait for ever
        raise AirpipeError(f"{path}: is a pipe, a socket or a device, no file. Expected an image file")
    try:
        # A stream, not a name: Pillow 13 turns memory-mapped TIFFs of orientation 5 to 8 wrongly.
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            _refuse_unsuitable(path, image)
            raw_mode = _raw_mode(image)
            image.load()  # a truncated file fails here
            return _sixteen_bit(path, image, raw_mode) if "16" in raw_mode else _eight_bit(image)
    except (FileNotFoundError, NotADirectoryError):
        raise AirpipeError(f"{path}: no such image. Check the path") from None
    except (IsADirectoryError, PermissionError) as error:
        raise AirpipeError(f"{path}: cannot be read ({error.strerror}). Expected an image file") from None
    except UnidentifiedImageError:
        raise AirpipeError(
            f"{path}: not an image that can be read. Expected a complete file of one of {', '.join(SUFFIXES)}"
        ) from None
    except MemoryError:
        raise AirpipeError(f"{path}: there is too little memory to decode it. Cut it into parts first") from None
    except DECODER_ERRORS as error:
        raise AirpipeError(f"{path}: corrupt or truncated image ({error}). Copy or download it again") from None


@contextmanager
def decoder_words() -> Iterator[list[str]]:
    """Gather what decoders say of a file, which they print without its name: one line each.

    That is Pillow's warnings, and what the libraries below OpenCV write to stderr. What a progress bar writes there
    meanwhile is passed on. Not for threads that decode at the same time: they share stderr.
    """
    words: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with _temporary_file() as said, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            os.dup2(said.fileno(), 2)
            try:
                yield words
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                said.seek(0)
                lines = said.read().split(b"\n")
                words += dict.fromkeys(_brief(str(one.message)) for one in caught)
    finally:
        os.close(kept)
    for line in lines:
        if line.startswith((b"\x1b", b"\r")):
            os.write(2, line + b"\n")
        elif text := _brief(line.decode("utf-8", "replace")):
            words.append(text)


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:  # a full disk says nothing of the picture
        raise write_failed(Path(TEMPORARY, "a temporary file"), error) from None


def _brief(text: str) -> str:
    return " ".join(text.split())[:80]


def from_pillow(image: Image.Image) -> Picture:
    """Take the pixels of an image that Pillow holds, as they stand: orientation and profile in its `info` are left.

    Raises:
        AirpipeError: pixels of another kind, more than `MAX_PIXELS`, none, or a file behind it that does not decode.
    """
    _refuse_unsuitable("the Pillow image", image)
    if 0 in image.size:
        raise AirpipeError(f"a Pillow image of {image.width}x{image.height} pixels. Expected 1 or more of both")
    try:
        bare = image.copy()
    except DECODER_ERRORS as error:
        raise AirpipeError(f"a Pillow image that does not decode ({str(error)[:80]}). Open its file again") from None
    bare.info = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    if bare.mode.startswith("I;16"):
        return Picture(np.repeat(np.asarray(bare, np.uint16)[..., None], 3, axis=2), grey=True)
    return _eight_bit(bare)


def to_pillow(picture: Picture, info: Mapping[Any, Any]) -> Image.Image:
    """Make an image that Pillow holds: L, LA, RGB, RGBA, or I;16 for grey of 16 bit.

    Args:
        picture: uint8, or grey uint16.
        info: what it gets as `info`; transparency is left out, for it is in the pixels.
    """
    pixels: Any = picture.pixels[..., :1] if picture.grey else picture.pixels
    if picture.alpha is not None:
        pixels = np.dstack([pixels, picture.alpha])
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    image.info = {name: value for name, value in info.items() if name != "transparency"}
    return image


def _refuse_unsuitable(path: Path | str, image: Image.Image) -> None:
    """Judge by the header, before anything is decoded."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # many phones' JPEGs: the photo first, then a thumbnail
        raise AirpipeError(f"{path}: has {frames} frames. Save the wanted one as a still image")
    if image.width * image.height > MAX_PIXELS:
        raise AirpipeError(
            f"{path}: {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}. Cut it into parts first"
        )
    if image.mode not in MODES:
        raise AirpipeError(
            f"{path}: pixels of kind {image.mode!r} (floating point, 32 bit or another colour space). "
            "Expected grey, RGB, palette or CMYK of 8 or 16 bit: convert it first"
        )


def _raw_mode(image: Image.Image) -> str:
    """Layout in the file, as Pillow's decoder names it: "RGB;16B", "L", ... ("" when unknown)."""
    if 16 in getattr(image, "tag_v2", {}).get(TIFF_BITS_PER_SAMPLE, ()) and image.mode in ("RGB", "RGBA"):
        return f"{image.mode};16"  # separate planes do not tell
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _eight_bit(image: Image.Image) -> Picture:
    facts, image = _facts(image), _turned(image)
    grey = image.mode in ("1", "L", "LA")
    icc = _fitting_profile(image, grey)
    transparent = image.has_transparency_data
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    alpha = np.empty(pixels.shape[:2], np.uint8) if transparent else None
    for top in range(0, image.height, BAND):
        bottom = min(top + BAND, image.height)
        part, mode = image.crop((0, top, image.width, bottom)), "RGBA" if transparent else "RGB"
        band = np.asarray(part if part.mode == mode else part.convert(mode))
        pixels[top:bottom] = band[..., :3]
        if alpha is not None:
            alpha[top:bottom] = band[..., 3]
    return Picture(pixels, alpha, grey, icc, facts)


def _orientation(image: Image.Image) -> int:
    found = image.getexif().get(exif.ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _turned(image: Image.Image) -> Image.Image:
    """The image upright, as viewers show it."""
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _facts(image: Image.Image) -> bytes | None:
    """The EXIF block, for upright pixels; None when there is none that can be read."""
    block = image.info.get("exif")
    turned = _orientation(image) >= 5  # from 5 on, an orientation exchanges width and height
    try:
        if block is None and image.format == "TIFF":
            block = exif.from_tiff(image.getexif())
            turned = getattr(image, "tag_v2", {}).get(TIFF_WIDTH) != image.width  # Pillow turns TIFFs by itself
        elif block is None and "Raw profile type exif" in image.info:  # PNG before 2017
            block = image.getexif().tobytes()
    except DECODER_ERRORS:
        return None  # the picture is whole, only its notes are not
    return exif.upright(block, turned) if block else None


def _fitting_profile(image: Image.Image, grey: bool) -> bytes | None:
    """The colour profile, if it describes what we hold (a CMYK profile does not)."""
    icc: bytes | None = image.info.get("icc_profile")
    # bytes 16 to 19 of a profile name its colour space
    return icc if icc and icc[16:20] == (b"GRAY" if grey else b"RGB ") else None


def _sixteen_bit(path: Path, image: Image.Image, raw_mode: str) -> Picture:
    """Decode 16 bits a channel; Pillow has them for grey only, and is the check for colour."""
    shallow, facts = _turned(image), _facts(image)
    grey = raw_mode.startswith(("I;16", "L"))
    icc = _fitting_profile(image, grey)
    if shallow.mode.startswith("I;16"):
        return Picture(np.repeat(np.asarray(shallow, np.uint16)[..., None], 3, axis=2), None, True, icc, facts)
    raw: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if image.format == "PNG" and raw is not None:  # OpenCV turns TIFF upright by itself
        raw = _upright(raw, _orientation(image))
    if raw is None or raw.dtype != np.uint16 or not _same_high_bytes(raw, np.asarray(shallow)):
        raise AirpipeError(f"{path}: a 16-bit layout that cannot be read. Save it as an ordinary 16-bit .png")
    rgb = np.ascontiguousarray(raw[..., 2::-1])  # OpenCV has blue first
    return Picture(rgb, np.ascontiguousarray(raw[..., 3]) if raw.shape[2] == 4 else None, grey, icc, facts)


def _same_high_bytes(raw: Pixels, shallow: Pixels) -> bool:
    """Whether OpenCV's BGR(A) of 16 bit and Pillow's RGB(A) of 8 bit show the same picture."""
    if raw.ndim != 3 or raw.shape[:2] != shallow.shape[:2]:
        return False
    high = (raw[..., 2::-1] >> 8).astype(np.int16)
    return bool(np.abs(high - shallow[..., :3].astype(np.int16)).max(initial=0) <= 1)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (1 to 8), as `ImageOps.exif_transpose` does for 8 bit."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def read_rgb8(path: Path) -> npt.NDArray[np.uint8]:
    """Decode a file that `read_picture` has accepted before, fast: uint8 (H, W, 3) RGB, upright.

    Raises:
        AirpipeError: the file is gone or does not decode.
    """
    try:
        data = np.fromfile(path, np.uint8)
        if data[:4].tobytes() in (b"II*\0", b"MM\0*"):  # OpenCV multiplies a TIFF's colours by its alpha
            return _as_eight_bit(read_picture(path).pixels)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    except OSError as error:
        raise AirpipeError(f"{path}: cannot be read ({error.strerror}). {CHECK_AGAIN}") from None
    except cv2.error as error:
        raise AirpipeError(f"{path}: corrupt image ({error.err}). {CHECK_AGAIN}") from None
    if pixels is None:
        raise AirpipeError(f"{path}: corrupt image. {CHECK_AGAIN}")
    return np.asarray(pixels, np.uint8)


def glance(path: Path) -> tuple[int, int, bool]:
    """Read height, width (without EXIF's turn) and whether there is one channel from the header of an image file.

    Raises:
        AirpipeError: the file is gone or no image.
    """
    try:
        with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
            return image.height, image.width, image.mode in ("1", "L", "LA", "I;16", "I;16B")
    except (*DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise AirpipeError(f"{path}: cannot be read ({error}). {CHECK_AGAIN}") from None


def _as_eight_bit(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """The high byte, as both decoders cut 16 bit."""
    return np.asarray(pixels if pixels.dtype == np.uint8 else pixels >> 8, np.uint8)


def why_not(path: Path, picture: Picture) -> str | None:
    """Say why a file of this suffix cannot hold the picture's depth, alpha or size; None if it can."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        return f"{path}: cannot write {suffix or 'a file without suffix'}. Use one of {', '.join(SUFFIXES)}"
    height, width = picture.pixels.shape[:2]
    if max(height, width) > LARGEST_SIDE.get(suffix, max(height, width)):
        return f"{path}: {width}x{height} pixels are too many for {suffix}. Write .png instead"
    if picture.pixels.dtype == np.uint16 and suffix not in (".png", ".tif", ".tiff"):
        return f"{path}: {suffix} cannot hold 16 bit. Write .png instead"
    if picture.alpha is not None and suffix not in (".png", ".tif", ".tiff", ".webp"):
        return f"{path}: {suffix} cannot hold transparency. Write .png instead"
    return None


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture in the format of its suffix: depth, grey, alpha, profile and EXIF as they were read.

    JPEG and WebP are written at quality 95, WebP with alpha without loss. BMP holds neither profile nor EXIF, a
    JPEG no EXIF above 65,527 bytes: it is left out. XMP and IPTC are not carried over.

    Raises:
        AirpipeError: the suffix cannot hold the picture (16 bit or alpha in a JPEG), the encoder fails, or the
            disk is full.
    """
    if reason := why_not(path, picture):
        raise AirpipeError(reason)
    try:
        with atomic_path(path) as temporary:
            if picture.pixels.dtype == np.uint8:
                _write_eight_bit(temporary, picture)
            elif path.suffix.lower() == ".png":
                _write_deep_png(temporary, picture)
            else:
                _write_deep_tiff(temporary, picture)
    except (*DECODER_ERRORS, RuntimeError) as error:
        raise AirpipeError(f"{path}: cannot be encoded ({error}). Nothing was written. Use another suffix") from None


def _write_eight_bit(path: Path, picture: Picture) -> None:
    layers = [picture.pixels[..., :1] if picture.grey else picture.pixels]
    if picture.alpha is not None:
        layers.append(picture.alpha[..., None])
    pixels = np.concatenate(layers, axis=2) if len(layers) > 1 else layers[0]
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    suffix = path.suffix.lower()
    options: dict[str, Any] = {"quality": 95} if suffix in (".jpg", ".jpeg", ".webp") else {}
    if suffix in (".jpg", ".jpeg"):
        options["subsampling"] = 0  # 4:4:4: colours keep their resolution
    if suffix == ".webp":
        options |= {"exact": True, "lossless": picture.alpha is not None}  # exact: invisible pixels keep their colour
    too_long = suffix in (".jpg", ".jpeg") and len(picture.exif or b"") > LARGEST_EXIF_IN_JPEG
    if picture.exif is not None and not too_long:
        options["exif"] = exif.PREFIX + picture.exif
    image.save(path, icc_profile=picture.icc, **options)


def _write_deep_png(path: Path, picture: Picture) -> None:
    """16-bit PNG; grey with alpha becomes RGB with alpha, which is what OpenCV can write."""
    pixels: Any = picture.pixels[..., ::-1]
    icc = picture.icc
    if picture.alpha is not None:
        pixels = np.dstack([pixels, picture.alpha])
        icc = None if picture.grey else icc  # a grey profile does not describe RGB
    elif picture.grey:
        pixels = picture.pixels[..., 0]
    # OpenCV writes neither profile nor EXIF: their chunks are put in between
    encoded = cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes()
    header, rest = encoded[:33], encoded[33:]  # signature and IHDR; the profile must follow
    extra = _png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc)) if icc else b""
    extra += _png_chunk(b"eXIf", picture.exif) if picture.exif else b""
    path.write_bytes(header + extra + rest)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _write_deep_tiff(path: Path, picture: Picture) -> None:
    from tifffile import imwrite  # here, because few runs write a TIFF of 16 bit

    pixels: Any = picture.pixels
    alpha = picture.alpha is not None
    if picture.alpha is not None:
        pixels = np.dstack([pixels, picture.alpha])
    elif picture.grey:
        pixels = pixels[..., 0]
    imwrite(
        path,
        np.ascontiguousarray(pixels),
        photometric="rgb" if pixels.ndim == 3 else "minisblack",
        extrasamples=["unassalpha"] if alpha else None,
        iccprofile=None if alpha and picture.grey else picture.icc,
        compression="zlib",
        **exif.tiff_options(picture.exif),
    )
    if picture.exif:
        exif.append_to_tiff(path, picture.exif)


def centre_crop(pixels: Pixels, multiple: int, what: str = "a picture") -> Pixels:
    """Cut height and width to multiples: floor of half the excess at the start, the rest at the end.

    Args:
        pixels: (H, W, 3).
        multiple: number of pixels.
        what: the picture, for messages.

    Raises:
        AirpipeError: the picture is smaller than the multiple, so that nothing would be left.

    Source: the crop rule of AirNet, PromptIR, DyNet and DSRIR test code.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < multiple:
        raise AirpipeError(
            f"{what}: {width}x{height} pixels are nothing after cuts to multiples of {multiple}. Leave it out"
        )
    top, left = (height % multiple) // 2, (width % multiple) // 2
    return pixels[top : top + height - height % multiple, left : left + width - width % multiple]
