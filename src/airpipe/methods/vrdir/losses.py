"""The losses of VRD-IR's stages.

Source: aaaasan111/vrdir `SAD_pre/SADtrainer.py`, `DNC_pre/DNCtrainer.py`, `train.py` (goldens `vrdir_full`,
`vrdir_grads`).
"""

import torch.nn.functional as F
from torch import Tensor

from airpipe.training.losses import PixelLoss, l1


def rebuilding_losses(
    of_clean: Tensor, of_degraded: Tensor, clean: Tensor, degraded: Tensor, margin: float, pixel_loss: PixelLoss = l1
) -> dict[str, Tensor]:
    """Losses of SAD, which turns the features of either image back into that image.

    Args:
        of_clean, of_degraded: images (B, 3, H, W) that the decoder makes of the features of each.
        clean, degraded: the images themselves, (B, 3, H, W).
        margin: by how much (cosine) the rebuilt clean image is to be more like its source than the degraded one.
        pixel_loss: loss of each image that is rebuilt.

    Returns:
        `clean` and `degraded` (pixel losses), `similarity` (the ranking, see `similarity_ranking`).
    """
    return {
        "clean": pixel_loss(of_clean, clean),
        "degraded": pixel_loss(of_degraded, degraded),
        "similarity": similarity_ranking(of_clean, of_degraded, clean, degraded, margin),
    }


def similarity_ranking(of_clean: Tensor, of_degraded: Tensor, clean: Tensor, degraded: Tensor, margin: float) -> Tensor:
    """Mean over the batch of max(0, margin - (cos(of_clean, clean) - cos(of_degraded, degraded))), whole images."""

    def likeness(one: Tensor, other: Tensor) -> Tensor:
        return F.cosine_similarity(one.flatten(1), other.flatten(1))

    gap = likeness(of_clean, clean) - likeness(of_degraded, degraded)
    return (margin - gap).clamp_min(0).mean()


def restoring_losses(
    restored: Tensor, clean: Tensor, normal: Tensor, of_clean: Tensor, pixel_loss: PixelLoss = l1
) -> dict[str, Tensor]:
    """Losses of DNC and ISE: the image, and the features behind it.

    Args:
        restored, clean: images (B, 3, H, W).
        normal: features that `restored` was made of, (B, C, h, w).
        of_clean: features of the clean image, (B, C, h, w).
        pixel_loss: loss of the images.

    Returns:
        `pixel`, and `semantic`: mean of 1 - cosine of the features' largest values in each channel.
    """
    peaks, wanted = normal.amax((2, 3)), of_clean.amax((2, 3))
    return {"pixel": pixel_loss(restored, clean), "semantic": (1 - F.cosine_similarity(peaks, wanted)).mean()}
