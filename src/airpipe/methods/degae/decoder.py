"""What DegAE makes of its encoder's features: the modulated decoder of pretraining, and the head of finetuning.

Source and state-dict keys: see `airpipe.methods.degae.network`.

Shapes: B batch, H and W of the image, C channels of the features, F channels inside (`nf`), E of the embedding.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.methods.degae.representor import ResidualBlock, completed, leaky
from airpipe.models.contract import Inputs, Network, Shapes
from airpipe.models.layout import FiveDimensional
from airpipe.models.precision import full_precision

BLOCKS = 4
"""Modulated blocks of the decoder, each with a noise map."""
Noise = Literal["random", "zero"] | Sequence[Tensor] | None
"""Noise that the decoder adds. "random": drawn from torch's global generator of the device; "zero": none; one map
(B, 1, H, W) for each block; None: random in training, zero in evaluation."""


class ModulatedConv(FiveDimensional):
    """A convolution whose weights the embedding scales (StyleGAN2), noise, and a plain convolution.

    Args:
        channels: channels F of the features.
        embedding: channels E of the embedding.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(9 * channels)
        self.weight = nn.Parameter(torch.randn(1, channels, channels, 3, 3))
        self.weight_noise = nn.Parameter(torch.zeros(1))
        self.modulation = nn.Conv2d(embedding, channels, 1)
        self.conv_last = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor, embedding: Tensor, noise: Tensor | None) -> Tensor:
        """Map (B, F, H, W) to the same shape, with embeddings (B, E, 1, 1) and noise (B, 1, H, W) or None."""
        with full_precision(features):
            style = self.modulation(embedding.float())  # (B, F, 1, 1)
            kernel = self.scale * self.weight[0]
            # scaling what goes in and out equals scaling each sample's weights, and is one convolution for all
            power = F.conv2d(style.square(), kernel.square().sum((2, 3), keepdim=True))  # (B, F, 1, 1)
            mixed = F.conv2d(features.float() * style, kernel, padding=1) * torch.rsqrt(power + 1e-8)
            if noise is not None:
                mixed = mixed + self.weight_noise * noise
            return leaky(self.conv_last(mixed))


