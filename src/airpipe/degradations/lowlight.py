"""Low light. Images are float32 (H, W, 3), RGB, nominally in [0, 1]."""

import numpy as np

from airpipe.degradations.noise import gaussian_noise
from airpipe.pixels import FloatImage


def low_light(
    image: FloatImage, generator: np.random.Generator, *, gain: float, gamma: float, sigma: float
) -> FloatImage:
    """Darken the image and add the noise that short exposures have.

    Args:
        image: clean image, (H, W, 3) in [0, 1].
        generator: draws the noise.
        gain: factor after the tone curve, in (0, 1].
        gamma: exponent of the tone curve, at least 1; larger darkens the shadows more.
        sigma: standard deviation of the noise after darkening, in 8-bit grey levels.

    Returns:
        Dark image of the same shape; noise may leave [0, 1].

    Raises:
        ValueError: gain outside (0, 1], gamma below 1, sigma negative.

    Source: ours; gamma-and-gain synthesis as common in low-light work (for example Lore et al.,
    "LLNet", Pattern Recognition 2017).
    """
    if not 0 < gain <= 1 or gamma < 1:
        raise ValueError(f"gain {gain} must lie in (0, 1] and gamma {gamma} must be at least 1")
    dark = np.float32(gain) * np.clip(image, 0, 1) ** np.float32(gamma)
    return gaussian_noise(dark, generator, sigma=sigma)
