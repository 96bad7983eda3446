"""Building a network that a file describes, before the file is believed: without memory, and in bounded time."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn
from torch.overrides import TorchFunctionMode

from airpipe.errors import AirpipeError
from airpipe.registry import build_network, network_class
from airpipe.settings.base import shown

CALLS = 40
"""Calls of torch that the construction of a network may need for each entry of its state: 4 to 15 do."""
LARGEST = 2**31
"""Whole numbers from this on are no sizes of a network."""


class _Counted(TorchFunctionMode):
    """Count calls of torch, and stop at the first one that is too many."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.entries, self.left = entries, CALLS * (entries + 20)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"its arguments make far more than the {self.entries} entries of the file")
        return function(*args, **(kwargs or {}))


def on_trial(name: str, arguments: Mapping[str, Any], entries: int) -> nn.Module:
    """Build a network on the meta device, where it has names and shapes and takes no memory for weights.

    Args:
        name: name of a registered network.
        arguments: arguments of its constructor, from a file or a user.
        entries: number of entries that its weights have: a construction that goes far beyond it is stopped.

    Raises:
        AirpipeError: unknown name, or arguments of other types or that the network refuses.
    """
    check_arguments(name, arguments)
    # stopped within torch.no_grad, of which many initial weights are made, not even that can switch gradients on again
    with torch.set_grad_enabled(torch.is_grad_enabled()), torch.device("meta"), _Counted(entries):
        return build_network(name, **arguments)


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Compare values with the annotations of a network's constructor; unknown names are left to it.

    Raises:
        AirpipeError: a value of another type, or a number that is not finite or no size; names the first.
    """
    hints = get_type_hints(network_class(name).__init__)
    for argument, value in arguments.items():
        if _too_large(value):
            raise AirpipeError(f"network {name}: argument {argument} is {shown(value)}. Expected numbers below 2^31")
        if argument not in hints:
            continue
        adapter = TypeAdapter[Any](hints[argument], config=ConfigDict(strict=True, allow_inf_nan=False))
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]
            raise AirpipeError(
                f"network {name}: argument {argument} is {shown(value)}: {problem['msg'].lower()}. "
                f"Expected {inspect.formatannotation(hints[argument])}"
            ) from None


def _too_large(value: Any) -> bool:
    inner = list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(inner, list | tuple):
        return any(map(_too_large, inner))
    return isinstance(inner, int) and abs(inner) >= LARGEST
