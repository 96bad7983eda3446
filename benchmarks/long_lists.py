"""What lists of millions of pairs cost: memory of the jobs, sampling, leak search. `python -m benchmarks.long_lists`.

- Keys of one process of several: each makes its own (`SamplePlan.batch`), against all keys of the batch, of which it
  kept its own. Processor time in turns; the keys are compared.
- Candidates of the leak search: rows of training hashes for a test hash, against the transpose. Likewise.
- A made list of `--pairs` pairs, each of two files of its own, with its manifest and fingerprints (seed 0; no image
  is made or read, so decoding is not in the figures). Each job runs in a process of its own; printed are its largest
  resident memory, the `mem_mb` that its rule asks for, and its processor time. `read_pairs` runs in both forms: as it
  is, and as Python's objects, as it was.

The old forms are frozen here. The exit status is 1 where results differ, or a job takes more than its rule asks for.
"""

import argparse
import csv
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from airpipe.data import fingerprints
from airpipe.data.duplicates import MAX_DISTANCE, _candidates
from airpipe.data.fingerprints import Fingerprint, read_fingerprints
from airpipe.data.manifest import COLUMNS as MANIFEST
from airpipe.data.pack_contents import read_contents
from airpipe.data.pairs import COLUMNS, Pair, read_pairs
from airpipe.errors import AirpipeError, run_main
from airpipe.plan.memory import TIMES, list_memory_mb
from airpipe.settings.base import unknown_name
from airpipe.settings.stages import DataPart, Phase
from benchmarks.peak import run_measured

BATCH, WORLD, STEPS = 2048, 8, 20
TESTS = 500
"""Images of the test list that the training list is compared with."""
PATCH = 64
MAKE = "make"
"""The job that writes the lists."""
IMPORTS, OBJECTS = "imports", "read_pairs, objects"
TRAINING_MB = 3000
"""What a training asks for at demo scale (config/config.yaml)."""


# Old forms


def whole_batch(plan: Any, step: int, rank: int, world_size: int) -> list[Any]:
    """Keys of a process out of those of the whole batch."""
    return list(plan.batch(step)[rank::world_size])


def transposed(train: npt.NDArray[np.uint64], test: npt.NDArray[np.uint64]) -> Iterator[tuple[int, int, int]]:
    """Candidates by blocks of 33 MB whose rows are training hashes."""
    for j in range(0, len(test), 64):
        for i in range(0, len(train), 1 << 16):
            differing = train[i : i + (1 << 16), None] ^ test[None, j : j + 64]
            distance = np.bitwise_count(differing)
            for row, column in np.argwhere(distance <= MAX_DISTANCE):
                yield i + int(row), j + int(column), int(distance[row, column])


