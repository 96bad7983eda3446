"""Run a script and write its peak memory to a file: `python -m benchmarks.peak FILE SCRIPT ARGUMENT ...`.

What a parent is told of a child (`wait4`) begins with the parent's own peak. Used by other benchmarks.
"""

import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from airpipe.errors import AirpipeError
from airpipe.resident import peak_bytes


def run_measured(words: Sequence[str]) -> tuple[float, float]:
    """Run Python, and return the peak memory in 10^6 bytes and the processor time in seconds.

    Args:
        words: a script (or "-m" and a module) and its arguments.

    Raises:
        AirpipeError: its status is not 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "peak")
        measured = [sys.executable, "-m", "benchmarks.peak", str(file), *words]
        process = subprocess.Popen(measured, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise AirpipeError(f"{' '.join(words)}: ended with status {process.returncode}, expected 0")
        return int(file.read_text()) / 1e6, used.ru_utime + used.ru_stime


def main() -> None:
    """Run what the arguments say."""
    _, file, *words = sys.argv
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
            runpy.run_path(words[0], run_name="__main__")
    finally:
        Path(file).write_text(str(peak_bytes()))


if __name__ == "__main__":
    main()
