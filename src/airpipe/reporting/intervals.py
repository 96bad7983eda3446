"""Bootstrap intervals of means over images, and of paired differences between two models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from airpipe.reporting.table import Values, counted

DRAWS = 2000
"""Bootstrap samples."""
SEED = 0
"""Seed of the draws: equal scores give equal intervals."""
LEVEL = 0.95
"""Share of experiments whose interval should hold the true mean."""


@dataclass(frozen=True)
class Sampled:
    """What was measured on one list of images."""

    images: str
    """Names the list: measurements on the same images are resampled together."""
    values: Values
    """One value per image, (n,), in an order that all measurements of that list share."""
    weight: float = 1.0
    """How much the mean of this list counts in the mean over lists; relative."""

    @property
    def counted(self) -> Values:
        """The values that count in means."""
        return counted(self.values)


def mean(parts: Sequence[Sampled]) -> float:
    """Weighted mean over lists of the mean over images; infinite values (equal images) count only where all are."""
    total = sum(part.weight for part in parts)
    return float(sum(part.weight * part.counted.mean() for part in parts) / total)


def interval(parts: Sequence[Sampled]) -> tuple[float, float]:
    """Bootstrap interval of `mean(parts)` over other images like these.

    Images are drawn with replacement; parts of one list use the same draws, since an easy photograph is easy at every
    noise level. Percentiles are widened for small n, as n - 1 degrees of freedom ask for (Hesterberg, The American
    Statistician 69(4), 2015, section 5.3, "expanded percentile").

    Returns:
        Lower and upper end; NaN for fewer than two images that count, or where all are infinite.
    """
    smallest = min(len(part.counted) for part in parts)
    if smallest < 2 or not all(np.isfinite(part.counted).all() for part in parts):
        return math.nan, math.nan
    keys = [(part.images, np.isfinite(part.values).tobytes()) for part in parts]
    counts = {key: len(part.counted) for key, part in zip(keys, parts, strict=True)}
    drawn = dict(zip(counts, _draws(tuple(counts.values())), strict=True))
    total, found = sum(part.weight for part in parts), np.zeros(DRAWS)
    for key, part in zip(keys, parts, strict=True):
        found += part.weight / total * (drawn[key] @ part.counted)
    tail = _tail(smallest)
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


@lru_cache(maxsize=4)
def _draws(counts: tuple[int, ...]) -> tuple[Values, ...]:
    """Shares with which each image of some lists is drawn, (DRAWS, count) of each list; the same for equal counts."""
    generator = np.random.default_rng(SEED)
    return tuple(generator.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count for count in counts)


def _tail(n: int) -> float:
    """Share of the draws beyond each end."""
    wide = math.sqrt(n / (n - 1)) * special.stdtrit(n - 1, (1 + LEVEL) / 2)
    return float(special.ndtr(-wide))
