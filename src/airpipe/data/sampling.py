"""Stateless sampling: what is trained on at step t is a function of (seed, t) alone.

Slot s is the s-th sample of the whole run. It belongs to one part of the mix (a fixed
interleaving that keeps the shares exactly), to one image of that part (a seeded permutation
per pass over the part) and to one phase. Worker count, prefetch, world size and resume
change nothing, and there is no sampler state to store.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from math import gcd
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from airpipe.errors import AirpipeError
from airpipe.settings.stages import DataPart, Phase


class SampleKey(NamedTuple):
    """All that fixes one training sample, beside the seed."""

    slot: int
    """Number of the sample in the whole run."""
    part: int
    """Index of its part in the mix."""
    image: int
    """Index of its image in the part."""
    patch_size: int
    """Side of its patch in pixels."""


MAX_PERIOD = 4_000_000
"""Number of slots of the longest interleaving whose counts are kept exactly; it takes 20 MB."""
KEPT_EPOCHS = 2
"""Number of permutations that are kept for each part: loaders read a little ahead of the loop."""


def interleave(shares: Sequence[float], exact: bool = False) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return the shortest periodic order of parts that keeps the shares, each part spread evenly.

    Args:
        shares: relative shares, positive; rounded to thousandths of the largest.
        exact: whether the shares are whole numbers that are kept as they are, if the period has at most
            `MAX_PERIOD` slots.

    Returns:
        Part of each slot of one period, uint8 (uint16 for more than 255 parts).

    Raises:
        AirpipeError: a share below half a thousandth of the largest, where shares are rounded.

    Example:
        >>> interleave([2, 1]).tolist()
        [0, 1, 0]
    """
    counts = _shortest([round(share) for share in shares]) if exact else []
    if not exact or sum(counts) > MAX_PERIOD:
        counts = _shortest([round(1000 * share / max(shares)) for share in shares])
    if min(counts) == 0:
        raise AirpipeError(
            f"shares {list(shares)}: the smallest is below 1/1000 of the largest. "
            "Raise it, or leave the part out of the mix"
        )
    # slot k of the n of a part lies at (k + 1/2) / n of the period; the stable sort gives ties to the earlier part
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    parts = np.repeat(np.arange(len(counts), dtype=np.uint8 if len(counts) < 256 else np.uint16), counts)
    return cast(npt.NDArray[np.unsignedinteger[Any]], parts[np.argsort(places, kind="stable")])


