"""Settings of DegAE's stages. Imports no torch, because Snakemake reads it at every start.

Sources: "code" is lyh-18/DegAE_DegradationAutoencoder (2023), which released no training options: what it reads is
known, its values are not. "ours" marks what we chose.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, model_validator

from airpipe.settings.base import unknown_name
from airpipe.settings.stages import DataPart, NetworkSettings, StageSettings

Gan = Literal["none", "lsgan", "gan", "ragan"]
DISCRIMINATORS = ("degae_patchgan", "degae_vgg128")


class _Adversary(StageSettings):
    """What stages with a discriminator share: optimizers `net` and, with one, `discriminator`."""

    gan: Gan = Field(
        "none",
        description="Adversarial loss: lsgan (squared distance to 1 and 0), gan (cross entropy), ragan (relativistic "
        "average). Source: code; which one was used is unknown.",
    )
    discriminator: NetworkSettings = Field(
        NetworkSettings(name="degae_patchgan"),
        description="degae_patchgan (ours), or degae_vgg128, which takes patches of 128 pixels only. Source: code; "
        "which one was used is unknown.",
    )
    gan_from: NonNegativeInt = Field(
        0, description="Step at which the adversarial loss and the discriminator begin. Ours; code: 0."
    )

    @property
    def adversarial(self) -> bool:
        """Whether there is a discriminator."""
        return self.gan != "none"

    @model_validator(mode="after")
    def _has_what_it_trains(self) -> "_Adversary":
        wanted = {"net", "discriminator"} if self.adversarial else {"net"}
        if set(self.optimizers) != wanted:
            raise ValueError(
                f"optimizers: found {', '.join(sorted(self.optimizers)) or 'none'}; with gan: {self.gan} expected "
                f"{' and '.join(sorted(wanted))}"
            )
        if not self.adversarial and (self.gan_from or "adversarial" in self.loss_weights):
            found = "gan_from" if self.gan_from else "a weight for the loss adversarial"
            raise ValueError(
                f"found {found}, but gan is none: there is no discriminator. Choose a gan, or leave it out"
            )
        if self.gan_from >= self.steps:
            raise ValueError(f"gan_from is {self.gan_from}, but the stage has {self.steps} steps; choose a smaller one")
        return self

    @model_validator(mode="after")
    def _patches_fit(self) -> "_Adversary":
        if self.adversarial and self.discriminator.name not in DISCRIMINATORS:
            raise ValueError("discriminator: " + unknown_name(self.discriminator.name, DISCRIMINATORS, "network"))
        if self.adversarial and self.discriminator.name == "degae_vgg128":
            for phase in self.phases:
                if phase.patch_size != 128:
                    raise ValueError(
                        f"degae_vgg128 takes patches of 128 pixels, found patch_size {phase.patch_size}; set "
                        "patch_size: 128, or choose degae_patchgan as discriminator"
                    )
        return self


def _parts(settings: StageSettings) -> Iterator[tuple[str, DataPart]]:
    """Yield each part of the data and the validation with the name of the setting; both need the same of it."""
    for where, parts in (("data", settings.data), ("validation.data", settings.validation.data)):
        for part in parts:
            yield where, part


def _one_draw_for_two(settings: StageSettings) -> None:
    """Refuse data without a second image of equal draws."""
    for where, part in _parts(settings):
        if not part.companion:
            raise ValueError(
                f"{where}: {part.pairs} has no companion; {settings.task} compares two images: companion: true"
            )


class RepresentorSettings(StageSettings):
    """degae.representor: the representor learns, without super-resolution, what a recipe did to an image.

    Optimizer `net`; losses `applied` (which operations), `parameters` (with which numbers) and `alike` (two images of
    one draw have one embedding). Source: ours, for want of the published super-resolution weights.
    """

    @model_validator(mode="after")
    def _has_companions_and_recipes(self) -> "RepresentorSettings":
        _one_draw_for_two(self)
        for where, part in _parts(self):
            if part.recipe is None and not part.operations:
                raise ValueError(f"{where}: {part.pairs} has no recipe; {self.task} learns what a recipe did: name one")
        learnt = dict.fromkeys(name for part in self.data for name in part.operations.names)
        for part in self.validation.data:
            for name in part.operations.names:
                if name not in learnt:
                    raise ValueError("validation.data: " + unknown_name(name, learnt, "operation of the training"))
        return self


class SuperResolutionSettings(_Adversary):
    """degae.super_resolution: the extractor of the representor learns to enlarge clean images fourfold.

    Without `gan` it is the first, L1-trained network; from it (`init`), with a gan, the one whose features DegAE takes.
    Losses `pixel`, `perceptual`, `adversarial`; of the discriminator `real` and `fake`. Source: names of the files
    that code loads (`MSRResNet`, `MSRGAN`, clean bicubic x4, DIV2K) and the public recipe of SRGAN in BasicSR.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"init", "vgg"})
    optional: ClassVar[frozenset[str]] = frozenset({"vgg"})
    uncounted: ClassVar[frozenset[str]] = frozenset({"vgg"})

    @model_validator(mode="after")
    def _patches_shrink(self) -> "SuperResolutionSettings":
        for phase in self.phases:
            if phase.patch_size % 4:
                raise ValueError(f"patch_size is {phase.patch_size}; expected a multiple of 4, by which it is reduced")
        return self


