"""Every degradation is a pure function of image, parameters and generator; the ten tasks look as they should."""

import io
import itertools
import math

import numpy as np
import pytest
import yaml
from helpers import PARAMETERS, ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from airpipe.data.packages import locate
from airpipe.degradations.blur import defocus_blur, disc_kernel
from airpipe.degradations.cells import corrupted_cells
from airpipe.degradations.colour import colour_shift
from airpipe.degradations.compression import LARGEST_JPEG_SIDE, jpeg
from airpipe.degradations.inpainting import stroke_mask, strokes
from airpipe.degradations.mosaic import bayer_pattern, mosaic
from airpipe.degradations.noise import gaussian_noise, legacy_noise_field
from airpipe.degradations.recipes import OPERATIONS, check_operations, degrade, drawn_names
from airpipe.degradations.weather import SNOW_LAYERS, flake_kernel, snow, snow_mask
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.pixels import as_floats, quantised
from airpipe.settings.degrading import Recipe

RANDOM = [
    "corrupted_cells",
    "gaussian_noise",
    "haze",
    "low_light",
    "poisson_noise",
    "rain_streaks",
    "snow",
    "speckle_noise",
    "strokes",
]
RECIPES = {
    name: Recipe.model_validate(written)
    for name, written in yaml.safe_load((ROOT / "config" / "recipes.yaml").read_text())["recipes"].items()
}


def rng(seed=0):
    return np.random.default_rng(seed)


def photograph(name="astronaut"):
    return as_floats(read_rgb8(locate(f"skimage:data/{name}.png")))


def psnr(image, clean):
    return float(-10 * np.log10(np.mean((image.astype(np.float64) - clean) ** 2)))


def picture(height, width, seed):
    return rng(seed).random((height, width, 3), dtype=np.float32)


# All operations and recipes


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=15, deadline=None)
@given(height=st.integers(3, 40), width=st.integers(3, 40), seed=st.integers(0, 1000))
def test_every_operation_is_pure_and_fixed_by_its_generator(name, height, width, seed):
    image = picture(height, width, seed)
    image.flags.writeable = False
    kept = image.copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global stream must not be touched
    first = OPERATIONS[name](image, rng(seed), **PARAMETERS[name])
    again = OPERATIONS[name](image, rng(seed), **PARAMETERS[name])
    assert first.dtype == np.float32
    assert first.shape == image.shape
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, kept)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("name", OPERATIONS)
def test_only_operations_that_draw_depend_on_the_seed(name):
    image = photograph()[:96, :96]
    first, other = (OPERATIONS[name](image, rng(seed), **PARAMETERS[name]) for seed in (1, 2))
    assert np.array_equal(first, other) == (name not in RANDOM)
    assert abs(first - image).mean() > 0.005


@pytest.mark.parametrize("recipe", [name for name, recipe in RECIPES.items() if not recipe.nothing])
def test_every_recipe_without_chances_is_valid_draws_and_degrades(recipe):
    check_operations(RECIPES[recipe], f"recipes.{recipe}")
    image = photograph()[100:196, 150:278]
    for seed in range(6):
        degraded, drawn = degrade(image, RECIPES[recipe], rng(seed))
        again, _ = degrade(image, RECIPES[recipe], rng(seed))
        np.testing.assert_array_equal(degraded, again)
        assert degraded.shape == image.shape
        assert 5 < psnr(np.clip(degraded, 0, 1), image) < 50
        assert [step.place for step in drawn.steps] == list(range(len(RECIPES[recipe].operations)))
        assert set(drawn.named()) == {name for names in drawn_names(RECIPES[recipe]) for name in names.values()}
        assert all(math.isfinite(value) for value in drawn.named().values())  # samples write them down as numbers


