"""What the configuration asks for: models, stages, pair lists, tests and studies, as ids and settings.

Snakemake's rules turn ids into paths and ask nothing else of the configuration. Facts about the machine come in as
functions (`Machine`). This module imports no torch: Snakemake reads it at every start.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import yaml

from airpipe.errors import AirpipeError
from airpipe.registry import method, runs_as, settings_class, stage_entry, stage_folder, stages
from airpipe.settings.base import Settings, canonical_json, settings_hash, unknown_name
from airpipe.settings.datasets import DatasetSettings, Made
from airpipe.settings.degrading import Recipe
from airpipe.settings.freezing import frozen_stage
from airpipe.settings.names import NONE, ModelId, ModelName
from airpipe.settings.places import place
from airpipe.settings.project import ProjectSettings, SettingPlan, check_compute, check_recognisers, load_project
from airpipe.settings.scoring import TestJob
from airpipe.settings.stages import ComputeSettings, StageSettings
from airpipe.settings.studies import FeatureSettings, RecognitionJob, check_labels

NOLEAK = "_noleak"
"""End of a pair list's name whose images no test shows."""
TRAINING_SPLITS = ("train", "val")
"""Beginnings of the names of splits that are for training, in a user's own data set."""
HINTS = {"imported/vgg16": "torchvision's ImageNet weights, vgg16-397923af.pth"}
"""What FILE is, for imported models that settings name as parents."""

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The fast one, where PyYAML was built with it; both write the same."""


def _there(*_: str) -> bool:
    return True


@dataclass(frozen=True)
class Machine:
    """What only the machine knows; everything is there unless told otherwise."""

    model: Callable[[str], bool] = _there
    """Whether the file of an imported model is there, by its id."""
    split: Callable[[str, str], bool] = _there
    """Whether the folder of a data set (`root`) holds images of a split."""


@dataclass(frozen=True)
class TrainingRule:
    """A registered stage that has a rule of its own."""

    task: str
    """Full name of the stage, such as "mine.train"."""

    @property
    def name(self) -> str:
        """Name of the rule."""
        return self.task.replace(".", "_")

    @property
    def stage(self) -> str:
        """Folder of the stage, with wildcards ("dnc_{degradation}")."""
        return stage_folder(self.task)

    @property
    def path(self) -> str:
        """Model id of its jobs, with wildcards."""
        return f"{self.task.split('.')[0]}/{{setting}}/seed{{seed}}/{self.stage}"

    @property
    def wildcards(self) -> list[str]:
        """Wildcards in its folder."""
        return re.findall(r"\{(\w+)\}", self.stage)

    @property
    def message(self) -> str:
        """What a job says on the terminal, with Snakemake's wildcards."""
        own, (paper, name) = stage_entry(self.task), self.task.split(".")
        title = re.sub(r"\{(\w+)\}", r"{wildcards.\1}", own.title or name)
        return f"{method(paper).title} {{wildcards.setting}}, seed {{wildcards.seed}}: {title}"


def training_rules() -> list[TrainingRule]:
    """Every registered stage that has a rule of its own, in the order of the registry."""
    return [TrainingRule(task) for task, entry in stages().items() if not entry.runs_as]


def load_plan(config: Mapping[str, Any], machine: Machine | None = None) -> "Plan":
    """Validate the merged configuration that Snakemake read, and what it says of registered stages.

    Raises:
        AirpipeError: one line per problem.
    """
    plan = Plan(load_project(config), machine or Machine())
    check_compute(plan.project, [*dict.fromkeys(map(runs_as, stages())), "evaluate"])
    check_recognisers(plan.project, [task for task, entry in stages().items() if entry.recognises])
    return plan


