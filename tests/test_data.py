"""Samples are functions of (seed, step); degradations are pure; pair lists are read as written."""

import collections
import itertools
import math

import cv2
import numpy as np
import pytest
import torch
from helpers import NOISE, PARAMETERS, RAIN, ROOT, stage, toy_images
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from airpipe.data.batch import collate
from airpipe.data.crops import NINE, align, jittered, mirrored, turned
from airpipe.data.packages import locate
from airpipe.data.pairs import Pair, package_pairs, pair_up, read_pairs, write_pairs
from airpipe.data.samples import TrainingSamples
from airpipe.data.sampling import MicroBatches, SampleKey, SamplePlan, interleave
from airpipe.data.sources import ImageCache, read_depth
from airpipe.degradations.blur import line_kernel, motion_blur
from airpipe.degradations.lowlight import low_light
from airpipe.degradations.noise import gaussian_noise
from airpipe.degradations.recipes import OPERATIONS, check_operations, degrade, draw_parameter
from airpipe.degradations.weather import haze, procedural_depth, rain_streaks
from airpipe.errors import AirpipeError
from airpipe.pixels import as_floats, quantised
from airpipe.settings.base import read_yaml
from airpipe.settings.datasets import PackageFile, SplitSettings
from airpipe.settings.degrading import Draw, Recipe
from airpipe.settings.stages import Phase

GREY = np.full((64, 72, 3), 0.5, np.float32)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.lists(st.sampled_from([1, 2, 4, 5, 8, 10]), min_size=1, max_size=5))
def test_interleaving_keeps_the_shares_exactly(shares):
    counts = collections.Counter(interleave([*shares, 10]))
    assert [counts[p] * 10 for p in range(len(shares))] == [s * counts[len(shares)] for s in shares]


def test_interleaving_stays_short_for_the_sizes_of_real_data_sets():
    counts = collections.Counter(interleave([72135, 5144, 24000, 2103, 485]))
    assert [counts[p] for p in range(5)] == [1000, 71, 333, 29, 7]
    with pytest.raises(AirpipeError, match="below 1/1000 of the largest"):
        interleave([1, 10000])


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=3),
    seed=st.integers(0, 5),
)
def test_every_image_of_a_part_comes_once_per_pass_whatever_the_phases(lengths, sizes, seed):
    phases = [Phase(steps=steps, patch_size=8, batch_size=batch) for steps, batch in sizes]
    plan = SamplePlan(lengths, [1.0] * len(lengths), phases, seed)
    keys = [key for step in range(plan.steps) for key in plan.batch(step)]
    assert [key.slot for key in keys] == list(range(sum(s * b for s, b in sizes)))
    for part, length in enumerate(lengths):
        images = [key.image for key in keys if key.part == part]
        for start in range(0, len(images) - length + 1, length):
            assert sorted(images[start : start + length]) == list(range(length))


def test_progressive_phases_change_patch_and_batch_at_their_step():
    plan = SamplePlan(
        [3],
        [1.0],
        [Phase(steps=2, patch_size=8, batch_size=4), Phase(steps=1, patch_size=16, batch_size=2)],
        0,
    )
    assert [(len(plan.batch(s)), plan.batch(s)[0].patch_size) for s in range(3)] == [(4, 8), (4, 8), (2, 16)]
    with pytest.raises(IndexError, match="only 3 steps"):
        plan.batch(3)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (2, 2), (4, 1)])
