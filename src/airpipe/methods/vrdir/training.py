"""VRD-IR: a recogniser gives the encoder, SAD decodes, branches of DNC normalise, ISE fuses them.

Source: Yang et al., CVPR 2023 (abstract); behaviour of aaaasan111/vrdir `SAD_pre/SADtrainer.py`,
`DNC_pre/DNCtrainer.py` and `train.py` (goldens `vrdir_full`, `vrdir_grads`). Recognisers: ours.

Every stage exports a network that restores by itself: encoder and decoder, with one branch, with all.
The encoder is frozen from the start, the decoder after its own stage; recognisers never see the enhancer.
"""

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from airpipe.data.batch import Batch
from airpipe.errors import AirpipeError
from airpipe.methods.vrdir.losses import rebuilding_losses, restoring_losses
from airpipe.methods.vrdir.network import DNC, ISE, SAD, VRDIR
from airpipe.methods.vrdir.settings import (
    DncSettings,
    EnhancerSettings,
    IseSettings,
    RecogniserSettings,
    SadSettings,
)
from airpipe.models.recognisers import Recogniser, RecogniserVGG
from airpipe.models.vgg import VGGFront
from airpipe.training.losses import IGNORED, PIXEL_LOSSES, cross_entropy
from airpipe.training.parents import fill_part, train_only
from airpipe.training.task import Moment, Task, make_optimizer, psnr, seeded_network


