"""A batch: what a training step gets, stacked from samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a training step gets."""

    degraded: Tensor
    """(B, 3, H, W), RGB in [0, 1] once on the device; uint8 before where the part is quantised."""
    clean: Tensor
    """(B, 3, H, W), likewise."""
    label: Tensor
    """(B,) int64, degradation class."""
    name: list[str]
    level: list[str]
    """Drawn parameters, as text."""
    slot: tuple[int, ...] = ()
    """Numbers of the samples in the whole training, for random draws that do not depend on the processes."""
    category: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """(B,) int64, class of what the image shows: its place in `TrainingSamples.classes`, -1 where it is unknown."""

    def __post_init__(self) -> None:
        if not len(self.category):
            object.__setattr__(self, "category", torch.full_like(self.label, -1))

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device and make images float32 in [0, 1]."""
        return replace(
            self,
            degraded=_floats(self.degraded.to(device, non_blocking=True)),
            clean=_floats(self.clean.to(device, non_blocking=True)),
            label=self.label.to(device, non_blocking=True),
            category=self.category.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "Batch":
        """Called by the loader when the device is a GPU."""
        return replace(
            self,
            degraded=self.degraded.pin_memory(),
            clean=self.clean.pin_memory(),
            label=self.label.pin_memory(),
            category=self.category.pin_memory(),
        )


def _floats(images: Tensor) -> Tensor:
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Stack samples; one float image makes the whole batch float."""
    return Batch(
        degraded=_stack([s["degraded"] for s in samples]),
        clean=_stack([s["clean"] for s in samples]),
        label=torch.tensor([s["label"] for s in samples], dtype=torch.int64),
        name=[s["name"] for s in samples],
        level=[s["level"] for s in samples],
        slot=tuple(s["slot"] for s in samples if "slot" in s),
        category=torch.tensor([s.get("category", -1) for s in samples], dtype=torch.int64),
    )


def _stack(images: Sequence[npt.NDArray[Any]]) -> Tensor:
    if any(image.dtype != np.uint8 for image in images):
        images = [i.astype(np.float32) / 255 if i.dtype == np.uint8 else i for i in images]
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))
