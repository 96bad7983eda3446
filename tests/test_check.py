"""Every kind of file that a data set may hold is either read rightly or refused with one clear line."""

import errno
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import ROOT, toy_images
from PIL import Image

from airpipe.data.check import check_packages, check_split, summary
from airpipe.data.likeness import likeness
from airpipe.data.manifest import FileFacts, Journal, describe, read_manifest, write_manifest
from airpipe.errors import AirpipeError
from airpipe.images import decoder_words, read_picture, read_rgb8
from airpipe.settings.datasets import PackageFile, SplitSettings


def picture(seed=0, size=(20, 30)):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def encoded(suffix, **options):
    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix), **options)
    return stream.getvalue()


def check(folder, **split):
    return check_split("d.train", SplitSettings(**{"clean": "*", **split}), str(folder))


# Files that cannot be used


def truncated(path):
    path.write_bytes(encoded("png")[:300])


def empty(path):
    path.touch()


def text(path):
    path.write_text("<html>quota exceeded</html>")


def broken_middle(path):
    data = bytearray(encoded("png"))
    data[100:140] = bytes(40)
    path.write_bytes(bytes(data))


def animated(path):
    frames = [Image.fromarray(picture(seed)) for seed in range(3)]
    frames[0].save(path, format="PNG", save_all=True, append_images=frames[1:])


