"""Tests under protocols: one network pass per distinct input, scored under every protocol that shares it."""

import csv
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from airpipe.data.degrading import degraded_image
from airpipe.data.pairs import Pair
from airpipe.data.sources import ImageCache, pair_layers
from airpipe.errors import AirpipeError
from airpipe.evaluation.metrics import ON_CPU, Kit, Measurement, least_side, measure
from airpipe.evaluation.perceptual import perceptual_measures
from airpipe.evaluation.reference import Sample, transfer
from airpipe.images import Picture, centre_crop, glance, write_picture
from airpipe.pixels import FloatImage, Rgb8, as_floats, equal_channels, quantised
from airpipe.progress import track
from airpipe.provenance import atomic_path
from airpipe.settings.base import canonical_json, unknown_name
from airpipe.settings.scoring import MetricSettings, NoiseRule, ProtocolSettings, TestSettings

Restorer = Callable[[Sample], FloatImage]
"""A function that restores a sample: returns (H, W, 3) float32, as large as its degraded image, nominally in [0, 1]."""
Keep = Callable[[Sample, FloatImage, Rgb8], None]
"""A function that keeps pictures of a sample: what a model made of it, and what that is compared with."""
COLUMNS = ("image", "degradation", "level", "protocol", "metric", "value")


class NoiseStream:
    """Noisy inputs of one test under one rule; ask for the images in list order.

    Args:
        rule: noise rule of the protocol.
        sigma: standard deviation in 8-bit grey levels.
    """

    def __init__(self, rule: NoiseRule, sigma: float) -> None:
        self.rule, self.sigma = rule, sigma
        self._legacy = np.random.RandomState(rule.seed)  # noqa: NPY002 - published protocols use the legacy stream

    def noisy(self, clean: Rgb8, name: str) -> FloatImage:
        """Add noise to an image (H, W, 3); float32 on the 0 to 1 scale, outside it where the rule does not clip."""
        levels = clean + self.sigma * self._noise(clean.shape, name)
        if self.rule.clip:
            levels = np.clip(levels, 0, 255)
        if self.rule.quantise == "truncate":
            levels = np.trunc(levels)
        elif self.rule.quantise == "round":
            levels = np.rint(levels)
        return (levels / 255).astype(np.float32)

    def _noise(self, shape: tuple[int, ...], name: str) -> npt.NDArray[np.float64]:
        if self.rule.generator == "per_image":
            # seeds are whole numbers: thousandths of a grey level, and a checksum (hash() differs from run to run)
            key = [self.rule.seed, round(1000 * self.sigma), zlib.crc32(name.encode())]
            return np.random.default_rng(key).standard_normal(shape)
        if self.rule.generator == "restart":
            self._legacy.seed(self.rule.seed)
        return self._legacy.standard_normal(shape)


@dataclass
class _Input:
    """Protocols that see the same degraded images."""

    crop_multiple: int
    noise: NoiseStream | None
    protocols: dict[str, ProtocolSettings] = field(default_factory=dict)


def distinct_inputs(test: TestSettings, protocols: dict[str, ProtocolSettings]) -> list[_Input]:
    """Group a test's protocols by their cut and, for noise, noise rule; equal sizes may join groups, see `evaluate`.

    Raises:
        AirpipeError: the test names an unknown protocol.
    """
    sigma = noise_sigma(test)
    groups: dict[tuple[int, str], _Input] = {}
    for name in test.protocols:
        if name not in protocols:
            raise AirpipeError(f"test of {test.pairs}: {unknown_name(name, protocols, 'protocol')}")
        protocol = protocols[name]
        rule = "" if sigma is None else canonical_json(protocol.noise)
        stream = None if sigma is None else NoiseStream(protocol.noise, sigma)
        group = groups.setdefault((protocol.crop_multiple, rule), _Input(protocol.crop_multiple, stream))
        group.protocols[name] = protocol
    return list(groups.values())


