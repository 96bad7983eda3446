"""Slurm for real: jobs through sbatch, time limits, cancellations, retries, srun, GPU requests.

Every call of snakemake is as a user types it, in a copy of the project, plus one overlay of toy sizes.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from helpers import Stage, curve

from workflow import TOY, copy_project, copy_run, environment, snakemake, write_overlay

STAGE = "results/baseline/nafnet_5d/seed{}/train"
MODEL = f"{STAGE.format(0)}/model.safetensors"
TABLE = "results/tables/allinone.csv"
LOG = "results/logs/baseline/nafnet_5d/seed{}/train.log"
STEPS = 1200
"""Training that a test stops after its first checkpoint, a second after its start, goes on for many seconds more."""


@pytest.fixture(scope="module")
def slurm() -> None:
    """A running Slurm."""
    answers = shutil.which("sinfo") and subprocess.run(["sinfo", "-h"], capture_output=True).returncode == 0
    if answers:
        return
    how = "no Slurm answers; start a throw-away one (root, Debian): bash tests/slurm/slurm-up.sh"
    if os.environ.get("AIRPIPE_REQUIRE_SLURM") == "1":
        pytest.fail(how)
    pytest.skip(how)


def overlay(project: Path, *, seeds: tuple[int, ...] = (0,), steps: int = 12, **compute: float) -> Path:
    """Toy sizes as one file: seeds, training steps, and what a stage asks of the machine."""
    phases = [{"steps": steps, "patch_size": 32, "batch_size": 2}]
    # one picture of 32 pixels at the end, so that nearly all of the time is spent in steps
    train = {"phases": phases, "validation": {"every": steps}}
    return write_overlay(
        project,
        TOY,
        {"seeds": list(seeds)},
        {"methods": {"baseline": {"settings": {"nafnet_5d": {"stages": {"train": {"scales": {"demo": train}}}}}}}},
        {"compute": {"demo": {"default": {"threads": 1, "gpu": 0, "mem_mb": 1500, **compute}}}},
    )


class Run:
    """`snakemake --profile slurm ...` in a copy, in the background."""

    def __init__(self, project: Path, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
        self.project, self.output = project, project / "snakemake.txt"
        with self.output.open("w") as stream:
            self.process = subprocess.Popen(
                ["snakemake", "--profile", "slurm", *arguments],
                cwd=project,
                env=environment(project) | {"SLURM_POLL_SECONDS": "2"} | variables,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def until(self, what: str, found: Callable[[], object], seconds: float = 180) -> object:
        """Wait for `found()` to be true while snakemake runs."""
        end = time.monotonic() + seconds
        while not (value := found()):
            assert self.process.poll() is None, f"snakemake ended before {what}:\n{self.said[-3000:]}"
            assert time.monotonic() < end, f"no {what} within {seconds} s:\n{self.said[-3000:]}"
            time.sleep(0.5)
        return value

    def wait(self, seconds: float) -> int:
        return self.process.wait(timeout=seconds)

    def name(self) -> str | None:
        """Name that all Slurm jobs of this run share."""
        found = re.search(r"SLURM run ID: (\S+)", self.said)
        return found.group(1) if found else None

    def running(self, comment: str) -> str | None:
        """Id of this run's running job with that comment: rule_<rule>_wildcards_<values>."""
        if not self.name():
            return None
        fields = ask("squeue", "-h", "--name", str(self.name()), "-t", "RUNNING", "-o", "%i %k")
        found = [line.split() for line in fields.splitlines()]
        return next((job for job, said in found if said == comment), None)

    def attempts(self) -> dict[str, list[str]]:
        """States of all attempts, oldest first, by comment, as accounting has them."""
        states: dict[str, list[str]] = {}
        for line in self.accounting().splitlines():
            _, state, comment, *_ = line.split("|")
            states.setdefault(comment, []).append(state.split()[0])
        return states

    def accounting(self) -> str:
        columns = "JobID,State,Comment,Elapsed,Timelimit,ReqTRES"
        return ask("sacct", "-X", "-n", "-P", "--name", str(self.name()), "-S", "now-1days", "-o", columns)


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@contextmanager
def submitted(project: Path, *arguments: str, retries: int = 0, **variables: str) -> Iterator[Run]:
    """Start snakemake; nothing of it is left behind when a test fails."""
    run = Run(project, arguments, {"AIRPIPE_RETRIES": str(retries)} | variables)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()
            if run.name():
                subprocess.run(["scancel", "--name", str(run.name())])


