"""Large byte streams: progress, disk space, writing that says why it failed."""

import errno
import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from airpipe.errors import AirpipeError
from airpipe.progress import LINE_SECONDS

MEGABYTE = 1_000_000
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk and of a used-up quota."""


class Meter:
    """Progress of a byte stream on stderr: a bar on a terminal, a plain line every few seconds in a log.

    Args:
        label: what is done, for example "fetching rain.zip".
        total: bytes in all; None when nobody knows.
        done: bytes that were there at the start.
    """

    def __init__(self, label: str, total: int | None, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self._last = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(label, total=total, completed=done)

    def __enter__(self) -> "Meter":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def add(self, count: int) -> None:
        """Say that `count` more bytes are done."""
        self.done += count
        if self._bar:
            self._bar.update(self._task, completed=self.done)
        elif time.monotonic() - self._last > LINE_SECONDS:
            self._last = time.monotonic()
            of = f" of {self.total / MEGABYTE:.0f}" if self.total else ""
            print(f"{self.label}: {self.done / MEGABYTE:.0f}{of} MB", file=sys.stderr, flush=True)


def enough_space(target: Path, wanted: int) -> None:
    """Raise `AirpipeError` when `wanted` more bytes do not fit beside `target`."""
    free = shutil.disk_usage(target.parent).free
    if wanted > free:
        raise AirpipeError(
            f"{target.parent}: {wanted / MEGABYTE:.0f} MB are needed for {target.name}, {free / MEGABYTE:.0f} MB are "
            "free. Free disk space (finished downloads may be deleted), then run the same command again"
        )


def write_all(stream: BinaryIO, data: bytes | memoryview, target: Path) -> None:
    """Write every byte or raise `AirpipeError` that says why not (an unbuffered write may be short)."""
    view = memoryview(data)
    try:
        while view:
            view = view[stream.write(view) :]
    except OSError as error:
        why = "the disk is full" if error.errno in FULL else error.strerror
        raise AirpipeError(
            f"{target}: cannot be written ({why}). What is there is kept. "
            "Free disk space (finished downloads may be deleted), then run the same command again"
        ) from None
