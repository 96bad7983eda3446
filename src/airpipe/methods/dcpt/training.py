"""DCPT: a backbone learns to tell degradations apart, and then to remove them.

Source: Hu et al., ICLR 2025 (arXiv 2501.15510); behaviour of MILab-PKU/dcpt
`degradation_classification_{pretrain,direct_train,dist}_model.py` (golden `dcpt_step_small`).

A pretraining step is one joint objective: clean image to clean image (pixel loss) and features of the
degraded image to its class (class loss), one backward pass, two optimizers. Images of the class pass are
never restored.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from airpipe.data.batch import Batch
from airpipe.errors import AirpipeError
from airpipe.methods.baseline.training import BaselineTask
from airpipe.methods.dcpt.network import DCPT, DegradationHead, classify_features
from airpipe.methods.dcpt.settings import (
    ClassifierSettings,
    FinetuneSettings,
    MaskedPretrainSettings,
    PretrainSettings,
    ProbeSettings,
    TransferSettings,
)
from airpipe.models.contract import feature_channels
from airpipe.training.losses import PIXEL_LOSSES, cross_entropy, focal_loss
from airpipe.training.parents import fill_backbone, freeze_without_gradient
from airpipe.training.task import Moment, Task, make_optimizer, seeded_network

log = logging.getLogger(__name__)

ClassLoss = Callable[[Tensor, Tensor], Tensor]


class ClassifierTask(Task):
    """A task whose network "net", backbone and head, tells degradations apart; validated by how often it is right."""

    def __init__(self, settings: ClassifierSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        self.net = cast(DCPT, seeded_network(settings.exported_network, settings.seed))
        """The network itself, which the loop does not wrap: for set-up, not for steps."""
        self.networks = {"net": self.net}
        self.class_loss = class_loss(settings.loss, settings.focal_gamma)

    def train_both(self) -> None:
        """Make the optimizers: "net" for what is trained of the backbone, "head" for the head."""
        backbone = [parameter for parameter in self.net.backbone.parameters() if parameter.requires_grad]
        parts = {"net": backbone, "head": list(self.net.head.parameters())}
        self.optimizers = {name: make_optimizer(part, self.settings.optimizers[name]) for name, part in parts.items()}

    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `top1` and, for each class in the batch, `top1_class<label>`: percent."""
        right = 100 * (network(batch.degraded, classify=True).argmax(1) == batch.label).float()
        found = sorted(set(batch.label.tolist()))
        return {"top1": right, **{f"top1_class{label}": right[batch.label == label] for label in found}}


