"""Motion, defocus and Gaussian blur. Images are float32 (H, W, 3), RGB, nominally in [0, 1]."""

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.pixels import FloatImage

SMALLEST_VARIANCE = 1e-8
"""Variance in square pixels below which a Gaussian is a point; published code divides by zero."""


def line_kernel(length: float, angle: float, width: float = 1.0) -> FloatImage:
    """Draw a straight line through the centre of a square kernel, anti-aliased; its values sum to one.

    Args:
        length: length of the line in pixels, at least 1.
        angle: angle against the horizontal in degrees, counter-clockwise.
        width: width of the line in pixels, at least 1.

    Returns:
        Kernel (S, S) float32 of odd side S.

    Raises:
        ValueError: length or width below 1.
    """
    if length < 1 or width < 1:
        raise ValueError(f"length {length} and width {width} must be at least 1 pixel")
    half = int(np.ceil((length + width) / 2))
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    along, across = columns * cosine - rows * sine, columns * sine + rows * cosine
    # a pixel that the rim of the line cuts gets the covered part of 1
    profile = np.clip((length + 1) / 2 - abs(along), 0, 1) * np.clip((width + 1) / 2 - abs(across), 0, 1)
    return np.asarray(profile / profile.sum(), np.float32)


def disc_kernel(diameter: float, margin: int = 0) -> FloatImage:
    """Draw a disc in the middle of a square kernel: 1 inside, its edge anti-aliased.

    Args:
        diameter: diameter of the disc in pixels, at least 1.
        margin: zeros that are added on each side, in pixels.

    Returns:
        Kernel (S, S) float32 of odd side S.

    Raises:
        ValueError: diameter below 1.
    """
    if diameter < 1:
        raise ValueError(f"diameter {diameter} must be at least 1 pixel")
    half = int(np.ceil(diameter / 2)) + margin
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    return np.asarray(np.clip((diameter + 1) / 2 - np.hypot(rows, columns), 0, 1), np.float32)


def defocus_blur(image: FloatImage, generator: np.random.Generator, *, diameter: float) -> FloatImage:
    """Blur with a disc, as a lens does with a flat scene out of focus; mirrored at the border.

    Args:
        image: clean image, (H, W, 3) in [0, 1].
        generator: not used; every degradation takes one.
        diameter: diameter of the disc (circle of confusion) in pixels; 1 leaves the image as it is.

    Returns:
        Blurred image of the same shape.

    Raises:
        ValueError: diameter below 1.

    Source: ours; the uniform disc of the classical deblurring literature. It stands in for real pairs
    (DPDD in DCPT 10D), whose blur changes with depth.
    """
    kernel = disc_kernel(diameter)
    blurred = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.float32)


def motion_blur(image: FloatImage, generator: np.random.Generator, *, length: float, angle: float) -> FloatImage:
    """Blur along a straight line, as a steadily moving camera does; mirrored at the border.

    Args:
        image: clean image, (H, W, 3) in [0, 1].
        generator: not used; every degradation takes one.
        length: length of the movement in pixels; 1 leaves the image as it is.
        angle: angle of the movement against the horizontal in degrees, counter-clockwise.

    Returns:
        Blurred image of the same shape.

    Raises:
        ValueError: length below 1.

    Source: ours; the uniform linear model of the classical deblurring literature.
    """
    blurred = cv2.filter2D(image, -1, line_kernel(length, angle), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.float32)


def gaussian_kernel(side: int, along: float, across: float, angle: float = 0.0) -> npt.NDArray[np.float64]:
    """Sample a Gaussian at the pixels of a square kernel; its values sum to one.

    Args:
        side: side of the kernel in pixels, odd.
        along: variance along the axis that `angle` gives, in square pixels.
        across: variance perpendicular to it. Below `SMALLEST_VARIANCE`, either makes the kernel a single one.
        angle: angle of the axis against the horizontal in degrees, counter-clockwise.

    Returns:
        Kernel (side, side), float64.

    Raises:
        ValueError: side is even or below 1, a variance is negative.
    """
    if side < 1 or side % 2 == 0:
        raise ValueError(f"kernel_size is {side}; expected an odd number of pixels")
    if along < 0 or across < 0:
        raise ValueError(f"variances {along} and {across} must be at least 0")
    half = side // 2
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    if min(along, across) < SMALLEST_VARIANCE:
        return np.asarray((rows == 0) & (columns == 0), np.float64)
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    first, second = columns * cosine - rows * sine, columns * sine + rows * cosine
    density = np.exp(-(first**2 / along + second**2 / across) / 2)
    return np.asarray(density / density.sum(), np.float64)


def gaussian_blur(
    image: FloatImage,
    generator: np.random.Generator,
    *,
    kernel_size: int,
    sigma: float = 0.0,
    variance_along: float = 0.0,
    variance_across: float = 0.0,
    angle: float = 0.0,
) -> FloatImage:
    """Blur with a Gaussian, round or elongated; mirrored at the border.

    Args:
        image: clean image, (H, W, 3) in [0, 1].
        generator: not used; every degradation takes one.
        kernel_size: side of the kernel in pixels, odd; what lies beyond is cut off.
        sigma: standard deviation in all directions, in pixels.
        variance_along: variance that is added along the axis of `angle`, in square pixels.
        variance_across: variance that is added perpendicular to it.
        angle: angle of the axis against the horizontal in degrees, counter-clockwise.

    Returns:
        Blurred image of the same shape. Without variance in some direction it is the image itself.

    Raises:
        ValueError: kernel_size is even or below 1, sigma or a variance is negative.

    Source: DegAE (BSRGAN's blur at scale 1), either with sigma or with the two variances.
    """
    if sigma < 0:
        raise ValueError(f"sigma is {sigma}; expected at least 0")
    kernel = gaussian_kernel(kernel_size, sigma**2 + variance_along, sigma**2 + variance_across, angle)
    if kernel.max() == 1:
        return image
    if variance_along == variance_across:
        line = kernel.sum(0)  # a round Gaussian is the product of two lines
        return np.asarray(cv2.sepFilter2D(image, -1, line, line, borderType=cv2.BORDER_REFLECT_101), np.float32)
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.float32)