def as_objects(path: Path, root: Path) -> list[Pair]:
    """The pairs of a list, all made at once."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [
        Pair(
            clean=root / row["clean"],
            degraded=root / row["degraded"],
            **{key: row[key] for key in ("degradation", "level", "crop", "name", "group")},
        )
        for row in rows
    ]


# Times in turns


def compare(rounds: int) -> tuple[list[str], bool]:
    """Lines on sampling and leak search, and whether old and new form agree."""
    from airpipe.data.sampling import SamplePlan
    from benchmarks.measuring import cpu_times, machine_line  # torch: memory of it would count for all jobs

    plan = SamplePlan([70_000, 5_000], [3.0, 1.0], [Phase(steps=STEPS, patch_size=64, batch_size=BATCH)], 0)
    each = [partial(whole_batch, plan), plan.batch]
    keys = [partial(_every_step, way) for way in each]
    generator = np.random.default_rng(0)
    train, test = (generator.integers(0, 1 << 63, count, np.uint64) for count in (300_000, 256))
    test[:100] = train[:100] ^ np.uint64(0b111)
    found = [lambda: sorted(transposed(train, test)), lambda: sorted(_candidates(train, test, "made lists"))]
    lines, agree = [machine_line(), f"{'processor time, in turns':<52}{'before':>10}{'after':>10}{'ratio':>8}"], True
    for label, (old, new), unit, name in (
        (f"keys of a step, global batch {BATCH}, {WORLD} processes", keys, 1 / STEPS, "ms"),
        (f"leak candidates, {len(train):,} x {len(test)} hashes", found, 1e-3, "s"),
    ):
        agree &= old() == new()
        times = cpu_times({"before": old, "after": new}, rounds, 1)
        before, after = (unit * statistics.median(times[way]) for way in ("before", "after"))
        ratio = statistics.median(b / a for b, a in zip(times["before"], times["after"], strict=True))
        lines.append(f"{label:<52}{before:>7.3f} {name:<2}{after:>7.3f} {name:<2}{ratio:>7.2f}x")
    return lines, agree


def _every_step(way: Callable[[int, int, int], list[Any]]) -> list[list[Any]]:
    return [way(step, step % WORLD, WORLD) for step in range(STEPS)]


# A long list


def make_lists(folder: Path, count: int) -> None:
    """Write pair list, manifest and fingerprints of made files, the fingerprints of a test list, and settings."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = [f"{number:064x}" for number in np.random.default_rng(0).integers(0, 1 << 62, 1024).tolist()]
    random = np.random.default_rng(1).integers(0, 1 << 63, count, np.uint64)
    hashes = ((random | np.uint64(0xFFFF)) & ~np.uint64(0xFFFF << 16)).tolist()
    # one leak, of the same pixels; all other hashes are far from those of the tests, because no image could be read:
    # 16 of their bits are set and 16 are not
    hashes = [0, *hashes[1:], 0, *(2**64 - 1 - number for number in range(1, TESTS))]

    def names() -> Iterator[str]:
        return (f"{number // 1000:04}_{number % 1000:03}" for number in range(count))

    pairs = ((f"hazy/{n}.png", f"clean/{n}.png", "haze", "A=0.8", "none", n, n) for n in names())
    write_csv(folder / "made.train.csv", COLUMNS, pairs)
    (folder / "made.train.json").write_text("{}")
    files = (f"{kind}/{n}.png" for kind in ("clean", "hazy") for n in names())
    described = ((file, 234_567, digests[number % 1024], 640, 480) for number, file in enumerate(files))
    write_csv(folder / "manifest" / "made.train.csv", MANIFEST, described)
    (folder / "manifest" / "made.train.json").write_text("{}")
    for name, first, last in (("made.train", 0, count), ("other.test", count, count + TESTS)):
        rows = (
            (f"{n}", f"clean/{n:08}.png", digests[n % count % 1024], digests[n % count % 1024], f"{h:016x}", 640, 480)
            for n, h in enumerate(hashes[first:last], first)
        )
        write_csv(folder / "fingerprints" / f"{name}.csv", fingerprints.COLUMNS, rows)
    entry = {"title": "Made", "splits": {"train": {"clean": "clean/*", "degraded": "hazy/*", "rule": "same"}}}
    (folder / "entry.yaml").write_text(yaml.safe_dump(entry))


