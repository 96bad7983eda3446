"""Model files: ours (safetensors and a card); published ones are read by `published`.

One file may serve several networks, its variants: they have the same weights and differ in constructor arguments,
which the card lists under `variants`. A path with @ and a name behind it means one of them.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.provenance import atomic_path, sha256_file, write_json
from airpipe.registry import build_network
from airpipe.settings.base import shown
from airpipe.weights.cards import CARD, WEIGHTS, read_card
from airpipe.weights.foreign import read_own
from airpipe.weights.published import Published, read_published
from airpipe.weights.trial import on_trial

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to restore: evaluation mode, CPU, float32, no gradients."""

    network: nn.Module
    card: dict[str, Any]
    """The card beside the file; for published files only `network`, `variants`, `assumed`, `source`, `sha256`."""
    path: Path
    """The file of weights."""
    variant: str = ""
    """Name of the loaded variant, whose arguments `card` has; empty: the network as the file's card has it."""


def save_model(folder: Path, network: nn.Module, card: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `card.json` into a folder, each atomically, the weights last.

    The card gets the sha256 of the file of weights, which `load_model` compares.

    Raises:
        AirpipeError: the folder cannot be written or the disk is full.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        try:
            save_file(state, temporary)
        except SafetensorError as error:
            raise OSError(str(error)) from None  # which `atomic_path` reports like any failed write
        # the weights get their name last: where they are, the folder is complete
        write_json(folder / CARD, {**card, "sha256": sha256_file(temporary)})


def load_model(path: str | os.PathLike[str], variant: str = "") -> LoadedModel:
    """Load a stage folder, one of our `.safetensors`, or a published file.

    A published file needs no card: network and sizes are read off its keys and shapes; what these
    do not tell is taken as usual, logged as a warning and named in the card under `assumed`.

    Args:
        path: folder or file, with or without @ and a variant behind it.
        variant: name of one that the card lists; empty: that of the path, or the network as the card has it.

    Raises:
        AirpipeError: the file is missing, truncated, foreign or unsafe, its card does not fit, or it has no
            such variant.
    """
    given, chosen = cast(Any, path), cast(Any, variant)
    if not isinstance(given, str | os.PathLike) or not isinstance(chosen, str):
        raise AirpipeError(f"load_model was given {shown(given)} and variant {shown(chosen)}. Expected a path and text")
    path, named = split_variant(Path(path))
    variant = variant or named
    file = _weights_file(path)
    if _has_card(file):
        card = card_of_variant(read_card(file.with_name(CARD)), variant, str(path))
        network = _own(card, file)
    else:
        network, card = _from_published(file, variant)
    network = network.float().eval().requires_grad_(False)
    faster = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedModel(faster, card, file, variant)


def _own(card: Mapping[str, Any], file: Path) -> nn.Module:
    """The network of our own file; memory is spent when names and shapes in the file are those of the card."""
    if card.get("sha256") not in (None, sha256_file(file)):
        raise AirpipeError(
            f"{file}: damaged: its sha256 is not the one in {CARD}, so some weights are not what was saved. "
            "Copy it again, or make or import the model again"
        )
    state, name, arguments = read_own(file), card["network"]["name"], card["network"]["arguments"]
    check_fit(on_trial(name, arguments, len(state)), state, str(file))
    network = build_network(name, **arguments)
    load_strictly(network, state, str(file))
    return network


def variants_of(path: Path) -> dict[str, dict[str, Any]]:
    """Return the networks that a model's file serves, `name` and `arguments` by variant; empty: it has no variants.

    Args:
        path: folder or file, as for `load_model`, without a variant.

    Raises:
        AirpipeError: as `load_model`.
    """
    card = _described(path)
    return {name: card_of_variant(card, name, str(path))["network"] for name in card.get("variants") or {}}


def network_of(path: Path, variant: str = "") -> dict[str, Any]:
    """Return `name` and `arguments` of the network in a model's file, or of a variant of it, without building it.

    Args:
        path: folder or file, as for `load_model`, without a variant.
        variant: name of one that the card lists; empty: the network as the card has it.

    Raises:
        AirpipeError: as `load_model`, but that the checksum of our own file is not looked at.
    """
    file = _weights_file(path)
    network: dict[str, Any] = card_of_variant(_described(path), variant, str(path))["network"]
    if _has_card(file):
        state = read_own(file)
        check_fit(on_trial(network["name"], network["arguments"], len(state)), state, str(file))
    return network


def _described(path: Path) -> dict[str, Any]:
    """The card of a model, or what its published file tells of its networks."""
    file = _weights_file(path)
    return read_card(file.with_name(CARD)) if _has_card(file) else _known(read_published(file))


def _weights_file(path: Path) -> Path:
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise AirpipeError(f"{file}: no such model. `airpipe models` lists what is there")
    return file


def _has_card(file: Path) -> bool:
    return file.name == WEIGHTS and file.with_name(CARD).is_file()


def _known(found: Published) -> dict[str, Any]:
    """What a published file tells of its networks, as a card has it."""
    return {"network": {"name": found.name, "arguments": found.arguments}, "variants": found.variants}


def _from_published(file: Path, variant: str) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a published file, or a variant of it, and what is known for its card."""
    found = read_published(file)
    own = {**_known(found), "source": file.name, "sha256": sha256_file(file)}
    card, network = card_of_variant(own, variant, str(file)), found.network
    if variant:
        network = build_network(found.name, **card["network"]["arguments"])
        load_strictly(network, found.network.state_dict(), str(file))
    chosen = found.variants.get(variant, {})
    card["assumed"] = {name: value for name, value in found.assumed.items() if name not in chosen}
    if card["assumed"]:
        told = ", ".join(f"{name}={value}" for name, value in card["assumed"].items())
        log.warning("%s: no shape tells %s; import the file to choose others", file, told)
    return network, card


def split_variant(path: Path) -> tuple[Path, str]:
    """Split a model's path from the variant named behind its last @; a path that exists as it is has none."""
    place, at, variant = path.name.rpartition("@")
    return (path.with_name(place), variant) if at and place and not path.exists() else (path, "")


def card_of_variant(card: Mapping[str, Any], variant: str, what: str) -> dict[str, Any]:
    """Return the card of one of a file's networks: the arguments are those of the variant, and the id names it.

    Args:
        card: the card of the file.
        variant: name of the variant; empty: the card as it is.
        what: the model, for the message.

    Raises:
        AirpipeError: no such variant; names those that there are.
    """
    if not variant:
        return dict(card)
    variants = card.get("variants") or {}
    if variant not in variants:
        there = f"It has {', '.join(variants)}" if variants else "It has none: leave it out"
        raise AirpipeError(f"{what}: no variant {variant!r}. {there}")
    network = {**card["network"], "arguments": {**card["network"]["arguments"], **variants[variant]}}
    return {**card, "network": network, "model": f"{card.get('model', what)}@{variant}"}


def check_variants(name: str, arguments: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that one file of weights fits a network and all its variants; takes no memory for weights.

    Args:
        name: name of a registered network.
        arguments: arguments of its constructor.
        variants: the arguments that differ, by name of the variant.

    Raises:
        AirpipeError: an argument that the network does not have or refuses, or weights of other names or shapes.
    """
    with torch.device("meta"):
        wanted = {key: value.shape for key, value in build_network(name, **arguments).state_dict().items()}
        for variant, changed in variants.items():
            try:
                state = build_network(name, **{**arguments, **changed}).state_dict()
            except AirpipeError as error:
                raise AirpipeError(f"variants.{variant}: {error}") from None
            odd = [key for key in {**wanted, **state} if key not in state or wanted.get(key) != state[key].shape]
            if odd:
                raise AirpipeError(
                    f"variants.{variant}: {', '.join(changed)} would need other weights: {len(odd)} entries differ "
                    f"(first {odd[0]}). Variants share one file: change only what leaves the weights as they are"
                )


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load a state into a network, every entry or nothing.

    Args:
        network: filled in place.
        state: tensors by own name.
        what: the file, for messages.

    Raises:
        AirpipeError: as `check_fit`.
    """
    check_fit(network, state, what)
    network.load_state_dict(dict(state))


def check_fit(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Compare names, shapes and types of a state with those of a network, which may be on the meta device.

    Args:
        network: the network.
        state: tensors by own name.
        what: the file, for messages.

    Raises:
        AirpipeError: missing, unexpected, wrongly shaped entries, or floats where whole numbers are wanted or the other
            way round, or complex ones: counts and the first of each.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key}: {list(state[key].shape)} in the file, {list(own[key].shape)} in the network"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    kinds = [
        f"{key}: {_kind(state[key])} in the file, {_kind(own[key])} in the network"
        for key in own
        if key in state and _kind(state[key]) != _kind(own[key])
    ]
    found = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes, "wrong type": kinds}
    problems = [f"{len(keys)} {label} (first {keys[0]})" for label, keys in found.items() if keys]
    if problems:
        raise AirpipeError(f"{what} does not fit {type(network).__name__}: {'; '.join(problems)}")


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "floating-point numbers"
    return str(tensor.dtype).removeprefix("torch.") if tensor.is_complex() or tensor.dtype == torch.bool else "integers"


def load_matching(network: nn.Module, state: Mapping[str, Tensor], what: str) -> dict[str, list[str]]:
    """Load the entries that fit a parent model and report the rest.

    Args:
        network: filled in place.
        state: the parent's tensors, by name.
        what: the parent, for messages.

    Returns:
        {"matched": [...], "missing": [...], "unexpected": [...]}; a wrong shape or type counts as missing.

    Raises:
        AirpipeError: nothing matches.
    """
    own = network.state_dict()
    matched = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape and _kind(own[k]) == _kind(v)}
    if not matched:
        raise AirpipeError(f"{what}: none of its {len(state)} entries fits {type(network).__name__}; wrong parent?")
    network.load_state_dict(matched, strict=False)
    return {
        "matched": sorted(matched),
        "missing": sorted(k for k in own if k not in matched),
        "unexpected": sorted(k for k in state if k not in matched),
    }
