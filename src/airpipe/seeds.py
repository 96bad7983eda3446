"""Data sets that belong to a seed: `{seed}` in a pair list stands for the run's seed. This module imports no torch."""

import re
from collections.abc import Iterable, Mapping

from airpipe.datasets import DatasetSettings
from airpipe.errors import AirpipeError
from airpipe.settings import SEED, unknown_name


def fitting(dataset: str, datasets: Iterable[str]) -> list[str]:
    """Data sets whose name fits one with {seed}, sorted.

    >>> fitting("shapes{seed}", ["shapes1", "shapes0", "shapes_a", "photos"])
    ['shapes0', 'shapes1']
    """
    form = r"\d+".join(map(re.escape, dataset.split(SEED)))
    return sorted(name for name in datasets if re.fullmatch(form, name))


def of_seed(pairs: str, seed: int, datasets: Mapping[str, DatasetSettings], where: str) -> str:
    """A pair list with the run's seed in the place of {seed}.

    Args:
        pairs: data set dot split, as the configuration has it.
        seed: of the run.
        datasets: all there are.
        where: what asks, for the message.

    Raises:
        AirpipeError: there is no such data set; of a seed without one, how to add it.
    """
    found = pairs.replace(SEED, str(seed))
    form, dataset = pairs.split(".")[0], found.split(".")[0]
    if dataset in datasets:
        return found
    others = fitting(form, datasets) if SEED in form else []
    if not others:
        raise AirpipeError(f"{where}: " + unknown_name(dataset, datasets, "data set"))
    made = datasets[others[0]].made is not None
    entry = f"{dataset}: {{like: {others[0]}, made: {{seed: {seed}}}}}" if made else dataset
    raise AirpipeError(
        f"{where}: seed {seed} has no data set {dataset} ({form}). Add `{entry}` to datasets (in an overlay), or, "
        "where only the recognition tests want it, switch them off (recognition: {scales: []})"
    )