def noise_sigma(test: TestSettings) -> float | None:
    """Sigma in grey levels where a test is pure Gaussian noise, so that the protocol's noise rule applies; else None.

    A test of transfer has the noise of its recipe, whatever the protocol.

    Raises:
        AirpipeError: sigma is drawn; a noise test has one level.
    """
    recipe = test.operations
    if len(recipe.operations) != 1 or recipe.operations[0].operation != "gaussian_noise":
        return None
    if test.transfers or recipe.nothing or recipe.operations[0].chance < 1:
        return None
    sigma = recipe.operations[0].parameters["sigma"].constant
    if sigma is None:
        raise AirpipeError("a noise test needs one level: set fixed: {sigma: ...}")
    return float(sigma)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key that puts img2 before img10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def evaluate(
    test: TestSettings,
    protocols: dict[str, ProtocolSettings],
    pairs: Sequence[Pair],
    restorer: Restorer | None,
    keep: Keep | None = None,
    label: str = "scoring",
    kit: Kit[Any] = ON_CPU,
) -> list[dict[str, Any]]:
    """Score every image of a test under every protocol of it; print how often the model ran, and what scoring took.

    An image goes through the model once per distinct input: protocols that cut it to the same size share a pass
    (and, for noise, those of one rule), and a number that several of them ask for is measured once.

    Args:
        test: the test, with its recipe written out.
        protocols: the protocols that it names, by name.
        pairs: its images, which are scored in natural order of their names.
        restorer: the model; None scores the degraded images exactly as a model gets them ("no
            restoration": the textbook input PSNR, 14.15 dB for unclipped noise of sigma 50).
        keep: called for the first `keep_images` images, under the first protocol's input.
        label: text of the progress display.
        kit: how images are compared; on the device where they were restored.

    Returns:
        One row per image, protocol and metric, with the keys of `COLUMNS`.

    Raises:
        AirpipeError: before the model runs: an unknown protocol, an image that is too small for a metric, luma of
            grey images; later: a recipe for an image that has a degraded file, a result that is not a number.
    """
    inputs = distinct_inputs(test, protocols)
    ordered = sorted(pairs, key=lambda pair: natural_key(pair.name))
    ordered += [replace(pair, name=f"{pair.name}@{turn}") for turn in range(2, test.draws + 1) for pair in ordered]
    refuse_unfit_images(test, [one for group in inputs for one in group.protocols.values()], ordered, label)
    scorer = _Scorer(test, protocols, restorer is not None, kit)
    cache, rows, begin, passes = ImageCache(), list[dict[str, Any]](), time.perf_counter(), 0
    for number, pair in enumerate(track(ordered, len(ordered), label)):
        layers = pair_layers(pair, cache)
        for place, (cut, group) in enumerate(_passes(layers, inputs, f"{label}: {pair.clean}")):
            sample, clean, level = _asked(test, pair, cut, group.noise, ordered, cache)
            restored = sample.degraded if restorer is None else restorer(sample)
            passes += restorer is not None
            if np.isnan(restored.sum()):
                raise AirpipeError(f"{pair.clean}: the restored image is not a number everywhere. Nothing was scored")
            if keep is not None and place == 0 and number < test.keep_images:
                keep(sample, restored, clean)
            rows += scorer.rows(pair, group, restored, clean, level)
    took = time.perf_counter() - begin
    print(
        f"{label}: {len(ordered)} images, {passes} passes of the model, {len(rows)} scores from {scorer.count} "
        f"measurements; scoring took {scorer.seconds:.2f} of {took:.2f} s ({100 * scorer.seconds / took:.1f} %)",
        flush=True,
    )
    return rows


def _asked(
    test: TestSettings,
    pair: Pair,
    layers: list[npt.NDArray[Any]],
    noise: NoiseStream | None,
    pairs: Sequence[Pair],
    cache: ImageCache,
) -> tuple[Sample, Rgb8, str]:
    """What a test asks for one image: the sample, what the result is compared with, and the degradation's level."""
    if not test.transfers:
        grey = equal_channels(layers[0])
        return Sample(degraded_input(test, pair, layers, noise), pair.name, grey=grey), layers[0], test.level
    made = transfer(test, pair, layers, pairs, cache)
    return Sample(as_floats(made.degraded), pair.name, as_floats(made.reference)), made.target, made.level


