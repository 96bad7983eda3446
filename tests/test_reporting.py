"""The report: numbers of the tables, and what the figures and the page show."""

import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from airpipe.errors import AirpipeError
from airpipe.reporting import pivots, published, tables
from airpipe.reporting.builders import efficiency
from airpipe.reporting.table import read_table, write_table
from airpipe.settings.scoring import ReportSettings

MODELS = ("baseline/nafnet_5d/seed0/train", "baseline/nafnet_5d/seed1/train", "dcpt/nafnet_5d/seed0/finetune")
IMAGES = ("<b>one", "two")
TESTS = {"noise15": ("noise", "15"), "noise25": ("noise", "25")}
PROTOCOLS = ("airpipe", "dcpt")
REPORT = ReportSettings(title="A <title>", zoom=16).model_dump(mode="json")
PUBLISHED = """
NAFNet,nafnet,allinone5,cbsd68,noise,25,dcpt,psnr,31.02,A paper,Table 1,primary,
PromptIR,,allinone3,cbsd68,noise,25,dcpt,psnr,31.31,B paper,Table 2,primary,
AirNet,,allinone3,cbsd68,noise,25,unknown,psnr,31.26,B paper,Table 2,quoted,
AirNet,,allinone3,cbsd68,noise,50,dcpt,psnr,28.00,B paper,Table 2,quoted,
"""


def psnr_of(model: str, image: int, test: str, protocol: str) -> float:
    """Invented: every number of the tree follows from this."""
    base = 24.0 if test == "noise15" else 20.0
    gains = {"none": 0.0, MODELS[0]: 3.0, MODELS[1]: 4.0, MODELS[2]: 5.0}
    last_loses = -4.0 if model == MODELS[0] and image == 1 and test == "noise15" else 0.0
    return base + image + gains[model] + last_loses + (0.5 if protocol == "dcpt" else 0.0)


class Tree:
    """A results folder as the rules before the report leave it."""

    def __init__(self, root: Path):
        self.root = root
        self.scores = [self.write_score(m, t) for m in (*MODELS, "none") for t in TESTS]  # none is not first
        self.cards = tables.read_cards([self.write_card(model) for model in MODELS], root)
        for model in MODELS:
            self.write_curves(model)
        self.published = [root / "published.csv", root / "datasets.yaml", root / "settings.yaml"]
        self.published[0].write_text(",".join(published.SCORES.columns) + PUBLISHED)
        self.published[1].write_text("cbsd68: {images: 68}")
        self.published[2].write_text("allinone3: {about: x, tasks: 3d}\nallinone5: {about: x, tasks: 5d}")

    def write_score(self, model: str, test: str, change: dict[tuple[str, str], str] | None = None) -> Path:
        path = self.root / "scores" / model / f"{test}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for protocol in PROTOCOLS:
            for number, image in enumerate(IMAGES):
                psnr = (change or {}).get((image, protocol), f"{psnr_of(model, number, test, protocol):.6f}")
                rows.append((image, *TESTS[test], protocol, "psnr", psnr))
                rows.append((image, *TESTS[test], protocol, "ssim", f"{0.8 + 0.1 * number:.6f}"))
        pd.DataFrame(rows, columns=list(tables.SCORE_COLUMNS)).to_csv(path, index=False)
        scale = None if model == "none" else "demo"
        info = {"model": model, "test": test, "dataset": "cbsd68", "scale": scale, "kept": list(IMAGES)}
        path.with_suffix(".json").write_text(json.dumps(info))
        self.write_pictures(model, test)
        return path

    def write_pictures(self, model: str, test: str) -> None:
        folder = self.root / "restored" / model / test
        folder.mkdir(parents=True, exist_ok=True)
        clean = np.full((40, 60, 3), 128, np.uint8)
        picture = clean.copy()
        if model == "none":
            picture[20:36, 40:56] = 255  # all degradation is here
        for image in IMAGES:
            Image.fromarray(picture).save(folder / f"{image}.png")
            if model == "none":
                Image.fromarray(clean).save(folder / f"{image}_clean.png")

    def write_card(self, model: str) -> Path:
        method, setting, seed, stage = model.split("/")
        card = {
            "method": method,
            "setting": setting,
            "seed": int(seed[4:]),
            "stage": stage,
            "network": {"name": "nafnet", "arguments": {}},
            "settings_hash": "0123456789abcdef",
            "parameters": 1_500_000,
            "macs": 2_000_000_000,
            "wall_s": 61.0,
            "device": "cpu",
            "git": {"commit": "a" * 40, "dirty": False},
            "finished": "2026-01-01T00:00:00Z",
            "pairs": [{"id": "photos.train", "sha256": "0" * 64}],
        }
        path = self.root / model / "card.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(card))
        measured = {"model": model, "parameters": 1_500_000, "macs": 2_000_000_000, "input": "1x3x256x256"}
        measured |= {"latency_ms": 12.5, "device": "cpu", "threads": 2}
        complexity = self.root / "complexity" / f"{model}.json"
        complexity.parent.mkdir(parents=True, exist_ok=True)
        complexity.write_text(json.dumps(measured))
        return path

    def write_curves(self, model: str) -> None:
        rows = [(step, "loss/total", 1 / step) for step in range(1, 30)]
        rows += [(step, "validation/psnr", 20 + step / 10) for step in (10, 20)]
        path = self.root / model / "curves.csv"
        pd.DataFrame(rows, columns=["step", "name", "value"]).to_csv(path, index=False)

    def table(self, scale: str = "demo") -> pd.DataFrame:
        printed = published.read_all(self.published)
        return tables.build_table(tables.read_scores(self.scores), self.cards, printed, scale)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def pick(table, model, test="noise15", protocol="airpipe", metric="psnr"):
    wanted = dict(zip(("degradation", "level"), TESTS[test], strict=True))
    wanted |= {"model": model, "protocol": protocol, "metric": metric}
    rows = table[np.logical_and.reduce([table[name] == value for name, value in wanted.items()])]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_value_is_the_mean_over_images_then_seeds_and_sd_is_over_seeds(tree):
    row = pick(tree.table(), "baseline/nafnet_5d/train", "noise25")
    assert row["value"] == pytest.approx((23.5 + 24.5) / 2)
    assert row["sd"] == pytest.approx(math.sqrt(0.5))
    assert (row["seeds"], row["n_images"], row["backbone"]) == (2, 2, "nafnet")


