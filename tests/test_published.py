"""Printed numbers: the files under resources/published, and what is done with them."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from helpers import ROOT, shipped

from airpipe.errors import AirpipeError
from airpipe.reporting.builders.published import build_published
from airpipe.reporting.published import (
    ACCURACIES,
    AVERAGE,
    CLAIMS,
    COSTS,
    FRAME_COLUMNS,
    SCORES,
    Known,
    Published,
    differences,
    published_frame,
    read_all,
    read_published,
    recomputed_averages,
    records,
    reference_rows,
    same_model,
)
from airpipe.reporting.table import PLACE, markdown
from airpipe.settings.project import load_project

FOLDER = ROOT / "resources" / "published"
PATHS = sorted(FOLDER.glob("*.*"))
ROW = "NAFNet,nafnet,allinone5,cbsd68,noise,25,dcpt,psnr,31.02,A paper,Table 1,primary,"
COUNTS = {
    ("PromptIR", "Table 1"): 84,
    ("PromptIR", "Table 4"): 72,
    ("AdaIR", "README 5-task table"): 24,
    ("DyNet", "README table"): 24,
    ("DSRIR", "Table 4"): 120,
    ("DSRIR", "Table 5"): 144,
    ("DSRIR", "Table 6"): 24,
    ("DSRIR", "Table 7"): 24,
    ("InstructIR", "Table 2"): 180,
    ("DCPT", "README 5D table"): 120,
    ("DCPT", "Table 3"): 6,
    ("DCPT", "Table 16"): 66,
    ("DCPT", "Table 17"): 66,
    ("DCPT", "Table 18"): 99,
    ("DCPT", "Table 19"): 99,
    ("MaskDCPT", "Table I"): 290,
    ("MaskDCPT", "Table III"): 72,
    ("MaskDCPT", "Table V"): 16,
    ("All-in-one survey", "README"): 572,
}
"""Numbers of some printed tables."""


@pytest.fixture(scope="module")
def printed() -> Published:
    return read_all(PATHS)


def flags_of(frame: pd.DataFrame) -> set[str]:
    return {flag for text in frame["flags"] for flag in text.split()}


# The files


def test_every_shipped_row_is_read_and_no_number_stands_there_twice(printed):
    found = printed.scores.groupby(["paper", "table"]).size()
    assert {table: found[table] for table in COUNTS} == COUNTS
    assert len(printed.scores) == 2896
    assert not printed.scores.duplicated(
        [name for name in SCORES.columns if name not in ("value", "flags", "note")]
    ).any()
    assert set(printed.scores["protocol"]) == {"unknown", "promptir", "dcpt", "dsrir", "degae"}
    assert len(read_published([FOLDER / "features.csv"], ACCURACIES)) == 16
    assert len(read_published([FOLDER / "claims.csv"], CLAIMS)) == 13
    costs = read_published([FOLDER / "efficiency.csv"], COSTS)
    assert len(costs) == 93 and (costs["parameters"] > 5e5).all()


def test_every_paper_and_every_setting_has_a_row_and_every_known_error_is_flagged_in_one(printed):
    known = printed.known
    assert set(printed.scores["setting"]) == set(known.settings)
    assert set(printed.scores["paper"]) == set(known.papers)
    files = ((SCORES, "*"), (COSTS, "efficiency"), (ACCURACIES, "features"), (CLAIMS, "claims"))
    flags = set[str]().union(*(flags_of(read_published(FOLDER.glob(f"{name}.csv"), form)) for form, name in files))
    assert {flag.removeprefix("error:") for flag in flags if flag.startswith("error:")} == set(known.errors)


def test_known_errors_keep_the_number_as_it_is_printed(printed):
    scores = printed.scores
    for key, values in {
        "brdnet_ssim": [0.836, 0.843],
        "dl_ssim": [0.391, 0.875],
        "dsrir_rain_ssim": [0.9895, 0.9183, 0.99],
        "dcpt_chart": [26.23],
    }.items():
        assert list(scores[scores["flags"].str.contains(f"error:{key}")]["value"]) == values


def test_the_known_errors_in_the_docs_are_those_of_the_file(printed):
    text = " ".join((ROOT / "docs" / "published.md").read_text(encoding="utf-8").split())
    rows = [f"| `{key}` | {e.where} | {e.printed} | {e.right} | {e.found} |" for key, e in printed.known.errors.items()]
    assert [row for row in rows if row not in text] == []
    assert len(re.findall(r"\| `\w+` \| [A-Z]", text)) == len(rows)


def test_numbers_lie_where_their_metric_can(printed):
    kinds = printed.scores.groupby(printed.scores["metric"].str.split("_").str[0])["value"]
    assert kinds.min()["psnr"] > 13 and kinds.max()["psnr"] < 43
    assert kinds.min()["ssim"] > 0.3 and kinds.max()["ssim"] < 1


def test_the_numbers_of_dcpt_name_tests_of_its_overlay_and_their_sets(printed):
    dcpt = printed.scores[(printed.scores["paper"] == "DCPT") & (printed.scores["dataset"] != AVERAGE)]
    project = load_project(shipped("dcpt.yaml"))
    known = {(test.pairs.split(".")[0], test.degradation, test.level) for test in project.tests.values()}
    assert set(dcpt[PLACE].itertuples(index=False, name=None)) <= known
    assert set(dcpt[dcpt["setting"] == "allinone10"]["protocol"]) == {"unknown"}
    tested = {name for plan in project.methods.values() for name in plan.settings}
    for setting in ("allinone5", "allinone10", "cdd11"):
        assert f"nafnet_{printed.known.settings[setting].tasks}" in tested


def test_the_mean_gains_of_dcpt_are_those_of_its_abstract(printed):
    psnr = printed.scores[(printed.scores["metric"] == "psnr") & (printed.scores["paper"] == "DCPT")]
    mean = psnr[psnr["dataset"] != AVERAGE].groupby(["setting", "method"])["value"].mean()
    assert mean["cdd11", "DCPT-NAFNet"] - mean["cdd11", "NAFNet"] == pytest.approx(6.53, abs=0.01)
    assert mean["allinone10", "DCPT-NAFNet"] - mean["allinone10", "NAFNet"] == pytest.approx(2.55, abs=0.01)
    assert mean["allinone5", "DCPT-Restormer"] == pytest.approx(30.04, abs=0.01)


# Bad input


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("A paper", "", "x.csv: line 2: names no paper; every printed number needs its source"),
        ("Table 1", "", "x.csv: line 2: names no table"),
        (",dcpt,", ",,", "x.csv: line 2: names no protocol"),
        ("31.02", "31,02", "x.csv: line 2: expected 13 cells; put texts with commas in quotes"),
        ("31.02", "31.02 dB", "x.csv: line 2: value '31.02 dB' is not a number"),
        ("31.02", "nan", "x.csv: line 2: value 'nan' is not a number"),
        ("primary", "", "line 2: flags ''; the first must say where the number comes from: primary, quoted"),
        ("primary", "primary typo", "line 2: unknown flag 'typo'; expected plot, rounded or error:<key"),
        ("primary", "primary error:brd", "line 2: unknown error 'brd'; Valid: other. Or add it to errors.yaml"),
        ("allinone5", "allinone6", "line 2: unknown setting 'allinone6'; did you mean 'allinone5'?"),
        ("A paper", "C paper", "line 2: unknown paper 'C paper'; did you mean 'A paper'?"),
        ("method,", "name,", "x.csv: expected columns method,backbone,setting,dataset"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_by_file_and_line(tmp_path, old, new, message):
    path = tmp_path / "x.csv"
    path.write_text((",".join(SCORES.columns) + "\n" + ROW + "\n").replace(old, new, 1))
    error = {"where": "a", "printed": "b", "right": "c", "found": "d"}
    known = Known.model_validate(
        {"settings": {"allinone5": {"about": "x"}}, "papers": {"A paper": "x"}, "errors": {"other": error}}
    )
    with pytest.raises(AirpipeError, match=re.escape(message)):
        read_published([path], known=known)


def test_a_mistyped_key_of_what_is_known_is_told(tmp_path):
    (tmp_path / "datasets.yaml").write_text("cbsd68: {image: 68}")
    with pytest.raises(AirpipeError, match="unknown setting 'image'; did you mean 'images'"):
        read_all([tmp_path / "datasets.yaml"])


# Matching


@pytest.mark.parametrize(
    ("model", "network", "expected"),
    [
        ("dcpt/nafnet_5d", "nafnet", "DCPT-NAFNet"),
        ("dcpt/nafnet_5d_masked", "nafnet", None),
        ("dcpt/nafnet_5d_direct", "nafnet", None),
        ("dcpt/nafnet_5d_probe", "nafnet", None),
        ("dcpt/nafnet_10d", "nafnet", None),
        ("dcpt/mine_5d", "nafnet", None),
        ("dcpt/restormer_5d", "restormer_dcpt", "DCPT-Restormer"),
        ("dcpt/restormer_std_5d", "restormer", None),
        ("dcpt/restormer_5d", "restormer", None),
        ("dcpt/swinir_5d", "swinir_dcpt", "DCPT-SwinIR"),
        ("baseline/nafnet_5d", "nafnet", "NAFNet"),
        ("baseline/nafnet_5d@s", "nafnet", None),
        ("baseline/nafnet_5d_short", "nafnet", None),
        ("baseline/restormer_std_5d", "restormer", "Restormer"),
        ("baseline/restormer_5d", "restormer_dcpt", None),
    ],
)
def test_a_printed_number_belongs_to_one_method_network_and_setting(printed, model, network, expected):
    method, setting = model.removesuffix("@s").split("/")
    row = {"method": method, "backbone": network, "setting": setting, "model": model}
    names = ("NAFNet", "DCPT-NAFNet", "Restormer", "DCPT-Restormer", "DCPT-SwinIR")
    rows = [{"method": n, "backbone": n.split("-")[-1].lower(), "setting": "allinone5"} for n in names]
    assert [each["method"] for each in rows if same_model(row, each, printed.known)] == [expected] * bool(expected)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("dynet/dynet_3d/train@s", "DyNet-S"),
        ("dynet/dynet_3d/train@l", "DyNet-L"),
        ("dynet/dynet_3d/train@m", None),
        ("dynet/dynet_3d/train", None),
        ("dynet/dynet_3d_scratch/train@s", None),
        ("dynet/dynet_5d/train@s", None),
    ],
)
def test_a_printed_number_of_a_variant_belongs_to_it_alone(printed, model, expected):
    row = {"method": "dynet", "backbone": "dynet", "setting": model.split("/")[1], "model": model}
    rows = records(printed.scores[printed.scores["backbone"] == "dynet"])
    assert {each["method"] for each in rows if same_model(row, each, printed.known)} == ({expected} - {None})


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("all_in_one", {"allinone3"}),
        ("noise", {"single_denoise"}),
        ("rain", {"single_rain"}),
        ("haze", {"single_haze"}),
        ("noise_25", set()),
    ],
)
def test_a_printed_number_of_a_mode_belongs_to_the_setting_of_its_name(printed, mode, expected):
    row = {"method": "dsrir", "backbone": "dsrir", "setting": mode, "model": f"dsrir/{mode}/train"}
    found = [each for each in records(printed.scores) if same_model(row, each, printed.known)]
    assert {(each["method"], each["setting"]) for each in found} == {("DSRIR", setting) for setting in expected}


def test_variants_stand_beside_their_printed_numbers_with_the_card_that_they_share(printed):
    place = {"dataset": "rain100l", "degradation": "rain", "level": "light", "protocol": "promptir", "metric": "psnr"}
    model = {"method": "dynet", "backbone": "dynet", "setting": "dynet_3d", "n_images": 100, "scale": "paper"}
    values = {"dynet/dynet_3d/train@s": 38.0, "dynet/dynet_3d/train@l": 38.5}
    ours = pd.DataFrame([model | place | {"model": name, "value": value} for name, value in values.items()])
    trained_on = [{"id": f"{name}.train"} for name in printed.known.settings["allinone3"].trained_on]
    frame = published_frame(printed, ours, {"dynet/dynet_3d/train": {"pairs": trained_on}})
    beside = frame[frame["ours"].notna() & (frame["paper"] == "DyNet")].set_index("method")
    assert beside["model"].to_dict() == {f"DyNet-{name[-1].upper()}": name for name in values}
    assert beside["gap"].to_dict() == pytest.approx({"DyNet-S": 38.0 - 38.11, "DyNet-L": 38.5 - 38.71})
    assert set(beside["comparable"]) == {"yes"}


def test_a_number_is_comparable_only_when_scale_images_and_training_data_match(printed):
    row = {"scale": "paper", "dataset": "cbsd68", "n_images": 68}
    card = {"pairs": [{"id": f"{name}.train"} for name in ("bsd400", "wed", "rain100l", "reside_ots")]}
    three, five, known = {"setting": "allinone3"}, {"setting": "allinone5"}, printed.known
    assert differences(row, card, three, known) == []
    assert differences(row, card, five, known) == ["other training data"]
    assert differences(row | {"n_images": 5, "scale": "demo"}, card, three, known) == [
        "demo scale",
        "5 images instead of 68",
    ]
    other = {"id": "kodak24.test", "sha256": "0" * 64}
    for use, expected in (("validation", []), ("train", ["other training data"])):
        assert differences(row, {"pairs": [*card["pairs"], other | {"use": use}]}, three, known) == expected
    assert differences(row, {"pairs": [*card["pairs"], other]}, three, known) == ["other training data"]


def test_rows_of_unknown_protocol_are_listed_beside_others_of_their_paper_only(printed):
    ours = [{"dataset": "cbsd68", "degradation": "noise", "level": "25", "protocol": "dcpt", "metric": "psnr"}]
    rows = reference_rows(ours, printed, "paper")
    assert {row["source"].split(",")[0] for row in rows} == {"DCPT"}
    assert {row["comparable"] for row in rows if row["protocol"] == "unknown"} == {"no"}
    assert {row["comparable"] for row in rows if row["protocol"] == "dcpt"} == {"yes"}


# Averages


def test_averages_are_means_of_the_printed_columns_and_wrong_ones_carry_an_error(printed):
    found = recomputed_averages(printed.scores)
    assert len(found) == 286 and found["columns"].min() == 5 and found["columns"].max() == 10
    keys = ["paper", "table", "setting", "method", "metric"]
    averages = printed.scores[printed.scores["dataset"] == AVERAGE]
    flagged = averages[averages["flags"].str.contains("_ssim|average", regex=True)]
    wrong = set(found[found["wrong"]][keys].itertuples(index=False, name=None))
    assert len(wrong) == 18
    shown = set(flagged[keys].itertuples(index=False, name=None))
    assert wrong <= shown and shown - wrong == {("DSRIR", "Table 4", "allinone3", "DSRIR", "ssim")}
    brdnet = found[(found["paper"] == "PromptIR") & (found["method"] == "BRDNet")].set_index("metric")["mean"]
    assert brdnet["ssim"] == pytest.approx(0.872) and brdnet["psnr"] == pytest.approx(27.802)


@pytest.mark.parametrize(("average", "wrong"), [(30.0, False), (30.01, False), (30.02, True), (29.98, True)])
def test_an_average_may_be_off_by_rounding_only(average, wrong):
    common = {"paper": "A", "table": "1", "setting": "s", "method": "M", "metric": "psnr"}
    values = [("a", 29.91), ("b", 30.09), (AVERAGE, average)]
    found = recomputed_averages(pd.DataFrame([common | {"dataset": name, "value": value} for name, value in values]))
    assert list(found["wrong"]) == [wrong] and found["mean"][0] == pytest.approx(30.0)


# All tables beside ours


def test_every_printed_number_has_ours_or_not_run_and_a_reason(printed):
    five = [
        ("sots_outdoor", "haze", "", 28.0, 500),
        ("rain100l", "rain", "light", 35.0, 100),
        ("cbsd68", "noise", "25", 31.0, 68),
        ("gopro", "motion_blur", "", 29.0, 1111),
        ("lol_v1", "low_light", "", 22.0, 3),
    ]
    model = {"method": "dcpt", "backbone": "nafnet", "setting": "nafnet_5d", "model": "dcpt/nafnet_5d/finetune"}
    rows = [
        model | dict(zip((*PLACE, "value", "n_images"), each, strict=True)) | {"protocol": p, "metric": "psnr"}
        for each in five
        for p in ("dcpt", "airpipe")
    ]
    data = printed.known.settings["allinone5"].trained_on
    cards = {model["model"]: {"pairs": [{"id": f"{name}.train"} for name in data]}}
    frame = published_frame(printed, pd.DataFrame(rows).assign(scale="paper"), cards)
    assert tuple(frame.columns) == FRAME_COLUMNS and len(frame) == len(printed.scores)
    assert (frame["reason"].eq("not run") == frame["ours"].isna()).all()
    beside = frame[frame["ours"].notna() & (frame["paper"] == "DCPT")].set_index("dataset")
    assert list(beside["method"].unique()) == ["DCPT-NAFNet"] and len(beside) == 6
    assert beside.loc["cbsd68", ["gap", "comparable", "reason"]].tolist() == [pytest.approx(31.0 - 31.31), "yes", ""]
    assert beside.loc["lol_v1", ["comparable", "reason"]].tolist() == ["no", "3 images instead of 15"]
    assert beside.loc[AVERAGE, "ours"] == pytest.approx(29.0)
    assert beside.loc[AVERAGE, "gap"] == pytest.approx(29.0 - 29.84)
    assert beside.loc[AVERAGE, "comparable"] == "no"
    table = build_published(frame, printed.known)
    block = next(block for block in table.blocks if block.title == "DCPT, README 5D table, allinone5: psnr / ssim")
    lines = {line.label: line for line in block.lines}
    assert len(lines) == 12 and block.head[-2:] == (AVERAGE, "ours")
    assert lines["DCPT-NAFNet"].cells[0].parts[0].text == "29.47*"  # the released settings train on more
    assert lines["dcpt/nafnet_5d/finetune"].cells[5].parts[0].text == "29.00"
    gap = lines["dcpt/nafnet_5d/finetune: gap"].cells
    assert (gap[2].parts[0].text, gap[2].about, gap[6].parts[0].text) == ("-0.31", ("comparable",), "not comparable")
    assert lines["AirNet"].cells[6].parts[0].text == "not run"
    other = frame[frame["ours"].notna() & (frame["paper"] == "MaskDCPT") & (frame["table"] == "Table I")]
    assert set(other["ours_protocol"]) == {"airpipe"} and other["reason"].str.contains("its protocol is unknown").all()


def test_without_a_model_of_ours_nothing_is_comparable_and_wrong_averages_show_their_mean(printed):
    ours = pd.DataFrame(columns=["method", "backbone", "setting", "model", "scale", *PLACE, "protocol", "metric"])
    frame = published_frame(printed, ours, {})
    assert set(frame["comparable"]) == {"no"} and set(frame["reason"]) == {"not run"}
    assert frame["recomputed"].notna().sum() == 18
    tur = frame[(frame["method"] == "TUR-AirNet") & frame["recomputed"].notna()].iloc[0]
    assert (tur["published"], round(tur["recomputed"], 2)) == (32.5, 33.1)
    assert math.isnan(tur["ours"])
    text = markdown(build_published(frame, printed.known))
    assert "32.50\\* \\[33.100] / 0.914" in text and text.count("\n## ") == 58


def test_files_of_scores_are_told_from_others_by_their_names():
    names = {Path(path).stem for path in PATHS if path.suffix == ".csv"}
    assert len(read_published(FOLDER / f"{name}.csv" for name in names)) == 2896
