"""Csv files as data frames, read in one way (`airpipe.rows` reads them row by row)."""

from pathlib import Path
from typing import Any

import pandas as pd

from airpipe.errors import AirpipeError


def text_frame(path: Path) -> pd.DataFrame:
    """Read a csv file as text; empty cells stay ''. Errors as `csv_frame`."""
    return csv_frame(path, dtype=str, keep_default_na=False)


def csv_frame(path: Path, **options: Any) -> pd.DataFrame:
    """Read a csv file that a rule made.

    Args:
        path: the file.
        options: of pandas' `read_csv`.

    Raises:
        AirpipeError: it is missing or damaged.
    """
    try:
        found: pd.DataFrame = pd.read_csv(path, **options)
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise AirpipeError(f"{path}: cannot be read ({words}). Make it again: snakemake {path}") from None
    return found
