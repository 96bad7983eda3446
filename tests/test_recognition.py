"""Recognition after restoration: scores equal plain restatements, and what does not fit together is told."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import NOISE, shipped
from torch import nn

from airpipe.data.dataset import quantised
from airpipe.data.pairs import Pair
from airpipe.errors import AirpipeError
from airpipe.evaluation import recognisers as recogniser_module
from airpipe.evaluation.metrics import score, score_batch
from airpipe.evaluation.protocol import degraded_input, natural_key
from airpipe.evaluation.recognisers import fitted, shared_values, top1
from airpipe.evaluation.recognition import enhance, recognise
from airpipe.evaluation.retrieval import Entries, random_precision, retrieve
from airpipe.images import read_rgb8
from airpipe.models.nafnet import NAFNet
from airpipe.project import load_project
from airpipe.recognition_settings import RecognitionJob, RecognitionSettings
from airpipe.settings import check_settings
from airpipe.training.checkpoints import LoadedModel

# Retrieval


def listed(vectors, identities, images=None, cameras=()):
    images = images or [f"{id(identities)}_{i}" for i in range(len(identities))]
    return Entries(np.array(vectors, np.float32), identities, images, cameras)


ALONG = {"a": [1.0, 0.0], "b": [0.0, 1.0], "near_a": [1.0, 0.2], "between": [1.0, 1.0]}


def test_rank_and_precision_of_a_query_whose_matches_stand_second_and_third():
    gallery = listed([ALONG["a"], ALONG["near_a"], ALONG["between"], ALONG["b"]], ["y", "x", "x", "y"])
    found = retrieve(listed([[1.0, 0.01]], ["x"]), gallery)
    assert (found["rank1"], found["rank5"]) == (0, 100)
    assert found["map"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert (found["queries"], found["without_match"], found["gallery"]) == (1, 0, 4)
    assert found["chance_rank1"] == 50


def test_length_of_embeddings_means_nothing():
    gallery = listed([ALONG["a"], ALONG["b"]], ["x", "y"])
    long = listed([[50.0, 0], [0, 0.001]], ["x", "y"])
    assert retrieve(long, gallery)["rank1"] == 100


def test_a_query_that_stands_in_the_gallery_does_not_find_itself():
    images = ["one", "two", "three"]
    entries = listed([ALONG["a"], ALONG["b"], ALONG["near_a"]], ["x", "x", "y"], images)
    found = retrieve(entries, entries)
    assert found["queries"] == 2 and found["without_match"] == 1  # y has no other image
    # one: three is nearest; two: three is nearest, then one
    assert found["rank1"] == 0 and found["map"] == 50


def test_images_of_the_same_identity_and_camera_are_left_out_and_junk_is_ignored():
    gallery = listed(
        [ALONG["a"], ALONG["a"], ALONG["b"], ALONG["near_a"]],
        ["x", "-1", "x", "y"],
        cameras=["1", "2", "2", "1"],
    )
    found = retrieve(listed([ALONG["a"]], ["x"], cameras=["1"]), gallery)
    assert found["gallery"] == 3
    assert found["rank1"] == 0 and found["map"] == 50  # y (another identity, same camera) counts, then x by camera 2
    assert found["chance_rank1"] == 50
    without_cameras = retrieve(listed([ALONG["a"]], ["x"]), listed(gallery.embeddings, gallery.identities))
    assert without_cameras["rank1"] == 100


def test_equal_similarities_stand_in_the_order_of_the_gallery():
    vectors = [ALONG["a"], [2.0, 1e-8]]
    first = retrieve(listed([ALONG["a"]], ["x"]), listed(vectors, ["x", "y"]))
    second = retrieve(listed([ALONG["a"]], ["x"]), listed(vectors, ["y", "x"]))
    assert (first["rank1"], second["rank1"]) == (100, 0)


def plain_retrieval(queries, gallery):
    """Market-1501's protocol, one query after the other."""
    firsts, precisions = [], []
    for q, identity in enumerate(queries.identities):
        if identity == "-1":
            continue
        ranked = []
        for g, other in enumerate(gallery.identities):
            same_camera = queries.cameras[q] == gallery.cameras[g] != ""
            if other == "-1" or queries.images[q] == gallery.images[g] or (other == identity and same_camera):
                continue
            a, b = queries.embeddings[q].astype(float), gallery.embeddings[g].astype(float)
            ranked.append((-a @ b / np.linalg.norm(a) / np.linalg.norm(b), g, other == identity))
        hits = [hit for _, _, hit in sorted(ranked)]
        if any(hits):
            places = [place for place, hit in enumerate(hits, start=1) if hit]
            firsts.append(places[0])
            precisions.append(np.mean([n / place for n, place in enumerate(places, start=1)]))
    return {"rank1": 100 * np.mean(np.array(firsts) == 1), "rank5": 100 * np.mean(np.array(firsts) <= 5),
            "map": 100 * np.mean(precisions), "queries": len(firsts)}  # fmt: skip


