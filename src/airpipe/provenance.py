"""Provenance of results: hashes, atomic files, the state of git, library versions, the CPU."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airpipe.errors import AirpipeError

LIBRARIES = ("torch", "lightning-fabric", "numpy", "opencv-python-headless", "scikit-image", "scikit-learn", "pandas")
"""Distributions whose version can change a number."""


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary name beside `target`; rename it to `target` when the block succeeds.

    Missing parent folders are made. When the block fails, the temporary file is
    removed and `target` stays as it was.

    Raises:
        AirpipeError: the folder cannot be written or the disk is full; says which and what to do.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise write_failed(target, error) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # on the disk before the rename: a power cut must not leave the name with half of the content
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)  # reading it means setting it; mkstemp made a private file
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        raise write_failed(target, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_failed(target: Path, error: Exception) -> AirpipeError:
    """Return the error for a file that could not be written: why, and what to do."""
    reason = getattr(error, "strerror", None) or str(error)
    return AirpipeError(
        f"{target}: cannot be written ({reason}). Nothing was replaced. "
        "Free disk space or make the folder writable, then run the same command again"
    )


TEMPORARY = os.environ.get("TMPDIR", "/tmp")
"""Where programs put temporary files; `tempfile.gettempdir` would look for another place where this one is full."""
FULL = 1e9
"""Less free space than this, in bytes, may be why a job failed."""


def full_disks(places: Sequence[str], least: float = FULL) -> str:
    """Say which of these folders have little space left; a full disk leaves logs empty, so nobody else may say it.

    Args:
        places: folders; for one that is not there, the nearest folder above it counts.
        least: bytes of free space that are no reason to worry.

    Returns:
        One line; empty where all have that much.
    """
    found = {place: shutil.disk_usage(nearest(Path(place))).free for place in dict.fromkeys(places)}
    little = [f"{free / 1e6:,.0f} MB free for {place}" for place, free in found.items() if free < least]
    if not little:
        return ""
    return (
        f"A disk may be full: {', '.join(little)}. A full disk leaves logs empty; free space there (temporary files "
        "lie in TMPDIR), then run the same command again: what is finished stays"
    )


def nearest(place: Path) -> Path:
    """The path itself where it exists, or the nearest one above it that does."""
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return place


def write_text(target: Path, text: str) -> None:
    """Write a text file atomically (see `atomic_path`)."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically (see `atomic_path`)."""
    write_text(target, json.dumps(value, indent=2) + "\n")


def git_state() -> dict[str, Any]:
    """Ask git about the checkout that holds this package.

    Returns:
        commit (hex) and dirty (whether files differ from it); both None outside git.
    """
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True).stdout

    try:
        return {
            "commit": git("rev-parse", "HEAD").strip(),
            "dirty": bool(git("status", "--porcelain").strip()),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def cpu_facts() -> tuple[str, frozenset[str]]:
    """Return the name of the CPU and its instruction flags as Linux tells them (avx2, avx512_bf16, ...).

    Elsewhere the name of the architecture, and no flags.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine(), frozenset()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    flags = told.get("flags", told.get("Features", ""))  # x86, Arm
    return told.get("model name", platform.machine()), frozenset(flags.split())


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that can change a number, by distribution."""
    return {name: _version(name) for name in LIBRARIES}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # the module may come from another distribution
        return "not installed under this name"
