"""The plan answers what the configuration asks for: in milliseconds, without Snakemake, files or torch."""

import re
import subprocess
import sys
from itertools import chain

import pytest
import yaml
from helpers import ROOT, shipped

from airpipe.errors import AirpipeError
from airpipe.methods.vrdir.settings import SadSettings
from airpipe.plan import Machine, asked_of_scheduler, launcher, load_plan, trained, training_rules
from airpipe.settings.base import settings_hash
from airpipe.settings.datasets import DatasetSettings
from airpipe.settings.merging import deep_merge
from airpipe.settings.names import ModelId
from airpipe.settings.scoring import REVISION, TestJob
from airpipe.settings.stages import ComputeSettings
from airpipe.settings.studies import FeatureSettings, RecognitionJob

NAFNET = "baseline/nafnet_5d/seed0/train"
SHORT = "baseline/nafnet_5d_short/seed0/train"
FINETUNE, PRETRAIN = "dcpt/nafnet_5d/seed0/finetune", "dcpt/nafnet_5d/seed0/pretrain"
VRDIR = "vrdir/airpipe/seed0"
CONTROL, DEHAZE = (f"degae/restormer_dehaze{arm}/seed0/finetune" for arm in ("_scratch", ""))
DSRIR, DSRIR_NOISE = "dsrir/all_in_one/seed0/train", "dsrir/noise/seed0/train"
TRANSFER, REPRESENTOR = "degae/restormer/seed0/pretrain", "degae/representor/seed0/representor"
CHAIN = [f"{VRDIR}/{stage}" for stage in ("ise", "sad", "dnc_haze", "dnc_noise", "dnc_rain")]
RECOGNISERS = [f"{VRDIR}/recogniser_b", f"{VRDIR}/recogniser_a"]
SHOWN = [NAFNET, SHORT, FINETUNE, DSRIR, CONTROL, DEHAZE, DSRIR_NOISE, TRANSFER]
STUDIES_OFF = {
    "recognition": {"scales": []},
    "features": {"scales": []},
    "gallery": {"scales": []},
    "tables": dict.fromkeys(("protocols", "single_task", "pretraining", "transfer"), {"scales": []}),
}
MINE = {
    "datasets": {
        "mine": {
            "title": "Toy",
            "root": "pictures",
            "splits": {
                "train": {"clean": "train/*", "expected": 4, "strict": True},
                "val_small": {"clean": "val/*"},
                "test": {"clean": "test/*", "input_psnr": 20.0},
            },
        }
    }
}


def plan(*overlays, machine=None):
    """The plan of the shipped configuration with overlays; of the shipped models only the baseline is chosen."""
    merged = shipped() | {"models": ["baseline/nafnet_5d"]}
    for overlay in overlays:
        merged = deep_merge(merged, overlay)
    return load_plan(merged, machine)


def nested(*keys_and_value):
    """nested("a", "b", 1) is {"a": {"b": 1}}."""
    *keys, value = keys_and_value
    for key in reversed(keys):
        value = {key: value}
    return value


def ids(settings):
    return [one.model_id for one in settings]


def common(method, setting, stage, values):
    """An overlay that changes a stage at all scales."""
    return nested("methods", method, "settings", setting, "stages", stage, "common", values)


@pytest.fixture(scope="module")
def demo():
    return plan()


def test_the_plan_imports_no_torch():
    code = "import airpipe.plan, sys; print([m for m in ('torch', 'numpy', 'cv2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# Models


def test_the_demo_shows_both_depths_of_one_network_beside_the_others():
    assert load_plan(shipped()).chosen_models() == [
        *(NAFNET, "dsrir/all_in_one/seed0/train"),
        *("dynet/dynet_3d/seed0/train@s", "dynet/dynet_3d/seed0/train@l"),
    ]


def test_a_setting_means_its_last_stage_for_every_seed(demo):
    assert demo.chosen_models() == [NAFNET]
    assert demo.model_ids(["dcpt/nafnet_5d", "dcpt/nafnet_5d/pretrain"], [0, 3]) == [
        FINETUNE,
        "dcpt/nafnet_5d/seed3/finetune",
        PRETRAIN,
        "dcpt/nafnet_5d/seed3/pretrain",
    ]
    assert plan({"seeds": [1, 2]}, STUDIES_OFF).chosen_models() == [NAFNET.replace("seed0", f"seed{k}") for k in (1, 2)]


