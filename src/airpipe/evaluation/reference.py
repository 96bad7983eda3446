"""The sample that a restorer gets, and networks that are shown a second image beside it."""

from dataclasses import dataclass

from torch import Tensor, nn

from airpipe.models.contract import Network
from airpipe.pixels import FloatImage


@dataclass(frozen=True)
class Sample:
    """An image to restore, and what its task has beside it."""

    degraded: FloatImage
    """The image to restore: (H, W, 3) float32, RGB, nominally in [0, 1]."""
    name: str = ""
    """Name of the image in the pair list, for messages and for choices that depend on it."""
    reference: FloatImage | None = None
    """A second image that shows how the result should look, (h, w, 3) float32 of any size; None: the task has none."""


class Guided(Network):
    """A network with a reference bound to it, so that it restores images and tiles like any other.

    Args:
        network: a network that takes a reference.
        reference: image (3, h, w), RGB in [0, 1]; every tile gets the whole of it.
    """

    reference: Tensor

    def __init__(self, network: nn.Module, reference: Tensor) -> None:
        super().__init__()
        self.network = network
        self.takes_images_as(network)
        self.takes_reference = False
        first = next(network.parameters(), reference)
        self.register_buffer("reference", reference.to(first.device, first.dtype), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) to the same shape."""
        restored: Tensor = self.network(image, self.reference.expand(len(image), -1, -1, -1))
        return restored
