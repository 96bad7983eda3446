"""How a stage's settings are frozen: at one scale and seed, with recipes, lists and parents written out.

This module imports no torch: Snakemake reads it at every start.
"""

from collections.abc import Mapping
from typing import Any

from airpipe.errors import AirpipeError
from airpipe.settings.base import check_settings, shown, unknown_name
from airpipe.settings.datasets import of_seed
from airpipe.settings.merging import over_common, plain
from airpipe.settings.names import NOLEAK, ModelName
from airpipe.settings.project import ProjectSettings, StagePlan
from airpipe.settings.stages import StageSettings


def without_leaks(project: ProjectSettings, pairs: str) -> str:
    """Id of the same pair list without images of the tests; an embedded or curated list stays: it shows none."""
    entry = project.datasets[pairs.split(".")[0]]
    return pairs if entry.embedded or entry.curated or pairs.endswith(NOLEAK) else f"{pairs}{NOLEAK}"


def parent_id(project: ProjectSettings, model: str, seed: int, stage: str, parent: str) -> str:
    """Model id of a stage's parent from how a configuration names it.

    Args:
        project: the merged configuration.
        model: "method/setting" of the stage.
        seed: seed of the stage; its parents were trained with the same one.
        stage: stage of `model` whose parent is meant.
        parent: another stage of `model`, "method/setting/stage" of another one, or "imported/<name>".

    Raises:
        AirpipeError: no such stage, or one that starts from this one.
    """
    where = f"{model}, stage {stage}, parents"
    try:
        name = ModelName.parse(parent if "/" in parent else f"{model}/{parent}")
    except ValueError:
        name = None
    if name is None or name.variant or not (name.stage or name.imported):
        raise AirpipeError(
            f"{where}: {shown(parent)} is not of the form stage (of the same setting), method/setting/stage or "
            "imported/name"
        )
    if name.imported:
        return parent
    try:
        plan = project.setting_plan(name.of_setting)
    except ValueError as error:
        raise AirpipeError(f"{where}: {error}") from None
    others = [other for other in plan.stages if (name.of_setting, other) != (model, stage)]
    if name.stage not in others:
        raise AirpipeError(f"{where}: " + unknown_name(name.stage, others, f"other stage of {name.of_setting}"))
    if name.of_setting == model and stage in plan.before(stage, project.scale):
        raise AirpipeError(f"{where}: {stage} starts from {parent}, which starts from {stage}; break the circle")
    return str(name.of_seed(seed))


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
        seed: seed of this run.
        stage: stage folder, for example "train".
        settings_class: settings class of the stage's task, from the registry.
        revision: revision of the stage's task, from the registry.

    Raises:
        AirpipeError: unknown names, a scale that this stage does not have, invalid values.
    """
    name, where = ModelName.parse(model), f"{model}, stage {stage}"
    plan = _stage_plan(project, model, stage)
    _check_nulls(plan, project.scale, settings_class, where)
    values = plain(over_common(plan.common, plan.scales[project.scale]))
    for part in [*values.get("data", ()), *values.get("validation", {}).get("data", ())]:
        _write_out(project, part, seed, where)
    if project.leakage.remove:
        for part in values.get("data", ()):
            part["pairs"] = without_leaks(project, part["pairs"])
    if isinstance(values.get("parents"), Mapping):
        named = values["parents"].items()
        values["parents"] = {role: parent_id(project, model, seed, stage, str(parent)) for role, parent in named}
    values |= {"task": plan.task, "revision": revision}
    values |= {"method": name.method, "setting": name.setting, "stage": stage}
    values |= {"scale": project.scale, "seed": seed}
    return check_settings(settings_class, values, f"{where}, scale {project.scale}")


def _stage_plan(project: ProjectSettings, model: str, stage: str) -> StagePlan:
    """The plan of a stage that has the project's scale."""
    stages = project.setting_plan(model).stages
    if stage not in stages:
        raise AirpipeError(unknown_name(stage, stages, f"stage of {model}"))
    plan = stages[stage]
    if project.scale not in plan.scales:
        raise AirpipeError(
            f"{model}, stage {stage}: no scale {project.scale!r}; it has {', '.join(sorted(plan.scales))}. "
            f"Choose one of them (scale: ...) or add {project.scale!r} to config/methods/{model.split('/')[0]}.yaml"
        )
    return plan


def _check_nulls(plan: StagePlan, scale: str, settings_class: type[StageSettings], where: str) -> None:
    """Refuse a null for what is no setting of the stage: it takes nothing away, and would be lost."""
    for key, value in [*plan.common.items(), *plan.scales[scale].items()]:
        if value is None and key not in settings_class.model_fields:
            found = unknown_name(key, settings_class.model_fields, "setting")
            raise AirpipeError(f"{where}: {key} is null, which takes a setting away; {found}")


def _write_out(project: ProjectSettings, part: dict[str, Any], seed: int, where: str) -> None:
    """Fill in the seed of a data part's pair list and what its recipes say."""
    part["pairs"] = of_seed(str(part.get("pairs", "")), seed, project.datasets, where)
    for key, written in (("recipe", "operations"), ("target_recipe", "target_operations")):
        recipe = part.get(key)
        if recipe is None:
            continue
        if recipe not in project.recipes:
            raise AirpipeError(f"{where}: " + unknown_name(recipe, project.recipes, "recipe"))
        part[written] = project.recipes[recipe].model_dump(mode="json", exclude_none=True)
