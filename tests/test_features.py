"""What features tell about degradations equals plain restatements; what cannot be analysed is told."""

import json
import tracemalloc
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import NOISE, RAIN, ROOT, stage, toy_images
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from test_settings import shipped

from airpipe.data.pairs import Pair
from airpipe.errors import AirpipeError
from airpipe.evaluation.feature_crops import class_crops, crop_places, evenly
from airpipe.evaluation.features import (
    analyse,
    as_batch,
    as_samples,
    feature_vector,
    judge,
    probed_network,
    random_network,
)
from airpipe.evaluation.gram import distances, feature_rows, normalised, principal_components, tsne
from airpipe.evaluation.neighbours import Samples, at_random, by_scene, classify, splits
from airpipe.reporting.builders.features import feature_table
from airpipe.reporting.figures import charts
from airpipe.reporting.published import ACCURACIES, read_published, records
from airpipe.reporting.table import read_frame, read_table, write_table
from airpipe.settings.base import canonical_json, check_settings
from airpipe.settings.project import load_project
from airpipe.settings.stages import StageSettings
from airpipe.settings.studies import FeatureSettings, check_labels
from airpipe.weights.checkpoints import LoadedModel

NAFNET = {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
TRANSFORMER = {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 2, 4]}
SWIN = {"depths": [1] * 6, "embed_dim": 12, "num_heads": [2] * 6, "mlp_ratio": 2}
HEAD = {"backbone": {"name": "nafnet", "arguments": NAFNET}, "num_classes": 4}
NETWORKS = {
    "nafnet": NAFNET,
    "nafnet_tlc": NAFNET,
    "restormer": TRANSFORMER,
    "restormer_dcpt": TRANSFORMER,
    "promptir": TRANSFORMER,
    "swinir": SWIN,
    "swinir_dcpt": SWIN,
    "dcpt": HEAD,
}
DARK = {"operation": "low_light", "parameters": {"gain": 0.3, "gamma": 1.5, "sigma": 2}}
PRINTED = ROOT / "resources" / "published" / "features.csv"
SETTINGS = {
    "classes": {
        "rain": {"pairs": "toy.test", "recipe": "rain", "operations": [RAIN]},
        "noise": {"pairs": "toy.test", "recipe": "noise", "operations": [NOISE]},
        "low_light": {"pairs": "toy.test", "recipe": "low_light", "operations": [DARK]},
    },
    "crops_per_image": 4,
    "patch_size": 16,
    "neighbours": 3,
    "perplexity": 6,
    "iterations": 250,
}


def settings(**changes) -> FeatureSettings:
    """Three degradations of toy images."""
    return check_settings(FeatureSettings, {**SETTINGS, **changes}, "toy")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """toy.test: six pictures, each a scene."""
    paths = toy_images(tmp_path_factory.mktemp("toy"), count=6)
    return {"toy.test": [Pair(path, None, "", "", "none", path.stem, path.stem) for path in paths]}


def model(name="nafnet", arguments=NAFNET, seed=3) -> LoadedModel:
    """A network whose weights were not trained, but which nothing here calls random."""
    network = random_network(name, arguments, "own", 11).eval().requires_grad_(False)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    training = {"method": "baseline", "setting": "nafnet_5d", "stage": "train", "scale": "demo", "step": 9}
    return LoadedModel(
        network, {"network": {"name": name, "arguments": arguments}, "seed": seed, **training}, Path("x")
    )


def matrix(network, chosen, crops) -> np.ndarray:
    """Features of all crops as one matrix, without the code under test."""
    rows = [network(torch.tensor(c.pixels / 255).float().permute(2, 0, 1)[None], features=True)[0] for c in crops]
    return torch.stack([row.flatten() for row in rows]).numpy()


