"""Packs hold the pixels of the files, survive kills, and are refused when damaged or when the disk is too small."""

import copy
import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import ROOT, one_thread, toy_images

from airpipe.data import packing
from airpipe.data.pack_contents import Contents, read_contents
from airpipe.data.packing import pack_pairs, tell_old_packs, write_header, write_index
from airpipe.data.packs import IMAGE, INDEX, NO_IMAGE, PAIR, Pack, usable_packs
from airpipe.data.pairs import read_pairs
from airpipe.data.sources import ImageCache, pair_layers
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.provenance import sha256_file

COLUMNS = ("degraded", "clean", "degradation", "level", "crop", "name", "group")
ENTRIES = 2_000_000


class Data:
    """A data set on disk: several hazy images share a clean one, of three crop rules and in three formats."""

    def __init__(self, folder: Path, images: int = 4) -> None:
        self.folder, self.root, self.packed = folder, folder / "data", folder / "packed"
        self.list, self.manifest = folder / "toy.train.csv", folder / "manifest.csv"
        rows = []
        for path in toy_images(self.root, images):
            clean = cv2.imread(str(path))
            rows.append(self.row("", path.name, "", path.stem))
            for crop, seen in (("none", clean), ("centre", clean[2:-2, 4:-4]), ("top_left", clean[:40, :50])):
                name = f"{path.stem}_{crop}.{'jpg' if crop == 'none' else 'bmp'}"
                cv2.imwrite(str(self.root / name), seen // 2)
                rows.append(self.row(name, path.name, crop, Path(name).stem))
        self.write(rows)
        self.describe()

    @staticmethod
    def row(degraded: str, clean: str, crop: str, name: str) -> tuple[str, ...]:
        return degraded, clean, "haze", "β=0.1" if degraded else "", crop or "none", name, "g"

    def write(self, rows) -> None:
        with self.list.open("w", newline="") as stream:
            csv.writer(stream).writerows([COLUMNS, *rows])
        self.list.with_suffix(".json").write_text("{}")

    def describe(self) -> None:
        with self.manifest.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("path", "bytes", "sha256", "width", "height"))
            for path in sorted(self.root.iterdir()):
                height, width = read_rgb8(path).shape[:2]
                writer.writerow((path.name, path.stat().st_size, sha256_file(path), width, height))

    def pack(self, threads: int = 1):
        return pack_pairs(self.list, self.manifest, self.root, self.packed, threads)

    def partial(self) -> Path:
        return next(self.packed.glob("*.partial"))


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_pack_gives_the_layers_names_and_levels_of_its_files(data):
    facts = data.pack(threads=2)
    pairs, cache = read_pairs(data.list, data.root), ImageCache()
    pack = copy.copy(Pack.open(Path(facts["folder"])))  # through its pickled form
    assert len(pickle.dumps(pack)) < 500
    assert (len(pack), pack.images, facts["pairs"], facts["images"]) == (16, 16, 16, 16)
    for index, pair in enumerate(pairs):
        expected = pair_layers(pair, cache)
        found = pack.layers(index)
        assert tuple(pack.sides()[index]) == found[0].shape[1::-1]
        assert len(found) == len(expected) == 1 + pack.paired(index)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
            assert np.shares_memory(one, pack._pixels)
            assert not one.flags.writeable
        assert (pack.name(index), pack.level(index), pack.degradation(index)) == (pair.name, pair.level, "haze")


def test_every_image_is_stored_once_and_the_size_is_known_before(data, capsys):
    contents = read_contents(data.list, data.manifest)
    facts = data.pack()
    assert contents.pixel_bytes == 4 * 3 * (2 * 48 * 56 + 44 * 48 + 40 * 50)
    sizes = {path.name: path.stat().st_size for path in Path(facts["folder"]).iterdir()}
    assert sizes.pop("header.json") > 0
    assert sizes["pixels.bin"] == contents.pixel_bytes
    assert sum(sizes.values()) == contents.total_bytes == facts["bytes"]
    assert "16 images of 16 pairs, 0.000 GB to pack" in capsys.readouterr().out


def test_a_finished_pack_is_found_again_and_another_list_gets_another_folder(data, capsys):
    first = data.pack()
    before = content(Path(first["folder"]))
    assert data.pack()["folder"] == first["folder"]
    assert "packed already" in capsys.readouterr().out
    assert content(Path(first["folder"])) == before
    data.write([data.row("", "img0.png", "", "img0")])
    assert data.pack()["folder"] != first["folder"]


