"""Average precision of detections in COCO's files; no recogniser runs here. This module needs no torch.

Restored images are given to an external detector (their names are those of the inputs), and its detections are
scored here. The protocol is that of COCO's box evaluation, area range "all": detections are matched greedily by score,
at most 100 per image and category; a crowd region takes any number of detections, which then do not count; precision
is read at 101 recalls; the mean is over the categories that have objects. The code is ours.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from airpipe.errors import AirpipeError

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Shares of intersection over union from which on a detection counts as right."""
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100
"""Largest number of detections that count, per image and category."""
METRICS = ("AP", "AP50", "AP75")


@dataclass(frozen=True)
class Objects:
    """Boxes of one category in one image."""

    boxes: Array
    """Boxes (n, 4): x, y of the upper left corner, width, height, in pixels."""
    marks: Array
    """A number for each box, (n,). Of true objects: 1 for a crowd region, else 0; of detections: the score."""


Key = tuple[int, int]
"""Category and image."""


@dataclass(frozen=True)
class Truth:
    """True objects of a test."""

    images: tuple[int, ...]
    """Ids of the images, sorted."""
    categories: tuple[int, ...]
    """Ids of the categories, sorted."""
    objects: Mapping[Key, Objects]
    """Objects by category and image; where there are none, there is no entry."""


def read_truth(path: Path) -> Truth:
    """Read annotations as COCO writes them: lists `images`, `annotations`, `categories`.

    `area` and segmentations are not needed; `iscrowd` is 0 where it is missing.

    Raises:
        AirpipeError: not such a file; says what was found.
    """
    content = _read(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in _LISTS):
        found = ", ".join(sorted(content)) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise AirpipeError(f"{path}: expected an object with lists {', '.join(_LISTS)}; found {found or 'nothing'}")
    images = _ids(content["images"], path, "images")
    categories = _ids(content["categories"], path, "categories")
    rows = _rows(content["annotations"], path, "annotations", images, categories)
    objects = _gathered([(*row, float(bool(entry.get("iscrowd", 0)))) for row, entry in rows])
    if not objects:
        raise AirpipeError(f"{path}: no annotations; there is nothing to detect. Name the annotations of the test")
    if all((entry.marks == 1).all() for entry in objects.values()):
        raise AirpipeError(
            f"{path}: all {len(rows)} annotations are crowd regions (iscrowd: 1), which nothing is scored against. "
            "Name the annotations of the test, with objects of their own"
        )
    return Truth(tuple(sorted(images)), tuple(sorted(categories)), objects)


_LISTS = ("images", "annotations", "categories")


def read_detections(path: Path, truth: Truth) -> dict[Key, Objects]:
    """Read detections as COCO takes them: a list of objects with image_id, category_id, bbox, score.

    Raises:
        AirpipeError: not such a file, or images and categories that the annotations do not have.
    """
    content = _read(path)
    if not isinstance(content, list):
        raise AirpipeError(
            f"{path}: expected a list of detections (image_id, category_id, bbox, score); found a "
            f"{type(content).__name__}. Annotations are no detections"
        )
    rows = _rows(content, path, "detections", set(truth.images), set(truth.categories))
    return _gathered([(*row, _number(entry, "score", path, "detections")) for row, entry in rows])


def average_precision(truth: Truth, detections: Mapping[Key, Objects]) -> dict[str, float]:
    """Average precision in percent: `AP` (mean over IoU 0.50 to 0.95), `AP50` and `AP75`.

    Args:
        truth: true objects, from `read_truth`.
        detections: detections of the same images, from `read_detections`.
    """
    values = {threshold: _mean_over_categories(truth, detections, threshold) for threshold in THRESHOLDS}
    return {"AP": float(np.mean(list(values.values()))), "AP50": values[0.5], "AP75": values[0.75]}


def _mean_over_categories(truth: Truth, detections: Mapping[Key, Objects], threshold: float) -> float:
    found = [_of_category(truth, detections, category, threshold) for category in truth.categories]
    return 100 * float(np.mean([value for value in found if value is not None]))


def _of_category(truth: Truth, detections: Mapping[Key, Objects], category: int, threshold: float) -> float | None:
    """AP of one category as a share; None where it has no objects."""
    none = Objects(np.zeros((0, 4)), np.zeros(0))
    count, scores, right, ignored = 0, [], [], []
    for image in truth.images:
        true, said = (table.get((category, image), none) for table in (truth.objects, detections))
        count += int((true.marks == 0).sum())
        best = np.argsort(-said.marks, kind="stable")[:MOST]
        hit, crowd = _match(said.boxes[best], true, threshold)
        scores.append(said.marks[best])
        right.append(hit)
        ignored.append(crowd)
    if not count:
        return None
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits, counted = np.concatenate(right)[order], ~np.concatenate(ignored)[order]
    return _area(hits[counted], count)


