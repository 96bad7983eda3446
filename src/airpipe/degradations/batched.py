"""Degradations of many images at once, as operations on tensors: for GPUs.

Each has the distribution of the operation of its name in `airpipe.degradations`, and takes its parameters as lists, one
value for each image. Images are float32 (N, 3, H, W), RGB, nominally in [0, 1]; each lies in the upper left of its
frame with a size of its own, and beyond it are arbitrary finite numbers. Noise comes from a generator for each image:
what else is in a batch changes an image by rounding only.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from airpipe.degradations.blur import SMALLEST_VARIANCE
from airpipe.degradations.noise import FORMS, LUMA, channel_factors
from airpipe.degradations.recipes import Drawn, defaults
from airpipe.pixels import levels, of_levels

Sizes = Sequence[tuple[int, int]]
"""Height and width of each image of a batch; its frame may be larger."""


def sent(values: Any, device: torch.device) -> Tensor:
    """Copy numbers to a device without waiting for what it still has to do."""
    return torch.as_tensor(values).to(device, non_blocking=True)


# Frames


def mirrored(place: Tensor, length: Tensor) -> Tensor:
    """Place of a pixel beyond the border that is mirrored without being repeated, as OpenCV's BORDER_REFLECT_101."""
    last = length - 1
    return (last - (place.remainder(2 * last.clamp_min(1)) - last).abs()).clamp_min(0)


def repeated(place: Tensor, length: Tensor) -> Tensor:
    """Place of a pixel beyond the border that is repeated."""
    return torch.minimum(place.clamp_min(0), length - 1)


def reframed(
    images: Tensor, sizes: Sizes, before: int, frame: tuple[int, int], border: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Give images other frames, and continue each beyond its own border.

    Args:
        images: (N, C, H, W).
        sizes: of each image.
        before: pixels that are added above and on the left.
        frame: height and width of the new frames.
        border: where the value of a place beyond the border stands: `mirrored` or `repeated`.
    """
    lengths = torch.tensor(sizes)  # on the host: what follows is small
    rows, columns = (
        border(torch.arange(-before, side - before).expand(len(sizes), -1), lengths[:, axis : axis + 1])
        for axis, side in enumerate(frame)
    )
    return taken(images, rows, columns)


def cut(images: Tensor, corners: Sequence[tuple[int, int]], side: tuple[int, int]) -> Tensor:
    """Cut a part of this height and width out of each image, at its own corner (top, left)."""
    rows, columns = (
        torch.tensor(corners)[:, axis : axis + 1] + torch.arange(length) for axis, length in enumerate(side)
    )
    return taken(images, rows, columns)


def taken(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Take rows (N, h) and columns (N, w) of images (N, C, H, W), others of each: (N, C, h, w)."""
    device = images.device
    number, channel = (torch.arange(count, device=device) for count in images.shape[:2])
    rows, columns = sent(rows, device), sent(columns, device)
    return images[number[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]]


def framed(images: Sequence[Tensor], frame: Sequence[int]) -> Tensor:
    """Lay images (C, h, w) into one batch (N, C, H, W), each into the upper left of a frame of zeros."""
    padded = [F.pad(one, (0, frame[1] - one.shape[2], 0, frame[0] - one.shape[1])) for one in images]
    return torch.stack(padded)


# Operations


def gaussian_kernels(
    side: Sequence[int], along: Sequence[float], across: Sequence[float], angle: Sequence[float], device: torch.device
) -> Tensor:
    """Sample Gaussians at the pixels of square kernels, see `blur.gaussian_kernel`.

    Returns:
        (N, S, S) with the largest side S; smaller ones lie in the middle of zeros.
    """
    first, second, turn, width = sent(np.array([along, across, angle, side], np.float32), device)[:, :, None, None]
    half = max(side) // 2
    columns = torch.arange(-half, half + 1, dtype=torch.float32, device=device)
    rows = columns[:, None]
    cosine, sine = torch.deg2rad(turn).cos(), torch.deg2rad(turn).sin()
    lengths = (columns * cosine - rows * sine) ** 2 / first + (columns * sine + rows * cosine) ** 2 / second
    inside = torch.maximum(rows.abs(), columns.abs()) < width / 2
    point = torch.minimum(first, second) < SMALLEST_VARIANCE
    density = torch.where(point, (rows == 0) & (columns == 0), torch.exp(-lengths / 2) * inside).float()
    return density / density.sum((1, 2), keepdim=True)


def gaussian_blur(
    images: Tensor,
    sizes: Sizes,
    generators: Sequence[torch.Generator],
    *,
    kernel_size: Sequence[int],
    sigma: Sequence[float],
    variance_along: Sequence[float],
    variance_across: Sequence[float],
    angle: Sequence[float],
) -> Tensor:
    """Blur with Gaussians, see `blur.gaussian_blur`: in the frequency domain, where the kernel's size costs nothing."""
    along, across = (
        [one**2 + more for one, more in zip(sigma, variance, strict=True)]
        for variance in (variance_along, variance_across)
    )
    kernels = gaussian_kernels(kernel_size, along, across, angle, images.device)
    reach, (height, width) = kernels.shape[-1] // 2, images.shape[2:]
    frame = (_quick(height + 2 * reach), _quick(width + 2 * reach))
    spread = reframed(images, sizes, reach, frame, mirrored)
    kernels = F.pad(kernels, (0, frame[1] - kernels.shape[2], 0, frame[0] - kernels.shape[1]))
    kernels = kernels.roll((-reach, -reach), (1, 2))  # the middle of a kernel belongs to the first pixel
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(spread) * torch.fft.rfft2(kernels)[:, None], frame)
    return blurred[:, :, reach : reach + height, reach : reach + width]


