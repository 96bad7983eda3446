import struct
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import skimage.data
import tifffile
import torch
from PIL import Image, ImageCms

from airpipe.errors import AirpipeError
from airpipe.exif import upright
from airpipe.images import (
    Picture,
    centre_crop,
    read_picture,
    read_rgb8,
    why_not,
    write_picture,
)
from airpipe.pixels import to_pixels, to_tensor

ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
"""What a viewer does to the stored pixels, from the EXIF standard."""


@pytest.fixture(scope="module")
def photo():
    """uint8 (47, 62, 3), a piece of the astronaut with sides that are no multiples of anything."""
    return np.ascontiguousarray(skimage.data.astronaut()[40:87, 180:242])


@pytest.fixture(scope="module")
def deep(photo):
    """The same in 16 bit, low bytes in use."""
    noise = np.random.default_rng(0).integers(0, 256, photo.shape)
    return (photo.astype(np.uint16) << 8) + noise.astype(np.uint16)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, colour_type, extra=b""):
    """A PNG of a kind that no library here writes: pixels (H, W, C), 8 or 16 bit."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, pixels.itemsize * 8, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def assert_refused(path, *words):
    with pytest.raises(AirpipeError) as caught:
        read_picture(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_eight_bit_rgb_survives_writing_and_reading(tmp_path, photo, suffix):
    Image.fromarray(photo).save(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    picture = read_picture(tmp_path / f"a{suffix}")
    assert picture.pixels.dtype == np.uint8
    assert np.array_equal(picture.pixels, photo)
    assert (picture.alpha, picture.grey) == (None, False)
    assert np.array_equal(read_rgb8(tmp_path / f"a{suffix}"), photo)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("kind", ["rgb", "rgba", "grey", "grey_alpha"])
def test_sixteen_bit_survives_writing_and_reading(tmp_path, deep, suffix, kind):
    grey = kind.startswith("grey")
    pixels = np.repeat(deep[..., :1], 3, axis=2) if grey else deep
    given = Picture(pixels, deep[..., 1] if kind.endswith("a") else None, grey)
    write_picture(tmp_path / f"a{suffix}", given)
    picture = read_picture(tmp_path / f"a{suffix}")
    assert picture.pixels.dtype == np.uint16
    assert np.array_equal(picture.pixels, pixels)
    assert (picture.alpha is None) == (given.alpha is None)
    if given.alpha is not None:
        assert np.array_equal(picture.alpha, given.alpha)
    if kind == "grey":
        assert picture.grey


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_survives_writing_and_reading(tmp_path, photo, suffix):
    alpha = np.ascontiguousarray(photo[..., 0])
    alpha[:9] = 0
    write_picture(tmp_path / f"a{suffix}", Picture(photo, alpha))
    picture = read_picture(tmp_path / f"a{suffix}")
    assert np.array_equal(picture.alpha, alpha)
    assert np.array_equal(picture.pixels, photo)


def test_jpeg_written_at_quality_95_is_close(tmp_path):
    coffee = np.ascontiguousarray(skimage.data.coffee()[100:164, 200:300])
    write_picture(tmp_path / "a.jpg", Picture(coffee))
    assert np.abs(read_picture(tmp_path / "a.jpg").pixels.astype(int) - coffee).mean() < 2


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_files_repeat_their_channel_and_are_written_as_grey(tmp_path, photo, mode):
    image = Image.fromarray(photo).convert("L")
    if mode == "LA":
        image.putalpha(77)
    image.convert(mode).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.grey
    assert np.array_equal(picture.pixels[..., 0], np.asarray(image.convert(mode).convert("L")))
    assert np.ptp(picture.pixels, axis=2).max() == 0
    assert (picture.alpha is not None) == (mode == "LA")
    write_picture(tmp_path / "b.png", picture)
    with Image.open(tmp_path / "b.png") as written:
        assert written.mode == ("LA" if mode == "LA" else "L")


@pytest.mark.parametrize("transparent", [False, True])
def test_palette_files_become_rgb(tmp_path, photo, transparent):
    image = Image.fromarray(photo).quantize(16)
    image.save(tmp_path / "a.png", **({"transparency": 3} if transparent else {}))
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal(picture.pixels, np.asarray(image.convert("RGB")))
    assert not picture.grey
    if transparent:
        assert np.array_equal(picture.alpha == 0, np.asarray(image) == 3)
    else:
        assert picture.alpha is None


def test_cmyk_jpeg_becomes_rgb_without_its_profile(tmp_path, photo):
    image = Image.fromarray(photo).convert("CMYK")
    image.save(tmp_path / "a.jpg", quality=100, icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 108)
    picture = read_picture(tmp_path / "a.jpg")
    assert np.abs(picture.pixels.astype(int) - photo).mean() < 4
    assert picture.icc is None


def test_sixteen_bit_grey_with_alpha_keeps_both(tmp_path, deep):
    (tmp_path / "a.png").write_bytes(png(np.ascontiguousarray(deep[..., :2]), 4))
    picture = read_picture(tmp_path / "a.png")
    assert picture.grey
    assert np.array_equal(picture.pixels[..., 2], deep[..., 0])
    assert np.array_equal(picture.alpha, deep[..., 1])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_colour_profile_survives(tmp_path, photo, deep, suffix, bits):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_picture(tmp_path / f"a{suffix}", Picture(photo if bits == 8 else deep, icc=icc))
    assert read_picture(tmp_path / f"a{suffix}").icc == icc


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
def test_orientation_is_applied(tmp_path, photo, suffix, orientation):
    path = tmp_path / f"a{suffix}"
    lossless = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}
    Image.fromarray(photo).save(path, exif=exif(orientation), **lossless.get(suffix, {}))
    expected = ORIENTATIONS[orientation](photo).astype(int)
    tolerance = 6 if suffix == ".jpg" else 0
    for pixels in (read_picture(path).pixels, read_rgb8(path)):
        assert pixels.shape == expected.shape
        assert np.abs(pixels - expected).max() <= tolerance


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["png", "grey_png", "tif", "grey_tif"])
def test_sixteen_bit_orientation_agrees_with_eight_bit(tmp_path, deep, kind, orientation):
    pixels = deep[..., :1] if kind.startswith("grey") else deep
    path = tmp_path / f"a.{kind[-3:]}"
    if path.suffix == ".png":
        tags = chunk(b"eXIf", exif(orientation).tobytes().removeprefix(b"Exif\0\0"))
        path.write_bytes(png(pixels, 0 if kind.startswith("grey") else 2, tags))
    else:
        photometric = "minisblack" if kind.startswith("grey") else "rgb"
        extra = [(0x0112, "H", 1, orientation, True)]
        tifffile.imwrite(path, pixels.squeeze(), photometric=photometric, extratags=extra)
    expected = ORIENTATIONS[orientation](np.broadcast_to(pixels, deep.shape))
    assert np.array_equal(read_picture(path).pixels, expected)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["L", "RGBA"])
def test_orientation_of_uncompressed_tiff_is_applied(tmp_path, photo, kind, orientation):
    pixels = np.asarray(Image.fromarray(photo).convert(kind))
    tags = {"extratags": [(0x0112, "H", 1, orientation, True)]}
    if kind == "RGBA":
        pixels = np.dstack([photo, photo[..., 0]])
        tags["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack" if kind == "L" else "rgb", **tags)
    colours = pixels[..., None].repeat(3, 2) if kind == "L" else photo
    expected = ORIENTATIONS[orientation](colours)
    assert np.array_equal(read_picture(tmp_path / "a.tif").pixels, expected)
    assert np.array_equal(read_rgb8(tmp_path / "a.tif"), expected)


def test_sixteen_bit_layout_that_opencv_misreads_is_refused(tmp_path, deep):
    planes = np.ascontiguousarray(deep.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    assert_refused(tmp_path / "a.tif", "16-bit layout")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_truncated_files_are_refused(tmp_path, photo, suffix):
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(photo).save(whole)
    part = tmp_path / f"part{suffix}"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert_refused(part)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_never_raise_anything_else(tmp_path, photo, deep):
    random = np.random.default_rng(0)
    sources = [
        cv2.imencode(s, a)[1]
        for s in (".png", ".tif", ".jpg", ".webp")
        for a in (photo, deep)
        if s[1] in "pt" or a is photo
    ]
    for trial in range(120):
        damaged = sources[trial % len(sources)].copy()
        where = random.integers(0, min(len(damaged), 300 if trial % 2 else 10**6), 4)
        damaged[where] = random.integers(0, 256, 4)
        damaged.tofile(tmp_path / "a.png")
        for read in (read_picture, read_rgb8):
            try:
                read(tmp_path / "a.png")
            except AirpipeError as error:
                assert "a.png" in str(error)


def test_files_that_are_no_images_are_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture\n" * 100)
    (tmp_path / "page.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("empty.png", "text.png", "page.png"):
        assert_refused(tmp_path / name, "not an image")
    assert_refused(tmp_path / "missing.png", "no such image")
    assert_refused(tmp_path, "cannot be read")
    with pytest.raises(AirpipeError, match="corrupt image"):
        read_rgb8(tmp_path / "empty.png")
    with pytest.raises(AirpipeError, match="cannot be read"):
        read_rgb8(tmp_path / "missing.png")


def test_the_content_decides_not_the_name(tmp_path, photo, deep):
    Image.fromarray(photo).save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(read_picture(tmp_path / "a.jpg").pixels, photo)
    (tmp_path / "b.jpg").write_bytes(png(deep, 2))
    assert np.array_equal(read_picture(tmp_path / "b.jpg").pixels, deep)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_several_frames_are_refused(tmp_path, photo, suffix):
    second = Image.fromarray(255 - photo)
    Image.fromarray(photo).save(tmp_path / f"a{suffix}", save_all=True, append_images=[second])
    assert_refused(tmp_path / f"a{suffix}", "2 frames")


def test_a_still_gif_is_read(tmp_path, photo):
    image = Image.fromarray(photo).quantize(32)
    image.save(tmp_path / "a.gif")
    assert np.array_equal(read_picture(tmp_path / "a.gif").pixels, np.asarray(image.convert("RGB")))


def test_phone_jpeg_with_a_second_picture_is_its_first(tmp_path, photo):
    first = Image.fromarray(photo)
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(255 - photo)])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.n_frames == 2
    assert np.abs(read_picture(tmp_path / "a.jpg").pixels.astype(int) - photo).mean() < 10


@pytest.mark.parametrize("mode", ["F", "I"])
def test_depths_that_would_be_cut_are_refused(tmp_path, photo, mode):
    Image.fromarray(photo).convert("L").convert(mode).save(tmp_path / "a.tif")
    assert_refused(tmp_path / "a.tif", "8 or 16 bit")


def test_a_lying_header_claims_no_memory(tmp_path):
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )
    (tmp_path / "a.png").write_bytes(data)
    assert_refused(tmp_path / "a.png", "100000x100000")


def test_names_may_hold_any_letters(tmp_path, deep):
    path = tmp_path / "Übung 写真 ✓" / "naïve épreuve.png"
    write_picture(path, Picture(deep))
    assert np.array_equal(read_picture(path).pixels, deep)
    assert np.array_equal(read_rgb8(path), deep >> 8)


@pytest.mark.parametrize(("quality", "subsampling"), [(95, 0), (75, 2), (30, 2)])
def test_fast_reading_agrees_on_jpeg(tmp_path, quality, subsampling):
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "a.jpg", quality=quality, subsampling=subsampling)
    fast = read_rgb8(tmp_path / "a.jpg").astype(int)
    assert np.abs(fast - read_picture(tmp_path / "a.jpg").pixels).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_fast_reading_agrees_on_png(tmp_path, photo, mode):
    Image.fromarray(photo).convert(mode).save(tmp_path / "a.png")
    assert np.array_equal(read_rgb8(tmp_path / "a.png"), read_picture(tmp_path / "a.png").pixels)


def test_a_suffix_that_cannot_hold_the_picture_is_refused(tmp_path, photo, deep):
    for name, picture, word in (
        ("a.jpg", Picture(deep), "16 bit"),
        ("a.bmp", Picture(photo, photo[..., 0]), "transparency"),
        ("a.gif", Picture(photo), ".png"),
        ("a", Picture(photo), "without suffix"),
        ("a.webp", Picture(np.zeros((1, 16_384, 3), np.uint8)), "too many"),
    ):
        with pytest.raises(AirpipeError, match=word):
            write_picture(tmp_path / name, picture)
    assert list(tmp_path.iterdir()) == []
    assert why_not(tmp_path / "a.PNG", Picture(deep, deep[..., 0])) is None


@pytest.mark.parametrize("bits", [8, 16])
def test_every_level_survives_the_tensor(bits):
    levels = np.arange(2**bits, dtype=np.uint8 if bits == 8 else np.uint16)
    pixels = np.broadcast_to(
        levels.reshape(-1, 2**8 if bits == 16 else 16, 1),
        (*levels.reshape(-1, 256 if bits == 16 else 16).shape, 3),
    )
    tensor = to_tensor(pixels)
    assert tensor.dtype == torch.float32
    assert (float(tensor.min()), float(tensor.max())) == (0.0, 1.0)
    assert np.array_equal(to_pixels(tensor, bits), pixels)


def test_values_outside_the_range_are_clipped():
    image = torch.tensor([-0.5, 0.5, 1.7]).reshape(3, 1, 1)
    assert to_pixels(image).tolist() == [[[0, 128, 255]]]
    assert float(image[0]) == -0.5  # the input stays


def test_centre_crop_cuts_the_odd_pixel_at_the_end():
    rows, columns = np.mgrid[:13, :22]
    cut = centre_crop(np.dstack([rows, columns, rows]).astype(np.uint8), 8)
    assert cut.shape == (8, 16, 3)
    assert cut[0, 0].tolist() == [2, 3, 2]
    with pytest.raises(AirpipeError, match=r"mine.test, a.png: 22x13 pixels are nothing after cuts to multiples of 16"):
        centre_crop(np.zeros((13, 22, 3), np.uint8), 16, "mine.test, a.png")


def described(orientation=6):
    """A block with a camera, a time, a place, sizes, and the camera's own notes."""
    tags = exif(orientation)
    tags[0x010F], tags[0x0110], tags[0x0132] = "Maker", "Model X", "2020:01:02 03:04:05"
    tags[0x8769] = {0x829A: 0.01, 0xA002: 62, 0xA003: 47, 0x927C: b"own notes of the camera"}
    tags[0x8825] = {1: "N", 2: (48.0, 8.0, 1.5)}
    return tags.tobytes()


