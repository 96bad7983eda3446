"""Pairing rules, layouts, and what is said about files that do not pair."""

import json
import os
import subprocess
import sys

import cv2
import pytest
from helpers import ROOT, toy_images
from hypothesis import given
from hypothesis import strategies as st

from airpipe.data.files import list_images, matching, split_is_there
from airpipe.data.pairs import Pairing, complain, pair_up, read_rows, size_problems
from airpipe.data.rules import partners
from airpipe.errors import AirpipeError
from airpipe.settings.datasets import SplitSettings


@pytest.mark.parametrize(
    ("rule", "degraded", "clean", "name", "group"),
    [
        ("same", "input/1.png", "1", "1", "1"),
        ("rain_no", "rain/rain-001.png", "norain-001", "rain-001", "norain-001"),
        ("rain_no", "rain/rain-12x2.png", "norain-12", "rain-12x2", "norain-12"),
        ("no_prefix", "rainy/rain-61.png", "norain-61", "rain-61", "norain-61"),
        ("haze_id", "0001_0.8_0.2.jpg", "0001", "0001_0.8_0.2", "0001"),
        ("haze_id", "hazy/1400_3.png", "1400", "1400_3", "1400"),
        ("haze_id", "2_1_0.99082.png", "2", "2_1_0.99082", "2"),
        ("hazy_gt", "hazy/01_hazy.png", "01_GT", "01", "01"),
        (
            "gopro_seq",
            "test/GOPR0384_11_00/blur_gamma/000001.png",
            "test/GOPR0384_11_00/sharp/000001",
            "GOPR0384_11_00-000001",
            "GOPR0384_11_00",
        ),
        *(
            ("gopro_flat", f"input/GOPR0384_11_00{dash}000001.png", f"GOPR0384_11_00{dash}000001",
             f"GOPR0384_11_00{dash}000001", "GOPR0384_11_00")
            for dash in "-_"
        ),
        ("cdd", "test/low_haze/00001.png", "test/clear/00001", "low_haze-00001", "00001"),
    ],
)  # fmt: skip
def test_a_rule_names_the_clean_file_the_pair_and_its_scene(rule, degraded, clean, name, group):
    found = partners(degraded, rule)[0]
    assert (found.clean, found.name, found.group) == (clean, name, group)


@pytest.mark.parametrize(
    ("rule", "path"),
    [("rain_no", "snow-1.png"), ("haze_id", "1400.png"), ("gopro_seq", "a/sharp/000001.png"), ("cdd", "00001.png")],
)
def test_a_name_that_does_not_fit_its_rule_has_no_partner(rule, path):
    assert partners(path, rule) == []


@given(st.from_regex(r"\A[a-z0-9]{1,6}\Z"), st.from_regex(r"\A[^/\x00\n]{1,8}\Z"))
def test_a_haze_id_ends_at_the_first_underscore(scene, rest):
    assert partners(f"hazy/{scene}_{rest}.png", "haze_id")[0].clean == scene


def paired(paths, **split):
    return pair_up(paths, SplitSettings(**split))


def test_suffixes_differ_between_clean_and_degraded_and_folders_are_dropped_from_the_clean_path():
    pairing = paired(
        ["synthetic/part2/3068_0.8_0.1.jpg", "synthetic/part1/0005_1_0.2.JPG",
         "original/3068.png", "original/0005.bmp"],
        clean="original/*", degraded="synthetic/part*/*", rule="haze_id", degradation="haze",
    )  # fmt: skip
    assert [(row["degraded"], row["clean"]) for row in pairing.rows] == [
        ("synthetic/part2/3068_0.8_0.1.jpg", "original/3068.png"),
        ("synthetic/part1/0005_1_0.2.JPG", "original/0005.bmp"),
    ]
    assert {row["degradation"] for row in pairing.rows} == {"haze"}


def test_auto_tries_the_same_name_first_and_the_prefixes_then():
    split = dict(clean="target/*", degraded="input/*", rule="auto")
    assert [r["clean"] for r in paired(["input/1.png", "target/1.png", "target/no1.png"], **split).rows] == [
        "target/1.png"
    ]
    assert [r["clean"] for r in paired(["input/rain-001.png", "target/norain-001.png"], **split).rows] == [
        "target/norain-001.png"
    ]
    assert [r["clean"] for r in paired(["input/x.png", "target/nox.png"], **split).rows] == ["target/nox.png"]


