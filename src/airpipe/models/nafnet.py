"""NAFNet, a U-Net without activation functions, and its test-time local variant (TLC).

Source: Chen et al., "Simple Baselines for Image Restoration", ECCV 2022; local converter:
Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation",
ECCV 2022. Behaviour matched: MILab-PKU/DCPT `basicsr/archs/nafnet_arch.py` (goldens
`nafnet_w64_5d`, `nafnet_small`, `nafnet_tlc_small`).

State-dict keys: intro, encoders.<stage>.<block>, downs.<stage>, middle_blks.<block>,
ups.<stage>.0, decoders.<stage>.<block>, ending (saved models depend on them). Published
files of MILab-PKU write `decoder<stage>.`, those of megvii-research/NAFNet `decoders.<stage>.`;
`published_key` accepts both, `published_state` writes either. DCPT 5D (width 64, encoder 1 1 1 28, middle 1, decoder
1 1 1 1): 67,888,835 parameters.

Differences from the published code: layer norm is the native one over the channels-last
view (same function, faster, compiles); a size that is no multiple of 2^stages is padded by
reflection and cropped back (MILab-PKU leaves that to its runner, which reflects too; megvii pads
with zeros: pad="zero"); local pooling uses box means instead of integral images (same within
rounding).

Shapes: B batch, C channels, H and W pixels; images are RGB in [0, 1].
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from airpipe.models.contract import Network, Shapes
from airpipe.models.features import Features, Output, hide, pad_visible
from airpipe.models.padding import Pad, pad_to_multiple


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel, eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (B, C, H, W) to the same shape."""
        last = rearrange(features, "b c y x -> b y x c")
        normal = F.layer_norm(last, self.weight.shape, self.weight, self.bias, 1e-6)
        return rearrange(normal, "b y x c -> b c y x")


