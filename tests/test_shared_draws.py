"""Samples with a degraded target and a companion: one draw, two images, noise of its own each; draws as tensors."""

import itertools
from dataclasses import fields

import cv2
import numpy as np
import pytest
import torch
from helpers import NOISE, RAIN, stage, toy_images
from torch.utils.data import DataLoader

from airpipe.data.batch import Batch, collate
from airpipe.data.drawn import DrawnColumns
from airpipe.data.pairs import Pair
from airpipe.data.samples import TrainingSamples, ValidationSamples
from airpipe.data.sampling import MicroBatches, SampleKey, SamplePlan
from airpipe.degradations.recipes import Drawn, draw
from airpipe.errors import AirpipeError
from airpipe.settings.degrading import Recipe
from airpipe.settings.stages import DataPart, Phase

SOME = {"operations": [{**NOISE, "chance": 0.5}, {**RAIN, "chance": 0.5}], "shuffle": 0.5}
STRONG = [{"operation": "gaussian_noise", "parameters": {"sigma": {"integers": [20, 60]}}}]
TRANSFER = {"recipe": "some", "operations": SOME, "target_recipe": "strong", "target_operations": STRONG}
SPOTS = {"operation": "rain_streaks", "parameters": {**RAIN["parameters"], "length": 3}}


def part(**changes) -> DataPart:
    return DataPart.model_validate({"pairs": "toy.train", "companion": True, "augment": "none", **TRANSFER, **changes})


def flat_pairs(folder, count=4):
    """Grey pictures of 48x48 pixels; picture i has the level 60 + 20 i everywhere."""
    pairs = []
    for number in range(count):
        path = folder / f"flat{number}.png"
        cv2.imwrite(str(path), np.full((48, 48, 3), 60 + 20 * number, np.uint8))
        pairs.append(Pair(path, None, "", "", "none", path.stem, path.stem))
    return pairs


def level_of(name):
    return 60 + 20 * int(name.removeprefix("flat"))


def sample_of(folder, slot, **changes):
    return TrainingSamples([part(**changes)], [flat_pairs(folder)], 5)[SampleKey(slot, 0, slot % 4, 32)]


def test_companions_share_operations_and_parameters_and_not_the_noise(tmp_path):
    for slot in range(12):
        sample = sample_of(tmp_path, slot, operations=STRONG, quantise=False)
        other = sample["companion"]
        batch = collate([sample])
        for side, drawn in (("degraded", batch.drawn), ("clean", batch.target_drawn)):
            sigma = float(drawn.value("gaussian_noise.sigma"))
            grain = [one[side] * 255 - level_of(one["name"]) for one in (sample, other)]
            for field in grain:
                assert field.std() == pytest.approx(sigma, rel=0.06)
            assert abs(np.corrcoef(grain[0].ravel(), grain[1].ravel())[0, 1]) < 0.1


def test_input_and_target_are_drawn_apart(tmp_path):
    batch = collate([sample_of(tmp_path, slot, operations=STRONG) for slot in range(60)])
    sigmas = [drawn.value("gaussian_noise.sigma").numpy() for drawn in (batch.drawn, batch.target_drawn)]
    assert len(set(zip(*sigmas, strict=True))) > 50
    assert abs(np.corrcoef(sigmas)[0, 1]) < 0.4


def test_every_image_of_the_list_is_a_companion_of_every_other_one_and_of_itself(tmp_path):
    samples = TrainingSamples([part()], [flat_pairs(tmp_path)], 5)
    found = [samples[SampleKey(slot, 0, slot % 4, 32)] for slot in range(160)]
    assert len({(one["name"], one["companion"]["name"]) for one in found}) == 16


def test_input_and_target_of_an_image_show_the_same_crop(tmp_path):
    images = toy_images(tmp_path, 3)
    pairs = [Pair(path, None, "", "", "none", path.stem, path.stem) for path in images]
    blur = [{"operation": "defocus_blur", "parameters": {"diameter": 1}}]
    samples = TrainingSamples([part(operations=[], recipe=None, target_operations=blur, augment="turns")], [pairs], 5)
    for slot in range(6):
        sample = samples[SampleKey(slot, 0, slot % 3, 32)]
        for image in (sample, sample["companion"]):
            np.testing.assert_array_equal(image["degraded"], image["clean"])


