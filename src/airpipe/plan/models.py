"""Which models a configuration names, and the settings and parents of the stages that train them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from airpipe.errors import AirpipeError
from airpipe.registry import METHODS, method, settings_class, stage_entry
from airpipe.settings.base import unknown_name
from airpipe.settings.freezing import frozen_stage
from airpipe.settings.names import NONE, ModelId, ModelName
from airpipe.settings.project import ProjectSettings, SettingPlan
from airpipe.settings.stages import StageSettings


def _there(*_: str) -> bool:
    return True


@dataclass(frozen=True)
class Machine:
    """Facts that only the machine knows; everything is there unless told otherwise."""

    model: Callable[[str], bool] = _there
    """Whether the file of an imported model is there, by its id."""
    split: Callable[[str, str], bool] = _there
    """Whether the folder of a data set (`root`) holds images of a split."""


@dataclass(frozen=True)
class Models:
    """Answers about the models of a project. Every answer is computed once."""

    project: ProjectSettings
    machine: Machine = Machine()
    _known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def _once(self, key: Any, answer: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = answer()
        return self._known[key]

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
        for name in map(model_name, names):
            runs = (0,) if name.imported else self.project.seeds if seeds is None else seeds
            ids += [self._checked(name.of_seed(seed, self.evaluated(name))) for seed in runs]
        return ids

    def _checked(self, model: ModelId) -> str:
        """Return the id of a model after a check: an imported file is there, and a stage has the variant it names."""
        if model.variant and model.trained:
            variants = self.stage_settings(model.folder).variants
            if model.variant not in variants:
                raise AirpipeError(f"{model}: " + unknown_name(model.variant, variants, "variant"))
        return self.there(str(model))

    def there(self, model: str) -> str:
        """Return the same id after a check: an imported model, which no rule makes, must be there.

        Raises:
            AirpipeError: it is not there; says how to import it.
        """
        found = ModelId.parse(model)
        if not found.trained and model != NONE and not self.machine.model(found.folder):
            hints = [method(name).files[found.folder] for name in METHODS if found.folder in method(name).files]
            what = f" (FILE: {hints[0]})" if hints else ""
            raise AirpipeError(
                f"results/{found.folder} is not there: "
                f"python scripts/import_weights.py FILE --name {found.setting}{what}"
            )
        return model

    def chosen_models(self) -> list[str]:
        """Ids of the models that the configuration chooses under `models`."""
        return self.model_ids(self.project.models)

    def table_models(self, table: str) -> list[str]:
        """Ids of the models in a table."""
        return [model for models, _ in self.table_groups(table) for model in models]

    def table_groups(self, table: str) -> list[tuple[list[str], tuple[str, ...]]]:
        """Ids of the models of each group of a table, and the tests that they are scored on.

        Raises:
            AirpipeError: a model that takes a reference is to be scored on a test without one, or the other way round.
        """
        found: list[tuple[list[str], tuple[str, ...]]] = self._once(("table", table), lambda: self._groups(table))
        return found

    def _groups(self, table: str) -> list[tuple[list[str], tuple[str, ...]]]:
        settings = self.project.tables[table]
        groups = settings.compared(self.project.models if settings.models is None else ())
        found = [(self.model_ids(group.models), group.tests or ()) for group in groups]
        for models, tests in found:
            for model in trained(models):
                self._check_tests(table, ModelId.parse(model), tests)
        return found

    def table_tests(self, table: str, model: str) -> tuple[str, ...]:
        """Tests of a table that a model is scored on; no restoration is scored on all."""
        groups = [] if model == NONE else self.table_groups(table)
        return next((tests for models, tests in groups if model in models), self.project.tables[table].tests)

    def _check_tests(self, table: str, model: ModelId, tests: Iterable[str]) -> None:
        """Check that tests show references to a model exactly if it takes one."""
        takes = stage_entry(self.setting(model.name).stages[model.stage].task).takes_reference
        for test in tests:
            shows = self.project.tests[test].transfers
            if takes and not shows:
                raise AirpipeError(
                    f"table {table}: {model.name} takes a reference beside the image, and test {test} has none. Name "
                    "the model only in tables or groups whose tests have a target_recipe (tables.<name>.models)"
                )
            if shows and not takes:
                raise AirpipeError(
                    f"table {table}: {model.name} takes no reference, and test {test} asks to transfer what one shows "
                    f"(target_recipe). Name models that take one in tables.{table}.models"
                )

    def evaluations(self, *tables: str) -> list[tuple[str, str]]:
        """Table and model id of every evaluation of tables: no restoration, then their models."""
        return [(table, model) for table in tables for model in dict.fromkeys([NONE, *self.table_models(table)])]

    def shown_models(self) -> list[str]:
        """Ids of the chosen models and of those in the tables."""
        tables = (model for table in self.project.tables for model in self.table_models(table))
        return list(dict.fromkeys([*self.chosen_models(), *tables]))

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

    def mix(self, model: str) -> list[str]:
        """Pair lists that a stage trains on, each once, in order."""
        return list(dict.fromkeys(part.pairs for part in self.stage_settings(model).data))

    def validation(self, model: str) -> list[str]:
        """Pair lists that a stage is validated on, each once, in order."""
        return list(dict.fromkeys(part.pairs for part in self.stage_settings(model).validation.data))


def trained(models: Iterable[str]) -> list[str]:
    """Keep those model ids whose models are trained by stages of this project."""
    return [model for model in models if ModelId.parse(model).trained]


def model_name(name: str) -> ModelName:
    """Read how a configuration names a model; AirpipeError for another form."""
    try:
        return ModelName.parse(name)
    except ValueError as error:
        raise AirpipeError(str(error)) from None
