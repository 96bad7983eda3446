"""Tables of scores: numbers over seeds and images, gains, differences, averages, printed numbers."""

import json
import logging
import math
import re

import numpy as np
import pandas as pd
import pytest
from reported import IMAGES, MODELS, PROTOCOLS, TESTS, Tree, pick

from airpipe.errors import AirpipeError
from airpipe.reporting.reading import cards_of, check_budgets
from airpipe.reporting.records import metrics
from airpipe.reporting.table import Table, latex, markdown, read_frame, read_table, short_labels, write_table
from airpipe.settings.scoring import TableSettings


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_a_value_is_the_mean_over_images_then_seeds_and_sd_is_over_seeds(tree):
    row = pick(tree.table(), "baseline/nafnet_5d/train", "noise25")
    assert row["value"] == pytest.approx((23.5 + 24.5) / 2)
    assert row["sd"] == pytest.approx(math.sqrt(0.5))
    assert (row["seeds"], row["n_images"], row["backbone"]) == (2, 2, "nafnet")


def test_one_seed_has_no_sd(tree):
    assert math.isnan(pick(tree.table(), "dcpt/nafnet_5d/finetune")["sd"])


def test_no_restoration_stands_first(tree):
    first = tree.table().iloc[0]
    assert (first["model"], first["method"]) == ("none", "no restoration")


def test_the_long_table_has_the_promised_columns(tree):
    columns = (
        "method,backbone,setting,model,against,scale,seeds,dataset,degradation,level,protocol,metric,value,sd,low,high,"
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
    gains = tree.tables()[1].frame
    columns = "model,dataset,test,image,degradation,level,protocol,none,restored,gain"
    assert ",".join(gains.columns) == columns
    assert len(gains) == len(MODELS) * len(TESTS) * len(PROTOCOLS) * len(IMAGES)
    assert (gains["gain"] == gains["restored"] - gains["none"]).all()


def test_an_identical_image_is_left_out_of_means_with_a_note_and_a_warning(tree, caplog):
    for model in ("none", MODELS[2]):
        tree.write_score(model, "noise15", {(IMAGES[0], "airpipe"): "inf"})
    with caplog.at_level(logging.WARNING):
        table = tree.table()
    row = pick(table, "dcpt/nafnet_5d/finetune")
    scores = pd.read_csv(tree.root / "scores" / MODELS[2] / "noise15.csv")
    left = scores[(scores["metric"] == "psnr") & (scores["protocol"] == "airpipe") & (scores["image"] == IMAGES[1])]
    assert (row["value"], row["n_images"]) == (pytest.approx(left["value"].item()), 1)
    assert pick(table, "dcpt/nafnet_5d/finetune", metric="psnr_gain")["value"] == pytest.approx(5.0 / 2)
    assert "1 images count, others equal their clean ones (infinite)" in caplog.text
    note = "Images equal to their clean ones (∞) are left out of means: 1 of 2 of noise15"
    assert f"{note} (no restoration, nafnet_5d; first: {IMAGES[0]})." in tree.tables()[0].notes
    assert "∞ | ∞ | +0.00" in markdown(tree.tables()[1])


def test_where_all_images_are_identical_the_mean_is_infinite(tree):
    tree.write_score("none", "noise15", dict.fromkeys(((image, "airpipe") for image in IMAGES), "inf"))
    assert (pick(tree.table(), "none")["value"], pick(tree.table(), "none")["n_images"]) == (math.inf, 2)
    text = markdown(tree.tables()[0])
    assert re.search(r"\| no restoration \| \**∞\**", text) and "inf" not in text
    assert "$\\infty$" in latex(tree.tables()[0]) and "-∞" in markdown(tree.tables()[1])


def test_grey_files_scored_in_luma_are_noted_under_the_protocols_that_the_table_shows(tree):
    assert not any("Grey" in note for note in tree.tables()[0].notes)
    for model in ("none", *MODELS):
        facts = tree.root / "scores" / model / "noise15.json"
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "grey_in_luma": {"dcpt": 1}}))
    note = (
        "Grey files compared in luma: 1 of 2 of noise15 (dcpt). Their Y has 16 to 235, as in BasicSR: PSNR is 1.32 dB "
        "above that of the grey values."
    )
    assert note in tree.tables()[0].notes
    assert not any("Grey" in note for note in tree.tables(without_protocols=["dcpt"])[0].notes)


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


