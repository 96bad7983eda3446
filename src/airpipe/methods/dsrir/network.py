"""DSRIR: three sub-networks in series, each of which restores the image and says how uncertain it is of each pixel.

Source: Wang et al., "DSRIR: Dynamic spatial refinement learning for progressive all-in-one image restoration",
Information Processing & Management 2025, 104380. The paper was not available; behaviour matched: xfwang23/DSRIR
(df9d4cf) `model/DSRIR.py`, which has no licence and was only run; goldens `dsrir_{full,small}`.

State-dict keys are the published ones, and in their order. 3,516,837 parameters; 138.09 G multiply-accumulates at
256x256 in convolutions (measured of the published code: 138.36 G; docs/methods/dsrir.md).

Differences from the published code: images of any size (there multiples of 8); numbers of blocks and grids are
arguments; halving is a mean of 2x2 pixels, which is what bilinear interpolation does with even sides.

Shapes: B batch, H and W pixels, C channels of features; images are RGB in [0, 1].
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from airpipe.models.contract import Network, Shapes
from airpipe.models.padding import pad_to_multiple

SLOPE = 0.1
"""Factor of negative values in the activations around the uncertainty."""
GROUPS = 4
"""Groups of blocks in the third sub-network."""


class PatchAttention(nn.Module):
    """Weigh the channels of each cell of a grid by what the cell shows on average (PAU).

    Args:
        channels: channels C.
        grid: g, cells along each side, whatever the size of the image.
        reduction: what C is divided by inside.
    """

    def __init__(self, channels: int, grid: int, reduction: int) -> None:
        super().__init__()
        self.grid = grid
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1),
            nn.ReLU(),
            nn.Conv2d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape; H and W are multiples of g."""
        height, width = features.shape[-2:]
        patch = height // self.grid, width // self.grid
        weights = self.conv_du(F.avg_pool2d(features, patch))  # (B, C, g, g)
        # a view by cells instead of an interpolated map: a third of the time, and "nearest" computes places in float32
        # (at some sizes, such as 8 cells of 41 pixels, borders are one pixel off)
        cells = rearrange(features, "b c (i y) (j x) -> b c i y j x", y=patch[0], x=patch[1])
        weighted = rearrange(cells * weights[:, :, :, None, :, None], "b c i y j x -> b c (i y) (j x)")
        return cast(Tensor, weighted)