def _shortest(counts: Sequence[int]) -> list[int]:
    return [count // gcd(*counts) for count in counts]


def part_counts(parts: Sequence[DataPart], lengths: Sequence[int]) -> tuple[list[float], bool]:
    """Return the shares of a mix, and whether they are counts to keep exactly (parts with `repeat`).

    Args:
        parts: parts of the mix.
        lengths: number of images in each part.

    Raises:
        AirpipeError: a repeat leaves no sample of a part.
    """
    if all(part.repeat is None for part in parts):
        return [float(part.share or 0) for part in parts], False
    counts = [round((part.repeat or 0) * length) for part, length in zip(parts, lengths, strict=True)]
    for part, count in zip(parts, counts, strict=True):
        if count == 0:
            raise AirpipeError(f"{part.pairs}: repeat {part.repeat} leaves no image of this part. Give a larger repeat")
    return [float(count) for count in counts], True


class SamplePlan:
    """Map from each step of a stage to the keys of its global batch.

    Args:
        lengths: number of images in each part.
        shares: relative share of each part.
        phases: patch and batch sizes over the run.
        seed: seed of the stage.
        exact: whether shares are whole numbers, kept as they are (see `interleave`).
    """

    def __init__(
        self,
        lengths: Sequence[int],
        shares: Sequence[float],
        phases: Sequence[Phase],
        seed: int,
        exact: bool = False,
    ) -> None:
        self.lengths, self.phases, self.seed = list(lengths), list(phases), seed
        self._order = interleave(shares, exact)
        self._counts = np.bincount(self._order, minlength=len(lengths)).tolist()
        self._before = np.empty(len(self._order), np.uint32)  # earlier slots of the same part in the period
        for part, count in enumerate(self._counts):
            self._before[self._order == part] = np.arange(count, dtype=np.uint32)
        self._permutations: list[OrderedDict[int, npt.NDArray[np.uint32]]] = [OrderedDict() for _ in lengths]
        self.steps = sum(phase.steps for phase in phases)

    def phase(self, step: int) -> tuple[int, Phase]:
        """Return the first slot of a step, and the step's phase. Steps count from 0.

        Raises:
            IndexError: the run has fewer steps.
        """
        slot = 0
        for phase in self.phases:
            if step < phase.steps:
                return slot + step * phase.batch_size, phase
            slot += phase.steps * phase.batch_size
            step -= phase.steps
        raise IndexError(f"the run has only {self.steps} steps")

    def key(self, slot: int, patch_size: int) -> SampleKey:
        """Return the key of a slot's sample."""
        cycle, position = divmod(slot, len(self._order))
        part = int(self._order[position])
        epoch, place = divmod(cycle * self._counts[part] + int(self._before[position]), self.lengths[part])
        return SampleKey(slot, part, int(self._permutation(part, epoch)[place]), patch_size)

    def _permutation(self, part: int, epoch: int) -> npt.NDArray[np.uint32]:
        kept = self._permutations[part]
        if epoch not in kept:
            # a generator for each part and pass: no other part, and no resume, changes the order
            generator = np.random.default_rng([self.seed, part, epoch])
            kept[epoch] = generator.permutation(self.lengths[part]).astype(np.uint32)
            if len(kept) > KEPT_EPOCHS:
                kept.popitem(last=False)
        kept.move_to_end(epoch)
        return kept[epoch]

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> list[SampleKey]:
        """Return the keys of the global batch of a step, or those of one process: every world_size-th slot of it."""
        first, phase = self.phase(step)
        return [self.key(first + i, phase.patch_size) for i in range(rank, phase.batch_size, world_size)]


class MicroBatches(Sampler[list[SampleKey]]):
    """One rank's micro-batches from a step on: what the loader's batch_sampler yields.

    A process takes every world_size-th slot; where a batch cannot be shared evenly, some have one sample more.

    Args:
        plan: plan of the stage.
        first_step: where the run starts or resumes.
        rank, world_size: this process among all.
        accumulate: micro-batches per step, of each process, in phases that say no other number.

    Raises:
        AirpipeError: a batch has not a sample for every micro-batch of every process.
    """

    def __init__(self, plan: SamplePlan, first_step: int, rank: int, world_size: int, accumulate: int) -> None:
        self.plan, self.first_step, self.rank = plan, first_step, rank
        self.world_size, self.accumulate = world_size, accumulate
        for phase in plan.phases:
            count = self._count(phase)
            if phase.batch_size < world_size * count:
                most = phase.batch_size // world_size
                choice = f"accumulate {most}, or" if most else f"{phase.batch_size} processes or less, or"
                raise AirpipeError(
                    f"batch_size {phase.batch_size} has not a sample for each of {world_size} processes x {count} "
                    f"micro-batches; choose {choice} a batch_size of at least {world_size * count}"
                )

    def _count(self, phase: Phase) -> int:
        return phase.accumulate or self.accumulate

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(self.first_step, self.plan.steps):
            mine = self.plan.batch(step, self.rank, self.world_size)
            size, more = divmod(len(mine), self._count(self.plan.phase(step)[1]))
            start = 0
            while start < len(mine):
                end = start + size + (more > 0)  # what is left over makes the first micro-batches larger by one
                yield mine[start:end]
                start, more = end, more - 1

    def __len__(self) -> int:
        left, ahead = 0, self.first_step
        for phase in self.plan.phases:
            left += max(0, phase.steps - ahead) * self._count(phase)
            ahead = max(0, ahead - phase.steps)
        return left
