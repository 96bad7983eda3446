"""A change redoes what follows it and nothing else: told from two plans, in milliseconds.

`redoing.py` says once more what the rules' inputs and params are; `test_reruns.py` holds it against Snakemake.
"""

from dataclasses import replace
from functools import partial

import pytest
from redoing import redone, trainings
from test_plan import (
    CHAIN,
    CONTROL,
    DEHAZE,
    DSRIR,
    DSRIR_NOISE,
    FINETUNE,
    MINE,
    NAFNET,
    PRETRAIN,
    RECOGNISERS,
    REPRESENTOR,
    SHORT,
    STUDIES_OFF,
    TRANSFER,
    VRDIR,
    common,
    nested,
    plan,
)

from airpipe.registry import stage_entry
from airpipe.settings.scoring import TestJob

SHOWN = {"tables", "figures", "published", "metrics", "page"}
"""Rules between scores and page."""
RECOGNISED = {"recognition_tables", "recognition_figures", "page"}
ISE, SAD, BRANCHES = CHAIN[0], CHAIN[1], {f"{VRDIR}/dnc_{name}" for name in ("haze", "noise", "rain")}
ENHANCERS = {f"seed0/{model}" for model in ("none", *CHAIN, NAFNET)}
OWN = {
    **MINE,
    "tests": {"own": {"pairs": "mine.test", "degradation": "noise", "recipe": "noise25"}},
    "tables": {"allinone": {"tests": ["photos_noise25", "own"]}},
}
TRAINED_ON_OWN = common("baseline", "nafnet_5d", "train", {"data": [{"pairs": "mine.train", "recipe": "noise"}]})


@pytest.fixture(scope="module")
def demo():
    return plan()


@pytest.fixture(scope="module")
def own():
    """A network that is trained and tested on a folder of the user's."""
    return plan(STUDIES_OFF, OWN, TRAINED_ON_OWN)


def demo_scale(method, setting, stage, values):
    """An overlay that changes a stage at demo scale."""
    return nested("methods", method, "settings", setting, "stages", stage, "scales", "demo", values)


def evaluated(*names):
    """Evaluations by table: ("allinone", [NAFNET]) is {"allinone/baseline/..."}."""
    return {f"{table}/{model}" for table, models in names for model in models}


EVERYTHING = evaluated(
    ("allinone", ["none", NAFNET]),
    ("protocols", ["none", NAFNET, SHORT, FINETUNE, DSRIR]),
    ("single_task", ["none", CONTROL, DEHAZE, DSRIR_NOISE]),
    ("pretraining", ["none", SHORT, FINETUNE, CONTROL, DEHAZE]),
    ("transfer", ["none", TRANSFER]),
)


def test_without_a_change_nothing_is_redone(demo):
    assert redone(demo, plan()) == {}


def test_a_fresh_clone_makes_everything_that_the_demo_needs():
    found = redone(None, plan())
    others = {CONTROL, DEHAZE, TRANSFER, REPRESENTOR, DSRIR, DSRIR_NOISE}
    assert trainings(found) == {NAFNET, SHORT, FINETUNE, PRETRAIN, *CHAIN, *RECOGNISERS, *others}
    assert found["recognise"] == ENHANCERS and len(found["features_knn"]) == 2
    assert found["evaluate"] == EVERYTHING and len(EVERYTHING) == 18
    assert found["show_stages"] == {DSRIR} and found["tables"] - found["figures"] == {"protocols"}
    assert found["features_retrieval"] == {TRANSFER}
    assert not {"pack", "fetch_dataset"} & set(found) and found["make_dataset"] == {"shapes0"}


# What redoes nothing


@pytest.mark.parametrize(
    "change",
    [
        nested("compute", "demo", "default", {"threads": 2, "mem_mb": 2000, "workers": 1, "runtime": 9}),
        nested("recipes", "unused", [{"operation": "jpeg", "parameters": {"quality": 10}}]),
        nested("datasets", "kodak24", "title", "Another title"),
        nested("recognition", "fresh_seeds", [2]),
        demo_scale("dcpt", "nafnet_5d_masked", "finetune", {"clip_norm": 0.5}),
    ],
    ids=["compute", "recipe", "title", "fresh seeds", "setting"],
)
def test_the_machine_and_what_nobody_uses_redo_nothing(demo, change):
    assert redone(demo, plan(change)) == {}


