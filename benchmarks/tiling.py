"""What tiling costs: pixels, memory, seams. `python -m benchmarks.tiling`.

Three tables from one run, on one core:

- pixels that the network computes for a 1920x1080 image, as multiples of the image, against a yardstick
  as restoration code often has it: square tiles of fixed size, the last one of a row pushed back;
- peak resident memory of a fresh process that restores an 8-bit RGB image of random pixels with a small
  NAFNet, in place, against the size of the image. What grows is the image itself (3 bytes a pixel), and
  with its width the accumulators (12 bytes for each pixel of a row of tiles);
- seams: largest and mean difference between tiled and whole results, for pixels in [0, 1]. For a network that
  sees a bounded neighbourhood it has a goal; networks that pool or attend globally see another image in each tile,
  and theirs is printed as it is. Weights are random, scaled so that every block counts.

Goals are printed beside the numbers; the exit status is 0.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError, run_main
from airpipe.evaluation.grid import plan_tiles
from airpipe.evaluation.tiling import restore_pixels, restore_tiled
from airpipe.images import read_rgb8
from airpipe.models.nafnet import NAFBlock
from airpipe.pixels import to_tensor
from airpipe.progress import track
from airpipe.registry import build_network, networks
from airpipe.resident import peak_bytes

SMALL: dict[str, Any] = {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
WORKLOADS: list[tuple[str, str, dict[str, Any]]] = [
    ("NAFNet without pooling", "nafnet", SMALL),
    ("NAFNet, global pooling", "nafnet", SMALL),
    ("NAFNet, local pooling (TLC)", "nafnet_tlc", {**SMALL, "train_size": [1, 3, 128, 128]}),
    (
        "Restormer, channel attention",
        "restormer",
        {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 2, 4]},
    ),
    (
        "SwinIR, windows of 8",
        "swinir",
        {"embed_dim": 24, "depths": [2, 2], "num_heads": [3, 3], "window_size": 8, "upscale": 1, "mlp_ratio": 2},
    ),
]


# Pixels


def pushed_back(length: int, tile: int, overlap: int) -> list[int]:
    """Starts of tiles of one size and step; the last is pushed back to the border."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def pixel_table(height: int, width: int) -> Iterator[str]:
    """Computed pixels per pixel of the image, for both schemes."""
    yield f"{'computed pixels / pixels of ' + f'{width}x{height}':<40}{'tiles':>16}{'share':>8}  goal"
    for tile, overlap in ((720, 32), (512, 32), (512, 64)):
        ours = plan_tiles(height, width, tile, overlap, 8)
        share = len(ours) * ours[0].height * ours[0].width / (height * width)
        goal = "<= 1.12" if overlap == 32 else ""
        form = f"{len(ours)} of {ours[0].width}x{ours[0].height}"
        yield f"{f'tile {tile}, overlap {overlap}: balanced':<40}{form:>16}{share:>8.3f}  {goal}"
        count = len(pushed_back(height, tile, overlap)) * len(pushed_back(width, tile, overlap))
        share = count * tile**2 / (height * width)
        yield f"{f'tile {tile}, overlap {overlap}: pushed back':<40}{f'{count} of {tile}x{tile}':>16}{share:>8.3f}"


# Memory


def _sides(megapixels: float) -> tuple[int, int]:
    """Height and width of a 3:2 image."""
    height = round((megapixels * 1e6 * 2 / 3) ** 0.5)
    return height, height * 3 // 2


def memory_of(megapixels: float, tile: int) -> None:
    """Restore one image in this process; print the bytes at rest, with the image, and at the peak."""
    torch.set_num_threads(1)
    network = _network("nafnet", SMALL)
    restore_pixels(network, np.zeros((64, 64, 3), np.uint8), tile=64)  # libraries load what they need
    rest = peak_bytes()
    image = np.random.default_rng(0).integers(0, 256, (*_sides(megapixels), 3), np.uint8)
    with_image = peak_bytes()
    restore_pixels(network, image, tile=tile, in_place=True)
    print(rest, with_image, peak_bytes())


