"""Where the time of a whole run goes, and how long a core had nothing to do. `python -m benchmarks.demo`.

    make demo && python -m benchmarks.demo

Reads what Snakemake measured of each job (results/benchmarks; of one that ran twice, the last time) and prints
core-seconds and CPU seconds by kind of job and by method: of one whole run, in a folder without results of others.
Every job counts as one core, as in the demo; CPU seconds are sampled by Snakemake and fall short for brief jobs.
Methods share the data and the tables: what stands at a method is what only its jobs took, and over `--cores` what it
adds to a run whose cores are all busy. A core counts as idle while no measured job is on it; tasks of a second (frozen
settings) and Snakemake's own start are not measured, so that the printed share is an upper bound. The exit status is 0.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from airpipe.errors import AirpipeError, run_main
from airpipe.registry import METHODS

SHARED = "shared"
"""What jobs of no single method are counted under."""


@dataclass(frozen=True)
class Job:
    """One measured job: what it was, and its seconds since 1970, CPU seconds last."""

    kind: str
    method: str
    start: float
    end: float
    cpu_s: float


def read_jobs(folder: Path) -> list[Job]:
    """Read the measurements of a run's jobs.

    Args:
        folder: results/benchmarks; a file is written when its job ends.

    Raises:
        AirpipeError: there is no measurement.
    """
    jobs = []
    for path in sorted(folder.rglob("*.tsv")):
        parts = path.relative_to(folder).with_suffix("").parts
        kind = "training" if parts[0] in METHODS else parts[0]
        method = next((part for part in parts if part in METHODS), SHARED)
        measured = pd.read_csv(path, sep="\t").iloc[-1]
        end, cpu_s = path.stat().st_mtime, pd.to_numeric(measured["cpu_time"], errors="coerce")  # NA: ended at once
        jobs.append(Job(kind, method, end - float(measured["s"]), end, 0.0 if pd.isna(cpu_s) else float(cpu_s)))
    if not jobs:
        raise AirpipeError(f"{folder}: no measurement of a job (*.tsv). Run `make demo` first, or name the folder")
    return jobs


def idle_share(jobs: Sequence[Job], cores: int) -> float:
    """Return the share of core-seconds, from the first job's start to the last one's end, in which no job ran."""
    changes = sorted([(job.start, 1) for job in jobs] + [(job.end, -1) for job in jobs])
    idle, running = 0.0, 0
    for (moment, change), (following, _) in zip(changes, changes[1:], strict=False):
        running += change
        idle += max(0, cores - running) * (following - moment)
    return idle / (cores * (changes[-1][0] - changes[0][0]))


def spent(jobs: Sequence[Job], by: str) -> pd.DataFrame:
    """Return the number of jobs, core-seconds and CPU seconds by an attribute of the jobs, the most first."""
    rows = [(getattr(job, by), 1, job.end - job.start, job.cpu_s) for job in jobs]
    frame = pd.DataFrame(rows, columns=[by, "jobs", "core_s", "cpu_s"]).groupby(by).sum()
    return frame.sort_values("core_s", ascending=False)


def report(jobs: Sequence[Job], cores: int) -> str:
    """Return the tables as text."""
    wall_s = max(job.end for job in jobs) - min(job.start for job in jobs)
    idle = f"idle {idle_share(jobs, cores):.1%} of it (goal <= 10 %)"
    methods = spent(jobs, "method")
    methods["adds_s"] = methods["core_s"] / cores
    return "\n\n".join(
        [
            f"{len(jobs)} measured jobs in {wall_s:.0f} s; {cores} cores, {idle}",
            spent(jobs, "kind").round(1).to_string(),
            methods.round(1).to_string(),
        ]
    )


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("results/benchmarks"))
    parser.add_argument(
        "--cores", type=int, default=os.cpu_count(), help="that the run had; default: all of this machine"
    )
    given = parser.parse_args()
    if given.cores < 1:
        raise AirpipeError(f"--cores is {given.cores}; give the number of cores that the run had, 1 or more")
    print(report(read_jobs(given.folder), given.cores))


if __name__ == "__main__":
    run_main(main)
