"""How far a training run is: a bar on a terminal, a plain line now and then in a log."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""Least time between two plain lines."""


class StepDisplay:
    """Shows step, losses and speed on stderr; silent on all but one process.

    Args:
        first_step: where the run starts or resumes.
        steps: number of steps of the whole run.
        shown: False silences it.
    """

    def __init__(self, first_step: int, steps: int, shown: bool) -> None:
        self.first_step, self.steps, self.shown = first_step, steps, shown
        self._bar: Progress | None = None
        self._started = self._last = time.monotonic()

    def __enter__(self) -> "StepDisplay":
        if self.shown and sys.stderr.isatty():
            columns = (
                TextColumn("step"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("", total=self.steps, completed=self.first_step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, values: dict[str, float]) -> None:
        """Show the state after `done` completed steps."""
        losses = " ".join(
            f"{name.removeprefix('loss/')} {v:.4g}" for name, v in values.items() if name.startswith("loss/")
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=losses)
        elif self.shown and (time.monotonic() - self._last >= LINE_SECONDS or done == self.steps):
            self._last = time.monotonic()
            speed = (done - self.first_step) / max(self._last - self._started, 1e-9)
            left = (self.steps - done) / max(speed, 1e-9)
            line = f"step {done}/{self.steps}  {losses}  {speed:.1f} steps/s  {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)
