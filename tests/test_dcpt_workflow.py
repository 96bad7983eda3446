"""DCPT in the toy run: stages hand on, tables compare, features are analysed."""

import json

import pandas as pd
import pytest
import yaml
from helpers import CONFIG, read_config
from snakemake.utils import update_config
from test_plan import common, plan

from airpipe.errors import AirpipeError
from airpipe.plan import Machine, load_plan
from workflow import ARMS

pytestmark = pytest.mark.pipeline


def test_every_arm_has_the_same_budget_and_stands_in_the_table(toy_run):
    table = pd.read_csv(toy_run / "results/tables/pretraining.csv", keep_default_na=False)
    ours = table[table["metric"] == "psnr"].set_index("model")
    arms = [f"{name}/{stage}" for name, stage in zip(ARMS, ("train", "finetune", "finetune"), strict=True)]
    assert [name for name in ours.index if name not in ("none", "published")] == arms
    assert ours.loc[arms, "samples"].astype(int).tolist() == [60, 60, 60]
    assert ours.loc[arms, "method"].tolist() == ["baseline", "dcpt", "dcpt"]


@pytest.mark.parametrize("setting", ["nafnet_5d", "nafnet_5d_masked"])
def test_the_pretraining_is_a_parent_with_its_hash_and_keys(toy_run, setting):
    folder, name = toy_run / f"results/dcpt/{setting}/seed0", f"dcpt/{setting}/seed0/pretrain"
    frozen = yaml.safe_load((folder / "finetune/config.yaml").read_text())
    assert frozen["parents"] == {"init": name}
    (parent,) = json.loads((folder / "finetune/card.json").read_text())["parents"]
    assert parent["path"] == f"results/{name}/model.safetensors"
    assert parent["keys"]["missing"] == [] and all(key.startswith("head.") for key in parent["keys"]["unexpected"])


def test_a_pretraining_is_validated_by_top1_and_a_finetuning_by_psnr(toy_run):
    curves = {
        stage: pd.read_csv(toy_run / f"results/dcpt/nafnet_5d/seed0/{stage}/curves.csv")
        for stage in ("pretrain", "finetune")
    }
    validated = {stage: curve[curve["name"].str.startswith("validation/")] for stage, curve in curves.items()}
    assert set(validated["finetune"]["name"]) == {"validation/psnr"}
    names = {"validation/top1", *(f"validation/top1_class{label}" for label in range(5))}
    assert set(validated["pretrain"]["name"]) == names
    assert sorted(set(validated["pretrain"]["step"])) == [3, 6]
    assert validated["pretrain"]["value"].between(0, 100).all()


def test_features_of_pretraining_and_scratch_stand_beside_their_random_weights(toy_run):
    table = pd.read_csv(toy_run / "results/tables/features.csv", keep_default_na=False)
    rows = table[table["class"] == ""].groupby(["model", "init", "measure"]).size()
    assert rows.to_dict() == {
        ("baseline/nafnet_5d/seed0/train", "random", "knn"): 1,
        ("baseline/nafnet_5d/seed0/train", "trained", "knn"): 1,
        ("dcpt/nafnet_5d/seed0/pretrain", "random", "knn"): 1,
        ("dcpt/nafnet_5d/seed0/pretrain", "trained", "knn"): 1,
        ("dcpt/nafnet_5d/seed0/pretrain", "trained", "classifier"): 1,
    }
    assert set(table["chance"].astype(float)) == {20.0}
    knn = table[(table["measure"] == "knn") & (table["class"] == "")]
    assert ((knn["value"] > 0) & (knn["value"] <= 100)).all() and set(knn["n_scenes"]) == {3}
    page = (toy_run / "results/report/index.html").read_text()
    assert 'id="features"' in page and "30 crops of 3 photographs" in page and "t-SNE of the features" in page


def test_an_overlay_that_names_the_last_stage_only_keeps_it_the_last():
    """Snakemake puts the keys of an overlay before those of the files that it extends."""
    stages = {"finetune": {"scales": {"demo": {"clip_norm": 1.0}}}}
    config = {"methods": {"dcpt": {"settings": {"nafnet_5d": {"stages": stages}}}}}
    for name in CONFIG:
        update_config(config, read_config(name))
    assert next(iter(config["methods"]["dcpt"]["settings"]["nafnet_5d"]["stages"])) == "finetune"
    assert load_plan(config).model_ids(["dcpt/nafnet_5d"]) == ["dcpt/nafnet_5d/seed0/finetune"]


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        ("finetune", "unknown other stage of dcpt/nafnet_5d 'finetune'"),
        ("dcpt/nafnet_6d/pretrain", "unknown setting of dcpt 'nafnet_6d'"),
        ("a/b", "'a/b' is not of the form stage .of the same setting., method/setting/stage or imported/name"),
        ("imported/mine", "results/imported/mine is not there: python scripts/import_weights.py FILE --name mine"),
    ],
)
def test_a_parent_that_does_not_exist_is_told(parent, message):
    change = common("dcpt", "nafnet_5d", "finetune", {"parents": {"init": parent}})
    with pytest.raises(AirpipeError, match=message):
        plan(change, machine=Machine(model=lambda _: False)).stages_in_use()
