"""Networks of grey pictures, made to restore pictures of three channels like all others.

Source: ours. The brightness of a colour picture is Y of BT.601 over the full range (JPEG's YCbCr): adding one value to
R, G and B changes Y by it and leaves Cb and Cr as they are.
"""

from typing import cast

from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.models.contract import Network, image_channels, no_restorer

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in the brightness Y; source: ITU-R BT.601."""


class OneChannel(Network):
    """A network of grey images, for images of three channels; the result has three as well.

    Args:
        network: maps (B, 1, H, W) to the same shape.
        luma: whether images have colours: their brightness is restored, and Cb and Cr stay. Otherwise all channels are
            taken to be equal, and the first one counts.
    """

    def __init__(self, network: nn.Module, luma: bool) -> None:
        super().__init__()
        self.network, self.luma = network, luma
        self.takes_images_as(network)
        self.image_channels = 3

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W), RGB in [0, 1], to the same shape."""
        if not self.luma:
            return cast(Tensor, self.network(image[:, :1])).expand(-1, 3, -1, -1)
        bright = (image * image.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)  # (B, 1, H, W)
        return image + (cast(Tensor, self.network(bright)) - bright)


def check_restorer(network: nn.Module, luma: bool = False) -> None:
    """Refuse a network that restores no pictures, or whose images have no brightness of their own.

    Args:
        network: any network.
        luma: whether the brightness alone is to be restored.

    Raises:
        AirpipeError: it restores no image, or takes RGB where `luma` wants grey.
    """
    if reason := no_restorer(network):
        raise AirpipeError(f"this model restores no image: {reason}. Choose another model")
    if luma and image_channels(network) != 1:
        raise AirpipeError("this model restores RGB pictures, colours included. Leave --luma out")


def for_rgb(network: nn.Module, grey: bool, luma: bool = False, what: str = "the picture") -> nn.Module:
    """Return a network that takes images of three channels: itself, or made so where it restores grey ones.

    Args:
        network: a restorer.
        grey: whether the three channels of the images are equal, so that each is the grey picture.
        luma: restore the brightness alone of images with colours.
        what: the image, for messages.

    Raises:
        AirpipeError: as `check_restorer`; or the images have colours, and the network takes none.
    """
    check_restorer(network, luma)
    if image_channels(network) != 1:
        return network
    if not grey and not luma:
        raise AirpipeError(
            f"{what} has colours, and this model restores grey pictures (1 channel). Convert it to grey, or have its "
            "brightness restored alone, colours as they are: --luma (luma=True)"
        )
    return OneChannel(network, luma=not grey).eval()
