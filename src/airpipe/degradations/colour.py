"""Changes of brightness and contrast. Images are float32 (H, W, 3), RGB, nominally in [0, 1]."""

import numpy as np

from airpipe.pixels import FloatImage


def colour_shift(
    image: FloatImage, generator: np.random.Generator, *, contrast: float, brightness: float
) -> FloatImage:
    """Stretch the image about mid-grey and add a constant: 0.5 + contrast (I - 0.5) + brightness.

    Args:
        image: clean image, (H, W, 3) in [0, 1].
        generator: not used; every degradation takes one.
        contrast: factor, at least 0; 1 changes nothing.
        brightness: constant added to all channels, in [-1, 1]; 0 changes nothing.

    Returns:
        Image of the same shape; values may leave [0, 1].

    Raises:
        ValueError: contrast negative, brightness outside [-1, 1].

    Source: ours; an augmentation for recognisers, not a model of a camera.
    """
    if contrast < 0 or not -1 <= brightness <= 1:
        raise ValueError(f"contrast {contrast} must be at least 0 and brightness {brightness} in [-1, 1]")
    return np.float32(contrast) * (image - np.float32(0.5)) + np.float32(0.5 + brightness)
