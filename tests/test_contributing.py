"""CONTRIBUTING.md is true: its worked examples run, and its messages are the ones that users read."""

import json
import re
import subprocess
import sys
from collections import Counter
from math import isfinite
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import ROOT, toy_images

from airpipe.data.check import check_split
from airpipe.errors import AirpipeError
from airpipe.plan import Plan, load_plan
from airpipe.settings.base import check_settings, read_yaml
from airpipe.settings.datasets import DatasetSettings
from airpipe.settings.merging import deep_merge
from workflow import TOY, TRAIN, copy_project, copy_run, environment, job_table, snakemake, write_overlay

GUIDE = ROOT / "CONTRIBUTING.md"
HEAD = re.compile(r"^\*\*(New file|Edit|Overlay) `([^`]+)`\*\*")
EDGE = "edge/nafnet_5d/seed0/train"


def blocks(kind: str) -> list[tuple[str, str]]:
    """(file, code) of every fenced block below a line that starts with **<kind> `file`**."""
    found, file, lines = [], None, iter(GUIDE.read_text().splitlines())
    for line in lines:
        if head := HEAD.match(line):
            file = head[2] if head[1] == kind else None
        elif line.startswith("#"):
            file = None
        elif re.match(r"```\w", line):
            code = []
            while (inner := next(lines)) != "```":
                code.append(inner)
            if file:
                found.append((file, "\n".join(code) + "\n"))
                file = file if kind == "Edit" else None
    return found


def apply_edit(path: Path, diff: str) -> int:
    """Apply a block of ' ', '-' and '+' lines to the one place that fits; return how many are new."""
    kept = {sign: [line[1:] for line in diff.splitlines() if line[0] in sign] for sign in (" -", " +")}
    old, new = (re.sub(r"\.\.\.$", "", "\n".join(lines)) for lines in kept.values())
    text = path.read_text()
    assert text.count(old) == 1, f"CONTRIBUTING.md edits {path.name} where it says {old!r}: not there once"
    path.write_text(text.replace(old, new))
    return sum(line.startswith("+") for line in diff.splitlines())


# A method


@pytest.fixture(scope="module")
def with_edge(toy_run, tmp_path_factory):
    """A copy of the toy run with the guide's method, and an overlay that trains it at toy scale."""
    folder = copy_run(toy_run, tmp_path_factory.mktemp("method") / "run")
    for name, code in blocks("New file"):
        assert not (folder / name).exists(), f"{name} is there already"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    for name, diff in blocks("Edit"):
        apply_edit(folder / name, diff)
    stages = {"train": {"scales": {"demo": TRAIN}}}
    write_overlay(folder, TOY, {"methods": {"edge": {"settings": {"nafnet_5d": {"stages": stages}}}}})
    return folder


def words_of(diff: str, sign: str) -> Counter[str]:
    """Words of a diff's lines with this sign."""
    lines = [line[1:] for line in diff.splitlines() if line.startswith(sign)]
    return Counter(re.findall(r"\w+", " ".join(lines)))


def test_a_method_is_one_folder_three_files_and_one_word():
    assert sorted(name for name, _ in blocks("New file")) == [
        "config/methods/edge.yaml",
        "docs/methods/edge.md",
        "src/airpipe/methods/edge/__init__.py",
        "src/airpipe/methods/edge/settings.py",
        "src/airpipe/methods/edge/training.py",
        "tests/test_edge.py",
    ]
    [(name, diff)] = blocks("Edit")
    assert name == "src/airpipe/registry.py"
    old, new = words_of(diff, "-"), words_of(diff, "+")
    assert new - old == Counter({"edge": 1}) and not old - new


def run_in(folder: Path, *command: str) -> str:
    """What a command says in a copy of the project; it has to succeed."""
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_new_methods_own_test_passes_and_generic_ones_find_it(with_edge):
    doors = "tests/test_documentation.py::test_a_method_has_its_doors_of_one_name[edge]"
    tests = ["tests/test_edge.py", "tests/test_architecture.py", doors]
    said = run_in(with_edge, sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *tests)
    assert len(re.findall(r"tests/test_edge\.py::\S+ PASSED", said)) == 3, said
    for found in ("names_one[edge] PASSED", "its_folder[edge.train] PASSED", "of_one_name[edge] PASSED"):
        assert found in said


