"""Batches degraded on the device: the draws of the loader, its distributions, and noise that the sample fixes."""

import inspect
import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from helpers import NOISE, PARAMETERS, RAIN, Stage, card, on_disk, read_config, stage, train
from hypothesis import given, settings
from hypothesis import strategies as st

from airpipe.data.batch import collate
from airpipe.data.deferred import collate_deferred, why_not
from airpipe.data.packages import locate
from airpipe.data.pairs import Pair
from airpipe.data.samples import TrainingSamples
from airpipe.data.sampling import SampleKey
from airpipe.degradations.batched import BATCHED, Work, apply_batched
from airpipe.degradations.compression import jpeg
from airpipe.degradations.noise import channel_covariance
from airpipe.degradations.recipes import OPERATIONS, Drawn, Step, apply, defaults, draw
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.methods.baseline.training import BaselineTask
from airpipe.pixels import as_floats
from airpipe.settings.base import check_settings
from airpipe.settings.degrading import Recipe
from airpipe.settings.stages import ComputeSettings, DataPart

SHIPPED = read_config("recipes.yaml")["recipes"]
MIXING = tuple(float(value) for value in np.random.default_rng(3).random(12))
CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rng(seed=0):
    return np.random.default_rng(seed)


def photograph():
    return read_rgb8(locate("skimage:data/astronaut.png"))


def tensor(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def framed(images, height, width):
    """Images in the upper left of equal frames, and their sizes; grey beyond them."""
    frames = torch.full((len(images), 3, height, width), 0.4)
    for frame, image in zip(frames, images, strict=True):
        frame[:, : image.shape[0], : image.shape[1]] = tensor(image)
    return frames.to(DEVICE), [image.shape[:2] for image in images]


def unframed(frames, sizes):
    return [
        frame[:, :height, :width].cpu().numpy().transpose(1, 2, 0)
        for frame, (height, width) in zip(frames, sizes, strict=True)
    ]


def once(operation, images, **parameters):
    """One operation on a batch of images of any sizes, equal parameters for all."""
    frames, sizes = framed(images, *np.max([image.shape[:2] for image in images], 0) + (7, 3))
    recipe = Recipe.model_validate([{"operation": operation, "parameters": parameters}])
    work = [Work.of(Drawn(recipe, (Step(0, parameters),)), seed) for seed in range(len(images))]
    return unframed(apply_batched(frames, sizes, work), sizes)


# Operations


@pytest.mark.parametrize("name", BATCHED)
def test_batches_take_the_parameters_of_the_operation_of_that_name(name):
    own, one = (
        {p.name for p in inspect.signature(table[name]).parameters.values() if p.kind is p.KEYWORD_ONLY}
        for table in (BATCHED, OPERATIONS)
    )
    assert own == one - {"field"}


@settings(max_examples=40, deadline=None)
@given(
    half=st.integers(0, 12),
    sigma=st.floats(0, 2.2),
    along=st.floats(0, 5),
    across=st.floats(0, 5),
    angle=st.floats(0, 180),
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=3),
)
def test_blur_is_that_of_each_image_alone_with_its_own_border(half, sigma, along, across, angle, sizes):
    how = {
        "kernel_size": 2 * half + 1, "sigma": sigma, "variance_along": along, "variance_across": across, "angle": angle
    }  # fmt: skip
    images = [rng(number).random((*size, 3), dtype=np.float32) for number, size in enumerate(sizes)]
    for image, found in zip(images, once("gaussian_blur", images, **how), strict=True):
        np.testing.assert_allclose(found, OPERATIONS["gaussian_blur"](image, rng(), **how), atol=3e-6)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("quality", [1, 10, 30, 49, 50, 75, 95, 100])
