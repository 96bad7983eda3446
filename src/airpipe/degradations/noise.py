"""Noise. Images are float32 (H, W, 3), RGB, nominally in [0, 1]."""

import numpy as np
import numpy.typing as npt

FloatImage = npt.NDArray[np.float32]


def quantised(image: FloatImage) -> npt.NDArray[np.uint8]:
    """Clip to [0, 1] and round to 8 bit, half to even."""
    return np.asarray(np.rint(np.clip(image, 0, 1) * np.float32(255)), np.uint8)


def gaussian_noise(image: FloatImage, generator: np.random.Generator, *, sigma: float) -> FloatImage:
    """Add white Gaussian noise, without clipping or rounding.

    Args:
        image: clean image, (H, W, 3) in [0, 1].
        generator: source of randomness.
        sigma: standard deviation in 8-bit grey levels; 25 means 25/255.

    Returns:
        Noisy image of the same shape; values may leave [0, 1].

    Raises:
        ValueError: sigma is negative.

    Source: denoising protocol of the all-in-one benchmarks, sigma in {15, 25, 50}; DCPT 10D draws sigma
    uniformly from 1 to 50.
    """
    if sigma < 0:
        raise ValueError(f"sigma is {sigma}; expected at least 0")
    noise = generator.standard_normal(image.shape, dtype=np.float32)
    return image + np.float32(sigma / 255) * noise
