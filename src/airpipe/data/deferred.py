"""Samples that are degraded later: the loader draws and cuts, the device that trains degrades the whole batch.

What is drawn (crops, operations, parameters) is the same; the noise has the same distribution and other bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from airpipe.data.batch import Batch, collate
from airpipe.data.degrading import check_not_paired
from airpipe.degradations.batched import BATCHED, Sizes, Work, apply_batched, cut
from airpipe.degradations.recipes import GRID, Drawn, draw, needed
from airpipe.pixels import Box, Layer, channels_first, in_floats, levels, of_levels, whole
from airpipe.settings.degrading import Recipe
from airpipe.settings.stages import DataPart

EMPTY = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Undegraded:
    """A patch that is not degraded yet."""

    window: npt.NDArray[Any]
    """All that the patch depends on, of the clean image: uint8 (h, w, 3)."""
    box: Box
    """Where the patch lies in the window."""
    work: Work
    """What is to be done to the window."""
    quantise: bool
    """Whether to clip and round the patch to 8 bit."""


def why_not(parts: Sequence[DataPart]) -> str | None:
    """Say why samples of these parts cannot be degraded later; None: they can."""
    for part in parts:
        operations = part.operations.operations
        names = {step.operation for step in (*operations, *part.target_operations.operations)}
        if others := sorted(names - set(BATCHED)):
            return f"{part.pairs}: {', '.join(others)} cannot be applied to batches"
        if part.quantise == "truncate":
            return f"{part.pairs}: its degraded images are truncated to 8 bit"
        if part.noise_seed == "image":
            return f"{part.pairs}: its noise is seeded by image"
        if len(operations) > 1 and not part.shares_draws and part.operations.composition == "chain":
            return f"{part.pairs}: what is drawn for an operation depends on the noise of the one before"
    return None


def undegraded_image(
    layers: Sequence[Layer],
    paired: bool,
    how: Recipe | Drawn,
    generator: np.random.Generator,
    *,
    where: str,
    name: str,
    field: None = None,
    quantise: bool = True,
    box: Box | None = None,
) -> tuple[Undegraded, Drawn]:
    """Cut out what `degrading.degraded_image` would degrade, with the same arguments.

    Args:
        generator: draws from a recipe, and then the seed of the noise.
        field: never given, see `why_not`.
    """
    check_not_paired(paired, how, where, name)
    layer, box = layers[1 if paired else 0], box or whole(layers[0])
    drawn = Drawn(Recipe(), ()) if paired else how if isinstance(how, Drawn) else draw(how, generator)
    seed = int(generator.integers(2**63)) if drawn.steps else 0
    # the squares of JPEG begin in the corner of the window
    grid = lcm(*(GRID.get(drawn.recipe.operations[step.place].operation, 1) for step in drawn.effective))
    seen = [slice(one.start // grid * grid, one.stop) for one in needed(drawn, box, layer.shape)[0]]
    inside = [slice(b.start - s.start, b.stop - s.start) for b, s in zip(box, seen, strict=True)]
    rows, columns = seen
    return Undegraded(layer[rows, columns], (inside[0], inside[1]), Work.of(drawn, seed), quantise), drawn


@dataclass(frozen=True)
class DeferredBatch:
    """A batch whose images are degraded on the device that it is moved to."""

    batch: Batch
    """All but the images, which are empty."""
    windows: Tensor
    """Clean images (N, 3, H, W) uint8, each in the upper left of its frame: those of `Batch.degraded`, of `Batch.clean`
    and, where there are companions, theirs."""
    sizes: Sizes
    """Height and width of each window."""
    boxes: tuple[Box, ...]
    """Where the patch lies in each window."""
    work: tuple[Work, ...]
    """What is to be done to each window."""
    quantise: Tensor
    """Whether to clip and round each patch to 8 bit, (N,) bool."""

    def pin_memory(self) -> "DeferredBatch":
        """Copy to page-locked memory, from which a GPU reads by itself; the loader calls this."""
        return replace(self, batch=self.batch.pin_memory(), windows=self.windows.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """Copy to a device and degrade there; images are float32, in [0, 1] where they are quantised."""
        windows = self.windows.to(device, non_blocking=True).contiguous()  # degradations work on whole channels
        images = apply_batched(in_floats(windows), self.sizes, self.work)
        rows, columns = self.boxes[0]
        side = (rows.stop - rows.start, columns.stop - columns.start)
        patches = cut(images, [(rows.start, columns.start) for rows, columns in self.boxes], side)
        patches = torch.where(self.quantise.to(device)[:, None, None, None], of_levels(levels(patches)), patches)
        degraded, clean, *others = torch.split(patches, len(self.batch.name))
        batch = replace(self.batch.to(device), degraded=degraded, clean=clean)
        if batch.companion is None:
            return batch
        return replace(batch, companion=replace(batch.companion, degraded=others[0], clean=others[1]))


def collate_deferred(samples: Sequence[dict[str, Any]]) -> DeferredBatch:
    """Stack samples into a batch that is degraded later; images without work are arrays."""
    others = [s["companion"] for s in samples if s.get("companion") is not None]
    images = [_undegraded(s[side]) for some in (samples, others) for side in ("degraded", "clean") for s in some]
    sizes = [one.window.shape[:2] for one in images]
    frames = np.zeros((len(images), *np.max(sizes, 0), 3), np.uint8)
    for frame, (height, width), one in zip(frames, sizes, images, strict=True):
        frame[:height, :width] = one.window
    empty = {"degraded": EMPTY, "clean": EMPTY}
    bare = [{**s, **empty, "companion": {**s["companion"], **empty} if s.get("companion") else None} for s in samples]
    return DeferredBatch(
        batch=collate(bare),
        windows=channels_first(frames),
        sizes=[(height, width) for height, width in sizes],
        boxes=tuple(one.box for one in images),
        work=tuple(one.work for one in images),
        quantise=torch.tensor([one.quantise for one in images]),
    )


def _undegraded(image: npt.NDArray[Any] | Undegraded) -> Undegraded:
    """An image of a sample; there is nothing to do to an array."""
    if isinstance(image, Undegraded):
        return image
    return Undegraded(image, whole(image), Work((), False, 0), False)
