"""Locks that let one process at a time do its work, and say whose they are."""

import fcntl
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from airpipe.errors import AirpipeError

OWNER = "{owner}"
"""Text of a message that stands for the process that holds the lock."""


class Busy(AirpipeError):
    """Another process holds a lock."""


@contextmanager
def only_process(guard: Path, wait: bool = True, message: str = "") -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends: what a dead one held is taken over.

    Args:
        guard: a file that names the process and the host that hold the lock; removed at the end.
        wait: whether to wait until another process lets go, which is said; otherwise its lock is an error.
        message: text of this error; {owner} in it stands for the other process.

    Raises:
        Busy: another process holds the lock, and `wait` is false.
        AirpipeError: the file cannot be made or written.
    """
    handle = _taken(guard, wait, message)
    try:
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        except OSError as error:
            raise _unwritable(guard, error) from None
        yield
    finally:
        if _lies_at(guard, handle):  # what was locked may have been moved with its folder
            guard.unlink(missing_ok=True)
        os.close(handle)  # lets go of the lock


def _taken(guard: Path, wait: bool, message: str) -> int:
    while True:
        handle = _open(guard)
        try:
            _take(handle, guard, wait, message)
            if _lies_at(guard, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its owner removed the file that was waited for: another one may have a new file


def _lies_at(guard: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), guard.stat())
    except FileNotFoundError:
        return False


def _open(guard: Path) -> int:
    try:
        guard.parent.mkdir(parents=True, exist_ok=True)
        return os.open(guard, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _unwritable(guard, error) from None


def _unwritable(guard: Path, error: OSError) -> AirpipeError:
    return AirpipeError(f"{guard}: cannot be written ({error.strerror}). Free space there or make the folder writable")


def _take(handle: int, guard: Path, wait: bool, message: str) -> None:
    try:
        if _alone(handle):
            return
    except OSError as error:
        if lives(owner := _owner(handle)):
            raise Busy(f"{guard}: {owner} is at work. Wait until it ends, then run again") from None
        more = f"; {owner} took it last: make sure that it has ended" if os.fstat(handle).st_size else ""
        print(f"{guard}: this file system has no locks ({error.strerror}); going on without{more}", file=sys.stderr)
        return
    owner = _owner(handle)
    if not wait:
        raise Busy(message.replace(OWNER, owner))
    print(f"{guard}: {owner} is at work; waiting until it ends", flush=True)
    fcntl.lockf(handle, fcntl.LOCK_EX)


def _alone(handle: int) -> bool:
    """Take a lock if nobody has it; whether it was free.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _owner(handle: int) -> str:
    """The process that signed a lock, in words."""
    found = re.fullmatch(rb"(\d+) (\S+)\n", os.pread(handle, 300, 0))
    return f"process {int(found[1])} on {found[2].decode(errors='replace')}" if found else "another process"


def lives(owner: str) -> bool:
    """Whether the process that these words name (see `OWNER`) runs on this host."""
    found = re.fullmatch(r"process (\d+) on (\S+)", owner)
    if found is None or found[2] != socket.gethostname():
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


# Runs of Snakemake: several may share a folder, and what dead ones locked must not stop the next one


class Left(NamedTuple):
    """Locks of Snakemake in a working directory, and who may have left them there."""

    files: list[Path]
    alone: bool
    """Whether no Snakemake works there, as far as this host can see."""
    hosts: set[str]
    """Hosts on which runs started that may have left the locks."""

    @property
    def stale(self) -> bool:
        """Whether all who may have left the locks are dead: they ran on this host."""
        return bool(self.files) and self.alone and self.hosts == {socket.gethostname()}


RUNS = "airpipe.runs"
"""File in Snakemake's folder that every run holds a shared lock on; lines: hosts of runs that may have left locks."""


UNKNOWN = "?"
"""Stands there for a host where locks are older than the record."""


def left_locks(folder: Path) -> Left:
    """Look who left locks in Snakemake's folder (.snakemake); nothing is changed.

    Raises:
        AirpipeError: the folder cannot be read or written.
    """
    if not (folder / RUNS).exists():
        return Left(sorted(folder.glob("locks/*.lock")), False, set())
    handle = _open(folder / RUNS)
    try:
        return _left(handle, folder)
    finally:
        os.close(handle)


def join_runs(folder: Path) -> list[Path]:
    """Take part in the runs of a Snakemake folder until this process ends, and remove the locks of dead ones.

    Locks stay where another Snakemake lives, or where one of another host may have left them: nobody sees from here
    whether it is alive.

    Args:
        folder: .snakemake of the working directory; made when missing.

    Returns:
        The removed lock files.

    Raises:
        AirpipeError: the folder cannot be written.
    """
    handle = _open(folder / RUNS)  # stays open: the lock ends with the process
    left = _left(handle, folder)
    for file in left.files if left.stale else ():
        file.unlink(missing_ok=True)
    others = (left.hosts or {UNKNOWN}) if left.files and not left.stale else set()
    lines = "".join(f"{host}\n" for host in sorted(others | {socket.gethostname()}))
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, lines.encode(), 0)
    except OSError as error:
        raise _unwritable(folder / RUNS, error) from None
    try:
        fcntl.lockf(handle, fcntl.LOCK_SH)
    except OSError as error:
        print(f"{folder}: this file system has no locks ({error.strerror}); going on without", file=sys.stderr)
    return left.files if left.stale else []


def _left(handle: int, folder: Path) -> Left:
    files = sorted(folder.glob("locks/*.lock"))
    hosts = set(os.pread(handle, 10_000, 0).decode(errors="replace").split())
    try:
        return Left(files, _alone(handle), hosts)
    except OSError:  # without locks of the file system nobody sees whether another one lives
        return Left(files, False, hosts)