def test_the_ten_task_recipes_draw_what_dcpt_says():
    def drawn(recipe, name):
        image = np.full((16, 16, 3), 0.5, np.float32)
        return [degrade(image, RECIPES[recipe], rng(seed))[1].named()[name] for seed in range(200)]

    sigmas = drawn("noise_1_50", "sigma")
    assert 1 <= min(sigmas) < 3
    assert 48 < max(sigmas) <= 50
    assert np.mean(sigmas) == pytest.approx(25.5, abs=3)
    assert set(drawn("jpeg", "quality")) == {10, 20, 30, 40, 50}
    assert set(drawn("jpeg20", "quality")) == {20}
    assert set(drawn("inpainting", "segments")) == set(drawn("inpainting", "thickness")) == set(range(5, 11))
    assert np.mean(drawn("inpainting", "colour")) == pytest.approx(0.5, abs=0.1)
    assert set(drawn("mosaic", "compat_swap_rb")) == {False}
    assert set(drawn("mosaic_swapped", "compat_swap_rb")) == {True}


@pytest.mark.parametrize(
    ("operation", "change", "message"),
    [
        ("corrupted_cells", {"cell": 0}, "cell is 0 pixels; expected at least 1"),
        ("corrupted_cells", {"masked": 0.6}, r"masked 0\.6 and degraded 0\.5 must be shares of at most 1 together"),
        ("corrupted_cells", {"degraded": -0.1}, r"degraded -0\.1 must be shares"),
        ("corrupted_cells", {"fill": 255}, "fill is 255, amplitude 40; expected a fill from 0 to 1"),
        ("corrupted_cells", {"amplitude": {"uniform": [-1, 5]}}, r"amplitude -1\.0; expected"),
        ("corrupted_cells", {"quality": {"integers": [0, 90]}}, "quality 0 must lie in 1 to 100"),
        ("gaussian_noise", {"sigma": {"uniform": [-5, 50]}}, r"sigma is -5\.0; expected at least 0. Change the recipe"),
        ("defocus_blur", {"diameter": {"uniform": [0.5, 9]}}, r"diameter 0\.5 must be at least 1 pixel. Change the r"),
        ("gaussian_noise", {"field": 3}, "unknown parameter 'field'"),
        ("gaussian_noise", {"sigma": "strong"}, "parameter 'sigma' is 'strong'; expected a finite number"),
        ("gaussian_noise", {"sigma": float("inf")}, "parameter 'sigma' is inf; expected a finite number"),
        ("gaussian_noise", {"sigma": True}, "parameter 'sigma' is True; expected a finite number"),
        ("gaussian_noise", {"form": {"choice": ["grey", "gray"]}}, "form is 'gray'; expected independent, g"),
        ("gaussian_noise", {"form": "correlated"}, "mixing has 0 numbers; expected 12"),
        ("gaussian_noise", {"sigma": {"uniform": [0, 9], "size": 2}}, r"'sigma' is \(0\.0, 0\.0\); expected a finite"),
        ("gaussian_blur", {"kernel_size": {"integers": [7, 8]}}, "kernel_size is 8; expected an odd number of pixels"),
        ("gaussian_blur", {"sigma": -1}, "sigma is -1; expected at least 0"),
        ("gaussian_blur", {"variance_across": {"uniform": [-1, 5]}}, r"variances 4\.0 and -1\.0 must be at least 0"),
        ("poisson_noise", {"photons": {"uniform": [0, 9]}}, r"photons is 0\.0; expected more than 0"),
        ("poisson_noise", {"form": "correlated"}, "form is 'correlated'; expected independent or grey"),
        ("speckle_noise", {"sigma": -3}, "sigma is -3; expected at least 0"),
        ("speckle_noise", {"form": "correlated", "mixing": 3}, "mixing has 1 numbers; expected 12"),
        ("speckle_noise", {"form": "correlated", "mixing": {"constant": {"red": 1}}}, "mixing has 0 numbers"),
        ("speckle_noise", {"form": "correlated", "mixing": ["1"] * 12}, "mixing has 0 numbers; expected 12"),
        ("speckle_noise", {"form": "correlated", "mixing": [[0.5] * 12]}, "mixing has 0 numbers; expected 12"),
        ("jpeg", {"legacy_bgr": 1}, "'legacy_bgr' is 1; expected true or false"),
        ("haze", {"near": {"uniform": [0.1, 2]}}, "near 2.0 > far 1.5"),
        ("jpeg", {"quality": {"choice": [10, 20, 0]}}, "recipes.x, jpeg: quality 0 must lie in 1 to 100"),
        ("jpeg", {"quality": {"integers": [50, 101]}}, "quality 101 must lie in 1 to 100"),
        ("jpeg", {"quality": {"uniform": [10, 50]}}, r"'quality' is 10\.0; expected a whole number"),
        ("mosaic", {"compat_swap_rb": 1}, "'compat_swap_rb' is 1; expected true or false"),
        ("mosaic", {"pattern": "RGGB"}, "pattern"),
        ("snow", {"density": 1.5}, r"density 1\.5 and strength 0\.9 must lie in \[0, 1\]"),
        ("snow", {"size": {"uniform": [0.5, 8]}}, r"size 0\.5 must be at least 1 pixel"),
        ("snow", {"motion": -1}, "motion -1 at least 0"),
        ("strokes", {"segments": {"integers": [0, 5]}}, "segments is 0; expected at least 1"),
        ("strokes", {"thickness": {"choice": [5, 40000]}}, "thickness 40000 must lie in 1 to 32767 pixels"),
        ("strokes", {"colour": "white"}, "'colour' is 'white'; expected a whole number"),
        ("strokes", {"colour": {"choice": [0, 2]}}, r"colour is 2; expected 0 \(black\) or 1 \(white\)"),
    ],
)
def test_recipes_with_impossible_values_are_refused_before_anything_runs(operation, change, message):
    recipe = {"operation": operation, "parameters": {**PARAMETERS[operation], **change}}
    with pytest.raises(AirpipeError, match=message) as caught:
        check_operations(Recipe.model_validate([recipe]), "recipes.x")
    assert str(caught.value).startswith(f"recipes.x, {operation}: ")


