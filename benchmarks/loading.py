"""How fast training pairs are loaded: raw decoding, files, packs. `python -m benchmarks.loading`.

Pairs are the images of CBSD68 and Kodak24 as PNG files in a temporary folder: clean, and degraded
with noise of sigma 25 (seed 0). All ways run on one core, in turns within one run, and the median
over rounds is given in pairs per second:

- raw decode: both files read with NumPy and decoded with OpenCV (`np.fromfile`, `cv2.imdecode`);
- files: `TrainingSamples` without image cache: the same, then crop, flip, turn;
- float path: a yardstick as training code is often written: decode both files, make the whole images
  float32, crop, flip, turn;
- pack: `TrainingSamples` on a pack in the page cache.

Loader processes multiply these numbers by the cores that they get. At the end: size and cost of
opening the index of a pack of two million pairs. Goals are printed beside the numbers; the exit status is 0.
"""

import argparse
import csv
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import torch

from airpipe.data.pack_contents import Contents
from airpipe.data.packing import pack_pairs, write_header, write_index
from airpipe.data.packs import IMAGE, INDEX, NO_IMAGE, PAIR, Pack
from airpipe.data.pairs import COLUMNS, Pair, read_pairs
from airpipe.data.samples import TrainingSamples
from airpipe.data.sampling import SampleKey
from airpipe.errors import AirpipeError, run_main
from airpipe.images import read_rgb8
from airpipe.pixels import Rgb8
from airpipe.progress import track
from airpipe.provenance import sha256_file
from airpipe.settings.stages import DataPart
from benchmarks.measuring import machine_line

SETS = ("CBSD68", "Kodak24")
SIGMA = 25
CROPS = (128, 256)
BURST = 4
"""The pack is so much faster that it loads every pair this often in its turn."""
ENTRIES = 2_000_000


def make_data(source: Path, folder: Path) -> list[Pair]:
    """Write clean and degraded PNG files, the pair list and the manifest.

    Raises:
        AirpipeError: no images below `source`.
    """
    files = sorted(path for name in SETS for path in (source / name).rglob("*") if path.suffix in (".png", ".jpg"))
    if not files:
        raise AirpipeError(
            f"{source}: holds no images of {' or '.join(SETS)}. Give --root FOLDER, or set AIRPIPE_SAMPLE_ROOT"
        )
    generator = np.random.default_rng(0)
    pairs, described = [], []
    (folder / "data").mkdir()
    for path in track(files, len(files), "writing pairs"):
        clean = read_rgb8(path)
        noisy = np.clip(clean + generator.normal(0, SIGMA, clean.shape), 0, 255).round().astype(np.uint8)
        names = (f"{path.stem}_noisy.png", f"{path.stem}.png")
        for name, image in zip(names, (noisy, clean), strict=True):
            place = folder / "data" / name
            cv2.imwrite(str(place), image[..., ::-1])
            described.append((name, place.stat().st_size, sha256_file(place), image.shape[1], image.shape[0]))
        pairs.append((*names, "noise", str(SIGMA), "none", path.stem, path.stem))
    write_csv(folder / "bench.train.csv", COLUMNS, pairs)
    write_csv(folder / "manifest.csv", ("path", "bytes", "sha256", "width", "height"), described)
    (folder / "bench.train.json").write_text("{}")
    return read_pairs(folder / "bench.train.csv", folder / "data")


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def raw_decode(pair: Pair) -> list[Rgb8]:
    """Both images of a pair, BGR."""
    paths = [path for path in (pair.clean, pair.degraded) if path is not None]
    return [cast(Rgb8, cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)) for path in paths]


def float_path(pair: Pair, crop: int, generator: np.random.Generator) -> list[npt.NDArray[np.float32]]:
    """Both patches, float32 RGB in [0, 1]; everything before the crop is done on whole images."""
    images = [image[..., ::-1].astype(np.float32) / 255 for image in raw_decode(pair)]
    top, left = (int(generator.integers(side - crop, endpoint=True)) for side in images[0].shape[:2])
    turns, flip = int(generator.integers(4)), bool(generator.integers(2))
    patches = [np.rot90(image[top : top + crop, left : left + crop], turns) for image in images]
    return [np.ascontiguousarray(patch[:, ::-1] if flip else patch) for patch in patches]


