"""Settings of recipes: operations, how their parameters are drawn, and which of them are applied in what order."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from airpipe.settings.base import Json, Name, Settings, unknown_name

KINDS = ("constant", "choice", "uniform", "log_uniform", "integers")


class Draw(Settings):
    """How one parameter is drawn; exactly one key. A bare number or text is a constant."""

    constant: Json = None
    choice: tuple[Json, ...] | None = None
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = Field(
        None, description="10^u with u uniform between the logarithms of both ends."
    )
    integers: tuple[int, int] | None = Field(None, description="Whole numbers, both ends included.")
    size: PositiveInt | None = Field(None, description="The parameter is a list of this many values, each drawn alone.")

    @model_validator(mode="before")
    @classmethod
    def _bare_value_is_constant(cls, values: Any) -> Any:
        return values if isinstance(values, Mapping | Draw) else {"constant": values}

    @model_validator(mode="after")
    def _one_key(self) -> "Draw":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)}")
        for low_high in (self.uniform, self.log_uniform, self.integers):
            if low_high is not None and low_high[0] > low_high[1]:
                raise ValueError(f"range {list(low_high)} runs backwards")
        if self.log_uniform is not None and not (self.log_uniform[0] > 0 and math.isfinite(self.log_uniform[1])):
            raise ValueError(f"log_uniform {list(self.log_uniform)} needs two positive numbers")
        return self


class Form(Settings):
    """One of several forms of an operation, with the parameters that only this form has."""

    share: PositiveFloat = Field(1.0, description="Relative share of draws that take this form.")
    parameters: dict[Name, Draw]


class Operation(Settings):
    """One degradation function of `airpipe.degradations` and how its parameters are drawn."""

    operation: Name
    parameters: dict[Name, Draw] = {}
    forms: tuple[Form, ...] | None = Field(
        None, description="A draw takes one of these forms, and its parameters beside `parameters`."
    )
    chance: float = Field(1.0, ge=0, le=1, description="Chance that a draw applies it, independent of the others.")

    @property
    def possible(self) -> tuple[dict[str, Draw], ...]:
        """The parameters of each form, common ones first; one set where there are no forms."""
        return tuple({**self.parameters, **form.parameters} for form in self.forms or ()) or (self.parameters,)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each parameter that some form has, in the order in which they are written."""
        return tuple(dict.fromkeys(name for parameters in self.possible for name in parameters))

    def with_fixed(self, constants: Mapping[str, Draw]) -> "Operation":
        """A copy with these draws instead of its own, for the parameters that it has."""

        def fixed(own: Mapping[str, Draw]) -> dict[str, dict[str, Draw]]:
            return {"parameters": {name: constants.get(name, how) for name, how in own.items()}}

        forms = self.forms and tuple(form.model_copy(update=fixed(form.parameters)) for form in self.forms)
        return self.model_copy(update={**fixed(self.parameters), "forms": forms})


class Recipe(Settings):
    """Operations, their order, and how their results are put together. A plain list is a chain in that order."""

    operations: tuple[Operation, ...] = ()
    groups: tuple[tuple[str, ...], ...] = Field(
        (),
        description="Operations of a group stand in random order in the places that the group has, for example "
        "[[gaussian_noise, jpeg]]. An operation that comes again is called jpeg.2.",
    )
    shuffle: float = Field(
        0.0, ge=0, le=1, description="Chance that all operations stand in random order; else groups count."
    )
    nothing: float = Field(0.0, ge=0, lt=1, description="Chance that no operation is applied at all.")
    clip: bool = Field(False, description="Clip to [0, 1] after each operation.")
    composition: Literal["chain", "last"] = Field(
        "chain",
        description="chain: each operation changes the result of the one before; last: each changes the original, so "
        "that only the last one counts (DegAE before its correction of 2023-11-01).",
    )

    @model_validator(mode="before")
    @classmethod
    def _list_is_a_chain(cls, values: Any) -> Any:
        plain = isinstance(values, Sequence) and not isinstance(values, str)
        return {"operations": values} if plain else values

    @model_validator(mode="after")
    def _groups_name_operations(self) -> "Recipe":
        names, found = self.names, [name for group in self.groups for name in group]
        for name in found:
            if name not in names:
                raise ValueError("groups: " + unknown_name(name, names, "operation of this recipe"))
        if len(set(found)) < len(found):
            raise ValueError("groups: an operation is named twice; each has one place")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        written = handler(schema)
        operations = handler.resolve_ref_schema(written)["properties"]["operations"]
        plain = {key: operations[key] for key in ("type", "items")}
        return {"anyOf": [plain, written]}

    @model_serializer(mode="wrap")
    def _chain_is_a_list(self, written: SerializerFunctionWrapHandler) -> Any:
        values: dict[str, Any] = written(self)
        fields = type(self).model_fields.items()
        plain = all(getattr(self, name) == field.default for name, field in fields if name != "operations")
        return values["operations"] if plain else values

    def __bool__(self) -> bool:
        """Whether the recipe has an operation."""
        return bool(self.operations)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each operation as written: `jpeg`, and `jpeg.2` for the one that comes again."""
        seen: Counter[str] = Counter()
        names = []
        for operation in self.operations:
            seen[operation.operation] += 1
            again = f".{seen[operation.operation]}" if seen[operation.operation] > 1 else ""
            names.append(operation.operation + again)
        return tuple(names)

    def with_fixed(self, fixed: Mapping[str, Json]) -> "Recipe":
        """A copy that takes these values, by parameter, instead of its draws, in every operation that has them.

        Raises:
            ValueError: a parameter that no operation has.
        """
        known = {name for operation in self.operations for name in operation.names}
        for name in fixed:
            if name not in known:
                raise ValueError(unknown_name(name, known, "parameter"))
        constants = {name: Draw(constant=value) for name, value in fixed.items()}
        return self.model_copy(update={"operations": tuple(one.with_fixed(constants) for one in self.operations)})