@settings(max_examples=25, deadline=None)
@given(st.floats(1, 50))
def test_unclipped_noise_keeps_its_sigma_at_black_and_white(sigma):
    for level in (0, 1):
        noise = gaussian_noise(np.full((64, 64, 3), level, np.float32), rng(1), sigma=sigma) - level
        assert noise.std() * 255 == pytest.approx(sigma, rel=0.03)
        assert noise.min() < 0 < noise.max()


@pytest.mark.parametrize("image", [0, 7, 4096])
def test_a_legacy_noise_field_is_what_the_seeded_global_generator_gives(image):
    np.random.seed(image)  # noqa: NPY002
    published = np.random.normal(0, 25 / 255, (20, 30, 3))  # noqa: NPY002
    clean = picture(20, 30, 1)
    noisy = gaussian_noise(clean, rng(), sigma=25, field=legacy_noise_field((20, 30, 3), image))
    np.testing.assert_allclose(noisy - clean, published, atol=2e-7)
    np.testing.assert_array_equal(
        noisy, gaussian_noise(clean, rng(9), sigma=25, field=legacy_noise_field((20, 30, 3), image))
    )


def test_a_noise_field_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"field is \(3, 4, 3\); expected \(4, 3, 3\)"):
        gaussian_noise(picture(4, 3, 0), rng(), sigma=25, field=legacy_noise_field((3, 4, 3), 0))


# Several operations


def test_parameters_of_equal_names_are_written_down_with_their_operation():
    names = ("low_light", "rain_streaks", "motion_blur", "motion_blur")
    recipe = Recipe.model_validate([{"operation": name, "parameters": PARAMETERS[name]} for name in names])
    _, drawn = degrade(photograph()[:64, :64], recipe, rng())
    assert drawn.named() == {
        **PARAMETERS["low_light"],
        "density": 0.01,
        "rain_streaks.length": 12,
        "rain_streaks.angle": 10,
        "width": 1,
        "strength": 0.5,
        "motion_blur.length": 9,
        "motion_blur.angle": 30,
        "motion_blur.length.2": 9,
        "motion_blur.angle.2": 30,
    }
    assert drawn_names(Recipe(operations=recipe.operations[:1])) == [{name: name for name in PARAMETERS["low_light"]}]


