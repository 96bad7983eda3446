"""How well and how fast curation filters: `AIRPIPE_SAMPLE_ROOT=... python -m benchmarks.curation`.

Good pictures are those of BSD400; 2,000 bad ones are made of them (`scripts/make_bad_pictures.py`, seed 0): blurred,
flat, tiny, spoilt by JPEG, duplicates, and images of tests (CBSD68, Kodak24, Set12, Set14, McMaster, Urban100,
classic5). All sample pictures and the bad ones are scored on one core and chosen from. Printed:

- of each filter, recall: the share of its own kind of bad pictures that it removes; precision: the share of what it
  removes, of good and bad pictures, that is bad of any kind; and how many good pictures it removes;
- how many test images are caught, made ones and those in the samples' own folders;
- pictures per second of processor time; those of DIV2K as JPEG of quality 92, and what 100 million of these would take;
- peak memory of a process that scores 1,000 and one that scores 10,000 pictures, and of choosing among them;
- the same bytes after three kills, and with another number of shards.

Sample pictures that are neither test images nor in BSD400 (hazy, dark, rainy ones) count for no precision. The exit
status is 1 when a test image is missed, bytes differ, or memory grows by more than 10 %.
"""

import argparse
import csv
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import yaml

from airpipe.curation.choosing import choose
from airpipe.curation.listing import write_listing
from airpipe.curation.scoring import read_scores
from airpipe.curation.spoiling import make_bad_pictures
from airpipe.data.fingerprints import COLUMNS, fingerprint
from airpipe.errors import AirpipeError, run_main
from airpipe.images import read_rgb8
from airpipe.settings.curation import Bound, Choosing, PictureScoring, numbered
from benchmarks.peak import run_measured

GOOD, LARGE = "BSD400", "DIV2K/DIV2K_valid_HR"
TESTS = ("CBSD68", "Kodak24", "Set12", "Set14", "McMaster", "Urban100", "classic5")
BAD = 2000
FILTERS = {"blur": "blurred", "flatness": "flat", "side": "tiny", "brisque": "jpeg", "niqe": "jpeg"}
FILTERS |= {"duplicate": "duplicate", "leak": "test"}
"""Filter, and the kind of bad pictures that it is for."""
CHOOSING = Choosing(bounds={**Choosing().bounds, "side": Bound(least=256)}, flat_cells=0.5)
"""The shipped bounds, but for the size: BSD400's pictures have 321 pixels."""
SCORING = PictureScoring(patch=256)
FEW, MANY = 1000, 10_000
MILLIONS = 100
SHARDS = 1000
PATCHES = 8_000_000
"""Patches of Million-IRD, of 512x512 pixels."""
LINE = "from benchmarks.measuring import machine_line; print(machine_line())"
SCRIPTS = Path(__file__).parents[1] / "scripts"


class Run:
    """A curation in a folder: its sources, list and settings.

    Args:
        folder: a new one.
        sources: kind and place by name.
        tests: folders of test images.
    """

    def __init__(self, folder: Path, sources: Mapping[str, tuple[str, str]], tests: Sequence[Path]) -> None:
        self.folder, self.sources, self.tests = folder, sources, tests
        self.listing, self.settings = folder / "listing.tsv", folder / "scores.yaml"
        self.roots = {path.name.lower(): path for path in tests}
        folder.mkdir(parents=True, exist_ok=True)
        self.settings.write_text(yaml.safe_dump(SCORING.model_dump(mode="json")))
        self.entries = write_listing(sources, self.listing)["entries"]

    def command(self, shard: str, output: Path) -> list[str]:
        """The words that score a shard."""
        words = [str(SCRIPTS / "score_pictures.py"), str(self.listing)]
        words += ["--settings", str(self.settings), "--shard", shard, "--output", str(output)]
        words += [
            word for name, (kind, place) in self.sources.items() for word in ("--source", f"{name}={kind}:{place}")
        ]
        words += ["--test", *(str(self.folder.parent / f"{name}.test.csv") for name in self.roots)]
        return words + [word for name, place in self.roots.items() for word in ("--root", f"{name}={place}")]

    def score(self, shards: int = 1) -> tuple[list[Path], float, float]:
        """Score all shards in turn; return the tables, seconds of processor time, and peak memory in MB."""
        files, seconds, peak = [], 0.0, 0.0
        for name in numbered(shards):
            files.append(self.folder / "scores" / f"{name}.csv")
            memory, own = run_measured(self.command(name, files[-1]))
            peak, seconds = max(peak, memory), seconds + own
        return files, seconds, peak