def vectors(count=40, length=300, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(2, 1, (count, length)).astype(np.float32)


def gram_of(x: np.ndarray, folder: Path, **options) -> np.ndarray:
    with feature_rows(folder) as rows:
        for row in x:
            rows.append(row)
        return rows.gram(**options)


# Inner products


def test_inner_products_are_those_of_the_whole_matrix_whatever_the_chunk(tmp_path):
    x = vectors()
    expected = x.astype(float) @ x.astype(float).T
    for size in (1, 8 * 40 * 7, 8 * 40 * 300, 10**9):
        np.testing.assert_allclose(gram_of(x, tmp_path, size=size), expected, rtol=1e-13)


def test_no_chunk_is_larger_than_asked_and_the_matrix_is_never_in_memory(tmp_path):
    x = vectors(30, 100_000)
    with feature_rows(tmp_path) as rows:
        for row in x:
            rows.append(row)
        whole, size = x.nbytes, 300_000
        assert [chunk.shape for chunk in rows.chunks(size)] == [(30, 1250)] * 80
        assert max(chunk.nbytes for chunk in rows.chunks(size)) == size
        tracemalloc.start()
        rows.gram(size)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert whole == 12_000_000 and peak < 1_500_000


def test_the_scratch_file_leaves_nothing_behind_even_when_the_work_fails(tmp_path):
    with feature_rows(tmp_path) as rows:
        rows.append(np.ones(5, np.float32))
        assert list(tmp_path.iterdir()) == []  # nameless: a killed process leaves nothing, too
    with pytest.raises(ValueError, match="a vector of 4 numbers after vectors of 5"), feature_rows(tmp_path) as rows:
        rows.append(np.ones(5, np.float32))
        rows.append(np.ones(4, np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(AirpipeError, match=r"file/\(scratch file of features\): cannot be written .*Free disk space"),
        feature_rows(tmp_path / "file"),
    ):
        pass


def test_distances_are_euclidean_and_exactly_zero_between_equal_vectors(tmp_path):
    x = vectors() + 50  # far from the origin, where rounding is largest
    x[7] = x[31] = x[3]
    found = distances(gram_of(x, tmp_path, size=8 * 40 * 11))
    np.testing.assert_allclose(found, cdist(x.astype(float), x.astype(float)), rtol=1e-6)
    assert found[7, 31] == found[3, 7] == found[31, 3] == 0
    assert (np.diagonal(found) == 0).all() and (found > 0).sum() == 40 * 40 - 40 - 6


def test_normalised_vectors_have_length_one_and_zeros_stay(tmp_path):
    x = vectors(5)
    x[2] = 0
    np.testing.assert_allclose(np.diagonal(normalised(gram_of(x, tmp_path))), [1, 1, 0, 1, 1], rtol=1e-12)


def test_principal_components_are_those_of_the_centred_matrix(tmp_path):
    x = vectors()
    found = principal_components(gram_of(x, tmp_path), 2)
    expected = PCA(2, svd_solver="full").fit_transform(x.astype(float))
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, rtol=1e-5, atol=1e-8)
    assert (found[np.abs(found).argmax(0), [0, 1]] > 0).all()


def test_tsne_is_that_of_the_vectors_of_length_one_and_comes_out_the_same_again(tmp_path):
    x = vectors(40, 20)
    x[:20] += 3
    products = gram_of(x, tmp_path)
    found = tsne(products, 6, 250, 0)
    assert np.array_equal(found, tsne(products, 6, 250, 0))
    unit = x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    start = PCA(2, svd_solver="full").fit_transform(unit)
    start *= np.sign(start[np.abs(start).argmax(0), [0, 1]])
    start = (start / start[:, 0].std() * 1e-4).astype(np.float32)
    expected = TSNE(init=start, perplexity=6, max_iter=250, random_state=0).fit_transform(unit)
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


def test_a_perplexity_that_needs_more_crops_is_told():
    with pytest.raises(AirpipeError, match="perplexity 30 needs more than 30 crops, found 9. Raise .*lower"):
        tsne(np.eye(9), 30, 250, 0)


# Splits


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=4, max_size=60),
    st.floats(0.1, 0.9),
    st.integers(0, 2**32 - 1),
)
def test_a_scene_is_never_on_both_sides(rows, share, seed):
    samples = Samples(tuple("abcd"), np.array([c for _, c in rows]), tuple(str(s) for s, _ in rows))
    train, test = by_scene(samples, share, seed)
    scenes = np.array(samples.scenes)
    assert not set(scenes[train]) & set(scenes[test])
    assert sorted([*train, *test]) == list(range(len(rows)))
    again = by_scene(samples, share, seed)
    assert np.array_equal(train, again[0]) and np.array_equal(test, again[1])