def test_words_about_a_setting_redo_the_tables_that_show_them(demo):
    words = nested("methods", "baseline", "settings", "nafnet_5d", "about", "Other words.")
    assert set(redone(demo, plan(words))) == RECOGNISED


# Training


def test_a_learning_rate_redoes_its_training_and_what_shows_it(demo):
    change = demo_scale("baseline", "nafnet_5d", "train", {"optimizers": {"net": {"learning_rate": 1e-3}}})
    found = redone(demo, plan(change))
    assert trainings(found) == found["freeze_settings"] == found["complexity"] == {NAFNET}
    assert found["evaluate"] == evaluated(("allinone", [NAFNET]), ("protocols", [NAFNET]))
    assert found["recognise"] == {f"seed0/{NAFNET}"}
    assert (found["tables"], found["figures"]) == ({"allinone", "protocols"}, {"allinone"})
    assert {"efficiency", *SHOWN} <= set(found)
    assert not {"freeze", "features_knn", "leakage", "pairs", "make_dataset"} & set(found)


def test_a_raised_revision_redoes_its_stages_and_what_follows(demo, monkeypatch):
    monkeypatch.setattr("airpipe.plan.models.stage_entry", raised("dcpt.pretrain"))
    found = redone(demo, plan())
    assert (found["freeze_settings"], trainings(found)) == ({PRETRAIN}, {PRETRAIN, FINETUNE})
    assert found["evaluate"] == evaluated(("pretraining", [FINETUNE]), ("protocols", [FINETUNE]))
    assert len(found["features_knn"]) == 2


def raised(task):
    """The registry's look-up, in which a stage has another revision."""
    return lambda name: replace(stage_entry(name), revision=99) if name == task else stage_entry(name)


@pytest.mark.parametrize(
    ("recipe", "retrained", "tests"),
    [
        # Trains with it, and the low-light test degrades with it: `none` is scored on that test anew, too.
        ("low_light", {NAFNET, SHORT, PRETRAIN, FINETUNE}, {"tests/photos_low_light"}),
        # The noise tests fix their sigma, so the recipe's range concerns training only.
        ("noise", {NAFNET, SHORT, PRETRAIN, FINETUNE, *BRANCHES, SAD, ISE, DSRIR, DSRIR_NOISE}, set()),
    ],
)
def test_a_recipe_redoes_trainings_with_it_and_tests_that_draw_from_it(demo, recipe, retrained, tests):
    found = redone(demo, plan(nested("recipes", recipe, [{"operation": "gaussian_noise", "parameters": {"sigma": 5}}])))
    assert trainings(found) == retrained
    assert {name for name in found.get("freeze", ()) if name.startswith("tests/")} == tests
    assert ({"allinone/none", "pretraining/none"} <= found["evaluate"]) == bool(tests)


def test_a_table_of_equal_budgets_redoes_itself_only(demo):
    first, second = [group.model_dump(mode="json") for group in demo.project.tables["pretraining"].groups]
    change = nested("tables", "pretraining", "groups", [{**first, "equal_budgets": False}, second])
    assert redone(demo, plan(change)) == {
        "tables": {"pretraining"}, "figures": {"pretraining"}, "published": {""}, "metrics": {""}, "page": {""},
    }  # fmt: skip


# Tests, protocols, report


