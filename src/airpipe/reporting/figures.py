"""Figures of the report: bars of PSNR, training curves, and a grid of pictures with zoomed crops.

Drawn with Agg and without timestamps, so that equal numbers give equal files. No torch here: the
pictures read are 8-bit RGB files that the evaluation wrote.
"""

import math
import textwrap
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
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from airpipe.errors import AirpipeError
from airpipe.provenance import atomic_path
from airpipe.reporting.pivots import place_names, short_labels
from airpipe.reporting.tables import NONE, PLACE, score_info, without_seed

Pixels = npt.NDArray[np.uint8]

DPI = 130
GREY = "#8c8c8c"
FRAME = "#ffb000"
"""Amber of the crop's frame: visible on dark and bright pictures, also to the colour-blind."""
CELL = (1.62, 1.24)
"""Width and height in inches of a picture in the grid; its crop beside it is a square of that height."""


@contextmanager
def open_figure(target: Path, width: float, height: float, rows: int = 1, columns: int = 1) -> Iterator[Any]:
    """Open a figure of that size in inches with a (rows, columns) array of axes; it is written to `target` at the end.

    Raises:
        AirpipeError: the disk refuses.
    """
    sns.set_theme(
        style="whitegrid", context="notebook", font="DejaVu Sans", font_scale=0.85, rc={"grid.linewidth": 0.6}
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
    palette = sns.color_palette("colorblind", max(len(own), 1))
    return {NONE: GREY, **dict(zip(own, palette, strict=False))}


# Bars


def draw_bars(table: pd.DataFrame, protocols: Sequence[str], target: Path) -> None:
    """Draw grouped bars of PSNR in dB, one group per degradation and level, one panel per protocol.

    The gain over no restoration stands above each bar, in dB.

    Args:
        table: long table (`tables.read_table`).
        protocols: protocols to draw; when the table has none of them, its first one is drawn.
        target: PNG to write.

    Raises:
        AirpipeError: the table has no PSNR.
    """
    ours = table[(table["model"] != "published") & table["metric"].isin(["psnr", "psnr_gain"])]
    found = list(dict.fromkeys(ours["protocol"]))
    if not found:
        raise AirpipeError(f"{target}: the table has no PSNR to draw")
    shown = [name for name in protocols if name in found] or found[:1]
    places, models = ours[PLACE].drop_duplicates(), ours["model"].unique()
    width = max(6.5, 1.6 + len(places) * max(1.05, 0.42 * len(models)))
    with open_figure(target, width, 3.9 * len(shown) + 0.3, rows=len(shown)) as (figure, axes):
        for axis, protocol in zip(axes[:, 0], shown, strict=True):
            _bar_panel(axis, ours[ours["protocol"] == protocol], protocol)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=min(len(labels), 4), frameon=False)
        lines = math.ceil(len(labels) / 4)
        figure.tight_layout(rect=(0, 0, 1, 1 - (0.12 + 0.24 * lines) / figure.get_figheight()))


def _bar_panel(axis: Axes, part: pd.DataFrame, protocol: str) -> None:
    places = list(dict.fromkeys(part[PLACE].itertuples(index=False, name=None)))
    models = list(part["model"].unique())
    numbers = {
        (row["model"], *(row[name] for name in PLACE), row["metric"]): float(row["value"])
        for row in part.to_dict("records")
    }
    labels, colours, width = short_labels(models), model_colours(models), 0.84 / len(models)
    for index, model in enumerate(models):
        left = np.arange(len(places)) + (index - (len(models) - 1) / 2) * width
        heights = [numbers.get((model, *place, "psnr"), math.nan) for place in places]
        finite = [height if math.isfinite(height) else 0.0 for height in heights]
        axis.bar(left, finite, width * 0.94, label=labels[model], color=colours[model], linewidth=0)
        for x, place, height in zip(left, places, heights, strict=True):
            _bar_text(axis, x, height, numbers.get((model, *place, "psnr_gain"), math.nan))
    axis.set_xticks(np.arange(len(places)), [_wrapped(name) for name in place_names(places)])
    axis.set(ylabel="PSNR (dB)", title=f"PSNR, protocol {protocol}; above the bars: gain in dB")
    # a quarter above the tallest bar: room for the gains, which stand upright on the bars
    axis.set_ylim(0, 1.24 * max((v for k, v in numbers.items() if k[-1] == "psnr" and math.isfinite(v)), default=1.0))
    axis.grid(False, axis="x")
    sns.despine(ax=axis, left=True)


def _bar_text(axis: Axes, x: float, height: float, gain: float) -> None:
    """The gain above a bar, upright beside its neighbours; 'inf' where the bar has no height."""
    if math.isinf(height):
        text, height = "inf", 0.0
    elif math.isfinite(gain):
        text = f"{gain:+.2f}"
    else:
        return
    white = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # keeps grid lines out of the digits
    axis.annotate(
        *(text, (x, height), (0, 3)),
        textcoords="offset points",
        ha="center",
        va="bottom",
        rotation=90,
        fontsize=8,
        bbox=white,
    )