def test_scores_under_another_definition_of_a_protocol_are_refused(tree):
    path = tree.root / "scores" / MODELS[1] / "noise15.json"
    facts = json.loads(path.read_text())
    facts["protocols"]["dcpt"]["border"] = 4
    path.write_text(json.dumps(facts))
    with pytest.raises(AirpipeError, match=r"seed1/train/noise15.csv: .* protocol dcpt than .*\(border differ\)"):
        tree.table()


def test_a_table_without_no_restoration_is_refused(tree):
    tree.scores = [path for path in tree.scores if "none" not in path.parts]
    with pytest.raises(AirpipeError, match="none"):
        tree.table()


def test_protocols_never_share_a_block_or_a_column(tree):
    table = tree.tables()[0]
    blocks = [block for block in table.blocks if "minus" not in block.title]
    assert [block.facts["protocol"] for block in blocks] == ["airpipe", "dcpt", "unknown"]
    assert [block.lines[0].cells[0].parts[0].text for block in blocks[:2]] == ["24.50", "25.00"]
    assert all(block.head == ("model", "noise 15", "noise 25", "average") for block in blocks[:2])
    assert len(re.findall(r"^## Protocol ", markdown(table), re.M)) == 5  # two of them of differences
    assert latex(table).count(r"\begin{table}") == 5


def test_the_best_of_our_own_numbers_is_bold(tree):
    text = markdown(tree.tables()[0])
    line = next(line for line in text.splitlines() if line.startswith("| dcpt/nafnet_5d "))
    assert "**29.50** / **0.850**" in line


def test_published_rows_are_listed_but_not_comparable_at_demo_scale(tree):
    rows = tree.table()
    rows = rows[rows["model"] == "published"]
    assert list(rows["method"]) == ["NAFNet", "PromptIR", "AirNet"]  # level 50 was not tested
    assert set(rows["comparable"]) == {"no"}
    assert rows["reason"].str.contains("demo scale").all()
    assert rows["value"].isna().all()
    assert "demo scale: not comparable with published numbers" in markdown(tree.tables()[0])


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
    tree.write_score("none", "noise15", dict.fromkeys(((image, "airpipe") for image in IMAGES), "inf"))
    found = json.loads(json.dumps(metrics({"all": tree.table()})), parse_constant=pytest.fail)
    assert "airpipe" not in {p for p, m in found["all"]["none"]["noise_15"].items() if "psnr" in m}
    assert found["all"]["dcpt/nafnet_5d/finetune"]["noise_25"]["airpipe"] == {
        "psnr": pytest.approx(25.5),
        "ssim": pytest.approx(0.85),
        "psnr_gain": pytest.approx(5.0),
    }
    assert found["all"]["none"]["average"]["dcpt"]["psnr"] == pytest.approx((25.0 + 21.0) / 2)


def test_csv_and_json_come_back_as_they_were_written(tree):
    table = tree.tables()[0]
    write_table(table, tree.root)
    frame = read_frame(tree.root / "all.csv")
    assert frame["value"].equals(table.frame["value"]) and set(frame["level"]) == {"", "15", "25"}
    again = read_table(tree.root / "all.json")
    assert (again.blocks[0].lines[0].label, again.notes) == ("no restoration", table.notes)
    assert repr(again.blocks) == repr(table.blocks)  # NaN differs from itself


def test_a_table_without_lines_writes_nothing(tree):
    with pytest.raises(AirpipeError, match="table empty has no lines"):
        write_table(Table("empty", "", (), ()), tree.root / "none")
    assert not (tree.root / "none").exists()


