"""Every registered stage trains, resumes, shares a batch between processes, runs in mixed precision and exports.

A stage is found through the registry. Its settings are the tiny ones of `toys/<method>.py`, which a method brings
where those of the toy baseline do not fit; two tasks of `toys/loop.py` use what the step loop can beyond that.
"""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers import Stage, card, curve, model_of, on_disk, run_on_processes, stage, train
from toys.loop import registered

from airpipe import registry
from airpipe.models.contract import takes_reference
from airpipe.registry import settings_class, task_class
from airpipe.settings.base import canonical_json, check_settings
from airpipe.settings.stages import StageSettings
from airpipe.weights.checkpoints import load_model

SHORT = {
    "phases": [{"steps": 6, "patch_size": 16, "batch_size": 3}],  # two processes share three samples unevenly
    "validation": {"data": []},
    "setting": "toy",
}
BATCH_NORM = {"recogniser_residual"}
"""Networks that normalise features with the statistics of a process's own samples."""


APART = {
    f"{method}/{name}"
    for method in registry.METHODS
    if find_spec(f"toys.{method}")
    for name in getattr(import_module(f"toys.{method}"), "BATCH_NORM", ())
}
"""Toys with another network of that kind, as their module says."""


def all_toys() -> dict[str, dict]:
    """Settings of the toys by method/name; a stage without a toy has those of the toy baseline."""
    found = {}
    for method in (*registry.METHODS, "loop"):
        own = import_module(f"toys.{method}").TOYS if find_spec(f"toys.{method}") else {}
        found |= {f"{method}/{name}": toy for name, toy in own.items()}
    covered = {toy["task"] for toy in found.values()}
    bare = {task.replace(".", "/"): {"task": task} for task in registry.stages() if task not in covered}
    return bare | found


TOYS = all_toys()
SHARED = [
    name
    for name, toy in TOYS.items()
    if "dropout" not in toy and name not in APART and toy.get("network", {}).get("name") not in BATCH_NORM
]
"""Toys whose numbers do not depend on the processes."""
LATE = {name: toy["gan_from"] for name, toy in TOYS.items() if name in APART and toy.get("gan_from")}
"""Steps before which that is so, where a discriminator that normalises features begins late."""


def settings_of(name: str, **changes) -> StageSettings:
    """Settings of a toy; None leaves a setting out."""
    method, stage_name = name.split("/")
    own = {"method": method, "stage": stage_name, "parents": parents_of(name)}
    values = json.loads(canonical_json(stage())) | SHORT | TOYS[name] | own | changes
    values = {key: value for key, value in values.items() if value is not None}
    return check_settings(settings_class(values["task"]), values, name)


def parents_of(name: str) -> dict[str, str]:
    """Toy of each role."""
    method = name.split("/")[0]
    return {r: p if "/" in p else f"{method}/{p}" for r, p in TOYS[name].get("parents", {}).items()}


@pytest.fixture(scope="module", autouse=True)
def toy_tasks():
    with registered():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Stage]:
    """Every toy after an uninterrupted run, parents first."""
    folder, done = tmp_path_factory.mktemp("stages"), {}

    def run(name: str) -> None:
        if name not in done:
            for parent in parents_of(name).values():
                run(parent)
            done[name] = train(folder / name, settings_of(name), **files(done, name))

    for name in TOYS:
        run(name)
    return done


def files(made: dict[str, Stage], name: str) -> dict[str, Path]:
    """Model file of each role of a toy."""
    return {role: model_of(made[parent]) for role, parent in parents_of(name).items()}


@pytest.fixture(scope="module")
def on_two(made, tmp_path_factory) -> dict[str, Stage]:
    """Every toy whose numbers do not depend on the processes, at first at least, on two of them; one start for all."""
    folder = tmp_path_factory.mktemp("two")
    two = {name: on_disk(folder / name, settings_of(name)) for name in (*SHARED, *LATE)}
    parents = {name: [f"{role}={path}" for role, path in files(made, name).items()] for name in two}
    commands = [
        one.command(*(word for parent in parents[name] for word in ("--parent", parent))) for name, one in two.items()
    ]
    run_on_processes(2, commands, folder)
    return two


