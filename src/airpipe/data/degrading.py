"""Degrading a listed image: the one way for samples, tests, recognition and features."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from airpipe.degradations.recipes import Drawn, apply, degrade
from airpipe.errors import AirpipeError
from airpipe.pixels import Box, FloatImage, Layer, as_floats, quantised, whole
from airpipe.settings.degrading import Recipe


def degraded_image(
    layers: Sequence[Layer],
    paired: bool,
    how: Recipe | Drawn,
    generator: np.random.Generator,
    *,
    where: str,
    name: str,
    field: FloatImage | None = None,
    quantise: bool | Literal["truncate"] = True,
    box: Box | None = None,
) -> tuple[npt.NDArray[Any], Drawn]:
    """Take the degraded file of a listed image, or degrade its clean one.

    Args:
        layers: [clean], [clean, degraded] or [clean, depth], equally large (see `pair_layers`).
        paired: whether there is a degraded file.
        how: a recipe to draw from, or what was drawn from one; an empty one leaves the image as it is.
        generator: fixes everything that is drawn here.
        where: what asks, and its recipe, for messages.
        name: name of the image, for messages.
        field: standard normal noise (H, W, 3) for operations that take it instead of drawing their own.
        quantise: whether to clip and round what a recipe gives to 8 bit, as a file would be; truncate drops the
            fraction instead.
        box: part that is wanted; where `how` was drawn before, it is degraded with its surroundings, see `apply`. None:
            the whole image.

    Returns:
        (H, W, 3) uint8, or float32 (neither clipped nor rounded) where a recipe is not quantised; and what was drawn.

    Raises:
        AirpipeError: a recipe for an image that has a degraded file.
    """
    check_not_paired(paired, how, where, name)
    box = box or whole(layers[0])
    if paired:
        return layers[1][box], Drawn(Recipe(), ())
    # without a degraded file, a second layer is the depth
    depth = layers[1] if layers[1:] else None
    if isinstance(how, Drawn):
        image, drawn = apply(layers[0], how, generator, depth, field, box), how
    else:
        clean, depth = as_floats(layers[0][box]), depth if depth is None else depth[box]
        image, drawn = degrade(clean, how, generator, depth, field)
    return quantised(image, truncate=quantise == "truncate") if quantise else image, drawn


def check_not_paired(paired: bool, how: Recipe | Drawn, where: str, name: str) -> None:
    """Refuse a recipe for an image that has a degraded file; for the arguments see `degraded_image`."""
    if paired and (how.recipe if isinstance(how, Drawn) else how):
        raise AirpipeError(
            f"{where} is for clean images, but {name} has a degraded file. Leave the recipe out to take the file, or "
            "name a list of clean images"
        )
