"""Training and validation samples: decode, crop, augment in uint8; then degrade."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from airpipe.data.crops import Turned, jittered, mirrored, orientation, resized, shrunk, turned, window_side
from airpipe.data.deferred import Undegraded, undegraded_image
from airpipe.data.degrading import degraded_image
from airpipe.data.drawn import DrawnColumns
from airpipe.data.pairs import Pair
from airpipe.data.sampling import SampleKey
from airpipe.data.sources import CACHE_BYTES, ImageCache, PairFiles, Source, pair_layers
from airpipe.degradations.noise import legacy_noise_field
from airpipe.degradations.recipes import WHOLE, Drawn, draw
from airpipe.errors import AirpipeError
from airpipe.images import centre_crop
from airpipe.pixels import Box, Layer, whole
from airpipe.settings.degrading import Recipe
from airpipe.settings.stages import DataPart

_Image = npt.NDArray[Any] | Undegraded


@dataclass(frozen=True)
class _Patch:
    """An aligned patch of one listed image."""

    layers: Sequence[Layer]
    """Clean image, then the degraded one or the depth, if any; see `pair_layers`."""
    box: Box
    """Where the patch lies in the layers; around it are its surroundings, if there are any."""
    paired: bool
    """Whether the second layer is a degraded image."""
    index: int
    """Number of the image in its part."""
    name: str
    level: str
    """Level of the degradation, as the list says it."""


class TrainingSamples(Dataset[dict[str, Any]]):
    """Training samples by their `SampleKey`: equal in every process, worker and run, from files or packs.

    Args:
        parts: parts of the mix, with their recipes written out.
        sources: the pairs of each part, or a pack of them.
        seed: seed of the stage.
        cache_bytes: bytes of decoded images that each loader process keeps.
        categories: class of the images of each part, by name; packs do not know it. None: as the pairs say.
        defer: whether to leave degrading to the batch (`deferred.collate_deferred`); the parts must allow it
            (`deferred.why_not`).
    """

    def __init__(
        self,
        parts: Sequence[DataPart],
        sources: Sequence[Sequence[Pair] | Source],
        seed: int,
        cache_bytes: int = CACHE_BYTES,
        categories: Sequence[Mapping[str, str]] | None = None,
        defer: bool = False,
    ) -> None:
        self.parts, self.seed, self.defer = list(parts), seed, defer
        self.cache = ImageCache(cache_bytes)
        self.sources: list[Source] = [PairFiles(s, self.cache) if isinstance(s, Sequence) else s for s in sources]
        known = [_categories(s) for s in sources] if categories is None else categories
        self.classes: tuple[str, ...] = tuple(sorted({name for part in known for name in part.values()}))
        """Sorted class names of the images of all parts; a sample's category is a place in it."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        self._category = [{image: numbers[name] for image, name in part.items()} for part in known]
        self._columns = _columns(self.parts)

    def name(self, key: SampleKey) -> str:
        """Return the name of a sample's image."""
        return self.sources[key.part].name(key.image)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Make a sample: a random crop (of the resized or shrunk image), flipped and turned, then degraded."""
        # The order of draws is a contract, because another one gives other samples for the same seed: the patch, then
        # the companion and its patch, then what degrades them (see `_sample`).
        part, generator = self.parts[key.part], np.random.default_rng([self.seed, key.slot])
        patch, other = self._patch(key.part, key.image, key.patch_size, generator), None
        if part.companion:
            image = int(generator.integers(len(self.sources[key.part])))
            other = self._patch(key.part, image, key.patch_size, generator)
        sample, drawn, target = _sample(part, patch, other, generator, self.defer)
        return {
            **sample,
            "slot": key.slot,
            "category": self._category[key.part].get(patch.name, -1),
            "drawn": self._columns[0].row(key.part, drawn),
            "target_drawn": self._columns[1].row(key.part, target),
        }

    def _patch(self, number: int, image: int, side: int, generator: np.random.Generator) -> _Patch:
        """Random patch of an image of part `number`; draws window, turns, flip, colours, each where the part asks."""
        part, source = self.parts[number], self.sources[number]
        layers, paired, name = source.layers(image), source.paired(image), source.name(image)
        if part.resize is not None:
            layers = [resized(layer, part.resize) for layer in layers]
        what = f"{part.pairs}, image {name}"
        layers = [cast(Any, centre_crop(cast(Any, layer), part.crop_multiple, what)) for layer in layers]
        if part.small_images == "reflect":
            layers = [mirrored(layer, side) for layer in layers]
        height, width = layers[0].shape[:2]
        if min(height, width) < side:
            raise AirpipeError(
                f"{what}: {width}x{height} pixels is smaller than patch_size {side}; mirror "
                "it (small_images: reflect), which keeps the steps done; or, to begin anew, choose a smaller patch or "
                "leave the image out"
            )
        if paired and (part.rescale != (1.0, 1.0) or part.jitter):
            raise AirpipeError(
                f"{name}: rescale and jitter are for images that are degraded online; {part.pairs} has pairs"
            )
        window = window_side(part.rescale, min(height, width), side, generator)
        top = int(generator.integers(height - window, endpoint=True))
        left = int(generator.integers(width - window, endpoint=True))
        turns, flip = orientation(part.augment, generator)
        if part.surroundings:
            rows, columns = (left, top) if turns % 2 else (top, left)  # as random in the turned image
            box = (slice(rows, rows + side), slice(columns, columns + side))
            seen = [Turned(layer, turns, flip) for layer in layers]
            return _Patch(seen, box, paired, image, name, source.level(image))
        cut = (slice(top, top + window), slice(left, left + window))
        layers = [turned(shrunk(layer[cut], side), turns, flip) for layer in layers]
        if part.jitter:
            layers[0] = jittered(layers[0], part.jitter, generator)
        return _Patch(layers, whole(layers[0]), paired, image, name, source.level(image))


def _columns(parts: Sequence[DataPart]) -> tuple[DrawnColumns, DrawnColumns]:
    """Columns of what is drawn for the degraded side of a mix, and for its clean side.

    Raises:
        AirpipeError: a part with surroundings has an operation that divides the whole image.
    """
    for part in parts:
        for step in (*part.operations.operations, *part.target_operations.operations):
            if part.surroundings and step.operation in WHOLE:
                raise AirpipeError(
                    f"{part.pairs}: found surroundings: true with {step.operation}, which divides the whole image and "
                    "not the part around a patch; leave surroundings out"
                )
    return (
        DrawnColumns([part.operations for part in parts]),
        DrawnColumns([part.target_operations for part in parts]),
    )


def _categories(source: Sequence[Pair] | Source) -> dict[str, str]:
    """Class of each image by name, where pairs say it."""
    return {pair.name: pair.category for pair in source if pair.category} if isinstance(source, Sequence) else {}


def _sample(
    part: DataPart,
    patch: _Patch,
    other: _Patch | None,
    generator: np.random.Generator,
    defer: bool = False,
) -> tuple[dict[str, Any], Drawn, Drawn]:
    """Sample of a patch, and of its companion where there is one; what was drawn for degraded and clean side."""
    # Order of draws, a contract: without companion, target and surroundings as `degrade` has it; else first what recipe
    # and target recipe draw, then the noise of degraded and clean image, then that of the companion's. Instead of the
    # noise, an image that is degraded later draws the noise's seed.
    how = draw(part.operations, generator) if part.shares_draws else part.operations
    target = draw(part.target_operations, generator)
    (degraded, drawn), clean = _sides(part, patch, how, target, generator, defer)
    sample: dict[str, Any] = {
        "degraded": degraded,
        "clean": clean,
        "label": part.label,
        "name": patch.name,
        "level": patch.level if patch.paired else _level(drawn),
    }
    if other is not None:
        (degraded, _), clean = _sides(part, other, how, target, generator, defer)
        sample["companion"] = {"degraded": degraded, "clean": clean, "name": other.name}
    return sample, drawn, target


def _sides(
    part: DataPart, patch: _Patch, how: Recipe | Drawn, target: Drawn, generator: np.random.Generator, defer: bool
) -> tuple[tuple[_Image, Drawn], _Image]:
    """The degraded image with what was drawn for it, and the clean one, degraded as well where there is a target."""
    degrade: Callable[..., tuple[_Image, Drawn]] = undegraded_image if defer else degraded_image
    field = legacy_noise_field(patch.layers[0].shape, patch.index) if part.noise_seed == "image" else None
    degraded = degrade(
        patch.layers,
        patch.paired,
        how,
        generator,
        where=f"data part {part.pairs}: recipe {part.recipe or 'given as operations'}",
        name=patch.name,
        field=field,
        quantise=part.quantise,
        box=patch.box,
    )
    if not part.target_operations:
        return degraded, patch.layers[0][patch.box]
    layers = patch.layers[:1] if patch.paired else patch.layers
    where = f"data part {part.pairs}: target recipe {part.target_recipe or 'given as operations'}"
    clean, _ = degrade(
        layers, False, target, generator, where=where, name=patch.name, quantise=part.quantise, box=patch.box
    )
    return degraded, clean


def _level(drawn: Drawn) -> str:
    """Drawn numbers and words as text."""
    named = {name: value for name, value in drawn.named().items() if isinstance(value, int | float | str)}
    return " ".join(
        f"{name}={value}" if isinstance(value, str) else f"{name}={value:.4g}" for name, value in named.items()
    )


class ValidationSamples(Dataset[dict[str, Any]]):
    """Fixed centre crops of every image of every part, degraded with fixed seeds.

    Args:
        parts, pairs, seed: as for `TrainingSamples`.
        patch_size: largest side of the crop in pixels; smaller images are used whole, cut to `multiple`.
        multiple: number of pixels that the sides must be multiples of, for the network.
        classes: class names of the training samples; an image of another class has category -1.
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
        self._ends = list(accumulate(map(len, pairs)))
        self.seed, self.patch_size, self.multiple = seed, patch_size, multiple
        self.cache = ImageCache()
        self._numbers = {name: number for number, name in enumerate(classes)}
        self._columns = _columns(parts)
        self._listed = pairs

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Make the sample of one listed image."""
        if not 0 <= row < len(self):
            raise IndexError(f"sample {row} of {len(self)}")
        number = bisect_right(self._ends, row)
        index = row - self._ends[number] + len(self._listed[number])
        pair = self._listed[number][index]
        # 2**32 sets these streams apart from those of training slots
        part, generator = self.parts[number], np.random.default_rng([self.seed, 2**32, number, index])
        patch, other = self._patch(part, index, pair), None
        if part.companion:
            place = int(generator.integers(len(self._listed[number])))
            other = self._patch(part, place, self._listed[number][place])
        sample, drawn, target = _sample(part, patch, other, generator)
        return {
            **sample,
            "category": self._numbers.get(pair.category, -1),
            "drawn": self._columns[0].row(number, drawn),
            "target_drawn": self._columns[1].row(number, target),
        }

    def _patch(self, part: DataPart, index: int, pair: Pair) -> _Patch:
        """Centre crop of an image."""
        layers = pair_layers(pair, self.cache)
        if part.resize is not None:
            layers = [resized(layer, part.resize) for layer in layers]
        if min(layers[0].shape[:2]) < self.multiple:
            raise AirpipeError(f"{pair.clean}: smaller than the {self.multiple} pixels that the network needs")
        height, width = (
            max(self.multiple, min(side, self.patch_size) // self.multiple * self.multiple)
            for side in layers[0].shape[:2]
        )
        top, left = (layers[0].shape[0] - height) // 2, (layers[0].shape[1] - width) // 2
        box = (slice(top, top + height), slice(left, left + width))
        if not part.surroundings:
            layers = [np.ascontiguousarray(layer[box]) for layer in layers]
            box = whole(layers[0])
        return _Patch(layers, box, pair.degraded is not None, index, pair.name, pair.level)
