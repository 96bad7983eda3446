"""What was waste, against the way it is now: before / after. `python -m benchmarks.cost`.

"Before" is a frozen copy of our own way until November 2026: AdamW and average one operation after the other, batches
turned to (3, H, W) by hand, loaded networks with contiguous weights, a second pass of the backbone for the classifier,
weather spread over the channels by NumPy. Both ways take turns within one run, the order reversed every other round;
CPU time of the process, so that a busy neighbour does not count; the ratio is the median over rounds. What both ways
compute is compared before: equal bits, or the largest difference. `floor` is what the same takes in plain OpenCV, draws
included; the goal of snow and haze is 2 times that.

Random weights and images (seed 0), one thread. The exit status is 0 whatever the numbers are.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from airpipe.degradations.weather import SNOW_LAYERS, flake_kernel, haze, procedural_depth, snow
from airpipe.errors import run_main
from airpipe.methods.dsrir.network import PatchAttention
from airpipe.models.restormer import lengths
from airpipe.pixels import FloatImage, channels_first, in_floats
from airpipe.registry import build_network
from airpipe.settings.stages import OptimizerSettings
from airpipe.training.averages import MovingAverage
from airpipe.training.task import make_optimizer
from benchmarks.measuring import cpu_times, machine_line

NAFNET = {"width": 16, "middle_blk_num": 2, "enc_blk_nums": [1, 1, 2], "dec_blk_nums": [1, 1, 1]}
DECAY, BATCH, PATCH, SIDE = 0.99, 4, 64, 256
SNOW = {"density": 0.01, "size": 8.0, "motion": 4.0, "angle": 10.0, "strength": 0.9}
HAZE = {"airlight": 0.9, "beta": 1.0, "near": 0.2, "far": 1.5}


@dataclass(frozen=True)
class Comparison:
    """One thing in two ways, or three."""

    name: str
    before: Callable[[], Any]
    after: Callable[[], Any]
    goal: str
    repeats: int
    floor: Callable[[], Any] | None = None


def snow_layers(image: FloatImage) -> Iterator[tuple[FloatImage, float, tuple[int, int], tuple[slice, slice]]]:
    """Of each layer of snow: its kernel, its density, its size with margins, and the place of the image in it."""
    height, width = image.shape[:2]
    for scale, share in SNOW_LAYERS:
        kernel = flake_kernel(max(1.0, scale * SNOW["size"]), scale * SNOW["motion"], SNOW["angle"])
        margin = kernel.shape[0] // 2
        inner = (slice(margin, margin + height), slice(margin, margin + width))
        yield kernel, SNOW["density"] * share, (height + 2 * margin, width + 2 * margin), inner


# Before: our own way, frozen


def turned(images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
    """Images (H, W, 3) as a contiguous tensor (B, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


def numpy_snow(image: FloatImage, generator: np.random.Generator) -> FloatImage:
    """Snow, its mask spread over the channels by NumPy."""
    transmitted = np.ones(image.shape[:2], np.float32)
    for kernel, density, padded, inner in snow_layers(image):
        places = generator.random(padded, dtype=np.float32) < density
        opacity = generator.uniform(0.5, 1.0, padded).astype(np.float32) * np.float32(SNOW["strength"])
        transmitted *= 1 - np.clip(cv2.filter2D(np.where(places, opacity, 0), -1, kernel)[inner], 0, 1)
    mask = (1 - transmitted)[..., None]
    return np.asarray(image * (1 - mask) + mask, np.float32)


def numpy_haze(image: FloatImage, generator: np.random.Generator) -> FloatImage:
    """Haze, its transmission spread over the channels by NumPy."""
    beta, near, far = (np.float32(HAZE[name]) for name in ("beta", "near", "far"))
    depth = procedural_depth((image.shape[0], image.shape[1]), generator)
    transmission = np.exp(-beta * (near + np.float32(HAZE["far"] - HAZE["near"]) * depth))[..., None]
    return np.asarray(image * transmission + np.float32(HAZE["airlight"]) * (1 - transmission), np.float32)


# Floors


def opencv_snow(image: FloatImage, generator: np.random.Generator) -> FloatImage:
    """The draws of three layers, their filters, and one blend."""
    transmitted = np.ones(image.shape[:2], np.float32)
    for kernel, density, padded, inner in snow_layers(image):
        drawn = generator.random(padded, dtype=np.float32)
        flakes = cv2.threshold(drawn, 1 - density, 1, cv2.THRESH_TOZERO)[1]
        generator.random(padded)
        transmitted = cv2.multiply(transmitted, cv2.subtract(1, cv2.filter2D(flakes, -1, kernel)[inner]))
    return opencv_blend(image, transmitted, cv2.subtract(1, transmitted))


def opencv_haze(image: FloatImage, generator: np.random.Generator) -> FloatImage:
    """A resized grid as the depth, its exponential, and one blend."""
    bumps = generator.standard_normal((3, 3)).astype(np.float32)
    depth = cv2.resize(bumps, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)
    transmission = cv2.exp(cv2.multiply(depth, -HAZE["beta"]))
    return opencv_blend(image, transmission, cv2.multiply(cv2.subtract(1, transmission), HAZE["airlight"]))


def opencv_blend(image: FloatImage, share: Any, light: Any) -> FloatImage:
    """The image times a map, plus another one."""
    return np.asarray(cv2.add(cv2.multiply(image, cv2.merge([share] * 3)), cv2.merge([light] * 3)), np.float32)


# Both ways of the same


class Step:
    """Training steps from samples of 8 bit to the moving average.

    Args:
        frozen: the way before.
    """

    def __init__(self, frozen: bool) -> None:
        self.network = seeded("nafnet", NAFNET).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.stack = turned if frozen else stacked
        parameters = list(self.network.parameters())
        self.optimizer: Optimizer = (
            AdamW(parameters, lr=1e-3, weight_decay=0.0)
            if frozen
            else make_optimizer(parameters, OptimizerSettings(learning_rate=1e-3))
        )
        self.average = frozen_average(self.network) if frozen else our_average(self.network)
        self.samples = [pictures(BATCH, PATCH), pictures(BATCH, PATCH)]

    def take(self) -> Tensor:
        """Take a step; gives its loss."""
        degraded, clean = (in_floats(self.stack(images)) for images in self.samples)
        loss = (self.network(degraded) - clean).abs().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.network)
        return loss.detach()