def test_a_recipe_alone_gives_the_pixels_that_it_gave_without_companion_and_target(tmp_path):
    plain = DataPart.model_validate({"pairs": "toy.train", "operations": [NOISE], "recipe": "noise"})
    sample = TrainingSamples([plain], [flat_pairs(tmp_path)], 5)[SampleKey(9, 0, 1, 32)]
    generator = np.random.default_rng([5, 9])
    for values in (17, 17, 4, 2):  # window, turns, flip
        generator.integers(values)
    sigma = (15, 25, 50)[int(generator.integers(3))]
    noisy = np.float32(80) / 255 + np.float32(sigma / 255) * generator.standard_normal((32, 32, 3), dtype=np.float32)
    np.testing.assert_allclose(sample["degraded"], np.rint(np.clip(noisy, 0, 1) * 255), atol=1)
    assert sample["level"] == f"sigma={sigma}"
    assert "companion" not in sample


def test_a_pair_of_files_may_have_a_degraded_target_and_a_companion(tmp_path):
    flat = flat_pairs(tmp_path)
    paired = [Pair(a.clean, b.clean, "", "file", "none", a.name, a.group) for a, b in itertools.pairwise(flat)]
    samples = TrainingSamples([part(recipe=None, operations=[])], [paired], 5)
    sample = samples[SampleKey(1, 0, 1, 32)]
    assert (sample["degraded"] == level_of("flat2")).all()
    sigma = float(collate([sample]).target_drawn.value("gaussian_noise.sigma"))
    assert (sample["clean"].astype(float) - level_of("flat1")).std() == pytest.approx(sigma, rel=0.1)
    assert sample["level"] == "file"


def test_drawn_tensors_tell_what_was_applied_with_its_numbers(tmp_path):
    samples = TrainingSamples([part(), part(operations=[SPOTS], companion=True)], [flat_pairs(tmp_path)] * 2, 5)
    found = [samples[SampleKey(slot, slot % 2, slot % 4, 32)] for slot in range(40)]
    batch = collate(found)
    drawn = batch.drawn
    assert drawn.operations == ("gaussian_noise", "rain_streaks")
    assert drawn.parameters[:2] == ("gaussian_noise.sigma", "rain_streaks.density")
    assert drawn.applied.shape == (40, 2)
    assert drawn.values.shape == (40, 6)
    assert torch.equal(drawn.was_applied("gaussian_noise"), ~drawn.value("gaussian_noise.sigma").isnan())
    assert torch.equal(drawn.was_applied("rain_streaks"), ~drawn.value("rain_streaks.angle").isnan())
    assert 4 <= int(drawn.was_applied("gaussian_noise").sum()) <= 16
    assert not drawn.was_applied("gaussian_noise")[1::2].any()
    assert drawn.was_applied("rain_streaks")[1::2].all()
    for row, level in enumerate(batch.level):
        said = dict(pair.split("=") for pair in level.split())
        assert ("sigma" in said) == bool(drawn.was_applied("gaussian_noise")[row])
        if "sigma" in said:
            assert float(drawn.value("gaussian_noise.sigma")[row]) == float(said["sigma"])


def test_of_composition_last_the_tensors_tell_the_operation_that_counts():
    recipe = Recipe.model_validate({**SOME, "composition": "last", "operations": [NOISE, RAIN]})
    columns = DrawnColumns([Recipe(), recipe])
    assert columns.operations == ("gaussian_noise", "rain_streaks")
    rows = np.array([columns.row(1, draw(recipe, np.random.default_rng(seed))).applied for seed in range(50)])
    assert (rows.sum(1) == 1).all()
    assert rows.any(0).all()
    assert columns.row(0, Drawn(Recipe(), ())).applied == [False, False]