def memory_table(sizes: list[float], tile: int) -> Iterator[str]:
    """Peak memory against image size, each in a process of its own."""
    yield f"{'image':<16}{'tiles':>16}{'image MB':>10}{'peak MB':>10}{'peak less image':>17}{'of it accumulators':>20}"
    for size in track(sizes, len(sizes), "measuring memory"):
        command = [sys.executable, "-m", "benchmarks.tiling", "--one-size", str(size), "--tile", str(tile)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise AirpipeError(f"the process for {size} megapixels failed: {done.stderr.strip()[-300:]}")
        rest, with_image, peak = (int(number) / 1e6 for number in done.stdout.split())
        height, width = _sides(size)
        tiles = plan_tiles(height, width, tile, 32, 4)
        yield (
            f"{f'{size:g} megapixels':<16}{f'{len(tiles)} of {tiles[0].width}x{tiles[0].height}':>16}"
            f"{3 * height * width / 1e6:>10.0f}{peak:>10.0f}{peak - (with_image - rest):>17.0f}"
            f"{12 * width * tiles[0].height / 1e6:>20.0f}"
        )


# Seams


def _network(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A network with random weights of which every block counts (new ones of NAFNet do nothing)."""
    torch.manual_seed(0)
    network = build_network(name, **arguments).eval()
    for key, parameter in network.named_parameters():
        if key.endswith(("beta", "gamma")):
            nn.init.constant_(parameter, 0.2)
    return network.requires_grad_(False)


def _without_pooling(network: nn.Module) -> nn.Module:
    """NAFNet whose channel attention looks at each pixel alone: it sees a bounded neighbourhood."""
    for block in network.modules():
        if isinstance(block, NAFBlock):
            block.sca[0] = nn.Identity()
    return network


def seam_table(image: Tensor, tile: int, overlap: int) -> Iterator[str]:
    """Differences between tiled and whole results."""
    head = f"{image.shape[2]}x{image.shape[1]}, tile {tile}, overlap {overlap}"
    yield f"{'seams: ' + head:<46}{'largest':>10}{'mean':>10}{'change of the image':>21}  goal"
    present = [row for row in WORKLOADS if row[1] in networks()]
    for label, name, arguments in track(present, len(present), "measuring seams"):
        network = _network(name, arguments)
        bounded = label.endswith("without pooling")
        network = _without_pooling(network) if bounded else network
        whole = restore_tiled(network, image, tile=0)
        off = (restore_tiled(network, image, tile=tile, overlap=overlap) - whole).abs()
        change = (whole - image).abs().mean()
        yield f"{label:<46}{off.max():>10.1e}{off.mean():>10.1e}{change:>21.3f}  {'< 1e-3' if bounded else ''}".rstrip()


def seam_image(root: Path | None) -> Tensor:
    """A piece of a photograph, (3, 384, 512), smooth and textured: DIV2K where it is at hand, else the astronaut."""
    files = sorted(root.glob("DIV2K/**/*.png")) if root else []
    pixels: Any = read_rgb8(files[0]) if files else skimage.data.astronaut()  # type: ignore[no-untyped-call]
    return to_tensor(np.ascontiguousarray(pixels[100:484, :512]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, help="folder with DIV2K; default: $AIRPIPE_SAMPLE_ROOT, else the astronaut"
    )
    parser.add_argument("--megapixels", type=float, nargs="+", default=[2, 10, 20, 40])
    parser.add_argument("--tile", type=int, default=512, help="of the memory table (default: %(default)s)")
    parser.add_argument("--seam-tile", type=int, default=224)
    parser.add_argument("--overlap", type=int, default=96, help="of the seams (default: %(default)s)")
    parser.add_argument("--one-size", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one_size:
        memory_of(given.one_size, given.tile)
        return
    torch.set_num_threads(1)
    root = given.root or (Path(os.environ["AIRPIPE_SAMPLE_ROOT"]) if "AIRPIPE_SAMPLE_ROOT" in os.environ else None)
    tables = (
        pixel_table(1080, 1920),
        seam_table(seam_image(root), given.seam_tile, given.overlap),
        memory_table(given.megapixels, given.tile),
    )
    for table in tables:
        print("\n" + "\n".join(table), flush=True)


if __name__ == "__main__":
    run_main(main)
