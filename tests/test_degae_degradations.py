"""DegAE's degradations: kernels, blur, JPEG as published; forms of noise; patches as if cut from degraded images."""

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import make_input

from airpipe.data.packages import locate
from airpipe.data.pairs import Pair
from airpipe.data.samples import TrainingSamples, ValidationSamples
from airpipe.data.sampling import SampleKey
from airpipe.degradations.blur import gaussian_blur, gaussian_kernel
from airpipe.degradations.compression import jpeg
from airpipe.degradations.noise import (
    FORMS,
    channel_covariance,
    channel_factors,
    gaussian_noise,
    poisson_noise,
    speckle_noise,
)
from airpipe.degradations.recipes import (
    GRID,
    OPERATIONS,
    REACH,
    WHOLE,
    Drawn,
    Step,
    apply,
    check_operations,
    draw,
    draw_parameter,
)
from airpipe.errors import AirpipeError
from airpipe.evaluation.metrics import luma
from airpipe.images import read_rgb8
from airpipe.pixels import as_floats, quantised
from airpipe.settings.degrading import Recipe
from airpipe.settings.stages import DataPart

GOLDEN = np.load(ROOT / "tests/goldens/degae_degradations.npz")
META = json.loads(str(GOLDEN["meta"]))
SHIPPED = yaml.safe_load((ROOT / "config" / "recipes.yaml").read_text())["recipes"]
DEGAE = Recipe.model_validate(SHIPPED["degae"])
MIXING = tuple(float(value) for value in np.random.default_rng(3).random(12))


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(height, width, seed):
    return make_input((height, width, 3), seed).numpy()


def photograph():
    return read_rgb8(locate("skimage:data/astronaut.png"))


def elongated(kernel):
    """The golden's parameters as ours; its angle is in radians and runs clockwise."""
    return {"variance_along": kernel["l1"], "variance_across": kernel["l2"], "angle": -np.rad2deg(kernel["theta"])}


# As published


@pytest.mark.parametrize("number", range(3))
def test_kernels_are_the_published_ones(number):
    how = META["aniso"][number]
    kernel = gaussian_kernel(how["ksize"], how["l1"], how["l2"], -np.rad2deg(how["theta"]))
    np.testing.assert_allclose(kernel, GOLDEN[f"aniso_{number}"], atol=1e-14)
    how = META["iso"][number]
    kernel = gaussian_kernel(how["ksize"], how["sigma"] ** 2, how["sigma"] ** 2)
    np.testing.assert_allclose(kernel, GOLDEN[f"iso_{number}"], atol=1e-14)


@pytest.mark.parametrize("number", [0, 1])
def test_blurred_images_are_the_published_ones(number):
    kernel = META["aniso"][number]
    blurred = gaussian_blur(picture(20, 24, 60), rng(), kernel_size=kernel["ksize"], **elongated(kernel))
    np.testing.assert_allclose(blurred, GOLDEN[f"blur_{number}"], atol=2e-6)


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_jpeg_is_the_published_one_with_either_order_of_colours(quality):
    """The published code meets blue first and takes it for red; the golden's first channel counts as red."""
    image = picture(20, 24, 61)
    np.testing.assert_allclose(jpeg(image, rng(), quality=quality), GOLDEN[f"jpeg_{quality}"], atol=2.01 / 255)
    swapped = jpeg(image[..., ::-1], rng(), quality=quality, legacy_bgr=True)[..., ::-1]
    np.testing.assert_allclose(swapped, GOLDEN[f"jpeg_{quality}"], atol=2.01 / 255)
    assert abs(jpeg(image, rng(), quality=quality, legacy_bgr=True) - GOLDEN[f"jpeg_{quality}"]).max() > 8 / 255


@pytest.mark.parametrize("which", ["a", "b"])
def test_luma_is_the_published_one(which):
    expected = GOLDEN[f"metric_{which}_y"].astype(float)
    np.testing.assert_allclose(np.rint(luma(GOLDEN[f"metric_{which}"][..., ::-1])), expected)


# Blur


