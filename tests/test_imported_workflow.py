"""A published checkpoint, imported, stands in the tables beside a trained model."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import torch
from helpers import ROOT
from parity import load_golden

from workflow import TOY, copy_run, environment, planned, snakemake, write_overlay

pytestmark = pytest.mark.pipeline

OVERLAY = {"models": ["baseline/nafnet_5d", "imported/official"]}


@pytest.fixture(scope="module")
def project(toy_run, tmp_path_factory):
    folder = copy_run(toy_run, tmp_path_factory.mktemp("imported") / "project")
    state = load_golden(ROOT / "tests/goldens/nafnet_small.npz").reference_state()
    torch.save({"params_ema": {f"module.{key}": value for key, value in state.items()}}, folder / "official.pth")
    write_overlay(folder, TOY, OVERLAY)
    return folder


def run_import(folder):
    command = [sys.executable, "scripts/import_weights.py", "official.pth", "--as", "nafnet"]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)


def test_a_missing_import_names_the_command(project):
    said = snakemake(project, "-n", "all", "--configfile", "overlay.yaml", check=False)
    assert said.returncode == 1
    assert (
        "results/imported/official is not there: python scripts/import_weights.py FILE --name official" in said.stdout
    )


def test_an_imported_model_is_scored_tabled_and_shown(project):
    done = run_import(project)
    assert done.returncode == 0, done.stderr
    assert "136 entries matched" in done.stdout
    snakemake(project, "all", "--configfile", "overlay.yaml")
    table = pd.read_csv(project / "results/tables/allinone.csv", keep_default_na=False)
    assert {"baseline/nafnet_5d/train", "imported/official"} <= set(table.model)
    efficiency = pd.read_csv(project / "results/tables/efficiency.csv", keep_default_na=False)
    assert efficiency.set_index("model").loc["imported/official", "parameters"] == 24539
    page = (project / "results/report/index.html").read_text()
    assert "official" in page
    assert planned(project, "all", "--configfile", "overlay.yaml") == {}


def test_the_card_tells_where_the_weights_come_from(project):
    card = json.loads((project / "results/imported/official/card.json").read_text())
    assert (card["imported"]["container"], card["imported"]["prefix"]) == ("params_ema", "module.")
    assert card["network"]["name"] == "nafnet"
    assert run_import(project).returncode == 2  # it exists: nothing is replaced unasked
