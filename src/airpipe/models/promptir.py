"""PromptIR, a Restormer whose decoder is conditioned by learned prompts.

Source: Potlapalli et al., "PromptIR: Prompting for All-in-One Blind Image Restoration",
NeurIPS 2023 (arXiv 2306.13090). Behaviour matched: va1shn9v/PromptIR `net/model.py` and
MILab-PKU/DCPT `basicsr/archs/promptir_arch.py`, which compute the same (goldens `promptir_*`).

State-dict keys are the published ones: those of Restormer plus prompt<n>.{prompt_param,
linear_layer, conv3x3}, noise_level<n>.<part of a block> and reduce_noise_level<n>. The original
repository has six more convolutions that nothing uses (`chnl_reduce*`, `reduce_noise_channel_*`);
they are dropped on import. Parameters of the default: 35,376,967 (original: 35,592,263);
multiply-accumulates at 256x256: convolutions 158.14 G (the number usually printed), attention
products 14.56 G.

Differences from the published code: any image size (padded by reflection at right and bottom,
cropped back); `decoder=False`, which crashes there, is refused; any `dim` works, because widths
of the prompt interaction are level width + prompt width (there they are right for 48 only);
prompts are mixed before they are resized, as there, and not resized where the size fits.

Shapes: B batch, H and W pixels, D = `dim`; images are RGB in [0, 1].
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from airpipe.models.contract import Shapes
from airpipe.models.features import Features, Output, hide
from airpipe.models.layout import FiveDimensional
from airpipe.models.restormer import RestormerEncoder, sizes_from, upsample

PROMPTS = 5
"""Number of prompts that are mixed at each level, whatever the number of degradations."""
PROMPT_SIZES = {1: (64, 64), 2: (128, 32), 3: (320, 16)}
"""Channels and side of the prompts of each level: the maps of a 128x128 crop."""


class PromptGenerator(FiveDimensional):
    """Mix learned prompts by what the features need (PGM).

    Args:
        channels: channels C of the features.
        width: channels P of the prompts.
        side: side of the prompts in pixels, as they are stored.
        prompts: number N of prompts.
    """

    def __init__(self, channels: int, width: int, side: int, prompts: int = PROMPTS) -> None:
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, prompts, width, side, side))
        self.linear_layer = nn.Linear(channels, prompts)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to a prompt (B, P, H, W)."""
        shares = self.linear_layer(features.mean((2, 3))).softmax(1)  # (B, N)
        shares = shares.to(self.prompt_param.dtype)  # autocast may give the shares another type
        prompts = rearrange(self.prompt_param, "1 prompts p y x -> prompts (p y x)")
        _, _, channels, side, _ = self.prompt_param.shape
        prompt = rearrange(shares @ prompts, "b (p y x) -> b p y x", p=channels, y=side)
        if prompt.shape[-2:] != features.shape[-2:]:
            prompt = F.interpolate(prompt, features.shape[-2:], mode="bilinear", align_corners=False)
        return cast(Tensor, self.conv3x3(prompt))


