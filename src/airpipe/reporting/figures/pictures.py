"""Pictures of the report: test images before and after, and what an enhancer gave to recognisers.

No torch here: the pictures read are 8-bit RGB files that the evaluation wrote.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from airpipe.errors import AirpipeError
from airpipe.reporting.figures.charts import GREY, open_figure
from airpipe.reporting.reading import score_info
from airpipe.reporting.table import setting_of, short_labels, without_seed
from airpipe.settings.names import NONE

Pixels = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]

FRAME = "#ffb000"
"""Amber of the crop's frame: visible on dark and bright pictures, also to the colour-blind."""
CELL = (1.62, 1.24)
"""Width and height in inches of a picture in the grid; its crop beside it is a square of that height."""
SIDE = 1.35
"""Side in inches of a picture of the recognition tests."""
MODELS = 4
"""Models shown in pictures, unless more are named in the settings."""
SCENES = 24
"""Test images shown."""


@dataclass(frozen=True)
class Shown:
    """One picture of the report: uint8 (H, W, 3) RGB under a title, with its PSNR in dB if it has one."""

    title: str
    pixels: Pixels
    psnr: float | None = None
    model: str = ""
    """Id without seed."""
    note: str = ""
    """Words below it, where it has no PSNR."""


@dataclass(frozen=True)
class Scene:
    """One test image: degraded first, then restored by each model, clean last."""

    test: str
    image: str
    pictures: tuple[Shown, ...]
    reference: Shown | None = None
    """What models are shown beside the degraded picture, where they transfer a degradation; of any size."""

    @property
    def shown(self) -> tuple[Shown, ...]:
        """All pictures in the order of their columns: the reference stands behind the degraded one."""
        return (self.degraded, *([self.reference] if self.reference else []), *self.pictures[1:])

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


def read_scenes(scores: Sequence[Path], pictures: Path, report: Mapping[str, Any]) -> list[Scene]:
    """Read the first kept pictures of every test, at most `SCENES`, each with some models (first seed of each).

    Models are those named in the settings, the best, the median one, then the first ones, up to `MODELS`; tests with
    the same models show the same ones.

    Args:
        scores: score files of `none` and the models; their tests and models give the order.
        pictures: folder that holds <model id>/<test>/<image>.png (usually results/restored).
        report: of ReportSettings: `protocol` whose PSNR is shown (a test without it shows its first one),
            `images_per_test` and `models`.

    Raises:
        AirpipeError: a picture is missing, or the models kept different ones.
    """
    files: dict[str, dict[str, Path]] = {}
    infos = {path: score_info(path) for path in scores}
    for path, info in infos.items():
        files.setdefault(info["test"], {}).setdefault(without_seed(info["model"]), path)
    psnr = {test: {m: read_psnr(path, report["protocol"]) for m, path in of.items()} for test, of in files.items()}
    labels = short_labels(dict.fromkeys(model for of in files.values() for model in of))
    kept = {test: infos[of[NONE]]["kept"][: report["images_per_test"]] for test, of in files.items()}
    turns = [(turn, test) for test, names in kept.items() for turn in range(len(names))]
    wanted = set(sorted(turns, key=lambda place: place[0])[:SCENES])  # the first image of every test, then the next
    scenes = []
    for test, of in files.items():
        alike = [psnr[other] for other in files if set(files[other]) == set(of)]
        chosen = choose_models(alike, report["models"])
        for image in (image for turn, image in enumerate(kept[test]) if (turn, test) in wanted):
            shown = [
                Shown(labels[model], picture(pictures, infos[of[model]], image), psnr[test][model].get(image), model)
                for model in (NONE, *chosen)
            ]
            scene = _scene(test, image, shown, picture(pictures, infos[of[NONE]], f"{image}_clean"))
            scenes.append(_of_transfer(scene, of[NONE], pictures) if infos[of[NONE]].get("transfers") else scene)
    return scenes


