"""DVC over Snakemake: records what ran, reruns what a changed setting concerns, shows what changed."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, shipped

from airpipe.plan import load_plan
from airpipe.registry import METHODS
from airpipe.settings.merging import deep_merge
from airpipe.settings.project import ProjectSettings
from workflow import TOY, copy_run, environment, snakemake

pytestmark = pytest.mark.pipeline

MODEL = "results/baseline/nafnet_5d/seed0/train/model.safetensors"
PLAN = load_plan(shipped())
USED = [name for name in METHODS if PLAN.models_of(name)]
STAGES = {"data", *(f"train@{name}" for name in USED), "evaluate", "report"}


def call(project: Path, *command: str) -> str:
    """Run git or dvc in the project; everything DVC keeps elsewhere stays beside the project too."""
    apart = {"DVC_SITE_CACHE_DIR": str(project.parent / "dvc"), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        command,
        cwd=project,
        env=environment(project) | apart | author(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def author() -> dict[str, str]:
    """Git's author, and none of the settings of this machine."""
    names = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return names | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


def edit(project: Path, file: str, overlay: dict) -> None:
    """Merge values into a config file, as a person edits it."""
    values = deep_merge(yaml.safe_load((project / file).read_text()), overlay)
    (project / file).write_text(yaml.safe_dump(values, sort_keys=False))


def ran(output: str) -> set[str]:
    """Stages that `dvc repro` ran."""
    return set(re.findall(r"^Running stage '(.+)':$", output, re.MULTILINE))


@pytest.fixture(scope="module")
def finished(toy_run, tmp_path_factory) -> Path:
    """A git clone with the network and the test of TOY after a plain `snakemake all`, without any trace of DVC."""
    project = copy_run(toy_run, tmp_path_factory.mktemp("finished") / "project")
    (project / "overlay.yaml").unlink()  # its values go into the files themselves
    edit(project, "config/methods/baseline.yaml", {"methods": TOY["methods"]})
    rest = {key: value for key, value in TOY.items() if key != "methods"}
    edit(project, "config/config.yaml", rest)
    call(project, "git", "init", "-q")
    call(project, "git", "add", "-A")
    call(project, "git", "commit", "-qm", "settings")
    snakemake(project, "all")  # without the other chapters tables and page are made anew
    return project


@dataclass(frozen=True)
class Recording:
    """A project after `dvc repro`, and what that said and staged."""

    project: Path
    said: str
    staged: list[str]


@pytest.fixture(scope="module")
def recording(finished, tmp_path_factory) -> Recording:
    """The same after `dvc repro`, with dvc.lock committed."""
    project = copy_run(finished, tmp_path_factory.mktemp("recorded") / "project")
    said = call(project, "dvc", "repro")
    staged = call(project, "git", "status", "--porcelain").splitlines()
    call(project, "git", "commit", "-qm", "results")
    return Recording(project, said, staged)


@pytest.fixture(scope="module")
def recorded(recording) -> Path:
    return recording.project


@pytest.fixture
def project(recorded, tmp_path) -> Path:
    """A copy to change."""
    return copy_run(recorded, tmp_path / "project")


def test_after_a_plain_run_repro_only_records(finished, recording):
    assert ran(recording.said) == STAGES
    before, after = finished / MODEL, recording.project / MODEL
    assert (after.stat().st_mtime_ns, after.read_bytes()) == (before.stat().st_mtime_ns, before.read_bytes())
    assert recording.staged == ["A  dvc.lock"]
    assert "up to date" in call(recording.project, "dvc", "repro")


def test_repro_in_a_fresh_clone_trains_the_same_weights(recorded, tmp_path):
    project = tmp_path / "project"
    call(recorded, "git", "clone", "-q", str(recorded), str(project))
    assert ran(call(project, "dvc", "repro", "train@baseline")) == {"data", "train@baseline"}
    assert (project / MODEL).read_bytes() == (recorded / MODEL).read_bytes()