@pytest.mark.parametrize("target", ["a.jpg", "a.png", "a.webp", "a.tif", "deep.png", "deep.tif"])
@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif"])
def test_exif_survives_with_its_orientation_reset(tmp_path, photo, source, target):
    Image.fromarray(photo).save(tmp_path / f"in{source}", exif=described())
    picture = read_picture(tmp_path / f"in{source}")
    assert picture.pixels.shape == (62, 47, 3)
    if target.startswith("deep"):
        picture = replace(picture, pixels=picture.pixels.astype(np.uint16) * 257)
    write_picture(tmp_path / target, picture)
    assert np.array_equal(read_picture(tmp_path / target).pixels, picture.pixels) or target[2:] in ("jpg", "webp")
    with Image.open(tmp_path / target) as image:
        assert image.size == (47, 62)
        tags = image.getexif()
        assert tags.get(0x0112, 1) == 1
        assert (tags[0x010F], tags[0x0110], tags[0x0132]) == ("Maker", "Model X", "2020:01:02 03:04:05")
        below = tags.get_ifd(0x8769)
        assert (below[0x829A], below[0xA002], below[0xA003]) == (0.01, 47, 62)
        assert below[0x927C] == b"own notes of the camera"
        assert tags.get_ifd(0x8825)[2] == (48.0, 8.0, 1.5)
    again = read_picture(tmp_path / target)
    assert again.exif is not None
    assert again.pixels.shape == (62, 47, 3)


