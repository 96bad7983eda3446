"""Bad pictures made of good ones, with the truth written down: what filters of a curation are measured with."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.pixels import Rgb8
from airpipe.progress import track
from airpipe.provenance import write_failed

KINDS = ("blurred", "flat", "tiny", "jpeg", "duplicate", "test")
"""Kinds of bad pictures, made in turns."""
TRUTH = ("path", "kind", "original")
"""Columns of truth.csv."""


def make_bad_pictures(good: Sequence[Path], tests: Sequence[Path], folder: Path, count: int, seed: int) -> None:
    """Make bad pictures in a new folder, and truth.csv in it.

    - blurred: Gaussian blur of 2.5 to 6 pixels;
    - flat: a drawing in few colours, or a small picture on a plain sheet;
    - tiny: the shorter side has 16 to 96 pixels;
    - jpeg: quality 2 to 6;
    - duplicate: smaller by 5 to 40 %, or cut by 1 to 3 %, saved again as JPEG;
    - test: a copy of a test image: its file, or as a duplicate.

    Args:
        good: files of good pictures.
        tests: files of test images.
        folder: must not exist; appears when all are made.
        count: number of bad pictures.
        seed: of all draws.

    Raises:
        AirpipeError: no pictures are given, one is corrupt, the folder is there, or the disk is full.
    """
    if not good or not tests:
        raise AirpipeError(f"{len(good)} good pictures and {len(tests)} test images were given; expected some of both")
    if folder.exists():
        raise AirpipeError(f"{folder}: is there already. Remove it, or name another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        with (partial / "truth.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(TRUTH)
            for number in track(range(count), count, "making bad pictures"):
                kind = KINDS[number % len(KINDS)]
                generator = np.random.default_rng([seed, number])
                # every test image in turn, so that none is left out
                turn = number // len(KINDS) % len(tests)
                original = tests[turn] if kind == "test" else good[int(generator.integers(len(good)))]
                made = _make(kind, original, partial / f"{kind}_{number:05d}", generator)
                writer.writerow((made.name, kind, original.name))
        partial.replace(folder)
    except OSError as error:
        raise write_failed(folder, error) from None


def _make(kind: str, original: Path, stem: Path, generator: np.random.Generator) -> Path:
    if kind == "test" and generator.random() < 0.25:
        return Path(shutil.copyfile(original, stem.with_suffix(original.suffix)))
    pixels = read_rgb8(original)
    if kind == "blurred":
        return _save(stem, ".png", cv2.GaussianBlur(pixels, (0, 0), generator.uniform(2.5, 6)))
    if kind == "flat":
        return _save(stem, ".png", _flat(pixels, generator))
    if kind == "tiny":
        factor = generator.integers(16, 97) / min(pixels.shape[:2])
        return _save(stem, ".png", cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))
    if kind == "jpeg":
        return _save(stem, ".jpg", pixels, int(generator.integers(2, 7)))
    return _save(stem, ".jpg", _again(pixels, generator), int(generator.integers(60, 96)))


def _flat(pixels: Rgb8, generator: np.random.Generator) -> Rgb8:
    height, width = pixels.shape[:2]
    sheet = np.full_like(pixels, generator.integers(200, 256))
    if generator.random() < 0.5:
        small = cv2.resize(pixels, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
        top, left = (int(generator.integers(0, length * 3 // 4)) for length in (height, width))
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
        return sheet
    for _ in range(int(generator.integers(3, 9))):
        colour = generator.integers(0, 256, 3).tolist()
        centre = int(generator.integers(0, width)), int(generator.integers(0, height))
        if generator.random() < 0.5:
            cv2.circle(sheet, centre, int(generator.integers(20, 120)), colour, -1)
        else:
            corner = centre[0] + int(generator.integers(20, 200)), centre[1] + int(generator.integers(20, 200))
            cv2.rectangle(sheet, centre, corner, colour, -1)
    return sheet


def _again(pixels: Rgb8, generator: np.random.Generator) -> Rgb8:
    """The picture smaller, or with a rim cut off."""
    if generator.random() < 0.5:
        factor = generator.uniform(0.6, 0.95)
        return np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)
    rows, columns = (max(1, int(length * generator.uniform(0.005, 0.015))) for length in pixels.shape[:2])
    return pixels[rows:-rows, columns:-columns]


def _save(stem: Path, suffix: str, pixels: npt.NDArray[Any], quality: int = 95) -> Path:
    path = stem.with_suffix(suffix)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    done, code = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., ::-1]), options)
    if not done:
        raise AirpipeError(f"{path}: cannot be encoded")
    path.write_bytes(code.tobytes())
    return path
