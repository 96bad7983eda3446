"""Settings are strict, shipped configs are valid, and the frozen settings hold science only."""

import json
import subprocess
import sys

import pytest
from helpers import RAIN, ROOT, shipped, stage

from airpipe.degradations.recipes import check_operations
from airpipe.errors import AirpipeError
from airpipe.registry import networks, resolve, settings_class, stage_entry, stages, task_class
from airpipe.settings.base import canonical_json, check_settings, settings_hash
from airpipe.settings.degrading import Draw, Recipe
from airpipe.settings.freezing import frozen_stage
from airpipe.settings.merging import deep_merge
from airpipe.settings.project import SettingPlan, check_compute, load_project
from airpipe.settings.stages import ComputeSettings, DataPart, StageSettings

PROMPTIR = {"network": {"name": "promptir", "arguments": {"dim": 8}}}


OVERLAYS = sorted(path.name for path in (ROOT / "config" / "overlays").glob("*.yaml"))


@pytest.mark.parametrize("overlay", [(), *((name,) for name in OVERLAYS)], ids=str)
def test_every_shipped_config_is_valid_and_freezes_all_its_stages(overlay):
    project = load_project(shipped(*overlay))
    for model in project.models:
        for name, plan in project.setting_plan(model).stages.items():
            frozen = frozen_stage(project, model, 0, name, settings_class(plan.task), stage_entry(plan.task).revision)
            assert frozen.steps > 100
            assert all(bool(part.operations) == (part.recipe is not None) for part in frozen.data)
    for test, settings in project.tests.items():
        written = project.test(test).operations
        check_operations(written, test)
        assert bool(written) == (settings.recipe is not None)


def test_recipes_of_both_sides_are_written_out_whole_and_unknown_ones_are_told():
    values = shipped()
    both = {"operations": values["recipes"]["haze_rain"], "shuffle": 0.5, "composition": "last"}
    values["recipes"] |= {"both": both}
    part = {"pairs": "photos.train", "recipe": "both", "target_recipe": "noise", "companion": True}
    stages = values["methods"]["baseline"]["settings"]["nafnet_5d"]["stages"]
    stages["train"]["scales"]["demo"]["data"] = [part]

    def freeze():
        entry = stage_entry("baseline.train")
        project = load_project(values)
        return frozen_stage(project, "baseline/nafnet_5d", 0, "train", settings_class("baseline.train"), entry.revision)

    found = freeze().data[0]
    assert found.operations == Recipe.model_validate(both)
    assert found.target_operations == Recipe.model_validate(values["recipes"]["noise"])
    part["target_recipe"] = "nois"
    with pytest.raises(AirpipeError, match="unknown recipe 'nois'; did you mean 'noise'"):
        freeze()


def test_the_json_schema_is_in_step():
    from airpipe.settings.project import json_schema

    stored = json.loads((ROOT / "workflow" / "schemas" / "config.schema.json").read_text())
    assert stored == json_schema(), "run: make docs"


def test_every_registered_name_resolves():
    for target in networks().values():
        assert callable(resolve(target))
    for task in stages():
        assert callable(task_class(task))
        assert issubclass(settings_class(task), StageSettings)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["scal"], "demo", r"unknown setting 'scal'; did you mean 'scale'\?"),
        (["report", "zom"], 3, r"report: unknown setting 'zom'; did you mean 'zoom'\?"),
        (["report", "zoom"], -3, r"report.zoom: .*greater than 0 \(found -3\)"),
        (
            ["models"],
            ["baseline/nafnet_6d"],
            r"unknown setting of baseline 'nafnet_6d'; did you mean 'nafnet_5d'\?",
        ),
        (["models"], ["baselin/nafnet_5d"], r"unknown method 'baselin'; did you mean 'baseline'\?"),
        (
            ["models"],
            ["nafnet_5d"],
            "models.0: 'nafnet_5d' is not method/setting, method/setting/stage",
        ),
        (["models"], ["baseline/nafnet_5d/train"], "names a stage; expected method/setting"),
        (["tables", "allinone", "models"], ["imported/a/b"], "tables.allinone.models.0: 'imported/a/b' is not method"),
        (
            ["tests", "photos_rain", "recipe"],
            "rian",
            r"unknown recipe in test photos_rain 'rian'; did you mean 'rain'\?",
        ),
        (["tests", "photos_rain", "protocols"], ["airpip"], r"did you mean 'airpipe'\?"),
        (["tables", "allinone", "tests"], ["photos_ran"], r"did you mean 'photos_rain'\?"),
        (["tables", "allinone", "models"], ["baseline/nafnet_6d"], r"did you mean 'nafnet_5d'\?"),
        (["datasets", "bsd400", "splits", "train", "clean"], "**/*.jpg", "expected a glob below root"),
        (["compute", "demo", "default", "thread"], 2, r"did you mean 'threads'\?"),
        (
            ["recipes", "rain"],
            [{"operation": "rain_streaks", "parameters": {"angle": {"uniform": [3, 1]}}}],
            "backwards",
        ),
        (
            ["recipes", "rain"],
            [{"operation": "x", "parameters": {"a": {"choice": [1], "uniform": [0, 1]}}}],
            "exactly one",
        ),
        (["datasets", "photos", "splits"], {"train": {"clean": "*"}}, "give either packages"),
    ],
)
def test_a_wrong_setting_gets_one_message_with_the_nearest_name(path, value, message):
    config = shipped()
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(AirpipeError, match=message):
        load_project(config)


