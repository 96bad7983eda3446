"""Manifests: what a data set's files are, checked once, so that later rules need not look at folders."""

import csv
from collections.abc import Sequence
from pathlib import Path

from airpipe.data.packages import locate
from airpipe.datasets import DatasetSettings, PackageFile
from airpipe.errors import AirpipeError
from airpipe.images import read_picture
from airpipe.progress import track
from airpipe.provenance import atomic_path, sha256_file

COLUMNS = ("path", "bytes", "sha256", "width", "height")


def build_manifest(dataset: str, entry: DatasetSettings, root: str) -> list[dict[str, str | int]]:
    """Read every file of a data set completely and describe it.

    Args:
        dataset: id, for messages.
        entry: of the registry.
        root: folder of the files; '' for embedded ones.

    Raises:
        AirpipeError: missing folder, unreadable files or checksums that differ: the first ten and a count.
    """
    if entry.packages:
        return _described(
            [(f"{f.package}:{f.path}", locate(f"{f.package}:{f.path}"), f) for f in entry.packages], dataset
        )
    folder = Path(root)
    if not folder.is_dir():
        raise AirpipeError(
            f"data set {dataset}: {root} is not a folder. Put the files there, or set datasets.{dataset}.root "
            "(an overlay: --configfile; variables such as ${HOME} are expanded)"
        )
    globs = {g for split in entry.splits.values() for g in (split.clean, split.degraded) if g}
    paths = sorted({path for pattern in globs for path in folder.glob(pattern) if path.is_file()})
    if not paths:
        raise AirpipeError(f"data set {dataset}: no file in {root} matches {', '.join(sorted(globs))}")
    return _described([(path.relative_to(folder).as_posix(), path, None) for path in paths], dataset)


def _described(files: Sequence[tuple[str, Path, PackageFile | None]], dataset: str) -> list[dict[str, str | int]]:
    rows: list[dict[str, str | int]] = []
    problems = []
    for name, path, expected in track(files, len(files), f"checking {dataset}"):
        try:
            height, width = read_picture(path).pixels.shape[:2]
            _check_sha256(path, expected.sha256 if expected else None)
            if expected is not None and expected.depth:
                _check_sha256(locate(f"{expected.package}:{expected.depth}"), expected.depth_sha256)
        except AirpipeError as error:
            problems.append(str(error))
            continue
        size = path.stat().st_size
        rows.append({"path": name, "bytes": size, "sha256": sha256_file(path), "width": width, "height": height})
    if problems:
        first = "\n  ".join(problems[:10])
        raise AirpipeError(f"data set {dataset}: {len(problems)} of {len(files)} files cannot be used:\n  {first}")
    return rows


def _check_sha256(path: Path, expected: str | None) -> None:
    if expected is not None and sha256_file(path) != expected:
        raise AirpipeError(
            f"{path}: sha256 is not the listed {expected[:12]}...; install the package version of constraints.txt"
        )


def write_manifest(path: Path, rows: Sequence[dict[str, str | int]]) -> None:
    """Write a manifest as csv, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def manifest_paths(path: Path) -> list[str]:
    """Relative paths that a manifest lists."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [row["path"] for row in csv.DictReader(stream)]
