"""Every metric equals its reference: BasicSR's values (golden), scikit-image's functions."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from airpipe.evaluation.metrics import luma, psnr, score, ssim_gaussian11, ssim_uniform7

GOLDEN = np.load(Path(__file__).parent / "goldens" / "metrics.npz")
VALUES = json.loads(str(GOLDEN["meta"]))["values"]
CASES = [(name, key) for name, values in VALUES.items() for key in values]


def golden_pair(name):
    if name.startswith("floatpred"):
        return GOLDEN[name], GOLDEN[f"target_{name}"]
    return GOLDEN[f"pred_{name}"].astype(np.float64) / 255, GOLDEN[f"target_{name}"]


@pytest.mark.parametrize(("name", "key"), CASES, ids=["-".join(c) for c in CASES])
def test_scores_equal_the_golden(name, key):
    metric, colour, crop, *unit = key.split("_")
    restored, clean = golden_pair(name)
    found = score(
        restored,
        clean,
        colour=colour,
        border=int(crop.removeprefix("crop")),
        round_output=not unit,
        ssim="gaussian11",
    )
    if math.isinf(VALUES[name][key]):
        assert math.isinf(found[metric])
    else:
        assert found[metric] == pytest.approx(VALUES[name][key], abs=1e-5 if metric == "psnr" else 1e-6)


def test_luma_equals_the_golden():
    expected = GOLDEN["y_of_target_astronaut_blur"]
    assert abs(luma(GOLDEN["target_astronaut_blur"])[..., 0] - expected).max() < 1e-4


@pytest.fixture(params=[(40, 53), (11, 64)])
def pair(request):
    generator = np.random.default_rng(0)
    clean = generator.integers(0, 256, (*request.param, 3), dtype=np.uint8)
    return np.clip(clean + generator.normal(0, 20, clean.shape), 0, 255), clean


def test_metrics_equal_scikit_image(pair):
    restored, clean = pair
    options = {"channel_axis": 2, "data_range": 255}
    assert psnr(restored, clean) == pytest.approx(
        peak_signal_noise_ratio(clean * 1.0, restored, data_range=255), abs=1e-9
    )
    assert ssim_uniform7(restored, clean) == pytest.approx(
        structural_similarity(clean * 1.0, restored, **options), abs=1e-9
    )
    gaussian = structural_similarity(
        clean * 1.0,
        restored,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        win_size=11,
        **options,
    )
    assert ssim_gaussian11(restored, clean) == pytest.approx(gaussian, abs=1e-9)


def test_a_known_error_gives_the_known_psnr():
    clean = np.full((20, 20, 3), 100, np.uint8)
    assert psnr(clean + 5, clean) == pytest.approx(20 * math.log10(255 / 5))


def test_rounding_is_half_to_even_and_after_clipping():
    clean = np.zeros((16, 16, 3), np.uint8)
    assert math.isinf(score(np.full(clean.shape, 0.5 / 255), clean)["psnr"])
    assert math.isinf(score(np.full(clean.shape, -0.3), clean)["psnr"])
    assert not math.isinf(score(np.full(clean.shape, 0.5 / 255), clean, round_output=False)["psnr"])


def test_unequal_shapes_and_tiny_images_are_refused():
    with pytest.raises(ValueError, match="shapes must be equal"):
        psnr(np.zeros((4, 4, 3)), np.zeros((4, 5, 3)))
    with pytest.raises(ValueError, match="smaller than the SSIM window of 11"):
        ssim_gaussian11(np.zeros((10, 20, 3)), np.zeros((10, 20, 3)))
