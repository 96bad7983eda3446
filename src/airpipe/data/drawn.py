"""Rows of numbers that tell what was drawn from recipes: the same columns for all parts of a mix."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

from airpipe.degradations.recipes import Drawn, full_names
from airpipe.settings.degrading import Recipe


class DrawnColumns:
    """Columns of a mix: the operations and parameters of all its recipes, in the order in which they are written.

    Args:
        recipes: one recipe for each part; empty ones have no columns.
    """

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        self.operations = tuple(dict.fromkeys(name for recipe in recipes for name in recipe.names))
        """Names of the operations, as `Recipe.names` calls them: a task that predicts them has one output for each."""
        named = [full_names(recipe) for recipe in recipes]
        self.parameters = tuple(dict.fromkeys(name for part in named for own in part for name in own.values()))
        """Names of the parameters, `operation.parameter`, see `full_names`."""
        numbers = {name: number for number, name in enumerate(self.parameters)}
        self._operation = [[self.operations.index(name) for name in recipe.names] for recipe in recipes]
        self._parameter = [[{key: numbers[name] for key, name in own.items()} for own in part] for part in named]

    def row(self, part: int, drawn: Drawn) -> "DrawnRow":
        """Return the row of a draw from the recipe of a part, or from an empty recipe."""
        applied, values = [False] * len(self.operations), [nan] * len(self.parameters)
        for step in drawn.effective:
            applied[self._operation[part][step.place]] = True
            for key, column in self._parameter[part][step.place].items():
                value = step.parameters.get(key)  # another form may have been drawn
                values[column] = float(value) if isinstance(value, int | float) else nan  # a word has no number
        return DrawnRow(self, applied, values)


@dataclass(frozen=True)
class DrawnRow:
    """Row of numbers that tells what was drawn for one sample."""

    columns: DrawnColumns
    """Columns that both lists follow."""
    applied: list[bool]
    """Whether each operation changed the image."""
    values: list[float]
    """Value of each parameter in its unit; NaN where it was not drawn, or is no number."""
