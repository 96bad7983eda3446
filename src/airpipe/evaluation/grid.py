"""Where tiles lie on an image, how they are weighted where they overlap, and how large they may be.

Tiles are planned per axis. All have the same size, so that one compiled graph and any batch
size serve them, and they are spread evenly, so that no tile is mostly overlap. They start at
multiples of what the network needs, so that its strides and windows fall where they fall in the
whole image. Where tiles overlap, their weights rise and fall linearly and sum to one; the outer
quarter of an overlap, where a tile has the least context, does not count.

Source: ours; the usual scheme (square tiles, the last one pushed back) computes half as many
pixels again as a 1080p image has.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.evaluation.channels import check_restorer
from airpipe.evaluation.guided import check_reference
from airpipe.evaluation.memory import COPIES, activation_bytes
from airpipe.models.contract import image_channels, pads_itself, size_multiple, whole_image


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


def fitting_tile(
    network: nn.Module, height: int, width: int, *, memory: float, overlap: int, batch_size: int = 1
) -> int:
    """The largest tile whose passes fit into so much memory; 0 where the whole image does.

    Args:
        network: the network, on any device.
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        memory: bytes for the tensors of a pass, without the weights. An estimate
            (`airpipe.evaluation.memory`): proportional to the pixels, and on the safe side.
        overlap: pixels that neighbouring tiles share.
        batch_size: tiles per pass.

    Raises:
        AirpipeError: not even a tile that is larger than the overlap fits, or the whole image does not
            where the network needs it.
    """
    multiple = size_multiple(network)
    side = _round_up(128, multiple)
    per_pixel = COPIES * activation_bytes(network, side, side) / side**2
    if per_pixel * _round_up(height, multiple) * _round_up(width, multiple) <= memory:
        return 0
    if whole_image(network):
        raise AirpipeError(
            f"this model looks at an image as a whole, and {width}x{height} pixels need about "
            f"{per_pixel * height * width / 1e9:.2g} GB, not {memory / 1e9:g}. Give more memory or a smaller image"
        )
    tile = int(math.sqrt(memory / per_pixel / max(batch_size, 1))) // multiple * multiple
    least = _round_up(overlap, multiple) + multiple
    if tile < least:
        raise AirpipeError(
            f"{memory / 1e9:g} GB do not hold {batch_size} tile(s) of {least}x{least} pixels. "
            f"Give at least {per_pixel * batch_size * least**2 / 1e9:.2g} GB, or a smaller batch or overlap"
        )
    return tile


def lay_tiles(network: nn.Module, height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """Lay tiles as `plan_tiles` does, with what the network needs; one that pads itself gets a whole image as it is.

    A network that looks at an image as a whole (`whole_image`) is never tiled.

    Raises:
        AirpipeError: as `plan_tiles`, a network that is no restorer, one of grey images (`channels.for_rgb` makes it
            take three channels), or one without the reference that it wants.
    """
    check_restorer(network)
    if image_channels(network) == 1:
        raise AirpipeError(
            "this model restores grey pictures (1 channel), and those here are RGB. Choose another model"
        )
    check_reference(network)
    if whole_image(network):
        tile = 0
    tiles = plan_tiles(height, width, tile, overlap, size_multiple(network))
    return [Tile(0, 0, height, width)] if len(tiles) == 1 and pads_itself(network) else tiles


def plan_tiles(height: int, width: int, tile: int, overlap: int, multiple: int) -> list[Tile]:
    """Lay equal tiles over an image, row by row, so that the fewest pixels are computed.

    Args:
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        tile: largest side of a tile in pixels, rounded up to `multiple`; 0: one tile for all.
        overlap: least number of pixels that neighbours share.
        multiple: sides and starts of all tiles are multiples of it.

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
    """Starts and common size of the tiles along one axis; counted in units of the multiple."""
    units, limit, shared = (-(-pixels // multiple) for pixels in (length, tile, overlap))
    if tile == 0 or units <= limit:
        return [0], units * multiple
    if limit <= shared:
        raise AirpipeError(
            f"tile {limit * multiple} is not larger than the overlap of {shared * multiple} pixels "
            f"(both are made multiples of {multiple}). "
            f"Use a tile of {(2 * shared + 1) * multiple} or more, or a smaller overlap"
        )
    # Fewer tiles share fewer pixels, but rounding to the multiple can make one more tile cheaper.
    sizes = range(limit, max(shared, limit // 2 - 1), -1)
    size = min(sizes, key=lambda size: size * _tile_count(units, size, shared))
    count = _tile_count(units, size, shared)
    return [index * (units - size) // (count - 1) * multiple for index in range(count)], size * multiple


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _tile_count(length: int, size: int, overlap: int) -> int:
    return -(-(length - overlap) // (size - overlap))


def blend_weights(starts: list[int], size: int, length: int) -> list[Tensor]:
    """Weights of the tiles along one axis: ramps over the shared pixels, one elsewhere.

    A quarter of the shared pixels at the edge of a tile weighs nothing: the ramp takes the
    middle half, so that a network which sees no further than a quarter leaves no seam.

    Args:
        starts: first pixel of each tile, rising.
        size: size of every tile, in pixels.
        length: length of the axis, in pixels.

    Returns:
        For each tile the float32 weights of its pixels on the axis, from its start on; at each pixel of the axis those
        of all tiles sum to one.
    """
    sums = torch.zeros(length, dtype=torch.float64)
    weights = []
    for index, start in enumerate(starts):
        position = torch.arange(min(size, length - start), dtype=torch.float64) + 0.5
        weight = torch.ones_like(position)
        if index > 0 and (shared := starts[index - 1] + size - start) > 0:
            weight = weight.minimum(_ramp(position, shared))
        if index + 1 < len(starts) and (shared := start + size - starts[index + 1]) > 0:
            weight = weight.minimum(_ramp(size - position, shared))
        sums[start : start + size] += weight
        weights.append(weight)
    return [(weight / sums[start : start + size]).float() for start, weight in zip(starts, weights, strict=True)]


def _ramp(distance: Tensor, shared: int) -> Tensor:
    """Weight that rises from 0 to 1 over the middle half of `shared` pixels, by the distance from the tile's edge."""
    margin = shared // 4
    return ((distance - margin) / (shared - 2 * margin)).clamp(0, 1)