def test_a_setting_may_say_which_stage_is_evaluated():
    chosen = nested("methods", "dcpt", "settings", "mine", {"like": "nafnet_5d", "evaluated": "pretrain"})
    assert plan(chosen).model_ids(["dcpt/mine"]) == ["dcpt/mine/seed0/pretrain"]


def test_tables_show_the_chosen_models_or_their_own(demo):
    assert demo.table_models("allinone") == [NAFNET]
    assert demo.table_models("pretraining") == [SHORT, FINETUNE, CONTROL, DEHAZE]
    assert demo.table_models("protocols") == [NAFNET, SHORT, FINETUNE, DSRIR]
    assert demo.table_models("single_task") == [CONTROL, DEHAZE, DSRIR_NOISE]
    assert demo.shown_models() == SHOWN


def test_a_table_evaluates_no_restoration_and_each_of_its_models_once(demo):
    found = [("pretraining", model) for model in ("none", SHORT, FINETUNE, CONTROL, DEHAZE)]
    assert demo.evaluations("pretraining") == found
    assert demo.evaluations("allinone", "pretraining") == [("allinone", "none"), ("allinone", NAFNET), *found]
    twice = plan(nested("tables", "allinone", "models", ["baseline/nafnet_5d"] * 2))
    assert twice.evaluations("allinone") == [("allinone", "none"), ("allinone", NAFNET)]


def test_a_table_needs_the_lists_of_its_tests_and_no_other():
    own = {"tests": {"own": {"pairs": "mine.test", "degradation": "noise", "recipe": "noise25"}}}
    found = plan(MINE, own, {"tables": {"mine": {"tests": ["own", "photos_rain"]}}})
    assert found.table_lists("mine") == ["mine.test", "photos.test"]
    assert found.table_lists("allinone") == ["photos.test"]


GROUPS = [
    {"models": ["baseline/nafnet_5d_short", "dcpt/nafnet_5d"], "equal_budgets": True},
    {"models": ["baseline/nafnet_5d"], "tests": ["photos_haze"]},
]


def grouped(*groups, **table):
    own = {"tests": ["photos_rain", "photos_haze"], "groups": list(groups or GROUPS), **table}
    return plan(STUDIES_OFF, {"tables": {"grouped": own}})


def test_a_group_of_models_is_scored_on_its_own_tests():
    found = grouped()
    assert found.evaluations("grouped") == [("grouped", model) for model in ("none", SHORT, FINETUNE, NAFNET)]
    tests = {model: found.table_tests("grouped", model) for model in ("none", FINETUNE, NAFNET)}
    assert tests == {"none": ("photos_rain", "photos_haze"), FINETUNE: tests["none"], NAFNET: ("photos_haze",)}
    first, second = found.project.tables["grouped"].compared()
    assert (first.equal_budgets, second.equal_budgets, second.tests) == (True, False, ("photos_haze",))