def test_scenes_of_separate_classes_are_divided_class_by_class():
    numbers = np.repeat([0, 1], [9, 90])
    samples = Samples(("few", "many"), numbers, tuple(f"s{i}" for i in range(99)))
    for seed in range(20):
        _, test = by_scene(samples, 0.33, seed)
        assert np.bincount(numbers[test]).tolist() == [3, 30]


def test_seeds_give_other_splits_and_a_third_of_three_scenes_is_one():
    samples = Samples(("a",), np.zeros(6, int), tuple("xyzxyz"))
    found = {tuple(by_scene(samples, 0.33, seed)[1]) for seed in (0, 223, 929, 1234, 10086)}
    assert len(found) > 1 and found <= {(0, 3), (1, 4), (2, 5)}


def test_random_splits_are_those_of_scikit_learn_in_equal_shares_of_the_classes():
    numbers = np.repeat([0, 1, 2], 20)
    samples = Samples(tuple("abc"), numbers, tuple(map(str, range(60))))
    train, test = at_random(samples, 0.33, 929)
    expected = train_test_split(np.arange(60), test_size=0.33, random_state=929, stratify=numbers)
    assert [set(train), set(test)] == [set(expected[0]), set(expected[1])]
    assert np.bincount(numbers[train]).tolist() in ([13, 13, 14], [13, 14, 13], [14, 13, 13])


@pytest.mark.parametrize(
    ("scenes", "changes", "message"),
    [
        (
            "aaaaaa",
            {},
            r"class u has 1 scene\(s\), and the split by scene with test_share 0.33 and seed 0 leaves it no "
            "crop to classify. Use more images, another test_share, or split: random",
        ),
        ("aabbcc", {"test_share": 0.9}, "leaves it no crop to look among"),
        ("aabbcc", {"neighbours": 5}, r"neighbours is 5, but seed 0 leaves 4 crops to look among \(2 u, 2 v\). Lower"),
        (
            "abcdef",
            {"split": "random", "test_share": 0.1},
            "3 u, 3 v crops cannot be split at random with test_share 0.1 .*Raise features.images_per_class",
        ),
    ],
    ids=["one_scene", "no_training", "many_neighbours", "few_crops"],
)
def test_too_little_data_is_told_before_anything_is_computed(scenes, changes, message):
    samples = Samples(("u", "v"), np.array([0, 1] * 3), tuple(scenes))
    with pytest.raises(AirpipeError, match=message):
        splits(samples, settings(**{"neighbours": 1, **changes}))


def test_one_seed_has_no_spread_and_chance_is_the_largest_class():
    samples = Samples(("u", "v"), np.array([0, 0, 0, 1] * 6), tuple("abcdef" * 4))
    found = classify(np.abs(np.subtract.outer(samples.numbers, samples.numbers)) + 0.0, samples, settings(seeds=[0]))
    assert (found["mean"], found["sd"], found["accuracy"]) == (100, None, {"0": 100})
    assert samples.chance == 75


def test_equal_splits_of_several_seeds_are_counted_once():
    samples = Samples(("u", "v"), np.array([0, 1] * 6), tuple("aabbcc" * 2))
    between = np.abs(np.subtract.outer(samples.numbers, samples.numbers)) + 0.0
    seeds = [0, 223, 929, 1234, 10086]
    expected = len({tuple(by_scene(samples, 0.33, seed)[1]) for seed in seeds})
    assert classify(between, samples, settings(seeds=seeds))["distinct_splits"] == expected
    assert 1 < expected <= 3
    assert classify(between, samples, settings(seeds=seeds[:1]))["distinct_splits"] == 1


# Crops


def test_one_crop_is_central_and_more_stand_on_an_even_grid():
    assert crop_places(40, 60, 20, 1) == [(10, 20)]
    assert crop_places(40, 60, 20, 6) == [(0, 0), (0, 20), (0, 40), (20, 0), (20, 20), (20, 40)]
    assert crop_places(20, 20, 20, 9) == [(0, 0)]


@given(st.integers(8, 90), st.integers(8, 90), st.integers(1, 40))
def test_crops_lie_inside_and_never_at_one_place(height, width, count):
    places = crop_places(height, width, 8, count)
    assert len(set(places)) == len(places) and 1 <= len(places) <= count
    assert all(0 <= top <= height - 8 and 0 <= left <= width - 8 for top, left in places)
    assert len(places) == count or min(height, width) < 8 + count