def measure(ways: dict[str, Callable[[int], int]], rounds: int) -> dict[str, list[float]]:
    """Pairs per second of each way, per round; in every round each way has its turn.

    Args:
        ways: by name; called with the number of the round, gives how many pairs it has loaded.
        rounds: after one that is not counted.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in track(range(rounds + 1), rounds + 1, "measuring"):
        for name in ways if number % 2 else reversed(ways):
            start = time.perf_counter()
            count = ways[name](number)
            if number:
                rates[name].append(count / (time.perf_counter() - start))
    return rates


def build_ways(pairs: list[Pair], pack: Pack) -> dict[str, Callable[[int], int]]:
    """The ways that are compared."""
    part = [DataPart(pairs="bench.train")]
    files, packed = TrainingSamples(part, [pairs], 0, cache_bytes=0), TrainingSamples(part, [pack], 0)

    def raw(number: int) -> int:
        for pair in pairs:
            raw_decode(pair)
        return len(pairs)

    def samples(source: TrainingSamples, crop: int, passes: int) -> Callable[[int], int]:
        def load(number: int) -> int:
            images = islice(cycle(range(len(pairs))), passes * len(pairs))
            for slot, image in enumerate(images, number * passes * len(pairs)):
                source[SampleKey(slot, 0, image, crop)]
            return passes * len(pairs)

        return load

    def floats(number: int) -> int:
        for index, pair in enumerate(pairs):
            float_path(pair, CROPS[0], np.random.default_rng([0, number * len(pairs) + index]))
        return len(pairs)

    ways: dict[str, Callable[[int], int]] = {"raw decode": raw, f"float path, crop {CROPS[0]}": floats}
    for crop in CROPS:
        ways[f"files, crop {crop}"] = samples(files, crop, 1)
        ways[f"pack, crop {crop}"] = samples(packed, crop, BURST)
    return ways


def report(rates: dict[str, list[float]]) -> str:
    """The table: rates, then ratios (medians of the ratios of each round) beside their goals."""

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))

    lines = [f"{'way':<28}{'pairs/s':>10}{'lowest':>10}{'highest':>10}"]
    lines += [f"{w:<28}{statistics.median(r):>10.1f}{min(r):>10.1f}{max(r):>10.1f}" for w, r in rates.items()]
    small, large = (f"crop {crop}" for crop in CROPS)
    rows = [
        (f"files / raw decode, {small}", ratio(f"files, {small}", "raw decode"), ">= 0.95"),
        (f"files / raw decode, {large}", ratio(f"files, {large}", "raw decode"), ">= 0.90"),
        (f"pack / files, {small}", ratio(f"pack, {small}", f"files, {small}"), ">= 20"),
        (f"pack / files, {large}", ratio(f"pack, {large}", f"files, {large}"), ""),
        (f"pack, {small}: pairs/s/core", statistics.median(rates[f"pack, {small}"]), ">= 4000"),
        (f"files / float path, {small}", ratio(f"files, {small}", f"float path, {small}"), ""),
    ]
    lines += ["", f"{'comparison':<38}{'found':>10}  goal"]
    return "\n".join([*lines, *(f"{what:<38}{found:>10.2f}  {goal}" for what, found, goal in rows)])


def large_index(folder: Path) -> str:
    """Make the index of a pack of two million images without degraded files (4x4 black pixels), and open it."""
    words = b"0000000_0.85_0.12\x00A=0.85 beta=0.12\x00haze"
    images, pairs = np.zeros(ENTRIES, IMAGE), np.zeros(ENTRIES, PAIR)
    images["offset"] = 48 * np.arange(ENTRIES, dtype=np.uint64)
    images["height"] = images["width"] = 4
    images["crc32"] = zlib.crc32(bytes(48))
    pairs["clean"], pairs["degraded"] = np.arange(ENTRIES), NO_IMAGE
    pairs["text"], pairs["length"] = len(words) * np.arange(ENTRIES, dtype=np.uint64), len(words)
    contents = Contents("big.train", "", "", [], np.empty((0, 32), np.uint8), images, pairs, words * ENTRIES)
    write_index(contents, folder)
    with (folder / "pixels.bin").open("wb") as stream:
        stream.truncate(contents.pixel_bytes)
    write_header(contents.name, folder)
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        Pack.open(folder)
        seconds.append(time.perf_counter() - start)
    size = sum((folder / name).stat().st_size for name in INDEX)
    return (
        f"index of {ENTRIES:,} images: {size / ENTRIES:.1f} bytes an image (goal: < 100), "
        f"opened in {1000 * statistics.median(seconds):.1f} ms (first time {1000 * seconds[0]:.1f} ms)"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder with CBSD68 and Kodak24; default: $AIRPIPE_SAMPLE_ROOT")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    source = given.root or Path(os.environ.get("AIRPIPE_SAMPLE_ROOT", "."))
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = make_data(source, folder)
        facts = pack_pairs(
            folder / "bench.train.csv", folder / "manifest.csv", folder / "data", folder / "packed", os.cpu_count() or 1
        )
        rates = measure(build_ways(pairs, Pack.open(Path(facts["folder"]))), given.rounds)
        big = folder / "big"
        big.mkdir()
        print(
            f"\n{machine_line()}\n{len(pairs)} pairs, {given.rounds} rounds, one core\n\n{report(rates)}\n\n"
            f"{large_index(big)}"
        )


if __name__ == "__main__":
    run_main(main)
