"""Restormer, a U-Net of transformer blocks whose attention runs across channels.

Source: Zamir et al., "Restormer: Efficient Transformer for High-Resolution Image Restoration",
CVPR 2022 (arXiv 2111.09881). Behaviour matched: lyh-18/DegAE_DegradationAutoencoder
`Restormer_arch.py` and `Restormer_Backbone_arch.py` (goldens `restormer_*`).

State-dict keys are the published ones: patch_embed.proj, <stage>.<block>.{norm1.body, attn,
norm2.body, ffn}, down1_2.body.0, up4_3.body.0, reduce_chan_level3, output, skip_conv; with `stages_in_body`
<stage>.body.<block>, as a fork of it writes them.
Parameters of the default: 26,126,644; multiply-accumulates at 256x256: convolutions 140.99 G
(the number usually printed), attention products 13.89 G.

Three uses of one class: restoration; encoder of DegAE (`out_channels=64, global_residual=False`:
the output is a feature map); dual-pixel deblurring (6 input channels, `dual_pixel_task=True`).

Differences from the published code: any image size (padded by reflection at right and bottom,
cropped back); queries and keys are normalised by scaling the rows and columns of their product,
which is small, instead of both maps (same function within rounding; float16 could overflow,
bfloat16 cannot); layer norm with bias is the native one over the channels-last view.

Shapes: B batch, C channels, H and W pixels, N = H * W, D = `dim`, h heads, d = C / h channels
per head; images are RGB in [0, 1].
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from airpipe.models.contract import Network, Shapes
from airpipe.models.features import Features, Output, hide, pad_visible
from airpipe.models.padding import pad_to_multiple

STAGES = (
    *("encoder_level1", "encoder_level2", "encoder_level3", "latent"),
    *("decoder_level3", "decoder_level2", "decoder_level1", "refinement"),
)
"""Names of the stages in state-dict keys, in forward order; `num_blocks` and `heads` have the first four."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel: (B, C, H, W) to the same shape.

    "WithBias": (x - mean) / sqrt(var + eps) * weight + bias. "BiasFree": x / sqrt(var + eps) *
    weight, where x keeps its mean although the (biased) variance is taken around it.
    """

    def __init__(self, channels: int, kind: str, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if kind == "WithBias" else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) to the same shape."""
        if self.bias is None:
            variance = channel_variance(x, x.is_cuda)
            return x * torch.rsqrt(variance + self.eps) * self.weight[:, None, None]
        last = rearrange(x, "b c y x -> b y x c")
        normal = F.layer_norm(last, self.weight.shape, self.weight, self.bias, self.eps)
        return rearrange(normal, "b y x c -> b c y x")


def channel_variance(x: Tensor, fused: bool) -> Tensor:
    """Biased variance of each pixel over its channels: (B, C, H, W) to (B, 1, H, W).

    Fused is one pass over memory, right for a GPU; on a CPU it takes ten times as long as the other.
    """
    if fused:
        return x.var(1, correction=0, keepdim=True)
    return (x - x.mean(1, keepdim=True)).square().mean(1, keepdim=True)


def lengths(vectors: Tensor, fused: bool) -> Tensor:
    """Euclidean length along the last dimension, which stays as one of 1; at least 1e-12, as that of F.normalize.

    In float32 or better. Fused is one pass over memory, right for a GPU; on a CPU it takes four times as long as the
    other where pixels lie apart, and adds in a less exact order.
    """
    precise = torch.promote_types(vectors.dtype, torch.float32)
    if fused:
        norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True, dtype=precise)
        return norms.clamp_min(1e-12)
    return vectors.to(precise).square().sum(-1, keepdim=True).clamp_min(1e-24).sqrt()  # no slope at 0: sqrt's is inf


class ChannelAttention(nn.Module):
    """Multi-Dconv head transposed attention (MDTA): each channel is a token of N = H * W values.

    The attention depends on the image size: queries and keys have length 1 along all pixels.
    """

    def __init__(self, channels: int, heads: int, bias: bool, activation: str) -> None:
        super().__init__()
        self.heads = heads
        self.activation = activation
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        qkv = self.qkv_dwconv(self.qkv(x))  # (B, 3C, H, W)
        qkv = rearrange(
            qkv, "b (three h d) y x -> b three h d (y x)", three=3, h=self.heads
        )  # a view: nothing is copied
        query, key, value = qkv.unbind(1)  # (B, h, d, N)
        query_scale, key_scale = lengths(qkv[:, :2], qkv.is_cuda).reciprocal().unbind(1)  # (B, h, d, 1)
        scores = query @ key.transpose(-2, -1) * query_scale * key_scale.transpose(-2, -1) * self.temperature
        weights = scores.softmax(-1) if self.activation == "softmax" else scores.relu()  # (B, h, d, d)
        mixed = weights.to(value.dtype) @ value  # (B, h, d, N)
        return cast(Tensor, self.project_out(rearrange(mixed, "b h d (y x) -> b (h d) y x", y=x.shape[-2])))