@pytest.mark.parametrize("workers", [0, 2])
def test_companions_and_draws_depend_on_seed_and_slot_alone(tmp_path, workers):
    plan = SamplePlan([4], [1.0], [Phase(steps=8, patch_size=32, batch_size=4)], 7)
    samples = TrainingSamples([part()], [flat_pairs(tmp_path)], 7)
    alone = [[samples[key] for key in plan.batch(step)] for step in reversed(range(8))][::-1]
    sampler = MicroBatches(plan, 2, 0, 1, 2)
    loaded = list(DataLoader(samples, batch_sampler=sampler, collate_fn=collate, num_workers=workers))
    expected = [collate(rows[half : half + 2]) for rows in alone[2:] for half in (0, 2)]
    for one, other in zip(loaded, expected, strict=True):
        for name in ("degraded", "clean"):
            assert torch.equal(getattr(one, name), getattr(other, name))
            assert torch.equal(getattr(one.companion, name), getattr(other.companion, name))
        assert one.companion.name == other.companion.name
        assert torch.equal(one.drawn.applied, other.drawn.applied)
        assert torch.allclose(one.drawn.values, other.drawn.values, equal_nan=True)
        assert torch.equal(one.target_drawn.values, other.target_drawn.values)


def test_moving_a_batch_moves_all_its_tensors_and_makes_all_images_floats(tmp_path):
    samples = TrainingSamples([part()], [flat_pairs(tmp_path)], 5)
    batch = collate([samples[SampleKey(slot, 0, slot, 32)] for slot in range(3)])
    assert batch.companion.clean.dtype == torch.uint8
    there = batch.to(torch.device("meta"))
    records = (there, there.drawn, there.target_drawn, there.companion)
    held = [getattr(record, entry.name) for record in records for entry in fields(record)]
    tensors = [value for value in held if isinstance(value, torch.Tensor)]
    assert len(tensors) == 10
    assert all(tensor.is_meta for tensor in tensors)
    here = batch.to(torch.device("cpu"))
    for image in (here.degraded, here.clean, here.companion.degraded, here.companion.clean):
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
    assert torch.equal(here.companion.clean * 255, batch.companion.clean.float())
    assert here.drawn.applied.dtype == torch.bool
    assert here.label.dtype == torch.int64


def test_batches_without_draws_have_empty_tensors():
    image = torch.zeros(2, 3, 8, 8)
    batch = Batch(image, image, torch.zeros(2, dtype=torch.int64), ["a", "b"], ["", ""])
    assert batch.drawn.applied.shape == (0, 0)
    assert batch.companion is None
    assert batch.to(torch.device("cpu")).category.tolist() == [-1, -1]


def test_validation_has_companions_and_targets_that_are_the_same_every_time(tmp_path):
    def rows():
        samples = ValidationSamples([part()], [flat_pairs(tmp_path)], 5, 32, 8)
        return [samples[row] for row in (2, 0, 1, 3)]

    for one, other in zip(rows(), rows(), strict=True):
        for first, second in ((one, other), (one["companion"], other["companion"])):
            np.testing.assert_array_equal(first["degraded"], second["degraded"])
            np.testing.assert_array_equal(first["clean"], second["clean"])
            assert first["name"] == second["name"]
    assert len({one["companion"]["name"] for one in rows()}) > 1


def test_companions_for_some_parts_only_and_noise_seeded_by_image_with_them_are_refused():
    alone = {"pairs": "toy.train", "recipe": "noise", "operations": [NOISE]}
    with pytest.raises(ValueError, match="data: toy.train has no companion, other parts have one"):
        stage(data=[alone, {**alone, "companion": True}])
    with pytest.raises(ValueError, match="a companion or a target needs noise of its own"):
        stage(data=[{**alone, "companion": True, "noise_seed": "image"}])
    with pytest.raises(ValueError, match="validation.data: toy.train has no companion"):
        stage(validation={"data": [alone, {**alone, "companion": True}]})


def test_a_recipe_for_degraded_files_is_refused_with_a_companion_too(tmp_path):
    flat = flat_pairs(tmp_path)
    paired = [Pair(one.clean, one.clean, "", "", "none", one.name, one.group) for one in flat]
    with pytest.raises(AirpipeError, match="data part toy.train: recipe some is for clean images, but flat1 has a"):
        TrainingSamples([part()], [paired], 5)[SampleKey(1, 0, 1, 32)]