def test_models_everywhere_may_name_a_variant():
    config = shipped()
    config |= {"models": ["baseline/nafnet_5d@s", "imported/mine@s"]}
    config["tables"]["allinone"]["models"] = ["baseline/nafnet_5d@l"]
    config["features"]["models"] = ["dcpt/nafnet_5d/pretrain@s"]
    config["recognition"] |= {"models": ["baseline/nafnet_5d@s"]}
    project = load_project(config)
    assert project.models == ("baseline/nafnet_5d@s", "imported/mine@s")
    assert project.setting_plan("baseline/nafnet_5d@s") == project.setting_plan("baseline/nafnet_5d")
    config["models"] = ["baseline/nafnet_6d@s"]
    with pytest.raises(AirpipeError, match="unknown setting of baseline 'nafnet_6d'; did you mean 'nafnet_5d'"):
        load_project(config)


@pytest.mark.parametrize(
    "parent", ["imported/a/b", "pretrain@s", "dcpt/nafnet_5d", "a/b/c/d", "Pretrain", "imported/x@s"]
)
def test_a_parent_is_a_stage_or_an_imported_model_without_variant(parent):
    config = shipped()
    stages = config["methods"]["dcpt"]["settings"]["nafnet_5d"]["stages"]
    for values in (stages["finetune"]["common"], *stages["finetune"]["scales"].values()):
        values["parents"] = {"init": parent}
    settings = settings_class("dcpt.finetune")
    with pytest.raises(AirpipeError, match=r"dcpt/nafnet_5d, stage finetune, parents: .* is not of the form stage \("):
        frozen_stage(load_project(config), "dcpt/nafnet_5d", 0, "finetune", settings, 1)


def test_a_scale_that_a_setting_does_not_have_is_named():
    project = load_project({**shipped(), "scale": "released"})
    with pytest.raises(AirpipeError, match=r"no scale 'released'; it has demo, paper, small. Choose one of them"):
        frozen_stage(project, "baseline/nafnet_5d", 0, "train", StageSettings, 1)


def seeded(seed, pairs="shapes{seed}.train"):
    """The frozen pair lists of a stage whose data parts name the seed."""
    config = shipped()
    stage = config["methods"]["baseline"]["settings"]["nafnet_5d"]["stages"]["train"]
    for values in (stage["common"], *stage["scales"].values()):
        values |= {"data": [{"pairs": pairs}], "validation": {"data": [{"pairs": "shapes{seed}.val"}]}}
    frozen = frozen_stage(load_project(config), "baseline/nafnet_5d", seed, "train", StageSettings, 1)
    return [part.pairs for part in (*frozen.data, *frozen.validation.data)]


def test_pair_lists_of_a_stage_may_name_the_seed():
    assert seeded(0) == ["shapes0.train", "shapes0.val"]
    assert seeded(2) == ["shapes2.train", "shapes2.val"]
    with pytest.raises(AirpipeError, match=r"seed 9 has no data set shapes9 .* Add `shapes9: \{like: shapes0"):
        seeded(9)
    with pytest.raises(AirpipeError, match="unknown data set 'shapes{sed}'"):
        seeded(0, "shapes{sed}.train")


