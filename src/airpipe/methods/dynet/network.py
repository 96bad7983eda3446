"""DyNet: a PromptIR whose blocks are used several times, so that one set of weights makes several networks.

Source: Dudhane et al., "Dynamic Pre-training: Towards Efficient and Scalable All-in-One Image Restoration" (arXiv
2404.02154). Behaviour matched: akshaydudhane16/DyNet `net/DyNet_small.py` and `net/DyNet_large.py`, two files that
differ in how often blocks are used (goldens `dynet_*`).

State-dict keys are the published ones: those of PromptIR, but each encoder level, latent and decoder level is one block
(encoder_level1.norm1.body.weight). Three more convolutions that nothing uses (`reduce_noise_channel_*`) are dropped on
import and zeros on export. Parameters 16,613,135 (published: 16,726,031), whatever the depth; multiply-accumulates of
convolutions and linear layers at 256x256: S 108.57 G, L 158.14 G; of attention products 10.04 and 14.56 G.

Beside sharing, PromptIR has its prompts on decoder features; here they are on latent and skips.

Differences from the published code: the depth can be changed at each call; any image size (padded by reflection at
right and bottom, cropped back); any `dim`, because widths follow from it.

Shapes: B batch, H and W pixels, D = `dim`; images are RGB in [0, 1].
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from airpipe.methods.dynet.settings import checked_reuse
from airpipe.models.contract import Shapes
from airpipe.models.padding import pad_to_multiple
from airpipe.models.promptir import PromptGenerator
from airpipe.models.restormer import RestormerEncoder, sizes_from, upsample

S, L = [2, 3, 3, 4], [4, 6, 6, 8]
"""How often DyNet-S and DyNet-L use the blocks of levels 1, 2, 3 (encoder and decoder alike) and of latent."""
SHARED = re.compile(r"^((?:en|de)coder_level\d|latent)\.")
"""Begin of the names of shared blocks."""
UNUSED = (64, 128, 256)
"""Input channels that the convolutions of levels 1, 2 and 3 have beside the level's, which nothing uses."""