@pytest.mark.parametrize(
    ("groups", "table", "message"),
    [
        ([GROUPS[0]] * 2, {}, "groups: baseline/nafnet_5d_short stands in two of them"),
        ([{**GROUPS[1], "tests": ["photos_motion_blur"]}], {}, "unknown test of the table in groups"),
        (GROUPS, {"models": ["dcpt/nafnet_5d"]}, "found groups beside models, reference or equal_budgets"),
        ([{**GROUPS[0], "reference": "baseline/nafnet_5d"}], {}, "unknown model of the table in reference"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups, table, message):
    with pytest.raises(AirpipeError, match=message):
        grouped(*groups, **table)


def test_imported_models_have_no_seed_and_must_be_there():
    chosen = {"models": ["imported/vgg16", "baseline/nafnet_5d"], "seeds": [0, 1]}
    found = plan(chosen, STUDIES_OFF).chosen_models()
    assert found == ["imported/vgg16", NAFNET, NAFNET.replace("seed0", "seed1")]
    assert trained(found) == found[1:]
    absent = plan(chosen, STUDIES_OFF, machine=Machine(model=lambda model: model != "imported/vgg16"))
    with pytest.raises(
        AirpipeError, match=r"results/imported/vgg16 is not there: python scripts/import_weights.py FILE"
    ):
        absent.chosen_models()
    with pytest.raises(AirpipeError, match=r"FILE: torchvision's ImageNet weights, vgg16-397923af.pth"):
        absent.stages_in_use()


def test_variants_share_the_folder_of_their_model(demo):
    small = {"variants": {"s": {"middle_blk_num": 1}, "l": {}}}
    both = plan(*(common("dcpt", "nafnet_5d", stage, small) for stage in ("pretrain", "finetune")))
    found = both.model_ids(["dcpt/nafnet_5d@s", "dcpt/nafnet_5d/pretrain@l", "imported/mine@s"])
    with pytest.raises(AirpipeError, match=r"finetune@m: unknown variant 'm'.*Valid: l, s"):
        both.model_ids(["dcpt/nafnet_5d@m"])
    with pytest.raises(AirpipeError, match=r"train@s: unknown variant 's'.*Valid: \(none\)"):
        demo.model_ids(["baseline/nafnet_5d@s"])
    assert found == [f"{FINETUNE}@s", f"{PRETRAIN}@l", "imported/mine@s"]
    assert [ModelId.parse(model).folder for model in found] == [FINETUNE, PRETRAIN, "imported/mine"]
    asked = []
    plan(machine=Machine(model=lambda model: not asked.append(model))).model_ids(["imported/mine@s"])
    assert set(asked) == {"imported/mine"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["baselin/nafnet_5d"], "unknown method 'baselin'; did you mean 'baseline'"),
        (["baseline/nafnet"], "unknown setting of baseline 'nafnet'; did you mean 'nafnet_"),
        (["nafnet"], "'nafnet' is not method/setting, method/setting/stage or imported/name"),
    ],
)
def test_unknown_models_are_told_with_the_nearest(demo, names, message):
    with pytest.raises(AirpipeError, match=message):
        demo.model_ids(names)


# Stages


def test_stages_in_use_are_those_of_models_tables_and_studies_and_their_parents(demo):
    assert ids(demo.stages_in_use()) == [*SHOWN, *CHAIN, *RECOGNISERS, PRETRAIN, REPRESENTOR]
    assert demo.models_of("dcpt") == [FINETUNE, PRETRAIN]
    assert demo.models_of("vrdir") == [*CHAIN, *RECOGNISERS]
    assert ids(plan(STUDIES_OFF).stages_in_use()) == [NAFNET]


def test_parents_are_model_ids_of_the_same_seed(demo):
    assert demo.parents_of(FINETUNE.replace("seed0", "seed7")) == {"init": PRETRAIN.replace("seed0", "seed7")}
    assert set(demo.parents_of(f"{VRDIR}/ise").values()) == {
        f"{VRDIR}/{s}" for s in ("sad", "dnc_haze", "dnc_noise", "dnc_rain")
    }
    assert demo.parents_of(NAFNET) == {}


def test_a_setting_trains_on_from_a_finished_stage_as_the_readme_says():
    [written] = re.findall(r"`(nafnet_5d_on: .*?)`", (ROOT / "config/README.md").read_text(), re.DOTALL)
    on = "baseline/nafnet_5d_on/seed0/train"
    found = plan(nested("methods", "baseline", "settings", yaml.safe_load(written)))
    assert found.parents_of(on) == {"continued": "baseline/nafnet_5d/seed0/train"}
    assert found.frozen_stage(on) != found.frozen_stage("baseline/nafnet_5d/seed0/train")


def test_an_optional_parent_that_is_not_there_is_left_out(monkeypatch):
    stages = ("methods", "vrdir", "settings", "airpipe", "stages")
    named = nested(*stages, "sad", "scales", "demo", "parents", "encoder", "imported/vgg16")
    here, away = (plan(named, machine=Machine(model=lambda _, is_there=there: is_there)) for there in (True, False))
    assert here.parents_of(f"{VRDIR}/sad") == {"encoder": "imported/vgg16"}
    with pytest.raises(AirpipeError, match="results/imported/vgg16 is not there"):
        away.parents_of(f"{VRDIR}/sad")
    monkeypatch.setattr(SadSettings, "optional", frozenset({"encoder"}))
    assert away.parents_of(f"{VRDIR}/sad") == {}
    assert away.stage_settings(f"{VRDIR}/sad").parents == {"encoder": "imported/vgg16"}
    assert f"{VRDIR}/sad" in ids(away.stages_in_use())


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        ("pretrian", "unknown other stage of dcpt/nafnet_5d 'pretrian'; did you mean 'pretrain'"),
        ("dcpt/nafnet/pretrain", "unknown setting of dcpt 'nafnet'"),
        ("a/b/c/d", "is not of the form stage"),
    ],
)
def test_a_parent_that_does_not_exist_is_told(parent, message):
    with pytest.raises(AirpipeError, match=message):
        plan(common("dcpt", "nafnet_5d", "finetune", {"parents": {"init": parent}})).stages_in_use()