def test_the_seed_has_no_meaning_in_tests():
    config = shipped()
    config["tests"]["photos_noise25"]["pairs"] = "shapes{seed}.test"
    with pytest.raises(AirpipeError, match=r"pairs: \{seed\} has no meaning here: .* Name one data set"):
        load_project(config)


def test_compute_names_stages_and_scales_that_exist():
    config = shipped()
    config["compute"]["demo"]["baseline.trian"] = {"gpu": 1}
    with pytest.raises(
        AirpipeError, match=r"compute.demo: unknown stage 'baseline.trian'; did you mean 'baseline.train'"
    ):
        check_compute(load_project(config), [*stages(), "evaluate"])
    with pytest.raises(AirpipeError, match="unknown scale in compute 'tiny'"):
        check_compute(load_project({**shipped(), "scale": "tiny"}), stages())


def test_a_scene_stays_in_one_split():
    config = shipped()
    next(p for p in config["datasets"]["photos"]["packages"] if p["name"] == "motorcycle_right.png")["split"] = "test"
    with pytest.raises(AirpipeError, match="scene 'motorcycle' is in train and in test"):
        load_project(config)


def test_unknown_recipes_data_sets_and_fixed_parameters_are_named():
    config = shipped()
    common = config["methods"]["baseline"]["settings"]["nafnet_5d"]["stages"]["train"]["common"]
    common["data"][0]["recipe"] = "nois"
    with pytest.raises(AirpipeError, match="unknown recipe 'nois'; did you mean 'noise'"):
        frozen_stage(load_project(config), "baseline/nafnet_5d", 0, "train", StageSettings, 1)
    common["data"][0] = {"pairs": "photo.train"}
    with pytest.raises(AirpipeError, match="unknown data set 'photo'; did you mean 'photos'"):
        frozen_stage(load_project(config), "baseline/nafnet_5d", 0, "train", StageSettings, 1)
    config = shipped()
    config["tests"]["photos_noise25"]["fixed"] = {"sigm": 25}
    with pytest.raises(AirpipeError, match="unknown parameter 'sigm'; did you mean 'sigma'"):
        load_project(config).test("photos_noise25")


def with_setting(**values) -> dict:
    config = shipped()
    config["methods"]["baseline"]["settings"]["mine"] = values
    return config


def test_a_setting_like_another_takes_its_values_key_by_key_and_replaces_lists():
    wider = {"network": {"arguments": {"width": 48}}, "data": [{"pairs": "wed.train", "recipe": "noise25"}]}
    config = with_setting(like="nafnet_noise3", stages={"train": {"scales": {"small": wider, "paper": None}}})
    project = load_project({**config, "scale": "small", "models": ["baseline/mine"]})
    assert project.setting_plan("baseline/mine").about == ""
    mine, model = (
        frozen_stage(project, f"baseline/{name}", 0, "train", StageSettings, 1) for name in ("mine", "nafnet_noise3")
    )
    assert mine.network.arguments == {**model.network.arguments, "width": 48}
    assert [part.pairs for part in mine.data] == ["wed.train"]
    for same in ("phases", "optimizers", "validation", "clip_norm", "ema_decay"):
        assert getattr(mine, same) == getattr(model, same)
    assert set(project.setting_plan("baseline/mine").stages["train"].scales) == {"small"}
    assert set(project.setting_plan("baseline/nafnet_noise3").stages["train"].scales) == {"small", "paper"}