def test_a_build_killed_at_any_moment_ends_with_the_same_bytes(tmp_path):
    whole, killed = (Data(make(tmp_path / name), 30) for name in ("whole", "killed"))
    expected = content(Path(whole.pack()["folder"]))
    places = [str(p) for p in (killed.list, killed.manifest, killed.root, killed.packed)]
    program = (
        "import sys; from pathlib import Path; from airpipe.data import packing\n"
        "packing.FLUSH_SECONDS, packing.CHUNK = 0, 1\n"
        "packing.pack_pairs(*map(Path, sys.argv[1:]), 2)"
    )
    finished = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", program, *places], env=one_thread(), stdout=subprocess.PIPE)
        while process.poll() is None and done(killed) <= finished + 3:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert finished < done(killed) < 120
        finished = done(killed)
    started = time.monotonic()
    while children_of_a_dead_parent(program) and time.monotonic() - started < 10:
        time.sleep(0.01)
    assert children_of_a_dead_parent(program) == 0
    assert content(Path(killed.pack()["folder"])) == expected
    assert [path.name for path in killed.packed.iterdir()] == [path.name for path in whole.packed.iterdir()]


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def done(data: Data) -> int:
    found = list(data.packed.glob("*.partial/done.bin"))
    return sum(found[0].read_bytes()) if found else 0


def children_of_a_dead_parent(program: str) -> int:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes())
        except OSError:  # it has ended
            continue
    return sum(program.encode() in command for command in commands)


def test_finished_images_are_not_read_again_and_bad_files_are_counted_and_named(data):
    expected = content(Path(data.pack()["folder"]))
    shutil.rmtree(data.packed)
    good = (data.root / "img0_none.jpg").read_bytes()
    (data.root / "img0_none.jpg").write_bytes(good + b"\0")
    (data.root / "img1.png").rename(data.folder / "img1.png")
    with pytest.raises(AirpipeError) as error:
        data.pack()
    assert "toy.train: 2 of 16 files are not what the manifest says; check the data set again" in str(error.value)
    assert "img0_none.jpg: the sha256 is not the manifest's" in str(error.value)
    assert "img1.png: cannot be read (No such file or directory)" in str(error.value)
    for path in data.root.iterdir():
        path.unlink()
    (data.root / "img0_none.jpg").write_bytes(good)
    (data.folder / "img1.png").rename(data.root / "img1.png")
    assert content(Path(data.pack()["folder"])) == expected


def test_a_build_killed_before_its_last_step_only_takes_that_step(data):
    folder = Path(data.pack()["folder"])
    expected = content(folder)
    folder.rename(folder.with_name(f"{folder.name}.partial"))
    shutil.rmtree(data.root)
    assert content(Path(data.pack()["folder"])) == expected


def test_a_file_that_cannot_be_opened_is_named(data):
    (data.root / "img0.png").unlink()
    (data.root / "img0.png").mkdir()
    with pytest.raises(AirpipeError, match=r"1 of 16 files(.|\n)*img0.png: cannot be read \(Is a directory\)"):
        data.pack()


def test_a_disk_that_refuses_is_told_and_nothing_is_finished(data, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing.os, "posix_fallocate", refuse)
    with pytest.raises(AirpipeError, match=r"cannot be written \(No space left on device\)"):
        data.pack()
    assert [path.suffix for path in data.packed.iterdir()] == [".partial"]
    monkeypatch.undo()
    assert data.pack()["images"] == 16


def test_another_size_than_the_manifest_says_is_an_error(data):
    data.manifest.write_text(data.manifest.read_text().replace(",56,48", ",57,48"))
    with pytest.raises(AirpipeError, match=r"8 of 16 files(.|\n)*img0.png: 56x48 pixels, the manifest says 57x48"):
        data.pack()


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(data, monkeypatch):
    needed = read_contents(data.list, data.manifest).total_bytes
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: usage(10**9, 0, int(needed * 1.01)))
    with pytest.raises(AirpipeError, match=r"needs 0.000 GB and a margin of 2%, 0.000 GB are free. Set `pack: false`"):
        data.pack()
    assert list(data.packed.iterdir()) == []
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: usage(10**9, 0, int(needed * 1.03)))
    assert data.pack()["images"] == 16


