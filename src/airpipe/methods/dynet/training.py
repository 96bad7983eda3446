"""DyNet: networks of different depth learn in one set of weights, one of them in each step.

Source: Dudhane et al., arXiv 2404.02154; the pretraining from its figures and reviews, because the authors' code has
none; the training from akshaydudhane16/DyNet `train.py`, which trains the deepest network only.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from airpipe.data.batch import Batch
from airpipe.methods.dynet.settings import DynamicSettings, TrainSettings
from airpipe.training.losses import PIXEL_LOSSES
from airpipe.training.parents import fill_backbone
from airpipe.training.task import Moment, Task, Turn, make_optimizer, psnr, seeded_network


class DynamicTask(Task):
    """Each step trains one variant of the network "net": a drawn one, the same on all processes, or always one."""

    def __init__(self, settings: DynamicSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        net = seeded_network(settings.network, settings.seed)
        self.networks = {"net": net}
        self.optimizers = {"net": make_optimizer(net.parameters(), settings.optimizers["net"])}
        # sorted, because a frozen file keeps no order, and the order decides what a draw means
        depths = sorted(settings.variants.items())
        self.reuse = {name: cast(list[int], changed["reuse_freq"]) for name, changed in depths}
        self.drawn = tuple(self.reuse) if settings.branch == "random" else (settings.branch,)
        self.other_losses = tuple(f"pixel_{name}" for name in self.reuse if name not in self.drawn)
        self.pixel_loss = PIXEL_LOSSES[settings.pixel_loss]
        self.clamp = False

    def turns(self, step: int) -> Sequence[Turn]:
        """One backward pass with the loss of one variant."""
        return (Turn("train", ("net",), drawn_losses=tuple(f"pixel_{name}" for name in self.drawn)),)

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return the pixel loss of the variant that this step trains, under its name."""
        name = self.drawn[int(at.generator.integers(len(self.drawn)))]
        restored = self.networks["net"](batch.degraded, reuse_freq=self.reuse[name])
        if self.clamp:
            restored = restored.clamp(0, 1)
        return {f"pixel_{name}": self.pixel_loss(restored, batch.clean)}

    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return, for every variant, `psnr_<variant>` in dB and the mean absolute error `l1_<variant>`."""
        found = {}
        for name, reuse_freq in self.reuse.items():
            restored = network(batch.degraded, reuse_freq=reuse_freq).float().clamp(0, 1)
            found[f"psnr_{name}"] = psnr(restored, batch.clean)
            found[f"l1_{name}"] = (restored - batch.clean).abs().mean((1, 2, 3))
        return found


class TrainTask(DynamicTask):
    """Supervised training from the weights of `init`, or from random ones."""

    def __init__(self, settings: TrainSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        self.clamp = settings.clamp
        if "init" in parents:
            self.parent_reports = {"init": fill_backbone(self.networks["net"], parents["init"], "init")}
