"""Weights in the key layouts of published code: which network has them, what fits, what is left over."""

import inspect
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.models.contract import Form, Network, Shapes
from airpipe.registry import build_network, network_class, networks, resolve
from airpipe.settings.base import unknown_name
from airpipe.weights.foreign import PREFIXES, Weights, parts, read_weights

log = logging.getLogger(__name__)


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
        """Return a phrase for each kind of entries that does not fit: how many, and the first name."""
        found = (("missing", self.missing), ("unexpected", self.unexpected))
        return [f"{len(names)} {what} (first {names[0]})" for what, names in found if names]

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
    weights = read_weights(file, key)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    name, found, also = identify(shapes, file, name)
    form = form_of(name, shapes, arguments or {})
    check_arguments(name, arguments or {})
    found |= arguments or {}
    with torch.device("meta"):  # sizes that the file does not have take no memory
        fitting(build_network(name, **found), weights.tensors, str(file), partial)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # what a partial file does not fill
        network = build_network(name, **found)
    report = fill(network, weights.tensors, str(file), partial)
    dtypes = Counter(str(weights.tensors[entry].dtype).removeprefix("torch.") for entry in report.matched)
    assumed = assumed_arguments(name, found) | dict(form.arguments if form else {})
    layout = cast(type[Network], network_class(name)).layout_of(shapes)
    return Published(network, name, found, weights, report, dict(dtypes), also, assumed, form, layout)


def form_of(name: str, shapes: Shapes, arguments: Mapping[str, Any]) -> Form | None:
    """Return the published form that a state has as this network, less the arguments that are given otherwise."""
    form = cast(type[Network], network_class(name)).published_form(shapes)
    kept = {key: value for key, value in form.arguments.items() if key not in arguments} if form else {}
    return replace(form, arguments=kept) if form and kept else None


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Compare values with the annotations of a network's constructor; unknown names are left to it.

    Raises:
        AirpipeError: a value of another type, or a number that is not finite; names the first.
    """
    hints = get_type_hints(network_class(name).__init__)
    for argument, value in arguments.items():
        if argument not in hints:
            continue
        adapter = TypeAdapter[Any](hints[argument], config=ConfigDict(strict=True, allow_inf_nan=False))
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]
            raise AirpipeError(
                f"network {name}: argument {argument} is {value!r}: {problem['msg'].lower()}. "
                f"Expected {inspect.formatannotation(hints[argument])}"
            ) from None


def assumed_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values used for the arguments that no shape tells: those given, else the constructor's defaults."""
    network = cast(type[Network], network_class(name))
    known = inspect.signature(network).parameters
    return {argument: arguments.get(argument, known[argument].default) for argument in network.assumed}


def identify(
    shapes: Shapes, file: Path | str, wanted: str | None = None
) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Find the registered network that has these names and shapes.

    Args:
        shapes: shape of each entry, by its published name.
        file: the file, for messages.
        wanted: the network that it has to be; None: the first that fits.

    Returns:
        Name, constructor arguments, and the other networks that fit as well.

    Raises:
        AirpipeError: none fits, or another one than wanted; says what it is.
    """
    if wanted is not None and wanted not in networks():
        raise AirpipeError(unknown_name(wanted, networks(), "network"))
    fits = candidates(shapes)
    if not fits:
        raise AirpipeError(f"{file}: {_unknown(shapes)}")
    if wanted is not None and wanted not in fits:
        raise AirpipeError(
            f"{file}: is no {wanted}: its names and shapes are those of {' or '.join(fits)}. "
            f"Use --as {next(iter(fits))}, or leave --as out"
        )
    name = wanted or next(iter(fits))
    return name, fits[name], tuple(other for other in fits if other != name)


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


def _unknown(shapes: Shapes) -> str:
    groups = parts(shapes)
    if len(groups) > 1 and any(f"{word}." in PREFIXES or word == "DDG_Encoder" for word in groups):
        listed = ", ".join(f"{word} ({count} entries)" for word, count in groups.items())
        return f"holds several networks: {listed}. Choose with --key {' or --key '.join(groups)}"
    first = ", ".join(list(shapes)[:3])
    return f"no known network has its {len(shapes)} entries (first: {first}). Known: {', '.join(networks())}"


# Filling


def load_published(network: nn.Module, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Load a state dict in its published key layout into `network`, strictly.

    The network maps published names to its own through `published_key(key)`; entries for which it
    says None (buffers that are computed, parameters that were never used) are left out and logged.

    Args:
        network: network that `airpipe.registry.build_network` made, filled in place.
        state_dict: tensors by published name, without container or prefix.

    Returns:
        The same network.

    Raises:
        AirpipeError: missing, unexpected, wrongly shaped or not finite entries; names the first of each.
    """
    fill(network, state_dict, "the published state")
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
        key: _float32(name, state[name], what) if own[key].is_floating_point() else state[name]
        for name, key in report.matched.items()
    }
    network.load_state_dict(filled, strict=False)
    return report


def fitting(network: nn.Module, state: Mapping[str, Tensor], what: str, partial: bool = False) -> KeyReport:
    """Compare names and shapes as `fill` does, without loading; the network may be on the meta device.

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
        raise AirpipeError(f"{what} does not fit {kind}: {'; '.join(problems)}")
    return report


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
        else:
            unexpected.append(name)
    # a batch norm's counter changes no result, and files of old versions of torch lack it
    missing = tuple(key for key in own if key not in seen and not key.endswith(".num_batches_tracked"))
    return KeyReport(matched, tuple(dropped), missing, tuple(unexpected))


def _float32(name: str, tensor: Tensor, what: str) -> Tensor:
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise AirpipeError(f"{what}: {name} is of type {kind}; weights have to be floating-point numbers")
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    bad = int(tensor.numel() - torch.isfinite(tensor.float()).sum())
    if bad:
        raise AirpipeError(
            f"{what}: {name} has {bad} numbers that are NaN, infinite or too large, of {tensor.numel()}: the training "
            "that wrote it had diverged, or the file is damaged. Take an earlier checkpoint"
        )
    return tensor


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