@pytest.mark.parametrize(
    "how", [{"sigma": 0}, {"sigma": 1e-5}, {"variance_along": 5}, {"variance_across": 5, "angle": 40}]
)
def test_a_gaussian_without_width_changes_nothing(how):
    image = picture(16, 20, 1)
    np.testing.assert_array_equal(gaussian_blur(image, rng(), kernel_size=9, **how), image)


@settings(max_examples=40, deadline=None)
@given(
    half=st.integers(3, 12),
    along=st.floats(0, 5),
    across=st.floats(0, 5),
    angle=st.floats(0, 180),
    height=st.integers(2, 40),
    width=st.integers(2, 40),
)
def test_blur_is_a_mean_with_mirrored_borders_whatever_the_kernel(half, along, across, angle, height, width):
    how = {"kernel_size": 2 * half + 1, "variance_along": along, "variance_across": across, "angle": angle}
    image = picture(height, width, 2)
    blurred = gaussian_blur(image, rng(), **how)
    kernel = gaussian_kernel(2 * half + 1, along, across, angle)
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-15)
    mirrored = np.pad(image, ((half, half), (half, half), (0, 0)), mode="reflect")
    expected = sum(
        kernel[row, column] * mirrored[row : row + height, column : column + width]
        for row, column in itertools.product(range(2 * half + 1), repeat=2)
    )
    np.testing.assert_allclose(blurred, expected, atol=3e-6)


def test_the_long_axis_of_an_elongated_kernel_lies_at_its_angle():
    rows, columns = np.mgrid[-12:13, -12:13]
    for angle in (0, 30, 90, 150):
        kernel = gaussian_kernel(25, 4, 0.5, angle)
        moments = [(kernel * one * other).sum() for one, other in ((columns, columns), (columns, -rows), (rows, rows))]
        turned = np.deg2rad(angle)
        expected = [3.5 * np.cos(turned) ** 2, 3.5 * np.cos(turned) * np.sin(turned), 3.5 * np.sin(turned) ** 2]
        assert moments == pytest.approx(np.add(expected, [0.5, 0, 0.5]), abs=0.02)


# Noise


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=12, max_size=12))
def test_a_covariance_with_absolute_values_never_has_negative_eigenvalues(mixing):
    """For three channels the published warning of NumPy cannot come."""
    covariance = channel_covariance(255, mixing)
    assert (covariance >= 0).all()
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-12)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12
    assert np.trace(covariance) == pytest.approx(sum(mixing[:3]), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 75), st.sampled_from(FORMS), st.integers(0, 99)), min_size=1, max_size=6))
def test_factors_of_a_batch_are_those_of_each_image_and_make_its_covariance(images):
    hows = [(sigma, form, tuple(rng(seed).uniform(0, 1, 12))) for sigma, form, seed in images]
    factors = channel_factors(*zip(*hows, strict=True))
    for how, factor in zip(hows, factors, strict=True):
        sigma, form, mixing = how
        np.testing.assert_array_equal(factor, channel_factors(*([one] for one in how))[0])
        of_form = {"independent": np.eye(3), "grey": np.ones((3, 3))}
        expected = of_form[form] * (sigma / 255) ** 2 if form in of_form else channel_covariance(sigma, mixing)
        np.testing.assert_allclose(factor @ factor.T, expected, atol=1e-12)


def grain(function, level=0.5, **how):
    clean = np.full((256, 256, 3), level, np.float32)
    return ((function(clean, rng(7), **how) - clean) * 255).reshape(-1, 3)


@pytest.mark.parametrize(("function", "share"), [(gaussian_noise, 1.0), (speckle_noise, 0.5)])
def test_the_forms_of_noise_differ_in_how_channels_depend_on_each_other(function, share):
    own = grain(function, sigma=20)
    np.testing.assert_allclose(np.cov(own.T), np.diag([400 * share**2] * 3), atol=8)
    grey = grain(function, sigma=20, form="grey")
    assert abs(grey[:, 0] - grey[:, 2]).max() < 1e-4
    assert grey.std() == pytest.approx(20 * share, rel=0.02)
    mixed = grain(function, sigma=30, form="correlated", mixing=MIXING)
    expected = channel_covariance(30 * share, MIXING) * 255**2
    np.testing.assert_allclose(np.cov(mixed.T), expected, atol=0.03 * expected.max())
    assert abs(mixed.mean(0)).max() < 0.3