def test_latex_escapes_what_it_would_read_as_commands(tree):
    text = latex(tree.tables(title="all_in_one")[0])
    assert "all\\_in\\_one" in text
    assert not re.search(r"(?<!\\)_", text)


def test_unequal_budgets_are_refused_and_equal_ones_stand_in_the_table(tree):
    for card in tree.cards.values():
        card["budget"] = {"steps": 1, "samples": 40_000}
    check_budgets(tree.cards, "pretraining")
    table = tree.tables()[0]
    samples = table.frame.set_index("model")["samples"]
    assert set(samples["dcpt/nafnet_5d/finetune"]) == {40_000} and set(samples["none"]) == {""}
    told = "Training samples, pretraining included: baseline/nafnet_5d/train 40,000, dcpt/nafnet_5d/finetune 40,000."
    assert told in table.notes
    tree.cards[MODELS[2]]["budget"]["samples"] = 40_001
    with pytest.raises(AirpipeError, match=r"40000 samples: .*seed1/train; 40001 samples: dcpt/nafnet_5d/seed0"):
        check_budgets(tree.cards, "pretraining")


def test_variants_have_the_budgets_of_their_models(tree):
    for model, card in tree.cards.items():
        card["budget"] = {"steps": 1, "samples": 40_000 if model in MODELS[:2] else 7}
    assert list(cards_of(tree.cards, ["baseline/nafnet_5d@s", "dcpt/nafnet_5d@s"])) == list(MODELS)
    assert list(cards_of(tree.cards, ["baseline/nafnet_5d@s", "baseline/nafnet_5d@l"])) == list(MODELS[:2])
    check_budgets(cards_of(tree.cards, ["baseline/nafnet_5d@s", "baseline/nafnet_5d@l"]), "pretraining")
    with pytest.raises(AirpipeError, match="40000 samples: .*; 7 samples: dcpt/nafnet_5d/seed0"):
        check_budgets(cards_of(tree.cards, ["baseline/nafnet_5d@s", "dcpt/nafnet_5d@s"]), "pretraining")


# Averages, order, differences


def average(table, model="none"):
    rows = table[(table["degradation"] == "all") & (table["model"] == model) & (table["metric"] == "psnr")]
    return rows.set_index("protocol")["value"]["airpipe"]


@pytest.fixture
def three_noises(tree, monkeypatch):
    """A third test: rain, of three images."""
    monkeypatch.setitem(TESTS, "rain", ("rain", ""))
    for model in (*MODELS, "none"):
        path = tree.write_score(model, "rain")
        frame = pd.read_csv(path)
        more = frame[frame["image"] == "two"].assign(image="three")
        pd.concat([frame, more]).to_csv(path, index=False)
        tree.scores.append(path)
    return tree


@pytest.mark.parametrize(
    ("weigh", "expected"),
    [  # means of `none`: noise 15 24.5, noise 25 20.5, rain (20 + 21 + 21) / 3
        ("test", (24.5 + 20.5 + 62 / 3) / 3),
        ("degradation", ((24.5 + 20.5) / 2 + 62 / 3) / 2),
        ("image", (24 + 25 + 20 + 21 + 20 + 21 + 21) / 7),
    ],
)
def test_an_average_weighs_tests_degradations_or_images_alike(three_noises, weigh, expected):
    table = three_noises.table(averages={"all": {"weigh": weigh}})
    assert average(table) == pytest.approx(expected)


def test_an_average_needs_all_its_tests_under_the_protocol(three_noises):
    for path in three_noises.scores:
        if path.stem == "rain":
            frame = pd.read_csv(path)
            frame[frame["protocol"] == "airpipe"].to_csv(path, index=False)
    table = three_noises.table(averages={"all": {}, "noises": {"tests": ["noise15", "noise25"]}})
    found = {(row["degradation"], row["protocol"]) for row in table.to_dict("records") if not row["dataset"]}
    assert found == {("all", "airpipe"), ("noises", "airpipe"), ("noises", "dcpt")}


