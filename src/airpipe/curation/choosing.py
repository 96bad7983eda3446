"""Which pictures are kept: bounds of scores, leaks, patches, near-duplicates; from tables of scores alone.

A picture fails where any reason speaks against it; all reasons are recorded. Among those that pass, of pictures that
show the same the largest is kept, of equally large ones the first of the list. Results do not depend on how the list
was divided. Memory grows with the pictures that pass (some 60 bytes each), not with those that are looked at.
"""

import csv
import hashlib
import heapq
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from airpipe.curation.opening import Key
from airpipe.curation.scores import patch_places
from airpipe.curation.scoring import read_scores
from airpipe.data.windows import Window
from airpipe.errors import AirpipeError
from airpipe.provenance import atomic_path, write_json
from airpipe.settings.base import unknown_name
from airpipe.settings.curation import KEY, REASONS, Bound, Choosing

Rows = Callable[[], Iterator[dict[str, str]]]
"""Function that reads all rows of the scores from the beginning."""
REMOVED = (*KEY, "reasons", "twin")
"""Columns of the table of removed pictures; `twin` is the line:member of the better picture that it is like,
which may be removed for a still better one."""
CHOSEN = (*KEY, "sha256", "width", "height", "windows")
"""Columns of the table of chosen pictures; `windows` are its patches, as `airpipe.data.windows.Window` writes them."""
UNREADABLE, LEAK, FLAT, DUPLICATE = REASONS
EXAMPLES = 8
"""Number of removed pictures of each reason that the report shows."""
BLOCK = 1 << 11
"""Number of hashes that are compared with others at a time."""


@dataclass(frozen=True)
class Limits:
    """Bounds of a score, as numbers."""

    score: str
    least: float | None
    most: float | None

    def passed(self, row: Mapping[str, str]) -> bool:
        """Tell whether a row's score lies within; one without the score fails."""
        if not row[self.score]:
            return False
        value = float(row[self.score])
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def resolved(bounds: Mapping[str, Bound], rows: Rows) -> list[Limits]:
    """Turn quantiles into numbers: the value that the given share of readable pictures lies below.

    Args:
        bounds: range of each score.
        rows: reads all rows; nothing is read where all bounds are numbers.

    Raises:
        AirpipeError: there is a quantile of a score that no picture has.
    """
    wanted = {
        (name, side): quantile
        for name, bound in bounds.items()
        for side, quantile in (("least", bound.least_quantile), ("most", bound.most_quantile))
        if quantile is not None
    }
    found = exact_quantiles(wanted, rows)
    return [
        Limits(name, found.get((name, "least"), bound.least), found.get((name, "most"), bound.most))
        for name, bound in bounds.items()
    ]


def exact_quantiles(wanted: Mapping[tuple[str, str], float], rows: Rows) -> dict[tuple[str, str], float]:
    """Find quantiles of scores in memory that does not grow: the value at rank floor(q (n - 1)).

    Bits of a float32 are counted by their upper half in a first pass, by their lower half in a second.

    Args:
        wanted: quantile in [0, 1] of each (score, any word).
        rows: reads all rows, twice.

    Raises:
        AirpipeError: no picture has the score.
    """
    if not wanted:
        return {}
    names = sorted({name for name, _ in wanted})
    upper = {name: np.zeros(1 << 16, np.int64) for name in names}
    for name, code in _codes(names, rows):
        upper[name][code >> 16] += 1
    places = {}
    for (name, word), share in wanted.items():
        total = int(upper[name].sum())
        if not total:
            raise AirpipeError(f"no picture has the score {name!r}, of which a quantile is wanted. Give it as a number")
        rank, below = int(share * (total - 1)), np.cumsum(upper[name])
        half = int(np.searchsorted(below, rank, side="right"))
        places[name, word] = half, rank - int(below[half] - upper[name][half])
    lower = {key: np.zeros(1 << 16, np.int64) for key in places}
    for name, code in _codes(names, rows):
        for key in places:
            if key[0] == name and code >> 16 == places[key][0]:
                lower[key][code & 0xFFFF] += 1
    return {
        key: _float((half << 16) | int(np.searchsorted(np.cumsum(lower[key]), rank, side="right")))
        for key, (half, rank) in places.items()
    }


def _codes(names: Sequence[str], rows: Rows) -> Iterator[tuple[str, int]]:
    """Scores as numbers of 32 bit in the order of the scores."""
    for row in rows():
        for name in names:
            if row[name]:
                bits = int(np.float32(row[name]).view(np.uint32))
                yield name, bits ^ (0xFFFFFFFF if bits >> 31 else 0x80000000)


