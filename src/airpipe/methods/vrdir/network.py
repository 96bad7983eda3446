"""VRD-IR: a frozen encoder, branches that normalise its features, their fusion, and a decoder.

Source: Yang et al., "Visual Recognition-Driven Image Restoration for Multiple Degradation with Intrinsic Semantics
Recovery", CVPR 2023. Of the paper only the abstract was available; behaviour matched: aaaasan111/vrdir `model/SAD.py`
and `model/ISE.py`, a late re-creation by its authors, made to run (goldens `vrdir_*`).

State-dict keys: ext.{0,2,5,7} (encoder), sad.decoder.{0,2}, ise.dncs.<i>.{gamma,beta,se.1,se.3}, ise.fgm.{conv_amp,
conv_guidance}; those of SAD, DNC and ISE alone are the published ones. Parameters with C = 128 and N = 3: 463,782, of
which ext 260,160, SAD 132,867, DNC 16,928 each, FGM 19,971.

Differences from the published code: its FGM fails wherever FFTs work (half spectrum in, full inverse out); here the
half spectrum goes back with its size given, which equals the full transform that its fallback computes. Any image size
(odd ones are padded by reflection at right and bottom, and cropped back), any number of branches, the decoder's
argument `in_channels` counts. The encoder is part of the network and of its file.

Shapes: B batch, C feature channels, N branches, h and w of the features (half the image's H and W); images are RGB.
"""

import re
from typing import Any, ClassVar, Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.models.contract import Inputs, Network, Shapes
from airpipe.models.features import Features, Output
from airpipe.models.padding import pad_to_multiple
from airpipe.models.precision import full_precision
from airpipe.models.vgg import VGGFront

