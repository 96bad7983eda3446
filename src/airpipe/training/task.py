"""What a method brings to the step loop: networks, optimizers, and named losses of one step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from airpipe.data.batch import Batch
from airpipe.settings.stages import OptimizerSettings, StageSettings


@dataclass(frozen=True)
class Turn:
    """One backward pass of a step and the optimizers that follow it.

    A joint objective is one turn with several optimizers; an adversarial one has two turns.
    Parameters of the optimizers that are not in a turn get no gradient during it.
    """

    name: str
    optimizers: tuple[str, ...]


class Task(ABC):
    """A training stage. The loop wraps, moves, saves and restores what stands in the attributes.

    Args:
        settings: of the stage.
        parents: role to loaded network of each named parent.
    """

    def __init__(self, settings: StageSettings, parents: Mapping[str, nn.Module]) -> None:
        self.settings, self.parents = settings, parents
        self.networks: dict[str, nn.Module] = {}
        """Trained; wrapped by the loop, so `step` may only call them, not their methods."""
        self.frozen: dict[str, nn.Module] = {}
        """Used but not trained: evaluation mode, no gradients, not wrapped."""
        self.optimizers: dict[str, Optimizer] = {}
        """The keys of `settings.optimizers`, which hold each one's schedule."""
        self.exported = "net"
        """The network that becomes model.safetensors."""
        self.averaged: tuple[str, ...] = ("net",)
        """Networks with a moving average, where the settings ask for one."""
        self.other_losses: tuple[str, ...] = ()
        """Losses that this task has under other settings only: `loss_weights` may name them all the same."""
        self.parent_reports: dict[str, dict[str, list[str]]] = {}
        """Of the parents that were loaded into a network, by role: what `load_matching` returned."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Backward passes of a step, in order; by default one for all optimizers."""
        return (Turn("train", tuple(self.optimizers)),)

    def accept(self, classes: tuple[str, ...]) -> None:  # noqa: B027  a hook: most tasks take any data
        """Take the class names of the training images, before the first step; by default nothing.

        Args:
            classes: sorted; `Batch.category` is a place in it. Empty where no data set says a class.

        Raises:
            AirpipeError: in tasks that need classes, or a number of them.
        """

    @abstractmethod
    def step(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        """Named scalar losses of one micro-batch; the loop weighs and sums them."""

    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Validation measures of the exported network, or its average: name to values, any number of them (n,).

        The curves get each name's mean over all batches. By default `psnr` in dB, one value an image.
        """
        error = (network(batch.degraded).float().clamp(0, 1) - batch.clean).square().mean((1, 2, 3))
        return {"psnr": -10 * torch.log10(error.clamp_min(1e-10))}


def make_adamw(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> AdamW:
    """AdamW with the stage's betas and weight decay; the loop sets the rate at each step."""
    return AdamW(parameters, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay)


def learning_rate_at(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Linear warm-up, a hold at the peak, then half a cosine to the minimum.

    Without warm-up and hold these are the rates of BasicSR's schedules: update t = step + 1 gets
    the cosine at t - 1, because the scheduler first steps before the second update.

    Args:
        step: from 0.
        steps: of the whole stage.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    before = settings.warmup_steps + settings.hold_steps
    if step < before:
        return settings.learning_rate
    progress = (step - before) / max(1, steps - before)
    span = settings.learning_rate - settings.minimum_rate
    return settings.minimum_rate + span * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All tensors that an optimizer moves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of a step's model randomness (dropout and the like), different on every rank."""
    return int(torch.tensor([seed * 1_000_003 + step * 1009 + rank]).remainder(2**31).item())
