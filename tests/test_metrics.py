"""Every metric equals its reference: BasicSR's values (golden), scikit-image's functions, float64 forms."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from airpipe.evaluation.metrics import WINDOWS, Measurement, luma, measure, psnr, score_batch, ssim
from airpipe.evaluation.metrics_torch import kit, tensors
from airpipe.evaluation.perceptual import perceptual_measures
from benchmarks.metrics import published_psnr, published_ssim

GOLDEN = np.load(Path(__file__).parent / "goldens" / "metrics.npz")
VALUES = json.loads(str(GOLDEN["meta"]))["values"]
CASES = [(name, key) for name, values in VALUES.items() for key in values]
COLOURS = ("rgb", "y", "y8", "y8_negated")
CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def golden_pair(name):
    if name.startswith("floatpred"):
        return GOLDEN[name], GOLDEN[f"target_{name}"]
    return GOLDEN[f"pred_{name}"].astype(np.float64) / 255, GOLDEN[f"target_{name}"]


@pytest.mark.parametrize(("name", "key"), CASES, ids=["-".join(c) for c in CASES])
def test_scores_equal_the_golden(name, key):
    metric, colour, crop, *unit = key.split("_")
    restored, clean = golden_pair(name)
    wanted = Measurement(
        {"psnr": "psnr", "ssim": "ssim_gaussian11"}[metric], colour, int(crop.removeprefix("crop")), rounded=not unit
    )
    found = measure(restored, clean, [wanted])[wanted]
    if math.isinf(VALUES[name][key]):
        assert math.isinf(found)
    else:
        assert found == pytest.approx(VALUES[name][key], abs=1e-5 if metric == "psnr" else 1e-6)


def test_luma_equals_the_golden():
    expected = GOLDEN["y_of_target_astronaut_blur"]
    assert abs(luma(GOLDEN["target_astronaut_blur"]) - expected).max() < 1e-4


def blobs(generator, shape, low, high):
    """Two grey levels in squares of eight pixels."""
    coarse = generator.integers(0, 2, tuple(-(-side // 8) for side in shape))
    return np.where(np.kron(coarse, np.ones((8, 8)))[: shape[0], : shape[1]], low, high)


def contents(kind, shape, generator):
    """A clean image (H, W, 3) uint8: textured, dark, bright, flat, of two levels, saturated, or a ramp."""
    noise = generator.integers(0, 256, (*shape, 3))
    flat = np.full((*shape, 3), int(generator.integers(0, 256)))
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))[..., None] % 256 + np.zeros(3)
    images = {
        "texture": noise,
        "dark": noise // 20,
        "bright": 255 - noise // 20,
        "flat": flat,
        "levels": blobs(generator, shape, 5, 250)[..., None] + np.zeros(3),
        "saturated": np.clip(noise * 4.0 - 380, 0, 255),
        "ramp": ramp,
        "half": np.where(np.arange(shape[1]) < shape[1] // 2, 0, 255)[None, :, None] + np.zeros((shape[0], 1, 3)),
    }
    return images[kind].astype(np.uint8)


KINDS = ("texture", "dark", "bright", "flat", "levels", "saturated", "ramp", "half")
PAIRS = {
    "kind": st.sampled_from(KINDS),
    "height": st.integers(11, 230),
    "width": st.integers(11, 190),
    "sigma": st.sampled_from([0.3, 2.0, 8.0, 25.0]),
    "seed": st.integers(0, 1000),
}


def make_pair(kind, height, width, sigma, seed):
    generator = np.random.default_rng(seed)
    clean = contents(kind, (height, width), generator)
    return (clean / 255 + generator.normal(0, sigma / 255, clean.shape)).astype(np.float32), clean


def planes(image, colour):
    """Channels (H, W, C) in float64, after the equations of BT.601."""
    if colour == "rgb":
        return image.astype(np.float64)
    plane = 16 + (image.astype(np.float64) @ np.array([65481.0, 128553.0, 24966.0]) / 255000)[..., None]
    return {"y": plane, "y8": np.rint(plane), "y8_negated": 256 - np.rint(plane)}[colour]


def library_ssim(x, y, variant):
    """SSIM of scikit-image, float64; by columns: each one is an image of one dimension."""
    options = {"channel_axis": 2, "data_range": 255}
    if variant == "ssim_columns7":
        return structural_similarity(x[..., 0], y[..., 0], channel_axis=1, data_range=255)
    if variant == "ssim_uniform7":
        return structural_similarity(x, y, **options)
    more = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11}
    return structural_similarity(x, y, **options, **more)


@settings(max_examples=40, deadline=None)
@given(**PAIRS, rounded=st.booleans(), border=st.sampled_from([0, 4]))
def test_any_content_and_size_is_within_the_tolerance_of_scikit_image(rounded, border, **pair):
    restored, clean = make_pair(**pair)
    border = border if min(clean.shape[:2]) > 20 else 0
    levels = np.clip(restored, 0, 1) * np.float64(255)
    levels = np.rint(levels) if rounded else levels
    cut = slice(border, -border or None)
    for colour in COLOURS:
        x, y = planes(levels[cut, cut], colour), planes(clean[cut, cut], colour)
        variants = [name for name in WINDOWS if colour != "rgb" or name != "ssim_columns7"]
        wanted = {name: Measurement(name, colour, border, rounded) for name in ("psnr", *variants)}
        found = measure(restored, clean, wanted.values())
        for name in variants:
            assert found[wanted[name]] == pytest.approx(library_ssim(x, y, name), abs=1e-6), name
        if (x != y).any() and colour != "y":  # luma is stored in float32, as BasicSR does
            expected = peak_signal_noise_ratio(y, x, data_range=255)
            assert found[wanted["psnr"]] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dark", [(0, 4), (2, 0), (5, 0), (2, 7), (3, 8)])
@pytest.mark.parametrize("bright", [128, 200, 255])
def test_flat_dark_areas_beside_bright_ones_are_within_the_tolerance(dark, bright):
    """Float32 alone is off by more than 1e-6 here."""
    restored, clean = (np.full((60, 120, 3), bright, np.uint8) for _ in range(2))
    restored[:, :80], clean[:, :80] = dark
    found = ssim(restored, clean, WINDOWS["ssim_gaussian11"])
    assert found == pytest.approx(published_ssim(restored, clean), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(**PAIRS)
def test_tensors_are_measured_as_arrays_are(**pair):
    restored, clean = make_pair(**pair)
    wanted = [
        Measurement(name, colour, border, rounded, clipped=True)
        for name in ("psnr", *WINDOWS)
        for colour in COLOURS
        for border in ((0, 4) if min(clean.shape[:2]) > 20 else (0,))
        for rounded in (True, False)
        if name != "ssim_columns7" or colour != "rgb"
    ]
    arrays, found = measure(restored, clean, wanted), measure(restored, clean, wanted, tensors(DEVICE))
    for one in wanted:
        assert found[one] == pytest.approx(arrays[one], abs=1e-6), one


def test_a_batch_of_tensors_gives_one_number_per_image():
    pairs = [make_pair("texture", 30, 41, 8.0, seed) for seed in (0, 1)]
    on = tensors(DEVICE)
    restored, clean = (torch.stack([on.levels(pair[part], True, True) for pair in pairs]) for part in (0, 1))
    for name in ("psnr", "ssim_gaussian11"):
        alone = [measure(*pair, [Measurement(name)], on)[Measurement(name)] for pair in pairs]
        assert on.measures[name](restored, clean).tolist() == pytest.approx(alone, abs=1e-12)


def test_the_cpu_measures_with_arrays_and_other_devices_with_tensors():
    image = np.zeros((12, 12, 3), np.uint8)
    assert isinstance(kit(CPU).levels(image, True, True), np.ndarray)
    assert kit(torch.device("meta")).levels(image, True, True).device.type == "meta"


def test_the_published_form_agrees_and_equal_images_are_perfect():
    restored, clean = make_pair("texture", 60, 77, 8.0, 3)
    restored = np.rint(np.clip(restored, 0, 1) * 255).astype(np.uint8)
    gaussian = WINDOWS["ssim_gaussian11"]
    assert psnr(restored, clean) == pytest.approx(published_psnr(restored, clean), abs=1e-9)
    assert ssim(restored, clean, gaussian) == pytest.approx(published_ssim(restored, clean), abs=1e-6)
    assert math.isinf(psnr(clean, clean))
    assert ssim(clean, clean, gaussian) == 1


def test_a_known_error_gives_the_known_psnr():
    clean = np.full((20, 20, 3), 100, np.uint8)
    assert psnr(clean + np.uint8(5), clean) == pytest.approx(20 * math.log10(255 / 5))


def one_psnr(value, clean, **options):
    wanted = Measurement("psnr", **options)
    return measure(np.full(clean.shape, value), clean, [wanted])[wanted]


def test_rounding_is_half_to_even_and_after_clipping():
    clean = np.zeros((16, 16, 3), np.uint8)
    assert math.isinf(one_psnr(0.5 / 255, clean))
    assert math.isinf(one_psnr(-0.3, clean))
    assert not math.isinf(one_psnr(0.5 / 255, clean, rounded=False))
    assert one_psnr(-0.3, clean, rounded=False, clipped=False) == pytest.approx(-20 * math.log10(0.3))


def test_a_measurement_that_is_asked_for_twice_is_made_once():
    calls = []
    kit_ = SimpleNamespace(levels=lambda image, *_: calls.append("levels") or image, measures={"psnr": lambda *_: 1.0})
    image = np.zeros((8, 8, 3), np.uint8)
    measure(image, image, {Measurement("psnr"), Measurement("psnr", border=0)}, kit_)
    assert calls == ["levels", "levels"]  # of the restored and of the clean image


def streaked():
    """A smooth grey picture, and the same with vertical streaks, each (128, 128, 3) in 8 bit."""
    rows, columns = np.mgrid[:128, :128]
    plane = 110 + 80 * np.sin(rows / 20) + 20 * np.cos(columns / 25)
    streaks = np.where(columns % 16 < 3, 12, 0)
    return tuple(np.repeat(np.rint(one)[..., None], 3, 2).astype(np.uint8) for one in (plane, plane + streaks))


def test_streaks_look_right_to_the_column_wise_ssim():
    """DSRIR scores rain by columns of luma: where the SSIM of the picture is 0.899, it says 0.998."""
    clean, rainy = streaked()
    wanted = {name: Measurement(name, "y") for name in ("ssim_columns7", "ssim_uniform7")}
    found = measure(rainy, clean, wanted.values())
    assert found[wanted["ssim_columns7"]] == pytest.approx(0.998, abs=5e-4)
    assert found[wanted["ssim_uniform7"]] == pytest.approx(0.899, abs=5e-4)
    for name, one in wanted.items():
        assert found[one] == pytest.approx(library_ssim(planes(rainy, "y"), planes(clean, "y"), name), abs=1e-6)


def test_the_metric_vector_of_published_test_code_comes_out():
    """Uniform tensors (1, 3, 40, 56) of seeds 0 and 1; values of the code of DyNet and DSRIR."""
    first, noise = (torch.rand((1, 3, 40, 56), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    second = (first + 0.2 * (noise - 0.5)).clamp(0, 1)
    x, y = (255.0 * image[0].permute(1, 2, 0).double().numpy() for image in (first, second))
    yx, yy = luma(x), luma(y)
    assert psnr(x, y) == pytest.approx(24.98643, abs=1e-5)
    assert ssim(x, y, WINDOWS["ssim_uniform7"]) == pytest.approx(0.980694, abs=1e-6)
    assert psnr(yx, yy) == pytest.approx(29.93017, abs=1e-5)
    assert ssim(yx, yy, WINDOWS["ssim_uniform7"]) == pytest.approx(0.981229, abs=1e-6)
    assert ssim(yx, yy, WINDOWS["ssim_columns7"]) == pytest.approx(0.975059, abs=1e-6)


def test_a_batch_of_images_is_scored_one_by_one():
    pairs = [make_pair("texture", 30, 41, 8.0, seed) for seed in (0, 1)]
    restored = np.stack([np.rint(np.clip(pair[0], 0, 1) * 255).astype(np.uint8) for pair in pairs])
    clean = np.stack([pair[1] for pair in pairs])
    decibels, structure = score_batch(restored, clean)
    assert decibels.tolist() == [psnr(*one) for one in zip(restored, clean, strict=True)]
    assert structure.tolist() == [ssim(*one, WINDOWS["ssim_gaussian11"]) for one in zip(restored, clean, strict=True)]


def test_unequal_shapes_types_and_tiny_images_are_refused():
    with pytest.raises(ValueError, match="shapes must be equal"):
        psnr(np.zeros((4, 4, 3)), np.zeros((4, 5, 3)))
    with pytest.raises(ValueError, match="types must be equal"):
        psnr(np.zeros((4, 4, 3)), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="smaller than the SSIM window of 11"):
        ssim(np.zeros((10, 20, 3)), np.zeros((10, 20, 3)), WINDOWS["ssim_gaussian11"])
    with pytest.raises(ValueError, match="smaller than the SSIM window of 11"):
        measure(np.zeros((10, 20, 3)), np.zeros((10, 20, 3), np.uint8), [Measurement("ssim_gaussian11")], tensors(CPU))


# Perceptual measures


def test_without_their_package_perceptual_measures_are_left_out_with_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    assert perceptual_measures(["psnr", "lpips", "niqe"], CPU) == {}
    assert capsys.readouterr().err == "lpips, niqe: left out; they need `pip install airpipe[perceptual]`\n"
    assert perceptual_measures(["psnr"], CPU) == {}
    assert capsys.readouterr().err == ""


def test_perceptual_measures_see_images_in_0_to_1(monkeypatch):
    def create_metric(name, device):
        metric = lambda *images: sum(image.mean() * (1 + place) for place, image in enumerate(images))  # noqa: E731
        return type("Metric", (), {"metric_mode": "NR" if name == "niqe" else "FR", "__call__": staticmethod(metric)})()

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=create_metric))
    measures = perceptual_measures(["lpips", "niqe"], CPU)
    restored, clean = np.full((9, 8, 3), 51, np.uint8), np.full((9, 8, 3), 255, np.uint8)
    assert measures["niqe"](restored, clean) == pytest.approx(0.2)
    assert measures["lpips"](restored, clean) == pytest.approx(0.2 + 2)
