"""What starts of Snakemake cost: ours, a bare workflow's, and look-ups of files. `python -m benchmarks.starts`.

Printed are seconds of processor time of dry runs, in turns within one run (the order reversed every other round):
medians over the rounds, and the median ratio of the rounds.

- this project, `-n results/tables/allinone.csv` and `-n all`, as it is: the plan reads the settings with libyaml, and
  what a start has read is kept out of garbage collections; and as it was (frozen): `--configfile`, as `configfile:`
  did, reads the settings with PyYAML's loader in Python, and collections go through all that a start has read;
- a workflow of one rule without settings, which any start is measured against;
- a made workflow of `--scores` score files whose tables, figures and page are up to date: each naming every score, its
  facts and its folder of pictures, as it was (frozen), and naming one index for each model and table, as it is.
  Beside the time: how often `os.stat` or `os.lstat` was called.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from airpipe.errors import AirpipeError, run_main
from airpipe.plan.frozen import FILES
from airpipe.progress import track
from airpipe.registry import METHODS
from benchmarks.measuring import machine_line

MODELS_EACH, TABLES = 10, 4
"""Tests of a model, and tables of the made workflow."""
PLAIN = "from snakemake.cli import main; main()"
BEFORE = f"""
import atexit, gc, os
import airpipe.plan
asked = []
airpipe.plan.configuration = lambda folder, given: asked.append(folder) or given
gc.freeze = lambda: None
atexit.register(lambda: asked or os._exit(3))  # the workflow reads its settings in a new way: write BEFORE anew
{PLAIN}
"""
COUNTED = f"""
import atexit, os, sys
calls = [0]
def counted(function):
    def call(*arguments, **named):
        calls[0] += 1
        return function(*arguments, **named)
    return call
os.stat, os.lstat = counted(os.stat), counted(os.lstat)
atexit.register(lambda: print(f"stat calls: {{calls[0]}}", file=sys.stderr))
{PLAIN}
"""
BARE = 'rule all:\n    shell: "true"\n'
SCORES = """
MODELS, TESTS, TABLES = {models}, {tests}, {tables}
SCORES = expand("scores/{{model}}/{{test}}", model=MODELS, test=TESTS)

rule page:
    input:
        expand("tables/{{table}}.csv", table=TABLES),
        expand("figures/{{table}}.png", table=TABLES),
        cards=expand("{{model}}/card.json", model=MODELS),
        scores={page},
    output: "page.html"
    shell: "touch {{output}}"

rule tables:
    input: scores={table}, cards=expand("{{model}}/card.json", model=MODELS)
    output: "tables/{{table}}.csv"
    shell: "touch {{output}}"

rule figures:
    input: "tables/{{table}}.csv", scores={figure}
    output: "figures/{{table}}.png"
    shell: "touch {{output}}"
"""
EACH_SCORE = """
def scores(ends):
    return [f"{name}{end}" for name in SCORES for end in ends]

rule evaluate:
    input: "{model}/card.json"
    output:
        scores="scores/{model}/{test}.csv",
        facts="scores/{model}/{test}.json",
        pictures="scores/{model}/{test}.pictures",
    shell: "touch {output}"
"""
INDEX = """
rule evaluate:
    input: "{model}/card.json"
    output: "evaluated/{table}/{model}.json"
    shell: "touch {output}"
