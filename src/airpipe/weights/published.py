"""Weights in the key layouts of published code: which network has them, what fits, what is left over."""

import inspect
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.models.contract import Form, Network, Shapes
from airpipe.registry import build_network, network_class, networks, resolve
from airpipe.settings.base import unknown_name
from airpipe.weights.containers import (
    C,
    Contained,
    choices,
    find_weights,
    joined,
    parts,
    shared_prefixes,
    without_prefix,
)
from airpipe.weights.foreign import Weights, read_weights
from airpipe.weights.nearest import Near, first_of, nearest
from airpipe.weights.trial import on_trial

log = logging.getLogger(__name__)

COUNTER = ".num_batches_tracked"
"""End of the name of a batch norm's counter: it changes no result, and files of old versions of torch lack it."""
MOST = 2500
"""Largest number of entries of which a network is made; published ones have up to 700, 2,500 take some 8 s."""
Others = tuple[str, ...]
"""Names of further networks that fit."""


@dataclass(frozen=True)
class KeyReport:
    """Report on how published entries fitted a network; names as published, missing ones as the network has them."""

    matched: dict[str, str]
    """Own name of each entry that fits, by its published name."""
    dropped: tuple[str, ...]
    """Entries left out knowingly: buffers that are computed, parameters that the published code never used."""
    missing: tuple[str, ...] = ()
    """Entries of the network that the file lacks."""
    unexpected: tuple[str, ...] = ()
    """Published entries that the network lacks."""

    def problems(self) -> list[str]:
        """Return a phrase for each kind of entries that does not fit: how many, and the first three names."""
        found = (("missing", self.missing), ("unexpected", self.unexpected))
        return [f"{len(names)} {what} (first {', '.join(names[:3])})" for what, names in found if names]

    def facts(self) -> dict[str, Any]:
        """Return the report for a card: the number of matches, and every other name."""
        names = {"dropped": self.dropped, "missing": self.missing, "unexpected": self.unexpected}
        return {"matched": len(self.matched), **{what: list(keys) for what, keys in names.items()}}


@dataclass(frozen=True)
class Published:
    """A network filled from a published file."""

    network: nn.Module
    """The filled network, on the CPU in float32."""
    name: str
    """Its registered name."""
    arguments: dict[str, Any]
    """Its constructor arguments."""
    weights: Weights
    """What was read from the file."""
    report: KeyReport
    """How the entries fitted."""
    dtypes: dict[str, int]
    """Number of tensors that were used, by their type in the file."""
    also: tuple[str, ...]
    """Other registered networks that the same names and shapes fit."""
    assumed: dict[str, Any]
    """Arguments that no shape tells, with the values that were taken."""
    form: Form | None = None
    """The published form that tells some of them, less what was said otherwise."""
    layout: str = ""
    """Which of the network's published layouts the names have."""
    first: "Published | None" = None
    """What the first file holds by itself, where further files made it part of a larger network."""
    parts: Mapping[str, "Published"] = field(default_factory=dict)
    """What the further files hold, by their roles, where all became one network."""

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        """Networks that the weights serve as well: name, and the arguments that differ."""
        return cast(type[Network], network_class(self.name)).published_variants

    def files(self) -> "list[Published]":
        """Return what each of the files holds, the first one first; this object where there is one file only."""
        return [self.first or self, *self.parts.values()]


def read_published(
    file: Path,
    name: str | None = None,
    key: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    partial: bool = False,
) -> Published:
    """Read a published file into the network that its names and shapes tell.

    Args:
        file: the published file, of torch or safetensors.
        name: registered network that it has to be; None: the first that fits.
        key: see `read_weights`.
        arguments: constructor arguments that shapes cannot tell, or tell wrongly.
        partial: whether to allow missing (they keep their seeded initial values) and unexpected entries.

    Returns:
        The filled network, and how the file fitted it.

    Raises:
        AirpipeError: as `read_weights`; or the file has another or no known network, an argument has the wrong
            type, entries do not fit, or numbers are not finite.
    """
    if name is not None and name not in networks():
        raise AirpipeError(unknown_name(name, networks(), "network"))
    weights, name, found, also = _identified(read_weights(file, key, _is_known), name, partial)
    shapes = _shapes(weights)
    form = form_of(name, shapes, arguments or {})
    found |= arguments or {}
    network = _on_trial(name, found, weights)
    fitting(network, weights.tensors, str(file), partial, arguments or {})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # what a partial file does not fill
        network = build_network(name, **found)
    report = fill(network, weights.tensors, str(file), partial)
    dtypes = Counter(str(weights.tensors[entry].dtype).removeprefix("torch.") for entry in report.matched)
    assumed = assumed_arguments(name, found) | dict(form.arguments if form else {})
    layout = cast(type[Network], network_class(name)).layout_of(shapes)
    return Published(network, name, found, weights, report, dict(dtypes), also, assumed, form, layout)


