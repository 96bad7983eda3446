"""Curation in the workflow: a list to train on, made once; thresholds are cheap; 100 million pictures are planned."""

import json
import re

import cv2
import numpy as np
import pytest
import yaml
from curated import save, save_photographs
from helpers import ROOT, shipped

from airpipe.data.packages import locate
from airpipe.images import read_rgb8
from airpipe.plan import load_plan
from airpipe.settings.merging import deep_merge
from workflow import TOY, copy_project, copy_run, planned, snakemake, write_overlay

CURATED = {
    "datasets": {
        "curated": {
            "title": "Toy",
            "made": {
                "kind": "curated",
                "sources": {"mine": {"kind": "images", "root": "pictures"}},
                "shards": 2,
                "parts": 2,
                "against": ["photos.test"],
                "scores": {"patch": 64, "centre": 192},
                "choose": {"bounds": {"side": {"least": 100}, "blur": {"most": 0.7}}},
            },
        }
    }
}
TRAINED = {
    "methods": {
        "baseline": {
            "settings": {
                "nafnet_5d": {
                    "stages": {"train": {"common": {"data": [{"pairs": "curated.train", "recipe": "noise"}]}}}
                }
            }
        }
    }
}


def plan(*overlays):
    merged = shipped()
    for overlay in overlays:
        merged = deep_merge(merged, overlay)
    return load_plan(merged)


def test_a_curated_list_is_trained_on_without_files_manifest_or_search_for_leaks():
    found = plan(CURATED, TRAINED)
    assert found.mix("baseline/nafnet_5d/seed0/train") == ["curated.train"]
    assert found.not_embedded(["curated.train"]) == ["curated.train"]  # so that its pack is an input
    for lists in (*found.compared_lists(), found.checked_lists(), found.folder_lists(), found.made_sets()):
        assert not any(name.startswith("curated") for name in lists)
    assert plan(CURATED, TRAINED, {"leakage": {"remove": True}}).mix("baseline/nafnet_5d/seed0/train") == [
        "curated.train"
    ]


def test_the_tests_whose_images_are_kept_out_are_all_unless_some_are_named():
    assert plan(CURATED).kept_out("curated") == ["photos.test"]
    merged = deep_merge(shipped(), CURATED)
    del merged["datasets"]["curated"]["made"]["against"]
    assert load_plan(merged).kept_out("curated") == load_plan(merged).leak_tests() != []


def test_the_shipped_configuration_curates_nothing_and_the_overlay_does(monkeypatch):
    assert load_plan(shipped()).curated_sets() == []
    overlay = yaml.safe_load((ROOT / "config/overlays/curation.yaml").read_text())
    found = plan(overlay)
    monkeypatch.setenv("AIRPIPE_PICTURES", "/pictures")
    assert found.picture_sources("curated") == {"pictures": ("images", "/pictures")}
    assert found.curation("curated").choose.bounds["side"].least == 1024


def test_the_documented_overlays_curate_and_pretrain():
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/curation.md").read_text(), re.DOTALL)
    sources, pretraining = (yaml.safe_load(next(b for b in blocks if b.startswith(key))) for key in ("data", "methods"))
    found = plan(sources, pretraining, {"scale": "small", "models": ["dynet/cells"]})
    assert found.mix("dynet/cells/seed0/pretrain") == ["curated.train"]
    assert [kind for kind, _ in found.picture_sources("curated").values()] == ["images", "tars", "urls"]
    assert found.curation("curated").shards == found.curation("curated").parts == 1000


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("project"))
    for name, pixels in save_photographs(folder / "pictures").items():
        save(folder / "pictures" / "again" / f"{name}.jpg", pixels, quality=90)
    save(folder / "pictures" / "plain.png", np.full((150, 150, 3), 9, np.uint8))
    tested = read_rgb8(locate("skimage:data/astronaut.png"))  # in photos.test
    save(folder / "pictures" / "tested.jpg", cv2.resize(tested, (256, 256), interpolation=cv2.INTER_AREA))
    write_overlay(folder, TOY, CURATED, TRAINED)
    snakemake(folder, "curate", "--configfile", "overlay.yaml")
    return folder


@pytest.mark.pipeline
def test_the_workflow_makes_list_packs_and_report(project):
    facts = json.loads((project / "results/curation/curated/chosen.json").read_text())
    assert facts["pictures"] == 12 and facts["chosen"] == 5
    assert facts["removed"] == {"blur": 1, "duplicate": 5, "leak": 1, "patches": 1}
    packs = json.loads((project / "results/packs/curated.train.json").read_text())
    assert packs["pairs"] == facts["patches"] > 10 and len(packs["folder"]) == 2
    assert "shows an image of a test" in (project / "results/curation/curated/report.html").read_text()
    assert planned(project, "curate", "--configfile", "overlay.yaml") == {}


@pytest.mark.pipeline
def test_a_model_trains_on_the_curated_list(project, tmp_path):
    copy = copy_run(project, tmp_path / "copy")
    model = "results/baseline/nafnet_5d/seed0/train/model.safetensors"
    snakemake(copy, model, "--configfile", "overlay.yaml")
    assert (copy / model).is_file() and not list((copy / "results/manifests").glob("curated*"))
    card = json.loads((copy / model).with_name("card.json").read_text())
    assert [entry["id"] for entry in card["pairs"]] == ["curated.train", "photos.val"]


@pytest.mark.pipeline
def test_another_bound_redoes_no_score(project, tmp_path):
    copy = copy_run(project, tmp_path / "copy")
    looser = {"datasets": {"curated": {"made": {"choose": {"bounds": {"blur": {"most": 1.0}}}}}}}
    write_overlay(copy, TOY, CURATED, TRAINED, looser)
    jobs = planned(copy, "curate", "--configfile", "overlay.yaml")
    assert "curation_scores" not in jobs and jobs["curation_choice"] == 1


@pytest.mark.pipeline
def test_the_number_of_jobs_is_that_of_shards_and_parts_whatever_the_list_holds(project, tmp_path):
    copy = copy_run(project, tmp_path / "copy")
    many = {"shards": 40, "parts": 30, "sources": {"web": {"kind": "urls", "root": "addresses.txt"}}}
    (copy / "addresses.txt").touch()  # nothing of it is read
    write_overlay(copy, TOY, CURATED, {"datasets": {"curated": {"made": many}}})
    jobs = planned(copy, "curate", "curate_tars", "--configfile", "overlay.yaml", "--forceall")
    assert jobs["curation_scores"] == 40 and jobs["curation_pack"] == jobs["curation_tar"] == 30
    assert jobs["curation_listing"] == jobs["curation_choice"] == jobs["curated_list"] == 1
