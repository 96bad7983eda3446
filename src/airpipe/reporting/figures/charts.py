"""Charts of the report: bars with intervals, costs, curves, t-SNE maps and confusion matrices.

Drawn with Agg and without timestamps, so that equal numbers give equal files.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from airpipe.errors import AirpipeError
from airpipe.provenance import atomic_path
from airpipe.reporting.builders.features import Result
from airpipe.reporting.builders.recognition import TITLES, row_label
from airpipe.reporting.frames import csv_frame
from airpipe.reporting.reading import curves_by_variant, read_json
from airpipe.reporting.table import place_names, place_of, short_labels, shown_protocol, without_seed
from airpipe.settings.names import NONE
from airpipe.settings.studies import CLEAN

DPI = 130
GREY = "#8c8c8c"
WIDEST = 13.0
"""Width in inches above which groups of bars continue in a new row."""
MARKERS = "osD^vPX*<>"
"""Markers beside colours: figures can be read without these."""
INITS = ("random", "trained")
"""Weights of a checkpoint's network, in the order of the panels."""

Panel = tuple[str, npt.NDArray[np.float64], list[str], list[str]]
"""Title, shares in percent, names of rows and of columns."""


@contextmanager
def open_figure(target: Path, width: float, height: float, rows: int = 1, columns: int = 1) -> Iterator[Any]:
    """Open a figure of that size in inches with a (rows, columns) array of axes; it is written to `target` at the end.

    Raises:
        AirpipeError: the disk refuses.
    """
    sns.set_theme(
        style="whitegrid",
        context="notebook",
        font="DejaVu Sans",
        font_scale=0.85,
        rc={"grid.linewidth": 0.6, "text.parse_math": False},
    )
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    try:
        yield figure, axes
        with atomic_path(target) as temporary:
            figure.savefig(temporary, dpi=DPI, format="png", metadata={"Software": None})
    finally:
        plt.close(figure)


def model_colours(models: Sequence[str]) -> dict[str, Any]:
    """A colour-blind-safe colour for each model (id without seed); grey for no restoration."""
    own = [model for model in models if model != NONE]
    palette = sns.color_palette("colorblind" if len(own) <= 10 else "husl", max(len(own), 1))
    return {NONE: GREY, **dict(zip(own, palette, strict=True))} if own else {NONE: GREY}


def _legend(figure: Figure, *axes: Axes, columns: int = 4) -> None:
    """Put one legend of some axes above all axes; what has the same label in several stands there once."""
    shown = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    across = min(max(len(shown), 1), columns)
    figure.legend([*shown.values()], [*shown], loc="upper center", ncols=across, frameon=False)
    lines = math.ceil(len(shown) / columns)
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.12 + 0.24 * lines) / figure.get_figheight()))


# Bars


@dataclass(frozen=True)
class Bar:
    """Height of a bar, ends of its interval, and the text above it."""

    value: float
    low: float = math.nan
    high: float = math.nan
    text: str = ""


Series = Mapping[str, Mapping[Any, Bar]]
"""Bars by label and column."""


def draw_bars(table: pd.DataFrame, protocol: str, target: Path) -> None:
    """Draw grouped bars of PSNR in dB with their intervals, one group per degradation and level.

    The gain over no restoration stands above each bar, in dB.

    Args:
        table: long frame of a table of scores.
        protocol: protocol to draw; when the table has it not, its first one is drawn.
        target: PNG to write.

    Raises:
        AirpipeError: the table has no PSNR.
    """
    ours = _of_protocol(table, ["psnr", "psnr_gain"], protocol, target)
    numbers = {(row["model"], *place_of(row), row["metric"]): row for row in ours.to_dict("records")}
    psnr = {key[:-1]: row for key, row in numbers.items() if key[-1] == "psnr"}
    models = list(dict.fromkeys(key[0] for key in psnr))
    labels, colours = short_labels(models), model_colours(models)
    series: dict[str, dict[Any, Bar]] = {labels[model]: {} for model in models}
    for key, row in psnr.items():
        gain = numbers.get((*key, "psnr_gain"), {}).get("value", math.nan)
        text = f"{gain:+.2f}" if math.isfinite(gain) else "∞" if math.isinf(row["value"]) else ""
        series[labels[key[0]]][key[1:]] = Bar(row["value"], row.get("low", math.nan), row.get("high", math.nan), text)
    places = list(dict.fromkeys(key[1:] for key in psnr))
    # a quarter above the tallest bar: room for the gains, which stand upright on the bars
    top = 1.24 * max((row["value"] for row in psnr.values() if math.isfinite(row["value"])), default=1.0)
    title = f"PSNR, protocol {ours['protocol'].iloc[0]}; above the bars: gain in dB"
    palette = [colours[model] for model in models]
    with _bar_rows(target, series, dict(zip(places, place_names(places), strict=True)), palette) as axes:
        for axis in axes:
            axis.set(ylabel="PSNR (dB)", ylim=(0, top))
        axes[0].set_title(title)


