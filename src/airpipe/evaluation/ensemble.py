"""Restore an image in its eight flips and turns, and take the mean.

Source: Timofte et al., "Seven ways to improve example-based single image super resolution", CVPR 2016.
"""

from typing import cast

import torch
from torch import Tensor, nn

from airpipe.models.contract import (
    Network,
    no_restorer,
    pads_itself,
    size_multiple,
    takes_reference,
    whole_image,
)


class SelfEnsemble(Network):
    """A network made to answer for all flips and quarter turns: eight passes, one after the other."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.size_multiple, self.pads_itself = size_multiple(network), pads_itself(network)
        self.whole_image, self.no_restorer = whole_image(network), no_restorer(network)
        self.takes_reference = takes_reference(network)

    def forward(self, image: Tensor, *reference: Tensor) -> Tensor:
        """Map (B, 3, H, W) to the mean of the eight results, turned back; float32. A reference turns with the image."""
        total = torch.zeros_like(image, dtype=torch.float32)
        for turns in range(4):
            for flip in (False, True):
                turned = [
                    torch.rot90(one.flip(-1) if flip else one, turns, (-2, -1)).contiguous()
                    for one in (image, *reference)
                ]
                result = torch.rot90(cast(Tensor, self.network(*turned)).float(), -turns, (-2, -1))
                total += result.flip(-1) if flip else result
        return total / 8
