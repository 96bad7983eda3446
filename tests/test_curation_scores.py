"""What is measured of a picture: numbers that are known beforehand, or told by others' code."""

import json
from importlib.resources import files

import cv2
import numpy as np
import pytest
from curated import SETTINGS, nothing_tested, photographs, rows_of, save, save_photographs, score
from scipy.stats import spearmanr
from skimage.measure import blur_effect
from skimage.metrics import structural_similarity

from airpipe.curation import scoring
from airpipe.curation.fitting import fit, spoiled
from airpipe.curation.natural import brisque, fitted, naturalness, niqe, reference
from airpipe.curation.opening import Found, Key, Opened, open_picture
from airpipe.curation.scores import TestImages, blur, flat_cells, load_plugins, measure, patch_places
from airpipe.data.fingerprints import FingerprintTable, fingerprint, luminance, perceptual_hash
from airpipe.errors import AirpipeError
from airpipe.settings.curation import MEASURES, PictureScoring


def moments(values: np.ndarray) -> np.ndarray:
    """What `fitted` takes, of one set of values, five times."""
    negative = values < 0
    own = [negative.mean(), (values**2 * negative).mean(), (values**2).mean(), np.abs(values).mean()]
    return np.tile(own, (1, 5, 1))


@pytest.mark.parametrize(("draw", "shape", "width"), [("laplace", 1.0, 1.0), ("normal", 2.0, 2**0.5)])
def test_fitted_gaussians_have_the_shape_and_width_of_what_was_drawn(draw, shape, width):
    values = getattr(np.random.default_rng(0), draw)(size=200_000)
    found = fitted(moments(values))[0]
    assert found[0] == pytest.approx(shape, rel=0.02)
    assert found[1] == pytest.approx(width, rel=0.02)
    assert found[3] == pytest.approx(0, abs=0.02)


def test_fitted_gaussians_tell_left_from_right():
    values = np.random.default_rng(0).normal(size=200_000)
    values[values > 0] *= 3
    _, _, _, centre, left, right = fitted(moments(values))[0][:6]
    assert right / left == pytest.approx(3, rel=0.02)
    assert centre > 0


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_blur_is_that_of_scikit_image(name):
    grey = luminance(photographs()[name])
    for picture in (grey, cv2.GaussianBlur(grey, (0, 0), 3)):
        assert blur(picture) == pytest.approx(blur_effect(picture), abs=2e-3)


def test_flat_cells_are_those_without_detail():
    grey = np.full((64, 96), 100, np.float32)
    grey[:, 48:] += np.random.default_rng(0).normal(0, 20, (64, 48)).astype(np.float32)
    cells = flat_cells(grey, SETTINGS)
    assert cells.shape == (4, 6)
    assert cells[:, :2].all() and not cells[:, 3:].any()


def test_patches_do_not_overlap_and_a_small_picture_has_none():
    assert patch_places(200, 130, 64) == [(0, 0), (64, 0), (128, 0), (0, 64), (64, 64), (128, 64)]
    assert patch_places(200, 63, 64) == []


def spoilt_by_brisque(pixels: np.ndarray) -> tuple[list[float], list[float]]:
    """Scores and 100 (1 - SSIM) of the spoilt versions of a picture."""
    told, true = [], []
    clean = luminance(pixels)
    for version in spoiled(pixels, np.random.default_rng(0)):
        grey = luminance(version)
        told.append(brisque(naturalness(grey), reference()))
        true.append(100 * (1 - structural_similarity(clean, grey, data_range=255, gaussian_weights=True, sigma=1.5)))
    return told, true


def test_brisque_ranks_spoilt_photographs_that_it_was_not_fitted_to():
    told, true = (sum(lists, []) for lists in zip(*map(spoilt_by_brisque, photographs().values()), strict=True))
    assert len(told) == 5 * 19
    assert spearmanr(told, true).statistic > 0.85


def test_niqe_is_larger_for_what_is_blurred_noisy_or_recompressed():
    for name, pixels in photographs().items():
        versions = list(spoiled(pixels, np.random.default_rng(0)))
        good, blurred, jpeg, noisy = (
            niqe(naturalness(luminance(versions[number])), reference()) for number in (0, 6, 7, 18)
        )
        assert good < min(blurred, jpeg, noisy), name


