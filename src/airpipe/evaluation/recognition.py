"""Does restoring help recognisers that were trained on clean images? One enhancer on all recognition tests.

The enhancer's result is clipped and rounded to 8 bit, as a file would be, scored like protocol `airpipe`, and given to
frozen recognisers, which bring it to their own size and normalise it by themselves. Nothing is trained here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airpipe.data.crops import Rgb8
from airpipe.data.dataset import ImageCache, pair_layers, quantised
from airpipe.data.pairs import Pair
from airpipe.errors import AirpipeError
from airpipe.evaluation.feature_crops import evenly
from airpipe.evaluation.metrics import score_batch
from airpipe.evaluation.protocol import degraded_input, natural_key
from airpipe.evaluation.retrieval import JUNK, Entries, retrieve
from airpipe.evaluation.tiling import restore_batch
from airpipe.progress import track
from airpipe.recognition_settings import CLEAN, RecognitionJob, RecognitionTest
from airpipe.training.checkpoints import LoadedModel

BATCH_PIXELS = 2**16
"""Pixels of a batch of equally large images (64 of 32 x 32: a fifth faster than 256 on a CPU); one may have more."""
SHARED_VALUES = 64
"""Tensors of fewer values say nothing about whether two networks share a part."""
Lists = Mapping[str, Sequence[Pair]]


@dataclass(frozen=True)
class Bucket:
    """Equally large images of a test."""

    places: tuple[int, ...]
    """Of each in the list."""
    degraded: npt.NDArray[np.uint8]
    """(B, H, W, 3), what the enhancer gets."""
    clean: npt.NDArray[np.uint8]


def recognise(
    enhancer: LoadedModel | None,
    recognisers: Mapping[str, LoadedModel],
    job: RecognitionJob,
    lists: Lists,
    device: torch.device | None = None,
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Run one enhancer through all tests.

    Args:
        enhancer: from `load_model`; None: the images as they are.
        recognisers: by name, as the job names them; `net(image)` gives logits (B, K), `net(image, features=True)`
            embeddings (B, D).
        job: with operations written out and seeds filled in.
        lists: pairs of every list that a test names.
        device: CPU when None.

    Returns:
        Facts for JSON: for every test `restoration` (mean `psnr_in`, `ssim_in`, `psnr`, `ssim`; a PSNR of equal
        images is None) and `recognition` by recogniser and task; and kept pictures by
        "<test>.<number>.<degraded, restored, clean, guidance>".

    Raises:
        AirpipeError: unlabelled images, classes that a recogniser does not know, no match in a gallery, a test
            without degraded images, a network that does not fit.
    """
    where = device or torch.device("cpu")
    network = enhancer.network.to(where) if enhancer else None
    embed = recognisers if job.retrieval is None else job.retrieval
    frozen = [Recogniser(name, model, where, retrieves=name in embed) for name, model in recognisers.items()]
    facts: dict[str, Any] = {}
    pictures: dict[str, npt.NDArray[Any]] = {}
    for name, test in job.tests.items():
        pairs = sorted(lists[test.pairs], key=lambda pair: natural_key(pair.name))
        _check_labels(name, test, pairs)
        for recogniser in frozen:
            recogniser.check(name, test, pairs)
        kept = {pair.name for pair in evenly(pairs, job.pictures)}
        restored, scores, shown = _restore(name, test, pairs, network, where, kept)
        pictures |= shown
        facts[name] = {
            "pairs": test.pairs,
            "dataset": test.dataset,
            "degradation": test.degradation,
            "level": test.level,
            "images": len(pairs),
            "restoration": scores,
            "recognition": {one.name: one.judge(name, test, pairs, restored, lists) for one in frozen},
        }
    return facts, pictures


def _check_labels(name: str, test: RecognitionTest, pairs: Sequence[Pair]) -> None:
    if lacking := [pair.name for pair in pairs if not pair.category]:
        raise AirpipeError(
            f"recognition, test {name}: {len(lacking)} of {len(pairs)} images of {test.pairs} have no class (first "
            f"{lacking[0]}). Name a data set with `classes` (docs/datasets.md)"
        )


# Images


