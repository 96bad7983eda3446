"""Does restoring help recognisers that were trained on clean images? One enhancer on all recognition tests.

The enhancer's result is clipped and rounded to 8 bit, as a file would be, scored like protocol `airpipe`, and given to
frozen recognisers, which bring it to their own size and normalise it by themselves. Nothing is trained here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from airpipe.data.pairs import Pair
from airpipe.data.sources import ImageCache, pair_layers
from airpipe.errors import AirpipeError
from airpipe.evaluation.feature_crops import evenly
from airpipe.evaluation.metrics import score_batch
from airpipe.evaluation.protocol import degraded_file, natural_key
from airpipe.evaluation.recognisers import Lists, Recogniser, Rows, grouped, in_order
from airpipe.evaluation.tiling import restore_batch
from airpipe.models.contract import branches
from airpipe.pixels import Rgb8, channels_first, in_floats, quantised
from airpipe.progress import track
from airpipe.settings.studies import CLEAN, RecognitionJob, RecognitionTest
from airpipe.weights.checkpoints import LoadedModel


@dataclass(frozen=True)
class Bucket:
    """Equally large images of a test."""

    places: tuple[int, ...]
    """Place of each image in the list of the test."""
    degraded: npt.NDArray[np.uint8]
    """Images (B, H, W, 3) that the enhancer gets."""
    clean: npt.NDArray[np.uint8]
    """Their clean images, (B, H, W, 3)."""


def recognise(
    enhancer: LoadedModel | None,
    recognisers: Mapping[str, LoadedModel],
    job: RecognitionJob,
    lists: Lists,
    device: torch.device | None = None,
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Run one enhancer through all tests.

    Args:
        enhancer: what `load_model` gave; None: the images stay as they are.
        recognisers: by name, as the job names them; `net(image)` gives logits (B, K), `net(image, features=True)`
            embeddings (B, D).
        job: the tests, with operations written out and seeds filled in.
        lists: pairs of every list that a test names.
        device: where the networks run; None: on the CPU.

    Returns:
        Facts for JSON: for every test `equal` (number of restored images that equal their clean ones: no mean PSNR has
        them), `restoration` (mean `psnr_in`, `ssim_in`, `psnr`, `ssim`; PSNR is None where all are equal) and
        `recognition` by recogniser and task; and kept pictures by
        "<test>.<number>.<degraded, restored, clean, guidance>".

    Raises:
        AirpipeError: no images, unlabelled ones, classes that a recogniser does not know, no match in a gallery, a test
            without degraded images, a network that does not fit or gives no finite numbers.
    """
    where = device or torch.device("cpu")
    network = enhancer.network.to(where) if enhancer else None
    embed = recognisers if job.retrieval is None else job.retrieval
    frozen = [Recogniser(name, model, where, retrieves=name in embed) for name, model in recognisers.items()]
    facts: dict[str, Any] = {}
    pictures: dict[str, npt.NDArray[Any]] = {}
    for name, test in job.tests.items():
        pairs = sorted(lists[test.pairs], key=lambda pair: natural_key(pair.name))
        _check_pairs(name, test, pairs)
        for recogniser in frozen:
            recogniser.check(name, test, pairs)
        kept = {pair.name: number for number, pair in enumerate(evenly(pairs, job.pictures))}
        scores, equal, said, shown = _look(name, test, pairs, network, frozen, where, kept)
        pictures |= shown
        facts[name] = {
            "pairs": test.pairs,
            "dataset": test.dataset,
            "degradation": test.degradation,
            "level": test.level,
            "images": len(pairs),
            "equal": equal,
            "restoration": scores,
            "recognition": {one.name: one.judge(name, test, pairs, said[one.name], lists) for one in frozen},
        }
    return facts, pictures


