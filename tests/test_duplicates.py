"""Training images that test images show are found; others are not; what is found can be removed."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import ROOT, one_thread
from samples import SAMPLES, needs_samples

from airpipe.data import duplicates
from airpipe.data.duplicates import Leak, compare, find_leaks, read_leaks, without_leaks, write_leaks
from airpipe.data.fingerprints import (
    FingerprintTable,
    file_finder,
    fingerprint,
    perceptual_hash,
    read_fingerprints,
    write_fingerprints,
)
from airpipe.data.pairs import COLUMNS, read_facts, read_rows, write_pairs
from airpipe.errors import AirpipeError


def picture(seed, height=96, width=144):
    """Blobs of several sizes with a little grain."""
    generator = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for side, weight in ((4, 1.0), (9, 0.6), (24, 0.3)):
        noise = generator.standard_normal((side, side, 3)).astype(np.float32)
        image += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    image += 0.05 * generator.standard_normal(image.shape)
    return np.clip(128 + 45 * image, 0, 255).astype(np.uint8)


def jpeg(pixels, quality):
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def save(folder, **pictures):
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in pictures.items():
        cv2.imwrite(str(folder / f"{name}.png"), pixels[..., ::-1])


def pair_list(folder, list_id, paths, **facts):
    path = folder / f"{list_id}.csv"
    known = [{"clean": str(p), "name": f"pair{n}", "group": str(n), "crop": "none"} for n, p in enumerate(paths)]
    write_pairs(path, [{**dict.fromkeys(COLUMNS, ""), **row} for row in known], facts)
    return path


def table(folder, list_id, root, paths):
    output = folder / "fingerprints" / f"{list_id}.csv"
    pairs = pair_list(folder, list_id, paths)
    write_fingerprints(pairs, file_finder([f"{list_id.split('.')[0]}={root}"]), output)
    return read_fingerprints(output)


def compared(folder, train, test):
    """Leaks between two dictionaries of pictures: {(train name, test name): leak}."""
    tables = []
    for list_id, pictures in (("a.train", train), ("b.test", test)):
        root = folder / list_id.split(".")[0]
        save(root, **pictures)
        tables.append(table(folder, list_id, root, [f"{name}.png" for name in pictures]))
    leaks = find_leaks(tables[:1], tables[1:], file_finder([f"a={folder / 'a'}", f"b={folder / 'b'}"]))
    return {(Path(one.train_image).stem, Path(one.test_image).stem): one for one in leaks}


def script(name, *words, check=True):
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=one_thread(), timeout=120)
    assert not check or done.returncode == 0, done.stderr
    return done


def test_a_fingerprint_tells_bytes_from_pixels(tmp_path):
    save(tmp_path, one=picture(1), other=picture(2))
    cv2.imwrite(str(tmp_path / "one.bmp"), picture(1)[..., ::-1])
    one, same, other = (fingerprint(tmp_path / name) for name in ("one.png", "one.bmp", "other.png"))
    assert (one.width, one.height) == (144, 96)
    assert one.pixels_sha256 == same.pixels_sha256
    assert one.phash == same.phash
    assert one.bytes_sha256 != same.bytes_sha256
    assert one.pixels_sha256 != other.pixels_sha256


def test_equal_bytes_of_another_shape_are_other_pixels(tmp_path):
    save(tmp_path, wide=np.zeros((8, 16, 3), np.uint8), tall=np.zeros((16, 8, 3), np.uint8))
    assert fingerprint(tmp_path / "wide.png").pixels_sha256 != fingerprint(tmp_path / "tall.png").pixels_sha256


def test_hashes_of_different_pictures_differ_in_about_half_of_the_bits():
    hashes = [perceptual_hash(picture(seed)) for seed in range(20)]
    distances = [(a ^ b).bit_count() for n, a in enumerate(hashes) for b in hashes[:n]]
    assert min(distances) > duplicates.MAX_DISTANCE
    assert 28 < np.mean(distances) < 36


def test_copies_cuts_and_resampled_pictures_are_found_with_their_relation_and_no_others(tmp_path):
    train = {f"t{seed}": picture(seed) for seed in range(12)}
    test = {
        "copy": train["t0"],
        "last_row_and_column": train["t1"][:-1, :-1],
        "first_row": train["t2"][1:],
        "centre": train["t3"][2:-2, 2:-2],
        "jpeg": jpeg(train["t4"], 30),
        "half": cv2.resize(train["t5"], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        "bright": np.clip(train["t6"] * 0.8 + 40, 0, 255).astype(np.uint8),
        "cut_jpeg": jpeg(train["t7"][:-2, :-2], 60),
        "stranger": picture(99),
        "mirrored": train["t8"][:, ::-1],
    }
    found = {names: leak.relation for names, leak in compared(tmp_path, train, test).items()}
    assert found == {
        ("t0", "copy"): "same file",
        ("t1", "last_row_and_column"): "crop",
        ("t2", "first_row"): "crop",
        ("t3", "centre"): "crop",
        ("t4", "jpeg"): "near",
        ("t5", "half"): "near",
        ("t6", "bright"): "near",
        ("t7", "cut_jpeg"): "near",
    }


def test_other_bytes_with_the_same_pixels_are_the_same_pixels(tmp_path):
    save(tmp_path / "b", x=picture(1))
    (tmp_path / "a").mkdir()
    cv2.imwrite(str(tmp_path / "a" / "x.bmp"), picture(1)[..., ::-1])
    tables = [
        table(tmp_path, "a.train", tmp_path / "a", ["x.bmp"]),
        table(tmp_path, "b.test", tmp_path / "b", ["x.png"]),
    ]
    leaks = find_leaks(tables[:1], tables[1:], file_finder([]))
    assert leaks == [Leak("a.train", "x.bmp", "b.test", "x.png", "same pixels", 0, 1.0)]


def test_a_cut_with_one_changed_pixel_is_near():
    whole = picture(1)
    part = whole[3:, 2:].copy()
    assert compare(whole, part) == ("crop", 1.0)
    assert compare(part, whole) == ("crop", 1.0)
    part[5, 5, 0] ^= 1
    relation, correlation = compare(whole, part)
    assert relation == "near"
    assert 0.999 < correlation <= 1


def test_flat_pictures_are_related_to_nothing():
    flat = np.full((64, 64, 3), 17, np.uint8)
    assert compare(flat, flat + np.uint8(1)) == (None, 0.0)
    assert compare(flat, picture(1)) == (None, 0.0)


def test_equal_hashes_of_different_pictures_do_not_count():
    relation, correlation = compare(picture(1), picture(2))
    assert relation is None
    assert correlation < 0.6


def test_candidates_are_all_hashes_within_the_distance_across_blocks(monkeypatch):
    monkeypatch.setattr(duplicates, "TRAIN_CHUNK", 7)
    monkeypatch.setattr(duplicates, "TEST_CHUNK", 3)
    train = np.random.default_rng(0).integers(0, 1 << 63, 30, dtype=np.uint64)
    test = train[[29, 0, 13, 13]] ^ np.array([0, 1, (1 << 10) - 1, (1 << 11) - 1], np.uint64)
    assert sorted(duplicates._candidates(train, test, "lists")) == [(0, 1, 1), (13, 2, 10), (29, 0, 0)]


def test_a_list_is_never_compared_with_itself(tmp_path):
    save(tmp_path / "a", x=picture(1), y=picture(1))
    one = table(tmp_path, "a.train", tmp_path / "a", ["x.png", "y.png"])
    assert find_leaks([one], [one], file_finder([])) == []


def test_clean_images_that_several_pairs_share_are_read_once(tmp_path):
    save(tmp_path / "a", x=picture(1), y=picture(2))
    one = table(tmp_path, "a.train", tmp_path / "a", ["y.png", "x.png", "y.png"])
    assert list(one.paths) == ["y.png", "x.png"]
    lines = (tmp_path / "fingerprints" / "a.train.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["name", "pair0", "pair1"]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_killed_run_goes_on_where_it_was_and_reads_changed_files_again(tmp_path, monkeypatch, threads):
    save(tmp_path / "a", **{f"x{n}": picture(n) for n in range(6)})
    (tmp_path / "a" / "x4.png").rename(tmp_path / "a" / "hidden")
    pairs = pair_list(tmp_path, "a.train", [f"x{n}.png" for n in range(6)])
    find, output = file_finder([f"a={tmp_path / 'a'}"]), tmp_path / "out" / "a.train.csv"
    with pytest.raises(AirpipeError, match=r"x4\.png"):
        write_fingerprints(pairs, find, output, threads)
    part = tmp_path / "out" / "a.train.csv.part"
    assert len(part.read_text().splitlines()) == 5
    part.write_text(part.read_text()[:-5])  # killed while writing the row of x3
    (tmp_path / "a" / "hidden").rename(tmp_path / "a" / "x4.png")
    save(tmp_path / "a", x1=picture(77))
    read = []

    def spy(path):
        read.append(path.name)
        return fingerprint(path)

    monkeypatch.setattr("airpipe.data.fingerprints.fingerprint", spy)
    assert write_fingerprints(pairs, find, output, threads) == 6
    assert sorted(read) == ["x1.png", "x3.png", "x4.png", "x5.png"]
    assert list(output.parent.iterdir()) == [output]
    assert int(read_fingerprints(output).phash[1]) == perceptual_hash(picture(77))


def test_damaged_tables_are_refused(tmp_path):
    save(tmp_path / "a", x=picture(1))
    table(tmp_path, "a.train", tmp_path / "a", ["x.png"])
    path = tmp_path / "fingerprints" / "a.train.csv"
    good = path.read_text()
    for text, message in [
        (good.replace("phash", "hash"), "columns .* expected"),
        (good.splitlines()[0] + "\n", "holds no fingerprints"),
        (good[:-30], "line 2 has 4 fields; expected 7"),
        (good + "x,y,zz,zz,zz,1,1\n", "row 3 is damaged .*expected 64 hexadecimal digits, found 'zz'"),
    ]:
        path.write_text(text)
        with pytest.raises(AirpipeError, match=message):
            read_fingerprints(path)
    with pytest.raises(AirpipeError, match=r"cannot be read .*scripts/fingerprint\.py"):
        read_fingerprints(tmp_path / "none.csv")
    with pytest.raises(AirpipeError, match="expected dataset=folder"):
        file_finder(["folder"])


def test_the_report_counts_images_of_each_side_and_comes_back(tmp_path):
    empty = np.zeros(0, "S64"), np.zeros(0, "S64"), np.zeros(0, np.uint64)
    train, test = FingerprintTable("a.train", ["x", "y", "z"], *empty), FingerprintTable("b.test", list("12"), *empty)
    leaks = [
        Leak("a.train", "x", "b.test", "1", "crop", 2, 1.0),
        Leak("a.train", "y", "b.test", "1", "near", 4, 0.98),
    ]
    warnings = write_leaks(tmp_path / "leakage.csv", leaks, [train], [test])
    assert warnings == ["a.train shows 1 of the 2 test images of b.test"]
    found, summary = read_leaks(tmp_path / "leakage.csv")
    assert found == leaks
    assert summary["train"] == {"a.train": 3}
    counts = {"train_images": 2, "test_images": 1, "of_test_images": 2, "relations": {"crop": 1, "near": 1}}
    assert summary["shared"] == [{"train_list": "a.train", "test_list": "b.test", **counts}]
    path = tmp_path / "leakage.csv"
    path.write_text(path.read_text().replace("near,4", "near,four"))
    with pytest.raises(AirpipeError, match="row 3 is damaged"):
        read_leaks(path)


def report(tmp_path, *leaks, train=("a.train",), test=("b.test", "c.test")):
    empty = np.zeros(0, "S64"), np.zeros(0, "S64"), np.zeros(0, np.uint64)
    tables = [[FingerprintTable(one, [], *empty) for one in side] for side in (train, test)]
    write_leaks(tmp_path / "leakage.csv", leaks, *tables)
    return tmp_path / "leakage.csv"


def test_only_rows_whose_clean_image_leaks_are_removed(tmp_path):
    path = report(
        tmp_path,
        Leak("a.train", "x.png", "b.test", "1", "crop", 2, 1.0),
        Leak("a.train", "y.png", "c.test", "1", "near", 2, 0.98),
        Leak("other.train", "z.png", "b.test", "1", "near", 2, 0.98),
    )
    rows = [{"clean": f"{name}.png", "name": f"{name}{n}"} for name in "xyz" for n in range(2)]
    kept, removed = without_leaks(rows, "a.train", path)
    assert [row["name"] for row in kept] == ["z0", "z1"]
    assert removed == ["x0", "x1", "y0", "y1"]
    assert without_leaks(rows, "a.train", path, ["c.test"])[1] == ["y0", "y1"]
    with pytest.raises(AirpipeError, match="every one of its 2 pairs shows a test image"):
        without_leaks(rows[:2], "a.train", path)


def test_lists_that_were_not_compared_are_an_error(tmp_path):
    path = report(tmp_path)
    with pytest.raises(AirpipeError, match=r"z\.train was not compared; train lists in it: a\.train"):
        without_leaks([], "z.train", path)
    with pytest.raises(AirpipeError, match=r"d\.test was not compared; test lists in it: b\.test, c\.test"):
        without_leaks([], "a.train", path, ["d.test"])


def test_the_scripts_find_and_remove_leaks(tmp_path):
    save(tmp_path / "a", x=picture(1), y=picture(2))
    save(tmp_path / "b", **{"1": picture(2)[:-1, :-1], "2": picture(3)})
    roots = ["--root", f"a={tmp_path / 'a'}", "--root", f"b={tmp_path / 'b'}"]
    train = pair_list(tmp_path, "a.train", ["x.png", "y.png"], depth={"pair0": "x.npz", "pair1": "y.npz"}, rule="same")
    test = pair_list(tmp_path, "b.test", ["1.png", "2.png"])
    for pairs in (train, test):
        script("fingerprint.py", pairs, *roots, "--output", tmp_path / "f" / pairs.name, "--threads", 2)
    leakage, output = tmp_path / "leakage.csv", tmp_path / "a.train_clean.csv"
    sides = ["--train", tmp_path / "f" / "a.train.csv", "--test", tmp_path / "f" / "b.test.csv"]
    done = script("find_leaks.py", *sides, *roots, "--output", leakage)
    assert done.stderr == "airpipe: warning: a.train shows 1 of the 2 test images of b.test\n"
    assert leakage.read_text().splitlines()[1].startswith("a.train,y.png,b.test,1.png,crop,")
    script("remove_leaks.py", train, leakage, "--output", output)
    assert [row["clean"] for row in read_rows(output)] == ["x.png"]
    facts = {"pairs": 1, "depth": {"pair0": "x.npz"}, "rule": "same", "source_list": "a.train", "removed": ["pair1"]}
    assert read_facts(output) == json.loads(json.dumps(facts))


SETS = {
    "bsd400": "BSD400/*.jpg",
    "cbsd68": "CBSD68/*.jpg",
    "rain100l": "Rain100L/norain/*",
    "rain100l_small": "Rain100L_input_target/target/*",
    "rain100l_full": "Rain100L_481x321/norain/*",
    "rain100h": "Rain100H/norain/*",
    "rain12": "Rain12/norain/*",
    "kodak24": "Kodak24/*",
    "our485": "LOL/our485/high/*",
    "eval15": "LOL/eval15/high/*",
}
"""The samples hold 391 images of BSD400; none of the 9 others is a scene of the rain sets kept there."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    roots = [f"{name}={SAMPLES}" for name in SETS]
    tables = {}
    for name, glob in SETS.items():
        paths = [path.relative_to(SAMPLES).as_posix() for path in sorted(SAMPLES.glob(glob))]
        pairs = pair_list(folder, f"{name}.all", paths)
        write_fingerprints(pairs, file_finder(roots), folder / "f" / pairs.name, threads=2)
        tables[name] = read_fingerprints(folder / "f" / pairs.name)
    return tables


