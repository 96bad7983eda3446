"""From scores on disk to tables: long csv, Markdown and LaTeX twins, gains, metrics.json.

A row of the long table is one number: a metric of one model (its seeds taken together) on one
data set, degradation and level, under one protocol. Pivots have one block per protocol, so that
numbers under different protocols never share a column. This module needs no torch.
"""

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from airpipe.errors import AirpipeError
from airpipe.reporting.published import Published, compare, reference_rows
from airpipe.settings.names import ModelId

log = logging.getLogger(__name__)

Row = dict[str, Any]
Card = Mapping[str, Any]

COLUMNS = (
    *("method", "backbone", "setting", "model", "scale", "seeds", "dataset", "degradation", "level"),
    *("protocol", "metric", "value", "sd", "n_images", "published", "gap", "comparable", "reason", "source"),
    "samples",
)
"""Columns of the long table; `samples` are those of a model's training and of all that it started from."""
SCORE_COLUMNS = ("image", "degradation", "level", "protocol", "metric", "value")
GAIN_COLUMNS = (
    *("model", "dataset", "test", "image", "degradation", "level"),
    *("protocol", "none", "restored", "gain"),
)
METRICS = ("psnr", "ssim", "psnr_gain", "psnr_gain_min")
"""Order of metrics in the long table; others follow."""
PLACE = ["dataset", "degradation", "level"]
"""Columns of the long table that together name one column of a pivot."""

NONE = "none"
NO_RESTORATION = "no restoration"


# Reading


def score_info(path: Path) -> dict[str, Any]:
    """Read the JSON beside a score file: model, test, dataset, scale, kept, hashes.

    Raises:
        AirpipeError: it is missing or not JSON.
    """
    return read_json(path.with_suffix(".json"))


def read_cards(paths: Iterable[Path], root: Path) -> dict[str, Card]:
    """Read cards, by folder below `root` (usually results/): the model id, without a variant."""
    return {path.parent.relative_to(root).as_posix(): read_json(path) for path in paths}


def card_of(cards: Mapping[str, Card], model_id: str) -> Card:
    """Return the card of a model; the variants of one share it.

    Raises:
        AirpipeError: it is not among the cards.
    """
    folder = ModelId.parse(model_id).folder
    if folder not in cards:
        raise AirpipeError(f"{model_id}: has scores but no card.json; train or import it again")
    return cards[folder]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that the pipeline wrote.

    Raises:
        AirpipeError: it is missing or not JSON.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AirpipeError(f"{path}: cannot be read ({error.strerror}); run the evaluation again") from None
    except json.JSONDecodeError as error:
        raise AirpipeError(f"{path}: not valid JSON ({error}); delete it and run again") from None
    return value


def read_scores(paths: Sequence[Path]) -> pd.DataFrame:
    """Read the per-image scores of all files, no restoration first, otherwise in the order given.

    Returns:
        The columns of the files (value as float, dB for psnr) after model_id, model (id without
        its seed), test, dataset, scale.

    Raises:
        AirpipeError: wrong columns, a value that is not a number, or no file of `none`.
    """
    frames = [_read_score(path) for path in paths]
    frames.sort(key=lambda frame: bool(frame["model"].iloc[0] != NONE))
    if not frames or frames[0]["model"].iloc[0] != NONE:
        raise AirpipeError("no scores of 'none' (no restoration) were given; every table needs them")
    return pd.concat(frames, ignore_index=True)


def _read_score(path: Path) -> pd.DataFrame:
    frame = _csv(path, SCORE_COLUMNS)
    if frame.empty:
        raise AirpipeError(f"{path}: has no scores; delete it and run the evaluation again")
    info = score_info(path)
    scale = info["scale"] or ""
    texts = [info["model"], without_seed(info["model"]), info["test"], info["dataset"], scale]
    for place, (name, text) in enumerate(zip(("model_id", "model", "test", "dataset", "scale"), texts, strict=True)):
        frame.insert(place, name, text)
    return frame


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


def without_seed(model_id: str) -> str:
    """Take the seed out of a model id: method/nafnet_5d/seed0/train becomes method/nafnet_5d/train; others stay."""
    return "/".join(part for part in model_id.split("/") if not re.fullmatch(r"seed\d+", part))


# Gains


