"""The losses of DSRIR's training step.

Source: xfwang23/DSRIR `losses/loss.py`, `train.py` (golden `dsrir_losses`, values and gradients).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from airpipe.training.losses import l1

VGG_LAYERS = (1, 6, 11, 20, 29)
"""Modules of VGG19 whose maps are compared: the first ReLU of each of its five sizes."""
CONTRAST_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Weight of each map, shallow first."""
POSITIVE_WEIGHTS = (1.0, 0.25, 0.125)
"""How near the last image has to come to the clean one, to that of the second stage and to that of the first."""


def uncertainty_loss(images: Sequence[Tensor], maps: Sequence[Tensor], clean: Tensor) -> Tensor:
    """Mean over the stages of |image - clean| / exp(map) + 2 map: errors cost less where the network expects them.

    Args:
        images: restored image of each stage, (B, 3, H, W).
        maps: logarithm of each image's uncertainty, (B, 3, H, W).
        clean: (B, 3, H, W).
    """
    each = [
        ((image - clean).abs() * (-uncertainty).exp()).mean() + 2 * uncertainty.mean()
        for image, uncertainty in zip(images, maps, strict=True)
    ]
    return torch.stack(each).mean()


def psnr_loss(images: Sequence[Tensor], clean: Tensor) -> Tensor:
    """Negative PSNR in dB of the last stage's image, plus half the mean of those of the stages before.

    Args:
        images: restored image of each of three stages, the last stage first, (B, 3, H, W).
        clean: (B, 3, H, W).
    """
    last, *earlier = (negative_psnr(image, clean) for image in images)
    return last + 0.5 * torch.stack(earlier).mean()


def negative_psnr(image: Tensor, clean: Tensor) -> Tensor:
    """Mean over images (B, C, H, W) of their mean squared error in dB, which is -PSNR; at least -80 dB."""
    error = (image - clean).square().mean((1, 2, 3))
    return 10 / math.log(10) * (error + 1e-8).log().mean()


def contrastive_loss(
    features: Callable[[Tensor], Sequence[Tensor]], images: Sequence[Tensor], clean: Tensor, degraded: Tensor
) -> Tensor:
    """How far the last image is from better ones, over how far it is from the degraded one, in features.

    Better are the clean image and, to keep the stages together, those of the stages before. Distances are means over
    all samples, so that a batch's loss is not the mean of its parts' losses.

    Args:
        features: makes maps of images in [0, 1], shallow first; at most five, of which the deepest weighs most.
        images: restored image of each of three stages, the last stage first, (B, 3, H, W). All get gradients.
        clean, degraded: (B, 3, H, W).
    """
    with torch.no_grad():
        given = features(torch.cat([clean, degraded]))
    made = features(torch.cat(list(images)))
    terms = []
    for weight, of_given, of_made in zip(CONTRAST_WEIGHTS[-len(given) :], given, made, strict=True):
        good, bad = of_given.chunk(2)
        last, *earlier = of_made.chunk(len(images))
        distances = [l1(last, positive) for positive in (good, *earlier)]
        near = sum(share * one for share, one in zip(POSITIVE_WEIGHTS, distances, strict=True))
        terms.append(weight * near / (l1(last, bad) + 1e-7))
    return torch.stack(terms).sum()