def test_jpeg_is_that_of_opencv_but_for_rounding(quality, legacy):
    """Only the transform differs: OpenCV's is in whole numbers. A frequency near a half then falls either way."""
    images = [as_floats(photograph()[60 : 60 + height, 180 : 180 + width]) for height, width in ((160, 144), (101, 87))]
    for image, found in zip(images, once("jpeg", images, quality=quality, legacy_bgr=legacy), strict=True):
        off = (found - jpeg(image, rng(), quality=quality, legacy_bgr=legacy)) * 255
        assert abs(off).mean() < 0.35
        assert abs(off.mean()) < 0.1
        assert (off**2).mean() < 2  # a PSNR of at least 45 dB between the two
        np.testing.assert_allclose(found * 255, np.rint(found * 255), atol=1e-4)


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_jpeg_leaves_the_edges_of_blocks_that_opencv_leaves(quality):
    """Steps across the edges of blocks, relative to those within: what a network sees of JPEG."""
    image = as_floats(photograph()[:256, :256])
    (found,), one = once("jpeg", [image], quality=quality), jpeg(image, rng(), quality=quality)

    def blocking(decoded):
        steps = abs(np.diff(decoded.astype(float), axis=1)).mean((0, 2))
        edges = np.arange(len(steps)) % 8 == 7
        return steps[edges].mean() / steps[~edges].mean()

    assert blocking(one) > blocking(image) + 0.02
    assert blocking(found) == pytest.approx(blocking(one), rel=0.01)


@pytest.mark.parametrize(("name", "share"), [("gaussian_noise", 1.0), ("speckle_noise", 0.5)])
def test_noise_has_the_strength_and_the_channels_of_its_form_and_a_flat_spectrum(name, share):
    def grain(**how):
        found = once(name, [np.full((256, 200, 3), 0.5, np.float32)] * 2, **how)
        first, second = ((image.astype(float) - 0.5) * 255 for image in found)
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02
        return first

    own = grain(sigma=20).reshape(-1, 3)
    np.testing.assert_allclose(np.cov(own.T), np.diag([400 * share**2] * 3), atol=8)
    assert abs(own.mean(0)).max() < 0.3
    assert (own**3).mean() / own.std() ** 3 == pytest.approx(0, abs=0.03)
    assert (own**4).mean() / own.std() ** 4 == pytest.approx(3, abs=0.06)
    grey = grain(sigma=20, form="grey")
    assert abs(grey[..., 0] - grey[..., 2]).max() < 1e-4
    assert grey.std() == pytest.approx(20 * share, rel=0.02)
    mixed = grain(sigma=30, form="correlated", mixing=MIXING).reshape(-1, 3)
    expected = channel_covariance(30 * share, MIXING) * 255**2
    np.testing.assert_allclose(np.cov(mixed.T), expected, atol=0.03 * expected.max())
    spectrum = abs(np.fft.rfft2(grain(sigma=20)[..., 1])) ** 2 / (256 * 200 * 400 * share**2)
    bands = [spectrum[:128][:, part].mean() for part in np.array_split(np.arange(1, 100), 6)]
    np.testing.assert_allclose(bands, 1, atol=0.08)


@pytest.mark.parametrize("level", [0.004, 0.1, 0.5, 0.996])
def test_counts_of_photons_have_the_mean_variance_and_skew_of_poisson(level):
    mean = np.rint(level * 255) / 255 * 120
    counts = once("poisson_noise", [np.full((300, 300, 3), level, np.float32)], photons=120)[0].astype(float) * 120
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-3)
    centred = counts - mean
    assert centred.mean() == pytest.approx(0, abs=4 * np.sqrt(mean / counts.size))
    assert (centred**2).mean() == pytest.approx(mean, rel=0.03)
    assert (centred**3).mean() / mean**1.5 == pytest.approx(mean**-0.5, rel=0.1, abs=0.03)


@pytest.mark.parametrize("legacy", [False, True])
def test_grey_counts_weigh_red_green_and_blue(legacy):
    red = np.zeros((200, 200, 3), np.float32)
    red[..., 0] = 1
    noise = once("poisson_noise", [red], photons=1000, form="grey", legacy_bgr=legacy)[0] - red
    assert np.ptp(noise, axis=2).max() < 1e-6
    assert noise.var() * 1000 == pytest.approx(0.114 if legacy else 0.299, rel=0.03)


