"""Training and validation samples: decode, crop, augment in uint8; degrade; float on the device."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from airpipe.data.crops import Rgb8, align, jittered, mirrored, resized, shrunk, turned, window_side
from airpipe.data.pairs import Pair
from airpipe.data.sampling import SampleKey
from airpipe.degradations.noise import FloatImage, legacy_noise_field
from airpipe.degradations.recipes import degrade
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.settings.degrading import Operation
from airpipe.settings.stages import DataPart

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
    slot: tuple[int, ...] = ()
    """Numbers of the samples in the whole training, for random draws that do not depend on the processes."""
    category: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """(B,) int64, class of what the image shows: its place in `TrainingSamples.classes`, -1 where it is unknown."""

    def __post_init__(self) -> None:
        if not len(self.category):
            object.__setattr__(self, "category", torch.full_like(self.label, -1))

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device and make images float32 in [0, 1]."""
        return replace(
            self,
            degraded=_floats(self.degraded.to(device, non_blocking=True)),
            clean=_floats(self.clean.to(device, non_blocking=True)),
            label=self.label.to(device, non_blocking=True),
            category=self.category.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "Batch":
        """Called by the loader when the device is a GPU."""
        return replace(
            self,
            degraded=self.degraded.pin_memory(),
            clean=self.clean.pin_memory(),
            label=self.label.pin_memory(),
            category=self.category.pin_memory(),
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


def quantised(image: FloatImage) -> Rgb8:
    """Clip to [0, 1] and round to 8 bit, half to even."""
    return np.asarray(np.rint(np.clip(image, 0, 1) * np.float32(255)), np.uint8)


class Source(Protocol):
    """Decoded pairs of one part: files (`PairFiles`) or a pack (`airpipe.data.packs.Pack`)."""

    def __len__(self) -> int: ...

    def layers(self, index: int) -> list[npt.NDArray[Any]]:
        """[clean], [clean, degraded] or [clean, depth], equally large."""
        ...

    def paired(self, index: int) -> bool:
        """Whether there is a degraded image."""
        ...

    def name(self, index: int) -> str:
        """Unique in the list."""
        ...

    def level(self, index: int) -> str:
        """Of the degradation, as the list says it."""
        ...


class PairFiles:
    """Pairs decoded from their files through a cache.

    Args:
        pairs: of one part.
        cache: of the process.
    """

    def __init__(self, pairs: Sequence[Pair], cache: ImageCache) -> None:
        self.pairs, self.cache = pairs, cache

    def __len__(self) -> int:
        return len(self.pairs)

    def layers(self, index: int) -> list[npt.NDArray[Any]]:
        """See `pair_layers`."""
        return pair_layers(self.pairs[index], self.cache)

    def paired(self, index: int) -> bool:
        """Whether there is a degraded file."""
        return self.pairs[index].degraded is not None

    def name(self, index: int) -> str:
        """Unique in the list."""
        return self.pairs[index].name

    def level(self, index: int) -> str:
        """Of the degradation, as the list says it."""
        return self.pairs[index].level


class TrainingSamples(Dataset[dict[str, Any]]):
    """Sample of a `SampleKey`: the same whatever process, worker or run asks for it, from files or packs.

    Args:
        parts: the mix, recipes written out.
        sources: the pairs of each part, or a pack of them.
        seed: of the stage.
        cache_bytes: decoded images that each loader process keeps.
        categories: class of the images of each part, by name; packs do not know it. None: as the pairs say.
    """

    def __init__(
        self,
        parts: Sequence[DataPart],
        sources: Sequence[Sequence[Pair] | Source],
        seed: int,
        cache_bytes: int = CACHE_BYTES,
        categories: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        self.parts, self.seed = list(parts), seed
        self.cache = ImageCache(cache_bytes)
        self.sources: list[Source] = [PairFiles(s, self.cache) if isinstance(s, Sequence) else s for s in sources]
        known = [_categories(s) for s in sources] if categories is None else categories
        self.classes: tuple[str, ...] = tuple(sorted({name for part in known for name in part.values()}))
        """Sorted class names of the images of all parts; a sample's category is a place in it."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        self._category = [{image: numbers[name] for image, name in part.items()} for part in known]

    def name(self, key: SampleKey) -> str:
        """Name of the image of a sample."""
        return self.sources[key.part].name(key.image)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Random crop (of the resized or shrunk image), the part's flips and turns, then its degradation."""
        part, source = self.parts[key.part], self.sources[key.part]
        generator = np.random.default_rng([self.seed, key.slot])
        layers = source.layers(key.image)
        paired = source.paired(key.image)
        if part.resize is not None:
            layers = [resized(layer, part.resize) for layer in layers]
        if part.small_images == "reflect":
            layers = [mirrored(layer, key.patch_size) for layer in layers]
        height, width = layers[0].shape[:2]
        if min(height, width) < key.patch_size:
            raise AirpipeError(
                f"{part.pairs}, image {source.name(key.image)}: {width}x{height} pixels is smaller than "
                f"patch_size {key.patch_size}; choose a smaller patch, leave the image out, or mirror it "
                "(small_images: reflect)"
            )
        if paired and (part.rescale != (1.0, 1.0) or part.jitter):
            raise AirpipeError(
                f"{source.name(key.image)}: rescale and jitter are for images that are degraded online; "
                f"{part.pairs} has pairs"
            )
        side = window_side(part.rescale, min(height, width), key.patch_size, generator)
        top = int(generator.integers(height - side, endpoint=True))
        left = int(generator.integers(width - side, endpoint=True))
        turns = int(generator.integers(4)) if part.augment == "turns" else 0
        flip = bool(generator.integers(2)) if part.augment != "none" else False
        window = (slice(top, top + side), slice(left, left + side))
        layers = [turned(shrunk(layer[window], key.patch_size), turns, flip) for layer in layers]
        if part.jitter:
            layers[0] = jittered(layers[0], part.jitter, generator)
        names = (source.name(key.image), source.level(key.image))
        category = self._category[key.part].get(names[0], -1)
        sample = _sample(part, layers, paired, key.image, names, generator)
        return {**sample, "slot": key.slot, "category": category}


def _categories(source: Sequence[Pair] | Source) -> dict[str, str]:
    """Class of each image by name, where pairs say it."""
    return {pair.name: pair.category for pair in source if pair.category} if isinstance(source, Sequence) else {}


def pair_layers(pair: Pair, cache: ImageCache) -> list[npt.NDArray[Any]]:
    """[clean], [clean, degraded] or [clean, depth] of a pair, equally large."""
    clean = cache.rgb8(pair.clean)
    if pair.degraded is not None:
        degraded, clean = align(cache.rgb8(pair.degraded), clean, pair.crop, pair.name)
        return [clean, degraded]
    return [clean] if pair.depth is None else [clean, cache.depth(pair.depth)]


def _sample(
    part: DataPart,
    layers: list[npt.NDArray[Any]],
    paired: bool,
    index: int,
    names: tuple[str, str],
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Sample of an aligned patch; `index` is the image's in its part, `names` are its name and level."""
    clean: Rgb8 = layers[0]
    name, level = names
    if paired and part.operations:
        raise AirpipeError(
            f"data part {part.pairs}: recipe {part.recipe or 'given as operations'} is for clean images, but {name} "
            "has a degraded file. Leave the recipe out to take the file, or name a list of clean images"
        )
    if paired:
        degraded: npt.NDArray[Any] = layers[1]
    else:
        depth = layers[1] if layers[1:] else None
        field = legacy_noise_field(clean.shape, index) if part.noise_seed == "image" else None
        degraded, drawn = degrade_clean(clean, part.operations, generator, depth, field)
        level = " ".join(f"{parameter}={value:.4g}" for parameter, value in drawn.items())
        degraded = quantised(degraded) if part.quantise else degraded
    return {"degraded": degraded, "clean": clean, "label": part.label, "name": name, "level": level}


def degrade_clean(
    clean: Rgb8,
    operations: Sequence[Operation],
    generator: np.random.Generator,
    depth: FloatImage | None,
    field: FloatImage | None = None,
) -> tuple[FloatImage, dict[str, Any]]:
    """Apply a recipe to an 8-bit image: float32 (H, W, 3), neither clipped nor rounded, and what was drawn."""
    return degrade(np.asarray(clean, np.float32) / np.float32(255), operations, generator, depth, field)


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Stack samples; one float image makes the whole batch float."""
    return Batch(
        degraded=_stack([s["degraded"] for s in samples]),
        clean=_stack([s["clean"] for s in samples]),
        label=torch.tensor([s["label"] for s in samples], dtype=torch.int64),
        name=[s["name"] for s in samples],
        level=[s["level"] for s in samples],
        slot=tuple(s["slot"] for s in samples if "slot" in s),
        category=torch.tensor([s.get("category", -1) for s in samples], dtype=torch.int64),
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
        classes: of the training samples; an image of another class has category -1.
    """

    def __init__(
        self,
        parts: Sequence[DataPart],
        pairs: Sequence[Sequence[Pair]],
        seed: int,
        patch_size: int,
        multiple: int,
        classes: Sequence[str] = (),
    ) -> None:
        self.parts = parts
        self.rows = [(p, i, pair) for p, part in enumerate(pairs) for i, pair in enumerate(part)]
        self.seed, self.patch_size, self.multiple = seed, patch_size, multiple
        self.cache = ImageCache()
        self._numbers = {name: number for number, name in enumerate(classes)}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Sample of one (part, image)."""
        part, index, pair = self.rows[row]
        layers, side = pair_layers(pair, self.cache), self.parts[part].resize
        if side is not None:
            layers = [resized(layer, side) for layer in layers]
        if min(layers[0].shape[:2]) < self.multiple:
            raise AirpipeError(f"{pair.clean}: smaller than the {self.multiple} pixels that the network needs")
        height, width = (
            max(self.multiple, min(side, self.patch_size) // self.multiple * self.multiple)
            for side in layers[0].shape[:2]
        )
        top, left = (layers[0].shape[0] - height) // 2, (layers[0].shape[1] - width) // 2
        layers = [np.ascontiguousarray(layer[top : top + height, left : left + width]) for layer in layers]
        # 2**32 sets these streams apart from those of training slots
        generator = np.random.default_rng([self.seed, 2**32, part, index])
        names = (pair.name, pair.level)
        sample = _sample(self.parts[part], layers, pair.degraded is not None, index, names, generator)
        return {**sample, "category": self._numbers.get(pair.category, -1)}