def test_models_stand_by_the_column_that_sort_names_best_first(tree):
    lines = tree.tables(sort="noise15")[0].blocks[0].lines
    assert [line.label for line in lines[:3]] == ["no restoration", "dcpt/nafnet_5d", "baseline/nafnet_5d"]
    lines = tree.tables()[0].blocks[0].lines
    assert [line.label for line in lines[:3]] == ["no restoration", "baseline/nafnet_5d", "dcpt/nafnet_5d"]


def test_columns_may_be_protocols_in_a_block_for_each_test(tree):
    blocks = tree.tables(columns="protocol")[0].blocks
    assert [(block.title, block.head[1:]) for block in blocks[:3]] == [
        ("noise 15", PROTOCOLS), ("noise 25", PROTOCOLS), ("average", PROTOCOLS),
    ]  # fmt: skip
    assert [cell.parts[0].text for cell in blocks[0].lines[0].cells] == ["24.50", "25.00"]
    title = "noise 25: PSNR minus that of baseline/nafnet_5d in dB, 95 % interval over images"
    (difference,) = [block for block in blocks if block.title == title]
    assert difference.head == ("model", *PROTOCOLS)
    assert [cell.parts[0].text for cell in difference.lines[0].cells] == ["+1.50 (+1.50 to +1.50)"] * 2
    assert len(blocks) == 6  # two tests and their average


def test_a_table_by_protocol_tells_how_far_the_protocol_alone_moves_psnr(tree):
    tree.write_score(MODELS[2], "noise25", {(IMAGES[0], "dcpt"): "29.0"})  # 25 and 26 under airpipe, 29 and 26.5 here
    told = "The protocol alone moves PSNR by up to 2.25 dB (dcpt/nafnet_5d/finetune, noise 25)."
    assert tree.tables(columns="protocol")[0].notes[-1] == told
    assert not any("protocol alone" in note for note in tree.tables()[0].notes)
    one = tree.tables(columns="protocol", without_protocols=["dcpt"])[0]
    assert not any("protocol alone" in note for note in one.notes)


def test_protocols_that_a_table_leaves_out_stand_in_neither_of_its_files(tree):
    scores, gains = tree.tables(without_protocols=["dcpt"])
    ours = scores.frame[scores.frame["model"] != "published"]
    assert set(ours["protocol"]) == set(gains.frame["protocol"]) == {"airpipe"}
    assert not any("dcpt" in block.title.split() for block in scores.blocks)


def test_the_ssim_of_columns_stands_nowhere_without_its_name(tree):
    """0.998 where the SSIM of the images is 0.8 and 0.9: in its own block, its own rows, and not among the metrics."""
    for path in tree.scores:
        frame = pd.read_csv(path)
        columns = frame[frame["metric"] == "ssim"].assign(metric="ssim_columns", value=0.998)
        pd.concat([frame, columns]).to_csv(path, index=False)
    for columns in ("degradation", "protocol"):
        table = tree.tables(columns=columns)[0]
        shown = {block.title for block in table.blocks if "0.998" in str(block)}
        assert len(shown) >= 2 and all(title.endswith(": ssim_columns") for title in shown)
        assert set(table.frame.loc[table.frame["value"] == 0.998, "metric"]) == {"ssim_columns"}
        parts = re.split(r"^## ", markdown(table), flags=re.M)
        assert all(part.partition("\n")[0].endswith(": ssim_columns") for part in parts if "0.998" in part)
        assert "0.998" not in json.dumps(metrics({"all": table.frame}))


def test_a_metric_of_another_name_has_a_block_of_its_own(tree):
    for path in tree.scores:
        frame = pd.read_csv(path)
        columns = frame[frame["metric"] == "ssim"].assign(metric="ssim_of_columns", value=0.998)
        pd.concat([frame, columns]).to_csv(path, index=False)
    titles = [block.title for block in tree.tables()[0].blocks]
    assert "Protocol dcpt, data set cbsd68: ssim_of_columns" in titles
    assert all(len(cell.parts) == 2 for cell in tree.tables()[0].blocks[0].lines[0].cells)


