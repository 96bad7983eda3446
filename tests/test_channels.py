"""Networks of other channels than three: grey ones restore grey pictures, all others are refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import fill_parameters, load_golden
from torch import nn

from airpipe import build_network, restore
from airpipe.cli import main as cli
from airpipe.data.pairs import Pair
from airpipe.errors import AirpipeError
from airpipe.evaluation.candidates import network_restorer
from airpipe.evaluation.channels import LUMA, for_rgb
from airpipe.evaluation.protocol import evaluate
from airpipe.images import Picture, read_picture, write_picture
from airpipe.models.cost import network_cost
from airpipe.settings.scoring import ProtocolSettings, TestSettings
from airpipe.settings.stages import NetworkSettings
from airpipe.training.task import seeded_network
from airpipe.weights.checkpoints import load_model
from airpipe.weights.importing import ImportOptions, describe, how_to_use, import_published

GOLDENS = Path(__file__).parent / "goldens"
SIZES = {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]}
RESTORMER = {
    "dim": 8,
    "num_blocks": [1, 1, 1, 1],
    "num_refinement_blocks": 1,
    "heads": [1, 1, 1, 1],
}
KINDS = {
    "grey": (1, np.uint8, False),
    "grey_alpha": (1, np.uint8, True),
    "grey16": (1, np.uint16, False),
    "rgb": (3, np.uint8, False),
    "rgba": (3, np.uint8, True),
    "rgb16": (3, np.uint16, False),
    "rgba16": (3, np.uint16, True),
}


def picture(channels: int, kind: type, alpha: bool, side: int = 20) -> Picture:
    random = np.random.default_rng(0)
    top = np.iinfo(kind).max
    pixels = random.integers(0, top + 1, (side, side + 3, channels)).astype(kind)
    opacity = random.integers(0, top + 1, pixels.shape[:2]).astype(kind) if alpha else None
    return Picture(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))), opacity, grey=channels == 1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name, kind in KINDS.items():
        write_picture(folder / f"{name}.png", picture(*kind))
    return folder


def network_of(channels: int) -> nn.Module:
    network = build_network("nafnet", img_channel=channels, **SIZES)
    fill_parameters(network)
    return network.eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folder of an imported network for each number of channels; "dual" is a Restormer of dual-pixel views."""
    folder = tmp_path_factory.mktemp("models")
    dual = build_network("restormer", inp_channels=6, dual_pixel_task=True, **RESTORMER)
    for name, network in {**{str(n): network_of(n) for n in (1, 3, 4, 6)}, "dual": dual}.items():
        torch.save(
            {"params": network.published_state(layout="milab" if name != "dual" else "")}, folder / f"{name}.pth"
        )
        found = import_published(folder / f"{name}.pth", folder / name, ImportOptions())
        (folder / f"{name}.txt").write_text("\n".join([*describe(found), how_to_use(found, folder / name)]))
    return folder


REFUSED = {
    "4": "this model restores no image: it takes images of 4 channels, and a picture has 3 (RGB) or 1 (grey)",
    "6": "this model restores no image: it takes images of 6 channels, and a picture has 3 (RGB) or 1 (grey)",
    "dual": "this model restores no image: it takes the two views of a dual-pixel sensor, 6 channels in all",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["1", "3", *REFUSED])
def test_every_kind_of_picture_is_restored_or_refused_in_one_line(name, kind, models, photos, tmp_path, capsys):
    source, target = photos / f"{kind}.png", tmp_path / "out.png"
    code = cli.main(["restore", str(source), "-m", str(models / name), "-o", str(target), "--device", "cpu"])
    said = capsys.readouterr().err
    if name in REFUSED:
        assert (code, said) == (2, f"airpipe: error: {REFUSED[name]}. Choose another model\n")
    elif name == "1" and not kind.startswith("grey"):
        expected = f"{source} has colours, and this model restores grey pictures (1 channel). Convert it to grey"
        assert code == 2 and said.startswith(f"airpipe: error: {expected}, or have its brightness restored")
        assert len(said.splitlines()) == 1
        assert cli.main(["restore", str(source), "-m", str(models / name), "-o", str(target), "--luma"]) == 0
    else:
        assert (code, said) == (0, "")
    assert target.exists() == (name not in REFUSED)
    if target.exists():
        before, after = read_picture(source), read_picture(target)
        assert (after.pixels.shape, after.pixels.dtype) == (before.pixels.shape, before.pixels.dtype)
        assert np.array_equal(after.alpha, before.alpha) if before.alpha is not None else after.alpha is None
        assert (after.pixels != before.pixels).mean() > 0.5


def test_a_grey_picture_is_restored_as_the_network_alone_does_it(models, photos):
    network = load_model(models / "1").network
    before = read_picture(photos / "grey16.png").pixels
    image = torch.from_numpy(before[..., 0] / np.float32(65535))[None, None]
    with torch.no_grad():
        expected = network(image).clamp(0, 1)[0, 0]
    found = restore(photos / "grey16.png", models / "1", device="cpu")
    np.testing.assert_allclose(found / 65535, expected, atol=1e-5)
    array = restore(before[..., 0], network)
    assert array.shape == before.shape[:2] and np.array_equal(array, found)
    for shape in ((1, *image.shape[-2:]), (1, 1, *image.shape[-2:])):
        torch.testing.assert_close(restore(image.reshape(shape), network), expected.reshape(shape), rtol=0, atol=1e-6)
    three = restore(image[0].expand(3, -1, -1), network, tile=16, overlap=4)
    assert torch.equal(three[0], three[1]) and torch.equal(three[0], three[2])


