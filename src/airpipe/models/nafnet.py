"""NAFNet, a U-Net without activation functions, its plainer sister, and their test-time local variants (TLC).

Source: Chen et al., "Simple Baselines for Image Restoration", ECCV 2022; local converter:
Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation",
ECCV 2022. Behaviour matched: MILab-PKU/DCPT `basicsr/archs/nafnet_arch.py` (goldens
`nafnet_w64_5d`, `nafnet_small`, `nafnet_tlc_small`) and megvii-research/NAFNet (goldens
`import_*_megvii`). `BaseNet` is what the paper calls Baseline: GELU and squeeze-and-excitation
in place of gates.

State-dict keys: intro, encoders.<stage>.<block>, downs.<stage>, middle_blks.<block>,
ups.<stage>.0, decoders.<stage>.<block>, ending (saved models depend on them). Published
files of MILab-PKU write `decoder<stage>.`, those of megvii-research/NAFNet `decoders.<stage>.`;
`published_key` accepts both, `published_state` writes either, `published_form` says what megvii's
means. DCPT 5D (width 64, encoder 1 1 1 28, middle 1, decoder 1 1 1 1): 67,888,835 parameters.

Differences from the published code: layer norm is the native one over the channels-last
view (same function, faster, compiles); a size that is no multiple of 2^stages is padded by
reflection and cropped back (MILab-PKU leaves that to its runner, which reflects too; megvii pads
with zeros: pad="zero"); local pooling uses box means instead of integral images (same within
rounding).

Shapes: B batch, C channels, H and W pixels; images are RGB in [0, 1].
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from airpipe.models.contract import Form, Network, Shapes
from airpipe.models.features import Features, Output, hide, pad_visible
from airpipe.models.padding import Pad, pad_to_multiple

MEGVII_TRAIN_SIZE = (1, 3, 256, 256)
"""Training size by which megvii-research/NAFNet sets the windows of local pooling."""
LOCAL_BLOCKS = {"middle_blk_num": 1, "enc_blk_nums": [1, 1, 1, 28], "dec_blk_nums": [1, 1, 1, 1]}
"""Blocks of megvii's networks for GoPro and REDS, which are published with local pooling; those for SIDD are not."""


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
        mixed = mixed * self.sca(mixed)  # factors (B, C, 1, 1), or (B, C, H, W) from local pooling
        features = features + self.conv3(mixed) * self.beta
        return cast(Tensor, features + self.conv5(gate(self.conv4(self.norm2(features)))) * self.gamma)