class PatchBlock(nn.Module):
    """Two convolutions and patch attention, plus the input (PAB).

    Args:
        channels: channels C.
        grid: cells along each side.
        kernel_size: of the convolutions.
        reduction: see `PatchAttention`.
        bias: whether the convolutions have one.
    """

    def __init__(self, channels: int, grid: int, kernel_size: int, reduction: int, bias: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (convolution(channels, channels, kernel_size, bias) for _ in range(2))
        self.PA = PatchAttention(channels, grid, reduction)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return cast(Tensor, features + self.PA(self.conv2(self.conv1(features).relu())))


def convolution(before: int, after: int, kernel_size: int, bias: bool) -> nn.Conv2d:
    """Make a convolution that keeps the size of the image."""
    return nn.Conv2d(before, after, kernel_size, padding=kernel_size // 2, bias=bias)


class PatchGroup(nn.Module):
    """Blocks of several grids and a convolution, plus the input (PAG); arguments as for `PatchBlock`."""

    def __init__(self, channels: int, grids: Sequence[int], kernel_size: int, reduction: int, bias: bool) -> None:
        super().__init__()
        blocks = (PatchBlock(channels, grid, kernel_size, reduction, bias) for grid in grids)
        self.body = nn.Sequential(*blocks, convolution(channels, channels, kernel_size, bias))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return cast(Tensor, features + self.body(features))


class Down(nn.Module):
    """Half the size, other channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(before, after, 1, bias=False))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, after, H / 2, W / 2)."""
        return cast(Tensor, self.down(features))


class Up(nn.Module):
    """Double the size, other channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.up = nn.Sequential(enlarge, nn.Conv2d(before, after, 1, bias=False))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, after, 2H, 2W)."""
        return cast(Tensor, self.up(features))


class Pyramid(nn.Module):
    """An encoder and a decoder over several scales, each half the size of the one before (SN1, SN2).

    Args:
        channels: channels C at full size.
        step: channels that each scale has more.
        blocks: blocks of encoder and of decoder at each scale, full size first.
        grids: grid of the blocks at each scale.
        kernel_size, reduction, bias: see `PatchBlock`.
    """

    def __init__(
        self,
        channels: int,
        step: int,
        blocks: Sequence[int],
        grids: Sequence[int],
        kernel_size: int,
        reduction: int,
        bias: bool,
    ) -> None:
        super().__init__()
        self.scales = range(1, len(blocks) + 1)
        widths = [channels + scale * step for scale in range(len(blocks))]

        def block(scale: int) -> PatchBlock:
            return PatchBlock(widths[scale - 1], grids[scale - 1], kernel_size, reduction, bias)

        for part, scales in (("encoder", self.scales), ("decoder", self.scales[::-1])):
            for scale in scales:
                self.add_module(f"{part}{scale}", nn.Sequential(*(block(scale) for _ in range(blocks[scale - 1]))))
        for scale in self.scales[:-1]:
            self.add_module(f"down{scale}", Down(widths[scale - 1], widths[scale]))
        for scale in self.scales[:-1]:
            self.add_module(f"up{scale}", Up(widths[scale], widths[scale - 1]))
        for scale in self.scales[-2::-1]:
            self.add_module(f"skipatt{scale}", block(scale))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        encoded = [self.get_submodule("encoder1")(features)]
        for scale in self.scales[1:]:
            smaller = self.get_submodule(f"down{scale - 1}")(encoded[-1])
            encoded.append(self.get_submodule(f"encoder{scale}")(smaller))
        last = self.scales[-1]
        decoded: Tensor = self.get_submodule(f"decoder{last}")(encoded[-1])
        for scale in self.scales[-2::-1]:
            larger = self.get_submodule(f"up{scale}")(decoded)
            kept = self.get_submodule(f"skipatt{scale}")(encoded[scale - 1])
            decoded = self.get_submodule(f"decoder{scale}")(larger + kept)
        return decoded


class Groups(nn.Module):
    """Groups of blocks in series, at full size (SN3); arguments as for `PatchGroup`."""

    def __init__(self, channels: int, grids: Sequence[int], kernel_size: int, reduction: int, bias: bool) -> None:
        super().__init__()
        for number in range(1, GROUPS + 1):
            self.add_module(f"PAG{number}", PatchGroup(channels, grids, kernel_size, reduction, bias))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        for group in self.children():
            features = group(features)
        return features


class PixelRefinement(nn.Module):
    """Weigh each channel of each pixel by what is around it, plus the input (PRU).

    Args:
        channels: channels C.
        reduction: what C is divided by inside.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.fr = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels // reduction, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        refined = self.conv(features)
        return cast(Tensor, self.fr(refined) * refined + features)


class UncertaintyAttention(nn.Module):
    """An image and its uncertainty from features, which go on weighed by that uncertainty (USAU).

    Args:
        channels: channels C of the features.
        image_channels: channels of the image.
        bias: whether the convolutions that estimate no uncertainty have one.
    """

    def __init__(self, channels: int, image_channels: int, bias: bool) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(image_channels, channels, 3, padding=1, bias=bias)
        self.conv_out = nn.Conv2d(channels, image_channels, 3, padding=1, bias=bias)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 1, bias=bias) for _ in range(2))
        self.var_est = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(SLOPE))
        self.var_map = nn.Sequential(nn.Conv2d(channels, image_channels, 3, padding=1), nn.LeakyReLU(SLOPE))
        self.att_map = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Sigmoid())

    def forward(self, features: Tensor, image: Tensor, last: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Restore the degraded image from features.

        Args:
            features: (B, C, H, W).
            image: the degraded image, (B, image channels, H, W).
            last: whether nothing follows: the features then go on as they came.

        Returns:
            Features for what follows, the restored image, and the logarithm of its uncertainty, of the image's shape.
        """
        joined = self.conv1(features) + self.conv_in(image)
        restored = self.conv_out(joined) + image
        estimated = self.var_est(joined)
        uncertainty = self.var_map(estimated)
        if not last:
            features = self.att_map(estimated) * self.conv2(features) + features
        return features, restored, uncertainty


class DSRIR(Network):
    """Restore an image in three stages, each of which adds what it found to the degraded image.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the result; the same, because the image is added.
        sn_feats: channels of the three sub-networks at full size.
        steps: channels that each scale of the first and of the second sub-network has more.
        kernel_size: of most convolutions; odd.
        reduction: what channels are divided by inside attention.
        bias: whether convolutions have a bias that are in no attention and estimate no uncertainty.
        sn1_blocks: blocks at each of three scales, in encoder and decoder alike.
        sn2_blocks: the same for two scales.
        sn3_blocks: blocks in each of four groups.
        sn1_grids: cells along each side of the image in which blocks of a scale see it.
        sn2_grids: the same for two scales.
        sn3_grids: the same for each block of a group.
        fit: what happens to sides that are no multiples of `size_multiple`. "pad": mirrored at right and bottom, the
            result is cut back; "crop": the centre is restored, and the result is smaller, as in the published test.
            airpipe's own tools never give such sides to a network that crops.

    Raises:
        ValueError: impossible sizes, numbers of blocks and grids that differ, or another `fit`.
    """

    restoring_stages = 3
    PUBLISHED_CONTAINER: ClassVar[str] = "state_dict"
    assumed: ClassVar[tuple[str, ...]] = ("sn1_grids", "sn2_grids", "sn3_grids")

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        sn_feats: Sequence[int] = (32, 48, 64),
        steps: Sequence[int] = (32, 16),
        kernel_size: int = 3,
        reduction: int = 8,
        bias: bool = False,
        sn1_blocks: Sequence[int] = (2, 2, 2),
        sn2_blocks: Sequence[int] = (2, 4),
        sn3_blocks: int = 4,
        sn1_grids: Sequence[int] = (8, 4, 2),
        sn2_grids: Sequence[int] = (4, 2),
        sn3_grids: Sequence[int] = (8, 4, 2, 1),
        fit: Literal["pad", "crop"] = "pad",
    ) -> None:
        super().__init__()
        expected = {"sn_feats": 3, "steps": 2, "sn1_blocks": 3, "sn1_grids": 3, "sn2_blocks": 2, "sn2_grids": 2}
        given = locals()
        if sn3_blocks < 1:
            raise ValueError(f"sn3_blocks is {sn3_blocks}; expected 1 or more")
        for name, count in {**expected, "sn3_grids": sn3_blocks}.items():
            least = 0 if name == "steps" else 1
            if len(given[name]) != count or min(given[name]) < least:
                raise ValueError(f"{name} is {list(given[name])}; expected {count} numbers from {least}")
        if in_channels != out_channels:
            raise ValueError(f"in_channels {in_channels} and out_channels {out_channels} differ; the image is added")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; expected an odd number")
        if not 1 <= reduction <= min(sn_feats):
            raise ValueError(f"reduction is {reduction}; expected 1 to {min(sn_feats)}, the fewest channels")
        if fit not in ("pad", "crop"):
            raise ValueError(f"fit is {fit!r}; expected 'pad' or 'crop'")
        self.image_channels = in_channels
        self.fit, self.pads_itself, self.widths = fit, fit == "pad", tuple(sn_feats)
        self.size_multiple = math.lcm(
            *(grid * 2**scale for grids in (sn1_grids, sn2_grids) for scale, grid in enumerate(grids)),
            *(*sn3_grids, 2 ** (len(sn1_grids) - 1)),
        )
        one, two, three = sn_feats
        common = (kernel_size, reduction, bias)
        self.ebd = convolution(in_channels, sum(sn_feats), kernel_size, bias)
        self.SN1 = Pyramid(one, steps[0], sn1_blocks, sn1_grids, *common)
        self.PRU1 = PixelRefinement(one, reduction)
        self.usau_1 = UncertaintyAttention(one, in_channels, bias)
        self.channel_comp1 = nn.Conv2d(one + two, two, 1, bias=bias)
        self.SN2 = Pyramid(two, steps[1], sn2_blocks, sn2_grids, *common)
        self.PRU2 = PixelRefinement(two, reduction)
        self.usau_2 = UncertaintyAttention(two, in_channels, bias)
        self.channel_comp2 = nn.Conv2d(two + three, three, 1, bias=bias)
        self.SN3 = Groups(three, sn3_grids, *common)
        self.PRU3 = PixelRefinement(three, reduction)
        self.usau_3 = UncertaintyAttention(three, in_channels, bias)

    def forward(self, image: Tensor, stages: bool = False) -> Tensor | tuple[list[Tensor], list[Tensor]]:
        """Restore (B, in_channels, H, W).

        Args:
            image: any size from one pixel, or from `size_multiple` where `fit` is "crop".
            stages: return the images and the uncertainty maps of all stages instead, the last stage first. A map is
                the logarithm of what a pixel may be off by, of the image's shape; it may be slightly negative.

        Raises:
            ValueError: nothing is left after cropping.
        """
        if self.fit == "crop":
            image = crop_to_multiple(image, self.size_multiple)
        height, width = image.shape[-2:]
        image = pad_to_multiple(image, self.size_multiple)
        first, second, third = self.ebd(image).split(self.widths, 1)

        first, image1, map1 = self.usau_1(self.PRU1(self.SN1(first)), image)
        second = self.channel_comp1(torch.cat((first, second), 1))
        second, image2, map2 = self.usau_2(self.PRU2(self.SN2(second)), image)
        third = self.channel_comp2(torch.cat((second, third), 1))
        _, image3, map3 = self.usau_3(self.PRU3(self.SN3(third)), image, last=True)

        images: list[Tensor] = [one[..., :height, :width] for one in (image3, image2, image1)]
        maps: list[Tensor] = [one[..., :height, :width] for one in (map3, map2, map1)]
        return (images, maps) if stages else images[0]

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the constructor arguments that fit a published state, or None when it is no DSRIR.

        Args:
            shapes: shape of each entry, by its published name.
        """
        if not {"ebd.weight", "usau_3.var_map.0.weight", "SN3.PAG4.body.0.PA.conv_du.0.weight"} <= set(shapes):
            return None
        feats = [shapes[f"usau_{stage}.conv1.weight"][0] for stage in (1, 2, 3)]
        _, channels, kernel_size, _ = shapes["ebd.weight"]
        squeezed = [shapes[key] for key in shapes if key.endswith(".PA.conv_du.0.weight")]

        def blocks(part: str) -> int:
            return sum(key.startswith(f"{part}.") and key.endswith(".conv1.weight") for key in shapes)

        return {
            "in_channels": channels,
            "out_channels": shapes["usau_3.conv_out.weight"][0],
            "sn_feats": feats,
            "steps": [shapes[f"SN{n}.down1.down.1.weight"][0] - feats[n - 1] for n in (1, 2)],
            "kernel_size": kernel_size,
            "reduction": min(before // after for after, before, *_ in squeezed),
            "bias": "ebd.bias" in shapes,
            "sn1_blocks": [blocks(f"SN1.encoder{scale}") for scale in (1, 2, 3)],
            "sn2_blocks": [blocks(f"SN2.encoder{scale}") for scale in (1, 2)],
            "sn3_blocks": blocks("SN3.PAG1.body"),
        }


def crop_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Return the centre of images (B, C, H, W) whose sides are multiples; half of the rest, rounded down, goes first.

    Raises:
        ValueError: a side is smaller than the multiple.
    """
    height, width = image.shape[-2:]
    if min(height, width) < multiple:
        raise ValueError(f"image is {width}x{height}; cropped to multiples of {multiple}, nothing is left of it")
    top, left = height % multiple // 2, width % multiple // 2
    return image[..., top : top + height // multiple * multiple, left : left + width // multiple * multiple]
