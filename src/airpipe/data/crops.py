"""From a pair of images to a training patch: common size, window, shrinking, flips and quarter turns."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.errors import AirpipeError
from airpipe.pixels import Box, Rgb8


def align(degraded: Rgb8, clean: Rgb8, crop: str, name: str) -> tuple[Rgb8, Rgb8]:
    """Cut the clean image to the degraded one's size by the pair list's crop rule.

    Args:
        degraded: (h, w, 3).
        clean: (H, W, 3), as large or larger.
        crop: none, centre, or top_left (which cuts both to the size that they share).
        name: the pair, for messages.

    Raises:
        AirpipeError: the sizes still differ.
    """
    rows, columns = clean.shape[0] - degraded.shape[0], clean.shape[1] - degraded.shape[1]
    if crop == "centre" and rows >= 0 and columns >= 0 and not (rows % 2 or columns % 2):
        clean = clean[rows // 2 : clean.shape[0] - rows // 2, columns // 2 : clean.shape[1] - columns // 2]
    elif crop == "top_left":
        height, width = min(clean.shape[0], degraded.shape[0]), min(clean.shape[1], degraded.shape[1])
        clean, degraded = clean[:height, :width], degraded[:height, :width]
    if clean.shape != degraded.shape:
        raise AirpipeError(f"{name}: degraded is {degraded.shape[:2]}, clean {clean.shape[:2]} (rows, columns)")
    return degraded, clean


def resized(layer: npt.NDArray[Any], shorter: int) -> npt.NDArray[Any]:
    """Resize a layer (H, W) or (H, W, 3) to a shorter side: by area when it shrinks, else bicubic.

    Args:
        layer: uint8, or float32 in [0, 1]; the result keeps type and range.
        shorter: side in pixels; the other one follows, rounded.
    """
    height, width = layer.shape[:2]
    scale = shorter / min(height, width)
    if scale == 1:
        return layer
    size = (max(shorter, round(width * scale)), max(shorter, round(height * scale)))
    if scale < 1:
        return np.asarray(cv2.resize(layer, size, interpolation=cv2.INTER_AREA), layer.dtype)
    larger = np.asarray(cv2.resize(layer, size, interpolation=cv2.INTER_CUBIC), layer.dtype)
    # bicubic weights overshoot; OpenCV clips 8 bit by itself
    return larger if layer.dtype == np.uint8 else np.clip(larger, 0, 1)


def window_side(rescale: tuple[float, float], shortest: int, patch_size: int, generator: np.random.Generator) -> int:
    """Return the side in pixels of the window that becomes the patch; larger than the patch where the image shrinks.

    Args:
        rescale: range of the factor; (1, 1) draws nothing.
        shortest: shorter side of the image in pixels, an upper limit.
        patch_size: side of the patch in pixels.
        generator: draws the factor.
    """
    if rescale == (1.0, 1.0):
        return patch_size
    return min(shortest, round(patch_size / generator.uniform(*rescale)))


def shrunk(layer: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Shrink a square layer (S, S) or (S, S, 3) to `side` by area; a layer of that side is returned itself."""
    if layer.shape[0] == side:
        return layer
    return np.asarray(cv2.resize(layer, (side, side), interpolation=cv2.INTER_AREA), layer.dtype)


def jittered(clean: Rgb8, strength: float, generator: np.random.Generator) -> Rgb8:
    """Change the colours of a patch: channels in random order, exponent exp(u), factor exp(-v), rounded to 8 bit.

    Args:
        clean: patch (H, W, 3).
        strength: u is drawn from -strength to strength, v from 0 to strength.
        generator: draws order, u and v.
    """
    # the order of draws is a contract: channels, exponent, factor
    order = generator.permutation(3)
    exponent, factor = np.exp(generator.uniform(-strength, strength)), np.exp(-generator.uniform(0, strength))
    # the new value of each of the 256 levels: a power for every pixel would take longer
    levels = np.rint(255 * factor * np.linspace(0, 1, 256) ** exponent).astype(np.uint8)
    return np.ascontiguousarray(levels[clean[..., order]])


def mirrored(layer: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Mirror a layer (H, W) or (H, W, 3) at its lower and right border until it has `side` pixels each way.

    The border pixels are repeated. Source: Restormer's training data.
    """
    rows, columns = (max(0, side - length) for length in layer.shape[:2])
    if not rows and not columns:
        return layer
    return np.pad(layer, [(0, rows), (0, columns), (0, 0)][: layer.ndim], mode="symmetric")


def turned(layer: npt.NDArray[Any], turns: int, flip: bool) -> npt.NDArray[Any]:
    """Copy a layer, turned anticlockwise by quarter turns, then mirrored left to right; the copy is contiguous.

    OpenCV copies pixels of three bytes 20 times as fast as NumPy does with negative strides.

    Args:
        layer: (H, W) or (H, W, 3).
        turns: number of quarter turns, 0 to 3.
        flip: whether to mirror.
    """
    if turns % 2:
        layer = cv2.transpose(layer)
    # Mirrored axes of the (transposed) layer: a quarter turn is a transpose and one mirror.
    rows, columns = turns in (1, 2), (turns in (2, 3)) != flip
    if rows or columns:
        return np.asarray(cv2.flip(layer, -1 if rows and columns else int(columns)))
    return np.array(layer, order="C")


NINE = ((0, False), (2, True), (0, True), (1, False), (2, False), (3, False), (1, True), (3, True), (0, False))
"""Quarter turns, and whether the image is mirrored then, of each of nine choices: nothing, upside down, mirrored,
turned once, twice and three times, upside down and turned once, mirrored and turned once, nothing. Source: DSRIR."""


def orientation(augment: str, generator: np.random.Generator) -> tuple[int, bool]:
    """Draw quarter turns and flip, arguments of `turned`.

    Args:
        augment: turns, nine, flip or none (see `DataPart`).
        generator: draws them.
    """
    if augment == "nine":
        return NINE[int(generator.integers(len(NINE)))]
    # the order of draws is a contract: turns, then flip
    turns = int(generator.integers(4)) if augment == "turns" else 0
    return turns, bool(generator.integers(2)) if augment != "none" else False


@dataclass(frozen=True)
class Turned:
    """A layer (H, W) or (H, W, 3) as `turned` gives it, of which only the parts that are asked for are copied."""

    layer: npt.NDArray[Any]
    turns: int
    flip: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the turned layer."""
        height, width, *channels = self.layer.shape
        return (width, height, *channels) if self.turns % 2 else (height, width, *channels)

    def __getitem__(self, box: Box) -> npt.NDArray[Any]:
        (rows, columns), (height, width) = box, self.shape[:2]
        if self.flip:
            columns = slice(width - columns.stop, width - columns.start)
        for _ in range(self.turns):  # takes one quarter turn back
            rows, columns = columns, slice(height - rows.stop, height - rows.start)
            height, width = width, height
        return turned(self.layer[rows, columns], self.turns, self.flip)