@pytest.mark.parametrize(
    "recipe", ["low_haze", "low_rain", "low_snow", "haze_rain", "haze_snow", "low_haze_rain", "low_haze_snow"]
)
def test_a_compound_recipe_applies_the_single_ones_in_the_order_of_cdd11(recipe):
    order = [name for name in ("low", "rain", "snow", "haze") if name in recipe.split("_")]
    singles = [RECIPES["low_light" if name == "low" else name].operations[0] for name in order]
    assert RECIPES[recipe] == Recipe(operations=tuple(singles))
    image = photograph()[:64, :64]
    generator, expected = rng(5), image
    for single in singles:
        expected, _ = degrade(expected, Recipe(operations=(single,)), generator)
    np.testing.assert_array_equal(degrade(image, RECIPES[recipe], rng(5))[0], expected)


# Defocus


def test_a_disc_has_the_area_of_its_circle_and_is_round():
    for diameter in (1, 2.5, 4, 7, 11.3):
        disc = disc_kernel(diameter)
        assert disc.sum() == pytest.approx(math.pi / 4 * diameter**2, rel=0.3 if diameter < 4 else 0.05)
        for other in (disc.T, disc[::-1], disc[:, ::-1]):
            np.testing.assert_array_equal(disc, other)
    np.testing.assert_array_equal(flake_kernel(7, 0, 0), disc_kernel(7, 1))