def _on_trial(name: str, arguments: Mapping[str, Any], weights: Weights) -> nn.Module:
    """The network without memory for weights, see `on_trial`, unless the file has more entries than `MOST`."""
    count = len(weights.tensors)
    if count > MOST:
        raise AirpipeError(f"{weights.file}: {count:,} entries of a {name}: too many. Expected at most {MOST:,}")
    return on_trial(name, arguments, count)


def form_of(name: str, shapes: Shapes, arguments: Mapping[str, Any]) -> Form | None:
    """Return the published form that a state has as this network, less the arguments that are given otherwise."""
    form = cast(type[Network], network_class(name)).published_form(shapes)
    kept = {key: value for key, value in form.arguments.items() if key not in arguments} if form else {}
    return replace(form, arguments=kept) if form and kept else None


def assumed_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values used for the arguments that no shape tells: those given, else the constructor's defaults."""
    network = cast(type[Network], network_class(name))
    known = inspect.signature(network).parameters
    return {argument: arguments.get(argument, known[argument].default) for argument in network.assumed}


def _identified(weights: Weights, wanted: str | None, partial: bool) -> tuple[Weights, str, dict[str, Any], Others]:
    """Remove the beginning of all names that hides a network, and tell that network.

    Args:
        weights: what was read.
        wanted: the network that it has to be; None: the first that fits.
        partial: whether the nearest network will do where none has exactly these names.

    Returns:
        The weights without prefix, name, constructor arguments, and the other networks that fit as well.

    Raises:
        AirpipeError: none fits, or another one than wanted; says what it is.
    """
    bare, fits = _first_known(weights)
    whole = bare if fits else without_prefix(weights, shared_prefixes(weights.tensors)[-1])
    if named := _unsupported(_shapes(whole)):
        raise AirpipeError(f"{weights.file}: is {named}. docs/checkpoints.md lists what can be imported")
    if not fits:
        near = _nearest(weights, wanted)
        if near is None or near[1].arguments is None or not partial:
            raise AirpipeError(f"{weights.file}: {_unknown(weights, near)}")
        return near[0], near[1].name, near[1].arguments, ()
    if wanted is not None and wanted not in fits:
        raise AirpipeError(
            f"{weights.file}: is no {wanted}: its names and shapes are those of {' or '.join(fits)}. "
            f"Use --as {next(iter(fits))}, or leave --as out"
        )
    name = wanted or next(iter(fits))
    return bare, name, fits[name], tuple(other for other in fits if other != name)


def _first_known(found: C) -> tuple[C, dict[str, dict[str, Any]]]:
    """The weights without the shortest common beginning that leaves names of known networks, and these networks."""
    for prefix in shared_prefixes(found.tensors):
        bare = without_prefix(found, prefix)
        fits = candidates(_shapes(bare))
        if fits:
            return bare, fits
    return found, {}


def _is_known(tensors: Mapping[str, Tensor]) -> bool:
    return bool(_first_known(Contained(dict(tensors), ""))[1])


def _shapes(found: Contained) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in found.tensors.items()}


def candidates(shapes: Shapes) -> dict[str, dict[str, Any]]:
    """Find every registered network that has these names and shapes: constructor arguments by name of network.

    Arguments that no shape tells are those of the published form, where there is one; the network that such files are
    used with comes first.
    """
    found, usual = {}, []
    for name, target in networks().items():
        network = cast(type[Network], resolve(target))
        try:
            arguments, form = network.arguments_from(shapes), network.published_form(shapes)
        except (LookupError, ValueError, TypeError, ArithmeticError):  # arrays of other rank: another network
            continue
        if arguments is not None:
            found[name] = arguments | dict(form.arguments if form else {})
            usual += [name] if form and form.usual else []
    return {name: found[name] for name in [*usual, *found]}


