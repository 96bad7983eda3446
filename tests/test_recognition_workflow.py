"""Recognition in the toy run: recognisers, VRD-IR, tests, tables, figures, page; what Snakemake redoes of it."""

import json
import re

import pandas as pd
import pytest
from test_plan import nested, plan

from airpipe.degradations.recipes import check_operations
from airpipe.errors import AirpipeError
from airpipe.plan import Machine
from workflow import (
    CHAPTERS,
    RECOGNITION,
    SAID,
    copy_project,
    copy_run,
    planned,
    snakemake,
    write_overlay,
)

pytestmark = pytest.mark.pipeline

MODELS = [
    "none",
    *(f"vrdir/airpipe/seed0/{stage}" for stage in ("ise", "sad", "dnc_haze")),
    "baseline/nafnet_5d/seed0/train",
]


def test_every_enhancer_met_every_recogniser(toy_run):
    for model in MODELS:
        facts = json.loads((toy_run / f"results/recognition/seed0/{model}.json").read_text())
        assert set(facts["tests"]) == {"shapes_clean", "shapes_haze", "shapes_noise25"}
        assert set(facts["recognisers"]) == {"a", "b"}
        haze = facts["tests"]["shapes_haze"]
        assert haze["images"] == 16
        assert set(haze["recognition"]["b"]) == {"classification", "retrieval"}
    shared = json.loads((toy_run / "results/recognition/seed0/vrdir/airpipe/seed0/ise.json").read_text())["recognisers"]
    assert shared["b"]["shared_values"] == 0
    assert shared["a"]["shared_values"] > 500  # the front's weights


def test_the_tables_have_a_row_for_every_variant(toy_run):
    table = pd.read_csv(toy_run / "results/tables/recognition.csv", keep_default_na=False)
    top1 = table[(table["recogniser"] == "b") & (table["metric"] == "top1")]
    found = {(row["variant"], row["degradation"], row["model"]) for row in top1.to_dict("records")}
    ise, sad, nafnet = "vrdir/airpipe/ise", "vrdir/airpipe/sad", "baseline/nafnet_5d/train"
    assert found == {
        *{("clean", "clean", ""), ("degraded", "haze", ""), ("degraded", "noise", "")},
        *{("restored_clean", "clean", model) for model in (ise, nafnet)},
        *{("restored", degradation, model) for degradation in ("haze", "noise") for model in (ise, nafnet)},
        *{("decoder_clean", "clean", sad), ("decoder_only", "haze", sad), ("decoder_only", "noise", sad)},
        ("branch_haze", "haze", "vrdir/airpipe/dnc_haze"),
    }
    assert set(top1["dataset"]) == {"shapes"} and set(top1["chance"].astype(float)) == {12.5}
    assert table.loc[table["task"] == "detection", "value"].astype(float).tolist() == [100, 100, 100]
    restoration = pd.read_csv(toy_run / "results/tables/restoration.csv", keep_default_na=False)
    assert len(restoration) == len(top1) and set(restoration["n"]) == {16}


def test_figures_and_page_show_them(toy_run):
    for name in ("top1", "pictures"):
        assert (toy_run / f"results/figures/recognition/{name}.png").stat().st_size > 10_000
    page = (toy_run / "results/report/index.html").read_text().replace("<wbr>", "")
    assert 'id="recognition"' in page and "vrdir/airpipe, own branch" in page
    assert "Recogniser a shares its front with vrdir/airpipe" in page
    footer = page.partition('id="provenance"')[2]
    stages = ("ise", "sad", "dnc_haze", "recogniser_a", "recogniser_b")
    assert [footer.count(f"vrdir/airpipe/seed0/{stage}<") for stage in stages] == [1] * 5
    assert footer.count("baseline/nafnet_5d/seed0/train<") == 1
    assert "10 models, 10 training runs, demo scale." in page


def test_other_detections_and_another_enhancer_redo_their_own_tests_and_the_tables(toy_run, tmp_path):
    folder = copy_run(toy_run, tmp_path / "copy")
    (folder / "said.json").write_text(json.dumps([{**SAID[0], "bbox": [10, 10, 10, 6]}]))
    models = [*RECOGNITION["recognition"]["models"], "vrdir/airpipe/dnc_noise"]
    write_overlay(folder, *CHAPTERS, nested("recognition", "models", models))
    after = {"recognition_tables": 1, "recognition_figures": 1, "page": 1}
    assert planned(folder, "all", "--configfile", "overlay.yaml") == {"recognise": 1} | after


def checked(change):
    """The plan of the shipped configuration with a change, as a run checks it where nothing is imported."""
    found = plan(change, machine=Machine(model=lambda _: False))
    for where, operations in found.operations().items():
        check_operations(operations, where)
    return found.recognisers(0), found.recognised([0]), found.detection_files()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["vrdir/airpip"]}, "unknown setting of vrdir 'airpip'; did you mean 'airpipe'"),
        ({"recognisers": {"b": "imported/mine"}}, "results/imported/mine is not there"),
        ({"tests": {"odd": {"pairs": "shapes{seed}.test", "degradation": "noise", "recipe": "noise",
                            "fixed": {"sigm": 2}}}}, "recognition.tests.odd.fixed: unknown parameter 'sigm'"),
        ({"detections": {"boxes": {"annotations": "${NOT_SET_ANYWHERE}/a.json", "detections": {"clean": "b.json"}}}},
         "NOT_SET_ANYWHERE is not set"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_told(change, message):
    with pytest.raises(AirpipeError, match=re.escape(message)):
        checked({"recognition": change})


def test_a_seed_without_data_stops_recognition_and_nothing_else(tmp_path):
    folder = copy_project(tmp_path)
    write_overlay(folder, {"seeds": [0, 4]})
    done = snakemake(folder, "-n", "all", "--configfile", "overlay.yaml", check=False)
    told = "seed 4 has no data set shapes4 (shapes{seed}). Add `shapes4: {like: shapes0, made: {seed: 4}}` to datasets"
    assert done.returncode == 1 and told in " ".join(done.stdout.split())
    assert planned(folder, "train_baseline", "--configfile", "overlay.yaml")["baseline_train"] == 4  # two settings
