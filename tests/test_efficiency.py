"""The efficiency table: what models cost, beside what papers print."""

import json
import re

import pandas as pd
import pytest
from reported import MODELS, Tree, pick

from airpipe.errors import AirpipeError
from airpipe.reporting.builders.efficiency import efficiency_table
from airpipe.reporting.published import COSTS as FORM
from airpipe.reporting.published import read_published, records
from airpipe.reporting.table import read_table, write_table


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


PRINTED = """method,network,parameters,macs,counts,input,paper,table,flags,note
Other,other,1500000,2e9,all,1x3x256x256,X paper,,primary,
NAFNet,nafnet,1500000,2e9,all,1x3x512x512,another input,,primary,
NAFNet,nafnet,1600000,2e9,all,1x3x256x256,another size,,primary,
NAFNet,nafnet,1485000,1.6e9,conv,1x3x256x256,N paper,Table 7,primary,
"""


def cost_row(tree, text=PRINTED, **measured):
    """The row of one model with these measurements in the efficiency table."""
    return cost_table(tree, text, **measured).frame.iloc[0]


def cost_table(tree, text=PRINTED, **measured):
    path = tree.root / "complexity" / f"{MODELS[0]}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | measured))
    costs = tree.root / "efficiency.csv"
    costs.write_text(text)
    return efficiency_table([path], tree.cards, records(read_published([costs], FORM)))


PARTS = {"macs_conv": 1_800_000_000, "macs_linear": 150_000_000, "macs_attention": 50_000_000, "peak_memory_mb": 99}


def test_costs_stand_beside_what_the_same_network_was_published_with(tree):
    row = cost_row(tree, **PARTS)
    assert (row["published_parameters"], row["published_macs"]) == (1_485_000, 1.6e9)
    assert row["parameters_difference"] == pytest.approx(1.5 / 1.485 - 1)
    assert row["macs_difference"] == pytest.approx(1.8 / 1.6 - 1)  # convolutions against convolutions
    assert row["source"] == "N paper, Table 7"
    assert (row["macs"], row["macs_attention"], row["peak_memory_mb"]) == (2_000_000_000, 50_000_000, 99)


def test_a_variant_stands_in_tables_under_its_own_name_with_the_card_that_it_shares(tree):
    name = f"{MODELS[0]}@s"
    scores = [file for file in tree.scores if MODELS[0] in str(file)]
    for file in scores:
        target = tree.root / "scores" / name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.read_text())
        facts = json.loads(file.with_suffix(".json").read_text()) | {"model": name}
        target.with_suffix(".json").write_text(json.dumps(facts))
        tree.scores.append(target)
    table = tree.table("paper")
    plain, variant = (pick(table, f"baseline/nafnet_5d/train{at}") for at in ("", "@s"))
    assert (variant["method"], variant["backbone"], variant["setting"]) == ("baseline", "nafnet", "nafnet_5d")
    assert (variant["value"], variant["seeds"], plain["seeds"]) == (25.5, 1, 2)  # one seed of two has the variant
    cost = cost_row(tree, model=name)
    assert (cost["model"], cost["wall_s"]) == (name, tree.cards[MODELS[0]]["wall_s"])


def test_costs_are_shown_in_millions_and_with_where_they_come_from(tree):
    write_table(cost_table(tree, **PARTS), tree.root)
    block = read_table(tree.root / "efficiency.json").blocks[0]
    line = block.lines[0]
    cells = dict(zip(block.head[1:], line.cells, strict=True))
    assert (line.label, line.kind, line.facts) == (MODELS[0], "ours", {"method": "baseline", "task": "5d"})
    assert [cells[name].parts[0].text for name in ("parameters (M)", "published (M)", "MACs (G)", "published (G)")] == [
        *("1.500", "1.5", "2.00", "1.60")
    ]
    assert cells["published (G)"].about == ("printed in N paper, Table 7",)
    assert cells["latency (ms)"].about == (
        f"model {MODELS[0]}",
        "commit aaaaaaaaaaaa",
        "settings 0123456789ab",
        "input 1x3x256x256, cpu, threads 2",
    )


@pytest.mark.parametrize(("counts", "ours"), [("layers", 1.95), ("all", 2.0)])
def test_published_operations_are_compared_with_what_they_count(tree, counts, ours):
    row = cost_row(tree, PRINTED.replace(",conv,", f",{counts},"), **PARTS)
    assert row["macs_difference"] == pytest.approx(ours / 1.6 - 1)


def test_a_network_of_another_size_has_no_published_cost(tree):
    row = cost_row(tree, parameters=1_300_000, **PARTS)
    assert pd.isna(row["published_macs"])
    assert pd.isna(row["source"])
    alone = efficiency_table([tree.root / "complexity" / f"{MODELS[0]}.json"], tree.cards)
    assert pd.isna(alone.frame.iloc[0]["source"])


def test_older_measurements_have_empty_cells(tree):
    row = cost_row(tree)
    assert pd.isna(row["macs_conv"])
    assert pd.isna(row["macs_difference"])
    assert row["published_parameters"] == 1_485_000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("N paper", "", "line 5: names no paper"),
        (",conv,", ",convs,", "line 5: counts 'convs'; expected one of conv, layers, all"),
        ("1.6e9", "many", "line 5: macs 'many' is not a number"),
        ("method,", "name,", "expected columns method,network,parameters"),
    ],
)
def test_published_costs_are_checked(tree, old, new, message):
    with pytest.raises(AirpipeError, match=re.escape(message)):
        cost_table(tree, PRINTED.replace(old, new), **PARTS)
