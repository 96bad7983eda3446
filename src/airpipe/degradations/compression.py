"""JPEG compression. Images are float32 (H, W, 3), RGB, nominally in [0, 1]."""

import cv2
import numpy as np

from airpipe.pixels import FloatImage, as_floats, quantised

LARGEST_JPEG_SIDE = 65_500
"""Longest side in pixels that the encoder takes."""


def jpeg(image: FloatImage, generator: np.random.Generator, *, quality: int, legacy_bgr: bool = False) -> FloatImage:
    """Write and read the image as JPEG, in memory.

    Args:
        image: clean image, (H, W, 3) in [0, 1]; clipped and rounded to 8 bit first.
        generator: not used; every degradation takes one.
        quality: setting of the encoder, from 1 (worst) to 100.
        legacy_bgr: whether the encoder takes blue for red and red for blue, as in DegAE's code by mistake.

    Returns:
        Decoded image of the same shape; every value is a multiple of 1/255.

    Raises:
        ValueError: quality outside 1 to 100, or a side above `LARGEST_JPEG_SIDE`.

    Source: DCPT 10D (quality 10, 20, 30, 40 or 50 in training, 20 in its tests), with OpenCV's encoder:
    4:2:0 chroma; DegAE draws from 30 to 95. The bits depend on the version of its JPEG library.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality {quality} must lie in 1 to 100")
    if max(image.shape[:2]) > LARGEST_JPEG_SIDE:
        raise ValueError(
            f"image is {image.shape[1]}x{image.shape[0]} pixels; JPEG takes at most {LARGEST_JPEG_SIDE} per side"
        )
    pixels = quantised(image)
    # OpenCV's encoder and decoder take and give blue first
    _, data = cv2.imencode(
        ".jpg", pixels if legacy_bgr else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return as_floats(decoded if legacy_bgr else np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)))
