"""References bound to networks: a network that is shown a second image restores like any other."""

from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.models.contract import Network, least_reference, takes_reference


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


def guided(network: nn.Module, reference: Tensor) -> Guided:
    """Bind a reference (3, h, w), RGB in [0, 1], to a network; the result is in evaluation mode.

    Raises:
        AirpipeError: the network takes no reference, or only a larger one.
    """
    check_reference(network, *reference.shape[-2:])
    return Guided(network, reference).eval()


def check_reference(network: nn.Module, height: int = 0, width: int = 0) -> None:
    """Check that a network takes what it is shown.

    Args:
        network: any network.
        height: height of the reference in pixels; 0: there is none.
        width: width of the reference in pixels.

    Raises:
        AirpipeError: it takes no reference, or there is none, or a smaller one than it takes.
    """
    takes, least = takes_reference(network), least_reference(network)
    if takes and not height:
        raise AirpipeError(
            "this model wants a reference beside the image, and there is none here. Give one (airpipe restore "
            "--reference FILE; a test with a target_recipe), or choose another model"
        )
    if height and not takes:
        raise AirpipeError(
            "this model takes no reference: it sees nothing but the image. Leave the reference out, or choose a model "
            "that transfers degradations"
        )
    if takes and min(height, width) < least:
        raise AirpipeError(
            f"the reference has {width}x{height} pixels; this model needs {least}x{least} or more. Give a larger one"
        )