def test_features_are_those_of_maps_of_the_whole_picture():
    """Worked out a row of blocks at a time; here in one piece, with `np.roll`, as the published code does."""
    grey = luminance(photographs()["coffee"])[:192, :192]
    found, expected = naturalness(grey), []
    for fine in (grey, cv2.resize(grey, (96, 96), interpolation=cv2.INTER_AREA)):
        mean, square = (
            cv2.GaussianBlur(x, (7, 7), 7 / 6, borderType=cv2.BORDER_REPLICATE) for x in (fine, fine * fine)
        )
        contrast = np.sqrt(np.abs(square - mean * mean))
        values = (fine - mean) / (contrast + 1)
        maps = [values, *(values * np.roll(values, shift, (0, 1)) for shift in ((0, 1), (1, 0), (1, 1), (1, -1)))]
        powers = [[(x < 0).astype(np.float32), x * x * (x < 0), x * x, np.abs(x)] for x in maps]
        means = [[cv2.resize(x, (2, 2), interpolation=cv2.INTER_AREA).ravel() for x in each] for each in powers]
        expected.append(fitted(np.moveaxis(np.array(means, np.float64), 2, 0)))
    assert found.blocks.shape == (4, 36) and np.array_equal(found.blocks, np.concatenate(expected, axis=1))


@pytest.mark.parametrize("row", [0, 7, 149, None])
def test_one_pixel_of_colour_makes_a_picture_no_grey_one(tmp_path, row):
    pixels = np.repeat(photographs()["coffee"][..., :1], 3, axis=2)
    if row is not None:
        pixels[row, 3] = (1, 2, 3)
    found = Found(Key(0, 0), "", save(tmp_path / "a.png", pixels), "")
    assert open_picture(found, "", 40_000).grey == (row is None)


def test_reference_values_are_of_36_features():
    model = reference()
    assert model.mean.shape == (36,) and model.covariance.shape == (36, 36) and model.weights.shape == (72,)
    assert np.linalg.eigvalsh(model.covariance).min() > 0
    known = json.loads((files("airpipe.curation") / "natural.json").read_text())
    assert known["spearman"] > 0.9


def test_fitting_again_gives_the_same_values(tmp_path):
    paths = [save(tmp_path / f"{name}.png", pixels) for name, pixels in list(photographs().items())[:3]]
    first = fit(paths, "three photographs")
    assert first == fit(paths, "three photographs")
    assert len(first["weights"]) == 72 and first["source"] == "three photographs"
    with pytest.raises(AirpipeError, match="2 pictures; expected three"):
        fit(paths[:2], "")


def test_a_picture_has_all_scores_and_a_plain_one_has_no_naturalness():
    opened = Opened(photographs()["coffee"], False, False)
    found = measure(opened, SETTINGS, {"mean": lambda pixels: pixels.mean()})
    assert tuple(found.scores) == (*MEASURES, "mean")
    assert found.scores["side"] == 200 and found.scores["aspect"] == 1 and found.scores["grey"] == 0
    assert found.scores["mean"] == opened.pixels.mean()
    assert found.scores["brightness"] == pytest.approx(luminance(opened.pixels)[4:196, 4:196].mean() / 255)
    assert len(found.patches) == 9
    plain = measure(Opened(np.full((200, 100, 3), 7, np.uint8), True, False), SETTINGS, {})
    assert plain.scores["niqe"] is None and plain.scores["brisque"] is None
    assert plain.scores["flatness"] == 1 and plain.scores["blur"] == 1 and plain.scores["aspect"] == 2


def test_a_tiny_picture_is_scored_without_naturalness():
    found = measure(Opened(photographs()["coffee"][:3, :5], False, False), SETTINGS, {})
    assert found.scores["niqe"] is None and found.scores["side"] == 3 and found.patches == []