def seeded(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A network whose random weights are the same in every call."""
    torch.manual_seed(0)
    return build_network(name, **arguments)


def pictures(count: int, side: int) -> list[npt.NDArray[np.uint8]]:
    """Random images of 8 bit, (side, side, 3)."""
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


def stacked(images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
    """Images (H, W, 3) as a tensor (B, 3, H, W), as `collate` makes it."""
    return channels_first(np.stack(images))


def frozen_average(network: nn.Module) -> AveragedModel:
    """torch's own moving average."""
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(DECAY))  # type: ignore[no-untyped-call]


def our_average(network: nn.Module) -> MovingAverage:
    """The moving average of trainings."""
    return MovingAverage(network, DECAY)


def averaging(make: Callable[[nn.Module], AveragedModel]) -> Callable[[], list[Tensor]]:
    """Updates of a moving average after the weights have changed."""
    network = seeded("nafnet", NAFNET)
    average = make(network)
    average.update_parameters(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)

    weights = [parameter.detach() for parameter in average.module.parameters()]

    def update() -> list[Tensor]:
        average.update_parameters(network)
        return weights

    return update


def restoring(layout: torch.memory_format) -> Callable[[], Tensor]:
    """The forward pass of a loaded network whose weights have a layout."""
    network = seeded("nafnet", NAFNET).eval().to(memory_format=layout)  # type: ignore[call-overload]
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def restore() -> Any:
        return network(image)

    return restore


