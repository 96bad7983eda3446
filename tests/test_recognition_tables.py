"""Tables and figures of the recognition tests say what their results say."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from airpipe.errors import AirpipeError
from airpipe.reporting.builders.recognition import (
    COLUMNS,
    RESTORATION_COLUMNS,
    Story,
    recognition_table,
    restoration_table,
    row_label,
    variant_of,
)
from airpipe.reporting.figures.charts import draw_top1
from airpipe.reporting.figures.pictures import draw_pictures, read_pictures
from airpipe.reporting.table import read_frame, read_table, write_table
from benchmarks import vrdir_bounds

TESTS = {"clean": ("clean", ""), "haze": ("haze", ""), "noise25": ("noise", "25"), "rain": ("rain", "")}
TOP1 = {  # of recogniser b; a has 5 more
    "none": (96, 58, 49, 33),
    "vrdir/airpipe/seed0/ise": (88, 67, 73, 55),
    "vrdir/airpipe/seed0/sad": (89, 44, 69, 47),
    "vrdir/airpipe/seed0/dnc_haze": (70, 65, 40, 20),
    "vrdir/airpipe/seed0/dnc_noise": (80, 50, 74, 30),
    "vrdir/airpipe/seed0/dnc_rain": (80, 40, 30, 56),
    "baseline/nafnet_5d/seed0/train": (95, 50, 60, 40),
}
STORY = Story("demo", list(TESTS), ["b", "a"], {"vrdir/airpipe": "Haze, noise and rain"})


def result(model, seed=0, shift=0.0, retrieval=False):
    """What scripts/recognise.py writes."""
    tests = {}
    for (name, (degradation, level)), top1 in zip(TESTS.items(), TOP1[model], strict=True):
        scores = {
            key: {"classification": {"top1": top1 + extra + shift, "chance": 12.5}}
            for key, extra in (("b", 0), ("a", 5))
        }
        if retrieval:
            ranks = {"rank1": 40.0, "rank5": 50, "rank10": 60, "map": 30.0, "chance_rank1": 12.0, "chance_map": 13.0}
            scores["b"]["retrieval"] = {**ranks, "queries": 590, "without_match": 10, "gallery": 600}
        psnr = None if model == "none" and degradation == "clean" else top1 / 4 + shift
        before = None if degradation == "clean" else 10.0
        tests[name] = {
            "pairs": f"shapes{seed}.test",
            "dataset": "shapes",
            "degradation": degradation,
            "level": level,
            "images": 600,
            "restoration": {"psnr_in": before, "ssim_in": 0.5, "psnr": psnr, "ssim": 0.8},
            "recognition": scores,
        }
    shared = {"b": 0, "a": 5000 if model.startswith("vrdir") else 0}
    recognisers = {name: {"id": name, **({} if model == "none" else {"shared_values": shared[name]})} for name in "ba"}
    return {"model": model.replace("seed0", f"seed{seed}"), "seed": seed, "recognisers": recognisers, "tests": tests}


def results(**options):
    return [result(model, **options) for model in TOP1]


def value(table, **where):
    rows = table
    for key, wanted in where.items():
        rows = rows[rows[key] == wanted]
    assert len(rows) == 1
    return rows.iloc[0]


# Long tables


def test_variants_say_what_recognisers_saw():
    assert [variant_of("none", d) for d in ("clean", "haze")] == ["clean", "degraded"]
    assert [variant_of("vrdir/airpipe/ise", d) for d in ("clean", "haze")] == ["restored_clean", "restored"]
    assert [variant_of("vrdir/airpipe/sad", d) for d in ("clean", "haze")] == ["decoder_clean", "decoder_only"]
    assert [variant_of("vrdir/airpipe/dnc_haze", d) for d in ("clean", "haze")] == [None, "branch_haze"]
    assert variant_of("imported/mine", "haze") == "restored"


def test_every_number_stands_in_the_long_table_with_its_chance_and_count():
    table = recognition_table(results(), STORY).frame
    assert list(table.columns) == list(COLUMNS)
    # per recogniser: 4 tests of none, ise, sad and baseline; one of each branch
    assert len(table) == 2 * (4 * 4 + 3)
    assert list(dict.fromkeys(table["recogniser"])) == ["b", "a"]
    row = value(table, recogniser="b", variant="branch_noise")
    assert (row["value"], row["degradation"], row["level"], row["model"]) == (
        74,
        "noise",
        "25",
        "vrdir/airpipe/dnc_noise",
    )
    assert (row["chance"], row["n_images"], row["seeds"], row["dataset"]) == (12.5, 600, 1, "shapes")
    assert math.isnan(row["sd"])
    assert value(table, recogniser="a", variant="clean")["value"] == 101


def test_recovery_is_the_share_of_the_loss_that_comes_back():
    table = recognition_table(results(), STORY).frame
    restored = value(table, recogniser="b", variant="restored", degradation="haze", model="vrdir/airpipe/ise")
    assert restored["recovery"] == pytest.approx((67 - 58) / (96 - 58))
    worse = value(table, recogniser="b", variant="decoder_only", degradation="haze")
    assert worse["recovery"] == pytest.approx((44 - 58) / (96 - 58))
    for variant in ("clean", "degraded", "restored_clean", "decoder_clean"):
        assert table.loc[table["variant"] == variant, "recovery"].isna().all()
    without_clean = Story("demo", ["haze", "rain"], ["b"])
    assert recognition_table(results(), without_clean).frame["recovery"].isna().all()


def test_seeds_are_averaged_with_their_spread():
    fresh = [result(model, seed, shift) for model in TOP1 for seed, shift in ((1, -2), (2, 0), (3, 2))]
    table = recognition_table(fresh, STORY).frame
    row = value(table, recogniser="b", variant="restored", degradation="rain", model="vrdir/airpipe/ise")
    assert (row["value"], row["sd"], row["seeds"]) == (55, pytest.approx(2), 3)
    restoration = restoration_table(fresh, STORY).frame
    row = value(restoration, variant="restored", degradation="rain", model="vrdir/airpipe/ise")
    assert (row["psnr"], row["sd"], row["seeds"]) == (pytest.approx(55 / 4), pytest.approx(2), 3)
    assert value(restoration, variant="clean")["psnr"] == math.inf


def test_seeds_with_other_numbers_of_images_stay_one_row_with_the_fewest():
    fresh = [result(model, seed) for model in TOP1 for seed in (1, 2)]
    for one in fresh:
        for facts in one["tests"].values():
            facts["images"] = 600 if one["seed"] == 1 else 590
    row = value(recognition_table(fresh, STORY).frame, recogniser="b", variant="branch_rain")
    assert (row["n_images"], row["seeds"]) == (590, 2)
    row = value(restoration_table(fresh, STORY).frame, variant="branch_rain")
    assert (row["n"], row["seeds"]) == (590, 2)
    notes = restoration_table(fresh, STORY).notes
    assert "±: standard deviation over 2 seeds; n: images of the seed that has the fewest." in notes


def test_retrieval_has_rows_of_its_own():
    table = recognition_table(results(retrieval=True), STORY)
    row = value(table.frame, metric="map", variant="degraded", degradation="haze")
    assert (row["task"], row["value"], row["chance"], row["n_images"]) == ("retrieval", 30, 13, 590)
    assert [(block.title, block.facts["task"]) for block in table.blocks] == [
        ("Recogniser b, top-1 (%, chance 12.5)", "classification"),
        ("Recogniser b, Rank-1 (%, chance 12.0)", "retrieval"),
        ("Recogniser b, mAP (%, chance 13.0)", "retrieval"),
        ("Recogniser a, top-1 (%, chance 12.5)", "classification"),
    ]


def test_a_result_without_a_test_is_told():
    with pytest.raises(AirpipeError, match="recognition of none: no test snow in its result; run it again"):
        recognition_table(results(), Story("demo", ["snow"], ["b"]))
    with pytest.raises(AirpipeError, match="no recogniser c in test clean; run it again"):
        recognition_table(results(), Story("demo", ["clean"], ["c"]))


@pytest.mark.parametrize("build", [recognition_table, restoration_table])
def test_a_table_without_results_is_told_and_not_written(tmp_path, build):
    with pytest.raises(AirpipeError, match=r"table \w+ has no lines; nothing was written"):
        write_table(build([], STORY), tmp_path)
    assert not list(tmp_path.iterdir())


def test_detections_stand_beside_the_recognisers(tmp_path):
    box = [10, 10, 10, 10]
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": box}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    for name, found in (("clean", box), ("degraded", [50, 50, 5, 5]), ("restored", [10, 10, 10, 6])):
        said = [{"image_id": 1, "category_id": 1, "bbox": found, "score": 1}]
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
    files = {name: str(tmp_path / f"{name}.json") for name in ("clean", "degraded", "restored")}
    entry = {"annotations": str(tmp_path / "truth.json"), "detections": files, "recogniser": "", "degradation": "haze"}
    table = recognition_table(results(), Story("demo", list(TESTS), ["b"], {}, {"voc": {**entry, "level": ""}}))
    detected = table.frame[table.frame["task"] == "detection"]
    by = {(row["variant"], row["metric"]): row for row in detected.to_dict("records")}
    assert [by[v, "AP"]["value"] for v in files] == [100, 0, pytest.approx(30)]
    assert by["restored", "AP50"]["recovery"] == 1 and by["restored", "AP"]["recovery"] == pytest.approx(0.3)
    block = table.blocks[-1]
    assert (block.title, block.head) == ("Detections, detector voc haze (%)", ("variant", "AP", "AP50", "AP75"))
    assert shown(block) == [["clean", "100.0", "100.0", "100.0"], ["degraded", "0.0", "0.0", "*0.0"],
                            ["restored", "*30.0", "*100.0", "*0.0"]]  # fmt: skip
    assert len(detected) == 9 and detected["recovery"].notna().sum() == 3


# For readers


def shown(block):
    """Texts of a block: a star before the best, a sign behind what is worse than without restoration."""
    signs = {"": "{}", "best": "*{}", "worse": "{} ↓"}
    return [
        [line.label, *(" / ".join(signs[part.mark].format(part.text) for part in cell.parts) for cell in line.cells)]
        for line in block.lines
    ]


def test_rows_are_enhancers_columns_are_tests_and_the_best_and_losses_are_marked():
    block = recognition_table(results(), STORY).blocks[0]
    assert block.head == ("input of the recogniser", "clean", "haze", "noise 25", "rain")
    assert shown(block) == [
        ["no restoration", "*96.0", "58.0", "49.0", "33.0"],
        ["vrdir/airpipe", "88.0 ↓", "*67.0", "*73.0", "*55.0"],
        ["vrdir/airpipe, decoder only", "89.0 ↓", "44.0 ↓", "69.0", "47.0"],
        ["vrdir/airpipe, own branch", "", "65.0", "74.0", "56.0"],  # an oracle: never the best
        ["baseline/nafnet_5d", "95.0 ↓", "50.0 ↓", "60.0", "40.0"],
    ]
    block = restoration_table(results(), STORY).blocks[0]
    assert shown(block)[:2] == [
        ["no restoration", "*∞ / *0.800", "14.50 / *0.800", "12.25 / *0.800", "8.25 / *0.800"],
        ["vrdir/airpipe", "22.00 ↓ / *0.800", "*16.75 / *0.800", "*18.25 / *0.800", "*13.75 / *0.800"],
    ]


def test_lines_say_what_they_are_and_cells_where_their_numbers_come_from():
    fresh = [result(model, seed) for model in TOP1 for seed in (1, 2)]
    tables = ((recognition_table(fresh, STORY), ["recogniser b"]), (restoration_table(fresh, STORY), []))
    for table, judges in tables:
        none, first, *_ = table.blocks[0].lines
        assert (none.kind, none.facts, first.kind, first.facts) == ("none", {}, "ours", {"method": "vrdir"})
        assert first.cells[1].about == (
            "model vrdir/airpipe/seed1/ise",
            "model vrdir/airpipe/seed2/ise",
            *judges,
            "600 images of shapes1.test, shapes2.test",
        )


def test_stages_of_one_setting_keep_their_names_apart():
    models = ["dcpt/nafnet_5d/pretrain", "dcpt/nafnet_5d/finetune"]
    assert row_label(models[0], models) == models[0]
    assert row_label("imported/mine", [*models, "imported/other"]) == "imported/mine"
    assert row_label("vrdir/airpipe/ise", ["vrdir/airpipe/ise", "vrdir/airpipe/sad"]) == "vrdir/airpipe"


def write(folder, found, story=STORY):
    for table in (recognition_table(found, story), restoration_table(found, story)):
        write_table(table, folder)


def test_files_hold_the_same_numbers_and_the_notes_say_how_far_to_trust_them(tmp_path):
    write(tmp_path, results())
    table = read_frame(tmp_path / "recognition.csv")
    pd.testing.assert_frame_equal(
        table, recognition_table(results(), STORY).frame, check_dtype=False, check_exact=False, rtol=1e-12
    )
    assert list(read_frame(tmp_path / "restoration.csv").columns) == list(RESTORATION_COLUMNS)
    notes = read_table(tmp_path / "recognition.json").notes
    assert "demo scale: not comparable with published numbers." in notes
    assert "One seed (0); of 600 images a share has a standard error of up to 2.0 points." in notes
    assert (
        "Recogniser a shares its front with vrdir/airpipe (5,000 weights): it is no independent check of them." in notes
    )
    assert not any(note.startswith("Recogniser b") for note in notes)
    assert "vrdir/airpipe: Haze, noise and rain." in notes
    text = (tmp_path / "restoration.md").read_text()
    assert "| no restoration | **∞** / **0.800** | 14.50 / **0.800** | 12.25 / **0.800** |" in text
    assert "own branch & -- & 65.0" in (tmp_path / "recognition.tex").read_text()
    assert "95.0 $\\downarrow$ & 50.0" in (tmp_path / "recognition.tex").read_text()


def test_fresh_seeds_are_named_with_their_spread(tmp_path):
    fresh = [result(model, seed, shift) for model in TOP1 for seed, shift in ((1, -2), (2, 0), (3, 2))]
    write(tmp_path, fresh)
    text = (tmp_path / "recognition.md").read_text()
    assert "±: standard deviation over 3 seeds (1, 2, 3); of 600 images" in text
    assert "| vrdir/airpipe | 88.0 ± 2.0 ↓ | **67.0 ± 2.0** |" in text


# Figures


def kept(folder, model, maps):
    """Pictures as scripts/recognise.py keeps them."""
    generator = np.random.default_rng(0)
    arrays = {}
    for test in TESTS:
        for kind in ("degraded", "restored", "clean"):
            arrays[f"{test}.0.{kind}"] = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        if maps:
            weights = generator.random((maps, 16, 16))
            arrays[f"{test}.0.guidance"] = (weights / weights.sum(0)).astype(np.float16)
    path = folder / f"{model.replace('/', '_')}.npz"
    np.savez_compressed(path, **arrays)
    return path


def test_bars_show_every_enhancer_and_come_out_the_same_again(tmp_path):
    write(tmp_path, results())
    table = read_frame(tmp_path / "recognition.csv")
    for name in ("one", "two"):
        draw_top1(table, "b", tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    width, height = Image.open(tmp_path / "one.png").size
    assert 800 < width < 2000 and 400 < height < 1200


def test_bars_over_seeds_have_whiskers(tmp_path):
    fresh = [result(model, seed, shift) for model in TOP1 for seed, shift in ((1, -2), (2, 2))]
    draw_top1(recognition_table(fresh, STORY).frame, "b", tmp_path / "seeds.png")
    draw_top1(recognition_table(results(), STORY).frame, "b", tmp_path / "one.png")
    assert (tmp_path / "seeds.png").read_bytes() != (tmp_path / "one.png").read_bytes()


def test_pictures_are_those_of_the_first_enhancer_with_guidance_maps(tmp_path):
    models = ["none", "baseline/nafnet_5d/seed0/train", "vrdir/airpipe/seed0/ise"]
    files = [kept(tmp_path, model, 3 if "vrdir" in model else 0) for model in models]
    model, rows = read_pictures([result(name) for name in models], files, list(TESTS))
    assert model == models[-1]
    assert [row.title for row in rows] == ["clean", "haze", "noise 25", "rain"]
    assert rows[0].maps.shape == (3, 16, 16)
    draw_pictures(model, rows, ["haze", "noise", "rain"], tmp_path / "maps.png")
    plain, plain_rows = read_pictures([result(name) for name in models[:2]], files[:2], list(TESTS))
    draw_pictures(plain, plain_rows, [], tmp_path / "plain.png")
    assert plain == models[1]
    assert Image.open(tmp_path / "maps.png").size[0] > 1.5 * Image.open(tmp_path / "plain.png").size[0]


# Bounds


ISE = "vrdir/airpipe/seed0/ise"
LEVELS = Story("demo", [*TESTS, "noise15", "noise50"], ["b", "a"])


def of_seed(seed):
    """Results in which all bounds hold, with all three levels of noise."""
    found = {model: result(model, seed) for model in TOP1}
    for one in found.values():
        one["tests"]["clean"]["restoration"]["psnr"] = 27.4
        for level in ("15", "50"):
            one["tests"][f"noise{level}"] = one["tests"]["noise25"] | {"level": level}
    for test, psnr in (("haze", 16.3), ("noise25", 23.9), ("rain", 21.9)):
        scores = found[ISE]["tests"][test]["restoration"]
        found[ISE]["tests"][test] = found[ISE]["tests"][test] | {"restoration": {**scores, "psnr": psnr}}
    return found


def fresh(seeds=(1, 2, 3)):
    return [of_seed(seed) for seed in seeds]


def checked(folder, capsys, seeds, *options):
    write(folder, [one for found in seeds for one in found.values()], LEVELS)
    arguments = [str(folder / "recognition.csv"), str(folder / "restoration.csv"), *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["vrdir_bounds", *arguments])
        status = vrdir_bounds.main()
    return status, capsys.readouterr().out


def missed(text):
    return [line.split("  ")[0] for line in text.splitlines() if line.endswith("MISSED")]


def test_bounds_of_the_demo_are_printed_and_a_miss_fails(tmp_path, capsys):
    found = fresh()
    status, text = checked(tmp_path, capsys, found)
    assert status == 0 and "14 of 14 bounds hold, 3 seeds" in text and "warning" not in text
    assert "PSNR gain, haze                                  6.30" in text
    assert "top-1 against the own branch, noise 50          -1.00" in text
    assert "top-1 against the own branch, rain              -1.00" in text
    assert "top-1 of clean images that are restored         -8.00" in text
    for one in found:
        one[ISE]["tests"]["haze"]["recognition"]["b"]["classification"]["top1"] = 60.0
    status, text = checked(tmp_path, capsys, found)
    assert status == 1
    assert missed(text) == ["top-1 gain, haze", "top-1 against the own branch, haze"]


def test_fewer_than_three_seeds_of_any_row_miss_a_bound(tmp_path, capsys):
    found = fresh()
    del found[1]["vrdir/airpipe/seed0/dnc_rain"]
    status, text = checked(tmp_path, capsys, found)
    assert status == 1 and missed(text) == ["fresh seeds"]
    assert "13 of 14 bounds hold, 2 seeds" in text and "warning: 2 seeds say little; make 3 or more" in text
    del found[2]["baseline/nafnet_5d/seed0/train"]  # another model has no say
    found[1] = of_seed(2)
    assert checked(tmp_path, capsys, found)[0] == 0


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("vrdir/airpipe/seed0/sad", "0 rows with variant 'decoder_clean'.*Make the tables: snakemake vrdir_seeds"),
        ("vrdir/airpipe/seed0/dnc_haze", "0 rows with variant 'branch_haze', degradation 'haze'"),
        ("vrdir/airpipe/seed0/dnc_noise", "0 rows with variant 'branch_noise', degradation 'noise', level '15'"),
    ],
)
def test_tables_without_the_rows_of_a_bound_are_told(absent, message, tmp_path, capsys):
    found = fresh()
    for one in found:
        del one[absent]
    with pytest.raises(AirpipeError, match=message):
        checked(tmp_path, capsys, found)


def test_bounds_of_a_model_that_is_not_there_are_told(tmp_path, capsys):
    with pytest.raises(AirpipeError, match="0 rows with .* model 'vrdir/other/sad'"):
        checked(tmp_path, capsys, fresh(), "--model", "vrdir/other")