def test_images_are_spaced_evenly_over_a_list(pairs):
    assert [pair.name for pair in evenly(pairs["toy.test"], 3)] == ["img0", "img2", "img4"]
    assert evenly(pairs["toy.test"], 100) == pairs["toy.test"]


def test_crops_are_degraded_one_by_one_and_the_same_again_in_another_order_of_classes(pairs):
    crops = class_crops(settings(), pairs)
    assert [crop.label for crop in crops] == [0] * 24 + [1] * 24 + [2] * 24
    assert len({crop.pixels.tobytes() for crop in crops}) == 72 and crops[0].pixels.shape == (16, 16, 3)
    assert crops[0].pixels.dtype == np.uint8 and {crop.scene for crop in crops} == {f"toy/img{i}" for i in range(6)}
    turned = {name: SETTINGS["classes"][name] for name in ("low_light", "noise", "rain")}
    again = class_crops(settings(classes=turned), pairs)
    assert {c.pixels.tobytes() for c in again} == {c.pixels.tobytes() for c in crops}
    other = class_crops(settings(seed=1), pairs)
    assert not {c.pixels.tobytes() for c in other} & {c.pixels.tobytes() for c in crops}


def test_a_degraded_file_is_taken_as_it_is(pairs):
    first, second = pairs["toy.test"][:2]
    lists = pairs | {"toy.files": [replace(first, degraded=second.clean)]}
    classes = SETTINGS["classes"] | {"rain": {"pairs": "toy.files"}}
    crop = class_crops(settings(crops_per_image=1, classes=classes), lists)[0]
    pixels = np.asarray(Image.open(second.clean))
    assert np.array_equal(crop.pixels, pixels[16:32, 20:36])


def test_a_recipe_for_degraded_files_is_told(pairs):
    first, second = pairs["toy.test"][:2]
    with pytest.raises(
        AirpipeError,
        match="class rain, toy.test: recipe rain is for clean images, but img0 has a degraded file. "
        "Leave the recipe out to take the file, or name a list",
    ):
        class_crops(settings(), {"toy.test": [replace(first, degraded=second.clean)]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 50}, "class rain: img0 has 56x48 pixels and is smaller than patch_size 50. Lower"),
        (
            {"classes": {"u": {"pairs": "toy.test"}, "v": {"pairs": "toy.test"}}},
            "class u: toy.test has no degraded file of img0; give the class a recipe",
        ),
        ({"projection": 1024}, "projection 1024 is not below the 1024 numbers of a feature; 0 leaves it out"),
        ({"perplexity": 100}, "perplexity 100 needs more than 100 crops, found 72"),
    ],
    ids=["small_image", "no_recipe", "no_projection", "perplexity"],
)
def test_settings_that_do_not_fit_the_images_are_told(pairs, tmp_path, changes, message):
    with pytest.raises(AirpipeError, match=message):
        analyse(model(), settings(**changes), pairs, tmp_path)


def test_too_few_crops_are_told_before_any_features_are_computed(pairs, tmp_path):
    broken = model()
    torch.nn.init.constant_(broken.network.intro.weight, torch.nan)  # told at the first features
    for perplexity, message in ((72, "perplexity 72 needs more than 72 crops, found 72"), (71, "are not finite")):
        with pytest.raises(AirpipeError, match=message):
            analyse(broken, settings(perplexity=perplexity), pairs, tmp_path)


def test_a_class_without_images_is_told(pairs, tmp_path):
    classes = SETTINGS["classes"] | {"none": {"pairs": "toy.empty", "recipe": "rain", "operations": [RAIN]}}
    with pytest.raises(AirpipeError, match="class none: toy.empty holds no images"):
        analyse(model(), settings(classes=classes), pairs | {"toy.empty": []}, tmp_path)


