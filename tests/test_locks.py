"""Locks say whose they are, end with their process, and stale ones of Snakemake are known as such."""

import os
import re
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from helpers import one_thread

from airpipe.data import locks
from airpipe.data.locks import OWNER, Busy, left_locks, only_process
from airpipe.errors import AirpipeError

HERE = socket.gethostname()
HOLD = """
import sys
from pathlib import Path
from airpipe.data.locks import join_runs, only_process
if sys.argv[1] == "runs":
    join_runs(Path(sys.argv[2]))
    print("held", flush=True); sys.stdin.read()
with only_process(Path(sys.argv[2])):
    print("held", flush=True); sys.stdin.read()
"""


@contextmanager
def other(kind, path):
    """Another process that holds a lock until the block ends; it is killed."""
    command = [sys.executable, "-c", HOLD, kind, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=one_thread()) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_the_second_process_is_told_who_holds_the_lock_and_a_dead_one_holds_nothing(tmp_path):
    guard = tmp_path / "below/.lock"
    with (
        other("only", guard) as process,
        pytest.raises(Busy, match=f"^process {process.pid} on {HERE} paints. Wait$"),
        only_process(guard, wait=False, message=f"{OWNER} paints. Wait"),
    ):
        pytest.fail("two processes at once")
    assert guard.read_text() == f"{process.pid} {HERE}\n"  # killed: nobody removed it
    with only_process(guard, wait=False):
        assert guard.read_text() == f"{os.getpid()} {HERE}\n"
    assert not guard.exists()


def test_one_that_waits_says_for_whom_and_goes_on_where_the_owner_removed_the_file(tmp_path, capsys, monkeypatch):
    guard, waited = tmp_path / ".lock", []
    lockf = locks.fcntl.lockf

    def waiting(handle, how):
        if how == locks.fcntl.LOCK_EX:
            waited.append(how)
            holder.stdin.close()  # lets the owner end by itself
        lockf(handle, how)

    monkeypatch.setattr(locks.fcntl, "lockf", waiting)
    with other("only", guard) as holder, only_process(guard):
        assert guard.read_text() == f"{os.getpid()} {HERE}\n"
    assert len(waited) == 1
    said = capsys.readouterr().out
    assert said == f"{guard}: process {holder.pid} on {HERE} is at work; waiting until it ends\n"


def test_a_lock_of_another_process_at_the_same_place_is_not_removed(tmp_path):
    guard, moved = tmp_path / "work/.lock", tmp_path / "done"
    with only_process(guard):
        guard.parent.rename(moved)  # as a finished pack is put into its place
        with other("only", guard) as process:
            pass
    assert guard.read_text() == f"{process.pid} {HERE}\n" and (moved / ".lock").read_text().startswith(
        f"{os.getpid()} "
    )


@pytest.mark.parametrize(("alive", "host"), [(True, HERE), (False, HERE), (True, "node7")])
def test_without_locks_of_the_file_system_a_live_owner_here_is_refused(tmp_path, monkeypatch, capsys, alive, host):
    def no_locks(handle, how):
        raise OSError(37, "No locks available")

    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    if not alive:
        process.kill()
        process.wait()
    guard = tmp_path / ".lock"
    guard.write_text(f"{process.pid} {host}\n")
    monkeypatch.setattr(locks.fcntl, "lockf", no_locks)
    if alive and host == HERE:
        with pytest.raises(Busy, match=f"process {process.pid} on {HERE} is at work"), only_process(guard):
            pytest.fail("two processes at once")
    else:
        with only_process(guard):
            assert guard.read_text().startswith(f"{os.getpid()} ")
        said = f"has no locks (No locks available); going on without; process {process.pid} on {host} took it last"
        assert said in capsys.readouterr().err
    process.kill()
    process.communicate()


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    message = r"file/.lock: cannot be written \(.*\). Free space there or make the folder writable"
    with pytest.raises(AirpipeError, match=message), only_process(tmp_path / "file/.lock"):
        pytest.fail("no lock is there")


# Runs of Snakemake


@pytest.fixture
def locked(tmp_path):
    """Snakemake's folder as a killed run of this host leaves it."""
    with other("runs", tmp_path):
        (tmp_path / "locks").mkdir()
        for name in ("0.input.lock", "0.output.lock"):
            (tmp_path / "locks" / name).write_text("results/a\n")
    return tmp_path


def names(folder):
    return sorted(path.name for path in (folder / "locks").iterdir())


def join(folder):
    """Join the runs in a process of its own; the locks that it removed."""
    code = "import sys; from pathlib import Path; from airpipe.data.locks import join_runs\n"
    code += "print(*(path.name for path in join_runs(Path(sys.argv[1]))))"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], env=one_thread(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_locks_of_a_dead_snakemake_of_this_host_are_stale_and_the_next_one_removes_them(locked):
    assert left_locks(locked).stale
    assert names(locked) == ["0.input.lock", "0.output.lock"]  # looking changes nothing
    assert join(locked) == ["0.input.lock", "0.output.lock"]
    assert names(locked) == [] and not left_locks(locked).stale


def test_locks_stay_while_any_snakemake_lives(locked):
    with other("runs", locked):  # removes those of the dead one ...
        (locked / "locks/0.output.lock").write_text("results/b\n")  # ... and locks by itself
        assert not left_locks(locked).stale and not left_locks(locked).alone
        assert join(locked) == [] and names(locked) == ["0.output.lock"]
    assert join(locked) == ["0.output.lock"]


def test_locks_that_another_host_may_have_left_stay(locked):
    (locked / locks.RUNS).write_text(f"node7\n{HERE}\n")
    assert join(locked) == [] and names(locked) == ["0.input.lock", "0.output.lock"]
    left = left_locks(locked)
    assert left.alone and left.hosts == {"node7", HERE} and not left.stale
    for file in left.files:
        file.unlink()  # what --unlock does
    assert join(locked) == [] and re.fullmatch(f"{HERE}\n", (locked / locks.RUNS).read_text())


def test_locks_of_runs_before_this_record_was_kept_stay(tmp_path):
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/0.output.lock").write_text("results/a\n")
    assert not left_locks(tmp_path).stale
    assert join(tmp_path) == [] and join(tmp_path) == [] and names(tmp_path) == ["0.output.lock"]
