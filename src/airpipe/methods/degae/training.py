"""DegAE: a representor of degradations, the transfer of degradations as pretraining, and finetuning of the encoder.

Source: Liu et al., CVPR 2023; behaviour of lyh-18/DegAE_DegradationAutoencoder, `DDG_Pretrain_onedecoder_model.py` and
`DDG_Encoder_Decoder_model_MSE.py`. docs/methods/degae.md tells what deviates.

Shapes: B batch, C channels, P patch size in pixels.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airpipe.data.batch import Batch, DrawnNumbers
from airpipe.data.drawn import DrawnColumns
from airpipe.degradations.recipes import full_names
from airpipe.errors import AirpipeError
from airpipe.methods.baseline.training import BaselineTask
from airpipe.methods.degae.decoder import BLOCKS
from airpipe.methods.degae.discriminators import PatchGAN
from airpipe.methods.degae.network import DegAE, DegAEFinetune
from airpipe.methods.degae.representor import SMALLEST, Extractor, Representor, ResidualBlock
from airpipe.methods.degae.settings import (
    FinetuneSettings,
    PretrainSettings,
    RepresentorSettings,
    SuperResolutionSettings,
)
from airpipe.models.contract import Network
from airpipe.registry import build_network
from airpipe.settings.degrading import Draw, Recipe
from airpipe.training.adversarial import discriminator_losses, generator_loss
from airpipe.training.losses import PIXEL_LOSSES, l1
from airpipe.training.parents import Report, check_patches, fill_part, vgg19
from airpipe.training.task import Moment, Task, Turn, make_optimizer, psnr, seeded_network
from airpipe.weights.published import fill


def companion_of(batch: Batch, task: str) -> tuple[Tensor, Tensor]:
    """Return the second images of a batch, degraded and target, (B, 3, P, P) each."""
    if batch.companion is None:
        raise AirpipeError(f"{task} needs a second image of equal draws; give the data parts companion: true")
    return batch.companion.degraded, batch.companion.clean


# The representor


class RepresentorTask(Task):
    """The representor learns which operations made an image, and with which numbers; a linear layer reads them off."""

    losses = ("applied", "parameters", "alike")

    def __init__(self, settings: RepresentorSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        net = cast(Representor, seeded_network(settings.network, settings.seed))
        check_patches(settings, SMALLEST, "the representor")
        initialise(net)
        recipes = [part.operations for part in settings.data]
        columns = DrawnColumns(recipes)
        self.operations, self.places = len(columns.operations), columns.operations.index
        self.ends = parameter_ends(recipes, columns.parameters)
        reader = nn.Linear(net.embedding_length, self.operations + len(columns.parameters))
        self.networks = {"net": net, "reader": reader}
        self.optimizers = {"net": make_optimizer([*net.parameters(), *reader.parameters()], settings.optimizers["net"])}

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return `applied` (cross entropy), `parameters` (L1 on [0, 1], of those that were drawn) and `alike`."""
        other, _ = companion_of(batch, self.settings.task)
        first, second = normalised(self.networks["net"](torch.cat([batch.degraded, other]))).chunk(2)
        said = self.networks["reader"](torch.cat([first, second]))
        applied, values = said[:, : self.operations], said[:, self.operations :]
        wanted, known = targets(batch.drawn, self.ends.to(said.device))
        error = torch.where(known.repeat(2, 1), (values - wanted.repeat(2, 1)).abs(), 0.0)
        return {
            "applied": F.binary_cross_entropy_with_logits(applied, batch.drawn.applied.float().repeat(2, 1)),
            # over all places, drawn or not, so that each sample weighs the same in every micro-batch
            "parameters": error.mean(),
            "alike": F.mse_loss(first, second),
        }

    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `operation_accuracy`: of how many of the recipe's operations the reader is right, in percent."""
        # the validation's recipes may number their operations otherwise
        columns = [self.places(name) for name in batch.drawn.operations]
        said = self.networks["reader"](normalised(network(batch.degraded)))[:, columns]
        return {"operation_accuracy": 100 * ((said > 0) == batch.drawn.applied).float().mean(1)}


def normalised(embeddings: Tensor) -> Tensor:
    """Return embeddings (B, E, 1, 1) as vectors (B, E) with mean 0 and variance 1.

    So embeddings do not become alike by becoming small.
    """
    return F.layer_norm(embeddings.flatten(1), embeddings.shape[1:2], eps=1e-12)