def train_here(project: Path, workdir: Path, seed: int) -> subprocess.Popen[bytes]:
    """The training command of the rule, run here without Slurm into another folder."""
    workdir.mkdir(parents=True)
    lists = ["--train", "results/pairs/photos.train.csv", "--val", "results/pairs/photos.val.csv"]
    where = ["--config", f"{STAGE.format(seed)}/config.yaml", "--workdir", str(workdir), "--threads", "1"]
    command = [sys.executable, "scripts/train.py", *where, *lists]
    return subprocess.Popen(command, cwd=project, env=environment(project), stdout=subprocess.DEVNULL)


@pytest.mark.slurm
def test_a_time_limit_and_a_cancelled_job_change_no_bit(tmp_path, slurm):
    project = copy_project(tmp_path / "project")
    given = overlay(project, seeds=(0, 1), steps=STEPS, checkpoint_seconds=1)
    first, second = (f"rule_baseline_train_wildcards_nafnet_5d_{seed}" for seed in (0, 1))
    with submitted(project, TABLE, "--configfile", str(given), retries=3) as run:
        limited = run.until("job of seed 0", lambda: run.running(first))
        ask("scontrol", "update", f"JobId={limited}", "TimeLimit=1")
        run.until("checkpoint of seed 0", lambda: saved(project, 0))
        frozen = training_process(project, 0)
        os.kill(frozen, signal.SIGSTOP)  # Slurm has no limit below a minute; training needs far less
        cancelled = run.until("job of seed 1", lambda: run.running(second))
        run.until("checkpoint of seed 1", lambda: saved(project, 1))
        ask("scancel", str(cancelled))
        again = [train_here(project, tmp_path / f"uninterrupted{seed}", seed) for seed in (0, 1)]
        assert [process.wait(timeout=1800) for process in again] == [0, 0]
        run.until("time limit", lambda: run.running(first) != limited)
        with suppress(ProcessLookupError):  # where Slurm's signal has let it go already
            os.kill(frozen, signal.SIGCONT)
        assert run.wait(1800) == 0, run.said[-3000:]
        print(run.accounting())

    attempts = run.attempts()
    assert attempts.pop(first) == ["TIMEOUT", "COMPLETED"]
    assert attempts.pop(second) == ["CANCELLED", "COMPLETED"]
    assert attempts and all(states == ["COMPLETED"] for states in attempts.values()), attempts
    for seed in (0, 1):
        resumed = re.search(rf"from step (\d+) of {STEPS} ", (project / LOG.format(seed)).read_text())
        assert resumed and 0 < int(resumed.group(1)) < STEPS
    with (project / TABLE).open(newline="") as table:
        seeds = {row["seeds"] for row in csv.DictReader(table) if row["model"] == "baseline/nafnet_5d/train"}
    assert seeds == {"2"}

    for seed in (0, 1):
        expected = (tmp_path / f"uninterrupted{seed}" / "model.safetensors").read_bytes()
        assert (project / STAGE.format(seed) / "model.safetensors").read_bytes() == expected


def started(project: Path) -> list[int]:
    """The steps at which the attempts of seed 0 started, as the training itself notes them."""
    noted = project / STAGE.format(0) / "state" / "attempts.json"
    return json.loads(noted.read_text()) if noted.is_file() else []


def saved(project: Path, seed: int) -> list[Path]:
    """The checkpoints of a seed."""
    return list((project / STAGE.format(seed) / "state").glob("step_*.ckpt"))


def training_process(project: Path, seed: int) -> int:
    """Id of the process that trains that seed in `project` (the cluster's node is this machine)."""
    config = f"{STAGE.format(seed)}/config.yaml"
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_text().split("\0")
            here = (folder / "cwd").resolve() == project.resolve()
            if words[1:2] == ["scripts/train.py"] and config in words and here:
                return int(folder.name)
    raise AssertionError(f"no training of seed {seed} runs in {project}")


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    """A project with the pair lists of training, made without Slurm (the first test makes them with it)."""
    project = copy_project(tmp_path_factory.mktemp("listed") / "project")
    snakemake(project, "results/pairs/photos.train.csv", "results/pairs/photos.val.csv")
    return project


