"""Recipes: which degradations in which order, and how their parameters are drawn.

A recipe is data (`recipes:` in config/recipes.yaml), so that every system extends the
list of operations below and writes down its own distributions.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from airpipe.degradations.blur import defocus_blur, motion_blur
from airpipe.degradations.colour import colour_shift
from airpipe.degradations.compression import jpeg
from airpipe.degradations.inpainting import strokes
from airpipe.degradations.lowlight import low_light
from airpipe.degradations.mosaic import mosaic
from airpipe.degradations.noise import FloatImage, gaussian_noise
from airpipe.degradations.weather import haze, rain_streaks, snow
from airpipe.errors import AirpipeError
from airpipe.settings.base import unknown_name
from airpipe.settings.degrading import Draw, Operation

OPERATIONS: dict[str, Callable[..., FloatImage]] = {
    "colour_shift": colour_shift,
    "defocus_blur": defocus_blur,
    "gaussian_noise": gaussian_noise,
    "haze": haze,
    "jpeg": jpeg,
    "low_light": low_light,
    "mosaic": mosaic,
    "motion_blur": motion_blur,
    "rain_streaks": rain_streaks,
    "snow": snow,
    "strokes": strokes,
}
EXPECTED = {float: "a finite number", int: "a whole number", bool: "true or false"}
"""What a parameter of each type takes, in words."""
SUPPLIED = ("depth", "field")
"""Keyword arguments of operations that come with the sample, not from the recipe."""


def check_operations(operations: Iterable[Operation], where: str) -> None:
    """Check that operations exist, get exactly the parameters that they take, and can take all that may be drawn.

    Every end and choice is tried on a small grey image, so that a training run does not meet the first
    impossible value after hours.

    Raises:
        AirpipeError: unknown operation or parameter, a missing parameter, a value of the wrong type or
            one that the operation refuses.
    """
    for operation in operations:
        if operation.operation not in OPERATIONS:
            raise AirpipeError(f"{where}: " + unknown_name(operation.operation, OPERATIONS, "operation"))
        signature = inspect.signature(OPERATIONS[operation.operation]).parameters.values()
        drawn = {p.name: p for p in signature if p.kind is p.KEYWORD_ONLY and p.name not in SUPPLIED}
        for name in operation.parameters:
            if name not in drawn:
                raise AirpipeError(f"{where}, {operation.operation}: " + unknown_name(name, drawn, "parameter"))
        missing = [n for n, p in drawn.items() if p.default is p.empty and n not in operation.parameters]
        if missing:
            raise AirpipeError(f"{where}, {operation.operation}: parameter {missing[0]!r} is missing")
        _check_values(operation, drawn, f"{where}, {operation.operation}")


def _check_values(operation: Operation, drawn: Mapping[str, inspect.Parameter], where: str) -> None:
    possible = {name: _ends(how) for name, how in operation.parameters.items()}
    for name, values in possible.items():
        kind = drawn[name].annotation
        for value in values:
            if kind in EXPECTED and not _fits(value, kind):
                raise AirpipeError(f"{where}: parameter {name!r} is {value!r}; expected {EXPECTED[kind]}")
    first = {name: values[0] for name, values in possible.items()}
    trials = [first] + [{**first, name: value} for name, values in possible.items() for value in values[1:]]
    for trial in trials:
        grey = np.full((32, 32, 3), 0.5, np.float32)
        try:
            OPERATIONS[operation.operation](grey, np.random.default_rng(0), **trial)
        except ValueError as error:
            raise AirpipeError(f"{where}: {error}. Change the recipe") from None


def _ends(how: Draw) -> Sequence[Any]:
    return how.choice or how.uniform or how.integers or (how.constant,)


def _fits(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int) or (kind is float and isinstance(value, float) and math.isfinite(value))


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
    field: FloatImage | None = None,
) -> tuple[FloatImage, dict[str, Any]]:
    """Apply a recipe: each operation draws its parameters, then its randomness, from one generator.

    Args:
        image: clean image, (H, W, 3) float32 in [0, 1].
        operations: in order.
        generator: fixes everything that is drawn.
        depth: relative depth (H, W) in [0, 1] for operations that take one.
        field: standard normal noise (H, W, 3) for operations that take it instead of drawing their own.

    Returns:
        The degraded image (neither clipped nor rounded) and the drawn parameters by name (see `drawn_names`).
    """
    operations = list(operations)
    drawn: dict[str, Any] = {}
    supplied = {name: value for name, value in (("depth", depth), ("field", field)) if value is not None}
    for operation, names in zip(operations, drawn_names(operations), strict=True):
        function = OPERATIONS[operation.operation]
        parameters = {name: draw(how, generator) for name, how in operation.parameters.items()}
        drawn |= {names[name]: value for name, value in parameters.items()}
        taken = {name: value for name, value in supplied.items() if name in inspect.signature(function).parameters}
        image = function(image, generator, **parameters, **taken)
    return image, drawn


def drawn_names(operations: Sequence[Operation]) -> list[dict[str, str]]:
    """For each operation, under which name each of its parameters is written down.

    The parameter's own name, or `operation.parameter` where several operations of the recipe have it, or
    `operation.parameter.2` and so on for an operation that comes again.

    Example:
        A recipe of rain_streaks and motion_blur has `density` and `rain_streaks.length`, `motion_blur.length`.
    """
    uses = Counter(name for operation in operations for name in operation.parameters)
    seen: Counter[str] = Counter()
    named = []
    for operation in operations:
        seen[operation.operation] += 1
        again = f".{seen[operation.operation]}" if seen[operation.operation] > 1 else ""
        full = {name: f"{operation.operation}.{name}{again}" for name in operation.parameters}
        named.append({name: full[name] if uses[name] > 1 else name for name in operation.parameters})
    return named
