"""Learning rates are those of the published schedules, step by step or epoch by epoch."""

import math

import pytest
import torch
from helpers import stage

from airpipe.settings.stages import OptimizerSettings
from airpipe.training.schedules import learning_rate_at, schedule_time

DSRIR = OptimizerSettings(learning_rate=2e-4, minimum_rate=1e-6, warmup_steps=3, per="epoch", weight_decay=1e-4)
DSRIR_PHASES = [  # all-in-one: 15,143 rows in batches of 16, 14, 12 and 8
    {"steps": 135 * 946, "epoch_steps": 946, "patch_size": 128, "batch_size": 16},
    {"steps": 103 * 1081, "epoch_steps": 1081, "patch_size": 160, "batch_size": 14},
    {"steps": 76 * 1261, "epoch_steps": 1261, "patch_size": 192, "batch_size": 12},
    {"steps": 33 * 1892, "epoch_steps": 1892, "patch_size": 256, "batch_size": 8},
]


def rates(settings: OptimizerSettings, length: int, *times: int) -> list[float]:
    return [learning_rate_at(time, length, settings) for time in times]


def test_learning_rate_warms_up_and_follows_half_a_cosine():
    settings = OptimizerSettings(learning_rate=1.0, minimum_rate=0.1, warmup_steps=4)
    rates = [learning_rate_at(step, 104, settings) for step in (0, 3, 4, 54, 104)]
    assert rates == pytest.approx([0.25, 1.0, 1.0, 0.55, 0.1])


def test_a_held_learning_rate_stays_at_its_peak_and_no_hold_changes_no_bit():
    restormer = OptimizerSettings(learning_rate=3e-4, minimum_rate=1e-6, hold_steps=92_000)
    assert {learning_rate_at(step, 300_000, restormer) for step in (0, 1, 50_000, 91_999, 92_000)} == {3e-4}
    later = [learning_rate_at(step, 300_000, restormer) for step in (92_001, 196_000, 299_999)]
    cosine = [1e-6 + (3e-4 - 1e-6) * (1 + math.cos(math.pi * t / 208_000)) / 2 for t in (1, 104_000, 207_999)]
    assert later == pytest.approx(cosine, rel=1e-12)
    both = OptimizerSettings(learning_rate=1.0, warmup_steps=4, hold_steps=6)
    assert [learning_rate_at(step, 30, both) for step in (0, 3, 4, 9, 10)] == [0.25, 1, 1, 1, 1]
    assert learning_rate_at(20, 30, both) == pytest.approx(0.5)
    plain = OptimizerSettings(learning_rate=1e-3, minimum_rate=1e-6, warmup_steps=50)
    for step in (0, 49, 50, 51, 1234, 2799):
        ramp = plain.learning_rate * (step + 1) / 50
        progress = (step - 50) / 2750
        decay = 1e-6 + (1e-3 - 1e-6) * 0.5 * (1 + math.cos(math.pi * progress))
        assert learning_rate_at(step, 2800, plain) == (ramp if step < 50 else decay)