def test_defocus_keeps_the_mean_and_grows_with_its_diameter():
    image = photograph("coffee")[50:250, 100:300]
    np.testing.assert_array_equal(defocus_blur(image, rng(), diameter=1), image)
    scores = [psnr(defocus_blur(image, rng(), diameter=diameter), image) for diameter in (2, 3, 5, 8, 12)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 26 < 33 < scores[0]
    dot = np.zeros((41, 41, 3), np.float32)
    dot[20, 20] = 1
    spread = defocus_blur(dot, rng(), diameter=9)[..., 1]
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    rows, columns = np.nonzero(spread > 1e-6)
    assert np.hypot(rows - 20, columns - 20).max() <= 5
    np.testing.assert_allclose(defocus_blur(dot + 0.25, rng(), diameter=9)[..., 1], spread + 0.25, atol=1e-6)


# JPEG


def test_jpeg_gets_better_with_its_quality():
    image = photograph()
    scores = [psnr(jpeg(image, rng(), quality=quality), image) for quality in (1, 10, 20, 30, 40, 50, 100)]
    assert scores == sorted(scores)
    assert min(better - worse for worse, better in itertools.pairwise(scores)) > 0.3
    assert scores[1] == pytest.approx(27.1, abs=0.5)
    assert scores[2] == pytest.approx(29.4, abs=0.5)


@pytest.mark.parametrize("quality", [10, 20, 50])
def test_jpeg_agrees_with_another_encoder_of_the_same_quality(quality):
    image = photograph("coffee")[:200, :301]
    buffer = io.BytesIO()
    Image.fromarray(quantised(image)).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    other = np.asarray(Image.open(buffer), np.float32) / 255
    assert abs(jpeg(image, rng(), quality=quality) - other).mean() * 255 < 0.5


@settings(max_examples=20, deadline=None)
@given(colour=st.tuples(*[st.integers(0, 255)] * 3), height=st.integers(1, 20), width=st.integers(1, 20))
def test_jpeg_keeps_colours_in_their_channels(colour, height, width):
    image = np.broadcast_to(np.float32(colour) / np.float32(255), (height, width, 3))
    compressed = jpeg(image, rng(), quality=95)
    assert abs(compressed - image).max() * 255 <= 4


def test_jpeg_rounds_and_clips_first_and_returns_eight_bit_levels():
    image = picture(24, 33, 1) * 3 - 1
    compressed = jpeg(image, rng(), quality=50)
    np.testing.assert_array_equal(compressed, jpeg(quantised(image) / np.float32(255), rng(), quality=50))
    np.testing.assert_array_equal(compressed, quantised(compressed) / np.float32(255))


def test_jpeg_refuses_pictures_that_the_format_cannot_hold():
    image = np.zeros((1, LARGEST_JPEG_SIDE + 1, 3), np.float32)
    with pytest.raises(ValueError, match="image is 65501x1 pixels; JPEG takes at most 65500 per side"):
        jpeg(image, rng(), quality=20)


# Mosaic


def test_the_bayer_pattern_has_red_at_the_corner_and_twice_as_much_green():
    sensor = bayer_pattern(np.broadcast_to(np.uint8([1, 2, 3]), (5, 7, 3)))
    np.testing.assert_array_equal(sensor[:2, :2], [[1, 2], [2, 3]])
    np.testing.assert_array_equal(sensor[2:4, 4:6], sensor[:2, :2])
    assert np.bincount(sensor.ravel()).tolist() == [0, 12, 17, 6]


@settings(max_examples=40, deadline=None)
@given(
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    height=st.integers(3, 21),
    width=st.integers(3, 21),
    swap=st.booleans(),
)
def test_a_mosaic_of_one_colour_is_exact_at_any_size(colour, height, width, swap):
    image = np.broadcast_to(np.float32(colour) / np.float32(255), (height, width, 3))
    restored = mosaic(image, rng(), compat_swap_rb=swap)
    np.testing.assert_array_equal(restored, image[..., ::-1] if swap else image)


def test_a_mosaic_keeps_what_the_sensor_saw_and_interpolates_grey_ramps_exactly():
    image = quantised(picture(31, 38, 2)) / np.float32(255)
    restored = mosaic(image, rng())[2:-2, 2:-2]
    inner = image[2:-2, 2:-2]
    np.testing.assert_array_equal(restored[0::2, 0::2, 0], inner[0::2, 0::2, 0])
    np.testing.assert_array_equal(restored[0::2, 1::2, 1], inner[0::2, 1::2, 1])
    np.testing.assert_array_equal(restored[1::2, 1::2, 2], inner[1::2, 1::2, 2])
    ramp = np.add.outer(np.arange(20) * 4, np.arange(24) * 2).astype(np.float32)[..., None] / np.float32([255] * 3)
    np.testing.assert_array_equal(mosaic(ramp, rng())[2:-2, 2:-2], ramp[2:-2, 2:-2])


@pytest.mark.parametrize(("name", "right", "swapped"), [("astronaut", 30.7, 12.4), ("coffee", 29.4, 8.5)])
def test_the_published_swap_of_red_and_blue_costs_about_twenty_decibels(name, right, swapped):
    image = photograph(name)
    restored, published = mosaic(image, rng()), mosaic(image, rng(), compat_swap_rb=True)
    np.testing.assert_array_equal(published, restored[..., ::-1])
    assert psnr(restored, image) == pytest.approx(right, abs=0.3)
    assert psnr(published, image) == pytest.approx(swapped, abs=0.3)


@pytest.mark.parametrize("size", [(2, 9), (9, 2), (1, 1)])
def test_images_too_small_for_a_mosaic_are_refused_and_do_not_turn_black(size):
    with pytest.raises(ValueError, match=rf"image is {size[1]}x{size[0]} pixels; a mosaic needs 3 pixels per side"):
        mosaic(np.ones((*size, 3), np.float32), rng())


# Strokes


def test_a_single_stroke_covers_its_length_times_its_thickness():
    side, thickness = 256, 8
    covered = np.mean([stroke_mask((side, side), rng(seed), 1, thickness).sum() for seed in range(400)])
    length = 0.5214 * side  # mean of a segment between two uniform points of a square
    assert length * thickness < covered < length * (thickness + 2)  # OpenCV draws up to two pixels more


def test_strokes_reach_all_parts_of_a_wide_image_and_more_or_thicker_ones_cover_more():
    hits = np.mean([stroke_mask((64, 192), rng(seed), 8, 7) for seed in range(150)], axis=0)
    assert hits.min() > 0
    np.testing.assert_allclose(hits[:32].mean(), hits[32:].mean(), rtol=0.1)
    np.testing.assert_allclose(hits[:, :96].mean(), hits[:, 96:].mean(), rtol=0.1)
    few, more, thick = (
        np.mean([stroke_mask((64, 192), rng(seed), *how).mean() for seed in range(60)])
        for how in ((5, 5), (10, 5), (5, 10))
    )
    assert 0.05 < few < 0.75 * more
    assert few < 0.75 * thick


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    segments=st.integers(1, 10),
    thickness=st.integers(1, 12),
    colour=st.sampled_from([0, 1]),
    seed=st.integers(0, 99),
)
def test_strokes_paint_one_colour_and_leave_the_rest_as_it_is(height, width, segments, thickness, colour, seed):
    image = picture(height, width, seed)
    hidden = stroke_mask((height, width), rng(seed), segments, thickness) > 0
    painted = strokes(image, rng(seed), segments=segments, thickness=thickness, colour=colour)
    assert (painted[hidden] == colour).all()
    np.testing.assert_array_equal(painted[~hidden], image[~hidden])