def initialise(net: Representor, gain: float = 10.0) -> None:
    """Let a representor start with large filters of He's scale, which see no flat colour.

    Degradations change fine structure, whose amplitude is a small part of an image's; from the small weights of the
    published extractor, whose start is meant for super-resolution, nothing was learnt in 400 steps. Ours.

    Args:
        net: the representor, in place.
        gain: factor of the first convolution, whose filters lose their mean.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.1)
            nn.init.zeros_(cast(Tensor, module.bias))
    for block in (block for block in net.modules() if isinstance(block, ResidualBlock)):
        block.conv2.weight.data *= 0.3  # sums of many residual blocks would grow
    first = net.extractor.conv_first.weight.data
    first -= first.mean((2, 3), keepdim=True)
    first *= gain


def parameter_ends(recipes: Sequence[Recipe], parameters: Sequence[str]) -> Tensor:
    """Return the ends of what is drawn for each parameter: low, high, and 1 where they are logarithms; (parameters, 3).

    Args:
        recipes: recipes of a training mix.
        parameters: names of the parameters, as `DrawnColumns` has them.
    """
    draws: dict[str, list[Draw]] = {name: [] for name in parameters}
    for recipe in recipes:
        for operation, names in zip(recipe.operations, full_names(recipe), strict=True):
            for form in operation.possible:
                for key, how in form.items():
                    draws[names[key]].append(how)
    found = []
    for own in draws.values():
        lows, highs = zip(*(ends_of(how) for how in own), strict=True)
        low, high = min(lows), max(highs)
        logs = low > 0 and any(how.log_uniform for how in own)
        found.append((math.log(low), math.log(high), 1.0) if logs else (low, high, 0.0))
    return torch.tensor(found).view(-1, 3)


def ends_of(how: Draw) -> tuple[float, float]:
    """Return the ends of one draw; 0 and 1 of words."""
    numbers = [value for value in (*(how.choice or ()), how.constant) if isinstance(value, int | float)]
    low, high = how.log_uniform or how.uniform or how.integers or (min(numbers, default=0), max(numbers, default=1))
    return float(low), float(high)


def targets(drawn: DrawnNumbers, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return the drawn parameters on [0, 1], and which of them were drawn, (B, parameters) each."""
    low, high, logs = ends.unbind(1)
    known = ~drawn.values.isnan()
    values = torch.where(known, drawn.values, 1.0)
    values = torch.where(logs.bool(), values.clamp_min(1e-12).log(), values)
    return (values - low) / (high - low).clamp_min(1e-6), known


# Networks that are trained against a discriminator


class _AdversarialTask(Task):
    """A network with losses on its images, and a discriminator that begins at `gan_from`."""

    own_losses: tuple[str, ...] = ()

    def set_up_adversary(
        self, settings: PretrainSettings | SuperResolutionSettings, net: nn.Module, moved: Sequence[nn.Parameter]
    ) -> None:
        """Take network, discriminator and optimizers."""
        self.gan, self.gan_from, self.adversarial = settings.gan, settings.gan_from, settings.adversarial
        self.networks, optimizers = {"net": net}, {"net": make_optimizer(moved, settings.optimizers["net"])}
        if self.adversarial:
            discriminator = build_network(settings.discriminator.name, **settings.discriminator.arguments)
            if isinstance(discriminator, PatchGAN):  # the other one takes one size, which the settings check
                check_patches(settings, discriminator.smallest, "the PatchGAN discriminator", validated=False)
            self.networks["discriminator"] = discriminator
            optimizers["discriminator"] = make_optimizer(
                discriminator.parameters(), settings.optimizers["discriminator"]
            )
        self.optimizers = optimizers

    def turns(self, step: int) -> Sequence[Turn]:
        """The network's turn and, from `gan_from` on, the discriminator's, which judges the images of the first."""
        if not self.adversarial or step < self.gan_from:
            return (Turn("generate", ("net",), self.own_losses),)
        return (
            Turn("generate", ("net",), (*self.own_losses, "adversarial")),
            Turn("discriminate", ("discriminator",), ("real", "fake")),
        )

    def adversarial_losses(self, made: Tensor, real: Tensor, at: Moment) -> dict[str, Tensor]:
        """Return the adversarial loss of images, none before its time; hands both on to the discriminator's turn."""
        if not self.adversarial or at.step < self.gan_from:
            return {}
        at.handed.update(fake=made.detach(), real=real.detach())
        discriminator = self.networks["discriminator"]
        of_real = discriminator(real).detach() if self.gan == "ragan" else None
        return {"adversarial": generator_loss(self.gan, discriminator(made), of_real)}

    def discriminate(self, at: Moment) -> dict[str, Tensor]:
        """Return the discriminator's losses `real` and `fake`."""
        discriminator = self.networks["discriminator"]
        # one pass for each kind, as published: batch norm then sees images of one kind
        real, fake = discriminator(at.handed["real"]), discriminator(at.handed["fake"])
        of_real, of_fake = discriminator_losses(self.gan, real, fake)
        return {"real": of_real, "fake": of_fake}


