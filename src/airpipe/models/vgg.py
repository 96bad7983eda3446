"""The first layers of VGG16, up to the second convolution of its second block: VRD-IR's encoder.

Source: Simonyan and Zisserman, ICLR 2015; the cut is that of VRD-IR's code (`restore.py`): modules 0 to 7 of
torchvision's `vgg16().features`, so that the last convolution has no ReLU and values may be negative.
State-dict keys: 0, 2, 5, 7, as there without `features.`. 260,160 parameters.

Shapes: B batch, H and W pixels; what comes in is normalised by the caller.
"""

import re
from typing import Any

from torch import Tensor, nn

from airpipe.models.contract import Network, Shapes

CONVOLUTIONS = (0, 2, 5, 7)
"""Numbers of the modules that have weights."""
TORCHVISION = "features."
"""Prefix of the modules' numbers in torchvision's files."""


class VGGFront(Network, nn.Sequential):
    """Two convolutions at full size, two at half size.

    Args:
        widths: channels of the two sizes; VGG16: (64, 128).

    Raises:
        ValueError: there are not two widths, or one is below 1.
    """

    no_restorer = "it makes features of an image: the frozen encoder of VRD-IR (parents: {encoder: imported/...})"

    def __init__(self, widths: tuple[int, int] | list[int] = (64, 128)) -> None:
        if len(widths) != 2 or min(widths) < 1:
            raise ValueError(f"widths is {list(widths)}; expected two numbers from 1")
        first, second = widths
        super().__init__(
            nn.Conv2d(3, first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, first, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(second, second, 3, padding=1),
        )
        self.widths = (int(first), int(second))

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W), normalised, to (B, widths[1], H // 2, W // 2)."""
        features: Tensor = super().forward(image)  # type: ignore[no-untyped-call]
        return features

    @staticmethod
    def published_key(key: str) -> str | None:
        """Return the name here of an entry of torchvision's VGG16, or None for its later layers."""
        if key.startswith("classifier."):
            return None
        found = re.fullmatch(r"features\.(\d+)\.(weight|bias)", key)
        if found is None:
            return key
        return f"{found[1]}.{found[2]}" if int(found[1]) in CONVOLUTIONS else None

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Return the weights under torchvision's names; there are no buffers."""
        self.published_layout(layout)
        return {f"{TORCHVISION}{key}": value for key, value in self.state_dict().items()}

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the widths of a file with torchvision's names (a whole VGG16 or its front) or ours; None for others.

        Args:
            shapes: shape of each entry, by its name.
        """
        prefix = TORCHVISION if f"{TORCHVISION}0.weight" in shapes else ""
        weights = [shapes.get(f"{prefix}{module}.weight", ()) for module in CONVOLUTIONS]
        biases = [shapes.get(f"{prefix}{module}.bias", ()) for module in CONVOLUTIONS]
        others = set(shapes) - {f"{prefix}{module}.{kind}" for module in CONVOLUTIONS for kind in ("weight", "bias")}
        foreign = [key for key in others if cls.published_key(key) is not None]
        if foreign or (others and not prefix) or any(len(weight) != 4 for weight in weights):
            return None
        first, second = weights[0][0], weights[2][0]
        wanted = [(first, 3, 3, 3), (first, first, 3, 3), (second, first, 3, 3), (second, second, 3, 3)]
        fits = weights == wanted and biases == [(first,), (first,), (second,), (second,)]
        return {"widths": [first, second]} if fits else None
