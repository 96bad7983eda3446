"""Learning rates: each a pure function of the step, so that a resumed run has the rates of an uninterrupted one.

`cosine` (linear warm-up, hold, half a cosine to a minimum, restarts), `constant`, `steps` (milestones, restarts).
Update t of a published scheduler is step t - 1 here: it first moves before the second update, so that a milestone m
of the papers' option files holds from step m on, counted from 0.
"""

import math
from collections.abc import Sequence

from airpipe.settings.stages import OptimizerSettings, Phase


def schedule_time(step: int, phases: Sequence[Phase], per: str) -> tuple[int, int]:
    """Place of an optimizer step in the schedule, and the schedule's length: in steps, or in epochs.

    Epochs count on over phases: the passes of a phase with larger batches have fewer steps.

    Args:
        step: number of the step in the run, from 0.
        phases: phases of the stage; with epochs each has `epoch_steps`.
        per: what the schedule counts, "step" or "epoch".

    Returns:
        Steps or complete epochs before this step, and those of the whole run.
    """
    if per == "step":
        return step, sum(phase.steps for phase in phases)
    time, length = 0, sum(phase.epochs for phase in phases)
    for phase in phases:
        if step < phase.steps:
            return time + step // (phase.epoch_steps or 1), length
        step, time = step - phase.steps, time + phase.epochs
    return length, length


def learning_rate_at(time: int, length: int, settings: OptimizerSettings) -> float:
    """Learning rate of a schedule at a time.

    Args:
        time: steps or epochs since the start, from 0 (see `schedule_time`).
        length: steps or epochs of the whole run.
        settings: peak rate and schedule.
    """
    time, length = time - settings.delay_steps, length - settings.delay_steps
    if time < 0:
        return 0.0
    if time < settings.warmup_steps:
        return settings.learning_rate * (time + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    return (_steps if settings.schedule == "steps" else _cosine)(time, length, settings)


def _cosine(time: int, length: int, settings: OptimizerSettings) -> float:
    """Half a cosine after warm-up and hold, or from restart to restart.

    Without warm-up and hold these are the rates of BasicSR's schedules with and without restarts.
    """
    start, end, weight = settings.warmup_steps + settings.hold_steps, length, 1.0
    if settings.cosine_steps is not None:
        end = start + settings.cosine_steps
    for restart in settings.restarts:
        if time < restart.step:
            end = restart.step
            break
        start, weight = restart.step, restart.weight
    if time < start:
        return settings.learning_rate
    progress = min(1.0, (time - start) / max(1, end - start))
    span = (settings.learning_rate - settings.minimum_rate) * weight
    return settings.minimum_rate + span * 0.5 * (1 + math.cos(math.pi * progress))


def _steps(time: int, length: int, settings: OptimizerSettings) -> float:
    """The peak rate times the weight of the last restart, times the factor for each milestone passed since.

    As BasicSR's MultiStepRestartLR: a milestone at the place of a restart does nothing.
    """
    start, weight = 0, 1.0
    for restart in settings.restarts:
        if restart.step <= time:
            start, weight = restart.step, restart.weight
    passed = sum(start < milestone <= time for milestone in settings.milestones)
    return settings.learning_rate * weight * settings.factor**passed
