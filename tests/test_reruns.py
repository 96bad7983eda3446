"""What a change redoes, shown on real toy runs: comments nothing, settings what depends on them."""

import json
import re
import shlex
import subprocess
import sys
from math import isfinite

import pandas as pd
import pytest
from helpers import ROOT
from redoing import TRAINING, counted, redone, trainings
from test_plan import nested, plan

from airpipe.degradations.recipes import check_operations
from airpipe.errors import AirpipeError
from workflow import (
    CHAPTERS,
    copy_project,
    copy_run,
    environment,
    planned,
    snakemake,
    write_overlay,
)

pytestmark = pytest.mark.pipeline

MODEL = "baseline/nafnet_5d/seed0/train"
STAGE = ("methods", "baseline", "settings", "nafnet_5d", "stages", "train", "scales", "demo")


@pytest.fixture(scope="module")
def project(toy_run, tmp_path_factory):
    """A copy of the toy run."""
    return copy_run(toy_run, tmp_path_factory.mktemp("reruns") / "project")


def planned_with(folder, *overlays):
    """Jobs of `all` and `data` by rule, with the toy overlays and more of them."""
    write_overlay(folder, *CHAPTERS, *overlays)
    return planned(folder, "all", "data", "--configfile", "overlay.yaml")


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
    head = ["method", "backbone", "setting", "model", "against", "scale", "seeds", "dataset", "degradation", "level"]
    assert list(table.columns[:10]) == head
    ours = table[table["model"] != "published"]
    counts = ours.groupby(["model", "metric"]).size().to_dict()
    # two tests and their average under one protocol; gains of the models only, differences from the first of them
    models = ("baseline/nafnet_5d/train", "imported/official")
    assert counts == {
        **{(model, metric): 3 for model in ("none", *models) for metric in ("psnr", "ssim")},
        **{(model, "psnr_gain"): 3 for model in models},
        **{(model, "psnr_gain_min"): 2 for model in models},
        ("imported/official", "psnr_difference"): 3,
    }
    assert all(isfinite(value) for value in ours["value"])
    noisy = ours[(ours["model"] == "none") & (ours["degradation"] == "noise") & (ours["metric"] == "psnr")]
    assert noisy["value"].item() == pytest.approx(20.2, abs=0.3)  # sigma 25: 10 log10(255^2 / 25^2) dB
    assert ours.groupby("dataset")["n_images"].first().to_dict() == {"mine": 2, "photos": 3}


def test_a_table_of_scores_needs_lines_of_configuration_only(project):
    folder = project / "results/tables"
    table = pd.read_csv(folder / "new.csv", keep_default_na=False)
    assert set(table["degradation"]) == {"noise", "low_light", "both"}
    psnr = table[(table["metric"] == "psnr") & (table["model"] == "none")].set_index("degradation")["value"]
    assert psnr["both"] == pytest.approx((psnr["noise"] + psnr["low_light"]) / 2)
    shown = f"{psnr['both']:.2f}"
    assert "# A \\<new> table" in (folder / "new.md").read_text() and shown in (folder / "new.md").read_text()
    assert shown in (folder / "new.tex").read_text()
    assert [block["head"][1:] for block in json.loads((folder / "new.json").read_text())["blocks"]] == [["airpipe"]] * 3
    page = (project / "results/report/index.html").read_text()
    assert "A &lt;new&gt; table" in page and shown in page.partition('id="new"')[2]


def test_gains_are_restored_minus_degraded_for_every_image(project):
    gains = pd.read_csv(project / "results" / "tables" / "allinone_gains.csv")
    assert gains.groupby("model").size().to_dict() == {MODEL: 5, "imported/official": 5}
    assert gains["gain"].to_numpy() == pytest.approx((gains["restored"] - gains["none"]).to_numpy())


# What Snakemake redoes; `test_redone.py` asks the same of the plan, change by change


def test_printed_commands_can_be_pasted(project):
    done = snakemake(project, "all", "data", "-n", "-p", "--forceall", "--configfile", "overlay.yaml")
    commands = [line for line in done.stdout.splitlines() if line.lstrip().startswith("Shell command:")]
    assert len(commands) > 10 and any("scripts/train.py" in line for line in commands)
    assert all("--degrade loader" in line for line in commands if "scripts/train.py" in line)
    assert max(len(word) for line in commands for word in shlex.split(line)) <= 200


