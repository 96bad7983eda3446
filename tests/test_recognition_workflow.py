"""Recognition in the pipeline: recognisers, VRD-IR, tests, tables, figures, page; a change redoes what follows it."""

import json

import pandas as pd
import pytest

from workflow import TOY, copy_project, copy_run, planned, snakemake, write_overlay

pytestmark = pytest.mark.pipeline

NETWORK = {"network": {"arguments": {"in_channels": 8, "front_channels": 4, "hidden": 6}}}
SHORT = {
    "phases": [{"steps": 4, "patch_size": 32, "batch_size": 4}],
    "optimizers": {"net": {"warmup_steps": 1}},
    "validation": {"every": 4},
}
STAGES = {
    "recogniser_a": {
        "common": {"network": {"arguments": {"widths": [4, 8], "body": [8, 8]}}},
        "scales": {"demo": {**SHORT, "optimizers": {name: {"warmup_steps": 1} for name in ("net", "decoder")}}},
    },
    "recogniser_b": {
        "common": {"network": {"arguments": {"stem": 4, "widths": [8, 8]}}},
        "scales": {"demo": SHORT},
    },
    **{
        name: {"scales": {"demo": {**NETWORK, **SHORT}}} for name in ("sad", "dnc_haze", "dnc_noise", "dnc_rain", "ise")
    },
}
BOX = [10, 10, 10, 10]
TRUTH = {
    "images": [{"id": 1}],
    "categories": [{"id": 1}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": BOX}],
}
SAID = [{"image_id": 1, "category_id": 1, "bbox": BOX, "score": 1}]
COUNTS = {"recognise": 24, "train": 12, "val": 8, "test": 16}
RECOGNITION = {
    "methods": {"vrdir": {"settings": {"airpipe": {"stages": STAGES}}}},
    "datasets": {f"shapes{seed}": {"made": {"counts": COUNTS}} for seed in (0, 1)},
    "recognition": {
        "scales": None,
        "models": ["vrdir/airpipe", "vrdir/airpipe/sad", "vrdir/airpipe/dnc_haze", "baseline/nafnet_5d"],
        "tests": {
            **dict.fromkeys(("shapes_noise15", "shapes_noise50", "shapes_rain")),
            "shapes_haze": {"tasks": ["classification", "retrieval"]},
        },
        "fresh_seeds": [1],
        "detections": {"boxes": {"annotations": "truth.json", "detections": {"clean": "said.json"}}},
    },
}
AFTER = {"recognition_tables": 1, "recognition_figures": 1, "page": 1}
MODELS = [
    "none",
    *(f"vrdir/airpipe/seed0/{stage}" for stage in ("ise", "sad", "dnc_haze")),
    "baseline/nafnet_5d/seed0/train",
]


@pytest.fixture(scope="module")
def project(toy_run, tmp_path_factory):
    """The toy run with recognition."""
    folder = copy_run(toy_run, tmp_path_factory.mktemp("recognition") / "run")
    (folder / "truth.json").write_text(json.dumps(TRUTH))
    (folder / "said.json").write_text(json.dumps(SAID))
    write_overlay(folder, TOY, RECOGNITION, name="recognition.yaml")
    snakemake(folder, "all", "--configfile", "recognition.yaml")
    return folder


def plan(folder, *overlays, target="all"):
    names = ["recognition.yaml"]
    for number, overlay in enumerate(overlays):
        names.append(write_overlay(folder, overlay, name=f"change{number}.yaml").name)
    return planned(folder, target, "--configfile", *names)


def test_every_enhancer_met_every_recogniser(project):
    for model in MODELS:
        facts = json.loads((project / f"results/recognition/seed0/{model}.json").read_text())
        assert set(facts["tests"]) == {"shapes_clean", "shapes_haze", "shapes_noise25"}
        assert set(facts["recognisers"]) == {"a", "b"}
        haze = facts["tests"]["shapes_haze"]
        assert haze["images"] == 16
        assert set(haze["recognition"]["b"]) == {"classification", "retrieval"}
    shared = json.loads((project / "results/recognition/seed0/vrdir/airpipe/seed0/ise.json").read_text())["recognisers"]
    assert shared["b"]["shared_values"] == 0
    assert shared["a"]["shared_values"] > 500  # the front's weights


def test_the_tables_have_a_row_for_every_variant(project):
    table = pd.read_csv(project / "results/tables/recognition.csv", keep_default_na=False)
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
    restoration = pd.read_csv(project / "results/tables/restoration.csv", keep_default_na=False)
    assert len(restoration) == len(top1) and set(restoration["n"]) == {16}


def test_figures_and_page_show_them(project):
    for name in ("top1", "pictures"):
        assert (project / f"results/figures/recognition/{name}.png").stat().st_size > 10_000
    page = (project / "results/report/index.html").read_text()
    assert 'id="recognition"' in page and "vrdir/airpipe, own branch" in page
    assert "Recogniser a shares its front with vrdir/airpipe" in page
    footer = page.partition('id="provenance"')[2]
    stages = ("ise", "sad", "dnc_haze", "recogniser_a", "recogniser_b")
    assert [footer.count(f"vrdir/airpipe/seed0/{stage}<") for stage in stages] == [1] * 5
    assert footer.count("baseline/nafnet_5d/seed0/train<") == 1
    assert "6 models, 6 training runs, demo scale." in page


def test_a_second_run_has_nothing_to_do(project):
    assert plan(project) == {}


def test_a_test_redoes_the_tests_of_all_enhancers_and_trains_nothing(project):
    change = {"recognition": {"tests": {"shapes_noise25": {"seed": 7}}}}
    assert plan(project, change) == {"recognise": 5} | AFTER


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ({"pictures": 2}, {"recognise": 5} | AFTER),
        ({"headline": "a"}, AFTER),
        ({"fresh_seeds": [2]}, {}),
    ],
)
def test_what_is_shown_redoes_as_the_documentation_says(project, change, redone):
    assert plan(project, {"recognition": change}) == redone


