"""Checks that all that the recognition tests name is there and can do what is asked of it.

This module imports no torch: Snakemake reads it at every start.
"""

import re
from collections.abc import Callable, Collection, Mapping

from airpipe.recognition_settings import RecognitionSettings
from airpipe.seeds import fitting
from airpipe.settings import SEED, unknown_name

MODEL = r"[a-z0-9_]+/[a-z0-9_]+|(?!imported/)[a-z0-9_]+(/[a-z0-9_]+){2}"
RECOGNISER = r"imported/[a-z0-9_]+|(?!imported/)[a-z0-9_]+(/[a-z0-9_]+){2}"
RECOGNISING = ("vrdir.recogniser",)
"""Stages that train recognisers; all others train something else."""
TABLES = ("recognition", "restoration", "recognition_seeds", "restoration_seeds")


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
        seeds: of all runs.
        recipes: names of recipes.
        datasets: names of their splits, by data set.
        tables: names of the other tables.
        task: of method/setting[/stage], given with what names it; raises ValueError where it does not exist.

    Raises:
        ValueError: says what is nearest, or what to name instead.
    """
    if not settings.models:
        return
    if taken := sorted(set(TABLES) & set(tables)):
        raise ValueError(f"tables: the name {taken[0]!r} belongs to the recognition tests; call the table otherwise")
    _check_models(settings, task)
    for name, test in settings.tests.items():
        where = f"recognition, test {name}"
        if test.recipe is not None and test.recipe not in recipes:
            raise ValueError(unknown_name(test.recipe, recipes, f"recipe in {where}"))
        for pairs in test.lists():
            _check_list(pairs, seeds, datasets, where)


def _check_list(pairs: str, seeds: Collection[int], datasets: Mapping[str, Collection[str]], where: str) -> None:
    dataset, split = pairs.removesuffix("_noleak").split(".")
    in_use = {dataset.replace(SEED, str(seed)) for seed in seeds}
    found = sorted(in_use & set(datasets)) or fitting(dataset, datasets)
    if not found:
        raise ValueError(unknown_name(dataset, datasets, f"data set in {where}"))
    for name in found:
        if split not in datasets[name]:
            raise ValueError(unknown_name(split, datasets[name], f"split of {name} in {where}"))


def _check_models(settings: RecognitionSettings, task: Callable[[str, str], str]) -> None:
    for model in settings.models:
        expected = "method/setting, method/setting/stage or imported/name"
        if _task(model, MODEL, "recognition", expected, task) in RECOGNISING:
            raise ValueError(
                f"recognition, models: {model} tells classes apart and restores nothing; name it in "
                "recognition.recognisers, or another stage here"
            )
    for name, model in settings.recognisers.items():
        where = f"recognition, recogniser {name}"
        found = _task(model, RECOGNISER, where, "method/setting/stage or imported/name", task)
        if found not in (*RECOGNISING, None):
            raise ValueError(
                f"{where}: {model} ({found}) tells no classes apart; name a stage of {' or '.join(RECOGNISING)}, "
                "or imported/name"
            )


def _task(model: str, form: str, where: str, expected: str, task: Callable[[str, str], str]) -> str | None:
    """Task of a model; None of an imported one."""
    if not re.fullmatch(form, model):
        raise ValueError(f"{where}: {model!r} is not {expected}")
    return None if model.startswith("imported/") else task(model, where)