class PretrainTask(ClassifierTask):
    """Joint pretraining; with `generation_input: degraded` it restores as well (`direct`)."""

    def __init__(self, settings: PretrainSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        if settings.generation_input == "none":
            side = self.net.size_multiple
            freeze_without_gradient(self.net.backbone, self.net.backbone(torch.zeros(1, 3, side, side), features=True))
            self.losses, self.other_losses = ("class",), ("pixel",)
        else:
            self.losses = ("pixel", "class")
        self.train_both()
        self.generation_input = settings.generation_input
        self.pixel_loss = PIXEL_LOSSES[settings.pixel_loss]

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return `class`, and `pixel` where an image is generated."""
        net, degraded = self.networks["net"], batch.degraded
        if self.generation_input == "none":
            return {"class": self.class_loss(net(degraded, classify=True), batch.label)}
        shown = batch.clean if self.generation_input == "clean" else "input"
        logits, restored = net(degraded, classify=True, generate=shown)
        return {"pixel": self.pixel_loss(restored, batch.clean), "class": self.class_loss(logits, batch.label)}


class MaskedPretrainTask(ClassifierTask):
    """MaskDCPT: from an image with hidden patches the network tells the class and restores the whole clean image.

    Source: Hu et al., "Universal Image Restoration Pre-training via Masked Degradation Classification"
    (arXiv 2510.13282), DCPT's successor; what its text leaves open stands in docs/methods/dcpt.md.
    """

    losses = ("pixel", "class")

    def __init__(self, settings: MaskedPretrainSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        self.train_both()
        stride = max(1, self.net.size_multiple // 2)  # of the encoder's last stage, at most
        if settings.mask_patch % stride:
            raise AirpipeError(
                f"mask_patch is {settings.mask_patch}; the encoder of {settings.network.name} hides features of every "
                f"{stride} pixels: choose a multiple of {stride}"
            )
        self.mask_patch, self.mask_ratio = settings.mask_patch, settings.mask_ratio
        self.pixel_loss = PIXEL_LOSSES[settings.pixel_loss]

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return `pixel`, over all pixels, and `class`."""
        visible = random_patches(batch.degraded, self.mask_patch, self.mask_ratio, self.settings.seed, batch.slot)
        net = self.networks["net"]
        logits, restored = net(batch.degraded, visible=visible, classify=True, generate="input")
        return {"pixel": self.pixel_loss(restored, batch.clean), "class": self.class_loss(logits, batch.label)}


def random_patches(images: Tensor, patch: int, ratio: float, seed: int, slots: Sequence[int]) -> Tensor:
    """Hide a share of an image's square patches, other ones in each image.

    Each image has a generator of its own, so that the number of processes changes nothing.

    Args:
        images: B images, (B, C, H, W).
        patch: side of a patch in pixels; patches at right and bottom may be cut off.
        ratio: hidden share of the patches, in (0, 1), rounded to whole patches.
        seed: seed of the training.
        slots: number of each of the B samples in the training.

    Returns:
        Mask (B, 1, H, W): 1 where visible, otherwise 0.
    """
    batch, _, height, width = images.shape
    rows, columns = -(-height // patch), -(-width // patch)
    # 2**33 sets these streams apart from those that draw the samples
    orders = [np.random.default_rng([seed, 2**33, slot]).permutation(rows * columns) for slot in slots]
    order = torch.from_numpy(np.stack(orders)).to(images.device)
    shown = (order >= round(ratio * rows * columns)).to(images).reshape(batch, 1, rows, columns)
    return shown.repeat_interleave(patch, 2).repeat_interleave(patch, 3)[..., :height, :width]


class ProbeTask(ClassifierTask):
    """A fresh head learns from the features of a frozen backbone, of `init` or freshly initialised."""

    losses = ("class",)

    def __init__(self, settings: ProbeSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        self.parent_reports = {
            role: fill_backbone(self.net.backbone, parent, role, settings.partial) for role, parent in parents.items()
        }
        self.net.backbone.requires_grad_(False).eval()
        self.optimizers = {"head": make_optimizer(self.net.head.parameters(), settings.optimizers["head"])}

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return the class loss."""
        return {"class": self.class_loss(self.networks["net"](batch.degraded, classify=True), batch.label)}


class FinetuneTask(BaselineTask):
    """The baseline's supervised training from the weights of `init`, a pretraining or any model."""

    def __init__(self, settings: FinetuneSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        report = fill_backbone(self.networks["net"], parents["init"], "init", settings.partial)
        self.parent_reports = {"init": report}


class TransferTask(BaselineTask):
    """A network goes from one degradation to another, guided by the frozen head of `guide`; without it, the control.

    The head sees the features of the network in training. A guide is a pretraining stage or a
    published head (net_dc).
    """

    def __init__(self, settings: TransferSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        net = self.networks["net"]
        self.parent_reports = {"init": fill_backbone(net, parents["init"], "init", settings.partial)}
        self.class_loss = class_loss(settings.loss, settings.focal_gamma)
        if "guide" in parents:
            head = guiding_head(parents["guide"])
            _check_guide(parents["guide"], head, net, settings)
            self.frozen = {"guide": head}
            self.losses = (*self.losses, "class")
        else:
            self.other_losses = ("class",)

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return `pixel` and, with a guide, `class`."""
        if "guide" not in self.frozen:
            return super().step(batch, at)
        restored, features = self.networks["net"](batch.degraded, features="also")
        logits = classify_features(self.frozen["guide"], features)
        return {"pixel": self.pixel_loss(restored, batch.clean), "class": self.class_loss(logits, batch.label)}


def class_loss(name: str, gamma: float) -> ClassLoss:
    """The class loss of a setting: "ce", or "focal" with its exponent."""
    return cross_entropy if name == "ce" else lambda logits, labels: focal_loss(logits, labels, gamma)


def guiding_head(guide: nn.Module) -> DegradationHead:
    """The head of a pretraining, or a head by itself.

    Raises:
        AirpipeError: a network without head.
    """
    head = guide.head if isinstance(guide, DCPT) else guide
    if not isinstance(head, DegradationHead):
        raise AirpipeError(
            f"parent guide is a {type(guide).__name__} without head; "
            "give a dcpt.pretrain, direct or probe stage, or an imported head (net_dc)"
        )
    return head


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every entry of a network's state."""
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def _check_guide(guide: nn.Module, head: DegradationHead, net: nn.Module, settings: TransferSettings) -> None:
    if not isinstance(guide, DCPT):
        log.warning(
            "parent guide is a head alone: whether it knows features of %s cannot be told", settings.network.name
        )
    elif type(guide.backbone) is not type(net) or shapes_of(guide.backbone) != shapes_of(net):
        raise AirpipeError(
            f"parent guide was pretrained on a {type(guide.backbone).__name__}, {settings.network.name} here is another"
            " network or has other arguments; pretrain the guide with the same backbone"
        )
    channels = feature_channels(net)
    if channels[: len(head.feature_dims)] != head.feature_dims:
        raise AirpipeError(
            f"parent guide takes features of {head.feature_dims} channels, {settings.network.name} gives {channels}; "
            "pretrain the guide with the same backbone"
        )
    classes, labels = head.fc.out_features, [part.label for part in settings.data]
    if max(labels) >= classes:
        raise AirpipeError(f"data has labels {labels}, parent guide knows 0 to {classes - 1}; use the guide's labels")