def test_a_report_setting_reruns_the_report_only(project):
    weights = (project / MODEL).stat().st_mtime_ns
    edit(project, "config/config.yaml", {"report": {"title": "Another title"}})
    assert ran(call(project, "dvc", "repro")) == {"report"}
    assert "Another title" in (project / "results/report/index.html").read_text()
    assert (project / MODEL).stat().st_mtime_ns == weights


def test_a_learning_rate_reruns_training_and_what_follows_and_the_difference_shows(project):
    rate = {"optimizers": {"net": {"learning_rate": 0.01}}}
    stages = {"train": {"scales": {"demo": rate}}}
    edit(
        project,
        "config/methods/baseline.yaml",
        {"methods": {"baseline": {"settings": {"nafnet_5d": {"stages": stages}}}}},
    )
    before = (project / MODEL).read_bytes()
    assert ran(call(project, "dvc", "repro")) == {"train@baseline", "evaluate", "report"}
    assert (project / MODEL).read_bytes() != before

    difference = call(project, "dvc", "metrics", "diff", "--precision", "3")
    assert re.search(r"baseline/nafnet_5d/train\.noise_25\.airpipe\.psnr +\d+\.\d+ +\d+\.\d+ +-?\d+", difference)
    assert "none.noise_25" not in difference
    assert "index.html" in call(project, "dvc", "plots", "diff")
    page = (project / "results/plots/index.html").read_text()
    assert '"rev": "HEAD"' in page
    assert '"rev": "workspace"' in page


def test_metrics_and_plots_show_our_numbers(project):
    assert "noise_25.airpipe.psnr" in call(project, "dvc", "metrics", "show")
    call(project, "dvc", "plots", "show")
    page = (project / "results/plots/index.html").read_text()
    assert "Validation PSNR during training" in page
    assert "Gain of each test image" in page


def test_a_failed_training_is_a_failed_stage_that_says_why(project):
    wrong = {"train": {"scales": {"demo": {"phases": [{"steps": 2, "patch_size": 9000, "batch_size": 2}]}}}}
    methods = {"baseline": {"settings": {"nafnet_5d": {"stages": wrong}}}}
    edit(project, "config/methods/baseline.yaml", {"methods": methods})
    with pytest.raises(AssertionError, match="is smaller than patch_size 9000"):
        call(project, "dvc", "repro")


# dvc.yaml itself


def test_every_method_in_use_is_trained_recorded_evaluated_and_drawn():
    dvc = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert dvc["stages"]["train"]["foreach"] == USED
    deps = dvc["stages"]["evaluate"]["deps"]
    assert [path for path in deps if path.startswith("results/trained/")] == [
        f"results/trained/{name}.csv" for name in USED
    ]
    (curves,) = (plot["Validation PSNR during training"]["y"] for plot in dvc["plots"] if "Validation" in str(plot))
    assert list(curves) == [f"results/trained/{name}_curves.csv" for name in USED]


def test_every_key_of_the_configuration_is_a_parameter_of_some_stage():
    dvc = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    stages = [stage.get("do", stage) for stage in dvc["stages"].values()]
    known = {
        (file, key) for stage in stages for params in stage["params"] for file, keys in params.items() for key in keys
    }
    elsewhere = {"methods", "datasets", "recipes", "protocols"}
    settings = set(ProjectSettings.model_fields) - elsewhere - {"compute"}  # of the machine: redoes nothing
    assert settings == set(yaml.safe_load((ROOT / "config/config.yaml").read_text())) - {"compute"}
    assert {key for file, key in known if file == "config/config.yaml"} == settings
    assert {file for file, _ in known} == {
        "config/config.yaml", "config/datasets.yaml", "config/recipes.yaml", "config/protocols.yaml",
        "config/methods/${item}.yaml", *(f"config/methods/{name}.yaml" for name in METHODS),
    }  # fmt: skip
