"""PSNR and SSIM on the device where images were restored, within 1e-6 of `airpipe.evaluation.metrics`.

Everything is elementwise in float64: TF32 cannot touch it, and memory bounds it. Images are (..., H, W, 3) or planes
(..., H, W) on the 0 to 255 scale; leading dimensions are a batch, and each measure gives one number per image.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from airpipe.evaluation.metrics import C1, C2, EQUAL, LUMA, LUMA_SCALE, ON_CPU, TOP, WINDOWS, Image, Kit, Window
from airpipe.settings.scoring import Colour


def luma(image: Tensor) -> Tensor:
    """Luma of BT.601 of (..., 3); (...) float64."""
    return (image * torch.tensor(LUMA, dtype=torch.float64, device=image.device)).sum(-1) / LUMA_SCALE + 16


def psnr(restored: Tensor, clean: Tensor, dims: tuple[int, ...]) -> Tensor:
    """PSNR in dB over some dimensions; inf for equal images."""
    error = ((restored - clean) ** 2).mean(dims)
    return 10 * torch.log10(TOP**2 / error.where(error > EQUAL, 0.0))


def ssim(restored: Tensor, clean: Tensor, window: Window, dims: tuple[int, ...]) -> Tensor:
    """SSIM: see `airpipe.evaluation.metrics.ssim`, whose equations these are.

    Args:
        restored, clean: (..., H, W, 3) or (..., H, W), float64.
        window: one of `WINDOWS`.
        dims: rows, columns and, where there are some, channels, counted from the end.
    """
    total, difference = restored + clean - TOP, restored - clean
    maps = torch.stack([total, difference, total**2, difference**2])
    mean_s, mean_d, s, d = _means(_means(maps, window.rows, dims[0]), window.columns, dims[1])
    s, d = s - mean_s**2, d - mean_d**2
    mean_s, mean_d, c2 = (mean_s + TOP) ** 2, mean_d**2, 2 * C2 / window.unbias
    ratio: Tensor = (mean_s - mean_d + 2 * C1) * (s - d + c2) / ((mean_s + mean_d + 2 * C1) * (s + d + c2))
    return ratio.mean(dims)


def _means(maps: Tensor, weights: tuple[float, ...], dim: int) -> Tensor:
    """Weighted means over complete windows along one dimension."""
    size = maps.shape[dim] - len(weights) + 1
    if size < 1:
        raise ValueError(f"a side of {maps.shape[dim]} pixels is smaller than the SSIM window of {len(weights)}")
    result = weights[0] * maps.narrow(dim, 0, size)
    for start, weight in enumerate(weights[1:], 1):
        result.add_(maps.narrow(dim, start, size), alpha=weight)
    return result


def kit(device: torch.device) -> Kit[Image] | Kit[Tensor]:
    """How images are measured where they were restored: with OpenCV on the CPU, else on the device itself."""
    return ON_CPU if device.type == "cpu" else tensors(device)


def tensors(device: torch.device) -> Kit[Tensor]:
    """How images are measured as tensors on a device, any of them."""

    def levels(image: Image | Tensor, rounded: bool, clipped: bool) -> Tensor:
        tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.ascontiguousarray(image))
        if tensor.dtype == torch.uint8:
            return tensor.to(device).double()
        tensor = tensor.to(device).double()
        tensor = (tensor.clamp(0, 1) if rounded or clipped else tensor) * TOP
        return tensor.round() if rounded else tensor

    return Kit(
        levels, _coloured, {"psnr": _psnr, **{name: _ssim_of(window) for name, window in WINDOWS.items()}}, device
    )


def _coloured(image: Tensor, colour: Colour) -> Tensor:
    if colour == "rgb":
        return image
    plane = luma(image)
    return plane.float().double() if colour == "y" else plane.round() if colour == "y8" else 256 - plane.round()


def _dims(image: Tensor) -> tuple[int, ...]:
    """Dimensions of one image."""
    return (-3, -2, -1) if image.shape[-1] == 3 and image.dim() > 2 else (-2, -1)


def _psnr(restored: Tensor, clean: Tensor) -> Tensor:
    return psnr(restored, clean, _dims(clean))


def _ssim_of(window: Window) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda restored, clean: ssim(restored, clean, window, _dims(clean))