def test_every_registered_stage_is_here():
    assert {toy["task"] for toy in TOYS.values()} == set(registry.stages())


@pytest.mark.parametrize("name", TOYS)
def test_a_stage_exports_the_network_that_its_card_names(made, name):
    loaded, settings = load_model(made[name].workdir), settings_of(name)
    assert loaded.card["network"] == json.loads(settings.exported_network.model_dump_json())
    assert loaded.card["parameters"] == sum(p.numel() for p in loaded.network.parameters())
    assert loaded.card["step"] == settings.steps == 6
    assert takes_reference(loaded.network) == registry.stage_entry(settings.task).takes_reference
    averaged = any(key.startswith("average.") for key in last_state(made[name]))
    assert loaded.card["weights"] == ("ema" if settings.ema_decay else "raw")
    assert averaged == bool(settings.ema_decay)
    assert {one["role"]: Path(one["path"]) for one in loaded.card["parents"]} == files(made, name)


def last_state(one: Stage) -> dict:
    return torch.load(max((one.workdir / "state").glob("step_*.ckpt")), weights_only=True)


@pytest.mark.parametrize("name", TOYS)
def test_a_killed_and_resumed_stage_ends_with_the_same_bits(made, tmp_path, monkeypatch, name):
    settings, calls = settings_of(name), []
    build = task_class(settings.task)
    step, parents = build.step, files(made, name)

    def killed(self, batch, at):
        calls.append(at.step)
        if at.step == 4:
            raise KeyboardInterrupt
        return step(self, batch, at)

    with monkeypatch.context() as patched:
        patched.setattr(build, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, settings, seconds=1e-6, **parents)
    resumed = train(tmp_path, settings, **parents)
    assert json.loads((resumed.workdir / "state" / "attempts.json").read_text()) == [4]
    assert resumed.weights() == made[name].weights()
    assert resumed.curves() == made[name].curves()
    whole, again = last_state(made[name]), last_state(resumed)
    assert set(whole) == set(again)
    whole, again = flat(whole), flat(again)
    for key, value in whole.items():
        same = torch.equal(value, again[key]) if isinstance(value, torch.Tensor) else value == again[key]
        assert same or key.startswith("seconds"), key


def flat(values: dict, prefix: str = "") -> dict:
    """Nested dictionaries and lists as one, tensors at their ends."""
    found = {}
    for key, value in values.items():
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        found |= flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return found


@pytest.mark.parametrize("name", SHARED)
def test_two_processes_compute_what_one_does_with_an_uneven_share(made, on_two, name):
    assert card(on_two[name])["world_size"] == 2
    assert compared(made[name], on_two[name], 6) > 6 * 4


@pytest.mark.parametrize("name", LATE)
def test_two_processes_train_a_discriminator_and_compute_what_one_does_before_it_begins(made, on_two, name):
    assert card(on_two[name])["world_size"] == 2
    assert compared(made[name], on_two[name], LATE[name]) > LATE[name] * 4
    for loss in ("loss/real", "loss/fake"):
        assert len(curve(on_two[name], loss)) == 6 - LATE[name]


def compared(one: Stage, other: Stage, steps: int) -> int:
    """Number of the values in the curves of the first steps; they are equal but for rounding."""
    rows = [
        [row for row in stage.curves().splitlines()[1:] if int(row.split(",")[0]) <= steps] for stage in (one, other)
    ]
    assert len(rows[0]) == len(rows[1])
    for mine, theirs in zip(*rows, strict=True):
        assert mine.rsplit(",", 1)[0] == theirs.rsplit(",", 1)[0]
        assert float(theirs.rsplit(",", 1)[1]) == pytest.approx(float(mine.rsplit(",", 1)[1]), rel=1e-3, abs=1e-5), mine
    return len(rows[0])


@pytest.mark.parametrize("name", TOYS)
def test_mixed_precision_trains_about_the_same(made, tmp_path, name):
    mixed = train(tmp_path, settings_of(name, precision="bf16-mixed"), **files(made, name))
    found, expected = curve(mixed, "loss/total"), curve(made[name], "loss/total")
    assert found != expected
    assert found == pytest.approx(expected, rel=0.05)