def test_settings_may_follow_settings_that_follow_others_whatever_their_order():
    config = with_setting(like="next", about="mine")
    config["methods"]["baseline"]["settings"]["next"] = {
        "like": "nafnet_noise25",
        "about": "next",
        "stages": {"train": {"common": {"clip_norm": 2.0}}},
    }
    project = load_project({**config, "scale": "small"})
    assert project.setting_plan("baseline/mine").about == "mine"
    assert frozen_stage(project, "baseline/mine", 0, "train", StageSettings, 1).clip_norm == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"like": "nafnet_noise2"},
            r"methods.baseline.settings.mine.like: unknown setting 'nafnet_noise2'; did you m",
        ),
        ({"like": "mine"}, "settings.mine.like: mine -> mine goes round in a circle"),
        ({"like": 3}, "settings.mine.like: unknown setting '3'"),
        (
            {"like": "nafnet_noise3", "stages": {"train": {"scales": {"papr": None}}}},
            r"settings.mine.stages.train.scales.papr is null, which takes an inherited key away; unknown inherited key "
            r"'papr'; did you mean 'paper'\? Valid: paper, small",
        ),
        (
            {"like": "nafnet_noise3", "stages": {"train": {"common": {"data": []}}, "trian": {}}},
            "trian.task: Field requi",
        ),
        (
            {"like": "nafnet_noise3", "scales": ["papr"]},
            r"settings.mine.scales: unknown inherited scale 'papr'; did you mean 'paper'\? Valid: paper, small",
        ),
        ({"like": "nafnet_noise3", "scales": [{}]}, r"scales: expected a list of inherited scales, found \[{}\]"),
        ({"like": "nafnet_noise3", "scales": "paper"}, "scales: expected a list of inherited scales, found 'paper'"),
        (
            {"like": "nafnet_noise3", "stages": {"train": {"common": {"network": {"name": "promptir"}}}}},
            r"settings.mine.stages.train: its network is promptir, but it inherits nafnet at scale small, "
            r"nafnet at scale paper; say which scales are inherited \(beside like: scales: \[\.\.\.\]\) or name",
        ),
    ],
)
def test_a_setting_that_follows_nothing_is_told(values, message):
    with pytest.raises(AirpipeError, match=message) as caught:
        load_project(with_setting(**values))
    assert "data set" not in str(caught.value)


@pytest.mark.parametrize(
    ("overlay", "find", "default"),
    [
        ({"report": {"zoom": None}}, lambda p: p.report.zoom, 96),
        ({"report": None}, lambda p: p.report.title, "airpipe"),
        ({"tables": {"pretraining": None}}, lambda p: "pretraining" in p.tables, False),
        ({"tables": {"pretraining": {"scales": None}}}, lambda p: p.tables["pretraining"].scales, None),
        ({"features": {"models": None, "classes": {"haze": None}}}, lambda p: "haze" in p.features.classes, False),
        ({"tests": {"photos_noise15": {"fixed": {"sigma": None}}}}, lambda p: p.tests["photos_noise15"].fixed, {}),
        ({"datasets": {"kodak24": None}}, lambda p: "kodak24" in p.datasets, False),
        ({"datasets": {"bsd400": {"root": None, "like": None}}}, lambda p: p.datasets["bsd400"].root, None),
        ({"datasets": {"cub": {"splits": {"train": {"crop": None}}}}}, lambda p: len(p.datasets["cub"].splits), 3),
        ({"compute": {"demo": {"default": {"threads": None}}}}, lambda p: p.compute_for("evaluate").threads, 2),
        ({"methods": {"dcpt": {"source": None}}}, lambda p: p.methods["dcpt"].source, ""),
    ],
)
def test_null_in_an_overlay_takes_a_key_away(overlay, find, default):
    config = deep_merge(shipped(), {"datasets": {"bsd400": {"root": "/mine"}}})
    assert find(load_project(deep_merge(config, overlay))) == default


@pytest.mark.parametrize("where", ["of its own", "common", "both", "overlay"])
def test_null_in_a_scale_takes_its_value_and_the_common_one_away(where):
    settings = shipped()["methods"]["baseline"]["settings"]["nafnet_5d"]
    stage = settings["stages"]["train"]
    stage["common"] |= {"ema_decay": 0.5} if where in ("common", "both") else {}
    if where == "overlay":  # what Snakemake makes of {"scales": {"demo": {"ema_decay": None}}} over a value
        stage["scales"]["demo"]["ema_decay"] = None
        project = load_project(with_setting(**settings))
        assert frozen_stage(project, "baseline/mine", 0, "train", StageSettings, 1).ema_decay == 0
        return
    stage["scales"]["demo"].pop("ema_decay", None)
    stage["scales"]["demo"] |= {"ema_decay": 0.25} if where in ("of its own", "both") else {}
    config = with_setting(**settings)
    others = config["methods"]["baseline"]["settings"]
    others["child"] = {"like": "mine", "stages": {"train": {"scales": {"demo": {"ema_decay": None}}}}}
    others["grandchild"] = {"like": "child"}
    found = load_project(config)
    decays = [
        frozen_stage(found, f"baseline/{name}", 0, "train", StageSettings, 1).ema_decay
        for name in ("mine", "child", "grandchild")
    ]
    assert decays == [0.5 if where == "common" else 0.25, 0, 0]


