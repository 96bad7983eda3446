"""What a run promises (config/acceptance.yaml), checked against its tables."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from pydantic import Field, model_validator

from airpipe.errors import AirpipeError
from airpipe.reporting.frames import text_frame
from airpipe.settings.base import Name, Settings, unknown_name


class Promise(Settings):
    """The least that a value in a table may be, or how far it may at least be from another one."""

    table: Name = Field(description="Name of the table below results/tables, without suffix.")
    row: dict[str, str] = Field(min_length=1, description="Column: value; together they name one row.")
    column: Name = Field("value", description="Column that holds the value.")
    minus: dict[str, str] | None = Field(None, description="Another row of the table; its value is taken off.")
    times: float = Field(1.0, description="Factor of the value that is taken off.")
    least: float | None = Field(None, description="The value may be equal to it.")
    above: float | None = Field(None, description="The value has to be larger.")

    @model_validator(mode="after")
    def _one_bound(self) -> "Promise":
        if (self.least is None) == (self.above is None):
            raise ValueError("give either least or above")
        return self

    def kept(self, found: float) -> bool:
        """Whether a value from a table keeps the promise; one that is not a number does not."""
        return found >= self.least if self.least is not None else found > float(self.above or 0)

    @property
    def bound(self) -> str:
        """The least value that keeps the promise, in words."""
        return f"at least {self.least:g}" if self.least is not None else f"above {self.above:g}"


class Acceptance(Settings):
    """All promises, by what they are about."""

    promises: dict[str, Promise] = Field(min_length=1)


def check_promises(acceptance: Acceptance, tables: Path) -> tuple[list[str], int]:
    """Compare promises with the tables of a run.

    Args:
        acceptance: what was promised.
        tables: folder of the csv files.

    Returns:
        A line for every promise, and how many are broken.

    Raises:
        AirpipeError: a table that is not there, an unknown column, or a row that is not there just once.
    """
    read: dict[str, pd.DataFrame] = {}
    lines, broken = [], 0
    for name, promise in acceptance.promises.items():
        if promise.table not in read:
            read[promise.table] = _table(tables / f"{promise.table}.csv")
        found = _value(read[promise.table], promise.row, promise.column, name)
        if promise.minus is not None:
            found -= promise.times * _value(read[promise.table], promise.minus, promise.column, name)
        kept = promise.kept(found)
        broken += not kept
        lines.append(f"{'kept  ' if kept else 'BROKEN'} {name}: {found:.2f} ({promise.bound})")
    return lines, broken


def _table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise AirpipeError(f"{path}: no such table. Make it first: snakemake {path}")
    return text_frame(path)


def _value(table: pd.DataFrame, row: Mapping[str, str], wanted: str, name: str) -> float:
    for column in (*row, wanted):
        if column not in table:
            raise AirpipeError(f"promise {name!r}: " + unknown_name(column, table.columns, "column"))
    chosen = table
    for column, value in row.items():
        chosen = chosen[chosen[column] == value]
    if len(chosen) != 1:
        told = ", ".join(f"{column} {value!r}" for column, value in row.items())
        raise AirpipeError(f"promise {name!r}: {len(chosen)} rows have {told}. Expected one; correct the row")
    try:
        return float(chosen[wanted].item() or "nan")
    except ValueError:
        found = f"{wanted} is {str(chosen[wanted].item())[:80]!r}"
        raise AirpipeError(f"promise {name!r}: {found}. Expected a number; name a column of numbers") from None
