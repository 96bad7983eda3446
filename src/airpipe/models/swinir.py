"""SwinIR for restoration (no upscaling), and the encoder of DegAE.

Source: Liang et al., "SwinIR: Image Restoration Using Swin Transformer", arXiv 2108.10257.
Behaviour matched: lyh-18/DegAE_DegradationAutoencoder `SwinIR_arch.py` and
`SwinIR_Backbone_arch.py` (goldens `swinir_full`, `swinir_small`, `swinir_small_3conv`, and the
encoder of its whole network). Full size: 11,504,163 parameters.

| option | DegAE (default) | DegAE encoder | original SwinIR |
|---|---|---|---|
| rgb_mean | no | no | yes |
| output | image | features | image |

A fork without `relative_bias` and `attn_mask`, whose windows wrap around, is DCPT's.

State-dict keys: conv_first, embed_norm, layers.<group>.blocks.<block>, layers.<group>.conv,
norm, conv_after_body, conv_last. `own_name` reads the names of all.

Differences from the published code: shift masks and index tables are computed, not stored,
and each bias enters the attention once, with the mask; maps stay channels-last between
attention and convolution; padding replicates the edge where an image is too small to
reflect; a single window is shifted and masked like any other (published code goes by the
configured `img_size`); no absolute position embedding, no super-resolution head.

Shapes: B batch, C channels, H and W pixels, N = window^2 tokens, M windows, h heads of d
channels; images are RGB in [0, 1].
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from airpipe.models.contract import Form, Network, Shapes
from airpipe.models.features import Features, Output, hide, pad_visible
from airpipe.models.padding import pad_to_multiple

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean colour of DIV2K; the original SwinIR and DCPT subtract it."""
JPEG_WINDOW = 7
"""Window of the published networks against JPEG artefacts; all others have 8."""
MASKED = -100.0
"""Added to the logit of two tokens that only the roll made neighbours."""
UNUSED = ("conv_after_body.", "conv_last.")
"""Published entries that the form with features does without: its code stores them and never uses them."""


def relative_index(window: int, device: torch.device | None = None) -> Tensor:
    """Return the row of the bias table for each pair of tokens of a window: (N, N) int64."""
    position = torch.arange(window, device=device)
    apart = position[:, None] - position[None, :] + window - 1  # (window, window)
    index = apart[:, None, :, None] * (2 * window - 1) + apart[None, :, None, :]
    return rearrange(index, "yi xi yj xj -> (yi xi) (yj xj)")


