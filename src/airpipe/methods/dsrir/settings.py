"""Settings of DSRIR's stage. Imports no torch, because Snakemake reads it at every start.

Source: "code" is xfwang23/DSRIR (2025); "ours" marks what we chose.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from airpipe.errors import AirpipeError
from airpipe.methods.dsrir.progression import Progression
from airpipe.settings.base import unknown_name
from airpipe.settings.stages import StageSettings


class DsrirSettings(StageSettings):
    """dsrir.train: the three stages learn together; optimizer `net`, losses `uncertainty`, `psnr` and `contrast`.

    The phases are written out, or follow from `progression`.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"vgg", "encoder"})
    optional: ClassVar[frozenset[str]] = frozenset({"vgg"})
    uncounted: ClassVar[frozenset[str]] = frozenset({"vgg"})
    contrast: Literal["vgg", "encoder", "none"] = Field(
        "vgg",
        description="Features in which the restored image is drawn to the clean one and away from the degraded one: "
        "those of VGG19 (code; the parent `vgg`, without which there is no such loss), or those of a frozen network of "
        "airpipe's own (ours; the parent `encoder`).",
    )
    progression: Progression | None = Field(
        None, description="Makes the phases by the published formula; none: they are given. Source: code."
    )

    @model_validator(mode="before")
    @classmethod
    def _derive_phases(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not values.get("progression") or values.get("phases"):
            return values
        derived = Progression.model_validate(values["progression"]).phases()
        return {**values, "phases": [phase.model_dump(exclude_none=True) for phase in derived]}

    def check_rows(self, rows: Sequence[int]) -> None:
        """Refuse lists of another length than the one that the phases were derived from.

        Lists that have lost the rows that an epoch leaves out are taken, too (`lose_first_row`).

        Raises:
            AirpipeError: says how many rows each part has.
        """
        plan, found = self.progression, sum(rows)
        if plan is None or found in (plan.rows, plan.read_rows):
            return
        parts = " + ".join(f"{count:,} {part.pairs}" for count, part in zip(rows, self.data, strict=True))
        raise AirpipeError(
            f"data has {found:,} rows ({parts}), but progression.rows is {plan.rows:,}, from which the phases follow. "
            f"Complete the lists (airpipe data check), or set progression: {{rows: {found}}} in an overlay"
        )

    @model_validator(mode="after")
    def _says_its_phases_once(self) -> "DsrirSettings":
        if self.progression and self.phases != self.progression.phases():
            raise ValueError(
                "phases are others than those that progression makes; leave one of them out (progression: null in an "
                "overlay)"
            )
        return self

    @model_validator(mode="after")
    def _has_the_features_it_compares(self) -> "DsrirSettings":
        wanted = set() if self.contrast == "none" else {self.contrast}
        if set(self.parents) != wanted:
            example = {"vgg": "{vgg: imported/vgg19}", "encoder": "{encoder: method/setting/stage}"}
            add = f"give {example[self.contrast]}" if wanted else "leave them out"
            raise ValueError(
                f"parents: found {', '.join(sorted(self.parents)) or 'none'}, but contrast is {self.contrast}; {add}, "
                "or choose another contrast"
            )
        if self.contrast == "none" and "contrast" in self.loss_weights:
            raise ValueError("found a weight for the loss contrast, but contrast is none; leave it out")
        return self

    @model_validator(mode="after")
    def _trains_one_network(self) -> "DsrirSettings":
        if self.network.name != "dsrir":
            raise ValueError("network: " + unknown_name(self.network.name, ["dsrir"], "network"))
        if set(self.optimizers) != {"net"}:
            raise ValueError(f"optimizers: found {', '.join(sorted(self.optimizers)) or 'none'}; expected net")
        return self