# Cells


def test_cells_are_hidden_degraded_and_left_in_exact_numbers_each_degraded_one_in_one_way():
    clean = photograph()[:128, :128]
    parameters = {**PARAMETERS["corrupted_cells"], "cell": 16, "masked": 0.3, "degraded": 0.5}
    squares = corrupted_cells(clean, rng(3), **parameters).reshape(8, 16, 8, 16, 3).swapaxes(1, 2).reshape(64, -1)
    originals = clean.reshape(8, 16, 8, 16, 3).swapaxes(1, 2).reshape(64, -1)
    hidden, untouched = (squares == 1).all(1), (squares == originals).all(1)
    assert (hidden.sum(), untouched.sum(), (~hidden & ~untouched).sum()) == (19, 13, 32)
    coded = jpeg(clean, rng(), quality=30).reshape(8, 16, 8, 16, 3).swapaxes(1, 2).reshape(64, -1)
    spread = abs(squares - originals).max(1) * 255
    uniform = ~hidden & ~untouched & (spread <= 40.01)
    assert 5 < (squares == coded).all(1).sum() < 16
    assert 5 < (uniform & ~(squares == coded).all(1)).sum() < 16
    assert (spread[~hidden] > 60).sum() > 5  # a normal distribution has tails


@pytest.mark.parametrize(("masked", "degraded", "counts"), [(0.3, 0.5, (19, 32, 13)), (0.5, 0.3, (32, 19, 13))])
def test_both_published_accounts_leave_a_fifth_of_the_cells_as_it_is(masked, degraded, counts):
    account = RECIPES["cells" if masked == 0.3 else "cells_figure"].operations[0].parameters
    assert (account["masked"].constant, account["degraded"].constant) == (masked, degraded)
    clean = np.full((128, 128, 3), 0.5, np.float32)
    parameters = {**PARAMETERS["corrupted_cells"], "cell": 16, "masked": masked, "degraded": degraded, "fill": 0}
    cells = corrupted_cells(clean, rng(), **parameters)[8::16, 8::16].reshape(64, 3)
    coded = (cells == jpeg(clean, rng(), quality=30)[0, 0]).all(1)
    found = ((cells == 0).all(1).sum(), (cells == 0.5).all(1).sum())
    assert found == (counts[0], counts[2]) and 0 < coded.sum() < counts[1]


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), cell=st.integers(1, 50), seed=st.integers(0, 99))
def test_cells_of_any_size_cover_images_of_any_size(height, width, cell, seed):
    clean = picture(height, width, seed) * 0.5
    whole = {**PARAMETERS["corrupted_cells"], "cell": cell, "masked": 1, "degraded": 0}
    assert (corrupted_cells(clean, rng(seed), **whole) == 1).all()
    np.testing.assert_array_equal(corrupted_cells(clean, rng(seed), **whole | {"masked": 0}), clean)
    assert (corrupted_cells(clean, rng(seed), **whole | {"masked": 0, "degraded": 1}) <= 1).all()


