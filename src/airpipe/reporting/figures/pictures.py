"""Pictures of the report: test images before and after, at each stage, and what an enhancer gave to recognisers."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from airpipe.reporting.figures.charts import DPI, open_figure, write_instead
from airpipe.reporting.scenes import Pixels, Scene, read_pixels, smaller
from airpipe.reporting.table import setting_of, without_seed
from airpipe.settings.names import NONE

Array = npt.NDArray[Any]

FRAME = "#ffb000"
"""Amber of the crop's frame: visible on dark and bright pictures, also to the colour-blind."""
CELL = (1.62, 1.24)
"""Width and height in inches of a picture in the grid; its crop beside it is a square of that height."""
SIDE = 1.35
"""Side in inches of a picture of the recognition tests."""
Scored = tuple[Pixels, float | None]
"""A picture, and its PSNR in dB if it has one."""


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

    Every cell shows the picture with a frame, the framed crop beside it, and its PSNR in dB. Where models transfer a
    degradation, the reference stands behind the degraded picture, with a crop of its own centre.

    Args:
        scenes: test images, from `read_scenes`; all with the same models.
        zoom: side of the crop in pixels.
        target: PNG to write.
    """
    columns = max((len(scene.shown) for scene in scenes), default=1)
    width, height = 1.15 + columns * (sum(CELL) + 0.14), 0.4 + max(len(scenes), 1) * (CELL[1] + 0.34)
    with open_figure(target, width, height) as (figure, axes):
        axes[0, 0].axis("off")
        if not scenes:
            write_instead(axes[0, 0], "no pictures were kept")
        for row, scene in enumerate(scenes):
            _scene_row(figure, scene, zoom, top=0.36 + row * (CELL[1] + 0.34), head=row == 0)


def _scene_row(figure: Figure, scene: Scene, zoom: int, top: float, head: bool) -> None:
    """Draw one row; `top` is its distance in inches from the figure's upper edge."""
    width, height = figure.get_size_inches()
    pixels = {shown.file: read_pixels(shown.file) for shown in scene.shown}
    place = crop_place(pixels[scene.degraded.file], [pixels[shown.file] for shown in scene.restored], zoom)
    middle = 1 - (top + CELL[1] / 2) / height
    figure.text(0.1 / width, middle, _row_title(scene), ha="left", va="center", fontsize=8)
    for column, shown in enumerate(scene.shown):
        left = 1.15 + column * (sum(CELL) + 0.14)
        found = pixels[shown.file]
        _cell(figure, found, crop_place(found, (), zoom) if shown is scene.reference else place, left, top)
        centre = (left + sum(CELL) / 2) / width
        if head:
            figure.text(centre, 1 - 0.28 / height, shown.title, ha="center", fontsize=10, weight="bold")
        text = shown.note if shown.psnr is None else f"{shown.psnr:.2f} dB"
        figure.text(centre, 1 - (top + CELL[1] + 0.19) / height, text, ha="center", fontsize=9)


def _row_title(scene: Scene) -> str:
    """Test and image, cut into lines that fit the margin."""
    return "\n".join(
        textwrap.fill(name.replace("_", "_ "), 17).replace("_ ", "_")  # break after an underscore
        for name in (scene.test, scene.image)
    )