@pytest.mark.parametrize("name", BATCHED)
def test_operations_compute_on_the_device_of_their_images(name):
    """The meta device refuses, as a GPU does, to compute with tensors of the host."""
    given = {**defaults(name), **PARAMETERS[name]}
    found = BATCHED[name](
        torch.empty(2, 3, 40, 50, device="meta"),
        [(40, 50), (31, 17)],
        [None, None],
        **{key: [value, value] for key, value in given.items()},
    )
    assert found.is_meta
    assert found.shape == (2, 3, 40, 50)


# Recipes


def numbers_of(image, clean):
    """Mean, spread, five bands of the spectrum (logarithms) and the edges of blocks of a degraded image."""
    image = image.astype(float) * 255
    grey = image.mean(2)
    power = abs(np.fft.fft2((grey - grey.mean()) * np.hanning(len(grey))[:, None] * np.hanning(grey.shape[1]))) ** 2
    far = np.hypot(*np.meshgrid(np.fft.fftfreq(len(grey)), np.fft.fftfreq(grey.shape[1]), indexing="ij"))
    bands = [np.log10(power[(far >= low) & (far < low + 0.1)].mean() + 1) for low in (0, 0.1, 0.2, 0.3, 0.4)]
    steps = abs(np.diff(grey, axis=1)).mean(0)
    edges = np.arange(len(steps)) % 8 == 7
    residual = image - clean.astype(float) * 255
    return np.array([image.mean(), residual.mean(), residual.std(), *bands, steps[edges].mean(), steps[~edges].mean()])


@pytest.mark.parametrize("name", ["degae", "degae_last", "degae_test"])
def test_of_the_same_draws_batches_have_the_statistics_of_single_images(name):
    recipe, clean = Recipe.model_validate(SHIPPED[name]), as_floats(photograph()[40:168, 150:278])
    draws = [draw(recipe, rng(seed)) for seed in range(120)]
    one = np.array([numbers_of(apply(clean, drawn, rng(seed)), clean) for seed, drawn in enumerate(draws)])
    frames, sizes = framed([clean] * len(draws), 128, 128)
    found = apply_batched(frames, sizes, [Work.of(drawn, seed) for seed, drawn in enumerate(draws)])
    many = np.array([numbers_of(image, clean) for image in unframed(found, sizes)])
    again = np.array([numbers_of(apply(clean, drawn, rng(seed + 999)), clean) for seed, drawn in enumerate(draws)])
    # single images with other noise say how far the noise alone takes these numbers
    scatter = abs(again - one)
    assert (abs(many - one).mean(0) <= 1.5 * scatter.mean(0) + 0.01).all()
    assert (abs((many - one).mean(0)) <= 4 * scatter.std(0) / np.sqrt(len(draws)) + 0.01).all()


def test_what_else_is_in_a_batch_changes_an_image_by_rounding_only():
    recipe = Recipe.model_validate(SHIPPED["degae"])
    images = [as_floats(photograph()[:height, 100 : 100 + width]) for height, width in ((64, 70), (90, 64), (48, 48))]
    work = [Work.of(draw(recipe, rng(seed)), seed) for seed in (4, 9, 18)]
    assert all(len(one.steps) > 1 for one in work)
    together = unframed(apply_batched(*framed(images, 96, 96), work), [image.shape[:2] for image in images])
    for image, one, found in zip(images, work, together, strict=True):
        (alone,) = unframed(apply_batched(*framed([image], *image.shape[:2]), [one]), [image.shape[:2]])
        off = abs(alone - found) * 255
        assert (off < 0.01).mean() > 0.99  # where 8 bit follow, rounding may cost a level
        assert off.mean() < 0.05