def choose_models(psnr: Sequence[Mapping[str, Mapping[str, float]]], named: Sequence[str]) -> list[str]:
    """Choose the models to show: the named ones, the best, the median one, then the first ones, up to `MODELS`.

    Args:
        psnr: for each of some tests, PSNR in dB by model and image.
        named: method/setting or method/setting@variant of each model that is wanted in any case.
    """
    means = {
        model: float(np.mean([value for test in psnr for value in test[model].values()]))
        for model in psnr[0]
        if model != NONE
    }
    ranked = sorted(means, key=lambda model: -means[model])
    first = [model for model in means if setting_of(model) in named]
    chosen = dict.fromkeys([*first, *ranked[:1], *ranked[len(ranked) // 2 :][:1], *means])
    kept = list(chosen)[: max(MODELS, len(first))]
    return [model for model in means if model in kept]


def picture(folder: Path, info: Mapping[str, Any], name: str) -> Pixels:
    """Read a picture that was kept beside a score file, whose facts are given."""
    return read_pixels(folder / info["model"] / info["test"] / f"{name}.png")


def _of_transfer(scene: Scene, scores: Path, pictures: Path) -> Scene:
    """The scene of a test of transfer: with its reference, and with the operations that were drawn for the target."""
    frame = pd.read_csv(scores, dtype=str, keep_default_na=False)
    level = frame[frame["image"] == scene.image]["level"].iloc[0].replace("+", " + ")
    shown = picture(pictures, score_info(scores), f"{scene.image}_reference")
    reference = Shown("reference", shown, note=level)
    target = replace(scene.pictures[-1], title="target", note=level)
    return replace(scene, pictures=(*scene.pictures[:-1], target), reference=reference)


def _scene(test: str, image: str, shown: Sequence[Shown], clean: Pixels) -> Scene:
    scene = Scene(test, image, (replace(shown[0], title="degraded"), *shown[1:], Shown("clean", clean)))
    if len({one.pixels.shape for one in scene.pictures}) > 1:
        sizes = ", ".join(f"{s.title} {s.pixels.shape[1]}x{s.pixels.shape[0]}" for s in scene.pictures)
        raise AirpipeError(f"{test}, {image}: pictures differ in size ({sizes}); run the evaluation again")
    return scene


def read_psnr(path: Path, protocol: str) -> dict[str, float]:
    """PSNR in dB by image in a score file, under `protocol` or the file's first one.

    Raises:
        AirpipeError: it has none.
    """
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows = frame[frame["metric"] == "psnr"]
    if rows.empty:
        raise AirpipeError(f"{path}: has no psnr; run the evaluation again")
    wanted = rows["protocol"] == (protocol if protocol in set(rows["protocol"]) else rows["protocol"].iloc[0])
    return dict(zip(rows[wanted]["image"], rows[wanted]["value"].astype(float), strict=True))


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
            axes[0, 0].text(0.5, 0.5, "no pictures were kept", ha="center", va="center", color=GREY)
        for row, scene in enumerate(scenes):
            _scene_row(figure, scene, zoom, top=0.36 + row * (CELL[1] + 0.34), head=row == 0)


def _scene_row(figure: Figure, scene: Scene, zoom: int, top: float, head: bool) -> None:
    """Draw one row; `top` is its distance in inches from the figure's upper edge."""
    width, height = figure.get_size_inches()
    place = crop_place(scene.degraded.pixels, [shown.pixels for shown in scene.restored], zoom)
    middle = 1 - (top + CELL[1] / 2) / height
    figure.text(0.1 / width, middle, _row_title(scene), ha="left", va="center", fontsize=8)
    for column, shown in enumerate(scene.shown):
        left = 1.15 + column * (sum(CELL) + 0.14)
        _cell(figure, shown, crop_place(shown.pixels, (), zoom) if shown is scene.reference else place, left, top)
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
