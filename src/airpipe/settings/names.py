"""How lists, data sets and models are called in a configuration."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt

from airpipe.settings.base import each_once, shown

SEED = "{seed}"
"""Text that stands for the run's seed in pair lists of data parts; `frozen_stage` replaces it."""


def _of_no_seed(pairs: Any) -> Any:
    if isinstance(pairs, str) and SEED in pairs:
        raise ValueError(f"{SEED} has no meaning here: there is no run whose seed it is. Name one data set")
    return pairs


PairListId = Annotated[
    str,
    Field(pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$", description="data set dot split"),
    BeforeValidator(_of_no_seed),
]

SeededPairListId = Annotated[
    str,
    Field(
        pattern=r"^([a-z0-9_]|\{seed\})+\.[a-z0-9_]+$",
        description="data set dot split; {seed} in it stands for the run's seed",
    ),
]


Seeds = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), AfterValidator(each_once)]
"""Seeds of runs, each once."""

NOLEAK = "_noleak"
"""Ending of the names of pair lists without the images that tests show."""

# Models


def variant_of(text: str) -> str:
    """The variant that a model id or name asks for; empty: none."""
    return text.partition("@")[2]


IMPORTED = "imported"
"""Models from published files are called imported/<name>; they have no seed and no stage."""
NONE = "none"
"""The model that restores nothing: the degraded image as it is."""
PART = "[a-z0-9_]+"
ID_PATTERN = f"{NONE}|{IMPORTED}/{PART}(@{PART})?|{PART}/{PART}/seed[0-9]+/{PART}(@{PART})?"
"""Every model id, for Snakemake's wildcards."""
NAME_FORMS = "method/setting, method/setting/stage or imported/name, each with @variant where it has variants"


@dataclass(frozen=True)
class ModelId:
    """One trained or imported network: the folder that holds it below results/, and which of its variants is meant.

    >>> ModelId.parse("method/nafnet_5d/seed0/finetune").stage
    'finetune'
    >>> ModelId.parse("imported/nafnet@s").folder
    'imported/nafnet'
    """

    method: str
    """Name of the method; IMPORTED for imported models, NONE for none."""
    setting: str = ""
    """Name of the setting; of imported models, their own name."""
    seed: int | None = None
    stage: str = ""
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> "ModelId":
        """Read `none`, `imported/name`, `method/setting/seed<k>/stage`, each but none with or without `@variant`.

        Raises:
            ValueError: another form.
        """
        if text == NONE:
            return cls(NONE)
        if not re.fullmatch(ID_PATTERN, text) or re.match(f"{IMPORTED}/.*/", text):
            raise ValueError(
                f"{shown(text)} is no model id: expected none, imported/name or method/setting/seed0/stage"
            )
        path, _, variant = text.partition("@")
        method, setting, *rest = path.split("/")
        return (
            cls(method, setting, int(rest[0].removeprefix("seed")), rest[1], variant)
            if rest
            else cls(method, setting, variant=variant)
        )

    @property
    def trained(self) -> bool:
        """Whether a stage of this project trains the model."""
        return self.seed is not None

    @property
    def folder(self) -> str:
        """Folder of the model below results/; variants share one."""
        parts = (self.method, self.setting, f"seed{self.seed}" if self.trained else "", self.stage)
        return "/".join(part for part in parts if part)

    @property
    def name(self) -> "ModelName":
        """The name that a configuration gives the model, for all seeds."""
        return ModelName(self.method, self.setting, self.stage, self.variant)

    def __str__(self) -> str:
        return f"{self.folder}@{self.variant}" if self.variant else self.folder


@dataclass(frozen=True)
class ModelName:
    """How a configuration names models: without seed, and without stage where the evaluated one is meant.

    >>> str(ModelName.parse("method/nafnet_5d/finetune").of_seed(3))
    'method/nafnet_5d/seed3/finetune'
    """

    method: str
    setting: str
    stage: str = ""
    variant: str = ""

    @classmethod
    def parse(cls, text: str, where: str = "") -> "ModelName":
        """Read `method/setting`, `method/setting/stage` or `imported/name`, each with or without `@variant`.

        Args:
            text: as the configuration has it.
            where: what names it, for the message.

        Raises:
            ValueError: another form.
        """
        path, at, variant = text.partition("@")
        parts = path.split("/")
        known = all(re.fullmatch(PART, part) for part in [*parts, *([variant] if at else [])])
        if not known or len(parts) not in ((2,) if parts[0] == IMPORTED else (2, 3)):
            raise ValueError(f"{where}{': ' if where else ''}{shown(text)} is not {NAME_FORMS}")
        return cls(parts[0], parts[1], parts[2] if len(parts) == 3 else "", variant)

    @property
    def imported(self) -> bool:
        """Whether the model comes from a published file."""
        return self.method == IMPORTED

    @property
    def of_setting(self) -> str:
        """The name without stage and variant: method/setting, or imported/name."""
        return f"{self.method}/{self.setting}"

    def of_seed(self, seed: int, stage: str = "") -> ModelId:
        """Id of the model that has this name in the run of a seed; imported models have no seed.

        Args:
            seed: seed of the run.
            stage: the evaluated stage, for names that do not say one.
        """
        if self.imported:
            return ModelId(self.method, self.setting, variant=self.variant)
        return ModelId(self.method, self.setting, seed, self.stage or stage, self.variant)

    def __str__(self) -> str:
        path = "/".join(part for part in (self.method, self.setting, self.stage) if part)
        return f"{path}@{self.variant}" if self.variant else path


def _of_a_setting(text: str) -> str:
    if ModelName.parse(text).stage:
        raise ValueError(
            f"{shown(text)} names a stage; expected method/setting or imported/name: the evaluated stage is shown"
        )
    return text


def _of_a_setting_or_stage(text: str) -> str:
    return str(ModelName.parse(text))


def _of_a_stage(text: str) -> str:
    name = ModelName.parse(text)
    if not name.imported and not name.stage:
        raise ValueError(f"{shown(text)} is not method/setting/stage or imported/name; name the stage")
    return text


SettingModel = Annotated[str, AfterValidator(_of_a_setting)]
"""Text of a `ModelName` without stage: the evaluated stage of a setting, or an imported model."""
AnyModel = Annotated[str, AfterValidator(_of_a_setting_or_stage)]
"""Text of any `ModelName`."""
StageModel = Annotated[str, AfterValidator(_of_a_stage)]
"""Text of a `ModelName` that says its stage, or of an imported model."""
