"""Recognition after restoration: scores equal plain restatements, and what does not fit together is told."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import NOISE
from torch import nn

from airpipe.data.pairs import Pair
from airpipe.errors import AirpipeError
from airpipe.evaluation import recognisers as recogniser_module
from airpipe.evaluation.metrics import WINDOWS, psnr, ssim
from airpipe.evaluation.protocol import degraded_input, natural_key
from airpipe.evaluation.recognisers import fitted, shared_values, top1
from airpipe.evaluation.recognition import enhance, recognise
from airpipe.images import read_rgb8
from airpipe.models.nafnet import NAFNet
from airpipe.pixels import quantised
from airpipe.settings.base import check_settings
from airpipe.settings.studies import RecognitionJob
from airpipe.weights.checkpoints import LoadedModel

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
        expected.append((psnr(quantised(noisy), image), ssim(quantised(noisy), image, WINDOWS["ssim_gaussian11"])))
    for metric, mean in zip(("psnr", "ssim"), np.mean(expected, 0), strict=True):
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
        expected.append(psnr(quantised(noisy + np.array([0.4, 0, 0], np.float32)), image))
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
        branches = 3

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