def _restore(
    name: str,
    test: RecognitionTest,
    pairs: Sequence[Pair],
    network: nn.Module | None,
    device: torch.device,
    kept: set[str],
) -> tuple[list[Rgb8], dict[str, float | None], dict[str, npt.NDArray[Any]]]:
    """Restored images in list order, mean scores, and kept pictures."""
    restored: list[Rgb8] = [np.zeros((0, 0, 3), np.uint8)] * len(pairs)
    scores: dict[str, list[npt.NDArray[np.float64]]] = {key: [] for key in ("psnr_in", "ssim_in", "psnr", "ssim")}
    pictures: dict[str, npt.NDArray[Any]] = {}
    for bucket in buckets(name, test, pairs):
        images = enhance(network, bucket.degraded, device)
        try:
            before = score_batch(bucket.degraded / np.float32(255), bucket.clean)
            after = score_batch(images / np.float32(255), bucket.clean) if network else before
        except ValueError as error:
            raise AirpipeError(f"recognition, test {name}: {error}. Leave the image out of {test.pairs}") from None
        for key, values in zip(scores, (*before, *after), strict=True):
            scores[key].append(values)
        for place, degraded, image, clean in zip(bucket.places, bucket.degraded, images, bucket.clean, strict=True):
            restored[place] = image
            if pairs[place].name in kept:
                number = len({key.split(".")[1] for key in pictures})
                shown = {"degraded": degraded, "restored": image, "clean": clean} | _guidance(network, degraded, device)
                pictures |= {f"{name}.{number}.{key}": value for key, value in shown.items()}
    return restored, {key: _mean(values) for key, values in scores.items()}, pictures


def buckets(name: str, test: RecognitionTest, pairs: Sequence[Pair]) -> Iterator[Bucket]:
    """Images of a test, equally large ones together; each image once, the order is fixed by the list.

    Raises:
        AirpipeError: an image that nothing degrades.
    """
    settings, cache = test.as_test(), ImageCache()
    waiting: dict[tuple[int, ...], list[tuple[int, Rgb8, Rgb8]]] = {}
    for place, pair in enumerate(track(pairs, len(pairs), f"recognition, {name}")):
        if pair.degraded is None and not test.operations and test.degradation != CLEAN:
            raise AirpipeError(
                f"recognition, test {name}: {test.pairs} has no degraded file of {pair.name}; give the test a recipe, "
                f"or call its degradation {CLEAN}"
            )
        layers = pair_layers(pair, cache)
        clean: Rgb8 = layers[0]
        given = clean if test.degradation == CLEAN else quantised(degraded_input(settings, pair, layers, None))
        group = waiting.setdefault(clean.shape, [])
        group.append((place, given, clean))
        if (len(group) + 1) * clean.shape[0] * clean.shape[1] > BATCH_PIXELS:
            yield _bucket(waiting.pop(clean.shape))
    for group in waiting.values():
        yield _bucket(group)


def _bucket(group: Sequence[tuple[int, Rgb8, Rgb8]]) -> Bucket:
    places, degraded, clean = zip(*group, strict=True)
    return Bucket(tuple(places), np.stack(degraded), np.stack(clean))


def enhance(network: nn.Module | None, images: npt.NDArray[np.uint8], device: torch.device) -> npt.NDArray[np.uint8]:
    """Restore (B, H, W, 3), clipped and rounded to 8 bit; without a network the images themselves."""
    if network is None:
        return images
    restored = restore_batch(network, as_floats(images), device=device)
    return quantised(restored.permute(0, 2, 3, 1).numpy())