def _float(code: int) -> float:
    bits = code ^ (0x80000000 if code >> 31 else 0xFFFFFFFF)
    # scores are written with six digits, fewer than float32 has: the very number comes back
    return float(f"{np.uint32(bits).view(np.float32):.6g}")


@dataclass
class _Passing:
    """Pictures that pass, in the order of the list."""

    lines: "array[int]" = field(default_factory=lambda: array("q"))
    members: "array[int]" = field(default_factory=lambda: array("q"))
    hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    pixels: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, row: Mapping[str, str]) -> None:
        self.lines.append(int(row["line"]))
        self.members.append(int(row["member"]))
        self.hashes.append(int(row["phash"], 16))
        self.pixels.append(int(row["width"]) * int(row["height"]))

    def key(self, number: int) -> Key:
        return Key(self.lines[number], self.members[number])


def twins(hashes: npt.NDArray[np.uint64], pixels: npt.NDArray[np.int64], most_bits: int) -> npt.NDArray[np.int64]:
    """Find for each picture the best one that shows the same and is better; -1 where there is none.

    Better is larger, then earlier. Hashes that differ in at most `most_bits` bits agree wholly in one of
    `most_bits` + 1 stretches: only those that do are compared.

    Args:
        hashes: perceptual hashes, (n,).
        pixels: number of pixels of each picture, (n,).
        most_bits: most differing bits.
    """
    rank = np.empty(len(hashes), np.int64)
    rank[np.argsort(-pixels, kind="stable")] = np.arange(len(hashes))
    order = np.argsort(rank, kind="stable")
    distinct, first, same = np.unique(hashes[order], return_index=True, return_inverse=True)
    best = first.copy()  # rank of the best picture near each hash; that of its own best picture to begin with
    edges = np.linspace(0, 64, most_bits + 2).round().astype(int)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        stretch = (distinct >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        sorting = np.argsort(stretch, kind="stable")
        ends = np.flatnonzero(np.diff(stretch[sorting])) + 1
        for run in np.split(sorting, ends):
            if len(run) > 1:
                _better(distinct, first, best, run, most_bits)
    found = best[same.ravel()]  # by rank
    twin = np.where(found < np.arange(len(order)), order[found], -1)
    return np.asarray(twin[rank], np.int64)


def _better(
    hashes: npt.NDArray[np.uint64],
    first: npt.NDArray[np.int64],
    best: npt.NDArray[np.int64],
    run: npt.NDArray[np.int64],
    most_bits: int,
) -> None:
    """Lower `best` of the hashes of a run to the best of those that are near."""
    for start in range(0, len(run), BLOCK):
        rows = run[start : start + BLOCK]
        for other in range(0, len(run), BLOCK):
            columns = run[other : other + BLOCK]
            near = np.bitwise_count(hashes[rows, None] ^ hashes[None, columns]) <= most_bits
            nearest = np.where(near, first[None, columns], np.iinfo(np.int64).max).min(axis=1)
            best[rows] = np.minimum(best[rows], nearest)


@dataclass
class _Tally:
    """Counts and examples of what was removed."""

    pictures: int = 0
    chosen: int = 0
    patches: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    heaps: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)

    def remove(self, row: dict[str, str], reasons: Sequence[str], twin: str) -> None:
        """Count a picture that is left out, and keep it as an example where its hash is among the smallest."""
        self.removed.update(reasons)
        if len(reasons) == 1:
            self.alone.update(reasons)
        if row["problem"]:
            self.problems[row["source"]] += 1
        draw = int.from_bytes(hashlib.blake2b(f"{row['line']}:{row['member']}".encode(), digest_size=8).digest())
        for reason in reasons:
            heap = self.heaps.setdefault(reason, [])
            # the smallest hashes stay; no two are equal for different pictures, but for chance
            heapq.heappush(heap, (-draw, {**row, "twin": twin}))
            if len(heap) > EXAMPLES:
                heapq.heappop(heap)

    def examples(self) -> dict[str, list[dict[str, str]]]:
        """Return the examples of each reason, in the order of the list."""

        def ordered(heap: list[tuple[int, dict[str, str]]]) -> list[dict[str, str]]:
            return sorted((row for _, row in heap), key=lambda row: (int(row["line"]), int(row["member"])))

        return {reason: ordered(heap) for reason, heap in sorted(self.heaps.items())}


