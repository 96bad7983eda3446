"""Which registered network a file that holds none of them is nearest to, and what in it does not fit."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch

from airpipe.errors import AirpipeError
from airpipe.models.contract import Network, Shapes
from airpipe.registry import build_network, network_class, networks

ALIKE = 0.5
"""Least share of common kinds of names, of all kinds in file and network, with which a network counts as near."""


@dataclass(frozen=True)
class Near:
    """The nearest network of a state, and how near it is."""

    name: str
    """Its registered name."""
    share: float
    """Common kinds of names over all kinds in file and network, 0 to 1."""
    fitting: int
    """Number of entries whose names are of kinds that the network has."""
    odd: tuple[str, ...]
    """Names in the file that are of no such kind."""
    lacking: tuple[str, ...]
    """Kinds of names that only the network has, numbers as *."""
    arguments: dict[str, Any] | None
    """Constructor arguments that the entries tell if what is odd is left out and what is lacking is there."""


def nearest(shapes: Shapes) -> Near | None:
    """Find the registered network whose names are most like those of a state.

    Names are compared by their kinds, that is with * for every number, so that the number of blocks plays no role.

    Args:
        shapes: shape of each entry, by its published name without prefix.

    Returns:
        The nearest one; None where all have less than `ALIKE` in common with the state.
    """
    compared = (_compared(name, shapes) for name in networks())
    found = max((near for near in compared if near is not None), key=lambda near: near.share, default=None)
    return found if found is not None and found.share >= ALIKE else None


def _compared(name: str, shapes: Shapes) -> Near | None:
    example = _example(name)
    if not example:
        return None
    network = cast(type[Network], network_class(name))
    own = {key: _own_name(network, key) for key in shapes}
    known = {_kind(key) for key in example}
    kinds = {key: _kind(own_key) for key, own_key in own.items() if own_key is not None}
    odd = {key: None for key, kind in kinds.items() if kind not in known}  # in order
    there = set(kinds.values())
    lacking = known - there
    completed = {key: shape for key, shape in shapes.items() if key not in odd}
    completed |= {key: shape for key, shape in example.items() if _kind(key) in lacking}
    share = len(known & there) / len(known | there)
    arguments = _arguments(network, completed) if share >= ALIKE else None
    return Near(name, share, len(shapes) - len(odd), tuple(odd), tuple(sorted(lacking)), arguments)


def _arguments(network: type[Network], shapes: Shapes) -> dict[str, Any] | None:
    try:
        return network.arguments_from(shapes)
    except (LookupError, ValueError, TypeError, ArithmeticError):  # arrays of other rank
        return None


def _own_name(network: type[Network], key: str) -> str | None:
    """The name in a network of the usual options; some need an instance to tell."""
    rename = inspect.getattr_static(network, "published_key")
    return cast(str | None, rename(key)) if isinstance(rename, staticmethod) else key


def _kind(key: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", key)


@cache
def _example(name: str) -> Mapping[str, tuple[int, ...]]:
    """Shapes of a small network of this kind: its defaults, with ones in every list; empty where that makes none."""
    values: dict[str, Any] = {}
    for argument, parameter in inspect.signature(network_class(name)).parameters.items():
        if parameter.default is parameter.empty:
            return {}
        if isinstance(parameter.default, Sequence) and not isinstance(parameter.default, str):
            values[argument] = [1] * max(len(parameter.default), 1)
    try:
        with torch.device("meta"):
            return {key: tuple(value.shape) for key, value in build_network(name, **values).state_dict().items()}
    except AirpipeError:
        return {}


def first_of(names: Iterable[str], count: int = 3) -> str:
    """Return the first names, and whether there are more."""
    listed = list(names)
    return ", ".join(name[:80] for name in listed[:count]) + (", ..." if len(listed) > count else "")
