"""A lock that lets one process at a time do its work."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airpipe.errors import AirpipeError


class Busy(AirpipeError):
    """Another process holds a lock."""


@contextmanager
def only_process(guard: Path, wait: bool = True, message: str = "") -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends.

    Args:
        guard: an empty file, made when missing.
        wait: whether to wait until another process lets go; otherwise its lock is an error.
        message: text of this error.

    Raises:
        Busy: another process holds the lock, and `wait` is false.
        AirpipeError: the file cannot be made.
    """
    try:
        guard.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(guard, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise AirpipeError(f"{guard}: cannot be written ({error.strerror}). Make the folder writable") from None
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise Busy(message) from None
        except OSError as error:
            print(f"{guard}: this file system has no locks ({error.strerror}); going on without", file=sys.stderr)
        yield
    finally:
        os.close(handle)  # lets go of the lock
