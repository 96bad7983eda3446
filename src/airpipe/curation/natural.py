"""How natural a picture looks: NIQE and a BRISQUE-type score, both from one set of 36 features.

The features describe luminance after local mean and contrast are taken out: shapes and widths of generalised Gaussian
distributions of its values and of products of neighbours, at two scales. Blocks of 96 pixels give NIQE its
distribution; their mean over the picture gives BRISQUE its point.

- NIQE: the distance of the picture's features from those of natural pictures (A. Mittal, R. Soundararajan,
  A. C. Bovik, Making a "Completely Blind" Image Quality Analyzer, IEEE SPL 2013).
- BRISQUE: a regression from features to how bad the picture is, 0 to 100 (A. Mittal, A. K. Moorthy, A. C. Bovik,
  No-Reference Image Quality Assessment in the Spatial Domain, TIP 2012). The published one was fitted to opinions of
  people on the LIVE data; ours to 100 (1 - SSIM) of pictures that `scripts/fit_quality.py` spoils, as P. Ye, J. Kumar
  and D. Doermann did (Beyond Human Opinion Scores, CVPR 2014), so that it can be given away.

Own code. Reference values are in natural.json, fitted to the 24 pictures of Kodak's PhotoCD, which may be used without
restriction. Known differences: the published model of NIQE is of other pictures, so that thresholds of the literature
do not carry over; the half-size scale averages 2x2 pixels.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import gamma

Floats = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]

BLOCK = 96
"""Side in pixels of the blocks (NIQE's paper)."""
WINDOW, SPREAD = (7, 7), 7 / 6
"""Window and standard deviation in pixels of the Gaussian that gives local mean and contrast (both papers)."""
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Down and right: the neighbours that values are multiplied with (both papers)."""
SHAPES = np.arange(0.2, 10.001, 0.001)
"""Shape parameters that are told apart (both papers' code)."""
RATIOS = gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))
"""Mean absolute value, squared, over mean square, for each shape; it rises."""
FEATURES = 36
CLIP = 4.0
"""Standardised features are cut here: a straight line says nothing far outside of what it was fitted to."""


class Naturalness(NamedTuple):
    """Features of a picture."""

    blocks: Values
    """Features of each block, (n, 36); blocks without texture are left out."""
    contrast: Values
    """Mean local contrast of each of these blocks, in grey levels, (n,)."""
    whole: Values | None
    """Features of all of the picture, (36,); None: it has no texture."""


@dataclass(frozen=True)
class Model:
    """Reference values."""

    mean: Values
    """Mean features of natural blocks, (36,)."""
    covariance: Values
    """Covariance of these features, (36, 36)."""
    centre: Values
    """What is taken off the features before the regression, (36,)."""
    scale: Values
    """What they are divided by then, (36,)."""
    weights: Values
    """Weights of the standardised features, then of their squares, (72,)."""
    bias: float

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Model":
        """Make a model of what natural.json holds."""
        arrays = {name: np.array(values[name]) for name in ("mean", "covariance", "centre", "scale", "weights")}
        return cls(**arrays, bias=float(values["bias"]))


@cache
def reference() -> Model:
    """Reference values that come with the package."""
    return Model.of(json.loads((files("airpipe.curation") / "natural.json").read_text(encoding="utf-8")))