def as_floats(images: npt.NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) in 8 bit as (B, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255


@torch.inference_mode()
def _guidance(network: nn.Module | None, degraded: Rgb8, device: torch.device) -> dict[str, npt.NDArray[Any]]:
    """How much each branch counts at each place (N, h, w), of networks that have several."""
    guide = getattr(network, "guidance", None)
    if guide is None or getattr(network, "num_branches", 0) < 2:
        return {}
    return {"guidance": guide(as_floats(degraded[None]).to(device))[0].float().cpu().numpy().astype(np.float16)}


def _mean(values: Sequence[npt.NDArray[np.float64]]) -> float | None:
    mean = float(np.concatenate(values).mean())
    return mean if np.isfinite(mean) else None


# Recognisers


class Recogniser:
    """A frozen recogniser and the galleries that it has seen.

    Args:
        name: for messages.
        model: from `load_model`; the card's `classes` name its answers.
        device: where it runs.
        retrieves: whether its embeddings are used.
    """

    def __init__(self, name: str, model: LoadedModel, device: torch.device, retrieves: bool = True) -> None:
        self.name, self.device, self.retrieves = name, device, retrieves
        self.classes: Sequence[str] = model.card.get("classes") or ()
        self.network = model.network.to(device).eval()
        self._galleries: dict[str, Entries] = {}

    def check(self, name: str, test: RecognitionTest, pairs: Sequence[Pair]) -> None:
        """Check that it knows the classes of a test, where it is to name them.

        Raises:
            AirpipeError: it does not.
        """
        if "classification" not in test.tasks:
            return
        if not self.classes:
            raise AirpipeError(
                f"recogniser {self.name}: its card names no classes. Ask for retrieval, or train it on labelled images"
            )
        if unknown := sorted({pair.category for pair in pairs} - set(self.classes)):
            raise AirpipeError(
                f"recognition, test {name}: recogniser {self.name} does not know {len(unknown)} of the classes (first "
                f"{unknown[0]!r}); it knows {len(self.classes)}: {', '.join(self.classes[:5])}, ... Test it on the "
                "data set that it was trained on, or ask for retrieval"
            )

    def judge(
        self, name: str, test: RecognitionTest, pairs: Sequence[Pair], images: Sequence[Rgb8], lists: Lists
    ) -> dict[str, Any]:
        """Scores on the images of a test, by task."""
        found: dict[str, Any] = {}
        if "classification" in test.tasks:
            answers = np.concatenate([logits.argmax(1) for logits in self._run(images, features=False)])
            found["classification"] = top1([pair.category for pair in pairs], answers, self.classes, self.name)
        if "retrieval" in test.tasks and self.retrieves:
            where = f"recognition, test {name}, recogniser {self.name}"
            gallery = self._gallery(test.gallery or test.pairs, lists)
            found["retrieval"] = retrieve(self._entries(pairs, images), gallery, where)
        return found

    def _gallery(self, list_id: str, lists: Lists) -> Entries:
        """Embeddings of the clean images of a list."""
        if list_id not in self._galleries:
            pairs, cache = sorted(lists[list_id], key=lambda pair: natural_key(pair.name)), ImageCache()
            self._galleries[list_id] = self._entries(pairs, [cache.rgb8(pair.clean) for pair in pairs])
        return self._galleries[list_id]

    def _entries(self, pairs: Sequence[Pair], images: Sequence[Rgb8]) -> Entries:
        return Entries(
            np.concatenate(list(self._run(images, features=True))),
            [pair.category or JUNK for pair in pairs],
            [str(pair.clean) for pair in pairs],
            [pair.camera for pair in pairs],
        )

    @torch.inference_mode()
    def _run(self, images: Sequence[Rgb8], features: bool) -> Iterator[npt.NDArray[Any]]:
        """Logits or embeddings of images, some at a time, in their order; neighbours of one size go together."""
        side, start = getattr(self.network, "image_size", None), 0
        while start < len(images):
            shape = images[start].shape
            end, most = start + 1, max(1, BATCH_PIXELS // (shape[0] * shape[1]))
            while end < len(images) and end - start < most and images[end].shape == shape:
                end += 1
            batch = fitted(as_floats(np.stack(images[start:end])).to(self.device), side)
            yield self._checked(self.network(batch, features=True) if features else self.network(batch))
            start = end

    def _checked(self, result: object) -> npt.NDArray[Any]:
        if not isinstance(result, Tensor) or result.ndim != 2:
            found = tuple(result.shape) if isinstance(result, Tensor) else f"a {type(result).__name__}"
            raise AirpipeError(
                f"recogniser {self.name} gives {found}; expected one row of numbers per image. "
                "Name a model that tells classes apart"
            )
        return result.float().cpu().numpy()


def top1(
    categories: Sequence[str], answers: npt.NDArray[np.int64], known: Sequence[str], recogniser: str
) -> dict[str, float]:
    """Share of right answers in percent, and that of the largest class: what guessing reaches.

    Raises:
        AirpipeError: an answer beyond the classes of the card.
    """
    if answers.max() >= len(known):
        raise AirpipeError(
            f"recogniser {recogniser}: gives class {answers.max()}, its card has {len(known)} classes. Train it again"
        )
    number = {category: place for place, category in enumerate(known)}
    truth = np.array([number[category] for category in categories])
    return {
        "top1": 100 * float((answers == truth).mean()),
        "chance": 100 * float(np.bincount(truth).max() / len(truth)),
    }


def fitted(images: Tensor, side: int | None) -> Tensor:
    """Images (B, 3, H, W) at the size of a recogniser: shorter side to `side` pixels, then the centre square.

    None: any size will do.
    """
    if side is None:
        return images
    height, width = images.shape[-2:]
    scale = side / min(height, width)
    size = (max(side, round(height * scale)), max(side, round(width * scale)))
    if size != (height, width):
        images = F.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return images[..., top : top + side, left : left + side]


def shared_values(first: nn.Module, second: nn.Module) -> int:
    """Weights of `second` that stand in `first`, too, tensor by tensor: tells whether a recogniser and an enhancer
    share a part."""
    known = {_content(value) for value in first.state_dict().values() if value.numel() >= SHARED_VALUES}
    values = [value for value in second.state_dict().values() if value.numel() >= SHARED_VALUES]
    return sum(value.numel() for value in values if _content(value) in known)


def _content(value: Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(value.shape), value.detach().cpu().float().contiguous().numpy().tobytes()
