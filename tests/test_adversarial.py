"""Adversarial losses against their formulas, and VGG19's features against a plain forward pass."""

import pytest
import torch
import torch.nn.functional as F
from parity import make_input

from airpipe.registry import build_network
from airpipe.training.adversarial import discriminator_losses, generator_loss
from airpipe.training.losses import PIXEL_LOSSES
from airpipe.weights.published import candidates

WIDTHS = (64, 64, 128, 128, *(256,) * 4, *(512,) * 8)
REAL, FAKE = make_input((2, 1, 3, 3), 1), make_input((2, 1, 3, 3), 2) - 0.7


def entropy(scores, wanted):
    p = torch.sigmoid(scores)
    return -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()


def test_lsgan_is_the_squared_distance_to_one_and_zero():
    real, fake = discriminator_losses("lsgan", REAL, FAKE)
    torch.testing.assert_close(generator_loss("lsgan", FAKE), (FAKE - 1).square().mean())
    torch.testing.assert_close((real, fake), ((REAL - 1).square().mean(), FAKE.square().mean()))


def test_gan_is_the_cross_entropy():
    real, fake = discriminator_losses("gan", REAL, FAKE)
    torch.testing.assert_close(generator_loss("gan", FAKE), entropy(FAKE, 1))
    torch.testing.assert_close((real, fake), (entropy(REAL, 1), entropy(FAKE, 0)))


def test_ragan_compares_with_the_mean_of_the_others_and_is_halved():
    apart = REAL - FAKE.mean(), FAKE - REAL.mean()
    expected = (entropy(apart[0], 0) + entropy(apart[1], 1)) / 2
    torch.testing.assert_close(generator_loss("ragan", FAKE, REAL), expected)
    found = discriminator_losses("ragan", REAL, FAKE)
    torch.testing.assert_close(found, (entropy(apart[0], 1) / 2, entropy(apart[1], 0) / 2))


def test_an_unknown_kind_and_a_missing_side_are_named():
    with pytest.raises(ValueError, match="adversarial loss is 'wgan'; expected lsgan, gan or ragan"):
        generator_loss("wgan", FAKE)
    with pytest.raises(ValueError, match="ragan compares with the scores of real images, found none"):
        generator_loss("ragan", FAKE)


def test_the_blurred_squared_difference_is_that_of_blurred_images():
    one, two = make_input((1, 3, 9, 8), 3), make_input((1, 3, 9, 8), 4)
    at = torch.arange(-2, 3.0)
    square = torch.exp(-(at[:, None] ** 2 + at[None] ** 2) / 2)
    kernel = (square / square.sum()).expand(3, 1, 5, 5)
    blurred = [F.conv2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), kernel, groups=3) for image in (one, two)]
    torch.testing.assert_close(PIXEL_LOSSES["mse_blur"](one, two), F.mse_loss(*blurred))


def test_the_features_of_vgg19_are_those_of_its_modules_in_order():
    network = build_network("vgg19")
    image = make_input((1, 3, 32, 48), 5)
    with torch.no_grad():
        (deep,) = network(image)
        maps = network(image, layers=(1, 6, 20), normalise=False)
        normalised = (image - network.mean) / network.sd
        torch.testing.assert_close(deep, network.features[:35](normalised))
        torch.testing.assert_close(maps[1], network.features[:7](image))
    assert [tuple(one.shape[1:]) for one in maps] == [(64, 32, 48), (128, 16, 24), (512, 4, 6)]
    assert deep.shape[1:] == (512, 2, 3) and deep.min() < 0
    assert sum(p.numel() for p in network.parameters()) == 20_024_384  # Simonyan and Zisserman: of 143,667,240


def test_a_file_of_vgg19_is_told_from_one_of_vgg16():
    widths = dict(zip((0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34), WIDTHS, strict=True))
    before = dict(zip(widths, (3, *WIDTHS[:-1]), strict=True))
    shapes = {f"features.{n}.weight": (width, before[n], 3, 3) for n, width in widths.items()}
    shapes |= {f"features.{n}.bias": (width,) for n, width in widths.items()}
    assert candidates(shapes | {"classifier.0.weight": (4096, 25088)}) == {"vgg19": {}}
