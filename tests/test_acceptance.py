"""What the demo promises is data, compared with the tables of a run."""

import subprocess
import sys

import pytest
from helpers import ROOT

from airpipe.errors import AirpipeError
from airpipe.reporting.promises import Acceptance, check_promises
from airpipe.settings.base import check_settings, read_yaml

TABLE = "method,level,metric,value\nours,25,gain,5.0\nours,50,gain,7.5\nnone,25,gain,2.0\n"


def check(tmp_path, **promise):
    (tmp_path / "small.csv").write_text(TABLE)
    values = {"table": "small", "row": {"method": "ours", "level": "25"}, **promise}
    return check_promises(check_settings(Acceptance, {"promises": {"it": values}}, "test"), tmp_path)


@pytest.mark.parametrize(
    ("bound", "broken"),
    [({"least": 5.0}, 0), ({"least": 5.01}, 1), ({"above": 4.99}, 0), ({"above": 5.0}, 1), ({"above": 0}, 0)],
)
def test_a_value_is_compared_with_its_bound(tmp_path, bound, broken):
    lines, found = check(tmp_path, **bound)
    assert found == broken
    assert lines[0].startswith("BROKEN it: 5.00" if broken else "kept   it: 5.00")


def test_a_second_row_is_taken_off_by_its_factor(tmp_path):
    off = {"method": "none"}
    assert check(tmp_path, minus=off, least=3.0)[1] == 0
    assert check(tmp_path, minus=off, least=3.1)[1] == 1
    assert check(tmp_path, minus=off, times=0.5, least=4.0) == (["kept   it: 4.00 (at least 4)"], 0)


def test_the_value_may_stand_in_another_column(tmp_path):
    (tmp_path / "costs.csv").write_text("model,ms\na,7.5\nb,3\n")
    costs = {"table": "costs", "column": "ms", "row": {"model": "a"}, "minus": {"model": "b"}}
    assert check(tmp_path, **costs, least=4.5) == (["kept   it: 4.50 (at least 4.5)"], 0)
    assert check(tmp_path, **costs, above=4.5)[1] == 1


@pytest.mark.parametrize(
    ("promise", "said"),
    [
        ({"row": {"method": "ours"}, "least": 1}, "2 rows have method 'ours'. Expected one"),
        ({"row": {"method": "theirs"}, "least": 1}, "0 rows have method 'theirs'"),
        ({"row": {"metod": "ours"}, "least": 1}, "unknown column 'metod'; did you mean 'method'"),
        ({"column": "metod", "least": 1}, "unknown column 'metod'; did you mean 'method'"),
        ({"column": "method", "least": 1}, "method is 'ours'. Expected a number"),
        ({"table": "large", "least": 1}, "no such table. Make it first: snakemake"),
        ({}, "give either least or above"),
        ({"least": 1, "above": 1}, "give either least or above"),
    ],
)
def test_a_promise_that_cannot_be_checked_is_an_error(tmp_path, promise, said):
    with pytest.raises(AirpipeError, match=said):
        check(tmp_path, **promise)


@pytest.mark.parametrize("cell", ["nan", ""])
def test_a_value_that_is_no_number_keeps_no_promise(tmp_path, cell):
    (tmp_path / "small.csv").write_text(f"method,value\nours,{cell}\n")
    values = {"table": "small", "row": {"method": "ours"}, "least": -1}
    assert check_promises(Acceptance.model_validate({"promises": {"it": values}}), tmp_path)[1] == 1


def test_the_script_fails_where_the_demo_breaks_a_promise(tmp_path):
    (tmp_path / "small.csv").write_text(TABLE)
    script = [sys.executable, str(ROOT / "scripts/check_acceptance.py")]
    for least, status in ((5, 0), (6, 1)):
        promises = tmp_path / "promises.yaml"
        promises.write_text(f"promises: {{it: {{table: small, row: {{method: ours, level: '25'}}, least: {least}}}}}")
        done = subprocess.run([*script, promises, "--tables", tmp_path], capture_output=True, text=True)
        assert (done.returncode, "it: 5.00" in done.stdout) == (status, True)


def test_the_shipped_promises_are_valid():
    shipped = check_settings(Acceptance, read_yaml(ROOT / "config/acceptance.yaml"), "config/acceptance.yaml")
    tables = {promise.table for promise in shipped.promises.values()}
    assert tables == {"allinone", "efficiency", "features", "pretraining", "recognition", "single_task"}
