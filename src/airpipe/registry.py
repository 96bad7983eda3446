"""Look-ups of what can be named: networks and training stages. A sixth method is one word in `METHODS`.

A method says of itself what generic rooms must know (`airpipe.methods.<name>.METHOD`). Targets are written as
"module:attribute" and imported on use, so that this module imports no torch: Snakemake reads it at every start.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airpipe.errors import AirpipeError
from airpipe.settings.base import unknown_name
from airpipe.settings.stages import StageSettings

if TYPE_CHECKING:
    from torch import nn

METHODS = ("baseline", "dcpt", "vrdir")
"""Packages below `airpipe.methods`, in the order in which they are listed."""
BACKBONES = {
    "nafnet": "airpipe.models.nafnet:NAFNet",
    "nafnet_tlc": "airpipe.models.nafnet:NAFNetTLC",
    "restormer": "airpipe.models.restormer:Restormer",
    "promptir": "airpipe.models.promptir:PromptIR",
    "swinir": "airpipe.models.swinir:SwinIR",
    "vgg_front": "airpipe.models.vgg:VGGFront",
    "recogniser_vgg": "airpipe.models.recognisers:RecogniserVGG",
    "recogniser_residual": "airpipe.models.recognisers:RecogniserResidual",
}
"""Networks that belong to no single method."""


@dataclass(frozen=True)
class Stage:
    """A training stage of a method."""

    task: str
    """Class in the method's `training` module, or "module:class"."""
    settings: str = "airpipe.settings.stages:StageSettings"
    """Class in the method's `settings` module, or "module:class"."""
    folder: str = ""
    """Folder below results/<method>/<setting>/seed<k>/, with wildcards ("dnc_{degradation}"); empty: its name."""
    revision: int = 1
    """Raise it when equal settings would give other numbers: the stage and what follows are then redone."""
    runs_as: str = ""
    """The stage of the same method whose rule, folder and `compute` it shares; empty: its own."""
    title: str = ""
    """What its jobs are called on the terminal, wildcards allowed; empty: its name."""
    recognises: bool = False
    """Whether it trains a network that tells apart what images show, and restores nothing."""


@dataclass(frozen=True)
class Method:
    """What generic rooms must know of a paper; everything in it is text, so that reading it imports no torch."""

    title: str
    networks: Mapping[str, str] = field(default_factory=dict)
    """Name to "module:class"."""
    stages: Mapping[str, Stage] = field(default_factory=dict)


def resolve(target: str) -> Any:
    """Import "module:attribute"."""
    module, attribute = target.split(":")
    return getattr(import_module(module), attribute)


@cache
def method(name: str) -> Method:
    """What a method says of itself.

    Raises:
        AirpipeError: unknown name; says which is nearest.
    """
    if name not in METHODS:
        raise AirpipeError(unknown_name(name, METHODS, "method"))
    found: Method = resolve(f"airpipe.methods.{name}:METHOD")
    return found


@cache
def networks() -> dict[str, str]:
    """Every registered network: name to "module:class"."""
    found = dict(BACKBONES)
    for name in METHODS:
        found |= method(name).networks
    return found


@cache
def stages() -> dict[str, Stage]:
    """Every registered stage by its full name, such as "baseline.train"."""
    return {f"{name}.{stage}": entry for name in METHODS for stage, entry in method(name).stages.items()}


def stage_entry(task: str) -> Stage:
    """The registered stage of this name.

    Raises:
        AirpipeError: unknown name; says which is nearest.
    """
    if task not in stages():
        raise AirpipeError(unknown_name(task, stages(), "task"))
    return stages()[task]


def runs_as(task: str) -> str:
    """The stage whose rule runs a stage: what `compute` calls it."""
    entry = stage_entry(task)
    return f"{task.split('.')[0]}.{entry.runs_as}" if entry.runs_as else task


def stage_folder(task: str) -> str:
    """Folder of a stage below the one of its seed, with wildcards."""
    own = runs_as(task)
    return stage_entry(own).folder or own.split(".")[1]


def _target(task: str, name: str, module: str) -> str:
    return name if ":" in name else f"airpipe.methods.{task.split('.')[0]}.{module}:{name}"


def settings_class(task: str) -> type[StageSettings]:
    """The settings class of a registered stage."""
    found: type[StageSettings] = resolve(_target(task, stage_entry(task).settings, "settings"))
    return found


def task_class(task: str) -> Any:
    """The task class of a registered stage, to be called with settings and parents."""
    return resolve(_target(task, stage_entry(task).task, "training"))


def network_class(name: str) -> Any:
    """The class of a registered network.

    Raises:
        AirpipeError: unknown name; says which is nearest.
    """
    if name not in networks():
        raise AirpipeError(unknown_name(name, networks(), "network"))
    return resolve(networks()[name])


def build_network(name: str, **arguments: Any) -> "nn.Module":
    """Build a registered network with the constructor arguments of its published implementation.

    Args:
        name: one of `networks()`, for example "nafnet".
        arguments: as the published constructor names them.

    Raises:
        AirpipeError: unknown network, or arguments that its constructor refuses or that need
            more memory than there is.
    """
    make = network_class(name)
    try:
        network: nn.Module = make(**arguments)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise AirpipeError(f"network {name}: {first}") from None
    return network
