"""DCPT in the pipeline: stages hand on, tables compare, and a change redoes what follows it and nothing else."""

import json

import pandas as pd
import pytest
import yaml

from workflow import NETWORK, TOY, copy_run, planned, snakemake, write_overlay

pytestmark = pytest.mark.pipeline

STEPS = {"phases": [{"steps": 6, "patch_size": 16, "batch_size": 5}]}
STAGE = {"network": {"arguments": NETWORK}, **STEPS}
MODELS = ["dcpt/nafnet_5d", "dcpt/nafnet_5d_masked"]
DCPT = {
    "models": ["baseline/nafnet_5d", *MODELS],
    "methods": {
        "baseline": {"settings": {"nafnet_5d": {"stages": {"train": {"scales": {"demo": {
            "phases": [{"steps": 12, "patch_size": 16, "batch_size": 5}],
        }}}}}}},
        "dcpt": {
            "settings": {
                "nafnet_5d": {"stages": {
                    "pretrain": {"scales": {"demo": {**STAGE, "validation": {"every": 3, "patch_size": 32}}}},
                    "finetune": {"scales": {"demo": {**STAGE, "validation": {"every": 6, "patch_size": 32}}}},
                }},
                "nafnet_5d_masked": {"stages": {"pretrain": {"scales": {"demo": {"mask_patch": 4}}}}},
            }
        },
    },
    "tables": {"pretraining": {"scales": None, "tests": ["photos_noise25"], "models": ["baseline/nafnet_5d", *MODELS]}},
    "features": {
        "scales": None, "models": ["dcpt/nafnet_5d/pretrain", "baseline/nafnet_5d"],
        "crops_per_image": 2, "patch_size": 32, "neighbours": 2, "perplexity": 5, "iterations": 250,
    },
}  # fmt: skip
REPORT = {"tables": 2, "figures": 2, "metrics": 1, "page": 1}


def setting(name, stage, scale):
    """Overlay: a value of one stage of DCPT at demo scale."""
    return {"methods": {"dcpt": {"settings": {name: {"stages": {stage: {"scales": {"demo": scale}}}}}}}}


@pytest.fixture(scope="module")
def project(toy_run, tmp_path_factory):
    """The toy run with DCPT: scratch, pretraining and masked pretraining of equal budgets."""
    folder = copy_run(toy_run, tmp_path_factory.mktemp("dcpt") / "run")
    write_overlay(folder, TOY, DCPT, name="dcpt_toy.yaml")
    snakemake(folder, "all", "--configfile", "dcpt_toy.yaml")
    return folder


def plan(folder, *overlays, target="all"):
    names = ["dcpt_toy.yaml"]
    for number, overlay in enumerate(overlays):
        names.append(write_overlay(folder, overlay, name=f"change{number}.yaml").name)
    return planned(folder, target, "--configfile", *names)


def test_every_arm_has_the_same_budget_and_stands_in_the_table(project):
    table = pd.read_csv(project / "results/tables/pretraining.csv", keep_default_na=False)
    ours = table[table["metric"] == "psnr"].set_index("model")
    arms = ["baseline/nafnet_5d/train", "dcpt/nafnet_5d/finetune", "dcpt/nafnet_5d_masked/finetune"]
    assert [name for name in ours.index if name not in ("none", "published")] == arms
    assert ours.loc[arms, "samples"].astype(int).tolist() == [60, 60, 60]
    assert ours.loc[arms, "method"].tolist() == ["baseline", "dcpt", "dcpt"]


def test_unequal_budgets_make_no_table(project, tmp_path):
    folder = copy_run(project, tmp_path / "copy")
    longer = setting("nafnet_5d_masked", "finetune", {"phases": [{"steps": 7, "patch_size": 16, "batch_size": 5}]})
    write_overlay(folder, longer, name="longer.yaml")
    done = snakemake(folder, "all", "--configfile", "dcpt_toy.yaml", "longer.yaml", check=False)
    assert done.returncode == 1
    told = (folder / "results/logs/tables/pretraining.log").read_text()
    assert "tables.pretraining compares equal budgets" in told and "65 samples: dcpt/nafnet_5d_masked" in told


def test_the_pretraining_is_a_parent_with_its_hash_and_keys(project):
    folder = project / "results/dcpt/nafnet_5d/seed0"
    frozen = yaml.safe_load((folder / "finetune/config.yaml").read_text())
    assert frozen["parents"] == {"init": "dcpt/nafnet_5d/seed0/pretrain"}
    (parent,) = json.loads((folder / "finetune/card.json").read_text())["parents"]
    assert parent["path"] == "results/dcpt/nafnet_5d/seed0/pretrain/model.safetensors"
    assert parent["keys"]["missing"] == [] and all(key.startswith("head.") for key in parent["keys"]["unexpected"])


