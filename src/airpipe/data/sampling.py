"""Stateless sampling: what is trained on at step t is a function of (seed, t) alone.

Slot s is the s-th sample of the whole run. It belongs to one part of the mix (a fixed
interleaving that keeps the shares exactly), to one image of that part (a seeded permutation
per pass over the part) and to one phase. Worker count, prefetch, world size and resume
change nothing, and there is no sampler state to store.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import gcd
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from airpipe.errors import AirpipeError
from airpipe.settings import Phase


class SampleKey(NamedTuple):
    """All that fixes one training sample, beside the seed."""

    slot: int
    part: int
    image: int
    patch_size: int


@lru_cache(maxsize=64)
def _permutation(seed: int, part: int, epoch: int, length: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, part, epoch]).permutation(length)


def interleave(shares: Sequence[float]) -> list[int]:
    """The shortest periodic order of parts that keeps the shares, each part spread evenly.

    Args:
        shares: relative shares, positive; rounded to thousandths of the largest.

    Raises:
        AirpipeError: a share below half a thousandth of the largest.

    Example:
        >>> interleave([2, 1])
        [0, 1, 0]
    """
    thousandths = [round(1000 * share / max(shares)) for share in shares]
    if min(thousandths) == 0:
        raise AirpipeError(f"shares {list(shares)}: the smallest is below 1/1000 of the largest")
    counts = [number // gcd(*thousandths) for number in thousandths]
    places = [((k + 0.5) / count, part) for part, count in enumerate(counts) for k in range(count)]
    return [part for _, part in sorted(places)]


class SamplePlan:
    """Maps a step to the keys of its global batch.

    Args:
        lengths: images in each part.
        shares: relative share of each part.
        phases: patch and batch sizes over the run.
        seed: of the stage.
    """

    def __init__(self, lengths: Sequence[int], shares: Sequence[float], phases: Sequence[Phase], seed: int) -> None:
        self.lengths, self.phases, self.seed = list(lengths), list(phases), seed
        self._order = interleave(shares)
        self._before = [[0] * (len(self._order) + 1) for _ in lengths]
        for position, part in enumerate(self._order):
            for counted, before in enumerate(self._before):
                before[position + 1] = before[position] + (counted == part)
        self.steps = sum(phase.steps for phase in phases)

    def phase(self, step: int) -> tuple[int, Phase]:
        """First slot of a step, and its phase. Steps count from 0."""
        slot = 0
        for phase in self.phases:
            if step < phase.steps:
                return slot + step * phase.batch_size, phase
            slot += phase.steps * phase.batch_size
            step -= phase.steps
        raise IndexError(f"the run has only {self.steps} steps")

    def key(self, slot: int, patch_size: int) -> SampleKey:
        """The sample of a slot."""
        cycle, position = divmod(slot, len(self._order))
        part = self._order[position]
        count = cycle * self._before[part][-1] + self._before[part][position]
        epoch, place = divmod(count, self.lengths[part])
        index = int(_permutation(self.seed, part, epoch, self.lengths[part])[place])
        return SampleKey(slot, part, index, patch_size)

    def batch(self, step: int) -> list[SampleKey]:
        """Keys of the global batch of a step."""
        first, phase = self.phase(step)
        return [self.key(first + i, phase.patch_size) for i in range(phase.batch_size)]


class MicroBatches(Sampler[list[SampleKey]]):
    """One rank's micro-batches from a step on: what the loader's batch_sampler yields.

    Args:
        plan: of the stage.
        first_step: where the run starts or resumes.
        rank, world_size: this process among all; it takes every world_size-th slot.
        accumulate: micro-batches per step.

    Raises:
        AirpipeError: a batch size that the processes and micro-batches cannot share evenly.
    """

    def __init__(self, plan: SamplePlan, first_step: int, rank: int, world_size: int, accumulate: int) -> None:
        for phase in plan.phases:
            if phase.batch_size % (world_size * accumulate):
                raise AirpipeError(
                    f"batch_size {phase.batch_size} cannot be shared by {world_size} processes x {accumulate} "
                    f"micro-batches; choose a multiple of {world_size * accumulate}"
                )
        self.plan, self.first_step, self.rank = plan, first_step, rank
        self.world_size, self.accumulate = world_size, accumulate

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(self.first_step, self.plan.steps):
            mine = self.plan.batch(step)[self.rank :: self.world_size]
            size = len(mine) // self.accumulate
            for start in range(0, len(mine), size):
                yield mine[start : start + size]

    def __len__(self) -> int:
        return (self.plan.steps - self.first_step) * self.accumulate