def perceptual_loss(features: nn.Module, made: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of a frozen network's maps of two images in [0, 1]; of VGG19 its last convolution."""
    with torch.no_grad():
        expected = features(wanted)
    found = features(made)
    if isinstance(found, Tensor):
        return l1(found, expected)
    return torch.stack([l1(one, two) for one, two in zip(found, expected, strict=True)]).sum()


class SuperResolutionTask(_AdversarialTask):
    """The extractor learns to enlarge clean images that were reduced fourfold (bicubic)."""

    def __init__(self, settings: SuperResolutionSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        net = seeded_network(settings.network, settings.seed)
        if "init" in parents:
            fill_part(net, parents["init"], "init", self.parent_reports)
        self.own_losses = ("pixel",)
        if "vgg" in parents:
            self.frozen["vgg"] = vgg19(parents["vgg"], settings, "leave vgg out of parents")
            self.own_losses = ("pixel", "perceptual")
        else:
            self.other_losses = ("perceptual",)
            check_pixel_weight(settings)
        self.pixel_loss = PIXEL_LOSSES[settings.pixel_loss]
        self.set_up_adversary(settings, net, list(net.parameters()))

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return `pixel`, `perceptual` and `adversarial`, or `real` and `fake`."""
        if at.turn == "discriminate":
            return self.discriminate(at)
        made = self.networks["net"](reduced(batch.clean))
        losses = {"pixel": self.pixel_loss(made, batch.clean)}
        if "vgg" in self.frozen:
            losses["perceptual"] = perceptual_loss(self.frozen["vgg"], made, batch.clean)
        return losses | self.adversarial_losses(made, batch.clean, at)

    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `psnr` in dB of the enlarged image."""
        height, width = (side // 4 * 4 for side in batch.clean.shape[2:])
        clean = batch.clean[..., :height, :width]
        return {"psnr": psnr(network(reduced(clean)), clean)}


def check_pixel_weight(settings: SuperResolutionSettings) -> None:
    """Refuse a pixel loss that is small beside a perceptual one which is not there."""
    weight = settings.loss_weights.get("pixel", 1.0)
    if settings.adversarial and weight < 1:
        raise AirpipeError(
            f"{settings.task}: loss_weights has {weight} for pixel, but no VGG19 gives a perceptual loss beside it. "
            "Import torchvision's vgg19-dcbb9e9d.pth, or set loss_weights: {pixel: 1.0}"
        )


def reduced(images: Tensor) -> Tensor:
    """Reduce images (B, C, H, W) fourfold with an antialiased bicubic filter, rounded to 8 bit."""
    small = F.interpolate(images, scale_factor=0.25, mode="bicubic", antialias=True)
    return (small.clamp(0, 1) * 255).round() / 255


# The pretext task


class PretrainTask(_AdversarialTask):
    """An image takes on the degradation of a reference, which shows something else (or is the target itself)."""

    def __init__(self, settings: PretrainSettings, parents: Mapping[str, nn.Module]) -> None:
        super().__init__(settings, parents)
        net = cast(DegAE, seeded_network(settings.network, settings.seed))
        for role, part in (("representor", net.representor), ("extractor", net.representor.extractor)):
            if role in parents:
                self.parent_reports[role] = fill_published(part, found_in(parents[role], role), role)
        check_patches(settings, net.least_reference, "the representor")
        own = list(net.parameters())
        if {"representor", "extractor"} & set(parents):
            resting = net.representor if settings.fix_representor else net.representor.extractor
            resting.requires_grad_(False)
            own = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.own_losses = ("pixel",) if settings.fix_representor else ("pixel", "embedding")
        self.perceptual = settings.perceptual
        if settings.perceptual == "vgg" and "vgg" in parents:
            self.frozen["features"] = vgg19(parents["vgg"], settings, "choose perceptual: none")
        elif settings.perceptual == "extractor":
            self.frozen["features"] = TrunkFeatures(net.representor.extractor)
            self.notes = ("perceptual loss in features of its extractor (perceptual: extractor; published: VGG19)",)
        elif settings.perceptual == "none":
            self.notes = ("no perceptual loss (perceptual: none; published: VGG19)",)
        if "features" in self.frozen:
            self.own_losses = (*self.own_losses, "perceptual")
        self.other_losses = tuple(name for name in ("embedding", "perceptual") if name not in self.own_losses)
        self.pixel_loss = PIXEL_LOSSES[settings.pixel_loss]
        self.real_side = settings.gan_real
        self.set_up_adversary(settings, net, own)

    def step(self, batch: Batch, at: Moment) -> dict[str, Tensor]:
        """Return `pixel`, `embedding`, `perceptual` and `adversarial`, or `real` and `fake`.

        All but `embedding` are sums over both images of a sample, as published, and means over samples.
        """
        if at.turn == "discriminate":
            return {name: 2 * loss for name, loss in self.discriminate(at).items()}
        other, other_target = companion_of(batch, self.settings.task)
        images, wanted = torch.cat([batch.degraded, other]), torch.cat([batch.clean, other_target])
        noise = drawn_noise(self.settings.seed, batch.slot, images)
        # both images take on the degradation of the second target; the first target is embedded beside it
        made, of_second, of_first = self.networks["net"](images, other_target, noise=noise, twin=batch.clean)
        losses = {"pixel": 2 * self.pixel_loss(made, wanted)}
        if "embedding" in self.own_losses:
            losses["embedding"] = F.mse_loss(of_first, of_second)
        if "features" in self.frozen:
            losses["perceptual"] = 2 * perceptual_loss(self.frozen["features"], made, wanted)
        real = wanted if self.real_side == "target" else images
        return losses | {name: 2 * loss for name, loss in self.adversarial_losses(made, real, at).items()}

    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return `psnr` in dB of the transferred image against the target; the decoder adds no noise."""
        _, reference = companion_of(batch, self.settings.task)
        return {"psnr": psnr(network(batch.degraded, reference, noise="zero"), batch.clean)}


def found_in(parent: nn.Module, role: str) -> Network:
    """Return the representor, or the extractor, of a whole DegAE or a representor; or the parent itself."""
    found = getattr(parent, "representor", parent)
    return cast(Network, getattr(found, "extractor", found) if role == "extractor" else found)


def fill_published(part: Network, source: Network, role: str) -> Report:
    """Fill a part by published names, so that layers behind an extractor's features, which files have, are left out.

    Raises:
        AirpipeError: other entries are missing, left over, or have another shape.
    """
    found = fill(part, source.published_state(), f"parent {role}")
    return {"matched": list(found.matched.values()), "missing": [], "unexpected": list(found.dropped)}


class TrunkFeatures(nn.Module):
    """A copy of a frozen extractor, whose maps of images are compared."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = deepcopy(extractor)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, F, H, W)."""
        return self.extractor.features(image)


def drawn_noise(seed: int, slots: Sequence[int], images: Tensor) -> list[Tensor]:
    """Draw the decoder's noise maps from generators of the samples, so that the number of processes changes nothing.

    Args:
        seed: seed of the training.
        slots: number of each of the B samples in the training.
        images: the images of all samples, then their companions, (2B, C, H, W).

    Returns:
        Standard normal maps, (2B, 1, H, W) each.
    """
    shape = (2, BLOCKS, *images.shape[2:])
    # 2**35 sets these streams apart from those that draw the samples
    drawn = [np.random.default_rng([seed, 2**35, slot]).standard_normal(shape, dtype=np.float32) for slot in slots]
    first, second = torch.from_numpy(np.stack(drawn)).to(images.device).unbind(1)
    return list(torch.cat([first, second])[:, :, None].unbind(1))


# Finetuning


class FinetuneTask(BaselineTask):
    """The pretrained encoder and one new convolution learn one task; without the parent `init` from random weights."""

    def __init__(self, settings: FinetuneSettings, parents: Mapping[str, nn.Module]) -> None:
        # the weights of the seed come first, so that the head of a control is that of its counterpart
        super().__init__(settings, parents)
        net = cast(DegAEFinetune, self.networks["net"])
        if "init" in parents:
            encoder = getattr(parents["init"], "encoder", None)
            if not isinstance(encoder, nn.Module):
                raise AirpipeError(
                    f"parent init is a {type(parents['init']).__name__}; {settings.task} starts from the encoder of a "
                    "DegAE: name a stage degae.pretrain or degae.finetune, or official files that were imported "
                    "together (PretrainEncoder, PretrainDecoder and DDG_Encoder)"
                )
            fill_part(net.encoder, encoder, "init", self.parent_reports)
        if settings.fix_encoder:
            net.encoder.requires_grad_(False)
            self.optimizers = {"net": make_optimizer(net.head.parameters(), settings.optimizers["net"])}