def test_differences_are_paired_by_image_and_a_tie_is_marked(tree):
    table = tree.tables()[0]
    row = pick(table.frame, "dcpt/nafnet_5d/finetune", "noise25", metric="psnr_difference")
    assert (row["value"], row["low"], row["high"]) == pytest.approx((1.5, 1.5, 1.5))  # the same for each image
    assert row["against"] == "baseline/nafnet_5d/train"
    cells = table.blocks[-1].lines[0].cells
    assert [cell.parts[0].mark for cell in cells] == ["", "", ""]
    other = tree.tables(reference="dcpt/nafnet_5d", models=["dcpt/nafnet_5d", "baseline/nafnet_5d"])[0]
    assert pick(other.frame, "baseline/nafnet_5d/train", "noise25", metric="psnr_difference")["value"] == -1.5


def test_two_seeds_of_one_model_are_a_tie(tree):
    generator = np.random.default_rng(5)
    photographs = generator.normal(28, 4, 40)
    for model in ("none", *MODELS[:2]):
        for test in TESTS:
            path = tree.root / "scores" / model / f"{test}.csv"
            seen = photographs - 8 * (model == "none") + generator.normal(0, 0.3, 40)
            rows = [(f"i{n}", *TESTS[test], "airpipe", "psnr", value) for n, value in enumerate(seen)]
            pd.DataFrame(rows, columns=["image", "degradation", "level", "protocol", "metric", "value"]).to_csv(
                path, index=False
            )
    # the second seed under another setting's name, so that it is a model of its own
    for path in (tree.root / "scores" / MODELS[1]).glob("*.json"):
        facts = json.loads(path.read_text()) | {"model": "baseline/nafnet_6d/seed1/train"}
        path.write_text(json.dumps(facts))
    tree.cards["baseline/nafnet_6d/seed1/train"] = tree.cards[MODELS[1]]
    tree.scores = [path for path in tree.scores if MODELS[2] not in str(path)]
    table = tree.tables()[0]
    marks = [cell.parts[0].mark for cell in table.blocks[-1].lines[0].cells]
    assert marks == ["tie", "tie", "tie"]
    gain = pick(table.frame, "baseline/nafnet_5d/train", metric="psnr_gain")
    assert 7 < gain["low"] < gain["value"] < gain["high"] < 9


def test_settings_of_a_table_are_checked():
    for wrong, message in (
        ({"averages": {"a": {"tests": ["x"]}}}, "unknown test in average a 'x'"),
        ({"sort": "x"}, "unknown test or average in sort 'x'"),
        ({"models": ["a/b"], "reference": "a/c"}, "unknown model of the table in reference 'a/c'"),
        ({"columns": "metric"}, "columns"),
    ):
        with pytest.raises(ValueError, match=message):
            TableSettings(tests=("t", "u"), **wrong)


@pytest.mark.parametrize("others", [{}, {"dcpt/x": {"budget": {"samples": 7}}}])
def test_models_of_unknown_cost_are_not_compared_by_budget(others):
    """Not even with each other."""
    cards = {**others, "baseline/old": {}, "imported/x": {"budget": None}}
    with pytest.raises(AirpipeError) as told:
        check_budgets(cards, "pretraining")
    assert "samples of baseline/old, imported/x are unknown: trained before budgets were recorded, or" in str(
        told.value
    )
    assert "Train them again, or leave them out" in str(told.value) and "phases" not in str(told.value)


def test_labels_are_as_short_as_they_can_be_without_clashing():
    labels = short_labels(["none", "a/x/train", "b/x/train", "a/y/one", "a/y/two", "imported/z"])
    assert list(labels.values()) == ["no restoration", "a/x", "b/x", "a/y/one", "a/y/two", "imported/z"]
    alone = short_labels(["none", "a/x/train", "a/y/one", "a/y/two"])
    assert list(alone.values()) == ["no restoration", "x", "a/y/one", "a/y/two"]
