"""Protocols make the inputs that their papers make, and share a network pass only for equal inputs."""

import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from helpers import ROOT, toy_images
from hypothesis import assume, given
from hypothesis import strategies as st
from test_metrics import streaked

from airpipe.data.pairs import Pair
from airpipe.data.windows import Window
from airpipe.errors import AirpipeError
from airpipe.evaluation.metrics import Measurement, measure
from airpipe.evaluation.protocol import (
    NoiseStream,
    distinct_inputs,
    evaluate,
    grey_in_luma,
    natural_key,
    write_scores,
)
from airpipe.images import Picture, centre_crop, write_picture
from airpipe.settings.degrading import Recipe
from airpipe.settings.scoring import MetricSettings, ProtocolSettings, TestSettings

SHIPPED = {
    name: ProtocolSettings.model_validate(values)
    for name, values in yaml.safe_load((ROOT / "config" / "protocols.yaml").read_text())["protocols"].items()
}
GREY = np.full((320, 480, 3), 128, np.uint8)


def noise_test(sigma: float, protocols=("airpipe", "promptir", "dcpt"), **more) -> TestSettings:
    recipe = Recipe.model_validate([{"operation": "gaussian_noise", "parameters": {"sigma": sigma}}])
    return TestSettings(
        pairs="toy.test",
        degradation="noise",
        level=str(sigma),
        operations=recipe,
        protocols=protocols,
        **more,
    )


@pytest.mark.parametrize("sigma", [15, 25, 50])
def test_the_published_noise_is_numpys_legacy_stream(sigma):
    """AirNet family: one stream, clipped, cut to uint8. DCPT: seeded again for every image, unclipped."""
    once, restart = (NoiseStream(SHIPPED[name].noise, sigma) for name in ("promptir", "dcpt"))
    np.random.seed(0)  # noqa: NPY002 - the published code calls exactly this
    for name in ("a", "b"):
        expected = np.clip(GREY + np.random.randn(*GREY.shape) * sigma, 0, 255).astype(np.uint8)  # noqa: NPY002
        np.testing.assert_array_equal(np.rint(once.noisy(GREY, name) * 255), expected)
    for name in ("a", "b"):
        np.random.seed(0)  # noqa: NPY002
        expected = GREY / 255 + np.random.normal(0, sigma / 255, GREY.shape)  # noqa: NPY002
        np.testing.assert_allclose(restart.noisy(GREY, name), expected, atol=1e-6)


def test_our_noise_depends_on_the_name_and_not_on_the_order():
    rule = SHIPPED["airpipe"].noise
    first, second = NoiseStream(rule, 25), NoiseStream(rule, 25)
    a, b = first.noisy(GREY, "a"), first.noisy(GREY, "b")
    np.testing.assert_array_equal(second.noisy(GREY, "b"), b)
    assert abs(a - b).max() > 0.1
    assert abs(NoiseStream(rule, 15).noisy(GREY, "a") - a).max() > 0.1


def test_protocols_share_a_pass_only_when_their_input_is_the_same():
    twin = SHIPPED["promptir"].model_copy(update={"metrics": SHIPPED["dcpt"].metrics, "round_output": True})
    protocols = {**SHIPPED, "twin": twin}
    groups = distinct_inputs(noise_test(25, ("airpipe", "promptir", "dcpt", "twin")), protocols)
    assert [sorted(g.protocols) for g in groups] == [["airpipe"], ["promptir", "twin"], ["dcpt"]]
    rain = TestSettings(pairs="toy.test", degradation="rain", protocols=("airpipe", "promptir", "dcpt"))
    assert [sorted(g.protocols) for g in distinct_inputs(rain, protocols)] == [
        ["airpipe", "dcpt"],
        ["promptir"],
    ]


@pytest.fixture
def pairs(tmp_path):
    return [Pair(path, None, "", "", "none", path.stem, path.stem) for path in toy_images(tmp_path, 3, (50, 61))]


def test_one_pass_per_distinct_input_scores_every_protocol(pairs):
    seen = []

    def identity(sample):
        seen.append(sample.degraded.shape)
        return sample.degraded

    rows = evaluate(noise_test(25), SHIPPED, pairs, identity)
    assert seen == [(50, 61, 3), (48, 48, 3), (50, 61, 3)] * 3
    assert len(rows) == 3 * 3 * 2
    assert {row["protocol"] for row in rows} == {"airpipe", "promptir", "dcpt"}


