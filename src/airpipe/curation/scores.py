"""Scores of one picture; all are measured in one look at its pixels."""

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.curation.natural import Floats, brisque, naturalness, niqe, reference
from airpipe.curation.opening import Opened
from airpipe.data.duplicates import MAX_DISTANCE, Relation, compare
from airpipe.data.fingerprints import FingerprintTable, hash_of, luminance, pixels_sha256
from airpipe.data.windows import starts
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.pixels import Rgb8
from airpipe.settings.curation import PictureScoring
from airpipe.settings.datasets import Cut

Plugin = Callable[[Rgb8], float]
BLUR_WINDOW = 11
"""Pixels over which a picture is blurred again, to see what that changes (Crete et al.)."""
REMEMBERED = 64
"""Number of decoded test images that are kept."""


def load_plugins(targets: Mapping[str, str]) -> dict[str, Plugin]:
    """Import the functions of further scores.

    Args:
        targets: 'module:function' of each score by its name.

    Raises:
        AirpipeError: a module cannot be imported, or has no such function; whatever importing raises.
    """
    found = {}
    for name, target in targets.items():
        module, _, function = target.partition(":")
        try:
            found[name] = cast(Plugin, getattr(importlib.import_module(module), function))
        except Exception as error:  # whatever a module of somebody else raises
            raise AirpipeError(
                f"scores.plugins.{name}: {target} cannot be imported ({_brief(error)}). Install its package, or put it "
                "on PYTHONPATH; without it, remove the plug-in and its bound"
            ) from error
        if not callable(found[name]):
            raise AirpipeError(f"scores.plugins.{name}: {target} is no function, but {type(found[name]).__name__}")
    return found


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class Measured(NamedTuple):
    """What was measured of a picture."""

    scores: dict[str, float | None]
    """Scores by name."""
    patches: list[float]
    """Share of flat cells in each patch, in the order of `patch_places`."""
    phash: int
    """Perceptual hash (`airpipe.data.fingerprints.perceptual_hash`)."""


