"""DSRIR: three stages learn together to restore, and to say how uncertain they are.

Source: Wang et al., IP&M 2025; behaviour of xfwang23/DSRIR `train.py`. docs/methods/dsrir.md tells what deviates.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from airpipe.data.batch import Batch
from airpipe.errors import AirpipeError
from airpipe.methods.dsrir.losses import (
    CONTRAST_WEIGHTS,
    VGG_LAYERS,
    contrastive_loss,
    psnr_loss,
    uncertainty_loss,
)
from airpipe.methods.dsrir.network import DSRIR
from airpipe.methods.dsrir.settings import DsrirSettings
from airpipe.models.contract import feature_channels
from airpipe.training.parents import vgg19
from airpipe.training.task import Moment, Task, make_optimizer, seeded_network


class DsrirTask(Task):
    """Each stage restores the image and estimates its uncertainty; the last one moves away from the degraded image."""

    def __init__(self, settings: DsrirSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        net = cast(DSRIR, seeded_network(settings.network, settings.seed))
        # nothing follows the last stage, so that what weighs its features gets no gradient
        for unused in (net.usau_3.conv2, net.usau_3.att_map):
            unused.requires_grad_(False)
        self.networks = {"net": net}
        moved = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.optimizers = {"net": make_optimizer(moved, settings.optimizers["net"])}
        self.losses, self.other_losses = ("uncertainty", "psnr"), ("contrast",)
        self.asked: dict[str, Any] = {}
        if settings.contrast in parents:
            self.frozen["features"] = parents[settings.contrast]
            self.losses, self.other_losses = (*self.losses, "contrast"), ()
            self.asked = features_asked(settings, parents[settings.contrast])
        if settings.contrast == "none":
            self.notes = ("no contrastive loss (contrast: none; published: VGG19)",)
        elif settings.contrast == "encoder":
            encoder = settings.parents["encoder"]
            self.notes = (f"contrastive loss in features of {encoder} (contrast: encoder; published: VGG19)",)

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return `uncertainty`, `psnr` and, where there are features to compare, `contrast`."""
        images, maps = self.networks["net"](batch.degraded, stages=True)
        losses = {
            "uncertainty": uncertainty_loss(images, maps, batch.clean),
            "psnr": psnr_loss(images, batch.clean),
        }
        if "features" in self.frozen:
            features = partial(self.frozen["features"], **self.asked)
            losses["contrast"] = contrastive_loss(features, images, batch.clean, batch.degraded)
        return losses


def features_asked(settings: DsrirSettings, network: nn.Module) -> dict[str, Any]:
    """Return the arguments with which a parent gives the maps that images are compared in.

    Raises:
        AirpipeError: the parent is no VGG19, or a network without maps or with too many; or patches are too small.
    """
    if settings.contrast == "vgg":
        vgg19(network, settings, "choose contrast: encoder")
        return {"layers": VGG_LAYERS, "normalise": False}  # without ImageNet's mean and deviation, as published
    maps = len(feature_channels(network))
    if not 1 <= maps <= len(CONTRAST_WEIGHTS):
        raise AirpipeError(
            f"parent encoder is a {type(network).__name__} with {maps} feature maps; contrast: encoder compares 1 to "
            f"{len(CONTRAST_WEIGHTS)} maps. Name a stage of a backbone, such as a baseline"
        )
    return {"features": True}