def _of_protocol(table: pd.DataFrame, metrics: Sequence[str], protocol: str, target: Path) -> pd.DataFrame:
    """Our rows of some metrics under one protocol, or the first one."""
    ours = table[(table["model"] != "published") & table["metric"].isin(metrics)]
    if ours.empty:
        raise AirpipeError(f"{target}: the table has no PSNR to draw; name a metric psnr in one of its protocols")
    return ours[ours["protocol"] == shown_protocol(list(ours["protocol"]), protocol)]


@contextmanager
def _bar_rows(
    target: Path, series: Series, columns: Mapping[Any, str], colours: Sequence[Any], legend: int = 4
) -> Iterator[Sequence[Axes]]:
    """Draw groups of bars in as many rows as they need; the caller finishes the axes before the legend is laid out.

    Args:
        target: PNG to write.
        series: bars by label and column.
        columns: titles of the columns, in order.
        colours: one for each label.
        legend: labels in one line of the legend.
    """
    group = max(1.05, 0.3 * len(series))  # inches
    per_row = max(1, min(len(columns), int((WIDEST - 1.6) / group)))
    keys = list(columns)
    rows = [keys[start : start + per_row] for start in range(0, len(keys), per_row)]
    with open_figure(target, max(6.5, 1.6 + per_row * group), 3.6 * len(rows) + 0.7, len(rows)) as (figure, axes):
        for axis, row in zip(axes[:, 0], rows, strict=True):
            _bars(axis, series, {key: columns[key] for key in row}, colours)
            axis.set_xlim(-0.55, per_row - 0.45)
        yield axes[:, 0]
        _legend(figure, axes[0, 0], columns=legend)


def _bars(axis: Axes, series: Series, columns: Mapping[Any, str], colours: Sequence[Any]) -> None:
    width = 0.84 / max(len(series), 1)
    for number, (label, bars) in enumerate(series.items()):
        left = np.arange(len(columns)) + (number - (len(series) - 1) / 2) * width
        shown = [bars.get(key, Bar(math.nan)) for key in columns]
        heights = [bar.value if math.isfinite(bar.value) else 0.0 for bar in shown]
        axis.bar(left, heights, width * 0.94, label=label, color=colours[number], linewidth=0)
        for x, bar in zip(left, shown, strict=True):
            top = bar.value if math.isfinite(bar.value) else 0.0
            if math.isfinite(bar.low) and math.isfinite(bar.high):
                top = max(top, bar.high)
                axis.plot([x, x], [bar.low, bar.high], color="#303030", linewidth=1.1, solid_capstyle="butt")
            if bar.text:
                white = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # keeps lines out of the digits
                style: dict[str, Any] = {"ha": "center", "va": "bottom", "rotation": 90, "fontsize": 8, "bbox": white}
                axis.annotate(bar.text, (x, top), (0, 3), textcoords="offset points", **style)
    # 'noise 25' and 'blur+noise' in two lines, so that neighbouring labels do not meet
    lines = [name.replace(" ", "\n").replace("+", "\n+") for name in columns.values()]
    axis.set_xticks(np.arange(len(columns)), lines)
    axis.grid(False, axis="x")
    sns.despine(ax=axis, left=True)


