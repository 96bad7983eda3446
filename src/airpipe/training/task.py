"""What a method brings to the step loop: networks, optimizers, and named losses of one step."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from airpipe.data.batch import Batch
from airpipe.errors import AirpipeError
from airpipe.models.contract import image_channels
from airpipe.registry import build_network
from airpipe.settings.base import unknown_name
from airpipe.settings.stages import NetworkSettings, OptimizerSettings, StageSettings


@dataclass(frozen=True)
class Turn:
    """One backward pass of a step and the optimizers that follow it.

    A joint objective is one turn with several optimizers; an adversarial one has two turns.
    Parameters of the optimizers that are not in a turn get no gradient during it.
    """

    name: str
    optimizers: tuple[str, ...]
    losses: tuple[str, ...] = ()
    """Losses that `Task.step` returns in this turn, all of them."""
    drawn_losses: tuple[str, ...] = ()
    """Losses of which `Task.step` returns some or none, as it draws: those of the variant that is trained in a step."""

    def check(self, found: Iterable[str]) -> None:
        """Refuse other losses than the declared ones.

        Raises:
            AirpipeError: names the turn, what it returned and what it declares.
        """
        names = set(found)
        if not names or not set(self.losses) <= names <= {*self.losses, *self.drawn_losses}:
            more = f", and may have some of {sorted(self.drawn_losses)}" if self.drawn_losses else ""
            raise AirpipeError(
                f"turn {self.name!r} returned the losses {sorted(names)}, it declares {sorted(self.losses)}{more}. "
                "Declare in `losses` or `turns` what `step` returns"
            )


@dataclass(frozen=True)
class Moment:
    """When and for which turn the losses of a micro-batch are asked for."""

    turn: str = "train"
    """Name of the turn."""
    step: int = 0
    """Number of the step in the stage, from 0."""
    steps: int = 1
    """Steps of the whole stage."""
    generator: np.random.Generator = field(default_factory=lambda: step_generator(0, 0))
    """Generator for what all samples of a step share, such as a depth: it draws the same on all processes, in all
    micro-batches and in all turns of a step. What differs between samples comes from `Batch.slot`."""
    handed: dict[str, Tensor] = field(default_factory=dict)
    """Detached tensors that earlier turns of this step computed for this micro-batch, and those that this turn hands
    on. Empty where this turn is the first one; forgotten after the step."""


class Task(ABC):
    """A training stage. The loop wraps, moves, saves and restores what stands in the attributes.

    Args:
        settings: frozen settings of the stage.
        parents: loaded network of each named parent, by role; optional ones may be missing.
    """

    losses: tuple[str, ...] = ()
    """Names of the losses that `step` returns, for tasks with one turn."""

    def __init__(self, settings: StageSettings, parents: Mapping[str, nn.Module]) -> None:
        self.settings, self.parents = settings, parents
        self.networks: dict[str, nn.Module] = {}
        """Networks that are trained. The loop wraps them, so `step` may only call them, not their methods."""
        self.frozen: dict[str, nn.Module] = {}
        """Networks that are used but not trained: in evaluation mode, without gradients, not wrapped."""
        self.optimizers: dict[str, Optimizer] = {}
        """Optimizers under the names that they have in `settings.optimizers`, which hold the schedule of each."""
        self.exported = "net"
        """Name of the network that becomes model.safetensors."""
        self.averaged: tuple[str, ...] = ("net",)
        """Names of the networks with a moving average, where the settings ask for one."""
        self.other_losses: tuple[str, ...] = ()
        """Names of losses that `step` returns under other settings, not under these; `loss_weights` may name them."""
        self.notes: tuple[str, ...] = ()
        """What the card and every table must say of the exported model, such as a published loss that it lacks."""
        self.parent_reports: dict[str, dict[str, list[str]]] = {}
        """A report of how each parent fitted that was loaded into a network, by role, as `load_matching` returns it."""

    def turns(self, step: int) -> Sequence[Turn]:
        """Backward passes of a step, in order; by default one for all optimizers.

        A pure function of the step: the loop asks for all steps before the first one. A turn may begin late, or be
        left out of some steps, which then log nothing for it.

        Args:
            step: number of the step, from 0.
        """
        return (Turn("train", tuple(self.optimizers), self.losses),)

    def accept(self, classes: tuple[str, ...]) -> None:  # noqa: B027  a hook: most tasks take any data
        """Take the class names of the training images, before the first step; by default nothing.

        Args:
            classes: sorted; `Batch.category` is a place in it. Empty where no data set says a class.

        Raises:
            AirpipeError: in tasks that need classes, or a number of them.
        """

    @abstractmethod
    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return the named scalar losses of one micro-batch in one turn; the loop weighs and sums them.

        Each is a mean over the samples, so that micro-batches and processes can share a batch.
        """

    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Measure the exported network, or its average, on a validation batch: name to values, any number of them (n,).

        The curves get each name's mean over all batches. By default `psnr` in dB, one value an image.
        """
        return {"psnr": psnr(network(batch.degraded), batch.clean)}


def check_turns(task: Task, steps: int) -> set[Turn]:
    """Refuse turns that do not fit the task, and weights of losses that it has not, before the first step.

    Args:
        task: the task, with networks and optimizers set up.
        steps: number of steps of the stage.

    Returns:
        The distinct turns of all steps.

    Raises:
        AirpipeError: optimizers that differ from the settings' ones, a step without turns or with one twice, an unknown
            optimizer, a loss of two turns or with the name of a sum, a weight of an unknown loss.
    """
    settings = task.settings
    if set(task.optimizers) != set(settings.optimizers):
        raise AirpipeError(
            f"task {settings.task} has optimizers {sorted(task.optimizers)}, its settings {sorted(settings.optimizers)}"
        )
    where: dict[str, str] = {}
    known: set[Turn] = set()
    seen: set[tuple[Turn, ...]] = set()
    for step in range(steps):
        turns = tuple(task.turns(step))
        if turns in seen:
            continue
        seen.add(turns)
        names = [turn.name for turn in turns]
        if not names or len(set(names)) < len(names):
            raise AirpipeError(f"task {settings.task}, step {step + 1}: turns {names}; expected one or more, each once")
        moved = [name for turn in turns for name in turn.optimizers]
        if len(set(moved)) < len(moved):
            raise AirpipeError(
                f"task {settings.task}, step {step + 1}: its turns have the optimizers {moved}; one that follows two "
                "turns of a step would be logged once. Give each to one turn"
            )
        for turn in turns:
            if turn not in known:
                known.add(turn)
                _check_turn(turn, task, where)
    if idle := sorted(set(task.optimizers) - {name for turn in known for name in turn.optimizers}):
        raise AirpipeError(
            f"task {settings.task}: no turn of any step has the optimizers {idle}; they would train nothing"
        )
    sums = {"total"} | {f"total_{turn.name}" for turn in known} | {f"grad_norm_{name}" for name in task.optimizers}
    for name in sums & set(where):
        raise AirpipeError(
            f"task {settings.task}: loss {name!r} is called like another curve of its own. Give it another name"
        )
    for name in settings.loss_weights:
        if name not in where and name not in task.other_losses:
            valid = {*where, *task.other_losses}
            raise AirpipeError(f"{settings.model_id}, loss_weights: " + unknown_name(name, valid, "loss"))
    return known


def _check_turn(turn: Turn, task: Task, where: dict[str, str]) -> None:
    """Check one turn, and note in `where` which turn each loss belongs to."""
    if not turn.optimizers:
        raise AirpipeError(f"task {task.settings.task}, turn {turn.name!r} has no optimizer; it would train nothing")
    for name in turn.optimizers:
        if name not in task.optimizers:
            raise AirpipeError(
                f"task {task.settings.task}, turn {turn.name!r}: " + unknown_name(name, task.optimizers, "optimizer")
            )
    for loss in (*turn.losses, *turn.drawn_losses):
        if where.setdefault(loss, turn.name) != turn.name:
            raise AirpipeError(
                f"task {task.settings.task}: the turns {where[loss]!r} and {turn.name!r} both have a loss {loss!r}; "
                "one would overwrite the other in the curves. Give them names of their own"
            )


def psnr(restored: Tensor, clean: Tensor) -> Tensor:
    """Return the PSNR of each image in dB, (n,), for validation: clipped to [0, 1], and at most 100 dB.

    Args:
        restored: n images (n, 3, H, W).
        clean: what they are compared with, of the same shape.
    """
    error = (restored.float().clamp(0, 1) - clean).square().mean((1, 2, 3))
    return -10 * torch.log10(error.clamp_min(1e-10))  # so that a mean over images stays finite


def seeded_network(found: NetworkSettings, seed: int) -> nn.Module:
    """Build a network of RGB images, whose random weights follow from the seed.

    Raises:
        AirpipeError: as `build_network`; or the network takes images of other channels, which trainings do not have.
    """
    torch.manual_seed(seed)
    network = build_network(found.name, **found.arguments)
    if (channels := image_channels(network)) != 3:
        raise AirpipeError(
            f"network {found.name} takes images of {channels} channels; trainings have RGB images, of 3. "
            "Change its arguments"
        )
    return network


def make_optimizer(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> Optimizer:
    """Make Adam or AdamW with the stage's betas and weight decay; the loop sets the rate at each step.

    Fused: one pass over each weight, four to five times as fast on a CPU as one operation after the other, and other
    in the last bits.
    """
    make = AdamW if settings.kind == "adamw" else Adam
    rate, betas = settings.learning_rate, settings.betas
    return make(parameters, lr=rate, betas=betas, weight_decay=settings.weight_decay, fused=True)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All tensors that an optimizer moves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of a step's model randomness (dropout and the like), different on every rank."""
    # factors far apart, so that neighbouring seeds, steps and ranks seldom meet
    return int(torch.tensor([seed * 1_000_003 + step * 1009 + rank]).remainder(2**31).item())


def step_generator(seed: int, step: int) -> np.random.Generator:
    """A fresh generator of what all samples of a step share, the same on every rank."""
    return np.random.default_rng([seed, 2**34, step])  # 2**34 sets it apart from the streams of samples
