"""A published checkpoint, imported, stands in the toy run's tables beside a trained model."""

import json

import pandas as pd
import pytest

from workflow import copy_run, run_import

pytestmark = pytest.mark.pipeline


def test_an_imported_model_is_scored_tabled_and_shown(toy_run):
    table = pd.read_csv(toy_run / "results/tables/allinone.csv", keep_default_na=False)
    assert {"baseline/nafnet_5d/train", "imported/official"} <= set(table.model)
    efficiency = pd.read_csv(toy_run / "results/tables/efficiency.csv", keep_default_na=False)
    assert efficiency.set_index("model").loc["imported/official", "parameters"] == 24539
    assert "official" in (toy_run / "results/report/index.html").read_text()


def test_the_card_tells_where_the_weights_come_from(toy_run):
    card = json.loads((toy_run / "results/imported/official/card.json").read_text())
    assert (card["imported"]["container"], card["imported"]["prefix"]) == ("params_ema", "module.")
    assert card["network"]["name"] == "nafnet"


def test_nothing_is_replaced_unasked_and_the_import_says_what_matched(toy_run, tmp_path):
    folder = copy_run(toy_run, tmp_path / "copy")
    assert run_import(folder).returncode == 2
    (folder / "results/imported/official").rename(tmp_path / "aside")
    done = run_import(folder)
    assert done.returncode == 0 and "136 entries matched" in done.stdout