@dataclass(frozen=True)
class Plan:
    """What a project asks for. Every answer is computed once."""

    project: ProjectSettings
    machine: Machine = Machine()
    _known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def _once(self, key: Any, answer: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = answer()
        return self._known[key]

    # Models

    def setting(self, name: ModelName) -> SettingPlan:
        """The plan of a setting; AirpipeError for unknown names."""
        try:
            return self.project.setting_plan(name.of_setting)
        except ValueError as error:
            raise AirpipeError(str(error)) from None

    def evaluated(self, name: ModelName) -> str:
        """The stage that a name means: its own, or the one of its setting that is evaluated."""
        if name.stage or name.imported:
            return name.stage
        try:
            return self.setting(name).last(self.project.scale)
        except ValueError as error:
            raise AirpipeError(f"{name}: {error}") from None

    def model_ids(self, names: Iterable[str], seeds: Sequence[int] | None = None) -> list[str]:
        """Ids of models as a configuration names them, for all seeds (or those given); imported ones have none.

        Raises:
            AirpipeError: unknown names, or an imported model whose file is not there.
        """
        ids = []
        for name in map(_parsed, names):
            runs = (0,) if name.imported else self.project.seeds if seeds is None else seeds
            ids += [self.there(str(name.of_seed(seed, self.evaluated(name)))) for seed in runs]
        return ids

    def there(self, model: str) -> str:
        """The same id; an imported model, which no rule makes, must be there.

        Raises:
            AirpipeError: it is not, and how to import it.
        """
        found = ModelId.parse(model)
        if not found.trained and model != NONE and not self.machine.model(found.folder):
            what = f" (FILE: {HINTS[found.folder]})" if found.folder in HINTS else ""
            raise AirpipeError(
                f"results/{found.folder} is not there: "
                f"python scripts/import_weights.py FILE --name {found.setting}{what}"
            )
        return model

    def chosen_models(self) -> list[str]:
        """Ids of `models`."""
        return self.model_ids(self.project.models)

    def table_models(self, table: str) -> list[str]:
        """Ids of the models in a table."""
        chosen = self.project.tables[table].models
        return self.model_ids(self.project.models if chosen is None else chosen)

    def table_scores(self, *tables: str) -> list[tuple[str, str]]:
        """Model id and test of every column of tables, each once: no restoration, then their models."""
        return list(
            dict.fromkeys(
                (model, test)
                for table in tables
                for model in [NONE, *self.table_models(table)]
                for test in self.project.tables[table].tests
            )
        )

    def shown_models(self) -> list[str]:
        """Ids of the chosen models and of those in the tables."""
        tables = (model for table in self.project.tables for model in self.table_models(table))
        return list(dict.fromkeys([*self.chosen_models(), *tables]))

    # Stages

    def stage_settings(self, model: str) -> StageSettings:
        """Validated settings of the stage that trains a model, as they get frozen.

        Raises:
            AirpipeError: unknown names, a scale that the stage does not have, invalid values.
        """
        found: StageSettings = self._once(("stage", model), lambda: self._stage_settings(ModelId.parse(model)))
        return found

    def _stage_settings(self, model: ModelId) -> StageSettings:
        own = self.setting(model.name).stages.get(model.stage)
        task = own.task if own else f"{model.method}.{model.stage}"
        return frozen_stage(
            self.project,
            model.name.of_setting,
            model.seed or 0,
            model.stage,
            settings_class(task),
            stage_entry(task).revision,
        )

    def parents_of(self, model: str) -> dict[str, str]:
        """Role and model id of the parents that a stage starts from; an optional one that is not there is left out.

        Raises:
            AirpipeError: another imported parent is not there.
        """
        settings = self.stage_settings(model)
        return {
            role: parent if role in settings.optional_roles else self.there(parent)
            for role, parent in settings.parents.items()
            if role not in settings.optional_roles or self._is_there(parent)
        }

    def _is_there(self, model: str) -> bool:
        found = ModelId.parse(model)
        return found.trained or self.machine.model(found.folder)

    def stages_in_use(self, of: str | None = None) -> list[StageSettings]:
        """Settings of every stage that chosen models, tables and recognition tests need, those before them included.

        Args:
            of: the method that matters; stages of others are left out where they cannot be planned (a seed
                without data). None: all matter.
        """
        found: list[StageSettings] = self._once(("in use", of), lambda: self._stages_in_use(of))
        return found

    def _stages_in_use(self, of: str | None) -> list[StageSettings]:
        waiting = trained([*self.shown_models(), *self.recognition_models()])
        found: dict[str, StageSettings | None] = {}
        while waiting:
            model = ModelId.parse(waiting.pop(0)).folder
            if model in found:
                continue
            try:
                found[model] = self.stage_settings(model)
            except AirpipeError:
                if of in (None, model.split("/")[0]):
                    raise
                found[model] = None
                continue
            waiting += trained(self.parents_of(model).values())
        return [settings for settings in found.values() if settings is not None]

    def models_of(self, paper: str) -> list[str]:
        """Ids of the models of a method that the chosen ones and the tables need."""
        return [settings.model_id for settings in self.stages_in_use(paper) if settings.method == paper]

    def mix(self, model: str) -> list[str]:
        """Pair lists that a stage trains on, each once, in order."""
        return list(dict.fromkeys(part.pairs for part in self.stage_settings(model).data))

    def validation(self, model: str) -> list[str]:
        """Pair lists that a stage is validated on, each once, in order."""
        return list(dict.fromkeys(part.pairs for part in self.stage_settings(model).validation.data))

    # Pair lists

    def training_lists(self) -> list[str]:
        """Pair lists that stages in use train and validate on."""
        parts = [part for settings in self.stages_in_use() for part in (*settings.data, *settings.validation.data)]
        return sorted({part.pairs for part in parts})

    def test_lists(self) -> list[str]:
        """Pair lists of the tests in the tables and of the recognition tests."""
        shown = {self.project.tests[test].pairs for table in self.project.tables.values() for test in table.tests}
        return sorted(shown | {pairs for seed in self.project.seeds for pairs in self.recognition_lists(seed)})

    def used_lists(self) -> list[str]:
        """Pair lists of trainings and tests."""
        return sorted({*self.training_lists(), *self.test_lists()})

    def own_lists(self) -> list[str]:
        """Splits that the folders named by `root` hold; of a folder with none of them, the first."""
        found = []
        for name, entry in self.project.datasets.items():
            if entry.root:
                here = [split for split in entry.splits if self.machine.split(name, split)]
                found += [f"{name}.{split}" for split in here or list(entry.splits)[:1]]
        return found

    def compared_lists(self) -> tuple[list[str], list[str]]:
        """Training lists, and test lists that they are searched for; own folders are searched, too."""
        own = set(self.own_lists())
        own_train = {name for name in own if name.split(".")[1].startswith(TRAINING_SPLITS)}
        train, test = (
            {name for name in lists if not self.dataset_of(name).drawn}
            for lists in (self.training_lists(), self.test_lists())
        )
        return sorted(train | own_train), sorted(test | own - own_train)

    def drawn_lists(self) -> list[str]:
        """Lists in use whose files are drawn here: they are not searched for leaks."""
        return [name for name in self.used_lists() if self.dataset_of(name).drawn]

    def checked_lists(self) -> list[str]:
        """Lists that `data` makes and `check` reads again: compared and drawn ones."""
        train, test = self.compared_lists()
        return sorted({*train, *test, *self.drawn_lists()})

    def folder_lists(self) -> list[str]:
        """Lists in use whose files are not embedded or drawn: the page tells what is odd about them."""
        return self.not_embedded(self.used_lists())

    def not_embedded(self, lists: Iterable[str]) -> list[str]:
        """Those of some lists whose files are in a folder of the user's, each once, in order."""
        return [name for name in dict.fromkeys(lists) if not self.dataset_of(name).embedded]

    def leak_tests(self) -> list[str]:
        """Test lists whose images `leakage: remove` keeps out of training, those of fresh seeds included."""
        tests = {test.pairs for test in self.project.tests.values()}
        for seed in {*self.project.seeds, *self.project.recognition.fresh_seeds}:
            try:
                tests |= set(self.recognition_lists(seed))
            except AirpipeError:  # a seed without data: told where a job of that seed is planned
                continue
        named = self.project.leakage.against
        return list(named or [name for name in sorted(tests) if not self.dataset_of(name).drawn])

    def packed(self, pairs: str) -> bool:
        """Whether a stage that trains on a list wants it packed; stages that cannot be planned want nothing."""
        tasks = {
            runs_as(settings.task)
            for settings in self.stages_in_use(of="")
            if any(part.pairs == pairs for part in settings.data)
        }
        return any(self.project.compute_for(task).pack for task in tasks)

    # Data sets

    def dataset(self, name: str) -> DatasetSettings:
        """The registry's entry of a data set; AirpipeError for an unknown one."""
        if name not in self.project.datasets:
            raise AirpipeError(unknown_name(name, self.project.datasets, "data set"))
        return self.project.datasets[name]

    def dataset_of(self, pairs: str) -> DatasetSettings:
        """The registry's entry of a pair list's data set."""
        return self.dataset(pairs.split(".")[0])

    def split_entry(self, pairs: str) -> DatasetSettings:
        """Entry of a data set, cut to the split of a pair list, without words, root and sources.

        Raises:
            AirpipeError: unknown data set or split.
        """
        name, split = pairs.removesuffix(NOLEAK).split(".")
        entry = self.dataset(name)
        splits = sorted({file.split for file in entry.packages} or entry.splits)
        if split not in splits:
            raise AirpipeError(f"data set {name}: {unknown_name(split, splits, 'split')}")
        if entry.packages:
            return DatasetSettings(title="", packages=tuple(file for file in entry.packages if file.split == split))
        chosen = entry.splits[split]
        update: dict[str, Any] = {
            "layouts": tuple(layout.model_copy(update={"read_in": ""}) for layout in chosen.layouts)
        }
        if chosen.name_list:  # the file is an input; where it lies changes nothing
            update["name_list"] = chosen.name_list.model_copy(update={"file": ""})
        return DatasetSettings(title="", splits={split: chosen.model_copy(update=update)})

    def pairs_entry(self, pairs: str) -> DatasetSettings:
        """What a pair list depends on: another expectation changes no pair."""
        entry = self.split_entry(pairs)
        plain: dict[str, Any] = {"expected": None, "sizes": {}, "input_psnr": None, "strict": False}
        splits = {name: split.model_copy(update=plain) for name, split in entry.splits.items()}
        return entry.model_copy(update={"splits": splits})

    def list_file(self, pairs: str) -> str | None:
        """File of the split's name list on this machine, if it has one."""
        name, split = pairs.removesuffix(NOLEAK).split(".")
        return self.project.list_file(name, split) if self.split_entry(pairs).splits else None

    def source_entry(self, name: str) -> DatasetSettings:
        """How a data set comes here; where its folder lies changes nothing."""
        return self.dataset(name).model_copy(update={"root": None})

    def made(self, name: str) -> Made:
        """How a data set is made here.

        Raises:
            AirpipeError: it is unknown, or not made here.
        """
        found = self.project.datasets[name].made if name in self.project.datasets else None
        if found is None:
            known = [name for name, entry in self.project.datasets.items() if entry.made]
            raise AirpipeError(unknown_name(name, known, "made data set"))
        return found

    def made_from(self, name: str) -> str | None:
        """The data set that a made one is cut out of, if it is."""
        return getattr(self.made(name), "dataset", None)

    def made_sets(self) -> list[str]:
        """Made data sets in use."""
        names = {name.split(".")[0] for name in self.used_lists()}
        return [name for name in sorted(names) if self.project.datasets[name].made]

    # Tests

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

    # Studies

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
            seeds: of the runs.
            of: the method whose enhancers are meant; empty: all.
        """
        models = [model for model in self.project.recognition.models if of in ("", _parsed(model).method)]
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
        """What the tables say of each set of detections."""
        texts = {"recogniser", "degradation", "level"}
        return {name: entry.model_dump(include=texts) for name, entry in self.project.recognition.detections.items()}

    def abouts(self) -> dict[str, str]:
        """What the configuration says about each enhancer's setting."""
        names = sorted(
            {ModelName(n.method, n.setting) for n in map(_parsed, self.project.recognition.models) if not n.imported},
            key=str,
        )
        return {str(name): self.setting(name).about for name in names}

    def branches(self) -> dict[str, list[str]]:
        """Names of the branches of each enhancer that has some, in the order of its guidance maps."""
        models = trained(self.model_ids(self.project.recognition.models))
        found = {
            model: list(getattr(self.stage_settings(ModelId.parse(model).folder), "branches", ())) for model in models
        }
        return {model: names for model, names in found.items() if names}

    # For the rules

    def operations(self) -> dict[str, Recipe]:
        """All degradations by the key that names them, to be checked."""
        recognition = self.recognition_job(0).tests
        return {
            **{f"recipes.{name}": operations for name, operations in self.project.recipes.items()},
            **{f"tests.{name}": self.project.test(name).operations for name in self.project.tests},
            **{f"features.classes.{name}": entry.operations for name, entry in self.features().classes.items()},
            **{f"recognition.tests.{name}": entry.operations for name, entry in recognition.items()},
        }

    @cached_property
    def _freezers(self) -> dict[str, Callable[[str], Settings]]:
        return {
            "tests": self.test_job,
            "splits": self.split_entry,
            "pairs": self.pairs_entry,
            "sources": self.source_entry,
            "made": self.made,
            "studies": lambda _: self.features(),
            "recognition": lambda seed: self.recognition_job(int(seed.removeprefix("seed"))),
        }

    def frozen(self, kind: str, name: str) -> list[str]:
        """Lines of the file in which settings are handed to a script.

        Args:
            kind: tests, splits, pairs, sources, made, studies (features) or recognition.
            name: of the test, pair list, data set or seed.
        """
        lines: list[str] = self._once((kind, name), lambda: frozen_lines(self._freezers[kind](name)))
        return lines

    def frozen_stage(self, model: str) -> list[str]:
        """Lines of the config.yaml of a stage."""
        lines: list[str] = self._once(("config", model), lambda: frozen_lines(self.stage_settings(model)))
        return lines


def frozen_lines(settings: Settings) -> list[str]:
    """Settings as lines of YAML, under a line with their hash; mappings are sorted by their keys."""
    values = json.loads(canonical_json(settings))
    plain = type(settings).model_validate(values).model_dump(mode="json", exclude_none=True)
    text = yaml.dump(plain, Dumper=DUMPER, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
    return [f"# frozen by airpipe; settings hash {settings_hash(settings)}", *text.rstrip("\n").split("\n")]


def trained(models: Iterable[str]) -> list[str]:
    """Those of some model ids that stages of this project train."""
    return [model for model in models if ModelId.parse(model).trained]


def _parsed(name: str) -> ModelName:
    try:
        return ModelName.parse(name)
    except ValueError as error:
        raise AirpipeError(str(error)) from None


# What a stage asks of the machine


def launcher(compute: ComputeSettings) -> str:
    """The command that starts a training: python, torchrun for several GPUs, srun for several nodes."""
    if compute.nodes > 1:
        per_node = max(compute.gpu, 1)
        shape = f"-n {compute.nodes * per_node} --ntasks-per-node {per_node} -c {compute.threads}"
        return f"srun --kill-on-bad-exit=1 {shape} python"
    if compute.gpu > 1:
        return f"torchrun --standalone --nproc-per-node {compute.gpu}"
    return "python"


def asked_of_scheduler(compute: ComputeSettings) -> dict[str, int | str]:
    """Resources of a training job, as Snakemake and its executor for clusters name them."""
    asked: dict[str, int | str] = {"mem_mb": compute.mem_mb, "runtime": compute.runtime}
    if compute.nodes > 1:  # the executor plugin reads `gpu` as the job's total; `gres` counts per node
        asked |= {"nodes": compute.nodes, "tasks": compute.nodes * max(compute.gpu, 1), "mpi": "srun"}
        if compute.gpu:
            asked |= {"gres": f"gpu:{compute.gpu}", "tasks_per_gpu": 0}
    elif compute.gpu:
        asked["gpu"] = compute.gpu
    return asked
