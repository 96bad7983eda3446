"""The classification head of DCPT, and backbone and head as one network.

Source: Hu et al., "Universal Image Restoration Pre-training via Degradation Classification",
ICLR 2025 (arXiv 2501.15510). Behaviour matched: MILab-PKU/dcpt `degrad_classify_arch.py`,
`PromptIR_NoImg_DC`, which serves all backbones (goldens `dcpt_head_*`, `dcpt_hook_*`).

State-dict keys of the head are the published ones: mixing_weights, bottleneck_layers.<level>.<block>,
downsample_layers.<level>.0, last_stage.<block>, fc. Parameters with 5 classes: NAFNet (width 64)
49,290,505, Restormer 7,449,800, PromptIR 9,691,208, SwinIR 10,480,508.

Differences from the published code: features come from `forward(image, features=True)` of a backbone and
not from hooks chosen by module names (which find other modules, or none, without DDP); tokens of crops
that are not square; layer norm is the native one.

Shapes: B batch, L levels, f_i channels of level i, H and W pixels of level 0.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.models.contract import Inputs, Network, Shapes, feature_channels
from airpipe.models.features import Features, Output
from airpipe.models.nafnet import ChannelNorm
from airpipe.registry import build_network


class NormedConv(nn.Conv2d):
    """Convolution without bias, then a layer norm over the channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm = ChannelNorm(outputs)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H, W)."""
        return cast(Tensor, self.norm(super().forward(features)))


class ResidualBlock(nn.Module):
    """Inverted bottleneck: 1x1 to twice the channels, 3x3, 1x1 back, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = NormedConv(channels, 2 * channels, 1)
        self.conv2 = NormedConv(2 * channels, 2 * channels, 3)
        self.conv3 = NormedConv(2 * channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        inner = self.conv2(self.conv1(features).relu()).relu()
        return cast(Tensor, (self.conv3(inner) + features).relu())


class DegradationHead(Network):
    """Tell degradations apart by the features of a restoration network's decoder.

    Args:
        feature_dims: channels f_0 to f_(L-1) of the levels, shallow (high resolution) first.
        num_classes: number of logits.
        num_res_blocks: residual blocks of each level and after the last one.
        downsample: features of all levels have the size of level 0; level i is shrunk by 2^i (nearest).

    Raises:
        ValueError: numbers below one, or no level.
    """

    assumed: ClassVar[tuple[str, ...]] = ("downsample",)
    no_restorer = "it tells degradations apart by the features of a backbone"

    def __init__(
        self, feature_dims: Sequence[int], num_classes: int, num_res_blocks: int = 2, downsample: bool = False
    ) -> None:
        super().__init__()
        if not feature_dims or min(*feature_dims, num_classes, num_res_blocks) < 1:
            raise ValueError(
                f"feature_dims {list(feature_dims)}, num_classes {num_classes}, num_res_blocks {num_res_blocks}: "
                "at least one level, and numbers from 1"
            )

        def blocks(channels: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(channels) for _ in range(num_res_blocks)))

        self.feature_dims, self.downsample, self.classes = list(feature_dims), downsample, num_classes
        self.mixing_weights = nn.Parameter(torch.ones(len(feature_dims)))
        self.bottleneck_layers = nn.ModuleList(blocks(channels) for channels in feature_dims)
        self.downsample_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, following, 1, bias=False), nn.MaxPool2d(2), nn.ReLU())
            for channels, following in zip(feature_dims, [*feature_dims[1:], feature_dims[-1]], strict=True)
        )
        self.last_stage = blocks(feature_dims[-1])
        self.fc = nn.Linear(feature_dims[-1], num_classes)

    def forward(self, features: Sequence[Tensor] | Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Classify the features of B images: logits (B, num_classes).

        Args:
            features: L maps (B, f_i, H / 2^i, W / 2^i); with `downsample` all (B, f_i, H, W). Tokens
                (B, H W, f_i), row by row, are taken as maps.
            size: (H, W) of tokens; None: they are square.

        Raises:
            AirpipeError: features of another number or shape, or too small ones; says what fits.
        """
        maps = self._maps(features, size)
        weights = self.mixing_weights.softmax(0)
        mixed = weights[0] * maps[0]
        for level, (blocks, shrink) in enumerate(zip(self.bottleneck_layers, self.downsample_layers, strict=True)):
            if level:
                mixed = mixed + weights[level] * maps[level]
            mixed = shrink(blocks(mixed))
        return cast(Tensor, self.fc(self.last_stage(mixed).mean((2, 3))))

    def _maps(self, features: Sequence[Tensor] | Tensor, size: tuple[int, int] | None) -> list[Tensor]:
        levels = len(self.feature_dims)
        if isinstance(features, Tensor) or len(features) != levels:
            found = "an image" if isinstance(features, Tensor) else f"{len(features)}"
            raise AirpipeError(
                f"the degradation head takes a list of {levels} feature maps, found {found}. "
                "Give what forward(image, features=True) of its backbone returns"
            )
        maps = [_as_map(one, size) for one in features]
        if self.downsample:
            maps = [_shrunk(one, 2**level) for level, one in enumerate(maps)]
        height, width = maps[0].shape[-2:]
        wanted = [(c, height >> level, width >> level) for level, c in enumerate(self.feature_dims)]
        shapes = [tuple(one.shape[1:]) for one in maps]
        if shapes != wanted:
            raise AirpipeError(
                f"the degradation head got features {shapes} (channels, height, width), expected {wanted}. "
                "Backbones whose features have one size (SwinIR) need head.downsample: true, others false"
            )
        if min(height, width) < 2**levels:
            raise AirpipeError(
                f"the degradation head halves {levels} times: features of {height}x{width} are too small, "
                f"they need {2**levels}. Use a larger patch_size"
            )
        return maps

    def example_input(self, height: int, width: int) -> Inputs:
        """Empty features of one image of this size, which has those of level 0."""
        shifts = [0 if self.downsample else level for level in range(len(self.feature_dims))]
        sizes = [(c, height >> shift, width >> shift) for c, shift in zip(self.feature_dims, shifts, strict=True)]
        return ([torch.empty(1, *size, device="meta") for size in sizes],)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Constructor arguments that a published state has, or None when it is no head.

        `downsample` is not in the shapes: it is taken to be true where all of several levels have the
        same channels, as SwinIR's have and those of the other backbones do not.

        Args:
            shapes: shape of each tensor, by its published name.
        """
        levels, last = shapes.get("mixing_weights", ()), shapes.get("fc.weight", ())
        if len(levels) != 1 or len(last) != 2 or not 0 < levels[0] <= len(shapes):
            return None
        weights = [shapes.get(f"downsample_layers.{level}.0.weight", ()) for level in range(levels[0])]
        if any(len(weight) != 4 for weight in weights):
            return None
        dims = [weight[1] for weight in weights]
        blocks = {m[1] for key in shapes if (m := re.match(r"bottleneck_layers\.0\.(\d+)\.", key))}
        return {
            "feature_dims": dims,
            "num_classes": last[0],
            "num_res_blocks": len(blocks),
            "downsample": len(dims) > 1 and len(set(dims)) == 1,
        }


def _as_map(features: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Tokens (B, H W, C) as (B, C, H, W); maps as they are."""
    if features.ndim != 3:
        return features
    tokens = features.shape[1]
    height, width = size or (math.isqrt(tokens),) * 2
    if height * width != tokens:
        raise AirpipeError(f"{tokens} tokens are no {height}x{width} map. Give their size (height, width)")
    return rearrange(features, "b (y x) c -> b c y x", y=height)


def _shrunk(features: Tensor, factor: int) -> Tensor:
    """Nearest-neighbour reduction by a whole factor."""
    height, width = (side // factor * factor for side in features.shape[-2:])
    return features[..., :height:factor, :width:factor]


class DCPT(Network):
    """A backbone and its degradation head: what DCPT pretrains and model.safetensors holds.

    As a restorer it is its backbone.

    Args:
        backbone: name and arguments of a registered network that has features.
        num_classes, num_res_blocks, downsample: arguments of the head.
        features: "all" levels, or only the "last" stage of the decoder (full resolution).

    Raises:
        ValueError: a network without features, or another choice of features.
    """

    PUBLISHED_LAYOUTS: ClassVar[tuple[str, ...]] = ("net_g", "net_dc")

    def __init__(
        self,
        backbone: Mapping[str, Any],
        num_classes: int,
        num_res_blocks: int = 2,
        downsample: bool = False,
        features: Literal["all", "last"] = "all",
    ) -> None:
        super().__init__()
        if features not in ("all", "last"):
            raise ValueError(f"features is {features!r}; expected 'all' or 'last'")
        self.backbone = build_network(backbone["name"], **backbone.get("arguments", {}))
        self.feature_channels = feature_channels(self.backbone)
        if not self.feature_channels:
            raise ValueError(f"{backbone['name']} gives no features to classify")
        self.takes_images_as(self.backbone)
        self.classes = num_classes
        used = self.feature_channels if features == "all" else self.feature_channels[:1]
        self.head = DegradationHead(used, num_classes, num_res_blocks, downsample)

    def forward(
        self,
        image: Tensor,
        features: Features = False,
        visible: Tensor | None = None,
        classify: bool = False,
        generate: Tensor | Literal["input"] | None = None,
    ) -> Output | tuple[Tensor, Tensor | list[Tensor]]:
        """Restore (B, 3, H, W), or tell its degradation.

        Args:
            image: RGB in [0, 1].
            features, visible: as the backbone takes them.
            classify: return logits (B, num_classes) instead; with `features`, (logits, features) of one pass.
            generate: with `classify`: image to restore beside it, (B, 3, H, W), or "input" for `image` itself;
                returns (logits, restored). All passes of a training step are one call, as data parallelism
                wants it.

        Raises:
            ValueError: `generate` without `classify`, or with `features`.
        """
        if generate is not None and (features or not classify):
            raise ValueError(
                "generate goes with classify=True and without features; call the network with the image alone to "
                "restore it"
            )
        hidden = {} if visible is None else {"visible": visible}
        if not classify:
            return cast(Output, self.backbone(image, features=features, **hidden))
        if isinstance(generate, str):
            restored, found = self.backbone(image, features="also", **hidden)
            return classify_features(self.head, found), restored
        restored = self.backbone(generate) if isinstance(generate, Tensor) else None
        found = self.backbone(image, features=True, **hidden)
        logits = classify_features(self.head, found)
        more = found if features else restored
        return logits if more is None else (logits, more)

    def train(self, mode: bool = True) -> Self:
        """Switch the mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()
        return self

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """State as in one of the two files of a published pretraining.

        Args:
            buffers: as the backbone takes it.
            layout: "net_g" (backbone, the usual one) or "net_dc" (head).

        Raises:
            ValueError: another layout.
        """
        part: Any = self.backbone if self.published_layout(layout) == "net_g" else self.head
        own = "milab" if "milab" in part.PUBLISHED_LAYOUTS else ""  # DCPT's code is MILab-PKU's
        return cast(dict[str, Tensor], part.published_state(buffers=buffers, layout=own))


def classify_features(head: nn.Module, features: Sequence[Tensor]) -> Tensor:
    """Logits of a head for all features of its backbone; it takes as many levels as it has."""
    return cast(Tensor, head(features[: len(cast(DegradationHead, head).feature_dims)]))
