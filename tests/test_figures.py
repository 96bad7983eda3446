"""Figures show what tables and score files say, and stay readable however many models there are."""

import json
import math
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from airpipe.errors import AirpipeError
from airpipe.reporting import scenes
from airpipe.reporting.figures import charts, pictures
from airpipe.settings.scoring import ReportSettings

MODELS = {"one/net_5d/train": 25.0, "two/net_5d/train": 21.0, "three/net_5d/train": 29.0, "four/net_5d/train": 23.0}
REPORT = ReportSettings(zoom=16).model_dump(mode="json")


def frame(models=MODELS, places=("noise", "rain"), average=False) -> pd.DataFrame:
    rows = [
        {"model": model, "dataset": "photos", "degradation": place, "level": "", "protocol": protocol}
        | {"metric": metric, "value": value, "low": value - 1, "high": value + 1}
        for protocol in ("airpipe", "other")
        for model, psnr in models.items()
        for place in places
        for metric, value in (("psnr", psnr), ("psnr_gain", psnr - 20))
    ]
    mean = [row | {"dataset": "", "degradation": "average"} for row in rows if row["degradation"] == places[0]]
    return pd.DataFrame(rows + (mean if average else []))


def test_equal_numbers_give_equal_figures_without_dates(tmp_path):
    for name in ("one", "two"):
        charts.draw_bars(frame(), "airpipe", tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert not {"Software", "Creation Time"} & set(image.info)


def test_bars_show_intervals_where_there_are_some(tmp_path):
    charts.draw_bars(frame(), "airpipe", tmp_path / "with.png")
    charts.draw_bars(frame().assign(low=math.nan), "airpipe", tmp_path / "without.png")
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()


def test_many_models_and_tests_make_more_rows_of_bars_and_no_wider_figure(tmp_path):
    many = {f"m{k}/net_5d/train": 20.0 + k for k in range(20)}
    charts.draw_bars(frame(many, [f"d{k}" for k in range(13)]), "airpipe", tmp_path / "many.png")
    width, height = Image.open(tmp_path / "many.png").size
    assert width <= charts.WIDEST * charts.DPI and height > 6 * 3.6 * charts.DPI


def test_a_table_without_psnr_has_no_bars(tmp_path):
    with pytest.raises(AirpipeError, match=r"bars.png: the table has no PSNR to draw"):
        charts.draw_bars(frame().assign(metric="ssim"), "airpipe", tmp_path / "bars.png")


@pytest.mark.parametrize("average", [False, True])
def test_costs_draw_a_point_per_model_at_its_mean_over_seeds(tmp_path, monkeypatch, average):
    ids = [model.replace("/train", f"/seed{seed}/train") for model in MODELS for seed in (0, 1)]
    costs = pd.DataFrame({"model": ids, "parameters": [1e6, 3e6] * 4, "macs": [2e9, 4e9] * 4, "input": "1x3x256x256"})
    found = []
    monkeypatch.setattr(charts, "_costs", lambda axis, points, name: found.append(points))
    charts.draw_costs(frame({"none": 20.0, **MODELS}, average=average), costs, "airpipe", tmp_path / "costs.png")
    one = found[0].loc["one/net_5d/train"]
    assert (one["value"], one["parameters"], one["macs"]) == (25.0, 2.0, 3.0)
    assert math.isnan(found[0].loc["none", "macs"])
    assert bool(one["low"] == 24.0) is average  # an average has an interval of its own


def test_costs_are_drawn_also_where_some_are_unknown(tmp_path):
    costs = pd.DataFrame({"model": list(MODELS), "parameters": ["1e6", "", "", "2e6"], "macs": "", "input": "x"})
    charts.draw_costs(frame(), costs, "airpipe", tmp_path / "costs.png")
    assert Image.open(tmp_path / "costs.png").size[0] == 10 * charts.DPI


def test_models_in_pictures_are_the_named_the_best_the_median_and_the_first():
    psnr = [{"none": {"a": 90.0}, **{f"m{k}/s/t": {"a": value} for k, value in enumerate((5, 9, 1, 7, 3, 8, 6))}}]
    assert scenes.choose_models(psnr, []) == ["m0/s/t", "m1/s/t", "m2/s/t", "m6/s/t"]
    assert scenes.choose_models(psnr, ["m2/s", "m4/s"]) == ["m1/s/t", "m2/s/t", "m4/s/t", "m6/s/t"]
    six = [f"m{k}/s" for k in (0, 2, 3, 4, 5, 6)]
    assert scenes.choose_models(psnr, six[:5]) == [f"m{k}/s/t" for k in (0, 1, 2, 3, 4, 5, 6)]  # best 1, median 6
    assert scenes.choose_models(psnr, six) == [f"m{k}/s/t" for k in range(7)]
    variants = [{"none": {}, "m/s/t@l": {"a": 1.0}, "m/s/t@s": {"a": 2.0}}]
    assert scenes.choose_models(variants, ["m/s@l"]) == ["m/s/t@l", "m/s/t@s"]


class Kept:
    """Score files and pictures, as the evaluation leaves them."""

    def __init__(self, root, tests=("noise",), images=("one", "two")):
        self.root, self.scores = root, []
        for test in tests:
            for model, psnr in {"none": 20.0, **MODELS}.items():
                model_id = model.replace("/train", "/seed0/train")
                self.write(model_id, test, images, psnr)

    def write(self, model, test, images, psnr):
        path = self.root / "scores" / model / f"{test}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [(i, "noise", "", p, "psnr", psnr + (p == "dcpt")) for i in images for p in ("airpipe", "dcpt")]
        columns = ["image", "degradation", "level", "protocol", "metric", "value"]
        pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
        path.with_suffix(".json").write_text(json.dumps({"model": model, "test": test, "kept": list(images)}))
        clean = np.full((40, 60, 3), 128, np.uint8)
        shown = clean.copy()
        shown[20:36, 40:56] = 255 if model == "none" else 128  # all degradation is here
        folder = self.root / "restored" / model / test
        folder.mkdir(parents=True)
        for image in images:
            Image.fromarray(shown).save(folder / f"{image}.png")
            Image.fromarray(clean).save(folder / f"{image}_clean.png")
        self.scores.append(path)

    def scenes(self, **change):
        return scenes.read_scenes(self.scores, self.root / "restored", REPORT | change)


def test_pictures_carry_the_psnr_of_the_report_protocol(tmp_path):
    scene = Kept(tmp_path).scenes(protocol="dcpt", images_per_test=1)[0]
    assert [shown.psnr for shown in scene.pictures] == [21.0, 26.0, 22.0, 30.0, 24.0, None]
    assert [shown.title for shown in scene.pictures][::5] == ["degraded", "clean"]


def test_the_crop_lies_where_restoration_changes_most(tmp_path):
    scene = Kept(tmp_path).scenes()[0]
    degraded, *restored = (scenes.read_pixels(shown.file) for shown in scene.pictures[:-1])
    assert pictures.crop_place(degraded, restored, 16) == (20, 40, 16)
    assert pictures.crop_place(degraded, restored, 500)[2] == 40


def test_every_test_is_shown_before_one_is_shown_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "SCENES", 3)
    shown = Kept(tmp_path, ("a", "b")).scenes()
    assert [(scene.test, scene.image) for scene in shown] == [("a", "one"), ("a", "two"), ("b", "one")]


