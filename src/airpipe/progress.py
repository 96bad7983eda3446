"""Progress of long operations: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LINE_SECONDS = 10.0
"""Least time between two plain lines."""


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield `items` and show how far it is, on stderr.

    Args:
        items: what is worked on.
        total: how many there are.
        label: what is done, for example "scoring photos_noise25".
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as bar

        yield from bar(items, description=label, total=total, console=Console(stderr=True))
        return
    last = time.monotonic()
    for done, item in enumerate(items):
        yield item
        if time.monotonic() - last > LINE_SECONDS:
            last = time.monotonic()
            print(f"{label}: {done + 1}/{total}", file=sys.stderr, flush=True)