# Networks


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_with_features_gives_vectors_of_the_length_that_its_channels_tell(name):
    network = random_network(name, NETWORKS[name], "published", 0).eval()
    image = as_batch(np.zeros((32, 32, 3), np.uint8), torch.device("cpu"))
    with torch.no_grad():
        levels = network(image, features=True)
    channels = network.feature_channels
    assert len(feature_vector(levels, settings())) == channels[0] * levels[0].shape[2] * levels[0].shape[3]
    assert len(feature_vector(levels, settings(pooling="mean"))) == channels[0]
    assert len(feature_vector(levels, settings(pooling="mean", feature="all"))) == sum(channels)
    assert len(feature_vector(levels, settings(feature="all"))) == sum(level.numel() for level in levels)


def test_random_weights_are_the_same_for_a_seed_and_leave_torch_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (
        random_network("promptir", TRANSFORMER, "published", seed).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["output.weight"], other["output.weight"])
    assert not torch.equal(first["prompt3.prompt_param"], other["prompt3.prompt_param"])


def test_published_random_weights_are_kaiming_uniform_with_zero_biases_and_beta_stays_zero():
    state = random_network("nafnet", NAFNET | {"width": 16}, "published", 0).state_dict()
    weight = state["encoders.1.0.conv1.weight"]
    bound = (6 / (1 + 2**2) / weight[0].numel()) ** 0.5
    assert weight.abs().max() <= bound and weight.std() == pytest.approx(bound / 3**0.5, rel=0.1)
    zero = [key for key in state if key.endswith(("conv1.bias", "intro.bias", "beta", "gamma"))]
    assert len(zero) > 10 and all(not state[key].any() for key in zero)
    assert random_network("nafnet", NAFNET, "own", 0).state_dict()["intro.bias"].any()


def test_a_pretraining_and_its_backbone_have_the_same_random_weights():
    with_head, seed = probed_network(model("dcpt", HEAD), settings(), "random")
    alone, _ = probed_network(model(), settings(), "random")
    other, _ = probed_network(model(seed=4), settings(), "random")
    assert seed == 100003  # of the settings, plus that of the training
    assert all(torch.equal(value, alone.state_dict()[key]) for key, value in with_head.state_dict().items())
    assert not torch.equal(alone.intro.weight, other.intro.weight)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dcpt_head", {"feature_dims": [4], "num_classes": 2}, "network dcpt_head gives no features; leave it out of"),
        ("nafnet", NAFNET | {"img_channel": 1}, "network nafnet takes images of 1 channels; features are those of RGB"),
    ],
)
def test_a_network_that_cannot_be_analysed_is_told(name, arguments, message, pairs, tmp_path):
    with pytest.raises(AirpipeError, match=message):
        analyse(model(name, arguments), settings(), pairs, tmp_path)


def test_weights_that_are_no_numbers_are_told(pairs, tmp_path):
    broken = model()
    torch.nn.init.constant_(broken.network.intro.weight, torch.nan)
    with pytest.raises(AirpipeError, match="features of img0 are not finite: the weights are broken"):
        analyse(broken, settings(), pairs, tmp_path)


# The analysis


