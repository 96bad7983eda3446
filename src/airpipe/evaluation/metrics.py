"""PSNR and SSIM, each published variant by name, on the CPU; `airpipe.evaluation.metrics_torch` is the form for a GPU.

Images are (H, W, 3) or planes (H, W) on the 0 to 255 scale, uint8 or float. Checked against scikit-image, against
goldens of BasicSR's functions, and against float64 forms on hard contents (flat, dark, saturated).
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.pixels import Rgb8
from airpipe.settings.scoring import Colour

Image = npt.NDArray[Any]
"""An image (H, W, 3) or a plane (H, W), uint8, float32 or float64, on the 0 to 255 scale."""
A = TypeVar("A")

TOP = 255.0
"""Largest value of a pixel."""
C1, C2 = (0.01 * TOP) ** 2, (0.03 * TOP) ** 2
"""Constants of SSIM (Wang et al., TIP 2004)."""
EQUAL = 1e-9
"""Mean squared error, in squared grey levels, up to which images are equal: float32 holds 8 bit to within 1e-5 levels,
so that every measurement, rounded or not, RGB or luma, has one value for equality."""
LUMA = (65481.0, 128553.0, 24966.0)
LUMA_SCALE = 255_000.0
"""Weights of R, G and B in the luma of BT.601, studio range, and what divides their sum: whole numbers, so that luma
of 8-bit images that lies between two levels is the same in every form."""
PART = 240
"""Largest side of the parts in which SSIM is computed, in pixels: their maps stay in the cache, and few of them are so
uneven that float32 loses digits."""
DOUBT = 1e-6
"""Largest possible error of SSIM that float32 may leave; the parts that would add more are computed in float64."""


@dataclass(frozen=True)
class Window:
    """A window of SSIM."""

    rows: tuple[float, ...]
    """Weights down the rows; they add to 1, as do those of the columns."""
    columns: tuple[float, ...]
    unbias: float = 1.0
    """n / (n - 1) for sample moments of windows of n pixels, 1 for population moments."""

    @property
    def margins(self) -> tuple[int, int]:
        """Pixels at each end of the rows and of the columns that have no complete window."""
        return len(self.rows) // 2, len(self.columns) // 2

    @cached_property
    def means(self) -> Callable[[Image], Image]:
        """Function of an image that gives weighted means around each pixel; those in the margins are of no use."""
        if len(set(self.rows + self.columns) - {1.0}) == 1:  # a box, which OpenCV sums in float64
            return partial(cv2.blur, ksize=(len(self.columns), len(self.rows)))
        kernels = {"kernelX": np.array(self.columns), "kernelY": np.array(self.rows)}
        return partial(cv2.sepFilter2D, ddepth=-1, **kernels)


GAUSSIAN = tuple(float(weight) for weight in cv2.getGaussianKernel(11, 1.5)[:, 0])
WINDOWS = {
    "ssim_gaussian11": Window(GAUSSIAN, GAUSSIAN),
    "ssim_uniform7": Window((1 / 7,) * 7, (1 / 7,) * 7, 49 / 48),
    "ssim_columns7": Window((1 / 7,) * 7, (1.0,), 7 / 6),
}
"""Windows by variant: Wang et al. (TIP 2004), as BasicSR has it; scikit-image's default (AirNet, PromptIR, DyNet,
DSRIR); and the one that DSRIR's code uses on luma by mistake: each column for itself (see docs/evaluation.md)."""


def least_side(measure: str) -> int:
    """Least side in pixels of images that a measure takes."""
    return max(len(WINDOWS[measure].rows), len(WINDOWS[measure].columns)) if measure in WINDOWS else 1


def luma(image: Image) -> Image:
    """Studio-range luma of BT.601: 16 + 65.481 R + 128.553 G + 24.966 B for R, G, B in [0, 1].

    Args:
        image: image (H, W, 3), RGB, on the 0 to 255 scale.

    Returns:
        float64 (H, W), in [16, 235].
    """
    plane = cv2.transform(np.asarray(image, np.float64), np.array([LUMA]))
    return np.asarray(plane / LUMA_SCALE + 16)


