"""How mappings of config/ are merged, how an entry follows another one (`like`), and what null means.

Null has one meaning: it takes a key away. In an overlay that is a key of what the overlay is laid over (Snakemake
merges overlays and leaves the nulls in), in an entry with `like` an inherited key. After `settled` there are no nulls:
a key that is absent has its default.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from airpipe.settings.base import SHOWN, Json, Settings, shown, unknown_name
from airpipe.settings.datasets import SHORTHAND

DEEPEST = 50
"""Levels that a configuration may have."""


def plain(value: Any, where: str = "", depth: int = 0) -> Any:
    """A new copy with ordered or frozen mappings as plain dicts, and sequences as lists.

    Args:
        value: as read from YAML.
        where: its path, for messages.
        depth: levels above it.

    Raises:
        ValueError: a date or another value that JSON has not, or more than `DEEPEST` levels.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if depth > DEEPEST:
        raise ValueError(f"{where[:SHOWN]}...: expected at most {DEEPEST} levels, found more; take some out")
    above = f"{where}." if where else ""
    if isinstance(value, Mapping):
        return {str(key): plain(one, f"{above}{str(key)[:SHOWN]}", depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, f"{above}{number}", depth + 1) for number, one in enumerate(value)]
    raise ValueError(
        f"{where}: expected text, a number, a list or a mapping, found the {type(value).__name__} {shown(str(value))}; "
        "put it into quotes if text is meant"
    )


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; lists and scalars are replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def without_nulls(values: Any) -> Any:
    """The same dicts and lists without the keys whose value is null, at any depth; an item of a list may be null."""
    if isinstance(values, dict):
        return {
            key: without_nulls(value) if isinstance(value, dict | list) else value  # fewer calls: it is a large tree
            for key, value in values.items()
            if value is not None
        }
    return [without_nulls(value) for value in values] if isinstance(values, list) else values


