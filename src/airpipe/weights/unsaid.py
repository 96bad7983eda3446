"""What a published file cannot say of a network: settings that no name and no shape tells, and what they change."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.models.contract import example_input, least_telling, size_multiple
from airpipe.registry import build_network, network_class
from airpipe.weights.published import candidates, fill


def unsaid(name: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> list[str]:
    """Compare a network with what readers of its published file take it for; a line for each setting that differs.

    Readers are the published class, and an import: both go by names and shapes, and by what is known of the published
    form. A difference is the largest one of any output value, for a random image in [0, 1] of odd sides. Settings that
    change nothing of it, such as those of training, get no line.

    Args:
        name: registered name of the network.
        arguments: arguments of its constructor.
        state: the published entries that are written.
    """
    read = candidates({key: tuple(value.shape) for key, value in state.items()})
    if name not in read:
        return []  # a part of a network, whose whole is in several files
    own, assumed = _complete(name, arguments), _complete(name, read[name])
    changed = {key: value for key, value in assumed.items() if own[key] != value}
    others = [(f"{key}={own[key]}", f"{key}={value}", name, {**own, key: value}) for key, value in changed.items()]
    first = next(iter(read))
    if first != name:
        others.append((f"network {name}", first, first, read[first]))
    if not others:
        return []
    ours = _filled(name, own, state)
    lines = []
    for what, instead, other, options in others:
        if difference := _difference(ours, _filled(other, options, state)):
            lines.append(f"{what} is not in the file, and who reads it takes {instead}: {difference}")
    return lines


def _complete(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a constructor, sequences as lists."""
    known = inspect.signature(network_class(name)).parameters
    every = {key: arguments.get(key, one.default) for key, one in known.items()}
    return {key: list(value) if isinstance(value, list | tuple) else value for key, value in every.items()}


def _filled(name: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    network = build_network(name, **arguments)
    fill(network, state, f"the export of {name}")
    return network.eval().requires_grad_(False)


def _difference(one: nn.Module, other: nn.Module) -> str:
    """How far the outputs of two networks lie apart for one image, in words; empty: they are equal."""
    multiple = size_multiple(one)
    least = max(least_telling(one), least_telling(other))
    height, width = (-(-max(side, least) // multiple) * multiple + 5 for side in (2 * multiple, 3 * multiple))
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.default_generator.manual_seed(0)
        inputs = example_input(one, height, width, "cpu")
        found, expected = _output(one, inputs), _output(other, inputs)
    where = f"a random image of {width}x{height} pixels"
    if found is None or expected is None:
        return f"one of them refuses {where}"
    if found.shape != expected.shape:
        return f"outputs of shape {tuple(found.shape)} and {tuple(expected.shape)} for {where}"
    most = float((found - expected).abs().max())
    return f"up to {most:.3g} of the range for {where}" if most else ""


def _output(network: nn.Module, inputs: tuple[Any, ...]) -> Tensor | None:
    try:
        output: Tensor = network(*inputs)
    except (ValueError, AirpipeError):  # a size that it does not take
        return None
    return output