class GatedFeedForward(nn.Module):
    """Gated-Dconv feed-forward part (GDFN); hidden channels are floor(C * expansion)."""

    def __init__(self, channels: int, expansion: float, bias: bool) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        active, gate = self.dwconv(self.project_in(x)).chunk(2, dim=1)  # (B, hidden, H, W) each
        if not (active.is_cuda or active.is_contiguous()):
            active = active.clone()  # on a CPU, GELU of a dense copy is up to ten times as fast as of a slice
        return cast(Tensor, self.project_out(F.gelu(active) * gate))


class TransformerBlock(nn.Module):
    """Transformer block: x + attention(norm1(x)), then x + feed_forward(norm2(x)), for x of (B, C, H, W).

    Args:
        channels: number of channels C; `heads` must divide it.
        heads: number of attention heads h.
        expansion: hidden channels of the feed-forward part over C.
        bias: whether the convolutions have a bias.
        norm: "WithBias" or "BiasFree", see `ChannelNorm`.
        eps: constant that the layer norm adds to the variance.
        activation: "softmax" or "relu", what turns scores into attention.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        expansion: float,
        bias: bool,
        norm: str,
        eps: float = 1e-5,
        activation: str = "softmax",
    ) -> None:
        super().__init__()
        self.norm1 = named(body=ChannelNorm(channels, norm, eps))
        self.attn = ChannelAttention(channels, heads, bias, activation)
        self.norm2 = named(body=ChannelNorm(channels, norm, eps))
        self.ffn = GatedFeedForward(channels, expansion, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = x + self.attn(self.norm1(x))
        return cast(Tensor, x + self.ffn(self.norm2(x)))


def named(**modules: nn.Module) -> nn.Sequential:
    """Put modules in a row, under the names that published keys have."""
    return nn.Sequential(OrderedDict(modules))


def downsample(channels: int) -> nn.Sequential:
    """Make layers that map (B, C, H, W) to (B, 2C, H / 2, W / 2)."""
    convolution = nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False)
    return named(body=nn.Sequential(convolution, nn.PixelUnshuffle(2)))


def upsample(channels: int) -> nn.Sequential:
    """Make layers that map (B, C, H, W) to (B, C / 2, 2H, 2W)."""
    convolution = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
    return named(body=nn.Sequential(convolution, nn.PixelShuffle(2)))


def check_sizes(
    inp_channels: int,
    out_channels: int,
    dim: int,
    num_blocks: Sequence[int],
    num_refinement_blocks: int,
    heads: Sequence[int],
    ffn_expansion_factor: float,
    LayerNorm_type: str,
) -> None:
    """Refuse arguments that no Restormer-like network can have.

    Raises:
        ValueError: says which argument, what was found and what is possible.
    """
    for name, values in (("num_blocks", num_blocks), ("heads", heads)):
        if len(values) != 4 or min(values) < 1:
            raise ValueError(f"{name} is {list(values)}; expected four numbers from 1, for levels 1, 2, 3 and latent")
    if dim < 2 or dim % 2 or any(dim * 2**level % number for level, number in enumerate(heads)):
        widths = [dim * 2**level for level in range(4)]
        raise ValueError(f"dim {dim} gives widths {widths}; dim must be even and heads {list(heads)} divide the widths")
    if min(inp_channels, out_channels) < 1 or num_refinement_blocks < 0:
        raise ValueError("inp_channels and out_channels must be at least 1, num_refinement_blocks at least 0")
    if int(dim * ffn_expansion_factor) < 1:
        raise ValueError(f"ffn_expansion_factor {ffn_expansion_factor} leaves no hidden channel at dim {dim}")
    if LayerNorm_type not in ("WithBias", "BiasFree"):
        raise ValueError(f"LayerNorm_type is {LayerNorm_type!r}; expected 'WithBias' or 'BiasFree'")


def sizes_from(shapes: Shapes) -> dict[str, Any] | None:
    """Read off the arguments that all Restormer-like networks share, from keys `<stage>.<block>.`; None for others.

    Heads come from the temperatures. The expansion factor is 2.66 where that gives the hidden
    channels found, else the number with the fewest decimals that does.
    """
    first, last = shapes.get("patch_embed.proj.weight", ()), shapes.get("output.weight", ())
    temperatures = [shapes.get(f"{stage}.0.attn.temperature", ()) for stage in STAGES[:4]]
    hidden = {s[:2] for key, s in shapes.items() if key.endswith(".ffn.project_out.weight") and len(s) == 4}
    if len(first) != 4 or len(last) != 4 or any(len(shape) != 3 for shape in temperatures) or not hidden:
        return None
    low = max(inner / channels for channels, inner in hidden)
    factors = (2.66, *(math.ceil(low * 10**digits) / 10**digits for digits in range(12)))
    fitting = [f for f in factors if all(int(channels * f) == inner for channels, inner in hidden)]
    if not fitting:
        return None
    blocks = [len({key.split(".")[1] for key in shapes if key.startswith(f"{stage}.")}) for stage in STAGES]
    return {
        "inp_channels": first[1],
        "out_channels": last[0],
        "dim": first[0],
        "num_blocks": blocks[:4],
        "num_refinement_blocks": blocks[7],
        "heads": [shape[0] for shape in temperatures],
        "ffn_expansion_factor": fitting[0],
        "bias": "output.bias" in shapes,
        "LayerNorm_type": "WithBias" if "encoder_level1.0.norm1.body.bias" in shapes else "BiasFree",
    }


class RestormerEncoder(Network):
    """Base of Restormer and PromptIR: patch embedding, levels 1 to 3 and latent.

    Args:
        inp_channels: see `Restormer`, which has all arguments under the same names.

    Raises:
        ValueError: impossible sizes.
    """

    UNPADDED_LAYOUTS: ClassVar[tuple[str, ...]] = ("published",)
    size_multiple = 8
    pads_itself = True
    stages_in_body = False
    """Whether stages are keyed <stage>.body.<block>, and their convolutions never have a bias."""

    def __init__(
        self,
        inp_channels: int,
        out_channels: int,
        dim: int,
        num_blocks: Sequence[int],
        num_refinement_blocks: int,
        heads: Sequence[int],
        ffn_expansion_factor: float,
        bias: bool,
        LayerNorm_type: str,
        attention: str = "softmax",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        sizes = (inp_channels, out_channels, dim, num_blocks, num_refinement_blocks, heads, ffn_expansion_factor)
        check_sizes(*sizes, LayerNorm_type)
        self.heads, self.image_channels = tuple(heads), inp_channels
        block_bias = bias and not self.stages_in_body
        self.block_options = (ffn_expansion_factor, block_bias, LayerNorm_type, norm_eps, attention)
        self.patch_embed = named(proj=nn.Conv2d(inp_channels, dim, 3, padding=1, bias=False))
        self.encoder_level1 = self.stage(0, dim, num_blocks[0])
        self.down1_2 = downsample(dim)
        self.encoder_level2 = self.stage(1, 2 * dim, num_blocks[1])
        self.down2_3 = downsample(2 * dim)
        self.encoder_level3 = self.stage(2, 4 * dim, num_blocks[2])
        self.down3_4 = downsample(4 * dim)
        self.latent = self.stage(3, 8 * dim, num_blocks[3])

    def block(self, level: int, width: int) -> TransformerBlock:
        """Make a block of `width` channels with the heads of a level: 0, 1, 2 or 3 (latent)."""
        return TransformerBlock(width, self.heads[level], *self.block_options)

    def stage(self, level: int, width: int, blocks: int) -> nn.Module:
        """Make a row of blocks, see `block`."""
        body = nn.Sequential(*(self.block(level, width) for _ in range(blocks)))
        return named(body=body) if self.stages_in_body else body

    def encode(self, image: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Encode images (B, inp_channels, H, W): patch embedding, levels 1, 2, 3, latent; `visible` as in `Restormer`.

        Returns:
            With H' and W' the padded size: twice (B, D, H', W'), (B, 2D, H' / 2, W' / 2),
            (B, 4D, H' / 4, W' / 4) and (B, 8D, H' / 8, W' / 8).
        """
        embedded = self.patch_embed(pad_to_multiple(hide(image, visible), self.size_multiple))
        visible = pad_visible(visible, self.size_multiple)
        level1 = hide(self.encoder_level1(embedded), visible)
        level2 = hide(self.encoder_level2(self.down1_2(level1)), visible)
        level3 = hide(self.encoder_level3(self.down2_3(level2)), visible)
        return embedded, level1, level2, level3, self.latent(self.down3_4(level3))


