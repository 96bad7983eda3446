"""PSNR and SSIM, each published variant by name.

Images are (H, W, C) arrays on the 0 to 255 scale (C is 3, or 1 for luma), float64 inside.
Checked against scikit-image and against goldens of BasicSR's functions.
"""

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float64]
K1, K2, TOP = 0.01, 0.03, 255.0
"""Constants of SSIM (Wang et al., TIP 2004), and the largest value of a pixel."""


def luma(image: npt.NDArray[np.generic]) -> Image:
    """Studio-range luma of BT.601: 16 + 65.481 R + 128.553 G + 24.966 B for R, G, B in [0, 1].

    Args:
        image: image (H, W, 3), RGB, on the 0 to 255 scale.

    Returns:
        (H, W, 1) in [16, 235], rounded to float32 as BasicSR stores it.
    """
    scaled = np.asarray(image, np.float64) / TOP
    plane = 16 + scaled @ np.array([65.481, 128.553, 24.966])
    return np.asarray(plane.astype(np.float32)[..., None], np.float64)


def psnr(restored: npt.NDArray[np.generic], clean: npt.NDArray[np.generic]) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels together; inf for equal images.

    Raises:
        ValueError: shapes differ.
    """
    _same_shape(restored, clean)
    error = float(np.mean((np.asarray(restored, np.float64) - np.asarray(clean, np.float64)) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(TOP**2 / error))


def ssim_gaussian11(restored: npt.NDArray[np.generic], clean: npt.NDArray[np.generic]) -> float:
    """SSIM of Wang et al. (TIP 2004): 11x11 Gaussian window of sigma 1.5, population moments,
    only complete windows, mean over channels (BasicSR, DCPT).

    Raises:
        ValueError: shapes differ, or a side below 11.
    """
    kernel = cv2.getGaussianKernel(11, 1.5)
    return _ssim(restored, clean, lambda x: np.asarray(cv2.sepFilter2D(x, -1, kernel, kernel), np.float64), 5, 1.0)


def ssim_uniform7(restored: npt.NDArray[np.generic], clean: npt.NDArray[np.generic]) -> float:
    """SSIM with a 7x7 uniform window and sample covariance: scikit-image's default, which
    AirNet, PromptIR, DyNet and DSRIR report; mean over channels.

    Raises:
        ValueError: shapes differ, or a side below 7.
    """
    return _ssim(restored, clean, lambda x: np.asarray(cv2.blur(x, (7, 7)), np.float64), 3, 49 / 48)


def _ssim(
    restored: npt.NDArray[np.generic],
    clean: npt.NDArray[np.generic],
    mean: Callable[[Image], Image],
    border: int,
    unbias: float,
) -> float:
    """SSIM with any window: `mean` averages over it, and the `border` pixels at each side have no complete one.

    unbias: n / (n - 1) for the sample moments of windows of n pixels, 1 for population moments.
    """
    _same_shape(restored, clean)
    if min(clean.shape[:2]) < 2 * border + 1:
        raise ValueError(f"image {clean.shape[:2]} is smaller than the SSIM window of {2 * border + 1}")
    values = []
    for channel in range(clean.shape[2]):
        x = np.ascontiguousarray(restored[..., channel], np.float64)
        y = np.ascontiguousarray(clean[..., channel], np.float64)
        mx, my = mean(x), mean(y)
        vx, vy = unbias * (mean(x * x) - mx * mx), unbias * (mean(y * y) - my * my)
        vxy = unbias * (mean(x * y) - mx * my)
        c1, c2 = (K1 * TOP) ** 2, (K2 * TOP) ** 2
        ratio = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
        values.append(ratio[border:-border, border:-border].mean())
    return float(np.mean(values))


def _same_shape(restored: npt.NDArray[np.generic], clean: npt.NDArray[np.generic]) -> None:
    if restored.shape != clean.shape:
        raise ValueError(f"restored is {restored.shape}, clean {clean.shape}; shapes must be equal")


def score(
    restored: npt.NDArray[np.floating],
    clean: npt.NDArray[np.uint8],
    *,
    colour: Literal["rgb", "y"] = "rgb",
    border: int = 0,
    round_output: bool = True,
    clip: bool = True,
    ssim: Literal["gaussian11", "uniform7"] = "gaussian11",
) -> dict[str, float]:
    """PSNR (dB) and SSIM of one image under one convention.

    Args:
        restored: restored image, (H, W, 3) float, nominally in [0, 1].
        clean: clean image, (H, W, 3) uint8.
        colour: all three channels, or BT.601 luma.
        border: pixels cut from each side before scoring.
        round_output: round the restored image to 8 bit, half to even, before everything else.
        clip: clip the restored image to [0, 1] first.
        ssim: variant of SSIM.

    Raises:
        ValueError: shapes differ, or a side that is smaller than SSIM's window after the cut.
    """
    first: Image = np.asarray(restored, np.float64) * TOP
    if clip:
        first = np.clip(first, 0, TOP)
    if round_output:
        first = np.rint(first)
    second: Image = np.asarray(clean, np.float64)
    if border:
        first, second = first[border:-border, border:-border], second[border:-border, border:-border]
    if colour == "y":
        first, second = luma(first), luma(second)
    variant = ssim_gaussian11 if ssim == "gaussian11" else ssim_uniform7
    return {"psnr": psnr(first, second), "ssim": variant(first, second)}


def score_batch(
    restored: npt.NDArray[np.floating], clean: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """PSNR (dB) and SSIM (`ssim_gaussian11`) of each of several equally large images, as `score` gives them.

    The images lie below each other in one picture for the filters: complete windows see one image each.

    Args:
        restored: restored images, (B, H, W, 3) float, nominally in [0, 1]; they are clipped and rounded to 8 bit.
        clean: clean images, (B, H, W, 3) uint8.

    Returns:
        PSNR and SSIM of each image, two arrays (B,); PSNR is inf for equal images.

    Raises:
        ValueError: shapes differ, or a side below 11.
    """
    _same_shape(restored, clean)
    count, height, width, channels = clean.shape
    if min(height, width) < 11:
        raise ValueError(f"image {(height, width)} is smaller than the SSIM window of 11")
    first = np.rint(np.clip(np.asarray(restored, np.float64) * TOP, 0, TOP))
    second = np.asarray(clean, np.float64)
    error = ((first - second) ** 2).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        decibels = 10 * np.log10(TOP**2 / error)
    kernel = cv2.getGaussianKernel(11, 1.5)
    x, y = (np.ascontiguousarray(image.reshape(count * height, width, channels)) for image in (first, second))
    mx, my, xx, yy, xy = (cv2.sepFilter2D(image, -1, kernel, kernel) for image in (x, y, x * x, y * y, x * y))
    c1, c2 = (K1 * TOP) ** 2, (K2 * TOP) ** 2
    vx, vy, vxy = xx - mx * mx, yy - my * my, xy - mx * my
    ratio = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    whole = ratio.reshape(clean.shape)[:, 5:-5, 5:-5]
    return np.asarray(decibels, np.float64), np.asarray(whole.mean((1, 2, 3)), np.float64)
