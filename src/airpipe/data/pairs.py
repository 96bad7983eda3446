"""Pair lists: what every loader reads.

A list `results/pairs/<dataset>.<split>.csv` has the columns of `COLUMNS`; a sibling JSON
holds counts, the rule used and the manifests' checksums. Paths are relative to the data
set's root, which is looked up at run time and enters no hash.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from airpipe.data.packages import locate
from airpipe.datasets import PackageFile, SplitSettings
from airpipe.errors import AirpipeError
from airpipe.provenance import atomic_path, write_json

COLUMNS = ("degraded", "clean", "degradation", "level", "crop", "name", "group")


@dataclass(frozen=True)
class Pair:
    """One row: the clean file, and the degraded one unless it is synthesised."""

    clean: Path
    degraded: Path | None
    """None: synthesised by the stage's or test's recipe."""
    degradation: str
    level: str
    crop: str
    """none, centre or top_left: how the larger file is cut to the smaller."""
    name: str
    """Unique in the list; seeds and scores go by it."""
    group: str
    """Scene; never split over train and test."""
    depth: Path | None = None
    """Disparity file of the clean image, where there is one."""


def read_pairs(path: Path, root: Path | None) -> list[Pair]:
    """Read a pair list.

    Args:
        path: the csv file; its sibling JSON may name depth files.
        root: the data set's folder; None: files of installed packages.

    Raises:
        AirpipeError: missing or empty list, other columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
        depth = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")).get("depth", {})
    except (OSError, ValueError) as error:
        raise AirpipeError(f"{path}: cannot be read with its JSON ({error}); make it: snakemake {path}") from None
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise AirpipeError(f"{path}: columns {reader.fieldnames}; expected {list(COLUMNS)}")
    if not rows:
        raise AirpipeError(f"{path}: holds no pairs")

    def full(relative: str) -> Path | None:
        if not relative:
            return None
        return locate(relative) if root is None else root / relative

    return [
        Pair(
            clean=cast(Path, full(row["clean"])),
            degraded=full(row["degraded"]),
            degradation=row["degradation"],
            level=row["level"],
            crop=row["crop"],
            name=row["name"],
            group=row["group"],
            depth=full(depth.get(row["name"], "")),
        )
        for row in rows
    ]


def write_pairs(path: Path, rows: Sequence[Mapping[str, str]], facts: Mapping[str, Any]) -> None:
    """Write a pair list and its JSON, each atomically, the list last."""
    write_json(path.with_suffix(".json"), {"pairs": len(rows), **facts})
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def package_pairs(files: Sequence[PackageFile], split: str) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Rows of one split of an embedded data set, and the depth files of its images by name."""
    chosen = [file for file in files if file.split == split]
    rows = [_row(clean=f"{file.package}:{file.path}", name=Path(file.name).stem, group=file.group) for file in chosen]
    depth = {Path(file.name).stem: f"{file.package}:{file.depth}" for file in chosen if file.depth}
    return rows, depth


def folder_pairs(paths: Sequence[str], split: SplitSettings) -> list[dict[str, str]]:
    """Rows of one split of a folder.

    Args:
        paths: relative paths of the manifest.
        split: globs and pairing rule; rule "same" pairs files of equal stem.

    Raises:
        AirpipeError: missing partners, duplicate names or another count than expected: the first
            ten and a count.
    """
    clean = _by_stem(matching(paths, split.clean))
    options = {"degradation": split.degradation or "", "level": split.level}
    if split.degraded is None:
        rows = [_row(clean=path, name=stem, group=stem, **options) for stem, path in clean.items()]
    else:
        degraded = _by_stem(matching(paths, split.degraded))
        _complain(sorted(set(degraded) ^ set(clean)), "files have no partner of the same name")
        rows = [
            _row(degraded=path, clean=clean[stem], name=stem, group=stem, **options) for stem, path in degraded.items()
        ]
    if split.expected is not None and len(rows) != split.expected:
        raise AirpipeError(
            f"{len(rows)} pairs found, {split.expected} expected; complete the folder or correct `expected`"
        )
    return rows


def matching(paths: Sequence[str], pattern: str) -> list[str]:
    """Paths that a glob names, sorted; * stays within a folder.

    Raises:
        AirpipeError: none.
    """
    depth = pattern.count("/")
    found = sorted(p for p in paths if p.count("/") == depth and PurePosixPath(p).match(pattern))
    if not found:
        raise AirpipeError(f"no file matches {pattern!r}; correct the glob or the root in config/datasets.yaml")
    return found


def _by_stem(paths: Sequence[str]) -> dict[str, str]:
    stems: dict[str, str] = {}
    repeated = []
    for path in paths:
        stem = PurePosixPath(path).stem
        if stem in stems:
            repeated.append(f"{path} and {stems[stem]}")
        stems[stem] = path
    _complain(repeated, "files share a name")
    return stems


def _complain(problems: Sequence[str], what: str) -> None:
    if problems:
        raise AirpipeError(f"{len(problems)} {what}; the first: {', '.join(problems[:10])}")


def _row(**known: str) -> dict[str, str]:
    return {**dict.fromkeys(COLUMNS, ""), "crop": "none", **known}
