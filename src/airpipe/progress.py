"""Progress of long operations: a bar on a terminal, plain lines in a log."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import Any, TypeVar, cast

from airpipe.errors import AirpipeError

T = TypeVar("T")
R = TypeVar("R")
FEW = 16
"""Fewer items than this are not worth several processes."""
LINE_SECONDS = 10.0
"""Least time between two plain lines."""


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield `items` and show on stderr how far the work is.

    Args:
        items: what is worked on.
        total: number of items.
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


def in_parallel(work: Callable[[T], R], items: Sequence[T], threads: int, label: str) -> Iterator[R]:
    """Yield `work(item)` for every item in order, on several processes, and show how far the work is.

    Args:
        work: a function at module level: processes get it by its name.
        items: its arguments.
        threads: number of processes; with 1, or fewer than `FEW` items, this process does all.
        label: what is done.
    """
    if threads <= 1 or len(items) < FEW:
        yield from track(map(work, items), len(items), label)
        return
    with ProcessPoolExecutor(threads, initializer=end_with_parent) as pool:
        # large chunks save traffic, small ones keep all processes busy to the end
        chunk = max(1, min(16, len(items) // (4 * threads)))
        try:
            yield from track(pool.map(work, items, chunksize=chunk), len(items), label)
        except BrokenProcessPool:
            raise AirpipeError(f"{label}: a process was killed, perhaps for its memory. Use fewer threads") from None


def end_with_parent() -> None:
    """Make a pool's process end when the process that made it is killed; it is the pool's initializer."""
    parent = cast(Any, parent_process())

    def leave() -> None:
        wait([parent.sentinel])
        os._exit(1)  # sys.exit would end this thread only

    threading.Thread(target=leave, daemon=True).start()
