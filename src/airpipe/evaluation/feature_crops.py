"""The degraded crops whose features are analysed. This module needs no torch of its own."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from airpipe.data.degrading import degraded_image
from airpipe.data.pairs import Pair
from airpipe.data.sources import ImageCache, pair_layers
from airpipe.errors import AirpipeError
from airpipe.pixels import Rgb8
from airpipe.progress import track
from airpipe.settings.studies import FeatureClass, FeatureSettings


@dataclass(frozen=True)
class Crop:
    """One degraded crop, 8-bit as a file would be."""

    pixels: Rgb8
    """Pixels (P, P, 3), RGB."""
    label: int
    """Label of its class."""
    image: str
    """Name of the image that it was cut from."""
    scene: str
    """Data set and scene: the same photograph in several classes is one scene."""


def class_crops(settings: FeatureSettings, pairs: Mapping[str, Sequence[Pair]]) -> list[Crop]:
    """Cut and degrade all crops, class by class in the order of labels.

    Args:
        settings: feature settings, whose classes have their recipes and labels written out.
        pairs: pairs of every list that a class names.

    Raises:
        AirpipeError: an image smaller than the patch, one that nothing degrades, or one that is degraded already.
    """
    cache = ImageCache()
    todo = [
        (name, entry, pair)
        for name, entry in in_order(settings)
        for pair in evenly(pairs[entry.pairs], settings.images_per_class)
    ]
    return [
        crop
        for name, entry, pair in track(todo, len(todo), "degrading")
        for crop in _crops(settings, name, entry, pair, pair_layers(pair, cache))
    ]


def in_order(settings: FeatureSettings) -> list[tuple[str, FeatureClass]]:
    """Classes in the order of their labels."""
    labels = settings.labels()
    return sorted(settings.classes.items(), key=lambda item: labels[item[0]])


def evenly(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Choose at most `count` pairs of a list, evenly spaced: neighbours in a list often show one scene."""
    kept = min(count, len(pairs))
    return [pairs[place * len(pairs) // kept] for place in range(kept)]


def crop_places(height: int, width: int, side: int, count: int) -> list[tuple[int, int]]:
    """Upper left corners (row, column) of at most `count` squares in an image that holds at least one.

    One is in the centre, more stand on an even grid. Never two at one place: small images have fewer.
    """
    rows = max(1, round(math.sqrt(count * height / width)))
    corners = [
        np.unique(np.linspace(0, free, number).round().astype(int)) if number > 1 else np.array([free // 2])
        for free, number in ((height - side, rows), (width - side, math.ceil(count / rows)))
    ]
    places = [(int(top), int(left)) for top in corners[0] for left in corners[1]]
    kept = min(count, len(places))
    return [places[place * len(places) // kept] for place in range(kept)]


def cut_crops(
    pair: Pair, layers: Sequence[npt.NDArray[Any]], side: int, count: int, where: str
) -> list[list[npt.NDArray[Any]]]:
    """Cut at most `count` squares out of the layers of an image, see `crop_places`.

    Raises:
        AirpipeError: the image is smaller than the squares.
    """
    height, width = layers[0].shape[:2]
    if min(height, width) < side:
        raise AirpipeError(
            f"{where}: {pair.name} has {width}x{height} pixels and is smaller than patch_size {side}. Lower patch_size "
            "there or leave the image out"
        )
    return [
        [np.ascontiguousarray(layer[top : top + side, left : left + side]) for layer in layers]
        for top, left in crop_places(height, width, side, count)
    ]


def _crops(
    settings: FeatureSettings, name: str, entry: FeatureClass, pair: Pair, layers: list[npt.NDArray[Any]]
) -> list[Crop]:
    cuts = cut_crops(pair, layers, settings.patch_size, settings.crops_per_image, f"features, class {name}")
    if pair.degraded is None and not entry.operations:
        raise AirpipeError(
            f"features, class {name}: {entry.pairs} has no degraded file of {pair.name}; give the class a recipe"
        )
    crops, paired = [], pair.degraded is not None
    where = f"features, class {name}, {entry.pairs}: recipe {entry.recipe or 'given as operations'}"
    scene = f"{entry.pairs.split('.')[0]}/{pair.group}"
    for number, cut in enumerate(cuts):
        # a stream for each crop: other classes, images or numbers of crops change nothing of it
        key = [settings.seed, zlib.crc32(name.encode()), zlib.crc32(pair.name.encode()), number]
        pixels, _ = degraded_image(
            cut, paired, entry.operations, np.random.default_rng(key), where=where, name=pair.name
        )
        crops.append(Crop(pixels, settings.labels()[name], pair.name, scene))
    return crops