def merge_patch(base: Mapping[str, Any], over: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Merge like `deep_merge`, where null takes an inherited key away (as in JSON merge patch, RFC 7396).

    Args:
        base: what is inherited.
        over: what is said instead.
        where: path of `over` for messages, ending with a dot.

    Raises:
        ValueError: null for a key that is not inherited; says which inherited key is nearest.
    """
    merged = dict(base)
    for key, value in over.items():
        inherited_value = base.get(key)
        if value is None:
            if key not in base:
                found = unknown_name(key, base, "inherited key")
                raise ValueError(f"{where}{key} is null, which takes an inherited key away; {found}")
            del merged[key]
        elif isinstance(value, dict):
            known = inherited_value if isinstance(inherited_value, dict) else {}
            merged[key] = merge_patch(known, value, f"{where}{key}.")
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
    """Takes what is inherited, what is said instead, and the path of the latter for messages, ending with a dot."""
    own: tuple[str, ...] = ()
    """Keys that are never inherited."""
    clean: Callable[[Any], Any] = without_nulls
    """Takes the nulls out of an entry that follows none."""


def follow_setting(base: Mapping[str, Any], over: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Merge a setting over the one it follows; `scales` in `over` names the inherited scales (left out: all).

    Raises:
        ValueError: `scales` names one that is not there; a stage names another network than inherited scales do;
            or null for what is not inherited.
    """
    own = {key: value for key, value in over.items() if key != "scales"}
    if over.get("scales") is not None:
        base = _only_scales(base, over["scales"], where)
    changed = {name: stage for name, stage in _mapping(own, "stages").items() if isinstance(stage, Mapping)}
    apart = {name: {key: value for key, value in stage.items() if key != "scales"} for name, stage in changed.items()}
    merged = merge_patch(base, {**own, "stages": {**own["stages"], **apart}} if changed else own, where)
    for name, stage in changed.items():
        place, inherited_stage = f"{where}stages.{name}.", _mapping(_mapping(base, "stages"), name)
        common, scales = _mapping(merged["stages"][name], "common"), _mapping(inherited_stage, "scales")
        if "scales" in stage:
            merged["stages"][name]["scales"] = _follow_scales(scales, stage["scales"], common, f"{place}scales.")
        _check_network(stage, merged["stages"][name], place.removesuffix("."))
    return merged


def _follow_scales(base: Mapping[str, Any], over: Any, common: Mapping[str, Any], where: str) -> Any:
    """Merge the scales of a stage; null in one takes away what it inherits and what the stage's `common` says."""
    if not isinstance(over, Mapping):
        return over
    merged = dict(base)
    for scale, values in over.items():
        if isinstance(values, Mapping):
            merged[scale] = _follow_scale(_mapping(base, scale), values, common, f"{where}{scale}.")
        else:
            merged = merge_patch(merged, {scale: values}, where)
    return merged


def _follow_scale(
    base: Mapping[str, Any], over: Mapping[str, Any], common: Mapping[str, Any], where: str
) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            if key not in base and key not in common:
                found = unknown_name(key, {**base, **common}, "inherited key")
                raise ValueError(f"{where}{key} is null, which takes an inherited key away; {found}")
            merged.pop(key, None)
            if key in common:
                merged[key] = None  # goes on to `over_common`
        elif isinstance(value, Mapping):
            merged[key] = _follow_scale(_mapping(base, key), value, _mapping(common, key), f"{where}{key}.")
        else:
            merged[key] = value
    return merged


def over_common(common: Mapping[str, Any], scale: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a stage at a scale: those of the scale over common ones, which a null in the scale takes away."""
    merged = dict(without_nulls(dict(common)))
    for key, value in scale.items():
        old = common.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            merged[key] = over_common(old if isinstance(old, Mapping) else {}, value)
        else:
            merged[key] = without_nulls(value)
    return merged


def _mapping(values: Any, key: str) -> Mapping[str, Any]:
    """A mapping in a mapping; an empty one for what the settings classes will refuse."""
    found = values.get(key) if isinstance(values, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _only_scales(base: Mapping[str, Any], scales: Any, where: str) -> dict[str, Any]:
    if not isinstance(scales, list) or not all(isinstance(scale, str) for scale in scales):
        raise ValueError(f"{where}scales: expected a list of inherited scales, found {shown(scales)}")
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


def clean_setting(entry: Any) -> Any:
    """The same without nulls, but for those in values of a stage.

    In a scale they take away what `common` says; which are mistyped is known when the stage's settings class is.
    """
    cleaned = without_nulls(entry)
    for name, stage in _mapping(entry, "stages").items():
        if _mapping(stage, "common"):
            cleaned["stages"][name]["common"] = stage["common"]
        for scale, values in _mapping(stage, "scales").items():
            if values is not None:
                cleaned["stages"][name]["scales"][scale] = values
    return cleaned


DATASETS = Inheritance("data set", "datasets", "title and splits", merge_patch, ("root",))
"""How a data set follows another one: as another copy of it, in a folder of its own."""
SETTINGS = Inheritance("setting", "settings", "stages", follow_setting, ("about",), clean_setting)
"""How a setting follows another one of its method, from which it differs in a few values."""


def inherited(
    entries: Mapping[str, Mapping[str, Json]], how: Inheritance = DATASETS, above: str = ""
) -> dict[str, dict[str, Json]]:
    """Entries without nulls, those with `like: <id>` filled in from the entry that they name.

    Mappings are filled in key by key, lists are taken as a whole.

    Args:
        entries: data sets or settings by name; one that is null is not there.
        how: rules of this kind of entry.
        above: path above `entries` for messages, ending with a dot.

    Raises:
        ValueError: `like` names no entry, entries name each other, an entry is no mapping, or null takes away what
            is not inherited.
    """
    entries = {name: entry for name, entry in entries.items() if entry is not None}
    place = f"{above}{how.where}"

    done: dict[str, dict[str, Json]] = {}

    def resolve(name: str, seen: tuple[str, ...]) -> dict[str, Json]:
        if name not in done:
            done[name] = follow(name, seen)
        return done[name]

    def follow(name: str, seen: tuple[str, ...]) -> dict[str, Json]:
        if not isinstance(entries[name], Mapping):
            raise ValueError(f"{place}.{name}: expected a mapping with {how.has}, found {shown(entries[name])}")
        entry = dict(entries[name])
        model = entry.pop("like", None)
        if model is None:
            return cast(dict[str, Json], how.clean(entry))
        if not isinstance(model, str) or model not in entries:
            raise ValueError(f"{place}.{name}.like: " + unknown_name(str(model), entries, how.kind))
        if model in seen:
            raise ValueError(f"{place}.{name}.like: {' -> '.join((*seen, model))} goes round in a circle")
        source = {key: value for key, value in resolve(model, (*seen, model)).items() if key not in how.own}
        return how.merge(source, entry, f"{place}.{name}.")

    return {name: resolve(name, (name,)) for name in entries}


def settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """A merged configuration in which every `like` is followed and every null has taken its key away.

    Raises:
        ValueError: see `inherited`.
    """
    found: dict[str, Any] = {}
    for key, values in config.items():
        if key == "datasets" and isinstance(values, Mapping):
            found[key] = inherited(values, DATASETS)
        elif key == "methods" and isinstance(values, Mapping):
            found[key] = {name: _settled_method(name, method) for name, method in values.items() if method is not None}
        elif values is not None:
            found[key] = without_nulls(values)
    return found


def _settled_method(name: str, method: Any) -> Any:
    if not isinstance(method, Mapping) or not isinstance(method.get("settings"), Mapping):
        return without_nulls(method)
    others = {key: without_nulls(values) for key, values in method.items() if values is not None and key != "settings"}
    return {**others, "settings": inherited(method["settings"], SETTINGS, f"methods.{name}.")}


READ_BEFORE = frozenset({"like", "scales", *SHORTHAND})
"""Keys that are no fields of the settings classes, because they are rewritten before these are filled."""


def check_nulls(settings: Any, values: Mapping[str, Any], where: str = "") -> None:
    """Check that nulls in a configuration stand at keys that settings have.

    What a null takes away nobody else sees; a mistyped one would be lost. Names in mappings (of tests, tables, ...)
    may be absent: Snakemake's merged configuration does not tell what the null took away.

    Args:
        settings: what was made of `values`; a mapping where names are given by the user.
        values: as merged, nulls included.
        where: path of `values` for the message, ending with a dot.

    Raises:
        ValueError: says which key is nearest.
    """
    fields = type(settings).model_fields if isinstance(settings, Settings) else None
    for key, value in values.items():
        if value is None and fields is not None and key not in fields and key not in READ_BEFORE:
            raise ValueError(f"{where}{key} is null, which takes a key away; {unknown_name(key, fields, 'setting')}")
        if isinstance(value, dict):
            inner = settings.get(key) if fields is None else getattr(settings, key, None)
            if isinstance(inner, Settings | dict):
                check_nulls(inner, value, f"{where}{key}.")