def test_a_block_is_edited_only_where_it_must_be(photo):
    data = described().removeprefix(b"Exif\0\0")
    changed = [place for place, (a, b) in enumerate(zip(data, upright(data), strict=True)) if a != b]
    assert len(changed) == 1  # the orientation
    assert 2 <= sum(a != b for a, b in zip(data, upright(data, turned=True), strict=True)) <= 5


def test_the_thumbnail_of_the_picture_before_is_cut_off():
    entry = struct.pack(">HHII", 0x0112, 3, 1, 6 << 16)
    first = struct.pack(">H", 1) + entry + struct.pack(">I", 100)  # the next directory: a thumbnail
    data = b"MM\0*" + struct.pack(">I", 8) + first
    assert upright(data) == b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", 1) + struct.pack(
        ">HHIHHI", 0x0112, 3, 1, 1, 0, 0
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("data", [b"", b"II*\0", b"XX*\0\x08\0\0\0", b"MM\0*\0\0\xff\xff", b"II*\0\x08\0\0\0\xff\xff"])
def test_a_damaged_block_is_dropped_and_the_picture_read(tmp_path, photo, data):
    assert upright(data) is None
    (tmp_path / "a.png").write_bytes(png(photo, 2, chunk(b"eXIf", data) if data else b""))
    try:
        assert np.array_equal(read_picture(tmp_path / "a.png").pixels, photo)
        assert read_picture(tmp_path / "a.png").exif is None
    except AirpipeError as error:  # Pillow refuses some
        assert "corrupt" in str(error)