def test_one_seed_has_no_sd(tree):
    assert math.isnan(pick(tree.table(), "dcpt/nafnet_5d/finetune")["sd"])


COSTS = """method,network,parameters,macs,counts,input,paper,table,flags,note
Other,other,1500000,2e9,all,1x3x256x256,X paper,,primary,
NAFNet,nafnet,1500000,2e9,all,1x3x512x512,another input,,primary,
NAFNet,nafnet,1600000,2e9,all,1x3x256x256,another size,,primary,
NAFNet,nafnet,1485000,1.6e9,conv,1x3x256x256,N paper,Table 7,primary,
"""


def cost_row(tree, text=COSTS, **measured):
    """The row of one model with these measurements in the efficiency table."""
    return cost_table(tree, text, **measured).frame.iloc[0]


def cost_table(tree, text=COSTS, **measured):
    path = tree.root / "complexity" / f"{MODELS[0]}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | measured))
    costs = tree.root / "efficiency.csv"
    costs.write_text(text)
    return efficiency.efficiency_table(
        [path], tree.cards, published.records(published.read_published([costs], published.COSTS))
    )


PARTS = {"macs_conv": 1_800_000_000, "macs_linear": 150_000_000, "macs_attention": 50_000_000, "peak_memory_mb": 99}


def test_costs_stand_beside_what_the_same_network_was_published_with(tree):
    row = cost_row(tree, **PARTS)
    assert (row["published_parameters"], row["published_macs"]) == (1_485_000, 1.6e9)
    assert row["parameters_difference"] == pytest.approx(1.5 / 1.485 - 1)
    assert row["macs_difference"] == pytest.approx(1.8 / 1.6 - 1)  # convolutions against convolutions
    assert row["source"] == "N paper, Table 7"
    assert (row["macs"], row["macs_attention"], row["peak_memory_mb"]) == (2_000_000_000, 50_000_000, 99)


def test_a_variant_stands_in_tables_under_its_own_name_with_the_card_that_it_shares(tree, monkeypatch):
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
    row = cost_row(tree, COSTS.replace(",conv,", f",{counts},"), **PARTS)
    assert row["macs_difference"] == pytest.approx(ours / 1.6 - 1)


def test_a_network_of_another_size_has_no_published_cost(tree):
    row = cost_row(tree, parameters=1_300_000, **PARTS)
    assert pd.isna(row["published_macs"])
    assert pd.isna(row["source"])
    alone = efficiency.efficiency_table([tree.root / "complexity" / f"{MODELS[0]}.json"], tree.cards)
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
        cost_table(tree, COSTS.replace(old, new), **PARTS)