def test_stages_that_start_from_each_other_are_told():
    chosen = nested("methods", "dcpt", "settings", "nafnet_5d", "evaluated", "finetune")
    circle = common("dcpt", "nafnet_5d", "pretrain", {"parents": {"init": "finetune"}})
    with pytest.raises(AirpipeError, match="starts from .*; break the circle"):
        plan(chosen, circle).stages_in_use()


def test_a_seed_without_data_stops_the_method_that_wants_it_and_no_other():
    found = plan({"seeds": [0, 4]})
    told = r"seed 4 has no data set shapes4 \(shapes\{seed\}\). Add `shapes4: \{like: shapes0, made: \{seed: 4\}\}`"
    for ask in (found.stages_in_use, lambda: found.models_of("vrdir"), lambda: found.recognition_lists(4)):
        with pytest.raises(AirpipeError, match=told):
            ask()
    both = [model.replace("seed0", f"seed{seed}") for model in (NAFNET, SHORT) for seed in (0, 4)]
    assert sorted(found.models_of("baseline")) == sorted(both)
    own = plan({"seeds": [0, 4], "datasets": {"shapes4": {"like": "shapes0", "made": {"seed": 4}}}})
    assert len(own.models_of("vrdir")) == 2 * 7


# Pair lists


def test_lists_of_the_demo(demo):
    shapes = ["shapes0.recognise", "shapes0.test", "shapes0.train", "shapes0.val"]
    assert demo.training_lists() == ["photos.train", "photos.val", "shapes0.recognise", "shapes0.train", "shapes0.val"]
    assert demo.test_lists() == ["photos.test", "shapes0.test"]
    assert demo.compared_lists() == (["photos.train", "photos.val"], ["photos.test"])
    assert demo.drawn_lists() == shapes
    assert demo.checked_lists() == ["photos.test", "photos.train", "photos.val", *shapes]
    assert (demo.made_sets(), demo.folder_lists(), demo.leak_tests()) == (["shapes0"], [], ["photos.test"])


def test_a_stage_trains_and_validates_on_every_list_once(demo):
    assert demo.mix(NAFNET) == ["photos.train"] and demo.validation(NAFNET) == ["photos.val"]
    assert len(demo.stage_settings(NAFNET).data) == 5


def test_own_folders_are_searched_for_leaks_by_the_names_of_their_splits():
    here = Machine(split=lambda dataset, split: (dataset, split) != ("mine", "val_small"))
    train, test = plan(MINE, STUDIES_OFF, machine=here).compared_lists()
    assert train == ["mine.train", "photos.train", "photos.val"] and test == ["mine.test", "photos.test"]
    empty = plan(MINE, STUDIES_OFF, machine=Machine(split=lambda dataset, split: False))
    assert empty.own_lists() == ["mine.train"]  # its check tells what is missing


def test_lists_of_folders_are_told_on_the_page_and_packed_where_asked():
    shown = {
        "tests": {"own": {"pairs": "mine.test", "degradation": "noise", "recipe": "noise"}},
        "tables": {"allinone": {"tests": ["own"]}},
    }
    mix = common("baseline", "nafnet_5d", "train", {"data": [{"pairs": "mine.train", "recipe": "noise"}]})
    pack = nested("compute", "demo", "baseline.train", {"pack": True})
    found = plan(MINE, STUDIES_OFF, shown, mix, pack)
    assert found.folder_lists() == ["mine.test", "mine.train"]
    assert found.not_embedded(["mine.train", "photos.train", "mine.train"]) == ["mine.train"]
    assert [found.packed(name) for name in ("mine.train", "mine.test")] == [True, False]
    assert not plan(MINE, STUDIES_OFF, shown, mix).packed("mine.train")


