"""Noise. Images are float32 (H, W, 3), RGB, nominally in [0, 1]."""

import numpy as np

from airpipe.pixels import FloatImage


def legacy_noise_field(shape: tuple[int, ...], seed: int) -> FloatImage:
    """Draw standard normal noise as NumPy's legacy global generator gives it after `numpy.random.seed(seed)`.

    Args:
        shape: shape (H, W, 3) of the noise, filled pixel by pixel, red first.
        seed: number from 0 to 2^32 - 1.

    Returns:
        Noise of this shape, float32.

    Source: DCPT's denoising data set, which seeds with the index of the image before every draw.
    """
    legacy = np.random.RandomState(seed)  # noqa: NPY002 - the published stream is the legacy one
    return legacy.standard_normal(shape).astype(np.float32)


def gaussian_noise(
    image: FloatImage, generator: np.random.Generator, *, sigma: float, field: FloatImage | None = None
) -> FloatImage:
    """Add white Gaussian noise, without clipping or rounding.

    Args:
        image: clean image, (H, W, 3) in [0, 1].
        generator: source of randomness.
        sigma: standard deviation in 8-bit grey levels; 25 means 25/255.
        field: standard normal noise of the image's shape, taken instead of what the generator would draw.

    Returns:
        Noisy image of the same shape; values may leave [0, 1].

    Raises:
        ValueError: sigma is negative, or field has another shape.

    Source: denoising protocol of the all-in-one benchmarks, sigma in {15, 25, 50}; DCPT 10D draws sigma
    uniformly from 1 to 50.
    """
    if sigma < 0:
        raise ValueError(f"sigma is {sigma}; expected at least 0")
    if field is not None and field.shape != image.shape:
        raise ValueError(f"field is {field.shape}; expected {image.shape}")
    # drawn in float32: float64 would give other numbers for the same seed
    noise = generator.standard_normal(image.shape, dtype=np.float32) if field is None else field
    return image + np.float32(sigma / 255) * noise
