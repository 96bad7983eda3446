"""Masked pretraining: hidden patches leave no trace, and one pass gives image and features."""

import pytest
import torch
import torch.nn.functional as F
from parity import make_input
from test_dcpt import BACKBONES, dcpt_stage

from airpipe.data.batch import Batch
from airpipe.errors import AirpipeError
from airpipe.methods.dcpt.network import DCPT
from airpipe.methods.dcpt.training import MaskedPretrainTask, PretrainTask, random_patches
from airpipe.training.losses import focal_loss
from airpipe.training.task import Moment

MASKED = {"task": "dcpt.masked_pretrain", "stage": "masked_pretrain", "mask_patch": 4}


def built(name: str) -> DCPT:
    torch.manual_seed(0)
    net = DCPT({"name": name, "arguments": BACKBONES[name]}, 3, downsample=name.startswith("swinir"))
    for parameter in net.parameters():  # no layer may start as zero or as one
        if parameter.ndim < 4:
            torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


@pytest.mark.parametrize("name", BACKBONES)
def test_image_and_features_of_one_pass_are_those_of_two(name):
    backbone, image = built(name).backbone, make_input((2, 3, 19, 24))
    with torch.no_grad():
        restored, features = backbone(image, features="also")
        alone = backbone(image, features=True)
        assert torch.equal(restored, backbone(image))
        assert len(features) == len(alone)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(features, alone, strict=True))


