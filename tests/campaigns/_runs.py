"""A small table that campaigns make again and again, and what of it may not differ by a bit."""

import shutil
import subprocess
import time
from pathlib import Path

from workflow import TOY, copy_project, count_start, environment, write_overlay

TARGET = "results/tables/allinone.csv"
STAGE = "results/baseline/nafnet_5d/seed0/train"
SAME = (TARGET, f"{STAGE}/model.safetensors", f"{STAGE}/curves.csv", f"{STAGE}/config.yaml")
"""Files that may not differ by a bit from those of a run that nothing disturbed."""
COMMAND = ("snakemake", "--cores", "2", TARGET, "--configfile", "overlay.yaml")


def prepare(folder: Path, *overlays: dict) -> tuple[Path, Path, float]:
    """A project before its run, one after it, and the seconds that this took."""
    project = copy_project(folder / "project")
    write_overlay(project, TOY, *overlays)
    reference = Path(shutil.copytree(project, folder / "reference", symlinks=True))
    begin = time.monotonic()
    with start(reference) as process:
        said = process.communicate()[0]
    assert process.returncode == 0, said
    return project, reference, time.monotonic() - begin


def start(project: Path, **variables: str) -> subprocess.Popen:
    """Start the command in a session of its own; stdout and stderr come together."""
    count_start(COMMAND)
    return subprocess.Popen(
        COMMAND,
        cwd=project,
        env=environment(project) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def differences(project: Path, reference: Path) -> str:
    """Names of the files that are missing or differ; empty where all are the same."""
    return ", ".join(
        f"{name} differs"
        for name in SAME
        if not (project / name).is_file() or (project / name).read_bytes() != (reference / name).read_bytes()
    )