def draw_top1(table: pd.DataFrame, recogniser: str, target: Path) -> None:
    """Draw bars of a recogniser by degradation, one colour per enhancer; its value on clean images as a line.

    Whiskers: one standard deviation over seeds.

    Args:
        table: long frame of the recognition table.
        recogniser: name of the recogniser, usually the headline.
        target: PNG to write.
    """
    own = table[(table["recogniser"] == recogniser) & (table["task"] != "detection")]
    metric = own["metric"].iloc[0]  # top-1, where it classifies
    own = own[own["metric"] == metric]
    degraded = own[own["degradation"] != CLEAN].to_dict("records")
    models = list(dict.fromkeys(own["model"]))
    series: dict[str, dict[Any, Bar]] = {}
    for row in degraded:
        value, sd = float(row["value"]), float(row["sd"])
        bar = Bar(value, value - sd, value + sd, f"{value:.0f}")
        series.setdefault(row_label(row["model"], models), {})[place_of(row)] = bar
    places = list(dict.fromkeys(map(place_of, degraded)))
    colours = [GREY, *sns.color_palette("colorblind", max(len(series) - 1, 1))]
    with _bar_rows(target, series, dict(zip(places, place_names(places), strict=True)), colours, 3) as axes:
        for axis in axes:
            _levels(axis, own)
            axis.set(ylim=(0, 112), yticks=range(0, 101, 20), ylabel=f"{TITLES[metric]} (%)")
        count = int(own["n_images"].astype(float).max())
        axes[0].set_title(f"Recogniser {recogniser}: {count} images, frozen, trained on clean ones")


def _levels(axis: Axes, own: pd.DataFrame) -> None:
    """Draw lines of clean images and of guessing."""
    clean = own.loc[own["variant"] == "clean", "value"]
    if len(clean):
        axis.axhline(float(clean.iloc[0]), color="black", linewidth=1.2, linestyle="--", label="clean images")
    axis.axhline(float(own["chance"].mean()), color=GREY, linewidth=1.0, linestyle=":", label="chance")


# Costs


def draw_costs(table: pd.DataFrame, measured: pd.DataFrame, protocol: str, target: Path) -> None:
    """Draw PSNR in dB against parameters and against multiply-accumulates, one point per model.

    PSNR is the table's first average, with its interval, or else the mean over what was measured.

    Args:
        table: long frame of a table of scores.
        measured: model, parameters, macs and input of every model.
        protocol: protocol to draw; when the table has it not, its first one is drawn.
        target: PNG to write.

    Raises:
        AirpipeError: the table has no PSNR.
    """
    rows = _of_protocol(table, ["psnr"], protocol, target)
    rows = rows.assign(value=rows["value"].where(np.isfinite(rows["value"])))
    averages = rows[rows["dataset"] == ""]
    if len(averages):
        rows = averages[averages["degradation"] == averages["degradation"].iloc[0]]
    found = rows.reindex(columns=["model", "value", "low", "high"]).groupby("model", sort=False)
    points = found.mean() if len(averages) else found.mean().assign(low=math.nan, high=math.nan)
    costs = measured.assign(
        model=measured["model"].map(without_seed),
        parameters=pd.to_numeric(measured["parameters"], errors="coerce") / 1e6,
        macs=pd.to_numeric(measured["macs"], errors="coerce") / 1e9,
    )
    points = points.join(costs.groupby("model")[["parameters", "macs"]].mean())
    size = f" at {sizes[0]}" if len(sizes := list(dict.fromkeys(measured["input"]))) == 1 else ""
    with open_figure(target, 10.0, 3.9 + 0.24 * math.ceil(len(points) / 4), columns=2) as (figure, axes):
        titles = {"parameters": "parameters (million)", "macs": f"multiply-accumulates{size} (billion)"}
        for axis, (name, title) in zip(axes[0], titles.items(), strict=True):
            _costs(axis, points, name)
            axis.set(xlabel=title, ylabel="mean PSNR (dB)")
        axes[0, 0].set_title(f"Protocol {rows['protocol'].iloc[0]}")
        _legend(figure, axes[0, 0])


