"""The one place that turns pixels of 8 or 16 bit into floats in [0, 1] and tensors, and back.

Arrays are (H, W, 3) or a stack (B, H, W, 3), RGB; tensors have their channels first. PyTorch is imported where a
tensor is made, because degradations use this module and the workflow checks them at every start.
"""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Rgb8 = npt.NDArray[np.uint8]
"""An image of 8 bit, (H, W, 3), or a stack of them."""
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""An image of 8 or 16 bit, (H, W, 3)."""
FloatImage = npt.NDArray[np.float32]
"""An image in float32, nominally in [0, 1]."""
Box = tuple[slice, slice]
"""Rows and columns of a part of an image, each with start and stop."""


class Layer(Protocol):
    """An image (H, W, 3) or a map (H, W): an array, or an object that makes one of a part when it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and, of an image, channels."""
        ...

    def __getitem__(self, box: Box, /) -> npt.NDArray[Any]: ...


def whole(layer: Layer) -> Box:
    """The box that holds all of a layer."""
    return slice(0, layer.shape[0]), slice(0, layer.shape[1])


def as_floats(pixels: npt.NDArray[Any]) -> FloatImage:
    """Turn pixels of 8 or 16 bit into float32 in [0, 1]; floats stay as they are."""
    if pixels.dtype.kind == "f":
        return np.asarray(pixels, np.float32)
    return np.asarray(pixels, np.float32) / np.float32(_top(pixels.dtype))


def quantised(image: FloatImage, truncate: bool = False) -> Rgb8:
    """Clip floats to [0, 1] and round them to 8 bit, half to even, or drop the fraction as a cast to uint8 does."""
    grey = np.clip(image, 0, 1) * np.float32(255)
    return np.asarray(grey if truncate else np.rint(grey), np.uint8)


def to_tensor(pixels: Pixels) -> "Tensor":
    """Turn an image (H, W, 3) of 8 or 16 bit into a tensor (3, H, W), float32 in [0, 1]."""
    import torch

    array = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    return torch.from_numpy(array).div_(_top(pixels.dtype))


def to_pixels(image: "Tensor", bits: int = 8) -> Pixels:
    """Turn a float image (3, H, W) into (H, W, 3) of 8 or 16 bit: clipped to [0, 1], rounded half to even."""
    kind = np.dtype(np.uint8 if bits == 8 else np.uint16)
    array = image.detach().float().clamp(0, 1).mul_(_top(kind)).round_().permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(array.astype(kind))


def channels_first(images: npt.NDArray[Any]) -> "Tensor":
    """Turn a stack (B, H, W, 3) into a tensor (B, 3, H, W) of the same type and values.

    Nothing moves: in memory it stays channels last, as networks have their weights and maps.
    """
    import torch

    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def in_floats(images: "Tensor") -> "Tensor":
    """Turn 8-bit images of any layout into float32 in [0, 1], on their device; other tensors stay as they are.

    The host sends a quarter of the bytes when the device does this.
    """
    import torch

    return of_levels(images.float()) if images.dtype == torch.uint8 else images


def levels(images: "Tensor") -> "Tensor":
    """Clip float images to [0, 1] and round them to whole numbers from 0 to 255, half to even; they stay floats."""
    return images.clamp(0, 1).mul(255).round()


def of_levels(images: "Tensor") -> "Tensor":
    """Divide whole numbers from 0 to 255 by 255, in place, with equal bits on every device.

    By a plain number CUDA would divide with its reciprocal: half of the values would be another float than on a CPU.
    """
    import torch

    return images.div_(torch.full((), 255.0, device=images.device))


def equal_channels(pixels: npt.NDArray[Any]) -> bool:
    """Tell whether an image (H, W, 3) is grey: its channels are equal everywhere."""
    parts = (pixels[:1], pixels)  # most colours show in the first row already
    return all(bool((part[..., 1:] == part[..., :1]).all()) for part in parts)


def _top(kind: np.dtype[Any]) -> float:
    """Value of full brightness, 255 or 65535."""
    if kind not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise ValueError(f"pixels are of type {kind}; expected uint8 or uint16")
    return 255.0 if kind == np.dtype(np.uint8) else 65535.0
