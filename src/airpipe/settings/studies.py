"""Settings of the studies beside the tables: features, recognition, and a gallery of stages."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from airpipe.errors import AirpipeError
from airpipe.settings.base import Json, Name, Names, Settings, unknown_name
from airpipe.settings.datasets import fitting
from airpipe.settings.degrading import Recipe
from airpipe.settings.names import (
    NOLEAK,
    SEED,
    AnyModel,
    ModelName,
    PairListId,
    SeededPairListId,
    Seeds,
    StageModel,
)
from airpipe.settings.scoring import TestSettings
from airpipe.settings.stages import StageSettings


class FeatureClass(Settings):
    """One degradation that the feature analysis tells apart."""

    pairs: PairListId
    recipe: Name | None = Field(None, description="Degrades the clean crop; none: the list has degraded files.")
    fixed: dict[Name, Json] = Field({}, description="Parameters that replace the recipe's draws.")
    label: NonNegativeInt | None = Field(
        None, description="Number that the trained classifiers give it; none: the position among the classes."
    )
    operations: Recipe = Field(Recipe(), description="The recipe, written out.")

    @model_validator(mode="after")
    def _fixed_needs_a_recipe(self) -> "FeatureClass":
        if self.fixed and self.recipe is None:
            raise ValueError(f"fixed {dict(self.fixed)} replaces draws of a recipe, and there is no recipe; name one")
        return self


class RetrievalSettings(Settings):
    """Do embeddings tell what was done to an image, whatever it shows? Ours: a sanity check of DegAE's kind of network.

    Draws of one recipe degrade all images, each with noise of its own. Is the nearest crop in the embedding degraded by
    the same operations? Crops of one photograph with the same operations do not count.
    """

    models: tuple[AnyModel, ...] = Field(
        (), description="method/setting, method/setting/stage or imported/name; none: no retrieval."
    )
    pairs: PairListId | None = Field(None, description="List of clean images.")
    recipe: Name | None = Field(None, description="Recipe that is drawn from.")
    operations: Recipe = Field(Recipe(), description="The recipe, written out.")
    draws: PositiveInt = Field(32, description="Draws from the recipe; each degrades every image.")
    images: int = Field(100, ge=2, description="Images at most, evenly spaced over the list.")
    patch_size: PositiveInt = Field(128, description="Side in pixels of the centre crop that is degraded and embedded.")
    seed: NonNegativeInt = Field(100000, description="Seed of draws and noise; unlike any training seed.")

    @model_validator(mode="after")
    def _complete(self) -> "RetrievalSettings":
        if self.models and (self.pairs is None or self.recipe is None):
            raise ValueError(f"found pairs {self.pairs!r} and recipe {self.recipe!r}; models need both")
        return self


class FeatureSettings(Settings):
    """kNN, t-SNE and confusion matrices on the features of checkpoints.

    Sources: "code" is DCPT's (MILab-PKU) `knn_gen.py`, `knn.py`, `t_sne.py`; "text" is MaskDCPT (arXiv 2510.13282),
    which restates the protocol.
    """

    models: tuple[AnyModel, ...] = Field(
        (), description="method/setting, method/setting/stage or imported/name; none: no analysis."
    )
    scales: Names | None = Field(
        None,
        description="Scales at which there is an analysis; none: all.",
    )
    classes: dict[Name, FeatureClass] = Field({}, description="Images of each class, by its name.")
    images_per_class: PositiveInt = Field(
        100,
        description="Images at most, evenly spaced over the list (ours; code: the first of a directory). Source: code.",
    )
    crops_per_image: PositiveInt = Field(
        1,
        description="1: the centre crop (source: code); more: evenly placed, each degraded by itself (ours).",
    )
    patch_size: PositiveInt = Field(128, description="Side of the crops in pixels. Source: code.")
    seed: NonNegativeInt = Field(
        100000, description="Seed of degradations, random weights and projection. Ours: unlike any training seed."
    )
    neighbours: PositiveInt = Field(5, description="k of kNN, with Euclidean distance. Source: code.")
    test_share: float = Field(0.33, gt=0, lt=1, description="Share of each split that is tested. Source: code.")
    split: Literal["scene", "random"] = Field(
        "scene",
        description="scene: all crops of one photograph on one side (ours); random: single crops (source: code).",
    )
    seeds: Seeds = Field((0, 223, 929, 1234, 10086), description="Seeds of the splits, one each. Source: code.")
    feature: Literal["last", "all"] = Field(
        "last", description="Levels of the decoder: the last stage, level 0 (source: code), or all of them (ours)."
    )
    pooling: Literal["none", "mean"] = Field(
        "none", description="none: maps are flattened whole (source: code); mean: over height and width (ours)."
    )
    projection: NonNegativeInt = Field(
        0, description="Dimensions of a sparse random projection (ours: less disk and time); 0: exact (source: code)."
    )
    random_init: Literal["published", "own"] = Field(
        "published",
        description="Untrained weights: Kaiming-uniform with a = 2 and zero biases in convolutions and linear layers "
        "(source: code), or as the network initialises itself (ours).",
    )
    perplexity: PositiveFloat = Field(30, description="Perplexity of t-SNE. Source: code (scikit-learn's default).")
    iterations: int = Field(2000, ge=250, description="Iterations of t-SNE. Source: code.")
    tsne_seed: NonNegativeInt = Field(0, description="Seed of t-SNE. Ours: the code draws it.")
    retrieval: RetrievalSettings = RetrievalSettings()

    @model_validator(mode="after")
    def _classes_differ(self) -> "FeatureSettings":
        if self.models and len(self.classes) < 2:
            raise ValueError(f"found {len(self.classes)} classes; models are analysed with at least 2")
        by_label: dict[int, str] = {}
        for name, label in self.labels().items():
            if label in by_label:
                raise ValueError(f"classes {by_label[label]} and {name} both have label {label}; give each its own")
            by_label[label] = name
        return self

    def labels(self) -> dict[str, int]:
        """Label of each class by its name: the given one, or its position."""
        return {n: i if c.label is None else c.label for i, (n, c) in enumerate(self.classes.items())}


def check_labels(features: FeatureSettings, settings: StageSettings) -> None:
    """Check that the feature analysis numbers degradations as a stage's classifier does; others have no say.

    A class and a part of the training mix are the same degradation where they share a recipe, or the data set
    where there is none.

    Raises:
        AirpipeError: names the class and both labels.
    """
    if not hasattr(settings, "head"):
        return
    trained: dict[str, set[int]] = {}
    for part in settings.data:
        trained.setdefault(part.recipe or part.pairs.split(".")[0], set()).add(part.label)
    for name, label in features.labels().items():
        entry = features.classes[name]
        known = trained.get(entry.recipe or entry.pairs.split(".")[0], {label})
        if label not in known:
            raise AirpipeError(
                f"features, class {name} has label {label}; {settings.model_id} was trained with label "
                f"{', '.join(map(str, sorted(known)))} for it. Put the classes in that order, or set "
                f"features.classes.{name}.label"
            )


# Gallery


class GallerySettings(Settings):
    """Pictures of what networks that restore in stages make of an image on the way."""

    models: tuple[AnyModel, ...] = Field(
        (), description="method/setting, method/setting/stage or imported/name; none: no gallery."
    )
    scales: Names | None = Field(None, description="Scales at which there is a gallery; none: all.")
    tests: Names = Field((), description="Tests whose first image is shown, under their first protocol.")

    @model_validator(mode="after")
    def _complete(self) -> "GallerySettings":
        if self.models and not self.tests:
            raise ValueError("found models and no tests; name tests whose images are shown")
        return self


# Recognition


CLEAN = "clean"
"""Name of the degradation of tests whose images stay as they are."""


class RecognitionTest(Settings):
    """Labelled images, how they are degraded, and what is asked of recognisers."""

    pairs: SeededPairListId = Field(description="Labelled pair list; {seed} in it stands for the run's seed.")
    dataset: str = Field("", description="Name of the data set in tables; none: that of the list, without {seed}.")
    degradation: Name = Field(description="What the images show, as tables call it; clean: they stay as they are.")
    level: str = Field("", description="Strength of the degradation, as tables show it.")
    recipe: Name | None = Field(None, description="Degrades the clean image; none: the list has degraded files.")
    fixed: dict[Name, Json] = Field({}, description="Parameters that replace the recipe's draws.")
    operations: Recipe = Field(Recipe(), description="The recipe, written out.")
    seed: NonNegativeInt = Field(100000, description="Seed of the degradation; unlike any training seed.")
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
        """Ids of the pair lists that the test reads, each once."""
        return tuple(dict.fromkeys([self.pairs, self.gallery or self.pairs]))

    def for_seed(self, seed: int) -> "RecognitionTest":
        """The same test with the run's seed in its lists, and the name of its data set filled in.

        Images of each seed's own list are degraded with a seed of their own: their names repeat.
        """
        dataset = self.dataset or self.pairs.split(".")[0].replace(SEED, "").strip("_")
        gallery = self.gallery and self.gallery.replace(SEED, str(seed))
        pairs = self.pairs.replace(SEED, str(seed))
        drawn = self.seed + (seed if pairs != self.pairs else 0)
        return self.model_copy(update={"pairs": pairs, "gallery": gallery, "dataset": dataset, "seed": drawn})

    def as_test(self) -> TestSettings:
        """The degradation of the images as settings of an ordinary test; call `for_seed` first."""
        shared = {
            name: getattr(self, name) for name in ("pairs", "degradation", "level", "recipe", "operations", "seed")
        }
        return TestSettings.model_validate(shared)


class DetectionSettings(Settings):
    """Detections of an external detector on the images of one test, as COCO's files."""

    annotations: str = Field(description="True objects; ~ and ${VARIABLES} are expanded.")
    detections: dict[Name, str] = Field(
        min_length=1, description="Variant (clean, degraded, restored, ...): file of detections."
    )
    recogniser: str = Field("", description="Name of the detector in tables; none: detector.")
    degradation: str = Field("", description="What the images show, as tables call it.")
    level: str = Field("", description="Strength of the degradation, as tables show it.")


