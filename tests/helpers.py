"""Small real stages for tests: seconds on one core."""

import csv
import json
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import cv2
import numpy as np
import yaml

from airpipe.data.pairs import read_pairs
from airpipe.errors import run_main
from airpipe.registry import METHODS
from airpipe.settings.base import canonical_json
from airpipe.settings.merging import deep_merge
from airpipe.settings.stages import StageSettings
from airpipe.training.run import PairLists, RunOptions, train_stage

ROOT = Path(__file__).parents[1]
TRAIN_SCRIPT = ROOT / "scripts" / "train.py"
NOISE = {"operation": "gaussian_noise", "parameters": {"sigma": {"choice": [15, 25, 50]}}}
RAIN = {
    "operation": "rain_streaks",
    "parameters": {
        "density": 0.004,
        "length": 15,
        "angle": {"uniform": [-20, 20]},
        "width": 1,
        "strength": 0.5,
    },
}

PARAMETERS = {
    "colour_shift": {"contrast": 0.8, "brightness": 0.1},
    "corrupted_cells": {
        "cell": 8,
        "masked": 0.3,
        "degraded": 0.5,
        "fill": 1,
        "quality": 30,
        "sigma": 25,
        "amplitude": 40,
    },
    "defocus_blur": {"diameter": 7},
    "gaussian_blur": {"kernel_size": 15, "variance_along": 4, "variance_across": 1, "angle": 30},
    "gaussian_noise": {"sigma": 25},
    "haze": {"airlight": 0.9, "beta": 1.0, "near": 0.2, "far": 1.5},
    "jpeg": {"quality": 20},
    "low_light": {"gain": 0.3, "gamma": 1.5, "sigma": 2},
    "mosaic": {},
    "motion_blur": {"length": 9, "angle": 30},
    "poisson_noise": {"photons": 200},
    "rain_streaks": {"density": 0.01, "length": 12, "angle": 10, "width": 1, "strength": 0.5},
    "snow": {"density": 0.01, "size": 8, "motion": 4, "angle": 10, "strength": 0.9},
    "speckle_noise": {"sigma": 25},
    "strokes": {"segments": 6, "thickness": 7, "colour": 1},
}
"""Some for every operation."""


def stage(**changes) -> StageSettings:
    """A tiny stage on the list toy.train; keyword arguments replace top-level settings."""
    values = {
        "task": "baseline.train",
        "revision": 1,
        "method": "baseline",
        "setting": "nafnet_toy",
        "stage": "train",
        "scale": "demo",
        "seed": 3,
        "network": {
            "name": "nafnet",
            "arguments": {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]},
        },
        "data": [
            {"pairs": "toy.train", "recipe": "noise", "operations": [NOISE], "share": 2, "quantise": False},
            {"pairs": "toy.train", "recipe": "rain", "operations": [RAIN], "label": 1},
        ],
        "validation": {
            "every": 20,
            "patch_size": 32,
            "data": [{"pairs": "toy.train", "recipe": "noise", "operations": [NOISE]}],
        },
        "phases": [
            {"steps": 30, "patch_size": 16, "batch_size": 4},
            {"steps": 30, "patch_size": 24, "batch_size": 2},
        ],
        "optimizers": {"net": {"learning_rate": 2e-3, "warmup_steps": 5, "betas": [0.9, 0.9]}},
        "ema_decay": 0.9,
        "clip_norm": 1.0,
    }
    return StageSettings.model_validate({**values, **changes})