def image_gains(scores: pd.DataFrame) -> pd.DataFrame:
    """PSNR of every restored image minus that of the same image without restoration, in dB.

    Two infinite values (nothing to restore, nothing broken) are a gain of 0.

    Returns:
        GAIN_COLUMNS; model is the full id with its seed.

    Raises:
        AirpipeError: a model was not scored on exactly the images of `none`.
    """
    keys = ["test", "image", "protocol", *PLACE]
    psnr = scores[scores["metric"] == "psnr"]
    none = psnr[psnr["model"] == NONE].set_index(keys)["value"].rename("none")
    ours = psnr[psnr["model"] != NONE]
    _check_same_images(ours, none.index, keys)
    gains = ours.join(none, on=keys).rename(columns={"value": "restored"})
    with np.errstate(invalid="ignore"):  # inf - inf, mended below
        difference = gains["restored"].to_numpy(float) - gains["none"].to_numpy(float)
    same = gains["restored"].to_numpy(float) == gains["none"].to_numpy(float)
    gains = gains.assign(gain=np.where(same, 0.0, difference), model=gains["model_id"])
    return gains[list(GAIN_COLUMNS)].reset_index(drop=True)


def _check_same_images(ours: pd.DataFrame, expected: pd.Index, keys: list[str]) -> None:
    for (model, test), group in ours.groupby(["model_id", "test"], sort=False):
        found = set(group.set_index(keys).index)
        wanted = {key for key in expected if key[0] == test}
        if found != wanted:
            names = sorted(f"{key[1]} ({key[2]})" for key in found ^ wanted)
            raise AirpipeError(
                f"{model} on {test}: scored on other images than no restoration; {len(names)} differ: "
                f"{', '.join(names[:10])}. Run the evaluation of both again"
            )


# The long table


def check_budgets(cards: Mapping[str, Card], table: str) -> None:
    """Check that models have cost equally many training samples, those of their pretraining included.

    Raises:
        AirpipeError: names the models by their samples.
    """
    samples = {model: samples_of(card) for model, card in cards.items()}
    if unknown := [model for model, count in samples.items() if count is None]:
        raise AirpipeError(
            f"tables.{table} compares equal budgets (equal_budgets: true), but the training samples of "
            f"{', '.join(unknown)} are unknown: trained before budgets were recorded, or imported (itself or a "
            "parent). Train them again, or leave them out of the table's models"
        )
    if len(set(samples.values())) > 1:
        found = "; ".join(
            f"{count} samples: {', '.join(model for model in samples if samples[model] == count)}"
            for count in dict.fromkeys(samples.values())
        )
        raise AirpipeError(
            f"tables.{table} compares equal budgets (equal_budgets: true), found {found}. Change the phases of the "
            "stages, their parents included, or the table's models"
        )


def samples_of(card: Card) -> int | None:
    """Training samples that a model has cost, its parents' included; None where that is not known."""
    budget = card.get("budget")
    return None if budget is None else int(budget["samples"])


def build_table(scores: pd.DataFrame, cards: Mapping[str, Card], published: Published, scale: str) -> pd.DataFrame:
    """The long table: our numbers over seeds, then the published reference rows.

    value is the mean over images, then over seeds (psnr_gain_min: the smallest of all); sd is the
    standard deviation (n - 1) over the seeds' means, empty with one seed. psnr in dB.

    Args:
        scores: per-image scores, from `read_scores`.
        cards: card of every model id but `none`.
        published: printed numbers, from `read_all`.
        scale: scale of this run; anything but "paper" makes published numbers not comparable.

    Returns:
        COLUMNS; empty cells are "" or NaN.

    Raises:
        AirpipeError: seeds scored on different numbers of images, or two tests for one column.
    """
    gains = image_gains(scores)
    values = pd.concat([scores, *_gain_metrics(scores, gains)], ignore_index=True)
    rows = [
        _our_row(group, cards, published)
        for _, group in values.groupby(["model", *PLACE, "protocol", "metric"], sort=False)
    ]
    rows.sort(key=_order(values))
    return pd.DataFrame([*rows, *reference_rows(rows, published, scale)], columns=list(COLUMNS))


def _gain_metrics(scores: pd.DataFrame, gains: pd.DataFrame) -> list[pd.DataFrame]:
    if gains.empty:
        return []
    scales = dict(zip(scores["model_id"], scores["scale"], strict=True))
    base = gains.rename(columns={"gain": "value", "model": "model_id"}).drop(columns=["none", "restored"])
    base = base.assign(model=base["model_id"].map(without_seed), scale=base["model_id"].map(scales))
    return [base.assign(metric="psnr_gain"), base.assign(metric="psnr_gain_min")]