def _passes(
    layers: list[npt.NDArray[Any]], inputs: Sequence[_Input], what: str
) -> list[tuple[list[npt.NDArray[Any]], _Input]]:
    """Distinct inputs of one image: its cut layers, and the protocols that see them.

    Groups whose cuts have the same size see the same input, unless a noise stream runs through all images of each.
    """
    found: dict[tuple[Any, ...], tuple[list[npt.NDArray[Any]], _Input]] = {}
    for group in inputs:
        cut = [cast(Any, centre_crop(layer, group.crop_multiple, what)) for layer in layers]
        rule = group.noise and group.noise.rule
        stream = group.crop_multiple if rule and rule.generator == "once" else None
        key = (cut[0].shape, rule and canonical_json(rule), stream)
        found.setdefault(key, (cut, _Input(group.crop_multiple, group.noise)))[1].protocols.update(group.protocols)
    return list(found.values())


def refuse_unfit_images(
    test: TestSettings, protocols: Sequence[ProtocolSettings], pairs: Sequence[Pair], label: str
) -> None:
    """Refuse, by the headers of their files, images that a metric cannot take.

    Args:
        test: the test.
        protocols: its protocols.
        pairs: its images.
        label: what is done, with the test's name, for the message.

    Raises:
        AirpipeError: images of which cuts and borders leave nothing, or less than the SSIM window (the first ten and a
            count); or luma where all images are grey: it would squeeze 0 to 255 into 16 to 235, and PSNR would rise by
            1.32 dB.
    """
    used = [(p, one) for p in protocols for one in p.metrics.values() if one.channels(test.degradation)]
    glances = {path: glance(path) for pair in pairs for path in (pair.clean, pair.degraded) if path is not None}
    small: dict[Path, str] = {}
    for pair in pairs:
        heights, widths, _ = zip(*(glances[path] for path in (pair.clean, pair.degraded) if path), strict=True)
        size = (min(heights), min(widths)) if pair.window is None else (pair.window.height, pair.window.width)
        if reason := _too_small(size, used):
            small.setdefault(pair.clean, f"{pair.clean}: {size[1]}x{size[0]} pixels {reason}")
    if small:
        shown = "; ".join([*small.values()][:10]) + ("; ..." if len(small) > 10 else "")  # noqa: PLR2004
        raise AirpipeError(
            f"{label}: {len(small)} images of {test.pairs} are too small: {shown}. Leave them out (leave_out)"
        )
    grey = bool(pairs) and all(glances[pair.clean][2] for pair in pairs)
    if grey and any(one.channels(test.degradation) != "rgb" for _, one in used):
        raise AirpipeError(
            f"test of {test.pairs}: all images are grey, and a protocol compares luma, which raises their PSNR "
            "by 1.32 dB. Use a protocol that compares RGB: for grey images that is the grey value"
        )


def _too_small(size: tuple[int, int], used: Sequence[tuple[ProtocolSettings, MetricSettings]]) -> str:
    """Why an image of a height and width cannot be scored; "" if it can."""
    for protocol, one in used:
        left = min(side - side % protocol.crop_multiple - 2 * protocol.border for side in size)
        if left < least_side(one.measure):
            how = f"cuts to multiples of {protocol.crop_multiple} and borders of {protocol.border}"
            if left < 1:
                return f"are nothing after {how} ({protocol.title})"
            return f"are smaller than the SSIM window of {least_side(one.measure)} after {how} ({protocol.title})"
    return ""


def grey_in_luma(
    test: TestSettings, protocols: Mapping[str, ProtocolSettings], pairs: Sequence[Pair]
) -> dict[str, int]:
    """Count the grey files of a test under each of its protocols that compares luma, where there are any.

    Raises:
        AirpipeError: a file is gone or no image.
    """
    luma = {
        name: {one.channels(test.degradation) for one in protocols[name].metrics.values()} - {"rgb", None}
        for name in test.protocols
    }
    grey = sum(glance(pair.clean)[2] for pair in pairs) if any(luma.values()) else 0
    return {name: grey for name, colours in luma.items() if grey and colours}


