"""Fit the reference values of NIQE and the BRISQUE-type score to good pictures (`airpipe.curation.natural`)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from airpipe.curation.natural import FEATURES, Floats, Values, naturalness, regressors
from airpipe.data.fingerprints import luminance
from airpipe.degradations.compression import jpeg
from airpipe.degradations.noise import gaussian_noise
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.pixels import Rgb8, as_floats, quantised
from airpipe.progress import track

SHARP = 0.75
"""Blocks count as natural whose local contrast is above this share of the largest in their picture (NIQE's paper)."""
BLURS = (0.7, 1.0, 1.5, 2.5, 4.0, 6.0)
"""Standard deviations in pixels."""
QUALITIES = (2, 5, 10, 20, 35, 60)
"""JPEG qualities."""
SIGMAS = (4, 8, 15, 25, 40, 60)
"""Standard deviations of Gaussian noise in grey levels."""
RIDGE = 3.0
"""Weight of the squared weights, by which one picture left out is foretold best."""


def spoiled(pixels: Rgb8, generator: np.random.Generator) -> Iterator[Rgb8]:
    """Yield a picture itself, then blurred, recompressed and noisy, by all strengths.

    Args:
        pixels: uint8 RGB (H, W, 3).
        generator: source of the noise.
    """
    image = as_floats(pixels)
    yield pixels
    for spread in BLURS:
        yield np.asarray(cv2.GaussianBlur(pixels, (0, 0), spread), np.uint8)
    for quality in QUALITIES:
        yield quantised(jpeg(image, generator, quality=quality))
    for sigma in SIGMAS:
        yield quantised(gaussian_noise(image, generator, sigma=sigma))


def fit(files: Sequence[Path], source: str) -> dict[str, Any]:
    """Fit the reference values.

    Args:
        files: pictures that are good.
        source: what they are, for the file.

    Returns:
        What natural.json holds; `spearman` is the rank correlation of score and 100 (1 - SSIM) of pictures that were
        left out of the fit, one at a time.

    Raises:
        AirpipeError: fewer than three pictures, or one that is corrupt or too small.
    """
    if len(files) < 3:
        raise AirpipeError(f"{len(files)} pictures; expected three and more. Name a folder of good ones")
    blocks, points, targets = [], [], []
    for number, file in enumerate(track(files, len(files), "fitting")):
        pixels = read_rgb8(file)
        clean = luminance(pixels)
        for version, bad in enumerate(spoiled(pixels, np.random.default_rng(number))):
            grey = luminance(bad)
            found = naturalness(grey)
            if found is None or found.whole is None:
                raise AirpipeError(f"{file}: too small or too flat to fit to. Leave it out")
            if version == 0:
                blocks.append(found.blocks[found.contrast > SHARP * found.contrast.max()])
            points.append(found.whole)
            targets.append(100 * (1 - _ssim(clean, grey)))
    natural, wholes, wanted = np.concatenate(blocks), np.array(points), np.array(targets)
    centre, scale = wholes.mean(axis=0), wholes.std(axis=0)
    told = _left_out(regressors(wholes, centre, scale), wanted, len(files))
    weights, bias = _ridge(regressors(wholes, centre, scale), wanted)
    values: dict[str, Any] = {"mean": natural.mean(axis=0), "covariance": np.cov(natural, rowvar=False)}
    values |= {"centre": centre, "scale": scale, "weights": weights}
    rounded = {name: _rounded(value) for name, value in values.items()}
    correlation = round(float(spearmanr(told, wanted).statistic), 4)
    return {"source": source, "blocks": len(natural), "spearman": correlation, "bias": float(f"{bias:.8g}"), **rounded}


def _ssim(clean: Floats, bad: Floats) -> float:
    compare: Any = structural_similarity  # scikit-image says no types
    return float(compare(clean, bad, data_range=255, gaussian_weights=True, sigma=1.5))


def _ridge(points: Values, wanted: Values) -> tuple[Values, float]:
    middle = points.mean(axis=0)
    away = points - middle
    weights = np.linalg.solve(away.T @ away + RIDGE * np.eye(2 * FEATURES), away.T @ (wanted - wanted.mean()))
    return weights, float(wanted.mean() - middle @ weights)


def _left_out(points: Values, wanted: Values, pictures: int) -> Values:
    """What is foretold of each picture's versions when the others are fitted to."""
    groups = np.repeat(np.arange(pictures), len(wanted) // pictures)
    told = np.empty_like(wanted)
    for number in range(pictures):
        own = groups == number
        weights, bias = _ridge(points[~own], wanted[~own])
        told[own] = points[own] @ weights + bias
    return told


def _rounded(values: Values) -> Any:
    return [float(f"{value:.8g}") for value in values] if values.ndim == 1 else [_rounded(row) for row in values]