def _wrapped(name: str) -> str:
    """Break a label such as 'noise 25' into two lines, so that neighbouring labels do not meet."""
    return name.replace(" ", "\n")


# Curves


def draw_curves(curves: Mapping[str, pd.DataFrame], target: Path) -> None:
    """Draw total loss and validation PSNR against the step; one colour per model, one line per seed.

    Args:
        curves: columns step, name, value (`curves.csv`) by model id.
        target: PNG to write.
    """
    labels = short_labels(dict.fromkeys(map(without_seed, curves)))
    colours = model_colours(list(labels))
    with open_figure(target, 10.0, 3.9, columns=2) as (figure, axes):
        for axis, name in zip(axes[0], ("loss/total", "validation/psnr"), strict=True):
            named = set()
            for model_id, curve in curves.items():
                model = without_seed(model_id)
                label = None if model in named else labels[model]
                if _curve(axis, curve[curve["name"] == name], name, label, colours[model]):
                    named.add(model)
            _curve_axis(axis, name, empty=not named)
        handles, texts = next((found for axis in axes[0] if (found := axis.get_legend_handles_labels())[0]), ([], []))
        figure.legend(handles, texts, loc="upper center", ncols=min(max(len(texts), 1), 4), frameon=False)
        figure.tight_layout(rect=(0, 0, 1, 1 - (0.1 + 0.24 * math.ceil(len(texts) / 4)) / 3.9))


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
        axis.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axis.transAxes, color=GREY)
    elif loss:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:.3g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    sns.despine(ax=axis)


# Pictures


@dataclass(frozen=True)
class Shown:
    """One picture of the report: uint8 (H, W, 3) RGB under a title, with its PSNR in dB if it has one."""

    title: str
    pixels: Pixels
    psnr: float | None


@dataclass(frozen=True)
class Scene:
    """One test image: degraded first, then restored by each model, clean last."""

    test: str
    image: str
    pictures: tuple[Shown, ...]

    @property
    def degraded(self) -> Shown:
        """The picture that the models get."""
        return self.pictures[0]

    @property
    def restored(self) -> tuple[Shown, ...]:
        """What each model made of the degraded picture."""
        return self.pictures[1:-1]


