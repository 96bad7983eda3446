"""Noise. Images are float32 (H, W, 3), RGB, nominally in [0, 1]."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.pixels import FloatImage, as_floats, quantised

FORMS = ("independent", "grey", "correlated")
"""Noise of its own in each channel, one map for all channels, or noise whose channels depend on each other."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R BT.601)."""


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


def channel_covariance(sigma: npt.ArrayLike, mixing: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Make the covariance of red, green and blue of correlated noise from numbers in [0, 1].

    It is |(sigma / 255)^2 U' D U|, each element's absolute value: D is the diagonal of the first three numbers, U an
    orthonormal basis of the matrix of the other nine. The absolute values of a 3x3 matrix without negative
    eigenvalues have none, either (its determinant can only grow), so that this is a covariance always.

    Args:
        sigma: standard deviation of the strongest noise, in 8-bit grey levels; or one for each image.
        mixing: 12 numbers; or (N, 12).

    Returns:
        (3, 3), or (N, 3, 3).

    Raises:
        ValueError: another count of numbers.

    Source: DegAE (BSRGAN's generalised Gaussian noise).
    """
    mixing = np.asarray(mixing, np.float64)
    if mixing.shape[-1:] != (12,):
        raise ValueError(f"mixing has {np.size(mixing)} numbers; expected 12")
    basis = np.linalg.svd(mixing[..., 3:].reshape(*mixing.shape[:-1], 3, 3))[0]
    turned = (np.asarray(sigma)[..., None, None] / 255) ** 2 * np.swapaxes(basis, -1, -2)
    return np.asarray(abs(turned @ (mixing[..., :3, None] * np.eye(3)) @ basis), np.float64)


def channel_factors(
    sigma: Sequence[float], form: Sequence[str], mixing: Sequence[Sequence[float]]
) -> npt.NDArray[np.float64]:
    """Make the matrices that turn three independent standard normal numbers into the noise of a pixel.

    Args:
        sigma, form, mixing: of each image, see `gaussian_noise`.

    Returns:
        (N, 3, 3); of form grey, all channels follow the first number.

    Raises:
        ValueError: correlated noise whose mixing is not 12 numbers.
    """
    shares = np.stack([np.eye(3)[[0, 0, 0]] if one == "grey" else np.eye(3) for one in form])
    factors = np.asarray(sigma, np.float64)[:, None, None] / 255 * shares
    if correlated := [place for place, one in enumerate(form) if one == "correlated"]:
        chosen = [mixing[place] for place in correlated]
        for one in chosen:
            given = one if isinstance(one, list | tuple) else (one,)
            numbers = sum(isinstance(value, int | float) for value in given)
            if not numbers == len(given) == 12:
                raise ValueError(f"mixing has {numbers} numbers; expected 12 and nothing else")
        values, vectors = np.linalg.eigh(channel_covariance([sigma[place] for place in correlated], chosen))
        factors[correlated] = vectors * np.sqrt(np.maximum(values, 0))[:, None]
    return factors


def _normal_noise(
    shape: tuple[int, ...],
    generator: np.random.Generator,
    sigma: float,
    form: str,
    mixing: Sequence[float],
    field: FloatImage | None = None,
) -> FloatImage:
    """Draw Gaussian noise of a form, (H, W, 3), or (H, W, 1) where all channels share it; see `gaussian_noise`."""
    if sigma < 0:
        raise ValueError(f"sigma is {sigma}; expected at least 0")
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; expected {', '.join(FORMS[:-1])} or {FORMS[-1]}")
    if field is not None and (field.shape != shape or form != "independent"):
        raise ValueError(f"field is {field.shape}; expected {shape}, for noise of form independent, not {form}")
    drawn = (*shape[:2], 1) if form == "grey" else shape
    # drawn in float32: float64 would give other numbers for the same seed
    noise = generator.standard_normal(drawn, dtype=np.float32) if field is None else field
    if form != "correlated":
        return np.float32(sigma / 255) * noise
    return np.asarray(cv2.transform(noise, channel_factors([sigma], [form], [mixing])[0]), np.float32)


def gaussian_noise(
    image: FloatImage,
    generator: np.random.Generator,
    *,
    sigma: float,
    form: str = "independent",
    mixing: Sequence[float] = (),
    field: FloatImage | None = None,
) -> FloatImage:
    """Add white Gaussian noise, without clipping or rounding.

    Args:
        image: clean image, (H, W, 3) in [0, 1].
        generator: source of randomness.
        sigma: standard deviation in 8-bit grey levels; 25 means 25/255.
        form: one of `FORMS`.
        mixing: 12 numbers that make the covariance of correlated noise, see `channel_covariance`.
        field: standard normal noise of the image's shape, taken instead of what the generator would draw.

    Returns:
        Noisy image of the same shape; values may leave [0, 1].

    Raises:
        ValueError: sigma is negative, the form is unknown or lacks its mixing, field has another shape or the noise
            another form than `independent`.

    Source: denoising protocol of the all-in-one benchmarks, sigma in {15, 25, 50}; DCPT 10D draws sigma
    uniformly from 1 to 50. The forms are DegAE's.
    """
    return image + _normal_noise(image.shape, generator, sigma, form, mixing, field)


def speckle_noise(
    image: FloatImage,
    generator: np.random.Generator,
    *,
    sigma: float,
    form: str = "independent",
    mixing: Sequence[float] = (),
) -> FloatImage:
    """Add Gaussian noise in proportion to the brightness, without clipping or rounding.

    Args:
        image: clean image, (H, W, 3) in [0, 1].
        generator: source of randomness.
        sigma: standard deviation at white, in 8-bit grey levels.
        form, mixing: as for `gaussian_noise`.

    Returns:
        Noisy image of the same shape; values may leave [0, 1].

    Raises:
        ValueError: sigma is negative, the form is unknown or lacks its mixing.

    Source: DegAE (BSRGAN's speckle noise).
    """
    return image + image * _normal_noise(image.shape, generator, sigma, form, mixing)


def poisson_noise(
    image: FloatImage,
    generator: np.random.Generator,
    *,
    photons: float,
    form: str = "independent",
    legacy_bgr: bool = False,
) -> FloatImage:
    """Replace brightness by a count of photons (shot noise), without clipping.

    Args:
        image: clean image, (H, W, 3) in [0, 1]; clipped and rounded to 8 bit first.
        generator: source of randomness.
        photons: mean count at white; 100 is strong noise, 10,000 can hardly be seen.
        form: independent for a count in each channel; grey to add the noise of the grey value to all channels.
        legacy_bgr: whether the grey value weighs blue as red and red as blue, as DegAE's code does by mistake.

    Returns:
        Noisy image of the same shape; values may leave [0, 1].

    Raises:
        ValueError: photons is not positive, the form is neither of the two.

    Source: DegAE (BSRGAN's Poisson noise).
    """
    if not photons > 0:
        raise ValueError(f"photons is {photons}; expected more than 0")
    if form not in FORMS[:2]:
        raise ValueError(f"form is {form!r}; expected {FORMS[0]} or {FORMS[1]}")
    rounded = as_floats(quantised(image))
    if form == "independent":
        return generator.poisson(rounded * photons).astype(np.float32) / np.float32(photons)
    weights = np.array(LUMA[::-1] if legacy_bgr else LUMA, np.float32)
    grey = as_floats(quantised(rounded @ weights))
    noise = generator.poisson(grey * photons).astype(np.float32) / np.float32(photons) - grey
    return rounded + noise[..., None]