def _nearest(weights: Weights, wanted: str | None) -> tuple[Weights, Near] | None:
    """The weights without prefix and the network that they are most like, if there is one and it is the wanted one."""
    bare = [without_prefix(weights, prefix) for prefix in shared_prefixes(weights.tensors)]
    found = [(one, near) for one in bare if (near := nearest(_shapes(one))) is not None]
    best = max(found, key=lambda pair: pair[1].share, default=None)
    return best if best and wanted in (None, best[1].name) else None


def _unknown(weights: Weights, near: tuple[Weights, Near] | None) -> str:
    """Say what weights of no known network are, and what to do."""
    whole = without_prefix(weights, shared_prefixes(weights.tensors)[-1])
    groups: dict[str, dict[str, Tensor]] = {word: {} for word in parts(whole.tensors)}
    for name, tensor in whole.tensors.items():
        word, _, rest = name.partition(".")
        groups[word][rest] = tensor
    usable = [word for word, entries in groups.items() if len(groups) < 50 and _is_known(entries)]
    if usable:
        listed = ", ".join(f"{word} ({len(entries)} entries)" for word, entries in groups.items())
        keys = [joined(weights.container, f"{whole.prefix}{word}") for word in usable]
        return f"holds several networks: {listed}. Choose with {choices(keys, '--key {}')}"
    if near is None:
        count, first = len(whole.tensors), first_of(whole.tensors)
        return f"no known network has its {count} entries (first: {first}). Known: {', '.join(networks())}"
    return _near_miss(*near)


def _unsupported(shapes: Shapes) -> str:
    for target in networks().values():
        with suppress(LookupError, ValueError, TypeError, ArithmeticError):  # arrays of other rank: another network
            if text := cast(type[Network], resolve(target)).unsupported(shapes):
                return text
    return ""


def _near_miss(weights: Weights, near: Near) -> str:
    """Say which network is nearest, what does not fit, and what to do; `--partial` only where it will do."""
    told = f"nearest is {near.name}: {near.fitting} of {len(weights.tensors)} entries have names of it"
    if near.odd:
        told += f", not {first_of(near.odd)}"
    if near.lacking:
        told += f"; it lacks {first_of(near.lacking)}"
    if near.arguments is not None:
        try:
            network = _on_trial(near.name, near.arguments, weights)
            fitting(network, weights.tensors, "", partial=True)
            return f"no known network has exactly its entries; {told}. Add --partial to take those that fit"
        except AirpipeError as error:
            told += f" ({str(error).removeprefix(' ')})"
    elif not near.odd and not near.lacking:
        told += ", but numbers with gaps"
    return f"no known network has its entries; {told}. Ask its authors which network it is, or give another file"


# Filling


def load_published(network: nn.Module, state_dict: Mapping[str, Any], key: str | None = None) -> nn.Module:
    """Load a state dict in its published key layout into `network`, strictly.

    The network maps published names to its own through `published_key(key)`; entries for which it
    says None (buffers that are computed, parameters that were never used) are left out and logged.

    Args:
        network: network that `airpipe.registry.build_network` made, filled in place.
        state_dict: tensors by published name, or what `torch.load(file, weights_only=True)` gave of a published file:
            containers such as `params` are looked into, and a prefix that all names share is removed.
        key: which weights, where there are several: "params", "state_dict.net", "." for the outermost level.

    Returns:
        The same network.

    Raises:
        AirpipeError: missing, unexpected, wrongly shaped or not finite entries: names the first of each; several
            sets of weights: names their keys; a `network` or `state_dict` of another kind.
    """
    what, given, way = "the published state", cast(Any, network), cast(Any, key)
    if not isinstance(given, nn.Module):
        raise AirpipeError(f"load_published was given a {type(given).__name__}. Expected a network to fill")
    if not isinstance(way, str | None):
        raise AirpipeError(f"load_published was given a {type(way).__name__} as key. Expected text such as 'params'")
    weights = find_weights(state_dict, what, key, "key={}")
    own = network.state_dict()
    bare = [without_prefix(weights, prefix) for prefix in shared_prefixes(weights.tensors)]
    best = max(bare, key=lambda one: len(_compared(network, own, one.tensors, what).matched))  # of equal ones the first
    fill(network, best.tensors, what)
    return network


