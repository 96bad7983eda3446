"""Published files that are parts of a network, put together."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from airpipe.errors import AirpipeError
from airpipe.models.contract import feature_channels
from airpipe.registry import build_network
from airpipe.weights.published import Published, assumed_arguments, check_arguments, read_published

VRDIR_PARTS = {"sad": "vrdir_sad", "encoder": "vgg_front"}
"""Beside the branches and their fusion (vrdir_ise): role to network."""


def with_head(found: Published, file: Path, partial: bool = False) -> Published:
    """The two files of a published DCPT pretraining as one network, `dcpt`.

    Args:
        found: the backbone (net_g).
        file: of the head (net_dc).
        partial: as in `read_published`, for the head.

    Raises:
        AirpipeError: no head, or one for features of another network.
    """
    head = read_published(file, "dcpt_head", partial=partial)
    given, wanted = feature_channels(found.network), list(head.arguments["feature_dims"])
    if not wanted or given[: len(wanted)] != wanted:
        raise AirpipeError(
            f"{file}: a head for features of {wanted} channels, but {found.name} in {found.weights.file} "
            f"gives {given}. Give the two files of one pretraining (net_g and net_dc)"
        )
    options = {name: head.arguments[name] for name in ("num_classes", "num_res_blocks", "downsample")}
    backbone = {"name": found.name, "arguments": found.arguments}
    features = "all" if len(wanted) == len(given) else "last"
    arguments = {"backbone": backbone, "features": features, **options}
    network = build_network("dcpt", **arguments)
    parts = {"backbone": found.network, "head": head.network}
    network.load_state_dict(
        {f"{part}.{name}": value for part, inner in parts.items() for name, value in inner.state_dict().items()}
    )
    return replace(found, network=network, name="dcpt", arguments=arguments, head=head)


def with_parts(ise: Published, files: Mapping[str, Path], arguments: Mapping[str, Any]) -> Published:
    """The published files of VRD-IR as one network, `vrdir`.

    Args:
        ise: branches and fusion, the file of its third stage.
        files: `sad`, the file of its first stage, and `encoder`, torchvision's VGG16.
        arguments: of `vrdir` that no file tells: `normalise` ("half", as the published code trains), `max_pixels`.

    Raises:
        AirpipeError: a file is missing or something else, or parts with other numbers of channels.
    """
    if ise.name != "vrdir_ise":
        raise AirpipeError(f"{ise.weights.file}: is {ise.name}; --sad and --encoder go with a file of VRD-IR's ISE")
    missing = [f"--{role}" for role in VRDIR_PARTS if role not in files]
    if missing:
        raise AirpipeError(f"{missing[0]} is missing: a whole VRD-IR is made of ISE's file, --sad and --encoder")
    parts = {role: read_published(files[role], network) for role, network in VRDIR_PARTS.items()}
    sad, (first, channels) = parts["sad"].arguments, parts["encoder"].arguments["widths"]
    found = {"ISE": ise.arguments["in_channels"], "decoder": sad["in_channels"], "encoder": channels}
    if len(set(found.values())) > 1:
        told = ", ".join(f"{what} {count}" for what, count in found.items())
        raise AirpipeError(f"features have other numbers of channels: {told}. Give the files of one training")
    check_arguments("vrdir", arguments)
    known = {**ise.arguments, "front_channels": first, "hidden": sad["hidden"], "normalise": "half", **arguments}
    network = build_network("vrdir", **known)
    inner = {"ext": parts["encoder"].network, "ise": ise.network, "sad": parts["sad"].network}
    network.load_state_dict(
        {f"{part}.{name}": value for part, one in inner.items() for name, value in one.state_dict().items()}
    )
    assumed = {} if "normalise" in arguments else assumed_arguments("vrdir", known)
    return replace(ise, network=network, name="vrdir", arguments=known, parts=parts, assumed=assumed)
