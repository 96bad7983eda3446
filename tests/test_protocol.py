"""Protocols make the inputs that their papers make, and share a network pass only for equal inputs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from helpers import ROOT, toy_images
from hypothesis import assume, given
from hypothesis import strategies as st

from airpipe.data.pairs import Pair
from airpipe.errors import AirpipeError
from airpipe.evaluation.protocol import NoiseStream, distinct_inputs, evaluate, natural_key, write_scores
from airpipe.images import centre_crop
from airpipe.settings.degrading import Recipe
from airpipe.settings.scoring import ProtocolSettings, TestSettings

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
    twin = SHIPPED["promptir"].model_copy(update={"ssim": "gaussian11", "round_output": True})
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
    assert {row["protocol"] for row in rows} == set(SHIPPED)


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
        lambda name, restored, clean: kept.update({name: clean.shape}),
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


def test_shipped_protocols_state_a_source():
    assert all(json.dumps(p.source) != '""' for p in SHIPPED.values())
    assert set(SHIPPED) == {"airpipe", "promptir", "dcpt"}