def test_no_restoration_is_the_textbook_input_psnr(tmp_path):
    big = [Pair(p, None, "", "", "none", p.stem, p.stem) for p in toy_images(tmp_path, 2, (256, 256))]
    rows = evaluate(noise_test(50, ("airpipe",)), SHIPPED, big, None)
    values = [row["value"] for row in rows if row["metric"] == "psnr"]
    assert np.mean(values) == pytest.approx(20 * np.log10(255 / 50), abs=0.05)
    clipped = evaluate(noise_test(50, ("airpipe",)), SHIPPED, big, lambda sample: sample.degraded)
    assert np.mean([r["value"] for r in clipped if r["metric"] == "psnr"]) > np.mean(values) + 0.3


def test_kept_pictures_are_the_first_in_natural_order_under_the_first_protocol(pairs):
    kept = {}
    test = noise_test(25, ("promptir", "airpipe"), keep_images=2)
    evaluate(
        test,
        SHIPPED,
        list(reversed(pairs)),
        None,
        lambda sample, restored, clean: kept.update({sample.name: clean.shape}),
    )
    assert kept == {"img0": (48, 48, 3), "img1": (48, 48, 3)}


def test_a_noise_test_without_a_fixed_level_is_refused(pairs):
    noise = [{"operation": "gaussian_noise", "parameters": {"sigma": {"choice": [1, 2]}}}]
    test = TestSettings(pairs="toy.test", degradation="noise", operations=Recipe.model_validate(noise))
    with pytest.raises(AirpipeError, match="needs one level"):
        evaluate(test, SHIPPED, pairs, None)


def test_a_recipe_for_a_list_of_degraded_files_is_refused(pairs):
    paired = [replace(one, degraded=one.clean) for one in pairs]
    with pytest.raises(AirpipeError, match="test of toy.test: recipe given as operations is for clean images, but"):
        evaluate(noise_test(25), SHIPPED, paired, None)
    assert evaluate(noise_test(25).model_copy(update={"operations": Recipe()}), SHIPPED, paired, None)


