"""DegAE's representor: what degrades an image, as a vector, from the middle of a super-resolution network.

Source and state-dict keys: see `airpipe.methods.degae.network`.

Shapes: B batch, h and w of the image, F channels (`nf`), E of the embedding; images are RGB in [0, 1].
"""

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.models.contract import Network, Shapes

SMALLEST = 22
"""Shortest side of a reference in pixels, for which three strided convolutions leave one place."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with ReLU between, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, F, H, W) to the same shape."""
        return cast(Tensor, features + self.conv2(self.conv1(features).relu()))


class Extractor(Network):
    """A super-resolution network; features in its middle tell degradations apart, be it trained with a GAN.

    Published keys are its own.

    Args:
        nf: channels F.
        nb: residual blocks, a multiple of 4.
        upscale: 4: the result is the image, four times as large; 1: the features, without the layers behind them.

    Raises:
        ValueError: a number below 1, or another enlargement.
    """

    no_restorer = "it enlarges an image, or makes its features (extractor of DegAE's representor)"

    def __init__(self, nf: int = 64, nb: int = 16, upscale: Literal[1, 4] = 4) -> None:
        super().__init__()
        if nf < 1 or nb < 4 or nb % 4:
            raise ValueError(f"nf is {nf}, nb {nb}; expected nf from 1, and nb a multiple of 4")
        if upscale not in (1, 4):
            raise ValueError(f"upscale is {upscale}; expected 4 (super-resolution) or 1 (features only)")
        self.nf, self.nb, self.upscale = nf, nb, upscale
        self.conv_first = nn.Conv2d(3, nf, 3, padding=1)
        self.recon_trunk1, self.recon_trunk2, self.recon_trunk3, self.recon_trunk4 = (
            nn.Sequential(*(ResidualBlock(nf) for _ in range(nb // 4))) for _ in range(4)
        )
        if upscale == 4:
            self.upconv1, self.upconv2 = (nn.Conv2d(nf, 4 * nf, 3, padding=1) for _ in range(2))
            self.HRconv = nn.Conv2d(nf, nf, 3, padding=1)
            self.conv_last = nn.Conv2d(nf, 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                module.weight.data *= 0.1
                nn.init.zeros_(cast(Tensor, module.bias))

    def features(self, image: Tensor) -> Tensor:
        """Return the features (B, F, h, w) of images (B, 3, h, w): what leaves the last residual block."""
        shallow = leaky(self.conv_first(image))
        trunk = (self.recon_trunk1, self.recon_trunk2, self.recon_trunk3, self.recon_trunk4)
        for group in trunk:
            shallow = group(shallow)
        return shallow

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, h, w) to (B, 3, 4h, 4w), or to its features where `upscale` is 1."""
        found = self.features(image)
        if self.upscale == 1:
            return found
        for enlarge in (self.upconv1, self.upconv2):
            found = leaky(F.pixel_shuffle(enlarge(found), 2))
        found = self.conv_last(leaky(self.HRconv(found)))
        return cast(Tensor, found + F.interpolate(image, scale_factor=4, mode="bilinear"))

    def published_key(self, key: str) -> str | None:
        """Return the name here of a published entry; None for the layers behind the features where there are none."""
        return None if self.upscale == 1 and key.startswith(("upconv", "HRconv.", "conv_last.")) else key

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Return the weights under their published names.

        Args:
            buffers: whether to add zeros for the layers behind the features where there are none.
            layout: see `Network.published_state`.
        """
        self.published_layout(layout)
        with torch.device("meta"):
            whole = Extractor(self.nf, self.nb)
        return completed(self.state_dict(), whole if buffers else None)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the sizes of a published super-resolution network or its front; None for others.

        Args:
            shapes: shape of each entry, by its published name.
        """
        first = shapes.get("conv_first.weight", ())
        blocks = {tuple(key.split(".")[:2]) for key in shapes if key.startswith("recon_trunk")}
        if len(first) != 4 or not blocks:
            return None
        return {"nf": first[0], "nb": len(blocks), "upscale": 4 if "upconv2.weight" in shapes else 1}


class Representor(Network):
    """Embed the degradation of an image: frozen features of super-resolution, then a small trained head.

    Args:
        nf: channels F of the extractor; the embedding has E = 8 F.
        nb: residual blocks of the extractor, a multiple of 4.
        upscale: 4: the extractor also has the layers that enlarge images, as published files do; nothing here uses
            them. 1: it has not.

    Raises:
        ValueError: see `Extractor`.
    """

    no_restorer = "it describes the degradation of an image (DegAE's representor)"

    def __init__(self, nf: int = 64, nb: int = 16, upscale: Literal[1, 4] = 1) -> None:
        super().__init__()
        self.embedding_length = 8 * nf
        self.extractor = Extractor(nf, nb, upscale)
        self.conv1 = nn.Conv2d(nf, 2 * nf, 4, 2)
        self.conv2 = nn.Conv2d(2 * nf, 4 * nf, 4, 2)
        self.conv3 = nn.Conv2d(4 * nf, 8 * nf, 4, 2)
        self.conv1x1_1, self.conv1x1_2, self.conv1x1_3 = (nn.Conv2d(8 * nf, 8 * nf, 1) for _ in range(3))

    def forward(self, reference: Tensor) -> Tensor:
        """Map (B, 3, h, w) to embeddings (B, E, 1, 1).

        Raises:
            AirpipeError: a side is shorter than `SMALLEST` pixels.
        """
        height, width = reference.shape[-2:]
        if min(height, width) < SMALLEST:
            raise AirpipeError(
                f"DegAE got a reference of {width}x{height} pixels; its representor needs {SMALLEST}x{SMALLEST}. "
                "Use a larger reference or patch_size"
            )
        found = self.extractor.features(reference)
        for convolution in (self.conv1, self.conv2, self.conv3):
            found = leaky(convolution(found))
        found = found.mean((2, 3), keepdim=True)
        return cast(Tensor, self.conv1x1_3(leaky(self.conv1x1_2(leaky(self.conv1x1_1(found))))))

    def embedding(self, image: Tensor) -> Tensor:
        """Return the embeddings (B, E) of images (B, 3, h, w) as vectors."""
        found: Tensor = self(image)
        return found.flatten(1)

    def published_key(self, key: str) -> str | None:
        """Return the name here of an entry of a published file; None for layers that the extractor here has not."""
        inner = key.removeprefix("DDR_extractor.")
        if inner == key:
            return key
        own = self.extractor.published_key(inner)
        return None if own is None else f"extractor.{own}"

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Return the weights under their published names; `buffers` as for `Extractor`."""
        self.published_layout(layout)
        extractor = self.extractor.published_state(buffers)
        head = {key: value for key, value in self.state_dict().items() if not key.startswith("extractor.")}
        return {f"DDR_extractor.{key}": value for key, value in extractor.items()} | head

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the sizes of a published representor, or None when it is none.

        Args:
            shapes: shape of each entry, by its published name.
        """
        inner = {key.removeprefix("DDR_extractor."): shape for key, shape in shapes.items() if key[:4] == "DDR_"}
        return Extractor.arguments_from(inner) if "conv1x1_3.weight" in shapes else None


def leaky(features: Tensor) -> Tensor:
    """Leaky ReLU with slope 0.1."""
    return F.leaky_relu(features, 0.1)


def completed(state: Mapping[str, Tensor], whole: nn.Module | None) -> dict[str, Tensor]:
    """Add zeros for entries that only a published network has; its code never uses them, but loads strictly."""
    missing = {} if whole is None else whole.state_dict()
    return dict(state) | {key: torch.zeros(value.shape) for key, value in missing.items() if key not in state}
