"""A temporary copy of the project and Snakemake runs inside it, at toy scale."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from helpers import ROOT, toy_images
from parity import load_golden

from airpipe.settings.merging import deep_merge

NOT_COPIED = ("results", "datasets", ".venv", ".git", ".snakemake", "__pycache__", ".*_cache")
NETWORK = {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]}
TRAIN = {
    "network": {"arguments": NETWORK},
    "phases": [{"steps": 12, "patch_size": 16, "batch_size": 5}],
    "optimizers": {"net": {"warmup_steps": 2}},
    "validation": {"every": 12, "patch_size": 32, "data": [{"pairs": "photos.val", "recipe": "noise"}]},
}
TOY = {
    "models": ["baseline/nafnet_5d"],
    "methods": {
        "baseline": {"settings": {"nafnet_5d": {"stages": {"train": {"scales": {"demo": TRAIN}}}}}},
    },
    "tests": {"photos_noise25": {"protocols": ["airpipe"], "keep_images": 1}},
    "tables": {
        "allinone": {"tests": ["photos_noise25"]},
        **dict.fromkeys(("protocols", "single_task", "pretraining", "transfer"), {"scales": []}),
    },
    "features": {"scales": []},
    "recognition": {"scales": []},
    "gallery": {"scales": []},
    "compute": {"demo": {"default": {"threads": 1}}},
}
"""Overlay: the shipped demo with a network of width 4, 12 steps and one test; under a minute on two cores."""

# What the common toy run has beside TOY, chapter by chapter.

OWN = {
    "models": ["baseline/nafnet_5d", "imported/official"],
    "datasets": {"mine": {"title": "Toy", "root": "pictures", "splits": {"test": {"clean": "*.png"}}}},
    "tests": {"mine_low_light": {"pairs": "mine.test", "degradation": "low_light", "recipe": "low_light"}},
    "tables": {
        "allinone": {"tests": ["photos_noise25", "mine_low_light"]},
        "new": {
            "title": "A <new> table",
            "tests": ["mine_low_light", "photos_noise25"],
            "models": ["baseline/nafnet_5d"],
            "columns": "protocol",
            "averages": {"both": {}},
        },
    },
}
"""A test on a folder of files, an imported model, and a table that exists by these lines only."""
HALF = {
    "network": {"arguments": NETWORK},
    "phases": [{"steps": 6, "patch_size": 16, "batch_size": 5}],
}
ARMS = ["baseline/nafnet_5d", "dcpt/nafnet_5d", "dcpt/nafnet_5d_masked"]
DCPT = {
    "methods": {"dcpt": {"settings": {
        "nafnet_5d": {"stages": {
            "pretrain": {"scales": {"demo": {**HALF, "validation": {"every": 3, "patch_size": 32}}}},
            "finetune": {"scales": {"demo": {**HALF, "validation": {"every": 6, "patch_size": 32}}}},
        }},
        "nafnet_5d_masked": {"stages": {"pretrain": {"scales": {"demo": {"mask_patch": 4}}}}},
    }}},
    "tables": {"pretraining": {"scales": None, "tests": ["photos_noise25"], "groups": [{"models": ARMS}]}},
    "features": {
        "scales": None, "models": ["dcpt/nafnet_5d/pretrain", "baseline/nafnet_5d"],
        "crops_per_image": 2, "patch_size": 32, "neighbours": 2, "perplexity": 5, "iterations": 250,
        "retrieval": {"models": []},
    },
}  # fmt: skip
"""Scratch, pretraining and masked pretraining of equal budgets, and the analysis of features."""
ENHANCER = {"network": {"arguments": {"in_channels": 8, "front_channels": 4, "hidden": 6}}}
SHORT = {
    "phases": [{"steps": 4, "patch_size": 32, "batch_size": 4}],
    "optimizers": {"net": {"warmup_steps": 1}},
    "validation": {"every": 4},
}
VRDIR_STAGES = {
    "recogniser_a": {
        "common": {"network": {"arguments": {"widths": [4, 8], "body": [8, 8]}}},
        "scales": {"demo": {**SHORT, "optimizers": {name: {"warmup_steps": 1} for name in ("net", "decoder")}}},
    },
    "recogniser_b": {
        "common": {"network": {"arguments": {"stem": 4, "widths": [8, 8]}}},
        "scales": {"demo": SHORT},
    },
    **{
        name: {"scales": {"demo": {**ENHANCER, **SHORT}}}
        for name in ("sad", "dnc_haze", "dnc_noise", "dnc_rain", "ise")
    },
}
BOX = [10, 10, 10, 10]
TRUTH = {
    "images": [{"id": 1}],
    "categories": [{"id": 1}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": BOX}],
}
SAID = [{"image_id": 1, "category_id": 1, "bbox": BOX, "score": 1}]
RECOGNITION = {
    "methods": {"vrdir": {"settings": {"airpipe": {"stages": VRDIR_STAGES}}}},
    "datasets": {"shapes0": {"made": {"counts": {"recognise": 24, "train": 12, "val": 8, "test": 16}}}},
    "recognition": {
        "scales": None,
        "models": ["vrdir/airpipe", "vrdir/airpipe/sad", "vrdir/airpipe/dnc_haze", "baseline/nafnet_5d"],
        "tests": {
            **dict.fromkeys(("shapes_noise15", "shapes_noise50", "shapes_rain")),
            "shapes_haze": {"tasks": ["classification", "retrieval"]},
        },
        "detections": {"boxes": {"annotations": "truth.json", "detections": {"clean": "said.json"}}},
    },
}
"""VRD-IR's stages, recognisers and the recognition tests."""
GALLERY = {
    "methods": {"dsrir": {"settings": {"all_in_one": {"stages": {"train": {"scales": {"demo": {
        "network": {"arguments": {"sn_feats": [4, 4, 4], "steps": [2, 2], "reduction": 2}},
        "phases": [{"steps": 3, "patch_size": 16, "batch_size": 2}],
        "optimizers": {"net": {"warmup_steps": 1}},
        "validation": {"every": 3, "patch_size": 32},
    }}}}}}}},
    "gallery": {"scales": None, "tests": ["photos_noise25"]},
}  # fmt: skip
"""A network that restores in stages, shown at work."""
CHAPTERS = (TOY, OWN, DCPT, RECOGNITION, GALLERY)
"""Overlays of the common toy run."""


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
    """A project with a finished run of all chapters and the overlay that made it; one that is there is taken as is."""
    if not (folder / "results/report/index.html").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        write_overlay(copy_project(folder), *CHAPTERS)
        toy_images(folder / "pictures", count=2)
        for name, said in (("truth", TRUTH), ("said", SAID)):
            (folder / f"{name}.json").write_text(json.dumps(said))
        state = load_golden(ROOT / "tests/goldens/nafnet_small.npz").reference_state()
        torch.save({"params_ema": {f"module.{key}": value for key, value in state.items()}}, folder / "official.pth")
        assert run_import(folder).returncode == 0
        snakemake(folder, "all", "--configfile", "overlay.yaml")
    return folder


def run_import(folder: Path) -> subprocess.CompletedProcess:
    """Import official.pth, as a user does."""
    command = [sys.executable, "scripts/import_weights.py", "official.pth", "--as", "nafnet"]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)


def environment(folder: Path) -> dict[str, str]:
    """The current interpreter first on PATH, and the package of `folder` before any installed one."""
    variables = {k: v for k, v in os.environ.items() if k != "SNAKEMAKE_PROFILE"}
    path = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", "")])
    return variables | {
        "PATH": path,
        "PYTHONPATH": str(folder / "src"),
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
    count_start(arguments)
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


def count_start(arguments: Sequence[str]) -> None:
    """Add a line to the file that AIRPIPE_COUNT_STARTS names, if it does: what one start of Snakemake was for."""
    if name := os.environ.get("AIRPIPE_COUNT_STARTS"):
        with open(name, "a") as stream:
            stream.write(f"{os.environ.get('PYTEST_CURRENT_TEST', '')} {' '.join(arguments)}\n")


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