def fill(network: nn.Module, state: Mapping[str, Tensor], what: str, partial: bool = False) -> KeyReport:
    """Load published entries into a network: all or nothing.

    Args:
        network: filled in place; its `published_key` maps published names to its own.
        state: tensors of any floating type, by published name.
        what: the source, for messages.
        partial: whether to allow missing and unexpected entries, as long as one matches.

    Returns:
        How the entries fitted.

    Raises:
        AirpipeError: missing, unexpected, wrongly shaped, doubled, not floating or not finite
            entries; names the first of each.
    """
    report = fitting(network, state, what, partial)
    if report.dropped:
        log.info("%s: %d entries dropped (first %s)", what, len(report.dropped), report.dropped[0])
    own = network.state_dict()
    filled = {
        key: _float32(name, state[name], what) if own[key].is_floating_point() else _whole(name, state[name], what)
        for name, key in report.matched.items()
    }
    network.load_state_dict(filled, strict=False)
    return report


def fitting(
    network: nn.Module,
    state: Mapping[str, Tensor],
    what: str,
    partial: bool = False,
    given: Mapping[str, Any] | None = None,
) -> KeyReport:
    """Compare names and shapes as `fill` does, without loading; the network may be on the meta device.

    Args:
        network: see `fill`.
        state: see `fill`.
        what: see `fill`.
        partial: see `fill`.
        given: constructor arguments from the command line, for its next step in messages; None: it is not used.

    Raises:
        AirpipeError: missing, unexpected, wrongly shaped or doubled entries; names the first of each.
    """
    own = network.state_dict()
    kind = type(network).__name__
    report = _compared(network, own, state, what)
    wrong = [
        f"{name} is {_shape(state[name])} in the file, {_shape(own[key])} in the network"
        for name, key in report.matched.items()
        if state[name].shape != own[key].shape
    ]
    problems = report.problems() if not partial or not report.matched else []
    if wrong:
        problems.append(f"{len(wrong)} wrong shape (first {wrong[0]})")
    if problems:
        step = "" if given is None else _next_step(report, bool(wrong), given)
        raise AirpipeError(f"{what} does not fit {kind}: {'; '.join(problems)}{step}")
    return report


def _next_step(report: KeyReport, wrong: bool, given: Mapping[str, Any]) -> str:
    if given:
        return f". Leave out {' and '.join(f'--argument {name}' for name in given)}, or give other values"
    if wrong:
        return ". The file contradicts itself: give another one"
    return f". Add --partial to take the {len(report.matched)} entries that fit" if report.matched else ""


def _compared(network: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> KeyReport:
    rename = network.published_key if isinstance(network, Network) else str
    matched: dict[str, str] = {}
    seen: dict[str, str] = {}
    dropped, unexpected = [], []
    for name in state:
        key = rename(name)
        if key is None:
            dropped.append(name)
        elif key in seen:
            raise AirpipeError(f"{what}: {seen[key]} and {name} are both {key}; it holds two layouts at once")
        elif key in own:
            matched[name], seen[key] = key, name
        elif key.endswith(COUNTER):
            dropped.append(name)
        else:
            unexpected.append(name)
    missing = tuple(key for key in own if key not in seen and not key.endswith(COUNTER))
    return KeyReport(matched, tuple(dropped), missing, tuple(unexpected))


def _float32(name: str, tensor: Tensor, what: str) -> Tensor:
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise AirpipeError(f"{what}: {name} is of type {kind}; weights have to be floating-point numbers")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise AirpipeError(f"{what}: {name} is no plain array of numbers (sparse, or without data). Give plain tensors")
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    bad = int(tensor.numel() - torch.isfinite(tensor.float()).sum())
    if bad:
        raise AirpipeError(
            f"{what}: {name} has {bad} numbers that are NaN, infinite or too large, of {tensor.numel()}: the training "
            "that wrote it had diverged, or the file is damaged. Take an earlier checkpoint"
        )
    return tensor


def _whole(name: str, tensor: Tensor, what: str) -> Tensor:
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise AirpipeError(f"{what}: {name} is of type {kind}; expected whole numbers")
    return tensor


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