def run_killed(words: list[str], seconds: float) -> None:
    """Run Python and kill it after some seconds."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


def fingerprints(folder: Path, output: Path) -> None:
    """Write the fingerprints of a folder's images as `scripts/fingerprint.py` does for a pair list."""
    images_below = runpy.run_path(str(SCRIPTS / "make_bad_pictures.py"))["images_below"]
    with output.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for path in images_below(folder):
            found = asdict(fingerprint(path))
            relative = str(path.relative_to(folder))
            writer.writerow({"name": path.stem, "path": relative, **found, "phash": f"{found['phash']:016x}"})


def kinds(rows: Sequence[Mapping[str, str]], truth: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """What each picture is: good, a kind of bad pictures, or unknown."""
    found = {}
    for row in rows:
        top = row["path"].split("/")[0]
        known = "good" if top == GOOD else "test" if top in TESTS else "unknown"
        found[row["source"], row["path"]] = truth[row["path"]] if row["source"] == "spoilt" else known
    return found


def print_filters(files: Sequence[Path], folder: Path, truth: Mapping[str, str]) -> int:
    """Choose, print precision and recall of each filter, and return the number of test images that were missed."""
    facts = choose(files, CHOOSING, SCORING.patch, folder / "chosen.csv")
    rows = list(read_scores(files))
    what = kinds(rows, truth)
    total = Counter(what.values())
    removed: dict[str, Counter[str]] = {}
    for row in read_table(folder / "removed.csv"):
        for reason in row["reasons"].split():
            removed.setdefault(reason, Counter())[what[row["source"], row["path"]]] += 1
    # near-duplicates are looked for among what passes; those that fail before are no misses of that filter
    gone = [row for row in read_table(folder / "removed.csv") if row["reasons"] != "duplicate"]
    late = total["duplicate"] - sum(what[row["source"], row["path"]] == "duplicate" for row in gone)
    print(f"\n{facts['chosen']} of {facts['pictures']} pictures are kept, {facts['patches']} patches: {dict(total)}")
    print("filter      own kind    recall           precision        good removed")
    for reason, kind in FILTERS.items():
        own, all_kinds = removed.get(reason, Counter()), total[kind] if reason != "duplicate" else late
        known = sum(count for name, count in own.items() if name != "unknown")
        right = known - own["good"]
        recall, precision = own[kind] / max(1, all_kinds), right / max(1, known)
        print(
            f"{reason:11} {kind:11} {recall:6.3f} {own[kind]:4}/{all_kinds:<4} {precision:6.3f} {right:4}/{known:<4}"
            f" {own['good']:4}/{total['good']}"
        )
    others = {reason: dict(count) for reason, count in removed.items() if reason not in FILTERS}
    print(f"other filters: {others}")
    kept = Counter(what[row["source"], row["path"]] for row in read_table(folder / "chosen.csv"))
    print(f"kept: {dict(kept)}")
    return total["test"] - removed.get("leak", Counter())["test"]


def read_table(path: Path) -> list[dict[str, str]]:
    """All rows of a csv file."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def bodies(files: Sequence[Path]) -> bytes:
    """The rows of tables without their headers."""
    return b"".join(path.read_bytes().split(b"\n", 1)[1] for path in files)


def same_after_kills(run: Run, whole: Sequence[Path], seconds: float) -> bool:
    """Kill a scoring process three times, finish it, and compare; then compare with another number of shards."""
    output = run.folder / "killed" / "scores.csv"
    for turn in (1, 2, 3):
        run_killed(run.command("00000-of-00001", output), seconds * turn / 8 + 2)
        rows = sum(len(path.read_bytes().splitlines()) for path in output.parent.glob("*.part"))
        print(f"kill {turn}: {rows} rows are there")
    run_measured(run.command("00000-of-00001", output))
    divided, _, _ = run.score(7)
    return output.read_bytes() == whole[0].read_bytes() and bodies(divided) == bodies(whole)


def repeated(files: Sequence[Path], folder: Path, count: int) -> None:
    """A folder of links to pictures, each again and again."""
    folder.mkdir(parents=True)
    for number in range(count):
        file = files[number % len(files)]
        (folder / f"{number:06d}{file.suffix}").symlink_to(file)


def as_jpeg(files: Sequence[Path], folder: Path) -> list[Path]:
    """Save pictures as JPEG of quality 92, as they are on the web."""
    folder.mkdir()
    for file in files:
        cv2.imwrite(str(folder / f"{file.stem}.jpg"), read_rgb8(file)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    return sorted(folder.iterdir())


def print_scale(per_second: float, row: float, file: float) -> None:
    """Print what 100 million pictures would take, with the bytes of a row of scores and of a file."""
    pictures = MILLIONS * 1_000_000
    hours = pictures / per_second / 3600
    patches = PATCHES * 3 * 512 * 512 / 1e12
    print(
        f"{MILLIONS} million such pictures on a Slurm array: {SHARDS} jobs of "
        f"{hours / SHARDS:.1f} h on one core each ({hours:,.0f} core hours); scores {pictures * row / 1e9:.0f} GB, "
        f"{PATCHES / 1e6:.0f} million patches of 512x512 in packs {patches:.1f} TB, files of "
        f"{file / 1e6:.2f} MB, where fetched, {pictures * file / 1e12:.0f} TB"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    samples = os.environ.get("AIRPIPE_SAMPLE_ROOT")
    parser.add_argument("--root", type=Path, default=samples, help="folder of the samples")
    parser.add_argument("--quick", action="store_true", help="no kills, no 10,000 pictures")
    parser.add_argument("--speed", action="store_true", help="speed alone, for two checkouts in turns (PYTHONPATH)")
    given = parser.parse_args()
    told = subprocess.run([sys.executable, "-c", LINE], check=True, capture_output=True, text=True)
    print(told.stdout.strip(), flush=True)  # of another process: torch would take memory in this one
    if not given.root or not (given.root / GOOD).is_dir():
        raise AirpipeError(f"{given.root}: holds no {GOOD}. Give --root FOLDER, or set AIRPIPE_SAMPLE_ROOT")
    images_below = runpy.run_path(str(SCRIPTS / "make_bad_pictures.py"))["images_below"]
    tests = [given.root / name for name in TESTS if (given.root / name).is_dir()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.speed:
            own = Run(folder / "small", {"samples": ("images", str(given.root / GOOD))}, [])
            print(f"{own.entries} pictures of {GOOD}: {own.entries / own.score()[1]:.1f} a second of processor time")
            measure_speed(given.root, folder, [])
            return 0
        for path in tests:
            fingerprints(path, folder / f"{path.name.lower()}.test.csv")
        of_tests = [file for path in tests for file in images_below(path)]
        make_bad_pictures(images_below(given.root / GOOD), of_tests, folder / "bad", BAD, seed=0)
        sources = {"samples": ("images", str(given.root)), "spoilt": ("images", str(folder / "bad"))}
        run = Run(folder / "all", sources, tests)
        files, seconds, peak = run.score()
        truth = {row["path"]: row["kind"] for row in read_table(folder / "bad" / "truth.csv")}
        missed = print_filters(files, run.folder, truth)
        print(f"test images that were missed: {missed}")
        speed = run.entries / seconds
        print(f"{speed:.1f} pictures a second of processor time ({run.entries} in {seconds:.0f} s, {peak:.0f} MB)")
        measure_speed(given.root, folder, tests)
        failed = not given.quick and measure_rest(given.root, folder, run, files, seconds)
        return int(failed or missed > 0)


def measure_speed(root: Path, folder: Path, tests: Sequence[Path]) -> None:
    """Print how fast pictures as on the web are scored, and what many of them would take."""
    large = as_jpeg(sorted((root / LARGE).iterdir()), folder / "jpeg")
    repeated(large, folder / "large", FEW // 10)
    own = Run(folder / "memory_large", {"links": ("images", str(folder / "large"))}, tests)
    tables, took, peak = own.score()
    print(f"{len(large)} pictures of {LARGE}, {FEW // 10} in all: {FEW / 10 / took:.2f} a second, {peak:.0f} MB")
    row = tables[0].stat().st_size * 10 / FEW
    print_scale(FEW / 10 / took, row, sum(file.stat().st_size for file in large) / len(large))


def measure_rest(root: Path, folder: Path, run: Run, files: Sequence[Path], seconds: float) -> bool:
    """Measure kills, memory and speed; tell whether something fails."""
    same = same_after_kills(run, files, seconds)
    print(f"same bytes after three kills, and with 7 shards: {same}")
    peaks: dict[int, Any] = {}
    for count in (FEW, MANY):
        repeated(sorted((root / GOOD).iterdir()), folder / f"links{count}", count)
        own = Run(folder / f"memory{count}", {"links": ("images", str(folder / f"links{count}"))}, run.tests)
        tables, took, peak = own.score()
        settings = folder / "choose.yaml"
        settings.write_text(yaml.safe_dump(CHOOSING.model_dump(mode="json", exclude_none=True)))
        words = [str(SCRIPTS / "choose_pictures.py"), str(tables[0].parent), "--shards", "1"]
        words += ["--settings", str(settings), "--patch", str(SCORING.patch)]
        words += ["--output", str(own.folder / "chosen.csv")]
        peaks[count] = peak, run_measured(words)[0]
        print(f"{count} pictures: scoring {peak:.0f} MB in {took:.0f} s, choosing {peaks[count][1]:.0f} MB")
    grown = max(many / few for few, many in zip(peaks[FEW], peaks[MANY], strict=True))
    print(f"memory grows by {grown - 1:.1%} from {FEW} to {MANY} pictures")
    return not same or grown > 1.1


if __name__ == "__main__":
    run_main(main)
