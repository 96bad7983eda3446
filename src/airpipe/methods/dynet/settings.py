"""Settings of DyNet's stages. Imports no torch, because Snakemake reads it at every start.

Sources: "paper" is Dudhane et al., arXiv 2404.02154, its second version as its public reviews quote it; "code" is
akshaydudhane16/DyNet, which has no pretraining.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from airpipe.settings.base import unknown_name
from airpipe.settings.stages import StageSettings

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

    @model_validator(mode="before")
    @classmethod
    def _other_tasks_are_left_out(cls, values: Any) -> Any:
        chosen = values.get("de_type") if isinstance(values, Mapping) else None
        if not chosen or not set(chosen) <= set(DE_TYPES):
            return values
        validation = values.get("validation", {})
        data = [part for part in values["data"] if task_of(part) in chosen]
        if missing := [name for name in chosen if name not in map(task_of, data)]:
            label = DE_TYPES.index(missing[0])
            raise ValueError(f"de_type has {missing[0]}, but no part of data has its label, {label}. Add one")
        if isinstance(validation, Mapping):
            kept = [part for part in validation.get("data", ()) if task_of(part) in chosen]
            validation = {**validation, "data": kept}
        return {**values, "data": data, "validation": validation}


def task_of(part: Mapping[str, Any]) -> str | None:
    """Name the task of a data part, as `DE_TYPES` has it; None for other labels."""
    label = part.get("label", 0)
    return DE_TYPES[label] if label in range(len(DE_TYPES)) else None