def read_pixels(path: Path) -> Pixels:
    """Read an 8-bit picture that the evaluation wrote, (H, W, 3) RGB.

    Raises:
        AirpipeError: missing or not decodable.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"), np.uint8)
    except OSError as error:
        raise AirpipeError(f"{path}: cannot be read ({error}); run the evaluation again") from None


def read_scenes(scores: Sequence[Path], pictures: Path, protocol: str, per_test: int) -> list[Scene]:
    """Read the first kept pictures of every test, each with all models (first seed of each).

    Args:
        scores: score files of `none` and the models; their tests and models give the order.
        pictures: folder that holds <model id>/<test>/<image>.png (usually results/restored).
        protocol: whose PSNR is shown; a test without it shows its first one.
        per_test: pictures per test.

    Raises:
        AirpipeError: a picture is missing, or the models kept different ones.
    """
    files: dict[str, dict[str, Path]] = {}
    for path in scores:
        info = score_info(path)
        files.setdefault(info["test"], {}).setdefault(without_seed(info["model"]), path)
    labels = short_labels(dict.fromkeys(model for models in files.values() for model in models))
    return [
        _scene(test, image, models, labels, pictures, protocol)
        for test, models in files.items()
        for image in score_info(models[NONE])["kept"][:per_test]
    ]


def _scene(
    test: str, image: str, files: Mapping[str, Path], labels: Mapping[str, str], pictures: Path, protocol: str
) -> Scene:
    ours = [model for model in files if model != NONE]
    shown = []
    for model in (NONE, *ours):
        info = score_info(files[model])
        pixels = read_pixels(pictures / info["model"] / test / f"{image}.png")
        title = "degraded" if model == NONE else labels[model]
        shown.append(Shown(title, pixels, image_psnr(files[model], image, protocol)))
    clean = read_pixels(pictures / NONE / test / f"{image}_clean.png")
    shown.append(Shown("clean", clean, None))
    if len({picture.pixels.shape for picture in shown}) > 1:
        sizes = ", ".join(f"{s.title} {s.pixels.shape[1]}x{s.pixels.shape[0]}" for s in shown)
        raise AirpipeError(f"{test}, {image}: pictures differ in size ({sizes}); run the evaluation again")
    return Scene(test, image, tuple(shown))


def image_psnr(path: Path, image: str, protocol: str) -> float:
    """PSNR in dB of one image in a score file, under `protocol` or the file's first one.

    Raises:
        AirpipeError: the image was not scored.
    """
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = frame[(frame["image"] == image) & (frame["metric"] == "psnr")]
    if rows.empty:
        raise AirpipeError(f"{path}: has no psnr of {image}; run the evaluation again")
    wanted = rows[rows["protocol"] == protocol]
    return float((rows if wanted.empty else wanted)["value"].iloc[0])


def crop_place(degraded: Pixels, restored: Sequence[Pixels], side: int) -> tuple[int, int, int]:
    """Find the square where restored and degraded pictures differ most: its top, left and side in pixels.

    The mean absolute difference over models, channels and the square is compared on a grid of a
    quarter of the side. The square is as large as the picture allows, at most `side`. Without
    models it lies in the middle.
    """
    height, width = degraded.shape[:2]
    side = min(side, height, width)
    if not restored:
        return (height - side) // 2, (width - side) // 2, side
    change = np.zeros((height, width))
    for picture in restored:
        change += np.abs(picture.astype(np.int16) - degraded).mean(axis=2)
    total = np.pad(change, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)  # sums of all top-left boxes
    step = max(1, side // 4)
    tops, lefts = np.arange(0, height - side + 1, step), np.arange(0, width - side + 1, step)
    rows, columns = np.meshgrid(tops, lefts, indexing="ij")
    sums = (
        total[rows + side, columns + side]
        - total[rows, columns + side]
        - total[rows + side, columns]
        + total[rows, columns]
    )
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(tops[top]), int(lefts[left]), side


def draw_qualitative(scenes: Sequence[Scene], zoom: int, target: Path) -> None:
    """Draw a grid of pictures: one row per image, columns degraded, each model, clean.

    Every cell shows the picture with a frame, the framed crop beside it, and its PSNR in dB.

    Args:
        scenes: test images, from `read_scenes`; all with the same models.
        zoom: side of the crop in pixels.
        target: PNG to write.
    """
    columns = max((len(scene.pictures) for scene in scenes), default=1)
    width, height = 1.15 + columns * (sum(CELL) + 0.14), 0.4 + max(len(scenes), 1) * (CELL[1] + 0.34)
    with open_figure(target, width, height) as (figure, axes):
        axes[0, 0].axis("off")
        if not scenes:
            axes[0, 0].text(0.5, 0.5, "no pictures were kept", ha="center", va="center", color=GREY)
        for row, scene in enumerate(scenes):
            _scene_row(figure, scene, zoom, top=0.36 + row * (CELL[1] + 0.34), head=row == 0)


def _scene_row(figure: Figure, scene: Scene, zoom: int, top: float, head: bool) -> None:
    """Draw one row; `top` is its distance in inches from the figure's upper edge."""
    width, height = figure.get_size_inches()
    place = crop_place(scene.degraded.pixels, [shown.pixels for shown in scene.restored], zoom)
    middle = 1 - (top + CELL[1] / 2) / height
    figure.text(0.1 / width, middle, _row_title(scene), ha="left", va="center", fontsize=8)
    for column, shown in enumerate(scene.pictures):
        left = 1.15 + column * (sum(CELL) + 0.14)
        _cell(figure, shown, place, left, top)
        centre = (left + sum(CELL) / 2) / width
        if head:
            figure.text(centre, 1 - 0.28 / height, shown.title, ha="center", fontsize=10, weight="bold")
        text = "" if shown.psnr is None else f"{shown.psnr:.2f} dB"
        figure.text(centre, 1 - (top + CELL[1] + 0.19) / height, text, ha="center", fontsize=9)


def _row_title(scene: Scene) -> str:
    """Test and image, cut into lines that fit the margin."""
    return "\n".join(
        textwrap.fill(name.replace("_", "_ "), 17).replace("_ ", "_")  # break after an underscore
        for name in (scene.test, scene.image)
    )


def _cell(figure: Figure, shown: Shown, place: tuple[int, int, int], left: float, top: float) -> None:
    width, height = figure.get_size_inches()
    y, x, side = place
    for offset, size, pixels in (
        (0.0, CELL[0], shown.pixels),
        (CELL[0] + 0.03, CELL[1], shown.pixels[y : y + side, x : x + side]),
    ):
        box = ((left + offset) / width, 1 - (top + CELL[1]) / height, size / width, CELL[1] / height)
        axis = figure.add_axes(box)
        whole = offset == 0
        axis.imshow(pixels, interpolation="antialiased" if whole else "nearest")
        axis.set(xticks=[], yticks=[], anchor="E" if whole else "W")
        for spine in axis.spines.values():
            spine.set(visible=not whole, color=FRAME, linewidth=1.6)
        if whole:
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), side, side, fill=False, color=FRAME, linewidth=1.6))


def draw_figures(
    table: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame],
    scenes: Sequence[Scene],
    report: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write bars.png, curves.png and qualitative.png below `folder`.

    Args:
        table: long table.
        curves: content of curves.csv by model id.
        scenes: test images, from `read_scenes`.
        report: the fields of ReportSettings.
        folder: where to write.
    """
    draw_bars(table, [report["protocol"]], folder / "bars.png")
    draw_curves(curves, folder / "curves.png")
    draw_qualitative(scenes, report["zoom"], folder / "qualitative.png")


def read_curves(paths: Sequence[Path], root: Path) -> dict[str, pd.DataFrame]:
    """Read curves.csv files, by model id: the file's folder below `root` (usually results/)."""
    return {path.parent.relative_to(root).as_posix(): pd.read_csv(path) for path in paths}
