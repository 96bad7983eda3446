"""A batch: what a training step gets, stacked from samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from airpipe.data.drawn import DrawnRow
from airpipe.pixels import as_floats, channels_first, in_floats

T = TypeVar("T", bound="Tensors")


@dataclass(frozen=True)
class Tensors:
    """A dataclass whose tensors move together, those of dataclasses in it as well."""

    def to(self: T, device: torch.device) -> T:
        """Copy to a device and make 8-bit images float32 in [0, 1]."""
        return self._each(lambda tensor: in_floats(tensor.to(device, non_blocking=True)))

    def pin_memory(self: T) -> T:
        """Copy to page-locked memory, from which a GPU reads by itself; the loader calls this."""
        return self._each(Tensor.pin_memory)

    def _each(self: T, change: Callable[[Tensor], Tensor]) -> T:
        changed: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                changed[entry.name] = change(value)
            elif isinstance(value, Tensors):
                changed[entry.name] = value._each(change)
        return replace(self, **changed)


@dataclass(frozen=True)
class DrawnNumbers(Tensors):
    """Numbers that tell what was drawn from recipes for a batch; columns are the same in every batch of a stage."""

    operations: tuple[str, ...] = ()
    """Names of the columns of `applied`, see `DrawnColumns`."""
    parameters: tuple[str, ...] = ()
    """Names of the columns of `values`, see `DrawnColumns`."""
    applied: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    """Which operations changed each image, (B, operations) bool; none of them where the list has degraded files."""
    values: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    """Value of each parameter in its unit, (B, parameters) float32; NaN where it was not drawn, or is no number."""

    def was_applied(self, operation: str) -> Tensor:
        """Tell whether an operation changed each image, (B,) bool.

        Raises:
            ValueError: no recipe of the stage has this operation.
        """
        return self.applied[:, self.operations.index(operation)]

    def value(self, parameter: str) -> Tensor:
        """Return a parameter of each image, (B,) float32, NaN where it was not drawn.

        Raises:
            ValueError: no recipe of the stage has this parameter.
        """
        return self.values[:, self.parameters.index(parameter)]


@dataclass(frozen=True)
class Companion(Tensors):
    """Second images, one for each sample, from the same list (by chance the same image): equal draws, other noise."""

    degraded: Tensor
    """Degraded images (B, 3, H, W), as in `Batch`."""
    clean: Tensor
    """Target images (B, 3, H, W), as in `Batch`."""
    name: list[str]
    """Name of each image."""


@dataclass(frozen=True)
class Batch(Tensors):
    """One batch, as a training step gets it."""

    degraded: Tensor
    """Degraded images (B, 3, H, W), RGB in [0, 1] once on the device; uint8 before where the part is quantised."""
    clean: Tensor
    """Target images, like `degraded`; they are degraded themselves where the part has a `target_recipe`."""
    label: Tensor
    """Class of each degradation, (B,) int64."""
    name: list[str]
    """Name of each image, unique in its list."""
    level: list[str]
    """Level of each degradation as text: the drawn parameters, or what the list says of a degraded file."""
    slot: tuple[int, ...] = ()
    """Numbers of the samples in the whole training, for random draws that do not depend on the processes."""
    category: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """Class of what each image shows, (B,) int64: its place in `TrainingSamples.classes`, -1 where it is unknown."""
    drawn: DrawnNumbers = field(default_factory=DrawnNumbers)
    """Operations and parameters that made `degraded`."""
    target_drawn: DrawnNumbers = field(default_factory=DrawnNumbers)
    """Operations and parameters that made `clean`, where a part degrades it."""
    companion: Companion | None = None
    """Second images with the same draws, where parts ask for them (`companion: true`)."""

    def __post_init__(self) -> None:
        if not len(self.category):
            # the dataclass is frozen, and this default depends on another field
            object.__setattr__(self, "category", torch.full_like(self.label, -1))


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Stack samples into a batch; one float image makes all images of its field float."""
    others = [s["companion"] for s in samples if s.get("companion") is not None]
    return Batch(
        degraded=_stack([s["degraded"] for s in samples]),
        clean=_stack([s["clean"] for s in samples]),
        label=torch.tensor([s["label"] for s in samples], dtype=torch.int64),
        name=[s["name"] for s in samples],
        level=[s["level"] for s in samples],
        slot=tuple(s["slot"] for s in samples if "slot" in s),
        category=torch.tensor([s.get("category", -1) for s in samples], dtype=torch.int64),
        drawn=_numbers([s["drawn"] for s in samples if "drawn" in s]),
        target_drawn=_numbers([s["target_drawn"] for s in samples if "target_drawn" in s]),
        companion=_companions(others) if others else None,
    )


def _companions(samples: Sequence[dict[str, Any]]) -> Companion:
    return Companion(
        degraded=_stack([s["degraded"] for s in samples]),
        clean=_stack([s["clean"] for s in samples]),
        name=[s["name"] for s in samples],
    )


def _numbers(rows: Sequence[DrawnRow]) -> DrawnNumbers:
    """The rows of all samples; they have the same columns."""
    if not rows:
        return DrawnNumbers()
    columns, count = rows[0].columns, len(rows)
    applied = torch.tensor([row.applied for row in rows], dtype=torch.bool)
    values = torch.tensor([row.values for row in rows], dtype=torch.float32)
    return DrawnNumbers(columns.operations, columns.parameters, applied.view(count, -1), values.view(count, -1))


def _stack(images: Sequence[npt.NDArray[Any]]) -> Tensor:
    if any(image.dtype != np.uint8 for image in images):
        images = [as_floats(image) for image in images]
    return channels_first(np.stack(images))
