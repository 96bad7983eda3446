"""What can be named: networks and training stages. Adding one is one line here.

Targets are written as "module:attribute" and imported on use.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airpipe.errors import AirpipeError
from airpipe.settings.base import unknown_name
from airpipe.settings.stages import StageSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


@dataclass(frozen=True)
class StageEntry:
    """A training stage: how to build its task, its settings class, its revision."""

    build: str
    settings: str = "airpipe.settings.stages:StageSettings"
    revision: int = 1
    """Raise it when equal settings would give other numbers: the stage and what follows are then redone."""
    runs_as: str | None = None
    """The stage whose rule, and whose `compute`, it shares; none: its own."""


NETWORKS = {
    "nafnet": "airpipe.models.nafnet:NAFNet",
    "nafnet_tlc": "airpipe.models.nafnet:NAFNetTLC",
    "restormer": "airpipe.models.restormer:Restormer",
    "restormer_dcpt": "airpipe.models.restormer:RestormerDCPT",
    "promptir": "airpipe.models.promptir:PromptIR",
    "swinir": "airpipe.models.swinir:SwinIR",
    "swinir_dcpt": "airpipe.models.swinir:SwinIRDCPT",
    "dcpt_head": "airpipe.methods.dcpt.network:DegradationHead",
    "dcpt": "airpipe.methods.dcpt.network:DCPT",
    "vrdir_sad": "airpipe.methods.vrdir.network:SAD",
    "vrdir_dnc": "airpipe.methods.vrdir.network:DNC",
    "vrdir_fgm": "airpipe.methods.vrdir.network:FGM",
    "vrdir_ise": "airpipe.methods.vrdir.network:ISE",
    "vrdir": "airpipe.methods.vrdir.network:VRDIR",
    "vgg_front": "airpipe.models.vgg:VGGFront",
    "recogniser_vgg": "airpipe.models.recognisers:RecogniserVGG",
    "recogniser_residual": "airpipe.models.recognisers:RecogniserResidual",
}

STAGES = {
    "baseline.train": StageEntry(build="airpipe.methods.baseline.training:BaselineTask"),
    "dcpt.pretrain": StageEntry(
        build="airpipe.methods.dcpt.training:PretrainTask", settings="airpipe.methods.dcpt.settings:PretrainSettings"
    ),
    "dcpt.direct": StageEntry(
        build="airpipe.methods.dcpt.training:PretrainTask",
        settings="airpipe.methods.dcpt.settings:DirectSettings",
        runs_as="dcpt.pretrain",
    ),
    "dcpt.masked_pretrain": StageEntry(
        build="airpipe.methods.dcpt.training:MaskedPretrainTask",
        settings="airpipe.methods.dcpt.settings:MaskedPretrainSettings",
        runs_as="dcpt.pretrain",
    ),
    "dcpt.probe": StageEntry(
        build="airpipe.methods.dcpt.training:ProbeTask", settings="airpipe.methods.dcpt.settings:ProbeSettings"
    ),
    "dcpt.finetune": StageEntry(
        build="airpipe.methods.dcpt.training:FinetuneTask", settings="airpipe.methods.dcpt.settings:FinetuneSettings"
    ),
    "dcpt.transfer": StageEntry(
        build="airpipe.methods.dcpt.training:TransferTask", settings="airpipe.methods.dcpt.settings:TransferSettings"
    ),
    "vrdir.recogniser": StageEntry(
        build="airpipe.methods.vrdir.training:RecogniserTask",
        settings="airpipe.methods.vrdir.settings:RecogniserSettings",
    ),
    "vrdir.sad": StageEntry(
        build="airpipe.methods.vrdir.training:SadTask", settings="airpipe.methods.vrdir.settings:SadSettings"
    ),
    "vrdir.dnc": StageEntry(
        build="airpipe.methods.vrdir.training:DncTask", settings="airpipe.methods.vrdir.settings:DncSettings"
    ),
    "vrdir.ise": StageEntry(
        build="airpipe.methods.vrdir.training:IseTask", settings="airpipe.methods.vrdir.settings:IseSettings"
    ),
}


def resolve(target: str) -> Any:
    """Import "module:attribute"."""
    module, attribute = target.split(":")
    return getattr(import_module(module), attribute)


def stage_entry(task: str) -> StageEntry:
    """The registered stage of this name.

    Raises:
        AirpipeError: unknown name; says which is nearest.
    """
    if task not in STAGES:
        raise AirpipeError(unknown_name(task, STAGES, "task"))
    return STAGES[task]


def runs_as(task: str) -> str:
    """The stage whose rule runs a stage: what `compute` calls it."""
    return stage_entry(task).runs_as or task


def settings_class(task: str) -> type[StageSettings]:
    """The settings class of a registered stage."""
    found: type[StageSettings] = resolve(stage_entry(task).settings)
    return found


def build_network(name: str, **arguments: Any) -> "nn.Module":
    """Build a registered network with the constructor arguments of its published implementation.

    Args:
        name: a key of `NETWORKS`, for example "nafnet".
        arguments: as the published constructor names them.

    Raises:
        AirpipeError: unknown network, or arguments that its constructor refuses or that need
            more memory than there is.
    """
    if name not in NETWORKS:
        raise AirpipeError(unknown_name(name, NETWORKS, "network"))
    try:
        network: nn.Module = resolve(NETWORKS[name])(**arguments)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise AirpipeError(f"network {name}: {first}") from None
    return network


def load_published(network: "nn.Module", state_dict: "Mapping[str, Tensor]") -> "nn.Module":
    """Load a state dict in its published key layout into `network`, strictly.

    The network maps published names to its own through `published_key(key)`; entries for which it
    says None (buffers that are computed, parameters that were never used) are left out and logged.

    Args:
        network: from `build_network`.
        state_dict: published names to tensors, without container or prefix.

    Returns:
        The same network.

    Raises:
        AirpipeError: missing, unexpected, wrongly shaped or not finite entries; names the first of each.
    """
    from airpipe.weights.published import fill

    fill(network, state_dict, "the published state")
    return network