@pytest.mark.parametrize(
    ("change", "tests", "tables"),
    [
        (
            nested("tests", "photos_noise25", "fixed", "sigma", 30),
            {"photos_noise25"},
            {"allinone", "protocols", "single_task", "pretraining"},
        ),
        (nested("tests", "photos_noise15", "keep_images", 1), {"photos_noise15"}, {"allinone"}),
        (
            nested("protocols", "dcpt", "border", 2),
            {"photos_noise25"},
            {"allinone", "protocols", "single_task", "pretraining"},
        ),
    ],
)
def test_a_test_or_protocol_evaluates_all_models_of_its_tables_and_trains_nothing(demo, change, tests, tables):
    """Which tests a job then scores follows from the frozen ones that changed (`test_scoring.py`)."""
    found = redone(demo, plan(change))
    assert found["freeze"] == {f"tests/{test}" for test in tests}
    scored = {name for name in EVERYTHING if name.split("/")[0] in tables}
    haze_only = evaluated(("pretraining", [CONTROL, DEHAZE]), ("single_task", [CONTROL, DEHAZE]))
    assert found["evaluate"] == scored - haze_only
    assert (found["tables"], found["figures"]) == (tables, tables - {"protocols"})
    shown = {"show_stages", "gallery"} if "photos_noise25" in tests else set()
    assert set(found) == {"freeze", "evaluate"} | SHOWN | shown


def test_a_raised_revision_of_scoring_evaluates_everything_and_trains_nothing(demo, monkeypatch):
    monkeypatch.setattr("airpipe.plan.studies.TestJob", partial(TestJob, revision=99))
    found = redone(demo, plan())
    assert found["freeze"] == {f"tests/{test}" for test in demo.project.tests}
    assert found["evaluate"] == EVERYTHING
    assert set(found) == {"freeze", "evaluate", "show_stages", "gallery"} | SHOWN


def test_another_test_in_a_table_evaluates_that_table_only(demo):
    tests = [*demo.project.tables["pretraining"].tests, "photos_noise15"]
    found = redone(demo, plan(nested("tables", "pretraining", "tests", tests)))
    assert found["evaluate"] == evaluated(("pretraining", ["none", SHORT, FINETUNE]))
    assert found["tables"] == {"pretraining"} and set(found) == {"evaluate"} | SHOWN


@pytest.mark.parametrize(
    ("change", "rules"), [(("zoom", 48), {"figures", "page"}), (("title", "Another"), {"page"})], ids=["zoom", "title"]
)
def test_the_report_redoes_what_it_shows_only(demo, change, rules):
    assert set(redone(demo, plan(nested("report", *change)))) == rules


# Chains of stages


def test_a_finetuning_setting_redoes_finetuning_only(demo):
    found = redone(demo, plan(demo_scale("dcpt", "nafnet_5d", "finetune", {"clip_norm": 0.5})))
    assert trainings(found) == found["freeze_settings"] == {FINETUNE}
    assert found["tables"] == {"pretraining", "protocols"} and not {"features_knn", "recognise"} & set(found)


def test_a_pretraining_setting_redoes_finetunings_settings_that_follow_it_and_the_analysis_of_its_features():
    masked = nested("tables", "pretraining", "groups", [{"models": ["dcpt/nafnet_5d", "dcpt/nafnet_5d_masked"]}])
    head = demo_scale("dcpt", "nafnet_5d", "pretrain", {"head": {"num_res_blocks": 2}})
    found = redone(plan(masked), plan(masked, head))
    follower = {model.replace("nafnet_5d", "nafnet_5d_masked") for model in (PRETRAIN, FINETUNE)}
    assert trainings(found) == {PRETRAIN, FINETUNE} | follower
    assert found["features_knn"] == {f"{PRETRAIN}/random", f"{PRETRAIN}/trained"}
    assert {"features_table", "features_figures", *SHOWN} <= set(found) and "recognise" not in found


def test_a_setting_of_a_follower_leaves_the_first_one_alone():
    masked = nested("tables", "pretraining", "groups", [{"models": ["dcpt/nafnet_5d", "dcpt/nafnet_5d_masked"]}])
    head = demo_scale("dcpt", "nafnet_5d_masked", "pretrain", {"head": {"num_res_blocks": 2}})
    found = redone(plan(masked), plan(masked, head))
    assert trainings(found) == {model.replace("nafnet_5d", "nafnet_5d_masked") for model in (PRETRAIN, FINETUNE)}
    assert "features_knn" not in found


def test_a_probe_of_another_settings_pretraining_trains_the_probe_only(demo):
    probe = "dcpt/nafnet_5d_probe/seed0/probe"
    found = redone(demo, demo, [("dcpt_probe", probe)])
    assert found == {"freeze_settings": {probe}, "dcpt_probe": {probe}}


