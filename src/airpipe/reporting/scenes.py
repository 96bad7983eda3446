"""What the report shows of test images: which ones, before and after each model, with their PSNR.

No torch and no plotting here: pictures are 8-bit RGB files that the evaluation wrote. They are read when they are
shown, one at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from airpipe.errors import AirpipeError
from airpipe.reporting.frames import RESCORE, text_frame
from airpipe.reporting.reading import score_info
from airpipe.reporting.table import counted, setting_of, short_labels, shown_protocol, without_seed
from airpipe.settings.names import NONE

T = TypeVar("T")
Pixels = npt.NDArray[np.uint8]

MODELS = 4
"""Models shown in pictures, where the settings name none or few."""
SCENES = 24
"""Test images shown."""


@dataclass(frozen=True)
class Shown:
    """One picture of the report: a file under a title, with its PSNR in dB if it has one."""

    title: str
    file: Path
    psnr: float | None = None
    model: str = ""
    """Id without seed."""
    note: str = ""
    """Words below it, where it has no PSNR."""


@dataclass(frozen=True)
class Scene:
    """One test image: degraded first, then restored by each chosen model, clean last."""

    test: str
    image: str
    pictures: tuple[Shown, ...]
    reference: Shown | None = None
    """What models are shown beside the degraded picture, where they transfer a degradation; of any size."""
    others: tuple[Shown, ...] = ()
    """What models that were not chosen made of it: of the first image of each test."""

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
        """What each chosen model made of the degraded picture."""
        return self.pictures[1:-1]


def read_pixels(path: Path, fit: tuple[int, int] | None = None) -> Pixels:
    """Read an 8-bit picture that the evaluation wrote, or a figure, (H, W, 3) RGB.

    Args:
        path: its file.
        fit: width and height in pixels to which a larger one is scaled down.

    Raises:
        AirpipeError: missing, not decodable, or too large to be a picture.
    """

    def take(image: Image.Image) -> Pixels:
        if fit is not None:  # before there is another copy of it
            image.thumbnail(fit, Image.Resampling.LANCZOS)
        return np.asarray(image.convert("RGB"), np.uint8)

    return _read(path, take)


def _read(path: Path, take: Callable[[Image.Image], T]) -> T:
    try:
        with Image.open(path) as image:
            return take(image)
    except (OSError, Image.DecompressionBombError) as error:
        raise AirpipeError(f"{path}: cannot be read ({error}); run the evaluation again") from None


def smaller(pixels: Pixels, width: int, height: int) -> Pixels:
    """Scale a picture down, never up, until it fits a width and height in pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image)


def read_scenes(scores: Sequence[Path], pictures: Path, report: Mapping[str, Any]) -> list[Scene]:
    """Find the first kept pictures of every test, at most `SCENES`, each with some models (first seed of each).

    Which models, `choose_models` says; tests with the same models show the same ones.

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
        none = infos[of[NONE]]
        levels = _levels(of[NONE]) if none.get("transfers") else {}
        chosen = choose_models([psnr[other] for other in files if set(files[other]) == set(of)], report["models"])
        for turn, image in enumerate(kept[test]):
            if (turn, test) not in wanted:
                continue
            found = {
                model: Shown(labels[model], picture(pictures, infos[path], image), psnr[test][model].get(image), model)
                for model, path in of.items()
            }
            scene = _scene(test, image, found, chosen, picture(pictures, none, f"{image}_clean"))
            if levels:
                scene = _of_transfer(scene, levels[image], picture(pictures, none, f"{image}_reference"))
            scenes.append(scene if turn == 0 else replace(scene, others=()))
    return scenes


def choose_models(psnr: Sequence[Mapping[str, Mapping[str, float]]], named: Sequence[str]) -> list[str]:
    """Choose the models to show: the named ones, the best and the median one, then the first ones, up to `MODELS`.

    Args:
        psnr: for each of some tests, PSNR in dB by model and image. The best and the median are those by the mean over
            all images of these tests; of an even number, the lower of the two in the middle.
        named: method/setting or method/setting@variant of each model that is wanted in any case.
    """
    means = {
        model: float(counted(np.array([value for test in psnr for value in test[model].values()])).mean())
        for model in psnr[0]
        if model != NONE
    }
    ranked = sorted(means, key=lambda model: -means[model])
    wanted = [model for model in means if setting_of(model) in named]
    wanted = list(dict.fromkeys([*wanted, *ranked[:1], *ranked[len(ranked) // 2 :][:1]]))
    filled = dict.fromkeys([*wanted, *means])
    kept = list(filled)[: max(MODELS, len(wanted))]
    return [model for model in means if model in kept]


def picture(folder: Path, info: Mapping[str, Any], name: str) -> Path:
    """Where a picture lies that was kept beside a score file, whose facts are given."""
    return Path(folder, info["model"], info["test"], f"{name}.png")


def _levels(scores: Path) -> dict[str, str]:
    """Level of each image in a score file: of a test of transfer, the operations that were drawn for the target."""
    frame = text_frame(scores, RESCORE)
    return dict(zip(frame["image"], frame["level"], strict=True))


def _of_transfer(scene: Scene, level: str, file: Path) -> Scene:
    """The scene of a test of transfer: with its reference, and with the operations that were drawn for the target."""
    note = level.replace("+", " + ")
    target = replace(scene.pictures[-1], title="target", note=note)
    return replace(scene, pictures=(*scene.pictures[:-1], target), reference=Shown("reference", file, note=note))


def _scene(test: str, image: str, found: Mapping[str, Shown], chosen: Sequence[str], clean: Path) -> Scene:
    pictures = (replace(found[NONE], title="degraded"), *(found[model] for model in chosen), Shown("clean", clean))
    sizes = [(shown.title, _read(shown.file, lambda image: image.size)) for shown in pictures]
    if len({size for _, size in sizes}) > 1:
        told = ", ".join(f"{title} {width}x{height}" for title, (width, height) in sizes)
        raise AirpipeError(f"{test}, {image}: pictures differ in size ({told}); run the evaluation again")
    others = tuple(shown for model, shown in found.items() if model not in (NONE, *chosen))
    return Scene(test, image, pictures, others=others)


def read_psnr(path: Path, protocol: str) -> dict[str, float]:
    """PSNR in dB by image in a score file, under `protocol` or the file's first one.

    Raises:
        AirpipeError: it has none.
    """
    frame = text_frame(path, RESCORE)
    rows = frame[frame["metric"] == "psnr"]
    if rows.empty:
        raise AirpipeError(f"{path}: has no psnr to show with pictures; name one in a protocol of the test")
    rows = rows[rows["protocol"] == shown_protocol(list(rows["protocol"]), protocol)]
    return dict(zip(rows["image"], rows["value"].astype(float), strict=True))
