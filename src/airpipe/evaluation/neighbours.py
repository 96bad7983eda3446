"""How well distances tell classes apart, by the k nearest neighbours. This module needs no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from airpipe.errors import AirpipeError
from airpipe.evaluation.gram import Matrix
from airpipe.settings.studies import FeatureSettings

Rows = npt.NDArray[np.int64]
Split = tuple[Rows, Rows]
"""Rows to look among, and rows to classify."""


@dataclass(frozen=True)
class Samples:
    """The crops that are classified; one entry per row."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of their labels."""
    numbers: Rows
    """Class of each row, (n,), as its place in `classes`."""
    scenes: tuple[str, ...]
    """Photograph that each row shows, (n,)."""

    @property
    def chance(self) -> float:
        """Share of the largest class in percent: what guessing reaches."""
        return 100 * float(np.bincount(self.numbers).max()) / len(self.numbers)


def splits(samples: Samples, settings: FeatureSettings) -> dict[int, Split]:
    """Divide the samples once for every seed, by single crops or by whole scenes.

    Args:
        samples: the n crops.
        settings: `split`, `test_share` and `seeds`; so many `neighbours` must be there.

    Returns:
        Seed to rows to look among and rows to classify.

    Raises:
        AirpipeError: too few scenes or crops for the settings; says which class and what to change.
    """
    divide = by_scene if settings.split == "scene" else at_random
    found = {seed: divide(samples, settings.test_share, seed) for seed in settings.seeds}
    for seed, (train, test) in found.items():
        _check(samples, train, test, settings, seed)
    return found


def at_random(samples: Samples, test_share: float, seed: int) -> Split:
    """Divide samples crop by crop, with equal shares of each class.

    Args:
        samples: the n crops.
        test_share: share of the rows to classify, in (0, 1).
        seed: seed of the split.

    Raises:
        AirpipeError: classes that are too small to be divided.
    """
    try:
        train, test = train_test_split(
            np.arange(len(samples.numbers)), test_size=test_share, random_state=seed, stratify=samples.numbers
        )
    except ValueError as error:
        counts = _counts(samples, np.arange(len(samples.numbers)))
        raise AirpipeError(
            f"features: {counts} crops cannot be split at random with test_share {test_share:g} ({error}). "
            "Raise features.images_per_class or crops_per_image"
        ) from None
    return np.sort(train), np.sort(test)


def by_scene(samples: Samples, test_share: float, seed: int) -> Split:
    """Divide samples scene by scene, with equal shares of the scenes that occur in the same classes.

    Scenes that one recipe after the other degrades occur in all classes; scenes of separate data sets
    in one. Each such group is divided by itself, so that every class keeps its share.
    """
    occurs: dict[str, set[int]] = {}
    for scene, number in zip(samples.scenes, samples.numbers, strict=True):
        occurs.setdefault(scene, set()).add(int(number))
    generator = np.random.default_rng(seed)
    tested: set[str] = set()
    for together in sorted({tuple(sorted(found)) for found in occurs.values()}):
        scenes = sorted(scene for scene, found in occurs.items() if tuple(sorted(found)) == together)
        order = generator.permutation(len(scenes))
        tested.update(scenes[place] for place in order[: round(test_share * len(scenes))])
    test = np.array([scene in tested for scene in samples.scenes])
    return np.flatnonzero(~test), np.flatnonzero(test)


def _counts(samples: Samples, rows: Rows) -> str:
    counts = np.bincount(samples.numbers[rows], minlength=len(samples.classes))
    return ", ".join(f"{count} {name}" for count, name in zip(counts, samples.classes, strict=True))


def _check(samples: Samples, train: Rows, test: Rows, settings: FeatureSettings, seed: int) -> None:
    for what, rows in (("no crop to look among", train), ("no crop to classify", test)):
        empty = sorted(set(range(len(samples.classes))) - set(samples.numbers[rows].tolist()))
        if empty:
            name = samples.classes[empty[0]]
            scenes = {s for s, n in zip(samples.scenes, samples.numbers, strict=True) if n == empty[0]}
            raise AirpipeError(
                f"features: class {name} has {len(scenes)} scene(s), and the split by {settings.split} with "
                f"test_share {settings.test_share:g} and seed {seed} leaves it {what}. "
                "Use more images, another test_share, or split: random"
            )
    if settings.neighbours > len(train):
        raise AirpipeError(
            f"features: neighbours is {settings.neighbours}, but seed {seed} leaves {len(train)} crops to look among "
            f"({_counts(samples, train)}). Lower features.neighbours or use more images"
        )


def classify(between: Matrix, samples: Samples, settings: FeatureSettings) -> dict[str, Any]:
    """Accuracy of k nearest neighbours over all splits.

    Args:
        between: distances (n, n).
        samples: the n rows.
        settings: neighbours, split, test_share, seeds.

    Returns:
        `accuracy` (percent by seed), `mean` and `sd` (n - 1; None with one seed), `distinct_splits` (few scenes
        allow few; several seeds may give the same one), `per_class` (name: mean and sd of its share of right
        answers, percent) and `confusion` (rows: true class, columns: answer; crops of all seeds together).

    Raises:
        AirpipeError: see `splits`.
    """
    count = len(samples.classes)
    tables = []
    divided = splits(samples, settings)
    for train, test in divided.values():
        model = KNeighborsClassifier(settings.neighbours, metric="precomputed")
        model.fit(between[np.ix_(train, train)], samples.numbers[train])
        answers = model.predict(between[np.ix_(test, train)])
        tables.append(confusion_matrix(samples.numbers[test], answers, labels=np.arange(count)))
    right = [100 * float(np.trace(table)) / float(table.sum()) for table in tables]
    shares = [100 * np.diagonal(table) / table.sum(1) for table in tables]
    return {
        "accuracy": {str(seed): value for seed, value in zip(settings.seeds, right, strict=True)},
        **spread(right),
        "distinct_splits": len({tuple(test) for _, test in divided.values()}),
        "per_class": {name: spread([float(s[i]) for s in shares]) for i, name in enumerate(samples.classes)},
        "confusion": np.sum(tables, axis=0).tolist(),
    }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation (n - 1) of some values, as `mean` and `sd`; the latter None for one value."""
    sd = None if len(values) < 2 else float(np.std(values, ddof=1))
    return {"mean": math.fsum(values) / len(values), "sd": sd}