def test_comments_machines_and_moved_folders_redo_nothing(project, tmp_path):
    folder = copy_run(project, tmp_path / "copy")
    edited = [
        *("src/airpipe/methods/baseline/training.py", "src/airpipe/models/nafnet.py", "scripts/train.py"),
        *("src/airpipe/registry.py", "src/airpipe/evaluation/metrics.py", "scripts/evaluate.py"),
        *("src/airpipe/plan/lists.py", "src/airpipe/reporting/reading.py"),
        *("workflow/Snakefile", *(f"workflow/rules/{path.name}" for path in (folder / "workflow/rules").glob("*.smk"))),
        *("config/config.yaml", "config/recipes.yaml", "config/methods/baseline.yaml"),
    ]
    for name in edited:
        path = folder / name
        path.write_text("# A new comment, first of all.\n" + path.read_text() + "\n# And the last one.\n")
    (folder / "pictures").rename(tmp_path / "elsewhere")
    harmless = {
        "compute": {
            "demo": {"default": {"threads": 2, "mem_mb": 2000, "workers": 1, "runtime": 9, "degrade": "device"}}
        },
        "datasets": {"mine": {"root": str(tmp_path / "elsewhere")}},
        "protocols": {"dcpt": {"border": 2}},
        "recognition": {"fresh_seeds": [2]},
    }
    assert planned_with(folder, harmless) == {}


CHANGES = {
    "learning rate": nested(*STAGE, "optimizers", "net", "learning_rate", 1e-3),
    "test": nested("tests", "mine_low_light", "seed", 7),
    "report": nested("report", "zoom", 48),
    "analysis": nested("features", "neighbours", 3),
    "made data": nested("datasets", "shapes0", "made", "seed", 5),
}


@pytest.mark.parametrize("names", [("learning rate", "test"), ("report", "analysis", "made data")], ids=" and ".join)
def test_snakemake_redoes_what_the_plan_says(project, names):
    """The rules' own inputs and params, against those that `redoing.py` says once more."""
    changes = [CHANGES[name] for name in names]
    found = redone(plan(*CHAPTERS), plan(*CHAPTERS, *changes))
    assert planned_with(project, *changes) == counted(found)
    retrained = {"learning rate": 1, "report": 7}[names[0]]  # all of VRD-IR is trained on made images
    assert len(trainings(found)) == retrained


def test_a_raised_revision_redoes_the_stage_and_what_follows(project, tmp_path):
    folder = copy_run(project, tmp_path / "copy")
    path = folder / "src/airpipe/methods/dcpt/__init__.py"
    text, count = re.subn(r'("pretrain": Stage\([^)]*)\)', r"\1, revision=2)", path.read_text())
    assert count == 1
    path.write_text(text)
    found = planned_with(folder)
    trained = {rule: count for rule, count in found.items() if rule in TRAINING}
    assert trained == {"dcpt_pretrain": 1, "dcpt_finetune": 1}  # the masked one is another task
    assert (found["evaluate"], found["features_knn"], found["freeze_settings"]) == (1, 2, 1)
    assert "recognise" not in found


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scal": "demo"}, "unknown setting 'scal'; did you mean 'scale'?"),
        ({"scale": "huge"}, "unknown scale in compute 'huge'; Valid: demo, paper, released, small"),
        (
            {"tests": {"photos_noise25": {"fixed": {"sigma": "high"}}}},
            "tests.photos_noise25, gaussian_noise: parameter 'sigma' is 'high'; expected a finite number",
        ),
        ({"models": ["baseline/nafnet_6d"]}, "unknown setting of baseline 'nafnet_6d'; did you mean 'nafnet_5d'?"),
    ],
)
def test_a_bad_setting_is_named(change, message):
    with pytest.raises(AirpipeError, match=re.escape(message)):
        found = plan(*CHAPTERS, change)
        for where, operations in found.operations().items():
            check_operations(operations, where)
        found.chosen_models()


def test_a_bad_setting_is_told_without_a_traceback_before_anything_runs(project):
    write_overlay(project, *CHAPTERS)
    wrong = ["--config", "models=[baseline/nafnet_6d]"]
    done = snakemake(project, "all", "-n", "--configfile", "overlay.yaml", *wrong, check=False)
    assert done.returncode == 1
    assert "unknown setting of baseline 'nafnet_6d'; did you mean 'nafnet_5d'?" in done.stdout
    assert "Traceback" not in done.stdout and "Job stats" not in done.stdout


def test_a_missing_data_folder_is_named_on_the_terminal(project, tmp_path):
    folder = copy_run(project, tmp_path / "copy")
    (folder / "results" / "manifests" / "mine.test.csv").unlink()
    write_overlay(folder, *CHAPTERS, nested("datasets", "mine", "root", "/nowhere/pictures"))
    target = "results/manifests/mine.test.csv"
    done = snakemake(folder, target, "--configfile", "overlay.yaml", check=False)
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