def test_a_composite_set_takes_the_degradation_from_the_folder():
    pairing = paired(
        ["train/clear/1.png", "train/low/1.png", "train/haze_rain/1.png"],
        clean="train/clear/*", degraded=["train/low/*", "train/haze_rain/*"], rule="cdd",
    )  # fmt: skip
    assert [(row["name"], row["degradation"], row["clean"]) for row in pairing.rows] == [
        ("low-1", "low", "train/clear/1.png"),
        ("haze_rain-1", "haze_rain", "train/clear/1.png"),
    ]


LAYOUTS = [
    {"name": "original", "clean": "norain/*", "degraded": "rain/*", "rule": "rain_no"},
    {"name": "restormer", "clean": "test/target/*", "degraded": "test/input/*"},
    {"name": "flat", "clean": "target/*", "degraded": "input/*"},
]


@pytest.mark.parametrize(
    ("paths", "layout"),
    [
        (["rain/rain-1.png", "norain/norain-1.png", "README.md"], "original"),
        (["test/input/1.png", "test/target/1.png"], "restormer"),
        (["input/1.png", "input/2.png", "target/1.png", "target/2.png", "rain/rain-1.png"], "flat"),
    ],
)
def test_the_layout_that_matches_most_files_is_taken(paths, layout):
    assert paired(paths, layouts=LAYOUTS).layout.name == layout


def test_a_folder_of_another_layout_is_refused_with_what_was_looked_for():
    with pytest.raises(AirpipeError, match=r"no image file matches rain/\* or test/input/\* or input/\*. Correct root"):
        paired(["pictures/1.png", "rain/README.txt"], layouts=LAYOUTS)


@pytest.mark.parametrize(
    ("paths", "split", "problems"),
    [
        (["i/1.png", "i/2.png", "t/1.png"], {}, ["i/2.png: no clean file 2.*"]),
        (["i/1.png", "t/1.png", "t/3.png"], {}, ["t/3.png: no degraded file"]),
        (["i/1.png", "t/1.png", "t/1.jpg"], {}, ["i/1.png: its clean file may be t/1.png or t/1.jpg",
                                                 "t/1.jpg: no degraded file", "t/1.png: no degraded file"]),
        (["i/1.png", "i/1.jpg", "t/1.png"], {}, ["i/1.jpg and i/1.png: share the clean file t/1.png"]),
        (["i/rain-1.png", "i/rain-1x2.png", "t/norain-1.png"], {"rule": "rain_no"},
         ["i/rain-1x2.png and i/rain-1.png: share the clean file t/norain-1.png"]),
        (["t/1.png"], {"degraded": "*/*"}, ["t/1.png: is its own clean file; correct the globs",
                                            "t/1.png: no degraded file"]),
        (["i/1_2.png", "j/1_2.png", "t/1.png"], {"degraded": ["i/*", "j/*"], "rule": "haze_id"},
         ["i/1_2.png and j/1_2.png: files share a name"]),
        (["i/rain-1.png", "i/x.png", "t/norain-1.png"], {"rule": "rain_no"},
         ["i/x.png: its name does not fit rule rain_no"]),
    ],
)  # fmt: skip
def test_files_without_partner_and_clashing_names_are_problems(paths, split, problems):
    assert paired(paths, **{"clean": "t/*", "degraded": "i/*", **split}).problems == problems


def test_clean_images_of_one_name_in_two_folders_clash():
    pairing = paired(["a/1.png", "b/1.png", "a/2.png"], clean=["a/*", "b/*"])
    assert pairing.problems == ["a/1.png and b/1.png: files share a name"]


def test_a_clean_image_without_haze_is_counted_but_no_problem():
    pairing = paired(["h/1_2.png", "c/1.png", "c/2.png"], clean="c/*", degraded="h/*", rule="haze_id")
    assert (pairing.problems, pairing.lone_clean) == ([], ["c/2.png"])


def test_left_out_files_are_recorded_and_pair_with_nothing():
    pairing = paired(["i/1.png", "i/2.png", "t/1.png", "t/2.png"], clean="t/*", degraded="i/*", leave_out=["?/2.png"])
    assert [row["name"] for row in pairing.rows] == ["1"]
    assert (pairing.left_out, pairing.problems) == (["i/2.png", "t/2.png"], [])


