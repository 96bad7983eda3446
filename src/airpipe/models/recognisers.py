"""Two small classifiers of images, by which restored images are judged.

Source: ours (for 32x32 pictures of eight shapes). `RecogniserVGG` shares its front with VRD-IR's encoder,
`RecogniserResidual` has no part in VRD-IR. They are trained on clean images, then frozen.

State-dict keys: front.{0,2,5,7}, body.<i>, head (A); stem, blocks.<i>.*, head (B).
Shapes: B batch, K classes, D values of an embedding, H and W pixels; images are RGB in [0, 1] and are normalised here.
"""

from typing import cast

import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.models.contract import Network
from airpipe.models.vgg import VGGFront

SMALLEST = 8
"""Shortest side of an image in pixels: three halvings leave one."""


class Recogniser(Network):
    """Base of the two classifiers: the number of classes and the size of the images.

    Args:
        num_classes: number of classes K, at least 2.
        image_size: side in pixels that the caller resizes images to; None: any size.

    Raises:
        ValueError: too few classes, or too small a size.
    """

    PUBLISHED_LAYOUTS = ()
    no_restorer = "it tells classes of images apart (recognition: recognisers)"

    def __init__(self, num_classes: int, image_size: int | None) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; expected at least 2")
        if image_size is not None and image_size < SMALLEST:
            raise ValueError(f"image_size is {image_size}; expected at least {SMALLEST}, or none for any size")
        self.classes, self.image_size = num_classes, image_size


class RecogniserVGG(Recogniser):
    """Classifier A: the first layers of VGG16 (the encoder of VRD-IR), then two convolutions and a linear layer.

    Args:
        num_classes: number of classes K.
        widths: channels of the front, see `VGGFront`.
        body: channels of the two convolutions behind the front.
        image_size: see `Recogniser`.
    """

    def __init__(
        self,
        num_classes: int,
        widths: tuple[int, int] | list[int] = (16, 32),
        body: tuple[int, int] | list[int] = (64, 64),
        image_size: int | None = None,
    ) -> None:
        super().__init__(num_classes, image_size)
        self.front = VGGFront(widths)
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(widths[1], body[0], 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(body[0], body[1], 3, padding=1),
            nn.ReLU(),
            Quarters(),
            nn.Flatten(),
        )
        self.head = nn.Linear(4 * body[1], num_classes)

    def forward(self, image: Tensor, features: bool = False, front: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits (B, K) of images (B, 3, H, W).

        Args:
            image: RGB in [0, 1], H and W at least 8.
            features: whether to return the embedding (B, 4 * body[1]) instead.
            front: whether to return (logits, features of the front (B, widths[1], H // 2, W // 2)), for training.

        Raises:
            AirpipeError: a side is shorter than 8 pixels.
        """
        first = self.front(normalised(image))  # (B, widths[1], H // 2, W // 2)
        embedding = self.body(first)  # (B, 4 * body[1])
        if features:
            return cast(Tensor, embedding)
        logits: Tensor = self.head(embedding)
        return (logits, first) if front else logits


class Quarters(nn.Module):
    """Average each quarter of a map; quarters share the middle row or column of an odd side.

    The result is that of `nn.AdaptiveAvgPool2d(2)`, whose gradient on a GPU is not deterministic.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, 2, 2)."""
        rows, columns = ((side // 2, (side + 1) // 2) for side in features.shape[-2:])
        return torch.stack(
            [
                torch.stack([half[..., : columns[1]].mean((2, 3)), half[..., columns[0] :].mean((2, 3))], -1)
                for half in (features[:, :, : rows[1]], features[:, :, rows[0] :])
            ],
            -2,
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, the first with stride 2, beside a 1x1 projection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.projection = nn.Conv2d(inputs, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h / 2, w / 2), rounded up."""
        # every second row and column, then stride 1: the same bits as stride 2, whose gradient torch computes wrongly
        # on a CPU for fewer than 8 channels (docs/networks.md)
        return cast(Tensor, (self.inner(features) + self.projection(features[..., ::2, ::2])).relu())


class RecogniserResidual(Recogniser):
    """Classifier B: a small residual network that shares no part with VRD-IR.

    Args:
        num_classes: number of classes K.
        stem: channels of the first convolution.
        widths: channels of the residual blocks; the last one is D.
        image_size: see `Recogniser`.
    """

    def __init__(
        self,
        num_classes: int,
        stem: int = 16,
        widths: tuple[int, ...] | list[int] = (24, 48, 64),
        image_size: int | None = None,
    ) -> None:
        super().__init__(num_classes, image_size)
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        pairs = zip([stem, *widths], widths, strict=False)
        self.blocks = nn.Sequential(*(ResidualBlock(inputs, outputs) for inputs, outputs in pairs))
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, image: Tensor, features: bool = False) -> Tensor:
        """Return the logits (B, K) of images (B, 3, H, W), RGB in [0, 1]; with `features` the embeddings (B, D)."""
        embedding = self.blocks(self.stem(normalised(image)).relu()).mean((2, 3))  # (B, D)
        return cast(Tensor, embedding if features else self.head(embedding))


def normalised(image: Tensor) -> Tensor:
    """Map images (B, 3, H, W) from [0, 1] to [-1, 1].

    Raises:
        AirpipeError: a side is shorter than `SMALLEST`.
    """
    height, width = image.shape[-2:]
    if min(height, width) < SMALLEST:
        raise AirpipeError(
            f"the recogniser got an image of {width}x{height} pixels; it needs {SMALLEST}x{SMALLEST}. "
            "Use larger images, or enlarge them before"
        )
    return image * 2 - 1