def test_scores_are_written_long_and_infinite_values_stay_infinite(tmp_path):
    row = {
        "image": "a",
        "degradation": "x",
        "level": "",
        "protocol": "airpipe",
        "metric": "psnr",
        "value": float("inf"),
    }
    write_scores(tmp_path / "s.csv", [row, {**row, "value": 20.123456789}])
    assert (tmp_path / "s.csv").read_text().splitlines() == [
        "image,degradation,level,protocol,metric,value",
        "a,x,,airpipe,psnr,inf",
        "a,x,,airpipe,psnr,20.123457",
    ]


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 8, 16]))
def test_the_cut_takes_half_of_the_excess_at_the_start(height, width, multiple):
    assume(min(height, width) >= multiple)
    pixels = np.arange(height * width).reshape(height, width)
    cut = centre_crop(pixels, multiple)
    assert cut.shape == (height - height % multiple, width - width % multiple)
    assert cut[0, 0] == pixels[height % multiple // 2, width % multiple // 2]


def test_numbers_in_names_sort_as_numbers():
    assert sorted(["img10", "img2", "a1b", "a1"], key=natural_key) == ["a1", "a1b", "img2", "img10"]


def paired(tmp_path, size, count=2, levels=8, **options):
    """Pairs of random images of a size, the degraded ones a little off."""
    generator, found = np.random.default_rng(0), []
    for number in range(count):
        clean = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        off = np.clip(clean + generator.integers(-levels, levels + 1, clean.shape), 0, 255).astype(np.uint8)
        for folder, image in (("clean", clean), ("degraded", off)):
            (tmp_path / folder).mkdir(exist_ok=True, parents=True)
            write_picture(tmp_path / folder / f"{number}.png", Picture(image, **options))
        files = (tmp_path / folder / f"{number}.png" for folder in ("clean", "degraded"))
        found.append(Pair(*files, "", "", "none", str(number), str(number)))
    return found


def scores(rows):
    return {(row["image"], row["protocol"], row["metric"]): row["value"] for row in rows}


def slightly_off(sample):
    return np.asarray(sample.degraded + 0.4 / 255, np.float32)


@pytest.mark.parametrize(
    ("size", "passes"), [((48, 64), 1), ((49, 64), 2), ((50, 61), 3)], ids=["all alike", "8 and 16 alike", "all differ"]
)
def test_all_protocols_share_the_passes_of_equal_cuts(tmp_path, size, passes, capsys):
    seen = []
    test = TestSettings(pairs="toy.test", degradation="rain", protocols=tuple(SHIPPED))
    rows = evaluate(test, SHIPPED, paired(tmp_path, size), lambda s: seen.append(s) or slightly_off(s))
    assert len(seen) == 2 * passes
    assert f"2 images, {2 * passes} passes of the model, {len(rows)} scores from " in capsys.readouterr().out


def test_sharing_passes_and_measurements_changes_no_score(tmp_path):
    pairs = paired(tmp_path, (48, 64))
    test = TestSettings(pairs="toy.test", degradation="rain", protocols=tuple(SHIPPED))
    together = scores(evaluate(test, SHIPPED, pairs, slightly_off))
    alone = {}
    for name in SHIPPED:
        alone |= scores(evaluate(test.model_copy(update={"protocols": (name,)}), SHIPPED, pairs, slightly_off))
    assert together == alone
    assert together["0", "airpipe", "psnr"] == together["0", "degae", "psnr"]


def test_evaluation_says_what_share_scoring_took(tmp_path, capsys):
    test = TestSettings(pairs="toy.test", degradation="haze")
    evaluate(test, SHIPPED, paired(tmp_path, (32, 32)), slightly_off, label="scoring toys")
    assert re.fullmatch(
        r"scoring toys: 2 images, 2 passes of the model, 4 scores from 4 measurements; "
        r"scoring took \d\.\d\d of \d\.\d\d s \(\d+\.\d %\)\n",
        capsys.readouterr().out,
    )


def test_dsrir_scores_rain_on_luma_with_its_column_wise_ssim_and_other_degradations_in_rgb(tmp_path):
    pairs = paired(tmp_path, (48, 64))
    names = {}
    for degradation in ("rain", "haze"):
        test = TestSettings(pairs="toy.test", degradation=degradation, protocols=("dsrir", "promptir"))
        names[degradation] = scores(evaluate(test, SHIPPED, pairs, slightly_off))
    assert {metric for _, protocol, metric in names["rain"] if protocol == "dsrir"} == {"psnr", "ssim", "ssim_columns"}
    assert {metric for _, protocol, metric in names["haze"] if protocol == "dsrir"} == {"psnr", "ssim"}
    assert names["haze"]["0", "dsrir", "psnr"] == names["haze"]["0", "promptir", "psnr"]
    assert names["rain"]["0", "dsrir", "psnr"] > names["haze"]["0", "dsrir", "psnr"] + 1
    assert names["rain"]["0", "dsrir", "ssim_columns"] != names["rain"]["0", "dsrir", "ssim"]


def test_the_published_ssim_of_rain_has_its_own_name_beside_that_of_the_picture(tmp_path):
    pictures = dict(zip(("clean", "degraded"), streaked(), strict=True))
    for name, pixels in pictures.items():
        write_picture(tmp_path / f"{name}.png", Picture(pixels))
    pair = Pair(tmp_path / "clean.png", tmp_path / "degraded.png", "", "", "none", "0", "0")
    test = TestSettings(pairs="toy.test", degradation="rain", protocols=tuple(SHIPPED))
    found = scores(evaluate(test, SHIPPED, [pair], None))
    assert found["0", "dsrir", "ssim_columns"] == pytest.approx(0.998, abs=5e-4)
    assert found["0", "dsrir", "ssim"] == found["0", "dsrir_y", "ssim"] == pytest.approx(0.899, abs=5e-4)
    assert [key for key, value in found.items() if abs(value - 0.998) < 5e-4] == [("0", "dsrir", "ssim_columns")]


def test_degaes_overflow_changes_ssim_and_not_psnr():
    """Values of DegAE's own code for this pair, with and without its mistake."""
    golden = np.load(ROOT / "tests/goldens/degae_degradations.npz")
    expected = json.loads(str(golden["meta"]))["metrics"]
    restored, clean = (np.ascontiguousarray(golden[name][..., ::-1]) for name in ("metric_a", "metric_b"))
    wanted = {name: Measurement(one.measure, one.channels("rain")) for name, one in SHIPPED["degae"].metrics.items()}
    found = measure(restored, clean, wanted.values())
    for name, key in {
        "psnr": "psnr",
        "ssim": "ssim",
        "psnr_y": "psnr_y",
        "ssim_y": "ssim_y",
        "ssim_y_overflow": "ssim_y_reference_bug",
    }.items():
        assert found[wanted[name]] == pytest.approx(expected[key], abs=1e-6), name


def test_an_8_bit_input_scores_the_same_whether_it_counts_as_rounded_or_not(tmp_path):
    pairs = paired(tmp_path, (48, 64))
    test = TestSettings(pairs="toy.test", degradation="rain", protocols=("promptir", "dcpt"))
    found = scores(evaluate(test, SHIPPED, pairs, None))
    restored = scores(evaluate(test, SHIPPED, pairs, lambda sample: sample.degraded))
    for key, value in found.items():
        assert value == pytest.approx(restored[key], abs=1e-6)


# Bad input


def never(_):
    raise AssertionError("the model ran")


def test_an_image_that_is_smaller_than_the_ssim_window_is_refused_before_the_model_runs(tmp_path):
    (tmp_path / "small").mkdir()
    pairs = paired(tmp_path, (32, 32)) + [replace(paired(tmp_path / "small", (32, 18), 1)[0], name="9")]
    test = TestSettings(pairs="toy.test", degradation="rain", protocols=("airpipe", "bordered"))
    protocols = {**SHIPPED, "bordered": SHIPPED["dcpt"].model_copy(update={"border": 4})}
    with pytest.raises(AirpipeError, match=r"0.png: 18x32 pixels are smaller than the SSIM window of 11 after cuts"):
        evaluate(test, protocols, pairs, never)
    assert evaluate(test.model_copy(update={"protocols": ("airpipe",)}), protocols, pairs, slightly_off)


def test_all_images_that_cuts_leave_nothing_of_are_named_with_the_test(tmp_path):
    pairs = [*paired(tmp_path, (32, 32), 2), *paired(tmp_path / "a", (32, 15), 1), *paired(tmp_path / "b", (9, 40), 1)]
    pairs = [replace(pair, name=str(number)) for number, pair in enumerate(pairs)]
    only_psnr = SHIPPED["promptir"].model_copy(
        update={"metrics": {"psnr": MetricSettings(measure="psnr")}, "title": "P"}
    )
    test = TestSettings(pairs="toy.test", degradation="rain", protocols=("promptir",))
    with pytest.raises(AirpipeError) as caught:
        evaluate(test, {"promptir": only_psnr}, pairs, never, label="scoring toy_rain")
    how = "pixels are nothing after cuts to multiples of 16 and borders of 0 (P)"
    files = [f"{pairs[2].clean}: 15x32 {how}", f"{pairs[3].clean}: 40x9 {how}"]
    assert str(caught.value) == (
        f"scoring toy_rain: 2 images of toy.test are too small: {'; '.join(files)}. Leave them out (leave_out)"
    )
    windows = [replace(pairs[0], window=Window(20, 15, 0, 0))]
    with pytest.raises(AirpipeError, match="1 images of toy.test are too small: .*: 20x15 pixels are nothing after"):
        evaluate(test, {"promptir": only_psnr}, windows, never)


def test_grey_files_of_a_test_are_counted_where_luma_is_compared(tmp_path):
    pairs = [*paired(tmp_path / "g", (32, 32), 1, grey=True), *paired(tmp_path / "c", (32, 32), 2)]
    test = TestSettings(pairs="toy.test", degradation="rain", protocols=("airpipe", "restormer", "airpipe_y"))
    assert grey_in_luma(test, SHIPPED, pairs) == {"restormer": 1, "airpipe_y": 1}
    assert grey_in_luma(test, SHIPPED, pairs[1:]) == {}
    assert grey_in_luma(test.model_copy(update={"protocols": ("airpipe",)}), SHIPPED, pairs) == {}
    found = scores(evaluate(test, SHIPPED, pairs[:1] + pairs[2:], None))
    luma, plain = (next(v for k, v in found.items() if one in k and "psnr" in k) for one in ("airpipe_y", "airpipe"))
    assert luma - plain == pytest.approx(20 * np.log10(255 / 219), abs=0.02)


def test_luma_of_a_grey_test_is_refused_before_the_model_runs(tmp_path):
    pairs = paired(tmp_path, (32, 32), grey=True)
    test = TestSettings(pairs="toy.test", degradation="rain", protocols=("airpipe", "restormer"))
    with pytest.raises(AirpipeError, match="test of toy.test: all images are grey, and a protocol compares luma"):
        evaluate(test, SHIPPED, pairs, never)
    assert evaluate(test.model_copy(update={"protocols": ("airpipe",)}), SHIPPED, pairs, slightly_off)


def test_a_result_that_is_not_a_number_is_refused_with_the_image(tmp_path):
    kept = []
    test = TestSettings(pairs="toy.test", degradation="rain")
    with pytest.raises(AirpipeError, match=r"0.png: the restored image is not a number everywhere"):
        evaluate(
            test,
            SHIPPED,
            paired(tmp_path, (32, 32)),
            lambda sample: sample.degraded * np.float32("nan"),
            lambda *picture: kept.append(picture),
        )
    assert not kept


def test_an_unknown_protocol_is_refused_with_the_nearest_one(pairs):
    with pytest.raises(AirpipeError, match="test of toy.test: unknown protocol 'dcp'; did you mean 'dcpt'"):
        evaluate(noise_test(25, ("dcp",)), SHIPPED, pairs, never)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"ssim": {"measure": "ssim_columns7", "colour": "y"}}, "metric 'ssim' is ssim_columns7, expected ssim_"),
        ({"psnr": {"measure": "ssim_uniform7"}}, "metric 'psnr' is ssim_uniform7, expected psnr"),
        ({"ssim_y": {"measure": "ssim_columns7", "colour": "y"}}, "metric 'ssim_y' is ssim_columns7, no SSIM of"),
        ({"lpips": {"measure": "lpips", "colour": "y"}}, "lpips is made for RGB images"),
        ({}, "at least 1 item"),
    ],
)
def test_metrics_are_named_for_what_they_are(metrics, message):
    with pytest.raises(ValueError, match=message):
        ProtocolSettings.model_validate(
            {"title": "a", "source": "b", "noise": {"generator": "once"}, "metrics": metrics}
        )