def test_names_choose_files_and_a_missing_one_is_a_problem():
    pairing = paired(["1.png", "2.png", "3.png"], clean="*", names=["1", "3", "9"])
    assert [row["name"] for row in pairing.rows] == ["1", "3"]
    assert pairing.problems == ["9: listed in `names`, but there is no such file"]


def test_a_named_file_without_clear_partner_keeps_its_reason():
    split = dict(clean="t/*", degraded="i/*", names=["1", "2"])
    assert paired(["i/1.png", "i/2.png", "t/1.png", "t/1.jpg", "t/2.png"], **split).problems == [
        "i/1.png: its clean file may be t/1.png or t/1.jpg"
    ]


def test_of_layouts_and_a_single_layout_the_one_written_last_counts():
    layouts = {"layouts": [{"clean": "a/*"}]}
    assert SplitSettings.model_validate({"clean": "b/*", **layouts}).layouts[0].clean == ("a/*",)
    assert SplitSettings.model_validate({**layouts, "clean": "b/*"}).layouts[0].clean == ("b/*",)


def test_a_published_list_chooses_rows_and_missing_names_are_an_error(tmp_path):
    names = tmp_path / "denoise.txt"
    split = SplitSettings(clean="*", name_list={"file": str(names)})
    names.write_text("a2018.jpg\n00001.bmp\n")
    pairing = pair_up(["00001.bmp", "2018.jpg", "3096.jpg"], split, names)
    assert [row["clean"] for row in pairing.rows] == ["2018.jpg", "00001.bmp"]
    names.write_text("a2018.jpg\na9999.jpg\n")
    with pytest.raises(AirpipeError, match="9999.jpg"):
        pair_up(["00001.bmp", "2018.jpg"], split, names)


@pytest.mark.parametrize(
    ("crop", "degraded", "clean", "fits"),
    [
        ("none", (480, 320), (480, 320), True),
        ("none", (480, 320), (481, 321), False),
        ("top_left", (480, 320), (481, 321), True),
        ("top_left", (481, 321), (480, 320), True),
        ("centre", (620, 460), (640, 480), True),
        ("centre", (620, 460), (620, 460), True),
        ("centre", (620, 460), (641, 480), False),
        ("centre", (620, 460), (640, 460), False),
        ("centre", (640, 480), (620, 460), False),
    ],
)
def test_sizes_of_a_pair_must_agree_after_the_crop_rule(crop, degraded, clean, fits):
    row = {"degraded": "h.png", "clean": "c.png", "crop": crop, "name": "h"}
    problems = size_problems([row], {"h.png": degraded, "c.png": clean})
    assert bool(problems) == (not fits)
    if problems:
        assert problems[0].startswith(f"h.png is {degraded[0]}x{degraded[1]}, c.png is {clean[0]}x{clean[1]}")


def test_ten_problems_are_shown_and_all_are_counted():
    with pytest.raises(AirpipeError, match=r"x: 12 problems\n  p0\n(.|\n)*p9\n  ... and 2 more\nMend it"):
        complain([f"p{i}" for i in range(12)], "x", "Mend it")
    complain([], "x", "Mend it")


# Files of a folder


def test_globs_stay_within_a_folder_and_name_images_only():
    paths = ["a.png", "a.PNG", "b/a.png", "a.txt", "Thumbs.db", "[1].png", "a.jpeg", "._a.png", "b/._a.png"]
    assert matching(paths, ["*"]) == ["a.png", "a.PNG", "[1].png", "a.jpeg"]
    assert matching(paths, ["*/a.*"]) == ["b/a.png"]
    assert matching(paths, ["*.jp*g", "?/*"]) == ["b/a.png", "a.jpeg"]


