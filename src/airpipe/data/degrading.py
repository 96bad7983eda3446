"""Degrading a listed image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from airpipe.data.crops import Rgb8
from airpipe.degradations.noise import FloatImage
from airpipe.degradations.recipes import degrade
from airpipe.settings.degrading import Operation


def quantised(image: FloatImage) -> Rgb8:
    """Clip to [0, 1] and round to 8 bit, half to even."""
    return np.asarray(np.rint(np.clip(image, 0, 1) * np.float32(255)), np.uint8)


def degrade_clean(
    clean: Rgb8,
    operations: Sequence[Operation],
    generator: np.random.Generator,
    depth: FloatImage | None,
    field: FloatImage | None = None,
) -> tuple[FloatImage, dict[str, Any]]:
    """Apply a recipe to an 8-bit image: float32 (H, W, 3), neither clipped nor rounded, and what was drawn."""
    return degrade(np.asarray(clean, np.float32) / np.float32(255), operations, generator, depth, field)
