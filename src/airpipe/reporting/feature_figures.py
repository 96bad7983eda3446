"""Figures of the feature analysis: t-SNE maps and confusion matrices. Drawn as `reporting.figures` says."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes

from airpipe.reporting.builders.features import Result
from airpipe.reporting.figures import open_figure
from airpipe.reporting.table import short_labels

MARKERS = "osD^vPX*<>"
"""Markers of the classes, beside their colours: the figure can be read without these."""
INITS = ("random", "trained")
"""Weights of a checkpoint's network, in the order of the panels."""
Panel = tuple[str, npt.NDArray[np.float64], list[str], list[str]]
"""Title, shares in percent, names of rows and of columns."""


def by_model(results: Sequence[Result]) -> dict[str, dict[str, Result]]:
    """Results of each checkpoint by `init`, in the order given."""
    found: dict[str, dict[str, Result]] = {}
    for result in results:
        found.setdefault(result["model"], {})[result["init"]] = result
    return found


def draw_tsne(results: Sequence[Result], target: Path) -> None:
    """Draw t-SNE with random weights and as trained, one row of panels per checkpoint.

    Args:
        results: results of the analysis.
        target: PNG to write.
    """
    models = by_model(results)
    labels = short_labels(models)
    classes = list(dict.fromkeys(entry["name"] for result in results for entry in result["classes"]))
    legend = 0.35 + 0.25 * (len(classes) // 6)
    height = 4.1 * len(models) + legend
    with open_figure(target, 8.6, height, len(models), len(INITS)) as (figure, axes):
        for row, (model, inits) in zip(axes, models.items(), strict=True):
            for axis, init in zip(row, INITS, strict=True):
                _scatter(axis, inits.get(init), f"{labels[model]}, {init} weights", classes)
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="upper center", ncols=min(len(names), 6), frameon=False, handletextpad=0.2)
        figure.tight_layout(rect=(0, 0, 1, 1 - legend / height))


def _scatter(axis: Axes, result: Result | None, title: str, classes: Sequence[str]) -> None:
    axis.set(xticks=[], yticks=[])
    if result is None:
        axis.set_visible(False)
        return
    points = result["tsne"]
    x, y, names = np.array(points["x"]), np.array(points["y"]), np.array(points["class"])
    palette = sns.color_palette("colorblind", len(classes))
    for number, name in enumerate(classes):
        chosen = names == name
        marker = MARKERS[number % len(MARKERS)]
        axis.scatter(
            x[chosen], y[chosen], s=22, marker=marker, color=palette[number], label=name.replace("_", " "), linewidths=0
        )
    axis.set_title(f"{title}\nkNN {result['knn']['mean']:.1f} %, chance {result['chance']:.1f} %")


def draw_confusion(results: Sequence[Result], target: Path) -> None:
    """Draw confusion matrices, one row per checkpoint: kNN with random and trained weights, the trained classifier.

    Args:
        results: results of the analysis.
        target: PNG to write.
    """
    models = by_model(results)
    labels = short_labels(models)
    rows = [_panels(inits, labels[model]) for model, inits in models.items()]
    columns = max(map(len, rows))
    count = max(len(names) for panels in rows for _, _, names, _ in panels)
    side = max(2.6, 0.62 * count)
    with open_figure(target, columns * (side + 0.35) + 1.0, len(rows) * (side + 1.9), len(rows), columns) as (
        figure,
        axes,
    ):
        for line, panels in zip(axes, rows, strict=True):
            for place, axis in enumerate(line):
                if place < len(panels):
                    _matrix(axis, panels[place], first=place == 0)
                else:
                    axis.set_visible(False)
        figure.tight_layout()


def _panels(inits: Mapping[str, Result], label: str) -> list[Panel]:
    found = [
        _panel(inits[init], inits[init]["knn"], f"{label}\n{init} weights, kNN") for init in INITS if init in inits
    ]
    head = inits["trained"]["classifier"] if "trained" in inits else None
    return found + ([_panel(inits["trained"], head, f"{label}\ntrained classifier")] if head else [])


def _panel(result: Result, measured: Mapping[str, Any], title: str) -> Panel:
    names = [entry["name"] for entry in result["classes"]]
    counts, answers = np.array(measured["confusion"], float), list(names)
    if any(other := measured.get("other", [])):
        counts, answers = np.column_stack([counts, other]), [*names, "other"]
    accuracy = measured.get("mean", measured.get("accuracy"))
    return f"{title} {accuracy:.1f} %", 100 * counts / counts.sum(1, keepdims=True), names, answers


def _matrix(axis: Axes, panel: Panel, first: bool) -> None:
    title, shares, names, answers = panel
    rows = [name.replace("_", " ") for name in names] if first else False
    columns = [name.replace("_", " ") for name in answers]
    style = {"annot": True, "fmt": ".0f", "cmap": "Blues", "vmin": 0, "vmax": 100, "cbar": False, "square": True}
    sns.heatmap(shares, ax=axis, xticklabels=columns, yticklabels=rows, linewidths=0.5, **style)
    axis.set_title(title)
    axis.set_xlabel("answer, % of the true class")
    axis.set_ylabel("true class" if first else "")
    axis.set_xticklabels(columns, rotation=45, ha="right", rotation_mode="anchor")
