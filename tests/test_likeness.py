"""Pairs that are equal, swapped or shifted are told when a data set is checked, and equality has one score."""

import math

import cv2
import numpy as np
import pytest
import torch

from airpipe.data.check import check_split, summary
from airpipe.data.likeness import LIKE, likeness, likeness_notes, swapped
from airpipe.errors import AirpipeError
from airpipe.evaluation.metrics import ON_CPU, Measurement, measure
from airpipe.evaluation.metrics_torch import tensors
from airpipe.images import Picture, write_picture
from airpipe.settings.datasets import SplitSettings

SPLIT = SplitSettings(degraded="degraded/*", clean="clean/*")


def picture(seed, side=64):
    """A smooth colour picture with some texture, uint8 (side, side, 3)."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(40, 200, (side // 8 + 1, side // 8 + 1, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).astype(float)
    return np.clip(smooth + generator.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def hazy(clean):
    return (clean * 0.6 + 60).astype(np.uint8)


def dark(clean):
    """Low light with noise."""
    noise = np.random.default_rng(9).normal(0, 1, clean.shape)
    return np.clip(40 * (clean / 255.0) ** 1.5 + noise, 0, 255).astype(np.uint8)


def written(root, degraded, clean, suffix=".png"):
    for kind, images in (("degraded", degraded), ("clean", clean)):
        for number, image in enumerate(images):
            write_picture(root / kind / f"{number}{suffix}", Picture(np.ascontiguousarray(image)))
    return root


def notes(root):
    return check_split("d.train", SPLIT, str(root)).facts["notes"]


@pytest.fixture
def clean():
    return [picture(seed) for seed in range(6)]


def test_an_equal_pair_is_noted_and_left_out_of_the_mean_input_psnr(tmp_path, clean):
    degraded = [clean[0], *map(hazy, clean[1:])]
    facts = check_split("d.train", SPLIT, str(written(tmp_path, degraded, clean))).facts
    assert facts["notes"] == [
        "1 of 6 degraded files equal their clean ones (first: 0): nothing to restore there; left out of the mean input "
        "PSNR, and of means in tables"
    ]
    expected = [10 * math.log10(255**2 / np.mean((hazy(one) - one.astype(float)) ** 2)) for one in clean[1:]]
    assert facts["input_psnr"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert "over 5 pairs" in summary(facts)


def test_equal_pixels_in_other_bytes_are_equal_as_well(tmp_path, clean):
    root = written(tmp_path, map(hazy, clean), clean)
    cv2.imwrite(str(root / "degraded" / "2.png"), clean[2][..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert (root / "degraded" / "2.png").read_bytes() != (root / "clean" / "2.png").read_bytes()
    assert notes(root)[0].startswith("1 of 6 degraded files equal their clean ones (first: 2): ")


def test_pairs_that_are_all_equal_are_an_error(tmp_path, clean):
    with pytest.raises(AirpipeError, match=r"all 6 degraded files equal their clean ones \(0, 1, 2, 3, 4, 5\)"):
        notes(written(tmp_path, clean, clean))


@pytest.mark.parametrize("degrade", [hazy, dark])
def test_swapped_contents_are_noted_with_the_pair_that_they_fit(tmp_path, clean, degrade):
    degraded = [degrade(one) for one in clean]
    degraded[1], degraded[4] = degraded[4], degraded[1]
    assert notes(written(tmp_path, degraded, clean)) == [
        "2 of 6 degraded files fit the clean file of another pair better than their own (first: 1 shows 4; 4 shows 1): "
        "contents may be swapped"
    ]


@pytest.mark.parametrize("degrade", [hazy, dark])
def test_pairs_cut_from_two_corners_are_noted_with_their_shift(tmp_path, clean, degrade):
    shown = [degrade(one)[:-1, :-1] if number % 2 else degrade(one)[1:, :-1] for number, one in enumerate(clean)]
    where = "; ".join(f"{number} by +1 rows, +0 columns" for number in (0, 2, 4))
    assert notes(written(tmp_path, shown, [one[:-1, :-1] for one in clean])) == [
        f"3 of 6 degraded files fit better when they are moved by a pixel (first: {where}): cut from different corners "
        "(`crop` of the layout), or moved by blur"
    ]


@pytest.mark.parametrize("degrade", [hazy, dark, lambda one: cv2.GaussianBlur(one, (9, 9), 2), lambda one: one ^ 1])
def test_pairs_that_are_in_order_get_no_note(tmp_path, clean, degrade):
    assert notes(written(tmp_path, [degrade(one) for one in clean], clean)) == []


def test_degraded_versions_of_one_clean_image_are_not_taken_for_another_pair(tmp_path, clean):
    root = written(tmp_path, map(hazy, clean[:2]), clean[:2])
    files = [(str(root / f"degraded/{n}.png"), str(root / "clean/0.png"), "none", str(n)) for n in (0, 1)]
    first, second = map(likeness, files)
    assert first.degraded @ second.clean >= LIKE > second.degraded @ second.clean
    assert swapped([first, second]) == []


def test_tiny_and_flat_pictures_are_compared_without_a_note(tmp_path):
    flat, tiny = np.full((40, 40, 3), 90, np.uint8), picture(1)[:3, :5]
    roots = [
        written(tmp_path / "f", [flat + np.uint8(3)], [flat]),
        written(tmp_path / "t", [hazy(tiny)], [tiny]),
    ]
    found = [likeness((str(root / "degraded/0.png"), str(root / "clean/0.png"), "none", "x")) for root in roots]
    assert [pair.shift for pair in found] == [(0, 0), (0, 0)]
    assert not found[0].clean.any() and likeness_notes(found, [], 2) == [] == likeness_notes([], [], 0)


# Equality in every metric


@pytest.mark.parametrize("kit", [ON_CPU, tensors(torch.device("cpu"))], ids=["cpu", "tensors"])
@pytest.mark.parametrize("colour", ["rgb", "y", "y8", "y8_negated"])
@pytest.mark.parametrize("options", [{}, {"rounded": False}, {"rounded": False, "clipped": False}, {"border": 4}])
def test_an_equal_image_scores_infinity_and_one_however_it_is_measured(kit, colour, options):
    clean = picture(3)
    wanted = [Measurement(name, colour, **options) for name in ("psnr", "ssim_gaussian11", "ssim_uniform7")]
    for restored in (clean, clean.astype(np.float32) / 255):
        found = measure(restored, clean, wanted, kit)
        assert found[wanted[0]] == math.inf
        assert [f"{found[one]:.6f}" for one in wanted[1:]] == ["1.000000", "1.000000"]


@pytest.mark.parametrize("kit", [ON_CPU, tensors(torch.device("cpu"))], ids=["cpu", "tensors"])
def test_one_changed_value_of_a_large_image_is_no_equality(kit):
    clean = np.full((1000, 1000, 3), 100, np.uint8)
    restored = clean.astype(np.float32) / 255
    restored[0, 0, 0] += np.float32(0.5 / 255)
    wanted = Measurement("psnr", rounded=False)
    assert measure(restored, clean, [wanted], kit)[wanted] == pytest.approx(
        10 * math.log10(255**2 * 3e6 / 0.25), abs=0.01
    )
