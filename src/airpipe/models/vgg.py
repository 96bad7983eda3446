"""VGG networks: the front of VGG16, VRD-IR's encoder, and the features of VGG19 for perceptual losses.

Source: Simonyan and Zisserman, ICLR 2015. The front is cut as in VRD-IR's code (`restore.py`): modules 0 to 7 of
torchvision's `vgg16().features`, so that the last convolution has no ReLU and values may be negative; its state-dict
keys are 0, 2, 5, 7, as there without `features.`, 260,160 parameters; what comes in is normalised by the caller.

Shapes: B batch, H and W pixels.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
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
        if f"{TORCHVISION}16.weight" in shapes:
            return None  # of VGG19, whose fourth block has a convolution there; VGG16 has a pooling
        prefix = TORCHVISION if f"{TORCHVISION}0.weight" in shapes else ""
        weights = [shapes.get(f"{prefix}{module}.weight", ()) for module in CONVOLUTIONS]
        biases = [shapes.get(f"{prefix}{module}.bias", ()) for module in CONVOLUTIONS]
        others = set(shapes) - {f"{prefix}{module}.{kind}" for module in CONVOLUTIONS for kind in ("weight", "bias")}
        # besides the front, a whole VGG16 has later layers only: `published_key` says None for them
        foreign = [key for key in others if cls.published_key(key) is not None]
        if foreign or (others and not prefix) or any(len(weight) != 4 for weight in weights):
            return None
        first, second = weights[0][0], weights[2][0]
        wanted = [(first, 3, 3, 3), (first, first, 3, 3), (second, first, 3, 3), (second, second, 3, 3)]
        fits = weights == wanted and biases == [(first,), (first,), (second,), (second,)]
        return {"widths": [first, second]} if fits else None


VGG19_WIDTHS = (64, 64, 128, 128, *(256,) * 4, *(512,) * 8)
"""Channels of VGG19's sixteen convolutions; a pooling stands before the third, fifth, ninth and thirteenth."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SD = (0.229, 0.224, 0.225)


class VGG19Features(Network):
    """Maps of VGG19, up to its last convolution, for perceptual losses.

    Source: Simonyan and Zisserman, ICLR 2015; numbers of modules and keys as in torchvision's `vgg19().features`.
    """

    no_restorer = "it makes features of an image, for perceptual losses (parents: {vgg: imported/...})"
    LEAST: ClassVar[int] = 16
    """Shortest side of an image in pixels: four poolings leave one place of it."""
    mean: Tensor
    sd: Tensor

    def __init__(self) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        before = 3
        for number, width in enumerate(VGG19_WIDTHS):
            if number in (2, 4, 8, 12):
                modules.append(nn.MaxPool2d(2))
            modules += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*modules)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("sd", torch.tensor(IMAGENET_SD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor, layers: Sequence[int] = (34,), normalise: bool = True) -> list[Tensor]:
        """Return the outputs of some modules for an image, shallow first.

        Args:
            image: (B, 3, H, W) in [0, 1], with sides of at least `LEAST` pixels.
            layers: numbers of modules, rising, 0 to 35; 34 is the last convolution before its ReLU (SRGAN's public
                recipe in BasicSR, DegAE's code).
            normalise: whether mean and standard deviation of ImageNet are taken off first, as in VGG19's own training.
        """
        found, maps = (image - self.mean) / self.sd if normalise else image, []
        for number, module in enumerate(list(self.features.children())[: layers[-1] + 1]):
            found = module(found)
            if number in layers:
                maps.append(found)
        return maps

    @staticmethod
    def published_key(key: str) -> str | None:
        """Return the same name for the convolutions that are used by default; None for the classifier."""
        return None if key.startswith("classifier.") else key

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return no arguments for a file of torchvision's VGG19; None for others."""
        convolutions = [key for key, shape in shapes.items() if key.startswith("features.") and len(shape) == 4]
        widths = [shapes[key][0] for key in sorted(convolutions, key=lambda key: int(key.split(".")[1]))]
        return {} if tuple(widths) == VGG19_WIDTHS and "features.34.weight" in shapes else None