"""


@dataclass(frozen=True)
class Start:
    """A dry run that is measured."""

    name: str
    code: str
    words: Sequence[str]
    folder: Path


@dataclass(frozen=True)
class Took:
    """What a dry run took."""

    seconds: float
    """Processor time."""
    said: str
    """What it wrote to stderr."""


def made_workflow(folder: Path, scores: int, indexed: bool) -> Path:
    """Write a workflow whose results are there; give its folder."""
    models = [f"m{number:03}" for number in range(scores // MODELS_EACH)]
    tests, tables = [f"t{number:02}" for number in range(MODELS_EACH)], [f"table{number}" for number in range(TABLES)]
    if indexed:
        one = 'expand("evaluated/{{table}}/{model}.json", model=MODELS)'
        named = {
            "page": 'expand("evaluated/{table}/{model}.json", table=TABLES, model=MODELS)',
            "table": one,
            "figure": one,
        }
        made = [f"evaluated/{table}/{model}.json" for table in tables for model in models]
    else:
        named = {
            "page": 'scores([".csv", ".pictures"])',
            "table": 'scores([".csv"])',
            "figure": 'scores([".csv", ".pictures"])',
        }
        made = [f"scores/{m}/{t}{end}" for m in models for t in tests for end in (".csv", ".json", ".pictures")]
    text = SCORES.format(models=models, tests=tests, tables=tables, **named)
    before_page, after = text.split("\n\n", 1)
    folder.mkdir()
    (folder / "Snakefile").write_text("\n\n".join([before_page, INDEX if indexed else EACH_SCORE, after]))
    made = [*(f"{m}/card.json" for m in models), *made, *(f"tables/{t}.csv" for t in tables)]
    for number, name in enumerate([*made, *(f"figures/{t}.png" for t in tables), "page.html"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        os.utime(folder / name, (10**9 + number, 10**9 + number))
    return folder


def run(start: Start) -> Took:
    """Make a dry run.

    Raises:
        AirpipeError: it fails.
    """
    command = [sys.executable, "-c", start.code, "-n", *start.words]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=start.folder, stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        said.seek(0)
        text = said.read()
    if status:
        raise AirpipeError(f"{start.name}: ended with {os.waitstatus_to_exitcode(status)}, expected 0: {text[-200:]!r}")
    return Took(used.ru_utime + used.ru_stime, text)


def stat_calls(start: Start) -> int:
    """How often a dry run asks for the state of a file."""
    said = run(Start(start.name, COUNTED, start.words, start.folder)).said
    return int(said.rpartition("stat calls: ")[2])


def measure(starts: Sequence[Start], rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time of each start in each round; in every round each has its turn."""
    seconds: dict[str, list[float]] = {start.name: [] for start in starts}
    for number in track(range(rounds + 1), rounds + 1, "measuring"):
        for start in starts if number % 2 else reversed(starts):
            took = run(start).seconds
            if number:  # the first round fills caches
                seconds[start.name].append(took)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scores", type=int, default=200, help=f"score files, {MODELS_EACH} for each model")
    given = parser.parse_args()
    project = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bare").mkdir()
        (folder / "bare" / "Snakefile").write_text(BARE)
        each, index = (made_workflow(folder / kind, given.scores, kind == "index") for kind in ("each", "index"))
        one, alone = ["--cores", "1"], ["results/tables/allinone.csv"]
        read = [*FILES, *(f"methods/{name}" for name in METHODS)]
        settings = ["--configfile", *(f"config/{name}.yaml" for name in read)]
        starts = [
            Start("bare workflow", PLAIN, one, folder / "bare"),
            Start("allinone.csv", PLAIN, alone, project),
            Start("allinone.csv, as it was", BEFORE, [*alone, *settings], project),
            Start("all", PLAIN, ["all"], project),
            Start("all, as it was", BEFORE, ["all", *settings], project),
            Start("page, every score named", PLAIN, [*one, "page.html"], each),
            Start("page, one index", PLAIN, [*one, "page.html"], index),
        ]
        seconds = measure(starts, given.rounds)
        calls = {start.name: stat_calls(start) for start in (starts[0], *starts[-2:])}
    print("\n".join([machine_line(), *report(seconds, calls, given)]))


def report(seconds: dict[str, list[float]], calls: dict[str, int], given: argparse.Namespace) -> list[str]:
    """Lines of the tables."""

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))

    lines = [f"{'dry run, ' + str(given.rounds) + ' rounds':<34}{'CPU s':>8}{'lowest':>9}{'of bare':>9}"]
    lines += [
        f"{name:<34}{statistics.median(all_):>8.2f}{min(all_):>9.2f}{ratio(name, 'bare workflow'):>8.2f}x"
        for name, all_ in seconds.items()
    ]
    for name in ("allinone.csv", "all"):
        lines.append(f"{name}: {ratio(f'{name}, as it was', name):.2f}x")
    found = {name: count - calls["bare workflow"] for name, count in calls.items()}
    old, new = "page, every score named", "page, one index"
    own = [
        statistics.median(all_) - statistics.median(seconds["bare workflow"]) for all_ in (seconds[old], seconds[new])
    ]
    lines.append(
        f"{given.scores} score files: {calls[old]:,} and {calls[new]:,} look-ups, {found[old] / found[new]:.1f}x fewer "
        f"(a bare start has {calls['bare workflow']:,}); start {ratio(old, new):.2f}x, "
        f"beyond a bare one {own[0]:.2f} and {own[1]:.2f} s"
    )
    return lines


if __name__ == "__main__":
    run_main(main)
