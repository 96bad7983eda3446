"""Labelled pictures of eight shapes on coloured noise: data that everybody has, for demos and tests.

Source: ours. A picture is a function of seed, split and number: another
number of pictures changes none, and splits share none.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.errors import AirpipeError
from airpipe.pixels import Rgb8, as_floats, quantised
from airpipe.progress import track
from airpipe.settings.datasets import MadeShapes

FINER = 4
"""Factor by which shapes are drawn larger before they are averaged, for soft edges."""
SUBPIXEL = 4
"""Number of binary digits of OpenCV's coordinates behind the point."""
Mask = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]


def _disc(mask: Mask, centre: Points, radius: float, angle: float, value: int = 255) -> None:
    x, y = np.rint(centre * 2**SUBPIXEL).astype(int).tolist()
    cv2.circle(mask, (x, y), round(radius * 2**SUBPIXEL), value, cv2.FILLED, cv2.LINE_8, SUBPIXEL)


def _polygon(mask: Mask, centre: Points, radius: float, angle: float, corners: Sequence[tuple[float, float]]) -> None:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = centre + radius * np.asarray(corners) @ turn.T
    cv2.fillPoly(mask, [np.rint(points * 2**SUBPIXEL).astype(np.int32)], 255, cv2.LINE_8, SUBPIXEL)


def _regular(count: int, radii: Sequence[float] = (1.0,)) -> list[tuple[float, float]]:
    """Corners on circles: radius `radii[i % len(radii)]`, evenly spaced."""
    angles = 2 * np.pi * np.arange(count) / count
    return [(r * np.cos(a), r * np.sin(a)) for a, r in zip(angles, np.resize(radii, count), strict=True)]


def _box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _outlines(*outlines: Sequence[tuple[float, float]]) -> Callable[[Mask, Points, float, float], None]:
    def fill(mask: Mask, centre: Points, radius: float, angle: float) -> None:
        for outline in outlines:
            _polygon(mask, centre, radius, angle, outline)

    return fill


def _ring(mask: Mask, centre: Points, radius: float, angle: float) -> None:
    _disc(mask, centre, radius, angle)
    _disc(mask, centre, 0.55 * radius, angle, 0)


def _crescent(mask: Mask, centre: Points, radius: float, angle: float) -> None:
    _disc(mask, centre, radius, angle)
    _disc(mask, centre + 0.5 * radius * np.array([np.cos(angle), np.sin(angle)]), 0.85 * radius, angle, 0)


SHAPES: dict[str, Callable[[Mask, Points, float, float], None]] = {
    "bars": _outlines(*(_box(-1, y - 0.18, 1, y + 0.18) for y in (-0.62, 0.0, 0.62))),
    "crescent": _crescent,
    "disc": _disc,
    "plus": _outlines(_box(-1, -0.25, 1, 0.25), _box(-0.25, -1, 0.25, 1)),
    "ring": _ring,
    "square": _outlines(_regular(4)),
    "star": _outlines(_regular(10, (1.0, 0.4))),
    "triangle": _outlines(_regular(3)),
}
"""How the shape of each class is filled in, given centre, radius (both in pixels of the mask) and angle (radians)."""
CLASSES = tuple(sorted(SHAPES))
"""Names of the classes, sorted."""


def class_of(seed: int, split: str, number: int) -> str:
    """Tell the class of a picture: every eight pictures show all classes, in a drawn order."""
    block, place = divmod(number, len(CLASSES))
    # the 1 sets this stream apart from the one that draws the picture, which has a 0 there
    order = np.random.default_rng([seed, zlib.crc32(split.encode()), 1, block]).permutation(len(CLASSES))
    return CLASSES[int(order[place])]


def draw_picture(seed: int, split: str, number: int, side: int) -> Rgb8:
    """Draw a picture of one shape, (side, side, 3) uint8 RGB.

    Args:
        seed: seed of the data set.
        split: name of the split.
        number: number of the picture, from 0.
        side: side of the picture in pixels.

    Returns:
        One shape of radius 22 to 36 % of the side, its centre at most 12 % off the middle, turned by any angle, over
        a background of 2 to 6 cells a side at 0.8 of full brightness; its colour differs from the background's mean
        by at least 0.3 in a channel. All of it varies in brightness by up to 7.5 %, in 12 cells a side.
    """
    # The order of draws is a contract: another one gives other pictures for the same seed.
    generator = np.random.default_rng([seed, zlib.crc32(split.encode()), 0, number])
    cells = int(generator.integers(2, 6, endpoint=True))
    grid = generator.random((cells, cells, 3), dtype=np.float32)
    background = np.clip(cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC), 0, 1) * np.float32(0.8)
    mean = background.mean(axis=(0, 1))
    colour = generator.random(3, dtype=np.float32)
    while np.abs(colour - mean).max() < 0.3:
        colour = generator.random(3, dtype=np.float32)
    mask = np.zeros((FINER * side, FINER * side), np.uint8)
    radius = generator.uniform(0.22, 0.36) * FINER * side
    centre = (0.5 + generator.uniform(-0.12, 0.12, 2)) * FINER * side - 0.5  # OpenCV counts from the middle of a pixel
    SHAPES[class_of(seed, split, number)](mask, centre, radius, generator.uniform(0, 2 * np.pi))
    cover = as_floats(cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA))[..., None]
    spots = generator.uniform(0.925, 1.075, (12, 12)).astype(np.float32)
    texture = cv2.resize(spots, (side, side), interpolation=cv2.INTER_LINEAR)[..., None]
    picture = (background * (1 - cover) + colour * cover) * texture
    return quantised(np.asarray(picture, np.float32))


def make_shapes(made: MadeShapes, folder: Path) -> dict[str, int]:
    """Write all splits as `<split>/<class>/<number>.png` into an empty folder.

    Returns:
        Number of pictures by split.

    Raises:
        AirpipeError: a picture cannot be written, for example because the disk is full.
    """
    for split, count in made.counts.items():
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
        for number in track(range(count), count, f"drawing {split}"):
            path = folder / split / class_of(made.seed, split, number) / f"{number:06}.png"
            picture = draw_picture(made.seed, split, number, made.side)
            if not cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]):
                raise AirpipeError(f"{path}: cannot be written. Free disk space, then run the same command again")
    return dict(made.counts)