def test_leaking_images_are_left_out_of_training_lists_that_have_files():
    mix = common("baseline", "nafnet_5d", "train", {"data": [{"pairs": "mine.train", "recipe": "noise"}]})
    found = plan(MINE, STUDIES_OFF, mix, {"leakage": {"remove": True}})
    assert found.training_lists() == ["mine.train_noleak", "photos.val"]
    assert found.split_entry("mine.train_noleak") == found.split_entry("mine.train")
    assert plan(MINE, {"leakage": {"remove": True, "against": ["mine.test"]}}).leak_tests() == ["mine.test"]


def test_leaks_are_searched_in_the_tests_of_fresh_seeds_that_have_data():
    sets = {f"mine{seed}": MINE["datasets"]["mine"] for seed in (0, 2)}
    tests = {"own": {"pairs": "mine{seed}.test", "degradation": "noise", "recipe": "noise", "level": "own"}}
    found = plan({"datasets": sets, "recognition": {"tests": tests, "fresh_seeds": [1, 2]}})
    assert found.leak_tests() == ["mine0.test", "mine2.test", "photos.test"]


# Data sets


def test_an_entry_is_cut_to_its_split_without_words_and_places():
    found = plan(MINE)
    entry = found.split_entry("mine.train")
    assert (entry.title, entry.root, list(entry.splits)) == ("", None, ["train"])
    assert found.split_entry("photos.test").packages and found.split_entry("photos.test").title == ""
    moved = plan(MINE, nested("datasets", "mine", "root", "elsewhere"))
    assert moved.split_entry("mine.train") == entry
    assert moved.source_entry("mine") == found.source_entry("mine")


def test_expectations_are_checked_but_change_no_pair_list():
    found = plan(MINE)
    changed = plan(MINE, nested("datasets", "mine", "splits", "train", {"expected": 5, "strict": False}))
    assert changed.split_entry("mine.train") != found.split_entry("mine.train")
    assert changed.pairs_entry("mine.train") == found.pairs_entry("mine.train")
    assert changed.source_entry("mine") == found.source_entry("mine")
    assert found.pairs_entry("mine.test").splits["test"].input_psnr is None


def test_another_split_changes_no_entry():
    other = plan(MINE, nested("datasets", "mine", "splits", "test", "leave_out", ["test/a.png"]))
    assert other.split_entry("mine.train") == plan(MINE).split_entry("mine.train")
    assert other.pairs_entry("mine.test") != plan(MINE).pairs_entry("mine.test")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda p: p.split_entry("fotos.test"), "unknown data set 'fotos'; did you mean 'photos'"),
        (lambda p: p.split_entry("photos.tset"), "data set photos: unknown split 'tset'; did you mean 'test'"),
        (lambda p: p.made("photos"), "unknown made data set 'photos'"),
        (lambda p: p.test_job("photos_noise"), "unknown test 'photos_noise'; did you mean 'photos_noise"),
        (lambda p: p.dataset("fotos"), "unknown data set 'fotos'"),
    ],
)
def test_unknown_data_sets_and_tests_are_told_with_the_nearest(demo, ask, message):
    with pytest.raises(AirpipeError, match=message):
        ask(demo)


def test_made_data_sets_say_how_and_from_what(demo):
    assert (demo.made("shapes0").seed, demo.made_from("shapes0")) == (0, None)
    made = {"kind": "voc_crops", "dataset": "photos", "lists": {"test": "test"}}
    assert plan({"datasets": {"cut": {"title": "", "made": made}}}).made_from("cut") == "photos"


def test_a_name_list_lies_where_the_machine_says(monkeypatch):
    monkeypatch.setenv("LISTS", "/lists")
    named = nested("datasets", "mine", "splits", "train", "name_list", {"file": "${LISTS}/train.txt"})
    found = plan(MINE, named)
    assert found.list_file("mine.train") == found.list_file("mine.train_noleak") == "/lists/train.txt"
    assert found.list_file("mine.test") is found.list_file("photos.test") is None
    assert found.split_entry("mine.train").splits["train"].name_list.file == ""


# Tests and studies