def test_two_processes_do_not_make_the_same_pack(data):
    contents = read_contents(data.list, data.manifest)
    partial = data.packed / f"toy.train.{contents.key}.partial"
    partial.mkdir(parents=True)
    program = (
        "import fcntl, sys; stream = open(sys.argv[1], 'w'); fcntl.lockf(stream, fcntl.LOCK_EX)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(partial / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AirpipeError, match="another process makes this pack. Wait for it"):
            data.pack()
        holder.stdin.close()
    assert data.pack()["images"] == 16


def test_a_pack_that_another_process_finishes_between_look_and_lock_is_taken(data, monkeypatch):
    places = [str(p) for p in (data.list, data.manifest, data.root, data.packed)]
    program = (
        "import sys; from pathlib import Path; from airpipe.data.packing import pack_pairs\n"
        "pack_pairs(*map(Path, sys.argv[1:]), 1)"
    )
    check_space = packing._check_space

    def other_process(*given):
        subprocess.run([sys.executable, "-c", program, *places], env=one_thread(), check=True, capture_output=True)
        check_space(*given)

    monkeypatch.setattr(packing, "_check_space", other_process)
    monkeypatch.setattr(packing, "_decode_all", lambda *_: pytest.fail("decoded again"))
    facts = data.pack()
    assert [path.as_posix() for path in data.packed.iterdir()] == [facts["folder"]]
    assert not (Path(facts["folder"]) / "lock").exists()
    Pack.open(Path(facts["folder"])).verify()


def test_old_packs_of_a_list_that_no_report_names_are_told_and_kept(data, capsys):
    reports = data.folder / "reports"
    reports.mkdir()
    first = data.pack()
    data.write([data.row("", "img0.png", "", "img0")])
    facts = data.pack()
    other = data.packed / "toy.train_noleak.0123"
    other.mkdir()
    (reports / "toy.train.json").write_text(json.dumps(facts))
    (Path(first["folder"]) / "pixels.bin").write_bytes(bytes(3_000_000))
    capsys.readouterr()
    tell_old_packs("toy.train", data.packed, reports)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert f"older packs that nothing in {reports} names: {first['folder']} (0.003 GB). " in said[0]
    assert said[0].endswith(f"rm -r {first['folder']}")
    assert Path(first["folder"]).is_dir()
    (reports / "another.json").write_text(json.dumps(first))  # of another project configuration
    tell_old_packs("toy.train", data.packed, reports)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.write([]), "holds no pairs"),
        (lambda data: data.write([data.row("", "other.png", "", "x")]), "lacks 1 files .* the first: other.png"),
        (lambda data: data.write([data.row("", "img0.png", "left", "x")]), "x has crop 'left'; expected one of none"),
        (lambda data: data.list.write_text("clean,name\n"), "toy.train.csv: columns .* expected degraded, degradation"),
        (lambda data: data.manifest.unlink(), "manifest.csv: cannot be read"),
        (lambda data: data.manifest.write_text("path,sha256,width,height\nimg0.png,zz,1,1\n"), "row of img0.png"),
    ],
)
def test_unusable_lists_are_refused(data, change, message):
    change(data)
    with pytest.raises(AirpipeError, match=message):
        data.pack()


def edit_header(**changes):
    def edit(folder: Path) -> None:
        header = json.loads((folder / "header.json").read_text())
        (folder / "header.json").write_text(json.dumps(header | changes))

    return edit


def flip_byte(name: str, place: int):
    def flip(folder: Path) -> None:
        with (folder / name).open("r+b") as stream:
            stream.seek(place)
            byte = stream.read(1)[0]
            stream.seek(place)
            stream.write(bytes([byte ^ 255]))

    return flip


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "header.json").unlink(), "header.json cannot be read"),
        (lambda folder: (folder / "header.json").write_text("{"), "header.json cannot be read"),
        (lambda folder: (folder / "header.json").write_text("[]"), "header.json is not a mapping"),
        (lambda folder: os.truncate(folder / "pixels.bin", 1000), "pixels.bin has 1000 bytes, header.json says"),
        (lambda folder: (folder / "text.bin").unlink(), "text.bin has no bytes"),
        (edit_header(format="tar"), "format 'tar', expected 'airpipe pack'"),
        (edit_header(version=2), "version 2 of the format, expected 1"),
        (edit_header(pairs=3), "pairs.bin has 336 bytes for 3 pairs"),
        (flip_byte("pixels.bin", 5), "image 0 has another checksum"),
        (flip_byte("images.bin", 6), r"image 0 ends at byte \d+ of"),
    ],
)
def test_damaged_and_foreign_packs_are_refused_when_opened(data, damage, message):
    folder = Path(data.pack()["folder"])
    damage(folder)
    with pytest.raises(AirpipeError, match=f"not a usable pack: .*{message}.*Delete this folder and run again"):
        Pack.open(folder)


@pytest.mark.parametrize(("name", "place"), [("pixels.bin", 48 * 56 * 3 + 5), ("text.bin", 0), ("pairs.bin", 25)])
def test_verifying_finds_a_single_changed_byte_anywhere(data, name, place):
    folder = Path(data.pack()["folder"])
    Pack.open(folder).verify()
    flip_byte(name, place)(folder)
    with pytest.raises(AirpipeError, match="has another checksum"):
        Pack.open(folder).verify()


