"""A temporary copy of the project and Snakemake runs inside it, at toy scale."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from helpers import ROOT

from airpipe.settings.merging import deep_merge

NOT_COPIED = ("results", "datasets", ".venv", ".git", ".snakemake", "__pycache__", ".*_cache")
NETWORK = {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]}
TRAIN = {
    "network": {"arguments": NETWORK},
    "phases": [{"steps": 12, "patch_size": 16, "batch_size": 2}],
    "optimizers": {"net": {"warmup_steps": 2}},
    "validation": {"every": 12, "patch_size": 32, "data": [{"pairs": "photos.val", "recipe": "noise"}]},
}
TOY = {
    "models": ["baseline/nafnet_5d"],
    "methods": {
        "baseline": {"settings": {"nafnet_5d": {"stages": {"train": {"scales": {"demo": TRAIN}}}}}},
    },
    "tests": {"photos_noise25": {"protocols": ["airpipe"], "keep_images": 1}},
    "tables": {"allinone": {"tests": ["photos_noise25"]}, "pretraining": {"scales": []}},
    "features": {"scales": []},
    "recognition": {"scales": []},
    "compute": {"demo": {"default": {"threads": 1}}},
}
"""Overlay: the shipped demo with a network of width 4, 12 steps and one test; under a minute on two cores."""


def copy_project(folder: Path) -> Path:
    """Copy what git would take (or all but what is generated) into `folder`."""
    listed = files_of_git()
    if listed is None:
        ignored = shutil.ignore_patterns(*NOT_COPIED)
        return Path(shutil.copytree(ROOT, folder, ignore=ignored, dirs_exist_ok=True))
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def files_of_git() -> list[str] | None:
    """Tracked and new files, without ignored ones; None where git cannot tell."""
    if shutil.which("git") is None:
        return None
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return [name for name in listed.stdout.split("\0") if name] if listed.returncode == 0 else None


def copy_run(folder: Path, target: Path) -> Path:
    """Copy a project with its results, times and Snakemake's records."""
    return Path(shutil.copytree(folder, target, symlinks=True))


def make_toy_run(folder: Path) -> Path:
    """A project with a finished run of TOY and the overlay that made it; one that is there is taken as it is."""
    if not (folder / "results/report/index.html").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        write_overlay(copy_project(folder), TOY)
        snakemake(folder, "all", "--configfile", "overlay.yaml")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """The current interpreter first on PATH, and the package of `folder` before any installed one."""
    variables = {k: v for k, v in os.environ.items() if k != "SNAKEMAKE_PROFILE"}
    path = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", "")])
    return variables | {
        "PATH": path,
        "PYTHONPATH": str(folder / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }


def write_overlay(folder: Path, *overlays: dict, name: str = "overlay.yaml") -> Path:
    """Write overlays, later over earlier, as one file for --configfile."""
    merged: dict = {}
    for overlay in overlays:
        merged = deep_merge(merged, overlay)
    path = folder / name
    path.write_text(yaml.safe_dump(merged, sort_keys=False))
    return path


def snakemake(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run snakemake in a copy, on two cores; stdout and stderr come back together in `stdout`."""
    command = ["snakemake", "--cores", "2", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert not check or done.returncode == 0, done.stdout
    return done


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """Jobs that snakemake would run, by rule, without the targets `all` and `data` and without `freeze`."""
    return job_table(snakemake(folder, "-n", *arguments).stdout)


def job_table(output: str) -> dict[str, int]:
    """Parse the first table `Job stats`; empty when there is nothing to be done."""
    _, found, rest = output.partition("Job stats:\n")
    if not found:
        assert "Nothing to be done" in output, output
        return {}
    rows = re.findall(r"^(\w+) +(\d+)$", rest.split("\n\n")[0], re.MULTILINE)
    return {rule: int(count) for rule, count in rows if rule not in ("all", "data", "freeze", "total")}
