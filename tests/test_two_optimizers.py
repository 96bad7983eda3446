"""The loop carries adversarial tasks: two optimizers in turns, frozen parts, parents; resumed to the same bits."""

from types import SimpleNamespace

import pytest
import torch
from helpers import Stage, stage
from torch import nn

from airpipe import registry
from airpipe.data.pairs import read_pairs
from airpipe.errors import AirpipeError
from airpipe.registry import Stage as Registered
from airpipe.registry import build_network
from airpipe.settings.base import check_settings, read_yaml
from airpipe.training.run import PairLists, RunOptions, train_stage
from airpipe.training.task import Task, Turn, make_adamw

SETTINGS = {
    "task": "toy.adversarial",
    "optimizers": {"net": {"learning_rate": 1e-3}, "critic": {"learning_rate": 2e-3}},
    "loss_weights": {"fool": 0.01},
    "phases": [{"steps": 20, "patch_size": 16, "batch_size": 4}],
    "parents": {"init": "baseline/nafnet_toy/seed3/train"},
}
BREAK = SimpleNamespace(at=None, calls=0)


class AdversarialTask(Task):
    """A restorer against a critic, with a frozen network as perceptual front."""

    def __init__(self, settings, parents):
        super().__init__(settings, parents)
        torch.manual_seed(settings.seed)
        net = build_network(settings.network.name, **settings.network.arguments)
        net.load_state_dict(parents["init"].state_dict())
        critic = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.GELU(), nn.Dropout(0.2), nn.Conv2d(4, 1, 3))
        self.networks = {"net": net, "critic": critic}
        self.frozen = {"front": nn.Conv2d(3, 4, 3)}
        self.optimizers = {
            "net": make_adamw(net.parameters(), settings.optimizers["net"]),
            "critic": make_adamw(critic.parameters(), settings.optimizers["critic"]),
        }

    @property
    def turns(self):
        return (Turn("restore", ("net",)), Turn("judge", ("critic",)))

    def step(self, batch, turn):
        if BREAK.at is not None:
            BREAK.calls += 1
            if BREAK.calls == BREAK.at:
                raise KeyboardInterrupt
        net, critic, front = self.networks["net"], self.networks["critic"], self.frozen["front"]
        restored = net(batch.degraded)
        if turn == "restore":
            assert not any(p.requires_grad for p in critic.parameters())
            features = (front(restored) - front(batch.clean)).abs().mean()
            return {
                "pixel": (restored - batch.clean).abs().mean(),
                "front": features,
                "fool": -critic(restored).mean(),
            }
        return {"judge": critic(restored.detach()).mean() - critic(batch.clean).mean()}


@pytest.fixture
def adversarial(monkeypatch):
    entry = Registered(task=f"{__name__}:AdversarialTask")
    monkeypatch.setitem(registry.stages(), "toy.adversarial", entry)
    BREAK.at, BREAK.calls = None, 0


def train(folder, parent, settings=None):
    folder.mkdir(exist_ok=True)
    made = Stage(folder, settings or stage(**SETTINGS))
    frozen = check_settings(type(stage()), read_yaml(made.config), "toy")
    lists = PairLists([made.list] * 2, [read_pairs(made.list, folder / "images")] * 2)
    options = RunOptions(workdir=made.workdir, checkpoint_seconds=1e-6, parents=parent)
    train_stage(frozen, lists, PairLists([], []), options)
    return made


@pytest.fixture
def parent(tmp_path):
    (tmp_path / "parent").mkdir()
    made = Stage(tmp_path / "parent")
    made.run()
    return {"init": made.workdir / "model.safetensors"}


def test_interrupted_adversarial_training_ends_with_the_same_bits(tmp_path, adversarial, parent):
    whole = train(tmp_path / "whole", parent)
    BREAK.at = 25  # in the restore turn of step 13
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", parent)
    BREAK.at = None
    resumed = train(tmp_path / "broken", parent)
    assert resumed.weights() == whole.weights()
    assert resumed.curves() == whole.curves()
    states = [torch.load(s.workdir / "state" / "step_00000020.ckpt", weights_only=True) for s in (whole, resumed)]
    for key, value in states[0]["network.critic"].items():
        assert torch.equal(value, states[1]["network.critic"][key])


def test_both_networks_learn_and_the_total_is_weighted(tmp_path, adversarial, parent):
    made = train(tmp_path / "made", parent)
    names = {line.split(",")[1] for line in made.curves().splitlines()[1:]}
    assert {"loss/pixel", "loss/fool", "loss/judge", "grad_norm_net", "grad_norm_critic"} <= names
    first = dict(line.split(",")[1:] for line in made.curves().splitlines() if line.startswith("1,"))
    weighted = float(first["loss/pixel"]) + float(first["loss/front"]) + 0.01 * float(first["loss/fool"])
    assert float(first["loss/total_restore"]) == pytest.approx(weighted, rel=1e-6)
    state = torch.load(made.workdir / "state" / "step_00000020.ckpt", weights_only=True)
    before = torch.load(made.workdir / "state" / "step_00000019.ckpt", weights_only=True)
    for network in ("network.net", "network.critic"):
        assert any(not torch.equal(v, before[network][k]) for k, v in state[network].items())


def test_a_missing_parent_and_a_missing_optimizer_are_named(tmp_path, adversarial, parent):
    with pytest.raises(AirpipeError, match=r"stage has parents \['init'\], given \[\]"):
        train(tmp_path / "orphan", {})
    lone = stage(
        **{
            **SETTINGS,
            "optimizers": {
                "net": {"learning_rate": 1e-3},
                "critic": {"learning_rate": 1},
                "x": {"learning_rate": 1},
            },
        }
    )
    with pytest.raises(
        AirpipeError, match=r"has optimizers \['critic', 'net'\], its settings \['critic', 'net', 'x'\]"
    ):
        train(tmp_path / "lone", parent, lone)