def leaked(samples, train, test):
    """[(train stem, test stem, relation)]"""
    leaks = find_leaks([samples[train]], [samples[test]], file_finder([f"{name}={SAMPLES}" for name in SETS]))
    return sorted((Path(one.train_image).stem, Path(one.test_image).stem, one.relation) for one in leaks)


@needs_samples
@pytest.mark.parametrize(
    ("test", "relation", "in_bsd400", "in_cbsd68"),
    [
        ("rain100l", "crop", 5, 2),
        ("rain100l_small", "crop", 2, 0),
        ("rain100l_full", "same pixels", 1, 0),
        ("rain100h", "crop", 5, 2),
        ("rain12", "near", 9, 0),
    ],
)
def test_every_clean_image_of_the_rain_sets_is_one_image_of_bsd(samples, test, relation, in_bsd400, in_cbsd68):
    found = {train: leaked(samples, train, test) for train in ("bsd400", "cbsd68")}
    assert [len(found["bsd400"]), len(found["cbsd68"])] == [in_bsd400, in_cbsd68]
    everything = found["bsd400"] + found["cbsd68"]
    assert {kind for _, _, kind in everything} == {relation}
    assert sorted(image for _, image, _ in everything) == sorted(Path(path).stem for path in samples[test].paths)


@needs_samples
def test_official_rain_numbers_are_the_known_bsd_images(samples):
    assert leaked(samples, "bsd400", "rain100l_small") == [("100075", "1", "crop"), ("105019", "2", "crop")]
    assert leaked(samples, "bsd400", "rain100l_full") == [("196015", "norain-020", "same pixels")]


@needs_samples
@pytest.mark.parametrize(
    ("train", "test"),
    [("bsd400", "cbsd68"), ("bsd400", "kodak24"), ("kodak24", "cbsd68"), ("our485", "bsd400"), ("rain12", "kodak24")],
)
def test_independent_data_sets_share_nothing(samples, train, test):
    assert leaked(samples, train, test) == []


@needs_samples
def test_lol_trains_and_tests_on_pictures_of_one_scene(samples):
    """Seen by eye, too: the same cupboard and the same toy at another brightness."""
    assert leaked(samples, "our485", "eval15") == [("2", "1", "near"), ("24", "22", "near"), ("24", "23", "near")]
