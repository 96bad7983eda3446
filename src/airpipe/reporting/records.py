"""Small files that stand for large ones: what a method trained, for DVC to compare."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from airpipe.errors import AirpipeError
from airpipe.provenance import sha256_file
from airpipe.reporting.frames import csv_frame
from airpipe.reporting.reading import VALIDATION, curves_by_variant
from airpipe.reporting.table import PLACE


def record_training(folders: Sequence[Path], results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Record trained models and how their validation went.

    Args:
        folders: stage folders, each with model.safetensors, card.json and curves.csv.
        results: folder that model ids count from.

    Returns:
        One row a model (model, network, steps, sha256 of the weights), and the validation curves of all of them
        (model, step, name without "validation/", value); variants have theirs as `<model>@<variant>`.

    Raises:
        AirpipeError: a folder without a finished model.
    """
    models, curves = [], []
    for folder in folders:
        name = folder.relative_to(results).as_posix()
        try:
            card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
            weights = sha256_file(folder / "model.safetensors")
            curve = csv_frame(folder / "curves.csv", ["step"])
        except (AirpipeError, OSError, ValueError) as error:
            raise AirpipeError(
                f"{folder}: no finished model ({error}). Train it: snakemake {folder}/model.safetensors"
            ) from None
        models.append({"model": name, "network": card["network"]["name"], "steps": card["step"], "sha256": weights})
        for model, own in curves_by_variant(name, curve, card).items():
            measured = own[own.name.str.startswith(VALIDATION)]
            if len(measured):
                curves.append(measured.assign(model=model, name=measured.name.str.removeprefix(VALIDATION)))
    columns = ["model", "step", "name", "value"]
    table = pd.DataFrame(models, columns=["model", "network", "steps", "sha256"])
    return table, pd.concat(curves)[columns] if curves else pd.DataFrame(columns=columns)


def metrics(tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Numbers that DVC compares: {table: {model: {degradation_level: {protocol: {metric: number}}}}}.

    Our own finite numbers only (JSON has no infinity); the data set stands in front of the
    degradation where a table has several.
    """
    found: dict[str, Any] = {}
    for name, table in tables.items():
        ours = table[(table["model"] != "published") & table["metric"].isin(["psnr", "ssim", "psnr_gain"])]
        several = ours.loc[ours["dataset"] != "", "dataset"].nunique() > 1
        for row in ours.to_dict("records"):
            if not math.isfinite(row["value"]):
                continue
            place = "_".join(str(row[key]) for key in (PLACE if several else PLACE[1:]) if row[key])
            level = found.setdefault(name, {}).setdefault(row["model"], {}).setdefault(place, {})
            level.setdefault(row["protocol"], {})[row["metric"]] = float(row["value"])
    return found