@pytest.mark.pipeline
def test_the_new_method_runs_to_the_end_without_a_change_of_the_config(with_edge):
    targets = ("results/tables/allinone.csv", "results/tables/efficiency.csv")  # the page draws what tables hold
    snakemake(with_edge, *targets, "--configfile", "overlay.yaml", "--config", "models=[edge/nafnet_5d]")
    results = with_edge / "results"
    table = pd.read_csv(results / "tables" / "allinone.csv").set_index(["model", "metric"])
    row = table.loc["edge/nafnet_5d/train", "psnr"]
    assert row["method"] == "edge" and row["n_images"] == 3
    assert isfinite(row["value"])
    curves = pd.read_csv(results / EDGE / "curves.csv")
    losses = curves.pivot(index="step", columns="name", values="value").dropna(subset="loss/edge")
    assert len(losses) == 12
    total = losses["loss/pixel"] + 0.5 * losses["loss/edge"]
    assert losses["loss/total_train"].to_numpy() == pytest.approx(total.to_numpy(), rel=1e-4)
    frozen = yaml.safe_load((results / EDGE / "config.yaml").read_text())
    assert frozen["edge_distance"] == 1 and frozen["loss_weights"] == {"edge": 0.5}
    assert json.loads((results / "complexity" / f"{EDGE}.json").read_text())["parameters"] > 0


LOADED = """
from pathlib import Path
from airpipe.plan import load_plan
from airpipe.registry import METHODS
from airpipe.settings.base import read_yaml
from airpipe.settings.merging import deep_merge
config = {}
for name in ["config", "datasets", "recipes", "protocols", *(f"methods/{method}" for method in METHODS)]:
    config = deep_merge(config, read_yaml(Path(f"config/{name}.yaml")))
load_plan(deep_merge(config, read_yaml(Path("wrong.yaml")))).stages_in_use()
"""


def test_the_new_methods_settings_are_checked(with_edge):
    stage = {"train": {"common": {"edge_distanse": 2}}}
    wrong = {"models": ["edge/nafnet_5d"], "methods": {"edge": {"settings": {"nafnet_5d": {"stages": stage}}}}}
    write_overlay(with_edge, wrong, name="wrong.yaml")
    command = [sys.executable, "-c", LOADED]  # with the copy's registry
    done = subprocess.run(command, cwd=with_edge, env=environment(with_edge), capture_output=True, text=True)
    assert done.returncode == 1
    assert "unknown setting 'edge_distanse'; did you mean 'edge_distance'?" in done.stderr


def test_the_new_method_passes_the_linters(with_edge):
    new = [name for name, _ in blocks("New file") if name.endswith(".py")]
    run_in(with_edge, "ruff", "check", *new, "src/airpipe/registry.py")
    run_in(with_edge, "ruff", "format", "--check", *new, "src/airpipe/registry.py")


# A data set