def test_processes_and_micro_batches_share_one_global_batch(world, accumulate):
    plan = SamplePlan([5, 3], [2.0, 1.0], [Phase(steps=6, patch_size=8, batch_size=4)], 1)
    streams = [list(MicroBatches(plan, 2, rank, world, accumulate)) for rank in range(world)]
    for step in range(2, 6):
        mine = [key for s in streams for micro in s[(step - 2) * accumulate : (step - 1) * accumulate] for key in micro]
        assert sorted(mine) == sorted(plan.batch(step))
    assert {len(micro) for s in streams for micro in s} == {4 // (world * accumulate)}


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_count_and_start_do_not_change_a_sample(tmp_path, workers):
    settings = stage()
    pairs = [Pair(path, None, "", "", "none", path.stem, path.stem) for path in toy_images(tmp_path)]
    plan = SamplePlan([5, 5], [2.0, 1.0], settings.phases, 7)
    samples = TrainingSamples(settings.data, [pairs, pairs], 7)

    def batches(first, workers):
        sampler = MicroBatches(plan, first, 0, 1, 1)
        return DataLoader(samples, batch_sampler=sampler, collate_fn=collate, num_workers=workers)

    plain = list(itertools.islice(batches(0, 0), 12))
    parallel = list(itertools.islice(batches(0, workers), 12))
    late = list(itertools.islice(batches(9, workers), 3))
    for one, other in zip([*plain, *plain[9:]], [*parallel, *late], strict=True):
        assert torch.equal(one.degraded, other.degraded)
        assert torch.equal(one.clean, other.clean)
        assert one.level == other.level


def test_a_sample_is_cut_turned_and_degraded_as_its_generator_says(tmp_path):
    path = toy_images(tmp_path, 1)[0]
    pair = Pair(path, None, "", "", "none", "img0", "img0")
    part = stage().data[0].model_copy(update={"operations": Recipe()})
    samples = TrainingSamples([part], [[pair]], 0)
    plan = SamplePlan([1], [1.0], [Phase(steps=40, patch_size=16, batch_size=1)], 0)
    clean = cv2.imread(str(path))[..., ::-1]
    views = [np.rot90(c, t)[:, ::f] for c in (clean,) for t in range(4) for f in (1, -1)]
    seen = set()
    for step in range(40):
        sample = samples[plan.batch(step)[0]]
        np.testing.assert_allclose(sample["degraded"] * 255, sample["clean"], atol=1e-4)
        found = [i for i, view in enumerate(views) if contains(view, sample["clean"])]
        assert found
        seen.add(found[0])
    assert len(seen) == 8


def one_part(tmp_path, **changes):
    """Samples of a part of noisy images, 16 pixels, in clean level 0."""
    images = toy_images(tmp_path, 3)
    pairs = [Pair(path, None, "", "", "none", path.stem, path.stem) for path in images]
    part = stage().data[0].model_copy(update=changes)
    return TrainingSamples([part], [pairs], 5)


def noise_of(sample):
    return sample["degraded"] * np.float32(255) - sample["clean"], float(sample["level"].removeprefix("sigma="))


def test_fresh_noise_is_new_for_every_sample_of_an_image(tmp_path):
    samples = one_part(tmp_path)
    fields = [noise / sigma for noise, sigma in (noise_of(samples[SampleKey(slot, 0, 1, 16)]) for slot in range(20))]
    for one, other in itertools.combinations(fields, 2):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.2


def test_noise_seeded_by_image_is_one_field_for_each_image_for_ever_with_any_sigma(tmp_path):
    samples = one_part(tmp_path, noise_seed="image")
    sigmas = set()
    for image in range(3):
        np.random.seed(image)  # noqa: NPY002
        published = np.random.normal(0, 1, (16, 16, 3))  # noqa: NPY002
        for slot in (3, 77, 1000, 5, 6):
            noise, sigma = noise_of(samples[SampleKey(slot + image, 0, image, 16)])
            np.testing.assert_allclose(noise / sigma, published, atol=1e-4)
            sigmas.add(sigma)
    assert sigmas == {15, 25, 50}


def test_noise_seeded_by_image_changes_neither_crop_nor_sigma(tmp_path):
    fresh, image = one_part(tmp_path), one_part(tmp_path, noise_seed="image")
    for slot in range(8):
        key = SampleKey(slot, 0, slot % 3, 16)
        np.testing.assert_array_equal(fresh[key]["clean"], image[key]["clean"])
        assert fresh[key]["level"] == image[key]["level"]
        assert not np.array_equal(fresh[key]["degraded"], image[key]["degraded"])


PUBLISHED_TURNS = [
    lambda image: image,
    np.flipud,
    np.fliplr,
    np.rot90,
    lambda image: np.rot90(image, 2),
    lambda image: np.rot90(image, 3),
    lambda image: np.rot90(np.flipud(image)),
    lambda image: np.rot90(np.fliplr(image)),
    lambda image: image,
]


@pytest.mark.parametrize("choice", range(9))
def test_each_of_the_nine_choices_turns_as_published(choice):
    image = rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert len(NINE) == 9
    np.testing.assert_array_equal(turned(image, *NINE[choice]), PUBLISHED_TURNS[choice](image))


def test_nine_choices_leave_two_in_nine_samples_as_they_are(tmp_path):
    samples = one_part(tmp_path, augment="nine", recipe=None, operations=Recipe())
    image = rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for pair in samples.sources[0].pairs:
        cv2.imwrite(str(pair.clean), image[..., ::-1])
    seen = collections.Counter(samples[SampleKey(slot, 0, 0, 8)]["clean"].tobytes() for slot in range(1800))
    views = [np.ascontiguousarray(turned(image, *choice)).tobytes() for choice in sorted(set(NINE))]
    assert sorted(seen) == sorted(views) and len(views) == 8
    # standard deviations of 17.6 and 13.3
    assert seen[image.tobytes()] == pytest.approx(400, abs=60)
    assert all(seen[view] == pytest.approx(200, abs=45) for view in views if view != image.tobytes())


def test_truncated_images_lose_half_a_level_and_rounded_ones_nothing(tmp_path):
    grey = np.full((56, 48, 3), 128, np.uint8)
    strong = Recipe.model_validate([{"operation": "gaussian_noise", "parameters": {"sigma": 20}}])
    means = {}
    for quantise in (True, "truncate"):
        samples = one_part(tmp_path, quantise=quantise, operations=strong)
        for pair in samples.sources[0].pairs:
            cv2.imwrite(str(pair.clean), grey)
        noisy = np.stack([samples[SampleKey(slot, 0, 0, 48)]["degraded"] for slot in range(60)])
        assert noisy.dtype == np.uint8
        means[quantise] = noisy.mean() - 128
        assert noisy.std() == pytest.approx(np.sqrt(400 + 1 / 12), rel=0.01)
    # 414,720 numbers: the standard error of a mean is 0.03; the noise of both is the same
    assert means[True] == pytest.approx(0, abs=0.1)
    assert means[True] - means["truncate"] == pytest.approx(0.5, abs=0.01)


def test_truncating_leaves_the_levels_of_a_clean_image_and_clips_others():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(quantised(as_floats(levels), truncate=True), levels)
    image = np.array([-0.2, 0.999 / 255, 1.999 / 255, 254.9 / 255, 1.3], np.float32)
    assert quantised(image, truncate=True).tolist() == [0, 0, 1, 254, 255]
    assert quantised(image).tolist() == [0, 1, 2, 255, 255]


def test_a_noisy_patch_has_the_distribution_of_a_patch_of_a_noisy_image(tmp_path):
    """Noise on the whole image, truncation, then the crop: the published order. Here the crop comes first."""
    levels = Recipe.model_validate(read_yaml(ROOT / "config/recipes.yaml")["recipes"]["noise_0_55"])
    samples = one_part(tmp_path, quantise="truncate", operations=levels, augment="none")
    clean = cv2.imread(str(samples.sources[0].pairs[0].clean))[..., ::-1]
    generator = rng(9)
    ours, theirs = [], []
    for slot in range(1500):
        sample = samples[SampleKey(slot, 0, 0, 16)]
        ours.append(sample["degraded"].astype(int) - sample["clean"])
        noise = generator.integers(0, 55, endpoint=True) * generator.standard_normal(clean.shape)
        noisy = np.clip(clean + noise, 0, 255).astype(np.uint8).astype(int)
        top, left = (int(generator.integers(side - 16, endpoint=True)) for side in clean.shape[:2])
        theirs.append((noisy - clean)[top : top + 16, left : left + 16])
    ours, theirs = np.stack(ours), np.stack(theirs)
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.2)
    quantiles = np.linspace(0.01, 0.99, 25)
    np.testing.assert_allclose(np.quantile(ours, quantiles), np.quantile(theirs, quantiles), atol=4)
    strengths = [np.sort(errors.std((1, 2, 3))) for errors in (ours, theirs)]
    assert np.abs(strengths[0] - strengths[1]).mean() < 2
    assert {sample["level"] for sample in (samples[SampleKey(slot, 0, 0, 16)] for slot in range(600))} == {
        f"sigma={sigma}" for sigma in range(56)
    }