@pytest.mark.parametrize("chunk", [2**23, 50])
def test_random_embeddings_score_as_in_a_plain_restatement(chunk, monkeypatch):
    monkeypatch.setattr("airpipe.evaluation.retrieval.CHUNK", chunk)
    generator = np.random.default_rng(4)
    names = ["-1", "0000", *"abcdef"]

    def entries(count):
        identities = [names[i] for i in generator.integers(len(names), size=count)]
        vectors = (
            generator.normal(size=(count, 8)) + [3 * (len(n) == 1) * ord(n[0]) % 7 for n in identities for _ in [0]][0]
        )
        images = [str(i) for i in generator.integers(60, size=count)]
        return Entries(
            vectors.astype(np.float32), identities, images, [str(c) for c in generator.integers(3, size=count)]
        )

    queries, gallery = entries(40), entries(60)
    found, expected = retrieve(queries, gallery), plain_retrieval(queries, gallery)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["queries"] + found["without_match"] == sum(name != "-1" for name in queries.identities)


def test_chance_is_what_random_orders_reach():
    generator = np.random.default_rng(0)
    orders = [generator.permutation(20) < 5 for _ in range(4000)]
    precisions = [np.mean(np.arange(1, 6) / (np.flatnonzero(order) + 1)) for order in orders]
    assert random_precision(np.array([5]), np.array([20]))[0] == pytest.approx(np.mean(precisions), rel=0.02)
    assert random_precision(np.array([1]), np.array([1]))[0] == 1


def test_a_gallery_without_any_match_is_told():
    with pytest.raises(AirpipeError, match="none of the 1 queries has an image of its identity in the gallery of 1"):
        retrieve(listed([ALONG["a"]], ["x"]), listed([ALONG["b"]], ["y"]))
    with pytest.raises(AirpipeError, match="embeddings of the queries are not finite"):
        retrieve(listed([[np.nan, 1]], ["x"]), listed([ALONG["b"]], ["x"]))
    with pytest.raises(AirpipeError, match=r"embeddings of \[1, 2\] numbers"):
        retrieve(listed([[1.0]], ["x"]), listed([ALONG["b"]], ["x"]))


# Scores of many images


def test_scores_of_a_batch_are_those_of_its_images():
    generator = np.random.default_rng(1)
    clean = generator.integers(0, 256, (5, 20, 33, 3), dtype=np.uint8)
    restored = (clean / 255 + generator.normal(0, 0.1, clean.shape)).astype(np.float32)
    psnr, ssim = score_batch(restored, clean)
    for number in range(5):
        expected = score(restored[number], clean[number])
        assert (psnr[number], ssim[number]) == pytest.approx((expected["psnr"], expected["ssim"]), rel=1e-10)
    same = score_batch(clean / np.float32(255), clean)
    assert np.isinf(same[0]).all() and same[1] == pytest.approx(np.ones(5))
    with pytest.raises(ValueError, match=r"image \(10, 33\) is smaller than the SSIM window"):
        score_batch(restored[:, :10], clean[:, :10])


# Recognition


class ByColour(nn.Module):
    """Calls an image by its strongest channel; its embedding are the channels' means."""

    image_size = None

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.eye(3))

    def forward(self, image, features=False):
        means = image.mean((2, 3)) @ self.weight
        return means - means.mean(1, keepdim=True) if features else means


class Brighter(nn.Module):
    """Multiplies by a constant and adds red."""

    pads_itself = True

    def __init__(self, red=0.0):
        super().__init__()
        self.red = red

    def forward(self, image):
        return image + torch.tensor([self.red, 0, 0]).view(3, 1, 1)