def _quick(side: int) -> int:
    """The next side without large prime factors, for fast Fourier transforms."""
    return -(-side // 32) * 32


def normal_noise(
    images: Tensor,
    sizes: Sizes,
    generators: Sequence[torch.Generator],
    sigma: Sequence[float],
    form: Sequence[str],
    mixing: Sequence[Sequence[float]],
) -> Tensor:
    """Draw Gaussian noise of each image's form, (N, 3, H, W); 0 beyond the image."""
    noise = framed(
        [
            torch.randn(3, *size, generator=generator, device=images.device)
            for size, generator in zip(sizes, generators, strict=True)
        ],
        images.shape[2:],
    )
    factors = channel_factors(sigma, form, mixing).astype(np.float32)
    return torch.einsum("nij,njhw->nihw", sent(factors, images.device), noise)


def gaussian_noise(
    images: Tensor,
    sizes: Sizes,
    generators: Sequence[torch.Generator],
    *,
    sigma: Sequence[float],
    form: Sequence[str],
    mixing: Sequence[Sequence[float]],
) -> Tensor:
    """Add white Gaussian noise, see `noise.gaussian_noise`."""
    return images + normal_noise(images, sizes, generators, sigma, form, mixing)


def speckle_noise(
    images: Tensor,
    sizes: Sizes,
    generators: Sequence[torch.Generator],
    *,
    sigma: Sequence[float],
    form: Sequence[str],
    mixing: Sequence[Sequence[float]],
) -> Tensor:
    """Add Gaussian noise in proportion to the brightness, see `noise.speckle_noise`."""
    return images + images * normal_noise(images, sizes, generators, sigma, form, mixing)


def poisson_noise(
    images: Tensor,
    sizes: Sizes,
    generators: Sequence[torch.Generator],
    *,
    photons: Sequence[float],
    form: Sequence[str],
    legacy_bgr: Sequence[bool],
) -> Tensor:
    """Replace brightness by a count of photons, see `noise.poisson_noise`.

    Counts are exact on the CPU; CUDA's generator takes rounded normal numbers for means above 4000.
    """
    rounded = mean = of_levels(levels(images))
    alone = [one == FORMS[0] for one in form]
    if not all(alone):
        weights = sent([LUMA[::-1] if swap else LUMA for swap in legacy_bgr], images.device)
        red, green, blue = (rounded * weights[:, :, None, None]).unbind(1)
        grey = of_levels(levels(red + green + blue))  # no matrix product, whose order of sums may depend on the batch
        mean = torch.where(sent(alone, images.device)[:, None, None, None], rounded, grey[:, None])
    most = sent(np.array(photons, np.float32), images.device)[:, None, None, None]
    counts = [
        torch.poisson(rate[: 3 if one else 1, :height, :width], generator=generator).expand(3, -1, -1)
        for rate, one, (height, width), generator in zip((mean * most).unbind(), alone, sizes, generators, strict=True)
    ]
    return rounded + (framed(counts, images.shape[2:]) / most - mean)


LUMA_TABLE = (
    *(16, 11, 10, 16, 24, 40, 51, 61), *(12, 12, 14, 19, 26, 58, 60, 55), *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62), *(18, 22, 37, 56, 68, 109, 103, 77), *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101), *(72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMA_TABLE = (
    *(17, 18, 24, 47, 99, 99, 99, 99), *(18, 21, 26, 66, 99, 99, 99, 99), *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99), *([99] * 32),
)  # fmt: skip
"""Steps of the 64 frequencies at quality 50, row by row (ITU-T T.81, annex K)."""