@dataclass
class _Scorer:
    """Scores of images under protocols, with the time that they took."""

    test: TestSettings
    protocols: dict[str, ProtocolSettings]
    restored: bool
    """Whether a model restores; what is not restored is neither clipped nor rounded."""
    kit: Kit[Any]
    seconds: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        names = {one.measure for name in self.test.protocols for one in self.protocols[name].metrics.values()}
        extra = perceptual_measures(names, self.kit.device)
        self.kit = replace(self.kit, measures={**self.kit.measures, **extra})

    def rows(self, pair: Pair, group: _Input, restored: FloatImage, clean: Rgb8, level: str) -> list[dict[str, Any]]:
        """Scores of one image under protocols that share its input."""
        begin = time.perf_counter()
        exact = not self.restored and group.noise is None  # 8 bit as it is: rounding changes nothing
        wanted = {
            (name, metric): Measurement(
                one.measure,
                channels,
                protocol.border,
                rounded=exact or (protocol.round_output and self.restored),
                clipped=exact or self.restored,
            )
            for name, protocol in group.protocols.items()
            for metric, one in protocol.metrics.items()
            if (channels := one.channels(self.test.degradation)) and one.measure in self.kit.measures
        }
        try:
            values = measure(restored, clean, set(wanted.values()), self.kit)
        except ValueError as error:
            raise AirpipeError(f"{pair.clean}: {error}. Leave the image out of {self.test.pairs}") from None
        if wrong := next((key for key, one in wanted.items() if np.isnan(values[one])), None):
            raise AirpipeError(f"{pair.clean}: {wrong[1]} under protocol {wrong[0]} is not a number")
        common = {"image": pair.name, "degradation": self.test.degradation, "level": level}
        self.count += len(values)
        self.seconds += time.perf_counter() - begin
        return [
            {**common, "protocol": name, "metric": metric, "value": values[one]}
            for (name, metric), one in wanted.items()
        ]


def degraded_input(
    test: TestSettings, pair: Pair, layers: list[npt.NDArray[Any]], noise: NoiseStream | None
) -> FloatImage:
    """The image that a model gets to restore, (H, W, 3) float32: that of `degraded_file`, or by a noise rule.

    Args:
        test, pair, layers: see `degraded_file`.
        noise: noisy inputs of a noise test under the protocol's rule; None: the test is another one.

    Raises:
        AirpipeError: a recipe for an image that has a degraded file.
    """
    if noise is not None and pair.degraded is None:
        return noise.noisy(layers[0], pair.name)
    return as_floats(degraded_file(test, pair, layers))


def degraded_file(test: TestSettings, pair: Pair, layers: list[npt.NDArray[Any]]) -> Rgb8:
    """The degraded image of a test in 8 bit, (H, W, 3): its file, or what seed and recipe make of the clean one.

    Args:
        test: the test, with its recipe written out.
        pair: the image; its name fixes what is drawn.
        layers: what `pair_layers` reads of it: the clean image first.

    Raises:
        AirpipeError: a recipe for an image that has a degraded file.
    """
    generator = np.random.default_rng([test.seed, zlib.crc32(pair.name.encode())])
    where = f"test of {test.pairs}: recipe {test.recipe or 'given as operations'}"
    paired = pair.degraded is not None
    return degraded_image(layers, paired, test.operations, generator, where=where, name=pair.name)[0]


def write_scores(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as csv, atomically; values with 6 decimals (inf stays inf)."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows({**row, "value": f"{row['value']:.6f}"} for row in rows)


def picture_keeper(folder: Path, with_clean: bool) -> Keep:
    """Make a `keep` function that writes `<name>.png`.

    With `with_clean` also `<name>_clean.png`, what results are compared with, and `<name>_reference.png`, if there is
    one.
    """

    def write(name: str, pixels: Rgb8) -> None:
        write_picture(folder / f"{name}.png", Picture(np.ascontiguousarray(pixels)))

    def keep(sample: Sample, restored: FloatImage, clean: Rgb8) -> None:
        write(sample.name, quantised(restored))
        if with_clean:
            write(f"{sample.name}_clean", clean)
            if sample.reference is not None:
                write(f"{sample.name}_reference", quantised(sample.reference))

    return keep