def test_speckle_leaves_black_as_it_is():
    assert not speckle_noise(np.zeros((9, 9, 3), np.float32), rng(), sigma=25).any()


@pytest.mark.parametrize("level", [0.004, 0.1, 0.5, 0.996])
def test_counts_of_photons_have_the_mean_variance_and_skew_of_poisson(level):
    rounded, photons = np.rint(level * 255) / 255, 120
    counts = poisson_noise(np.full((300, 300, 3), level, np.float32), rng(2), photons=photons) * photons
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-3)
    mean = rounded * photons
    centred = counts.astype(float) - mean
    assert centred.mean() == pytest.approx(0, abs=4 * np.sqrt(mean / counts.size))
    assert (centred**2).mean() == pytest.approx(mean, rel=0.03)
    assert (centred**3).mean() / mean**1.5 == pytest.approx(mean**-0.5, rel=0.1, abs=0.03)


@pytest.mark.parametrize("legacy", [False, True])
def test_grey_counts_weigh_red_green_and_blue(legacy):
    red = np.zeros((200, 200, 3), np.float32)
    red[..., 0] = 1
    noise = poisson_noise(red, rng(3), photons=1000, form="grey", legacy_bgr=legacy) - red
    assert np.ptp(noise, axis=2).max() < 1e-6
    assert noise.var() * 1000 == pytest.approx(0.114 if legacy else 0.299, rel=0.03)
    assert abs(noise.mean()) < 1e-3


def test_every_operation_of_the_recipe_is_clipped():
    white = np.ones((40, 40, 3), np.float32)
    for seed in range(60):
        found = apply(white, draw(DEGAE, rng(seed)), rng(seed))
        assert 0 <= found.min() <= found.max() <= 1
    noise = [{"operation": "gaussian_noise", "parameters": {"sigma": 50}}] * 2
    twice = Recipe.model_validate({"operations": noise, "clip": True})
    # of white, half of the pixels are clipped at each of two times
    assert (apply(white, draw(twice, rng()), rng(1)) == 1).mean() == pytest.approx(0.375, abs=0.03)


@pytest.mark.parametrize("name", ["degae", "degae_last", "degae_test"])
def test_the_recipes_are_valid(name):
    check_operations(Recipe.model_validate(SHIPPED[name]), f"recipes.{name}")


def test_parameters_that_only_some_forms_have_are_checked_there():
    forms = [{"parameters": {"sigma": 1}}, {"parameters": {"variance_along": 1, "variance_across": -2}}]
    recipe = Recipe.model_validate([{"operation": "gaussian_blur", "parameters": {"kernel_size": 9}, "forms": forms}])
    with pytest.raises(AirpipeError, match=r"recipes.x, gaussian_blur: variances 1.0 and -2.0 must be at least 0"):
        check_operations(recipe, "recipes.x")
    recipe = Recipe.model_validate([{"operation": "speckle_noise", "forms": [{"parameters": {"form": "grey"}}]}])
    with pytest.raises(AirpipeError, match="recipes.x, speckle_noise: parameter 'sigma' is missing"):
        check_operations(recipe, "recipes.x")


# Patches with surroundings

STEPS = {
    "gaussian_blur": {"kernel_size": 9, "variance_along": 3.0, "variance_across": 1.0, "angle": 20.0},
    "defocus_blur": {"diameter": 5.5},
    "motion_blur": {"length": 7.3, "angle": 20.0},
    "mosaic": {},
    "jpeg": {"quality": 40},
}


def drawn_steps(names):
    recipe = Recipe.model_validate([{"operation": name, "parameters": STEPS[name]} for name in names])
    return Drawn(recipe, tuple(Step(place, STEPS[name]) for place, name in enumerate(names)))


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=3),
    top=st.integers(0, 50),
    left=st.integers(0, 61),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
