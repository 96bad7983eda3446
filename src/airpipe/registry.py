"""Look-ups of what can be named: networks and training stages. A new method is one word in `METHODS`.

A method says of itself what generic modules must know (`airpipe.methods.<name>.METHOD`). Targets are written as
"module:attribute" and imported on use, so that this module imports no torch: Snakemake reads it at every start.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airpipe.errors import AirpipeError
from airpipe.settings.base import SHOWN, unknown_name
from airpipe.settings.stages import StageSettings

if TYPE_CHECKING:
    from torch import nn

METHODS = ("baseline", "dcpt", "vrdir", "degae", "dsrir", "dynet")
"""Packages below `airpipe.methods`, in the order in which they are listed."""
BACKBONES = {
    "nafnet": "airpipe.models.nafnet:NAFNet",
    "nafnet_tlc": "airpipe.models.nafnet:NAFNetTLC",
    "basenet": "airpipe.models.nafnet:BaseNet",
    "basenet_tlc": "airpipe.models.nafnet:BaseNetTLC",
    "restormer": "airpipe.models.restormer:Restormer",
    "promptir": "airpipe.models.promptir:PromptIR",
    "swinir": "airpipe.models.swinir:SwinIR",
    "vgg_front": "airpipe.models.vgg:VGGFront",
    "vgg19": "airpipe.models.vgg:VGG19Features",
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
    """Name of the stage of the same method whose rule, folder and `compute` this one shares; empty: it has its own."""
    title: str = ""
    """Name of the stage's jobs on the terminal, wildcards allowed; empty: that of the stage."""
    recognises: bool = False
    """Whether the stage trains a network that tells apart what images show, and restores nothing."""
    takes_reference: bool = False
    """Whether the stage trains a network that is shown a second image; it is scored on tests with a target recipe."""
    part: str = ""
    """Name in recognition tables of a network that is a part of the method's, such as "decoder"; empty: it restores by
    itself. A part whose folder names a {degradation} is told that one, and shown on its tests only."""


@dataclass(frozen=True)
class Assembly:
    """How several published files become one network: the first as for any import, the others by their roles."""

    first: str
    """What the first file is, for messages."""
    roles: Mapping[str, str]
    """Role to the help text of its option, `--<role>` of the import; no two methods share a role."""
    function: str
    """Function in the method's `assembling` module, or "module:function"; called as `importing.read_all` says."""


@dataclass(frozen=True)
class Method:
    """What generic modules must know of a paper; everything in it is text, so that reading it imports no torch."""

    title: str
    networks: Mapping[str, str] = field(default_factory=dict)
    """Networks of its own: name to "module:class"."""
    stages: Mapping[str, Stage] = field(default_factory=dict)
    """Training stages by name."""
    assembly: Assembly | None = None
    """How the published files of the method are put together; none: each is a network by itself."""
    printed: tuple[str, ...] = ("{title}", "{title}-{backbone}")
    """Names of its models in published tables; {backbone}: the family of the network; {variant}: that of a file which
    serves several. Case does not count."""
    forks: Mapping[str, str] = field(default_factory=dict)
    """Family of a backbone to the network that this method's code has in its place."""
    files: Mapping[str, str] = field(default_factory=dict)
    """What FILE is, for imported models that its settings name as parents: model id to words, for a message."""
    control: bool = False
    """Whether the method is plain training from scratch, with which pretraining is compared."""


def resolve(target: str) -> Any:
    """Import "module:attribute"."""
    module, attribute = target.split(":")
    return getattr(import_module(module), attribute)


@cache
def method(name: str) -> Method:
    """What a registered method says of itself: its METHOD.

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
    """Every registered stage by its full name, such as "method.train"."""
    return {f"{name}.{stage}": entry for name in METHODS for stage, entry in method(name).stages.items()}


def described(name: str) -> Method:
    """What a method says of itself; of names that are no registered method (of imported files), only the name."""
    return method(name) if name in METHODS else Method(title=name)


def family(network: str) -> str:
    """The backbone of whose published form a network is a fork; other networks are their own.

    >>> family("nafnet")
    'nafnet'
    """
    forks = {fork: name for each in METHODS for name, fork in method(each).forks.items()}
    return forks.get(network, network)


def assemblies() -> dict[str, Assembly]:
    """Method to how its published files are put together; methods of single files are left out."""
    found = {name: method(name).assembly for name in METHODS}
    return {name: assembly for name, assembly in found.items() if assembly is not None}


def part_options() -> dict[str, str]:
    """Return the roles of further files that a network of any method can have, with their help texts."""
    return {role: text for assembly in assemblies().values() for role, text in assembly.roles.items()}


def assembling_function(name: str) -> Any:
    """The function that puts a method's published files together."""
    return resolve(_target(name, assemblies()[name].function, "assembling"))


def stage_entry(task: str) -> Stage:
    """The registered stage of this name.

    Raises:
        AirpipeError: unknown name; says which is nearest.
    """
    if task not in stages():
        raise AirpipeError(unknown_name(task, stages(), "task"))
    return stages()[task]


def runs_as(task: str) -> str:
    """Full name of the stage whose rule runs a stage; `compute` calls it so."""
    entry = stage_entry(task)
    return f"{task.split('.')[0]}.{entry.runs_as}" if entry.runs_as else task


def stage_folder(task: str) -> str:
    """Folder of a stage below the one of its seed, with wildcards."""
    own = runs_as(task)
    return stage_entry(own).folder or own.split(".")[1]


def stage_at(name: str, folder: str) -> tuple[Stage, dict[str, str]] | None:
    """The stage of a method that has this folder, and what the folder's wildcards stand for; None where none has."""
    for task in stages():
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[a-z0-9_]+)", re.escape(stage_folder(task)))
        if task.partition(".")[0] == name and (found := re.fullmatch(pattern, folder)):
            return stage_entry(runs_as(task)), found.groupdict()
    return None


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
    if not isinstance(name, str) or name not in networks():
        raise AirpipeError(unknown_name(str(name)[:SHOWN], networks(), "network"))
    return resolve(networks()[name])


def below_head(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry, name and arguments, of the network that another one with a head names as its `backbone`; else its own.

    >>> below_head({"name": "nafnet", "arguments": {}})["name"]
    'nafnet'
    """
    backbone = entry.get("arguments", {}).get("backbone")
    return backbone if isinstance(backbone, Mapping) else entry


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
    except (TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError, LookupError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise AirpipeError(f"network {name}: {first[:300]}") from None
    return network