@pytest.mark.parametrize("where", ["common", "scales"])
def test_a_mistyped_null_of_a_stage_is_told_when_its_class_is_known(where):
    stage = {"common": {"ema_decai": None}} if where == "common" else {"scales": {"demo": {"ema_decai": None}}}
    config = deep_merge(shipped(), {"methods": {"baseline": {"settings": {"nafnet_5d": {"stages": {"train": stage}}}}}})
    with pytest.raises(AirpipeError, match="ema_decai is null, which takes a setting away; .*did you mean 'ema_decay'"):
        frozen_stage(load_project(config), "baseline/nafnet_5d", 0, "train", StageSettings, 1)


def test_null_in_a_list_of_a_stage_takes_a_key_away_too():
    part = {"pairs": "photos.train", "recipe": "noise", "share": None, "label": None}
    for values in ({"common": {"data": [part]}}, {"scales": {"demo": {"data": [part]}}}):
        overlay = {"methods": {"baseline": {"settings": {"nafnet_5d": {"stages": {"train": values}}}}}}
        project = load_project(deep_merge(shipped(), overlay))
        (found,) = frozen_stage(project, "baseline/nafnet_5d", 0, "train", StageSettings, 1).data
        assert (found.share, found.label) == (1.0, 0)


def test_null_in_a_scale_for_what_neither_it_nor_common_has_is_told():
    scale = {"ema_decai": None}
    with pytest.raises(AirpipeError, match=r"scales.demo.ema_decai is null, .*did you mean 'ema_decay'"):
        load_project(with_setting(like="nafnet_5d", stages={"train": {"scales": {"demo": scale}}}))


def test_a_setting_that_an_overlay_takes_away_is_missed_by_those_that_follow_it():
    config = with_setting(like="nafnet_noise3")
    config["methods"]["baseline"]["settings"]["nafnet_noise3"] = None
    with pytest.raises(AirpipeError, match="settings.mine.like: unknown setting 'nafnet_noise3'; did you mean 'nafne"):
        load_project(config)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"recogniton": None}, "recogniton is null, which takes a key away; unknown setting 'recogniton'; did you m"),
        ({"report": {"zom": None}}, "report.zom is null, .*unknown setting 'zom'; did you mean 'zoom'"),
        ({"tables": {"allinone": {"scals": None}}}, "tables.allinone.scals is null, .*did you mean 'scales'"),
        (
            {"datasets": {"mine": {"like": "bsd400", "licens": None}}},
            "datasets.mine.licens is null, which takes an inherited key away; unknown inherited key .* mean 'licence'",
        ),
        (
            {"datasets": {"mine": {"like": "bsd400", "splits": {"new": {"clean": "a/*", "level": None}}}}},
            "datasets.mine.splits.new.level is null, .*unknown inherited key 'level'",
        ),
    ],
)
def test_null_for_what_is_not_there_is_told_with_the_nearest_name(overlay, message):
    with pytest.raises(AirpipeError, match=message):
        load_project(deep_merge(shipped(), overlay))


def test_a_data_set_like_another_may_take_a_key_away():
    config = deep_merge(shipped(), {"datasets": {"mine": {"like": "bsd400", "citation": None, "root": "/mine"}}})
    assert config["datasets"]["bsd400"]["citation"]
    found = load_project(config).datasets["mine"]
    assert (found.citation, found.title) == ("", config["datasets"]["bsd400"]["title"])


def test_checking_settings_changes_none_of_them():
    config = shipped()
    before = json.dumps(config)
    project = load_project({**config, "scale": "paper"})
    assert json.dumps(config) == before
    assert "pretraining" not in project.tables and project.features.models == ()
    assert list(project.datasets["shapes0"].splits) == list(project.datasets["shapes0"].made.counts)


