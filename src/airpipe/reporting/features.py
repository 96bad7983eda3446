"""The table of the feature analysis: long csv, Markdown and LaTeX twins. This module needs no torch."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from airpipe.errors import AirpipeError
from airpipe.provenance import write_text
from airpipe.registry import described, family
from airpipe.reporting.pivots import latex_tabular, pipe_table, short_labels
from airpipe.reporting.published import ACCURACIES, PAPER_SCALE, read_published, records
from airpipe.reporting.table import Row

Result = Mapping[str, Any]
"""Content of results/features/<model>/<init>.json, see `airpipe.evaluation.features.analyse`."""

COLUMNS = (
    *("model", "network", "init", "measure", "class", "value", "sd", "chance", "neighbours", "split"),
    *("n_crops", "n_images", "n_scenes", "seeds", "distinct_splits", "patch_size", "feature", "pooling"),
    *("projection", "published", "differs", "source"),
)
NUMBERS = ("value", "sd", "chance", "published")
PROTOCOL = {
    "images_per_class": 100,
    "crops_per_image": 1,
    "patch_size": 128,
    "neighbours": 5,
    "test_share": 0.33,
    "split": "random",
    "feature": "last",
    "pooling": "none",
    "projection": 0,
}
"""Settings of the published analysis."""
CLASSES = {"haze", "motion_blur", "noise", "rain", "low_light"}
"""Degradations of the published analysis."""
KNN, CLASSIFIER = "knn", "classifier"


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Read results of the analysis, in the order given.

    Raises:
        AirpipeError: a file is missing or not JSON.
    """
    found = []
    for path in paths:
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise AirpipeError(f"{path}: cannot be read ({error}); delete it and run the analysis again") from None
    return found


# The long table