def _cell(figure: Figure, pixels: Pixels, place: tuple[int, int, int], left: float, top: float) -> None:
    """Draw a picture, as a small copy that takes little memory, and the framed crop beside it."""
    y, x, side = place
    height, width = pixels.shape[:2]
    frame: dict[str, Any] = {"color": FRAME, "linewidth": 1.6}
    whole, crop = _box(figure, left, top, CELL[0], "E"), _box(figure, left + CELL[0] + 0.03, top, CELL[1], "W")
    small = smaller(pixels, *(round(2 * DPI * inches) for inches in CELL))
    whole.imshow(small, interpolation="antialiased", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    whole.add_patch(Rectangle((x - 0.5, y - 0.5), side, side, fill=False, **frame))
    crop.imshow(pixels[y : y + side, x : x + side].copy(), interpolation="nearest")
    for name, spine in crop.spines.items():
        spine.set(**frame)
        whole.spines[name].set_visible(False)


def _box(figure: Figure, left: float, top: float, across: float, anchor: str) -> Axes:
    """Axes without ticks; place and width in inches, as high as a cell."""
    width, height = figure.get_size_inches()
    axis = figure.add_axes((left / width, 1 - (top + CELL[1]) / height, across / width, CELL[1] / height))
    axis.set(xticks=[], yticks=[], anchor=anchor)
    return axis


# Recognition


@dataclass(frozen=True)
class Row:
    """Arrays of one test image: what was given, what came out, the clean one, and a map per branch."""

    title: str
    degraded: Array
    restored: Array
    clean: Array
    maps: Array
    """Share of each branch at each place, (N, h, w); N is 0 where the enhancer has no branches."""


def read_pictures(
    results: Sequence[Mapping[str, Any]], files: Sequence[Path], tests: Sequence[str]
) -> tuple[str, list[Row]]:
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


def _rows(stored: Mapping[str, Array], test: str, facts: Mapping[str, Any]) -> list[Row]:
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
    height = SIDE * lines + 0.75
    with open_figure(target, SIDE * columns + 1.5, height, lines, columns) as (figure, axes):
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[], frame_on=False)
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


# Stages


@dataclass(frozen=True)
class Staged:
    """One image on its way through a network that restores in stages."""

    title: str
    degraded: Scored
    stages: tuple[Scored, ...]
    """What each stage made of it, first to last."""
    uncertainty: Array
    """Logarithm of the last stage's uncertainty of each pixel, (H, W)."""
    clean: Pixels


def read_stages(files: Mapping[str, Path], tests: Sequence[str]) -> list[Staged]:
    """Read what `airpipe.evaluation.stages.show_stages` kept of each model, by its id: all tests, model by model."""
    rows = []
    for model, file in files.items():
        with np.load(file, allow_pickle=False) as stored:
            rows += [_staged(stored, test, setting_of(without_seed(model))) for test in tests]
    return rows


def _staged(stored: Mapping[str, Array], test: str, label: str) -> Staged:
    found = {what: stored[f"{test}.{what}"] for what in ("degraded", "images", "map", "clean", "psnr")}
    before, *after = map(float, found["psnr"])
    stages = tuple(zip(found["images"], after, strict=True))
    uncertainty = np.asarray(found["map"], np.float32)
    return Staged(f"{label}\n{test}", (found["degraded"], before), stages, uncertainty, found["clean"])


def draw_stages(rows: Sequence[Staged], target: Path) -> None:
    """Draw one row per image: degraded, each stage, the map of uncertainty, clean; PSNR or the map's range below.

    Args:
        rows: from `read_stages`; those of networks with fewer stages leave columns empty.
        target: PNG to write.
    """
    count = max((len(row.stages) for row in rows), default=0)
    heads = ["degraded", *(f"stage {number}" for number in range(1, count + 1)), "uncertainty", "clean"]
    width, height = 0.5 + sum(CELL) * 0.72 * len(heads), 0.5 + 1.75 * max(len(rows), 1)
    with open_figure(target, width, height, max(len(rows), 1), len(heads)) as (figure, axes):
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[], frame_on=False)
        for axis, head in zip(axes[0], heads, strict=True):
            axis.set_title(head, fontsize=10, weight="bold")
        for line, row in zip(axes, rows, strict=False):
            line[0].set_ylabel(row.title, fontsize=8)
            shown = [row.degraded, *row.stages, (row.clean, None)]
            for axis, (pixels, psnr) in zip([*line[: len(shown) - 1], line[-1]], shown, strict=True):
                axis.imshow(pixels, interpolation="antialiased")
                axis.set_xlabel("" if psnr is None else f"{psnr:.2f} dB", fontsize=9)
            line[-2].imshow(row.uncertainty, cmap="viridis", interpolation="antialiased")
            line[-2].set_xlabel(f"{row.uncertainty.min():.2f} to {row.uncertainty.max():.2f}", fontsize=9)
        figure.tight_layout(pad=0.4)