def test_every_operation_is_clipped_where_its_recipe_says_so():
    noise = [{"operation": "gaussian_noise", "parameters": {"sigma": 50}}] * 2
    white = np.ones((60, 60, 3), np.float32)
    for clip, above in ((True, 0.0), (False, 0.5)):
        drawn = draw(Recipe.model_validate({"operations": noise, "clip": clip}), rng())
        (found,) = unframed(apply_batched(*framed([white], 60, 60), [Work.of(drawn, 3)]), [(60, 60)])
        assert (found > 1).mean() == pytest.approx(above, abs=0.03)
        # of white, half of the pixels are clipped at each of two times
        assert (found == 1).mean() == pytest.approx(0.375 if clip else 0, abs=0.03)


# Samples


def picture_pairs(folder, sizes=((120, 140), (97, 83), (150, 64))):
    pairs = []
    for number, (height, width) in enumerate(sizes):
        path = folder / f"img{number}.png"
        cv2.imwrite(str(path), photograph()[:height, 100 : 100 + width, ::-1])
        pairs.append(Pair(path, None, "", "", "none", path.stem, path.stem))
    return pairs


def transfer(**changes):
    """A part of DegAE's pretext."""
    own = {"recipe": "degae", "operations": SHIPPED["degae"], "target_recipe": "degae"}
    own |= {"target_operations": SHIPPED["degae"], "companion": True, "surroundings": True}
    return DataPart.model_validate({"pairs": "toy.train", **own, **changes})


def both_batches(folder, part, count=24, side=48):
    """The batch of the loader, and the one that the device degrades."""
    keys = [SampleKey(slot, 0, slot % 3, side) for slot in range(count)]
    pairs = [picture_pairs(folder)]
    one, later = (TrainingSamples([part], pairs, 5, defer=defer) for defer in (False, True))
    return collate([one[key] for key in keys]).to(CPU), collate_deferred([later[key] for key in keys]).to(DEVICE).to(
        CPU
    )


def images_of(batch):
    companion = [batch.companion.degraded, batch.companion.clean] if batch.companion else []
    return torch.stack([batch.degraded, batch.clean, *companion])


PLAIN = {"companion": False, "surroundings": False, "target_recipe": None, "target_operations": []}
BLUR_JPEG = [
    {"operation": "gaussian_blur", "parameters": PARAMETERS["gaussian_blur"], "chance": 0.7},
    {"operation": "jpeg", "parameters": {"quality": {"integers": [30, 95]}}, "chance": 0.7},
]
SHUFFLED = {"operations": BLUR_JPEG, "shuffle": 0.5}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"surroundings": False, "rescale": [0.5, 1.0], "jitter": 0.5},
        {**PLAIN, "operations": [NOISE], "quantise": False},
        {**PLAIN, "operations": {**SHIPPED["degae"], "composition": "last"}, "small_images": "reflect"},
        {**PLAIN, "recipe": None, "operations": []},
    ],
)
def test_crops_and_draws_are_those_of_the_loader(tmp_path, changes):
    one, later = both_batches(tmp_path, transfer(**changes))
    for name in ("name", "level", "slot"):
        assert getattr(one, name) == getattr(later, name)
    for name in ("drawn", "target_drawn"):
        assert getattr(one, name).operations == getattr(later, name).operations
        assert torch.equal(getattr(one, name).applied, getattr(later, name).applied)
        assert torch.equal(getattr(one, name).values.nan_to_num(-1), getattr(later, name).values.nan_to_num(-1))
    assert torch.equal(one.label, later.label)
    assert torch.equal(one.category, later.category)
    assert (one.companion is None) == (later.companion is None)
    if one.companion is not None:
        assert one.companion.name == later.companion.name
    ours, theirs = images_of(later), images_of(one)
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float32
    # the same place, whatever the noise: means over squares of 8x8 pixels
    assert (torch.nn.functional.avg_pool2d((ours - theirs).flatten(0, 1), 8).abs().mean() * 255) < 4
    untouched = ~one.drawn.applied.any(1)
    assert torch.equal(later.degraded[untouched], one.degraded[untouched])
    if not changes.get("target_operations", True):
        assert torch.equal(later.clean, one.clean)