def test_a_test_job_has_its_recipe_and_its_protocols_written_out(demo):
    job = demo.test_job("photos_noise15")
    assert job.test.operations.operations[0].parameters["sigma"].constant == 15
    assert list(job.protocols) == ["airpipe", "promptir"]
    assert {(protocol.title, protocol.source) for protocol in job.protocols.values()} == {("", "")}
    assert f"revision: {REVISION}" in demo.frozen("tests", "photos_noise15")  # a raised one scores again


def test_features_are_analysed_for_the_named_models(demo):
    assert demo.feature_models() == [PRETRAIN] and demo.feature_lists() == ["photos.test"]
    assert plan(STUDIES_OFF).feature_models() == []


def test_a_feature_class_with_another_label_than_in_training_is_told():
    labels = nested("features", "classes", {"rain": {"label": 1}, "noise": {"label": 0}})
    with pytest.raises(AirpipeError, match="features, class rain has label 1; .* was trained with label 0"):
        plan(labels).feature_models()


def test_the_gallery_shows_its_models_of_the_first_seed_and_reads_the_lists_of_its_tests(demo):
    assert demo.gallery_models() == [DSRIR] and demo.gallery_lists() == ["photos.test"]
    seeds = plan({"seeds": [2, 5]}, {"recognition": {"scales": []}})
    assert seeds.gallery_models() == [DSRIR.replace("seed0", "seed2")]
    assert plan(STUDIES_OFF).gallery_models() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery": {"tests": []}}, "gallery: .*found models and no tests; name tests whose images are shown"),
        ({"gallery": {"tests": ["photos_rian"]}}, "unknown test in gallery 'photos_rian'; did you mean 'photos_rain'"),
        ({"gallery": {"tests": ["photos_transfer"]}}, "gallery: test photos_transfer shows a reference beside the im"),
        ({"gallery": {"models": ["dsrir/all_in_on"]}}, "unknown setting of dsrir 'all_in_on'; did you mean 'all_in_"),
        ({"tables": {"stages": {"tests": ["photos_rain"]}}}, "the name 'stages' belongs to the gallery; call the tab"),
    ],
)
def test_a_gallery_that_does_not_fit_is_refused(change, message):
    with pytest.raises(AirpipeError, match=message):
        plan(change)
    plan(change, {"gallery": {"scales": [], "tests": ["photos_rain"]}})


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        (["dsri"], "unknown protocol in table allinone 'dsri'; did you mean 'dsrir'"),
        (["airpipe"], "table allinone: without_protocols leaves none of the protocols of test photos_motion_blur"),
    ],
)
def test_protocols_that_a_table_leaves_out_are_known_and_not_all_of_a_test(left_out, message):
    with pytest.raises(AirpipeError, match=message):
        plan(nested("tables", "allinone", "without_protocols", left_out))


def test_every_enhancer_and_none_meets_the_recognisers_of_its_seed(demo):
    jobs = demo.recognised([0])
    assert jobs[:2] == [(0, "none"), (0, f"{VRDIR}/ise")] and jobs[-1] == (0, NAFNET) and len(jobs) == 7
    assert demo.recognisers(3) == {"b": "vrdir/airpipe/seed3/recogniser_b", "a": "vrdir/airpipe/seed3/recogniser_a"}
    assert demo.recognition_lists(0) == ["shapes0.test"]
    assert set(demo.recognition_models()) == {*CHAIN, NAFNET, *RECOGNISERS}


def test_fresh_seeds_repeat_one_methods_enhancers(demo):
    assert demo.fresh_seeds() == (1, 2, 3)
    jobs = demo.recognised(demo.fresh_seeds(), of="vrdir")
    assert len(jobs) == 3 * 6 and (2, "vrdir/airpipe/seed2/dnc_rain") in jobs
    assert not any("baseline" in model for _, model in jobs)


def test_without_recognition_there_is_nothing_to_recognise():
    off = plan(STUDIES_OFF)
    assert off.recognised([0]) == off.recognition_models() == off.recognition_lists(0) == []
    assert off.detection_files() == {}
    with pytest.raises(AirpipeError, match="scale demo has no recognition tests; name enhancers in recognition.models"):
        off.fresh_seeds()