def psnr(restored: Image, clean: Image) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels together; inf for equal images (see `EQUAL`).

    Args:
        restored, clean: images of one shape and type.

    Raises:
        ValueError: shapes or types differ.
    """
    _same_kind(restored, clean)
    error = cv2.norm(restored, clean, cv2.NORM_L2SQR) / clean.size
    return float("inf") if error <= EQUAL else float(10 * np.log10(TOP**2 / error))


def ssim(restored: Image, clean: Image, window: Window) -> float:
    """SSIM, mean over complete windows and channels, within 1e-6 of its float64 form.

    Args:
        restored, clean: images of one shape and type.
        window: one of `WINDOWS`.

    Raises:
        ValueError: shapes or types differ, or a side is smaller than the window.
    """
    _same_kind(restored, clean)
    _large_enough(clean.shape[:2], window)
    sides = [_parts(length, margin) for length, margin in zip(clean.shape, window.margins, strict=False)]
    parts = [(restored[place], clean[place]) for place in itertools.product(*sides)]
    found = sorted(((*_loss(*part, window), part) for part in parts), key=lambda one: one[1])
    (down, across), channels = window.margins, clean.size // (len(clean) * clean.shape[1])
    values = (len(clean) - 2 * down) * (clean.shape[1] - 2 * across) * channels
    total, left = 0.0, DOUBT * values
    for loss, doubt, part in found:
        left -= doubt
        total += loss if left >= 0 else _loss(*part, window, np.float64)[0]
    return float(1 - total / values)


def _parts(length: int, margin: int) -> list[slice]:
    """Parts of a side that share their margins, so that each pixel with a complete window is in one part."""
    whole = length - 2 * margin
    count = -(-whole // PART)
    return [slice(whole * n // count, whole * (n + 1) // count + 2 * margin) for n in range(count)]


def _loss(x: Image, y: Image, window: Window, kind: type[Any] = np.float32) -> tuple[float, float]:
    """Sum of 1 - SSIM over the complete windows of a part, and how much of it is in doubt.

    Sum and difference of the images need four filters, the images themselves five: with S, D the local variances
    of x + y and x - y, vx + vy = (S + D) / 2 and 2 vxy = (S - D) / 2; means likewise. With u and v the shares of the
    difference in those sums, 1 - SSIM is 2 (u + v - 2 u v). Constants change neither S nor D, so both are taken
    around the means of the part: float32 then holds what most parts need.
    """
    depth = cv2.CV_32F if kind is np.float32 else cv2.CV_64F
    channels = x.size // (len(x) * x.shape[1])
    # whole numbers: integers stay exact in float32
    level_x, level_y = (round(sum(cv2.mean(one[::16])) / channels) for one in (x, y))
    mean_s, s = _moments(cv2.addWeighted(x, 1, y, 1, -level_x - level_y, dtype=depth), window)
    mean_d, d = _moments(cv2.addWeighted(x, 1, y, -1, level_y - level_x, dtype=depth), window)
    columns = slice(window.margins[1], x.shape[1] - window.margins[1])
    # c2 divided by the factor of S and D, which is left out, gives the same ratio
    sum_v = cv2.addWeighted(s, 1, d, 1, -2 * C2 / window.unbias, dst=s)
    doubt = C2 * _lost(mean_s, mean_d, sum_v, d)
    mean_s += level_x + level_y
    mean_d += level_x - level_y
    cv2.multiply(mean_s, mean_s, dst=mean_s)
    cv2.multiply(mean_d, mean_d, dst=mean_d)
    sum_u = cv2.addWeighted(mean_s, 1, mean_d, 1, 2 * C1, dst=mean_s)
    u, v = cv2.divide(mean_d, sum_u, dst=mean_d)[:, columns], cv2.divide(d, sum_v, dst=d)[:, columns]
    first, second, both = (sum(cv2.sumElems(one)) for one in (u, v, cv2.multiply(u, v)))
    # where it is dark, the mean is what is left of the level; an error of it moves u by 0.14 at most
    doubt = doubt * u.size + 0.14 * (level_x + level_y) * first
    return 2 * (first + second - 2 * both), 4 * np.finfo(kind).eps * doubt


def _moments(maps: Image, window: Window) -> tuple[Image, Image]:
    """Means and negative variances in the rows with complete windows; `maps` are overwritten.

    Negative, since OpenCV adds a square in one pass and subtracts it in two.
    """
    rows = slice(window.margins[0], len(maps) - window.margins[0])
    means = window.means(maps)[rows]
    variances = window.means(cv2.multiply(maps, maps, dst=maps, scale=-1))[rows]
    cv2.accumulateSquare(means, variances)
    return means, variances


def _lost(mean_s: Image, mean_d: Image, sum_v: Image, d: Image) -> float:
    """How the rounding of squared means moves v, in units of it, the mean over some rows of a part.

    Variances are what is left of squares less squared means. In flat areas all lose alike; noise makes it random,
    hence the third power of `sum_v`.

    Args:
        mean_s, mean_d: means of sum and difference around their levels.
        sum_v, d: sum of the variances with C2, and that of the difference, both negative.
    """
    step = max(1, len(d) // 4)
    mean_s, mean_d, sum_v, d = (one[step // 2 :: step].ravel() for one in (mean_s, mean_d, sum_v, d))
    return float(((mean_s**2 * d / sum_v + mean_d**2) / sum_v**2).sum() / d.size)


def _large_enough(size: tuple[int, ...], window: Window) -> None:
    if size[0] < len(window.rows) or size[1] < len(window.columns):
        side = max(len(window.rows), len(window.columns))
        raise ValueError(f"image {tuple(size)} is smaller than the SSIM window of {side}")


def _same_kind(restored: Image, clean: Image) -> None:
    if restored.shape != clean.shape:
        raise ValueError(f"restored is {restored.shape}, clean {clean.shape}; shapes must be equal")
    if restored.dtype != clean.dtype:
        raise ValueError(f"restored is {restored.dtype}, clean {clean.dtype}; types must be equal")


# Several measurements of one image


@dataclass(frozen=True)
class Measurement:
    """What is measured, and what happens to the images before; equal ones are measured once."""

    measure: str
    """A name in `Kit.measures`."""
    colour: Colour = "rgb"
    border: int = 0
    """Pixels cut from each side."""
    rounded: bool = True
    """The restored image is clipped and rounded to 8 bit, half to even, before everything else."""
    clipped: bool = True
    """The restored image is clipped to [0, 1]."""


@dataclass(frozen=True)
class Kit(Generic[A]):
    """How one kind of arrays is measured."""

    levels: Callable[[Any, bool, bool], A]
    """Function of an image (float in [0, 1], or uint8), whether it is rounded and clipped: 0 to 255."""
    coloured: Callable[[A, Colour], A]
    """Function of an image on the 0 to 255 scale that gives the channels that are compared."""
    measures: Mapping[str, Callable[[A, A], Any]]
    """Functions of restored and clean image that give numbers."""
    device: Any = "cpu"
    """Where the arrays are: a name, or a device of torch."""


def levels(image: Image, rounded: bool, clipped: bool) -> Image:
    """Bring an image to the 0 to 255 scale: uint8 when rounded, else float64.

    Args:
        image: (H, W, 3), float, nominally in [0, 1], or uint8.
        rounded: clip and round to 8 bit, half to even.
        clipped: clip to the range of 8 bit.
    """
    if image.dtype == np.uint8:
        return image if rounded else image.astype(np.float64)
    scaled = np.clip(image, 0, 1) * np.float64(TOP) if rounded or clipped else image * np.float64(TOP)
    return np.rint(scaled, out=scaled).astype(np.uint8) if rounded else scaled


def coloured(image: Image, colour: Colour) -> Image:
    """Channels of an image (H, W, 3) that are compared: itself, or a plane (H, W)."""
    if colour == "rgb":
        return image
    plane = luma(image)
    if colour == "y":
        return plane.astype(np.float32)  # as BasicSR stores it
    rounded = np.rint(plane).astype(np.uint8)
    return rounded if colour == "y8" else np.negative(rounded)  # 256 - Y: DegAE's code overflows


def _ssim_of(window: Window) -> Callable[[Image, Image], float]:
    return lambda restored, clean: ssim(restored, clean, window)


ON_CPU: Kit[Image] = Kit(
    levels, coloured, {"psnr": psnr, **{name: _ssim_of(window) for name, window in WINDOWS.items()}}
)


def measure(
    restored: Image, clean: Rgb8, wanted: Iterable[Measurement], kit: Kit[Any] = ON_CPU
) -> dict[Measurement, float]:
    """Measure one image in several ways; what they share is done once.

    Args:
        restored: (H, W, 3) float, nominally in [0, 1], or uint8.
        clean: clean image, (H, W, 3) uint8.
        wanted: what is measured.
        kit: how, and where.

    Raises:
        ValueError: shapes differ, or a side is smaller than SSIM's window after the cut.
    """

    @cache
    def views(rounded: bool, clipped: bool, border: int, colour: Colour) -> tuple[Any, Any]:
        if colour != "rgb":
            first, second = views(rounded, clipped, border, "rgb")
            return kit.coloured(first, colour), kit.coloured(second, colour)
        if border:
            first, second = views(rounded, clipped, 0, "rgb")
            return first[border:-border, border:-border], second[border:-border, border:-border]
        return kit.levels(restored, rounded, clipped), kit.levels(clean, rounded, clipped)

    found = {}
    for one in wanted:
        pair = views(one.rounded, one.clipped, one.border, one.colour)
        found[one] = float(kit.measures[one.measure](*pair))
    return found


def score_batch(restored: Rgb8, clean: Rgb8) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """PSNR (dB) and SSIM (`ssim_gaussian11`) of each of several equally large images.

    Args:
        restored: restored images, (B, H, W, 3) uint8.
        clean: clean images, of the same shape and type.

    Returns:
        PSNR and SSIM of each image, two arrays (B,); PSNR is inf for equal images.

    Raises:
        ValueError: shapes or types differ, or a side below 11.
    """
    _same_kind(restored, clean)
    window = WINDOWS["ssim_gaussian11"]
    _large_enough(clean.shape[1:3], window)
    values = [(psnr(one, other), ssim(one, other, window)) for one, other in zip(restored, clean, strict=True)]
    decibels, structure = np.array(values).reshape(-1, 2).T
    return decibels, structure
