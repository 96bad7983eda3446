"""All of config/, merged and checked: models, tests, tables, studies, and what methods say of their stages.

How one stage's settings are frozen: `airpipe.settings.freezing`.

This module imports no torch: Snakemake reads it at every start.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import Field, model_validator

from airpipe.errors import AirpipeError
from airpipe.settings.base import Json, Name, Settings, check_settings, unknown_name
from airpipe.settings.datasets import DatasetSettings, of_seed
from airpipe.settings.degrading import Recipe
from airpipe.settings.merging import check_nulls, over_common, plain, settled
from airpipe.settings.names import NOLEAK, ModelName, Seeds, SettingModel
from airpipe.settings.places import place
from airpipe.settings.scoring import LeakageSettings, ProtocolSettings, ReportSettings, TableSettings, TestSettings
from airpipe.settings.stages import ComputeSettings
from airpipe.settings.studies import (
    FeatureClass,
    FeatureSettings,
    GallerySettings,
    RecognitionJob,
    RecognitionSettings,
    RecognitionTest,
    RetrievalSettings,
    check_names,
)
from airpipe.settings.written import Written

RESERVED = ("efficiency", "published")
"""Names of tables that are always there; `<table>_gains` belong to the tables of scores."""


class StagePlan(Settings):
    """A stage in config/methods/<name>.yaml: common values, and what each scale overrides."""

    task: str = Field(description="Entry of the registry: method.stage.")
    common: dict[str, Json] = Field({}, description="Settings at all scales.")
    scales: dict[Name, dict[str, Json]] = Field(
        min_length=1, description="What each scale says beside them, mappings key by key."
    )

    def parents(self, scale: str) -> set[str]:
        """Parents of the stage at a scale, as the configuration names them."""
        named = over_common(self.common, self.scales.get(scale, {})).get("parents", {})
        return {str(parent) for parent in named.values()} if isinstance(named, Mapping) else set()


class SettingPlan(Settings):
    """A named setting of a method.

    The order of `stages` means nothing: an overlay that names a later stage changes it. What comes before what
    is said by their parents.
    """

    about: str = Field("", description="What it is for, in words; tables show it.")
    stages: dict[Name, StagePlan] = Field(min_length=1)
    evaluated: Name | None = Field(
        None, description="Stage that tests and tables show; none: the one from which no other stage of it starts."
    )

    @model_validator(mode="after")
    def _evaluated_exists(self) -> "SettingPlan":
        if self.evaluated is not None:
            _known(self.evaluated, self.stages, "stage in evaluated")
        return self

    def before(self, stage: str, scale: str) -> set[str]:
        """Stages of this setting that a stage starts from, directly or not; with itself where they form a circle."""
        found: set[str] = set()
        waiting = [stage]
        while waiting:
            parents = {name for name in self.stages[waiting.pop()].parents(scale) if name in self.stages}
            waiting += sorted(parents - found)
            found |= parents
        return found

    def last(self, scale: str) -> str:
        """Name of the stage that is evaluated.

        Raises:
            ValueError: there is no such stage, or several.
        """
        if self.evaluated is not None:
            return self.evaluated
        begun = set().union(*(stage.parents(scale) for stage in self.stages.values()))
        ends = [name for name in self.stages if name not in begun]
        if len(ends) != 1:
            raise ValueError(
                f"stages {', '.join(self.stages)}: no other stage starts from {', '.join(ends) or 'none of them'}; "
                "expected one such stage. Say which one is evaluated (evaluated: ...)"
            )
        return ends[0]


class MethodSettings(Settings):
    """All settings of a method, as in config/methods/<name>.yaml."""

    title: str
    source: str = Field("", description="Paper and code that the values come from.")
    settings: dict[Name, SettingPlan] = Field(min_length=1)


class ProjectSettings(Settings):
    """All of config/, merged. Tables and studies of other scales than the chosen one are left out."""

    scale: Name = Field("demo", description="Size of all runs; stages say which ones they have.")
    seeds: Seeds = Field((0,), description="Seeds of the runs of every model, each once.")
    models: tuple[SettingModel, ...] = Field(
        description="What is trained and evaluated: method/setting or imported/name, each with @variant where it has "
        "variants."
    )
    methods: dict[Name, MethodSettings]
    datasets: dict[Name, DatasetSettings]
    recipes: dict[Name, Recipe]
    protocols: dict[Name, ProtocolSettings]
    tests: dict[Name, TestSettings]
    tables: dict[Name, TableSettings]
    report: ReportSettings = ReportSettings()
    leakage: LeakageSettings = LeakageSettings()
    features: FeatureSettings = FeatureSettings()
    recognition: RecognitionSettings = RecognitionSettings()
    gallery: GallerySettings = GallerySettings()
    compute: dict[Name, dict[str, dict[str, Json]]] = Field(
        {}, description="scale: {default or registry entry: ComputeSettings}"
    )

    @model_validator(mode="after")
    def _of_this_scale(self) -> "ProjectSettings":
        """Leave out tables and studies of other scales, before anything checks their names."""

        def here(scales: tuple[str, ...] | None) -> bool:
            return scales is None or self.scale in scales

        chosen: dict[str, Any] = {"tables": {name: table for name, table in self.tables.items() if here(table.scales)}}
        if not here(self.features.scales):
            retrieval = self.features.retrieval.model_copy(update={"models": ()})
            chosen["features"] = self.features.model_copy(update={"models": (), "retrieval": retrieval})
        if not here(self.recognition.scales):
            chosen["recognition"] = self.recognition.model_copy(update={"models": ()})
        if not here(self.gallery.scales):
            chosen["gallery"] = self.gallery.model_copy(update={"models": ()})
        return self.model_copy(update=chosen)

    @model_validator(mode="after")
    def _names_exist(self) -> "ProjectSettings":
        tables = [model for table in self.tables.values() for group in table.compared() for model in group.models]
        for model in [*self.models, *tables]:
            if not ModelName.parse(model).imported:
                self.setting_plan(model)
        for name, test in self.tests.items():
            _known(test.pairs.split(".")[0], self.datasets, f"data set in test {name}")
            for protocol in test.protocols:
                _known(protocol, self.protocols, f"protocol in test {name}")
            if test.recipe is not None:
                _known(test.recipe, self.recipes, f"recipe in test {name}")
            if test.target_recipe is not None:
                _known(test.target_recipe, self.recipes, f"target recipe in test {name}")
        for name, table in self.tables.items():
            if name in RESERVED or name.endswith("_gains"):
                raise ValueError(f"tables: the name {name!r} belongs to another table; call the table otherwise")
            for test_name in table.tests:
                _known(test_name, self.tests, f"test in table {name}")
            for protocol in table.without_protocols:
                _known(protocol, self.protocols, f"protocol in table {name}")
            for test_name in table.tests:
                if set(self.tests[test_name].protocols) <= set(table.without_protocols):
                    raise ValueError(
                        f"table {name}: without_protocols leaves none of the protocols of test {test_name}; name "
                        "fewer, or leave the test out"
                    )
        _known(self.report.protocol, self.protocols, "protocol in report")
        self._feature_names_exist()
        self._recognition_names_exist()
        self._gallery_names_exist()
        self._tests_are_of_whole_images()
        for scale, stages in self.compute.items():
            for stage, values in stages.items():
                check_settings(ComputeSettings, values, f"compute.{scale}.{stage}")
        return self

    def setting_plan(self, model: str) -> SettingPlan:
        """The plan of the setting that a model name says, whatever its stage and variant.

        Raises:
            ValueError: no such method or setting; says which is nearest.
        """
        name = ModelName.parse(model)
        _known(name.method, self.methods, "method")
        _known(name.setting, self.methods[name.method].settings, f"setting of {name.method}")
        return self.methods[name.method].settings[name.setting]

    def _feature_names_exist(self) -> None:
        if "features" in self.tables:
            raise ValueError("tables: the name 'features' belongs to the feature analysis; call the table otherwise")
        retrieval = self.features.retrieval
        for model in (*self.features.models, *retrieval.models):
            if not ModelName.parse(model).imported:
                self._stage_exists(model, "features")
        for name, entry in self.features.classes.items():
            self._degraded_list_exists(entry.pairs, entry.recipe, f"features, class {name}")
        if retrieval.models and retrieval.pairs:
            self._degraded_list_exists(retrieval.pairs, retrieval.recipe, "features.retrieval")

    def _degraded_list_exists(self, pairs: str, recipe: str | None, where: str) -> None:
        dataset, split = pairs.removesuffix(NOLEAK).split(".")
        _known(dataset, self.datasets, f"data set in {where}")
        _known(split, self.datasets[dataset].split_names, f"split of {dataset} in {where}")
        if recipe is not None:
            _known(recipe, self.recipes, f"recipe in {where}")

    def _recognition_names_exist(self) -> None:
        seeds = {*self.seeds, *self.recognition.fresh_seeds}
        splits = {name: entry.split_names for name, entry in self.datasets.items()}
        check_names(self.recognition, seeds, self.recipes, splits, self.tables, self.task_of)

    def _gallery_names_exist(self) -> None:
        if not self.gallery.models:
            return
        if "stages" in self.tables:
            raise ValueError("tables: the name 'stages' belongs to the gallery; call the table otherwise")
        for model in self.gallery.models:
            if not ModelName.parse(model).imported:
                self._stage_exists(model, "gallery")
        for name in self.gallery.tests:
            _known(name, self.tests, "test in gallery")
            if self.tests[name].transfers:
                raise ValueError(f"gallery: test {name} shows a reference beside the image; name a test without one")

    def _tests_are_of_whole_images(self) -> None:
        tests = [(f"test {name}", test.pairs) for name, test in self.tests.items()]
        tests += [(f"features, class {name}", entry.pairs) for name, entry in self.features.classes.items()]
        for name, recognised in self.recognition.tests.items():
            tests += [(f"recognition, test {name}", pairs) for pairs in recognised.lists()]
        for where, pairs in tests:
            dataset, split = pairs.removesuffix(NOLEAK).split(".")
            chosen = self.datasets[dataset].splits.get(split) if dataset in self.datasets else None
            if chosen is not None and chosen.cut is not None:
                raise ValueError(
                    f"{where}: {pairs} is cut into windows, which are for training. Name a split without cut"
                )

    def _stage_exists(self, model: str, where: str) -> SettingPlan:
        name, plan = ModelName.parse(model), self.setting_plan(model)
        if name.stage:
            _known(name.stage, plan.stages, f"stage of {name.of_setting} in {where}")
        return plan

    def task_of(self, model: str, where: str) -> str:
        """Task of method/setting/stage, or of the evaluated stage of method/setting.

        Args:
            model: as the configuration has it; not an imported one.
            where: what names it, for the message.

        Raises:
            ValueError: no such stage, or several that might be evaluated.
        """
        plan = self._stage_exists(model, where)
        try:
            return plan.stages[ModelName.parse(model).stage or plan.last(self.scale)].task
        except ValueError as error:
            raise ValueError(f"{where}: {model}: {error}") from None

    def test(self, name: str) -> TestSettings:
        """Settings of a test with its recipes written out and its fixed parameters set."""
        test = self.tests[name]
        written = {"operations": self._operations(test, f"tests.{name}")}
        if test.target_recipe is not None:
            written["target_operations"] = self.recipes[test.target_recipe]
        return test.model_copy(update=written)

    def feature_analysis(self) -> FeatureSettings:
        """The feature analysis without models and retrieval, with recipes, fixed parameters and labels written out."""
        labels = self.features.labels()
        classes = {
            name: entry.model_copy(
                update={
                    "label": labels[name],
                    "operations": self._operations(entry, f"features.classes.{name}"),
                }
            )
            for name, entry in self.features.classes.items()
        }
        alone = {"models": (), "classes": classes, "retrieval": RetrievalSettings()}
        return self.features.model_copy(update=alone)

    @property
    def has_features(self) -> bool:
        """Whether there is a table of features: an analysis, or retrieval."""
        return bool(self.features.models or self.features.retrieval.models)

    def retrieval(self) -> RetrievalSettings:
        """Retrieval by what was drawn, without its models, with its recipe written out."""
        chosen = self.features.retrieval
        operations = self.recipes[chosen.recipe] if chosen.recipe else Recipe()
        return chosen.model_copy(update={"models": (), "operations": operations})

    def recognition_job(self, seed: int) -> RecognitionJob:
        """The recognition tests of one seed, with recipes, fixed parameters, lists and models written out."""
        tests = {
            name: test.for_seed(seed).model_copy(
                update={"operations": self._operations(test, f"recognition.tests.{name}")}
            )
            for name, test in self.recognition.tests.items()
        }
        recognisers = {
            name: str(ModelName.parse(model).of_seed(seed)) for name, model in self.recognition.recognisers.items()
        }
        chosen = self.recognition
        return RecognitionJob(
            tests=tests, recognisers=recognisers, pictures=chosen.pictures, retrieval=chosen.retrieval
        )

    def recognition_lists(self, seed: int) -> list[str]:
        """Pair lists of the recognition tests of one seed, galleries included; none where they are off.

        Raises:
            AirpipeError: a seed that has no data set.
        """
        tests = self.recognition.tests.items() if self.recognition.models else ()
        found = [
            of_seed(pairs, seed, self.datasets, f"recognition, test {name}")
            for name, test in tests
            for pairs in test.lists()
        ]
        return sorted(set(found))

    def _operations(self, degraded: TestSettings | FeatureClass | RecognitionTest, where: str) -> Recipe:
        """Recipe of a test or class with its fixed parameters set."""
        if degraded.recipe is None:
            return degraded.operations
        try:
            return self.recipes[degraded.recipe].with_fixed(degraded.fixed)
        except ValueError as error:
            raise AirpipeError(f"{where}.fixed: {error}") from None

    def compute_for(self, task: str) -> ComputeSettings:
        """What a stage asks of the machine at this scale."""
        block = self.compute.get(self.scale, {})
        return ComputeSettings.model_validate({**block.get("default", {}), **block.get(task, {})})

    def root(self, dataset: str) -> str:
        """Folder of a data set on this machine with its variables replaced; '' for embedded files.

        Raises:
            AirpipeError: a variable in it is not set.
        """
        entry = self.datasets[dataset]
        if entry.packages:
            return ""
        if entry.made:
            return f"results/generated/{dataset}"
        return place(entry.root or f"resources/datasets/{dataset}", f"datasets.{dataset}.root")

    def list_file(self, dataset: str, split: str) -> str | None:
        """File of a split's name list on this machine with its variables replaced; None where it has none.

        Raises:
            AirpipeError: a variable in it is not set.
        """
        chosen = self.datasets[dataset].splits[split].name_list
        return place(chosen.file, f"datasets.{dataset}.splits.{split}.name_list.file") if chosen else None


def _known(name: str, valid: Any, what: str) -> None:
    if name not in valid:
        raise ValueError(unknown_name(name, valid, what))


def check_compute(project: ProjectSettings, stages: Iterable[str]) -> None:
    """Check that `compute` names the chosen scale and only stages that exist.

    Raises:
        AirpipeError: says which name is nearest.
    """
    if project.scale not in project.compute:
        raise AirpipeError(unknown_name(project.scale, project.compute, "scale in compute"))
    valid = ["default", *stages]
    for scale, block in project.compute.items():
        for name in block:
            if name not in valid:
                raise AirpipeError(f"compute.{scale}: " + unknown_name(name, valid, "stage"))


def check_recognisers(project: ProjectSettings, recognising: Collection[str]) -> None:
    """Check that recognisers recognise and that enhancers do not.

    Args:
        project: nothing is checked where its recognition tests are off.
        recognising: full names of the stages that train recognisers.

    Raises:
        AirpipeError: names the model, and what to name instead.
    """
    if not project.recognition.models:
        return
    for model in project.recognition.models:
        if not ModelName.parse(model).imported and project.task_of(model, "recognition") in recognising:
            raise AirpipeError(
                f"recognition, models: {model} tells classes apart and restores nothing; name it in "
                "recognition.recognisers, or another stage here"
            )
    for name, model in project.recognition.recognisers.items():
        where = f"recognition, recogniser {name}"
        task = "" if ModelName.parse(model).imported else project.task_of(model, where)
        if task and task not in recognising:
            raise AirpipeError(
                f"{where}: {model} ({task}) tells no classes apart; name a stage of {' or '.join(recognising)}, "
                "or imported/name"
            )


def load_project(config: Mapping[str, Any]) -> ProjectSettings:
    """Validate the merged configuration that Snakemake read; `like` is followed and null takes keys away.

    Raises:
        AirpipeError: one line per problem.
    """
    where = "the configuration (config/*.yaml, --configfile, --config)"
    try:
        values = plain(config)
        check_settings(Written, values, where)
        project = check_settings(ProjectSettings, settled(values), where)
        check_nulls(project, values)
    except ValueError as error:
        raise AirpipeError(f"{where} is not valid:\n  {error}") from None
    return project


def json_schema() -> dict[str, Any]:
    """The JSON schema of the whole configuration (workflow/schemas/config.schema.json)."""
    return ProjectSettings.model_json_schema()
