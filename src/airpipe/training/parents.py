"""What a task does with its parents: fill a network or a part, train only a part, freeze the rest, compare features."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.models.vgg import VGG19Features
from airpipe.settings.stages import StageSettings
from airpipe.weights.checkpoints import load_matching, load_strictly

Report = dict[str, list[str]]
"""How a parent fitted: names of its entries that were `matched`, `missing` or `unexpected`."""


def fill_backbone(backbone: nn.Module, parent: nn.Module, role: str, partial: bool = False) -> Report:
    """Fill a network from a parent of the same kind, or from the `backbone` within a parent.

    Args:
        backbone: network to fill, in place.
        parent: network that the weights come from, or from its submodule `backbone` where it has one.
        role: role of the parent, for messages.
        partial: allow entries that the parent lacks, or has in another shape.

    Returns:
        What `load_matching` returns; entries beside the parent's backbone are unexpected, under their names in it.

    Raises:
        AirpipeError: nothing fits, or not everything and `partial` is not set.
    """
    state = parent.state_dict()
    if isinstance(getattr(parent, "backbone", None), nn.Module):
        state = {name.removeprefix("backbone."): value for name, value in state.items()}
    report = load_matching(backbone, state, f"parent {role}")
    if report["missing"] and not partial:
        filled, all_of_them = len(report["matched"]), len(backbone.state_dict())
        raise AirpipeError(
            f"parent {role} fills {filled} of {all_of_them} entries of {type(backbone).__name__}; it lacks "
            f"{report['missing'][0]} or has it in another shape. Give a parent with the same network and arguments, "
            "or start the rest from random weights (partial: true)"
        )
    return report


def fill_part(part: nn.Module, source: nn.Module, role: str, reports: dict[str, Report]) -> None:
    """Fill a part of a network completely from a part of a parent.

    Args:
        part: module to fill, in place.
        source: module with the same entries.
        role: role of the parent.
        reports: the task's `parent_reports`; what was filled is added to that of the role, under the part's class.

    Raises:
        AirpipeError: entries are missing, left over, or have another shape.
    """
    load_strictly(part, source.state_dict(), f"parent {role}")
    report = reports.setdefault(role, {"matched": [], "missing": [], "unexpected": []})
    report["matched"] += [f"{type(part).__name__.lower()}.{key}" for key in part.state_dict()]


def check_patches(settings: StageSettings, least: int, what: str, validated: bool = True) -> None:
    """Refuse patches that a network will not take, before the first step and not where it is first called.

    Args:
        settings: settings of the stage.
        least: shortest side in pixels that the network takes.
        what: the network, for messages.
        validated: whether it sees images of the validation, too.

    Raises:
        AirpipeError: a patch is smaller; names the first.
    """
    sides = [("patch_size", phase.patch_size) for phase in settings.phases]
    if validated and settings.validation.data:
        sides.append(("validation.patch_size", settings.validation.patch_size))
    for name, side in sides:
        if side < least:
            raise AirpipeError(f"{settings.task}: {name} is {side}, {what} needs {least} pixels. Use larger patches")


def vgg19(parent: nn.Module, settings: StageSettings, otherwise: str) -> VGG19Features:
    """Return a parent as the VGG19 that it has to be, of which features of the patches are compared.

    Args:
        parent: network of the role `vgg`.
        settings: settings of the stage.
        otherwise: what else to do than to import VGG19, for the message.

    Raises:
        AirpipeError: the parent is another network, or patches are too small for it.
    """
    if not isinstance(parent, VGG19Features):
        raise AirpipeError(
            f"parent vgg is a {type(parent).__name__}; features of VGG19 are compared. Import torchvision's "
            f"vgg19-dcbb9e9d.pth, or {otherwise}"
        )
    check_patches(settings, parent.LEAST, "VGG19", validated=False)
    return parent


def train_only(network: nn.Module, part: nn.Module) -> list[nn.Parameter]:
    """Freeze a network but for a part of it, whose frozen parameters stay frozen, too.

    Returns:
        The parameters left to train, in the order of the part.
    """
    chosen = [parameter for parameter in part.parameters() if parameter.requires_grad]
    network.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def freeze_without_gradient(network: nn.Module, outputs: Tensor | list[Tensor]) -> None:
    """Freeze the parameters on which none of these outputs depends: data parallelism would wait for their gradients.

    Args:
        network: its frozen parameters have to be unfrozen for the outputs to tell.
        outputs: what the losses are computed from, in one pass of any small image.
    """
    parameters = list(network.parameters())
    several = [outputs] if isinstance(outputs, Tensor) else outputs
    total = torch.stack([one.sum() for one in several]).sum()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def describe_loading(role: str, report: Mapping[str, list[str]]) -> str:
    """One line for the log: what a parent filled, and what fitted nothing."""
    rest = [f"{len(names)} {what} (first {names[0]})" for what, names in report.items() if what != "matched" and names]
    return "; ".join([f"parent {role}: {len(report['matched'])} entries loaded", *rest])
