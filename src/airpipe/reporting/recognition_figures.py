"""Figures of the recognition tests: bars of the headline, and pictures with guidance maps. Drawn as `figures` says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from airpipe.reporting.builders.recognition import TITLES, Result, row_label
from airpipe.reporting.figures import GREY, open_figure
from airpipe.reporting.table import PLACE, place_names
from airpipe.settings.names import NONE
from airpipe.settings.studies import CLEAN

Picture = npt.NDArray[Any]
CELL = 1.35
"""Side in inches of a picture."""


def draw_top1(table: pd.DataFrame, recogniser: str, target: Path) -> None:
    """Draw bars of a recogniser by degradation, one colour per enhancer; its value on clean images as a line.

    Args:
        table: long table (`table.read_frame`).
        recogniser: name of the recogniser, usually the headline.
        target: PNG to write.
    """
    own = table[(table["recogniser"] == recogniser) & (table["task"] != "detection")]
    metric = own["metric"].iloc[0]  # top-1, where it classifies
    own = own[own["metric"] == metric]
    degraded = own[own["degradation"] != CLEAN]
    places = list(dict.fromkeys(degraded[PLACE].itertuples(index=False, name=None)))
    models = list(dict.fromkeys(own["model"]))
    rows: dict[str, dict[tuple[Any, ...], Mapping[Any, Any]]] = {}
    for row in degraded.to_dict("records"):
        label = row_label(row["model"], models)
        rows.setdefault(label, {})[tuple(row[name] for name in PLACE)] = row
    lines = math.ceil((len(rows) + 2) / 3)
    width = max(6.5, 1.2 + len(places) * max(1.1, 0.3 * len(rows)))
    with open_figure(target, width, 4.0 + 0.25 * lines) as (figure, axes):
        axis = axes[0, 0]
        _bars(axis, rows, places)
        _levels(axis, own)
        axis.set_ylabel(f"{TITLES[metric]} (%)")
        axis.set_title(f"Recogniser {recogniser}: {int(own['n_images'].max())} images, frozen, trained on clean ones")
        handles, names = axis.get_legend_handles_labels()
        figure.legend(handles, names, loc="upper center", ncols=min(len(names), 3), frameon=False)
        figure.tight_layout(rect=(0, 0, 1, 1 - (0.12 + 0.25 * lines) / figure.get_figheight()))


def _bars(
    axis: Axes, rows: Mapping[str, Mapping[Any, Mapping[Any, Any]]], places: Sequence[tuple[str, str, str]]
) -> None:
    colours = [GREY, *sns.color_palette("colorblind", max(len(rows) - 1, 1))]
    width = 0.84 / max(len(rows), 1)
    for number, (label, cells) in enumerate(rows.items()):
        left = np.arange(len(places)) + (number - (len(rows) - 1) / 2) * width
        heights = [float(cells[place]["value"]) if place in cells else math.nan for place in places]
        spread = [float(cells[place]["sd"]) if place in cells else math.nan for place in places]
        whiskers = None if all(math.isnan(value) for value in spread) else spread
        axis.bar(left, heights, width * 0.94, yerr=whiskers, label=label, color=colours[number], linewidth=0)
        for x, height in zip(left, heights, strict=True):
            if math.isfinite(height):
                white = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # keeps lines out of the digits
                style: dict[str, Any] = {"ha": "center", "va": "bottom", "rotation": 90, "fontsize": 8, "bbox": white}
                axis.annotate(f"{height:.0f}", (x, height), (0, 3), textcoords="offset points", **style)
    axis.set_xticks(np.arange(len(places)), [name.replace(" ", "\n") for name in place_names(places)])
    axis.set_ylim(0, 112)
    axis.set_yticks(range(0, 101, 20))
    axis.grid(False, axis="x")
    sns.despine(ax=axis, left=True)


def _levels(axis: Axes, own: pd.DataFrame) -> None:
    """Lines of clean images and of guessing."""
    clean = own.loc[own["variant"] == "clean", "value"]
    if len(clean):
        axis.axhline(float(clean.iloc[0]), color="black", linewidth=1.2, linestyle="--", label="clean images")
    axis.axhline(float(own["chance"].mean()), color=GREY, linewidth=1.0, linestyle=":", label="chance")


# Pictures


@dataclass(frozen=True)
class Row:
    """Pictures of one test image: what was given, what came out, the clean one, and a map per branch."""

    title: str
    degraded: Picture
    restored: Picture
    clean: Picture
    maps: Picture
    """Share of each branch at each place, (N, h, w); N is 0 where the enhancer has no branches."""


def read_pictures(results: Sequence[Result], files: Sequence[Path], tests: Sequence[str]) -> tuple[str, list[Row]]:
    """Read the kept pictures of the first enhancer that has guidance maps, or of the first one, in the order of tests.

    Args:
        results: results of the tests.
        files: npz file beside each result.
        tests: names of the tests.

    Returns:
        Model id of that enhancer, and a row for each picture.
    """
    found: list[tuple[str, list[Row]]] = []
    for result, file in zip(results, files, strict=True):
        if result["model"] == NONE:
            continue
        with np.load(file, allow_pickle=False) as stored:
            rows = [row for test in tests for row in _rows(stored, test, result["tests"][test])]
        found.append((str(result["model"]), rows))
        if rows and len(rows[0].maps):
            return found[-1]
    return found[0] if found else ("", [])


def _rows(stored: Mapping[str, Picture], test: str, facts: Mapping[str, Any]) -> list[Row]:
    title = " ".join(part for part in (facts["degradation"], facts["level"]) if part)
    numbers = sorted({int(key.split(".")[1]) for key in stored if key.startswith(f"{test}.")})
    empty = np.zeros((0, 1, 1), np.float16)
    return [
        Row(
            title=title,
            degraded=stored[f"{test}.{number}.degraded"],
            restored=stored[f"{test}.{number}.restored"],
            clean=stored[f"{test}.{number}.clean"],
            maps=stored.get(f"{test}.{number}.guidance", empty),
        )
        for number in numbers
    ]


def draw_pictures(model: str, rows: Sequence[Row], branches: Sequence[str], target: Path) -> None:
    """Draw one row per kept image: degraded, restored, clean, and how much each branch counts, from 0 to 1.

    Args:
        model: id of the enhancer.
        rows: pictures of each image, from `read_pictures`.
        branches: names of its branches; numbers where they are not known.
        target: PNG to write.
    """
    count = max((len(row.maps) for row in rows), default=0)
    names = branches if len(branches) == count else [str(number + 1) for number in range(count)]
    heads = ["degraded", "restored", "clean", *(f"weight of {name}" for name in names)]
    columns, lines = len(heads), max(len(rows), 1)
    height = CELL * lines + 0.75
    with open_figure(target, CELL * columns + 1.5, height, lines, columns) as (figure, axes):
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            sns.despine(ax=axis, left=True, bottom=True)
        drawn = [_draw_row(line, row) for line, row in zip(axes, rows, strict=False)]
        for axis, head in zip(axes[0], heads, strict=True):
            axis.set_title(head, fontsize=9)
        figure.suptitle(model or "no enhancer", fontsize=10, y=1 - 0.12 / height)
        figure.tight_layout(rect=(0, 0, 0.93 if count else 1, 1 - 0.25 / height), pad=0.3)
        maps = [image for images in drawn for image in images]
        if maps:
            bar = figure.add_axes((0.94, 0.15, 0.015, 0.65))
            figure.colorbar(maps[0], cax=bar).ax.tick_params(labelsize=8)


def _draw_row(axes: Sequence[Axes], row: Row) -> list[Any]:
    """Draw one row; returns the images of its maps."""
    for axis, picture in zip(axes, (row.degraded, row.restored, row.clean), strict=False):
        axis.imshow(picture, interpolation="nearest")
    axes[0].set_ylabel(row.title, fontsize=9)
    return [
        axis.imshow(np.asarray(part, np.float32), cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        for axis, part in zip(axes[3:], row.maps, strict=False)
    ]