class RecognitionSettings(Settings):
    """Frozen recognisers on clean, degraded and restored images."""

    models: tuple[AnyModel, ...] = Field(
        (), description="Enhancers: method/setting, method/setting/stage or imported/name; none: no recognition tests."
    )
    scales: Names | None = Field(None, description="Scales at which there are these tests; none: all.")
    recognisers: dict[Name, StageModel] = Field(
        {}, description="Model of each recogniser, by its name: method/setting/stage or imported/name."
    )
    headline: Name | None = Field(
        None, description="Recogniser that figures show and tables begin with; none: the first."
    )
    retrieval: Names | None = Field(None, description="Recognisers whose embeddings retrieval compares; none: all.")
    tests: dict[Name, RecognitionTest] = Field({}, description="Tests by name.")
    fresh_seeds: Seeds = Field(
        (1, 2, 3),
        description="Seeds that repeat the tests on demand: nothing was chosen while looking at them.",
    )
    pictures: NonNegativeInt = Field(1, description="Images of each test that are kept for the figures.")
    detections: dict[Name, DetectionSettings] = Field(
        {}, description="Files of detections to score beside the recognisers, by data set."
    )

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
        """Check that every test asks the headline, which figures show, and has somebody to ask."""
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
    """Tests and recognisers with which one job tests an enhancer. A change redoes the job."""

    tests: dict[Name, RecognitionTest]
    recognisers: dict[Name, str] = Field(description="Model id of each recogniser by name, with the seed of the run.")
    pictures: NonNegativeInt
    retrieval: Names | None = None


