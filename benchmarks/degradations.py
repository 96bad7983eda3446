"""How fast samples of DegAE's pretext are degraded. `python -m benchmarks.degradations`.

A sample is two images, each once as input and once as target: four patches of 128 pixels from images of 480 pixels that
lie decoded in memory. Both ways run on one core, in turns within one run, with the same draws:

- published order: the four whole images are degraded, then cut; filters of SciPy, noise of NumPy's legacy generator;
- ours: `TrainingSamples` with the recipe `degae`, which degrades a patch and what it depends on;
- windows: what the loader is left with where the device degrades (`compute: degrade: device`): draws and cuts.

The processor time of this process counts, so that a busy neighbour does not. Before, patches whose draws are without
noise are compared: both ways give the same pixels. Then batches are copied to a device and degraded there, which is the
GPU where there is one (wall time, copies included). Goals are printed beside the numbers; the exit status is 0.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.utils._python_dispatch import TorchDispatchMode

from airpipe.data.deferred import DeferredBatch, collate_deferred
from airpipe.data.packages import locate
from airpipe.data.pairs import Pair
from airpipe.data.samples import TrainingSamples
from airpipe.data.sampling import SampleKey
from airpipe.degradations.blur import gaussian_kernel
from airpipe.degradations.noise import LUMA, channel_covariance
from airpipe.degradations.recipes import Drawn, draw
from airpipe.errors import run_main
from airpipe.images import read_rgb8
from airpipe.pixels import Rgb8
from airpipe.progress import track
from airpipe.settings.base import read_yaml
from airpipe.settings.degrading import Recipe
from airpipe.settings.stages import DataPart
from benchmarks.measuring import machine_line

SIDE, PATCH, SEED = 480, 128, 0
PHOTOGRAPHS = ("astronaut.png", "ihc.png", "motorcycle_left.png")
BURST = 25
"""Ours is so much faster that it makes every sample this often in its turn."""
Array = npt.NDArray[Any]


def make_images() -> list[Rgb8]:
    """Embedded photographs, their middle of 480 pixels."""
    images = []
    for name in PHOTOGRAPHS:
        image = read_rgb8(locate(f"skimage:data/{name}"))
        top, left = ((side - SIDE) // 2 for side in image.shape[:2])
        images.append(np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE]))
    return images


def blurred(image: Array, random: np.random.RandomState, **how: Any) -> Array:
    """Convolve with the whole kernel."""
    variance = how.get("sigma", 0) ** 2
    along, across = (variance + how.get(name, 0) for name in ("variance_along", "variance_across"))
    kernel = gaussian_kernel(how["kernel_size"], along, across, how.get("angle", 0))
    return np.asarray(ndimage.convolve(image, kernel[..., None], mode="mirror"))


def normal_noise(image: Array, random: np.random.RandomState, **how: Any) -> Array:
    """Draw Gaussian noise of a form."""
    height, width, channels = image.shape
    if how["form"] == "correlated":
        covariance = channel_covariance(how["sigma"], how["mixing"])
        return random.multivariate_normal(np.zeros(3), covariance, (height, width)).astype(np.float32)
    shape = (height, width, 1 if how["form"] == "grey" else channels)
    return random.normal(0, how["sigma"] / 255, shape).astype(np.float32)


def counted(image: Array, random: np.random.RandomState, **how: Any) -> Array:
    """Count photons."""
    image, photons = np.clip((image * 255).round(), 0, 255) / 255, how["photons"]
    if how["form"] == "independent":
        return np.asarray(random.poisson(image * photons).astype(np.float32) / photons)
    grey = np.clip((np.dot(image, LUMA) * 255).round(), 0, 255) / 255
    return np.asarray(image + (random.poisson(grey * photons).astype(np.float32) / photons - grey)[..., None])


def packed(image: Array, random: np.random.RandomState, **how: Any) -> Array:
    """Write and read a JPEG."""
    pixels = cv2.cvtColor((image.clip(0, 1) * 255).round().astype(np.uint8), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, how["quality"]])[1]
    return np.asarray(cv2.cvtColor(np.asarray(cv2.imdecode(data, 1)), cv2.COLOR_BGR2RGB)).astype(np.float32) / 255


PUBLISHED: dict[str, Callable[..., Array]] = {
    "gaussian_blur": blurred,
    "gaussian_noise": lambda image, random, **how: image + normal_noise(image, random, **how),
    "poisson_noise": counted,
    "speckle_noise": lambda image, random, **how: image + image * normal_noise(image, random, **how),
    "jpeg": packed,
}


@dataclass(frozen=True)
class Wanted:
    """A patch of a sample."""

    image: int
    top: int
    left: int
    turns: int
    flip: int

    def cut(self, degraded: Callable[[Array], Array], images: Sequence[Rgb8]) -> Rgb8:
        """Turn the whole image, degrade it, and cut the patch."""
        turned = np.rot90(images[self.image], self.turns)[:, :: -1 if self.flip else 1]
        image = degraded(np.ascontiguousarray(turned).astype(np.float32) / 255)
        rows, columns = (self.left, self.top) if self.turns % 2 else (self.top, self.left)
        return np.asarray((image[rows : rows + PATCH, columns : columns + PATCH] * 255).round(), np.uint8)


def draws_of(recipe: Recipe, count: int, slot: int) -> tuple[list[Wanted], list[Drawn]]:
    """What `TrainingSamples` draws for a sample: two patches, and the operations of input and target."""
    generator, patches = np.random.default_rng([SEED, slot]), list[Wanted]()
    for number in range(2):
        image = int(generator.integers(count)) if number else slot % count
        top, left = (int(generator.integers(SIDE - PATCH, endpoint=True)) for _ in range(2))
        patches.append(Wanted(image, top, left, int(generator.integers(4)), int(generator.integers(2))))
    return patches, [draw(recipe, generator) for _ in range(2)]


def published_order(images: Sequence[Rgb8], recipe: Recipe, slot: int) -> list[list[Rgb8]]:
    """Degrade whole images, then cut: of input and of target, both patches."""
    patches, sides = draws_of(recipe, len(images), slot)
    random = np.random.RandomState(slot)  # noqa: NPY002 - as published

    def degraded(image: Array, drawn: Drawn) -> Array:
        for step in drawn.effective:
            name = recipe.operations[step.place].operation
            image = np.clip(PUBLISHED[name](image, random, **step.parameters), 0, 1)
        return image

    return [[patch.cut(partial(degraded, drawn=drawn), images) for patch in patches] for drawn in sides]


def our_order(images: Sequence[Rgb8], samples: TrainingSamples, slot: int) -> list[list[Rgb8]]:
    """The same patches, by `TrainingSamples`."""
    sample = samples[SampleKey(slot, 0, slot % len(images), PATCH)]
    return [[sample[side], sample["companion"][side]] for side in ("degraded", "clean")]


def differences(images: Sequence[Rgb8], recipe: Recipe, samples: TrainingSamples, slots: int) -> list[float]:
    """Mean difference of both ways in grey levels, of each degraded patch without noise."""
    found = []
    for slot in range(slots):
        for side, drawn in enumerate(draws_of(recipe, len(images), slot)[1]):
            names = {recipe.operations[step.place].operation for step in drawn.steps}
            if names and names <= {"gaussian_blur", "jpeg"}:
                both = zip(
                    our_order(images, samples, slot)[side], published_order(images, recipe, slot)[side], strict=True
                )
                found += [float(abs(ours.astype(float) - theirs).mean()) for ours, theirs in both]
    return found


def measure(ways: dict[str, Callable[[int], int]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of processor time for a sample, per round; in every round each way has its turn."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in track(range(rounds + 1), rounds + 1, "measuring"):
        for name in ways if number % 2 else reversed(ways):
            start = time.process_time()
            count = ways[name](number)
            if number:  # the first round warms up
                spent[name].append(1000 * (time.process_time() - start) / count)
    return spent


def on_device(batches: Sequence[DeferredBatch], device: torch.device, rounds: int) -> list[float]:
    """Patches per second that are copied to a device and degraded there, per round over all batches."""
    rates = []
    for number in range(rounds + 1):
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        start = clock()
        for batch in batches:
            batch.to(device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:  # the first round warms up
            rates.append(sum(len(batch.work) for batch in batches) / (clock() - start))
    return rates


class Operations(TorchDispatchMode):
    """Counts PyTorch's operations, views and those on the host included; copies only where there is another device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations_of(batch: DeferredBatch, device: torch.device) -> int:
    """Count the operations that copy and degrade a batch."""
    with Operations() as operations:
        batch.to(device)
    return operations.count