def test_a_plug_in_that_is_not_there_is_told():
    assert load_plugins({"root": "math:sqrt"})["root"](4) == 2
    with pytest.raises(AirpipeError, match=r"plugins.nima: no_such_module:score cannot be imported"):
        load_plugins({"nima": "no_such_module:score"})
    with pytest.raises(ValueError, match="expected 'module:function', found 'nima'"):
        PictureScoring(plugins={"nima": "nima"})
    with pytest.raises(ValueError, match="'niqe' is a score already"):
        PictureScoring(plugins={"niqe": "a:b"})
    for name in ("path", "leak", "sha256", "duplicate"):
        with pytest.raises(ValueError, match=f"'{name}' means something else in tables"):
            PictureScoring(plugins={name: "a:b"})


@pytest.fixture
def tested(tmp_path) -> TestImages:
    """Chelsea and coffee, as test images."""
    paths = [save(tmp_path / f"{name}.png", photographs()[name]) for name in ("chelsea", "coffee")]
    prints = [fingerprint(path) for path in paths]
    table = FingerprintTable(
        "toy.test",
        [path.name for path in paths],
        np.array([one.bytes_sha256 for one in prints], "S64"),
        np.array([one.pixels_sha256 for one in prints], "S64"),
        np.array([one.phash for one in prints], np.uint64),
    )
    return TestImages([table], lambda _, path: tmp_path / path)


def test_test_images_are_found_whole_smaller_and_recompressed(tested):
    coffee = photographs()["coffee"]
    smaller = cv2.resize(coffee, (150, 150), interpolation=cv2.INTER_AREA)
    worse = cv2.imdecode(cv2.imencode(".jpg", coffee, [cv2.IMWRITE_JPEG_QUALITY, 15])[1], cv2.IMREAD_COLOR)
    relations = {}
    for name, pixels in (("whole", coffee), ("smaller", smaller), ("worse", worse), ("cut", coffee[2:-2, 3:-3])):
        leak = tested.shown(pixels, perceptual_hash(pixels))
        assert leak.test == "toy.test:coffee.png", name
        relations[name] = leak.relation
    assert relations == {"whole": "same pixels", "smaller": "near", "worse": "near", "cut": "crop"}


def test_other_pictures_show_no_test_image(tested):
    for name in ("astronaut", "rocket", "motorcycle_left"):
        pixels = photographs()[name]
        assert tested.shown(pixels, perceptual_hash(pixels)) is None
        assert nothing_tested().shown(pixels, perceptual_hash(pixels)) is None


def test_a_plug_in_that_fails_is_named_with_its_picture_and_scoring_goes_on_there(tmp_path, monkeypatch):
    sources = {"in": ("images", str(tmp_path / "in"))}
    names = sorted(save_photographs(tmp_path / "in"))
    calls = []

    def score_of(pixels):
        pixels //= 2  # a plug-in may write into what it gets
        calls.append(pixels.shape)
        if len(calls) == 3:
            raise RuntimeError("CUDA\nis out of memory")
        return np.nan if len(calls) == 5 else np.float32(0.5)

    plugin = SETTINGS.model_copy(update={"plugins": {"nima": "my_scores:nima"}})
    monkeypatch.setattr(scoring, "load_plugins", lambda _: {"nima": score_of})
    with pytest.raises(AirpipeError) as told:
        score(tmp_path, sources, settings=plugin)
    assert str(told.value).startswith(
        f"in/{names[2]}.png: the plug-in nima failed (RuntimeError: CUDA is out of memory)."
    )
    rows = rows_of(score(tmp_path, sources, settings=plugin))
    assert [rows[f"{name}.png"]["nima"] for name in names] == ["0.5", "0.5", "0.5", "", "0.5"] and len(calls) == 6
    plain = rows_of(score(tmp_path / "plain", sources))
    assert [row["phash"] for row in rows.values()] == [row["phash"] for row in plain.values()]


@pytest.mark.parametrize("given", [None, "good", [1, 2], np.zeros(3)], ids=repr)
def test_what_a_plug_in_gives_has_to_be_a_number(given):
    opened = Opened(photographs()["coffee"], False, False, shown="in/coffee.png")
    with pytest.raises(AirpipeError, match=r"^in/coffee.png: the plug-in nima failed \((Type|Value)Error: "):
        measure(opened, SETTINGS, {"nima": lambda _: given})
