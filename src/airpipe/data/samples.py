"""Training and validation samples: decode, crop, augment in uint8; then degrade."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from airpipe.data.crops import Rgb8, jittered, mirrored, resized, shrunk, turned, window_side
from airpipe.data.degrading import degrade_clean, quantised
from airpipe.data.pairs import Pair
from airpipe.data.sampling import SampleKey
from airpipe.data.sources import CACHE_BYTES, ImageCache, PairFiles, Source, pair_layers
from airpipe.degradations.noise import legacy_noise_field
from airpipe.errors import AirpipeError
from airpipe.settings.stages import DataPart


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