@pytest.mark.parametrize(
    ("stage", "values", "redo"),
    [
        ("ise", {"freeze_branches": False}, {ISE}),
        ("dnc_rain", {"loss_weights": {"semantic": 0.5}}, {f"{VRDIR}/dnc_rain", ISE}),
        ("sad", {"sr_margin": 0.2}, {SAD, *BRANCHES, ISE}),
        ("recogniser_a", {"clip_norm": 1.0}, {*CHAIN, f"{VRDIR}/recogniser_a"}),
        ("recogniser_b", {"clip_norm": 1.0}, {f"{VRDIR}/recogniser_b"}),
    ],
)
def test_a_stage_of_vrdir_redoes_what_follows_it_and_the_tests_of_that(demo, stage, values, redo):
    found = redone(demo, plan(demo_scale("vrdir", "airpipe", stage, values)))
    assert trainings(found) == redo and found["freeze_settings"] == {f"{VRDIR}/{stage}"}
    # all enhancers are judged anew by another recogniser, and else those that changed
    judged = ENHANCERS if stage.startswith("recogniser") else {f"seed0/{model}" for model in redo}
    assert found["recognise"] == judged and set(found) >= RECOGNISED and "evaluate" not in found


def test_settings_share_the_recogniser_and_the_ablations_all_before_the_fusion(demo):
    def models(setting, *stages):
        return {f"vrdir/{setting}/seed0/{stage}" for stage in stages}

    def alone(setting):
        return trainings(redone(demo, demo, [("vrdir_ise", f"vrdir/{setting}/seed0/ise")]))

    assert alone("airpipe_trained") == models("airpipe_trained", "ise")
    for setting in ("reference", "airpipe_no_sr"):
        assert alone(setting) == models(setting, "sad", "dnc_haze", "dnc_noise", "dnc_rain", "ise")


# Studies


def test_another_test_in_the_gallery_redoes_the_gallery_and_scores_nothing(demo):
    found = redone(demo, plan(nested("gallery", "tests", ["photos_rain"])))
    assert found == {"show_stages": {DSRIR}, "gallery": {""}, "page": {""}}


def test_a_table_without_figures_draws_none_and_the_page_shows_it(demo):
    found = redone(demo, plan(nested("tables", "protocols", "figures", True)))
    assert found["figures"] == {"protocols"} and found["tables"] == {"protocols"} and "page" in found


def test_other_neighbours_redo_the_feature_analysis_only(demo):
    found = redone(demo, plan(nested("features", "neighbours", 3)))
    assert (
        set(found) == {"freeze", "features_knn", "features_table", "features_figures", "page"}
        and len(found["features_knn"]) == 2
    )


@pytest.mark.parametrize("change", [("pictures", 2), ("tests", "shapes_noise25", "seed", 7)])
def test_a_recognition_test_redoes_those_of_all_enhancers_and_trains_nothing(demo, change):
    found = redone(demo, plan(nested("recognition", *change)))
    assert found["recognise"] == ENHANCERS and set(found) == {"freeze", "recognise"} | RECOGNISED


def test_another_headline_redoes_tables_and_figures_only(demo):
    assert set(redone(demo, plan(nested("recognition", "headline", "a")))) == RECOGNISED


def test_another_enhancer_redoes_nothing_of_the_others():
    few, more = (plan(nested("recognition", "models", models)) for models in (CHOSEN[:2], CHOSEN))
    found = redone(few, more)
    assert found["recognise"] == {f"seed0/{VRDIR}/dnc_noise"} and set(found) == {"recognise"} | RECOGNISED


CHOSEN = ["vrdir/airpipe", "vrdir/airpipe/sad", "vrdir/airpipe/dnc_noise"]


def test_a_fresh_seed_makes_everything_of_vrdirs_own(demo):
    found = redone(demo, plan(nested("recognition", "fresh_seeds", [1])), [("recognition_seeds", "")])
    assert trainings(found) == {model.replace("seed0", "seed1") for model in (*CHAIN, *RECOGNISERS)}
    lists = {f"shapes1.{split}" for split in ("recognise", "train", "val", "test")}
    assert (found["make_dataset"], found["manifest"], found["pairs"]) == ({"shapes1"}, lists, lists)
    assert found["recognise"] == {f"seed1/{model.replace('seed0', 'seed1')}" for model in ("none", *CHAIN)}


