"""The step loop, written once for every task.

Exactness: batches are a function of (seed, step), model randomness is seeded at each step,
learning rates are a function of the step, and a checkpoint holds all networks, averages and
optimizers. A run that was killed and resumed ends with the same bits on the CPU.
"""

import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from airpipe.data.batch import Batch
from airpipe.data.sampling import SamplePlan
from airpipe.errors import AirpipeError
from airpipe.settings.base import unknown_name
from airpipe.training.progress import StepDisplay
from airpipe.training.state import StateFolder
from airpipe.training.task import Task, Turn, learning_rate_at, parameters_of, set_learning_rate, step_seed

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


def _next_batch(batches: Iterator[Batch]) -> Batch:
    """The next batch; an error of a loader process is told without that process's traceback."""
    try:
        return next(batches)
    except AirpipeError as error:
        raise AirpipeError(str(error).strip().rpartition("AirpipeError: ")[2]) from None


@contextmanager
def _ended(batches: Iterator[Batch]) -> Iterator[None]:
    """End loader processes with the block; they ignore SIGTERM, so Python's exit would wait for them."""
    try:
        yield
    finally:
        shut_down = getattr(batches, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()


class StepLoop:
    """Runs a task from where its state folder stands to the last step.

    Args:
        fabric: launched.
        task: its networks get wrapped in place.
        plan: maps steps to samples; names the batch of a failed step.
        state: claimed state folder.
        checkpoint_seconds: wall time between two checkpoints.
        batch_names: names of the images of a step's global batch, for messages.
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
        self.averages: dict[str, AveragedModel] = {}
        self.shares = Shares()
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=fabric.device)
        self._stop = False
        self._wrap()

    def _wrap(self) -> None:
        task, decay = self.task, self.settings.ema_decay
        for name, network in task.networks.items():
            network = network.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            if decay and name in task.averaged:
                self.averages[name] = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
            task.networks[name] = self.fabric.setup(network)
        for name, network in task.frozen.items():
            task.frozen[name] = self.fabric.to_device(network).eval().requires_grad_(False)
        if set(task.optimizers) != set(self.settings.optimizers):
            raise AirpipeError(
                f"task {self.settings.task} has optimizers {sorted(task.optimizers)}, "
                f"its settings {sorted(self.settings.optimizers)}"
            )
        task.optimizers = {
            name: cast(Optimizer, self.fabric.setup_optimizers(o)) for name, o in task.optimizers.items()
        }

    def stored(self) -> dict[str, Any]:
        """Everything a checkpoint holds, beside step and settings hash."""
        content: dict[str, Any] = {f"network.{name}": n for name, n in self.task.networks.items()}
        content |= {f"average.{name}": n for name, n in self.averages.items()}
        content |= {f"optimizer.{name}": o for name, o in self.task.optimizers.items()}
        return content | {"seconds": self.shares.seconds}

    def exported(self) -> nn.Module:
        """The network that is saved for users: its moving average where there is one."""
        name = self.task.exported
        if name in self.averages:
            return self.averages[name].module
        wrapped = self.task.networks[name]
        inner: nn.Module = getattr(wrapped, "module", wrapped)
        return inner

    def run(self, loader: DataLoader[Any], first_step: int, validation: DataLoader[Any] | None) -> None:
        """Train from `first_step` to the end.

        Raises:
            AirpipeError: non-finite loss or gradient, a weight of a loss that the task has not, or a checkpoint
                that cannot be written.
            Interrupted: SIGTERM; the state is saved first.
        """
        steps = self.plan.steps
        log_every = max(1, steps // 200)
        batches, saved = iter(loader), time.monotonic()
        display = StepDisplay(first_step, steps, self.fabric.is_global_zero)
        with display, self._sigterm(), _ended(batches):
            for step in range(first_step, steps):
                losses = self._step(step, batches)
                if step == first_step:
                    self._check_loss_weights(losses)
                done = step + 1
                if done % log_every == 0 or done == steps:
                    self._log(done, losses, display)
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

    def _step(self, step: int, batches: Iterator[Batch]) -> dict[str, Tensor]:
        with self.shares.spent("data"):
            micro = [_next_batch(batches).to(self.fabric.device) for _ in range(self.settings.accumulate)]
        with self.shares.spent("step"):
            torch.manual_seed(step_seed(self.settings.seed, step, self.fabric.global_rank))
            losses: dict[str, Tensor] = {}
            for turn in self.task.turns:
                losses |= self._turn(step, turn, micro)
            losses["total"] = torch.stack([v for k, v in losses.items() if k.startswith("total_")]).sum()
            for name, average in self.averages.items():
                wrapped = self.task.networks[name]
                average.update_parameters(getattr(wrapped, "module", wrapped))
            if self.fabric.device.type == "cpu" or (step + 1) % CHECK_EVERY == 0:
                self._raise_if_bad()
        return losses

    def _check_loss_weights(self, found: Iterable[str]) -> None:
        """Refuse weights of losses that no turn of a step has: they would be ignored."""
        totals = {"total", *(f"total_{turn.name}" for turn in self.task.turns)}
        norms = {f"grad_norm_{name}" for name in self.task.optimizers}
        known = {*found, *self.task.other_losses} - totals - norms
        for name in self.settings.loss_weights:
            if name not in known:
                raise AirpipeError(f"{self.settings.model_id}, loss_weights: " + unknown_name(name, known, "loss"))

    def _turn(self, step: int, turn: Turn, micro: list[Batch]) -> dict[str, Tensor]:
        """One backward pass over all micro-batches, then its optimizers; returns mean losses."""
        for name, optimizer in self.task.optimizers.items():
            for parameter in parameters_of(optimizer):
                parameter.requires_grad_(name in turn.optimizers)
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(micro):
            with ExitStack() as unsynced:
                for network in self.task.networks.values():
                    later = number < len(micro) - 1
                    unsynced.enter_context(self.fabric.no_backward_sync(cast(_FabricModule, network), enabled=later))
                losses = self.task.step(batch, turn.name)
                weights = self.settings.loss_weights
                total = torch.stack([weights.get(n, 1.0) * loss for n, loss in losses.items()]).sum()
                self.fabric.backward(total / len(micro))
            for name, loss in {**losses, f"total_{turn.name}": total}.items():
                sums[name] = sums.get(name, torch.zeros_like(loss.detach())) + loss.detach() / len(micro)
        norms = self._update(step, turn, sums)
        return sums | norms

    def _update(self, step: int, turn: Turn, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        limit = self.settings.clip_norm or float("inf")
        norms = {}
        for name in turn.optimizers:
            optimizer = self.task.optimizers[name]
            norms[f"grad_norm_{name}"] = nn.utils.clip_grad_norm_(parameters_of(optimizer), limit)
            set_learning_rate(optimizer, learning_rate_at(step, self.plan.steps, self.settings.optimizers[name]))
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
        """Save after `done` completed steps."""
        with self.shares.spent("checkpoint"):
            self._raise_if_bad()
            self.state.save(self.fabric, done, self.stored())

    def _log(self, done: int, losses: dict[str, Tensor], display: StepDisplay) -> None:
        named = {k if k.startswith("grad_norm") else f"loss/{k}": v for k, v in losses.items()}
        if self.fabric.world_size > 1:
            named = {k: self.fabric.all_reduce(v.float(), reduce_op="mean") for k, v in named.items()}  # type: ignore[misc]
        values = {name: float(value) for name, value in named.items()}
        for name, optimizer in self.task.optimizers.items():
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
            with self.fabric.autocast():
                found = self.task.measure(network, batch.to(self.fabric.device))
            for name, some in found.items():
                values[name].append(some.float())
        network.train(was_training)
        return {f"validation/{name}": float(torch.cat(some).mean()) for name, some in values.items()}

    @contextmanager
    def _sigterm(self) -> Iterator[None]:
        def handler(number: int, frame: FrameType | None) -> None:
            self._stop = True

        before = signal.signal(signal.SIGTERM, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