def test_perceptual_columns_are_there_only_where_they_were_computed(tmp_path, monkeypatch, capsys):
    seen = {"measure": "lpips"}
    metrics = {**SHIPPED["airpipe"].model_dump()["metrics"], "lpips": seen}
    own = ProtocolSettings.model_validate({**SHIPPED["airpipe"].model_dump(), "metrics": metrics})
    test, pairs = TestSettings(pairs="toy.test", degradation="rain"), paired(tmp_path, (32, 32), 1)
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    rows = evaluate(test, {"airpipe": own}, pairs, slightly_off)
    assert [row["metric"] for row in rows] == ["psnr", "ssim"]
    assert "lpips: left out" in capsys.readouterr().err
    fake = SimpleNamespace(create_metric=lambda name, device: Constant())
    monkeypatch.setitem(sys.modules, "pyiqa", fake)
    assert scores(evaluate(test, {"airpipe": own}, pairs, slightly_off))["0", "airpipe", "lpips"] == 0.25


class Constant:
    metric_mode = "FR"

    def __call__(self, restored, clean):
        assert restored.shape == clean.shape == (1, 3, 32, 32)
        return 0.25


def test_shipped_protocols_state_a_source():
    assert all(protocol.source for protocol in SHIPPED.values())
    named = {"airpipe", "promptir", "dcpt", "dsrir", "degae", "restormer"}
    colours = {"airpipe_y": "y", "promptir_y": "y", "dsrir_y": "y", "dsrir_rgb": "rgb"}
    assert set(SHIPPED) == named | set(colours)
    for name, colour in colours.items():
        protocol, like = SHIPPED[name], SHIPPED[name.partition("_")[0]]
        assert {protocol.metrics[metric].channels("rain") for metric in ("psnr", "ssim")} == {colour}
        assert {protocol.metrics[metric].measure for metric in ("psnr", "ssim")} == {
            "psnr",
            like.metrics["ssim"].measure,
        }
        same = ("border", "round_output", "crop_multiple", "noise")
        assert [getattr(protocol, key) for key in same] == [getattr(like, key) for key in same]
