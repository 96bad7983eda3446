"""A disk that gets full, with results or temporary files on it: told, and the same command ends with the same bits.

Needs the right to mount a small file system (root on Linux).
"""

import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import Outcome
from ._runs import differences, prepare, start

COUNT = 15
SMALL = 4
"""kB of the smallest disk."""


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Make a small table on `count` disks that are too small by a seeded part, then on the same ones with space."""
    project, reference, _ = prepare(folder)
    needed = sum(path.stat().st_blocks for path in (reference / "results").rglob("*")) // 2
    outcome = Outcome()
    for number in range(count):
        generator = random.Random(f"{seed} {number}")
        place = Path(shutil.copytree(project, folder / "try", symlinks=True))
        temporary = number % 5 == 4
        size = generator.randint(SMALL, 1500 if temporary else int(0.9 * needed))
        disk = place / ("temporary" if temporary else "results")
        how, fault = try_one(place, disk, size, {"TMPDIR": str(disk)} if temporary else {})
        fault = fault or differences(place, reference)
        outcome.add(f"try {number}, {disk.name} on {size} kB", f"{how} on {disk.name}", fault)
        shutil.rmtree(place)
    return outcome


def try_one(project: Path, disk: Path, size: int, variables: dict[str, str]) -> tuple[str, str]:
    """How the run on the small disk ended, and what went wrong there or afterwards; the results lie off the disk."""
    with small_disk(disk, size) as enlarge:
        with start(project, **variables) as process:
            said = process.communicate()[0]
        how, fault = ("enough space", "") if process.returncode == 0 else ("told, then the same bits", "")
        if process.returncode and f"MB free for {variables.get('TMPDIR', 'results')}" not in said:
            fault = f"does not say which disk is full: {said[-900:]!r}"
        if "Traceback" in said:
            fault = f"a traceback: {said[said.index('Traceback') - 300 :][:1200]!r}"
        enlarge()
        with start(project, **variables) as process:
            said = process.communicate()[0]
        if process.returncode or "Traceback" in said:
            fault = fault or f"with space, status {process.returncode}: {said[-900:]!r}"
        if disk.name == "results":
            shutil.copytree(disk, project / "kept")
    if disk.name == "results":
        disk.rmdir()
        (project / "kept").rename(disk)
    return how, fault


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator:
    """A file system of `size` kB at a folder; gives a function that enlarges it."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=500m", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