@pytest.mark.slurm
def test_a_job_that_twice_makes_no_progress_ends_by_itself_and_says_so(tmp_path, slurm, listed):
    project, log = copy_run(listed, tmp_path / "project"), tmp_path / "project" / LOG.format(0)
    given = overlay(project, steps=1_000_000, checkpoint_seconds=100_000)
    train = "rule_baseline_train_wildcards_nafnet_5d_0"
    with submitted(project, MODEL, "--configfile", str(given), retries=2) as run:
        for number in (1, 2):
            run.until(f"attempt {number}", lambda wanted=number: started(project) == [0] * wanted)
            # scancel sends SIGTERM first, at which training saves its state: so it must be gone by then
            os.kill(training_process(project, 0), signal.SIGKILL)
            ask("scancel", str(run.running(train)))
        assert run.wait(300) != 0

    assert run.attempts()[train] == ["CANCELLED", "CANCELLED", "FAILED"]
    assert "no progress: the last two attempts started at step 0" in log.read_text()
    assert "from step" not in log.read_text()
    assert not (project / MODEL).exists()


@pytest.mark.slurm
def test_srun_starts_two_processes_that_train_like_one(tmp_path, slurm):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = Stage(tmp_path / "one"), Stage(tmp_path / "two")
    one.run()
    srun = ("srun", "-n", "2", "--ntasks-per-node", "2", "-c", "1", sys.executable)
    two.run_apart("--processes", "2", launch=srun)
    assert json.loads((two.workdir / "card.json").read_text())["world_size"] == 2
    alone, shared = (curve(made, "loss/pixel")[:10] for made in (one, two))
    assert len(alone) == 10 and shared == pytest.approx(alone, abs=1e-5)


@pytest.mark.slurm
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that torch can use")
def test_a_gpu_is_requested_and_its_absence_in_the_job_is_refused(tmp_path, slurm, listed):
    if "gpu" not in ask("sinfo", "-h", "-o", "%G"):
        how = "this Slurm offers no GPU (bash tests/slurm/slurm-up.sh offers fake ones)"
        if os.environ.get("AIRPIPE_REQUIRE_SLURM") == "1":
            pytest.fail(how)
        pytest.skip(how)
    project = copy_run(listed, tmp_path / "project")
    watched = tmp_path / "bin"  # a python that notes what the job got, and then is python
    watched.mkdir()
    notes = watched / "python"
    notes.write_text(
        f'#!/bin/sh\necho "${{CUDA_VISIBLE_DEVICES-none}}" "$@" >> {watched}/calls\nexec {sys.executable} "$@"\n'
    )
    notes.chmod(0o755)
    path = f"{watched}{os.pathsep}{environment(project)['PATH']}"
    with submitted(project, MODEL, "--configfile", str(overlay(project, gpu=1)), PATH=path) as run:
        assert run.wait(300) == 1
    assert "1 GPU(s) asked for (compute: gpu), torch sees 0" in (project / LOG.format(0)).read_text()
    assert "gres/gpu=1" in run.accounting()
    calls = [line.split() for line in (watched / "calls").read_text().splitlines()]
    assert [seen for seen, script, *_ in calls if script == "scripts/train.py"] in (["0"], ["1"])


@pytest.mark.pipeline
def test_a_dry_run_for_slurm_shows_what_the_stage_asks_for(tmp_path):
    project = copy_project(tmp_path / "project")
    given = overlay(project, threads=6, gpu=1)  # more threads than this machine may have
    with submitted(project, "-n", "all", "--configfile", str(given)) as run:
        assert run.wait(120) == 0, run.said
    command = next(line for line in run.said.splitlines() if "scripts/train.py" in line)
    assert "--threads 6 --gpus 1 " in command


@pytest.mark.pipeline
def test_without_slurm_the_profile_fails_with_a_remedy_and_writes_nothing(tmp_path):
    project = copy_project(tmp_path / "project")
    with submitted(project, "all", "--configfile", str(overlay(project)), PATH=path_without_slurm(tmp_path)) as run:
        assert run.wait(120) == 1
    assert "no sbatch on its PATH" in run.said
    assert "without --profile slurm" in run.said
    assert "Traceback" not in run.said
    assert not (project / "results").exists()


def path_without_slurm(folder: Path) -> str:
    """A PATH with what snakemake needs, and without the commands of Slurm."""
    tools = folder / "bin"
    tools.mkdir()
    for tool in ("bash", "sh", "env", "git", "uname", "which"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(found)
    return f"{Path(sys.executable).parent}{os.pathsep}{tools}"


@pytest.mark.pipeline
def test_several_nodes_without_srun_are_refused_before_anything_is_made(tmp_path, monkeypatch):
    project = copy_project(tmp_path / "project")
    given = overlay(project, nodes=2)
    monkeypatch.setenv("PATH", path_without_slurm(tmp_path))
    done = snakemake(project, "train_baseline", "--configfile", str(given), check=False)
    assert done.returncode == 1
    assert "baseline_train asks for several nodes (compute: nodes), which srun starts, and this machine" in done.stdout
    assert not (project / "results").exists()
