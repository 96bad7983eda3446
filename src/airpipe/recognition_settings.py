"""Settings of the recognition tests: does restoring images help recognisers that were trained on clean ones?

This module imports no torch: Snakemake reads it at every start.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from airpipe.settings import SEED, Json, Name, Operation, SeededPairListId, Settings, TestSettings, unknown_name

CLEAN = "clean"
"""Degradation of tests whose images stay as they are."""
MODEL = r"[a-z0-9_]+/[a-z0-9_]+|(?!imported/)[a-z0-9_]+(/[a-z0-9_]+){2}"
RECOGNISER = r"imported/[a-z0-9_]+|(?!imported/)[a-z0-9_]+(/[a-z0-9_]+){2}"


class RecognitionTest(Settings):
    """Labelled images, how they are degraded, and what is asked of recognisers."""

    pairs: SeededPairListId = Field(description="Labelled list; {seed} in it stands for the run's seed.")
    dataset: str = Field("", description="Its name in tables; none: that of the list, without {seed}.")
    degradation: Name = Field(description="clean: the images as they are.")
    level: str = ""
    recipe: Name | None = Field(None, description="Degrades the clean image; none: the list has degraded files.")
    fixed: dict[Name, Json] = Field({}, description="Parameters that replace the recipe's draws.")
    operations: tuple[Operation, ...] = Field((), description="The recipe, written out.")
    seed: NonNegativeInt = Field(100000, description="Unlike any training seed.")
    gallery: SeededPairListId | None = Field(
        None, description="Clean images in which retrieval looks for the class of each restored one; none: the list."
    )
    tasks: tuple[Literal["classification", "retrieval"], ...] = Field(
        ("classification",),
        min_length=1,
        description="classification: top-1 among the recogniser's classes; retrieval: Rank-k and mAP of embeddings.",
    )

    @model_validator(mode="after")
    def _recipes_degrade(self) -> "RecognitionTest":
        if self.fixed and self.recipe is None:
            raise ValueError(f"fixed {dict(self.fixed)} replaces draws of a recipe, and there is no recipe; name one")
        if self.degradation == CLEAN and (self.recipe or self.operations):
            raise ValueError(f"degradation is clean, but recipe {self.recipe!r} degrades; name the degradation")
        return self

    def lists(self) -> tuple[str, ...]:
        """Pair lists that it reads."""
        return tuple(dict.fromkeys([self.pairs, self.gallery or self.pairs]))

    def for_seed(self, seed: int) -> "RecognitionTest":
        """The same with the run's seed in its lists, and the name of its data set.

        Images of each seed's own list are degraded with a seed of their own: their names repeat.
        """
        dataset = self.dataset or self.pairs.split(".")[0].replace(SEED, "").strip("_")
        gallery = self.gallery and self.gallery.replace(SEED, str(seed))
        pairs = self.pairs.replace(SEED, str(seed))
        drawn = self.seed + (seed if pairs != self.pairs else 0)
        return self.model_copy(update={"pairs": pairs, "gallery": gallery, "dataset": dataset, "seed": drawn})

    def as_test(self) -> TestSettings:
        """What degrades the images, as other tests have it; not before `for_seed`."""
        shared = {
            name: getattr(self, name) for name in ("pairs", "degradation", "level", "recipe", "operations", "seed")
        }
        return TestSettings.model_validate(shared)


class DetectionSettings(Settings):
    """Detections that an external detector made on the images of one test, in COCO's files."""

    annotations: str = Field(description="True objects; ~ and ${VARIABLES} are expanded.")
    detections: dict[Name, str] = Field(
        min_length=1, description="Variant (clean, degraded, restored, ...): file of detections."
    )
    recogniser: str = Field("", description="Name of the detector in tables; none: detector.")
    degradation: str = ""
    level: str = ""