def measure(opened: Opened, settings: PictureScoring, plugins: Mapping[str, Plugin]) -> Measured:
    """Measure a picture: `settings.curation.MEASURES`, and what plug-ins give.

    - width, height, side (the shorter one): in pixels; aspect: longer by shorter side;
    - grey, alpha: 0 or 1;
    - brightness: mean luminance, 0 to 1;
    - blur: 0 to 1, see `blur`; flatness: share of flat cells, 0 to 1, see `flat_cells`;
    - niqe, brisque: see `airpipe.curation.natural`; None where a picture is too small or has no texture.

    brightness, blur, niqe and brisque are those of the middle part of `centre` pixels.

    Args:
        opened: the picture.
        settings: what is measured.
        plugins: further scores, from `load_plugins`.

    Raises:
        AirpipeError: a plug-in failed.
    """
    height, width = opened.pixels.shape[:2]
    grey = luminance(opened.pixels)
    middle = _middle(grey, settings.centre)
    natural = naturalness(middle)
    cells = flat_cells(grey, settings)
    scores = {
        "width": width,
        "height": height,
        "side": min(width, height),
        "aspect": max(width, height) / min(width, height),
        "grey": float(opened.grey),
        "alpha": float(opened.alpha),
        "brightness": float(middle.mean()) / 255,
        "blur": blur(middle),
        "flatness": float(cells.mean()),
        "niqe": niqe(natural, reference()) if natural else None,
        "brisque": brisque(natural, reference()) if natural else None,
        **{name: _plugged_in(name, plugin, opened) for name, plugin in plugins.items()},
    }
    side = settings.patch // settings.cell
    corners = [
        (left // settings.cell, top // settings.cell) for left, top in patch_places(width, height, settings.patch)
    ]
    patches = [float(cells[top : top + side, left : left + side].mean()) for left, top in corners]
    return Measured(scores, patches, hash_of(grey))


def _plugged_in(name: str, plugin: Plugin, opened: Opened) -> float:
    """What a plug-in gives; of a copy, since it may write into what it gets."""
    try:
        return float(plugin(opened.pixels.copy()))
    except Exception as error:
        raise AirpipeError(
            f"{opened.shown}: the plug-in {name} failed ({_brief(error)}). Mend it, then run again: scoring goes on "
            "with this picture. For one that cannot have the score it returns NaN"
        ) from error


def _middle(grey: Floats, side: int) -> Floats:
    top, left = (max(0, (length - side) // 2) for length in grey.shape)
    return np.ascontiguousarray(grey[top : top + side, left : left + side])


def blur(grey: Floats) -> float:
    """How little a picture changes when it is blurred again: 0 sharp, 1 blurred or flat.

    Args:
        grey: luminance (H, W), of any range.

    Source: F. Crete, T. Dolmiere, P. Ladret, M. Nicolas, The blur effect, SPIE 2007; equals
    `skimage.measure.blur_effect`, which is several times slower.
    """
    if min(grey.shape) < 4:
        return 1.0
    found = []
    for order, window in (((1, 0), (BLUR_WINDOW, 1)), ((0, 1), (1, BLUR_WINDOW))):
        again = cv2.blur(grey, window, borderType=cv2.BORDER_REFLECT)
        edges = [cv2.Sobel(one, cv2.CV_32F, *order, borderType=cv2.BORDER_REFLECT) for one in (grey, again)]
        sharp, soft = (np.abs(one, out=one)[2:-1, 2:-1] for one in edges)
        total = float(sharp.sum(dtype=np.float64))
        change = sharp - soft
        lost = float(np.maximum(change, 0, out=change).sum(dtype=np.float64))
        found.append(1 - lost / total if total else 1.0)
    return max(found)


def flat_cells(grey: Floats, settings: PictureScoring) -> npt.NDArray[np.bool_]:
    """Tell which cells are flat: the variance of their Laplacian is below `flat_below`.

    Args:
        grey: luminance (H, W) in [0, 255].
        settings: side of the cells and the variance.

    Returns:
        One truth value per whole cell, (H // cell, W // cell); a picture without one is flat.
    """
    rows, columns = (length // settings.cell for length in grey.shape)
    if not rows or not columns:
        return np.ones((1, 1), bool)
    rough = cv2.Laplacian(grey, cv2.CV_32F)[: rows * settings.cell, : columns * settings.cell]
    mean = cv2.resize(rough, (columns, rows), interpolation=cv2.INTER_AREA)
    square = cv2.resize(np.multiply(rough, rough, out=rough), (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(square - mean * mean < settings.flat_below)


def patch_places(width: int, height: int, patch: int) -> list[tuple[int, int]]:
    """Left and top of the patches of a picture, in rows, without overlap; none where none fits."""
    if min(width, height) < patch:
        return []
    cut = Cut(size=patch, step=patch, rest=patch)
    return [(left, top) for top in starts(height, cut) for left in starts(width, cut)]


class Leak(NamedTuple):
    """A test image that a picture shows."""

    test: str
    """`dataset.split:path` of the test image."""
    relation: Relation
    correlation: float


class TestImages:
    """The images of tests, to look whether a picture shows one of them.

    Args:
        tables: their fingerprints.
        find: function that gives the file of (dataset.split, relative path).
    """

    __test__ = False  # not a pytest class

    def __init__(self, tables: Sequence[FingerprintTable], find: Callable[[str, str], Path]) -> None:
        self.names = [(table.list_id, path) for table in tables for path in table.paths]
        self.hashes = np.concatenate([np.empty(0, np.uint64), *(table.phash for table in tables)])
        self.pixels = [digest.decode() for table in tables for digest in table.pixels_sha256]
        self._read = lru_cache(REMEMBERED)(lambda number: read_rgb8(find(*self.names[number])))

    def shown(self, pixels: Rgb8, phash: int) -> Leak | None:
        """Return the nearest test image that a picture shows, as the leakage report decides it; None for none.

        Args:
            pixels: the picture, uint8 RGB (H, W, 3).
            phash: its perceptual hash.

        Raises:
            AirpipeError: the file of a test image is missing or corrupt.
        """
        distances = np.bitwise_count(self.hashes ^ np.uint64(phash))
        near = np.flatnonzero(distances <= MAX_DISTANCE)
        own = pixels_sha256(pixels) if len(near) else ""
        for number in map(int, near[np.argsort(distances[near], kind="stable")]):
            name = ":".join(self.names[number])
            if own == self.pixels[number]:
                return Leak(name, "same pixels", 1.0)
            relation, correlation = compare(pixels, self._read(number))
            if relation is not None:
                return Leak(name, relation, correlation)
        return None


def tests_sha256(tables: Sequence[FingerprintTable]) -> str:
    """Hash of what is known of the test images."""
    digest = hashlib.sha256()
    for table in tables:
        digest.update(f"{table.list_id}\n".encode())
        digest.update("\n".join(table.paths).encode())
        digest.update(np.ascontiguousarray(table.phash).tobytes())
    return digest.hexdigest()