@pytest.mark.parametrize("changes", [{}, {"surroundings": False}, {"quantise": False}])
def test_patches_without_noise_are_those_of_the_loader_at_borders_and_within(tmp_path, changes):
    one, later = both_batches(tmp_path, transfer(operations=SHUFFLED, target_operations=SHUFFLED, **changes), count=60)
    off = (images_of(later) - images_of(one)).abs() * 255
    assert off.mean() < 0.1
    assert off.mean((2, 3, 4)).max() < 0.6
    # the first 2 and last 2 rows and columns alone: what lies around the patch counts there
    inner = torch.zeros(48, 48, dtype=torch.bool)
    inner[2:-2, 2:-2] = True
    assert off[..., ~inner].mean() < 0.15


def test_truncated_parts_are_degraded_by_the_loader():
    part = transfer(**PLAIN | {"operations": [NOISE], "quantise": "truncate"})
    assert why_not([part]) == "toy.train: its degraded images are truncated to 8 bit"
    assert why_not([transfer(**PLAIN | {"operations": [NOISE]})]) is None


def test_pairs_of_files_pass_as_they_are(tmp_path):
    pairs = [replace(pair, degraded=pair.clean, level="file") for pair in picture_pairs(tmp_path)]
    part = transfer(**PLAIN | {"recipe": None, "operations": []})
    samples = TrainingSamples([part], [pairs], 5, defer=True)
    batch = collate_deferred([samples[SampleKey(slot, 0, slot % 3, 48)] for slot in range(4)]).to(DEVICE).to(CPU)
    assert torch.equal(batch.degraded, batch.clean)
    assert batch.level == ["file"] * 4


def test_noise_is_fixed_by_seed_and_slot_and_differs_between_images(tmp_path):
    flat = [np.full((80, 80, 3), 128, np.uint8)] * 3
    pairs = picture_pairs(tmp_path)
    for pair, image in zip(pairs, flat, strict=True):
        cv2.imwrite(str(pair.clean), image)
    noise = [{"operation": "gaussian_noise", "parameters": {"sigma": 25}}]
    part = transfer(operations=noise, target_operations=noise, quantise=False)

    def grain(seed, slots):
        samples = TrainingSamples([part], [pairs], seed, defer=True)
        batch = collate_deferred([samples[SampleKey(slot, 0, slot % 3, 48)] for slot in slots]).to(DEVICE).to(CPU)
        return images_of(batch) - 128 / 255

    whole = grain(1, range(6))
    assert torch.equal(grain(1, [4, 2]), whole[:, [4, 2]])
    assert not torch.equal(grain(2, range(6)), whole)
    each = whole.reshape(24, -1)
    assert (torch.corrcoef(each) - torch.eye(24)).abs().max() < 0.06
    assert each.std().item() * 255 == pytest.approx(25, rel=0.01)


# Stages


