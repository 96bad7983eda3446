"""How mappings of config/ are merged, and how an entry follows another one (`like`).

This module imports no torch: Snakemake reads it at every start.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airpipe.settings import Json, unknown_name


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; lists and scalars are replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def merge_patch(base: Mapping[str, Any], over: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """`deep_merge` in which null takes an inherited key away (the rule of JSON merge patch, RFC 7396).

    Args:
        base: what is inherited.
        over: what is said instead.
        where: path of `over` for messages, ending with a dot.

    Raises:
        ValueError: null for a key that is not inherited.
    """
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            if key not in base:
                found = unknown_name(key, base, "inherited key")
                raise ValueError(f"{where}{key} is null, which takes an inherited key away; {found}")
            del merged[key]
        elif isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            merged[key] = merge_patch(base[key], value, f"{where}{key}.")
        else:
            merged[key] = value
    return merged


@dataclass(frozen=True)
class Inheritance:
    """How entries of one kind follow the entry that their `like` names."""

    kind: str
    """Singular, for messages."""
    where: str
    """Key of the entries, for messages."""
    has: str
    """What an entry holds, for messages."""
    merge: Callable[[Mapping[str, Any], Mapping[str, Any], str], dict[str, Any]]
    own: tuple[str, ...] = ()
    """Keys that are never inherited."""


DATASETS = Inheritance(
    "data set", "datasets", "title and splits", lambda base, over, _: deep_merge(base, over), ("root",)
)
"""Another copy of a known data set; null stays what it means in an entry."""
SETTINGS = Inheritance("setting", "settings", "stages", merge_patch, ("about",))
"""A setting that differs in a few values; null takes an inherited scale, parent or value away."""


def inherited(entries: Mapping[str, Mapping[str, Json]], how: Inheritance = DATASETS) -> dict[str, dict[str, Json]]:
    """Entries with `like: <id>` filled in from the entry that they name, mappings key by key, lists as a whole.

    Raises:
        ValueError: `like` names no entry, entries name each other, an entry is no mapping, or (settings)
            null takes away what is not there.
    """

    def resolve(name: str, seen: tuple[str, ...]) -> dict[str, Json]:
        if not isinstance(entries[name], Mapping):
            raise ValueError(f"{how.where}.{name}: expected a mapping with {how.has}, found {entries[name]!r}")
        entry = dict(entries[name])
        model = entry.pop("like", None)
        if model is None:
            return entry
        if not isinstance(model, str) or model not in entries:
            raise ValueError(f"{how.where}.{name}.like: " + unknown_name(str(model), entries, how.kind))
        if model in seen:
            raise ValueError(f"{how.where}.{name}.like: {' -> '.join((*seen, model))} goes round in a circle")
        source = {key: value for key, value in resolve(model, (*seen, model)).items() if key not in how.own}
        return how.merge(source, entry, f"{how.where}.{name}.")

    return {name: resolve(name, (name,)) for name in entries}