class FeatureModulation(nn.Module):
    """A scale and a shift of each channel from the embedding (GFM), then noise.

    Args:
        channels: channels F of the features.
        embedding: channels E of the embedding.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.weight_noise = nn.Parameter(torch.zeros(1))
        self.cond_scale, self.cond_shift = (nn.Linear(embedding, channels) for _ in range(2))

    def forward(self, features: Tensor, embedding: Tensor, noise: Tensor | None) -> Tensor:
        """Map (B, F, H, W) to the same shape, with embeddings (B, E, 1, 1) and noise (B, 1, H, W) or None."""
        with full_precision(features):
            code = embedding.float().flatten(1)
            scale, shift = (layer(code)[:, :, None, None] for layer in (self.cond_scale, self.cond_shift))
            found = leaky(features.float() * (1 + scale) + shift)
            return leaky(found if noise is None else found + self.weight_noise * noise)


MODULATIONS: dict[str, type[ModulatedConv] | type[FeatureModulation]] = {
    "stylegan2": ModulatedConv,
    "gfm": FeatureModulation,
}
"""How an embedding changes features. stylegan2: what the published code builds; gfm: what its option files name."""


class ModulatedBlock(ResidualBlock):
    """A residual block, and the modulation of its result by an embedding."""

    def __init__(self, channels: int, embedding: int, modulation: str) -> None:
        super().__init__(channels)
        self.modulation_layer = MODULATIONS[modulation](channels, embedding)

    def forward(  # type: ignore[override]
        self, features: Tensor, embedding: Tensor, noise: Tensor | None
    ) -> Tensor:
        """Map (B, F, H, W) to the same shape, with embeddings (B, E, 1, 1) and noise (B, 1, H, W) or None."""
        return cast(Tensor, self.modulation_layer(super().forward(features), embedding, noise))


class Decoder(Network):
    """Make an image of the encoder's features, degraded as an embedding says. Published keys are its own.

    Args:
        in_c: channels C of the features.
        out_c: channels of the image.
        nf: channels F inside.
        scale: 1; enlarging is not implemented.
        require_modulation: true; a decoder without embedding is not implemented.
        degradation_embed_dim: channels E of the embedding.
        modulation: see `MODULATIONS`.

    Raises:
        ValueError: a number below 1, another modulation, or an option that is not implemented.
    """

    no_restorer = "it is a part of DegAE that works on features"

    def __init__(
        self,
        in_c: int = 180,
        out_c: int = 3,
        nf: int = 64,
        scale: Literal[1] = 1,
        require_modulation: Literal[True] = True,
        degradation_embed_dim: int = 512,
        modulation: Literal["stylegan2", "gfm"] = "stylegan2",
    ) -> None:
        super().__init__()
        if min(in_c, out_c, nf, degradation_embed_dim) < 1:
            raise ValueError("in_c, out_c, nf and degradation_embed_dim must be at least 1")
        if scale != 1 or not require_modulation:
            raise ValueError(
                f"scale is {scale}, require_modulation {require_modulation}; only 1 and true are implemented"
            )
        if modulation not in MODULATIONS:
            raise ValueError(f"modulation is {modulation!r}; expected {' or '.join(map(repr, MODULATIONS))}")
        self.in_c, self.degradation_embed_dim = in_c, degradation_embed_dim
        self.conv_first = nn.Conv2d(in_c, nf, 3, padding=1)
        self.basic_block1, self.basic_block2, self.basic_block3, self.basic_block4 = (
            ModulatedBlock(nf, degradation_embed_dim, modulation) for _ in range(BLOCKS)
        )
        self.HRconv = nn.Conv2d(nf, nf, 3, padding=1)
        self.conv_last = nn.Conv2d(nf, out_c, 3, padding=1)

    def forward(self, features: Tensor, embedding: Tensor, noise: Noise = None) -> Tensor:
        """Map features (B, C, H, W) and embeddings (B, E, 1, 1) to images (B, out_c, H, W).

        Raises:
            AirpipeError: noise that is neither a known word nor one map for each block.
        """
        found = leaky(self.conv_first(features))
        blocks = (self.basic_block1, self.basic_block2, self.basic_block3, self.basic_block4)
        for block, one in zip(blocks, self._maps(noise, features), strict=True):
            found = block(found, embedding, one)
        return cast(Tensor, self.conv_last(leaky(self.HRconv(found))))

    def _maps(self, noise: Noise, features: Tensor) -> Sequence[Tensor | None]:
        """The noise of each block."""
        batch, _, height, width = features.shape
        if noise is None:
            noise = "random" if self.training else "zero"
        if noise == "zero":
            return [None] * BLOCKS
        if noise == "random":
            return [torch.randn(batch, 1, height, width, device=features.device) for _ in range(BLOCKS)]
        given = noise if isinstance(noise, Iterable) else [noise]
        one, found = (batch, 1, height, width), [tuple(getattr(entry, "shape", ())) for entry in given]
        if found != [one] * BLOCKS:
            told = found if any(found) else noise
            raise AirpipeError(f"DegAE's noise is {told!r}; expected 'random', 'zero' or {BLOCKS} maps {one}")
        return noise

    def example_input(self, height: int, width: int) -> Inputs:
        """Empty features of an image of this size, and an embedding."""
        embedding = torch.empty(1, self.degradation_embed_dim, 1, 1, device="meta")
        return (torch.empty(1, self.in_c, height, width, device="meta"), embedding)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the sizes and the modulation of a published decoder, or None when it is none.

        Args:
            shapes: shape of each entry, by its published name.
        """
        layer = "basic_block4.modulation_layer."
        gfm = f"{layer}cond_scale.weight" in shapes
        style = shapes.get(f"{layer}cond_scale.weight" if gfm else f"{layer}modulation.weight", ())
        first, last = shapes.get("conv_first.weight", ()), shapes.get("conv_last.weight", ())
        if len(style) < 2 or len(first) != 4 or len(last) != 4:
            return None
        sizes = {"in_c": first[1], "out_c": last[0], "nf": first[0], "degradation_embed_dim": style[1]}
        return {**sizes, "modulation": "gfm" if gfm else "stylegan2"}


class Head(Network):
    """One convolution from the encoder's features to an image; the decoder of finetuning.

    Args:
        in_c: channels C of the features.
        out_c: channels of the image.

    Raises:
        ValueError: a number below 1.
    """

    no_restorer = "it is a part of a finetuned DegAE that works on features"

    def __init__(self, in_c: int = 180, out_c: int = 3) -> None:
        super().__init__()
        if min(in_c, out_c) < 1:
            raise ValueError(f"in_c is {in_c}, out_c {out_c}; expected 1 or more")
        self.in_c = in_c
        self.conv_last = nn.Conv2d(in_c, out_c, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_c, H, W)."""
        return cast(Tensor, self.conv_last(features))

    def example_input(self, height: int, width: int) -> Inputs:
        """Empty features of an image of this size."""
        return (torch.empty(1, self.in_c, height, width, device="meta"),)

    def published_key(self, key: str) -> str | None:
        """Return the name here of a published entry; None for a convolution that was never used."""
        return None if key.startswith("HRconv.") else key

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Return the weights under their published names; `buffers` adds zeros for what was never used."""
        self.published_layout(layout)
        with torch.device("meta"):
            unused = nn.ModuleDict({"HRconv": nn.Conv2d(self.in_c, self.in_c, 3)})
        return completed(self.state_dict(), unused if buffers else None)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the sizes of a published head, or None when it is none.

        Args:
            shapes: shape of each entry, by its published name.
        """
        weight = shapes.get("conv_last.weight", ())
        if {key.split(".")[0] for key in shapes} - {"HRconv"} != {"conv_last"} or len(weight) != 4:
            return None
        return {"in_c": weight[1], "out_c": weight[0]}
