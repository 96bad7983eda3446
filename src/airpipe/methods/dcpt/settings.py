"""Settings of DCPT's stages. Imports no torch, because Snakemake reads it at every start.

Sources: "paper" is Hu et al., ICLR 2025 (arXiv 2501.15510); "code" is MILab-PKU/dcpt, its models,
losses and training options.
"""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from airpipe.settings.base import Settings
from airpipe.settings.stages import NetworkSettings, StageSettings


class HeadSettings(Settings):
    """The classification head, `airpipe.methods.dcpt.network.DegradationHead`."""

    num_classes: int = Field(ge=2, description="Labels 0 to num_classes - 1. Source: code: 5 (5D) or 10 (10D).")
    num_res_blocks: PositiveInt = Field(2, description="Residual blocks of each level and of the end. Source: code.")
    downsample: bool = Field(
        False, description="Shrink level i by 2^i: for backbones whose features have one size (SwinIR). Source: code."
    )
    features: Literal["all", "last"] = Field(
        "all",
        description="Levels that the head sees: all of the decoder (source: code) or its last stage (ours).",
    )


class _FromParents(StageSettings):
    """Stages whose network may start from the parent `init`."""

    partial: bool = Field(
        False,
        description="Start what `init` lacks from random weights (code: for SwinIR); ours: false.",
    )


class ClassifierSettings(_FromParents):
    """A stage that trains a head; `network` is the backbone."""

    head: HeadSettings
    loss: Literal["focal", "ce"] = Field("focal", description="Class loss. Source: paper and code: focal.")
    focal_gamma: float = Field(2.0, ge=1, description="Exponent of the focal loss. Source: code.")

    @property
    def exported_network(self) -> NetworkSettings:
        """What model.safetensors holds: backbone and head in one."""
        backbone = self.network.model_dump(mode="json")
        return NetworkSettings(name="dcpt", arguments={"backbone": backbone, **self.head.model_dump(mode="json")})

    @model_validator(mode="after")
    def _labels_are_classes(self) -> "ClassifierSettings":
        for part in (*self.data, *self.validation.data):
            if part.label >= self.head.num_classes:
                raise ValueError(
                    f"data: {part.pairs} ({part.recipe or 'paired'}) has label {part.label}; "
                    f"head.num_classes {self.head.num_classes} allows 0 to {self.head.num_classes - 1}"
                )
        return self


class PretrainSettings(ClassifierSettings):
    """dcpt.pretrain: optimizers `net` (backbone) and `head`, losses `pixel` and `class`."""

    generation_input: Literal["clean", "degraded", "none"] = Field(
        "clean",
        description="What the backbone is to turn into the clean image while it classifies the degraded one: the clean "
        "image itself (source: paper and code), the degraded one (`direct`), nothing (ours: an ablation).",
    )


class DirectSettings(PretrainSettings):
    """dcpt.direct: the degraded image is restored and classified. Source: code, `DCTModel`; paper, table 12."""

    generation_input: Literal["degraded"] = "degraded"


class MaskedPretrainSettings(ClassifierSettings):
    """dcpt.masked_pretrain: MaskDCPT (arXiv 2510.13282), DCPT's successor; losses `pixel` and `class`."""

    mask_patch: PositiveInt = Field(
        16, description="Side in pixels of a patch; a multiple of the encoder's stride. Source: MaskDCPT: 16."
    )
    mask_ratio: float = Field(0.5, gt=0, lt=1, description="Share of hidden patches. Source: MaskDCPT: 0.5.")

    @model_validator(mode="after")
    def _patches_are_hidden(self) -> "MaskedPretrainSettings":
        for phase in self.phases:
            patches = (-(-phase.patch_size // self.mask_patch)) ** 2
            if not 0 < round(self.mask_ratio * patches) < patches:
                raise ValueError(
                    f"mask_ratio {self.mask_ratio} of the {patches} patches in a crop of {phase.patch_size} pixels "
                    "hides none or all; use a smaller mask_patch or a larger patch_size"
                )
        return self


class ProbeSettings(ClassifierSettings):
    """dcpt.probe: a new head (optimizer `head`) is trained on a frozen backbone. Source: code, `DCModel`.

    Without the parent `init` the backbone is the freshly initialised one.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"init"})


class FinetuneSettings(_FromParents):
    """dcpt.finetune: supervised training of a backbone that starts from the parent `init`."""

    needs: ClassVar[frozenset[str]] = frozenset({"init"})


class TransferSettings(_FromParents):
    """dcpt.transfer: a model of one degradation (`init`) learns another one, guided by a head (`guide`).

    Without `guide` it is the control: same loop, no class loss. Source: code, `DCDistModel`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"init"})
    takes: ClassVar[frozenset[str]] = frozenset({"guide"})
    loss: Literal["focal", "ce"] = Field(
        "ce", description="Class loss of the guide. Source: code: cross entropy, weight 1."
    )
    focal_gamma: float = Field(2.0, ge=1, description="Exponent of the focal loss.")
