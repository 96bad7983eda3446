"""VRD-IR in the toy run: stages hand on and are validated; a killed branch resumes alone."""

import json
import os
import signal
import subprocess
import time

import pandas as pd
import pytest
import yaml
from test_plan import nested, plan

from airpipe.errors import AirpipeError
from airpipe.plan import Machine
from workflow import (
    CHAPTERS,
    SHORT,
    VRDIR_STAGES,
    copy_run,
    count_start,
    environment,
    snakemake,
    write_overlay,
)

pytestmark = pytest.mark.pipeline

FOLDER = "results/vrdir/airpipe/seed0"
ISE = f"{FOLDER}/ise/model.safetensors"
[STEPS] = [phase["steps"] for phase in SHORT["phases"]]


def test_parents_stand_in_the_frozen_settings_and_the_card(toy_run):
    frozen = yaml.safe_load((toy_run / FOLDER / "ise/config.yaml").read_text())
    roles = ("sad", "dnc_haze", "dnc_noise", "dnc_rain")
    assert frozen["parents"] == {role: f"vrdir/airpipe/seed0/{role}" for role in roles}
    card = json.loads((toy_run / FOLDER / "ise/card.json").read_text())
    assert {parent["role"]: parent["keys"]["matched"] for parent in card["parents"]} == {
        "sad": 12, "dnc_haze": 6, "dnc_noise": 6, "dnc_rain": 6,
    }  # fmt: skip
    assert card["budget"]["steps"] == 6 * STEPS
    assert len(json.loads((toy_run / FOLDER / "recogniser_a/card.json").read_text())["classes"]) == 8


def test_validation_tells_psnr_and_of_recognisers_top1(toy_run):
    expected = {"recogniser_a": {"top1"}, "sad": {"psnr", "psnr_clean"}, "dnc_rain": {"psnr"}, "ise": {"psnr"}}
    for stage, names in expected.items():
        curves = pd.read_csv(toy_run / FOLDER / stage / "curves.csv")
        found = curves[curves["name"].str.startswith("validation/")]
        assert set(found["name"]) == {f"validation/{name}" for name in names}
        assert set(found["step"]) == {STEPS}


def test_a_killed_branch_resumes_and_the_others_are_not_touched(toy_run, tmp_path):
    folder = copy_run(toy_run, tmp_path / "killed")
    long = {"phases": [{"steps": 600, "patch_size": 32, "batch_size": 4}]}
    slow = {"compute": {"demo": {"vrdir.dnc": {"checkpoint_seconds": 0.2}}}}
    haze = nested("methods", "vrdir", "settings", "airpipe", "stages", "dnc_haze", "scales", "demo", long)
    write_overlay(folder, *CHAPTERS, haze, slow)
    others = {name: (folder / FOLDER / name / "model.safetensors").stat().st_mtime_ns for name in VRDIR_STAGES}
    command = ["snakemake", "--cores", "1", ISE, "--configfile", "overlay.yaml"]
    count_start(command)
    running = subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    state = folder / FOLDER / "dnc_haze/state"
    wait_for(lambda: steps_saved(state) > STEPS, running)  # what the toy run left
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    reached = steps_saved(state)
    done = snakemake(folder, ISE, "--configfile", "overlay.yaml").stdout  # the same command, no --unlock
    assert "Removed the locks of a Snakemake that died on this host" in done
    assert done.count("VRD-IR airpipe, seed 0: branch for haze") == 1
    assert "branch for noise" not in done and "SAD" not in done and "recogniser" not in done
    attempts = json.loads((state / "attempts.json").read_text())
    assert attempts[-1] >= reached > STEPS
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


def test_a_missing_encoder_is_told_with_what_to_do():
    chosen = {"scale": "paper", "models": ["vrdir/airpipe"], "tables": {"allinone": {"models": ["vrdir/airpipe"]}}}
    message = (
        "results/imported/vgg16 is not there: python scripts/import_weights.py FILE --name vgg16 "
        r"\(FILE: torchvision's ImageNet weights, vgg16-397923af.pth\)"
    )
    with pytest.raises(AirpipeError, match=message):
        plan(chosen, machine=Machine(model=lambda _: False)).stages_in_use("vrdir")