def _match(boxes: Array, true: Objects, threshold: float) -> tuple[Flags, Flags]:
    """Which detections (best first) are right, and which fell on a crowd region."""
    crowd = true.marks == 1
    shares = overlaps(boxes, true.boxes, crowd)
    free = np.ones(len(crowd), bool)
    right, ignored = np.zeros(len(boxes), bool), np.zeros(len(boxes), bool)
    for place, share in enumerate(shares):
        for candidates in (free & ~crowd, crowd):  # real objects come first, whatever a crowd covers
            # as COCO's code: at a threshold of 1 rounding must not cost a perfect overlap its match
            chosen = np.flatnonzero(candidates & (share >= min(threshold, 1 - 1e-10)))
            if len(chosen):
                best = chosen[np.flatnonzero(share[chosen] == share[chosen].max())[-1]]  # COCO: the last of equals
                right[place], ignored[place] = not crowd[best], crowd[best]
                free[best] = False
                break
    return right, ignored


def overlaps(boxes: Array, others: Array, crowd: Flags) -> Array:
    """Intersection over union (n, m) of boxes (n, 4) and others (m, 4); over the box alone where the other is a crowd.

    Args:
        boxes: x, y, width and height in pixels.
        others: likewise.
        crowd: (m,), whether the other is a crowd region.
    """
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], others[None, :, :2] + others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    area, other = boxes[:, 2:].prod(1)[:, None], others[:, 2:].prod(1)[None]
    return np.asarray(shared / np.where(crowd[None], area, area + other - shared), np.float64)


def _area(hits: Flags, count: int) -> float:
    """Mean precision at the 101 recalls: at each, the best precision from there on, 0 where it is not reached."""
    reached = np.cumsum(hits)
    precision = reached / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(reached / count, RECALLS, side="left")
    return float(np.mean([best[place] if place < len(best) else 0.0 for place in places]))


# Reading


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AirpipeError(f"{path}: cannot be read as JSON ({error}). Give a file in COCO's layout") from None


def _ids(entries: Sequence[Any], path: Path, what: str) -> set[int]:
    found = [_whole(entry, "id", path, what) for entry in entries]
    twice = {number for number in found if found.count(number) > 1} if len(set(found)) < len(found) else set()
    if twice or not found:
        problem = f"id {min(twice)} stands twice" if twice else "the list is empty"
        raise AirpipeError(f"{path}: {what}: {problem}. Give a file in COCO's layout")
    return set(found)


def _rows(
    entries: Sequence[Any], path: Path, what: str, images: set[int], categories: set[int]
) -> list[tuple[tuple[Key, list[float]], dict[str, Any]]]:
    rows = []
    for entry in entries:
        key = _whole(entry, "category_id", path, what), _whole(entry, "image_id", path, what)
        for number, known, name in ((key[0], categories, "category"), (key[1], images, "image")):
            if number not in known:
                some = ", ".join(map(str, sorted(known)[:5]))
                raise AirpipeError(
                    f"{path}: {what}: {name} {number} is not in the annotations ({len(known)}: {some}...). "
                    "Give the detections of this test"
                )
        rows.append(((key, _box(entry, path, what)), entry))
    return rows


def _gathered(rows: Sequence[tuple[Key, list[float], float]]) -> dict[Key, Objects]:
    table: dict[Key, list[tuple[list[float], float]]] = defaultdict(list)
    for key, box, mark in rows:
        table[key].append((box, mark))
    return {key: Objects(np.array([b for b, _ in v]), np.array([m for _, m in v])) for key, v in table.items()}


def _box(entry: Mapping[str, Any], path: Path, what: str) -> list[float]:
    box = entry.get("bbox")
    plain = isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)
    if not plain or box[2] <= 0 or box[3] <= 0:  # type: ignore[index]  # plain says that it is a list
        raise AirpipeError(
            f"{path}: {what}: bbox {box!r}; expected [x, y, width, height] in pixels, both sides above 0"
        )
    return [float(value) for value in box]  # type: ignore[union-attr]


def _whole(entry: Any, key: str, path: Path, what: str) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise AirpipeError(f"{path}: {what}: expected a whole number under {key}, found {value!r}")
    return value


def _number(entry: Mapping[str, Any], key: str, path: Path, what: str) -> float:
    value = entry.get(key)
    if not _is_number(value):
        raise AirpipeError(f"{path}: {what}: expected a number under {key}, found {value!r}")
    return float(value)  # type: ignore[arg-type]  # checked above


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
