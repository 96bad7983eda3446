"""What a change redoes, shown on real toy runs: comments nothing, settings what depends on them."""

import re
import shlex
import subprocess
import sys
from math import isfinite

import pandas as pd
import pytest
from helpers import ROOT, toy_images

from workflow import TOY, copy_project, copy_run, environment, planned, snakemake, write_overlay

pytestmark = pytest.mark.pipeline

MODEL = "baseline/nafnet_5d/seed0/train"
MINE = {
    "datasets": {"mine": {"title": "Toy", "root": "pictures", "splits": {"test": {"clean": "*.png"}}}},
    "tests": {"mine_low_light": {"pairs": "mine.test", "degradation": "low_light", "recipe": "low_light"}},
    "tables": {"allinone": {"tests": ["photos_noise25", "mine_low_light"]}},
}
REPORT = {"tables": 1, "figures": 1, "metrics": 1, "page": 1}
RETRAINED = {
    "freeze_settings": 1,
    "baseline_train": 1,
    "evaluate": 2,
    "complexity": 1,
    "efficiency": 1,
} | REPORT
STAGE = ("methods", "baseline", "settings", "nafnet_5d", "stages", "train", "scales", "demo")


@pytest.fixture(scope="module")
def project(toy_run, tmp_path_factory):
    """A finished toy run: one network, one test on embedded photographs, one on a folder of files."""
    folder = copy_run(toy_run, tmp_path_factory.mktemp("reruns") / "project")
    toy_images(folder / "pictures", count=2)
    write_overlay(folder, TOY, MINE)
    snakemake(folder, "all", "--configfile", "overlay.yaml")
    return folder


def plan(folder, *overlays):
    """Jobs of `all` by rule, with the toy overlay and more of them."""
    names = ["overlay.yaml"]
    for number, overlay in enumerate(overlays):
        names.append(write_overlay(folder, overlay, name=f"change{number}.yaml").name)
    return planned(folder, "all", "--configfile", *names)


def nested(*keys_and_value):
    """nested("a", "b", 1) is {"a": {"b": 1}}."""
    *keys, value = keys_and_value
    for key in reversed(keys):
        value = {key: value}
    return value


# The copy and the run itself


def test_a_copy_without_git_holds_the_same_package(tmp_path, monkeypatch):
    with_git = copy_project(tmp_path / "with")
    monkeypatch.setattr("workflow.files_of_git", lambda: None)
    without = copy_project(tmp_path / "without")
    for part in ("src", "workflow", "config", "scripts"):
        found = [
            sorted(path.relative_to(folder) for path in (folder / part).rglob("*") if path.is_file())
            for folder in (with_git, without)
        ]
        assert found[0] == found[1] and len(found[0]) > 5
    assert not (without / "results").exists() and not (without / ".git").exists()


def test_a_copy_runs_its_own_package(project):
    code = "import airpipe; print(airpipe.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment(project), capture_output=True, text=True
    )
    assert done.stdout.strip() == str(project / "src" / "airpipe" / "__init__.py")


def test_the_results_table_holds_every_number_once(project):
    table = pd.read_csv(project / "results" / "tables" / "allinone.csv", dtype={"level": str})
    head = ["method", "backbone", "setting", "model", "scale", "seeds", "dataset", "degradation", "level"]
    assert list(table.columns[:9]) == head
    ours = table[table["model"] != "published"]
    counts = ours.groupby(["model", "metric"]).size().to_dict()
    trained = "baseline/nafnet_5d/train"
    # two tests under one protocol: scores of both, gains of the model only
    assert counts == {("none", "psnr"): 2, ("none", "ssim"): 2} | {
        (trained, metric): 2 for metric in ("psnr", "ssim", "psnr_gain", "psnr_gain_min")
    }
    assert all(isfinite(value) for value in ours["value"])
    noisy = ours[(ours["model"] == "none") & (ours["degradation"] == "noise") & (ours["metric"] == "psnr")]
    assert noisy["value"].item() == pytest.approx(20.2, abs=0.3)  # sigma 25: 10 log10(255^2 / 25^2) dB
    assert ours.groupby("dataset")["n_images"].first().to_dict() == {"mine": 2, "photos": 3}


def test_gains_are_restored_minus_degraded_for_every_image(project):
    gains = pd.read_csv(project / "results" / "tables" / "allinone_gains.csv")
    assert len(gains) == 5 and set(gains["model"]) == {MODEL}
    assert gains["gain"].to_numpy() == pytest.approx((gains["restored"] - gains["none"]).to_numpy())


def test_a_second_run_has_nothing_to_do(project):
    done = snakemake(project, "all", "--configfile", "overlay.yaml")
    assert "Nothing to be done" in done.stdout


def test_printed_commands_can_be_pasted(project):
    done = snakemake(project, "all", "data", "-n", "-p", "--forceall", "--configfile", "overlay.yaml")
    commands = [line for line in done.stdout.splitlines() if line.lstrip().startswith("Shell command:")]
    assert len(commands) > 10 and any("scripts/train.py" in line for line in commands)
    assert max(len(word) for line in commands for word in shlex.split(line)) <= 200


# Edited files