def test_small_images_are_refused_or_mirrored_below_and_to_the_right(tmp_path):
    key = SampleKey(4, 0, 0, 52)  # of 48x56 pixels
    with pytest.raises(AirpipeError, match=r"56x48 pixels is smaller than patch_size 52; .* \(small_images: reflect\)"):
        one_part(tmp_path)[key]
    clean = one_part(tmp_path, small_images="reflect")[key]["clean"]
    original = cv2.imread(str(toy_images(tmp_path, 1)[0]))[..., ::-1]
    padded = cv2.copyMakeBorder(original, 0, 4, 0, 0, cv2.BORDER_REFLECT)
    assert any(contains(np.rot90(padded, t)[:, ::f], clean) for t in range(4) for f in (1, -1))
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert mirrored(grey, 3) is grey
    assert mirrored(grey, 8).tolist() == np.pad(grey, [(0, 5), (0, 4)], mode="symmetric").tolist()


def test_small_images_settings_change_nothing_for_large_ones(tmp_path):
    key = SampleKey(4, 0, 0, 32)
    for name in ("clean", "degraded"):
        np.testing.assert_array_equal(
            one_part(tmp_path)[key][name], one_part(tmp_path, small_images="reflect")[key][name]
        )


def test_jitter_changes_order_exponent_and_factor_and_nothing_else(tmp_path):
    levels = np.arange(256, dtype=np.uint8)
    clean = np.stack([levels, levels // 2, levels // 4], -1)[None]
    orders, whites = set(), []
    for seed in range(40):
        other = jittered(clean, 0.5, rng(seed))
        order = tuple(int(np.argmax([np.abs(other[0, :, c].astype(int) - want).sum() < 1 for want in per]))
                      for c, per in enumerate(expected(clean, other, seed)))  # fmt: skip
        orders.add(order)
        assert sorted(order) == [0, 1, 2]
        whites.append(other.max() / 255)
    assert len(orders) == 6
    assert min(whites) >= math.exp(-0.5) - 0.01 and max(whites) <= 1 and max(whites) - min(whites) > 0.2
    assert (jittered(clean, 0.5, rng(3)) == jittered(clean, 0.5, rng(3))).all()


def expected(clean, other, seed):
    """For each channel of `other`: the three channels of `clean` under the drawn exponent and factor."""
    draws = rng(seed)
    draws.permutation(3)
    exponent, factor = math.exp(draws.uniform(-0.5, 0.5)), math.exp(-draws.uniform(0, 0.5))
    curve = np.rint(255 * factor * (np.arange(256) / 255) ** exponent)
    return [[curve[clean[0, :, source]] for source in range(3)] for _ in range(3)]


def test_jitter_varies_the_clean_crop_before_it_is_degraded_and_nothing_without_it(tmp_path):
    key = SampleKey(slot=3, part=0, image=1, patch_size=16)
    plain, varied = one_part(tmp_path)[key], one_part(tmp_path, jitter=0.5)[key]
    assert not np.array_equal(plain["clean"], varied["clean"])
    curve = {}
    for before, after in zip(np.sort(plain["clean"].reshape(-1)), np.sort(varied["clean"].reshape(-1)), strict=True):
        assert curve.setdefault(before, after) == after  # one monotone curve for all channels
    noise = (varied["degraded"] - varied["clean"].astype(np.float32) / 255).std() * 255
    assert 10 < noise < 60


def contains(view, patch):
    windows = np.lib.stride_tricks.sliding_window_view(view, patch.shape)[:, :, 0]
    return bool((windows == patch).all((2, 3, 4)).any())


@pytest.mark.parametrize("name", OPERATIONS)
def test_degradations_are_pure_and_fixed_by_their_generator(name):
    image = rng(1).random((40, 52, 3), dtype=np.float32)
    kept = image.copy()
    first = OPERATIONS[name](image, rng(5), **PARAMETERS[name])
    again = OPERATIONS[name](image, rng(5), **PARAMETERS[name])
    assert first.dtype == np.float32
    assert first.shape == image.shape
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, kept)
    assert abs(first - image).mean() > 0.005


@pytest.mark.parametrize("sigma", [15, 25, 50])
def test_noise_has_the_requested_strength(sigma):
    noise = gaussian_noise(np.full((256, 256, 3), 0.5, np.float32), rng(), sigma=sigma) - 0.5
    assert noise.std() * 255 == pytest.approx(sigma, rel=0.01)
    assert abs(noise.mean()) * 255 < 0.3
    correlation = np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]
    assert abs(correlation) < 0.01