def jpeg(
    images: Tensor,
    sizes: Sizes,
    generators: Sequence[torch.Generator],
    *,
    quality: Sequence[int],
    legacy_bgr: Sequence[bool],
) -> Tensor:
    """Round as JPEG does, see `compression.jpeg`: 4:2:0 chroma, tables and filters of libjpeg, without its bit stream.

    Libjpeg transforms in whole numbers; here it is done in float32, so that single pixels may differ by a few levels.
    """
    height, width = images.shape[2:]
    frame = (-(-height // 16) * 16, -(-width // 16) * 16)
    pixels = levels(reframed(images, sizes, 0, frame, repeated))
    red, green, blue = _swapped(pixels, legacy_bgr).unbind(1)
    luma = (0.299 * red + 0.587 * green + 0.114 * blue).round()
    chroma = torch.stack(
        (
            128 - 0.168735892 * red - 0.331264108 * green + 0.5 * blue,
            128 + 0.5 * red - 0.418687589 * green - 0.081312411 * blue,
        ),
        1,
    ).round()
    # libjpeg rounds halves down in even columns, and up in odd ones
    halves = sent((0.25, 0.5), images.device).repeat(frame[1] // 4)
    small = (F.avg_pool2d(chroma, 2) + halves).floor()
    tables = sent(_steps(quality), images.device)  # (N, 2, 64)
    luma, small = _coded(luma[:, None], tables[:, :1]), _coded(small, tables[:, 1:])
    half = [(-(-one // 2), -(-other // 2)) for one, other in sizes]
    around = reframed(small, half, 1, (small.shape[2] + 2, small.shape[3] + 2), repeated)
    blue, red = (_doubled(around) - 128).unbind(1)
    luma = luma[:, 0]
    decoded = torch.stack((luma + 1.402 * red, luma - 0.344136286 * blue - 0.714136286 * red, luma + 1.772 * blue), 1)
    return _swapped(of_levels(decoded.round().clamp(0, 255)), legacy_bgr)[:, :, :height, :width]


def _swapped(images: Tensor, swap: Sequence[bool]) -> Tensor:
    """Swap red and blue of some images."""
    return torch.where(sent(swap, images.device)[:, None, None, None], images.flip(1), images) if any(swap) else images


def _steps(quality: Sequence[int]) -> npt.NDArray[np.float32]:
    """Steps of luma and chroma at qualities, (N, 2, 64), as libjpeg scales the tables."""
    scale = np.array([5000 // one if one < 50 else 200 - 2 * one for one in quality])[:, None, None]
    steps = (np.array((LUMA_TABLE, CHROMA_TABLE)) * scale + 50) // 100
    return np.asarray(steps.clip(1, 255), np.float32)


def _coded(channels: Tensor, steps: Tensor) -> Tensor:
    """Round the frequencies of 8x8 blocks of channels (N, C, H, W) to multiples of steps (N, 1, 64)."""
    cosines, steps = _cosines(channels.device), steps[:, :, None, None]
    blocks = rearrange(channels - 128, "n c (r y) (s x) -> n c r s (y x)", y=8, x=8)
    # libjpeg transforms to eighths and rounds halves away from zero; of small steps halves are frequent
    counts = (8 * blocks @ cosines.T).round() / (8 * steps)
    blocks = counts.sign() * (counts.abs() + 0.5).floor() * steps @ cosines
    pixels = rearrange(blocks, "n c r s (y x) -> n c (r y) (s x)", y=8, x=8)
    return (pixels + 128.5).floor().clamp(0, 255)


@cache
def _cosines(device: torch.device) -> Tensor:
    """Orthonormal basis of 8x8 blocks: 64 cosines of 64 pixels each."""
    place = torch.arange(8, dtype=torch.float64)
    line = torch.cos(torch.pi * place[:, None] * (2 * place + 1) / 16) / 2
    line[0] /= 2**0.5
    return torch.kron(line, line).to(device, torch.float32)


def _doubled(around: Tensor) -> Tensor:
    """Double the height and width of channels (N, C, h + 2, w + 2) with a border of one pixel, as libjpeg does.

    A new pixel is 3/4 of the nearest old one and 1/4 of the next, in each direction; it is a whole number.
    """
    near = 3 * around[:, :, 1:-1]
    rows = rearrange([near + around[:, :, :-2], near + around[:, :, 2:]], "p n c h w -> n c (h p) w")
    near = 3 * rows[..., 1:-1]
    left, right = (near + rows[..., :-2] + 8) / 16, (near + rows[..., 2:] + 7) / 16
    return rearrange([left, right], "p n c h w -> n c h (w p)").floor()


BATCHED: dict[str, Callable[..., Tensor]] = {
    "gaussian_blur": gaussian_blur,
    "gaussian_noise": gaussian_noise,
    "jpeg": jpeg,
    "poisson_noise": poisson_noise,
    "speckle_noise": speckle_noise,
}
"""Operations of `recipes.OPERATIONS` that can be applied to a batch."""


# Recipes


@dataclass(frozen=True)
class Work:
    """What is to be done to one image of a batch."""

    steps: tuple[tuple[str, dict[str, Any]], ...]
    """Operations in their order, with the parameters that were drawn."""
    clip: bool
    """Whether to clip to [0, 1] after each."""
    seed: int
    """Fixes the noise."""

    @classmethod
    def of(cls, drawn: Drawn, seed: int) -> "Work":
        """The work of a draw."""
        names = [operation.operation for operation in drawn.recipe.operations]
        return cls(tuple((names[step.place], step.parameters) for step in drawn.effective), drawn.recipe.clip, seed)


def apply_batched(images: Tensor, sizes: Sizes, work: Sequence[Work]) -> Tensor:
    """Apply to each image of a batch what was drawn for it, see `recipes.apply`.

    Args:
        images: clean images, (N, 3, H, W) float32 in [0, 1], each in the upper left of its frame.
        sizes: height and width of each.
        work: what is to be done to each; all operations are in `BATCHED`.

    Returns:
        The degraded images, in their frames (not rounded).
    """
    images, waiting = images.clone(), [[(name, one.clip, how) for name, how in one.steps] for one in work]
    generators = [torch.Generator(images.device).manual_seed(one.seed) for one in work]
    # what most images wait for is done first: few calls of many images; no image sees the order of the others
    while counts := Counter(steps[0][:2] for steps in waiting if steps):
        (operation, clip), _ = counts.most_common(1)[0]
        places = [place for place, steps in enumerate(waiting) if steps and steps[0][:2] == (operation, clip)]
        drawn = [{**defaults(operation), **waiting[place].pop(0)[2]} for place in places]
        some = sent(places, images.device)
        changed = BATCHED[operation](
            images[some],
            [sizes[place] for place in places],
            [generators[place] for place in places],
            **{name: [one[name] for one in drawn] for name in drawn[0]},
        )
        images[some] = changed.clamp(0, 1) if clip else changed
    return images