class BaseBlock(nn.Module):
    """Depth-wise convolution with GELU and channel attention, then a feed-forward part with GELU.

    Args:
        channels: number of channels C.
        dw_expand: channels of the depth-wise convolution, in multiples of C.
        ffn_expand: hidden channels of the feed-forward part, in multiples of C.
    """

    def __init__(self, channels: int, dw_expand: int, ffn_expand: int) -> None:
        super().__init__()
        wide, hidden = dw_expand * channels, ffn_expand * channels
        self.norm1 = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        squeezed = max(wide // 2, 1)
        self.se = nn.Sequential(
            GlobalPool(), nn.Conv2d(wide, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, wide, 1), nn.Sigmoid()
        )
        self.conv3 = nn.Conv2d(wide, channels, 1)
        self.norm2 = ChannelNorm(channels)
        self.conv4 = nn.Conv2d(channels, hidden, 1)
        self.conv5 = nn.Conv2d(hidden, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        mixed = F.gelu(self.conv2(self.conv1(self.norm1(features))))  # (B, dw_expand * C, H, W)
        features = features + self.conv3(mixed * self.se(mixed)) * self.beta
        return cast(Tensor, features + self.conv5(F.gelu(self.conv4(self.norm2(features)))) * self.gamma)


class UNet(Network):
    """What NAFNet and BaseNet share: all but the blocks. The clean image is the input plus a learned correction.

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
        block: makes a block of so many channels.

    Raises:
        ValueError: encoder and decoder of different length, or sizes below one.
    """

    title: ClassVar[str]
    """What the published code calls it."""
    local: ClassVar[bool] = False
    """Whether it pools locally."""

    def __init__(
        self,
        img_channel: int,
        width: int,
        middle_blk_num: int,
        enc_blk_nums: Sequence[int],
        dec_blk_nums: Sequence[int],
        pad: Pad,
        block: Callable[[int], nn.Module],
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
        self.pad, self.image_channels = pad, img_channel
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)
        self.encoders, self.downs = nn.ModuleList(), nn.ModuleList()
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        channels = width
        for blocks in enc_blk_nums:
            self.encoders.append(_stage(channels, blocks, block))
            self.downs.append(nn.Conv2d(channels, 2 * channels, 2, 2))
            channels *= 2
        self.middle_blks = _stage(channels, middle_blk_num, block)
        for blocks in dec_blk_nums:
            self.ups.append(nn.Sequential(nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.PixelShuffle(2)))
            channels //= 2
            self.decoders.append(_stage(channels, blocks, block))
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
        x = self.intro(image)  # (B, width, H, W)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = hide(encoder(x), visible)
            skips.append(x)
            x = down(x)  # twice the channels, half the sides
        x = self.middle_blks(x)
        decoded = []
        for decoder, up in zip(self.decoders, self.ups, strict=True):
            x = decoder(up(x) + skips.pop())  # half the channels, twice the sides
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
            layout: one of `PUBLISHED_LAYOUTS`: "megvii" (`decoders.0.0.conv1`, the usual one) or, of NAFNet, "milab"
                (MILab-PKU, `decoder0.0.conv1`).

        Raises:
            ValueError: the network has no such layout.
        """
        stage = r"decoder\1." if self.published_layout(layout) == "milab" else r"decoders.\1."
        return {re.sub(r"^decoders\.(\d+)\.", stage, key): value for key, value in self.state_dict().items()}

    @classmethod
    def layout_of(cls, shapes: Shapes) -> str:
        """Return "milab" for names `decoder0.`, else "megvii"; see `Network.layout_of`."""
        return "milab" if any(re.match(r"decoder\d", key) for key in shapes) else "megvii"

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the constructor arguments that fit a published state, or None when it is another network.

        Args:
            shapes: shape of each entry, by its published name or the one here.
        """
        renamed = {str(cls.published_key(key)): shape for key, shape in shapes.items()}
        intro = renamed.get("intro.weight", ())
        if len(intro) != 4 or "ending.weight" not in renamed:
            return None
        blocks = cls._block_arguments(renamed)
        if blocks is None:
            return None

        numbers: dict[str, set[int]] = {}  # all of them in one pass: files of others can have any number of names
        for key in renamed:
            for match in re.finditer(r"\.(\d+)(?=\.)", key):
                numbers.setdefault(key[: match.start()], set()).add(int(match[1]))

        def numbered(prefix: str) -> int:
            """How many there are; ValueError unless they are 0, 1, ... without a gap."""
            found = numbers.get(prefix, set())
            if found != set(range(len(found))):
                raise ValueError(f"{prefix}: numbers with gaps")
            return len(found)

        try:
            stages = numbered("downs")
            return {
                "img_channel": intro[1],
                "width": intro[0],
                "middle_blk_num": numbered("middle_blks"),
                "enc_blk_nums": [numbered(f"encoders.{i}") for i in range(stages)],
                "dec_blk_nums": [numbered(f"decoders.{i}") for i in range(stages)],
                **blocks,
            }
        except ValueError:
            return None

    @classmethod
    def _block_arguments(cls, shapes: Shapes) -> dict[str, Any] | None:
        """The arguments of the blocks, by names here; None: these are blocks of another network."""
        raise NotImplementedError

    @classmethod
    def unsupported(cls, shapes: Shapes) -> str:
        """Name NAFSSR, the relative for pairs of stereo pictures; see `Network.unsupported`.

        Args:
            shapes: shape of each entry, by its published name.
        """
        intro, up = shapes.get("intro.weight", ()), shapes.get("up.0.weight", ())
        if len(intro) != 4 or len(up) != 4 or not any(re.match(r"body\.\d+\.(module\.)?blk\.", key) for key in shapes):
            return ""
        scale = math.isqrt(up[0] // intro[1])
        return f"a NAFSSR, which enlarges pairs of stereo pictures x{scale}: airpipe restores single ones at scale 1"

    @classmethod
    def published_form(cls, shapes: Shapes) -> Form | None:
        """Say what megvii's layout means: zeros at the border, and local pooling where the blocks are `LOCAL_BLOCKS`.

        Args:
            shapes: shape of each entry, by its published name.
        """
        found = cls.arguments_from(shapes)
        if found is None or cls.layout_of(shapes) != "megvii":
            return None
        local = all(found[name] == blocks for name, blocks in LOCAL_BLOCKS.items())
        pools = "locally, as for GoPro and REDS" if local else "globally, as for SIDD"
        windows = {"train_size": list(MEGVII_TRAIN_SIZE)} if cls.local else {}
        name = f"{cls.title} of megvii-research/NAFNet, which pools {pools}"
        return Form(name, {"pad": "zero", **windows}, usual=local == cls.local)


class NAFNet(UNet):
    """NAFNet, whose blocks have gates and no activation functions.

    Args:
        img_channel: channels of the image. All arguments: see `UNet`.

    Raises:
        ValueError: as `UNet`.
    """

    PUBLISHED_LAYOUTS: ClassVar[tuple[str, ...]] = ("megvii", "milab")
    UNPADDED_LAYOUTS: ClassVar[tuple[str, ...]] = ("milab",)
    title: ClassVar[str] = "NAFNet"

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 16,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (),
        dec_blk_nums: Sequence[int] = (),
        pad: Pad = "reflect",
    ) -> None:
        super().__init__(img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums, pad, NAFBlock)

    @classmethod
    def _block_arguments(cls, shapes: Shapes) -> dict[str, Any] | None:
        return None if any(".se." in key for key in shapes) else {}


class BaseNet(UNet):
    """The Baseline of NAFNet's paper: blocks with GELU and squeeze-and-excitation.

    Args:
        img_channel: channels of the image. Other arguments: see `UNet`; megvii's files want zeros at the border.
        dw_expand: see `BaseBlock`.
        ffn_expand: see `BaseBlock`.

    Raises:
        ValueError: as `UNet`, or an expansion below one.
    """

    PUBLISHED_LAYOUTS: ClassVar[tuple[str, ...]] = ("megvii",)
    title: ClassVar[str] = "Baseline"

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 16,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (),
        dec_blk_nums: Sequence[int] = (),
        dw_expand: int = 1,
        ffn_expand: int = 2,
        pad: Pad = "reflect",
    ) -> None:
        if min(dw_expand, ffn_expand) < 1:
            raise ValueError(f"dw_expand {dw_expand} and ffn_expand {ffn_expand}; expected 1 or more")

        def block(channels: int) -> nn.Module:
            return BaseBlock(channels, dw_expand, ffn_expand)

        super().__init__(img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums, pad, block)

    @classmethod
    def _block_arguments(cls, shapes: Shapes) -> dict[str, Any] | None:
        first = next((key.removesuffix("se.1.weight") for key in shapes if key.endswith(".se.1.weight")), None)
        if first is None:
            return None
        names = {"dw_expand": "conv1", "ffn_expand": "conv4"}
        found = {name: shapes.get(f"{first}{conv}.weight", ()) for name, conv in names.items()}
        return {name: shape[0] // shape[1] for name, shape in found.items()}


def _stage(channels: int, blocks: int, block: Callable[[int], nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(block(channels) for _ in range(blocks)))


def pool_locally(network: UNet, train_size: Sequence[int]) -> None:
    """Let the channel attention of a network pool over a window of 1.5 times the training size.

    The window of each stage is fixed by `train_size` (floor of 1.5 x size, divided by the stage's stride) and never
    changes with the image.

    Args:
        network: changed in place; its state dict stays as it is.
        train_size: shape (B, C, H, W) of the training crops; only H and W count.

    Raises:
        ValueError: other than four positive numbers.
    """
    if len(train_size) != 4 or min(train_size) < 1:
        raise ValueError(f"train_size {list(train_size)}; expected four positive numbers (B, C, H, W)")
    height, columns = train_size[-2:]
    network.least_telling = int(1.5 * max(height, columns)) + 1  # where one window no longer covers the image
    levels, multiple = len(network.downs), network.size_multiple
    stages = [*enumerate(network.encoders), (levels, network.middle_blks)]
    stages += [(levels - 1 - i, decoder) for i, decoder in enumerate(network.decoders)]
    for level, stage in stages:
        size = [-(-side // multiple) * multiple // 2**level for side in (height, columns)]
        # rounded as the published converter does it: 1.5 times the crop first, then its share of this map
        kernel = (int(size[0] * int(1.5 * height) / height), int(size[1] * int(1.5 * columns) / columns))
        for module in stage.modules():
            if isinstance(module, nn.Sequential) and len(module) and isinstance(module[0], GlobalPool):
                module[0] = LocalPool(kernel)


class NAFNetTLC(NAFNet):
    """NAFNet that pools locally, see `pool_locally`; same state dict.

    Args:
        train_size: see `pool_locally`. Other arguments: see `UNet`.
    """

    assumed: ClassVar[tuple[str, ...]] = ("train_size",)
    local: ClassVar[bool] = True

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
        pool_locally(self, train_size)


class BaseNetTLC(BaseNet):
    """BaseNet that pools locally, see `pool_locally`; same state dict.

    Args:
        train_size: see `pool_locally`. Other arguments: see `BaseNet`.
    """

    assumed: ClassVar[tuple[str, ...]] = ("train_size",)
    local: ClassVar[bool] = True

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 16,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (),
        dec_blk_nums: Sequence[int] = (),
        dw_expand: int = 1,
        ffn_expand: int = 2,
        train_size: Sequence[int] = MEGVII_TRAIN_SIZE,
        pad: Pad = "reflect",
    ) -> None:
        super().__init__(img_channel, width, middle_blk_num, enc_blk_nums, dec_blk_nums, dw_expand, ffn_expand, pad)
        pool_locally(self, train_size)
