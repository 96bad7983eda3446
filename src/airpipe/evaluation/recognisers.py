"""Frozen recognisers: what they say of images, class by class or by embeddings, batch by batch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airpipe.data.pairs import Pair
from airpipe.errors import AirpipeError
from airpipe.evaluation.protocol import natural_key
from airpipe.evaluation.retrieval import JUNK, Entries, retrieve
from airpipe.images import read_rgb8
from airpipe.pixels import Rgb8, channels_first, in_floats
from airpipe.settings.studies import RecognitionTest
from airpipe.weights.checkpoints import LoadedModel

BATCH_PIXELS = 2**16
"""Pixels of a batch of equally large images (64 of 32 x 32: a fifth faster than 256 on a CPU); one may have more."""
SHARED_VALUES = 64
"""Tensors of fewer values say nothing about whether two networks share a part."""
Lists = Mapping[str, Sequence[Pair]]
"""Pairs of each list, by its id."""
Rows = npt.NDArray[Any]
"""Numbers (n, D), one row per image."""
Said = Mapping[str, Rows]
"""What a recogniser says of images, by task: logits (classification) or embeddings (retrieval)."""


def grouped(images: Iterable[tuple[Rgb8, ...]]) -> Iterator[tuple[tuple[int, ...], tuple[npt.NDArray[np.uint8], ...]]]:
    """Gather equally large images in batches of at most `BATCH_PIXELS` pixels; no more is in memory than waits.

    Args:
        images: one tuple per place, for example a degraded and a clean image; the images of a tuple are equally
            large, (H, W, 3).

    Yields:
        The places of a batch, and a stack (B, H, W, 3) for each member of the tuples. Every place comes once; the
        order is fixed by that of the images.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, tuple[Rgb8, ...]]]] = {}
    for place, row in enumerate(images):
        shape = row[0].shape
        group = waiting.setdefault(shape, [])
        group.append((place, row))
        if (len(group) + 1) * shape[0] * shape[1] > BATCH_PIXELS:  # one more would be too many
            yield _stacked(waiting.pop(shape))
    for group in waiting.values():
        yield _stacked(group)


def _stacked(
    group: Sequence[tuple[int, tuple[Rgb8, ...]]],
) -> tuple[tuple[int, ...], tuple[npt.NDArray[np.uint8], ...]]:
    places, rows = zip(*group, strict=True)
    return places, tuple(np.stack(column) for column in zip(*rows, strict=True))


def in_order(places: Sequence[Sequence[int]], parts: Sequence[Rows]) -> Rows:
    """Join the rows of all batches in the order of their places."""
    return np.asarray(np.concatenate(parts)[np.argsort(np.concatenate(places))])