def test_the_script_packs_verifies_and_writes_down_that_packing_is_off(data):
    output = data.folder / "packs" / "toy.train.json"

    def script(*arguments) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "scripts" / "pack_dataset.py"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=one_thread())

    named = ("toy.train", "--pairs", data.list, "--output", output)
    assert "pack: off" in script(*named, "--off").stdout
    off = json.loads(output.read_text())
    assert (off["list"], off["folder"], off["pairs_sha256"]) == ("toy.train", None, sha256_file(data.list))
    where = ("--manifest", data.manifest, "--root", data.root, "--packed", data.packed)
    made = script(*named, *where)
    assert made.returncode == 0, made.stderr
    folder = json.loads(output.read_text())["folder"]
    failed = script("other.train", *named[1:])
    assert (failed.returncode, "is not the pair list other.train" in failed.stderr) == (2, True)
    assert "16 images of 16 pairs are as they were packed" in script("--verify", folder).stdout


def test_packs_that_do_not_fit_the_list_are_passed_over_with_one_line(data, capsys):
    facts = data.pack()
    note = data.folder / "pack.json"

    def usable(**changes) -> bool:
        note.write_text(json.dumps(facts | changes))
        capsys.readouterr()
        return "toy.train" in usable_packs([data.list], [note])

    assert usable()
    assert capsys.readouterr().out == ""
    for changes, reason in (
        ({"folder": None}, "packing is off"),
        ({"pairs_sha256": "0"}, "made from another version of the list"),
        ({"folder": "gone"}, "gone is gone"),
    ):
        assert not usable(**changes)
        printed = capsys.readouterr().out
        assert printed.startswith("toy.train: read from its files (")
        assert reason in printed
        assert printed.count("\n") == 1
    assert not usable(list="other.train")
    note.write_text("{}")
    with pytest.raises(AirpipeError, match="not the JSON of a pack"):
        usable_packs([data.list], [note])


def synthetic(folder: Path) -> Contents:
    """Index of two million hazy images, 35 of each clean one, as if they had 4x4 black pixels."""
    clean = (ENTRIES + 34) // 35
    images = np.zeros(clean + ENTRIES, IMAGE)
    images["offset"] = 48 * np.arange(len(images), dtype=np.uint64)
    images["height"] = images["width"] = 4
    images["crc32"] = zlib.crc32(bytes(48))
    words = b"0000000_0.85_0.12\x00A=0.85 beta=0.12\x00haze"
    pairs = np.zeros(ENTRIES, PAIR)
    pairs["clean"], pairs["degraded"] = np.arange(ENTRIES) // 35, clean + np.arange(ENTRIES)
    pairs["text"], pairs["length"] = np.arange(ENTRIES, dtype=np.uint64) * len(words), len(words)
    contents = Contents("big.train", "", "", [], np.empty((0, 32), np.uint8), images, pairs, words * ENTRIES)
    write_index(contents, folder)
    with (folder / "pixels.bin").open("wb") as stream:
        stream.truncate(contents.pixel_bytes)
    write_header(contents.name, folder)
    return contents


def resident(folder: Path) -> int:
    """Bytes of the index that are mapped into this process and in memory."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            ours = any(line.endswith(str(folder / name)) for name in INDEX)
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux: memory is read from /proc/self/smaps")
def test_two_million_pairs_open_at_once_and_need_less_than_100_bytes_each(tmp_path):
    contents = synthetic(tmp_path)
    count = len(contents.images)
    tracemalloc.start()
    before = bytes_read()
    pack = Pack.open(tmp_path)
    assert bytes_read() - before < 20_000
    index = sum((tmp_path / name).stat().st_size for name in INDEX)
    assert resident(tmp_path) < index / 10  # a touched page brings its neighbours
    assert len(pack) == ENTRIES
    np.testing.assert_array_equal(pack.layers(ENTRIES - 1), np.zeros((2, 4, 4, 3)))
    assert pack.name(ENTRIES // 2) == "0000000_0.85_0.12"
    touched = [int(pack._images[f].max()) for f in IMAGE.names] + [int(pack._pairs[f].max()) for f in PAIR.names]
    assert touched[0] == 48 * (count - 1)
    assert touched[5] == count - 1 < NO_IMAGE
    assert pack._text.max() == ord("z")
    heap = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert index <= resident(tmp_path) + 2**16
    assert resident(tmp_path) + heap < 100 * count