# Checks of the recognition tests


TABLES = ("recognition", "restoration", "recognition_seeds", "restoration_seeds")
"""Tables that the recognition tests make; others are called otherwise."""


def check_names(
    settings: RecognitionSettings,
    seeds: Collection[int],
    recipes: Collection[str],
    datasets: Mapping[str, Collection[str]],
    tables: Collection[str],
    task: Callable[[str, str], str],
) -> None:
    """Check that all that the recognition tests name is there.

    A list with {seed} must fit some data set; that of a seed is asked for where a job of that seed is planned.

    Args:
        settings: nothing is checked where they name no model.
        seeds: seeds of all runs.
        recipes: names of recipes.
        datasets: names of their splits, by data set.
        tables: names of the other tables.
        task: called with method/setting[/stage] and what names it; raises ValueError where there is no such stage.

    Raises:
        ValueError: says what is nearest, or what to name instead.
    """
    if not settings.models:
        return
    if taken := sorted(set(TABLES) & set(tables)):
        raise ValueError(f"tables: the name {taken[0]!r} belongs to the recognition tests; call the table otherwise")
    for model in settings.models:
        if not ModelName.parse(model).imported:
            task(model, "recognition")
    for name, model in settings.recognisers.items():
        if not ModelName.parse(model).imported:
            task(model, f"recognition, recogniser {name}")
    for name, test in settings.tests.items():
        where = f"recognition, test {name}"
        if test.recipe is not None and test.recipe not in recipes:
            raise ValueError(unknown_name(test.recipe, recipes, f"recipe in {where}"))
        for pairs in test.lists():
            _check_list(pairs, seeds, datasets, where)


def _check_list(pairs: str, seeds: Collection[int], datasets: Mapping[str, Collection[str]], where: str) -> None:
    dataset, split = pairs.removesuffix(NOLEAK).split(".")
    in_use = {dataset.replace(SEED, str(seed)) for seed in seeds}
    found = sorted(in_use & set(datasets)) or fitting(dataset, datasets)
    if not found:
        raise ValueError(unknown_name(dataset, datasets, f"data set in {where}"))
    for name in found:
        if split not in datasets[name]:
            raise ValueError(unknown_name(split, datasets[name], f"split of {name} in {where}"))