# Snow

SNOW = {"density": 0.004, "size": 10, "motion": 4, "angle": 15, "strength": 0.8}


@settings(max_examples=25, deadline=None)
@given(
    density=st.floats(0, 1),
    size=st.floats(1, 16),
    motion=st.floats(0, 10),
    angle=st.floats(-90, 90),
    strength=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_snow_mask_is_an_opacity_whatever_the_parameters(density, size, motion, angle, strength, seed):
    how = {"density": density, "size": size, "motion": motion, "angle": angle, "strength": strength}
    mask = snow_mask((24, 30), rng(seed), **how)
    assert mask.shape == (24, 30)
    assert mask.min() >= 0
    assert mask.max() <= 1
    image = picture(24, 30, seed)
    snowy = snow(image, rng(seed), **how)
    np.testing.assert_allclose(snowy, image * (1 - mask[..., None]) + mask[..., None], atol=1e-6)
    assert (snowy >= image - 1e-6).all()
    assert snowy.max() <= 1 + 1e-6


def test_snow_is_white_before_black_unseen_before_white_and_absent_at_no_density():
    black, white = np.zeros((80, 90, 3), np.float32), np.ones((80, 90, 3), np.float32)
    flakes = snow(black, rng(3), **SNOW)
    np.testing.assert_array_equal(flakes[..., 0], flakes[..., 2])
    np.testing.assert_array_equal(flakes[..., 0], snow_mask((80, 90), rng(3), **SNOW))
    np.testing.assert_allclose(snow(white, rng(3), **SNOW), 1, atol=1e-6)
    np.testing.assert_array_equal(snow(black, rng(3), **{**SNOW, "density": 0}), black)


@pytest.mark.parametrize("motion", [0, 6])
def test_sparse_snow_covers_the_area_of_its_flakes(motion):
    how = {**SNOW, "density": 0.0005, "motion": motion}
    measured = np.mean([snow_mask((500, 500), rng(seed), **how).mean() for seed in range(12)])
    area = sum(share * flake_kernel(scale * how["size"], 0, 0).sum() for scale, share in SNOW_LAYERS)
    assert measured == pytest.approx(how["density"] * area * 0.75 * how["strength"], rel=0.12)
    assert sum(share for _, share in SNOW_LAYERS) == pytest.approx(1)


def test_a_flake_has_the_area_of_a_disc_and_motion_makes_it_longer_and_more_transparent():
    still, moving = flake_kernel(9, 0, 0), flake_kernel(9, 12, 0)
    assert still.sum() == pytest.approx(math.pi / 4 * 81, rel=0.03)
    assert still.max() == 1
    assert moving.sum() == pytest.approx(still.sum(), rel=0.01)
    assert moving.max() < 0.8
    rows, columns = ((moving > 0.1).any(axis).sum() for axis in (1, 0))
    assert rows > 1.5 * columns  # an angle of 0 is vertical
    np.testing.assert_allclose(flake_kernel(9, 12, 90), moving.T, atol=1e-5)


# Colour


def test_a_colour_shift_stretches_about_mid_grey_and_adds():
    image = np.array([[[0.0, 0.5, 1.0]]], np.float32)
    shifted = colour_shift(image, rng(), contrast=0.6, brightness=0.15)
    np.testing.assert_allclose(shifted, [[[0.35, 0.65, 0.95]]], atol=1e-6)
    np.testing.assert_allclose(colour_shift(image, rng(), contrast=1, brightness=0), image, atol=1e-6)
    with pytest.raises(ValueError, match=r"contrast -1 must be at least 0 and brightness 0 in \[-1, 1\]"):
        colour_shift(image, rng(), contrast=-1, brightness=0)
