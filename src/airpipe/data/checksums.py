"""The tracked file of checksums of downloads whose publisher gives none (config/datasets.lock.yaml)."""

import datetime
from pathlib import Path

import yaml
from pydantic import Field, PositiveInt

from airpipe.data.locks import only_process
from airpipe.errors import AirpipeError
from airpipe.provenance import write_text
from airpipe.settings.base import Name, Settings, check_settings

HEADER = """\
# Checksums of downloaded files, per data set and address, recorded when a file was fetched for the
# first time (the publishers give none). Later fetches must bring the same bytes. Delete an entry only
# when its publisher is known to have replaced the file. Files that somebody dropped in stand under
# "by hand: <name>".
"""


class Recorded(Settings):
    """One file that was fetched once."""

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: PositiveInt
    recorded: str = Field(description="Date, as 2025-01-31.")


class Checksums(Settings):
    """All recorded files: data set, address, file."""

    datasets: dict[Name, dict[str, Recorded]] = {}


def read_checksums(lock: Path, dataset: str) -> dict[str, Recorded]:
    """Read the recorded files of a data set, by address; none when nothing was recorded.

    Raises:
        AirpipeError: the lock file is not what this module writes.
    """
    return dict(_read(lock).datasets.get(dataset, {}))


def record_checksums(lock: Path, guard: Path, dataset: str, files: dict[str, Recorded]) -> None:
    """Add files by address; entries that are there stay as they are.

    Args:
        lock: the tracked file.
        guard: an empty file that two processes lock, one after the other.
        dataset: name of the data set.
        files: recorded files to add, by address.
    """
    with only_process(guard):
        datasets = {name: dict(entries) for name, entries in _read(lock).datasets.items()}
        datasets[dataset] = files | datasets.get(dataset, {})
        plain = Checksums(datasets=datasets).model_dump(mode="json")["datasets"]
        write_text(lock, HEADER + yaml.safe_dump(plain, sort_keys=True, allow_unicode=True, width=1000))


def today() -> str:
    """Return today's date in UTC, as 2025-01-31."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _read(lock: Path) -> Checksums:
    if not lock.exists():
        return Checksums()
    try:
        plain = yaml.safe_load(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AirpipeError(f"{lock}: cannot be read ({error}). Restore it with git, then run again") from None
    return check_settings(Checksums, {"datasets": plain or {}}, str(lock))
