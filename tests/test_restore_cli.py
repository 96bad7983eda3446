"""`airpipe restore` for many photos: what is found, what is skipped, what is told."""

import os
import re
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import skimage.data
import torch

from airpipe.cli.main import main
from airpipe.cli.restore import find_photos
from airpipe.errors import AirpipeError
from airpipe.evaluation.origin import RECORD
from airpipe.evaluation.tiling import restore_pixels
from airpipe.images import Picture, read_picture, write_picture
from airpipe.registry import build_network
from airpipe.weights.checkpoints import save_model

SIZES = {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}

NETWORK = {"name": "nafnet", "arguments": SIZES}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    card = {"schema_version": 1, "network": {"name": "nafnet", "arguments": SIZES}}
    save_model(folder, build_network("nafnet", **SIZES), card)
    return str(folder)


@pytest.fixture
def album(tmp_path):
    """Three photos in two folders, and things that are none."""
    photo = np.ascontiguousarray(skimage.data.coffee()[100:148, 200:264])
    for name in ("b.jpg", "a.png", "sub/c.png", ".hidden/x.png", "old_restored.png"):
        write_picture(tmp_path / "album" / name, Picture(photo))
    (tmp_path / "album" / "notes.txt").write_text("x")
    return tmp_path / "album"


def names(photos):
    return [photo.path.name for photo in photos]


def tree(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != RECORD
    )


def test_folders_and_patterns_find_photos_once(album, monkeypatch):
    def found(*given, output=None):
        photos, problems = find_photos([str(name) for name in given], output)
        assert problems == []
        return names(photos)

    assert found(album) == ["a.png", "b.jpg", "c.png"]
    assert found(album / "*.png") == ["a.png"]
    assert found(album / "**" / "*.png") == ["a.png", "c.png"]
    assert found(album / "?.*", album / "a.png", album) == ["a.png", "b.jpg", "c.png"]
    assert found(album, output=album / "sub") == ["a.png", "b.jpg"]
    assert found(album / "old_restored.png", album / ".hidden" / "x.png") == ["old_restored.png", "x.png"]  # asked for
    monkeypatch.chdir(album)
    assert found("*.jpg") == ["b.jpg"]
    assert found(".") == ["a.png", "b.jpg", "c.png"]


def test_a_name_with_brackets_that_exists_is_no_pattern(album):
    odd = album / "odd [1].png"
    (album / "a.png").rename(odd)
    assert names(find_photos([str(odd)], None)[0]) == ["odd [1].png"]


def test_a_folder_keeps_its_structure_below_the_output(album, model, capsys):
    out = album.parent / "out"
    assert main(["restore", str(album), "-m", model, "-o", str(out)]) == 0
    assert tree(out) == ["a_restored.png", "b_restored.jpg", "sub/c_restored.png"]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_second_run_skips_what_is_done(album, model, capsys):
    out = album.parent / "out"
    words = ["restore", str(album), "-m", model, "-o", str(out)]
    assert main([*words]) == 0
    (out / "sub" / "c_restored.png").unlink()
    stamp = (out / "a_restored.png").stat().st_mtime_ns
    capsys.readouterr()
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["done already" in line for line in lines[:3]] == [True, True, False]
    assert lines[3:] == ["2 of 3 photos were done already"]
    assert (out / "a_restored.png").stat().st_mtime_ns == stamp
    assert main([*words, "--overwrite"]) == 0
    assert "done already" not in capsys.readouterr().out
    assert (out / "a_restored.png").stat().st_mtime_ns != stamp


