"""The step loop, written once for every task.

Exactness: batches are a function of (seed, step), model randomness is seeded at each step,
learning rates are a function of the step, and a checkpoint holds all networks, averages and
optimizers. A run that was killed and resumed ends with the same bits on the CPU.
"""

import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from airpipe.data.batch import Batch
from airpipe.data.deferred import DeferredBatch
from airpipe.data.sampling import SamplePlan
from airpipe.errors import AirpipeError
from airpipe.training.averages import MovingAverage
from airpipe.training.compiling import asks_to_compile, compile_networks, run_as_written, why_not_compiled
from airpipe.training.progress import StepDisplay
from airpipe.training.schedules import learning_rate_at, schedule_time
from airpipe.training.state import StateFolder
from airpipe.training.task import (
    Moment,
    Task,
    Turn,
    check_turns,
    parameters_of,
    set_learning_rate,
    step_generator,
    step_seed,
)

Micro = list[tuple[Batch, dict[str, Tensor]]]
"""Micro-batches of this process, each with what turns hand on for it."""
AGREE_EVERY = 10
"""Steps between two agreements of all processes on saving and stopping."""
CHECK_EVERY = 20
"""Steps between two looks at the non-finite flag on a GPU (a look waits for the device)."""


class Interrupted(SystemExit):
    """Asked to stop by SIGTERM: state is saved, the run resumes with the same command."""


@dataclass
class Shares:
    """Seconds of wall time by what they were spent on."""

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("data", "step", "checkpoint", "validation"), 0.0)
    )

    @contextmanager
    def spent(self, what: str) -> Iterator[None]:
        """Add the block's wall time to `what`."""
        start = time.monotonic()
        yield
        self.seconds[what] += time.monotonic() - start

    def summary(self) -> str:
        """One line: total and shares."""
        total = max(sum(self.seconds.values()), 1e-9)
        shares = ", ".join(f"{what} {100 * s / total:.1f} %" for what, s in self.seconds.items())
        return f"wall time {total:.1f} s: {shares}"


def _next_batch(batches: Iterator[Batch | DeferredBatch]) -> Batch | DeferredBatch:
    """The next batch; an error of a loader process is told without that process's traceback."""
    try:
        return next(batches)
    except AirpipeError as error:
        raise AirpipeError(str(error).strip().rpartition("AirpipeError: ")[2]) from None


