"""The step loop carries late turns, skipped turns, handed-on images and drawn depths, and refuses what does not fit."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import Stage, card, curve, model_of, stage, train
from toys import loop as toys

from airpipe.data.sampling import MicroBatches, SamplePlan
from airpipe.errors import AirpipeError
from airpipe.registry import settings_class
from airpipe.settings.base import canonical_json, check_settings
from airpipe.settings.stages import OptimizerSettings, StageSettings
from airpipe.training.loop import StepLoop
from airpipe.training.task import Turn, make_optimizer
from airpipe.weights.importing import export_published

INIT = "baseline/toy/seed3/train"
OPTIMIZERS = toys.ADVERSARIAL["optimizers"]
A_TURN = Turn("a", ("net",), ("x",))


@pytest.fixture(scope="module", autouse=True)
def toy_tasks():
    with toys.registered():
        yield


def toy(name: str, **changes) -> StageSettings:
    """Settings of a toy of eight steps, each of four samples in two micro-batches."""
    own = {
        "method": "loop",
        "stage": name,
        "phases": [{"steps": 8, "patch_size": 16, "batch_size": 4, "accumulate": 2}],
        "validation": {"data": []},
        "parents": {"init": INIT} if name.startswith("adversarial") else {},
    }
    values = json.loads(canonical_json(stage())) | toys.TOYS[name] | own | changes
    return check_settings(settings_class(values["task"]), values, name)


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Path:
    short = {"phases": [{"steps": 2, "patch_size": 16, "batch_size": 2}], "validation": {"data": []}}
    return model_of(train(tmp_path_factory.mktemp("parent"), stage(**short)))


@pytest.fixture(scope="module")
def adversarial(parent, tmp_path_factory) -> Stage:
    toys.NET_PASSES.clear()
    return train(tmp_path_factory.mktemp("adversarial"), toy("adversarial"), seconds=1e-6, init=parent)


def steps_of(made: Stage) -> dict[str, list[int]]:
    """Steps at which each curve has a value."""
    found: dict[str, list[int]] = {}
    for row in csv.DictReader(made.curves().splitlines()):
        found.setdefault(row["name"], []).append(int(row["step"]))
    return found


def test_the_generator_runs_once_for_both_turns_of_a_micro_batch(adversarial):
    assert len(toys.NET_PASSES) == 8 * 2


def test_a_late_turn_of_every_second_step_is_logged_where_it_runs(adversarial):
    found, judged = steps_of(adversarial), [3, 5, 7]
    assert {name for name, steps in found.items() if steps == judged} == {
        "loss/real", "loss/fake", "loss/total_judge", "grad_norm_critic", "learning_rate/critic",
    }  # fmt: skip
    assert found["loss/fool"] == list(range(3, 9))
    assert {name for name, steps in found.items() if steps == list(range(1, 9))} == {
        "loss/pixel", "loss/total_restore", "grad_norm_net", "learning_rate/net", "loss/total",
    }  # fmt: skip


def test_each_turn_moves_its_own_network_and_totals_are_weighted(adversarial):
    total, pixel, fool = (curve(adversarial, f"loss/{name}") for name in ("total_restore", "pixel", "fool"))
    assert total[2:] == pytest.approx([p + 0.01 * f for p, f in zip(pixel[2:], fool, strict=True)], rel=1e-6)
    both = [t + j for t, j in zip(total[2::2], curve(adversarial, "loss/total_judge"), strict=True)]
    assert curve(adversarial, "loss/total")[2::2] == pytest.approx(both, rel=1e-6)
    before, after = (
        torch.load(adversarial.workdir / "state" / f"step_0000000{step}.ckpt", weights_only=True) for step in (7, 8)
    )
    for network, moves in (("network.net", True), ("network.critic", False)):  # step 8 has no turn of the critic
        moved = [not torch.equal(value, before[network][key]) for key, value in after[network].items()]
        assert all(moved) if moves else not any(moved)


def test_weight_decay_shrinks_weights_with_adamw_and_is_a_gradient_with_adam():
    moved = {}
    for kind in ("adamw", "adam"):
        weight = torch.nn.Parameter(torch.full((1,), 2.0))
        weight.grad = torch.full((1,), 0.0)
        make_optimizer([weight], OptimizerSettings(kind=kind, learning_rate=0.1, weight_decay=0.5)).step()
        moved[kind] = weight.item()
    assert moved["adamw"] == pytest.approx(2 * (1 - 0.1 * 0.5))
    assert moved["adam"] == pytest.approx(2 - 0.1)  # the first step of Adam has the rate's length


def test_a_drawn_depth_is_shared_by_all_micro_batches_and_logged_under_its_name(tmp_path):
    toys.DepthTask.drawn.clear()
    made = train(tmp_path, toy("depths"))
    drawn = toys.DepthTask.drawn
    assert len(drawn) == 16
    assert drawn[::2] == drawn[1::2]
    found = steps_of(made)
    for depth in (1, 2):
        assert found[f"loss/pixel_{depth}"] == [step for step, d in enumerate(drawn[::2], 1) if d == depth] != []


@pytest.mark.parametrize("names", [[("pixel_1",), ("pixel_2",)], [("pixel_1", "pixel_2"), ("pixel_1",)]])
def test_micro_batches_that_draw_apart_are_told(tmp_path, monkeypatch, names):
    def apart(self, batch, at):
        drawn = names[batch.slot[0] // 2 % 2]
        return {name: self.networks["net"](batch.degraded).mean() for name in drawn}

    monkeypatch.setattr(toys.DepthTask, "step", apart)
    with pytest.raises(AirpipeError, match="turn 'train': micro-batches drew other losses; draw from `at.generator`"):
        train(tmp_path, toy("depths"))


def test_the_card_tells_about_the_exported_network_only(parent, tmp_path, monkeypatch):
    build = toys.AdversarialTask.__init__

    def other_average(self, settings, parents):
        build(self, settings, parents)
        self.averaged = ("critic",)

    monkeypatch.setattr(toys.AdversarialTask, "__init__", other_average)
    made = train(tmp_path, toy("adversarial", ema_decay=0.9), init=parent)
    assert card(made)["weights"] == "raw"
    state = torch.load(max((made.workdir / "state").glob("*.ckpt")), weights_only=True)
    assert {key for key in state if key.startswith("average")} == {"average.critic"}


def test_an_absent_optional_parent_is_told_and_a_present_one_counts_nothing(parent, tmp_path, capsys):
    named = toy("adversarial", parents={"init": INIT, "front": "imported/front"})
    without = train(tmp_path / "without", named, init=parent)
    assert "WARNING: parent front (imported/front) is absent: training without it" in capsys.readouterr().out
    assert card(without)["absent_parents"] == {"front": "imported/front"}
    assert card(without)["notes"] == ["trained without imported/front (parent front is absent)"]
    assert "loss/front" not in steps_of(without)
    made = train(tmp_path / "with", named, init=parent, front=parent)
    assert not {"absent_parents", "notes"} & set(card(made))
    assert len(steps_of(made)["loss/front"]) == 8
    assert [one["role"] for one in card(made)["parents"]] == ["init", "front"]
    export_published(parent.parent, tmp_path / "front.pth")
    unknown = train(tmp_path / "unknown", named, init=parent, front=tmp_path / "front.pth")  # a file without a card
    for one in (without, made, unknown):
        assert card(one)["budget"]["steps"] == 8 + 2
    message = r"has parents \['front', 'init'\], of which \['front'\] may be absent, given \[\]"
    with pytest.raises(AirpipeError, match=message):
        train(tmp_path / "orphan", named)


@pytest.mark.parametrize(
    ("turns", "changes", "message"),
    [
        (None, {"loss_weights": {"fol": 1}}, "unknown loss 'fol'; did you mean 'fool'. Valid: fake, fool, pixel, real"),
        (None, {"optimizers": {**OPTIMIZERS, "x": {"learning_rate": 1}}}, r"its settings \['critic', 'net', 'x'\]"),
        ([], {}, r"task loop.adversarial, step 1: turns \[\]; expected one or more, each once"),
        ([A_TURN], {}, r"no turn of any step has the optimizers \['critic'\]; they would train nothing"),
        ([A_TURN, Turn("b", (), ("x",))], {}, "turn 'b' has no optimizer; it would train nothing"),
        (
            [A_TURN, Turn("b", ("net", "critic"), ("x",))],
            {},
            "one that follows two turns of a step would",
        ),
        ([A_TURN, A_TURN], {}, r"turns \['a', 'a'\]; expected one or more, each once"),
        ([A_TURN, Turn("b", ("critic",), ("x",))], {}, "the turns 'a' and 'b' both have a loss 'x'"),
        ([Turn("a", ("nett",), ("x",))], {}, "turn 'a': unknown optimizer 'nett'; did you mean 'net'"),
        ([Turn("a", ("net", "critic"), ("total_a",))], {}, "loss 'total_a' is called like another curve"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(parent, tmp_path, monkeypatch, turns, changes, message):
    def never(self, batch, at):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(toys.AdversarialTask, "step", never)
    if turns is not None:
        monkeypatch.setattr(toys.AdversarialTask, "turns", lambda self, step: turns)
    changes = {"loss_weights": {}} | changes
    with pytest.raises(AirpipeError, match=message):
        train(tmp_path, toy("adversarial", **changes), init=parent)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"pixel", "extra"}, r"turn 'train' returned the losses \['extra', 'pixel'\], it declares \['pixel'\], and"),
        ({"pixel_1"}, r"returned the losses \['pixel_1'\], it declares \['pixel'\], and may have some of"),
        (set(), r"returned the losses \[\]"),
    ],
)
def test_other_losses_than_declared_are_told(losses, message):
    turn = Turn("train", ("net",), ("pixel",), ("pixel_1", "pixel_2"))
    for fine in (["pixel"], ["pixel_1", "pixel"]):
        turn.check(fine)
    with pytest.raises(AirpipeError, match=message):
        turn.check(losses)
    with pytest.raises(AirpipeError, match=r"returned the losses \[\]"):
        Turn("train", ("net",), drawn_losses=("pixel_1",)).check([])


def test_a_tensor_handed_on_with_its_graph_is_told(parent, tmp_path, monkeypatch):
    step = toys.AdversarialTask.step

    def attached(self, batch, at):
        losses = step(self, batch, at)
        at.handed["restored"] = losses["pixel"]
        return losses

    monkeypatch.setattr(toys.AdversarialTask, "step", attached)
    with pytest.raises(AirpipeError, match=r"'restored' is handed to the next turn with its graph; hand on"):
        train(tmp_path, toy("adversarial"), init=parent)


def test_fourteen_samples_on_four_processes_weigh_the_same_each():
    phases = stage(phases=[
        {"steps": 3, "patch_size": 16, "batch_size": 14},
        {"steps": 2, "patch_size": 24, "batch_size": 14, "accumulate": 3},
    ]).phases  # fmt: skip
    plan = SamplePlan([5], [1.0], phases, 0)
    shares = [list(MicroBatches(plan, 1, rank, 4, 1)) for rank in range(4)]
    assert [len(MicroBatches(plan, 1, rank, 4, 1)) for rank in range(4)] == [2 + 6] * 4
    assert [[len(micro) for micro in mine] for mine in shares] == [[4, 4, *[2, 1, 1] * 2]] * 2 + [[3, 3, *[1] * 6]] * 2
    for place, step in ((slice(0, 1), 1), (slice(1, 2), 2), (slice(2, 5), 3), (slice(5, 8), 4)):
        keys = [key for mine in shares for micro in mine[place] for key in micro]
        assert sorted(keys) == plan.batch(step)
    with pytest.raises(
        AirpipeError, match="14 has not a sample for each of 5 processes x 3 micro-.*accumulate 2, or a"
    ):
        MicroBatches(plan, 0, 0, 5, 1)
    with pytest.raises(AirpipeError, match="each of 16 processes x 1 .*; choose 14 processes or less, or a"):
        MicroBatches(plan, 0, 0, 16, 1)


def shares_of_whole_batches(plan, first, rank, world_size, accumulate):
    """Micro-batches as they were cut before: out of the keys of the whole batch."""
    for step in range(first, plan.steps):
        mine = plan.batch(step)[rank::world_size]
        size, more = divmod(len(mine), plan.phase(step)[1].accumulate or accumulate)
        while mine:
            cut = size + (more > 0)
            yield mine[:cut]
            mine, more = mine[cut:], more - 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_process_makes_no_keys_but_its_own_and_they_are_the_same(world_size, accumulate):
    phases = stage(phases=[
        {"steps": 3, "patch_size": 16, "batch_size": 23},
        {"steps": 2, "patch_size": 24, "batch_size": 14},
        {"steps": 4, "patch_size": 32, "batch_size": 21, "accumulate": 3},
    ]).phases  # fmt: skip
    plan = SamplePlan([7, 40, 3], [2.0, 1.0, 0.3], phases, 3)
    for rank in range(world_size):
        made, fresh = [], SamplePlan([7, 40, 3], [2.0, 1.0, 0.3], phases, 3)
        key_of = fresh.key
        fresh.key = lambda slot, side, made=made, key_of=key_of: made.append(slot) or key_of(slot, side)
        found = list(MicroBatches(fresh, 1, rank, world_size, accumulate))
        assert found == list(shares_of_whole_batches(plan, 1, rank, world_size, accumulate))
        assert made == [key.slot for micro in found for key in micro]


def test_a_network_of_which_a_turn_trains_a_part_is_refused_on_several_processes():
    turns = {Turn("restore", ("net", "head"), ("x",)), Turn("judge", ("head",), ("y",))}
    for world, trains in ((1, {"net": {"net", "head"}}), (2, {"net": {"net"}, "top": {"head"}})):
        StepLoop._check_networks(SimpleNamespace(fabric=SimpleNamespace(world_size=world), _trains=trains), turns)
    shared = SimpleNamespace(fabric=SimpleNamespace(world_size=2), _trains={"net": {"net", "head"}})
    with pytest.raises(AirpipeError, match=r"network 'net' is trained by the optimizers \['head', 'net'\], turn"):
        StepLoop._check_networks(shared, turns)