def test_a_scale_that_an_overlay_adds_is_inherited_only_where_no_scales_are_named():
    tiny = {**PROMPTIR, "phases": [{"steps": 3, "patch_size": 8, "batch_size": 1}], "data": [{"pairs": "bsd400.train"}]}
    train = {"scales": {"tiny": tiny}}
    config = with_setting(like="nafnet_noise3", scales=["paper"])
    settings = config["methods"]["baseline"]["settings"]
    settings["nafnet_noise3"] = deep_merge(settings["nafnet_noise3"], {"stages": {"train": train}})
    settings["all"] = {"like": "nafnet_noise3"}
    project = load_project({**config, "scale": "tiny"})
    assert frozen_stage(project, "baseline/all", 0, "train", StageSettings, 1).network.name == "promptir"
    with pytest.raises(AirpipeError, match="baseline/mine, stage train: no scale 'tiny'; it has paper"):
        frozen_stage(project, "baseline/mine", 0, "train", StageSettings, 1)


def test_shipped_settings_with_another_network_or_mix_than_the_followed_one_name_their_scales():
    followers = {
        f"{method}/{name}": entry
        for method, values in shipped()["methods"].items()
        for name, entry in values["settings"].items()
        if "like" in entry
    }
    assert len(followers) > 25
    for model, entry in followers.items():
        stages = [stage for stage in entry.get("stages", {}).values() if stage is not None]
        parts = [part for stage in stages for part in (stage.get("common", {}), *stage.get("scales", {}).values())]
        other = any(part and ("data" in part or "name" in part.get("network", {})) for part in parts)
        assert "scales" in entry or not other, model


def test_the_small_real_run_adds_its_scale_to_nafnets_of_five_degradations_only():
    methods = load_project(shipped("dcpt_samples.yaml")).methods
    found = {
        f"{method}/{name}"
        for method, settings in methods.items()
        for name, plan in settings.settings.items()
        if any("samples" in stage.scales for stage in plan.stages.values())
    }
    five = {"dcpt/nafnet_5d", "dcpt/nafnet_5d_masked", "dcpt/nafnet_5d_direct"}
    assert found == five | {"baseline/nafnet_5d"}


def test_a_setting_that_is_no_mapping_is_told():
    config = shipped()
    config["methods"]["baseline"]["settings"]["mine"] = "nafnet_5d"
    with pytest.raises(AirpipeError, match=r"settings.mine: expected a mapping .*found 'nafnet_5d'"):
        load_project(config)


def test_a_folder_with_a_variable_that_is_not_set_is_told_when_it_is_used_and_not_before(monkeypatch):
    monkeypatch.delenv("AIRPIPE_SAMPLE_ROOT", raising=False)
    monkeypatch.setenv("EMPTY", "")
    config = shipped("dcpt_samples.yaml")
    config["datasets"]["reside_ots"]["splits"]["train"]["name_list"] = {"file": "${EMPTY}/${AIRPIPE_SAMPLE_ROOT}.txt"}
    project = load_project(config)
    assert (project.root("photos"), project.root("wed")) == ("", "resources/datasets/wed")
    assert project.list_file("wed", "train") is None
    found = r"datasets.bsd400.root is '\$\{AIRPIPE_SAMPLE_ROOT\}/BSD400', and the environment variable "
    with pytest.raises(AirpipeError, match=found + r"AIRPIPE_SAMPLE_ROOT is not set. Set it \(AIRPIPE_SAMPLE_ROOT=/"):
        project.root("bsd400")
    found = r"datasets.reside_ots.splits.train.name_list.file is .*variable EMPTY and AIRPIPE_SAMPLE_ROOT is not set"
    with pytest.raises(AirpipeError, match=found):
        project.list_file("reside_ots", "train")
    monkeypatch.setenv("AIRPIPE_SAMPLE_ROOT", "/samples")
    assert project.root("bsd400") == "/samples/BSD400"


def test_noise_seeded_by_image_needs_noise_that_is_made_online():
    rain = {"recipe": "rain", "operations": [RAIN]}
    for part, message in (
        ({"recipe": None}, "noise_seed is 'image', but a part without recipe adds no noise; leave noise_seed out"),
        (rain, "noise_seed is 'image', but recipe 'rain' has no gaussian_noise"),
    ):
        with pytest.raises(AirpipeError, match=message):
            check_settings(DataPart, {"pairs": "toy.train", "noise_seed": "image", **part}, "x")
    assert DataPart(pairs="toy.train").noise_seed == "fresh"
    assert DataPart(pairs="toy.train").small_images == "refuse"