def write_csv(path: Path, header: Sequence[str], rows: Any) -> None:
    """Write a table."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header])
        csv.writer(stream).writerows(rows)


def sampled(folder: Path) -> int:
    """What a training does with its lists before and while it trains, but for reading images."""
    from airpipe.data.samples import TrainingSamples
    from airpipe.data.sampling import MicroBatches, SamplePlan
    from airpipe.data.sizes import refuse_small
    from airpipe.training.run import PairLists

    part, path = DataPart(pairs="made.train"), folder / "made.train.csv"
    lists = PairLists([path], [read_pairs(path, folder)], {}, {"made.train": folder / "manifest" / path.name})
    refuse_small([part], lists.sizes(), PATCH)
    samples = TrainingSamples([part], lists.sources(), 0, categories=lists.categories())
    plan = SamplePlan([len(lists.pairs[0])], [1.0], [Phase(steps=1000, patch_size=PATCH, batch_size=64)], 0)
    return len({samples.name(key) for batch in MicroBatches(plan, 0, 0, 1, 1) for key in batch})


def fingerprinted(folder: Path) -> int:
    """Fingerprints of a list whose images are not read: each gets the same facts."""
    known = Fingerprint("0" * 64, "1" * 64, 2**63, 640, 480)
    setattr(fingerprints, "fingerprint", lambda path: known)  # noqa: B010 - mypy refuses the assignment
    path = folder / "made.train.csv"
    return fingerprints.write_fingerprints(path, lambda name, relative: path, folder / "made.csv", 2)


JOBS: dict[str, Callable[[Path], Any]] = {
    IMPORTS: lambda folder: 0,
    OBJECTS: lambda folder: len(as_objects(folder / "made.train.csv", folder)),
    "read_pairs": lambda folder: len(read_pairs(folder / "made.train.csv", folder)),
    "sampling": sampled,
    "fingerprint": fingerprinted,
    "read_fingerprints": lambda folder: len(read_fingerprints(folder / "fingerprints/made.train.csv").paths),
    "pack": lambda folder: len(read_contents(folder / "made.train.csv", folder / "manifest/made.train.csv").files),
}
"""Work on lists by name; what has the name of a rule is what that rule does with its lists."""


def commands(folder: Path) -> dict[str, list[str]]:
    """The command of each job."""
    own = {name: ["-m", "benchmarks.long_lists", "--job", name, "--folder", str(folder)] for name in JOBS}
    prints, lists = folder / "fingerprints", str(folder / "made.train.csv")
    leaks = [
        "scripts/find_leaks.py",
        "--train",
        str(prints / "made.train.csv"),
        "--test",
        str(prints / "other.test.csv"),
    ]
    return own | {
        "pairs": [
            *("scripts/make_pairs.py", "made.train", "--entry", str(folder / "entry.yaml")),
            *("--manifest", str(folder / "manifest/made.train.csv"), "--output", str(folder / "again/made.train.csv")),
        ],
        "leakage": [*leaks, "--output", str(folder / "leakage.csv")],
        "remove_leaks": [
            *("scripts/remove_leaks.py", lists, str(folder / "leakage.csv")),
            *("--output", str(folder / "again/noleak.csv")),
        ],
    }


def asked(name: str, folder: Path) -> int | None:
    """The memory that the rule of a job asks for, in 10^6 bytes; None for what is no job of its own."""
    if name == "sampling":
        return TRAINING_MB
    lists, manifest = folder / "made.train.csv", folder / "manifest" / "made.train.csv"
    prints = [folder / "fingerprints" / f"{one}.csv" for one in ("made.train", "other.test")]
    inputs = {
        "pairs": [manifest],
        "fingerprint": [lists],
        "leakage": prints,
        "remove_leaks": [lists, *prints],
        "pack": [lists, manifest],
    }
    return list_memory_mb(name, sum(file.stat().st_size for file in inputs[name]) / 1e6) if name in TIMES else None


def measure(folder: Path, count: int, only: Sequence[str]) -> bool:
    """Print the memory of each job (or of some); tell whether all keep to what their rules ask for."""
    run_measured(["-m", "benchmarks.long_lists", "--job", MAKE, "--pairs", str(count), "--folder", str(folder)])
    print(f"{f'{count:,} pairs':<24}{'peak MB':>9}{'mem_mb':>8}{'B a pair':>10}{'CPU s':>8}", flush=True)
    peaks, kept = dict[str, float](), True
    for name, command in commands(folder).items():
        if only and name not in (IMPORTS, *only):
            continue
        peaks[name], seconds = run_measured(command)
        limit, each = asked(name, folder), (peaks[name] - peaks[IMPORTS]) * 1e6 / count
        kept &= limit is None or peaks[name] <= limit
        print(f"{name:<24}{peaks[name]:>9.0f}{limit or '':>8}{each:>10.0f}{seconds:>8.1f}", flush=True)
    if {OBJECTS, "read_pairs"} <= peaks.keys():
        times = (peaks[OBJECTS] - peaks[IMPORTS]) / (peaks["read_pairs"] - peaks[IMPORTS])
        print(f"read_pairs: {times:.1f}x less memory than as objects (goal: >= 8x)")
    print(f"every job keeps to its mem_mb: {kept}", flush=True)
    return kept


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=[], metavar="JOB", help="jobs to run; default: all")
    parser.add_argument("--job", choices=[MAKE, *JOBS], help="run one job only, in this process")
    parser.add_argument("--folder", type=Path, help="of the made lists; default: a temporary one")
    given = parser.parse_args()
    if given.job == MAKE:
        make_lists(given.folder, given.pairs)
        return 0
    if given.job:
        JOBS[given.job](given.folder)
        return 0
    if unknown := [name for name in given.only if name not in commands(Path())]:
        raise AirpipeError("--only: " + unknown_name(unknown[0], commands(Path()), "job"))
    with tempfile.TemporaryDirectory() as name:
        kept = measure(given.folder or Path(name), given.pairs, given.only)
    lines, agree = compare(given.rounds)
    print("\n".join(["", *lines, f"results agree: {agree}"]))
    return 0 if agree and kept else 1


if __name__ == "__main__":
    run_main(main)