class Restormer(RestormerEncoder):
    """Predict the clean image as the input plus a learned correction.

    Args:
        inp_channels: channels of the image; 6 for two stacked dual-pixel views.
        out_channels: channels of the result; 64 for the encoder of DegAE.
        dim: D, channels at full resolution; doubled at each level. Even.
        num_blocks: blocks at levels 1, 2, 3 and latent; the decoder repeats the first three.
        num_refinement_blocks: blocks at full resolution after the decoder, 2D wide.
        heads: attention heads at levels 1, 2, 3 and latent.
        ffn_expansion_factor: hidden channels of the feed-forward part over its width.
        bias: whether convolutions have a bias, except patch embedding, down- and upsampling (never).
        LayerNorm_type: "WithBias" or "BiasFree", see `ChannelNorm`.
        global_residual: whether the input image is added to the output.
        dual_pixel_task: whether to add a 1x1 convolution of the patch embedding before `output`; no image is added.
        attention: "softmax", or "relu" (not normalised), as a fork of it has.
        norm_eps: constant that layer norms add to the variance.

    Raises:
        ValueError: impossible sizes, or an image to be added to a result of other channels.
    """

    assumed: ClassVar[tuple[str, ...]] = ("global_residual",)

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
        global_residual: bool = True,
        dual_pixel_task: bool = False,
        attention: Literal["softmax", "relu"] = "softmax",
        norm_eps: float = 1e-5,
    ) -> None:
        sizes = (inp_channels, out_channels, dim, num_blocks, num_refinement_blocks, heads, ffn_expansion_factor)
        super().__init__(*sizes, bias, LayerNorm_type, attention, norm_eps)
        if attention not in ("softmax", "relu"):
            raise ValueError(f"attention is {attention!r}; expected 'softmax' or 'relu'")
        self.adds_image = global_residual and not dual_pixel_task
        if dual_pixel_task:
            self.no_restorer = f"it takes the two views of a dual-pixel sensor, {inp_channels} channels in all"
        elif inp_channels < out_channels:
            self.no_restorer = f"it has {out_channels} output channels: an encoder, which makes features, no picture"
        elif inp_channels > out_channels:
            self.no_restorer = f"it makes {out_channels} channels of {inp_channels}"
        if self.adds_image and inp_channels != out_channels:
            raise ValueError(
                f"an image of {inp_channels} channels cannot be added to a result of {out_channels}: "
                "set global_residual=False (features) or equal channels"
            )
        self.up4_3 = upsample(8 * dim)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = self.stage(2, 4 * dim, num_blocks[2])
        self.up3_2 = upsample(4 * dim)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = self.stage(1, 2 * dim, num_blocks[1])
        self.up2_1 = upsample(2 * dim)
        self.decoder_level1 = self.stage(0, 2 * dim, num_blocks[0])
        self.refinement = self.stage(0, 2 * dim, num_refinement_blocks)
        self.skip_conv = nn.Conv2d(dim, 2 * dim, 1, bias=bias) if dual_pixel_task else None
        self.output = nn.Conv2d(2 * dim, out_channels, 3, padding=1, bias=bias)
        self.feature_channels = [2 * dim, 2 * dim, 4 * dim]
        """Channels of `forward(image, features=True)`, shallow first."""

    def forward(self, image: Tensor, features: Features = False, visible: Tensor | None = None) -> Output:
        """Map (B, inp_channels, H, W) to (B, out_channels, H, W).

        Args:
            image: any size from one pixel; padded to multiples of `size_multiple` and cropped back.
            features: return the outputs of decoder levels 1, 2, 3 instead, not cropped: with H' and W'
                the padded size, (B, 2D, H', W'), (B, 2D, H' / 2, W' / 2), (B, 4D, H' / 4, W' / 4);
                refinement and output are not computed. Source: DCPT hook. "also": (restored, features).
            visible: (B, 1, H, W), 1 or 0: hides parts of the image and of what the encoder makes of it,
                see `hide`; None: all is visible.
        """
        height, width = image.shape[-2:]
        embedded, level1, level2, level3, latent = self.encode(image, visible)
        decoded3 = self.decoder_level3(self.reduce_chan_level3(torch.cat((self.up4_3(latent), level3), 1)))
        decoded2 = self.decoder_level2(self.reduce_chan_level2(torch.cat((self.up3_2(decoded3), level2), 1)))
        decoded1 = self.decoder_level1(torch.cat((self.up2_1(decoded2), level1), 1))  # (B, 2D, H', W')
        decoded = [decoded1, decoded2, decoded3]
        if features is True:
            return decoded
        refined = self.refinement(decoded1)  # (B, 2D, H', W')
        if self.skip_conv is not None:
            refined = refined + self.skip_conv(embedded)
        restored = self.output(refined)[..., :height, :width]
        if self.adds_image:
            restored = restored + hide(image, visible)
        return (restored, decoded) if features else cast(Tensor, restored)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the constructor arguments that fit a published state, or None when it is no Restormer.

        Shapes do not tell whether the image is added: it is taken to be where the channels allow it.

        Args:
            shapes: shape of each entry, by its published name.
        """
        sizes = None if "noise_level3.attn.temperature" in shapes else sizes_from(shapes)
        if sizes is None:
            return None
        dual = "skip_conv.weight" in shapes
        residual = dual or sizes["inp_channels"] == sizes["out_channels"]
        return {**sizes, "global_residual": residual, "dual_pixel_task": dual}