class PretrainSettings(_Adversary):
    """degae.pretrain: an image takes on the degradation of a reference.

    Losses `pixel`, `embedding`, `perceptual`, `adversarial`; of the discriminator `real` and `fake`. Parents, each of
    them optional in `parents`: `representor` (extractor and head), or `extractor` (of super-resolution; the head starts
    at random). Their extractor is frozen; without either it is random and trained.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"representor", "extractor", "vgg"})
    optional: ClassVar[frozenset[str]] = frozenset({"vgg"})
    uncounted: ClassVar[frozenset[str]] = frozenset({"vgg"})
    perceptual: Literal["vgg", "extractor", "none"] = Field(
        "vgg",
        description="Features in which restored and target are compared, too: those of VGG19 (code; the parent `vgg`, "
        "without which there is no such loss), or those of the frozen extractor (ours).",
    )
    fix_representor: bool = Field(
        False,
        description="Keep the parent `representor` as it is, its head included (ours, for short trainings): a decoder "
        "that knows nothing yet teaches the head to embed all degradations alike. Code trains the head.",
    )
    gan_real: Literal["target", "input"] = Field(
        "target",
        description="What the discriminator is shown as real: the targets (ours), or the degraded inputs, which have "
        "the same distribution (code).",
    )

    @model_validator(mode="after")
    def _transfers(self) -> "PretrainSettings":
        _one_draw_for_two(self)
        for where, part in _parts(self):
            if part.target_recipe is None and not part.target_operations:
                raise ValueError(
                    f"{where}: {part.pairs} has no target_recipe; {self.task} gives an image the degradation of "
                    "another: name the recipe that degrades targets"
                )
        if {"representor", "extractor"} <= set(self.parents):
            raise ValueError(
                "parents: found representor and extractor; a representor has an extractor: give one of them"
            )
        if self.fix_representor and "representor" not in self.parents:
            raise ValueError("fix_representor keeps the parent representor as it is, and there is none; name one")
        if self.perceptual == "extractor" and not {"representor", "extractor"} & set(self.parents):
            raise ValueError(
                "perceptual is extractor, but no parent gives a frozen one: name representor or extractor, or set "
                "perceptual: none"
            )
        if self.perceptual != "vgg" and "vgg" in self.parents:
            raise ValueError(
                f"parents: found vgg, but perceptual is {self.perceptual}; leave it out ({{vgg: null}}), or set "
                "perceptual: vgg"
            )
        if self.perceptual == "vgg" and "vgg" not in self.parents:
            raise ValueError(
                "perceptual is vgg, but parents name no vgg; add {vgg: imported/vgg19}, or set perceptual: none"
            )
        return self


class FinetuneSettings(StageSettings):
    """degae.finetune: a pretrained encoder (`init`) and one new convolution learn one task; optimizer `net`.

    Without `init` it is the control: the same training from random weights. Loss `pixel`.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"init"})
    fix_encoder: bool = Field(False, description="Train the convolution only, a linear probe. Source: code.")

    @model_validator(mode="after")
    def _something_was_learnt(self) -> "FinetuneSettings":
        if self.fix_encoder and "init" not in self.parents:
            raise ValueError("fix_encoder keeps the encoder as it starts, but there is no parent init to start from")
        return self
