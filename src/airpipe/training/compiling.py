"""Compiled networks (`compile` of a stage): torch.compile, with its files beside the checkpoints."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import _dynamo, _inductor, nn
from torch._dynamo.exc import TorchDynamoException

from airpipe.settings.base import SHOWN
from airpipe.settings.stages import StageSettings

GRAPHS = 64
"""Graphs of one network: one for each size of its phases, and for each depth or kind of call that a step draws. What
is called beyond runs as written, and torch warns."""


def asks_to_compile(settings: StageSettings, device: torch.device) -> bool:
    """Tell whether a stage's networks are compiled on a device; `auto`: on a GPU."""
    return settings.compile is True or (settings.compile == "auto" and device.type == "cuda")


def compile_networks(networks: Iterable[nn.Module], cache: Path) -> None:
    """Let networks be compiled at their first calls, one graph for each size.

    Args:
        networks: changed in place; names of their state stay.
        cache: folder for what the compiler makes: a resumed run takes it from there.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache.absolute())  # torch has set it to a folder in /tmp
    _inductor.config.compile_threads = torch.get_num_threads()
    if hasattr(_inductor.config, "cpp_cache_precompile_headers"):
        _inductor.config.cpp_cache_precompile_headers = False  # they would lie in /tmp, whatever is said
    _dynamo.config.recompile_limit = GRAPHS
    for network in networks:
        network.forward = torch.compile(network.forward, dynamic=False)


def run_as_written(networks: Iterable[nn.Module]) -> None:
    """Take back what `compile_networks` did."""
    for network in networks:
        del network.forward


def why_not_compiled(error: RuntimeError) -> str:
    """Say what the compiler failed of, in one line; empty where it is another error."""
    if not isinstance(error, TorchDynamoException):
        return ""
    first = getattr(error, "inner_exception", error)
    return f"{type(first).__name__}: {' '.join(str(first).split())[:SHOWN]}"