def test_the_grid_has_a_row_per_image_and_a_column_per_picture(tmp_path):
    shown = Kept(tmp_path).scenes()
    for count in (0, 1, 2):
        pictures.draw_qualitative(shown[:count], 16, tmp_path / f"{count}.png")
    sizes = [Image.open(tmp_path / f"{count}.png").size for count in (0, 1, 2)]
    assert sizes[2][0] == sizes[1][0] > 3 * sizes[0][0] and sizes[2][1] > 1.6 * sizes[1][1]


def test_the_grid_grows_with_the_models_that_are_named_and_no_others(tmp_path):
    kept, sizes = Kept(tmp_path), {}
    for count in (4, 40):
        for number in range(len(kept.scores) - 1, count):
            kept.write(f"m{number}/net_5d/seed0/train", "noise", ("one", "two"), 22.0)
        shown = kept.scenes()
        assert [len(scene.restored) for scene in shown] == [4, 4]
        assert [len(scene.others) for scene in shown] == [count - 4, 0]
        pictures.draw_qualitative(shown, 16, tmp_path / "grid.png")
        with Image.open(tmp_path / "grid.png") as image:
            sizes[count] = image.size
    assert sizes[4] == sizes[40] and sizes[4][0] < 3000
    with pytest.raises(ValueError, match="at most 6"):
        ReportSettings(models=[f"m{number}/net_5d" for number in range(7)])


def test_a_picture_too_large_to_be_one_is_told_in_a_line(tmp_path, monkeypatch):
    Image.new("L", (90, 90)).save(tmp_path / "grid.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(AirpipeError, match=r"grid.png: cannot be read \(Image size \(8100 pixels\) exceeds"):
        scenes.read_pixels(tmp_path / "grid.png")


def test_pictures_of_other_sizes_are_refused(tmp_path):
    kept = Kept(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "restored" / "two/net_5d/seed0/train" / "noise" / "two.png")
    with pytest.raises(AirpipeError, match="noise, two: pictures differ in size .*two/net_5d 8x8"):
        kept.scenes()


def test_variants_have_validation_curves_of_their_own(tmp_path):
    folder = tmp_path / "one/net_3d/seed0/train"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"variants": {"s": {}, "l": {}}}))
    rows = [f"{step},{name},{step}" for step in (1, 2) for name in ("loss/total", "loss/pixel_s", "validation/psnr_s")]
    (folder / "curves.csv").write_text("\n".join(["step,name,value", *rows]))
    curves = charts.read_curves([folder / "curves.csv"], tmp_path)
    assert {model: sorted(set(curve["name"])) for model, curve in curves.items()} == {
        "one/net_3d/seed0/train": ["loss/pixel_s", "loss/total"],
        "one/net_3d/seed0/train@s": ["validation/psnr"],
    }
    with patch.object(charts.Figure, "legend") as legend:
        charts.draw_curves(curves, tmp_path / "curves.png")
    assert legend.call_args.args[1] == ["one/net_3d/train", "one/net_3d/train@s"]
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 500
