"""Small pictures, lists and settings for tests of curation."""

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from airpipe.curation.listing import write_listing
from airpipe.curation.opening import Opener
from airpipe.curation.polite import Fetcher
from airpipe.curation.scores import TestImages
from airpipe.curation.scoring import Scorer, read_scores
from airpipe.data.packages import locate
from airpipe.images import read_rgb8
from airpipe.settings.curation import Bound, Choosing, PictureScoring, numbered

PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")
SIDE = 200
SETTINGS = PictureScoring(centre=192, patch=64, largest=1_000_000)
CHOOSING = Choosing(bounds={"side": Bound(least=100), "blur": Bound(most=0.7), "flatness": Bound(most=0.9)})


def photographs() -> dict[str, np.ndarray]:
    """Middle parts of photographs that show different things, uint8 RGB of 200 pixels, by name."""
    found = {}
    for name in PHOTOGRAPHS:
        pixels = read_rgb8(locate(f"skimage:data/{name}"))
        top, left = ((length - SIDE) // 2 for length in pixels.shape[:2])
        found[name.split(".")[0]] = np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE])
    return found


def save(path: Path, pixels: np.ndarray, quality: int = 95) -> Path:
    """Write a picture in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else [])
    return path


def save_photographs(folder: Path) -> dict[str, np.ndarray]:
    """Write the photographs as PNG files and return them."""
    found = photographs()
    for name, pixels in found.items():
        save(folder / f"{name}.png", pixels)
    return found


def nothing_tested() -> TestImages:
    """No test images."""
    return TestImages([], lambda *_: Path())


def score(
    folder: Path,
    sources: dict[str, tuple[str, str]],
    shards: int = 1,
    settings: PictureScoring = SETTINGS,
    tests: TestImages | None = None,
) -> list[Path]:
    """List sources in a folder, score all shards, and return the tables."""
    listing = folder / "listing.tsv"
    write_listing(sources, listing)
    with Opener(sources, Fetcher(folder / "cache", per_second=1000)) as opener:
        scorer = Scorer(listing, opener, tests or nothing_tested(), settings)
        files = [folder / "scores" / f"{name}.csv" for name in numbered(shards)]
        for number, file in enumerate(files):
            scorer.run(number, shards, file)
    return files


def bodies(files: Sequence[Path]) -> bytes:
    """Rows of tables without their headers."""
    return b"".join(file.read_bytes().split(b"\n", 1)[1] for file in files)


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a csv file."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def rows_of(files: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Rows of tables of scores by the name in the tar file, or the path."""
    return {row["name"] or row["path"]: row for row in read_scores(files)}


def encoded(pixels: np.ndarray) -> bytes:
    """A picture as PNG."""
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