def test_dsrir_s_published_rates_hold_epoch_by_epoch_over_four_phases():
    phases = stage(phases=DSRIR_PHASES, optimizers={"net": DSRIR.model_dump()}).phases
    published = {1: 6.66667e-5, 2: 1.33333e-4, 3: 2e-4, 4: 2e-4, 100: 1.641475e-4, 173: 1.032257e-4, 347: 1.004149e-6}
    epochs = [(phase.epoch_steps, epoch) for phase in phases for epoch in range(phase.epochs)]
    first = 0
    for number, (steps, _) in enumerate(epochs, 1):
        if number in published:
            for step in (first, first + steps // 2, first + steps - 1):
                time, length = schedule_time(step, phases, "epoch")
                assert length == 347
                assert learning_rate_at(time, length, DSRIR) == pytest.approx(published[number], rel=1e-5)
        first += steps
    assert number == 347
    assert first == sum(phase.steps for phase in phases) == 397_325


def test_dynet_s_published_rates_hold_with_their_two_dead_epochs_and_without():
    """Reference: f(max(e - 1, 0)), f(t) = 2e-4 t/14 below 15, then half a cosine over 135 epochs; ours: f(e + 1)."""
    ours = {"learning_rate": 2e-4, "warmup_steps": 14, "cosine_steps": 135, "per": "epoch", "weight_decay": 0.01}
    published = {0: 0, 1: 0, 2: 1.428571e-5, 14: 1.857143e-4, 15: 2e-4, 16: 2e-4, 17: 1.999729e-4}
    published |= {60: 1.520015e-4, 118: 2.806602e-5, 119: 2.646910e-5}
    shifted = OptimizerSettings(**ours, delay_steps=2)
    assert rates(shifted, 120, *published) == pytest.approx(list(published.values()), rel=1e-6)

    def f(t):
        return 2e-4 * t / 14 if t < 15 else 1e-4 * (1 + math.cos(math.pi * (t - 15) / 135))

    sane = OptimizerSettings(**ours)
    assert rates(sane, 120, *range(120)) == pytest.approx([f(epoch + 1) for epoch in range(120)], rel=1e-9)


def test_a_cosine_that_ends_before_the_run_stays_at_its_minimum():
    short = OptimizerSettings(learning_rate=1, minimum_rate=0.25, warmup_steps=2, cosine_steps=4)
    assert rates(short, 20, 2, 4, 6, 7, 19) == pytest.approx([1, 0.625, 0.25, 0.25, 0.25])


def test_milestones_are_those_of_torch_and_warm_up_overrides_them():
    settings = OptimizerSettings(learning_rate=1e-4, schedule="steps", milestones=(5, 8, 15), factor=0.5)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=1e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5, 8, 15], 0.5)
    for step in range(20):
        assert learning_rate_at(step, 20, settings) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        scheduler.step()
    warm = settings.model_copy(update={"warmup_steps": 4})
    assert rates(warm, 20, 0, 1, 3, 4, 5) == pytest.approx([0.25e-4, 0.5e-4, 1e-4, 1e-4, 0.5e-4])


def test_restarts_begin_anew_with_their_weight():
    restarts = ({"step": 10}, {"step": 16, "weight": 0.5})
    steps = OptimizerSettings(learning_rate=1, schedule="steps", milestones=(4, 10, 12), factor=0.1, restarts=restarts)
    assert rates(steps, 20, 3, 4, 9, 10, 11, 12, 15, 16, 19) == pytest.approx([1, 0.1, 0.1, 1, 1, 0.1, 0.1, 0.5, 0.5])
    cosine = OptimizerSettings(learning_rate=1, minimum_rate=0.2, restarts=restarts)

    def published(step):  # BasicSR's cosine with periods 10, 6 and 4 and weights 1, 1 and 0.5
        start, period, weight = next(s for s in ((16, 4, 0.5), (10, 6, 1), (0, 10, 1)) if step >= s[0])
        return 0.2 + weight * 0.5 * 0.8 * (1 + math.cos(math.pi * (step - start) / period))

    assert rates(cosine, 20, *range(20)) == pytest.approx([published(step) for step in range(20)], rel=1e-12)


def test_a_constant_rate_is_constant_after_its_warm_up():
    constant = OptimizerSettings(learning_rate=1, schedule="constant", warmup_steps=2)
    assert rates(constant, 9, *range(9)) == [0.5, *[1] * 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schedule": "constant", "minimum_rate": 0.1},
            "minimum_rate belongs to schedule cosine, found schedule con",
        ),
        ({"milestones": [3]}, "milestones belongs to schedule steps, found schedule cosine; leave milestones out"),
        ({"schedule": "steps"}, "schedule steps needs milestones; for one rate all the time set schedule: constant"),
        ({"schedule": "steps", "milestones": [30, 60]}, "milestones has 60, but the stage has 60 steps; choose places"),
        ({"schedule": "steps", "milestones": [30, 20]}, r"milestones are \[30, 20\]; expected each once, in rising"),
        ({"restarts": [{"step": 70}]}, "optimizers.net: restarts has 70, but the stage has 60 steps"),
        ({"restarts": [{"step": 3}], "warmup_steps": 3}, "the first restart is at 3, warm-up and hold end at 3"),
        ({"restarts": [{"step": 3}], "cosine_steps": 3}, "found cosine_steps and restarts"),
        ({"delay_steps": 60}, "delay_steps is 60, the stage has 60 steps: all would have rate 0"),
        ({"per": "epoch"}, "optimizers.net: per is epoch, but a phase does not say its epoch_steps"),
        ({"schedule": "steps", "milestone": [3]}, "unknown setting 'milestone'; did you mean 'milestones'"),
        ({"schedule": None}, "Input should be 'cosine', 'constant' or 'steps'"),
        ({"kind": "sgd"}, "Input should be 'adamw' or 'adam'"),
    ],
)
def test_schedules_that_do_not_fit_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        stage(optimizers={"net": {"learning_rate": 1, **changes}})