def _costs(axis: Axes, points: pd.DataFrame, name: str) -> None:
    labels, colours = short_labels(points.index), model_colours(list(points.index))
    own = [model for model in points.index if model != NONE]
    for number, model in enumerate(own):
        point = points.loc[model]
        style = {"color": colours[model], "marker": MARKERS[number % len(MARKERS)], "markersize": 8}
        ends = point[["low", "high"]].to_numpy(float)
        axis.plot([point[name]] * 2, ends, color=colours[model], linewidth=1.2)
        axis.plot([point[name]], [point["value"]], linestyle="", label=labels[model], **style)
    for before in points["value"][points.index == NONE].dropna():
        axis.axhline(before, color=GREY, linestyle="--", linewidth=1.0, label=labels[NONE])
    if points[name].notna().any():
        axis.set_xscale("log")
        _plain_numbers(axis.xaxis)
        axis.margins(x=0.15)
    else:
        write_instead(axis, "not measured")
    sns.despine(ax=axis)


def _plain_numbers(axis: Axis) -> None:
    """Number a logarithmic axis by 1, 2, 5 and their multiples of ten, without powers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:.3g}")
    axis.set_minor_formatter(NullFormatter())


def write_instead(axis: Axes, text: str) -> None:
    """Say in the middle of axes why they are empty."""
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes, color=GREY)


# Curves


def draw_curves(curves: Mapping[str, pd.DataFrame], target: Path) -> None:
    """Draw total loss and validation PSNR against the step; one colour per model or variant, one line per seed.

    Args:
        curves: columns step, name, value (`curves.csv`) by model id.
        target: PNG to write.
    """
    labels = short_labels(dict.fromkeys(map(without_seed, curves)))
    colours = model_colours(list(labels))
    with open_figure(target, 10.0, 3.9 + 0.24 * (len(labels) // 4), columns=2) as (figure, axes):
        for axis, name in zip(axes[0], ("loss/total", "validation/psnr"), strict=True):
            found = set()
            for model_id, curve in curves.items():
                model = without_seed(model_id)
                label = None if model in found else labels[model]
                if _curve(axis, curve[curve["name"] == name], name, label, colours[model]):
                    found.add(model)
            _curve_axis(axis, name, empty=not found)
        _legend(figure, *axes[0])


def _curve(axis: Axes, curve: pd.DataFrame, name: str, label: str | None, colour: Any) -> bool:
    """Draw one curve; a long loss as a pale line with its running median on top."""
    steps, values = curve["step"].to_numpy(float), curve["value"].astype(float)
    if not len(steps):
        return False
    if name == "validation/psnr":
        axis.plot(steps, values, color=colour, label=label, marker="o", markersize=4)
        return True
    window = max(1, len(steps) // 25)
    axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    smooth = values.rolling(window, center=True, min_periods=1).median()
    axis.plot(steps, smooth, color=colour, label=label, linewidth=1.8)
    return True


def _curve_axis(axis: Axes, name: str, empty: bool) -> None:
    loss = name == "loss/total"
    title = "training loss (pale: each record)" if loss else "validation, centre crops"
    axis.set(xlabel="step", ylabel="loss" if loss else "PSNR (dB)", title=title)
    if empty:
        write_instead(axis, "not recorded")
    elif loss:
        axis.set_yscale("log")
        _plain_numbers(axis.yaxis)
    sns.despine(ax=axis)


def read_curves(paths: Sequence[Path], root: Path) -> dict[str, pd.DataFrame]:
    """Read curves.csv files, by model id: the file's folder below `root` (usually results/).

    Variants have what validation measured of them; the card beside the file names them.
    """
    found = dict[str, pd.DataFrame]()
    for path in paths:
        model, card = path.parent.relative_to(root).as_posix(), read_json(path.with_name("card.json"))
        found |= curves_by_variant(model, csv_frame(path, ["step", "value"]), card)
    return found


# Features


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
    axis.set(title=title, xlabel="answer, % of the true class", ylabel="true class" if first else "")
    axis.set_xticklabels(columns, rotation=45, ha="right", rotation_mode="anchor")
