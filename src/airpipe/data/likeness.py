"""How like the two files of a pair are: equal ones, files of another pair, and pairs that are shifted by a pixel.

Source: ours; the faults are those of copies that are passed around (equal files, contents of two pairs of LOL swapped,
Rain100L cut from different corners).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.data.crops import align
from airpipe.data.fingerprints import luminance
from airpipe.images import read_rgb8
from airpipe.pixels import Rgb8

SIDE = 16
"""Side in pixels of the thumbnails that are compared between pairs."""
LIKE = 0.8
"""Least rank correlation of thumbnails of one scene: 78 of 84 real pairs with rain, haze, blur or low light have it."""
MARGIN = 0.2
"""How much better a degraded image has to fit another clean image than its own. Of the 84 pairs and
the clean images of all of them, a picture of real haze fits another one better by 0.11, all others by less."""
CENTRE = 256
"""Largest side in pixels of the middle part that is laid over its partner."""
LIKE_DETAILS = 0.3
"""Least correlation of details of the same place."""
DETAILS_GAIN = 0.1
"""How much better details have to fit when they are moved by a pixel. Of the 84 pairs, one of blur and one of real haze
do as they are; moved by one row on purpose 75 do: of the others six are blurred, two of real haze and one is dark."""
Thumbnail = npt.NDArray[np.float32]
"""Ranks of the brightness of `SIDE` x `SIDE` pixels, (SIDE²,), of mean 0 and norm 1 (0 where flat): what darkens or
flattens an image changes no rank."""


@dataclass(frozen=True)
class Likeness:
    """How like the files of one pair are."""

    name: str
    clean_file: str
    psnr: float
    """RGB PSNR in dB; inf for equal pixels."""
    shift: tuple[int, int]
    """Rows and columns, of -1 to 1, by which the degraded image fits better; (0, 0) where it fits as it lies."""
    degraded: Thumbnail
    clean: Thumbnail


def likeness(task: tuple[str, str, str, str]) -> Likeness:
    """Compare the 8-bit images of a pair.

    Args:
        task: degraded file, clean file, crop rule, name of the pair.

    Raises:
        AirpipeError: a file cannot be read, or the sizes differ after the crop rule.
    """
    degraded_file, clean_file, crop, name = task
    degraded, clean = align(read_rgb8(Path(degraded_file)), read_rgb8(Path(clean_file)), crop, name)
    thumbnails = _thumbnail(degraded), _thumbnail(clean)
    return Likeness(name, clean_file, _psnr(degraded, clean), _shift(degraded, clean), *thumbnails)


def _psnr(one: Rgb8, other: Rgb8) -> float:
    error = cv2.norm(one, other, cv2.NORM_L2SQR) / one.size
    return 10 * math.log10(255**2 / error) if error else math.inf


def _thumbnail(image: Rgb8) -> Thumbnail:
    small = cv2.resize(luminance(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
    _, places, counts = np.unique(np.rint(4 * small), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2)[places.ravel()]  # equal ones share their mean rank
    ranks = (ranks - ranks.mean()).astype(np.float32)
    norm = np.linalg.norm(ranks)
    return np.asarray(ranks / norm if norm else ranks, np.float32)


def _shift(degraded: Rgb8, clean: Rgb8) -> tuple[int, int]:
    """The best of nine places of the middle of the degraded image over the clean one, by the correlation of details."""
    height, width = (min(CENTRE, side - 2) for side in clean.shape[:2])
    if min(height, width) < SIDE:
        return 0, 0
    top, left = (clean.shape[0] - height) // 2, (clean.shape[1] - width) // 2
    box = slice(top - 1, top + height + 1), slice(left - 1, left + width + 1)
    moved, still = _details(degraded[box]), _details(clean[box])[1:-1, 1:-1]
    matches = {
        (down, right): _correlation(moved[1 - down : 1 - down + height, 1 - right : 1 - right + width], still)
        for down, right in itertools.product((0, -1, 1), repeat=2)
    }
    best = max(matches, key=lambda place: matches[place])
    return best if matches[best] >= max(LIKE_DETAILS, matches[0, 0] + DETAILS_GAIN) else (0, 0)


def _details(image: Rgb8) -> npt.NDArray[np.float32]:
    brightness = luminance(image)
    return np.asarray(brightness - cv2.blur(brightness, (5, 5)), np.float32)


def _correlation(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    scale = math.sqrt(float((one * one).sum()) * float((other * other).sum()))
    return float((one * other).sum()) / scale if scale else 0.0


def swapped(pairs: Sequence[Likeness]) -> list[tuple[str, str]]:
    """Find pairs whose degraded image shows the clean image of another pair instead of its own.

    Returns:
        Name of each such pair, and of the pair whose clean image it fits.
    """
    if not pairs:
        return []
    match = np.stack([pair.degraded for pair in pairs]) @ np.stack([pair.clean for pair in pairs]).T
    best, own = match.argmax(axis=1).tolist(), match.diagonal()
    found = (match.max(axis=1) >= LIKE) & (match.max(axis=1) - own >= MARGIN)
    others = [(pair, pairs[best[place]]) for place, pair in enumerate(pairs) if found[place]]
    return [(pair.name, other.name) for pair, other in others if pair.clean_file != other.clean_file]


def likeness_notes(pairs: Sequence[Likeness], equal: Sequence[str], total: int) -> list[str]:
    """Say what is odd about pairs, one line for each fault: count and first names.

    Args:
        pairs: pairs that were compared.
        equal: names of all pairs whose files are equal.
        total: number of pairs of the list.
    """
    notes = []
    if equal:
        notes.append(
            f"{len(equal)} of {total} degraded files equal their clean ones (first: {_first(equal)}): nothing to "
            "restore there; left out of the mean input PSNR, and of means in tables"
        )
    others = [f"{name} shows {other}" for name, other in swapped(pairs)]
    if others:
        notes.append(
            f"{len(others)} of {len(pairs)} degraded files fit the clean file of another pair better than their own "
            f"(first: {_first(others)}): contents may be swapped"
        )
    shifted = [
        f"{pair.name} by {pair.shift[0]:+d} rows, {pair.shift[1]:+d} columns" for pair in pairs if any(pair.shift)
    ]
    if shifted:
        notes.append(
            f"{len(shifted)} of {len(pairs)} degraded files fit better when they are moved by a pixel "
            f"(first: {_first(shifted)}): cut from different corners (`crop` of the layout), or moved by blur"
        )
    return notes


def _first(names: Sequence[str]) -> str:
    return "; ".join(names[:3])
