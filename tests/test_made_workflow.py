"""Data sets that are made here, in the workflow: made once, made anew when their entry changes."""

import json
import shutil

import pytest
from helpers import ROOT
from test_shapes import kit

from airpipe.cli.main import main
from airpipe.data.pairs import read_facts, read_rows
from workflow import TOY, copy_project, copy_run, job_table, planned, snakemake, write_overlay

pytestmark = pytest.mark.pipeline

FEW = {"recognise": 16, "train": 16, "val": 8, "test": 8}
SHAPES = {"datasets": {"shapes0": {"made": {"side": 16, "counts": FEW}}}}
CROPS = {
    "datasets": {
        "pascal_voc": {"root": "kit"},
        "voc_2007_crops": {"made": {"smallest": 8, "lists": {"train": "trainval", "test": "trainval"}}},
    }
}
LISTS = ["results/pairs/shapes0.val.csv", "results/pairs/voc_2007_crops.train.csv"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("project"))
    objects = [(name, 0, 0, 1 + 9 * n, 1, 9 + 9 * n, 16) for n, name in enumerate(("dog", "dog", "cat", "cat"))]
    kit(folder / "kit" / "VOCdevkit", objects)
    write_overlay(folder, TOY, SHAPES, CROPS)
    snakemake(folder, *LISTS, "--configfile", "overlay.yaml")
    return folder


def test_lists_of_made_data_sets_name_all_images_with_their_classes(project):
    shapes, crops = (project / path for path in LISTS)
    assert len(read_rows(shapes)) == 8
    assert sorted(read_facts(shapes)["classes"].values()) == [
        "bars", "crescent", "disc", "plus", "ring", "square", "star", "triangle",
    ]  # fmt: skip
    assert [row["clean"] for row in read_rows(crops)] == [
        "train/cat/000005_2.png",
        "train/cat/000005_3.png",
        "train/dog/000005_0.png",
        "train/dog/000005_1.png",
    ]
    assert json.loads((project / "results/generated/shapes0.json").read_text())["images"] == FEW


def test_a_changed_entry_makes_its_data_set_anew_and_no_other_and_then_nothing_is_left(project, tmp_path):
    copy = copy_run(project, tmp_path / "copy")
    before = (copy / "results/manifests/shapes0.val.csv").read_bytes()
    write_overlay(copy, TOY, SHAPES, CROPS, {"datasets": {"shapes0": {"made": {"seed": 5}}}})
    done = snakemake(copy, *LISTS, "--configfile", "overlay.yaml")
    assert job_table(done.stdout) == {"make_dataset": 1, "manifest": 1, "pairs": 1}
    assert (copy / "results/manifests/shapes0.val.csv").read_bytes() != before
    assert planned(copy, *LISTS, "--configfile", "overlay.yaml") == {}


def test_a_folder_that_was_deleted_is_made_again_and_checked(project, tmp_path):
    copy = copy_run(project, tmp_path / "copy")
    shutil.rmtree(copy / "results/generated/shapes0")
    done = snakemake(copy, "results/generated/shapes0", "--configfile", "overlay.yaml")
    assert job_table(done.stdout) == {"make_dataset": 1}
    assert len(list((copy / "results/generated/shapes0").rglob("*.png"))) == sum(FEW.values())


def test_the_list_of_data_sets_tells_what_a_made_one_lacks(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    for name in ("DATASETS", "GENERATED"):
        monkeypatch.setattr(f"airpipe.cli.data.{name}", tmp_path)
    main(["data", "list"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "not here (needs pascal_voc, not here)" in lines["voc_2007_crops"]
    assert "shapes0" in lines
