"""Recipes: which degradations in which order, and how their parameters are drawn.

A recipe is data (`recipes:` in config/recipes.yaml), so that every system extends the
list of operations below and writes down its own distributions.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from airpipe.degradations.blur import motion_blur
from airpipe.degradations.lowlight import low_light
from airpipe.degradations.noise import FloatImage, gaussian_noise
from airpipe.degradations.weather import haze, rain_streaks
from airpipe.errors import AirpipeError
from airpipe.settings import Draw, Operation, unknown_name

OPERATIONS: dict[str, Callable[..., FloatImage]] = {
    "gaussian_noise": gaussian_noise,
    "haze": haze,
    "low_light": low_light,
    "motion_blur": motion_blur,
    "rain_streaks": rain_streaks,
}


def check_operations(operations: Iterable[Operation], where: str) -> None:
    """Check that operations exist and get exactly the parameters that they take.

    Raises:
        AirpipeError: unknown operation or parameter, or a missing parameter.
    """
    for operation in operations:
        if operation.operation not in OPERATIONS:
            raise AirpipeError(f"{where}: " + unknown_name(operation.operation, OPERATIONS, "operation"))
        signature = inspect.signature(OPERATIONS[operation.operation]).parameters.values()
        drawn = {p.name: p for p in signature if p.kind is p.KEYWORD_ONLY and p.name != "depth"}
        for name in operation.parameters:
            if name not in drawn:
                raise AirpipeError(f"{where}, {operation.operation}: " + unknown_name(name, drawn, "parameter"))
        missing = [n for n, p in drawn.items() if p.default is p.empty and n not in operation.parameters]
        if missing:
            raise AirpipeError(f"{where}, {operation.operation}: parameter {missing[0]!r} is missing")


def draw(how: Draw, generator: np.random.Generator) -> Any:
    """Draw one parameter."""
    if how.choice is not None:
        return how.choice[int(generator.integers(len(how.choice)))]
    if how.uniform is not None:
        return float(generator.uniform(*how.uniform))
    if how.integers is not None:
        return int(generator.integers(how.integers[0], how.integers[1], endpoint=True))
    return how.constant


def degrade(
    image: FloatImage,
    operations: Iterable[Operation],
    generator: np.random.Generator,
    depth: FloatImage | None = None,
) -> tuple[FloatImage, dict[str, Any]]:
    """Apply a recipe: each operation draws its parameters, then its randomness, from one generator.

    Args:
        image: clean image, (H, W, 3) float32 in [0, 1].
        operations: in order.
        generator: fixes everything that is drawn.
        depth: relative depth (H, W) in [0, 1] for operations that take one.

    Returns:
        The degraded image (neither clipped nor rounded) and the drawn parameters by name.
    """
    drawn: dict[str, Any] = {}
    for operation in operations:
        function = OPERATIONS[operation.operation]
        parameters = {name: draw(how, generator) for name, how in operation.parameters.items()}
        drawn |= parameters
        if depth is not None and "depth" in inspect.signature(function).parameters:
            parameters["depth"] = depth
        image = function(image, generator, **parameters)
    return image, drawn
