"""Training resumes to the same bits, runs in parallel to the same losses, and fails clearly."""

import csv
import json
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from helpers import Stage, one_thread, stage
from torch import nn

from airpipe.errors import AirpipeError
from airpipe.training.state import StateFolder
from airpipe.weights.checkpoints import load_matching, load_model

LONG = {
    "phases": [
        {"steps": 400, "patch_size": 24, "batch_size": 4},
        {"steps": 200, "patch_size": 16, "batch_size": 6},
    ]
}


WIDER = {"name": "nafnet", "arguments": {"width": 12, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]}}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    done = Stage(tmp_path_factory.mktemp("uninterrupted"), stage(**LONG))
    done.run()
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Sixty steps with a checkpoint at each."""
    done = Stage(tmp_path_factory.mktemp("finished"))
    done.run("--checkpoint-seconds", "0.0001")
    return done


@pytest.fixture
def trained(finished, tmp_path):
    """A copy of the finished stage."""
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    return Stage(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_three_times_at_random_moments_ends_with_the_same_bits(tmp_path, uninterrupted, workers):
    trained = Stage(tmp_path, stage(**LONG))
    moments = random.Random(workers)
    more = ("--workers", str(workers), "--checkpoint-seconds", "0.2")
    kills = 0
    while kills < 3:
        process = subprocess.Popen(trained.command(*more), env=one_thread(), start_new_session=True)
        before = newest(trained)
        while process.poll() is None and newest(trained) == before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        assert process.wait() in (0, -signal.SIGKILL), f"the training ended by itself with status {process.returncode}"
        assert not (trained.workdir / "model.safetensors").exists(), "the run was too short to be killed three times"
    last = trained.run(*more)
    assert "from step 0" not in last.stdout
    assert trained.weights() == uninterrupted.weights()
    assert trained.curves() == uninterrupted.curves()


def newest(trained: Stage) -> str:
    return max((file.name for file in (trained.workdir / "state").glob("step_*.ckpt")), default="")


def wait_for_curves(trained: Stage, process: subprocess.Popen) -> None:
    while not (trained.workdir / "state" / "curves.csv").exists():
        assert process.poll() is None, f"the training ended by itself with status {process.returncode}"
        time.sleep(0.01)


def test_sigterm_saves_and_the_next_run_resumes_there(tmp_path, uninterrupted):
    trained = Stage(tmp_path, stage(**LONG))
    process = subprocess.Popen(trained.command(), env=one_thread(), stderr=subprocess.PIPE, text=True)
    wait_for_curves(trained, process)
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM after step" in process.communicate(timeout=60)[1]
    assert process.returncode != 0
    step = int(newest(trained)[5:13])
    assert f"from step {step} of 600" in trained.run().stdout
    assert trained.weights() == uninterrupted.weights()


def test_a_finished_stage_exports_again_without_a_step(trained):
    first = trained.weights()
    (trained.workdir / "model.safetensors").unlink()
    assert "from step 60 of 60" in trained.run().stdout
    assert trained.weights() == first


def test_the_exported_model_is_the_average_and_the_card_says_what_made_it(finished):
    loaded = load_model(finished.workdir)
    state = torch.load(finished.workdir / "state" / "step_00000060.ckpt", weights_only=True)
    exported = loaded.network.state_dict()
    for key, value in exported.items():
        assert torch.equal(value, state["average.net"][f"module.{key}"])
    assert any(not torch.equal(value, state["network.net"][key]) for key, value in exported.items())
    card = loaded.card
    assert (card["weights"], card["step"], card["threads"], card["world_size"]) == ("ema", 60, 1, 1)
    assert card["parameters"] == sum(p.numel() for p in loaded.network.parameters())
    assert set(card["shares"]) == {"data", "step", "checkpoint", "validation"}
    assert [(pairs["id"], pairs["use"]) for pairs in card["pairs"]] == [
        ("toy.train", "train"),
        ("toy.train", "validation"),
    ]


def test_only_the_last_two_checkpoints_are_kept_and_curves_are_keyed_by_step(finished):
    assert sorted(f.name for f in (finished.workdir / "state").glob("*.ckpt")) == [
        "step_00000059.ckpt",
        "step_00000060.ckpt",
    ]
    rows = list(csv.DictReader(finished.curves().splitlines()))
    assert [int(r["step"]) for r in rows if r["name"] == "validation/psnr"] == [20, 40, 60]
    assert [int(r["step"]) for r in rows if r["name"] == "loss/pixel"] == list(range(1, 61))


def test_other_settings_set_the_old_state_aside(trained):
    trained.freeze(stage(seed=4))
    again = trained.run()
    assert "settings, pair lists or parents changed" in again.stdout
    assert "from step 0 of 60" in again.stdout
    kept = [f for f in trained.workdir.iterdir() if f.name.startswith("state.")]
    assert len(kept) == 1
    assert (kept[0] / "step_00000060.ckpt").is_file()


def test_a_stage_trains_on_from_the_last_checkpoint_of_a_finished_one(finished, tmp_path):
    still = {"net": {"learning_rate": 1e-30, "schedule": "constant"}}
    phases = [{"steps": 2, "patch_size": 16, "batch_size": 4}]
    settings = stage(stage="on", parents={"continued": "m/s/seed0/a"}, optimizers=still, phases=phases)
    trained = Stage(tmp_path, settings)
    parent = ("--parent", f"continued={finished.workdir / 'model.safetensors'}")
    said = trained.run(*parent).stdout
    newest_one = finished.workdir / "state/step_00000060.ckpt"
    assert f"training on from {newest_one}, step 60 of its own" in said and "from step 0 of 2" in said
    before, after = (torch.load(file) for file in (newest_one, trained.workdir / "state/step_00000002.ckpt"))
    assert {name: value.tolist() for name, value in after["network.net"].items()} == {
        name: value.tolist() for name, value in before["network.net"].items()
    }
    steps = [int(file["optimizer.net"]["state"][0]["step"]) for file in (before, after)]
    assert steps == [60, 62]
    assert [int(file["average.net"]["n_averaged"]) for file in (before, after)] == [60, 62]
    assert json.loads((trained.workdir / "card.json").read_text())["budget"]["steps"] == 62
    assert "training on" not in trained.run(*parent).stdout  # it resumes its own


def test_nothing_to_train_on_from_and_another_network_are_told(finished, tmp_path):
    trained = Stage(tmp_path, stage(parents={"continued": "m/s/seed0/a"}, network=WIDER))
    parent = ("--parent", f"continued={finished.workdir / 'model.safetensors'}")
    failed = trained.run(*parent, check=False)
    assert failed.returncode == 2
    assert "step_00000060.ckpt: cannot be trained on from (" in failed.stderr and "Expected the last" in failed.stderr
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("model.safetensors", "card.json"):
        shutil.copy(finished.workdir / name, alone)
    failed = trained.run("--parent", f"continued={alone / 'model.safetensors'}", check=False)
    assert f"{alone / 'state'}: no checkpoint to train on from (clean_state removes" in failed.stderr


def test_a_world_that_was_not_launched_is_refused(tmp_path):
    failed = Stage(tmp_path).run("--processes", "2", check=False)
    assert failed.returncode == 2
    assert "2 processes asked for, launched 1: start with torchrun" in failed.stderr


def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    failed = Stage(tmp_path).run_apart("--gpus", "1", check=False)  # one that sees no GPU
    assert failed.returncode == 2
    assert "1 GPU(s) asked for (compute: gpu), torch sees 0" in failed.stderr


def test_a_non_finite_loss_stops_names_the_batch_and_exports_nothing(tmp_path):
    optimizers = {"net": {"learning_rate": 1e18}}
    failed = Stage(tmp_path, stage(optimizers=optimizers, clip_norm=0.0, pixel_loss="mse"))
    result = failed.run("--checkpoint-seconds", "0.0001", check=False)
    assert result.returncode == 2
    assert "non-finite loss or gradient at step" in result.stderr
    assert "img" in result.stderr
    assert "step_0000" in result.stderr
    assert not (failed.workdir / "model.safetensors").exists()


def test_a_checkpoint_of_other_settings_is_refused_for_resume(finished, tmp_path):
    second = Stage(tmp_path, stage(seed=9))
    failed = second.run("--resume", str(finished.workdir / "state" / "step_00000060.ckpt"), check=False)
    assert failed.returncode == 2
    assert "belongs to run" in failed.stderr


@pytest.mark.parametrize("content", [b"xyz", b"", "list", "pickle"])
def test_a_foreign_file_for_resume_is_refused(tmp_path, content):
    foreign = tmp_path / "foreign.ckpt"
    if content == "list":
        torch.save([1, 2], foreign)
    elif content == "pickle":
        foreign.write_bytes(pickle.dumps(Path("x")))
    else:
        foreign.write_bytes(content)
    failed = Stage(tmp_path).run("--resume", str(foreign), check=False)
    assert failed.returncode == 2
    assert "Give another --resume file, or leave it out" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_changed_pair_list_trains_anew(trained):
    first = trained.weights()
    lines = trained.list.read_text().splitlines()
    trained.list.write_text("\n".join(lines[:4]) + "\n")
    assert "from step 0 of 60" in trained.run().stdout
    assert trained.weights() != first


def test_going_back_to_an_older_checkpoint_drops_the_later_ones(trained, tmp_path):
    state = trained.workdir / "state"
    old = tmp_path / "step_00000059.ckpt"
    (state / old.name).rename(old)
    trained.run("--resume", str(old), "--checkpoint-seconds", "1000")
    assert sorted(f.name for f in state.glob("*.ckpt")) == ["step_00000060.ckpt"]


def test_a_bad_photo_in_a_loader_process_gives_one_line(tmp_path):
    trained = Stage(tmp_path)
    (tmp_path / "images" / "img3.png").write_bytes(b"no image")
    failed = trained.run("--workers", "2", check=False)
    assert failed.returncode == 2
    assert "img3.png: corrupt image" in failed.stderr
    assert "Original Traceback" not in failed.stderr


def test_a_cluster_s_sigterm_to_all_processes_saves_with_loader_workers(tmp_path, uninterrupted):
    trained = Stage(tmp_path, stage(**LONG))
    process = subprocess.Popen(
        trained.command("--workers", "2"), env=one_thread(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for_curves(trained, process)
    os.killpg(process.pid, signal.SIGTERM)
    assert "stopped by SIGTERM after step" in process.communicate(timeout=60)[1]
    assert newest(trained) != ""
    trained.run()
    assert trained.weights() == uninterrupted.weights()


def test_a_second_process_waits_for_the_one_that_trains_the_stage_and_ends_with_the_same_bits(tmp_path, uninterrupted):
    trained = Stage(tmp_path, stage(**LONG))
    first = subprocess.Popen(trained.command(), env=one_thread(), stdout=subprocess.PIPE)
    wait_for_curves(trained, first)
    first.send_signal(signal.SIGSTOP)
    second = subprocess.Popen(trained.command(), env=one_thread(), stdout=subprocess.PIPE, text=True)
    guard = trained.workdir / ".training.lock"
    assert f"{guard}: process {first.pid} on {socket.gethostname()} is at work; waiting" in second.stdout.readline()
    first.send_signal(signal.SIGCONT)
    said = second.communicate(timeout=60)[0]
    assert first.wait(timeout=60) == second.returncode == 0
    first.stdout.close()
    assert "from step 600 of 600" in said and not guard.exists()
    assert (trained.weights(), trained.curves()) == (uninterrupted.weights(), uninterrupted.curves())


def test_no_progress_quotes_the_last_error(tmp_path):
    trained = Stage(tmp_path)
    (tmp_path / "images" / "img3.png").write_bytes(b"no image")
    for attempt in ("1", "2"):
        assert "img3.png: corrupt image" in trained.run("--attempt", attempt, check=False).stderr
    third = trained.run("--attempt", "3", check=False).stderr
    assert "no progress" in third
    assert "the last error" in third
    assert "img3.png: corrupt image" in third


def test_resume_from_a_chosen_checkpoint(trained):
    first = trained.weights()
    again = trained.run("--resume", str(trained.workdir / "state" / "step_00000059.ckpt"))
    assert "from step 59 of 60" in again.stdout
    assert trained.weights() == first


def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(trained):
    first = trained.weights()
    newest_file = trained.workdir / "state" / "step_00000060.ckpt"
    newest_file.write_bytes(newest_file.read_bytes()[:1000])
    again = trained.run()
    assert "from step 59 of 60" in again.stdout
    assert trained.weights() == first


def test_a_full_disk_during_a_checkpoint_keeps_the_earlier_one(tmp_path):
    """A limit on the size of written files stands for the full disk: both refuse the write."""
    trained = Stage(tmp_path)
    size = 20_000

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    failed = subprocess.run(trained.command(), env=one_thread(), capture_output=True, text=True, preexec_fn=limit)
    assert failed.returncode == 2, failed.stderr
    assert "cannot be written" in failed.stderr
    assert "Free disk space" in failed.stderr
    assert not (trained.workdir / "model.safetensors").exists()
    assert [f.suffix for f in (trained.workdir / "state").iterdir() if f.suffix in (".ckpt", ".tmp")] == []
    trained.run()
    assert load_model(trained.workdir).card["step"] == 60


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(tmp_path):
    stage_folder = tmp_path / "stage"
    state = StateFolder(stage_folder / "state", "abc")
    state.claim(1, 1)
    ours = [stage_folder / ".model.x1.safetensors", stage_folder / "state" / "step_00000010.tmp"]
    others = [stage_folder / ".config.yaml.swp", stage_folder / "config.yaml"]
    for path in (*ours, *others):
        path.touch()
    state.claim(1, 1)
    assert [path.exists() for path in (*ours, *others)] == [False, False, True, True]


def test_two_attempts_without_progress_are_enough(tmp_path):
    state = StateFolder(tmp_path / "state", "abc")
    state.note_attempt(1, 0)
    state.note_attempt(2, 0)
    with pytest.raises(AirpipeError, match="no progress: the last two attempts started at step 0"):
        state.note_attempt(3, 0)
    with pytest.raises(AirpipeError, match="no progress"):  # nor does a later retry train
        state.note_attempt(4, 0)
    state.note_attempt(1, 0)  # a fresh submission counts anew
    state.note_attempt(2, 0)
    state.note_attempt(3, 10)
    state.note_attempt(4, 10)


def test_a_pair_list_that_the_mix_does_not_name_is_refused(tmp_path):
    trained = Stage(tmp_path)
    data = [{"pairs": "other.train", "operations": [], "recipe": None}]
    trained.freeze(stage(data=data))
    failed = trained.run(check=False)
    assert "the frozen config names pair list 'other.train'; given: toy.train" in failed.stderr


def test_an_image_smaller_than_the_patch_is_named(tmp_path):
    phases = [{"steps": 2, "patch_size": 64, "batch_size": 2}]
    failed = Stage(tmp_path, stage(phases=phases)).run(check=False)
    assert "is smaller than patch_size 64" in failed.stderr


def test_partial_loading_reports_and_refuses_a_foreign_parent():
    target = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    report = load_matching(target, {"0.weight": torch.ones(3, 2), "1.weight": torch.ones(1), "x": torch.ones(1)}, "p")
    assert report == {
        "matched": ["0.weight"],
        "missing": ["0.bias", "1.bias", "1.weight"],
        "unexpected": ["1.weight", "x"],
    }
    assert torch.equal(target[0].weight, torch.ones(3, 2))
    with pytest.raises(AirpipeError, match="none of its 1 entries fits"):
        load_matching(target, {"x": torch.ones(1)}, "p")