def test_a_hold_that_leaves_no_steps_for_the_cosine_is_refused():
    values = json.loads(canonical_json(stage(optimizers={"net": {"learning_rate": 1, "hold_steps": 54}})))
    assert check_settings(StageSettings, values, "x").steps == 60
    values["optimizers"]["net"] |= {"warmup_steps": 6}
    with pytest.raises(AirpipeError, match=r"optimizers.net: warmup_steps \+ hold_steps is 60, the stage has 60 steps"):
        check_settings(StageSettings, values, "x")


def test_frozen_settings_name_every_value_and_are_read_back_as_they_were():
    plain = json.loads(canonical_json(stage()))
    assert (plain["data"][0]["noise_seed"], plain["optimizers"]["net"]["hold_steps"]) == ("fresh", 0)
    part = {**plain["data"][0], "noise_seed": "image", "small_images": "reflect"}
    used = stage(data=[part], optimizers={"net": {"learning_rate": 1, "hold_steps": 3}})
    assert check_settings(StageSettings, json.loads(canonical_json(used)), "x") == used
    assert settings_hash(used) != settings_hash(stage(data=[plain["data"][0]], optimizers=plain["optimizers"]))


def test_the_hash_follows_science_and_ignores_spelling():
    assert settings_hash(stage()) == settings_hash(
        check_settings(StageSettings, json.loads(canonical_json(stage())), "x")
    )
    assert settings_hash(stage(seed=4)) != settings_hash(stage())
    assert settings_hash(stage(revision=2)) != settings_hash(stage())
    machine = set(ComputeSettings.model_fields)
    assert machine.isdisjoint(StageSettings.model_fields)


def test_a_bare_value_is_a_constant_and_zero_is_one_too():
    assert Draw.model_validate(0).constant == 0
    assert Draw.model_validate({"uniform": [0, 1]}).uniform == (0, 1)


def test_a_batch_with_fewer_samples_than_micro_batches_is_refused():
    values = json.loads(canonical_json(stage()))
    assert check_settings(StageSettings, {**values, "accumulate": 2}, "x").accumulate == 2
    with pytest.raises(AirpipeError, match="batch_size 2 has not a sample for each of accumulate 3 micro-batches;"):
        check_settings(StageSettings, {**values, "accumulate": 3}, "x")
    values["phases"][1]["accumulate"] = 1
    assert check_settings(StageSettings, {**values, "accumulate": 3}, "x").phases[1].accumulate == 1


def test_settings_and_registry_stay_light():
    code = (
        "import sys, airpipe.settings.project, airpipe.registry, airpipe.cli.main;"
        "print([m for m in ('torch', 'cv2', 'pandas') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def plan_of(**parents):
    """A setting with these stages and what each starts from."""
    stages = {
        name: {
            "task": "dcpt.finetune",
            "common": {"parents": {"init": parent} if parent else {}},
            "scales": {"demo": {}},
        }
        for name, parent in parents.items()
    }
    return SettingPlan.model_validate({"stages": stages})


@pytest.mark.parametrize("names", [("sad", "dnc", "ise"), ("ise", "dnc", "sad"), ("dnc", "ise", "sad")])
def test_the_evaluated_stage_is_the_one_that_no_other_starts_from_in_any_order(names):
    before = {"sad": None, "dnc": "sad", "ise": "dnc"}
    plan = plan_of(**{name: before[name] for name in names})
    assert plan.last("demo") == "ise"
    assert plan.before("ise", "demo") == {"dnc", "sad"} and plan.before("sad", "demo") == set()


def test_several_last_stages_have_to_be_told_apart_and_circles_are_refused():
    two = plan_of(sad=None, left="sad", right="sad")
    with pytest.raises(ValueError, match=r"no other stage starts from left, right; expected one .*\(evaluated: ...\)"):
        two.last("demo")
    assert two.model_copy(update={"evaluated": "left"}).last("demo") == "left"
    circle = plan_of(one="two", two="one")
    with pytest.raises(ValueError, match="no other stage starts from none of them"):
        circle.last("demo")
    assert "one" in circle.before("one", "demo")
    with pytest.raises(ValueError, match="unknown stage in evaluated 'lef'; did you mean 'left'"):
        SettingPlan.model_validate({**two.model_dump(), "evaluated": "lef"})