def test_tables_are_told_about_enhancers_and_figures_about_branches(demo):
    assert set(demo.abouts()) == {"baseline/nafnet_5d", "vrdir/airpipe"}
    assert demo.branches() == {f"{VRDIR}/ise": ["haze", "noise", "rain"]}


def test_detections_lie_where_the_machine_says(monkeypatch):
    monkeypatch.delenv("BOXES", raising=False)
    boxes = {"annotations": "${BOXES}/a.json", "detections": {"clean": "b.json"}, "recogniser": "yolo"}
    found = plan(nested("recognition", "detections", {"boxes": boxes}))
    assert found.detection_texts() == {"boxes": {"recogniser": "yolo", "degradation": "", "level": ""}}
    with pytest.raises(AirpipeError, match="BOXES is not set"):
        found.detection_files()
    monkeypatch.setenv("BOXES", "/boxes")
    assert found.detection_files() == {"boxes": {"annotations": "/boxes/a.json", "detections": {"clean": "b.json"}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"models": ["vrdir/airpipe/recogniser_a"]},
            "vrdir/airpipe/recogniser_a tells classes apart and restores nothing; name it in recognition.recognisers",
        ),
        (
            {"recognisers": {"b": "vrdir/airpipe/sad"}},
            r"recogniser b: vrdir/airpipe/sad \(vrdir.sad\) tells no classes apart; name a stage of vrdir.recogniser",
        ),
    ],
)
def test_enhancers_restore_and_recognisers_recognise(change, message):
    with pytest.raises(AirpipeError, match=message):
        plan({"recognition": change})
    plan({"recognition": {**change, "scales": []}})  # nothing is asked where the tests are off


def test_compute_names_registered_stages_only():
    with pytest.raises(AirpipeError, match="compute.demo: unknown stage 'vrdir.sat'; did you mean 'vrdir.sad'"):
        plan(nested("compute", "demo", "vrdir.sat", {"threads": 2}))


# Frozen files


def all_frozen(found):
    """Class, settings and lines of everything that the demo freezes."""
    for settings in found.stages_in_use():
        yield type(settings), settings, found.frozen_stage(settings.model_id)
    for name in found.project.tests:
        yield TestJob, found.test_job(name), found.frozen("tests", name)
    for name in found.used_lists():
        yield DatasetSettings, found.split_entry(name), found.frozen("splits", name)
        yield DatasetSettings, found.pairs_entry(name), found.frozen("pairs", name)
    for name, entry in found.project.datasets.items():
        if not entry.made:
            yield DatasetSettings, found.source_entry(name), found.frozen("sources", name)
    yield FeatureSettings, found.features(), found.frozen("studies", "features")
    yield RecognitionJob, found.recognition_job(0), found.frozen("recognition", "seed0")
    yield type(found.made("shapes0")), found.made("shapes0"), found.frozen("made", "shapes0")


def test_frozen_files_give_the_same_settings_and_have_short_lines(demo):
    for kind, settings, lines in all_frozen(demo):
        again = kind.model_validate(yaml.safe_load("\n".join(lines)))
        assert settings_hash(again) == settings_hash(settings)
        assert lines[0] == f"# frozen by airpipe; settings hash {settings_hash(settings)}"
    assert max(len(line) for line in chain(*(lines for _, _, lines in all_frozen(demo)))) <= 200


def test_mappings_in_frozen_files_are_sorted_so_that_draws_keep_their_order(demo):
    frozen = yaml.safe_load("\n".join(demo.frozen_stage(NAFNET)))
    names = [list(step["parameters"]) for part in frozen["data"] for step in part["operations"]]
    assert names and all(keys == sorted(keys) for keys in names)
    assert list(frozen)[:3] == ["task", "revision", "method"]


def test_one_test_changes_one_frozen_file(demo):
    changed = plan(nested("tests", "photos_rain", "keep_images", 1))
    kinds = {
        "tests": list(demo.project.tests),
        "splits": demo.used_lists(),
        "pairs": demo.used_lists(),
        "studies": ["features"],
        "recognition": ["seed0"],
    }
    differ = [
        (k, name) for k, names in kinds.items() for name in names if changed.frozen(k, name) != demo.frozen(k, name)
    ]
    assert differ == [("tests", "photos_rain")]
    assert all(changed.frozen_stage(model) == demo.frozen_stage(model) for model in ids(demo.stages_in_use()))


