"""The baseline is plain training from scratch: the control of every other method."""

import pytest
import torch
from helpers import shipped, stage

from airpipe.data.batch import Batch
from airpipe.methods.baseline.training import BaselineTask


def batch() -> Batch:
    clean = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Batch(
        degraded=1 - clean, clean=clean, label=torch.zeros(2, dtype=torch.int64), name=["a", "b"], level=["", ""]
    )


@pytest.mark.parametrize(("pixel_loss", "power"), [("l1", 1), ("mse", 2)])
def test_its_only_loss_is_the_mean_error_of_all_pixels(pixel_loss, power):
    task, given = BaselineTask(stage(pixel_loss=pixel_loss), {}), batch()
    losses = task.step(given, None)
    with torch.no_grad():
        error = (task.networks["net"](given.degraded) - given.clean).abs().pow(power).mean()
    assert list(losses) == ["pixel"]
    assert losses["pixel"].item() == pytest.approx(error.item(), rel=1e-6) and error > 0.01


def test_one_optimizer_trains_every_weight_of_the_network():
    task = BaselineTask(stage(), {})
    trained = {id(value) for group in task.optimizers["net"].param_groups for value in group["params"]}
    assert list(task.optimizers) == list(task.networks) == ["net"]
    assert trained == {id(value) for value in task.networks["net"].parameters()}


def test_weights_at_the_start_are_those_of_the_seed():
    first, again, other = (BaselineTask(stage(seed=seed), {}).networks["net"].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["intro.weight"], other["intro.weight"])


def test_no_shipped_setting_of_it_starts_from_another_model():
    settings = shipped()["methods"]["baseline"]["settings"]
    stages = [(name, plan) for setting in settings.values() for name, plan in setting.get("stages", {}).items()]
    assert len(stages) > 10 and {name for name, _ in stages} == {"train"}
    blocks = [block for _, plan in stages for block in (plan.get("common", {}), *plan.get("scales", {}).values())]
    assert not any("parents" in (block or {}) for block in blocks)
