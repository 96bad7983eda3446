"""Two tasks of no paper that ask for what the step loop can: adversarial turns, and a depth drawn at each step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import nn

from airpipe import registry
from airpipe.models.contract import Network
from airpipe.settings.stages import StageSettings
from airpipe.training.task import Task, Turn, make_optimizer

NET_PASSES: list[int] = []
"""One entry for each forward pass of the adversarial task's generator."""
LATE = 2
"""The critic's first step; from there on it learns in every second one."""


class AdversarialSettings(StageSettings):
    """A restorer against a critic; `front` is a frozen network for a perceptual loss, if it is there."""

    needs = frozenset({"init"})
    takes = frozenset({"front"})
    optional = frozenset({"front"})
    uncounted = frozenset({"front"})
    dropout: float = 0.0


class AdversarialTask(Task):
    """The restorer hands its images to the critic, which starts late and learns in every second step."""

    def __init__(self, settings, parents):
        super().__init__(settings, parents)
        torch.manual_seed(settings.seed)
        net = registry.build_network(settings.network.name, **settings.network.arguments)
        net.load_state_dict(parents["init"].state_dict())
        net.register_forward_hook(lambda *_: NET_PASSES.append(1))
        dropped = nn.Dropout(settings.dropout)
        critic = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.GELU(), dropped, nn.Conv2d(4, 1, 3))
        self.networks = {"net": net, "critic": critic}
        if "front" in parents:
            self.frozen = {"front": parents["front"]}
        self.optimizers = {
            name: make_optimizer(network.parameters(), settings.optimizers[name])
            for name, network in self.networks.items()
        }

    def turns(self, step):
        pixel = ("pixel", "front") if self.frozen else ("pixel",)
        if step < LATE:
            return (Turn("restore", ("net",), pixel),)
        restore = Turn("restore", ("net",), (*pixel, "fool"))
        return (restore, Turn("judge", ("critic",), ("real", "fake"))) if step % 2 == 0 else (restore,)

    def step(self, batch, at):
        net, critic = self.networks["net"], self.networks["critic"]
        if at.turn == "judge":
            assert not any(parameter.requires_grad for parameter in net.parameters())
            fake, real = critic(torch.cat([at.handed["restored"], batch.clean])).chunk(2)
            return {"real": (real - 1).square().mean(), "fake": fake.square().mean()}
        assert not at.handed
        assert not any(parameter.requires_grad for parameter in critic.parameters())
        restored = net(batch.degraded)
        at.handed["restored"] = restored.detach()
        losses = {"pixel": (restored - batch.clean).abs().mean()}
        if self.frozen:
            losses["front"] = (self.frozen["front"](restored) - self.frozen["front"](batch.clean)).abs().mean()
        return losses if at.step < LATE else {**losses, "fool": (critic(restored) - 1).square().mean()}


class TwoDepths(Network):
    """A residual network that applies one block once or twice."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 3, 3, padding=1)
        self.block = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, image, depth: int = 2):
        features = self.head(image)
        for _ in range(depth):
            features = features + self.block(features).relu()
        return image + self.tail(features)


class DepthTask(Task):
    """Each step trains one of two depths, drawn for all its samples."""

    drawn: ClassVar[list[int]] = []

    def __init__(self, settings, parents):
        super().__init__(settings, parents)
        torch.manual_seed(settings.seed)
        net = registry.build_network(settings.network.name, **settings.network.arguments)
        self.networks = {"net": net}
        self.optimizers = {"net": make_optimizer(net.parameters(), settings.optimizers["net"])}

    def turns(self, step):
        return (Turn("train", ("net",), drawn_losses=("pixel_1", "pixel_2")),)

    def step(self, batch, at):
        depth = int(at.generator.integers(1, 3))
        self.drawn.append(depth)
        return {f"pixel_{depth}": (self.networks["net"](batch.degraded, depth) - batch.clean).abs().mean()}


STAGES = {
    "loop.adversarial": registry.Stage(f"{__name__}:AdversarialTask", f"{__name__}:AdversarialSettings"),
    "loop.depths": registry.Stage(f"{__name__}:DepthTask"),
}
RATE = {"learning_rate": 1e-2}
ADVERSARIAL = {
    "task": "loop.adversarial",
    "optimizers": {"net": RATE, "critic": {**RATE, "kind": "adam"}},
    "loss_weights": {"fool": 0.01},
    "parents": {"init": "baseline/train"},
}
DEPTHS = {"task": "loop.depths", "network": {"name": "toy_depths"}, "optimizers": {"net": RATE}}
TOYS = {
    "adversarial": ADVERSARIAL,
    "adversarial_dropout": {**ADVERSARIAL, "dropout": 0.2},
    "depths": DEPTHS,
    "depths_micro": {**DEPTHS, "phases": [{"steps": 6, "patch_size": 16, "batch_size": 5, "accumulate": 2}]},
}


@contextmanager
def registered() -> Iterator[None]:
    """Make both tasks known to the registry."""
    stages, networks = registry.stages(), registry.networks()
    stages |= STAGES
    networks["toy_depths"] = f"{__name__}:TwoDepths"
    try:
        yield
    finally:
        for name in STAGES:
            del stages[name]
        del networks["toy_depths"]
