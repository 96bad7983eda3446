"""Settings of the recognition tests: does restoring images help recognisers that were trained on clean ones?

This module imports no torch: Snakemake reads it at every start.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from airpipe.settings import SEED, Json, Name, Operation, SeededPairListId, Settings, TestSettings, unknown_name

CLEAN = "clean"
"""Degradation of tests whose images stay as they are."""


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
        {}, description="Data set: files to score beside the recognisers. `name: null` in an overlay leaves them out."
    )

    @field_validator("recognisers", "tests", "detections", mode="before")
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
        if self.recognisers:
            self._headline_answers()
        return self

    def _headline_answers(self) -> None:
        """Figures show the headline on every test, and a test must have somebody to ask."""
        first = self.in_order()[0]
        for name, test in self.tests.items():
            if "retrieval" in test.tasks and self.retrieval == ():
                raise ValueError(
                    f"test {name} asks for retrieval, and retrieval: [] names no recogniser; name one, or ask for "
                    "classification"
                )
            if "classification" not in test.tasks and first not in (self.retrieval or self.recognisers):
                raise ValueError(
                    f"test {name} asks nothing of the headline {first}, which figures show: name {first} in "
                    "retrieval, ask for classification, too, or choose another headline"
                )

    @model_validator(mode="after")
    def _tests_differ(self) -> "RecognitionSettings":
        seen: dict[tuple[str, str, str], str] = {}
        for name, test in self.tests.items():
            place = (test.for_seed(0).dataset, test.degradation, test.level)
            if other := seen.get(place):
                shown = " ".join(part for part in place if part)
                raise ValueError(
                    f"tests {other} and {name} are both called {shown!r} in tables, which have one place for it; give "
                    "one a `level` or a `dataset`"
                )
            seen[place] = name
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
