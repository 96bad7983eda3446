"""Recipes: which degradations in which order, and how their parameters are drawn.

A recipe is data (`recipes:` in config/recipes.yaml), so that every system extends the list of operations below and
writes down its own distributions. What is drawn and how it is applied are apart: two images can share a draw, and each
has its own noise (`draw`, then `apply` twice).
"""

import functools
import inspect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from airpipe.degradations.blur import defocus_blur, gaussian_blur, motion_blur
from airpipe.degradations.cells import corrupted_cells
from airpipe.degradations.colour import colour_shift
from airpipe.degradations.compression import jpeg
from airpipe.degradations.inpainting import strokes
from airpipe.degradations.lowlight import low_light
from airpipe.degradations.mosaic import mosaic
from airpipe.degradations.noise import gaussian_noise, poisson_noise, speckle_noise
from airpipe.degradations.weather import haze, rain_streaks, snow
from airpipe.errors import AirpipeError
from airpipe.pixels import Box, FloatImage, Layer, as_floats, whole
from airpipe.settings.base import shown, unknown_name
from airpipe.settings.degrading import Draw, Operation, Recipe

OPERATIONS: dict[str, Callable[..., FloatImage]] = {
    "colour_shift": colour_shift,
    "corrupted_cells": corrupted_cells,
    "defocus_blur": defocus_blur,
    "gaussian_blur": gaussian_blur,
    "gaussian_noise": gaussian_noise,
    "haze": haze,
    "jpeg": jpeg,
    "low_light": low_light,
    "mosaic": mosaic,
    "motion_blur": motion_blur,
    "poisson_noise": poisson_noise,
    "rain_streaks": rain_streaks,
    "snow": snow,
    "speckle_noise": speckle_noise,
    "strokes": strokes,
}
"""Operations that recipes name; each takes an image, a generator, and its parameters by keyword."""
EXPECTED = {float: "a finite number", int: "a whole number", bool: "true or false"}
"""Values that a parameter of each type takes, in words."""
SUPPLIED = ("depth", "field")
"""Keyword arguments of operations that come with the sample, not from the recipe."""
REACH: dict[str, Callable[..., int]] = {
    "defocus_blur": lambda diameter: math.ceil(diameter / 2),
    "gaussian_blur": lambda kernel_size, **_: kernel_size // 2,
    "jpeg": lambda **_: 2,  # the decoder mixes neighbouring values of the colour channels, which lie 2 pixels apart
    "mosaic": lambda **_: 2,
    "motion_blur": lambda length, angle: math.ceil((length + 1) / 2),
}
"""Distance in pixels over which an operation with these parameters mixes values; others change each pixel alone."""
WHOLE = frozenset({"corrupted_cells"})
"""Operations that divide the whole image, so that they cannot degrade a part of it alike."""
GRID = {"jpeg": 16, "mosaic": 2}
"""Side in pixels of the squares that an operation lays over the image from its corner, and treats as one."""

_PASSED = set[str]()
"""Operations with parameters that they took in this process: recipes repeat each other, and every start checks them."""


@dataclass(frozen=True)
class Step:
    """One operation that is applied, with its drawn parameters."""

    place: int
    """Index of the operation in `Recipe.operations`."""
    parameters: dict[str, Any]
    """Drawn value of each parameter, by its name."""


@dataclass(frozen=True)
class Drawn:
    """Draw from a recipe, which can be applied to any number of images."""

    recipe: Recipe
    """Recipe that was drawn from."""
    steps: tuple[Step, ...]
    """Drawn operations, in the order of their application."""

    @property
    def effective(self) -> tuple[Step, ...]:
        """The steps that change the result: all of a chain, one of composition `last`."""
        return self.steps[-1:] if self.recipe.composition == "last" else self.steps

    def label(self) -> str:
        """Name the operations that change the result, as the recipe orders them: `gaussian_blur+jpeg`, or `clean`."""
        places = {step.place for step in self.effective}
        return "+".join(name for place, name in enumerate(self.recipe.names) if place in places) or "clean"

    def named(self) -> dict[str, Any]:
        """Return the parameters of the effective steps by name (see `drawn_names`), in the order of application."""
        names = drawn_names(self.recipe)
        return {names[s.place][name]: value for s in self.effective for name, value in s.parameters.items()}


def check_operations(recipe: Recipe, where: str) -> None:
    """Check a recipe: its operations exist, get the parameters that they take, and can take all that may be drawn.

    Every end and choice is tried on a small grey image, so that a training run does not meet the first
    impossible value after hours.

    Args:
        recipe: the recipe.
        where: what it belongs to, for messages.

    Raises:
        AirpipeError: unknown operation or parameter, a missing parameter, a value of the wrong type or
            one that the operation refuses.
    """
    for operation in recipe.operations:
        if operation.operation not in OPERATIONS:
            raise AirpipeError(f"{where}: " + unknown_name(operation.operation, OPERATIONS, "operation"))
        signature = _takes(OPERATIONS[operation.operation]).values()
        drawn = {p.name: p for p in signature if p.kind is p.KEYWORD_ONLY and p.name not in SUPPLIED}
        for name in operation.names:
            if name not in drawn:
                raise AirpipeError(f"{where}, {operation.operation}: " + unknown_name(name, drawn, "parameter"))
        for parameters in operation.possible:
            missing = [n for n, p in drawn.items() if p.default is p.empty and n not in parameters]
            if missing:
                raise AirpipeError(f"{where}, {operation.operation}: parameter {missing[0]!r} is missing")
            _check_values(operation.operation, parameters, drawn, f"{where}, {operation.operation}")