def _check_pairs(name: str, test: RecognitionTest, pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise AirpipeError(f"recognition, test {name}: {test.pairs} lists no images. Name another list")
    if lacking := [pair.name for pair in pairs if not pair.category]:
        raise AirpipeError(
            f"recognition, test {name}: {len(lacking)} of {len(pairs)} images of {test.pairs} have no class (first "
            f"{lacking[0]}). Name a data set with `classes` (docs/datasets.md)"
        )


def _look(
    name: str,
    test: RecognitionTest,
    pairs: Sequence[Pair],
    network: nn.Module | None,
    frozen: Sequence[Recogniser],
    device: torch.device,
    kept: Mapping[str, int],
) -> tuple[dict[str, float | None], int, dict[str, dict[str, Rows]], dict[str, npt.NDArray[Any]]]:
    """Restore and recognise batch by batch, so that no more images than a batch are held.

    Returns:
        Mean scores; number of restored images that equal their clean ones; what each recogniser said, by task, in the
        order of the pairs; kept pictures.
    """
    scores: dict[str, list[npt.NDArray[np.float64]]] = {key: [] for key in ("psnr_in", "ssim_in", "psnr", "ssim")}
    heard: dict[str, list[dict[str, Rows]]] = {one.name: [] for one in frozen}
    places: list[tuple[int, ...]] = []
    pictures: dict[str, npt.NDArray[Any]] = {}
    for bucket in buckets(name, test, pairs):
        places.append(bucket.places)
        images = enhance(network, bucket.degraded, device)
        for key, values in zip(scores, _scores(name, test, bucket, images), strict=True):
            scores[key].append(values)
        for one in frozen:
            heard[one.name].append(one.look(images, one.tasks(test)))
        for row, place in enumerate(bucket.places):
            number = kept.get(pairs[place].name)
            if number is not None:
                shown = {"degraded": bucket.degraded[row], "restored": images[row], "clean": bucket.clean[row]}
                shown |= _guidance(network, bucket.degraded[row], device)
                pictures |= {f"{name}.{number}.{key}": value for key, value in shown.items()}
    said = {
        one.name: {task: in_order(places, [part[task] for part in heard[one.name]]) for task in one.tasks(test)}
        for one in frozen
    }
    equal = int(np.isinf(np.concatenate(scores["psnr"])).sum())
    return {key: _mean(values) for key, values in scores.items()}, equal, said, pictures


def _scores(
    name: str, test: RecognitionTest, bucket: Bucket, images: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float64], ...]:
    """PSNR and SSIM of the input, and of the result, by image."""
    try:
        before = score_batch(bucket.degraded, bucket.clean)
        after = before if images is bucket.degraded else score_batch(images, bucket.clean)
    except ValueError as error:
        raise AirpipeError(f"recognition, test {name}: {error}. Leave the image out of {test.pairs}") from None
    return (*before, *after)


def buckets(name: str, test: RecognitionTest, pairs: Sequence[Pair]) -> Iterator[Bucket]:
    """Gather the images of a test, equally large ones together; each image once, the order is fixed by the list.

    Raises:
        AirpipeError: an image that nothing degrades.
    """
    for places, (degraded, clean) in grouped(_images(name, test, pairs)):
        yield Bucket(places, degraded, clean)


def _images(name: str, test: RecognitionTest, pairs: Sequence[Pair]) -> Iterator[tuple[Rgb8, Rgb8]]:
    """Degraded and clean, in the order of the pairs."""
    settings, cache = test.as_test(), ImageCache()
    for pair in track(pairs, len(pairs), f"recognition, {name}"):
        if pair.degraded is None and not test.operations and test.degradation != CLEAN:
            raise AirpipeError(
                f"recognition, test {name}: {test.pairs} has no degraded file of {pair.name}; give the test a recipe, "
                f"or call its degradation {CLEAN}"
            )
        layers = pair_layers(pair, cache)
        clean: Rgb8 = layers[0]
        yield clean if test.degradation == CLEAN else degraded_file(settings, pair, layers), clean


def enhance(network: nn.Module | None, images: npt.NDArray[np.uint8], device: torch.device) -> npt.NDArray[np.uint8]:
    """Restore (B, H, W, 3), clipped and rounded to 8 bit; without a network the images themselves."""
    if network is None:
        return images
    restored = restore_batch(network, in_floats(channels_first(images)), device=device)
    return quantised(restored.permute(0, 2, 3, 1).numpy())


@torch.inference_mode()
def _guidance(network: nn.Module | None, degraded: Rgb8, device: torch.device) -> dict[str, npt.NDArray[Any]]:
    """How much each branch counts at each place (N, h, w), of networks that have several."""
    if network is None or branches(network) < 2:
        return {}
    guide = cast(Any, network).guidance
    image = in_floats(channels_first(degraded[None])).to(device)
    return {"guidance": guide(image)[0].float().cpu().numpy().astype(np.float16)}


def _mean(values: Sequence[npt.NDArray[np.float64]]) -> float | None:
    """Mean of the finite values; None where none is, for JSON has no infinity."""
    known = np.concatenate(values)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else None