class DyNet(RestormerEncoder):
    """Predict the clean image as the input plus a learned correction, with blocks that are used several times.

    Args:
        dim: D, channels at full resolution; doubled at each level. Even.
        num_refinement_blocks: blocks at full resolution after the decoder, 2D wide; not shared.
        heads: attention heads at levels 1, 2, 3 and latent; all three prompt interactions have heads[2].
        ffn_expansion_factor: hidden channels of the feed-forward part over its width.
        bias: whether convolutions have a bias, except patch embedding, down- and upsampling and prompts (never).
        layer_norm: "WithBias" or "BiasFree".
        prompt_dims: channels of the prompts of levels 1, 2 and 3 (latent).
        prompt_sizes: sides of these prompts in pixels, as they are stored.
        prompt_len: number of prompts that are mixed at each level.
        reuse_freq: how often blocks are used where a call does not say it, see `forward`.

    Raises:
        ValueError: impossible sizes.
    """

    assumed: ClassVar[tuple[str, ...]] = ("reuse_freq",)
    published_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"s": {"reuse_freq": S}, "l": {"reuse_freq": L}}

    def __init__(
        self,
        dim: int = 48,
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        layer_norm: Literal["WithBias", "BiasFree"] = "WithBias",
        prompt_dims: Sequence[int] = (64, 128, 320),
        prompt_sizes: Sequence[int] = (64, 32, 16),
        prompt_len: int = 5,
        reuse_freq: Sequence[int] = L,
    ) -> None:
        once = (1, 1, 1, 1)  # one block each, however often it is used
        super().__init__(3, 3, dim, once, num_refinement_blocks, heads, ffn_expansion_factor, bias, layer_norm)
        for name, numbers in (("prompt_dims", prompt_dims), ("prompt_sizes", prompt_sizes)):
            if len(numbers) != 3 or min(numbers) < 1:
                raise ValueError(f"{name} is {list(numbers)}; expected three numbers from 1, for levels 1, 2 and 3")
        if prompt_len < 1:
            raise ValueError(f"prompt_len is {prompt_len}; expected 1 or more")
        self.reuse_freq = checked_reuse(reuse_freq)
        prompts = [(width, side, prompt_len) for width, side in zip(prompt_dims, prompt_sizes, strict=True)]
        widths = [2**level * dim + width for level, width in enumerate(prompt_dims, 1)]
        if any(width % heads[2] for width in widths):
            raise ValueError(f"heads[2] is {heads[2]}; it must divide the prompt interactions {widths}")

        self.prompt3 = PromptGenerator(8 * dim, *prompts[2])
        self.noise_level3 = self.block(2, widths[2])
        self.reduce_noise_level3 = nn.Conv2d(widths[2], 4 * dim, 1, bias=bias)
        self.up4_3 = upsample(4 * dim)
        self.prompt2 = PromptGenerator(4 * dim, *prompts[1])
        self.noise_level2 = self.block(2, widths[1])
        self.reduce_noise_level2 = nn.Conv2d(widths[1], 4 * dim, 1, bias=bias)
        self.reduce_chan_level3 = nn.Conv2d(6 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = self.block(2, 4 * dim)
        self.up3_2 = upsample(4 * dim)
        self.prompt1 = PromptGenerator(2 * dim, *prompts[0])
        self.noise_level1 = self.block(2, widths[0])
        self.reduce_noise_level1 = nn.Conv2d(widths[0], 2 * dim, 1, bias=bias)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = self.block(1, 2 * dim)
        self.up2_1 = upsample(2 * dim)
        self.decoder_level1 = self.block(0, 2 * dim)
        self.refinement = nn.Sequential(*(self.block(0, 2 * dim) for _ in range(num_refinement_blocks)))
        self.output = nn.Conv2d(2 * dim, 3, 3, padding=1, bias=bias)

    def stage(self, level: int, width: int, blocks: int) -> nn.Module:
        """Make the one block of an encoder level, whose keys have no number."""
        return self.block(level, width)

    def forward(self, image: Tensor, reuse_freq: Sequence[int] | None = None) -> Tensor:
        """Restore (B, 3, H, W).

        Args:
            image: any size from one pixel; padded to multiples of `size_multiple` and cropped back.
            reuse_freq: how often the blocks of levels 1, 2, 3 and latent are used; None: as the network was made.
        """
        height, width = image.shape[-2:]
        first, second, third, deepest = self.reuse_freq if reuse_freq is None else checked_reuse(reuse_freq)

        embedded = self.patch_embed(pad_to_multiple(image, self.size_multiple))
        level1 = repeated(self.encoder_level1, embedded, first)  # (B, D, H', W'): H' and W' are the padded size
        level2 = repeated(self.encoder_level2, self.down1_2(level1), second)  # (B, 2D, H' / 2, W' / 2)
        level3 = repeated(self.encoder_level3, self.down2_3(level2), third)  # (B, 4D, H' / 4, W' / 4)
        latent = repeated(self.latent, self.down3_4(level3), deepest)  # (B, 8D, H' / 8, W' / 8)

        noise3 = self.noise_level3(torch.cat((latent, self.prompt3(latent)), 1))
        risen = self.up4_3(self.reduce_noise_level3(noise3))  # (B, 2D, H' / 4, W' / 4)
        noise2 = self.noise_level2(torch.cat((level3, self.prompt2(level3)), 1))
        joined = torch.cat((risen, self.reduce_noise_level2(noise2)), 1)  # (B, 6D, H' / 4, W' / 4)
        decoded = repeated(self.decoder_level3, self.reduce_chan_level3(joined), third)

        risen = self.up3_2(decoded)  # (B, 2D, H' / 2, W' / 2)
        noise1 = self.noise_level1(torch.cat((level2, self.prompt1(level2)), 1))
        joined = torch.cat((risen, self.reduce_noise_level1(noise1)), 1)  # (B, 4D, H' / 2, W' / 2)
        decoded = repeated(self.decoder_level2, self.reduce_chan_level2(joined), second)

        joined = torch.cat((self.up2_1(decoded), level1), 1)  # (B, 2D, H', W')
        refined = self.refinement(repeated(self.decoder_level1, joined, first))
        return cast(Tensor, self.output(refined)[..., :height, :width] + image)

    def published_key(self, key: str) -> str | None:
        """Return the name here of a published state-dict entry: the same; None for convolutions that nothing uses."""
        return None if key.startswith("reduce_noise_channel_") else key

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Return the weights under their published names.

        Args:
            buffers: whether to add zeros for the convolutions that nothing uses, without which published code refuses.
            layout: see `Network.published_state`.
        """
        state = super().published_state(buffers, layout)
        if not buffers:
            return state
        dim = self.output.in_channels // 2
        for level, joined in enumerate(UNUSED, 1):
            width = 2 ** (level - 1) * dim
            unused = torch.zeros(width, width + joined, 1, 1)
            state[f"reduce_noise_channel_{level}.weight"] = unused
            if self.output.bias is not None:
                state[f"reduce_noise_channel_{level}.bias"] = unused[:, 0, 0, 0]
        return state

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the constructor arguments that fit a published state, or None when it is no DyNet.

        Args:
            shapes: shape of each entry, by its published name.
        """
        # a shared block looks like a row of one
        sizes = sizes_from({SHARED.sub(r"\1.0.", key): shape for key, shape in shapes.items()})
        prompts = [shapes.get(f"prompt{level}.prompt_param", ()) for level in (1, 2, 3)]
        if sizes is None or "latent.attn.temperature" not in shapes or any(len(shape) != 5 for shape in prompts):
            return None
        taken = ("dim", "num_refinement_blocks", "heads", "ffn_expansion_factor", "bias")
        return {
            **{name: sizes[name] for name in taken},
            "layer_norm": sizes["LayerNorm_type"],
            "prompt_dims": [shape[2] for shape in prompts],
            "prompt_sizes": [shape[3] for shape in prompts],
            "prompt_len": prompts[0][1],
        }


def repeated(block: nn.Module, features: Tensor, times: int) -> Tensor:
    """Apply a block to its own result, with the same weights: (B, C, H, W) to the same shape."""
    for _ in range(times):
        features = block(features)
    return features
