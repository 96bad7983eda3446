"""The data chapter of the workflow: what is made, what a change redoes, leaks and packs."""

import json
import os

import cv2
import pandas as pd
import pytest
from helpers import toy_images

from airpipe.data.pairs import read_rows
from workflow import TOY, copy_run, job_table, planned, snakemake, write_overlay

pytestmark = pytest.mark.pipeline

STAGE = "results/baseline/nafnet_5d/seed0/train"
TRAIN = {"data": [{"pairs": "mine.train", "recipe": "noise"}], "loss_weights": {}}


def listed_in(file):
    """Values of a data set whose training images a name list chooses."""
    return {"splits": {"train": {"name_list": {"file": str(file)}}}}


MINE = {
    "methods": {"baseline": {"settings": {"nafnet_5d": {"stages": {"train": {"common": TRAIN}}}}}},
    "datasets": {
        "mine": {
            "title": "Toy",
            "root": "pictures",
            "splits": {
                "train": {"clean": "train/*", "expected": 5, "name_list": {"file": "list.txt"}},
                "test": {"clean": "test/*"},
            },
        }
    },
    "tests": {"mine_noise25": {"pairs": "mine.test", "degradation": "noise", "recipe": "noise25"}},
    "tables": {"allinone": {"tests": ["photos_noise25", "mine_noise25"]}},
}
REPORT = {"tables": 1, "figures": 1, "published": 1, "metrics": 1, "page": 1}
LEAKS = {"fingerprint": 1, "leakage": 1}
EVALUATED = {"pairs": 1, "evaluate": 2} | LEAKS | REPORT
RETRAINED = {"pairs": 1, "pack": 1, "baseline_train": 1, "evaluate": 1, "complexity": 1, "efficiency": 1} | REPORT


def pictures(folder):
    """Five training pictures and three test pictures, of which test/img9 is training picture 2 again."""
    toy_images(folder / "train", count=5, size=(144, 168))
    toy_images(folder / "more", count=7, size=(144, 168))
    (folder / "test").mkdir()
    for number in (5, 6):
        (folder / "more" / f"img{number}.png").rename(folder / "test" / f"img{number}.png")
    image = cv2.imread(str(folder / "train" / "img2.png"))
    cv2.imwrite(str(folder / "test" / "img9.png"), image[:-1, :-1])


@pytest.fixture(scope="module")
def finished(toy_run, tmp_path_factory):
    """The toy run, trained and tested on a folder of files instead; what it has of the photographs stays."""
    folder = copy_run(toy_run, tmp_path_factory.mktemp("project") / "run")
    pictures(folder / "pictures")
    (folder / "list.txt").write_text("".join(f"img{number}.png\n" for number in range(5)))
    write_overlay(folder, TOY, MINE)
    snakemake(folder, "all", "data", "--configfile", "overlay.yaml")
    return folder


@pytest.fixture
def project(finished, tmp_path):
    return copy_run(finished, tmp_path / "copy")


def again(folder, *overlays):
    write_overlay(folder, TOY, MINE, *overlays)
    return planned(folder, "all", "data", "--configfile", "overlay.yaml")


def test_manifests_name_the_files_of_one_split_and_the_report_says_what_leaks(finished):
    manifest = pd.read_csv(finished / "results/manifests/mine.test.csv")
    assert list(manifest.columns) == ["path", "bytes", "sha256", "width", "height"]
    assert list(manifest.path) == ["test/img5.png", "test/img6.png", "test/img9.png"]
    assert list(manifest.width) == [168, 168, 167]
    leaks = pd.read_csv(finished / "results/data/leakage.csv")
    assert leaks[["train_image", "test_image", "relation"]].values.tolist() == [
        ["train/img2.png", "test/img9.png", "crop"]
    ]
    page = (finished / "results/report/index.html").read_text()
    assert "mine.train shows 1 of the 3 test images of mine.test" in page
    assert "<h2>Data</h2>" in page


def test_touched_and_moved_images_and_a_moved_name_list_redo_nothing(project):
    os.utime(project / "pictures/train/img0.png")
    (project / "pictures").rename(project / "elsewhere")
    (project / "list.txt").rename(project / "moved.txt")
    moved = {"root": str(project / "elsewhere")} | listed_in(project / "moved.txt")
    assert again(project, {"datasets": {"mine": moved}}) == {}


