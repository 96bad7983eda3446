"""Restore an image of any size in bounded memory: equal tiles, streamed, blended on the host.

On the device there is one batch of tiles. On the host there are the image, the result and float
accumulators for one row of tiles; rows that no later tile touches leave them at once, so that the
result can be written over the image. `airpipe.evaluation.grid` lays the tiles.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError, lacks_memory
from airpipe.evaluation.grid import Tile, blend_weights, lay_tiles
from airpipe.models.contract import Network, size_multiple
from airpipe.models.padding import pad_to_multiple
from airpipe.pixels import Pixels, in_floats, to_pixels, to_tensor

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""A function that is called with (tiles done, tiles in all)."""
BAND = 32
"""Rows that are rounded and given away at a time."""


def restore_tiled(
    network: nn.Module,
    image: Tensor,
    *,
    tile: int,
    overlap: int = 32,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """Pass an image through a network that stays on the device; only tiles travel to it.

    A network that pads itself gets an image that is one tile as it is. For all others images are filled
    up on the right and below: by reflection, or with the last pixel where the image is too small to be
    reflected. Equal inputs give equal bits on a CPU.

    Args:
        network: maps (B, 3, H, W) to the same shape, H and W multiples of its `size_multiple`
            (1 when it has none); in evaluation mode, on `device`.
        image: float32 (3, H, W) on the host, RGB in [0, 1].
        tile: largest side of a tile in pixels; a smaller image goes in one pass; 0: always one pass.
        overlap: least number of pixels that neighbouring tiles share.
        batch_size: tiles per pass.
        device: where the network is.
        progress: called after each pass.

    Returns:
        float32 (3, H, W) on the host, not clipped.

    Raises:
        AirpipeError: a tile that the overlap fills, a network whose output has another shape
            or is not finite, or too little memory.
    """
    height, width = image.shape[-2:]
    tiles = lay_tiles(network, height, width, tile, overlap)
    result = torch.empty_like(image, dtype=torch.float32, device="cpu")
    outputs = _outputs(network, tiles, lambda t: _cut(image, t), batch_size, device, progress)
    for top, band in _finished_rows(tiles, outputs, height, width):
        result[:, top : top + band.shape[1]] = band
    return result


def restore_pixels(
    network: nn.Module,
    pixels: Pixels,
    *,
    tile: int,
    overlap: int = 32,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    grey: bool = False,
    in_place: bool = False,
    progress: Progress | None = None,
) -> Pixels:
    """Restore pixels as files have them, as `restore_tiled` does; no float copy of the image is made.

    Besides `pixels` and the result it needs the network's memory for one batch of tiles, and
    12 bytes for each pixel of one row of tiles.

    Args:
        network: as for `restore_tiled`.
        pixels: uint8 or uint16 (H, W, 3) RGB.
        tile: as for `restore_tiled`.
        overlap: as for `restore_tiled`.
        batch_size: as for `restore_tiled`.
        device: as for `restore_tiled`.
        grey: give all channels the mean of the three outputs.
        in_place: write the result over `pixels`.
        progress: called after each pass.

    Returns:
        (H, W, 3) of the same depth, clipped and rounded.

    Raises:
        AirpipeError: as `restore_tiled`.
    """
    height, width = pixels.shape[:2]
    tiles = lay_tiles(network, height, width, tile, overlap)
    result = pixels if in_place else np.empty_like(pixels)
    bits = 16 if pixels.dtype == np.uint16 else 8

    def cut(t: Tile) -> Tensor:
        part = pixels[t.top : t.top + t.height, t.left : t.left + t.width]
        image = to_tensor(part) if bits == 16 else torch.from_numpy(part.transpose(2, 0, 1).copy())
        return _cut(image, Tile(0, 0, t.height, t.width))

    outputs = _outputs(network, tiles, cut, batch_size, device, progress)
    for top, band in _finished_rows(tiles, outputs, height, width):
        if grey:
            band = band.mean(0, keepdim=True).expand(3, -1, -1)
        result[top : top + band.shape[1]] = to_pixels(band, bits)
    return result


def restore_batch(network: nn.Module, images: Tensor, *, device: torch.device | str = "cpu") -> Tensor:
    """Pass equally large images through a network at once, whole, filled up as `restore_tiled` does.

    Args:
        network: as for `restore_tiled`.
        images: float32 (B, 3, H, W) on the host, RGB in [0, 1].
        device: where the network is.

    Returns:
        float32 (B, 3, H, W) on the host, not clipped.

    Raises:
        AirpipeError: as `restore_tiled`.
    """
    height, width = images.shape[-2:]
    whole = lay_tiles(network, height, width, 0, 0)[0]
    same = (whole.height, whole.width) == (height, width)
    filled = images if same else pad_to_multiple(images, size_multiple(network))
    return _forward(network, filled, device)[..., :height, :width]


def _outputs(
    network: nn.Module,
    tiles: list[Tile],
    cut: Callable[[Tile], Tensor],
    batch_size: int,
    device: torch.device | str,
    progress: Progress | None,
) -> Iterator[tuple[Tile, Tensor]]:
    """Each tile with what the network makes of it, float32 (3, tile.height, tile.width)."""
    done = 0
    for group in _batches(tiles, batch_size):
        outputs = _forward(network, torch.stack([cut(t) for t in group]), device)
        yield from zip(group, outputs, strict=True)
        done += len(group)
        if progress is not None:
            progress(done, len(tiles))


def _finished_rows(
    tiles: list[Tile], outputs: Iterator[tuple[Tile, Tensor]], height: int, width: int
) -> Iterator[tuple[int, Tensor]]:
    """Blend tiles that come row by row; give away rows of the image as soon as they are complete.

    Yields:
        First row, and float32 (3, rows, width): valid until the next.
    """
    tall = tiles[0].height
    rows = _weights_by_start([t.top for t in tiles], tall, height)
    columns = _weights_by_start([t.left for t in tiles], tiles[0].width, width)
    first = 0
    sums = torch.zeros(3, min(tall, height), width)  # of the image's rows from `first` on
    for t, output in outputs:
        if t.top > first:
            complete = t.top - first
            yield from _bands(sums[:, :complete], first)
            shared = sums[:, complete:].clone()  # the rows that move up may overlap their new place
            sums[:, : shared.shape[1]] = shared
            sums[:, shared.shape[1] :] = 0
            first = t.top
        y, x = slice(t.top, min(t.top + tall, height)), slice(t.left, min(t.left + t.width, width))
        weight = rows[t.top][:, None] * columns[t.left][None]  # (h, w)
        sums[:, : y.stop - y.start, x] += weight * output[:, : y.stop - y.start, : x.stop - x.start]
    yield from _bands(sums[:, : height - first], first)


def _bands(rows: Tensor, first: int) -> Iterator[tuple[int, Tensor]]:
    """Few rows at a time, so that what is made of them stays small."""
    for start in range(0, rows.shape[1], BAND):
        yield first + start, rows[:, start : start + BAND]


def _weights_by_start(starts: list[int], size: int, length: int) -> dict[int, Tensor]:
    distinct = sorted(set(starts))
    return dict(zip(distinct, blend_weights(distinct, size, length), strict=True))


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while group := list(islice(remaining, max(size, 1))):
        yield group


def _cut(image: Tensor, tile: Tile) -> Tensor:
    """The tile's pixels, (3, tile.height, tile.width); filled up where it leaves the image."""
    part = image[:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
    if part.shape[1] < tile.height:
        part = part[:, _filled(part.shape[1], tile.height)]
    if part.shape[2] < tile.width:
        part = part[:, :, _filled(part.shape[2], tile.width)]
    return part


def _filled(length: int, size: int) -> Tensor:
    """Indices 0 .. length-1 and back, `size` of them; the last one repeated where the way back is too short.

    The rule of `airpipe.models.padding.pad_to_multiple`, for any dtype.
    """
    forward, last = torch.arange(size), length - 1
    return forward.clamp(max=last) if size - length >= length else forward.minimum(2 * last - forward)


@torch.inference_mode()
def _forward(network: nn.Module, inputs: Tensor, device: torch.device | str) -> Tensor:
    """One pass on the device; the result on the host, float32, checked."""
    size = f"{inputs.shape[-1]}x{inputs.shape[-2]}"
    try:
        images = in_floats(inputs.to(device))
        first = next(network.parameters(), None)
        if first is not None and first.is_floating_point():
            images = images.to(first.dtype)
        outputs: Tensor = network(images).float().cpu()
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            if isinstance(network, Network):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise AirpipeError(
                f"{type(network).__name__} fails on images of shape {tuple(inputs.shape)} ({reason}). "
                "Expected a network that maps RGB images to such of the same size"
            ) from error
        raise AirpipeError(
            f"not enough memory on {device} for {len(inputs)} tile(s) of {size} pixels. Use a smaller tile"
        ) from None
    if outputs.shape != inputs.shape:
        found, expected = tuple(outputs.shape), tuple(inputs.shape)
        raise AirpipeError(f"the network's output has shape {found}; expected that of its input, {expected}")
    if not torch.isfinite(outputs).all():
        raise AirpipeError(
            f"the network gave values that are not finite, in a tile of {size} pixels. Check its weights"
        )
    return outputs