def floating_point(path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(path, format="TIFF")


def lying_size(path):
    data = bytearray(encoded("png"))
    data[16:24] = (100_000).to_bytes(4) * 2  # a header that claims 10 gigapixels
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    path.write_bytes(bytes(data))


def folder_link(path):
    path.symlink_to("nothing-here.png")


def fifo(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (truncated, "corrupt or truncated image"),
        (empty, "not an image that can be read"),
        (text, "not an image that can be read"),
        (broken_middle, "corrupt or truncated image"),
        (animated, "has 3 frames. Save the wanted one as a still image"),
        (floating_point, "pixels of kind 'F'"),
        (lying_size, "100000x100000 pixels, more than 400,000,000"),
        (folder_link, "a broken link, to nothing-here.png. Fetch what it stands for"),
        (fifo, "not a regular file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_reason(tmp_path, make, reason):
    toy_images(tmp_path, 2)
    make(tmp_path / "bad.png")
    with pytest.raises(AirpipeError, match=r"d.train, 3 files: 1 problems\n  (.|\n)*bad.png") as caught:
        check(tmp_path)
    assert reason in str(caught.value)
    assert "name them in `leave_out`" in str(caught.value)
    assert check(tmp_path, leave_out=["bad*"]).facts["pairs"] == 2


def test_a_full_disk_for_temporary_files_is_no_fault_of_a_file(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.png").write_bytes(encoded("png"))
    monkeypatch.setattr("airpipe.images.tempfile.TemporaryFile", full)
    with pytest.raises(AirpipeError, match=r"a temporary file: cannot be written \(No space left on device\)"):
        describe(("a.png", str(tmp_path / "a.png")))


def test_a_long_name_is_refused_and_one_that_restored_images_can_carry_is_not(tmp_path):
    Image.fromarray(picture()).save(tmp_path / ("x" * 196 + ".png"))
    assert check(tmp_path).facts["pairs"] == 1
    Image.fromarray(picture()).save(tmp_path / ("y" * 240 + ".png"))
    with pytest.raises(AirpipeError, match="the name is longer than 200 bytes. Rename the file"):
        check(tmp_path)


def test_twelve_bad_files_are_counted_and_ten_shown(tmp_path):
    toy_images(tmp_path, 2)
    for number in range(12):
        (tmp_path / f"z{number:02}.png").touch()
    with pytest.raises(AirpipeError, match=r"14 files: 12 problems(.|\n)*z09.png(.|\n)*and 2 more") as caught:
        check(tmp_path)
    assert "z10.png" not in str(caught.value)


def test_a_missing_folder_says_where_to_put_the_files(tmp_path):
    with pytest.raises(AirpipeError, match=r"nowhere is not a folder. Put the files there, or set datasets.d.root"):
        check(tmp_path / "nowhere")


def test_sizes_that_differ_within_a_pair_are_named(tmp_path):
    toy_images(tmp_path / "t", 2)
    toy_images(tmp_path / "i", 2)
    toy_images(tmp_path / "i", 1, size=(40, 56))
    with pytest.raises(AirpipeError, match=r"i/img0.png is 56x40, t/img0.png is 56x48 \(crop: none\)"):
        check(tmp_path, clean="t/*", degraded="i/*")
    assert check(tmp_path, clean="t/*", degraded="i/*", crop="top_left").facts["pairs"] == 2


# Files of unusual kinds


def sixteen_bit(path):
    cv2.imwrite(str(path), picture()[..., ::-1].astype(np.uint16) * 257)


def grey(path):
    Image.fromarray(picture()).convert("L").save(path)


def alpha(path):
    Image.fromarray(np.dstack([picture(), np.full((20, 30), 128, np.uint8)])).save(path)


def palette(path):
    Image.fromarray(picture()).quantize(16).save(path)


def cmyk(path):
    Image.fromarray(picture()).convert("CMYK").save(path, format="JPEG", quality=95)


def turned(path):
    image = Image.fromarray(picture())
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, format="JPEG", exif=exif)


def jpeg_inside(path):
    path.write_bytes(encoded("jpg"))


@pytest.mark.parametrize(
    ("make", "size", "note"),
    [
        (sixteen_bit, (30, 20), "1 files are 16 bit: cut to 8 bit"),
        (grey, (30, 20), "1 files are grey: made RGB"),
        (alpha, (30, 20), "1 files are with alpha: alpha is ignored"),
        (palette, (30, 20), None),
        (cmyk, (30, 20), "1 files are .jpg inside .png: read by content"),
        (turned, (20, 30), "1 files are .jpg inside .png: read by content"),
        (jpeg_inside, (30, 20), "1 files are .jpg inside .png: read by content"),
    ],
)
def test_unusual_files_are_read_noted_and_trained_on_as_they_were_checked(tmp_path, make, size, note):
    make(tmp_path / "odd.png")
    checked = check(tmp_path)
    assert (checked.files[0].width, checked.files[0].height) == size
    assert checked.facts["notes"] == ([] if note is None else [note])
    pixels = read_rgb8(tmp_path / "odd.png")
    assert pixels.shape == (size[1], size[0], 3)
    exact = read_picture(tmp_path / "odd.png").pixels
    exact = exact >> 8 if exact.dtype == np.uint16 else exact
    assert np.abs(pixels.astype(int) - exact.astype(int)).max() <= (8 if make is cmyk else 2)


def test_an_image_of_50000_pixels_width_is_checked(tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((2, 50_000, 3), np.uint8))
    assert check(tmp_path).facts["sizes"] == {"50000x2": 1}


# What a check says


def test_versions_are_told_by_size_and_mixtures_noted(tmp_path):
    sizes = {"a": ["56x48"], "b": ["55x47"]}
    toy_images(tmp_path, 3)
    assert check(tmp_path, sizes=sizes).facts["version"] == "a"
    toy_images(tmp_path, 1, size=(47, 55))
    mixed = check(tmp_path, sizes=sizes).facts
    assert (mixed["version"], mixed["sizes"]) == ("mixed", {"56x48": 2, "55x47": 1})
    assert mixed["notes"] == ["sizes 56x48, 55x47 are of no one version (a, b); scores compare with no other copy"]
    toy_images(tmp_path, 1, size=(40, 40))
    assert check(tmp_path, sizes=sizes).facts["version"] == "unknown"


def test_the_mean_input_psnr_is_that_of_the_pairs_and_another_copy_is_noted(tmp_path):
    clean, noisy = tmp_path / "t", tmp_path / "i"
    for folder in (clean, noisy):
        toy_images(folder, 3)
    expected = []
    for number, path in enumerate(sorted(noisy.iterdir())):
        image = cv2.imread(str(path)).astype(int)
        changed = np.clip(image + 3 * number + 1, 0, 255).astype(np.uint8)
        cv2.imwrite(str(path), changed)
        expected.append(10 * np.log10(255**2 / np.mean((changed - image) ** 2.0)))
    facts = check(tmp_path, clean="t/*", degraded="i/*", input_psnr=20).facts
    assert facts["input_psnr"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert facts["notes"][0].startswith(f"mean input PSNR is {np.mean(expected):.3f} dB, 20.000 expected")
    assert likeness((str(noisy / "img0.png"), str(clean / "img0.png"), "none", "x")).psnr == pytest.approx(expected[0])
    assert f"mean input PSNR {np.mean(expected):.3f} dB over 3 pairs" in summary(facts)


def test_an_embedded_photo_with_another_checksum_or_missing_is_refused():
    good = {"name": "a.png", "package": "skimage", "path": "data/astronaut.png", "split": "test", "group": "a"}
    other = PackageFile(**good, sha256="0" * 64)
    with pytest.raises(AirpipeError, match="sha256 is not the listed 000000000000"):
        check_packages("photos.test", [other])
    gone = PackageFile(**{**good, "path": "data/no.png"}, sha256="0" * 64)
    with pytest.raises(AirpipeError, match="ships no such file"):
        check_packages("photos.test", [gone])


# Manifests


def test_a_manifest_with_the_same_content_keeps_its_time(tmp_path):
    toy_images(tmp_path / "d", 3)
    target = tmp_path / "d.train.csv"
    assert write_manifest(target, check(tmp_path / "d").files)
    os.utime(target, (1_000_000, 1_000_000))
    (tmp_path / "d" / "img1.png").touch()
    assert not write_manifest(target, check(tmp_path / "d").files)
    assert target.stat().st_mtime == 1_000_000
    toy_images(tmp_path / "d", 1, size=(40, 40))
    assert write_manifest(target, check(tmp_path / "d").files)
    assert target.stat().st_mtime > 1_000_000
    assert [(f.path, f.width, f.height) for f in read_manifest(target)][0] == ("img0.png", 40, 40)


def test_something_else_is_not_read_as_a_manifest(tmp_path):
    (tmp_path / "m.csv").write_text("path,bytes\na.png,12\n")
    with pytest.raises(AirpipeError, match="not a manifest"):
        read_manifest(tmp_path / "m.csv")


def test_a_journal_spares_the_files_that_were_read_and_have_not_changed(tmp_path):
    paths = toy_images(tmp_path / "d", 3)
    tasks = [(path.name, str(path)) for path in paths]
    path = tmp_path / ".d.partial"
    first = Journal(path).describe(tasks, 1, "checking")
    with path.open("a") as stream:
        stream.write("12.5,img9.png,77")  # killed while writing
    toy_images(tmp_path / "d", 1, size=(40, 40))
    again = Journal(path)
    assert [again.known(*task) is not None for task in tasks] == [False, True, True]
    second = again.describe(tasks, 1, "checking")
    assert second[1:] == first[1:]
    assert (second[0].width, second[0].height) == (40, 40)
    again.close()
    assert not path.exists()


@pytest.mark.parametrize("damage", [b"1.2,a\xff.png,1\n", b"a,img9.png,x,y,z,1,,.\n", b"\0\0\0", b'"'])
def test_a_damaged_journal_is_read_as_far_as_it_goes(tmp_path, damage):
    paths = toy_images(tmp_path / "d", 2)
    tasks = [(path.name, str(path)) for path in paths]
    path = tmp_path / ".d.partial"
    first = Journal(path).describe(tasks, 1, "checking")
    with path.open("ab") as stream:
        stream.write(damage)
    again = Journal(path)
    assert again.known(*tasks[0]) is not None
    assert again.describe(tasks, 1, "checking") == first


def test_a_full_disk_under_the_journal_is_one_clear_error(tmp_path):
    paths = toy_images(tmp_path, 2)
    with pytest.raises(AirpipeError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        Journal(Path("/dev/full")).describe([(path.name, str(path)) for path in paths], 1, "checking")


def test_a_check_killed_half_way_ends_with_the_same_manifest(tmp_path):
    toy_images(tmp_path / "d", 300, size=(200, 300))
    entry = tmp_path / "entry.yaml"
    entry.write_text(json.dumps({"title": "", "splits": {"train": {"clean": "*"}}}))
    manifest = tmp_path / "d.train.csv"
    command = [sys.executable, str(ROOT / "scripts/check_dataset.py"), "d.train", "--entry", str(entry)]
    command += ["--root", str(tmp_path / "d"), "--output", str(manifest)]
    journal = tmp_path / ".d.train.csv.partial"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") > 20):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not manifest.exists()
    kept = journal.read_text().count("\n")
    assert 20 < kept < 300
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert not journal.exists()
    clean = [describe((f"img{n}.png", str(tmp_path / "d" / f"img{n}.png"))) for n in range(300)]
    assert sorted(read_manifest(manifest), key=lambda f: f.path) == sorted(clean, key=lambda f: f.path)


# Fuzz


def mutations(count):
    """Valid files of several formats with bytes flipped, cut out, doubled or put in, from one seed."""
    generator = random.Random(0)
    valid = [encoded("png"), encoded("jpg", quality=90), encoded("tif"), encoded("bmp"), encoded("webp")]
    valid += [encoded("tif", compression="tiff_lzw"), encoded("jpg", progressive=True), encoded("png", optimize=True)]
    for _ in range(count):
        data = bytearray(generator.choice(valid))
        for _ in range(generator.randint(1, 6)):
            place = generator.randrange(len(data))
            length = generator.choice([1, 1, 2, 4, 16, 64])
            kind = generator.randrange(4)
            if kind == 0:
                data[place : place + length] = generator.randbytes(len(data[place : place + length]))
            elif kind == 1:
                del data[place : place + length]
            elif kind == 2:
                data[place:place] = generator.randbytes(length)
            else:
                del data[max(1, place) :]
        yield bytes(data), generator.choice([".png", ".jpg", ".tif", ".bmp", ".webp"])


@pytest.mark.filterwarnings("ignore:Tag data larger than file", "ignore:Corrupt EXIF data")
def test_a_thousand_damaged_files_are_read_or_refused_within_seconds(tmp_path):
    def too_long(*_):
        raise TimeoutError("a damaged file took more than 10 s")

    previous = signal.signal(signal.SIGALRM, too_long)
    refused = 0
    try:
        for number, (data, suffix) in enumerate(mutations(1000)):
            path = tmp_path / f"{number}{suffix}"
            path.write_bytes(data)
            signal.alarm(10)
            facts = describe((path.name, str(path)))
            if isinstance(facts, FileFacts):
                assert read_rgb8(path).shape == (facts.height, facts.width, 3)
            else:
                assert path.name in facts
                refused += 1
            path.unlink()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert list(tmp_path.iterdir()) == []
    assert 300 < refused < 1000


# What decoders say


def spoiled(path, kind):
    """A file that decodes, and of which a decoder has something to say."""
    if kind == "jpg":
        data = encoded("jpg")
        data = data[:-2] + b"\x12" * 40 + data[-2:]
    else:
        data = encoded("png")
        profile = b"iCCPicc\0\0" + zlib.compress(b"x" * 200)
        data = data[:33] + (len(profile) - 4).to_bytes(4) + profile + zlib.crc32(profile).to_bytes(4) + data[33:]
    path.write_bytes(data)


def test_what_decoders_say_of_a_file_is_noted_with_its_name_and_printed_nowhere(tmp_path, capfd):
    toy_images(tmp_path, 2)
    for kind in ("jpg", "png"):
        spoiled(tmp_path / f"odd.{kind}", kind)
    note = check(tmp_path, leave_out=["odd.png"]).facts["notes"][-1]
    assert re.fullmatch(r"decoders warn of 1 files, look at them \(first: odd.jpg: Corrupt JPEG data: .* 0xd9\)", note)
    note = check(tmp_path, leave_out=["odd.jpg"]).facts["notes"][-1]
    assert note == "decoders warn of 1 files, look at them (first: odd.png: libpng warning: iCCP: too short)"
    assert capfd.readouterr().err == ""


def test_words_of_decoders_are_kept_apart_from_a_progress_bar_and_from_errors(capfd):
    with pytest.raises(ZeroDivisionError), decoder_words() as words:
        os.write(2, b"\x1b[2K\rbar 1/2\nlibpng warning: odd\n")
        warnings.warn("Truncated  File\nRead", stacklevel=1)
        raise ZeroDivisionError
    assert words == ["Truncated File Read"]
    with decoder_words() as words:
        os.write(2, b"\x1b[2K\rbar 1/2\nlibpng warning: odd\n")
        warnings.warn("Truncated  File\nRead", stacklevel=1)
    assert words == ["Truncated File Read", "libpng warning: odd"]
    os.write(2, b"back\n")
    assert capfd.readouterr().err.endswith("bar 1/2\nback\n")


def test_the_journal_keeps_what_decoders_said(tmp_path):
    spoiled(tmp_path / "odd.png", "png")
    for _ in range(2):
        journal = Journal(tmp_path / "j")
        (facts,) = journal.describe([("odd.png", str(tmp_path / "odd.png"))], 1, "x")
        assert facts.said == "libpng warning: iCCP: too short"
