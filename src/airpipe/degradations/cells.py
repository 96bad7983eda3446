"""Square cells of an image, each hidden, degraded or left alone. Images are float32 (H, W, 3), RGB in [0, 1]."""

import numpy as np

from airpipe.degradations.compression import jpeg
from airpipe.degradations.noise import gaussian_noise
from airpipe.pixels import FloatImage


def corrupted_cells(
    image: FloatImage,
    generator: np.random.Generator,
    *,
    cell: int,
    masked: float,
    degraded: float,
    fill: float,
    quality: int,
    sigma: float,
    amplitude: float,
) -> FloatImage:
    """Hide some cells of the image, and degrade others by JPEG, Gaussian or uniform noise, one of them each.

    Args:
        image: clean image, (H, W, 3) in [0, 1].
        generator: draws which cells are hidden and degraded, how, and the noise.
        cell: side of a cell in pixels; those at right and bottom may be cut off.
        masked: share of hidden cells, rounded to whole cells.
        degraded: share of degraded cells, likewise; the rest stays as it is.
        fill: grey value of hidden cells, 1 for white.
        quality: JPEG quality, of the whole image before cells are taken from it.
        sigma: standard deviation of the Gaussian noise, in 8-bit grey levels.
        amplitude: largest absolute value of the uniform noise, in 8-bit grey levels.

    Returns:
        Image of the same shape, in [0, 1].

    Raises:
        ValueError: a cell without pixels, shares that are negative or more than 1 together, a fill outside 0 to 1, a
            negative amplitude, or what `jpeg` and `gaussian_noise` refuse.

    Source: DyNet's dynamic pretraining, as its figure shows it; its code was never published.
    """
    if cell < 1:
        raise ValueError(f"cell is {cell} pixels; expected at least 1")
    if min(masked, degraded) < 0 or masked + degraded > 1:
        raise ValueError(f"masked {masked} and degraded {degraded} must be shares of at most 1 together")
    if not 0 <= fill <= 1 or amplitude < 0:
        raise ValueError(f"fill is {fill}, amplitude {amplitude}; expected a fill from 0 to 1, an amplitude from 0")
    height, width = image.shape[:2]
    rows, columns = -(-height // cell), -(-width // cell)
    count = rows * columns
    hidden = round(masked * count)
    changed = min(round(degraded * count), count - hidden)
    # The order of draws is a contract: places, kinds, Gaussian noise, uniform noise
    places = generator.permutation(count)
    kinds = generator.integers(2, 5, changed)
    versions = [
        image,
        np.full_like(image, fill),
        jpeg(image, generator, quality=quality),
        gaussian_noise(image, generator, sigma=sigma),
        image + np.float32(amplitude / 255) * (2 * generator.random(image.shape, dtype=np.float32) - 1),
    ]
    version = np.zeros(count, np.intp)
    version[places[:hidden]] = 1
    version[places[hidden : hidden + changed]] = kinds
    chosen = version.reshape(rows, columns).repeat(cell, 0).repeat(cell, 1)[:height, :width, None]
    return np.asarray(np.clip(np.choose(chosen, versions), 0, 1), np.float32)