def test_comments_redo_nothing(project, tmp_path):
    folder = copy_run(project, tmp_path / "copy")
    edited = [
        *("src/airpipe/methods/baseline/training.py", "src/airpipe/models/nafnet.py", "scripts/train.py"),
        *("src/airpipe/registry.py", "src/airpipe/evaluation/metrics.py", "scripts/evaluate.py"),
        *("workflow/Snakefile", "workflow/rules/train.smk", "workflow/rules/common.smk"),
        *("workflow/rules/evaluation.smk", "workflow/rules/datasets.smk", "workflow/rules/settings.smk"),
        *("config/config.yaml", "config/recipes.yaml", "config/methods/baseline.yaml"),
    ]
    for name in edited:
        path = folder / name
        path.write_text("# A new comment, first of all.\n" + path.read_text() + "\n# And the last one.\n")
    assert plan(folder) == {}


def test_a_raised_revision_redoes_the_stage_and_what_follows(project, tmp_path):
    folder = copy_run(project, tmp_path / "copy")
    path = folder / "src/airpipe/methods/baseline/__init__.py"
    text = path.read_text()
    assert 'Stage(task="BaselineTask")' in text
    path.write_text(text.replace('Stage(task="BaselineTask")', 'Stage(task="BaselineTask", revision=2)'))
    assert plan(folder) == RETRAINED


# Changed settings


@pytest.mark.parametrize(
    ("change", "jobs"),
    [
        pytest.param(nested("report", "zoom", 48), {"figures": 1, "page": 1}, id="zoom"),
        pytest.param(nested("report", "title", "Another"), {"page": 1}, id="title"),
        pytest.param(nested("tests", "photos_noise25", "fixed", "sigma", 30), {"evaluate": 2} | REPORT, id="sigma"),
        pytest.param(nested("tests", "mine_low_light", "seed", 7), {"evaluate": 2} | REPORT, id="seed of a test"),
        pytest.param(nested("protocols", "airpipe", "ssim", "uniform7"), {"evaluate": 4} | REPORT, id="protocol"),
        pytest.param(nested("protocols", "dcpt", "border", 2), {}, id="unused protocol"),
        pytest.param(nested(*STAGE, "optimizers", "net", "learning_rate", 1e-3), RETRAINED, id="learning rate"),
        # Trains on it, and the low-light test degrades with it: that test of `none` is scored anew too.
        pytest.param(
            nested("recipes", "low_light", [{"operation": "gaussian_noise", "parameters": {"sigma": 5}}]),
            RETRAINED | {"evaluate": 3},
            id="recipe of training and test",
        ),
        # The noise test fixes its sigma, so the recipe's range concerns training only.
        pytest.param(
            nested("recipes", "noise", [{"operation": "gaussian_noise", "parameters": {"sigma": 5}}]),
            RETRAINED,
            id="range that the test fixes",
        ),
        pytest.param(
            nested("compute", "demo", "default", {"threads": 2, "mem_mb": 2000, "workers": 1, "runtime": 9}),
            {},
            id="compute",
        ),
    ],
)
def test_a_setting_redoes_what_depends_on_it(project, change, jobs):
    assert plan(project, change) == jobs


def test_a_moved_data_set_redoes_nothing(project, tmp_path):
    toy_images(tmp_path / "elsewhere", count=2)
    assert plan(project, nested("datasets", "mine", "root", str(tmp_path / "elsewhere"))) == {}


# Bad input


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("scal=demo", "unknown setting 'scal'; did you mean 'scale'?"),
        ("scale=huge", "unknown scale in compute 'huge'; Valid: demo, paper, released, small"),
        (
            "tests={photos_noise25: {fixed: {sigma: high}}}",
            "tests.photos_noise25, gaussian_noise: parameter 'sigma' is 'high'; expected a finite number",
        ),
        ("models=[baseline/nafnet_6d]", "unknown setting of baseline 'nafnet_6d'; did you mean 'nafnet_5d'?"),
    ],
)
def test_a_bad_setting_is_named_before_anything_runs(project, setting, message):
    done = snakemake(project, "all", "-n", "--configfile", "overlay.yaml", "--config", setting, check=False)
    assert done.returncode == 1
    assert message in done.stdout
    assert "Traceback" not in done.stdout and "Job stats" not in done.stdout


def test_a_missing_data_folder_is_named_on_the_terminal(project, tmp_path):
    folder = copy_run(project, tmp_path / "copy")
    (folder / "results" / "manifests" / "mine.test.csv").unlink()
    write_overlay(folder, nested("datasets", "mine", "root", "/nowhere/pictures"), name="moved.yaml")
    target = "results/manifests/mine.test.csv"
    done = snakemake(folder, target, "--configfile", "overlay.yaml", "moved.yaml", check=False)
    assert done.returncode == 1
    assert "airpipe: error: data set mine: /nowhere/pictures is not a folder." in done.stdout
    assert "Traceback" not in done.stdout
    assert not (folder / target).exists()


def test_results_on_a_missing_disk_stop_the_run(tmp_path):
    folder = copy_project(tmp_path / "copy")
    (folder / "results").symlink_to("/nonexistent/disk/results")
    done = snakemake(folder, "results/manifests/photos.test.csv", check=False)
    assert done.returncode == 1
    assert re.search(r"WorkflowError:\s+Failed to create output directory results/", done.stdout)
    assert "Traceback" not in done.stdout


# Form


def test_the_workflow_passes_snakemakes_own_lint(project):
    assert "Congratulations, your workflow is in a good condition!" in snakemake(project, "--lint").stdout


def test_rules_are_formatted():
    done = subprocess.run(
        ["snakefmt", "--check", "workflow"], cwd=ROOT, env=environment(ROOT), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