def analysing(once: bool) -> Callable[[], Tensor]:
    """Features and class of a crop, from one pass of the backbone or from two."""
    arguments = {"backbone": {"name": "nafnet", "arguments": NAFNET}, "num_classes": 5}
    network = seeded("dcpt", arguments).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    crop = torch.rand(1, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def analyse() -> Any:
        if once:
            logits, levels = network(crop, classify=True, features=True)
        else:
            levels, logits = network(crop, features=True), network(crop, classify=True)
        return torch.cat([logits.flatten(), *(level.flatten() for level in levels)])

    return analyse


def measuring_lengths(fused: bool) -> Callable[[], Tensor]:
    """Lengths of the queries and keys of an image, as Restormer's attention takes them."""
    qkv = torch.rand(1, 24, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    qkv = qkv.contiguous(memory_format=torch.channels_last)
    vectors = rearrange(qkv, "b (three h d) y x -> b three h d (y x)", three=3, h=1)[:, :2]
    return torch.inference_mode()(lambda: lengths(vectors, fused))


def attending(frozen: bool) -> Callable[[], Tensor]:
    """DSRIR's patch attention of an image."""
    torch.manual_seed(0)
    part = PatchAttention(24, 4, 4).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.rand(1, 24, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    image = image.contiguous(memory_format=torch.channels_last)

    def interpolated(x: Tensor) -> Tensor:
        weights = part.conv_du(F.avg_pool2d(x, (SIDE // part.grid, SIDE // part.grid)))
        return x * F.interpolate(weights, (SIDE, SIDE), mode="nearest-exact")

    return torch.inference_mode()(lambda: interpolated(image) if frozen else part(image))


def weather(way: Callable[..., FloatImage], **how: float) -> Callable[[], FloatImage]:
    """A degradation of a picture, with the same draws in every call."""
    image = pictures(1, SIDE)[0].astype(np.float32) / 255
    return lambda: way(image, np.random.default_rng(0), **how)


def comparisons() -> list[Comparison]:
    """All that is compared."""
    images = pictures(BATCH, PATCH)
    return [
        Comparison("training step", Step(frozen=True).take, Step(frozen=False).take, ">= 1.08", 2),
        Comparison("moving average", averaging(frozen_average), averaging(our_average), ">= 4", 20),
        Comparison("collate", lambda: turned(images), lambda: stacked(images), "", 100),
        Comparison("restore", restoring(torch.contiguous_format), restoring(torch.channels_last), ">= 1.12", 2),
        Comparison("feature analysis", analysing(once=False), analysing(once=True), "", 2),
        Comparison("lengths", measuring_lengths(True), measuring_lengths(False), "", 10),
        Comparison("patch attention", attending(frozen=True), attending(frozen=False), "", 10),
        Comparison("snow", weather(numpy_snow), weather(snow, **SNOW), "floor <= 2", 10, weather(opencv_snow)),
        Comparison("haze", weather(numpy_haze), weather(haze, **HAZE), "floor <= 2", 10, weather(opencv_haze)),
    ]


def largest_difference(before: Any, after: Any) -> float:
    """Of two tensors, images, or lists of them."""
    if isinstance(before, list):
        return max(largest_difference(*both) for both in zip(before, after, strict=True))
    return float(np.abs(np.asarray(before) - np.asarray(after)).max())


def row(one: Comparison, rounds: int) -> str:
    """Measure one comparison; gives its line of the table."""
    off = largest_difference(one.before(), one.after())
    ways = {"before": one.before, "after": one.after} | ({"floor": one.floor} if one.floor else {})
    times = cpu_times(ways, rounds, one.repeats)
    middle = {name: statistics.median(spent) for name, spent in times.items()}
    ratio = statistics.median(b / a for b, a in zip(times["before"], times["after"], strict=True))
    line = f"{one.name:<20}{middle['before']:>12.3f}{middle['after']:>10.3f}{ratio:>10.2f}x{off:>14.1e}"
    if one.floor:
        over = statistics.median(a / f for a, f in zip(times["after"], times["floor"], strict=True))
        line += f"{middle['floor']:>10.3f}{over:>9.2f}x"
    else:
        line += f"{'':>20}"
    return f"{line}  {one.goal}".rstrip()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(f"{machine_line()}, {given.rounds} rounds; CPU ms\n")
    print(f"{'what':<20}{'before':>12}{'after':>10}{'ratio':>11}{'difference':>14}{'floor':>10}{'of floor':>10}  goal")
    for one in comparisons():
        print(row(one, given.rounds), flush=True)


if __name__ == "__main__":
    run_main(main)
