"""How mappings of config/ are merged, and how an entry follows another one (`like`).

This module imports no torch: Snakemake reads it at every start.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airpipe.settings.base import Json, unknown_name


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
    """Of what is inherited, what is said instead, and the path of the latter for messages, ending with a dot."""
    own: tuple[str, ...] = ()
    """Keys that are never inherited."""


def follow_setting(base: Mapping[str, Any], over: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`merge_patch` for settings: `scales` in `over` says which scales are inherited; all, where it is left out.

    Raises:
        ValueError: `scales` names one that is not there; a stage names another network than inherited scales do;
            or null for what is not inherited.
    """
    own = {key: value for key, value in over.items() if key != "scales"}
    if "scales" in over:
        base = _only_scales(base, over["scales"], where)
    merged = merge_patch(base, own, where)
    for name, stage in _mapping(own, "stages").items():
        if isinstance(stage, Mapping):
            _check_network(stage, merged["stages"][name], f"{where}stages.{name}")
    return merged


def _mapping(values: Any, key: str) -> Mapping[str, Any]:
    """A mapping in a mapping; an empty one for what the settings classes will refuse."""
    found = values.get(key) if isinstance(values, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _only_scales(base: Mapping[str, Any], scales: Any, where: str) -> dict[str, Any]:
    if not isinstance(scales, list):
        raise ValueError(f"{where}scales: expected a list of inherited scales, found {scales!r}")
    stages = _mapping(base, "stages")
    known = {scale for stage in stages.values() for scale in _mapping(stage, "scales")}
    for scale in scales:
        if scale not in known:
            raise ValueError(f"{where}scales: " + unknown_name(str(scale), known, "inherited scale"))

    def kept(stage: Mapping[str, Any]) -> dict[str, Any]:
        return {**stage, "scales": {name: one for name, one in _mapping(stage, "scales").items() if name in scales}}

    return {**base, "stages": {name: kept(stage) for name, stage in stages.items()}}


def _check_network(own: Mapping[str, Any], merged: Mapping[str, Any], where: str) -> None:
    """Refuse a stage that names its network and inherits scales of another one."""

    def network(values: Any) -> Any:
        return _mapping(values, "network").get("name")

    def networks(stage: Mapping[str, Any]) -> dict[str, Any]:
        return {scale: network(values) for scale, values in _mapping(stage, "scales").items()}

    wanted = {network(own.get("common")), *networks(own).values()} - {None}
    found = {scale: name or network(merged.get("common")) for scale, name in networks(merged).items()}
    others = {scale: name for scale, name in found.items() if name not in wanted}
    if wanted and others:
        fitting = ", ".join(scale for scale in found if scale not in others) or "..."
        raise ValueError(
            f"{where}: its network is {', '.join(sorted(map(str, wanted)))}, but it inherits "
            f"{', '.join(f'{name} at scale {scale}' for scale, name in others.items())}; "
            f"say which scales are inherited (beside like: scales: [{fitting}]) or name the network there"
        )


DATASETS = Inheritance(
    "data set", "datasets", "title and splits", lambda base, over, _: deep_merge(base, over), ("root",)
)
"""Another copy of a known data set; null stays what it means in an entry."""
SETTINGS = Inheritance("setting", "settings", "stages", follow_setting, ("about",))
"""A setting that differs in a few values: `scales` names inherited scales, null takes inherited keys away."""


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