def test_motion_blur_of_one_pixel_changes_nothing_and_a_line_has_its_length():
    image = rng(2).random((30, 30, 3), dtype=np.float32)
    np.testing.assert_allclose(motion_blur(image, rng(), length=1, angle=0), image, atol=1e-6)
    kernel = line_kernel(9, 0)
    assert kernel.sum() == pytest.approx(1)
    assert (kernel > 0).sum() == 9
    np.testing.assert_allclose(line_kernel(9, 90).T, kernel, atol=1e-6)
    np.testing.assert_allclose(motion_blur(GREY, rng(), length=9, angle=33), GREY, atol=1e-6)


def test_rain_adds_light_only_in_proportion_to_its_density():
    dry = np.zeros((200, 200, 3), np.float32)
    parameters = {"length": 10, "angle": 0, "width": 1, "strength": 0.8}
    light = rain_streaks(dry, rng(), density=0.001, **parameters)
    heavy = rain_streaks(dry, rng(), density=0.004, **parameters)
    assert light.min() >= 0
    assert heavy.mean() / light.mean() == pytest.approx(4, rel=0.25)
    assert (light[..., 0] == light[..., 2]).all()
    rows, columns = (np.abs(np.diff(heavy[..., 0], axis=a)).mean() for a in (0, 1))
    assert columns > 3 * rows  # vertical streaks change quickly across, slowly along
    photograph = np.random.default_rng(0).random(dry.shape, np.float32)
    wet = rain_streaks(photograph, rng(), density=0.004, **parameters)
    np.testing.assert_array_equal(wet, photograph + heavy)


