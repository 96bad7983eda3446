"""Strokes that hide the image. Images are float32 (H, W, 3), RGB, nominally in [0, 1]."""

import cv2
import numpy as np

from airpipe.pixels import FloatImage

THICKEST = 32_767
"""Thickest line that OpenCV draws, in pixels."""


def stroke_mask(shape: tuple[int, int], generator: np.random.Generator, segments: int, thickness: int) -> FloatImage:
    """Draw straight segments with round ends; both ends lie anywhere in the image, uniformly.

    Args:
        shape: size (H, W) of the image.
        generator: draws the ends, whole pixels from 0 to W and 0 to H, both included as in DCPT's code.
        segments: number of segments.
        thickness: thickness of all segments in pixels; OpenCV draws up to two pixels more.

    Returns:
        Mask (H, W) float32, 1 on a stroke and 0 elsewhere; edges are not smoothed.
    """
    height, width = shape
    mask = np.zeros(shape, np.uint8)
    ends = generator.integers(0, (width, height), (segments, 2, 2), endpoint=True)  # (x, y) of two ends
    for start, end in ends.tolist():
        cv2.line(mask, start, end, color=1, thickness=thickness)
    return mask.astype(np.float32)


def strokes(
    image: FloatImage, generator: np.random.Generator, *, segments: int, thickness: int, colour: int
) -> FloatImage:
    """Paint over parts of the image with straight strokes of one colour.

    Args:
        image: clean image, (H, W, 3) in [0, 1]; clipped to that range.
        generator: draws the ends of the strokes.
        segments: number of strokes, at least 1.
        thickness: thickness of the strokes in pixels, 1 to `THICKEST`.
        colour: 0 paints black, 1 white.

    Returns:
        Image of the same shape, in [0, 1]: clip(image - mask) or clip(image + mask).

    Raises:
        ValueError: segments below 1, thickness outside its range, colour neither 0 nor 1.

    Source: DCPT 10D (5 to 10 strokes, 5 to 10 pixels thick); its code does not seed the draws of its tests.
    """
    if segments < 1:
        raise ValueError(f"segments is {segments}; expected at least 1")
    if not 1 <= thickness <= THICKEST:
        raise ValueError(f"thickness {thickness} must lie in 1 to {THICKEST} pixels")
    if colour not in (0, 1):
        raise ValueError(f"colour is {colour}; expected 0 (black) or 1 (white)")
    mask = stroke_mask((image.shape[0], image.shape[1]), generator, segments, thickness)[..., None]
    return np.asarray(np.clip(image + mask if colour else image - mask, 0, 1), np.float32)
