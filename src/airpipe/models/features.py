"""Features of the backbones: how they are asked for, and how parts of an image are hidden."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from airpipe.models.padding import Pad, pad_to_multiple

Features = bool | Literal["also"]
"""What a backbone is asked for. False: the restored image; True: the decoder's features instead; "also": both, as
(restored image, features)."""
Output = Tensor | list[Tensor] | tuple[Tensor, list[Tensor]]
"""Result of a backbone: what `Features` asks for."""


def pad_visible(visible: Tensor | None, multiple: int, pad: Pad = "reflect") -> Tensor | None:
    """Pad a mask of visible places (B, 1, H, W) as `pad_to_multiple` pads its image; None stays None."""
    return None if visible is None else pad_to_multiple(visible, multiple, pad)


def hide(features: Tensor, visible: Tensor | None) -> Tensor:
    """Set the hidden places of an image or feature map to zero, so that nothing leaks to them from around.

    Args:
        features: image or feature map (B, C, h, w).
        visible: mask (B, 1, H, W) of 1 and 0, resized to h x w by the nearest neighbour; None: all is visible.

    Returns:
        (B, C, h, w).

    Source: masks on the features of every encoder stage, as SparK (Tian et al., ICLR 2023) has for convolutions.
    """
    if visible is None:
        return features
    if visible.shape[-2:] != features.shape[-2:]:
        visible = F.interpolate(visible, features.shape[-2:], mode="nearest")
    return features * visible
