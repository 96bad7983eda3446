"""The table of the gains in PSNR of every single image over no restoration. This module needs no torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from airpipe.reporting.table import (
    PLACE,
    Block,
    Cell,
    Line,
    Part,
    Table,
    counted,
    facts_of,
    number,
    place_names,
    place_of,
    short_labels,
    without_seed,
    words,
    written,
)
from airpipe.settings.names import NONE

COLUMNS = ("model", "dataset", "test", "image", "degradation", "level", "protocol", "none", "restored", "gain")
SMALLEST = 50
"""Gains of single images that readers are shown."""


def image_gains(scores: pd.DataFrame) -> pd.DataFrame:
    """PSNR of every restored image minus that of the same image without restoration, in dB.

    Two infinite values (nothing to restore, nothing broken) are a gain of 0.

    Returns:
        COLUMNS; model is the full id with its seed.
    """
    keys = ["test", "image", "protocol", *PLACE]
    psnr = scores[scores["metric"] == "psnr"]
    none = psnr[psnr["model"] == NONE].set_index(keys)["value"].rename("none")
    gains = psnr[psnr["model"] != NONE].join(none, on=keys).rename(columns={"value": "restored"})
    difference = (gains["restored"] - gains["none"]).mask(gains["restored"] == gains["none"], 0.0)
    gains = gains.assign(gain=difference, model=gains["model_id"])
    return gains[list(COLUMNS)].reset_index(drop=True)


def gains_table(name: str, title: str, gains: pd.DataFrame) -> Table:
    """The gains of every image: mean and smallest of each model and place, and the smallest ones of all."""
    own = gains.assign(key=gains["model"].map(without_seed))
    labels = short_labels(own["key"].unique())
    places = list(dict.fromkeys(own[PLACE].itertuples(index=False, name=None)))
    names = dict(zip(places, place_names(places), strict=True))
    lines = []
    for (model, *_, protocol), group in own.groupby(["key", *PLACE, "protocol"], sort=False):
        values = group["gain"].to_numpy(float)
        texts = words(names[tuple(group.iloc[0][PLACE])], str(protocol))
        count = Cell((number(len(values), 0),))
        cells = (*texts, count, _gain(float(counted(values).mean())), _gain(float(values.min())))
        lines.append(Line(labels[str(model)], cells, facts=facts_of(str(model)), models=(str(model),)))
    head = ("model", "degradation", "protocol", "images x seeds", "mean gain (dB)", "smallest (dB)")
    lost = int((gains["gain"] < 0).sum())
    remarks = [f"{lost} of {len(gains)} gains are negative; PSNR in dB."]
    if infinite := int(np.isinf(gains["gain"].to_numpy(float)).sum()):
        remarks.append(f"{infinite} gains are infinite (∞: the image equals its clean one), left out of means.")
    blocks = (Block("", head, tuple(lines)), _smallest(own, labels, names)) if lines else ()
    return Table(name, f"{title}: PSNR gain of every image", blocks, tuple(remarks), gains)


def _smallest(own: pd.DataFrame, labels: Mapping[str, str], names: Mapping[Any, str]) -> Block:
    lines = [
        Line(
            labels[row["key"]],
            (
                *words(names[place_of(row)], row["protocol"], row["image"]),
                *(Cell((number(row[part], 2),)) for part in ("none", "restored")),
                _gain(row["gain"]),
            ),
            facts=facts_of(row["key"]),
            models=(row["key"],),
        )
        for row in own.sort_values("gain", kind="stable").head(SMALLEST).to_dict("records")
    ]
    head = ("model", "degradation", "protocol", "image", "before (dB)", "after (dB)", "gain (dB)")
    return Block("Smallest gains of single images", head, tuple(lines), folded=True)


def _gain(value: float) -> Cell:
    return Cell((Part(written(value, "+.2f"), value, "worse" if value < 0 else ""),))
