"""Colour filter mosaic. Images are float32 (H, W, 3), RGB, nominally in [0, 1]."""

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.pixels import FloatImage, Rgb8, as_floats, quantised

SMALLEST_SIDE = 3
"""Shortest side in pixels; OpenCV's edge-aware routine returns black for smaller images, without an error."""


def bayer_pattern(pixels: Rgb8) -> npt.NDArray[np.uint8]:
    """Keep the colour that a sensor with filter RGGB sees: (H, W, 3) RGB to (H, W), red at (0, 0), blue at (1, 1)."""
    sensor = pixels[..., 1].copy()
    sensor[0::2, 0::2] = pixels[0::2, 0::2, 0]
    sensor[1::2, 1::2] = pixels[1::2, 1::2, 2]
    return sensor


def mosaic(image: FloatImage, generator: np.random.Generator, *, compat_swap_rb: bool = False) -> FloatImage:
    """Keep one colour per pixel (Bayer filter RGGB), and interpolate the other two with regard to edges.

    Args:
        image: clean image, (H, W, 3) in [0, 1], any size from 3x3 on; clipped and rounded to 8 bit first.
        generator: not used; every degradation takes one.
        compat_swap_rb: whether to return blue, green, red, as DCPT's published code does by mistake. Its official
            ten-task weights saw such inputs; use it for nothing else.

    Returns:
        Interpolated image of the same shape; every value is a multiple of 1/255.

    Raises:
        ValueError: a side below `SMALLEST_SIDE`.

    Source: DCPT 10D, with OpenCV's edge-aware interpolation.
    """
    if min(image.shape[:2]) < SMALLEST_SIDE:
        raise ValueError(
            f"image is {image.shape[1]}x{image.shape[0]} pixels; a mosaic needs {SMALLEST_SIDE} pixels per side"
        )
    order = cv2.COLOR_BayerRGGB2BGR_EA if compat_swap_rb else cv2.COLOR_BayerRGGB2RGB_EA
    interpolated = cv2.cvtColor(bayer_pattern(quantised(image)), order)
    return as_floats(np.asarray(interpolated))