def shift_mask(height: int, width: int, window: int, like: Tensor | None = None) -> Tensor:
    """Return what is added to the logits of a map that is rolled by window // 2: (M, N, N), 0 or `MASKED`.

    Args:
        height: height of the map, a multiple of `window`.
        width: width of the map, a multiple of `window`.
        window: side of a window.
        like: tensor that gives dtype and device; None: float32 on the current device.
    """
    device, dtype = (None, torch.float32) if like is None else (like.device, like.dtype)

    def bands(length: int) -> Tensor:
        # 0 in all windows but the last; 1 and 2 in its halves, which only the roll made neighbours
        position = torch.arange(length, device=device)
        band = (position >= length - window).int() + (position >= length - window // 2).int()
        return rearrange(band, "(m side) -> m side", side=window)

    rows, columns = bands(height), bands(width)
    label = 3 * rows[:, None, :, None] + columns[None, :, None, :]
    label = rearrange(label, "my mx y x -> (my mx) (y x)")
    return (label[:, :, None] != label[:, None, :]).to(dtype) * MASKED


def fused_is_faster(query: Tensor, bias: Tensor | None) -> bool:
    """Tell whether torch's fused attention beats matrix products for these tensors.

    Measured on one CPU core: 1.13 times in float32; slower in bfloat16 and where the bias needs a gradient.
    """
    if query.device.type == "cpu":
        return query.dtype == torch.float32 and (bias is None or not bias.requires_grad)
    windows, heads = query.shape[1:3]
    fits = max(len(query) * windows, windows * heads) < 65536  # grid of a GPU kernel
    return query.device.type == "cuda" and fits


def head_multiple(device: torch.device) -> int:
    """Return the number that fused kernels of a device want to divide the channels of a head."""
    return 8 if device.type == "cuda" else 1


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Softmax attention inside each window.

    Args:
        query: (B, M, h, N, d), like `key` and `value`.
        key: what the queries are compared with.
        value: what is averaged.
        bias: (1 or M, h or 1, N, N), added to the logits; None: nothing.
        scale: factor of the products.

    Returns:
        (B, M, h, N, d).
    """
    if not fused_is_faster(query, bias):
        logits = (query * scale) @ key.transpose(-2, -1)
        return (logits if bias is None else logits + bias).softmax(-1).to(value.dtype) @ value
    # Fused kernels take four dimensions: a bias shared by all windows goes with (B M, h, ...),
    # one that differs goes with (B, M h, ...), so that neither is repeated in memory.
    per_window = bias is not None and bias.shape[0] > 1
    merged = (1, 2) if per_window else (0, 1)
    if bias is not None:
        bias = bias.expand(-1, query.shape[2], -1, -1)
        bias = bias.flatten(0, 1)[None] if per_window else bias
    q, k, v = (part.flatten(*merged) for part in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale).reshape(query.shape)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of a map; the map is rolled by `shift` pixels before, and back after."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, relative_bias: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.scale = (channels // heads) ** -0.5
        if relative_bias:
            self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, index: Tensor | None, mask: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to the same shape.

        Args:
            tokens: (B, H, W, C), H and W multiples of the window.
            index: `relative_index`, or None without relative bias.
            mask: `shift_mask` of this size, or None without masks; only a shifted block uses it.
        """
        height, width, channels = tokens.shape[1:]
        if self.shift:
            tokens = tokens.roll((-self.shift, -self.shift), (1, 2))
        inside = {"y": self.window, "x": self.window}
        parts = {"three": 3, "h": self.heads}
        split = rearrange(self.qkv(tokens), "b (my y) (mx x) (three h d) -> three b my mx h y x d", **parts, **inside)
        if excess := -split.shape[-1] % head_multiple(split.device):
            split = F.pad(split, (0, excess))  # zeros change no product; the copy is made anyway
        query, key, value = rearrange(split, "three b my mx h y x d -> three b (my mx) h (y x) d")
        mixed = attend(query, key, value, self._bias(query, index, mask), self.scale)[..., : channels // self.heads]
        windows = {"my": height // self.window, "mx": width // self.window}
        mixed = self.proj(rearrange(mixed, "b (my mx) h (y x) d -> b (my y) (mx x) (h d)", **windows, **inside))
        return cast(Tensor, mixed.roll((self.shift, self.shift), (1, 2)) if self.shift else mixed)

    def _bias(self, query: Tensor, index: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Relative bias and mask in one tensor (1 or M, h or 1, N, N)."""
        bias = None
        if index is not None:
            bias = self.relative_position_bias_table.to(query.dtype)[index]  # (N, N, h)
            bias = rearrange(bias, "i j h -> 1 h i j").contiguous()  # fused kernels want the last stride to be 1
        if mask is None or not self.shift:
            return bias
        masked = mask[:, None].to(query.dtype)
        return masked if bias is None else bias + masked


def as_tokens(features: Tensor) -> Tensor:
    """View a map (B, C, H, W) as tokens (B, H, W, C)."""
    return rearrange(features, "b c y x -> b y x c")


def as_map(tokens: Tensor) -> Tensor:
    """View tokens (B, H, W, C) as a map (B, C, H, W), channels last in memory."""
    return rearrange(tokens, "b y x c -> b c y x")


class MLP(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(tokens))))


class SwinBlock(nn.Module):
    """Window attention, then an MLP, each behind a layer norm and added to its input."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, hidden: int, relative_bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window, shift, relative_bias)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, hidden)

    def forward(self, tokens: Tensor, index: Tensor | None, mask: Tensor | None, kept: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to the same shape; `kept` (2, B) are the factors of the two branches."""
        mixed = self.attn(self.norm1(tokens), index, mask)
        tokens = tokens + (mixed if kept is None else mixed * kept[0, :, None, None, None])
        mixed = self.mlp(self.norm2(tokens))
        return cast(Tensor, tokens + (mixed if kept is None else mixed * kept[1, :, None, None, None]))


class SwinGroup(nn.Module):
    """Residual Swin transformer block (RSTB): Swin blocks, a convolution, added to the input."""

    def __init__(self, blocks: Sequence[SwinBlock], channels: int, resi_connection: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.conv = _connection(channels, resi_connection)

    def forward(self, tokens: Tensor, index: Tensor | None, mask: Tensor | None, kept: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to the same shape; `kept` is (blocks, 2, B)."""
        mixed = tokens
        for number, block in enumerate(self.blocks):
            mixed = block(mixed, index, mask, None if kept is None else kept[number])
        return tokens + as_tokens(self.conv(as_map(mixed)))


def _connection(channels: int, kind: str) -> nn.Module:
    """The convolution at the end of a group and of the body."""
    if kind == "1conv":
        return nn.Conv2d(channels, channels, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(channels, channels // 4, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels // 4, channels // 4, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels // 4, channels, 3, padding=1),
    )


class SwinIR(Network):
    """Groups of Swin blocks at full resolution between two convolutions.

    Args:
        upscale: 1; super-resolution is not implemented.
        upsampler: empty, for the same reason.
        in_chans: channels of the image.
        img_range: factor of the image inside the network, with `rgb_mean` only.
        window_size: side of a window in pixels.
        depths: Swin blocks of each group.
        embed_dim: C, channels of every block.
        num_heads: heads of each group; must divide `embed_dim`.
        mlp_ratio: hidden channels of an MLP by `embed_dim`.
        resi_connection: convolution after a group, "1conv" or "3conv" (a bottleneck).
        global_residual: whether the image is added to the output.
        drop_path_rate: chance that training drops the last branch of a sample; rises linearly
            from 0 at the first block. Drawn from torch's global generator of the device.
        relative_bias: whether a bias is learned for each offset inside a window.
        attn_mask: whether pixels are kept apart that only the roll made neighbours.
        rgb_mean: whether to subtract `RGB_MEAN` (0 unless `in_chans` is 3) and scale by `img_range`;
            undone at the end.
        pad: "reflect": any size, filled up at right and bottom (edge replication where the image is too
            small) and cropped; "mirror": as the published test script does it, which repeats the edge and adds a
            window where nothing is missing (images are then not tiled); "none": other sizes than multiples of the
            window are an error.
        output: "image", or "features": the normalised body (B, C, H, W), without shallow
            skip and the last two convolutions, which are not made (encoder of DegAE).

    Raises:
        ValueError: numbers below one, lists of different length, heads that do not divide, or
            an option that is not implemented.
    """

    assumed: ClassVar[tuple[str, ...]] = ("global_residual", "rgb_mean", "img_range", "output")

    def __init__(
        self,
        upscale: int = 1,
        upsampler: str = "",
        in_chans: int = 3,
        img_range: float = 1.0,
        window_size: int = 8,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        embed_dim: int = 180,
        num_heads: Sequence[int] = (6, 6, 6, 6, 6, 6),
        mlp_ratio: float = 2.0,
        resi_connection: str = "1conv",
        global_residual: bool = True,
        drop_path_rate: float = 0.1,
        relative_bias: bool = True,
        attn_mask: bool = True,
        rgb_mean: bool = False,
        pad: Literal["reflect", "mirror", "none"] = "reflect",
        output: Literal["image", "features"] = "image",
    ) -> None:
        super().__init__()
        hidden = int(embed_dim * mlp_ratio)
        _check(upscale, upsampler, depths, embed_dim, num_heads, resi_connection, drop_path_rate, pad, output)
        if min(in_chans, window_size, hidden) < 1 or img_range <= 0:
            raise ValueError("in_chans, window_size, embed_dim * mlp_ratio must be at least 1, img_range above 0")
        self.window_size, self.img_range, self.drop_path_rate = window_size, img_range, drop_path_rate
        self.image_channels = in_chans
        self.size_multiple, self.pads_itself, self.whole_image = window_size, pad != "none", pad == "mirror"
        self.no_restorer = "it makes features of an image (output: features)" if output == "features" else ""
        self.global_residual, self.pad, self.output = global_residual, pad, output
        self.relative_bias, self.attn_mask, self.rgb_mean = relative_bias, attn_mask, rgb_mean
        self.blocks = sum(depths)
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)
        self.embed_norm = nn.LayerNorm(embed_dim)
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            # every second block rolls the map by half a window, so that neighbouring windows mix
            shifts = (window_size // 2 * (number % 2) for number in range(depth))
            blocks = [SwinBlock(embed_dim, heads, window_size, s, hidden, relative_bias) for s in shifts]
            self.layers.append(SwinGroup(blocks, embed_dim, resi_connection))
        self.norm = nn.LayerNorm(embed_dim)
        if output == "image":
            self.conv_after_body = _connection(embed_dim, resi_connection)
            self.conv_last = nn.Conv2d(embed_dim, in_chans, 3, padding=1)
        self.mean: Tensor
        mean = (torch.tensor(RGB_MEAN) if in_chans == 3 else torch.zeros(in_chans)).view(1, -1, 1, 1)
        self.register_buffer("mean", mean, persistent=False)  # published files do not store it
        self.apply(_initialise)
        self.feature_channels = [embed_dim] * (len(depths) - len(depths) // 2)
        """Channels of `forward(image, features=True)`."""

    def forward(self, image: Tensor, features: Features = False, visible: Tensor | None = None) -> Output:
        """Restore (B, 3, H, W), any H and W.

        Args:
            image: RGB in [0, 1].
            features: return the outputs of the second half of the groups instead, last group
                first: (B, C, H, W) each. Source: DCPT, the order of its classifier. "also": (restored, features).
            visible: (B, 1, H, W), 1 or 0: hides parts of the image and of what the encoder makes of it,
                see `hide`; None: all is visible.

        Raises:
            ValueError: `pad` is "none" and H or W no multiple of the window.
        """
        height, width = image.shape[-2:]
        image = pad_to_multiple(hide(image, visible), self.window_size, self.pad)
        image = image.contiguous(memory_format=torch.channels_last)  # tokens are then views of maps
        centred = (image - self.mean) * self.img_range if self.rgb_mean else image
        shallow = self.conv_first(centred)  # (B, C, H', W')
        groups = self._body(shallow, pad_visible(visible, self.window_size, self.pad))
        half = groups[len(groups) // 2 :][::-1]
        maps = [as_map(tokens)[..., :height, :width] for tokens in half]
        if features is True:
            return maps
        restored = self._restored(groups[-1], shallow, image)[..., :height, :width]
        return (restored, maps) if features else restored

    def _restored(self, tokens: Tensor, shallow: Tensor, image: Tensor) -> Tensor:
        """The result from the last group; the normalised body where that is the output."""
        body = as_map(self.norm(tokens))
        if self.output == "features":
            return body
        restored: Tensor = self.conv_last(self.conv_after_body(body) + shallow)
        if self.rgb_mean:
            # an image that is added brings its mean along
            restored = restored / self.img_range + (0 if self.global_residual else self.mean)
        return restored + image if self.global_residual else restored

    def _body(self, shallow: Tensor, visible: Tensor | None) -> list[Tensor]:
        """Output of each group, (B, H', W', C); the first half is the encoder."""
        height, width = shallow.shape[-2:]
        tokens = self.embed_norm(as_tokens(shallow))
        index = relative_index(self.window_size, shallow.device) if self.relative_bias else None
        mask = shift_mask(height, width, self.window_size, shallow) if self.attn_mask else None
        kept = self._kept(tokens)
        groups, start = [], 0
        shown = None if visible is None else as_tokens(visible)
        for number, layer in enumerate(self.layers):
            stop = start + len(cast(SwinGroup, layer).blocks)
            tokens = layer(tokens, index, mask, None if kept is None else kept[start:stop])
            if shown is not None and number < len(self.layers) // 2:
                tokens = tokens * shown
            groups.append(tokens)
            start = stop
        return groups

    def _kept(self, tokens: Tensor) -> Tensor | None:
        """Factors of all branches (blocks, 2, B): 0 where dropped, 1 / (1 - rate) where kept."""
        if not self.training or self.drop_path_rate == 0:
            return None
        rates = torch.linspace(0, self.drop_path_rate, self.blocks, device=tokens.device)[:, None, None]
        draws = torch.rand(self.blocks, 2, len(tokens), device=tokens.device)
        return ((draws >= rates) / (1 - rates)).to(tokens.dtype)

    def published_key(self, key: str) -> str | None:
        """Return the name here of a published state-dict entry; None for one without use (see `output`)."""
        unused = self.output == "features" and key.startswith(UNUSED)
        return None if unused else own_name(key)

    @staticmethod
    def _published_name(key: str) -> str:
        key = re.sub(r"^embed_norm\.", "patch_embed.norm.", key)
        return re.sub(r"^(layers\.\d+)\.blocks\.", r"\1.residual_group.blocks.", key)

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Return the weights under their published names.

        Args:
            buffers: whether to add the index tables and masks that published files store (masks for 64 x 64 pixels,
                the published `img_size`, rounded up to a multiple of the window), and zeros for `UNUSED`.
            layout: see `Network.published_state`.
        """
        self.published_layout(layout)
        state = {self._published_name(key): value for key, value in self.state_dict().items()}
        if not buffers:
            return state
        if self.output == "features":
            connection = cast(SwinGroup, self.layers[0]).conv.state_dict()
            state |= {f"conv_after_body.{name}": torch.zeros_like(value) for name, value in connection.items()}
            state["conv_last.weight"] = torch.zeros_like(self.conv_first.weight.transpose(0, 1))
            state["conv_last.bias"] = torch.zeros(self.conv_first.in_channels)
        side = -(-64 // self.window_size) * self.window_size
        for name, module in self.named_modules():
            prefix = self._published_name(f"{name}.")
            if isinstance(module, WindowAttention) and self.relative_bias:
                state[f"{prefix}relative_position_index"] = relative_index(self.window_size)
            if isinstance(module, SwinBlock) and self.attn_mask and module.attn.shift:
                state[f"{prefix}attn_mask"] = shift_mask(side, side, self.window_size)
        return state

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the constructor arguments that fit a published state, or None when it is no SwinIR of this kind.

        Shapes do not show what happens to the image outside the weights: mean and residual are
        taken to be those of the original release (DegAE's have `rgb_mean` False).

        Args:
            shapes: shape of each entry, by its published name or the one here.
        """
        found = sizes_from(shapes)
        if found is None or not found["tables"]:
            return None
        tables = found.pop("tables")
        window = (math.isqrt(tables[0][0]) + 1) // 2
        heads = [shape[1] for shape in tables]
        return {**found, "window_size": window, "num_heads": heads, "global_residual": True, "rgb_mean": True}

    @classmethod
    def published_form(cls, shapes: Shapes) -> Form | None:
        """Say what a window of 7 means: the form that removes JPEG artefacts, on a scale of 0 to 255.

        Args:
            shapes: shape of each entry, by its published name.
        """
        found = cls.arguments_from(shapes)
        if found is None or found["window_size"] != JPEG_WINDOW:
            return None
        return Form(f"SwinIR for JPEG artefacts (window {JPEG_WINDOW})", {"img_range": 255.0})

    @classmethod
    def unsupported(cls, shapes: Shapes) -> str:
        """Say which SwinIR of the published code has entries that no option here makes; see `Network.unsupported`.

        Args:
            shapes: shape of each entry, by its published name.
        """
        named = {name: shape for key, shape in shapes.items() if (name := own_name(key)) is not None}
        if "conv_first.weight" not in named or "layers.0.blocks.0.attn.qkv.weight" not in named:
            return ""
        if head := _super_resolution(named):
            return f"a SwinIR with a {head}: airpipe restores at scale 1"
        lacks = {
            "absolute position embedding (ape)": "absolute_pos_embed" in named,
            "no bias of queries, keys and values (qkv_bias=False)": "layers.0.blocks.0.attn.qkv.bias" not in named,
            "no norm after its first convolution (patch_norm=False)": "embed_norm.weight" not in named,
        }
        found = [text for text, there in lacks.items() if there]
        return f"a SwinIR with {' and '.join(found)}, which airpipe's SwinIR does not have" if found else ""


def _super_resolution(named: Shapes) -> str:
    """The head of a published super-resolution SwinIR ("x2 super-resolution head (classical)"); empty: none."""
    if "conv_up1.weight" in named:
        return f"x{4 if 'conv_up2.weight' in named else 2} super-resolution head (real-world, nearest+conv)"
    convolutions = [named[key] for key in named if re.fullmatch(r"upsample\.\d+\.weight", key)]
    if not convolutions:
        return ""
    if "conv_last.weight" not in named:  # pixelshuffledirect: one convolution makes all pixels of the image
        channels = named["conv_first.weight"][1]
        return f"x{math.isqrt(convolutions[0][0] // channels)} super-resolution head (lightweight, pixelshuffledirect)"
    scale = math.prod(math.isqrt(shape[0] // shape[1]) for shape in convolutions)
    return f"x{scale} super-resolution head (classical, pixelshuffle)"


def own_name(key: str) -> str | None:
    """Return the name here of a published state-dict entry; None for stored masks and index tables."""
    if key.endswith((".attn_mask", ".relative_position_index")):
        return None
    # the published fork counts the groups of its decoder anew, behind three of its encoder
    key = re.sub(r"^encode_layers\.", "layers.", key)
    key = re.sub(r"^decode_layers(\d+)\.", lambda found: f"layers.{int(found[1]) + 3}.", key)
    return key.replace(".residual_group.", ".").replace("patch_embed.norm.", "embed_norm.")


def sizes_from(shapes: Shapes) -> dict[str, Any] | None:
    """Return the arguments that every variant's shapes show; `tables`: shapes of each group's first bias table."""
    named = {name: shape for key, shape in shapes.items() if (name := own_name(key)) is not None}
    needed = ["conv_first.weight", "embed_norm.weight", "conv_last.weight"]
    needed += ["layers.0.blocks.0.attn.qkv.bias", "layers.0.blocks.0.mlp.fc1.weight"]
    if any(key not in named for key in needed) or any("upsample" in key for key in named):
        return None
    pairs = [re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", key) for key in named]
    blocks = {(int(pair[1]), int(pair[2])) for pair in pairs if pair}
    depths = [count for _, count in sorted(Counter(group for group, _ in blocks).items())]
    groups = len(depths)
    if blocks != {(group, block) for group in range(groups) for block in range(depths[group])}:
        return None
    tables = [named.get(f"layers.{i}.blocks.0.attn.relative_position_bias_table") for i in range(groups)]
    embed_dim, in_chans = named["conv_first.weight"][:2]
    hidden = named["layers.0.blocks.0.mlp.fc1.weight"][0]
    ratio = hidden / embed_dim
    # the constructor cuts the product to a whole number: where rounding would lose one channel, aim between two
    return {
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": depths,
        "mlp_ratio": ratio if int(embed_dim * ratio) == hidden else (hidden + 0.5) / embed_dim,
        "resi_connection": "1conv" if "conv_after_body.weight" in named else "3conv",
        "tables": [shape for shape in tables if shape is not None],
    }


def _check(
    upscale: int,
    upsampler: str,
    depths: Sequence[int],
    embed_dim: int,
    num_heads: Sequence[int],
    resi_connection: str,
    drop_path_rate: float,
    pad: str,
    output: str,
) -> None:
    if upscale != 1 or upsampler:
        raise ValueError(
            f"upscale is {upscale}, upsampler {upsampler!r}; only restoration is implemented: upscale 1, upsampler ''"
        )
    if not depths or len(depths) != len(num_heads):
        raise ValueError(f"depths {list(depths)} and num_heads {list(num_heads)} must have one entry for each group")
    if min(*depths, *num_heads, embed_dim) < 1:
        raise ValueError(f"depths {list(depths)}, num_heads {list(num_heads)}, embed_dim {embed_dim}: all at least 1")
    if any(embed_dim % heads for heads in num_heads):
        raise ValueError(f"num_heads {list(num_heads)} must each divide embed_dim {embed_dim}")
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"drop_path_rate is {drop_path_rate}; expected 0 or more and less than 1")
    for name, value, allowed in (
        ("resi_connection", resi_connection, ("1conv", "3conv")),
        ("pad", pad, ("reflect", "mirror", "none")),
        ("output", output, ("image", "features")),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; expected {' or '.join(map(repr, allowed))}")


def _initialise(module: nn.Module) -> None:
    """Linear layers as published; convolutions and norms keep torch's start."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
