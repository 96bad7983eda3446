"""Training and validation samples: decode, crop, augment in uint8; degrade; float on the device."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from airpipe.data.pairs import Pair
from airpipe.data.sampling import SampleKey
from airpipe.degradations.noise import FloatImage
from airpipe.degradations.recipes import degrade
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.settings import DataPart, Operation

Rgb8 = npt.NDArray[np.uint8]
CACHE_BYTES = 512 * 2**20
"""Decoded images that one loader process keeps."""


@dataclass(frozen=True)
class Batch:
    """What a training step gets."""

    degraded: Tensor
    """(B, 3, H, W), RGB in [0, 1] once on the device; uint8 before where the part is quantised."""
    clean: Tensor
    """(B, 3, H, W), likewise."""
    label: Tensor
    """(B,) int64, degradation class."""
    name: list[str]
    level: list[str]
    """Drawn parameters, as text."""

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device and make images float32 in [0, 1]."""
        return replace(
            self,
            degraded=_floats(self.degraded.to(device, non_blocking=True)),
            clean=_floats(self.clean.to(device, non_blocking=True)),
            label=self.label.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "Batch":
        """Called by the loader when the device is a GPU."""
        return replace(
            self,
            degraded=self.degraded.pin_memory(),
            clean=self.clean.pin_memory(),
            label=self.label.pin_memory(),
        )


def _floats(images: Tensor) -> Tensor:
    return images.float().div_(255) if images.dtype == torch.uint8 else images


class ImageCache:
    """Decoded images, the least recently used dropped when `CACHE_BYTES` is exceeded."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._images: OrderedDict[Path, npt.NDArray[Any]] = OrderedDict()

    def rgb8(self, path: Path) -> Rgb8:
        """uint8 (H, W, 3)."""
        return cast(Rgb8, self._get(path, read_rgb8))

    def depth(self, path: Path) -> FloatImage:
        """Relative depth (H, W) in [0, 1] from a disparity file: 0 at the nearest point."""
        return cast(FloatImage, self._get(path, read_depth))

    def _get(self, path: Path, read: Any) -> npt.NDArray[Any]:
        if path not in self._images:
            self._images[path] = image = read(path)
            self._bytes += image.nbytes
            while self._bytes > self._limit and len(self._images) > 1:
                self._bytes -= self._images.popitem(last=False)[1].nbytes
        self._images.move_to_end(path)
        return self._images[path]


def read_depth(path: Path) -> FloatImage:
    """Relative depth in [0, 1] from a stored disparity map (npz, first array); unknown places become far.

    Depth is proportional to 1 / disparity; it is scaled so that the 1st and 99th percentile
    become 0 and 1.
    """
    with np.load(path, allow_pickle=False) as stored:
        disparity = np.asarray(stored[stored.files[0]], np.float32)
    valid = np.isfinite(disparity) & (disparity > 0)
    if not valid.any():
        raise AirpipeError(f"{path}: holds no positive disparity")
    depth = 1 / np.where(valid, disparity, disparity[valid].min())
    low, high = np.percentile(depth, [1, 99])
    return np.asarray(np.clip((depth - low) / max(high - low, 1e-12), 0, 1), np.float32)


def align(degraded: Rgb8, clean: Rgb8, crop: str, name: str) -> tuple[Rgb8, Rgb8]:
    """Cut the clean image to the degraded one's size by the pair list's crop rule.

    Raises:
        AirpipeError: sizes still differ.
    """
    rows, columns = clean.shape[0] - degraded.shape[0], clean.shape[1] - degraded.shape[1]
    if crop == "centre" and rows >= 0 and columns >= 0 and not (rows % 2 or columns % 2):
        clean = clean[rows // 2 : clean.shape[0] - rows // 2, columns // 2 : clean.shape[1] - columns // 2]
    elif crop == "top_left":
        height, width = min(clean.shape[0], degraded.shape[0]), min(clean.shape[1], degraded.shape[1])
        clean, degraded = clean[:height, :width], degraded[:height, :width]
    if clean.shape != degraded.shape:
        raise AirpipeError(f"{name}: degraded is {degraded.shape[:2]}, clean {clean.shape[:2]} (rows, columns)")
    return degraded, clean


def quantised(image: FloatImage) -> Rgb8:
    """Clip to [0, 1] and round to 8 bit, half to even."""
    return np.asarray(np.rint(np.clip(image, 0, 1) * np.float32(255)), np.uint8)


class TrainingSamples(Dataset[dict[str, Any]]):
    """Sample of a `SampleKey`: the same whatever process, worker or run asks for it.

    Args:
        parts: the mix, recipes written out.
        pairs: the pair list of each part.
        seed: of the stage.
    """

    def __init__(self, parts: Sequence[DataPart], pairs: Sequence[Sequence[Pair]], seed: int) -> None:
        self.parts, self.pairs, self.seed = list(parts), [list(p) for p in pairs], seed
        self.cache = ImageCache()

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Random crop (of the shrunk image), one of eight flips and turns, then the part's degradation."""
        part, pair = self.parts[key.part], self.pairs[key.part][key.image]
        generator = np.random.default_rng([self.seed, key.slot])
        layers = pair_layers(pair, self.cache)
        height, width = layers[0].shape[:2]
        if min(height, width) < key.patch_size:
            raise AirpipeError(
                f"{pair.clean}: {width}x{height} pixels is smaller than patch_size {key.patch_size}; "
                "choose a smaller patch or leave the image out"
            )
        side = self._window(part, pair, min(height, width), key.patch_size, generator)
        top = int(generator.integers(height - side, endpoint=True))
        left = int(generator.integers(width - side, endpoint=True))
        turns, flip = int(generator.integers(4)), bool(generator.integers(2))
        window = (slice(top, top + side), slice(left, left + side))
        layers = [_turned(_shrunk(layer[window], key.patch_size), turns, flip) for layer in layers]
        return _sample(part, pair, layers, generator)

    @staticmethod
    def _window(part: DataPart, pair: Pair, shortest: int, patch_size: int, generator: np.random.Generator) -> int:
        """Side of the window that becomes the patch; larger than it when the image is shrunk."""
        if part.rescale == (1.0, 1.0):
            return patch_size
        if pair.degraded is not None:
            raise AirpipeError(f"{pair.name}: rescale is for images that are degraded online; {part.pairs} has pairs")
        return min(shortest, round(patch_size / generator.uniform(*part.rescale)))


def _shrunk(layer: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    if layer.shape[0] == side:
        return layer
    return np.asarray(cv2.resize(layer, (side, side), interpolation=cv2.INTER_AREA), layer.dtype)


def pair_layers(pair: Pair, cache: ImageCache) -> list[npt.NDArray[Any]]:
    """[clean], [clean, degraded] or [clean, depth] of a pair, equally large."""
    clean = cache.rgb8(pair.clean)
    if pair.degraded is not None:
        degraded, clean = align(cache.rgb8(pair.degraded), clean, pair.crop, pair.name)
        return [clean, degraded]
    return [clean] if pair.depth is None else [clean, cache.depth(pair.depth)]


def _turned(layer: npt.NDArray[Any], turns: int, flip: bool) -> npt.NDArray[Any]:
    layer = np.rot90(layer, turns)
    return np.ascontiguousarray(layer[:, ::-1] if flip else layer)


def _sample(
    part: DataPart, pair: Pair, layers: list[npt.NDArray[Any]], generator: np.random.Generator
) -> dict[str, Any]:
    clean: Rgb8 = layers[0]
    level = pair.level
    if pair.degraded is not None:
        degraded: npt.NDArray[Any] = layers[1]
    else:
        degraded, drawn = degrade_clean(clean, part.operations, generator, layers[1] if layers[1:] else None)
        level = " ".join(f"{name}={value:.4g}" for name, value in drawn.items())
        degraded = quantised(degraded) if part.quantise else degraded
    return {"degraded": degraded, "clean": clean, "label": part.label, "name": pair.name, "level": level}


def degrade_clean(
    clean: Rgb8, operations: Sequence[Operation], generator: np.random.Generator, depth: FloatImage | None
) -> tuple[FloatImage, dict[str, Any]]:
    """Apply a recipe to an 8-bit image: float32 (H, W, 3), neither clipped nor rounded, and what was drawn."""
    return degrade(np.asarray(clean, np.float32) / np.float32(255), operations, generator, depth)


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Stack samples; one float image makes the whole batch float."""
    return Batch(
        degraded=_stack([s["degraded"] for s in samples]),
        clean=_stack([s["clean"] for s in samples]),
        label=torch.tensor([s["label"] for s in samples], dtype=torch.int64),
        name=[s["name"] for s in samples],
        level=[s["level"] for s in samples],
    )


def _stack(images: Sequence[npt.NDArray[Any]]) -> Tensor:
    if any(image.dtype != np.uint8 for image in images):
        images = [i.astype(np.float32) / 255 if i.dtype == np.uint8 else i for i in images]
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


class ValidationSamples(Dataset[dict[str, Any]]):
    """Fixed centre crops of every image of every part, degraded with fixed seeds.

    Args:
        parts, pairs, seed: as for `TrainingSamples`.
        patch_size: largest side of the crop; smaller images are used whole, cut to `multiple`.
        multiple: the network's size multiple.
    """

    def __init__(
        self,
        parts: Sequence[DataPart],
        pairs: Sequence[Sequence[Pair]],
        seed: int,
        patch_size: int,
        multiple: int,
    ) -> None:
        self.parts = parts
        self.rows = [(p, i, pair) for p, part in enumerate(pairs) for i, pair in enumerate(part)]
        self.seed, self.patch_size, self.multiple = seed, patch_size, multiple
        self.cache = ImageCache()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Sample of one (part, image)."""
        part, index, pair = self.rows[row]
        layers = pair_layers(pair, self.cache)
        if min(layers[0].shape[:2]) < self.multiple:
            raise AirpipeError(f"{pair.clean}: smaller than the {self.multiple} pixels that the network needs")
        height, width = (
            max(self.multiple, min(side, self.patch_size) // self.multiple * self.multiple)
            for side in layers[0].shape[:2]
        )
        top, left = (layers[0].shape[0] - height) // 2, (layers[0].shape[1] - width) // 2
        layers = [np.ascontiguousarray(layer[top : top + height, left : left + width]) for layer in layers]
        # 2**32 sets these streams apart from those of training slots
        return _sample(self.parts[part], pair, layers, np.random.default_rng([self.seed, 2**32, part, index]))