def overlay(root: Path) -> dict:
    """The guide's overlay, for a folder of this test."""
    [(_, code)] = blocks("Overlay")
    assert code.count("${HOME}/photographs") == 1
    return yaml.safe_load(code.replace("${HOME}/photographs", str(root)))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A user's folder: three sharp pictures of grey levels 64 to 191, so that noise is hardly clipped, and others."""
    root = tmp_path_factory.mktemp("photographs")
    for path in toy_images(root / "sharp", count=3, size=(96, 112)):
        cv2.imwrite(str(path), 64 + cv2.imread(str(path)) // 2)
    toy_images(root / "blurred", count=2)
    return root


@pytest.fixture(scope="module")
def with_photographs(tmp_path_factory, photographs):
    """A copy of the project where `none` is scored on the guide's test and on another one."""
    folder = copy_project(tmp_path_factory.mktemp("dataset"))
    write_overlay(folder, overlay(photographs), extra_test("mine.test"), name="my_photos.yaml")
    indexes = [f"results/evaluated/{name}/none.json" for name in ("mine", "more")]
    done = snakemake(folder, *indexes, "--configfile", "my_photos.yaml")
    return folder, done.stdout


def extra_test(pairs: str) -> dict:
    """An overlay with one more test, and a table of it and the guide's test."""
    extra = {"pairs": pairs, "degradation": "noise", "level": "15", "recipe": "noise", "fixed": {"sigma": 15}}
    return {"tests": {"mine_noise15": extra}, "tables": {"more": {"tests": ["mine_noise25", "mine_noise15"]}}}


@pytest.mark.pipeline
def test_a_users_folder_is_checked_listed_and_scored(with_photographs):
    folder, said = with_photographs
    done = job_table(said)
    assert {rule: done[rule] for rule in ("manifest", "pairs", "evaluate")} == {
        "manifest": 1,
        "pairs": 1,
        "evaluate": 2,
    }
    results = folder / "results"
    expected = [f"sharp/img{number}.png" for number in range(3)]
    assert list(pd.read_csv(results / "manifests" / "mine.test.csv")["path"]) == expected
    assert json.loads((results / "pairs" / "mine.test.json").read_text())["pairs"] == 3
    scores = pd.read_csv(results / "scores" / "none" / "mine_noise25.csv")
    psnr = scores[(scores["protocol"] == "airpipe") & (scores["metric"] == "psnr")]["value"]
    assert len(psnr) == 3
    assert psnr.to_numpy() == pytest.approx(20.17, abs=0.3)  # 10 log10(255^2 / 25^2) dB


@pytest.mark.pipeline
def test_two_tables_score_a_test_that_they_share_once(with_photographs):
    results = with_photographs[0] / "results"
    said = "".join((results / "logs" / "evaluate" / table / "none.log").read_text() for table in ("mine", "more"))
    assert [said.count(f"mine_noise{word}") for word in ("25: scored 3 images", "25: reused", "15: scored")] == [1] * 3
    one, both = (json.loads((results / "evaluated" / table / "none.json").read_text()) for table in ("mine", "more"))
    assert list(both["tests"]) == ["mine_noise25", "mine_noise15"]
    assert one["tests"]["mine_noise25"] == both["tests"]["mine_noise25"]


def message_for(cause: str) -> str:
    """The message that the guide's table promises."""
    [message] = re.findall(rf"^\| {re.escape(cause)} \| `([^`]+)`", GUIDE.read_text(), re.MULTILINE)
    return message


def make_lists(root: Path, **split) -> None:
    """Check the guide's data set; `split` replaces settings of its split."""
    entry = deep_merge(overlay(root)["datasets"]["mine"], {"splits": {"test": split}})
    settings = check_settings(DatasetSettings, entry, "datasets.mine")
    check_split("mine.test", settings.splits["test"], settings.root)


def load_shipped(change: dict) -> Plan:
    """The plan of the shipped configuration with the guide's overlay and a change."""
    files = ["config.yaml", "datasets.yaml", "recipes.yaml", "protocols.yaml"]
    files += sorted(f"methods/{path.name}" for path in (ROOT / "config" / "methods").glob("*.yaml"))
    config: dict = {}
    for part in (
        *(read_yaml(ROOT / "config" / name) for name in files),
        {"models": ["baseline/nafnet_5d"]},
        overlay(Path("photographs")),
        change,
    ):
        config = deep_merge(config, part)
    return load_plan(config)


def cut_off(root: Path) -> None:
    path = root / "sharp" / "img1.png"
    path.write_bytes(path.read_bytes()[:200])


BAD = {
    "the folder is not there": lambda root: make_lists(root / "gone"),
    "the glob fits nothing": lambda root: make_lists(root / "sharp"),
    "a file is cut off or no image": lambda root: (cut_off(root), make_lists(root)),
    "files are missing, and `strict: true`": lambda root: make_lists(root, expected=4, strict=True),
    "a degraded file has no clean one": lambda root: (
        toy_images(root / "blurred", count=4),
        make_lists(root, degraded="blurred/*.png"),
    ),
    "two files differ in suffix only": lambda root: (
        cv2.imwrite(str(root / "sharp" / "img0.jpg"), np.zeros((8, 8, 3), np.uint8)),
        make_lists(root, clean="sharp/*"),
    ),
    "a mistyped key": lambda root: load_shipped({"datasets": {"mine": {"rot": "x"}}}),
    "a mistyped data set": lambda root: load_shipped({"tests": {"mine_noise25": {"pairs": "mien.test"}}}),
    "a mistyped split": lambda root: load_shipped(extra_test("mine.tets")).split_entry("mine.tets"),
}


@pytest.mark.parametrize("cause", BAD)
def test_bad_input_gets_the_message_of_the_guide(tmp_path, cause):
    toy_images(tmp_path / "sharp", count=3)
    with pytest.raises(AirpipeError) as error:
        BAD[cause](tmp_path)
    parts = message_for(cause).split("…")
    assert re.search(".+".join(map(re.escape, parts)), str(error.value)), str(error.value)


def test_the_guide_explains_every_message_that_is_tested():
    rows = re.findall(r"^\| (.+?) \| `[^`]+`[^|]*\|$", GUIDE.read_text().split("What goes wrong")[1], re.M)
    assert rows == list(BAD)
