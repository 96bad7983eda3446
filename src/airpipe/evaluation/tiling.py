"""Restore an image of any size in bounded memory: equal tiles, streamed, blended on the host.

Tiles are planned per axis. All have the same size, so that one compiled graph and any batch
size serve them, and they are spread evenly, so that no tile is mostly overlap. Where tiles
overlap, their weights rise and fall linearly and sum to one; no second accumulator is needed.

Source: ours; the usual scheme (square tiles, the last one pushed back) computes half as many
pixels again as a 1080p image has.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import TypeVar

import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with (tiles done, tiles in all)."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of the image that the network sees at once, in pixels.

    It may reach beyond the right and lower edges of an image that is no multiple of what
    the network needs.
    """

    top: int
    left: int
    height: int
    width: int


def plan_tiles(height: int, width: int, tile: int, overlap: int, multiple: int) -> list[Tile]:
    """Lay equal tiles over an image, row by row, so that the fewest pixels are computed.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        tile: largest side of a tile in pixels, rounded up to `multiple`; 0: one tile for all.
        overlap: least number of pixels that neighbours share.
        multiple: height and width of every tile are multiples of it.

    Returns:
        Tiles of one size that cover every pixel.

    Raises:
        AirpipeError: an empty image, a negative number, or a tile that the overlap fills.
    """
    if min(height, width, multiple) < 1 or min(tile, overlap) < 0:
        raise AirpipeError(
            f"cannot tile {width}x{height} pixels with tile {tile}, overlap {overlap}, multiple {multiple}. "
            "Expected an image of at least one pixel, and tile and overlap of 0 or more"
        )
    tops, tile_height = _plan_axis(height, tile, overlap, multiple)
    lefts, tile_width = _plan_axis(width, tile, overlap, multiple)
    return [Tile(top, left, tile_height, tile_width) for top, left in product(tops, lefts)]


def _plan_axis(length: int, tile: int, overlap: int, multiple: int) -> tuple[list[int], int]:
    """Starts and common size of the tiles along one axis."""
    limit = _round_up(tile, multiple)
    if tile == 0 or length <= limit:
        return [0], _round_up(length, multiple)
    if limit <= overlap:
        raise AirpipeError(
            f"tile {limit} is not larger than the overlap of {overlap} pixels. "
            f"Use a tile of {_round_up(2 * overlap + multiple, multiple)} or more, or a smaller overlap"
        )
    # Fewer tiles share fewer pixels, but rounding to the multiple can make one more tile cheaper.
    sizes = range(limit, max(overlap, limit // 2 - 1), -multiple)
    size = min(sizes, key=lambda size: size * _tile_count(length, size, overlap))
    count = _tile_count(length, size, overlap)
    return [index * (length - size) // (count - 1) for index in range(count)], size


def _tile_count(length: int, size: int, overlap: int) -> int:
    return -(-(length - overlap) // (size - overlap))


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def blend_weights(starts: list[int], size: int, length: int) -> Tensor:
    """Weights of the tiles along one axis: ramps over the shared pixels, one elsewhere.

    Args:
        starts: rising first pixels of the tiles.
        size: of every tile, in pixels.
        length: of the axis, in pixels.

    Returns:
        (tiles, length) float32; zero outside a tile, each column sums to one.
    """
    position = torch.arange(length, dtype=torch.float64) + 0.5
    weights = torch.zeros(len(starts), length, dtype=torch.float64)
    for index, start in enumerate(starts):
        inside = (position > start) & (position < start + size)
        weight = inside.double()
        if index > 0 and (shared := starts[index - 1] + size - start) > 0:
            weight = weight.minimum((position - start) / shared)
        if index + 1 < len(starts) and (shared := start + size - starts[index + 1]) > 0:
            weight = weight.minimum((start + size - position) / shared)
        weights[index] = weight.clamp_min(0)
    return (weights / weights.sum(0)).float()


@torch.no_grad()
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

    Sizes are filled up on the right and below by reflection, repeated where the image is
    smaller than what is missing. Equal inputs give equal bits on a CPU.

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
    tiles = plan_tiles(height, width, tile, overlap, int(getattr(network, "size_multiple", 1)))
    rows = _weights_by_start([t.top for t in tiles], tiles[0].height, height)
    columns = _weights_by_start([t.left for t in tiles], tiles[0].width, width)
    result = torch.zeros_like(image, dtype=torch.float32, device="cpu")
    done = 0
    for group in _batches(tiles, batch_size):
        inputs = torch.stack([_cut(image, t) for t in group])
        outputs = _forward(network, inputs, device)
        for t, output in zip(group, outputs, strict=True):
            y, x = slice(t.top, min(t.top + t.height, height)), slice(t.left, min(t.left + t.width, width))
            weight = rows[t.top][y, None] * columns[t.left][None, x]  # (h, w)
            result[:, y, x] += weight * output[:, : y.stop - y.start, : x.stop - x.start]
        done += len(group)
        if progress is not None:
            progress(done, len(tiles))
    return result


def _weights_by_start(starts: list[int], size: int, length: int) -> dict[int, Tensor]:
    distinct = sorted(set(starts))
    return dict(zip(distinct, blend_weights(distinct, size, length), strict=True))


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while group := list(islice(remaining, max(size, 1))):
        yield group


def _cut(image: Tensor, tile: Tile) -> Tensor:
    """The tile's pixels, (3, tile.height, tile.width); reflected where it leaves the image."""
    part = image[:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
    if part.shape[1] < tile.height:
        part = part[:, _reflect(part.shape[1], tile.height)]
    if part.shape[2] < tile.width:
        part = part[:, :, _reflect(part.shape[2], tile.width)]
    return part


def _reflect(length: int, size: int) -> Tensor:
    """Indices 0 .. length-1, back and forth without repeating the ends, `size` of them."""
    if length == 1:
        return torch.zeros(size, dtype=torch.int64)
    period = 2 * (length - 1)
    forward = torch.arange(size) % period
    return forward.minimum(period - forward)


@torch.inference_mode()
def _forward(network: nn.Module, inputs: Tensor, device: torch.device | str) -> Tensor:
    """One pass on the device; the result on the host, float32, checked."""
    size = f"{inputs.shape[-1]}x{inputs.shape[-2]}"
    try:
        outputs: Tensor = network(inputs.to(device)).float().cpu()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
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
