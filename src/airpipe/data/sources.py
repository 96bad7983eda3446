"""Sources of decoded pairs: files through a cache, or a pack."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from airpipe.data.crops import align
from airpipe.data.pairs import Pair
from airpipe.data.windows import cut_out
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.pixels import FloatImage, Rgb8

CACHE_BYTES = 512 * 2**20
"""Bytes of decoded images that one loader process keeps."""


class ImageCache:
    """Cache of decoded images; drops the least recently used ones.

    Args:
        limit: bytes that it keeps; a single image may be larger.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._images: OrderedDict[Path, npt.NDArray[Any]] = OrderedDict()

    def rgb8(self, path: Path) -> Rgb8:
        """Return the image of a file, uint8 (H, W, 3) RGB."""
        return cast(Rgb8, self._get(path, read_rgb8))

    def depth(self, path: Path) -> FloatImage:
        """Return the relative depth (H, W) in [0, 1] of a disparity file, see `read_depth`."""
        return cast(FloatImage, self._get(path, read_depth))

    def _get(self, path: Path, read: Any) -> npt.NDArray[Any]:
        if path not in self._images:
            self._images[path] = image = read(path)
            self._bytes += image.nbytes
            # the image that was just read stays, even if it alone exceeds the limit
            while self._bytes > self._limit and len(self._images) > 1:
                self._bytes -= self._images.popitem(last=False)[1].nbytes
        self._images.move_to_end(path)
        return self._images[path]


def read_depth(path: Path) -> FloatImage:
    """Read relative depth in [0, 1] from a stored disparity map (npz, first array); unknown places become far.

    Depth is proportional to 1 / disparity; it is scaled so that the 1st and 99th percentile
    become 0 (near) and 1 (far).

    Returns:
        (H, W) float32.

    Raises:
        AirpipeError: no place has a positive disparity.
    """
    with np.load(path, allow_pickle=False) as stored:
        disparity = np.asarray(stored[stored.files[0]], np.float32)
    valid = np.isfinite(disparity) & (disparity > 0)
    if not valid.any():
        raise AirpipeError(f"{path}: holds no positive disparity")
    depth = 1 / np.where(valid, disparity, disparity[valid].min())
    low, high = np.percentile(depth, [1, 99])
    return np.asarray(np.clip((depth - low) / max(high - low, 1e-12), 0, 1), np.float32)


class Source(Protocol):
    """Decoded pairs of one part: files (`PairFiles`) or a pack (`airpipe.data.packs.Pack`)."""

    def __len__(self) -> int: ...

    def layers(self, index: int) -> list[npt.NDArray[Any]]:
        """Return [clean], [clean, degraded] or [clean, depth] of a pair, equally large.

        Images are uint8 (H, W, 3) RGB, depth is float32 (H, W) in [0, 1].
        """
        ...

    def paired(self, index: int) -> bool:
        """Tell whether a pair has a degraded image."""
        ...

    def name(self, index: int) -> str:
        """Name of the image, unique in the list."""
        ...

    def level(self, index: int) -> str:
        """Level of the degradation, as the list says it."""
        ...


class PairFiles:
    """Pairs decoded from their files through a cache.

    Args:
        pairs: the pairs of one part of the mix.
        cache: decoded images of this process.
    """

    def __init__(self, pairs: Sequence[Pair], cache: ImageCache) -> None:
        self.pairs, self.cache = pairs, cache
        self._last: tuple[int, Pair] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def _pair(self, index: int) -> Pair:
        """The pair, which a sample asks for several times; long lists make it anew each time."""
        if self._last is None or self._last[0] != index:
            self._last = index, self.pairs[index]
        return self._last[1]

    def layers(self, index: int) -> list[npt.NDArray[Any]]:
        """Decode the images of a pair, see `pair_layers`."""
        return pair_layers(self._pair(index), self.cache)

    def paired(self, index: int) -> bool:
        """Tell whether a pair has a degraded file."""
        return self._pair(index).degraded is not None

    def name(self, index: int) -> str:
        """Name of the image, unique in the list."""
        return self._pair(index).name

    def level(self, index: int) -> str:
        """Level of the degradation, as the list says it."""
        return self._pair(index).level


def pair_layers(pair: Pair, cache: ImageCache) -> list[npt.NDArray[Any]]:
    """Decode a pair to [clean], [clean, degraded] or [clean, depth], equally large; of a window, views of its part.

    Images are uint8 (H, W, 3) RGB, depth is float32 (H, W) in [0, 1].

    Raises:
        AirpipeError: a file is missing or corrupt, the sizes differ after the crop rule, or the window does not fit.
    """
    layers: list[npt.NDArray[Any]] = [cache.rgb8(pair.clean)]
    if pair.degraded is not None:
        degraded, clean = align(cache.rgb8(pair.degraded), layers[0], pair.crop, pair.name)
        layers = [clean, degraded]
    elif pair.depth is not None:
        layers.append(cache.depth(pair.depth))
    return layers if pair.window is None else cut_out(layers, pair.window, pair.name)
