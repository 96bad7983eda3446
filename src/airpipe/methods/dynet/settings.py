"""Settings of DyNet's stages. Imports no torch, because Snakemake reads it at every start.

Sources: "paper" is Dudhane et al., arXiv 2404.02154, its second version as its public reviews quote it; "code" is
akshaydudhane16/DyNet, which has no pretraining.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, ModelWrapValidatorHandler, field_validator, model_validator

from airpipe.settings.base import unknown_name
from airpipe.settings.stages import DataPart, StageSettings

DE_TYPES = ("denoise_15", "denoise_25", "denoise_50", "derain", "dehaze", "deblur", "lowlight")
"""Tasks as the code names them, at the place of their label in `data`; the last two are ours."""
DeType = Literal["denoise_15", "denoise_25", "denoise_50", "derain", "dehaze", "deblur", "lowlight"]


class DynamicSettings(StageSettings):
    """A stage that trains networks of different depth, `variants`, in one set of weights; losses `pixel_<variant>`."""

    branch: str = Field(
        "random",
        description="Variant that is trained: random (one of them for each step, drawn with equal chances) or the name "
        "of the one that is trained in all steps. Source: paper, in pretraining: random.",
    )

    @model_validator(mode="after")
    def _variants_are_depths(self) -> "DynamicSettings":
        if not self.variants:
            raise ValueError("variants: none given; name the depths, such as {s: {reuse_freq: [2, 3, 3, 4]}}")
        for name, changed in self.variants.items():
            if set(changed) != {"reuse_freq"}:
                raise ValueError(f"variants.{name} has {sorted(changed)}; a step changes reuse_freq and nothing else")
            try:
                checked_reuse(changed["reuse_freq"])
            except ValueError as error:
                raise ValueError(f"variants.{name}: {error}") from None
        if self.branch not in ("random", *self.variants):
            raise ValueError("branch: " + unknown_name(self.branch, ("random", *self.variants), "variant"))
        return self


class TrainSettings(DynamicSettings):
    """dynet.train: supervised training of all variants, from the parent `init` or from random weights."""

    takes: ClassVar[frozenset[str]] = frozenset({"init"})
    de_type: tuple[DeType, ...] | None = Field(
        None,
        min_length=1,
        description="Tasks to train: parts of `data` (and of its validation) with other labels are left out. "
        f"Labels: {', '.join(f'{label} {name}' for label, name in enumerate(DE_TYPES))}. None: all parts.",
    )
    clamp: bool = Field(
        False,
        description="Clip what the network makes to [0, 1] before the loss, which has no gradient beyond. Source: "
        "code: true; ours: false.",
    )

    @field_validator("de_type", mode="before")
    @classmethod
    def _names_a_task(cls, found: Any) -> Any:
        if isinstance(found, Sequence) and not found:
            raise ValueError(
                f"names no task; expected one or more of {', '.join(DE_TYPES)}, or leave it out: all parts"
            )
        return found

    @model_validator(mode="wrap")
    @classmethod
    def _other_tasks_are_left_out(
        cls, values: Any, checked: ModelWrapValidatorHandler["TrainSettings"]
    ) -> "TrainSettings":
        settings = checked(values)
        if settings.de_type is None:
            return settings
        known = [task_of(part) for part in settings.data]
        if missing := [name for name in settings.de_type if name not in known]:
            label = DE_TYPES.index(missing[0])
            raise ValueError(f"de_type has {missing[0]}, but no part of data has its label, {label}. Add one")

        def chosen(parts: Sequence[DataPart]) -> tuple[DataPart, ...]:
            return tuple(part for part in parts if task_of(part) in (settings.de_type or ()))

        validation = settings.validation.model_copy(update={"data": chosen(settings.validation.data)})
        return settings.model_copy(update={"data": chosen(settings.data), "validation": validation})


def task_of(part: DataPart) -> str | None:
    """Name the task of a data part, as `DE_TYPES` has it; None for other labels."""
    return DE_TYPES[part.label] if part.label in range(len(DE_TYPES)) else None


def checked_reuse(reuse_freq: Any) -> tuple[int, ...]:
    """Return how often the blocks of levels 1, 2, 3 and latent are used.

    Raises:
        ValueError: not four whole numbers from 1.
    """
    given = list(reuse_freq) if isinstance(reuse_freq, Sequence) and not isinstance(reuse_freq, str) else []
    if len(given) != 4 or any(type(times) is not int or times < 1 for times in given):
        raise ValueError(
            f"reuse_freq is {str(reuse_freq)[:80]}; expected four whole numbers from 1, for levels 1, 2, 3 and latent"
        )
    return tuple(given)
