"""All of config/, merged and checked: which models, tests and tables, and the settings of every stage.

This module imports no torch: Snakemake reads it at every start.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, model_validator

from airpipe.errors import AirpipeError
from airpipe.settings.base import Json, Name, Settings, check_settings, unknown_name
from airpipe.settings.datasets import DatasetSettings, of_seed
from airpipe.settings.degrading import Recipe
from airpipe.settings.merging import DATASETS, SETTINGS, deep_merge, inherited
from airpipe.settings.scoring import LeakageSettings, ProtocolSettings, ReportSettings, TableSettings, TestSettings
from airpipe.settings.stages import ComputeSettings, StageSettings
from airpipe.settings.studies import (
    FeatureClass,
    FeatureSettings,
    RecognitionJob,
    RecognitionSettings,
    RecognitionTest,
    check_names,
    seeded,
)


class StagePlan(Settings):
    """A stage in config/methods/<name>.yaml: common values, and what each scale overrides."""

    task: str
    common: dict[str, Json] = {}
    scales: dict[Name, dict[str, Json]] = Field(min_length=1)

    def parents(self, scale: str) -> set[str]:
        """Its parents at a scale as the configuration names them."""
        named = deep_merge(self.common, self.scales.get(scale, {})).get("parents") or {}
        return {str(parent) for parent in named.values()} if isinstance(named, Mapping) else set()


class SettingPlan(Settings):
    """A named setting of a method.

    The order of `stages` means nothing: an overlay that names a later stage changes it. What comes before what
    is said by their parents.
    """

    about: str = ""
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
        """Stages of this setting that a stage starts from, directly or not; itself, where they go round in a circle."""
        found: set[str] = set()
        waiting = [stage]
        while waiting:
            parents = {name for name in self.stages[waiting.pop()].parents(scale) if name in self.stages}
            waiting += sorted(parents - found)
            found |= parents
        return found

    def last(self, scale: str) -> str:
        """The stage that is evaluated.

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
    """config/methods/<name>.yaml."""

    title: str
    source: str = ""
    settings: dict[Name, SettingPlan] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _settings_like_others(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("settings"), Mapping):
            return {**values, "settings": inherited(values["settings"], SETTINGS)}
        return values