Normalise = Literal["none", "half", "imagenet"]
STATISTICS = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation that are taken off an image in [0, 1] before the encoder."""
MAX_PIXELS = 2**24
"""Largest image that is restored: statistics and Fourier transform are of the whole image, which takes about
0.8 kB a pixel."""


class _Part(Network):
    """A part of VRD-IR: its published keys are its own."""

    no_restorer = "it is a part of VRD-IR that works on features; a whole one is made by the stage vrdir.ise"


class SAD(_Part):
    """The decoder: a feature map becomes an image in (0, 1).

    Args:
        in_channels: channels C of the features.
        hidden: channels at full size.
        out_channels: channels of the image.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, in_channels: int = 128, hidden: int = 64, out_channels: int = 3) -> None:
        super().__init__()
        _positive(in_channels=in_channels, hidden=hidden, out_channels=out_channels)
        self.in_channels = in_channels
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(in_channels, hidden, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(hidden, out_channels, 3, 1, 1),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, out_channels, 2h, 2w)."""
        return cast(Tensor, self.decoder(features))

    def example_input(self, height: int, width: int) -> Inputs:
        """Empty features of an image of this size."""
        return (torch.empty(1, self.in_channels, height // 2, width // 2, device="meta"),)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Sizes of a published decoder, or None when it is none."""
        first, second = shapes.get("decoder.0.weight", ()), shapes.get("decoder.2.weight", ())
        if set(shapes) != {f"decoder.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}:
            return None
        if len(first) != 4 or len(second) != 4 or (first[2:], second[2:]) != ((4, 4), (3, 3)):
            return None
        return {"in_channels": first[0], "hidden": first[1], "out_channels": second[1]}


class DNC(_Part):
    """A branch: features and their normalised version, each weighted by a gate for every channel.

    Args:
        in_channels: channels C of the features.
        ratio: the gates are computed in C // ratio channels.

    Raises:
        ValueError: a number below 1, or more ratio than channels.
    """

    def __init__(self, in_channels: int = 128, ratio: int = 4) -> None:
        super().__init__()
        _positive(in_channels=in_channels, ratio=ratio)
        if ratio > in_channels:
            raise ValueError(f"ratio {ratio} leaves nothing of in_channels {in_channels}; choose a smaller one")
        self.in_channels = in_channels
        self.gamma = nn.Parameter(torch.ones(in_channels))
        self.beta = nn.Parameter(torch.zeros(in_channels))
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(2 * in_channels, in_channels // ratio, 1),
            nn.ReLU(),
            nn.Conv2d(in_channels // ratio, 2 * in_channels, 1),
            nn.Sigmoid(),
        )

    def normalised(self, features: Tensor) -> Tensor:
        """Give features (B, C, h, w) a learned mean and spread in each channel of each image.

        Raises:
            AirpipeError: a map of one pixel, which has no spread.
        """
        if features.shape[-2] * features.shape[-1] == 1:
            raise AirpipeError(
                "VRD-IR: a feature map of 1x1 has no standard deviation; "
                "expected an image of more than 2x2 pixels. Use a larger image or patch_size"
            )
        spread, mean = torch.std_mean(features.float(), (2, 3), keepdim=True)  # unbiased
        scaled = (features - mean) / (spread + 1e-6)
        return self.gamma[:, None, None] * scaled + self.beta[:, None, None]

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        normalised = self.normalised(features)
        gates = self.se(torch.cat([features, normalised], 1))  # (B, 2C, 1, 1)
        own, other = gates.chunk(2, 1)
        return cast(Tensor, own * features + other * normalised)

    def example_input(self, height: int, width: int) -> Inputs:
        """Empty features of an image of this size."""
        return (torch.empty(1, self.in_channels, height // 2, width // 2, device="meta"),)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Sizes of a published branch, or None when it is none."""
        names = {"gamma", "beta", *(f"se.{i}.{kind}" for i in (1, 3) for kind in ("weight", "bias"))}
        gates = shapes.get("se.1.weight", ())
        if set(shapes) != names or len(gates) != 4 or gates[1] % 2:
            return None
        channels, inner = gates[1] // 2, gates[0]
        ratio = channels // inner
        return {"in_channels": channels, "ratio": ratio} if channels // ratio == inner else None


class FGM(_Part):
    """The fusion: weights of the branches at every place, from the degraded features with changed amplitudes.

    Computed in float32 whatever the precision of the training, because half-precision FFTs know few sizes.

    Args:
        in_channels: channels C of the features.
        num_branches: number N of branches.

    Raises:
        ValueError: a number below 1.
    """

    PUBLISHED_LAYOUTS = ()

    def __init__(self, in_channels: int = 128, num_branches: int = 3) -> None:
        super().__init__()
        _positive(in_channels=in_channels, num_branches=num_branches)
        self.in_channels, self.num_branches = in_channels, num_branches
        self.conv_amp = nn.Conv2d(in_channels, in_channels, 1)
        self.conv_guidance = nn.Conv2d(in_channels, num_branches, 3, padding=1)

    def guidance(self, features: Tensor) -> Tensor:
        """Weights (B, N, h, w) of the branches, which sum to 1, from degraded features (B, C, h, w)."""
        with full_precision(features):
            features = features.float()
            spectrum = torch.fft.rfft2(features)  # (B, C, h, w // 2 + 1)
            amplitude = spectrum.abs()  # its gradient is 0 at 0, unlike that of a root
            adjusted = self.conv_amp(amplitude) * (spectrum / (amplitude + 1e-8))
            spatial = torch.fft.irfft2(adjusted, s=features.shape[-2:])
            return cast(Tensor, self.conv_guidance(spatial).softmax(1))

    def forward(self, branches: Tensor, features: Tensor) -> Tensor:
        """Fuse branches (B, N C, h, w), one after the other, by degraded features (B, C, h, w), into (B, C, h, w)."""
        weights = self.guidance(features)
        apart = rearrange(branches.float(), "b (n c) y x -> b n c y x", n=self.num_branches)
        return (weights[:, :, None] * apart).sum(1)

    def example_input(self, height: int, width: int) -> Inputs:
        """Empty branches and features of an image of this size."""
        branches = torch.empty(1, self.num_branches * self.in_channels, height // 2, width // 2, device="meta")
        return (branches, branches[:, : self.in_channels])


class ISE(_Part):
    """All branches and their fusion: degraded features become those of a clean image.

    Args:
        in_channels: channels C of the features.
        num_branches: number N of branches.
        ratio: ratio of each branch, see `DNC`.
        fusion: whether there is a fusion; False: one branch by itself.

    Raises:
        ValueError: a number below 1, or several branches without fusion.
    """

    def __init__(self, in_channels: int = 128, num_branches: int = 3, ratio: int = 4, fusion: bool = True) -> None:
        super().__init__()
        _positive(num_branches=num_branches)
        if not fusion and num_branches != 1:
            raise ValueError(f"{num_branches} branches without fusion; expected fusion, or one branch")
        self.in_channels = in_channels
        self.dncs = nn.ModuleList(DNC(in_channels, ratio) for _ in range(num_branches))
        self.fgm = FGM(in_channels, num_branches) if fusion else None

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        branches = [branch(features) for branch in self.dncs]
        return branches[0] if self.fgm is None else cast(Tensor, self.fgm(torch.cat(branches, 1), features))

    def example_input(self, height: int, width: int) -> Inputs:
        """Empty features of an image of this size."""
        return (torch.empty(1, self.in_channels, height // 2, width // 2, device="meta"),)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Sizes of a published ISE, or None when it is none."""
        first = {key.removeprefix("dncs.0."): shape for key, shape in shapes.items() if key.startswith("dncs.0.")}
        branch = DNC.arguments_from(first)
        if branch is None:
            return None
        count = len({m[1] for key in shapes if (m := re.match(r"dncs\.(\d+)\.", key))})
        names = {f"dncs.{i}.{key}" for i in range(count) for key in first}
        fusion = {f"fgm.conv_{what}.{kind}" for what in ("amp", "guidance") for kind in ("weight", "bias")}
        return {**branch, "num_branches": count} if set(shapes) == names | fusion else None


class VRDIR(Network):
    """VRD-IR as a whole; with fewer branches, those parts of it that restore by themselves.

    Statistics and Fourier transform are of the whole image, so that tiles would change the result: it is never tiled.

    Args:
        in_channels: channels C of the encoder's output.
        num_branches: number N of branches; 0: encoder and decoder only.
        ratio: ratio of each branch, see `DNC`.
        front_channels: channels of the encoder at full size.
        hidden: channels of the decoder at full size.
        fusion: whether there is a fusion; False: one branch by itself.
        normalise: what is done to an image in [0, 1] before the encoder: "none", "half" (mean and standard deviation
            0.5, as the published code trains), "imagenet" (those the weights of VGG16 were trained with).
        max_pixels: largest image that is restored, in pixels; others are refused.

    Raises:
        ValueError: a number below 1, another normalisation, or several branches without fusion.
    """

    size_multiple = 2
    pads_itself = True
    whole_image = True
    assumed: ClassVar[tuple[str, ...]] = ("normalise",)
    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        in_channels: int = 128,
        num_branches: int = 3,
        ratio: int = 4,
        front_channels: int = 64,
        hidden: int = 64,
        fusion: bool = True,
        normalise: Normalise = "none",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__()
        if normalise not in ("none", *STATISTICS):
            raise ValueError(f"normalise is {normalise!r}; expected none, {', '.join(STATISTICS)}")
        if num_branches < 0:
            raise ValueError(f"num_branches is {num_branches}; expected 0 or more")
        _positive(max_pixels=max_pixels)
        self.num_branches, self.normalise, self.max_pixels = num_branches, normalise, max_pixels
        self.feature_channels, self.branches = [in_channels], num_branches if fusion else 0
        for name, values in zip(("mean", "spread"), STATISTICS.get(normalise, ((0.0,) * 3, (1.0,) * 3)), strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.ext = VGGFront((front_channels, in_channels))
        self.ise = ISE(in_channels, num_branches, ratio, fusion) if num_branches else None
        self.sad = SAD(in_channels, hidden)

    def forward(self, image: Tensor, clean: Tensor | None = None, features: Features = False) -> Output:
        """Restore (B, 3, H, W) of any size.

        Args:
            image: RGB in [0, 1].
            clean: not used; published code is called with it.
            features: True: return what the decoder gets, [(B, C, h, w)], instead; "also": (restored, that).

        Returns:
            (B, 3, H, W) in (0, 1).

        Raises:
            AirpipeError: more pixels than `max_pixels`, none, or too few for a branch (see `DNC`).
        """
        height, width = image.shape[-2:]
        normal = self.encode(image)
        if self.ise is not None:
            normal = self.ise(normal)
        if features is True:
            return [normal]
        restored: Tensor = self.sad(normal)[..., :height, :width]
        return restored if features is False else (restored, [normal])

    def encode(self, image: Tensor) -> Tensor:
        """Encode images (B, 3, H, W), RGB in [0, 1]: features (B, C, h, w), where odd sizes are rounded up.

        Raises:
            AirpipeError: no pixels, or more than `max_pixels`.
        """
        height, width = image.shape[-2:]
        if min(height, width) < 1:
            raise AirpipeError(f"VRD-IR got an image of {width}x{height} pixels; expected at least one. Leave it out")
        if height * width > self.max_pixels:
            raise AirpipeError(
                f"VRD-IR looks at an image as a whole, tiles would change the result: {width}x{height} pixels are more "
                f"than its max_pixels of {self.max_pixels:,}. Give a smaller image, or raise max_pixels "
                "(network: arguments) where the memory allows"
            )
        image = pad_to_multiple(image, 2)
        if self.normalise != "none":
            image = (image - self.mean) / self.spread
        return cast(Tensor, self.ext(image))

    def guidance(self, image: Tensor) -> Tensor:
        """Weights (B, N, h, w) of the branches for images (B, 3, H, W), RGB in [0, 1]; they sum to 1.

        Raises:
            AirpipeError: fewer than two branches, which have none.
        """
        if self.num_branches < 2 or self.ise is None or self.ise.fgm is None:
            raise AirpipeError(
                f"guidance maps weigh branches against each other, and this VRD-IR has {self.num_branches}. "
                "Take one with at least two: the stage ise"
            )
        return self.ise.fgm.guidance(self.encode(image))

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Sizes of a whole network in one file, or None. `normalise` is not in the shapes."""

        def part(name: str) -> dict[str, tuple[int, ...]]:
            return {key.removeprefix(name): shape for key, shape in shapes.items() if key.startswith(name)}

        front, ise = VGGFront.arguments_from(part("ext.")), ISE.arguments_from(part("ise."))
        decoder = SAD.arguments_from(part("sad."))
        known = all(key.startswith(("ext.", "ise.", "sad.")) for key in shapes)
        if front is None or ise is None or decoder is None or not known:
            return None
        return {**ise, "front_channels": front["widths"][0], "hidden": decoder["hidden"]}


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}; expected 1 or more")