@contextmanager
def _ended(batches: Iterator[Batch | DeferredBatch]) -> Iterator[None]:
    """End loader processes with the block; they ignore SIGTERM, so Python's exit would wait for them."""
    try:
        yield
    finally:
        shut_down = getattr(batches, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()


def _check_detached(handed: Mapping[str, Tensor]) -> None:
    """Refuse tensors that would keep one turn's graph alive in the next: it is used up, and holds memory."""
    for name, value in handed.items():
        if value.requires_grad:
            raise AirpipeError(f"{name!r} is handed to the next turn with its graph; hand on {name}.detach()")


class StepLoop:
    """Runs a task from where its state folder stands to the last step.

    Args:
        fabric: Fabric, already launched.
        task: the task to train; its networks get wrapped in place.
        plan: phases and samples of all steps.
        state: the stage's state folder, already claimed.
        checkpoint_seconds: wall time between two checkpoints.
        batch_names: gives the names of the images of a step's global batch, for messages.

    Raises:
        AirpipeError: turns that do not fit the task, or a weight of a loss that it has not (see `check_turns`).
    """

    def __init__(
        self,
        fabric: Fabric,
        task: Task,
        plan: SamplePlan,
        state: StateFolder,
        checkpoint_seconds: float,
        batch_names: Callable[[int], list[str]],
    ) -> None:
        self.fabric, self.task, self.plan, self.state = fabric, task, plan, state
        self.batch_names = batch_names
        self.settings, self.checkpoint_seconds = task.settings, checkpoint_seconds
        self.averages: dict[str, MovingAverage] = {}
        self.shares = Shares()
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=fabric.device)
        self._stop = False
        self._to_compile = asks_to_compile(task.settings, fabric.device)
        self._compiling = {"failed_in_step": -1}
        turns = check_turns(task, plan.steps)
        self._wrap()
        self._check_networks(turns)

    def _wrap(self) -> None:
        task, decay = self.task, self.settings.ema_decay
        for name, network in task.networks.items():
            network = network.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            if decay and name in task.averaged:
                self.averages[name] = MovingAverage(network, decay)
            task.networks[name] = self.fabric.setup(network)
        if self._to_compile:
            compile_networks(map(self._bare, task.networks), self.state.folder / "compiled")
        for name, network in task.frozen.items():
            task.frozen[name] = self.fabric.to_device(network).eval().requires_grad_(False)
        task.optimizers = {
            name: cast(Optimizer, self.fabric.setup_optimizers(o)) for name, o in task.optimizers.items()
        }
        self._trains = {name: self._optimizers_of(network) for name, network in task.networks.items()}

    def _check_networks(self, turns: set[Turn]) -> None:
        """Refuse turns that train a part of what a network learns: other processes would wait for the rest."""
        for turn in turns if self.fabric.world_size > 1 else ():
            for name, all_of_them in self._trains.items():
                some = all_of_them & set(turn.optimizers)
                if some and some != all_of_them:
                    raise AirpipeError(
                        f"network {name!r} is trained by the optimizers {sorted(all_of_them)}, turn {turn.name!r} has "
                        f"only {sorted(some)}; several processes need a network of its own for each part"
                    )

    def _bare(self, name: str) -> nn.Module:
        """A network of the task without what Fabric wraps around it."""
        wrapped = self.task.networks[name]
        bare: nn.Module = getattr(wrapped, "module", wrapped)
        return bare

    def _optimizers_of(self, network: nn.Module) -> set[str]:
        """Names of the optimizers that move a part of a network."""
        own = {id(parameter) for parameter in network.parameters()}
        moved = {name: parameters_of(optimizer) for name, optimizer in self.task.optimizers.items()}
        return {name for name, parameters in moved.items() if any(id(one) in own for one in parameters)}

    def stored(self) -> dict[str, Any]:
        """Everything that a checkpoint holds beside step and identity, by name."""
        content: dict[str, Any] = {f"network.{name}": n for name, n in self.task.networks.items()}
        content |= {f"average.{name}": n for name, n in self.averages.items()}
        content |= {f"optimizer.{name}": o for name, o in self.task.optimizers.items()}
        return content | {"seconds": self.shares.seconds, "compiling": self._compiling}

    @property
    def compiled(self) -> bool:
        """Whether networks are compiled: the stage asks for it, and no step failed at it, before a resume, too."""
        return self._to_compile and self._compiling["failed_in_step"] < 0

    @property
    def exports_average(self) -> bool:
        """Whether the saved network is a moving average."""
        return self.task.exported in self.averages

    def exported(self) -> nn.Module:
        """The network that is saved for users: its moving average where there is one."""
        name = self.task.exported
        if self.exports_average:
            return self.averages[name].module
        return self._bare(name)

    def run(self, loader: DataLoader[Any], first_step: int, validation: DataLoader[Any] | None) -> None:
        """Train from `first_step` to the end.

        Args:
            loader: micro-batches of this process, from `first_step` on.
            first_step: number of steps that are done already.
            validation: batches that are held out; None: no validation.

        Raises:
            AirpipeError: non-finite loss or gradient, other losses than declared, or a checkpoint that cannot be
                written.
            Interrupted: SIGTERM; the state is saved first.
        """
        steps = self.plan.steps
        if self._to_compile and not self.compiled:
            run_as_written(map(self._bare, self.task.networks))
        log_every = max(1, steps // 200)  # some 200 points make a curve, and few waits for the device
        batches, saved = iter(loader), time.monotonic()
        display = StepDisplay(first_step, steps, self.fabric.is_global_zero)
        with display, self._sigterm(), _ended(batches):
            for step in range(first_step, steps):
                found = self._step(step, batches)
                done = step + 1
                if done % log_every == 0 or done == steps:
                    self._log(done, found, display)
                if validation is not None and (done % self.settings.validation.every == 0 or done == steps):
                    self._validate(done, validation)
                due = time.monotonic() - saved >= self.checkpoint_seconds
                stop, save = self._agree(done, due)
                if stop or save or done == steps:
                    self.checkpoint(done)
                    saved = time.monotonic()
                if stop and done < steps:
                    raise Interrupted(
                        f"airpipe: stopped by SIGTERM after step {done}; state saved, run again to resume"
                    )

    def _step(self, step: int, batches: Iterator[Batch | DeferredBatch]) -> dict[str, Tensor]:
        """Run the turns of a step; returns values by the names of their curves."""
        batch_size, count = self._shape(step)
        with self.shares.spent("data"):
            micro = [_next_batch(batches).to(self.fabric.device) for _ in range(count)]
        with self.shares.spent("step"):
            torch.manual_seed(step_seed(self.settings.seed, step, self.fabric.global_rank))
            handed: list[dict[str, Tensor]] = [{} for _ in micro]
            values: dict[str, Tensor] = {}
            totals = []
            turns = self.task.turns(step)
            for turn in turns:
                given = list(zip(micro, handed, strict=True))
                values |= (found := self._compiled_turn(step, turn, given, batch_size))
                totals.append(found[f"loss/total_{turn.name}"])
            values["loss/total"] = torch.stack(totals).sum()
            self._average({name for turn in turns for name in turn.optimizers})
            if self.fabric.device.type == "cpu" or (step + 1) % CHECK_EVERY == 0:
                self._raise_if_bad()
        return values

    def _shape(self, step: int) -> tuple[int, int]:
        """Samples of a step's global batch, and micro-batches of each process."""
        _, phase = self.plan.phase(step)
        return phase.batch_size, self.settings.micro_batches(phase)

    def _average(self, moved: set[str]) -> None:
        """Update the moving averages of networks that one of these optimizers has moved."""
        for name, average in self.averages.items():
            if self._trains[name] & moved:
                average.update_parameters(self._bare(name))

    def _compiled_turn(self, step: int, turn: Turn, micro: Micro, batch_size: int) -> dict[str, Tensor]:
        """`_turn`; where compiling fails in it, it begins anew, and from there on networks run as they are written."""
        drawn = _random_state(self.fabric.device) if self.compiled else []
        try:
            return self._turn(step, turn, micro, batch_size)
        except RuntimeError as error:
            if not (self.compiled and (said := why_not_compiled(error))):
                raise
        self._compiling["failed_in_step"] = step
        run_as_written(map(self._bare, self.task.networks))
        for optimizer in self.task.optimizers.values():
            optimizer.zero_grad()
        _set_random_state(self.fabric.device, drawn)
        print(f"not compiled from step {step + 1} on, networks run as written: {said}", flush=True)
        return self._turn(step, turn, micro, batch_size)

    def _turn(self, step: int, turn: Turn, micro: Micro, batch_size: int) -> dict[str, Tensor]:
        """One backward pass over all micro-batches, then its optimizers; returns mean losses and gradient norms."""
        for name, optimizer in self.task.optimizers.items():
            for parameter in parameters_of(optimizer):
                parameter.requires_grad_(name in turn.optimizers)
        sums: dict[str, Tensor] = {}
        for number, (batch, handed) in enumerate(micro):
            # processes are averaged: with this divisor each sample of the global batch weighs the same
            divisor = batch_size / (len(batch.name) * self.fabric.world_size)
            at = Moment(turn.name, step, self.plan.steps, step_generator(self.settings.seed, step), handed)
            with self._synced(turn, last=number == len(micro) - 1):
                losses = self.task.step(batch, at)
                turn.check(losses)
                if number and {*losses, f"total_{turn.name}"} != set(sums):
                    raise AirpipeError(f"turn {turn.name!r}: micro-batches drew other losses; draw from `at.generator`")
                weights = self.settings.loss_weights
                total = torch.stack([weights.get(n, 1.0) * loss for n, loss in losses.items()]).sum()
                self.fabric.backward(total / divisor)
            _check_detached(handed)
            for name, loss in {**losses, f"total_{turn.name}": total}.items():
                sums[name] = sums.get(name, torch.zeros_like(loss.detach())) + loss.detach() / divisor
        norms = self._update(step, turn, sums)
        return {f"loss/{name}": value for name, value in sums.items()} | norms

    @contextmanager
    def _synced(self, turn: Turn, last: bool) -> Iterator[None]:
        """Let processes agree on gradients in the last micro-batch, of the networks that the turn trains."""
        with ExitStack() as unsynced:
            for name, network in self.task.networks.items():
                resting = not last or not self._trains[name] & set(turn.optimizers)
                unsynced.enter_context(self.fabric.no_backward_sync(cast(_FabricModule, network), enabled=resting))
            yield

    def _update(self, step: int, turn: Turn, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        norms = {}
        for name in turn.optimizers:
            optimizer = self.task.optimizers[name]
            parameters = parameters_of(optimizer)
            norm = nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
            if self.settings.clip_norm:
                nn.utils.clip_grads_with_norm_(parameters, self.settings.clip_norm, norm)
            norms[f"grad_norm_{name}"] = norm
            schedule = self.settings.optimizers[name]
            time, length = schedule_time(step, self.settings.phases, schedule.per)
            set_learning_rate(optimizer, learning_rate_at(time, length, schedule))
        finite = torch.stack([torch.isfinite(v).all() for v in (*sums.values(), *norms.values())]).all()
        fresh = ~finite & (self._first_bad < 0)
        self._first_bad = torch.where(fresh, torch.full_like(self._first_bad, step), self._first_bad)
        if self.fabric.device.type == "cpu":
            self._raise_if_bad()
        for name in turn.optimizers:
            self.task.optimizers[name].step()
            self.task.optimizers[name].zero_grad()
        return norms

    def _raise_if_bad(self) -> None:
        bad = int(self._first_bad.item())
        if bad < 0:
            return
        names = ", ".join(self.batch_names(bad))
        good = self.state.checkpoints()
        raise AirpipeError(
            f"non-finite loss or gradient at step {bad + 1} (batch: {names}). Nothing was exported; last "
            f"good checkpoint: {good[0] if good else 'none'}. Lower the learning rate, set clip_norm, or look at "
            "the batch"
        )

    def _agree(self, done: int, due: bool) -> tuple[bool, bool]:
        """Whether to stop and whether to save; all processes get the same answer."""
        if self.fabric.world_size == 1:
            return self._stop, due
        if done % AGREE_EVERY:
            return False, False
        mine = torch.tensor([self._stop, due], dtype=torch.float32, device=self.fabric.device)
        stop, save = self.fabric.all_reduce(mine, reduce_op="max").tolist()  # type: ignore[union-attr]
        return bool(stop), bool(save)

    def checkpoint(self, done: int) -> None:
        """Save a checkpoint after `done` completed steps.

        Raises:
            AirpipeError: an earlier step was not finite, or the checkpoint cannot be written.
        """
        with self.shares.spent("checkpoint"):
            self._raise_if_bad()
            self.state.save(self.fabric, done, self.stored())

    def _log(self, done: int, found: Mapping[str, Tensor], display: StepDisplay) -> None:
        if self.fabric.world_size > 1:
            found = {k: self.fabric.all_reduce(v.float(), reduce_op="mean") for k, v in found.items()}  # type: ignore[misc]
        values = {name: float(value) for name, value in found.items()}
        moved = {name for turn in self.task.turns(done - 1) for name in turn.optimizers}
        for name, optimizer in self.task.optimizers.items():
            if name in moved:
                values[f"learning_rate/{name}"] = float(optimizer.param_groups[0]["lr"])
        if self.fabric.is_global_zero:
            self.state.add_curves(done, values)
            display.show(done, values)

    def _validate(self, done: int, loader: DataLoader[Any]) -> None:
        with self.shares.spent("validation"):
            if self.fabric.is_global_zero:
                self.state.add_curves(done, self._validation_means(loader))
            self.fabric.barrier()

    @torch.no_grad()
    def _validation_means(self, loader: DataLoader[Any]) -> dict[str, float]:
        network, values = self.exported(), defaultdict[str, list[Tensor]](list)
        was_training = network.training
        network.eval()
        for batch in loader:
            with self.fabric.autocast(), self._as_written():
                found = self.task.measure(network, batch.to(self.fabric.device))
            for name, some in found.items():
                values[name].append(some.float())
        network.train(was_training)
        return {f"validation/{name}": float(torch.cat(some).mean()) for name, some in values.items()}

    def _as_written(self) -> AbstractContextManager[object]:
        """Where networks run as written: for images of other sizes than those of training."""
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    @contextmanager
    def _sigterm(self) -> Iterator[None]:
        def handler(number: int, frame: FrameType | None) -> None:
            self._stop = True

        before = signal.signal(signal.SIGTERM, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _random_state(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(device: torch.device, drawn: Sequence[Tensor]) -> None:
    torch.set_rng_state(drawn[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(drawn[1], device)
