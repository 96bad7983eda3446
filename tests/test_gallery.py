"""The gallery shows what each stage of a network made of an image that a test would give it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_protocol import SHIPPED, noise_test, paired
from torch import nn

from airpipe.errors import AirpipeError
from airpipe.evaluation.metrics import psnr
from airpipe.evaluation.protocol import evaluate
from airpipe.evaluation.stages import show_stages, stages_of
from airpipe.images import read_picture
from airpipe.models.contract import Network
from airpipe.pixels import quantised
from airpipe.reporting.figures.pictures import draw_stages, read_stages
from airpipe.settings.scoring import TestJob, TestSettings

CPU = torch.device("cpu")


class Halving(Network):
    """Two stages: half of the image, then a quarter of it; maps are 1 and 2, and what was padded is 9."""

    restoring_stages = 2
    size_multiple = 8

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.count = count

    def forward(self, image, stages=False):
        assert not any(side % 8 for side in image.shape[-2:])
        images = [image / 2**number for number in range(self.count, 0, -1)]
        maps = [torch.full_like(image, number) for number in range(self.count, 0, -1)]
        return (images, maps) if stages else images[0]


class Grey(Halving):
    """The same, for grey images."""

    image_channels = 1


def job(test: TestSettings, name: str = "toy") -> TestJob:
    return TestJob(name=name, test=test, protocols={name: SHIPPED[name] for name in test.protocols})


@pytest.fixture
def pairs(tmp_path):
    """Two images with degraded files, of 45x61 pixels, the second one listed first."""
    return paired(tmp_path, (61, 45))[::-1]


def test_stages_stand_in_their_order_and_the_map_is_that_of_the_last_one():
    image = np.random.default_rng(0).random((19, 30, 3), dtype=np.float32)
    images, uncertainty = stages_of(Halving(), image, CPU)
    assert [one.shape for one in images] == [(19, 30, 3)] * 2
    np.testing.assert_array_equal(images[0], image / 2)
    np.testing.assert_array_equal(images[1], image / 4)
    np.testing.assert_array_equal(uncertainty, np.full((19, 30), 2))


def test_the_first_image_is_shown_as_the_first_protocol_gives_it(pairs):
    rain = TestSettings(pairs="toy.test", degradation="rain", protocols=("dsrir", "airpipe"))
    noise = noise_test(25, ("airpipe", "promptir")).model_copy(update={"pairs": "clean.test"})
    lists = {"toy.test": pairs, "clean.test": [replace(pair, degraded=None) for pair in pairs]}
    shown = show_stages(Halving(), [job(rain, "rain"), job(noise, "noise")], lists)
    assert shown["rain.degraded"].shape == (56, 40, 3) and shown["noise.clean"].shape == (61, 45, 3)
    kept = []
    for name, test, first in (("rain", rain, "dsrir"), ("noise", noise, "airpipe")):
        alone = test.model_copy(update={"protocols": (first,), "keep_images": 1})
        evaluate(alone, SHIPPED, lists[test.pairs], None, lambda sample, _, clean: kept.append((sample, clean)))
        sample, clean = kept.pop()
        assert sample.name == "0"
        np.testing.assert_array_equal(shown[f"{name}.degraded"], quantised(sample.degraded))
        np.testing.assert_array_equal(shown[f"{name}.clean"], clean)
        pictures = [shown[f"{name}.degraded"], *shown[f"{name}.images"]]
        np.testing.assert_array_equal(pictures[2], quantised(sample.degraded / 4))
        assert shown[f"{name}.psnr"].tolist() == [psnr(one, clean) for one in pictures]


@pytest.mark.parametrize(
    ("network", "lists", "message"),
    [
        (nn.Identity(), None, "gallery: Identity does not restore in stages .*; take its model out of gallery.models"),
        (Grey(), None, "gallery: the model takes images of 1 channels, not RGB; take it out of gallery.models"),
        (Halving(3), None, "Halving gave 3 images and 3 maps; it tells of 2 stages"),
        (Halving(), [], "gallery, test toy: toy.test lists no images. Name another test"),
    ],
)
def test_what_cannot_be_shown_is_told(pairs, network, lists, message):
    test = TestSettings(pairs="toy.test", degradation="rain")
    with pytest.raises(AirpipeError, match=message):
        show_stages(network, [job(test)], {"toy.test": pairs if lists is None else lists})


@pytest.fixture
def files(pairs, tmp_path):
    """Kept stages of two models, by id."""
    shown = show_stages(Halving(), [job(TestSettings(pairs="toy.test", degradation="rain"))], {"toy.test": pairs})
    found = {}
    for method in ("one", "other"):
        found[f"{method}/net_3d/seed0/train"] = tmp_path / f"{method}.npz"
        np.savez_compressed(tmp_path / f"{method}.npz", **shown)
    return found


def test_a_row_shows_degraded_every_stage_map_and_clean(files):
    rows = read_stages(files, ["toy"])
    assert [row.title for row in rows] == ["one/net_3d\ntoy", "other/net_3d\ntoy"]
    assert len(rows[0].stages) == 2
    with np.load(files["one/net_3d/seed0/train"]) as stored:
        assert [psnr for _, psnr in (rows[0].degraded, *rows[0].stages)] == stored["toy.psnr"].tolist()
        np.testing.assert_array_equal(rows[0].clean, stored["toy.clean"])
    assert rows[0].uncertainty.shape == (61, 45) and set(rows[0].uncertainty.flat) == {2.0}


def test_the_figure_grows_with_rows_and_stages_and_equal_pictures_make_equal_files(files, tmp_path):
    rows = read_stages(files, ["toy"])
    for name, some in (("two", rows), ("again", rows), ("one", rows[:1])):
        draw_stages(some, tmp_path / f"{name}.png")
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    (width, tall), (same, low) = (Image.open(tmp_path / f"{name}.png").size for name in ("two", "one"))
    assert width == same and tall > low + 100


@pytest.mark.pipeline
def test_the_toy_run_shows_its_gallery_on_the_page(toy_run):
    with np.load(toy_run / "results/stages/dsrir/all_in_one/seed0/train.npz") as stored:
        assert {key.partition(".")[0] for key in stored} == {"photos_noise25"}
        assert stored["photos_noise25.images"].shape == (3, 512, 512, 3)
        scored = stored["photos_noise25.psnr"]
    kept = toy_run / "results/restored/none/photos_noise25"
    degraded, clean = (read_picture(kept / f"astronaut{end}.png").pixels for end in ("", "_clean"))
    assert scored[0] == pytest.approx(psnr(degraded, clean), abs=1e-9)
    assert (toy_run / "results/figures/stages/stages.png").stat().st_size > 50_000
    page = (toy_run / "results/report/index.html").read_text()
    assert '<section id="stages">' in page and "what each stage makes of it" in page
    card = json.loads((toy_run / "results/dsrir/all_in_one/seed0/train/card.json").read_text())
    assert card["notes"] == ["no contrastive loss (contrast: none; published: VGG19)"]
    assert card["notes"][0] in page.partition('id="provenance"')[2]


@pytest.mark.pipeline
def test_every_row_of_ours_in_every_table_names_its_models(toy_run):
    """What `marked` goes by; its column of notes is the last one of every table."""
    for file in (toy_run / "results/tables").glob("*.json"):
        table = json.loads(file.read_text())
        lines = [line for block in table["blocks"] for line in block["lines"] if line["facts"].get("method")]
        unnamed = [line["label"] for line in lines if line["kind"] == "ours" and not line["models"]]
        assert not unnamed, file
        assert file.with_suffix(".csv").read_text().partition("\n")[0].endswith(",note"), file