@pytest.mark.parametrize("split", ["scene", "random"])
def test_knn_is_that_of_scikit_learn_on_the_flattened_features_for_every_seed(pairs, tmp_path, split):
    chosen, loaded = settings(split=split), model()
    result = analyse(loaded, chosen, pairs, tmp_path)
    crops = class_crops(chosen, pairs)
    samples = as_samples(chosen, crops)
    x, y = matrix(loaded.network, chosen, crops), samples.numbers
    assert x.shape == (72, 4 * 16 * 16) and result["feature_length"] == 1024
    confusion = np.zeros((3, 3), int)
    for seed, (train, test) in splits(samples, chosen).items():
        plain = KNeighborsClassifier(3).fit(x[train], y[train])
        assert result["knn"]["accuracy"][str(seed)] == pytest.approx(100 * plain.score(x[test], y[test]))
        np.add.at(confusion, (y[test], plain.predict(x[test])), 1)
    assert result["knn"]["confusion"] == confusion.tolist() and 0 < np.trace(confusion) < confusion.sum()
    accuracies = list(result["knn"]["accuracy"].values())
    assert len(accuracies) == 5
    assert result["knn"]["mean"] == pytest.approx(np.mean(accuracies))
    assert result["knn"]["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert (result["crops"], result["images"], result["scenes"]) == (72, 6, 6)
    assert result["chance"] == pytest.approx(100 / 3)
    assert len(result["tsne"]["x"]) == 72 and result["tsne"]["class"][24] == "noise"
    assert list(tmp_path.iterdir()) == []


def test_a_random_projection_keeps_distances_and_accuracy_close(pairs, tmp_path):
    exact = analyse(model(), settings(), pairs, tmp_path)
    short = analyse(model(), settings(projection=512), pairs, tmp_path)
    assert short["feature_length"] == 512
    assert short["knn"]["mean"] == pytest.approx(exact["knn"]["mean"], abs=8)
    assert short["knn"]["mean"] != exact["knn"]["mean"]  # it is another measurement
    assert analyse(model(), settings(projection=512), pairs, tmp_path) == short


def test_only_a_trained_head_classifies_and_answers_outside_the_classes_are_counted(pairs, tmp_path):
    loaded, chosen = model("dcpt", HEAD), settings(patch_size=32)
    passes: list[int] = []
    counting = loaded.network.backbone.register_forward_hook(lambda *_: passes.append(1))
    result = analyse(loaded, chosen, pairs, tmp_path)
    counting.remove()
    crops = class_crops(chosen, pairs)
    assert len(passes) == len(crops) > 10  # features and answer come from one pass
    with torch.no_grad():
        answers = [int(loaded.network(as_batch(c.pixels, torch.device("cpu")), classify=True).argmax()) for c in crops]
    truth = [crop.label for crop in crops]
    found = result["classifier"]
    assert found["accuracy"] == pytest.approx(100 * np.mean(np.equal(answers, truth)))
    assert found == judge(as_samples(chosen, crops), chosen, np.array(answers))
    assert analyse(loaded, chosen, pairs, tmp_path, "random")["classifier"] is None
    assert analyse(model(), chosen, pairs, tmp_path)["classifier"] is None


def test_top_1_follows_from_the_labels_of_the_classes():
    chosen = settings(
        classes={
            n: SETTINGS["classes"][n] | {"label": label} for n, label in dict(rain=7, noise=2, low_light=4).items()
        }
    )
    samples = Samples(("noise", "low_light", "rain"), np.array([0, 0, 1, 1, 2, 2]), tuple("abcdef"))
    found = judge(samples, chosen, np.array([2, 4, 4, 4, 3, 7]))
    assert found["accuracy"] == pytest.approx(100 * 4 / 6)
    assert found["per_class"] == {"noise": 50, "low_light": 100, "rain": 50}
    assert found["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 1]] and found["other"] == [0, 0, 1]


def test_a_label_that_the_classifier_does_not_know_is_told(pairs, tmp_path):
    classes = SETTINGS["classes"] | {"rain": SETTINGS["classes"]["rain"] | {"label": 4}}
    with pytest.raises(AirpipeError, match="class rain has label 4; the trained classifier knows 0 to 3. Give"):
        analyse(model("dcpt", HEAD), settings(classes=classes), pairs, tmp_path)


# Settings


SHIPPED = shipped()


def project(**changes):
    """The shipped project without models to analyse, but with `changes` of its features."""
    config = deepcopy(SHIPPED)
    config["features"] = config["features"] | {"models": []} | changes
    return load_project(config)


def test_the_shipped_analysis_writes_out_recipes_and_labels_and_survives_sorted_json():
    ready = project(models=["baseline/nafnet_5d"]).feature_analysis()
    assert ready.models == ()
    assert list(ready.labels()) == ["rain", "noise", "haze", "low_light", "motion_blur"]
    assert all(entry.operations for entry in ready.classes.values())
    again = check_settings(FeatureSettings, json.loads(canonical_json(ready)), "json")
    assert again.labels() == ready.labels() == dict(rain=0, noise=1, haze=2, low_light=3, motion_blur=4)


def test_a_fixed_parameter_replaces_the_draw_and_null_leaves_a_class_out():
    noise = {"pairs": "photos.test", "recipe": "noise", "fixed": {"sigma": 25}}
    ready = project(classes=SHIPPED["features"]["classes"] | {"noise": noise, "haze": None}).feature_analysis()
    assert ready.classes["noise"].operations.operations[0].parameters["sigma"].constant == 25
    assert ready.labels() == dict(rain=0, noise=1, low_light=2, motion_blur=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["baseline/nafnet_6d"]}, "unknown setting of baseline 'nafnet_6d'; did you mean 'nafnet_5d'"),
        ({"models": ["baseline/nafnet_5d/trian"]}, "unknown stage of baseline/nafnet_5d in features 'trian'; did you"),
        (
            {"models": ["baseline"]},
            "features.models.0: 'baseline' is not method/setting, method/setting/stage or imported/name",
        ),
        ({"models": ["imported/a/b"]}, "features.models.0: 'imported/a/b' is not method/setting"),
        ({"models": ["imported/a"], "classes": {"u": {"pairs": "photos.test"}}}, "found 1 classes; .* at least 2"),
        ({"classes": {"u": {"pairs": "photo.test"}}}, "unknown data set in features, class u 'photo'; did you mean"),
        ({"classes": {"u": {"pairs": "photos.tset"}}}, "unknown split of photos in features, class u 'tset'; did you"),
        ({"classes": {"u": {"pairs": "photos.test", "recipe": "rian"}}}, "unknown recipe in features, class u 'rian'"),
        ({"classes": {"u": {"pairs": "photos.test", "fixed": {"a": 1}}}}, "there is no recipe; name one"),
        (
            {"classes": {n: {"pairs": "photos.test", "label": 3} for n in "uv"}},
            "classes u and v both have label 3; give each its own",
        ),
        ({"neighbors": 3}, "unknown setting 'neighbors'; did you mean 'neighbours'"),
        ({"test_share": 1}, "less than 1"),
    ],
)
def test_a_wrong_feature_setting_gets_one_message(changes, message):
    with pytest.raises(AirpipeError, match=message):
        project(**changes)