CLASSES = ["blue", "green", "red"]


def loaded(network, **card):
    return LoadedModel(network.eval(), {"network": {"name": "toy", "arguments": {}}, **card}, Path("toy"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Twelve pictures of two sizes, four of each of three colours."""
    folder, found = tmp_path_factory.mktemp("colours"), []
    generator = np.random.default_rng(7)
    for number in range(12):
        kind = number % 3
        side = (24, 24) if number % 4 else (24, 30)
        pixels = generator.integers(0, 140, (*side, 3), dtype=np.uint8)
        pixels[..., kind] += 60
        path = folder / f"img{number}.png"
        cv2.imwrite(str(path), pixels)  # channels are written as BGR
        found.append(Pair(path, None, "", "", "none", path.stem, path.stem, category=CLASSES[kind]))
    return found


@pytest.fixture
def recognisers():
    class Named(ByColour):
        def __init__(self):
            super().__init__()
            self.weight = torch.eye(3).flip(1).contiguous()  # RGB channels to blue, green, red

    return {"eye": loaded(Named(), classes=CLASSES)}


def job(**tests):
    defaults = {"pairs": "colours.test", "dataset": "colours", "degradation": "noise", "recipe": "noise"}
    noisy = [{**NOISE, "parameters": {"sigma": 25}}]
    whole = {}
    for name, changes in tests.items():
        values = {**defaults, "operations": noisy, **changes}
        if values["degradation"] == "clean":
            values |= {"recipe": None, "operations": []}
        whole[name] = values
    values = {"tests": whole, "recognisers": {"eye": "toy/eye/seed0/train"}, "pictures": 2}
    return check_settings(RecognitionJob, values, "recognition")


def test_without_an_enhancer_files_are_scored_and_recognised_as_they_are(pairs, recognisers):
    given = job(clean={"degradation": "clean"}, noise={})
    facts, _ = recognise(None, recognisers, given, {"colours.test": pairs})
    clean, noise = facts["clean"], facts["noise"]
    assert clean["recognition"]["eye"]["classification"] == {"top1": 100, "chance": pytest.approx(100 / 3)}
    assert clean["restoration"]["psnr"] is None and clean["restoration"]["ssim"] == pytest.approx(1)
    expected = []
    for pair in pairs:
        image = read_rgb8(pair.clean)
        noisy = degraded_input(given.tests["noise"].as_test(), pair, [image], None)
        assert (noisy * 255 == np.rint(noisy * 255)).all()
        expected.append(score(noisy, image))
    for metric in ("psnr", "ssim"):
        mean = np.mean([values[metric] for values in expected])
        assert noise["restoration"][metric] == noise["restoration"][f"{metric}_in"] == pytest.approx(mean)


def test_an_enhancer_is_clipped_and_rounded_then_scored_and_recognised(pairs, recognisers):
    given = job(noise={})
    facts, _ = recognise(loaded(Brighter(red=0.4)), recognisers, given, {"colours.test": pairs})
    plain, _ = recognise(None, recognisers, given, {"colours.test": pairs})
    answers = facts["noise"]["recognition"]["eye"]["classification"]
    assert answers["top1"] == pytest.approx(100 / 3)  # all is red now
    assert facts["noise"]["restoration"]["psnr_in"] == plain["noise"]["restoration"]["psnr"]
    expected = []
    for pair in pairs:
        image = read_rgb8(pair.clean)
        noisy = degraded_input(given.tests["noise"].as_test(), pair, [image], None)
        expected.append(score(noisy + np.array([0.4, 0, 0], np.float32), image)["psnr"])
    assert facts["noise"]["restoration"]["psnr"] == pytest.approx(np.mean(expected))


def test_batches_change_nothing_and_neither_does_the_order_of_the_list(pairs, recognisers, monkeypatch):
    given = job(noise={"tasks": ["classification", "retrieval"]})
    network = NAFNet(width=4, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])
    model = loaded(network.requires_grad_(False))
    whole, pictures = recognise(model, recognisers, given, {"colours.test": pairs})
    monkeypatch.setattr(recogniser_module, "BATCH_PIXELS", 24 * 24 * 2)
    single, again = recognise(model, recognisers, given, {"colours.test": pairs[::-1]})
    for facts in (whole, single):
        facts["noise"]["restoration"] = pytest.approx(facts["noise"]["restoration"], rel=1e-6)
    assert single["noise"]["recognition"] == whole["noise"]["recognition"]
    assert pictures.keys() == again.keys()
    assert all((pictures[name] == again[name]).all() for name in pictures if name.endswith("degraded"))


def test_a_network_that_does_not_pad_gets_images_that_fit_it():
    class Halves(nn.Module):
        size_multiple = 8

        def forward(self, image):
            assert image.shape[-2] % 8 == image.shape[-1] % 8 == 0
            return image / 2

    images = np.random.default_rng(0).integers(0, 256, (2, 11, 13, 3), dtype=np.uint8)
    assert (enhance(Halves(), images, torch.device("cpu")) == quantised((images / 255 / 2).astype(np.float32))).all()


def test_kept_pictures_are_degraded_restored_clean_and_guidance(pairs, recognisers):
    class Guided(Brighter):
        num_branches = 3

        def guidance(self, image):
            return torch.full((len(image), 3, 12, 12), 1 / 3)

    given = job(noise={}, clean={"degradation": "clean"})
    _, pictures = recognise(loaded(Guided(red=1.0)), recognisers, given, {"colours.test": pairs})
    kinds = ("degraded", "restored", "clean", "guidance")
    assert set(pictures) == {f"{test}.{n}.{kind}" for test in ("noise", "clean") for n in (0, 1) for kind in kinds}
    ordered = sorted(pairs, key=lambda pair: natural_key(pair.name))
    assert (pictures["clean.0.clean"] == read_rgb8(ordered[0].clean)).all()
    assert (pictures["clean.0.degraded"] == pictures["clean.0.clean"]).all()
    assert (pictures["noise.1.restored"][..., 0] == 255).all()
    assert pictures["noise.0.guidance"].shape == (3, 12, 12)


def test_kept_pictures_are_numbered_as_in_the_list_whatever_their_sizes(pairs, recognisers):
    ordered = sorted(pairs, key=lambda pair: natural_key(pair.name))  # the first is wider: its batch comes last
    every = job(clean={"degradation": "clean"}).model_copy(update={"pictures": len(pairs)})
    _, pictures = recognise(None, recognisers, every, {"colours.test": pairs})
    for number, pair in enumerate(ordered):
        assert np.array_equal(pictures[f"clean.{number}.clean"], read_rgb8(pair.clean))


def test_an_image_is_recognised_before_the_next_batch_is_read(pairs, recognisers, monkeypatch):
    monkeypatch.setattr(recogniser_module, "BATCH_PIXELS", 1)
    events = []

    class Listening(type(recognisers["eye"].network)):
        def forward(self, image, features=False):
            events.append("recognised")
            return super().forward(image, features)

    def read(pair, cache):
        events.append("read")
        return [read_rgb8(pair.clean)]

    monkeypatch.setattr("airpipe.evaluation.recognition.pair_layers", read)
    recognise(None, {"eye": loaded(Listening(), classes=CLASSES)}, job(noise={}), {"colours.test": pairs})
    assert events == ["read", "recognised"] * len(pairs)


def test_retrieval_asks_with_restored_images_and_looks_among_other_clean_ones(pairs, recognisers):
    tasks = ["retrieval"]
    given = job(own={"tasks": tasks}, other={"tasks": tasks, "gallery": "colours.gallery"})
    lists = {"colours.test": pairs, "colours.gallery": pairs[:4]}
    facts, _ = recognise(None, recognisers, given, lists)
    own, other = (facts[name]["recognition"]["eye"]["retrieval"] for name in ("own", "other"))
    assert (own["gallery"], other["gallery"]) == (12, 4)
    assert own["rank1"] == 100 and own["chance_rank1"] == pytest.approx(100 * 3 / 11)
    assert "classification" not in facts["own"]["recognition"]["eye"]


def test_retrieval_asks_the_named_recognisers_only(pairs, recognisers):
    tasks = {"tasks": ["classification", "retrieval"]}
    both = {**recognisers, "other": recognisers["eye"]}
    given = job(noise=tasks).model_copy(update={"retrieval": ("other",)})
    found = recognise(None, both, given, {"colours.test": pairs})[0]["noise"]["recognition"]
    assert {name: set(scores) for name, scores in found.items()} == {
        "eye": {"classification"}, "other": {"classification", "retrieval"},
    }  # fmt: skip


def test_equal_runs_give_equal_facts(pairs, recognisers):
    given = job(noise={})
    first, second = (recognise(loaded(Brighter()), recognisers, given, {"colours.test": pairs})[0] for _ in range(2))
    assert first == second


def test_images_come_to_the_size_of_a_recogniser_by_the_shorter_side_and_a_centre_cut():
    image = torch.zeros(1, 3, 20, 40)
    image[..., 10:30] = 1
    assert fitted(image, None) is image
    small = fitted(image, 10)
    assert small.shape == (1, 3, 10, 10) and small[..., 1:-1].min() > 0.99
    assert fitted(torch.rand(2, 3, 7, 5), 16).shape == (2, 3, 16, 16)
    assert torch.equal(fitted(image[..., :20], 20), image[..., :20])


def test_shared_weights_are_counted_tensor_by_tensor():
    class Pair(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.front, self.back = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    first, second = Pair(0), Pair(1)
    assert shared_values(first, second) == 0
    second.back.load_state_dict(first.back.state_dict())
    assert shared_values(first, second) == 8 * 8 * 9  # biases are too short to tell
    assert shared_values(first, first) == 3 * 8 * 9 + 8 * 8 * 9


def test_fresh_norms_and_buffers_are_no_shared_weights():
    first, second = nn.BatchNorm2d(100), nn.BatchNorm2d(100)
    assert shared_values(first, second) == 0
    for norm in (first, second):
        norm.weight.data = torch.linspace(0, 1, 100)
        norm.running_mean.copy_(torch.linspace(0, 1, 100))
    assert shared_values(first, second) == 100


def wrong(pairs, recognisers, message, **test):
    with pytest.raises(AirpipeError, match=message):
        recognise(None, recognisers, job(noise=test), {"colours.test": pairs})


def test_what_does_not_fit_together_is_told(pairs, recognisers, tmp_path):
    from dataclasses import replace

    wrong([replace(pairs[0], category=""), *pairs[1:]], recognisers, "1 of 12 images of colours.test have no class")
    strange = [replace(pairs[0], category="violet"), *pairs[1:]]
    wrong(strange, recognisers, r"recogniser eye does not know 1 of the classes \(first 'violet'\); it knows 3: blue")
    wrong(pairs, {"eye": loaded(ByColour())}, "recogniser eye: its card names no classes. Ask for retrieval")
    plain = {"recipe": None, "operations": []}
    wrong(
        pairs,
        recognisers,
        "has no degraded file of img0; give the test a recipe, or call its degradation clean",
        **plain,
    )
    small = tmp_path / "small.png"
    cv2.imwrite(str(small), np.zeros((8, 8, 3), np.uint8))
    tiny = [replace(pairs[0], clean=small), *pairs[1:]]
    wrong(tiny, recognisers, r"image \(8, 8\) is smaller than the SSIM window of 11. Leave the image out")
    with pytest.raises(AirpipeError, match="recogniser eye: gives class 3, its card has 3 classes"):
        top1(["blue"], np.array([3]), CLASSES, "eye")


def test_enhancers_and_recognisers_are_not_taken_for_each_other(pairs, recognisers):
    class NoRestorer(Brighter):
        no_restorer = "it tells classes apart"

    with pytest.raises(AirpipeError, match="this model restores no image: it tells classes apart"):
        recognise(loaded(NoRestorer()), recognisers, job(noise={}), {"colours.test": pairs})
    wrong(
        pairs, {"eye": loaded(Brighter(), classes=CLASSES)}, r"recogniser eye gives \(3, 3, 24, 30\); expected one row"
    )


def test_answers_that_are_not_finite_and_empty_lists_are_told(pairs, recognisers):
    broken = ByColour()
    broken.weight[0, 0] = float("nan")
    for task in ("classification", "retrieval"):
        wrong(pairs, {"eye": loaded(broken, classes=CLASSES)}, "recogniser eye gives numbers that are not finite",
              tasks=[task])  # fmt: skip
    wrong([], recognisers, "recognition, test noise: colours.test lists no images")
    asked = job(noise={"tasks": ["retrieval"], "gallery": "colours.gallery"})
    with pytest.raises(AirpipeError, match="recogniser eye: the gallery colours.gallery lists no images"):
        recognise(None, recognisers, asked, {"colours.test": pairs, "colours.gallery": []})


def test_retrieval_needs_no_classes_of_the_recogniser(pairs):
    eye = {"eye": loaded(ByColour())}
    facts, _ = recognise(None, eye, job(noise={"tasks": ["retrieval"]}), {"colours.test": pairs})
    assert facts["noise"]["recognition"]["eye"]["retrieval"]["queries"] == 12


# Settings


RECOGNITION = {
    "models": ["baseline/nafnet_5d", "dcpt/nafnet_5d/pretrain", "imported/mine"],
    "recognisers": {"b": "vrdir/airpipe/recogniser_b", "a": "imported/mine"},
    "tests": {
        "clean": {"pairs": "photos.test", "degradation": "clean"},
        "noise25": {"pairs": "photos.test", "degradation": "noise", "recipe": "noise", "fixed": {"sigma": 25}},
    },
}


def project(**changes):
    return load_project(shipped() | {"recognition": {**RECOGNITION, **changes}})


def test_a_job_has_the_seed_in_its_lists_and_models_and_its_recipes_written_out():
    values = shipped() | {"recognition": RECOGNITION}
    values["datasets"] = {**values["datasets"], "photos3": values["datasets"]["photos"]}
    for seed in (0, 1, 2):
        values["datasets"][f"photos{seed}"] = values["datasets"]["photos"]
    values["recognition"] = {**RECOGNITION, "tests": {**RECOGNITION["tests"], "own": {
        **NOISY, "pairs": "photos{seed}.test", "gallery": "photos.val", "level": "any",
    }}}  # fmt: skip
    found = load_project(values).recognition_job(3)
    assert found.recognisers == {"b": "vrdir/airpipe/seed3/recogniser_b", "a": "imported/mine"}
    assert (found.tests["own"].pairs, found.tests["own"].dataset) == ("photos3.test", "photos")
    assert found.tests["own"].lists() == ("photos3.test", "photos.val")
    assert found.tests["noise25"].operations[0].parameters["sigma"].constant == 25
    assert found.tests["clean"].operations == ()


def test_the_headline_is_the_first_recogniser_or_the_named_one():
    assert project().recognition.in_order() == ("b", "a")
    assert project(headline="a").recognition.in_order() == ("a", "b")
    assert RecognitionSettings().in_order() == ()


def test_other_scales_have_no_recognition():
    assert project(scales=["paper"]).recognition.models == ()
    assert project(scales=["demo"]).recognition.models == tuple(RECOGNITION["models"])


NOISY = {"pairs": "photos.test", "degradation": "noise", "recipe": "noise"}


def one(**changes):
    return {"tests": {"odd": {**NOISY, **changes}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["nafnet"]}, "recognition: 'nafnet' is not method/setting, method/setting/stage or imported/name"),
        ({"models": ["baseline/nafnet_5"]}, "unknown setting of baseline 'nafnet_5'; did you mean 'nafnet_5"),
        (
            {"models": ["baseline/nafnet_5d/trian"]},
            "unknown stage of baseline/nafnet_5d in recognition 'trian'; did you",
        ),
        (
            {"recognisers": {"b": "baseline/nafnet_5d"}},
            "recogniser b: 'baseline/nafnet_5d' is not method/setting/stage",
        ),
        ({"recognisers": {}}, "found 2 tests and 0 recognisers; models need both"),
        ({"retrieval": ["c"]}, "unknown recogniser in retrieval 'c'"),
        ({"headline": "c"}, "unknown recogniser in headline 'c'"),
        (one(pairs="fotos.test"), "unknown data set in recognition, test odd 'fotos'; did you mean 'photos'"),
        (
            one(pairs="photos{seed}.test"),
            r"unknown data set in recognition, test odd 'photos\{seed\}'; did you mean 'photos'",
        ),
        (one(pairs="photos.tset"), "unknown split of photos in recognition, test odd 'tset'; did you mean 'test'"),
        (one(gallery="photos.gallery"), "unknown split of photos in recognition, test odd 'gallery'"),
        (one(recipe="nose"), "unknown recipe in recognition, test odd 'nose'; did you mean 'noise'"),
        (one(recipe=None, fixed={"sigma": 25}), "replaces draws of a recipe, and there is no recipe"),
        (one(degradation="clean"), "degradation is clean, but recipe 'noise' degrades"),
        (one(tasks=[]), "tests.odd.tasks"),
        (one(pairs="shapes{seed}.tset"), "unknown split of shapes0 in recognition, test odd 'tset'; did you mean"),
        (
            {"models": ["vrdir/airpipe/recogniser_a"]},
            "vrdir/airpipe/recogniser_a tells classes apart and restores nothing; name it in recognition.recognisers",
        ),
        (
            {"recognisers": {"b": "vrdir/airpipe/sad"}},
            r"recogniser b: vrdir/airpipe/sad \(vrdir.sad\) tells no classes apart; name a stage of vrdir.recogniser",
        ),
        (
            {"tests": {"first": NOISY, "second": {**NOISY, "fixed": {"sigma": 5}}}},
            "tests first and second are both called 'photos noise' in tables.*give one a `level` or a `dataset`",
        ),
        (
            {**one(tasks=["classification", "retrieval"]), "retrieval": []},
            r"test odd asks for retrieval, and retrieval: \[\] names no recogniser",
        ),
        (
            {**one(tasks=["retrieval"]), "retrieval": ["a"]},
            "test odd asks nothing of the headline b, which figures show: name b in retrieval",
        ),
    ],
)
def test_names_that_do_not_exist_are_told_with_the_nearest(changes, message):
    with pytest.raises(AirpipeError, match=message):
        project(**changes)


def test_an_overlay_leaves_tests_and_recognisers_out_by_null():
    found = project(
        tests={**RECOGNITION["tests"], "noise25": None}, recognisers={**RECOGNITION["recognisers"], "a": None}
    )
    assert list(found.recognition.tests) == ["clean"] and found.recognition.in_order() == ("b",)
    boxes = {"annotations": "a.json", "detections": {"clean": "b.json"}}
    assert list(project(detections={"boxes": boxes, "other": None}).recognition.detections) == ["boxes"]


def test_a_level_or_a_data_set_tells_tests_apart():
    tests = {"first": NOISY, "second": {**NOISY, "level": "25"}, "third": {**NOISY, "dataset": "others"}}
    assert list(project(tests=tests).recognition.tests) == list(tests)


def test_a_seed_without_data_is_told_where_its_lists_are_asked_for():
    tests = {"own": {**NOISY, "pairs": "shapes{seed}.test", "gallery": "photos.test"}}
    values = shipped() | {"recognition": {**RECOGNITION, "tests": tests}, "seeds": [0, 4]}
    found = load_project(values)
    assert found.recognition_lists(0) == ["photos.test", "shapes0.test"]
    message = (
        r"recognition, test own: seed 4 has no data set shapes4 \(shapes\{seed\}\). "
        r"Add `shapes4: \{like: shapes0, made: \{seed: 4\}\}` to datasets .*recognition: \{scales: \[\]\}"
    )
    with pytest.raises(AirpipeError, match=message):
        found.recognition_lists(4)
    values["datasets"] = {**values["datasets"], "shapes4": {"like": "shapes0", "made": {"seed": 4}}}
    assert load_project(values).recognition_lists(4) == ["photos.test", "shapes4.test"]
    off = load_project(values | {"recognition": {**RECOGNITION, "scales": []}})
    assert off.recognition_lists(5) == []


def test_tables_of_the_recognition_tests_keep_their_names():
    values = shipped()
    values["tables"] = {**values["tables"], "restoration": {"tests": ["photos_rain"]}}
    with pytest.raises(AirpipeError, match="the name 'restoration' belongs to the recognition tests"):
        load_project(values)
    values["recognition"] = {**values["recognition"], "scales": []}
    assert "restoration" in load_project(values).tables


def test_images_of_every_seed_are_degraded_otherwise_those_of_a_fixed_list_never():
    drawn = RecognitionTest(pairs="shapes{seed}.test", degradation="haze", recipe="haze")
    assert [drawn.for_seed(seed).seed for seed in (0, 1, 3)] == [100000, 100001, 100003]
    fixed = drawn.model_copy(update={"pairs": "cub.test"})
    assert [fixed.for_seed(seed).seed for seed in (0, 3)] == [100000, 100000]
