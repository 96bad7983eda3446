"""The two discriminators of DegAE's published code; which one the paper trained with is unknown.

Source: lyh-18/DegAE_DegradationAutoencoder, `DDG_arch.py` (NLayerDiscriminator, the PatchGAN of Isola et al., CVPR
2017) and `discriminator_vgg_arch.py` (Discriminator_VGG_128); goldens `degae_patchgan`, `degae_vgg128`.

State-dict keys are the published ones: model.<number>; conv<i>_<j>, bn<i>_<j>, linear1, linear2. Parameters 2,765,633
and 14,499,401. Differences from the published code: always float32, also in mixed precision.

Shapes: B batch, H and W pixels; images are RGB in [0, 1].
"""

import re
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.models.contract import Inputs, Network, Shapes
from airpipe.models.precision import full_precision

SIDE = 128
"""Height and width that the VGG discriminator takes, in pixels."""


class PatchGAN(Network):
    """Tell patches of real images from those of made ones.

    Args:
        input_nc: channels of the image.
        ndf: channels of the first convolution.
        n_layers: convolutions with stride 2.

    Raises:
        ValueError: a number below 1.
    """

    no_restorer = "it tells made images from real ones (a discriminator)"

    def __init__(self, input_nc: int = 3, ndf: int = 64, n_layers: int = 3) -> None:
        super().__init__()
        if min(input_nc, ndf, n_layers) < 1:
            raise ValueError(f"input_nc is {input_nc}, ndf {ndf}, n_layers {n_layers}; expected 1 or more")
        self.smallest = 3 << n_layers
        """Shortest side of an image, in pixels."""
        layers, outputs = [nn.Conv2d(input_nc, ndf, 4, 2, 1), nn.LeakyReLU(0.2)], ndf
        for number in range(1, n_layers + 1):
            inputs, outputs = outputs, ndf * 2 ** min(number, 3)
            stride = 2 if number < n_layers else 1
            convolution = nn.Conv2d(inputs, outputs, 4, stride, 1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, nn.Conv2d(outputs, 1, 4, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) to logits (B, 1, H / 8 - 2, W / 8 - 2), of which each sees a patch.

        Raises:
            AirpipeError: a side is shorter than `smallest`.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.smallest:
            raise AirpipeError(
                f"the PatchGAN discriminator got an image of {width}x{height} pixels; it needs "
                f"{self.smallest}x{self.smallest}. Use a larger patch_size"
            )
        with full_precision(image):
            return cast(Tensor, self.model(image.float()))

    def published_key(self, key: str) -> str | None:
        """Return the name here of a published entry, whose `model.` may have been taken for a wrapper's prefix."""
        return key if key.startswith("model.") else f"model.{key}"

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the sizes of a published PatchGAN, or None when it is none.

        Args:
            shapes: shape of each entry, by its published name, with or without `model.`.
        """
        named = {key.removeprefix("model."): shape for key, shape in shapes.items()}
        numbers = [int(found[1]) for key in named if (found := re.fullmatch(r"(\d+)\.weight", key))]
        first = named.get("0.weight", ())
        if "3.running_mean" not in named or len(first) != 4 or not numbers:
            return None
        return {"input_nc": first[1], "ndf": first[0], "n_layers": (max(numbers) - 2) // 3}


class VGG128(Network):
    """Tell real images of 128x128 pixels from made ones.

    Args:
        in_nc: channels of the image.
        nf: channels at full size; they double three times.

    Raises:
        ValueError: a number below 1.
    """

    no_restorer = "it tells made images from real ones (a discriminator)"

    def __init__(self, in_nc: int = 3, nf: int = 64) -> None:
        super().__init__()
        if min(in_nc, nf) < 1:
            raise ValueError(f"in_nc is {in_nc}, nf {nf}; expected 1 or more")
        self.in_nc = in_nc
        inputs = in_nc
        for level, width in enumerate(nf * factor for factor in (1, 2, 4, 8, 8)):
            self.add_module(f"conv{level}_0", nn.Conv2d(inputs, width, 3, 1, 1, bias=level == 0))
            if level:
                self.add_module(f"bn{level}_0", nn.BatchNorm2d(width))
            self.add_module(f"conv{level}_1", nn.Conv2d(width, width, 4, 2, 1, bias=False))
            self.add_module(f"bn{level}_1", nn.BatchNorm2d(width))
            inputs = width
        self.linear1 = nn.Linear(16 * inputs, 100)
        self.linear2 = nn.Linear(100, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, 128, 128) to logits (B, 1).

        Raises:
            AirpipeError: an image of another size.
        """
        height, width = image.shape[-2:]
        if (height, width) != (SIDE, SIDE):
            raise AirpipeError(
                f"the VGG discriminator got an image of {width}x{height} pixels; it takes {SIDE}x{SIDE} only. "
                f"Set patch_size to {SIDE}, or use degae_patchgan"
            )
        with full_precision(image):
            found = image.float()
            for level in range(5):
                for half in range(2):
                    found = self.get_submodule(f"conv{level}_{half}")(found)
                    if level or half:
                        found = self.get_submodule(f"bn{level}_{half}")(found)
                    found = F.leaky_relu(found, 0.2)
            return cast(Tensor, self.linear2(F.leaky_relu(self.linear1(found.flatten(1)), 0.2)))

    def example_input(self, height: int, width: int) -> Inputs:
        """Empty image of the one size that it takes, whatever is asked for."""
        return (torch.empty(1, self.in_nc, SIDE, SIDE, device="meta"),)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the sizes of a published VGG discriminator, or None when it is none.

        Args:
            shapes: shape of each entry, by its published name.
        """
        first = shapes.get("conv0_0.weight", ())
        if "bn4_1.running_mean" not in shapes or len(first) != 4:
            return None
        return {"in_nc": first[1], "nf": first[0]}