class GlobalPool(nn.Module):
    """Mean over all pixels: (B, C, H, W) to (B, C, 1, 1)."""

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 1, 1)."""
        return features.mean((2, 3), keepdim=True)


class LocalPool(nn.Module):
    """Mean over a window of fixed size around each pixel; global where the window covers the map.

    At a border the nearest complete window counts (box mean over valid positions, then
    replicated outwards, the odd pixel at right and bottom). Source: TLC, section 3.2.
    """

    def __init__(self, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, features: Tensor) -> Tensor:
        """Pool (B, C, H, W) to the same size, or to (B, C, 1, 1)."""
        height, width = features.shape[-2:]
        if self.kernel[0] >= height and self.kernel[1] >= width:
            return features.mean((2, 3), keepdim=True)
        kernel = (min(height, self.kernel[0]), min(width, self.kernel[1]))
        means = F.avg_pool2d(features, kernel, stride=1)
        rows, columns = height - means.shape[-2], width - means.shape[-1]
        padding = (columns // 2, (columns + 1) // 2, rows // 2, (rows + 1) // 2)
        return F.pad(means, padding, mode="replicate")


def gate(features: Tensor) -> Tensor:
    """Multiply the first half of the channels by the second: (B, 2C, H, W) to (B, C, H, W)."""
    first, second = features.chunk(2, dim=1)
    return first * second


class NAFBlock(nn.Module):
    """Depth-wise gated convolution with channel attention, then a gated feed-forward part.

    `beta` and `gamma` start at zero, so that a fresh block is the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        double = 2 * channels
        self.norm1 = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, double, 1)
        self.conv2 = nn.Conv2d(double, double, 3, padding=1, groups=double)
        self.sca = nn.Sequential(GlobalPool(), nn.Conv2d(channels, channels, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm2 = ChannelNorm(channels)
        self.conv4 = nn.Conv2d(channels, double, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        mixed = gate(self.conv2(self.conv1(self.norm1(features))))  # (B, C, H, W)
        mixed = mixed * self.sca(mixed)
        features = features + self.conv3(mixed) * self.beta
        return cast(Tensor, features + self.conv5(gate(self.conv4(self.norm2(features)))) * self.gamma)


class NAFNet(Network):
    """Predict the clean image as the input plus a learned correction.

    Args:
        img_channel: channels of the image.
        width: channels at full resolution; doubled at each stage.
        middle_blk_num: blocks at the lowest resolution.
        enc_blk_nums: blocks of each encoder stage; its length is the number of halvings.
        dec_blk_nums: blocks of each decoder stage, lowest resolution first; same length.
        pad: what to do with sizes that are no multiples of `size_multiple`. "reflect": pad at
            right and bottom by reflection (by the last row or column where an image is too
            small to be reflected), crop back; "zero": pad with zeros (megvii's forward);
            "none": an error.

    Raises:
        ValueError: encoder and decoder of different length, or sizes below one.
    """

    PUBLISHED_LAYOUTS: ClassVar[tuple[str, ...]] = ("milab", "megvii")

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 16,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (),
        dec_blk_nums: Sequence[int] = (),
        pad: Pad = "reflect",
    ) -> None:
        super().__init__()
        if len(enc_blk_nums) != len(dec_blk_nums):
            raise ValueError(
                f"enc_blk_nums {list(enc_blk_nums)} and dec_blk_nums {list(dec_blk_nums)} differ in length"
            )
        if min(img_channel, width) < 1 or min(middle_blk_num, *enc_blk_nums, *dec_blk_nums, 0) < 0:
            raise ValueError("img_channel and width must be at least 1, block counts at least 0")
        if pad not in ("reflect", "zero", "none"):
            raise ValueError(f"pad is {pad!r}; expected 'reflect', 'zero' or 'none'")
        self.pad = pad
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)
        self.encoders, self.downs = nn.ModuleList(), nn.ModuleList()
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        channels = width
        for blocks in enc_blk_nums:
            self.encoders.append(_stage(channels, blocks))
            self.downs.append(nn.Conv2d(channels, 2 * channels, 2, 2))
            channels *= 2
        self.middle_blks = _stage(channels, middle_blk_num)
        for blocks in dec_blk_nums:
            self.ups.append(nn.Sequential(nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.PixelShuffle(2)))
            channels //= 2
            self.decoders.append(_stage(channels, blocks))
        self.size_multiple, self.pads_itself = 2 ** len(enc_blk_nums), pad != "none"
        self.feature_channels = [width * 2**i for i in range(len(dec_blk_nums))]

    def forward(self, image: Tensor, features: Features = False, visible: Tensor | None = None) -> Output:
        """Restore (B, 3, H, W) of any size.

        Args:
            image: RGB in [0, 1].
            features: return the decoder outputs instead, shallow (full resolution) first:
                (B, width * 2^i, H / 2^i, W / 2^i), H and W of the padded image; `ending` is
                not computed. Source: DCPT hook. "also": (restored, features).
            visible: (B, 1, H, W), 1 or 0: hides parts of the image and of what the encoder makes of it,
                see `hide`; None: all is visible.

        Raises:
            ValueError: with pad="none", H or W is no multiple of `size_multiple`.
        """
        height, width = image.shape[-2:]
        image = pad_to_multiple(hide(image, visible), self.size_multiple, self.pad)
        decoded = self._decode(image, pad_visible(visible, self.size_multiple, self.pad))
        if features is True:
            return decoded[::-1]
        restored = (self.ending(decoded[-1] if decoded else self._bottom(image)) + image)[..., :height, :width]
        return (restored, decoded[::-1]) if features else restored

    def _decode(self, image: Tensor, visible: Tensor | None) -> list[Tensor]:
        """Outputs of the decoder stages, deep first."""
        x = self.intro(image)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = hide(encoder(x), visible)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x)
        decoded = []
        for decoder, up in zip(self.decoders, self.ups, strict=True):
            x = decoder(up(x) + skips.pop())
            decoded.append(x)
        return decoded

    def _bottom(self, image: Tensor) -> Tensor:
        """Features of a network without stages, which has the middle blocks only."""
        return cast(Tensor, self.middle_blks(self.intro(image)))

    @staticmethod
    def published_key(key: str) -> str | None:
        """Return the name here of a published state-dict entry: `decoder0.` and `decoders.0.` are the same."""
        return re.sub(r"^decoders?\.?(\d+)\.", r"decoders.\1.", key)

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Return the weights under their published names.

        Args:
            buffers: without effect, no published layout of this network has any.
            layout: "milab" (MILab-PKU, `decoder0.0.conv1`, the usual one) or "megvii" (`decoders.0.0.conv1`).

        Raises:
            ValueError: the network has no such layout.
        """
        stage = r"decoder\1." if self.published_layout(layout) == "milab" else r"decoders.\1."
        return {re.sub(r"^decoders\.(\d+)\.", stage, key): value for key, value in self.state_dict().items()}

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the constructor arguments that fit a published state, or None when it is no NAFNet.

        Args:
            shapes: shape of each entry, by its published name or the one here.
        """
        renamed = {cls.published_key(key): shape for key, shape in shapes.items()}
        intro = renamed.get("intro.weight", ())
        if len(intro) != 4 or "ending.weight" not in renamed:
            return None

        def numbered(prefix: str) -> int:
            """How many there are; ValueError unless they are 0, 1, ... without a gap."""
            found = {int(m[1]) for key in renamed if key and (m := re.match(rf"{prefix}\.(\d+)\.", key))}
            if found != set(range(len(found))):
                raise ValueError(f"{prefix}: numbers with gaps")
            return len(found)

        try:
            stages = numbered("downs")
            return {
                "img_channel": intro[1],
                "width": intro[0],
                "middle_blk_num": numbered("middle_blks"),
                "enc_blk_nums": [numbered(rf"encoders\.{i}") for i in range(stages)],
                "dec_blk_nums": [numbered(rf"decoders\.{i}") for i in range(stages)],
            }
        except ValueError:
            return None


def _stage(channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(NAFBlock(channels) for _ in range(blocks)))


class NAFNetTLC(NAFNet):
    """NAFNet whose channel attention pools over a window of 1.5 times the training size.

    Same state dict as `NAFNet`. The window of each stage is fixed by `train_size`
    (floor of 1.5 x size, divided by the stage's stride) and never changes with the image.

    Args:
        train_size: shape (B, C, H, W) of the training crops; only H and W count. Other arguments: see `NAFNet`.
    """

    assumed: ClassVar[tuple[str, ...]] = ("train_size",)

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 16,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (),
        dec_blk_nums: Sequence[int] = (),
        train_size: Sequence[int] = (1, 3, 128, 128),
        pad: Pad = "reflect",
    ) -> None:
        super().__init__(img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums, pad)
        if len(train_size) != 4 or min(train_size) < 1:
            raise ValueError(f"train_size {list(train_size)}; expected four positive numbers (B, C, H, W)")
        height, columns = train_size[-2:]
        levels = len(self.downs)
        stages = [*enumerate(self.encoders), (levels, self.middle_blks)]
        stages += [(levels - 1 - i, decoder) for i, decoder in enumerate(self.decoders)]
        for level, stage in stages:
            size = [-(-side // self.size_multiple) * self.size_multiple // 2**level for side in (height, columns)]
            # rounded as the published converter does it: 1.5 times the crop first, then its share of this map
            kernel = (int(size[0] * int(1.5 * height) / height), int(size[1] * int(1.5 * columns) / columns))
            for block in cast(nn.Sequential, stage):
                cast(NAFBlock, block).sca[0] = LocalPool(kernel)