def choose(files: Sequence[Path], settings: Choosing, patch: int, output: Path) -> dict[str, Any]:
    """Choose pictures and patches from all tables of scores.

    Args:
        files: tables of scores, in the order of the list.
        settings: bounds, near-duplicates, flat patches.
        patch: side of the patches in pixels.
        output: chosen.csv with `CHOSEN`; `removed.csv` with `REMOVED` and `chosen.json` come beside it.

    Returns:
        The facts in the JSON: counts, bounds as numbers, examples of what was removed.

    Raises:
        AirpipeError: a table is damaged, lacks a score that has bounds or is of patches of another side, or nothing is
            left.
    """

    def rows() -> Iterator[dict[str, str]]:
        return read_scores(files)

    first = next(rows(), None)
    for name in settings.bounds:
        if first is not None and name not in first:
            raise AirpipeError(f"{files[0]}: bounds: {unknown_name(name, first, 'score')}. Score again or remove it")
    limits = resolved(settings.bounds, rows)
    passing = _Passing()
    for row in rows():
        if not _reasons(row, limits, _windows(row, patch, settings)):
            passing.add(row)
    twin = twins(np.array(passing.hashes, np.uint64), np.array(passing.pixels, np.int64), settings.duplicate_bits)
    tally = _write(rows(), limits, passing, twin, settings, patch, output)
    facts = {
        "pictures": tally.pictures,
        "chosen": tally.chosen,
        "patches": tally.patches,
        "bounds": {limit.score: {"least": limit.least, "most": limit.most} for limit in limits},
        "duplicate_bits": settings.duplicate_bits,
        "flat_cells": settings.flat_cells,
        "removed": dict(sorted(tally.removed.items())),
        "removed_alone": dict(sorted(tally.alone.items())),
        "unreadable": dict(sorted(tally.problems.items())),
        "examples": tally.examples(),
    }
    write_json(output.with_suffix(".json"), facts)
    if not tally.chosen:
        worst = ", ".join(f"{reason} {count}" for reason, count in tally.removed.most_common(3))
        raise AirpipeError(f"none of {tally.pictures} pictures is left; removed by {worst}. Widen choose.bounds")
    return facts


def _reasons(row: Mapping[str, str], limits: Sequence[Limits], windows: Sequence[Window]) -> list[str]:
    if row["problem"]:
        return [UNREADABLE]
    found = [limit.score for limit in limits if not limit.passed(row)]
    found += [LEAK] if row["leak"] else []
    return found if windows else [*found, FLAT]


def _windows(row: Mapping[str, str], patch: int, settings: Choosing) -> list[Window]:
    """Patches of a picture that are kept."""
    if row["problem"]:
        return []
    places = patch_places(int(row["width"]), int(row["height"]), patch)
    shares = list(map(float, row["patches"].split()))
    if len(shares) != len(places):
        raise AirpipeError(
            f"picture {row['line']}:{row['member']} was scored with {len(shares)} patches; with a side of {patch} it "
            f"has {len(places)}. Give the side that it was scored with"
        )
    return [
        Window(patch, patch, left, top)
        for (left, top), share in zip(places, shares, strict=True)
        if share <= settings.flat_cells
    ]


def _write(
    rows: Iterator[dict[str, str]],
    limits: Sequence[Limits],
    passing: _Passing,
    twin: npt.NDArray[np.int64],
    settings: Choosing,
    patch: int,
    output: Path,
) -> _Tally:
    tally, number = _Tally(), 0
    removed = output.with_name("removed.csv")
    with (
        atomic_path(output) as first,
        atomic_path(removed) as second,
        first.open("w", newline="", encoding="utf-8") as kept_stream,
        second.open("w", newline="", encoding="utf-8") as removed_stream,
    ):
        kept = csv.DictWriter(kept_stream, CHOSEN, extrasaction="ignore", lineterminator="\n")
        gone = csv.DictWriter(removed_stream, REMOVED, extrasaction="ignore", lineterminator="\n")
        kept.writeheader()
        gone.writeheader()
        for row in rows:
            tally.pictures += 1
            windows = _windows(row, patch, settings)
            reasons, like = _reasons(row, limits, windows), ""
            if not reasons:
                if twin[number] >= 0:
                    reasons, like = [DUPLICATE], str(passing.key(int(twin[number])))
                number += 1
            if reasons:
                gone.writerow({**row, "reasons": " ".join(reasons), "twin": like})
                tally.remove(row, reasons, like)
                continue
            kept.writerow({**row, "windows": " ".join(map(str, windows))})
            tally.chosen += 1
            tally.patches += len(windows)
    return tally