# Rules


def test_every_stage_has_one_rule_or_shares_one():
    rules = {rule.name: rule for rule in training_rules()}
    assert list(rules) == [
        *("baseline_train", "dcpt_pretrain", "dcpt_probe", "dcpt_finetune", "dcpt_transfer"),
        *("vrdir_recogniser", "vrdir_sad", "vrdir_dnc", "vrdir_ise"),
        *("degae_representor", "degae_super_resolution", "degae_pretrain", "degae_finetune"),
        *("dsrir_train", "dynet_pretrain", "dynet_train"),
    ]
    dnc = rules["vrdir_dnc"]
    assert (dnc.path, dnc.wildcards) == ("vrdir/{setting}/seed{seed}/dnc_{degradation}", ["degradation"])
    shown = "VRD-IR {wildcards.setting}, seed {wildcards.seed}: branch for {wildcards.degradation}"
    assert dnc.message == shown
    assert rules["baseline_train"].message == "Baseline {wildcards.setting}, seed {wildcards.seed}: train"
    chain = ("vrdir_recogniser", "vrdir_sad", "vrdir_dnc", "vrdir_ise", "baseline_train")
    assert [rules[name].priority for name in chain] == [4, 3, 2, 1, 1]  # a chain's first stage before others' last


@pytest.mark.parametrize(
    ("values", "command", "asked"),
    [
        ({}, "python", {}),
        ({"gpu": 1}, "python", {"gpu": 1}),
        ({"gpu": 4}, "torchrun --standalone --nproc-per-node 4", {"gpu": 4}),
        (
            {"gpu": 4, "nodes": 2},
            "srun --kill-on-bad-exit=1 -n 8 --ntasks-per-node 4 -c 2 python",
            {"nodes": 2, "tasks": 8, "mpi": "srun", "gres": "gpu:4", "tasks_per_gpu": 0},
        ),
        (
            {"nodes": 3, "threads": 1},
            "srun --kill-on-bad-exit=1 -n 3 --ntasks-per-node 1 -c 1 python",
            {"nodes": 3, "tasks": 3, "mpi": "srun"},
        ),
    ],
)
def test_a_training_starts_with_the_launcher_that_its_machine_needs(values, command, asked):
    compute = ComputeSettings.model_validate(values)
    assert launcher(compute) == command
    assert asked_of_scheduler(compute) == {"mem_mb": 4000, "runtime": 60, **asked}


def test_every_degradation_is_handed_out_with_its_key(demo):
    found = demo.operations()
    assert {"recipes.noise", "tests.photos_rain", "features.classes.haze", "recognition.tests.shapes_haze"} <= set(
        found
    )
    assert found["tests.photos_rain"].names == found["recipes.rain"].names == ("rain_streaks",)


def test_no_frozen_line_is_too_long_to_paste(demo):
    kinds = {"tests": demo.project.tests, "studies": ["features"], "recognition": ["seed0"]}
    lists = [f"{name}.{split}" for name, entry in demo.project.datasets.items() for split in entry.split_names]
    fetched = [name for name, entry in demo.project.datasets.items() if not entry.made]
    made = [name for name, entry in demo.project.datasets.items() if entry.made]
    kinds |= {"splits": lists, "pairs": lists, "sources": fetched, "made": made}
    lines = [line for kind, names in kinds.items() for name in names for line in demo.frozen(kind, name)]
    lines += [line for model in ids(demo.stages_in_use()) for line in demo.frozen_stage(model)]
    assert len(lines) > 1000 and max(map(len, lines)) <= 200


def test_a_made_data_set_is_not_fetched(demo):
    with pytest.raises(AirpipeError, match="shapes0 is made here, not fetched: snakemake results/generated/shapes0"):
        demo.frozen("sources", "shapes0")


def test_a_method_is_planned_although_another_ones_import_is_missing():
    absent = Machine(model=lambda model: model != "imported/vgg16")
    paper = plan({"scale": "paper", "models": ["vrdir/reference", "baseline/nafnet_5d"]}, machine=absent)
    assert paper.models_of("baseline") == ["baseline/nafnet_5d/seed0/train"]
    with pytest.raises(AirpipeError, match="imported/vgg16 is not there: .*FILE: torchvision's ImageNet"):
        paper.models_of("vrdir")