class ProjectSettings(Settings):
    """All of config/, merged."""

    scale: Name = "demo"
    seeds: tuple[NonNegativeInt, ...] = Field((0,), min_length=1)
    models: tuple[str, ...] = Field(description="What is trained and evaluated: method/setting, or imported/name.")
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
    compute: dict[Name, dict[str, dict[str, Json]]] = Field(
        {}, description="scale: {default or registry entry: ComputeSettings}"
    )

    @model_validator(mode="before")
    @classmethod
    def _copies_of_datasets(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("datasets"), Mapping):
            return {**values, "datasets": inherited(values["datasets"], DATASETS)}
        return values

    @model_validator(mode="after")
    def _of_this_scale(self) -> "ProjectSettings":
        def here(scales: tuple[str, ...] | None) -> bool:
            return scales is None or self.scale in scales

        tables = {name: table for name, table in self.tables.items() if here(table.scales)}
        object.__setattr__(self, "tables", tables)  # settings are frozen for everybody else
        if not here(self.features.scales):
            object.__setattr__(self, "features", self.features.model_copy(update={"models": ()}))
        if not here(self.recognition.scales):
            object.__setattr__(self, "recognition", self.recognition.model_copy(update={"models": ()}))
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> "ProjectSettings":
        tables = [model for table in self.tables.values() for model in table.models or ()]
        for model in [*self.models, *tables]:
            if not re.fullmatch(r"[a-z0-9_]+/[a-z0-9_]+", model):
                raise ValueError(f"{model!r} is not of the form method/setting or imported/name")
            if not model.startswith("imported/"):
                self.setting_plan(model)
        for name, test in self.tests.items():
            _known(test.pairs.split(".")[0], self.datasets, f"data set in test {name}")
            for protocol in test.protocols:
                _known(protocol, self.protocols, f"protocol in test {name}")
            if test.recipe is not None:
                _known(test.recipe, self.recipes, f"recipe in test {name}")
        for name, table in self.tables.items():
            for test_name in table.tests:
                _known(test_name, self.tests, f"test in table {name}")
        _known(self.report.protocol, self.protocols, "protocol in report")
        self._feature_names_exist()
        self._recognition_names_exist()
        for scale, stages in self.compute.items():
            for stage, values in stages.items():
                check_settings(ComputeSettings, values, f"compute.{scale}.{stage}")
        return self

    def setting_plan(self, model: str) -> SettingPlan:
        """The plan of `method/setting`; unknown names are errors."""
        method, setting = model.split("/")
        _known(method, self.methods, "method")
        _known(setting, self.methods[method].settings, f"setting of {method}")
        return self.methods[method].settings[setting]

    def _feature_names_exist(self) -> None:
        if "features" in self.tables:
            raise ValueError("tables: the name 'features' belongs to the feature analysis; call the table otherwise")
        for model in self.features.models:
            if not re.fullmatch(r"[a-z0-9_]+/[a-z0-9_]+|(?!imported/)[a-z0-9_]+(/[a-z0-9_]+){2}", model):
                raise ValueError(f"features: {model!r} is not method/setting, method/setting/stage or imported/name")
            if not model.startswith("imported/"):
                method, setting, *stage = model.split("/")
                stages = self.setting_plan(f"{method}/{setting}").stages
                for name in stage:
                    _known(name, stages, f"stage of {method}/{setting} in features")
        for name, entry in self.features.classes.items():
            dataset, split = entry.pairs.removesuffix("_noleak").split(".")
            _known(dataset, self.datasets, f"data set in features, class {name}")
            known = self.datasets[dataset]
            splits = {file.split for file in known.packages} or known.splits
            _known(split, splits, f"split of {dataset} in features, class {name}")
            if entry.recipe is not None:
                _known(entry.recipe, self.recipes, f"recipe in features, class {name}")

    def _recognition_names_exist(self) -> None:
        seeds = {*self.seeds, *self.recognition.fresh_seeds}
        splits = {
            name: {file.split for file in entry.packages} or set(entry.splits) for name, entry in self.datasets.items()
        }
        check_names(self.recognition, seeds, self.recipes, splits, self.tables, self._task)

    def _task(self, model: str, where: str) -> str:
        """Task of method/setting/stage, or of the evaluated stage of method/setting."""
        method, setting, *stage = model.split("/")
        plan = self.setting_plan(f"{method}/{setting}")
        for name in stage:
            _known(name, plan.stages, f"stage of {method}/{setting} in {where}")
        try:
            return plan.stages[stage[0] if stage else plan.last(self.scale)].task
        except ValueError as error:
            raise ValueError(f"{where}: {model}: {error}") from None

    def test(self, name: str) -> TestSettings:
        """A test with its recipe written out and its fixed parameters set."""
        test = self.tests[name]
        return test.model_copy(update={"operations": self._operations(test, f"tests.{name}")})

    def feature_analysis(self) -> FeatureSettings:
        """The feature analysis without its models, with recipes, fixed parameters and labels written out."""
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
        return self.features.model_copy(update={"models": (), "classes": classes})

    def recognition_job(self, seed: int) -> RecognitionJob:
        """The recognition tests of one seed, with recipes, fixed parameters, lists and models written out."""
        tests = {
            name: test.for_seed(seed).model_copy(
                update={"operations": self._operations(test, f"recognition.tests.{name}")}
            )
            for name, test in self.recognition.tests.items()
        }
        recognisers = {name: seeded(model, seed) for name, model in self.recognition.recognisers.items()}
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
        """The recipe of a test or class with its fixed parameters set."""
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
        """Folder of a data set on this machine, variables expanded; '' for embedded files.

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
        """File of a split's name list on this machine, variables expanded; None where it has none.

        Raises:
            AirpipeError: a variable in it is not set.
        """
        chosen = self.datasets[dataset].splits[split].name_list
        return place(chosen.file, f"datasets.{dataset}.splits.{split}.name_list.file") if chosen else None


def _known(name: str, valid: Any, what: str) -> None:
    if name not in valid:
        raise ValueError(unknown_name(name, valid, what))


def expanded(root: str) -> str:
    """A folder with ~ and ${VARIABLES} replaced; variables that are not set stay as they are, to be shown."""
    return str(Path(os.path.expandvars(root)).expanduser())


def place(path: str, where: str) -> str:
    """A folder or file that is about to be used, with ~ and ${VARIABLES} replaced.

    Args:
        path: as the configuration has it.
        where: key of the configuration, for the message.

    Raises:
        AirpipeError: names the variables that are not set, or empty.
    """
    missing = [name for name in dict.fromkeys(re.findall(r"\$\{(\w+)\}", path)) if not os.environ.get(name)]
    if missing:
        raise AirpipeError(
            f"{where} is {path!r}, and the environment variable {' and '.join(missing)} is not set. "
            f"Set it ({missing[0]}=/folder snakemake ...), or write the path itself"
        )
    return expanded(path)


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


def load_project(config: Mapping[str, Any]) -> ProjectSettings:
    """Validate the merged configuration that Snakemake read.

    Raises:
        AirpipeError: one line per problem.
    """
    return check_settings(ProjectSettings, _plain(config), "the configuration (config/*.yaml, --configfile, --config)")


def _plain(value: Any) -> Any:
    """Ordered or frozen mappings as plain dicts, sequences as lists."""
    return json.loads(json.dumps(value))


def without_leaks(project: ProjectSettings, pairs: str) -> str:
    """Id of the pair list without images of the tests; embedded lists have none."""
    embedded = project.datasets[pairs.split(".")[0]].embedded
    return pairs if embedded or pairs.endswith("_noleak") else f"{pairs}_noleak"


def parent_id(project: ProjectSettings, model: str, seed: int, stage: str, parent: str) -> str:
    """Model id of a stage's parent from how a configuration names it.

    Args:
        project: the merged configuration.
        model: "method/setting" of the stage.
        seed: of the stage; its parents were trained with the same one.
        stage: of `model`.
        parent: another stage of `model`, "method/setting/stage" of another one, or "imported/<name>".

    Raises:
        AirpipeError: no such stage, or one that starts from this one.
    """
    where = f"{model}, stage {stage}, parents"
    if parent.startswith("imported/"):
        return parent
    found, _, wanted = parent.rpartition("/")
    found = found or model
    if not re.fullmatch(r"[a-z0-9_]+/[a-z0-9_]+", found):
        raise AirpipeError(
            f"{where}: {parent!r} is not of the form stage (of the same setting), method/setting/stage or imported/name"
        )
    try:
        plan = project.setting_plan(found)
    except ValueError as error:
        raise AirpipeError(f"{where}: {error}") from None
    others = [name for name in plan.stages if (found, name) != (model, stage)]
    if wanted not in others:
        raise AirpipeError(f"{where}: " + unknown_name(wanted, others, f"other stage of {found}"))
    if found == model and stage in plan.before(stage, project.scale):
        raise AirpipeError(f"{where}: {stage} starts from {parent}, which starts from {stage}; break the circle")
    return f"{found}/seed{seed}/{wanted}"


def frozen_stage(
    project: ProjectSettings,
    model: str,
    seed: int,
    stage: str,
    settings_class: type[StageSettings],
    revision: int,
) -> StageSettings:
    """The validated settings of one stage at the project's scale, recipes written out.

    Args:
        project: the merged configuration.
        model: "method/setting".
        seed: of this run.
        stage: stage folder, for example "train".
        settings_class: of the stage's task, from the registry.
        revision: of the stage's task, from the registry.

    Raises:
        AirpipeError: unknown names, a scale that this stage does not have, invalid values.
    """
    method, setting = model.split("/")
    stages = project.setting_plan(model).stages
    if stage not in stages:
        raise AirpipeError(unknown_name(stage, stages, f"stage of {model}"))
    plan = stages[stage]
    if project.scale not in plan.scales:
        raise AirpipeError(
            f"{model}, stage {stage}: no scale {project.scale!r}; it has {', '.join(sorted(plan.scales))}. "
            f"Choose one of them (scale: ...) or add {project.scale!r} to config/methods/{method}.yaml"
        )
    values = _plain(deep_merge(plan.common, plan.scales[project.scale]))
    parts = [*values.get("data", ()), *values.get("validation", {}).get("data", ())]
    for part in parts:
        part["pairs"] = of_seed(str(part.get("pairs", "")), seed, project.datasets, f"{model}, stage {stage}")
        for key, written in (("recipe", "operations"), ("target_recipe", "target_operations")):
            recipe = part.get(key)
            if recipe is not None:
                if recipe not in project.recipes:
                    raise AirpipeError(f"{model}, stage {stage}: " + unknown_name(recipe, project.recipes, "recipe"))
                part[written] = project.recipes[recipe].model_dump(mode="json")
    if project.leakage.remove:
        for part in values.get("data", ()):
            part["pairs"] = without_leaks(project, part["pairs"])
    values |= {
        "task": plan.task,
        "revision": revision,
        "method": method,
        "setting": setting,
        "stage": stage,
    }
    values |= {"scale": project.scale, "seed": seed}
    if isinstance(values.get("parents"), Mapping):
        named = values["parents"].items()
        values["parents"] = {role: parent_id(project, model, seed, stage, str(parent)) for role, parent in named}
    return check_settings(settings_class, values, f"{model}, stage {stage}, scale {project.scale}")


def json_schema() -> dict[str, Any]:
    """The JSON schema of the whole configuration (workflow/schemas/config.schema.json)."""
    return ProjectSettings.model_json_schema()