@pytest.mark.parametrize("name", BACKBONES)
def test_all_visible_is_the_plain_pass(name):
    backbone, image = built(name).backbone, make_input((2, 3, 19, 24))
    with torch.no_grad():
        shown = backbone(image, visible=torch.ones(2, 1, 19, 24))
        torch.testing.assert_close(shown, backbone(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", BACKBONES)
def test_what_is_hidden_changes_neither_image_nor_logits(name):
    net, image = built(name), make_input((2, 3, 32, 32))
    visible = random_patches(image, 8, 0.5, 0, (3, 4))
    other = torch.where(visible.bool(), image, make_input((2, 3, 32, 32), 5))
    assert not torch.equal(image, other)
    with torch.no_grad():
        for mine, theirs in zip(
            net(image, visible=visible, classify=True, generate="input"),
            net(other, visible=visible, classify=True, generate="input"),
            strict=True,
        ):
            assert torch.equal(mine, theirs)
        hidden = net(image, visible=visible, classify=True)
        assert (hidden - net(image, classify=True)).abs().max() > 1e-4


@pytest.mark.parametrize("name", BACKBONES)
def test_no_encoder_stage_leaks_into_hidden_places(name):
    """With the whole image but one corner hidden, features of the encoder are zero outside that corner."""
    backbone, image = built(name).backbone, make_input((1, 3, 32, 32))
    visible = torch.zeros(1, 1, 32, 32)
    visible[..., :16, :16] = 1
    inner = {
        "nafnet": lambda: [backbone.downs[0]],
        "restormer_dcpt": lambda: [backbone.down1_2, backbone.down2_3],
        "promptir": lambda: [backbone.down1_2, backbone.down2_3],
        "swinir_dcpt": lambda: [backbone.layers[1], backbone.layers[2]],
    }[name]()
    seen = []
    for module in inner:
        module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        backbone(image, visible=visible)
    assert len(seen) == len(inner)
    for features in seen:
        maps = features.permute(0, 3, 1, 2) if name == "swinir_dcpt" else features
        half = maps.shape[-1] // 2
        assert maps[..., :half, :half].abs().max() > 0
        assert maps[..., half:, :].abs().max() == 0 and maps[..., :, half:].abs().max() == 0


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
def test_exactly_the_share_of_patches_is_hidden_other_ones_in_each_image(ratio):
    images, slots = torch.zeros(8, 3, 36, 30), tuple(range(8))
    visible = random_patches(images, 8, ratio, 1, slots)
    assert visible.shape == (8, 1, 36, 30)
    patches = visible[..., ::8, ::8].flatten(1)
    assert patches.shape[1] == 5 * 4
    assert (1 - patches).sum(1).tolist() == [round(20 * ratio)] * 8
    assert torch.equal(F.interpolate(visible[..., ::8, ::8], scale_factor=8)[..., :36, :30], visible)
    assert len({tuple(row) for row in patches.tolist()}) > 4
    assert torch.equal(random_patches(images[2:], 8, ratio, 1, slots[2:]), visible[2:])  # whatever process has them
    assert not torch.equal(random_patches(images, 8, ratio, 2, slots), visible)


def test_a_masked_step_restores_the_clean_image_and_classifies_from_what_is_visible():
    batch = Batch(make_input((2, 3, 16, 16), 1), make_input((2, 3, 16, 16), 2), torch.tensor([0, 2]), [], [], (7, 8))
    task = MaskedPretrainTask(dcpt_stage(**MASKED), {})
    net = task.networks["net"]
    losses = task.step(batch, Moment())
    visible = random_patches(batch.degraded, 4, 0.5, task.settings.seed, (7, 8))
    restored = net.backbone(batch.degraded * visible, visible=visible)
    assert losses["pixel"].item() == pytest.approx(F.l1_loss(restored, batch.clean).item(), rel=1e-6)
    logits = net(batch.degraded, visible=visible, classify=True)
    assert losses["class"].item() == pytest.approx(focal_loss(logits, batch.label).item(), rel=1e-6)
    assert losses["class"].item() != PretrainTask(dcpt_stage(), {}).step(batch, Moment())["class"].item()


@pytest.mark.parametrize(("patch", "ratio"), [(16, 0.4), (8, 0.05), (8, 0.99)])
def test_a_mask_that_hides_nothing_or_all_is_refused(patch, ratio):
    phases = [{"steps": 1, "patch_size": 16, "batch_size": 1}]
    with pytest.raises(AirpipeError, match="hides none or all; use a smaller mask_patch or a larger patch_size"):
        dcpt_stage(**MASKED | {"mask_patch": patch, "mask_ratio": ratio, "phases": phases})


def test_a_classifier_is_validated_by_its_top1_and_that_of_each_class():
    task = PretrainTask(dcpt_stage(), {})
    logits = torch.tensor([[2.0, 1, 0], [0, 2, 1], [3, 0, 0], [0, 1, 0]])

    class Known(torch.nn.Module):
        def forward(self, image, classify):
            return logits

    image = make_input((4, 3, 16, 16))
    found = task.measure(Known(), Batch(image, image, torch.tensor([0, 1, 2, 1]), [], []))
    assert found["top1"].tolist() == [100, 100, 0, 100]
    assert {name: values.tolist() for name, values in found.items() if name != "top1"} == {
        "top1_class0": [100],
        "top1_class1": [100, 100],
        "top1_class2": [0],
    }


def test_patches_that_cut_the_strides_of_the_encoder_are_refused():
    with pytest.raises(AirpipeError, match="mask_patch is 5; the encoder of nafnet hides features of every 2 pixels"):
        MaskedPretrainTask(dcpt_stage(**MASKED | {"mask_patch": 5}), {})


def test_an_image_is_generated_beside_a_classification_only():
    net, image = built("nafnet"), make_input((1, 3, 16, 16))
    for asked in ({}, {"classify": True, "features": True}):
        with pytest.raises(ValueError, match="generate goes with classify=True and without features"):
            net(image, generate="input", **asked)


def test_one_pass_gives_classes_and_features_as_two_do():
    net, image = built("nafnet"), make_input((1, 3, 16, 16))
    with torch.no_grad():
        logits, features = net(image, classify=True, features=True)
        assert torch.equal(logits, net(image, classify=True))
        apart = net(image, features=True)
    assert len(features) == len(apart) > 1
    assert all(torch.equal(one, other) for one, other in zip(features, apart, strict=True))