# Data


def test_a_moved_folder_and_another_expectation_redo_no_list(own):
    assert redone(own, plan(STUDIES_OFF, OWN, TRAINED_ON_OWN, nested("datasets", "mine", "root", "elsewhere"))) == {}
    told = nested("datasets", "mine", "splits", "train", {"expected": 6, "sizes": {"a": ["168x144"]}})
    found = redone(own, plan(STUDIES_OFF, OWN, TRAINED_ON_OWN, told))
    assert found == {"freeze": {"splits/mine.train"}}  # `check` tells of it


def test_another_choice_of_test_images_scores_them_anew_and_trains_nothing(own):
    fewer = nested("datasets", "mine", "splits", "test", "leave_out", ["test/a.png"])
    found = redone(own, plan(STUDIES_OFF, OWN, TRAINED_ON_OWN, fewer))
    assert found["evaluate"] == evaluated(("allinone", ["none", NAFNET])) and not trainings(found)
    assert found["pairs"] == found["fingerprint"] == {"mine.test"} and "leakage" in found and "pack" not in found


def test_another_choice_of_training_images_trains_again(own):
    fewer = nested("datasets", "mine", "splits", "train", "leave_out", ["train/a.png"])
    found = redone(own, plan(STUDIES_OFF, OWN, TRAINED_ON_OWN, fewer))
    assert trainings(found) == {NAFNET} and found["pairs"] == found["pack"] == {"mine.train"}
    assert found["evaluate"] == evaluated(("allinone", [NAFNET]))


def test_a_pack_is_made_where_asked_and_retrains_nothing(own):
    packed = nested("compute", "demo", "baseline.train", {"pack": True})
    found = redone(own, plan(STUDIES_OFF, OWN, TRAINED_ON_OWN, packed))
    assert found == {"pack": {"mine.train"}}


def test_leaks_that_are_left_out_make_another_list_and_train_again(own):
    found = redone(own, plan(STUDIES_OFF, OWN, TRAINED_ON_OWN, {"leakage": {"remove": True}}))
    assert trainings(found) == {NAFNET} and found["remove_leaks"] == {"mine.train"} and "pairs" not in found


def test_leaking_images_of_a_fresh_seed_are_searched_for_in_its_own_lists():
    sets = {f"mine{seed}": MINE["datasets"]["mine"] for seed in (0, 1)}
    tests = {"own": {"pairs": "mine{seed}.test", "degradation": "noise", "recipe": "noise", "level": "own"}}

    def made(seed):
        chosen = {"datasets": sets, "recognition": {"tests": tests, "fresh_seeds": [seed]}}
        return redone(plan(STUDIES_OFF), plan(chosen), [("remove_leaks", "mine0.train")])

    assert made(0)["fingerprint"] == {"mine0.train", "mine0.test"}
    assert made(1)["fingerprint"] == {"mine0.train", "mine0.test", "mine1.test"}
    assert "mine1.test" in made(1)["pairs"]


def test_a_changed_entry_makes_its_data_set_anew_and_what_follows_and_no_other(demo):
    goals = [("pairs", "shapes0.val"), ("pairs", "photos.val")]
    found = redone(demo, plan(nested("datasets", "shapes0", "made", "seed", 5)), goals)
    assert found == {
        "freeze": {"made/shapes0"}, "make_dataset": {"shapes0"},
        "manifest": {"shapes0.val"}, "pairs": {"shapes0.val"},
    }  # fmt: skip


def test_drawn_lists_are_neither_packed_nor_searched_for_leaks():
    mix = {"data": [{"pairs": "shapes{seed}.train", "recipe": "noise"}], "loss_weights": {}}
    found = redone(plan(STUDIES_OFF), plan(STUDIES_OFF, common("baseline", "nafnet_5d", "train", mix)))
    assert trainings(found) == {NAFNET} and found["make_dataset"] == {"shapes0"}
    assert "pack" not in found and not any("shapes0" in name for name in found.get("fingerprint", ()))
