"""Choose the variant of a model that fits a budget: the deepest one whose cost on this machine does.

Source: ours. A cost is that of one megapixel (10^6 pixels) in one pass of the network, measured or counted with an
image of `SIDE` pixels a side, as in the table of efficiency. What tiles show twice and a self-ensemble come on top.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from airpipe.errors import AirpipeError
from airpipe.evaluation.memory import peak_memory_mb
from airpipe.models.cost import latency_ms, network_cost
from airpipe.registry import build_network
from airpipe.weights.checkpoints import LoadedModel, load_model, split_variant, variants_of

SIDE = 256
"""Side in pixels of the image that costs are measured with."""
PASSES = 3
"""Timed passes, of which the median counts; two more come before them."""
UNITS = {"s": 1.0, "MB": 1e6, "GB": 1e9, "GMAC": 1e9, "TMAC": 1e12}
"""Units of budgets, in seconds, bytes or multiply-accumulates."""


@dataclass(frozen=True)
class Budget:
    """What one megapixel may cost.

    >>> str(Budget.parse("1.5s"))
    '1.5 s per megapixel'
    """

    amount: float
    unit: str
    """One of `UNITS`."""

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read a number with its unit.

        Raises:
            AirpipeError: another form, or a number that is not above 0.
        """
        found = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?([A-Za-z]+)", text) if isinstance(text, str) else None
        if found is None or found[2] not in UNITS or float(found[1]) == 0:
            raise AirpipeError(
                f"{text!r} is no budget. Expected what a megapixel may cost: a number above 0 with one of "
                f"{', '.join(UNITS)}, such as 2s, 1.5GB or 800GMAC"
            )
        return cls(float(found[1]), found[2])

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit} per megapixel"


def choose_variant(path: Path, budget: Budget, device: torch.device) -> tuple[str, float]:
    """Find the variant with the most multiply-accumulates among those that a megapixel may cost.

    Variants are measured from the deepest on until one fits: seconds with a few passes, memory with one (on a CPU in a
    fresh process), both with random weights.

    Args:
        path: a model that `load_model` takes, without a variant.
        budget: what a megapixel may cost.
        device: where the model is to run.

    Returns:
        Name of the variant, and its cost of a megapixel in the unit of the budget.

    Raises:
        AirpipeError: the model has no variants, or one is named already; none fits: names the cheapest and its cost.
    """
    place, named = split_variant(path)
    if named:
        raise AirpipeError(f"{place}: variant {named!r} and a budget of {budget}, which chooses one. Give one of them")
    networks = variants_of(place)
    if not networks:
        raise AirpipeError(f"{place}: has no variants that a budget could choose from. Leave the budget out")
    depth = {name: network_cost(**network)["macs"] for name, network in networks.items()}
    costs = {}
    for name in sorted(networks, key=lambda name: -depth[name]):
        costs[name] = megapixel_cost(networks[name], budget.unit, device)
        if costs[name] <= budget.amount:
            return name, costs[name]
    cheapest = min(costs, key=lambda name: costs[name])
    raise AirpipeError(
        f"{place}: no variant fits a budget of {budget}. The cheapest, {cheapest}, takes {costs[cheapest]:.4g} "
        f"{budget.unit} per megapixel on {device}: allow more than that"
    )


def megapixel_cost(network: Mapping[str, Any], unit: str, device: torch.device) -> float:
    """Measure what one megapixel costs a network.

    Args:
        network: `name` and `arguments` of a registered network.
        unit: one of `UNITS`.
        device: where it runs.
    """
    name, arguments = network["name"], network["arguments"]
    if unit == "s":
        found = latency_ms(build_network(name, **arguments), device, SIDE, PASSES) / 1000
    elif unit in ("MB", "GB"):
        found = 1e6 * peak_memory_mb(name, arguments, device, SIDE)
    else:
        found = network_cost(name, arguments)["macs"]
    return 1e6 / SIDE**2 * found / UNITS[unit]


def fitting_model(model: object, budget: str, device: torch.device) -> LoadedModel:
    """Load the variant of a model that fits a budget, see `choose_variant`.

    Raises:
        AirpipeError: the model is no path, or the budget is of another form; see also `choose_variant`.
    """
    if not isinstance(model, str | os.PathLike):
        raise AirpipeError(
            f"a budget chooses among the variants of a file, found a {type(model).__name__}. Give the model's path"
        )
    return load_model(Path(model), choose_variant(Path(model), Budget.parse(budget), device)[0])