def _check_values(
    operation: str, parameters: Mapping[str, Draw], drawn: Mapping[str, inspect.Parameter], where: str
) -> None:
    possible = {name: _ends(how) for name, how in parameters.items()}
    for name, values in possible.items():
        kind = drawn[name].annotation
        for value in values:
            if kind in EXPECTED and not _fits(value, kind):
                raise AirpipeError(f"{where}: parameter {name!r} is {shown(value)}; expected {EXPECTED[kind]}")
    first = {name: values[0] for name, values in possible.items()}
    # one parameter leaves its first value at a time: all combinations would be too many
    trials = [first] + [{**first, name: value} for name, values in possible.items() for value in values[1:]]
    for trial in trials:
        try:
            _try(operation, trial)
        except ValueError as error:
            raise AirpipeError(f"{where}: {error}. Change the recipe") from None


def _try(operation: str, trial: Mapping[str, Any]) -> None:
    named = f"{operation} {trial!r}"
    if named not in _PASSED:
        OPERATIONS[operation](np.full((32, 32, 3), 0.5, np.float32), np.random.default_rng(0), **trial)
        _PASSED.add(named)


def _ends(how: Draw) -> Sequence[Any]:
    ends = how.choice or how.uniform or how.log_uniform or how.integers or (how.constant,)
    return ends if how.size is None else [(end,) * how.size for end in ends]


def _fits(value: Any, kind: type) -> bool:
    # in Python a bool is an int; in a recipe `true` is no number
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int) or (kind is float and isinstance(value, float) and math.isfinite(value))


def draw_parameter(how: Draw, generator: np.random.Generator) -> Any:
    """Draw one parameter; a constant draws nothing from the generator."""
    if how.size is not None:
        return tuple(_drawn_value(how, generator) for _ in range(how.size))
    return _drawn_value(how, generator)


def _drawn_value(how: Draw, generator: np.random.Generator) -> Any:
    if how.choice is not None:
        return how.choice[int(generator.integers(len(how.choice)))]
    if how.uniform is not None:
        return float(generator.uniform(*how.uniform))
    if how.log_uniform is not None:
        # base 10 belongs to the contract: another base rounds to other values
        return float(10 ** generator.uniform(*np.log10(how.log_uniform)))
    if how.integers is not None:
        return int(generator.integers(how.integers[0], how.integers[1], endpoint=True))
    return how.constant


def draw(recipe: Recipe, generator: np.random.Generator) -> Drawn:
    """Draw operations, their order and their parameters, without an image.

    Args:
        recipe: operations and distributions.
        generator: fixes the draw; what operations draw by themselves (noise, places of drops) comes in `apply`.
    """
    return Drawn(recipe, tuple(_steps(recipe, generator)))


def apply(
    image: Layer,
    drawn: Drawn,
    generator: np.random.Generator,
    depth: Layer | None = None,
    field: Layer | None = None,
    box: Box | None = None,
) -> FloatImage:
    """Degrade an image by operations and parameters that were drawn before.

    Args:
        image: clean image, (H, W, 3), float32 in [0, 1] or 8 bit.
        drawn: result of `draw`.
        generator: fixes what the operations draw by themselves.
        depth: relative depth (H, W) in [0, 1] for operations that take one.
        field: standard normal noise (H, W, 3) for operations that take it instead of drawing their own.
        box: part that is wanted; the result is this part of the degraded image, but no more of the image is degraded
            than it depends on (see `REACH` and `GRID`). None: the whole image.

    Returns:
        The degraded image or part (not rounded; clipped only where the recipe says so).
    """
    boxes = needed(drawn, box or whole(image), image.shape)
    result = as_floats(image[boxes[0]])
    for step, (seen, wanted) in zip(drawn.effective, itertools.pairwise(boxes), strict=True):
        supplied = {
            name: layer if layer is None else layer[seen] for name, layer in (("depth", depth), ("field", field))
        }
        result = _applied(result, drawn.recipe, step, generator, supplied)
        rows, columns = (slice(w.start - s.start, w.stop - s.start) for w, s in zip(wanted, seen, strict=True))
        result = result[rows, columns]
    return result


def needed(drawn: Drawn, box: Box, shape: tuple[int, ...]) -> list[Box]:
    """Parts of an image of this shape that the effective steps must see, one after the other, to be right in a box.

    Returns:
        One more than there are steps: the box itself is the last.
    """
    boxes = [box]
    for step in reversed(drawn.effective):
        boxes.insert(0, _seen(boxes[0], drawn.recipe.operations[step.place].operation, step, shape))
    return boxes