def test_an_unknown_fixed_parameter_and_a_table_called_features_are_told():
    noise = {"pairs": "photos.test", "recipe": "noise", "fixed": {"sgima": 25}}
    with pytest.raises(
        AirpipeError, match=r"features.classes.u.fixed: unknown parameter 'sgima'; did you mean 'sigma'"
    ):
        project(classes={"u": noise}).feature_analysis()
    config = deepcopy(SHIPPED)
    config["tables"]["features"] = config["tables"]["allinone"]
    with pytest.raises(AirpipeError, match="the name 'features' belongs to the feature analysis"):
        load_project(config)


def test_classes_that_a_trained_head_numbers_otherwise_are_told():
    class WithHead(StageSettings):
        head: dict = {}

    values = json.loads(canonical_json(stage()))
    ready = settings()  # rain 0, noise 1; the stage: noise 0, rain 1
    check_labels(ready, check_settings(StageSettings, values, "toy"))  # no head: nothing to compare
    with pytest.raises(
        AirpipeError,
        match=r"class rain has label 0; baseline/nafnet_toy/seed3/train was trained with "
        r"label 1 for it. Put the classes in that order, or set features.classes.rain.label",
    ):
        check_labels(ready, check_settings(WithHead, values, "toy"))
    classes = {name: SETTINGS["classes"][name] for name in ("noise", "rain", "low_light")}
    check_labels(settings(classes=classes), check_settings(WithHead, values, "toy"))


# Table and figures


@pytest.fixture(scope="module")
def results(pairs, tmp_path_factory):
    """Files of two checkpoints, with random weights and as trained; the second one has a classifier."""
    folder, chosen = tmp_path_factory.mktemp("results"), settings(patch_size=32)
    files = []
    for name, loaded in (("baseline/nafnet_5d/seed0/train", model()), ("dcpt/toy/seed0/pretrain", model("dcpt", HEAD))):
        for init in ("random", "trained"):
            facts = {"model": name, "network": loaded.card["network"], "settings": chosen.model_dump(mode="json")}
            facts["training"] = {key: loaded.card.get(key) for key in ("method", "setting", "stage", "scale", "step")}
            files.append(folder / f"{name.replace('/', '_')}_{init}.json")
            files[-1].write_text(json.dumps(facts | analyse(loaded, chosen, pairs, folder, init)))
    return files