def test_haze_follows_the_scattering_model():
    depth = np.linspace(0, 1, 72, dtype=np.float32)[None].repeat(64, 0)
    hazy = haze(GREY, rng(), airlight=0.8, beta=1.2, near=0.5, far=1.5, depth=depth)
    transmission = np.exp(-1.2 * (0.5 + depth))[..., None]
    expected = np.repeat(0.5 * transmission + 0.8 * (1 - transmission), 3, axis=2)
    np.testing.assert_allclose(hazy, expected, atol=1e-6)


def test_low_light_darkens_by_gain_and_gamma():
    np.testing.assert_allclose(low_light(GREY, rng(), gain=0.4, gamma=2, sigma=0), 0.1, atol=1e-6)


def test_procedural_depth_fills_zero_to_one():
    depth = procedural_depth((50, 80), rng(3))
    assert (depth.min(), depth.max(), depth.shape) == (0, 1, (50, 80))


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("gaussian_noise", {"sigma": -1}, "sigma is -1"),
        ("rain_streaks", {"density": 2}, "must lie in"),
        ("haze", {"near": 2}, "near 2 > far"),
        ("motion_blur", {"length": 0}, "at least 1 pixel"),
        ("low_light", {"gamma": 0.5}, "gamma 0.5 must be at least 1"),
    ],
)
def test_impossible_parameters_are_refused(name, bad, message):
    with pytest.raises(ValueError, match=message):
        OPERATIONS[name](GREY, rng(), **{**PARAMETERS[name], **bad})


