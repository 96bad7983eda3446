"""A seed picks versions of clean images: as many as asked for, evenly, wherever the files lie; and it is recorded."""

import json
import random
import subprocess
import sys
from collections import Counter

import cv2
import pytest
from helpers import ROOT, one_thread, toy_images

from airpipe.data.pairs import pair_up, read_rows
from airpipe.data.picking import picked
from airpipe.settings.datasets import Pick, SplitSettings

AIRLIGHTS, BETAS = (0.8, 0.85, 0.9, 0.95, 1), (0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2)
KINDS = [f"{a}_{b}" for a in AIRLIGHTS for b in BETAS]
"""The 35 versions of an image of RESIDE OTS."""


def rows(clean_images, folder="hazy", kinds=KINDS):
    return [
        {"degraded": f"{folder}/{n:04}_{kind}.jpg", "clean": f"clear/{n:04}.jpg", "name": f"{n:04}_{kind}"}
        for n in clean_images
        for kind in kinds
    ]


def names(found):
    return [row["name"] for row in found[0]]


def test_one_of_35_versions_of_each_picked_image_is_kept_in_the_order_of_the_list():
    offered = rows(range(897))
    found = picked(offered, Pick(clean_images=500))
    assert found[1] == []
    assert len({row["clean"] for row in found[0]}) == len(found[0]) == 500
    assert [row for row in offered if row in found[0]] == found[0]


def test_all_versions_are_about_equally_likely_and_images_are_picked_from_the_whole_list():
    found = names(picked(rows(range(3500)), Pick(clean_images=1750)))
    counts = Counter(name.split("_", 1)[1] for name in found)
    assert len(counts) == 35
    # 50 of each are expected; chi-squared with 34 degrees of freedom is above 65 in one case of a thousand
    assert sum((count - 50) ** 2 / 50 for count in counts.values()) < 65
    numbers = [int(name[:4]) for name in found]
    assert sum(numbers) / 1750 == pytest.approx(1750, abs=75)
    assert min(numbers) < 20 and max(numbers) > 3480


def test_the_seed_alone_fixes_the_choice_whatever_folders_and_order():
    one = names(picked(rows(range(40)), Pick(clean_images=20)))
    elsewhere = rows(range(40), folder="synthetic/part1")
    random.Random(1).shuffle(elsewhere)
    assert sorted(names(picked(elsewhere, Pick(clean_images=20)))) == one
    other = names(picked(rows(range(40)), Pick(clean_images=20, seed=1)))
    assert len(set(one) & set(other)) < 5


def test_picking_again_from_what_was_picked_changes_nothing():
    first = picked(rows(range(40)), Pick(per_clean=3, clean_images=20))
    assert len(first[0]) == 60
    assert picked(first[0], Pick(per_clean=3, clean_images=20)) == first


def test_another_image_displaces_at_most_one_and_another_version_none_of_other_images():
    pick = Pick(clean_images=20)
    before, after = (set(names(picked(rows(range(count)), pick))) for count in (40, 41))
    assert len(before - after) <= 1
    fewer = set(names(picked(rows(range(40), kinds=KINDS[:-1]), pick)))
    assert {name for name in before if not name.endswith(KINDS[-1])} <= fewer


def test_splits_of_clean_images_are_picked_from_too():
    pairing = pair_up([f"{n}.png" for n in range(30)], SplitSettings(clean="*", pick={"clean_images": 12}))
    assert (len(pairing.rows), pairing.problems) == (12, [])
    assert pairing.picked_from == {"of_pairs": 30, "of_clean_images": 30}


@pytest.mark.parametrize(
    ("pick", "problem"),
    [
        (
            {"clean_images": 41},
            "40 clean images have a pair, 41 are to be picked. Add some, lower clean_images of pick",
        ),
        ({"per_clean": 36, "clean_images": 1}, "35 of 36 degraded versions are there. Add them, or lower per_clean"),
    ],
)
def test_fewer_than_are_asked_for_is_a_problem(pick, problem):
    problems = picked(rows(range(40)), Pick(**pick))[1]
    assert len(problems) == 1 and problem in problems[0]


def test_the_pair_list_holds_what_was_picked_and_its_json_how(tmp_path):
    clean = toy_images(tmp_path / "d" / "clear", 4)
    for number in range(4):
        for kind in ("0.8_0.1", "1_0.2"):
            (tmp_path / "d" / "hazy").mkdir(exist_ok=True)
            hazy = cv2.imread(str(clean[number])) // 2 + 99
            cv2.imwrite(str(tmp_path / "d" / "hazy" / f"img{number}_{kind}.png"), hazy)
    split = {"clean": "clear/*", "degraded": "hazy/*", "rule": "haze_id", "expected": 3, "strict": True}
    entry = tmp_path / "entry.yaml"
    entry.write_text(json.dumps({"title": "", "splits": {"train": {**split, "pick": {"clean_images": 3, "seed": 4}}}}))
    manifest, pairs = tmp_path / "m" / "d.train.csv", tmp_path / "p" / "d.train.csv"
    for script, *arguments in (
        ("check_dataset.py", "--root", tmp_path / "d", "--output", manifest),
        ("make_pairs.py", "--manifest", manifest, "--output", pairs),
    ):
        command = [sys.executable, ROOT / "scripts" / script, "d.train", "--entry", entry, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=one_thread())
        assert done.returncode == 0, done.stderr
        if script == "check_dataset.py":
            assert "picked from 8 pairs of 4 clean images by seed 4" in done.stdout
    assert len(manifest.read_text().splitlines()) == 1 + 3 + 3  # nothing is read that was not picked
    listed = read_rows(pairs)
    assert len({row["clean"] for row in listed}) == len(listed) == 3
    assert json.loads(pairs.with_suffix(".json").read_text())["pick"] == {
        "per_clean": 1, "clean_images": 3, "seed": 4, "of_pairs": 8, "of_clean_images": 4
    }  # fmt: skip
