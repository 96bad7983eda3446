"""Resident memory of this process. No torch here: what measures memory with it would measure torch, too."""

import resource
import sys
from pathlib import Path

KEPT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "1000000000000",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Variables by which glibc keeps the memory that tensors free, in large pages: it would give large ones back to the
system and fetch them again, page by page, in every layer. They count from the start of a process."""


def peak_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage begins with the memory of the process that started this one
        return _status_bytes(status, "VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """Resident memory of this process now, in bytes; without /proc, the largest so far."""
    status = Path("/proc/self/status")
    return _status_bytes(status, "VmRSS") if status.exists() else peak_bytes()


def _status_bytes(status: Path, field: str) -> int:
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