def test_recipes_draw_within_their_ranges_and_write_down_what_they_drew():
    recipe = Recipe.model_validate([NOISE, RAIN])
    degraded, draws = degrade(GREY, recipe, rng(4))
    again, _ = degrade(GREY, recipe, rng(4))
    np.testing.assert_array_equal(degraded, again)
    drawn = draws.named()
    assert drawn["sigma"] in (15, 25, 50)
    assert -20 <= drawn["angle"] <= 20
    assert {draw_parameter(Draw(integers=(1, 3)), rng(i)) for i in range(50)} == {1, 2, 3}


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ({"operation": "gausian_noise"}, "did you mean 'gaussian_noise'"),
        ({"operation": "gaussian_noise", "parameters": {"sigm": 3}}, "did you mean 'sigma'"),
        ({"operation": "gaussian_noise"}, "parameter 'sigma' is missing"),
    ],
)
def test_recipes_are_checked_against_the_functions(operation, message):
    with pytest.raises(AirpipeError, match=message):
        check_operations(Recipe.model_validate([operation]), "recipes.x")


def test_real_depth_is_used_and_grows_with_distance():
    depth = read_depth(locate("skimage:data/motorcycle_disp.npz"))
    assert depth.shape == (500, 741)
    assert (depth.min(), depth.max()) == (0, 1)
    assert depth[400, 300] < 0.2 < 0.4 < depth[20, 400]  # the wheel is nearer than the wall


def test_the_cache_forgets_the_oldest_image_and_returns_equal_pixels(tmp_path):
    paths = toy_images(tmp_path, 4)
    cache = ImageCache(limit=2 * 48 * 56 * 3)
    first = cache.rgb8(paths[0])
    for path in paths:
        cache.rgb8(path)
    assert len(cache._images) == 2
    np.testing.assert_array_equal(cache.rgb8(paths[0]), first)


def test_crop_rules_line_up_pairs_and_refuse_the_rest():
    clean = np.arange(12 * 14 * 3, dtype=np.uint8).reshape(12, 14, 3)
    degraded, cut = align(clean[1:-1, 2:-2], clean, "centre", "x")
    np.testing.assert_array_equal(degraded, cut)
    degraded, cut = align(clean[:10, :9], clean, "top_left", "x")
    np.testing.assert_array_equal(degraded, cut)
    with pytest.raises(AirpipeError, match=r"x: degraded is \(10, 9\), clean \(12, 14\)"):
        align(clean[:10, :9], clean, "none", "x")


def test_depth_files_travel_in_the_json_of_an_embedded_list(tmp_path):
    file = PackageFile(
        name="m.png", package="skimage", path="data/motorcycle_left.png", sha256="0" * 64, split="train", group="m",
        depth="data/motorcycle_disp.npz",
    )  # fmt: skip
    rows, depth = package_pairs([file])
    write_pairs(tmp_path / "photos.train.csv", rows, {"depth": depth})
    pair = read_pairs(tmp_path / "photos.train.csv", None)[0]
    assert pair.depth == locate("skimage:data/motorcycle_disp.npz")
    assert math.isclose(pair.clean.stat().st_size, locate("skimage:data/motorcycle_left.png").stat().st_size)


def test_a_list_of_folder_files_without_its_folder_is_refused(tmp_path):
    write_pairs(tmp_path / "d.train.csv", pair_up(["a.png"], SplitSettings(clean="*.png")).rows, {})
    with pytest.raises(AirpipeError, match="a.png: a file of a folder, but no folder was given"):
        read_pairs(tmp_path / "d.train.csv", None)
