"""Restore an image in its eight flips and turns, and take the mean.

Source: Timofte et al., "Seven ways to improve example-based single image super resolution", CVPR 2016.
"""

from typing import cast

import torch
from torch import Tensor, nn

from airpipe.models.contract import Network


class SelfEnsemble(Network):
    """A network made to answer for all flips and quarter turns: eight passes, one after the other."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.takes_images_as(network)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) to the mean of the eight results, turned back; float32."""
        total = torch.zeros_like(image, dtype=torch.float32)
        for turns in range(4):
            for flip in (False, True):
                turned = torch.rot90(image.flip(-1) if flip else image, turns, (-2, -1))
                result = torch.rot90(cast(Tensor, self.network(turned.contiguous())).float(), -turns, (-2, -1))
                total += result.flip(-1) if flip else result
        return total / 8
