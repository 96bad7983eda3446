"""What a restorer is asked: an image, and the reference that it is shown beside it, if there is one. No torch."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from airpipe.data.degrading import degraded_image
from airpipe.data.pairs import Pair
from airpipe.data.sources import ImageCache, pair_layers
from airpipe.degradations.recipes import draw
from airpipe.errors import AirpipeError
from airpipe.pixels import FloatImage, Rgb8
from airpipe.settings.scoring import TestSettings


@dataclass(frozen=True)
class Sample:
    """An image to restore, and what its task has beside it."""

    degraded: FloatImage
    """The image to restore: (H, W, 3) float32, RGB, nominally in [0, 1]."""
    name: str = ""
    """Name of the image in the pair list, for messages and for choices that depend on it."""
    reference: FloatImage | None = None
    """A second image that shows how the result should look, (h, w, 3) float32 of any size; None: the task has none."""
    grey: bool = False
    """Whether the clean image is grey: networks of one channel are then given the first one of the degraded image."""


REDRAWS = 100
"""Draws at most until degraded image or target is not clean: where both are, there is nothing to transfer."""


@dataclass(frozen=True)
class Transfer:
    """What a test asks of a model that transfers degradations, for one image; all uint8 (H, W, 3) RGB."""

    degraded: Rgb8
    """The image that the model gets, degraded by a draw of the test's recipe."""
    target: Rgb8
    """What the result is compared with: the clean image, degraded by a draw of the target's recipe."""
    reference: Rgb8
    """Another image of the list, degraded by the target's draw with noise of its own; of any size."""
    level: str
    """The operations that make the target, see `Drawn.label`."""


def transfer(
    test: TestSettings, pair: Pair, layers: Sequence[npt.NDArray[Any]], pairs: Sequence[Pair], cache: ImageCache
) -> Transfer:
    """Make what a test with a target recipe asks for one image.

    Args:
        test: the test, with its recipes written out.
        pair: the image; its name fixes what is drawn.
        layers: what `pair_layers` reads of it, cut as a protocol wants it.
        pairs: all images of the test, of which another one becomes the reference; one may stand there several times.
        cache: decoded images.

    Raises:
        AirpipeError: the list has no other image, or a recipe is for an image that has a degraded file.
    """
    others = [other for other in pairs if other.clean != pair.clean]
    if not others:
        raise AirpipeError(f"test of {test.pairs}: {pair.name} is the only image, and its reference is another one")
    # The order of draws is a contract, that of `airpipe.data.samples`: the other image, what recipe and target recipe
    # draw, then the noise of the degraded image, of the target and of the reference.
    generator = np.random.default_rng([test.seed, zlib.crc32(pair.name.encode())])
    other = others[int(generator.integers(len(others)))]
    paired, shown = pair.degraded is not None, pair_layers(other, cache)
    for _ in range(REDRAWS):
        drawn, target = draw(test.operations, generator), draw(test.target_operations, generator)
        if paired or drawn.steps or target.steps:
            break

    def made(of: Sequence[npt.NDArray[Any]], name: str, how: Any, paired: bool, what: str) -> Rgb8:
        where = f"test of {test.pairs}: {what}"
        return degraded_image(of, paired, how, generator, where=where, name=name)[0]

    return Transfer(
        degraded=made(layers, pair.name, drawn, paired, f"recipe {test.recipe}"),
        target=made(layers[:1] if paired else layers, pair.name, target, False, "target recipe"),
        reference=made(shown[:1] if other.degraded else shown, other.name, target, False, "target recipe"),
        level=target.label(),
    )