@pytest.mark.parametrize("excess", [0, 1])
def test_a_jpeg_loses_a_block_that_it_cannot_hold_and_nothing_else(tmp_path, photo, excess):
    block = described(1).removeprefix(b"Exif\0\0")
    block += bytes(65_527 + excess - len(block))
    for name in ("a.jpg", "a.png"):
        write_picture(tmp_path / name, Picture(photo, exif=block))
    assert (read_picture(tmp_path / "a.jpg").exif is None) == (excess == 1)
    assert read_picture(tmp_path / "a.png").exif is not None


@pytest.mark.parametrize(("name", "depth"), [("a.tif", np.uint16), ("a.png", np.uint8)])
def test_what_an_encoder_refuses_is_one_message(tmp_path, photo, name, depth, monkeypatch):
    def fail(*_, **__):
        raise struct.error("argument out of range")

    monkeypatch.setattr(Image.Image, "save", fail)
    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(AirpipeError, match="cannot be encoded .argument out of range"):
        write_picture(tmp_path / name, Picture(photo.astype(depth)))
    assert list(tmp_path.iterdir()) == []


def test_random_damage_to_a_block_raises_nothing():
    random = np.random.default_rng(0)
    data = described().removeprefix(b"Exif\0\0")
    for _ in range(500):
        block = bytearray(data[: random.integers(1, len(data))] if random.random() < 0.3 else data)
        for place in random.integers(0, len(block), 3):
            block[place] = random.integers(0, 256)
        result = upright(bytes(block), turned=True)
        assert result is None or len(result) == len(block)


def test_pictures_without_exif_get_none(tmp_path, photo):
    for suffix in (".jpg", ".png", ".tif", ".bmp"):
        Image.fromarray(photo).save(tmp_path / f"a{suffix}")
        assert read_picture(tmp_path / f"a{suffix}").exif is None


def test_read_pixels_can_be_written_to(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").pixels.flags.writeable
