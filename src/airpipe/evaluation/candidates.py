"""Models that are scored: their weights on a device, restoring samples of tests."""

import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from airpipe.errors import AirpipeError
from airpipe.evaluation.channels import for_rgb
from airpipe.evaluation.guided import guided
from airpipe.evaluation.metrics import Kit
from airpipe.evaluation.metrics_torch import kit
from airpipe.evaluation.protocol import Restorer
from airpipe.evaluation.reference import Sample
from airpipe.evaluation.restore import choose_device
from airpipe.evaluation.scoring import Candidate
from airpipe.evaluation.tiling import restore_tiled
from airpipe.models.contract import image_channels
from airpipe.pixels import FloatImage
from airpipe.settings.names import variant_of
from airpipe.weights.checkpoints import LoadedModel, load_model


class Model(Candidate):
    """A model with weights."""

    file: Path

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model on its device: loaded when the first test wants it, then kept."""
        begin, where = time.perf_counter(), choose_device(self.device)
        model = load_model(self.file, variant_of(self.id))
        model.network.to(where)
        print(f"{self.id}: loaded on {where} in {time.perf_counter() - begin:.1f} s", flush=True)
        return model

    @property
    def card(self) -> dict[str, Any]:
        """The card of the model."""
        return self.loaded.card

    @property
    def kit(self) -> Kit[Any]:
        """How its images are compared."""
        return kit(choose_device(self.device))

    def restorer(self, tile: int) -> Restorer:
        """The model as a restorer with tiles of a side in pixels (0: whole images)."""
        return network_restorer(self.loaded.network, choose_device(self.device), tile)


def network_restorer(network: nn.Module, device: torch.device, tile: int) -> Restorer:
    """Make a restorer of a network.

    Args:
        network: in evaluation mode, on the device.
        device: where the network is.
        tile: side of the tiles in pixels; 0: whole images.

    Returns:
        A function of a sample; it refuses one with a reference for a network that takes none, one without for a
        network that takes one, and one with colours for a network of grey images.
    """

    def restore(sample: Sample) -> FloatImage:
        if image_channels(network) == 1 and not sample.grey:
            raise AirpipeError(
                f"{sample.name}: has colours, and this model restores grey pictures (1 channel). Score it on tests of "
                "grey images alone: give their table a list of models of its own"
            )
        ready = for_rgb(network, sample.grey)
        if sample.reference is not None:
            ready = guided(ready, _planes(sample.reference))
        restored = restore_tiled(ready, _planes(sample.degraded), tile=tile, device=device)
        return np.ascontiguousarray(restored.numpy().transpose(1, 2, 0))

    return restore


def _planes(image: FloatImage) -> torch.Tensor:
    """An image (H, W, 3) as a tensor (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
