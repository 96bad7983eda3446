"""DSRIR's progressive training: patches grow over four phases, batches shrink, and each phase ends with an epoch.

Source: xfwang23/DSRIR `utils/get_epoch_chg.py`, `train.sh`. Imports no torch: Snakemake reads it at every start.
"""

import math

from pydantic import Field, NonNegativeInt, PositiveInt

from airpipe.settings.base import Settings
from airpipe.settings.stages import Phase


class Stretch(Settings):
    """A phase before it is known how many images there are."""

    iterations: PositiveInt = Field(description="Steps that the phase is meant to have.")
    patch_size: PositiveInt = Field(description="Crop side in pixels.")
    batch_size: PositiveInt = Field(description="Samples per optimizer step, over all devices.")


PUBLISHED = (
    Stretch(iterations=128_000, patch_size=128, batch_size=16),
    Stretch(iterations=112_000, patch_size=160, batch_size=14),
    Stretch(iterations=96_000, patch_size=192, batch_size=12),
    Stretch(iterations=64_000, patch_size=256, batch_size=8),
)
"""The phases of all four published modes: 400,000 steps."""


class Progression(Settings):
    """Phases of whole epochs, derived from the number of samples in an epoch.

    Published: all_in_one 15,144 rows, noise 5,144 (counted as 5,244, a typo that takes 400 images for 500), rain and
    haze 5,000 each; one row is lost, because the reader takes it for a header.
    """

    rows: PositiveInt = Field(
        description="Rows of all data parts: the images of each, times its `repeat`. Where all parts have one, a run "
        "whose lists have another number is refused."
    )
    lost_rows: NonNegativeInt = Field(0, description="Rows that an epoch leaves out. Source: code, 1.")
    counted_rows: PositiveInt | None = Field(
        None,
        description="Samples that the lengths of the phases are computed with, where those are others; none: rows.",
    )
    stretches: tuple[Stretch, ...] = Field(PUBLISHED, min_length=1, description="Source: code.")

    @property
    def read_rows(self) -> int:
        """Samples in an epoch."""
        return self.rows - self.lost_rows

    def epochs(self) -> list[int]:
        """Return the epochs of each phase: as many whole ones as its iterations allow.

        Raises:
            ValueError: a phase has not one, or an epoch not one batch.
        """
        counted = self.counted_rows or self.rows
        found = []
        for stretch in self.stretches:
            # a division of real numbers, floored once, as published: whole batches would give more epochs
            epochs = math.floor(stretch.iterations / (counted / stretch.batch_size))
            if not epochs or self.read_rows < stretch.batch_size:
                raise ValueError(
                    f"{stretch.iterations} iterations of {stretch.batch_size} samples are less than an epoch of "
                    f"{counted}, or {self.read_rows} rows less than a batch; change the iterations or the batch_size"
                )
            found.append(epochs)
        return found

    def phases(self) -> tuple[Phase, ...]:
        """Return the phases; the last samples of an epoch that fill no batch are left out, as published.

        Raises:
            ValueError: as `epochs`.
        """
        found = []
        for epochs, stretch in zip(self.epochs(), self.stretches, strict=True):
            steps = self.read_rows // stretch.batch_size
            sizes = {"patch_size": stretch.patch_size, "batch_size": stretch.batch_size}
            found.append(Phase(steps=epochs * steps, epoch_steps=steps, **sizes))
        return tuple(found)
