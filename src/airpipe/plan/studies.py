"""What is tested and shown: tests with their protocols, the feature analysis, the gallery, the recognition tests."""

from collections.abc import Iterable
from typing import Any

from airpipe.errors import AirpipeError
from airpipe.plan.datasets import DataSets
from airpipe.plan.models import model_name, trained
from airpipe.settings.base import unknown_name
from airpipe.settings.names import NONE, ModelId
from airpipe.settings.places import place
from airpipe.settings.scoring import TestJob
from airpipe.settings.studies import FeatureSettings, RecognitionJob, check_labels


class Studies(DataSets):
    """Answers about the tests and studies of a project."""

    def test_job(self, name: str) -> TestJob:
        """A test with its recipe and its protocols written out.

        Raises:
            AirpipeError: unknown test.
        """
        if name not in self.project.tests:
            raise AirpipeError(unknown_name(name, self.project.tests, "test"))
        test = self.project.test(name)
        words = {"title": "", "source": ""}
        protocols = {name: self.project.protocols[name].model_copy(update=words) for name in test.protocols}
        return TestJob(name=name, test=test, protocols=protocols)

    def table_lists(self, table: str, model: str = NONE) -> list[str]:
        """Pair lists of the tests of a table, or of those of them that a model is scored on."""
        return sorted({self.project.tests[test].pairs for test in self.table_tests(table, model)})

    # Features

    def features(self) -> FeatureSettings:
        """The feature analysis, written out."""
        found: FeatureSettings = self._once("features", self.project.feature_analysis)
        return found

    def feature_models(self) -> list[str]:
        """Ids of the analysed models; none where the analysis is off.

        Raises:
            AirpipeError: a trained classifier numbers a class otherwise than the analysis.
        """
        models = list(dict.fromkeys(self.model_ids(self.project.features.models)))
        for model in trained(models):
            check_labels(self.features(), self.stage_settings(ModelId.parse(model).folder))
        return models

    def feature_lists(self) -> list[str]:
        """Pair lists of the feature analysis."""
        return sorted({entry.pairs for entry in self.features().classes.values()})

    def retrieval_models(self) -> list[str]:
        """Ids of the models whose embeddings are searched; none where that is off."""
        return list(dict.fromkeys(self.model_ids(self.project.features.retrieval.models)))

    def retrieval_lists(self) -> list[str]:
        """Pair list of retrieval by embeddings, if it has one."""
        pairs = self.project.features.retrieval.pairs
        return [pairs] if pairs else []

    # Gallery

    def gallery_models(self) -> list[str]:
        """Ids of the models whose stages are shown, those of the first seed; none where there is no gallery."""
        chosen = self.project.gallery.models
        return list(dict.fromkeys(self.model_ids(chosen, self.project.seeds[:1]))) if chosen else []

    def gallery_lists(self) -> list[str]:
        """Pair lists of the tests of the gallery."""
        return sorted({self.project.tests[test].pairs for test in self.project.gallery.tests})

    # Recognition

    def recognition_job(self, seed: int) -> RecognitionJob:
        """The recognition tests of a seed, written out."""
        found: RecognitionJob = self._once(("recognition", seed), lambda: self.project.recognition_job(seed))
        return found

    def recognition_models(self) -> list[str]:
        """Ids of the enhancers and recognisers of the recognition tests; none where they are off."""
        chosen = self.project.recognition
        return (
            list(dict.fromkeys(self.model_ids([*chosen.models, *chosen.recognisers.values()]))) if chosen.models else []
        )

    def recognition_lists(self, seed: int) -> list[str]:
        """Pair lists of the recognition tests of a seed, galleries included; none where they are off.

        Raises:
            AirpipeError: a seed that has no data set.
        """
        return self.project.recognition_lists(seed)

    def recognisers(self, seed: int) -> dict[str, str]:
        """Name and model id of the frozen recognisers of a seed."""
        return {name: self.there(model) for name, model in self.recognition_job(seed).recognisers.items()}

    def recognised(self, seeds: Iterable[int], of: str = "") -> list[tuple[int, str]]:
        """Seed and enhancer of every job of the recognition tests: no restoration first.

        Args:
            seeds: seeds of the runs.
            of: method whose enhancers are meant; empty: all.
        """
        models = [model for model in self.project.recognition.models if of in ("", model_name(model).method)]
        if not models:
            return []
        return [(seed, model) for seed in seeds for model in dict.fromkeys([NONE, *self.model_ids(models, [seed])])]

    def fresh_seeds(self) -> tuple[int, ...]:
        """Seeds of the recognition tests that nothing was chosen by.

        Raises:
            AirpipeError: there are no recognition tests.
        """
        if not self.project.recognition.models:
            raise AirpipeError(
                f"scale {self.project.scale} has no recognition tests; name enhancers in recognition.models"
            )
        return self.project.recognition.fresh_seeds

    def detection_files(self) -> dict[str, dict[str, Any]]:
        """Annotations and detections that the recognition tables score, on this machine, by data set.

        Raises:
            AirpipeError: a variable in a path is not set.
        """
        found = {}
        chosen = self.project.recognition
        for name, entry in chosen.detections.items() if chosen.models else ():
            where = f"recognition.detections.{name}"
            files = {variant: place(file, f"{where}.{variant}") for variant, file in entry.detections.items()}
            found[name] = {"annotations": place(entry.annotations, f"{where}.annotations"), "detections": files}
        return found

    def detection_texts(self) -> dict[str, dict[str, str]]:
        """Texts that the tables show of each set of detections, by data set."""
        texts = {"recogniser", "degradation", "level"}
        return {name: entry.model_dump(include=texts) for name, entry in self.project.recognition.detections.items()}

    def abouts(self) -> dict[str, str]:
        """Words of the configuration on what each enhancer's setting is for, by method/setting."""
        shown = [name for name in map(model_name, self.project.recognition.models) if not name.imported]
        settings = sorted({name.of_setting: name for name in shown}.items())
        return {setting: self.setting(name).about for setting, name in settings}

    def branches(self) -> dict[str, list[str]]:
        """Names of the branches of each enhancer that has some, in the order of its guidance maps."""
        models = trained(self.model_ids(self.project.recognition.models))
        found = {
            model: list(getattr(self.stage_settings(ModelId.parse(model).folder), "branches", ())) for model in models
        }
        return {model: names for model, names in found.items() if names}
