"""VRD-IR in the pipeline: stages hand on, a change redoes what follows it only, a killed branch resumes alone."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from workflow import copy_project, copy_run, environment, planned, snakemake, write_overlay

pytestmark = pytest.mark.pipeline

NETWORK = {"network": {"arguments": {"in_channels": 8, "front_channels": 4, "hidden": 6}}}
SHORT = {"phases": [{"steps": 6, "patch_size": 32, "batch_size": 4}], "optimizers": {"net": {"warmup_steps": 2}}}
VALIDATED = {"validation": {"every": 6}}
ENHANCER = {**NETWORK, **SHORT, **VALIDATED}
STAGES = {
    "recogniser_a": {
        "common": {"network": {"arguments": {"widths": [4, 8], "body": [8, 8]}}},
        "scales": {"demo": {**SHORT, **VALIDATED, "optimizers": {o: {"warmup_steps": 2} for o in ("net", "decoder")}}},
    },
    "recogniser_b": {
        "common": {"network": {"arguments": {"stem": 4, "widths": [8, 8]}}},
        "scales": {"demo": {**SHORT, **VALIDATED}},
    },
    **{name: {"scales": {"demo": ENHANCER}} for name in ("sad", "dnc_haze", "dnc_noise", "dnc_rain", "ise")},
}
TOY = {
    "models": ["vrdir/airpipe"],
    "methods": {"vrdir": {"settings": {"airpipe": {"stages": STAGES}}}},
    "datasets": {"shapes0": {"made": {"counts": {"recognise": 24, "train": 12, "val": 8, "test": 8}}}},
    "compute": {"demo": {"default": {"threads": 1}}},
}
FOLDER = "results/vrdir/airpipe/seed0"
ISE, B = f"{FOLDER}/ise/model.safetensors", f"{FOLDER}/recogniser_b/model.safetensors"
DATA = {"make_dataset": 1, "manifest": 3, "pairs": 3}


def setting(stage, scale, name="airpipe"):
    """Overlay: values of one stage at demo scale."""
    return {"methods": {"vrdir": {"settings": {name: {"stages": {stage: {"scales": {"demo": scale}}}}}}}}


def plan(folder, *overlays, targets=(ISE, B)):
    names = ["overlay.yaml"]
    for number, overlay in enumerate(overlays):
        names.append(write_overlay(folder, overlay, name=f"change{number}.yaml").name)
    return planned(folder, *targets, "--configfile", *names)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A copy of the project without results."""
    folder = copy_project(tmp_path_factory.mktemp("vrdir") / "empty")
    write_overlay(folder, TOY)
    return folder


@pytest.fixture(scope="module")
def project(empty, tmp_path_factory):
    """All stages of the toy setting and the recogniser that only judges."""
    folder = copy_run(empty, tmp_path_factory.mktemp("vrdir") / "run")
    snakemake(folder, ISE, B, "--configfile", "overlay.yaml")
    return folder


def test_the_stages_follow_each_other(empty):
    trained = {"vrdir_recogniser": 2, "vrdir_sad": 1, "vrdir_dnc": 3, "vrdir_ise": 1, "freeze_settings": 7}
    assert plan(empty) == trained | DATA
    assert plan(empty, targets=["train_vrdir"]) == trained | DATA | {"train_vrdir": 1}


def test_other_settings_share_the_recogniser_and_the_ablation_all_before_ise(project):
    def target(name):
        return [f"results/vrdir/{name}/seed0/ise/model.safetensors"]

    assert plan(project, targets=target("airpipe_trained")) == {"freeze_settings": 1, "vrdir_ise": 1}
    fresh = {"freeze_settings": 5, "vrdir_sad": 1, "vrdir_dnc": 3, "vrdir_ise": 1}
    assert plan(project, targets=target("reference")) == fresh
    assert plan(project, targets=target("airpipe_no_sr")) == fresh


def test_parents_stand_in_the_frozen_settings_and_the_card(project):
    frozen = yaml.safe_load((project / FOLDER / "ise/config.yaml").read_text())
    roles = ("sad", "dnc_haze", "dnc_noise", "dnc_rain")
    assert frozen["parents"] == {role: f"vrdir/airpipe/seed0/{role}" for role in roles}
    card = json.loads((project / FOLDER / "ise/card.json").read_text())
    assert {parent["role"]: parent["keys"]["matched"] for parent in card["parents"]} == {
        "sad": 12, "dnc_haze": 6, "dnc_noise": 6, "dnc_rain": 6,
    }  # fmt: skip
    assert card["budget"]["steps"] == 36
    assert len(json.loads((project / FOLDER / "recogniser_a/card.json").read_text())["classes"]) == 8


