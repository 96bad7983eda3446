"""How lists, data sets and models are called in a configuration."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

SEED = "{seed}"
"""Stands for the run's seed in pair lists of data parts; `frozen_stage` replaces it."""


def _of_no_seed(pairs: Any) -> Any:
    if isinstance(pairs, str) and SEED in pairs:
        raise ValueError(f"{SEED} has no meaning here: there is no run whose seed it is. Name one data set")
    return pairs


PairListId = Annotated[
    str,
    Field(pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$", description="data set dot split"),
    BeforeValidator(_of_no_seed),
]

SeededPairListId = Annotated[
    str,
    Field(
        pattern=r"^([a-z0-9_]|\{seed\})+\.[a-z0-9_]+$",
        description="data set dot split; {seed} in it stands for the run's seed",
    ),
]