class Recogniser:
    """A frozen recogniser and the galleries that it has seen.

    Args:
        name: its name, for messages.
        model: what `load_model` gave; the card's `classes` name its answers.
        device: where it runs.
        retrieves: whether its embeddings are used.
    """

    def __init__(self, name: str, model: LoadedModel, device: torch.device, retrieves: bool = True) -> None:
        self.name, self.device, self.retrieves = name, device, retrieves
        self.classes: Sequence[str] = model.card.get("classes") or ()
        self.network = model.network.to(device).eval()
        self._galleries: dict[str, Entries] = {}

    def check(self, name: str, test: RecognitionTest, pairs: Sequence[Pair]) -> None:
        """Check that the recogniser knows the classes of a test, where it is to name them.

        Raises:
            AirpipeError: its card names no classes, or lacks one of the test's.
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

    def tasks(self, test: RecognitionTest) -> tuple[str, ...]:
        """The tasks of a test that this recogniser takes part in."""
        return tuple(task for task in test.tasks if task == "classification" or self.retrieves)

    def look(self, images: npt.NDArray[np.uint8], tasks: Sequence[str]) -> dict[str, Rows]:
        """Show equally large images (B, H, W, 3) to the recogniser; logits or embeddings (B, D) by task."""
        say: dict[str, Callable[..., Rows]] = {"classification": self._logits, "retrieval": self._embeddings}
        return {task: say[task](images) for task in tasks}

    def judge(
        self, name: str, test: RecognitionTest, pairs: Sequence[Pair], said: Said, lists: Lists
    ) -> dict[str, dict[str, float]]:
        """Score what the recogniser said of the images of a test.

        Args:
            name: name of the test, for messages.
            test: tasks, list and gallery.
            pairs: the images.
            said: rows by task, in the order of the pairs.
            lists: pairs of the gallery's list, by its id.

        Returns:
            Task to metric to value, see `top1` and `retrieve`.

        Raises:
            AirpipeError: an answer beyond the classes of the card, or no match in the gallery.
        """
        found = {}
        if "classification" in said:
            answers = said["classification"].argmax(1)
            found["classification"] = top1([pair.category for pair in pairs], answers, self.classes, self.name)
        if "retrieval" in said:
            where = f"recognition, test {name}, recogniser {self.name}"
            gallery = self._gallery(test.gallery or test.pairs, lists, where)
            found["retrieval"] = retrieve(_entries(pairs, said["retrieval"]), gallery, where)
        return found

    def _gallery(self, list_id: str, lists: Lists, where: str) -> Entries:
        """Embeddings of the clean images of a list."""
        if list_id not in self._galleries:
            pairs = sorted(lists[list_id], key=lambda pair: natural_key(pair.name))
            if not pairs:
                raise AirpipeError(f"{where}: the gallery {list_id} lists no images. Name another gallery")
            places, parts = [], []
            for group, (images,) in grouped((read_rgb8(pair.clean),) for pair in pairs):
                places.append(group)
                parts.append(self._embeddings(images))
            self._galleries[list_id] = _entries(pairs, in_order(places, parts))
        return self._galleries[list_id]

    @torch.inference_mode()
    def _logits(self, images: npt.NDArray[np.uint8]) -> Rows:
        return self._checked(self.network(self._fitted(images)))

    @torch.inference_mode()
    def _embeddings(self, images: npt.NDArray[np.uint8]) -> Rows:
        return self._checked(self.network(self._fitted(images), features=True))

    def _fitted(self, images: npt.NDArray[np.uint8]) -> Tensor:
        return fitted(in_floats(channels_first(images)).to(self.device), getattr(self.network, "image_size", None))

    def _checked(self, result: object) -> Rows:
        if not isinstance(result, Tensor) or result.ndim != 2:
            found = tuple(result.shape) if isinstance(result, Tensor) else f"a {type(result).__name__}"
            raise AirpipeError(
                f"recogniser {self.name} gives {found}; expected one row of numbers per image. "
                "Name a model that tells classes apart"
            )
        if not torch.isfinite(result).all():
            raise AirpipeError(
                f"recogniser {self.name} gives numbers that are not finite: no answer can be read from them. Check its "
                "training, and name a model whose losses stayed finite"
            )
        return result.float().cpu().numpy()


def _entries(pairs: Sequence[Pair], embeddings: Rows) -> Entries:
    return Entries(
        embeddings,
        [pair.category or JUNK for pair in pairs],
        [str(pair.clean) for pair in pairs],
        [pair.camera for pair in pairs],
    )


def top1(
    categories: Sequence[str], answers: npt.NDArray[np.int64], known: Sequence[str], recogniser: str
) -> dict[str, float]:
    """Share of right answers in percent, and that of the largest class: what guessing reaches.

    Args:
        categories: true class of each of the n images.
        answers: class that the recogniser gave each image, (n,), as a place in `known`.
        known: classes of the recogniser's card, in its order.
        recogniser: name, for messages.

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
    """Bring images (B, 3, H, W) to the size of a recogniser: shorter side to `side` pixels, then the centre square.

    Without a side (None) any size will do.
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
    """Count the weights of `second` that stand in `first`, too, tensor by tensor: tells whether a recogniser and an
    enhancer share a part.

    Short tensors, buffers and tensors of one value only (norms that nothing has changed) tell nothing.
    """
    known = {_content(value) for value in _telling(first)}
    return sum(value.numel() for value in _telling(second) if _content(value) in known)


def _telling(network: nn.Module) -> Iterator[Tensor]:
    for value in network.parameters():
        if value.numel() >= SHARED_VALUES and not torch.equal(value.min(), value.max()):
            yield value


def _content(value: Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(value.shape), value.detach().cpu().float().contiguous().numpy().tobytes()