def test_validation_tells_psnr_and_of_recognisers_top1(project):
    expected = {"recogniser_a": {"top1"}, "sad": {"psnr", "psnr_clean"}, "dnc_rain": {"psnr"}, "ise": {"psnr"}}
    for stage, names in expected.items():
        curves = pd.read_csv(project / FOLDER / stage / "curves.csv")
        found = curves[curves["name"].str.startswith("validation/")]
        assert set(found["name"]) == {f"validation/{name}" for name in names}
        assert set(found["step"]) == {6}


def test_a_second_run_has_nothing_to_do(project):
    assert plan(project) == {}


@pytest.mark.parametrize(
    ("stage", "values", "redone"),
    [
        ("ise", {"freeze_branches": False}, {"freeze_settings": 1, "vrdir_ise": 1}),
        ("dnc_rain", {"loss_weights": {"semantic": 0.5}}, {"freeze_settings": 1, "vrdir_dnc": 1, "vrdir_ise": 1}),
        ("sad", {"sr_margin": 0.2}, {"freeze_settings": 1, "vrdir_sad": 1, "vrdir_dnc": 3, "vrdir_ise": 1}),
        ("recogniser_b", {"clip_norm": 1.0}, {"freeze_settings": 1, "vrdir_recogniser": 1}),
    ],
)
def test_a_change_redoes_what_follows_and_nothing_else(project, stage, values, redone):
    assert plan(project, setting(stage, values)) == redone


def test_a_killed_branch_resumes_and_the_others_are_not_touched(project, tmp_path):
    folder = copy_run(project, tmp_path / "killed")
    long = {"phases": [{"steps": 600, "patch_size": 32, "batch_size": 4}]}
    slow = {"compute": {"demo": {"vrdir.dnc": {"checkpoint_seconds": 0.2}}}}
    write_overlay(folder, TOY, setting("dnc_haze", long), slow)
    others = {name: (folder / FOLDER / name / "model.safetensors").stat().st_mtime_ns for name in STAGES}
    command = ["snakemake", "--cores", "1", ISE, "--configfile", "overlay.yaml"]
    running = subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    state = folder / FOLDER / "dnc_haze/state"
    wait_for(lambda: steps_saved(state) > 6, running)  # the toy run left 6
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    reached = steps_saved(state)
    snakemake(folder, "--unlock", "--configfile", "overlay.yaml")
    done = snakemake(folder, ISE, "--rerun-incomplete", "--configfile", "overlay.yaml").stdout
    assert done.count("VRD-IR airpipe, seed 0: branch for haze") == 1
    assert "branch for noise" not in done and "SAD" not in done and "recogniser" not in done
    attempts = json.loads((state / "attempts.json").read_text())
    assert attempts[-1] >= reached > 6
    for name, before in others.items():
        after = (folder / FOLDER / name / "model.safetensors").stat().st_mtime_ns
        assert (after != before) == (name in ("dnc_haze", "ise"))


def steps_saved(state):
    """Steps in the newest checkpoint; 0 where there is none."""
    return max((int(path.stem.removeprefix("step_")) for path in state.glob("step_*.ckpt")), default=0)


def wait_for(what, running, seconds=120.0):
    """Wait until `what()` is true while a process runs."""
    end = time.monotonic() + seconds
    while not what():
        assert running.poll() is None and time.monotonic() < end, "the stage ended before it could be killed"
        time.sleep(0.02)


def test_a_missing_encoder_is_told_with_what_to_do(empty):
    done = snakemake(Path(empty), "-n", ISE, "--configfile", "overlay.yaml", "--config", "scale=paper", check=False)
    assert done.returncode == 1
    message = (
        "results/imported/vgg16 is not there: python scripts/import_weights.py FILE --name vgg16 "
        "(FILE: torchvision's ImageNet weights, vgg16-397923af.pth)"
    )
    assert message in " ".join(done.stdout.split())