def deferred_batches(samples: TrainingSamples, count: int, size: int, pinned: bool) -> list[DeferredBatch]:
    """Batches of `size` samples, each of four patches, as the loader hands them on."""
    sources = len(samples.sources[0])
    batches = [
        collate_deferred([samples[SampleKey(slot, 0, slot % sources, PATCH)] for slot in range(first, first + size)])
        for first in range(0, count * size, size)
    ]
    return [batch.pin_memory() for batch in batches] if pinned else batches


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, default=24, help="different samples in each round")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="degrades batches")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64], help="samples in a batch of the device")
    given = parser.parse_args()
    device = torch.device(given.device)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    written = read_yaml(Path(__file__).parents[1] / "config" / "recipes.yaml")["recipes"]["degae"]
    values = {"pairs": "bench.train", "companion": True, "surroundings": True}
    part = DataPart.model_validate({**values, "operations": written, "target_operations": written})
    images = make_images()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.png" for number in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            cv2.imwrite(str(path), image[..., ::-1])
        pairs = [Pair(path, None, "", "", "none", path.stem, path.stem) for path in paths]
        samples, later = (TrainingSamples([part], [pairs], SEED, defer=defer) for defer in (False, True))

        def each(way: Callable[[int], object], burst: int = 1) -> Callable[[int], int]:
            """One round: a way of making samples, for all slots of a round."""

            def run(number: int) -> int:
                slots = [*range(number * given.samples, (number + 1) * given.samples)] * burst
                for slot in slots:
                    way(slot)
                return len(slots)

            return run

        ways = {
            "published order": each(lambda slot: published_order(images, part.operations, slot)),
            "ours": each(lambda slot: our_order(images, samples, slot), BURST),
            "windows": each(lambda slot: later[SampleKey(slot, 0, slot % len(images), PATCH)], BURST),
        }
        same = differences(images, part.operations, samples, 40)
        spent = measure(ways, given.rounds)
        batches = {size: deferred_batches(later, 4, size, device.type == "cuda") for size in given.batch}
        patches = {size: on_device(found, device, given.rounds) for size, found in batches.items()}
        started = {
            size: round(statistics.mean(operations_of(b, device) for b in found)) for size, found in batches.items()
        }
    print(machine_line())
    print(f"\n{len(same)} patches without noise differ by at most {max(same):.4f} grey levels in the mean\n")
    print("\n".join([*sample_lines(spent), "", *batch_lines(patches, started, device)]))


