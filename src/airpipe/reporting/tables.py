"""Printed numbers beside ours: reading them, finding the one that fits, and why the two may not be compared."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from airpipe.errors import AirpipeError
from airpipe.registry import described
from airpipe.reporting.reading import Card
from airpipe.reporting.table import PLACE, Row
from airpipe.settings.names import NONE, variant_of

PAPER_SCALE = "paper"
UNKNOWN_PROTOCOL = "unknown"
PUBLISHED_COLUMNS = (
    *("method", "backbone", "setting", "dataset", "degradation", "level"),
    *("protocol", "metric", "value", "paper", "table", "note"),
)
OTHER_PUBLISHED = ("efficiency.csv", "features.csv")
"""Files of printed costs and accuracies, which have columns of their own."""

IMAGES = {
    "cbsd68": 68,
    "kodak24": 24,
    "rain100l": 100,
    "sots_outdoor": 500,
    "lol_v1": 15,
    "gopro": 1111,
    "cdd_11": 200,
}
"""Pictures in a complete test set (CDD-11: of one degradation); fewer are not comparable with published numbers."""
TASKS = {"single_denoise": "denoise", "allinone3": "3d", "allinone5": "5d", "allinone10": "10d", "cdd11": "cdd11"}
"""Tasks in the name of our setting (`<backbone>_<tasks>`), by the setting of a published row."""
TRAINING_DATA = {
    "single_denoise": {"bsd400", "wed"},
    "allinone3": {"bsd400", "wed", "rain100l", "reside_ots"},
    "allinone5": {"bsd400", "wed", "rain100l", "reside_ots", "lol_v1", "gopro"},
    "cdd11": {"cdd_11"},
}
"""Data sets that published models of a setting were trained on (AirNet's three tasks, IDR's five, OneRestore's set)."""


def _csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a csv of text columns and one numeric column, `value`; empty cells stay ''."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if list(frame.columns) != list(columns):
        raise AirpipeError(f"{path}: expected columns {','.join(columns)}; found {','.join(map(str, frame.columns))}")
    numbers = pd.to_numeric(frame["value"], errors="coerce").astype(float)
    if numbers.isna().any():
        line = int(np.flatnonzero(numbers.isna())[0])
        raise AirpipeError(f"{path}: line {line + 2}: value {frame['value'].iloc[line]!r} is not a number")
    return frame.assign(value=numbers)


def read_published(paths: Sequence[Path]) -> pd.DataFrame:
    """Read the printed numbers of all files under resources/published; columns PUBLISHED_COLUMNS.

    Raises:
        AirpipeError: wrong columns, a value that is not a number, or a row without its source.
    """
    paths = [path for path in paths if path.name not in OTHER_PUBLISHED]
    frames = [_csv(path, PUBLISHED_COLUMNS) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        if (frame["paper"] == "").any():
            line = int(np.flatnonzero(frame["paper"] == "")[0]) + 2
            raise AirpipeError(f"{path}: line {line}: names no paper; every printed number needs its source")
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(PUBLISHED_COLUMNS))


# Published numbers


def compare(row: Row, card: Card, published: pd.DataFrame) -> Row:
    """Set the matching printed number beside one of our rows: published, gap, comparable, reason and source."""
    none: Row = {"published": math.nan, "gap": math.nan, "comparable": "no", "source": ""}
    if row["model"] == NONE or row["metric"] not in ("psnr", "ssim"):
        return {**none, "reason": "nothing published to compare with"}
    reference = matching(row, published)
    if reference is None:
        return {**none, "reason": "no published number for this method, tasks and protocol"}
    reasons = differences(row, card, reference)
    return {
        "published": reference["value"],
        "gap": row["value"] - reference["value"],
        "comparable": "no" if reasons else "yes",
        "reason": "; ".join(reasons),
        "source": source_of(reference),
    }


def matching(row: Row, published: pd.DataFrame) -> Row | None:
    """The first published row of the same method, network, tasks, place, protocol and metric."""
    for reference in published.to_dict("records"):
        same_place = all(reference[key] == row[key] for key in (*PLACE, "protocol", "metric"))
        if same_place and row["protocol"] != UNKNOWN_PROTOCOL and _same_model(row, reference):
            return {str(key): value for key, value in reference.items()}
    return None


def _same_model(row: Row, reference: Mapping[Any, Any]) -> bool:
    """Whether a published row is of our method, network and tasks, as the method says how it is called in print.

    Variants (`nafnet_5d_masked`, `nafnet_5d_short`, and `…@s`) are other experiments and have no printed number.
    """
    if variant_of(str(row.get("model", ""))):
        return False
    method, family = described(str(row["method"])), str(reference["backbone"])
    ours = {form.format(title=method.title, backbone=family).lower() for form in method.printed}
    network = method.forks.get(family, family)
    settings = {f"{name}_{TASKS.get(reference['setting'])}" for name in (family, f"{family}_std")}
    same_method = str(reference["method"]).lower() in ours
    return same_method and bool(family) and row["backbone"] == network and row["setting"] in settings


def differences(row: Row, card: Card, reference: Row) -> list[str]:
    """Reasons why our number and the printed one measure different things; empty when nothing is known to differ."""
    imported = "imported" in card
    reasons = []
    if row["scale"] != PAPER_SCALE and not imported:
        reasons.append(f"{row['scale'] or 'unknown'} scale")
    expected = IMAGES.get(row["dataset"])
    if expected is not None and row["n_images"] != expected:
        reasons.append(f"{row['n_images']} images instead of {expected}")
    # older cards do not tell what a list was for
    trained = {str(part["id"]).split(".")[0] for part in card["pairs"] if part.get("use", "train") == "train"}
    if trained != TRAINING_DATA.get(reference["setting"]) and not imported:
        reasons.append("other training data")
    return reasons


def reference_rows(ours: Sequence[Row], published: pd.DataFrame, scale: str) -> list[Row]:
    """Published rows for the columns of our rows, under their protocols or an unknown one."""
    places = list(dict.fromkeys(tuple(row[name] for name in PLACE) for row in ours))
    known = {tuple(row[name] for name in (*PLACE, "protocol", "metric")) for row in ours}
    rows = []
    for reference in published.to_dict("records"):
        place = tuple(reference[name] for name in PLACE)
        unknown = reference["protocol"] == UNKNOWN_PROTOCOL and place in places
        if unknown or (*place, reference["protocol"], reference["metric"]) in known:
            rows.append(_reference_row(reference, scale, unknown))
    return rows


def _reference_row(reference: Mapping[Any, Any], scale: str, unknown: bool) -> Row:
    reasons = [f"{scale} scale"] if scale != PAPER_SCALE else []
    if unknown:
        reasons.append("protocol not re-measured")
    copied = {name: reference[name] for name in ("method", "backbone", "setting", *PLACE, "protocol", "metric")}
    return {
        **copied,
        "model": "published",
        "scale": "",
        "seeds": "",
        "n_images": "",
        "against": "",
        "samples": "",
        **dict.fromkeys(("value", "sd", "low", "high"), math.nan),
        "published": reference["value"],
        "gap": math.nan,
        "comparable": "no" if reasons else "yes",
        "reason": "; ".join(reasons),
        "source": source_of(reference),
    }


def source_of(reference: Mapping[Any, Any]) -> str:
    """Paper and table of a printed number."""
    return ", ".join(str(part) for part in (reference["paper"], reference["table"]) if part)
