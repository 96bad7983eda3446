"""Settings of recipes: operations, and how their parameters are drawn."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from airpipe.settings.base import Json, Name, Settings


class Draw(Settings):
    """How one parameter is drawn; exactly one key. A bare number or text is a constant."""

    constant: Json = None
    choice: tuple[Json, ...] | None = None
    uniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = Field(None, description="both ends included")

    @model_validator(mode="before")
    @classmethod
    def _bare_value_is_constant(cls, values: Any) -> Any:
        return values if isinstance(values, Mapping | Draw) else {"constant": values}

    @model_validator(mode="after")
    def _one_key(self) -> "Draw":
        given = [k for k in ("constant", "choice", "uniform", "integers") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of constant, choice, uniform, integers")
        for low_high in (self.uniform, self.integers):
            if low_high is not None and low_high[0] > low_high[1]:
                raise ValueError(f"range {list(low_high)} runs backwards")
        return self


class Operation(Settings):
    """One degradation function of `airpipe.degradations` and how its parameters are drawn."""

    operation: Name
    parameters: dict[Name, Draw] = {}
