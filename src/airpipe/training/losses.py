"""Pixel and classification losses, by their usual names."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PixelLoss = Callable[[Tensor, Tensor], Tensor]
"""A loss of restored and clean images of one shape, (B, C, H, W); gives a scalar."""


def charbonnier(restored: Tensor, clean: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(d^2 + epsilon^2) over all differences d, a smooth L1.

    Source: Lai et al., LapSRN, CVPR 2017, eq. 4 (epsilon 1e-3).
    """
    return ((restored - clean).square() + epsilon**2).sqrt().mean()


def l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute difference."""
    return F.l1_loss(restored, clean)


def mse(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean squared difference."""
    return F.mse_loss(restored, clean)


def mse_blur(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean squared difference of both images after a Gaussian blur (sigma 1, 5x5, mirrored at the border).

    Source: DegAE's code, `l2_blur`: what noise adds to a target counts less.
    """
    at = torch.arange(-2, 3, device=restored.device, dtype=restored.dtype)
    line = torch.exp(-at.square() / 2)
    line = line / line.sum()
    difference = F.pad(restored - clean, (2, 2, 2, 2), mode="reflect")  # blurring is linear: one pass for both
    channels = difference.shape[1]
    for kernel in (line.view(1, 1, 5, 1), line.view(1, 1, 1, 5)):
        difference = F.conv2d(difference, kernel.expand(channels, -1, -1, -1), groups=channels)
    return difference.square().mean()


PIXEL_LOSSES: dict[str, PixelLoss] = {"l1": l1, "charbonnier": charbonnier, "mse": mse, "mse_blur": mse_blur}
"""Pixel losses by the names that settings give them."""


IGNORED = -100
"""Label of samples that no class loss counts, torch's default."""


def focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Mean of -(1 - p)^gamma log p, p the probability of the right class; 0 where every label is `IGNORED`.

    Source: Lin et al., Focal Loss, ICCV 2017, eq. 4, without class weights.

    Args:
        logits: scores of the classes, (B, classes).
        labels: right class of each sample or `IGNORED`, (B,) int64.
        gamma: exponent, at least 1, or 0 for the cross entropy (between them the gradient at p = 1 is infinite).
    """
    counted = labels != IGNORED
    log_p = logits.float().log_softmax(1).gather(1, labels.where(counted, 0)[:, None])[:, 0]
    losses = torch.where(counted, -((1 - log_p.exp()) ** gamma) * log_p, 0.0)
    return losses.sum() / counted.sum().clamp_min(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log p, p the probability of the right class; arguments as for `focal_loss`."""
    return focal_loss(logits, labels, gamma=0.0)