def test_no_restoration_stands_first(tree):
    first = tree.table().iloc[0]
    assert (first["model"], first["method"]) == ("none", "no restoration")


def test_the_long_table_has_the_promised_columns(tree):
    columns = (
        "method,backbone,setting,model,scale,seeds,dataset,degradation,level,protocol,metric,value,sd,"
        "n_images,published,gap,comparable,reason,source,samples"
    )
    assert list(tree.table().columns) == columns.split(",")


def test_gains_are_per_image_and_their_minimum_is_over_all_seeds(tree):
    table = tree.table()
    gain = pick(table, "baseline/nafnet_5d/train", metric="psnr_gain")
    smallest = pick(table, "baseline/nafnet_5d/train", metric="psnr_gain_min")
    assert gain["value"] == pytest.approx((3.0 - 1.0 + 4.0 + 4.0) / 4)
    assert smallest["value"] == pytest.approx(-1.0)


def test_gains_csv_has_one_row_per_image_seed_and_protocol(tree):
    gains = tables.image_gains(tables.read_scores(tree.scores))
    columns = "model,dataset,test,image,degradation,level,protocol,none,restored,gain"
    assert ",".join(gains.columns) == columns
    assert len(gains) == len(MODELS) * len(TESTS) * len(PROTOCOLS) * len(IMAGES)
    assert (gains["gain"] == gains["restored"] - gains["none"]).all()


def test_an_identical_image_keeps_the_mean_infinite_and_warns(tree, caplog):
    for model in ("none", MODELS[2]):
        tree.write_score(model, "noise15", {(IMAGES[0], "airpipe"): "inf"})
    with caplog.at_level(logging.WARNING):
        table = tree.table()
    assert pick(table, "dcpt/nafnet_5d/finetune")["value"] == math.inf
    assert pick(table, "dcpt/nafnet_5d/finetune", metric="psnr_gain")["value"] == pytest.approx(5.0 / 2)
    assert "infinite" in caplog.text
    assert "inf" in pivots.markdown(table, "t", "demo")


def test_a_score_that_is_not_a_number_is_refused(tree):
    tree.write_score("none", "noise15", {(IMAGES[0], "airpipe"): "nan"})
    with pytest.raises(AirpipeError, match="line 2: value 'nan' is not a number"):
        tree.table()


def test_models_scored_on_other_images_are_refused(tree):
    path = tree.root / "scores" / MODELS[0] / "noise15.csv"
    frame = pd.read_csv(path)
    frame[frame["image"] != "two"].to_csv(path, index=False)
    with pytest.raises(AirpipeError, match="two"):
        tree.table()


def test_a_table_without_no_restoration_is_refused(tree):
    tree.scores = [path for path in tree.scores if "none" not in path.parts]
    with pytest.raises(AirpipeError, match="none"):
        tree.table()


def test_protocols_never_share_a_block_or_a_column(tree):
    table = tree.table()
    blocks = pivots.pivot(table)
    assert [block.protocol for block in blocks] == ["airpipe", "dcpt", "unknown"]
    cells = {block.protocol: block.lines[0].cells[0].psnr for block in blocks[:2]}
    assert cells == {"airpipe": "24.50", "dcpt": "25.00"}
    assert all(block.columns[:2] == ("noise 15", "noise 25") for block in blocks[:2])
    text = pivots.markdown(table, "t", "demo")
    assert len(re.findall(r"^## Protocol ", text, re.M)) == 3
    assert pivots.latex(table, "t", "demo").count(r"\begin{table}") == 3


def test_the_best_of_our_own_numbers_is_bold(tree):
    text = pivots.markdown(tree.table(), "t", "demo")
    line = next(line for line in text.splitlines() if line.startswith("| dcpt/nafnet_5d "))
    assert "**29.50** / **0.850**" in line


def test_published_rows_are_listed_but_not_comparable_at_demo_scale(tree):
    rows = tree.table()
    rows = rows[rows["model"] == "published"]
    assert list(rows["method"]) == ["NAFNet", "PromptIR", "AirNet"]  # level 50 was not tested
    assert set(rows["comparable"]) == {"no"}
    assert rows["reason"].str.contains("demo scale").all()
    assert rows["value"].isna().all()
    assert "demo scale: not comparable with published numbers" in pivots.markdown(tree.table(), "t", "demo")