class RecognitionSettings(Settings):
    """Frozen recognisers on clean, degraded and restored images."""

    models: tuple[str, ...] = Field(
        (), description="Enhancers: method/setting, method/setting/stage or imported/name; none: no recognition tests."
    )
    scales: tuple[Name, ...] | None = Field(None, description="Scales at which there are these tests; none: all.")
    recognisers: dict[Name, str] = Field(
        {}, description="Name: method/setting/stage or imported/name. `name: null` in an overlay leaves it out."
    )
    headline: Name | None = Field(
        None, description="Recogniser that figures show and tables begin with; none: the first."
    )
    retrieval: tuple[Name, ...] | None = Field(
        None, description="Recognisers whose embeddings retrieval compares; none: all."
    )
    tests: dict[Name, RecognitionTest] = Field({}, description="`name: null` in an overlay leaves a test out.")
    fresh_seeds: tuple[NonNegativeInt, ...] = Field(
        (1, 2, 3), min_length=1, description="Of the target vrdir_seeds: nothing was chosen while looking at them."
    )
    pictures: NonNegativeInt = Field(1, description="Images of each test that are kept for the figures.")
    detections: dict[Name, DetectionSettings] = Field(
        {}, description="Data set: files to score beside the recognisers."
    )

    @field_validator("recognisers", "tests", mode="before")
    @classmethod
    def _left_out(cls, entries: Any) -> Any:
        if isinstance(entries, Mapping):
            return {name: entry for name, entry in entries.items() if entry is not None}
        return entries

    @model_validator(mode="after")
    def _complete(self) -> "RecognitionSettings":
        if self.models and not (self.tests and self.recognisers):
            raise ValueError(f"found {len(self.tests)} tests and {len(self.recognisers)} recognisers; models need both")
        if self.headline is not None and self.headline not in self.recognisers:
            raise ValueError(unknown_name(self.headline, self.recognisers, "recogniser in headline"))
        for name in self.retrieval or ():
            if name not in self.recognisers:
                raise ValueError(unknown_name(name, self.recognisers, "recogniser in retrieval"))
        return self

    def in_order(self) -> tuple[str, ...]:
        """Names of the recognisers, the headline first."""
        first = self.headline or next(iter(self.recognisers), "")
        return tuple(dict.fromkeys([first, *self.recognisers])) if self.recognisers else ()


class RecognitionJob(Settings):
    """What one job does with its enhancer; a change redoes it."""

    tests: dict[Name, RecognitionTest]
    recognisers: dict[Name, str] = Field(description="Name: model id, with the seed of the run.")
    pictures: NonNegativeInt
    retrieval: tuple[Name, ...] | None = None


def seeded(model: str, seed: int) -> str:
    """Model id of method/setting/stage; imported models have no seed.

    >>> seeded("vrdir/airpipe/ise", 3)
    'vrdir/airpipe/seed3/ise'
    """
    if model.startswith("imported/"):
        return model
    method, setting, stage = model.split("/")
    return f"{method}/{setting}/seed{seed}/{stage}"


def check_names(
    settings: RecognitionSettings,
    seeds: Collection[int],
    recipes: Collection[str],
    splits: Callable[[str], Collection[str] | None],
    stages: Callable[[str], Collection[str]],
    datasets: Collection[str],
) -> None:
    """Check that all that the recognition tests name is there.

    Args:
        settings: nothing is checked where they name no model.
        seeds: of all runs.
        recipes: names of recipes.
        splits: of a data set; None: no such data set.
        stages: of method/setting; raises ValueError where it does not exist.
        datasets: names of data sets, for messages.

    Raises:
        ValueError: says what is nearest.
    """
    if not settings.models:
        return
    for model in settings.models:
        _check_model(model, MODEL, "recognition", "method/setting, method/setting/stage or imported/name", stages)
    for name, model in settings.recognisers.items():
        where = f"recognition, recogniser {name}"
        _check_model(model, RECOGNISER, where, "method/setting/stage or imported/name", stages)
    for name, test in settings.tests.items():
        if test.recipe is not None and test.recipe not in recipes:
            raise ValueError(unknown_name(test.recipe, recipes, f"recipe in recognition, test {name}"))
        for pairs in sorted({pairs for seed in seeds for pairs in test.for_seed(seed).lists()}):
            dataset, split = pairs.removesuffix("_noleak").split(".")
            known = splits(dataset)
            if known is None:
                told = unknown_name(dataset, datasets, f"data set in recognition, test {name}")
                raise ValueError(f"{told}. Seeds in use: {', '.join(map(str, sorted(seeds)))}")
            if split not in known:
                raise ValueError(unknown_name(split, known, f"split of {dataset} in recognition, test {name}"))


def _check_model(model: str, form: str, where: str, expected: str, stages: Callable[[str], Collection[str]]) -> None:
    if not re.fullmatch(form, model):
        raise ValueError(f"{where}: {model!r} is not {expected}")
    if not model.startswith("imported/"):
        method, setting, *stage = model.split("/")
        for name in stage:
            if name not in (known := stages(f"{method}/{setting}")):
                raise ValueError(unknown_name(name, known, f"stage of {method}/{setting} in {where}"))
        stages(f"{method}/{setting}")
