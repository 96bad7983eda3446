"""Long lists of texts and csv rows in few bytes: kept as they lie on the disk, made into objects one by one.

A pair list of two million rows takes 0.2 GB so; as Python's objects it takes 2.8 GB.
"""

import csv
import io
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from airpipe.errors import AirpipeError
from airpipe.rows import misfit, parsed

T = TypeVar("T")
U = TypeVar("U")


class Compact(Sequence[T], Generic[T]):
    """A sequence whose members are made from their bytes whenever they are asked for.

    Args:
        data: bytes of all members.
        starts: place of the first byte of each.
        sizes: number of bytes of each.
        make: makes a member of its bytes; picklable, because loader processes may be given the sequence.
    """

    def __init__(self, data: bytes, starts: "array[int]", sizes: "array[int]", make: Callable[[bytes], T]) -> None:
        self._data, self._starts, self._sizes, self._make = data, starts, sizes, make

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        start = self._starts[index]
        return self._make(self._data[start : start + self._sizes[index]])

    def __iter__(self) -> Iterator[T]:
        for start, size in zip(self._starts, self._sizes, strict=True):
            yield self._make(self._data[start : start + size])

    def convert(self, function: Callable[[T], U]) -> "Compact[U]":
        """The sequence of what a picklable function makes of each member; shares the bytes."""
        return Compact(self._data, self._starts, self._sizes, partial(_then, self._make, function))


def _then(first: Callable[[bytes], T], second: Callable[[T], U], data: bytes) -> U:
    return second(first(data))


class Chosen(Sequence[T], Generic[T]):
    """Some members of a sequence, by their numbers; nothing is copied."""

    def __init__(self, whole: Sequence[T], numbers: Iterable[int]) -> None:
        self._whole, self._numbers = whole, array("Q", numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._whole[number] for number in self._numbers[index]]
        return self._whole[self._numbers[index]]


def compact_texts(texts: Iterable[str]) -> Compact[str]:
    """Texts, of 12 bytes more than they have in UTF-8."""
    data, starts, sizes = bytearray(), array("Q"), array("I")
    for text in texts:
        encoded = text.encode()
        starts.append(len(data))
        sizes.append(len(encoded))
        data += encoded
    return Compact(bytes(data), starts, sizes, bytes.decode)


def read_table(path: Path, remedy: str) -> tuple[list[str], Compact[list[str]]]:
    """Read a csv file in UTF-8; empty lines are left out.

    Args:
        path: the file.
        remedy: what to do when it cannot be read, for the message.

    Returns:
        The header, empty if the file is; and the rows, each with as many fields as the header.

    Raises:
        AirpipeError: the file cannot be read, is no UTF-8 or no csv, or a row has another number of fields.
    """
    try:
        data, end = path.read_bytes(), 0
    except OSError as error:
        raise AirpipeError(f"{path}: cannot be read ({error.strerror}). {remedy}") from None
    starts, sizes = array("Q"), array("I")

    def lines() -> Iterator[str]:
        nonlocal end
        for line in io.BytesIO(data):
            end += len(line)
            yield line.decode()

    reader = parsed(lines(), strict=True)
    try:
        header = next(filter(None, reader), [])
        start = end
        for row in reader:  # a quoted field may go over several lines: only the reader knows where a row ends
            if row and len(row) != len(header):
                raise misfit(path, reader.line_num, len(row), len(header), remedy)
            if row:
                starts.append(start)
                sizes.append(end - start)
            start = end
    except UnicodeDecodeError:
        raise AirpipeError(f"{path}: line {reader.line_num + 1} is not UTF-8. {remedy}") from None
    except csv.Error as error:
        raise AirpipeError(f"{path}: cannot be read behind line {reader.line_num} ({error}). {remedy}") from None
    return header, Compact(data, starts, sizes, _fields)


def _fields(line: bytes) -> list[str]:
    return next(parsed([line.decode()]))