def test_the_published_number_of_the_same_model_gives_a_gap_and_reasons(tree):
    row = pick(tree.table(), "baseline/nafnet_5d/train", "noise25", "dcpt")
    assert (row["published"], row["source"]) == (31.02, "A paper, Table 1")
    assert row["gap"] == pytest.approx(24.5 - 31.02)
    assert row["comparable"] == "no"
    assert row["reason"] == "demo scale; 2 images instead of 68; other training data"


def test_an_unknown_protocol_is_never_comparable(tree):
    rows = tree.table(scale="paper")
    rows = rows[rows["protocol"] == "unknown"]
    assert list(rows["comparable"]) == ["no"]
    assert list(rows["reason"]) == ["protocol not re-measured"]


def test_metrics_are_finite_floats(tree):
    tree.write_score("none", "noise15", {(IMAGES[0], "airpipe"): "inf"})
    pivots.write_tables("all", "demo", tree.scores, tree.cards, tree.published, tree.root)
    pivots.write_metrics([tree.root / "all.csv"], tree.root / "metrics.json")
    found = json.loads((tree.root / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert "airpipe" not in {p for p, m in found["all"]["none"]["noise_15"].items() if "psnr" in m}
    assert found["all"]["dcpt/nafnet_5d/finetune"]["noise_25"]["airpipe"] == {
        "psnr": pytest.approx(25.5),
        "ssim": pytest.approx(0.85),
        "psnr_gain": pytest.approx(5.0),
    }


def test_the_csv_comes_back_as_it_was_written(tree):
    pivots.write_tables("all", "demo", tree.scores, tree.cards, tree.published, tree.root)
    again = tables.read_table(tree.root / "all.csv")
    assert again["value"].equals(tree.table()["value"])
    assert set(again["level"]) == {"15", "25"}


def test_latex_escapes_what_it_would_read_as_commands(tree):
    text = pivots.latex(tree.table(), "all_in_one", "demo")
    assert "all\\_in\\_one" in text
    assert not re.search(r"(?<!\\)_", text)


def test_budgets_stand_in_the_table_and_unequal_ones_are_refused_where_they_have_to_be_equal(tree, tmp_path):
    counts = dict.fromkeys(MODELS, 40_000)
    cards = {model: {**card, "budget": {"steps": 1, "samples": counts[model]}} for model, card in tree.cards.items()}
    arguments = ("pretraining", "demo", tree.scores)
    pivots.write_tables(*arguments, cards, tree.published, tmp_path, equal_budgets=True)
    written = tables.read_table(tmp_path / "pretraining.csv").set_index("model")["samples"]
    assert set(written["dcpt/nafnet_5d/finetune"]) == {"40000"} and set(written["none"]) == {""}
    told = "Training samples, pretraining included: baseline/nafnet_5d/train 40,000, dcpt/nafnet_5d/finetune 40,000."
    assert told in (tmp_path / "pretraining.md").read_text()
    cards[MODELS[2]]["budget"]["samples"] = 40_001
    with pytest.raises(AirpipeError, match=r"40000 samples: .*seed1/train; 40001 samples: dcpt/nafnet_5d/seed0"):
        pivots.write_tables(*arguments, cards, tree.published, tmp_path / "other", equal_budgets=True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("others", [{}, {"dcpt/x": {"budget": {"samples": 7}}}])
def test_models_of_unknown_cost_are_not_compared_by_budget(others):
    """Not even with each other."""
    cards = {**others, "baseline/old": {}, "imported/x": {"budget": None}}
    with pytest.raises(AirpipeError) as told:
        tables.check_budgets(cards, "pretraining")
    assert "samples of baseline/old, imported/x are unknown: trained before budgets were recorded, or" in str(
        told.value
    )
    assert "Train them again, or leave them out" in str(told.value) and "phases" not in str(told.value)


def test_labels_are_as_short_as_they_can_be_without_clashing():
    labels = pivots.short_labels(["none", "a/x/train", "b/x/train", "a/y/one", "a/y/two", "imported/z"])
    assert list(labels.values()) == ["no restoration", "a/x", "b/x", "a/y/one", "a/y/two", "imported/z"]
    alone = pivots.short_labels(["none", "a/x/train", "a/y/one", "a/y/two"])
    assert list(alone.values()) == ["no restoration", "x", "a/y/one", "a/y/two"]