class RecogniserTask(Task):
    """A classifier learns what clean images show, from augmented ones (`degraded`)."""

    def __init__(self, settings: RecogniserSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        net, name = seeded_network(settings.network, settings.seed), settings.network.name
        if not isinstance(net, Recogniser):
            raise AirpipeError(f"network {name} tells no classes; expected recogniser_vgg or recogniser_residual")
        self.classes, self.rebuild = net.classes, settings.rebuild
        self.networks["net"] = net
        if settings.rebuild:
            if not isinstance(net, RecogniserVGG):
                raise AirpipeError(f"rebuild needs the front of a recogniser_vgg; {name} has none. Leave rebuild out")
            self.networks["decoder"] = SAD(net.front.widths[1], settings.decoder_hidden)
            self.losses = ("class", "rebuild")
        else:
            self.losses, self.other_losses = ("class",), ("rebuild",)
        self.optimizers = {
            name: make_optimizer(network.parameters(), settings.optimizers[name])
            for name, network in self.networks.items()
        }
        self.pixel_loss = PIXEL_LOSSES[settings.pixel_loss]

    def accept(self, classes: tuple[str, ...]) -> None:
        """Refuse images without classes, and another number of classes than the network tells apart.

        Raises:
            AirpipeError: says how many there are, and what to set.
        """
        model = self.settings.model_id
        if not classes:
            raise AirpipeError(
                f"{model}: found no class for any training image; a recogniser learns from splits with `classes` "
                "(config/datasets.yaml: folder, cub or market). Name such lists in `data`"
            )
        if len(classes) != self.classes:
            shown = ", ".join(classes[:3])
            raise AirpipeError(
                f"{model}: the training images show {len(classes)} classes ({shown}, ...), the network tells "
                f"{self.classes} apart. Set network: {{arguments: {{num_classes: {len(classes)}}}}}"
            )

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return `class` and, with `rebuild`, how well the front's features rebuild the image they came from."""
        shown = batch.degraded
        wanted = batch.category.where(batch.category >= 0, IGNORED)
        if not self.rebuild:
            return {"class": cross_entropy(self.networks["net"](shown), wanted)}
        logits, front = self.networks["net"](shown, front=True)
        rebuilt = self.networks["decoder"](front)
        # the front halves the size: it does not see an odd row or column at the rim
        even = shown[..., : rebuilt.shape[-2], : rebuilt.shape[-1]]
        return {"class": cross_entropy(logits, wanted), "rebuild": self.pixel_loss(rebuilt, even)}

    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `top1` in percent, of the images whose class is known."""
        known = batch.category >= 0
        if not known.any():
            return {}
        right = network(batch.degraded).argmax(1) == batch.category
        return {"top1": 100 * right[known].float()}


class EnhancerTask(Task):
    """A stage of the enhancer: a part of the network "net" is trained, the rest comes from parents and is frozen."""

    def __init__(self, settings: EnhancerSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        self.net = cast(VRDIR, seeded_network(settings.exported_network, settings.seed))
        """The network itself, which the loop does not wrap: for set-up, not for steps."""
        self.networks = {"net": self.net}
        self.legacy_targets = settings.legacy_targets
        self.pixel_loss = PIXEL_LOSSES[settings.pixel_loss]

    def train_only(self, part: nn.Module) -> None:
        """Train this part of the network, but for what is frozen in it."""
        self.optimizers = {"net": make_optimizer(train_only(self.net, part), self.settings.optimizers["net"])}

    def load_encoder(self, role: str) -> None:
        """Fill the encoder from a parent.

        Raises:
            AirpipeError: the parent has no encoder, one of other channels, or one that saw images normalised otherwise.
        """
        front, own = encoder_of(self.parents[role], role), self.net.ext
        if front.widths != own.widths:
            raise AirpipeError(
                f"parent {role} has an encoder of {front.widths[0]} and {front.widths[1]} channels, the network of "
                f"{own.widths[0]} and {own.widths[1]}. Set front_channels and in_channels (network: arguments) to those"
            )
        check_normalise(self.parents[role], self.net, role)
        fill_part(own, front, role, self.parent_reports)

    def load_prior(self) -> None:
        """Fill encoder and decoder, and keep a frozen copy of them for the features of clean images.

        Raises:
            AirpipeError: two encoders, none, no decoder, or parts that do not fit.
        """
        parent = self.parents["sad"]
        if isinstance(parent, VRDIR) and "encoder" in self.parents:
            raise AirpipeError(
                "parents: sad brings the encoder that its decoder was trained with, and encoder names a second one. "
                "Leave encoder out; it goes with an imported decoder alone"
            )
        self.load_encoder("encoder" if "encoder" in self.parents else "sad")
        decoder = parent.sad if isinstance(parent, VRDIR) else parent
        if not isinstance(decoder, SAD):
            raise AirpipeError(f"parent sad is a {type(parent).__name__} without decoder; give a stage vrdir.sad")
        fill_part(self.net.sad, decoder, "sad", self.parent_reports)
        prior = copy.deepcopy(self.net)
        prior.ise = None
        self.frozen = {"prior": prior.to(memory_format=torch.channels_last)}  # type: ignore[call-overload]  # 4x as fast

    def target(self, image: Tensor) -> Tensor:
        """The image as losses see it: in [0, 1], or in [-1, 1] for `legacy_targets`."""
        return image * 2 - 1 if self.legacy_targets else image


class SadTask(EnhancerTask):
    """The decoder learns to rebuild clean and degraded images, each from its own features."""

    losses = ("clean", "degraded", "similarity")

    def __init__(self, settings: SadSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        self.load_encoder("encoder")
        self.train_only(self.net.sad)
        self.margin = settings.sr_margin

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return `clean`, `degraded` and `similarity`; both images go through the network in one call."""
        of_clean, of_degraded = self.networks["net"](torch.cat([batch.clean, batch.degraded])).chunk(2)
        images = (self.target(batch.clean), self.target(batch.degraded))
        return rebuilding_losses(of_clean, of_degraded, *images, self.margin, self.pixel_loss)

    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `psnr` of what becomes of degraded images, and `psnr_clean`: the best that the decoder can do."""
        return {**super().measure(network, batch), "psnr_clean": psnr(network(batch.clean), batch.clean)}


class RestoringTask(EnhancerTask):
    """A stage that learns to make clean images of degraded ones, and clean features of theirs."""

    losses = ("pixel", "semantic")

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return `pixel` and `semantic`; features of clean images come from the frozen encoder."""
        restored, (normal,) = self.networks["net"](batch.degraded, features="also")
        with torch.no_grad():
            of_clean = cast(VRDIR, self.frozen["prior"]).encode(batch.clean)
        return restoring_losses(restored, self.target(batch.clean), normal, of_clean, self.pixel_loss)


class DncTask(RestoringTask):
    """One branch learns one degradation."""

    def __init__(self, settings: DncSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        self.load_prior()
        self.train_only(cast(ISE, self.net.ise))


class IseTask(RestoringTask):
    """The fusion learns which branch fits where; with `freeze_branches: false` the branches go on learning."""

    def __init__(self, settings: IseSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        self.load_prior()
        ise = cast(ISE, self.net.ise)
        for name, branch in zip(settings.branches, ise.dncs, strict=True):
            role = f"dnc_{name}"
            fill_part(branch, branch_of(parents[role], role), role, self.parent_reports)
            check_same_prior(parents[role], self.net, role)
            branch.requires_grad_(not settings.freeze_branches)
        self.train_only(ise)


def encoder_of(parent: nn.Module, role: str) -> VGGFront:
    """Find the encoder in a parent: that of a recogniser, of a network of VRD-IR, or the front of VGG16 itself.

    Raises:
        AirpipeError: the parent has none.
    """
    for found in (getattr(parent, "ext", None), getattr(parent, "front", None), parent):
        if isinstance(found, VGGFront):
            return found
    raise AirpipeError(
        f"parent {role} is a {type(parent).__name__} without encoder; give a stage vrdir.recogniser with a "
        "recogniser_vgg, a stage of VRD-IR, or VGG16's weights: python scripts/import_weights.py vgg16.pth --name vgg16"
        ", then parents: {encoder: imported/vgg16}"
    )


def branch_of(parent: nn.Module, role: str) -> DNC:
    """Find the branch in a parent: that of a stage vrdir.dnc, or an imported branch itself.

    Raises:
        AirpipeError: the parent has no branch, or several.
    """
    if isinstance(parent, VRDIR) and parent.ise is not None and len(parent.ise.dncs) == 1:
        return cast(DNC, parent.ise.dncs[0])
    if isinstance(parent, DNC):
        return parent
    found = f"{parent.num_branches} branches" if isinstance(parent, VRDIR) else f"a {type(parent).__name__}"
    raise AirpipeError(f"parent {role}: found {found}, expected one branch. Give a stage vrdir.dnc")


def check_same_prior(parent: nn.Module, net: VRDIR, role: str) -> None:
    """Refuse a branch that was trained between another encoder and decoder; of a branch alone nobody can tell.

    Raises:
        AirpipeError: names the first difference.
    """
    if not isinstance(parent, VRDIR):
        return
    check_normalise(parent, net, role)
    wanted = net.state_dict()
    for key, value in parent.state_dict().items():
        if key.startswith(("ext.", "sad.")) and not torch.equal(value, wanted[key]):
            what = "encoder" if key.startswith("ext.") else "decoder"
            raise AirpipeError(
                f"parent {role} was trained with another {what} than parent sad has (first difference: {key}). "
                "Train all branches and ISE from one stage vrdir.sad"
            )


def check_normalise(parent: nn.Module, net: VRDIR, role: str) -> None:
    """Refuse an encoder that saw images normalised in another way; VGG16's own is used with any.

    Raises:
        AirpipeError: names both ways.
    """
    if isinstance(parent, Recogniser):
        found = "half"  # see `airpipe.models.recognisers.normalised`
    elif isinstance(parent, VRDIR):
        found = parent.normalise
    else:
        return
    if found != net.normalise:
        raise AirpipeError(
            f"parent {role} was trained with images normalised as {found}, the network normalises as {net.normalise}. "
            f"Set network: {{arguments: {{normalise: {found}}}}}"
        )