ONLINE = [{"operation": "gaussian_blur", "parameters": PARAMETERS["gaussian_blur"]}, NOISE, *BLUR_JPEG]
MIX = {
    "pairs": "toy.train", "recipe": "some", "operations": {"operations": ONLINE, "clip": True}, "surroundings": True
}  # fmt: skip
ON_DEVICE = ("--degrade", "device")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Sixty steps."""
    done = Stage(tmp_path_factory.mktemp("finished"), stage(data=[MIX]))
    done.run(*ON_DEVICE)
    return done


def test_a_killed_and_resumed_stage_ends_with_the_same_bits_whatever_the_workers(finished, tmp_path, monkeypatch):
    step = BaselineTask.step

    def killed(self, batch, at):
        if at.step == 37:
            raise KeyboardInterrupt
        return step(self, batch, at)

    again = on_disk(tmp_path, stage(data=[MIX]), classes=False)
    with monkeypatch.context() as patched:
        patched.setattr(BaselineTask, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            again.run(*ON_DEVICE, "--checkpoint-seconds", "0.0001")
    assert "from step 37 of 60" in again.run(*ON_DEVICE, "--workers", "2").stdout
    assert again.weights() == finished.weights()
    assert again.curves() == finished.curves()


def test_the_card_says_where_samples_were_degraded_and_the_loader_gives_other_bits(finished, tmp_path):
    plain = train(tmp_path, stage(data=[MIX]))
    assert card(finished)["degrade"] == "device"
    assert "degrade" not in card(plain)
    assert card(finished)["settings_hash"] == card(plain)["settings_hash"]
    assert plain.weights() != finished.weights()


def test_the_other_way_resumes_with_a_line(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    said = Stage(tmp_path, stage(data=[MIX])).run().stdout
    assert "'degrade': 'device'}: bits may differ" in said


def test_a_stage_with_an_operation_that_batches_lack_is_degraded_in_the_loader_and_says_so(tmp_path):
    short = stage(data=[MIX, {**MIX, "operations": [RAIN]}], phases=[{"steps": 4, "patch_size": 16, "batch_size": 4}])
    made, plain = (on_disk(tmp_path / name, short) for name in ("device", "loader"))
    said = made.run(*ON_DEVICE).stdout
    assert "degrading in the loader, not on the device (compute: degrade): toy.train: rain_streaks cannot be" in said
    plain.run()
    assert made.weights() == plain.weights()
    assert "degrade" not in json.loads((made.workdir / "state" / "run.json").read_text())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"operations": [RAIN, NOISE]}, "toy.train: rain_streaks cannot be applied to batches"),
        ({"target_operations": [RAIN], "target_recipe": "rain"}, "rain_streaks cannot be applied to batches"),
        ({"operations": [NOISE], "noise_seed": "image"}, "toy.train: its noise is seeded by image"),
        ({}, "toy.train: what is drawn for an operation depends on the noise of the one before"),
    ],
)
def test_what_stays_in_the_loader_has_a_reason(changes, reason):
    assert reason in why_not([transfer(), transfer(**PLAIN | changes)])
    assert why_not([transfer()]) is None


def test_another_word_for_where_to_degrade_is_refused():
    with pytest.raises(AirpipeError, match=r"degrade: Input should be 'loader' or 'device' \(found 'gpu'\)"):
        check_settings(ComputeSettings, {"degrade": "gpu"}, "compute.demo.default")


def test_photons_of_an_image_are_the_same_alone_and_beside_others_of_other_forms_and_sizes():
    images = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(5))
    images[3] = images[2]
    sizes, photons = [(20, 24), (24, 16), (17, 24), (17, 24)], [100.0, 300.0, 900.0, 900.0]
    forms = ["independent", "grey", "grey", "grey"]
    how = list(zip(photons, forms, [False, False, False, True], strict=True))
    seeds = [1, 2, 3, 3]

    def drawn(places):
        height, width = (24, 24) if len(places) > 1 else sizes[places[0]]
        columns = zip(*(how[place] for place in places), strict=True)
        return BATCHED["poisson_noise"](
            images[places, :, :height, :width],
            [sizes[place] for place in places],
            [torch.Generator().manual_seed(seeds[place]) for place in places],
            **dict(zip(("photons", "form", "legacy_bgr"), map(list, columns), strict=True)),
        )

    together = drawn([0, 1, 2, 3])
    for place, (height, width) in enumerate(sizes):
        here = together[place, :, :height, :width]
        assert torch.equal(here, drawn([place])[0])
        grain = here - images[place, :, :height, :width].mul(255).round().div(255)
        assert ((grain[0] - grain[2]).abs().max() < 1e-6) == (forms[place] == "grey")
    assert not torch.equal(together[2, :, :17], together[3, :, :17])