def test_another_enhancer_redoes_nothing_of_the_others(project):
    models = [*RECOGNITION["recognition"]["models"], "vrdir/airpipe/dnc_noise"]
    assert plan(project, {"recognition": {"models": models}}) == {"recognise": 1} | AFTER


def test_the_fusion_redoes_itself_and_its_tests(project):
    change = {
        "methods": {"vrdir": {"settings": {"airpipe": {"stages": {"ise": {"scales": {"demo": {"clip_norm": 1}}}}}}}}
    }
    assert plan(project, change) == {"freeze_settings": 1, "vrdir_ise": 1, "recognise": 1} | AFTER


def test_a_detector_redoes_the_tables_only(project, tmp_path):
    folder = copy_run(project, tmp_path / "copy")
    (folder / "said.json").write_text(json.dumps([{**SAID[0], "bbox": [10, 10, 10, 6]}]))
    assert plan(folder) == AFTER


def test_fresh_seeds_make_everything_of_vrdirs_own(project):
    found = plan(project, target="vrdir_seeds")
    assert found == {
        "make_dataset": 1,
        "manifest": 4,
        "pairs": 4,
        "freeze_settings": 7,
        "vrdir_recogniser": 2,
        "vrdir_sad": 1,
        "vrdir_dnc": 3,
        "vrdir_ise": 1,
        "recognise": 4,
        "recognition_seeds": 1,
        "vrdir_seeds": 1,
    }


def test_lists_without_leaks_are_searched_for_test_images_of_fresh_seeds(tmp_path):
    folder = copy_project(tmp_path / "run")
    splits = {name: {"clean": f"{name}/*/*", "classes": "folder"} for name in ("train", "test")}
    own = {"pairs": "mine{seed}.test", "degradation": "noise", "recipe": "noise"}
    change = {
        "datasets": {f"mine{seed}": {"title": "Toy", "root": "pictures", "splits": splits} for seed in (0, 1)},
        "leakage": {"remove": True},
        "recognition": {"tests": {"own": own}, "fresh_seeds": [0]},
    }
    found = {}
    for seed in (0, 1):
        write_overlay(folder, TOY, RECOGNITION, change, {"recognition": {"fresh_seeds": [seed]}})
        found[seed] = planned(folder, "results/pairs/mine0.train_noleak.csv", "--configfile", "overlay.yaml")
    assert found[0]["remove_leaks"] == found[1]["remove_leaks"] == 1
    more = {rule: found[1][rule] - found[0][rule] for rule in found[0]}
    assert {rule: count for rule, count in more.items() if count} == {
        "fetch_dataset": 1, "manifest": 1, "pairs": 1, "fingerprint": 1,
    }  # fmt: skip


def test_where_recognition_is_off_there_are_no_fresh_seeds(project):
    done = snakemake(project, "-n", "vrdir_seeds", "--config", "scale=paper", check=False)
    assert done.returncode == 1
    assert "scale paper has no recognition tests; name enhancers in recognition.models" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["vrdir/airpip"]}, "unknown setting of vrdir 'airpip'; did you mean 'airpipe'"),
        ({"recognisers": {"b": "imported/mine"}}, "results/imported/mine is not there"),
        ({"tests": {"odd": {"pairs": "shapes{seed}.test", "degradation": "noise", "recipe": "noise",
                            "fixed": {"sigm": 2}}}}, "recognition.tests.odd.fixed: unknown parameter 'sigm'"),
        ({"detections": {"boxes": {"annotations": "${NOT_SET_ANYWHERE}/a.json"}}}, "NOT_SET_ANYWHERE is not set"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_told_at_the_start(project, change, message):
    write_overlay(project, {"recognition": change}, name="wrong.yaml")
    done = snakemake(project, "-n", "all", "--configfile", "recognition.yaml", "wrong.yaml", check=False)
    assert done.returncode == 1
    assert message in " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def unused(tmp_path_factory):
    """The shipped demo with a seed that has no data set of shapes."""
    folder = copy_project(tmp_path_factory.mktemp("seed4"))
    write_overlay(folder, {"seeds": [0, 4]})
    return folder


def test_a_seed_without_data_stops_recognition_and_nothing_else(unused):
    told = "seed 4 has no data set shapes4 (shapes{seed}). Add `shapes4: {like: shapes0, made: {seed: 4}}` to datasets"
    for target in ("all", "train_vrdir"):
        done = snakemake(unused, "-n", target, "--configfile", "overlay.yaml", check=False)
        assert done.returncode == 1
        assert told in " ".join(done.stdout.split())
    assert planned(unused, "train_baseline", "--configfile", "overlay.yaml")["baseline_train"] == 4  # two settings
    model = "results/baseline/nafnet_5d/seed4/train/model.safetensors"
    assert planned(unused, model, "--configfile", "overlay.yaml")["baseline_train"] == 1


def test_a_seed_with_a_data_set_of_its_own_is_planned(unused):
    write_overlay(unused, {"datasets": {"shapes4": {"like": "shapes0", "made": {"seed": 4}}}}, name="data.yaml")
    names = ["--configfile", "overlay.yaml", "data.yaml"]
    assert planned(unused, "results/tables/recognition.csv", *names)["recognise"] == 14
