"""Rows of csv files that airpipe wrote or was given: read in one way, so that damage is told by file and line."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from airpipe.errors import AirpipeError

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

LONGEST = 1 << 24
"""Characters of the longest field. Python's own limit of 131,072 is less than the patches of one large picture take;
without any, a quote that is never closed would take the rest of a file into memory."""
csv.field_size_limit(LONGEST)


def parsed(lines: Iterable[str], strict: bool = False) -> "CsvReader":
    """Split lines of text into rows by `csv.reader`, with fields of up to `LONGEST` characters.

    Args:
        lines: each with its end.
        strict: whether a quote that is never closed is an error; otherwise the last field is what follows it.

    Raises:
        csv.Error: while it is read: a field is longer, or a quote out of place.
    """
    return csv.reader(lines, strict=strict)


def read_csv(path: Path, remedy: str) -> Iterator[tuple[int, list[str]]]:
    """Read a csv file row by row, blank ones left out.

    Args:
        path: the file, UTF-8.
        remedy: what to do when it cannot be read, for the message.

    Returns:
        Each row with the number of the line that it ends on, from 1.

    Raises:
        AirpipeError: the file is missing, is not UTF-8, a quote is never closed, or a field is longer than `LONGEST`.
    """
    line = 0
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = parsed(stream, strict=True)
            for row in reader:
                line = reader.line_num
                if row:
                    yield line, row
    except OSError as error:
        raise AirpipeError(f"{path}: cannot be read ({error.strerror}). {remedy}") from None
    except UnicodeDecodeError:
        raise AirpipeError(f"{path}: line {_no_text(path)} is not UTF-8. {remedy}") from None
    except csv.Error as error:
        raise AirpipeError(f"{path}: cannot be read behind line {line} ({error}). {remedy}") from None


def _no_text(path: Path) -> int:
    """Number of the first line that is not UTF-8."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    raise AirpipeError(f"{path}: changed while it was read. Run again")


def read_columns(path: Path, remedy: str, *headers: Sequence[str]) -> tuple[list[str], Iterator[list[str]]]:
    """Read a csv file whose first row names its columns.

    Args:
        path: the file, UTF-8.
        remedy: what to do when it cannot be read, for the message.
        headers: names of columns that are right; none: any.

    Returns:
        The names, none for an empty file, and the rows, each with as many fields.

    Raises:
        AirpipeError: as `read_csv`; the file has other columns, or (when they are read) a row other fields.
    """
    rows = read_csv(path, remedy)
    _, header = next(rows, (0, []))
    if headers and tuple(header) not in map(tuple, headers):
        raise AirpipeError(f"{path}: columns {str(header)[:80]}; expected {list(headers[0])}. {remedy}")

    def whole() -> Iterator[list[str]]:
        for line, row in rows:
            if len(row) != len(header):
                raise misfit(path, line, len(row), len(header), remedy)
            yield row

    return header, whole()


def misfit(path: Path, line: int, found: int, expected: int, remedy: str) -> AirpipeError:
    """The error of a row that has another number of fields than there are columns."""
    return AirpipeError(f"{path}: line {line} has {found} fields; expected {expected}. {remedy}")


def read_records(path: Path, remedy: str, *headers: Sequence[str]) -> Iterator[dict[str, str]]:
    """Read a csv file row by row, each by the names of the columns; arguments and errors as of `read_columns`."""
    header, rows = read_columns(path, remedy, *headers)
    for row in rows:
        yield dict(zip(header, row, strict=True))


def read_journal(path: Path) -> Iterator[list[str]]:
    """Read the rows of a table that grows as work is done; what a kill or a power cut left of others is passed over.

    Args:
        path: the file; one that is missing, or no file at all (a device without end), has no rows.
    """
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        reader = parsed(line.replace("\0", "") for line in stream)
        while True:
            with suppress(csv.Error):
                row = next(reader, None)
                if row is None:
                    return
                yield row
