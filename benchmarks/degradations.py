"""How fast samples of DegAE's pretext are degraded. `python -m benchmarks.degradations`.

A sample is two images, each once as input and once as target: four patches of 128 pixels from images of 480 pixels that
lie decoded in memory. Both ways run on one core, in turns within one run, with the same draws:

- published order: the four whole images are degraded, then cut; filters of SciPy, noise of NumPy's legacy generator;
- ours: `TrainingSamples` with the recipe `degae`, which degrades a patch and what it depends on.

The processor time of this process counts, so that a busy neighbour does not. Before, patches whose draws are without
noise are compared: both ways give the same pixels. Goals are printed beside the numbers; the exit status is 0.
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
from scipy import ndimage

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
    """Samples per second of processor time, per round; in every round each way has its turn."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in track(range(rounds + 1), rounds + 1, "measuring"):
        for name in ways if number % 2 else reversed(ways):
            start = time.process_time()
            count = ways[name](number)
            if number:  # the first round warms up
                rates[name].append(count / (time.process_time() - start))
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, default=24, help="different samples in each round")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    written = read_yaml(Path(__file__).parents[1] / "config" / "recipes.yaml")["recipes"]["degae"]
    values = {"pairs": "bench.train", "companion": True, "surroundings": True}
    part = DataPart.model_validate({**values, "operations": written, "target_operations": written})
    images = make_images()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.png" for number in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            cv2.imwrite(str(path), image[..., ::-1])
        pairs = [Pair(path, None, "", "", "none", path.stem, path.stem) for path in paths]
        samples = TrainingSamples([part], [pairs], SEED)

        def ours(number: int) -> int:
            slots = range(number * given.samples, (number + 1) * given.samples)
            for slot in [*slots] * BURST:
                our_order(images, samples, slot)
            return BURST * len(slots)

        def published(number: int) -> int:
            slots = range(number * given.samples, (number + 1) * given.samples)
            for slot in slots:
                published_order(images, part.operations, slot)
            return len(slots)

        same = differences(images, part.operations, samples, 40)
        rates = measure({"published order": published, "ours": ours}, given.rounds)
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["published order"], strict=True))
    print(f"\n{len(same)} patches without noise differ by at most {max(same):.4f} grey levels in the mean\n")
    print(f"{'way':<28}{'samples/s/core':>16}{'lowest':>10}{'highest':>10}  goal")
    for way, goal in (("published order", ""), ("ours", ">= 140")):
        rate = rates[way]
        print(f"{way:<28}{statistics.median(rate):>16.1f}{min(rate):>10.1f}{max(rate):>10.1f}  {goal}")
    print(f"{'ours / published order':<28}{ratio:>16.1f}{'':>20}  >= 40")


if __name__ == "__main__":
    run_main(main)
