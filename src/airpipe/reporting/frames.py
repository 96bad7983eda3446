"""Csv files as data frames, read in one way (`airpipe.rows` reads them row by row)."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from airpipe.errors import AirpipeError
from airpipe.rows import read_columns

RESCORE = "Remove it and score again: snakemake all -R evaluate"
"""Remedy for score files, which are no outputs that Snakemake knows."""


def text_frame(path: Path, remedy: str = "") -> pd.DataFrame:
    """Read a csv file as text; empty cells stay ''.

    Args:
        path: the file.
        remedy: what to do when it cannot be read; left out: how Snakemake makes it again.

    Raises:
        AirpipeError: it is missing, damaged, empty, or has two columns of one name.
    """
    remedy = remedy or _again(path)
    header, rows = read_columns(path, remedy)
    if not header or len(set(header)) < len(header):
        raise AirpipeError(f"{path}: columns {str(header)[:80]}; expected one or more, each once. {remedy}")
    return pd.DataFrame(list(rows), columns=header, dtype=str)


def csv_frame(path: Path, numbers: Collection[str]) -> pd.DataFrame:
    """Read a csv file that a rule made: as `text_frame`, some columns as numbers (an empty cell is NaN).

    Raises:
        AirpipeError: as `text_frame`; a number is none.
    """
    frame = text_frame(path)
    for name in [name for name in frame if name in numbers]:
        found = pd.to_numeric(frame[name], errors="coerce")
        wrong = frame[name][found.isna() & ~frame[name].isin(["", "nan"])]
        if len(wrong):
            told = f"row {wrong.index[0] + 1}: {name} {str(wrong.iloc[0])[:80]!r} is not a number"
            raise AirpipeError(f"{path}: {told}. {_again(path)}")
        frame[name] = found
    return frame


def _again(path: Path) -> str:
    return f"Make it again: snakemake --force {path}"