def test_a_folder_may_move_below_the_project(project):
    (project / "resources/datasets").mkdir(parents=True)
    (project / "pictures").rename(project / "resources/datasets/mine")
    assert again(project, {"datasets": {"mine": {"root": None}}}) == {}


def test_a_changed_test_image_redoes_its_scores_after_a_check_but_no_training(project):
    """Another expectation, of which the check and the page tell, trains nothing either."""
    toy_images(project / "pictures/test", count=6, size=(60, 64))
    for number in range(5):
        (project / f"pictures/test/img{number}.png").unlink()
    expected = {"datasets": {"mine": {"splits": {"train": {"expected": 6, "sizes": {"a": ["168x144"]}}}}}}
    write_overlay(project, TOY, MINE, expected)
    said = snakemake(project, "check", "--configfile", "overlay.yaml").stdout
    assert said.count("unchanged") == 3  # photos.val, photos.test, mine.train
    assert "results/manifests/mine.test.csv: 3 files, written" in said
    assert "note: 5 images found, 6 expected" in said
    weights = (project / STAGE / "model.safetensors").stat().st_mtime_ns
    done = snakemake(project, "all", "data", "--configfile", "overlay.yaml")
    assert job_table(done.stdout) == EVALUATED
    assert (project / STAGE / "model.safetensors").stat().st_mtime_ns == weights
    page = (project / "results/report/index.html").read_text()
    assert "mine.train: 5 pairs. version a; 5 images found, 6 expected" in page


def test_a_bad_file_fails_the_check_and_a_changed_training_image_trains_again(project):
    path = project / "pictures/train/img0.png"
    image, manifest = cv2.imread(str(path)), project / "results/manifests/mine.train.csv"
    before = manifest.read_bytes()
    path.write_bytes(b"")
    failed = snakemake(project, "check", "--configfile", "overlay.yaml", check=False)
    assert failed.returncode != 0
    assert "mine.train, 5 files: 1 problems" in failed.stdout
    assert "results/manifests/mine.test.csv: 3 files, unchanged" in failed.stdout
    assert manifest.read_bytes() == before
    cv2.imwrite(str(path), 255 - image)
    snakemake(project, "check", "--configfile", "overlay.yaml")
    # The tests on embedded photographs and on pictures, each for the model; `none` needs no model.
    assert again(project) == RETRAINED | LEAKS


def test_a_changed_name_list_makes_another_pair_list(project):
    (project / "list.txt").write_text("img0.png\nimg1.png\n")
    done = snakemake(project, "results/pairs/mine.train.csv", "--configfile", "overlay.yaml")
    assert job_table(done.stdout) == {"manifest": 1, "pairs": 1}
    assert [row["name"] for row in read_rows(project / "results/pairs/mine.train.csv")] == ["img0", "img1"]


def test_leaking_images_are_left_out_on_demand(project):
    write_overlay(project, TOY, MINE, {"leakage": {"remove": True}})
    snakemake(project, f"{STAGE}/model.safetensors", "--configfile", "overlay.yaml")
    rows = read_rows(project / "results/pairs/mine.train_noleak.csv")
    assert [row["name"] for row in rows] == ["img0", "img1", "img3", "img4"]
    facts = json.loads((project / "results/pairs/mine.train_noleak.json").read_text())
    assert (facts["removed"], facts["source_list"]) == (["img2"], "mine.train")
    card = json.loads((project / STAGE / "card.json").read_text())
    assert [pairs["id"] for pairs in card["pairs"]] == ["mine.train_noleak", "photos.val"]


def test_a_pack_is_made_on_demand_and_retrains_nothing_and_gives_the_same_bits(project):
    weights = (project / STAGE / "model.safetensors").read_bytes()
    write_overlay(project, TOY, MINE, {"compute": {"demo": {"baseline.train": {"pack": True}}}})
    done = snakemake(project, "all", "data", "--configfile", "overlay.yaml")
    assert job_table(done.stdout) == {"pack": 1}
    facts = json.loads((project / "results/packs/mine.train.json").read_text())
    assert facts["images"] == 5
    assert (project / facts["folder"] / "pixels.bin").stat().st_size >= 5 * 144 * 168 * 3
    done = snakemake(project, "--configfile", "overlay.yaml", "-f", f"{STAGE}/model.safetensors")
    assert job_table(done.stdout) == {"baseline_train": 1}
    assert (project / STAGE / "model.safetensors").read_bytes() == weights