def test_listing_finds_what_matching_finds(tmp_path):
    for name in ("a.png", "b/a.png", "b/c/a.tif", "b/Thumbs.db", "d.png/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path, ["*", "*/*"]) == (["a.png", "b/a.png", "d.png/e.png"], [])
    assert list_images(tmp_path, ["nowhere/*"]) == ([], [])
    assert split_is_there(str(tmp_path), SplitSettings(clean="b/c/*"))
    assert not split_is_there(str(tmp_path), SplitSettings(clean="c/*"))


def test_links_out_of_a_folder_are_refused_where_it_was_unpacked_here_and_followed_elsewhere(tmp_path):
    inside, outside = tmp_path / "set", tmp_path / "other"
    (inside / "real").mkdir(parents=True)
    outside.mkdir()
    for folder in (inside / "real", outside):
        (folder / "a.png").touch()
    (inside / "alias").symlink_to("real")
    (inside / "away").symlink_to(outside)
    (inside / "real" / "b.png").symlink_to(outside / "a.png")
    assert list_images(inside, ["*/*"]) == (
        ["alias/a.png", "alias/b.png", "away/a.png", "real/a.png", "real/b.png"],
        [],
    )
    (tmp_path / "set.fetched.json").write_text("{}")
    paths, problems = list_images(inside, ["*/*"])
    assert paths == ["alias/a.png", "real/a.png"]
    assert [problem.split(":")[0] for problem in problems] == ["alias/b.png", "away/a.png", "real/b.png"]
    assert all("a link that leads out of the folder, to" in problem for problem in problems)
    (tmp_path / "linked").symlink_to(inside)  # the root itself may be a link
    assert list_images(tmp_path / "linked", ["real/a*"]) == (["real/a.png"], [])


def test_a_name_that_is_not_utf8_is_a_problem_with_its_bytes(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff\xfe.png", "wb"):
        pass
    (tmp_path / "ok.png").touch()
    paths, problems = list_images(tmp_path, ["*"])
    assert paths == ["ok.png"]
    assert problems == [r"b'\xff\xfe.png': the name is not valid UTF-8. Rename the file"]


# The scripts


def run(script, *arguments):
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def entry(folder, **split):
    """File with the entry of a data set that has the split train."""
    path = folder / "entry.yaml"
    path.write_text(json.dumps({"title": "", "splits": {"train": split}}))
    return path


def test_a_folder_becomes_manifest_and_pair_list(tmp_path):
    toy_images(tmp_path / "d" / "clean", 3)
    for path in toy_images(tmp_path / "d" / "hazy", 3):
        cv2.imwrite(str(path), cv2.imread(str(path)) // 2)
    file = entry(tmp_path, clean="clean/*", degraded="hazy/*", degradation="haze", expected=4)
    manifest, pairs = tmp_path / "m" / "d.train.csv", tmp_path / "p" / "d.train.csv"
    checked = run("check_dataset.py", "d.train", "--entry", file, "--root", tmp_path / "d", "--output", manifest)
    assert checked.returncode == 0, checked.stderr
    assert "note: 3 pairs found, 4 expected" in checked.stdout
    assert manifest.read_text().splitlines()[1].startswith("clean/img0.png,")
    assert manifest.read_text().splitlines()[1].endswith(",56,48")
    made = run("make_pairs.py", "d.train", "--entry", file, "--manifest", manifest, "--output", pairs)
    assert made.returncode == 0, made.stderr
    assert read_rows(pairs)[0] == {
        "degraded": "hazy/img0.png", "clean": "clean/img0.png", "degradation": "haze", "level": "", "crop": "none",
        "name": "img0", "group": "img0",
    }  # fmt: skip
    facts = json.loads(pairs.with_suffix(".json").read_text())
    assert (facts["pairs"], facts["rule"], facts["layout"]) == (3, "same", "own")


def test_strict_makes_another_count_than_expected_an_error(tmp_path):
    toy_images(tmp_path / "d", 3)
    file = entry(tmp_path, clean="*", expected=4, strict=True)
    checked = run(
        "check_dataset.py", "d.train", "--entry", file, "--root", tmp_path / "d", "--output", tmp_path / "m.csv"
    )
    assert checked.returncode == 2
    assert "3 images found, 4 expected" in checked.stderr
    assert not (tmp_path / "m.csv").exists()


def test_a_pairing_knows_every_file_once():
    rows = [{"degraded": "h/1_1.png", "clean": "c/1.png"}, {"degraded": "h/1_2.png", "clean": "c/1.png"}]
    assert Pairing(layout=None, rows=rows).files() == ["c/1.png", "h/1_1.png", "h/1_2.png"]