def toy_images(folder: Path, count: int = 5, size: tuple[int, int] = (48, 56)) -> list[Path]:
    """Smooth random pictures, the same in every run."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        paths.append(folder / f"img{number}.png")
        cv2.imwrite(str(paths[-1]), cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))
    return paths


def toy_list(folder: Path) -> Path:
    """Pair list toy.train over `toy_images`."""
    paths = toy_images(folder / "images")
    target = folder / "toy.train.csv"
    with target.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["degraded", "clean", "degradation", "level", "crop", "name", "group"])
        writer.writerows(["", path.name, "", "", "none", path.stem, path.stem] for path in paths)
    target.with_suffix(".json").write_text("{}")
    return target


@cache
def train_script() -> SimpleNamespace:
    """What scripts/train.py defines."""
    return SimpleNamespace(**runpy.run_path(str(TRAIN_SCRIPT)))


class Stage:
    """A stage on disk that `scripts/train.py` can run."""

    def __init__(self, folder: Path, settings: StageSettings | None = None) -> None:
        self.folder, self.workdir = folder, folder / "stage"
        self.list = toy_list(folder)
        self.workdir.mkdir(exist_ok=True)
        self.freeze(settings or stage())

    def freeze(self, settings: StageSettings) -> None:
        self.config = self.workdir / "config.yaml"
        self.config.write_text(json.dumps(json.loads(canonical_json(settings))))

    def command(self, *more: str, launch: tuple[str, ...] = (sys.executable,)) -> list[str]:
        lists = [
            "--train",
            str(self.list),
            "--val",
            str(self.list),
            "--root",
            f"toy={self.folder / 'images'}",
        ]
        where = ["--config", str(self.config), "--workdir", str(self.workdir)]
        return [*launch, str(TRAIN_SCRIPT), *where, *lists, *more]

    def run(self, *more: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run scripts/train.py in this process: a start of Python with torch costs more than the training."""
        said, errors = StringIO(), StringIO()
        words = [str(TRAIN_SCRIPT), *self.command(*more)[2:]]
        with patch.object(sys, "argv", words), redirect_stdout(said), redirect_stderr(errors):
            try:
                run_main(train_script().main)
            except SystemExit as end:
                code = end.code
        assert not check or code == 0, errors.getvalue()
        return subprocess.CompletedProcess(words, code, said.getvalue(), errors.getvalue())

    def run_apart(self, *more: str, check: bool = True, **options) -> subprocess.CompletedProcess:
        """Run scripts/train.py in a process of its own."""
        done = subprocess.run(
            self.command(*more, **options), capture_output=True, text=True, env=one_thread(), timeout=300
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def weights(self) -> bytes:
        return (self.workdir / "model.safetensors").read_bytes()

    def curves(self) -> str:
        return (self.workdir / "curves.csv").read_text()


CONFIG = [f"{name}.yaml" for name in ("config", "datasets", "recipes", "protocols", *(f"methods/{m}" for m in METHODS))]


@cache
def read_config(name: str) -> dict:
    return yaml.safe_load((ROOT / "config" / name).read_text())


def shipped(*overlays: str) -> dict:
    """All of config/ as Snakemake merges it, with overlays of config/overlays/; a new copy for every call."""
    merged: dict = {}
    for name in [*CONFIG, *(f"overlays/{name}" for name in overlays)]:
        merged = deep_merge(merged, deepcopy(read_config(name)))
    return merged


def one_thread() -> dict[str, str]:
    """An environment in which training has one thread and no GPU, whatever the machine has."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def train(folder: Path, settings: StageSettings, seconds: float = 1e6, classes: bool = True, **parents: Path) -> Stage:
    """Run a stage in this process.

    Args:
        folder: of the images, the list and the stage.
        settings: of the stage, all of whose parts are toy.train.
        seconds: between two checkpoints.
        classes: whether the images show two things, "even" and "odd".
        parents: model file of each role.
    """
    made = on_disk(folder, settings, classes)
    pairs = read_pairs(made.list, folder / "images")
    mixes = (settings.data, settings.validation.data)
    lists = [PairLists([made.list] * len(parts), [pairs] * len(parts)) for parts in mixes]
    options = RunOptions(workdir=made.workdir, checkpoint_seconds=seconds, parents=parents)
    train_stage(settings, *lists, options)
    return made


def on_disk(folder: Path, settings: StageSettings, classes: bool = True) -> Stage:
    """A stage that can be run; `classes`: whether its images show two things."""
    folder.mkdir(exist_ok=True, parents=True)
    made = Stage(folder, settings)
    known = {"classes": {f"img{i}": ("even", "odd")[i % 2] for i in range(5)}} if classes else {}
    made.list.with_suffix(".json").write_text(json.dumps(known))
    return made


def model_of(made: Stage) -> Path:
    """The model file of a stage that was trained."""
    return made.workdir / "model.safetensors"


def card(made: Stage) -> dict:
    """The card of a stage that was trained."""
    return json.loads((made.workdir / "card.json").read_text())


def curve(made: Stage, name: str) -> list[float]:
    """The values of a curve, without their steps."""
    return [float(row["value"]) for row in csv.DictReader(made.curves().splitlines()) if row["name"] == name]


def run_on_processes(count: int, commands: list[list[str]], folder: Path) -> None:
    """Run these commands of stages on several processes, one after the other with one start."""
    calls = folder / "calls"
    calls.write_text("\n".join(json.dumps([*words[1:], "--processes", str(count)]) for words in commands))
    launch = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", str(count)]
    command = [*launch, str(ROOT / "tests" / "launched.py"), str(calls)]
    done = subprocess.run(command, env=one_thread(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
