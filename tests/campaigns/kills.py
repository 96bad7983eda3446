"""SIGKILL at random moments, of a whole run or of Snakemake alone: the same command ends with the same bits.

Every second try kills Snakemake alone, while it trains: the training lives on, and the same command is started at once.
The others kill all processes at any moment. Each try is killed up to three times before it may end.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from . import Outcome
from ._runs import STAGE, differences, prepare, start

COUNT = 20
KILLS = 3
"""Kills in a try, at most."""
LONG = {"phases": [{"steps": 600, "patch_size": 16, "batch_size": 5}], "validation": {"every": 300}}
OVERLAY = {
    "methods": {"baseline": {"settings": {"nafnet_5d": {"stages": {"train": {"scales": {"demo": LONG}}}}}}},
    "compute": {"demo": {"default": {"checkpoint_seconds": 0.5}}},
}


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Kill `count` runs of a small table at seeded moments, and compare what they end with."""
    project, reference, seconds = prepare(folder, OVERLAY)
    outcome = Outcome()
    for number in range(count):
        place = Path(shutil.copytree(project, folder / "try", symlinks=True))
        alone = number % 2 == 0
        fault, kills = try_one(place, random.Random(f"{seed} {number}"), seconds, alone)
        how = f"{kills} kills of {'Snakemake alone' if alone else 'all processes'}"
        fault = fault or differences(place, reference)
        outcome.add(f"try {number}, {how}", f"with the same bits after {how}", fault)
        shutil.rmtree(place)
    return outcome


def try_one(project: Path, generator: random.Random, seconds: float, alone: bool) -> tuple[str, int]:
    """Start the command until it ends by itself, and kill it at random moments before; what went wrong, and kills."""
    for kills in range(KILLS + 1):
        process, wait = start(project), generator.uniform(0.05, 0.9) * seconds
        if alone:
            wait = generator.uniform(0, 2)
            while process.poll() is None and not (project / STAGE / ".training.lock").exists():
                time.sleep(0.05)
        try:
            said, _ = process.communicate(timeout=None if kills == KILLS else wait)
        except subprocess.TimeoutExpired:
            if alone:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()
            process.wait()
            continue
        if process.returncode or "Traceback" in said:
            return f"status {process.returncode}: {said[-600:]!r}", kills
        return "", kills
    raise AssertionError("the last start is not killed")