def naturalness(luminance: Floats) -> Naturalness | None:
    """Measure the features of a picture.

    Args:
        luminance: grey values in [0, 255], (H, W); what does not fill a block at the right and bottom is left out.

    Returns:
        None where the picture holds no block.
    """
    rows, columns = luminance.shape[0] // BLOCK, luminance.shape[1] // BLOCK
    if not rows or not columns:
        return None
    fine = np.ascontiguousarray(luminance[: rows * BLOCK, : columns * BLOCK])
    coarse = np.asarray(cv2.resize(fine, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.float32)
    moments, contrasts = zip(*(_moments(one, (columns, rows)) for one in (fine, coarse)), strict=True)
    blocks = np.concatenate([fitted(one) for one in moments], axis=1)
    whole = np.concatenate([fitted(one.mean(axis=0, keepdims=True)) for one in moments], axis=1)[0]
    textured = np.isfinite(blocks).all(axis=1)
    return Naturalness(blocks[textured], contrasts[0][textured], whole if np.isfinite(whole).all() else None)


def _moments(luminance: Floats, grid: tuple[int, int]) -> tuple[Values, Values]:
    """Moments of five maps in each block, (n, 5, 4), and the mean local contrast of each block, (n,).

    What is larger than a processor's cache is made a row of blocks at a time, in half of the time.
    """
    mean = cv2.GaussianBlur(luminance, WINDOW, SPREAD, borderType=cv2.BORDER_REPLICATE)
    square = cv2.GaussianBlur(luminance * luminance, WINDOW, SPREAD, borderType=cv2.BORDER_REPLICATE)
    height, width = luminance.shape
    columns, rows = grid
    bands = [slice(top, top + height // rows) for top in range(0, height, height // rows)]
    # neighbours beyond the rim are those of the other side, as in the published code
    wrapped = np.empty((height + 1, width + 2), np.float32)
    values = wrapped[1:, 1:-1]
    contrasts, moments = [], []
    for band in bands:
        contrast = np.sqrt(np.abs(square[band] - mean[band] * mean[band]))
        values[band] = (luminance[band] - mean[band]) / (contrast + 1)
        contrasts.append(_block_means(contrast, columns))
    wrapped[1:, 0], wrapped[1:, -1] = values[:, -1], values[:, 0]
    wrapped[0] = wrapped[-1]
    for band in bands:
        own = np.ascontiguousarray(values[band])
        near = [
            wrapped[band.start + 1 - down : band.stop + 1 - down, 1 - right : 1 - right + width]
            for down, right in SHIFTS
        ]
        maps = [own, *(own * other for other in near)]
        moments.append([[_block_means(one, columns) for one in _powers(each)] for each in maps])
    found = np.moveaxis(np.array(moments, np.float64), 3, 1)
    return found.reshape(-1, *found.shape[2:]), np.concatenate(contrasts).astype(np.float64)


def _powers(values: Floats) -> list[Floats]:
    """What is averaged: the share of negative values, their squares, all squares, absolute values."""
    negative = np.asarray(values < 0, np.float32)
    square = values * values
    return [negative, square * negative, square, np.abs(values)]


def _block_means(values: Floats, columns: int) -> Floats:
    """Means of the blocks of a row of them."""
    return np.asarray(cv2.resize(values, (columns, 1), interpolation=cv2.INTER_AREA), np.float32).ravel()


def fitted(moments: Values) -> Values:
    """Fit asymmetric generalised Gaussians to the moments of five maps.

    Args:
        moments: of n sets of values and their four products with neighbours, each: share of negative values, mean of
            the squares of negative ones and of all squares, mean absolute value; (n, 5, 4).

    Returns:
        (n, 18): shape and width of the values; shape, mean, left and right width of each product. NaN where there is
        nothing to fit.

    Source: N. Lasmar, Y. Stitou, Y. Berthoumieu, Multiscale skewed heavy tailed model, ICIP 2009.
    """
    negative, left_square, square, absolute = np.moveaxis(moments, 2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = np.sqrt(left_square / negative), np.sqrt((square - left_square) / (1 - negative))
        skew = left / right
        ratio = absolute**2 / square * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
        shape = np.interp(ratio, RATIOS, SHAPES)
        width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
        low, high = left * width, right * width
        centre = (high - low) * gamma(2 / shape) / gamma(1 / shape)
    shape = np.where(np.isfinite(ratio), shape, np.nan)
    own = np.stack([shape[:, 0], (low[:, 0] + high[:, 0]) / 2], axis=1)
    products = np.stack([shape[:, 1:], centre[:, 1:], low[:, 1:], high[:, 1:]], axis=2)
    return np.concatenate([own, products.reshape(len(moments), -1)], axis=1)


def niqe(found: Naturalness, model: Model) -> float | None:
    """Distance from natural pictures, from 0, smaller is better; None with fewer than two blocks that have texture."""
    if len(found.blocks) < 2:
        return None
    away = found.blocks.mean(axis=0) - model.mean
    spread = (np.cov(found.blocks, rowvar=False) + model.covariance) / 2
    return float(np.sqrt(max(0.0, away @ np.linalg.pinv(spread) @ away)))


def brisque(found: Naturalness, model: Model) -> float | None:
    """How bad a picture is, about 0 to 100, smaller is better; None where it has no texture."""
    if found.whole is None:
        return None
    return float(regressors(found.whole, model.centre, model.scale) @ model.weights + model.bias)


def regressors(whole: Values, centre: Values, scale: Values) -> Values:
    """Standardised features and their squares, (..., 36) becomes (..., 72)."""
    standard = np.clip((whole - centre) / scale, -CLIP, CLIP)
    return np.concatenate([standard, standard**2], axis=-1)