def _order(values: pd.DataFrame) -> Any:
    """Sort key: models, then columns, then protocols as they came; metrics as in METRICS."""
    places = list(dict.fromkeys(values[PLACE].itertuples(index=False, name=None)))
    models, protocols = list(values["model"].unique()), list(values["protocol"].unique())
    metrics = [*METRICS, *(m for m in values["metric"].unique() if m not in METRICS)]

    def key(row: Row) -> tuple[int, int, int, int]:
        place = tuple(row[name] for name in PLACE)
        return (
            models.index(row["model"]),
            places.index(place),
            protocols.index(row["protocol"]),
            metrics.index(row["metric"]),
        )

    return key


def _our_row(group: pd.DataFrame, cards: Mapping[str, Card], published: Published) -> Row:
    row: Row = {name: group[name].iloc[0] for name in ("model", "scale", *PLACE, "protocol", "metric")}
    _check_one_test(row, group)
    row.update(_identity(str(group["model_id"].iloc[0]), cards))
    by_seed = group.groupby("model_id", sort=False)["value"]
    smallest = row["metric"] == "psnr_gain_min"
    values = (by_seed.min() if smallest else by_seed.mean()).to_numpy(float)
    row["value"] = float(values.min() if smallest else values.mean())
    row["seeds"] = len(values) if row["model"] != NONE else ""
    row["sd"] = float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan
    row["n_images"] = int(by_seed.size().iloc[0])
    if math.isinf(row["value"]):
        where = " ".join(str(row[name]) for name in ("model", *PLACE, "protocol", "metric"))
        log.warning("%s: the mean is infinite because an image equals its clean one", where)
    trained = card_of(cards, str(group["model_id"].iloc[0])) if row["model"] != NONE else {}
    row["samples"] = samples_of(trained) or ""
    row.update(compare(row, trained, published))
    return row


def _check_one_test(row: Row, group: pd.DataFrame) -> None:
    where = f"{row['model']}, {row['dataset']} {row['degradation']} {row['level']}, {row['protocol']}"
    tests = list(group["test"].unique())
    if len(tests) > 1:
        raise AirpipeError(f"{where}: tests {' and '.join(tests)} would share a cell; give them different levels")
    sizes = group.groupby("model_id").size()
    if sizes.nunique() > 1:
        raise AirpipeError(f"{where}: seeds were scored on {sorted(set(sizes))} images; run the evaluation again")


def _identity(model_id: str, cards: Mapping[str, Card]) -> Row:
    if model_id == NONE:
        return {"method": NO_RESTORATION, "backbone": "", "setting": ""}
    card = card_of(cards, model_id)
    return {"method": card["method"], "backbone": card["network"]["name"], "setting": card["setting"]}


# Metrics


def metrics(tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Numbers that DVC compares: {table: {model: {degradation_level: {protocol: {metric: number}}}}}.

    Our own finite numbers only (JSON has no infinity); the data set stands in front of the
    degradation where a table has several.
    """
    found: dict[str, Any] = {}
    for name, table in tables.items():
        ours = table[(table["model"] != "published") & table["metric"].isin(["psnr", "ssim", "psnr_gain"])]
        several = ours["dataset"].nunique() > 1
        for row in ours.to_dict("records"):
            if not math.isfinite(row["value"]):
                continue
            place = "_".join(str(row[key]) for key in (PLACE if several else PLACE[1:]) if row[key])
            level = found.setdefault(name, {}).setdefault(row["model"], {}).setdefault(place, {})
            level.setdefault(row["protocol"], {})[row["metric"]] = float(row["value"])
    return found


# Reading back


def read_table(path: Path) -> pd.DataFrame:
    """Read a long table that `write_tables` wrote: texts as text, numbers as float."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers = {name: pd.to_numeric(frame[name]).astype(float) for name in ("value", "sd", "published", "gap")}
    return frame.assign(**numbers)


def read_gains(path: Path) -> pd.DataFrame:
    """Read the per-image gains that `write_tables` wrote: texts as text, PSNR and gain in dB as float."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return frame.assign(**{name: frame[name].astype(float) for name in ("none", "restored", "gain")})