class PromptIR(RestormerEncoder):
    """Predict the clean image as the input plus a learned correction.

    Args:
        inp_channels: channels of the image.
        out_channels: channels of the result; the same, because the image is added.
        dim: D, channels at full resolution; doubled at each level. Even.
        num_blocks: blocks at levels 1, 2, 3 and latent; the decoder repeats the first three.
        num_refinement_blocks: blocks at full resolution after the decoder, 2D wide.
        heads: attention heads at levels 1, 2, 3 and latent; all three prompt interactions have heads[2].
        ffn_expansion_factor: hidden channels of the feed-forward part over its width.
        bias: whether convolutions have a bias, except patch embedding, down- and upsampling and prompts (never).
        LayerNorm_type: "WithBias" or "BiasFree".
        decoder: whether prompts are used; only True runs.

    Raises:
        ValueError: impossible sizes, or decoder=False.
    """

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: Literal["WithBias", "BiasFree"] = "WithBias",
        decoder: bool = True,
    ) -> None:
        sizes = (inp_channels, out_channels, dim, num_blocks, num_refinement_blocks, heads, ffn_expansion_factor)
        super().__init__(*sizes, bias, LayerNorm_type)
        widths = {level: dim * 2**level + PROMPT_SIZES[level][0] for level in PROMPT_SIZES}
        if any(width % heads[2] for width in widths.values()):
            raise ValueError(f"heads[2] is {heads[2]}; it must divide the prompt interactions {list(widths.values())}")
        if inp_channels != out_channels:
            raise ValueError(f"inp_channels {inp_channels} and out_channels {out_channels} differ; the image is added")
        if not decoder:
            raise ValueError("decoder=False, PromptIR without prompts, cannot run in the published code; use restormer")

        self.prompt3 = PromptGenerator(8 * dim, *PROMPT_SIZES[3])
        self.noise_level3 = self.block(2, widths[3])
        self.reduce_noise_level3 = nn.Conv2d(widths[3], 4 * dim, 1, bias=bias)
        self.up4_3 = upsample(4 * dim)
        self.reduce_chan_level3 = nn.Conv2d(6 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = self.stage(2, 4 * dim, num_blocks[2])
        self.prompt2 = PromptGenerator(4 * dim, *PROMPT_SIZES[2])
        self.noise_level2 = self.block(2, widths[2])
        self.reduce_noise_level2 = nn.Conv2d(widths[2], 4 * dim, 1, bias=bias)
        self.up3_2 = upsample(4 * dim)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = self.stage(1, 2 * dim, num_blocks[1])
        self.prompt1 = PromptGenerator(2 * dim, *PROMPT_SIZES[1])
        self.noise_level1 = self.block(2, widths[1])
        self.reduce_noise_level1 = nn.Conv2d(widths[1], 2 * dim, 1, bias=bias)
        self.up2_1 = upsample(2 * dim)
        self.decoder_level1 = self.stage(0, 2 * dim, num_blocks[0])
        self.refinement = self.stage(0, 2 * dim, num_refinement_blocks)
        self.output = nn.Conv2d(2 * dim, out_channels, 3, padding=1, bias=bias)
        self.feature_channels = [2 * dim, 4 * dim, 4 * dim]
        """Channels of `forward(image, features=True)`, shallow first."""

    def forward(self, image: Tensor, features: Features = False, visible: Tensor | None = None) -> Output:
        """Restore (B, inp_channels, H, W).

        Args:
            image: any size from one pixel; padded to multiples of `size_multiple` and cropped back.
            features: return the outputs of the prompt interactions 1, 2, 3 instead, not cropped: with H'
                and W' the padded size, (B, 2D, H' / 2, W' / 2), (B, 4D, H' / 4, W' / 4),
                (B, 4D, H' / 8, W' / 8); what follows is not computed. Source: DCPT hook. "also": (restored,
                features).
            visible: (B, 1, H, W), 1 or 0: hides parts of the image and of what the encoder makes of it,
                see `hide`; None: all is visible.
        """
        height, width = image.shape[-2:]
        _, level1, level2, level3, latent = self.encode(image, visible)

        noise3 = self.noise_level3(torch.cat((latent, self.prompt3(latent)), 1))
        prompted3 = self.reduce_noise_level3(noise3)  # (B, 4D, H' / 8, W' / 8)
        joined = torch.cat((self.up4_3(prompted3), level3), 1)  # (B, 6D, H' / 4, W' / 4)
        decoded = self.decoder_level3(self.reduce_chan_level3(joined))

        noise2 = self.noise_level2(torch.cat((decoded, self.prompt2(decoded)), 1))
        prompted2 = self.reduce_noise_level2(noise2)  # (B, 4D, H' / 4, W' / 4)
        joined = torch.cat((self.up3_2(prompted2), level2), 1)  # (B, 4D, H' / 2, W' / 2)
        decoded = self.decoder_level2(self.reduce_chan_level2(joined))

        noise1 = self.noise_level1(torch.cat((decoded, self.prompt1(decoded)), 1))
        prompted1 = self.reduce_noise_level1(noise1)  # (B, 2D, H' / 2, W' / 2)
        prompted = [prompted1, prompted2, prompted3]
        if features is True:
            return prompted
        decoded = self.decoder_level1(torch.cat((self.up2_1(prompted1), level1), 1))  # (B, 2D, H', W')
        restored = self.output(self.refinement(decoded))[..., :height, :width] + hide(image, visible)
        return (restored, prompted) if features else cast(Tensor, restored)

    @staticmethod
    def published_key(key: str) -> str | None:
        """Return the name here of a published state-dict entry: the same; None for convolutions that nothing uses."""
        return None if re.match(r"(chnl_reduce|reduce_noise_channel_)\d\.", key) else key

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the constructor arguments that fit a published state, or None when it is no PromptIR.

        Args:
            shapes: shape of each entry, by its published name.
        """
        sizes = sizes_from(shapes) if "noise_level3.attn.temperature" in shapes else None
        return sizes and {**sizes, "decoder": "prompt3.prompt_param" in shapes}

    @classmethod
    def unsupported(cls, shapes: Shapes) -> str:
        """Name a PromptIR without prompts; see `Network.unsupported`.

        Args:
            shapes: shape of each entry, by its published name.
        """
        without = "noise_level3.attn.temperature" in shapes and "prompt3.prompt_param" not in shapes
        return "a PromptIR without prompts (decoder=False), which the published code itself cannot run" * without