def sample_lines(spent: dict[str, list[float]]) -> list[str]:
    """Lines of the table of samples, from milliseconds a sample of each way in each round."""
    # rounds have other draws, and are long or short by them: means, not medians
    rates = {name: 1000 / statistics.mean(rounds) for name, rounds in spent.items()}
    lines = [f"{'way':<24}{'samples/s/core':>16}{'ms a sample':>14}{'shortest round':>16}{'longest':>10}  goal"]
    for way, goal in (("published order", ""), ("ours", ">= 140"), ("windows", "")):
        mean, ends = 1000 / rates[way], f"{min(spent[way]):>16.2f}{max(spent[way]):>10.2f}"
        lines.append(f"{way:<24}{rates[way]:>16.1f}{mean:>14.2f}{ends}  {goal}")
    return [*lines, f"{'ours / published order':<24}{rates['ours'] / rates['published order']:>16.1f}{'':>40}  >= 40"]


def batch_lines(patches: dict[int, list[float]], started: dict[int, int], device: torch.device) -> list[str]:
    """Lines of the table of batches, from patches a second in each round and operations, by samples of a batch."""
    name, goal = "cpu, one thread", ""
    if device.type == "cuda":
        name, goal = torch.cuda.get_device_name(device), ">= 10,000"
    lines = [f"{'batches on ' + name:<40}{'patches/s':>12}{'slowest round':>16}{'fastest':>10}{'operations':>12}  goal"]
    for size, found in patches.items():
        ends = f"{min(found):>16,.0f}{max(found):>10,.0f}{started[size]:>12,}"
        lines.append(f"{4 * size:>5} patches of {PATCH:<22}{statistics.mean(found):>13,.0f}{ends}  {goal}")
    return lines


if __name__ == "__main__":
    run_main(main)