def test_a_grey_picture_in_one_channel_is_restored_by_a_network_of_colours_as_the_mean_of_its_outputs():
    network, image = network_of(3), torch.rand(1, 12, 14)
    with torch.no_grad():
        expected = network(image.expand(3, -1, -1)[None])[0].mean(0).clamp(0, 1)
    torch.testing.assert_close(restore(image, network)[0], expected)


def test_the_brightness_of_a_colour_picture_is_restored_alone_and_its_colours_stay():
    network, image = network_of(1), torch.rand(1, 3, 18, 22, generator=torch.Generator().manual_seed(1)) / 4 + 0.375
    weights = torch.tensor(LUMA).view(3, 1, 1)
    bright = (image * weights).sum(1, keepdim=True)
    with torch.no_grad():
        expected = network(bright)
        found = for_rgb(network, grey=False, luma=True)(image)
    torch.testing.assert_close((found * weights).sum(1, keepdim=True), expected, rtol=1e-5, atol=1e-5)
    changed = found - image  # equal for R, G and B, so that R - Y and B - Y, which Cb and Cr are made of, stay
    torch.testing.assert_close(changed, changed[:, :1].expand(-1, 3, -1, -1), rtol=0, atol=1e-5)
    assert changed.abs().max() > 0.1
    with pytest.raises(AirpipeError, match=r"restores RGB pictures, colours included. Leave --luma out"):
        restore(image, network_of(3), luma=True)


def test_self_ensemble_and_memory_work_with_a_network_of_grey_images():
    network, image = network_of(1), torch.rand(1, 40, 44)
    whole = restore(image, network, self_ensemble=True)
    torch.testing.assert_close(restore(image, network, self_ensemble=True, memory=1e9), whole)
    assert not torch.equal(whole, restore(image, network))


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_module_that_tells_nothing_is_restored_with_or_fails_in_one_error(channels):
    network = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1))
    if channels == 1:
        assert restore(torch.rand(1, 9, 8), network).shape == (1, 9, 8)
        with pytest.raises(AirpipeError, match="the picture has colours"):
            restore(np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8), network)
    else:
        with pytest.raises(
            AirpipeError, match=rf"Sequential fails on images of shape \(1, 3, 9, 8\) \(.*{channels} ch"
        ):
            restore(torch.rand(3, 9, 8), network)


NOISE = {"operation": "gaussian_noise", "parameters": {"sigma": 25}}
SCORED = TestSettings(
    pairs="x.test", degradation="noise", level="25", operations={"operations": [NOISE]}, protocols=["airpipe"]
)
PROTOCOL = ProtocolSettings(
    title="t", source="ours", metrics={"psnr": {"measure": "psnr"}}, noise={"clip": False, "generator": "per_image"}
)


@pytest.mark.parametrize("name", ["1", "3", *REFUSED])
def test_tests_of_grey_images_are_scored_and_those_with_colours_refused_in_one_error(name, models, photos):
    loaded = load_model(models / name)
    restorer = network_restorer(loaded.network, torch.device("cpu"), tile=0)
    for kind in ("grey", "rgb"):
        pairs = [Pair(photos / f"{kind}.png", None, "noise", "25", "none", "a", "a")]
        if name == "3" or (name == "1" and kind == "grey"):
            [row] = evaluate(SCORED, {"airpipe": PROTOCOL}, pairs, restorer)
            assert 0 < row["value"] < 40
        else:
            wanted = REFUSED.get(name, "a: has colours, and this model restores grey pictures (1 channel)")
            with pytest.raises(AirpipeError) as error:
                evaluate(SCORED, {"airpipe": PROTOCOL}, pairs, restorer)
            assert str(error.value).startswith(wanted)


def test_what_an_import_says_of_channels_is_true(models):
    said = {name: (models / f"{name}.txt").read_text().splitlines() for name in ("1", "3", "4", "6", "dual")}
    assert said["1"][-2] == "note: restores grey pictures: images have 1 channel"
    assert said["1"][-1].endswith(f"-m {models / '1'}; of colour photos the brightness: --luma")
    assert said["3"][-1] == f"airpipe restore PHOTO -m {models / '3'}"
    for name, reason in REFUSED.items():
        assert said[name][-2] == "note: " + reason.replace("this model restores", "restores")
        assert said[name][-1] == f"a parent for training: imported/{name}"
    assert not any("encoder" in line for lines in said.values() for line in lines)


def test_the_cost_of_a_network_counts_its_own_channels(models):
    card = json.loads((models / "4" / "card.json").read_text())
    four, three = card["macs"], network_cost("nafnet", {**card["network"]["arguments"], "img_channel": 3})["macs"]
    assert four - three == 2 * 9 * 8 * 256**2  # one channel more in the first and in the last convolution


def test_the_grey_golden_restores_a_grey_file(tmp_path, photos):
    golden = load_golden(GOLDENS / "import_restormer_grey.npz")
    torch.save({"params": golden.reference_state()}, tmp_path / "grey.pth")
    assert restore(photos / "grey.png", tmp_path / "grey.pth", device="cpu").shape == (20, 23)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_training_refuses_a_network_of_other_channels_before_it_begins(channels):
    asked = NetworkSettings(name="nafnet", arguments={**SIZES, "img_channel": channels})
    with pytest.raises(AirpipeError, match=f"network nafnet takes images of {channels} channels; trainings have RGB"):
        seeded_network(asked, 0)
