"""A batch: what a training step gets, stacked from samples."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from airpipe.degradations.recipes import Drawn, full_names
from airpipe.pixels import as_floats, channels_first, in_floats
from airpipe.settings.degrading import Recipe

T = TypeVar("T", bound="Tensors")


class Tensors:
    """A dataclass whose tensors move together, those of dataclasses in it as well."""

    def to(self: T, device: torch.device) -> T:
        """Copy to a device and make 8-bit images float32 in [0, 1]."""
        return self._each(lambda tensor: in_floats(tensor.to(device, non_blocking=True)))

    def pin_memory(self: T) -> T:
        """Copy to memory from which a GPU reads by itself; the loader calls this."""
        return self._each(Tensor.pin_memory)

    def _each(self: T, change: Callable[[Tensor], Tensor]) -> T:
        changed: dict[str, Any] = {}
        for entry in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                changed[entry.name] = change(value)
            elif isinstance(value, Tensors):
                changed[entry.name] = value._each(change)
        return replace(self, **changed)  # type: ignore[type-var]


@dataclass(frozen=True)
class DrawnNumbers(Tensors):
    """What was drawn from the recipes of a batch, as numbers. The columns are the same in every batch of a stage."""

    operations: tuple[str, ...] = ()
    """Columns of `applied`: the operations of all recipes of the stage, as `Recipe.names` calls them."""
    parameters: tuple[str, ...] = ()
    """Columns of `values`: `operation.parameter`, see `full_names`."""
    applied: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    """(B, operations) bool: which operations changed the image. None where the list has degraded files."""
    values: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    """(B, parameters) float32, in the parameter's unit; NaN where it was not drawn."""

    def was_applied(self, operation: str) -> Tensor:
        """Whether an operation changed each image, (B,) bool."""
        return self.applied[:, self.operations.index(operation)]

    def value(self, parameter: str) -> Tensor:
        """A parameter of each image, (B,) float32, NaN where it was not drawn."""
        return self.values[:, self.parameters.index(parameter)]

    @classmethod
    def columns(cls, recipes: Iterable[Recipe]) -> "DrawnNumbers":
        """The columns that these recipes have together, in the order in which they are written; no rows."""
        written = list(recipes)
        operations = tuple(dict.fromkeys(name for recipe in written for name in recipe.names))
        names = (name for recipe in written for own in full_names(recipe) for name in own.values())
        parameters = tuple(dict.fromkeys(names))
        return cls(
            operations, parameters, torch.zeros(0, len(operations), dtype=torch.bool), torch.zeros(0, len(parameters))
        )

    def filled(self, rows: Sequence[Drawn]) -> "DrawnNumbers":
        """The same columns with a row for each draw."""
        applied = torch.zeros(len(rows), len(self.operations), dtype=torch.bool)
        values = torch.full((len(rows), len(self.parameters)), torch.nan)
        for row, drawn in enumerate(rows):
            names = full_names(drawn.recipe)
            for step in drawn.effective:
                applied[row, self.operations.index(drawn.recipe.names[step.place])] = True
                for name, value in step.parameters.items():
                    values[row, self.parameters.index(names[step.place][name])] = float(value)
        return replace(self, applied=applied, values=values)


@dataclass(frozen=True)
class Companion(Tensors):
    """Second images, one for each sample: other contents, the same draws, other noise."""

    degraded: Tensor
    """(B, 3, H, W), as in the batch."""
    clean: Tensor
    """(B, 3, H, W), as in the batch."""
    name: list[str]


@dataclass(frozen=True)
class Batch(Tensors):
    """What a training step gets."""

    degraded: Tensor
    """(B, 3, H, W), RGB in [0, 1] once on the device; uint8 before where the part is quantised."""
    clean: Tensor
    """(B, 3, H, W), likewise: what is to come out. It is degraded itself where the part has a `target_recipe`."""
    label: Tensor
    """(B,) int64, degradation class."""
    name: list[str]
    level: list[str]
    """Drawn parameters, as text."""
    slot: tuple[int, ...] = ()
    """Numbers of the samples in the whole training, for random draws that do not depend on the processes."""
    category: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """(B,) int64, class of what the image shows: its place in `TrainingSamples.classes`, -1 where it is unknown."""
    drawn: DrawnNumbers = field(default_factory=DrawnNumbers)
    """What degraded `degraded`."""
    target_drawn: DrawnNumbers = field(default_factory=DrawnNumbers)
    """What degraded `clean`."""
    companion: Companion | None = None
    """Second images with the same draws, where parts ask for them (`companion: true`)."""

    def __post_init__(self) -> None:
        if not len(self.category):
            object.__setattr__(self, "category", torch.full_like(self.label, -1))


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Stack samples; one float image makes all images of its field float."""
    others = [s["companion"] for s in samples if s.get("companion") is not None]
    return Batch(
        degraded=_stack([s["degraded"] for s in samples]),
        clean=_stack([s["clean"] for s in samples]),
        label=torch.tensor([s["label"] for s in samples], dtype=torch.int64),
        name=[s["name"] for s in samples],
        level=[s["level"] for s in samples],
        slot=tuple(s["slot"] for s in samples if "slot" in s),
        category=torch.tensor([s.get("category", -1) for s in samples], dtype=torch.int64),
        drawn=_joined([s["drawn"] for s in samples if "drawn" in s]),
        target_drawn=_joined([s["target_drawn"] for s in samples if "target_drawn" in s]),
        companion=_companions(others) if others else None,
    )


def _companions(samples: Sequence[dict[str, Any]]) -> Companion:
    return Companion(
        degraded=_stack([s["degraded"] for s in samples]),
        clean=_stack([s["clean"] for s in samples]),
        name=[s["name"] for s in samples],
    )


def _joined(rows: Sequence[DrawnNumbers]) -> DrawnNumbers:
    """The rows of all samples; they have the same columns."""
    if not rows:
        return DrawnNumbers()
    return replace(rows[0], applied=torch.cat([r.applied for r in rows]), values=torch.cat([r.values for r in rows]))


def _stack(images: Sequence[npt.NDArray[Any]]) -> Tensor:
    if any(image.dtype != np.uint8 for image in images):
        images = [as_floats(image) for image in images]
    return channels_first(np.stack(images))