def _seen(box: Box, operation: str, step: Step, shape: tuple[int, ...]) -> Box:
    """Part of an image of this shape that an operation must see to be right in a box."""
    reach, grid = REACH[operation](**step.parameters) if operation in REACH else 0, GRID.get(operation, 1)
    rows, columns = (
        slice(max(0, (one.start - reach) // grid * grid), min(side, -(-(one.stop + reach) // grid) * grid))
        for one, side in zip(box, shape, strict=False)
    )
    return rows, columns


def degrade(
    image: FloatImage,
    recipe: Recipe,
    generator: np.random.Generator,
    depth: FloatImage | None = None,
    field: FloatImage | None = None,
) -> tuple[FloatImage, Drawn]:
    """Draw from a recipe and degrade one image, all from one generator.

    Args:
        image, depth, field: see `apply`.
        recipe: operations and distributions.
        generator: fixes everything that is drawn.

    Returns:
        The degraded image (not rounded; clipped only where the recipe says so), and what was drawn.
    """
    # The order of draws is a contract: another one gives other pixels for the same seed. Of a chain, every operation
    # draws its parameters and then its randomness, before the next one draws anything: the steps come one by one here.
    # Of composition `last` everything is drawn first, because the last step is not known before.
    if recipe.composition == "last":
        drawn = draw(recipe, generator)
        return apply(image, drawn, generator, depth, field), drawn
    supplied, steps = {"depth": depth, "field": field}, list[Step]()
    for step in _steps(recipe, generator):
        image = _applied(image, recipe, step, generator, supplied)
        steps.append(step)
    return image, Drawn(recipe, tuple(steps))


def _steps(recipe: Recipe, generator: np.random.Generator) -> Iterator[Step]:
    """Steps in the order of their application; each is drawn when it is asked for.

    Draws, in this order (a contract, see `degrade`): whether there is nothing, whether all is shuffled, the
    permutation of all or one per group, then for each operation its chance and, if it is applied, its form and its
    parameters as written. What is certain is not drawn.
    """
    if recipe.nothing and generator.random() < recipe.nothing:
        return
    for place in _order(recipe, generator):
        operation = recipe.operations[place]
        if operation.chance == 1 or generator.random() < operation.chance:
            parameters = _form(operation, generator)
            yield Step(place, {name: draw_parameter(how, generator) for name, how in parameters.items()})


def _form(operation: Operation, generator: np.random.Generator) -> Mapping[str, Draw]:
    """Parameters of the form that this draw takes."""
    if not operation.forms:
        return operation.parameters
    ends = np.cumsum([form.share for form in operation.forms])
    return operation.possible[int(np.searchsorted(ends, generator.random() * ends[-1], "right"))]


def _order(recipe: Recipe, generator: np.random.Generator) -> list[int]:
    """Places of the operations in the order of this draw."""
    if recipe.shuffle and generator.random() < recipe.shuffle:
        return [int(place) for place in generator.permutation(len(recipe.operations))]
    order = list(range(len(recipe.operations)))
    for group in recipe.groups:
        # a group keeps its places in the chain; which operation stands at which of them is drawn
        places = sorted(recipe.names.index(name) for name in group)
        for place, other in zip(places, generator.permutation(places), strict=True):
            order[place] = int(other)
    return order


def _applied(
    image: FloatImage,
    recipe: Recipe,
    step: Step,
    generator: np.random.Generator,
    supplied: Mapping[str, FloatImage | None],
) -> FloatImage:
    function = OPERATIONS[recipe.operations[step.place].operation]
    given = {key: value for key, value in supplied.items() if value is not None and key in _takes(function)}
    changed = function(image, generator, **step.parameters, **given)
    return np.clip(changed, 0, 1) if recipe.clip else changed


@functools.cache
def _takes(function: Callable[..., FloatImage]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


@functools.cache
def defaults(operation: str) -> Mapping[str, Any]:
    """Default values of an operation's parameters, of those that have one and are not `SUPPLIED`."""
    known = _takes(OPERATIONS[operation]).values()
    return {p.name: p.default for p in known if p.default is not p.empty and p.name not in SUPPLIED}


def full_names(recipe: Recipe) -> list[dict[str, str]]:
    """Return, for each operation, the full name of each of its parameters.

    A full name is `operation.parameter`, or `operation.parameter.2` and so on for an operation that comes again.
    """
    named = []
    for name, operation in zip(recipe.names, recipe.operations, strict=True):
        again = name.removeprefix(operation.operation)
        named.append({key: f"{operation.operation}.{key}{again}" for key in operation.names})
    return named


def drawn_names(recipe: Recipe) -> list[dict[str, str]]:
    """Return, for each operation, the name under which each of its parameters is written down.

    It is the parameter's own name, or its full one where several operations of the recipe have it.

    Example:
        A recipe of rain_streaks and motion_blur has `density` and `rain_streaks.length`, `motion_blur.length`.
    """
    uses = Counter(name for operation in recipe.operations for name in operation.names)
    return [
        {key: name if uses[key] > 1 else key for key, name in parameters.items()} for parameters in full_names(recipe)
    ]