def test_a_part_is_degraded_as_if_the_whole_image_were(names, top, left, height, width):
    image = photograph()[100:190, 150:251]
    box = (slice(top, top + height), slice(left, left + width))
    part, whole = apply(image, drawn_steps(names), rng(), box=box), apply(image, drawn_steps(names), rng())[box]
    assert part.shape == whole.shape
    # blur is equal to rounding; where 8 bit follow, that may cost a level, and JPEG makes more of it
    off = abs(part - whole) * 255
    assert off.mean() < 0.02
    if names == ["jpeg"] or not {"jpeg", "mosaic"} & set(names):
        assert off.max() < 1e-3


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - WHOLE - {"poisson_noise"}))  # it draws as often as values ask
def test_an_operation_changes_what_lies_within_its_reach_and_squares(name):
    """One pixel of an image is changed: how far does the result change, with the same random numbers?"""
    shipped = (step for recipe in SHIPPED.values() for step in Recipe.model_validate(recipe).operations)
    how, seen = next(step for step in shipped if step.operation == name), 0
    for seed, parameters in itertools.product(range(3), how.possible):
        drawn = {key: draw_parameter(value, rng(seed)) for key, value in parameters.items()}
        image = photograph()[100:170, 150:230]
        changed = image.copy()
        changed[37, 41] = changed[37, 41].mean() < 0.5
        first, second = (OPERATIONS[name](one, rng(seed), **drawn) for one in (image, changed))
        rows, columns = np.nonzero(abs(first - second).max(2) > 1e-4)  # filters by Fourier transform round
        seen += len(rows)
        reach, grid = REACH[name](**drawn) if name in REACH else 0, GRID.get(name, 1)
        for places, own in ((rows, 37), (columns, 41)):
            assert (places >= own // grid * grid - reach).all()
            assert (places < (own // grid + 1) * grid + reach).all()
    assert seen  # strokes may hide the pixel


def picture_pairs(folder, images):
    pairs = []
    for number, image in enumerate(images):
        path = Path(folder) / f"img{number}.png"
        cv2.imwrite(str(path), image[..., ::-1])
        pairs.append(Pair(path, None, "", "", "none", path.stem, path.stem))
    return pairs


def transfer(**changes):
    """A part of the pretext's mix, with the recipe on both sides."""
    values = {
        "pairs": "toy.train", "recipe": "degae", "operations": SHIPPED["degae"], "target_recipe": "degae",
        "target_operations": SHIPPED["degae"], "companion": True, "surroundings": True,
    }  # fmt: skip
    return DataPart.model_validate({**values, **changes})


def test_samples_are_cut_from_degraded_whole_images_at_any_place_of_jpegs_blocks(tmp_path):
    image, places = photograph()[:120, :140], []
    how = {"operations": [{"operation": "jpeg", "parameters": {"quality": 30}}], "target_operations": []}
    samples = TrainingSamples([transfer(target_recipe=None, **how)], [picture_pairs(tmp_path, [image])], 5)
    for slot in range(40):
        sample, generator = samples[SampleKey(slot, 0, 0, 64)], rng([5, slot])
        place = [int(generator.integers(free, endpoint=True)) for free in (120 - 64, 140 - 64)]
        turns, flip = int(generator.integers(4)), int(generator.integers(2))
        top, left = place[::-1] if turns % 2 else place
        turned = np.ascontiguousarray(np.rot90(image, turns)[:, :: -1 if flip else 1])
        whole = quantised(jpeg(as_floats(turned), rng(), quality=30))
        for side, expected in (("clean", turned), ("degraded", whole)):
            np.testing.assert_array_equal(sample[side], expected[top : top + 64, left : left + 64])
        places.append((turns, flip, top % 16, left % 16))
    assert len({place[:2] for place in places}) == 8
    assert min(len({place[axis] for place in places}) for axis in (2, 3)) > 10


@pytest.mark.parametrize("samples", [TrainingSamples, ValidationSamples])
def test_companions_share_the_draw_and_not_the_noise(tmp_path, samples):
    """Grey images and noise alone: what is left of a side is its grain, with strength and form by the draw."""
    pairs = picture_pairs(tmp_path, [np.full((90, 100, 3), 128, np.uint8)] * 24)
    noise = Recipe(operations=(DEGAE.operations[1].model_copy(update={"chance": 1.0}),))
    part = transfer(operations=noise, target_operations=noise, quantise=False)
    found = samples([part], [pairs], 3, *(() if samples is TrainingSamples else (64, 8)))
    strengths = []
    for slot in range(24):
        sample = found[SampleKey(slot, 0, slot, 64) if samples is TrainingSamples else slot]
        for side in ("degraded", "clean"):
            first, second = ((one[side] * 255 - 128).reshape(-1, 3) for one in (sample, sample["companion"]))
            covariances = np.cov(first.T), np.cov(second.T)
            np.testing.assert_allclose(*covariances, atol=0.1 * covariances[0].max())
            assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.06
            strengths.append(first.std())
    assert len({round(strength) for strength in strengths}) > 10
    assert abs(np.corrcoef(strengths[::2], strengths[1::2])[0, 1]) < 0.6


def test_input_and_target_of_the_pretext_show_the_same_place(tmp_path):
    """Ramps in both directions: their means tell where a patch was cut, whatever noise, blur and JPEG do."""
    rows, columns = np.mgrid[:150, :170]
    ramp = np.stack([rows, columns, 0 * rows + 100], 2).astype(np.uint8) + 40
    samples = TrainingSamples([transfer(augment="none")], [picture_pairs(tmp_path, [ramp] * 4)], 8)
    for slot in range(20):
        sample = samples[SampleKey(slot, 0, slot % 4, 64)]
        for one in (sample, sample["companion"]):
            means = [one[side].mean((0, 1)) for side in ("degraded", "clean")]
            assert means[0] == pytest.approx(means[1], abs=1.5)


def test_samples_of_the_pretext_depend_on_seed_and_slot_alone(tmp_path):
    pairs = picture_pairs(tmp_path, [photograph()[:100, :110], photograph()[200:300, 200:310]])
    first, second = (TrainingSamples([transfer()], [pairs], 11) for _ in range(2))
    for slot in (5, 3, 9):
        one, other = (samples[SampleKey(slot, 0, slot % 2, 48)] for samples in (first, second))
        for side in ("degraded", "clean"):
            np.testing.assert_array_equal(one[side], other[side])
            np.testing.assert_array_equal(one["companion"][side], other["companion"][side])
        assert one["level"] == other["level"]


def test_levels_tell_words_and_numbers_and_no_lists(tmp_path):
    pairs = picture_pairs(tmp_path, [photograph()[:64, :64]])
    samples = TrainingSamples([transfer()], [pairs], 2)
    levels = " ".join(samples[SampleKey(slot, 0, 0, 32)]["level"] for slot in range(60))
    assert "gaussian_noise.form=correlated gaussian_noise.sigma=30" in levels
    assert "mixing" not in levels


# Bad input


@pytest.mark.parametrize("changes", [{"rescale": [0.5, 1.0]}, {"jitter": 0.5}])
def test_surroundings_of_a_changed_image_are_refused(changes):
    with pytest.raises(ValueError, match="surroundings are those of the image as it is; leave out rescale, jitter"):
        transfer(**changes)


@pytest.mark.parametrize("samples", [TrainingSamples, ValidationSamples])
def test_surroundings_of_an_image_that_is_divided_are_refused(samples):
    part = transfer(operations=SHIPPED["cells"])
    with pytest.raises(AirpipeError, match="surroundings: true with corrupted_cells, which divides the whole image"):
        samples([part], [[]], 3, *(() if samples is TrainingSamples else (64, 8)))


def test_a_patch_larger_than_the_image_is_refused(tmp_path):
    pairs = picture_pairs(tmp_path, [photograph()[:64, :80]])
    with pytest.raises(
        AirpipeError, match=r"toy.train, image img0: 80x64 pixels is smaller than patch_size 72; mirror"
    ):
        TrainingSamples([transfer()], [pairs], 2)[SampleKey(0, 0, 0, 72)]