def test_a_pretraining_is_validated_by_top1_and_a_finetuning_by_psnr(project):
    curves = {
        stage: pd.read_csv(project / f"results/dcpt/nafnet_5d/seed0/{stage}/curves.csv")
        for stage in ("pretrain", "finetune")
    }
    validated = {stage: curve[curve["name"].str.startswith("validation/")] for stage, curve in curves.items()}
    assert set(validated["finetune"]["name"]) == {"validation/psnr"}
    names = {"validation/top1", *(f"validation/top1_class{label}" for label in range(5))}
    assert set(validated["pretrain"]["name"]) == names
    assert sorted(set(validated["pretrain"]["step"])) == [3, 6]
    assert validated["pretrain"]["value"].between(0, 100).all()


def test_features_of_pretraining_and_scratch_stand_beside_their_random_weights(project):
    table = pd.read_csv(project / "results/tables/features.csv", keep_default_na=False)
    rows = table[table["class"] == ""].groupby(["model", "init", "measure"]).size()
    assert rows.to_dict() == {
        ("baseline/nafnet_5d/seed0/train", "random", "knn"): 1,
        ("baseline/nafnet_5d/seed0/train", "trained", "knn"): 1,
        ("dcpt/nafnet_5d/seed0/pretrain", "random", "knn"): 1,
        ("dcpt/nafnet_5d/seed0/pretrain", "trained", "knn"): 1,
        ("dcpt/nafnet_5d/seed0/pretrain", "trained", "classifier"): 1,
    }
    assert set(table["chance"].astype(float)) == {20.0}


def test_a_second_run_has_nothing_to_do(project):
    assert plan(project) == {}


def test_a_finetuning_setting_redoes_finetuning_only(project):
    change = setting("nafnet_5d_masked", "finetune", {"clip_norm": 0.5})
    after = {"evaluate": 1, "complexity": 1, "efficiency": 1} | REPORT
    assert plan(project, change) == {"freeze_settings": 1, "dcpt_finetune": 1} | after


def test_a_head_setting_redoes_pretraining_and_what_follows(project):
    change = setting("nafnet_5d_masked", "pretrain", {"head": {"num_res_blocks": 2}})
    trained = {"freeze_settings": 1, "dcpt_pretrain": 1, "dcpt_finetune": 1}
    assert plan(project, change) == trained | {"evaluate": 1, "complexity": 1, "efficiency": 1} | REPORT


def test_a_setting_that_others_follow_redoes_them_too_and_the_analysis_of_its_features(project):
    change = setting("nafnet_5d", "pretrain", {"head": {"num_res_blocks": 2}})
    trained = {"freeze_settings": 2, "dcpt_pretrain": 2, "dcpt_finetune": 2}
    features = {"dcpt_knn": 2, "features_table": 1, "dcpt_tsne": 1}
    after = {"evaluate": 2, "complexity": 2, "efficiency": 1} | REPORT
    assert plan(project, change) == trained | features | after


def test_a_probe_of_another_settings_pretraining_trains_the_probe_only(project):
    probe = setting("nafnet_5d_probe", "probe", STAGE)
    target = "results/dcpt/nafnet_5d_probe/seed0/probe/model.safetensors"
    assert plan(project, probe, target=target) == {"freeze_settings": 1, "dcpt_probe": 1}


def test_an_overlay_that_names_the_last_stage_only_keeps_it_the_last(project):
    """Snakemake puts the keys of an overlay before those of the files that it extends."""
    write_overlay(project, setting("nafnet_5d", "finetune", {"clip_norm": 1.0}), name="last.yaml")
    done = snakemake(project, "-n", "train_dcpt", "--configfile", "last.yaml")
    assert "results/dcpt/nafnet_5d/seed0/finetune/model.safetensors" in done.stdout


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        ("pretrian", "unknown other stage of dcpt/nafnet_5d 'pretrian'; did you mean 'pretrain'"),
        ("finetune", "unknown other stage of dcpt/nafnet_5d 'finetune'"),
        ("dcpt/nafnet_6d/pretrain", "unknown setting of dcpt 'nafnet_6d'"),
        ("a/b", "'a/b' is not of the form stage (of the same setting), method/setting/stage or imported/name"),
        ("imported/mine", "results/imported/mine is not there: python scripts/import_weights.py FILE --name mine"),
    ],
)
def test_a_parent_that_does_not_exist_is_told_at_the_start(project, parent, message):
    change = {"methods": {"dcpt": {"settings": {"nafnet_5d": {"stages": {"finetune": {"common": {
        "parents": {"init": parent},
    }}}}}}}}  # fmt: skip
    write_overlay(project, change, name="wrong.yaml")
    done = snakemake(project, "-n", "all", "--configfile", "dcpt_toy.yaml", "wrong.yaml", check=False)
    assert done.returncode == 1
    assert message in " ".join(done.stdout.split())