def test_the_table_has_a_row_per_weights_measure_and_class_and_sets_printed_numbers_beside(results, tmp_path):
    read = [json.loads(path.read_text()) for path in results]
    write_table(feature_table(read, records(read_published([PRINTED], ACCURACIES))), tmp_path)
    table = read_frame(tmp_path / "features.csv")
    assert len(table) == 4 * 4 + 4
    facts = json.loads(results[3].read_text())
    ours = table[(table["model"] == "dcpt/toy/seed0/pretrain") & (table["init"] == "trained")].set_index(
        ["measure", "class"]
    )
    assert ours.loc[("knn", ""), "value"] == pytest.approx(facts["knn"]["mean"])
    assert ours.loc[("knn", "rain"), "sd"] == pytest.approx(facts["knn"]["per_class"]["rain"]["sd"])
    assert ours.loc[("classifier", ""), "value"] == pytest.approx(facts["classifier"]["accuracy"])
    assert set(table["network"]) == {"nafnet"} and set(table["chance"].round(3)) == {33.333}
    printed = table[table["published"].notna()]
    assert printed[["init", "class", "published"]].to_numpy().tolist() == [["random", "", 52.0]] * 2
    for words in ("patch_size 32 instead of 128", "split scene instead of random", "other degradations", "synthetic"):
        assert words in printed["differs"].iloc[0]
    text = (tmp_path / "features.md").read_text()
    assert "| baseline/nafnet_5d | random | kNN, k = 3 |" in text
    assert "72 crops of 6 photographs" in text and "classifier: the trained head itself" in text
    assert r"low\_light" in (tmp_path / "features.tex").read_text()
    block = read_table(tmp_path / "features.json").blocks[0]
    assert [line.label for line in block.lines] == ["baseline/nafnet_5d"] * 2 + ["dcpt/toy"] * 3
    assert block.head[-2:] == ("chance", "published") and block.lines[2].facts == {"method": "dcpt"}
    assert block.lines[0].facts == {"method": "baseline", "task": "5d"}
    assert block.lines[0].cells[-1].parts[0].value == 52 and "not comparable" in block.lines[0].cells[-1].about[1]
    assert block.lines[3].cells[2].parts[0].value == pytest.approx(facts["knn"]["mean"])
    assert block.lines[3].cells[2].about == (
        "model dcpt/toy/seed0/pretrain, trained weights",
        "72 crops of toy.test",
    )


def test_a_feature_table_without_results_is_told_and_not_written(tmp_path):
    with pytest.raises(AirpipeError, match="table features has no lines; nothing was written"):
        write_table(feature_table([], []), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("distinct", "told"), [(3, True), (5, False), (None, False)])
def test_splits_that_are_the_same_are_told_under_the_table(results, distinct, told):
    facts = json.loads(results[1].read_text())
    facts["knn"].pop("distinct_splits")  # as in older results
    facts["knn"] |= {} if distinct is None else {"distinct_splits": distinct}
    notes = " ".join(feature_table([facts], []).notes)
    assert "over the splits of 5 seeds, whole photographs apart." in notes
    assert ("Only 3 of the 5 splits are distinct, and some count more than once" in notes) == told


def test_a_trained_model_is_set_beside_the_printed_number_of_its_tasks_and_steps(results):
    published = records(read_published([PRINTED], ACCURACIES))
    assert len(published) == 16 and all(row["paper"] for row in published)
    facts = json.loads(results[1].read_text())
    for setting, step, expected in (("nafnet_3d", 200000, 90), ("nafnet_3d", 9, None), ("nafnet_5d", 200000, None)):
        facts["training"] |= {"setting": setting, "step": step}
        found = feature_table([facts], published).frame.iloc[0]["published"]
        assert found == expected or (expected is None and np.isnan(found))


def test_figures_have_a_row_per_checkpoint_and_equal_numbers_give_equal_files(results, tmp_path):
    facts = [json.loads(path.read_text()) for path in results]
    sizes = {}
    for name, draw in (("tsne", charts.draw_tsne), ("confusion", charts.draw_confusion)):
        for count in (2, 4, 4):
            target = tmp_path / f"{name}{count}.png"
            before = target.read_bytes() if target.exists() else None
            draw(facts[:count], target)
            assert before in (None, target.read_bytes())
            sizes[name, count] = Image.open(target).size
    assert sizes["tsne", 4][1] > 1.8 * sizes["tsne", 2][1] and sizes["tsne", 4][0] == sizes["tsne", 2][0]
    assert sizes["confusion", 4][0] > 1.3 * sizes["confusion", 2][0]  # the classifier's column
