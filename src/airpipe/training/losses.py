"""Pixel losses, by their usual names."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

PixelLoss = Callable[[Tensor, Tensor], Tensor]


def charbonnier(restored: Tensor, clean: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(d^2 + epsilon^2), a smooth L1.

    Source: Lai et al., LapSRN, CVPR 2017, eq. 4 (epsilon 1e-3).
    """
    return ((restored - clean).square() + epsilon**2).sqrt().mean()


def l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute difference."""
    return F.l1_loss(restored, clean)


def mse(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean squared difference."""
    return F.mse_loss(restored, clean)


PIXEL_LOSSES: dict[str, PixelLoss] = {"l1": l1, "charbonnier": charbonnier, "mse": mse}
