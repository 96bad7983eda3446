"""Base of all settings: typed, frozen, strict; unknown keys are errors that name the nearest valid key."""

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from airpipe.errors import AirpipeError

Json = Any

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=100)]  # it becomes a part of file names

S = TypeVar("S", bound="Settings")
V = TypeVar("V")


def each_once(values: tuple[V, ...]) -> tuple[V, ...]:
    """The same values; ValueError where one comes twice, which would count twice in every mean."""
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise ValueError(f"found {shown(twice[0])} more than once, expected each once; leave out the repeats")
    return values


Names = Annotated[tuple[Name, ...], AfterValidator(each_once)]
"""Names, each once."""


class Settings(BaseModel):
    """Base of all settings: frozen, and strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and cls.model_config["extra"] == "forbid":
            fields = cls.model_fields
            for key in values:
                if key not in fields:
                    raise ValueError(unknown_name(str(key), fields, "setting"))
        return values


SHOWN = 80
"""Characters of a found value that messages show."""


def shown(value: Any) -> str:
    """A found value for a message, on one line and cut to `SHOWN` characters."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def unknown_name(found: str, valid: Any, what: str) -> str:
    """Say that `found` is not one of `valid`, and which of them is nearest."""
    names = sorted(str(name) for name in valid)
    near = difflib.get_close_matches(found[:SHOWN], names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {shown(found)}; {hint}Valid: {', '.join(names) or '(none)'}"


def check_settings(model: type[S], values: Any, where: str) -> S:
    """Validate `values` against `model`.

    Args:
        model: the settings class.
        values: plain mapping, as read from YAML.
        where: name of what is read, for the message ("config/config.yaml", "stage train of ...").

    Raises:
        AirpipeError: one line per problem, each with its path, what was found and what is valid.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        told = [one for one in error.errors() if not _follows(one)]
        lines = [f"{'.'.join(str(p)[:SHOWN] for p in e['loc']) or 'top level'}: {_reason(e)}" for e in told]
        raise AirpipeError(f"{where} is not valid:\n  " + "\n  ".join(lines)) from None


EXPECTED = {
    "missing": "Field required: it has no default; add it",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected a mapping of names to values",
    "model_type": "expected a mapping of names to values",
    "string_type": "expected text",
    "too_short": "has too few entries",
}
"""What users write where pydantic speaks of Python's types."""


def _follows(error: Any) -> bool:
    """Whether a list lacks entries only because some of them are wrong, which is told of each."""
    return bool(error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"])


def _reason(error: Any) -> str:
    kind, found = error["type"], error.get("input")
    message = EXPECTED.get(kind, str(error["msg"]).removeprefix("Value error, "))
    if kind == "too_short":
        message = f"{message}; expected {error['ctx']['min_length']} or more"
    if kind == "missing" or (isinstance(found, Mapping) and kind not in EXPECTED):
        return message
    more = f"; write [{shown(found)}]" if kind in ("tuple_type", "list_type") and isinstance(found, str | int) else ""
    return f"{message} (found {shown(found)}){more}"


def canonical_json(settings: Settings) -> str:
    """Settings as one line of JSON with sorted keys: what is hashed and passed between programs."""
    return json.dumps(settings.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))


def settings_hash(settings: Settings) -> str:
    """First 16 hex digits of the sha256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]


def read_yaml(path: Path, ours: bool = False) -> dict[str, Any]:
    """Read a YAML mapping.

    Args:
        path: the file.
        ours: read it with libyaml, where it is there: in a tenth of the time, but a file that is nested 100,000 levels
            deep would end the process.

    Raises:
        AirpipeError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        fast = ours and yaml.__with_libyaml__
        values = yaml.load(text, Loader=yaml.CSafeLoader) if fast else yaml.safe_load(text)
    except OSError as error:
        raise AirpipeError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise AirpipeError(f"{path}: nested too deeply to be read; take levels out") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date that there is not
        raise AirpipeError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise AirpipeError(f"{path}: expected a YAML mapping, found {type(values).__name__}")
    return cast(dict[str, Any], values)


def read_settings(model: type[S], path: Path) -> S:
    """Read settings that were frozen into a YAML file.

    Args:
        model: the settings class.
        path: path of the file.

    Raises:
        AirpipeError: the file cannot be read, or is not valid.
    """
    return check_settings(model, read_yaml(path), str(path))