def build_table(results: Sequence[Result], published: Sequence[Row]) -> pd.DataFrame:
    """The long table: one row per checkpoint, weights, measure and class ('': all of them).

    value, sd and chance are in percent.

    sd is over the seeds of the splits (n - 1). A published number stands beside the row of the same network and
    training, `differs` says in what the two analyses are not the same.

    Args:
        results: results of the analysis, from `read_results`.
        published: printed accuracies, from `read_published`.

    Returns:
        COLUMNS; empty cells are "" or NaN.
    """
    rows = [row for result in results for row in _rows(result, published)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(result: Result, published: Sequence[Row]) -> list[Row]:
    settings, knn, head = result["settings"], result["knn"], result["classifier"]
    common = {
        "model": result["model"],
        "network": network_name(result),
        "init": result["init"],
        "chance": result["chance"],
        "n_crops": result["crops"],
        "n_images": result["images"],
        "n_scenes": result["scenes"],
        **{name: settings[name] for name in ("patch_size", "feature", "pooling", "projection")},
    }
    splits = {"neighbours": settings["neighbours"], "split": settings["split"], "seeds": len(settings["seeds"])}
    splits["distinct_splits"] = knn.get("distinct_splits", "")  # not counted in older results
    none = {"published": math.nan, "differs": "", "source": ""}
    found = [common | splits | {"measure": KNN, "class": "", **_spread(knn), **compare(result, published)}]
    for name, values in knn["per_class"].items():
        found.append(common | splits | {"measure": KNN, "class": name, **_spread(values), **none})
    if head:
        alone = common | dict.fromkeys(splits, "") | {"measure": CLASSIFIER, "sd": math.nan, **none}
        found.append(alone | {"class": "", "value": head["accuracy"]})
        found += [alone | {"class": name, "value": value} for name, value in head["per_class"].items()]
    return found


def _spread(values: Mapping[str, Any]) -> Row:
    return {"value": values["mean"], "sd": math.nan if values["sd"] is None else values["sd"]}


def network_name(result: Result) -> str:
    """Name of the backbone: of a network with a head, that of the network below it."""
    network = result["network"]
    backbone = network["arguments"].get("backbone")
    return str((backbone or network)["name"])


def compare(result: Result, published: Sequence[Row]) -> Row:
    """Set the first printed number of its network and training beside a checkpoint: published, differs and source."""
    training = result["training"]
    backbone = family(network_name(result))
    for printed in published:
        same = printed["network"] == backbone and printed["init"] == result["init"]
        if same and (result["init"] == "random" or _same_training(training, printed)):
            source = ", ".join(part for part in (printed["paper"], printed["table"], printed["note"]) if part)
            return {"published": printed["value"], "differs": "; ".join(differences(result)), "source": source}
    return {"published": math.nan, "differs": "", "source": ""}


def _same_training(training: Mapping[str, Any], printed: Row) -> bool:
    tasks = str(training["setting"]).split("_")
    return (
        described(str(training["method"])).control
        and printed["tasks"] in tasks
        and str(training["step"]) == str(printed["steps"])
    )


def differences(result: Result) -> list[str]:
    """Reasons why our number and the printed one measure different things."""
    settings = result["settings"]
    found = [
        f"{name} {settings[name]} instead of {value}" for name, value in PROTOCOL.items() if settings[name] != value
    ]
    if set(settings["classes"]) != CLASSES:
        found.append("other degradations")
    if any(entry["recipe"] for entry in settings["classes"].values()):
        found.append("synthetic degradations")
    if result["init"] == "random" and settings["random_init"] != "published":
        found.append("the network's own random weights")
    if result["init"] == "trained" and result["training"]["scale"] != PAPER_SCALE:
        found.append(f"{result['training']['scale']} scale")
    return [*found, "paper and published code name different test images"]


# For readers


def feature_cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and body of the table for readers: a line per checkpoint, weights and measure, percent."""
    labels = short_labels(table["model"].unique())
    classes = list(dict.fromkeys(name for name in table["class"] if name))
    body = []
    for _, group in table.groupby(["model", "init", "measure"], sort=False):
        first = {str(name): str(value) for name, value in group.iloc[0].items()}
        by_class = {row["class"]: row for row in group.to_dict("records")}
        printed = float(by_class[""]["published"])
        body.append(
            [
                *(
                    labels[first["model"]],
                    first["init"],
                    "classifier" if first["measure"] == CLASSIFIER else f"kNN, k = {first['neighbours']}",
                ),
                *(_percent(by_class.get(name)) for name in ("", *classes)),
                f"{float(by_class['']['chance']):.1f}",
                "–" if math.isnan(printed) else f"{printed:.0f}",
            ]
        )
    return ["checkpoint", "weights", "measure", "all", *classes, "chance", "published"], body


def _percent(row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return "–"
    sd = float(row["sd"])
    return f"{float(row['value']):.1f}" + ("" if math.isnan(sd) else f" ± {sd:.1f}")


def feature_notes(table: pd.DataFrame) -> list[str]:
    """Notes that must stand under the table of the feature analysis."""
    first = table[table["measure"] == KNN].iloc[0]
    how = "whole photographs apart" if first["split"] == "scene" else "single crops apart"
    lines = [
        f"Percent of crops whose degradation is told; {first['n_crops']} crops of {first['n_images']} photographs, "
        f"{first['patch_size']} pixels. chance: the share of the largest class.",
        f"kNN: mean ± standard deviation over the splits of {first['seeds']} seeds, {how}.",
    ]
    if (distinct := str(first.get("distinct_splits", ""))) not in ("", str(first["seeds"])):
        lines.append(
            f"Only {distinct} of the {first['seeds']} splits are distinct, and some count more than once: the "
            "standard deviation is no measure of how other photographs would do."
        )
    if (table["measure"] == CLASSIFIER).any():
        lines.append("classifier: the trained head itself, on all crops.")
    compared = table[table["published"].notna()]
    for differs in dict.fromkeys(compared["differs"]):
        lines.append(f"published: not comparable ({differs}).")
    lines += [f"published: {source}." for source in dict.fromkeys(compared["source"])]
    return lines


def read_feature_table(path: Path) -> pd.DataFrame:
    """Read the long table that `write_feature_table` wrote: texts as text, numbers as float."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return frame.assign(**{name: pd.to_numeric(frame[name]).astype(np.float64) for name in NUMBERS})


def write_feature_table(results: Sequence[Path], published: Path, folder: Path) -> None:
    """Write features.csv, .md and .tex below `folder`.

    Args:
        results: results/features/<model>/<init>.json files.
        published: resources/published/features.csv.
        folder: folder of the tables.
    """
    table = build_table(read_results(results), records(read_published([published], ACCURACIES)))
    head, body = feature_cells(table)
    remarks = "\n".join(f"- {note}" for note in feature_notes(table))
    write_text(folder / "features.csv", table.to_csv(index=False))
    write_text(folder / "features.md", f"# Feature analysis\n\n{pipe_table(head, body)}\n\n{remarks}\n")
    write_text(folder / "features.tex", latex_tabular(head, body, 3))
