"""Baseline: one network learns all degradations from pairs, from scratch, with a pixel loss.

Source: the supervised all-in-one setting of AirNet (Li et al., CVPR 2022) and PromptIR
(Potlapalli et al., NeurIPS 2023), with any backbone.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from airpipe.data.batch import Batch
from airpipe.settings.stages import StageSettings
from airpipe.training.losses import PIXEL_LOSSES
from airpipe.training.task import Moment, Task, make_optimizer, seeded_network


class BaselineTask(Task):
    """Supervised restoration with one network and one optimizer, both called "net"."""

    losses: tuple[str, ...] = ("pixel",)

    def __init__(self, settings: StageSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        net = seeded_network(settings.network, settings.seed)
        self.networks = {"net": net}
        self.optimizers = {"net": make_optimizer(net.parameters(), settings.optimizers["net"])}
        self.pixel_loss = PIXEL_LOSSES[settings.pixel_loss]

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return the pixel loss: the network learns to map degraded to clean."""
        return {"pixel": self.pixel_loss(self.networks["net"](batch.degraded), batch.clean)}