def test_what_another_photo_model_or_option_made_is_neither_skipped_nor_replaced(album, model, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["restore", str(album), "-o", str(out)]
    torch.manual_seed(1)
    save_model(tmp_path / "other", build_network("nafnet", **SIZES), {"schema_version": 1, "network": NETWORK})
    other = str(tmp_path / "other")
    assert main([*words, "-m", model]) == 0
    stamps = {name: (out / name).stat().st_mtime_ns for name in tree(out)}
    for changed in (["-m", other], ["-m", model, "--self-ensemble"], ["-m", model, "--tile", "32", "--overlap", "8"]):
        capsys.readouterr()
        assert main([*words, *changed]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("exists, made from something else. Use --overwrite or another -o") == 3
    write_picture(album / "a.png", Picture(np.zeros((8, 8, 3), np.uint8)))
    os.utime(album / "a.png", ns=(0, 0))  # another photo, but older than the result
    later = (out / "b_restored.jpg").stat().st_mtime_ns + 10**9
    os.utime(album / "b.jpg", ns=(later, later))  # same bytes, but newer than the result
    assert main([*words, "-m", model]) == 2
    captured = capsys.readouterr()
    assert [captured.err.count(f"{name}: exists, made from") for name in ("a_restored.png", "b_restored.jpg")] == [1, 1]
    assert captured.out.count("done already ->") == 1
    assert stamps == {name: (out / name).stat().st_mtime_ns for name in tree(out)}
    (out / RECORD).write_text("{")
    assert main([*words, "-m", model]) == 2
    assert "Delete it, then use --overwrite" in capsys.readouterr().err


def test_folders_may_have_names_like_files(album, model, tmp_path):
    (album / "sub").rename(album / "trip.2024")
    write_picture(album / "set.png" / "d.png", Picture(np.zeros((8, 8, 3), np.uint8)))
    for out in (tmp_path / "out", tmp_path / "out.v2"):
        assert main(["restore", str(album), "-m", model, "-o", str(out)]) == 0
        expected = ["a_restored.png", "b_restored.jpg", "set.png/d_restored.png", "trip.2024/c_restored.png"]
        assert tree(out) == expected


@pytest.mark.parametrize("given", ["album", "album/*.jpg"])
def test_a_file_as_output_of_a_folder_is_refused(album, model, given, tmp_path, capsys):
    (tmp_path / "there").write_text("x")
    for out in ("res.png", "there"):
        assert main(["restore", str(tmp_path / given), "-m", model, "-o", str(tmp_path / out)]) == 2
        assert f"{out} is one file, but a folder, a pattern or several photos are given" in capsys.readouterr().err
    assert not (tmp_path / "res.png").exists()


def test_results_beside_the_photos_are_not_restored_again(album, model):
    for _ in range(2):
        assert main(["restore", str(album), "-m", model]) == 0
    assert not [name for name in tree(album) if "_restored_restored" in name]


def test_two_photos_of_one_name_are_told_in_every_run(album, model, capsys):
    write_picture(album / "other" / "a.png", Picture(np.zeros((8, 8, 3), np.uint8)))
    words = ["restore", str(album / "a.png"), str(album / "other" / "a.png"), "-m", model, "-o", str(album / "out")]
    for _ in range(2):
        assert main(words) == 2
        assert "of the same name" in capsys.readouterr().err
    assert read_picture(album / "out" / "a_restored.png").pixels.shape == (48, 64, 3)


def test_what_finds_no_photo_is_an_error_beside_the_others(album, model, capsys):
    (album / "empty").mkdir()
    words = ["restore", "-m", model, str(album / "empty"), str(album / "*.gif")]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.count("holds no image to restore") for line in captured.err.splitlines()] == [1, 1]
    assert main([*words, str(album / "a.png")]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert captured.err.splitlines()[-1] == "airpipe: error: 2 of 3 photos failed; the others are restored"


def test_a_pattern_that_is_none_is_told(model, capsys):
    assert main(["restore", "x/**.jpg", "-m", model]) == 2
    assert "not a pattern" in capsys.readouterr().err


def test_damaged_files_stop_nothing(album, model, capsys):
    (album / "bad.png").write_bytes((album / "a.png").read_bytes()[:500])
    assert main(["restore", str(album), "-m", model, "-o", str(album / "out")]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert "bad.png: corrupt or truncated" in captured.err
    assert "1 of 4 photos failed" in captured.err
    assert tree(album / "out") == ["a_restored.png", "b_restored.jpg", "sub/c_restored.png"]


@pytest.mark.parametrize(
    "words",
    [["--batch", "0"], ["--memory", "0"], ["--memory", "nan"], ["--memory", "many"], ["--memory", "1", "--tile", "64"]],
)
def test_senseless_options_are_refused(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["restore", "a.png", "-m", "x", *words])
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "full", [MemoryError("Unable to allocate 417. GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_photo_that_needs_too_much_memory_is_one_line_and_the_others_are_restored(
    full, tmp_path, model, monkeypatch, capsys
):
    write_picture(tmp_path / "a_strip.png", Picture(np.zeros((1, 200, 3), np.uint8)))
    write_picture(tmp_path / "b_good.png", Picture(np.zeros((12, 12, 3), np.uint8)))

    def hungry(network, pixels, **options):
        if pixels.shape[0] == 1:
            raise full
        return restore_pixels(network, pixels, **options)

    monkeypatch.setattr("airpipe.evaluation.restore.restore_pixels", hungry)
    assert main(["restore", str(tmp_path), "-m", model, "-o", str(tmp_path / "out")]) == 2
    strip, total = capsys.readouterr().err.splitlines()
    assert strip == (
        f"airpipe: error: {tmp_path / 'a_strip.png'}: 200x1 pixels need more memory than there is. "
        "Use a smaller --tile, or cut the picture into parts"
    )
    assert total.startswith("airpipe: error: 1 of 2 photos failed")
    assert tree(tmp_path / "out") == ["b_good_restored.png"]


def test_a_photo_that_cannot_be_decoded_for_lack_of_memory_is_not_called_corrupt(tmp_path, monkeypatch):
    write_picture(tmp_path / "a.png", Picture(np.zeros((4, 4, 3), np.uint8)))

    def full(image):
        raise MemoryError

    monkeypatch.setattr("airpipe.images._eight_bit", full)
    with pytest.raises(AirpipeError, match=r"a.png: there is too little memory to decode it"):
        read_picture(tmp_path / "a.png")


def test_memory_batch_and_ensemble_are_taken(album, model, capsys):
    words = ["restore", str(album / "a.png"), "-m", model, "--device", "cpu", "-o", str(album / "out")]
    assert main([*words, "--memory", "1"]) == 0
    assert "1 tile of 64x48" in capsys.readouterr().out
    small = ["--memory", "0.0007", "--overlap", "4", "--batch", "2", "--self-ensemble", "--overwrite"]
    assert main([*words, *small]) == 0
    assert re.search(r"[2-9]\d* tiles of ", capsys.readouterr().out)


def restore_in_process(*words):
    command = [sys.executable, "-m", "airpipe.cli.main", "restore", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_killed_run_leaves_whole_files_and_is_continued(tmp_path, model):
    photo = skimage.data.coffee()[:200, :300]
    for number in range(4):
        write_picture(tmp_path / "in" / f"{number}.png", Picture(np.roll(photo, 20 * number, axis=1)))
    out = tmp_path / "out"
    words = [tmp_path / "in", "-m", model, "-o", out, "--tile", 64, "--overlap", 8, "--self-ensemble"]
    process = restore_in_process(*words)
    assert process.stdout.readline()  # the first is done; the second is being made
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("[0-9]*")}
    assert 1 <= len(done) < 4
    for name in done:
        assert read_picture(out / name).pixels.shape == photo.shape
    again = restore_in_process(*words)
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert output.count("done already ->") == len(done)
    assert output.splitlines()[-1] == f"{len(done)} of 4 photos were done already"
    assert [path.name for path in sorted(out.glob("[0-9]*"))] == [f"{number}_restored.png" for number in range(4)]
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in done.items())


def test_a_log_gets_plain_lines(album, model, monkeypatch, capsys):
    monkeypatch.setattr("airpipe.cli.restore.SECONDS", 0)
    words = ["restore", str(album / "a.png"), str(album / "sub" / "c.png"), "-m", model, "-o", str(album / "out")]
    assert main([*words, "--tile", "32", "--overlap", "8"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a.png (1 of 2): 1 of 6 tiles"
    assert lines[-1] == "c.png (2 of 2): 5 of 6 tiles"


def test_a_terminal_gets_bars_and_the_lines_go_where_they_should(album, model):
    pty = pytest.importorskip("pty")
    reader, terminal = pty.openpty()
    command = [sys.executable, "-m", "airpipe.cli.main", "restore", str(album), "-m", model, "-o", str(album / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, text=True, env=environment) as process:
        os.close(terminal)
        output, shown = process.stdout.read(), b""
        while True:
            try:
                shown += os.read(reader, 65536) or b""
            except OSError:  # the other end is closed
                break
    os.close(reader)
    assert process.returncode == 0
    assert len(output.splitlines()) == 3
    assert "\x1b" not in output
    assert b"photos" in shown
    assert b"/3" in shown


def test_the_peak_is_that_of_this_process_not_of_the_one_that_started_it(album, model):
    code = f"""
import subprocess, sys
waste = bytearray(1_500_000_000)
waste[::4096] = b"x" * len(waste[::4096])
words = {["restore", str(album / "a.png"), "-m", model]!r}
sys.exit(subprocess.run([sys.executable, "-m", "airpipe.cli.main", *words]).returncode)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(re.search(r"peak memory (\d+) MB", done.stdout)[1]) < 1200


def test_what_is_left_out_as_a_result_is_said(album, tmp_path, capsys):
    assert names(find_photos([str(album)], album / "sub")[0]) == ["a.png", "b.jpg"]
    said = f"{album}: 2 files are left out as results (*_restored, or below -o), the first {album}/old_restored.png"
    assert capsys.readouterr().err == f"{said}; name them to restore them again\n"
    find_photos([str(album / "a.png")], album / "sub")
    assert capsys.readouterr().err == ""


def test_where_all_photos_fail_none_is_said_to_be_restored(tmp_path, model, capsys):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    assert main(["restore", str(tmp_path), "-m", model]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "airpipe: error: 2 of 2 photos failed; none is restored"


def test_a_warning_of_a_decoder_carries_the_name_of_the_photo(tmp_path, model, capsys, monkeypatch):
    write_picture(tmp_path / "a.png", Picture(np.zeros((8, 8, 3), np.uint8)))

    def warns(path):
        warnings.warn("Truncated File Read", stacklevel=1)
        return read_picture(path)

    monkeypatch.setattr("airpipe.evaluation.restore.read_picture", warns)
    assert main(["restore", str(tmp_path), "-m", model]) == 0
    assert capsys.readouterr().err == f"{tmp_path / 'a.png'}: Truncated File Read\n"
