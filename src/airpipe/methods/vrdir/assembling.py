"""Import the published files of encoder, branches with fusion, and decoder as one network."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from airpipe.errors import AirpipeError
from airpipe.registry import build_network
from airpipe.weights.importing import ImportOptions
from airpipe.weights.published import Published, assumed_arguments, read_published
from airpipe.weights.trial import check_arguments

PARTS = {"sad": "vrdir_sad", "encoder": "vgg_front"}
"""Network that is in the file of each role, beside that of the branches and their fusion (vrdir_ise)."""


def with_parts(file: Path, parts: Mapping[str, Path], options: ImportOptions) -> Published:
    """Read the published files of VRD-IR as one network, `vrdir`.

    Args:
        file: file of branches and fusion, from the third stage (ISE).
        parts: files by role: `sad`, that of the first stage, and `encoder`, torchvision's VGG16.
        options: how ISE's file is read; its `arguments` are those of `vrdir` that no file tells: `normalise`
            ("half", as the published code trains), `max_pixels`.

    Raises:
        AirpipeError: as `read_published`; a file is missing or something else, parts with other numbers of channels,
            or `partial`.
    """
    if options.partial:
        raise AirpipeError("--partial: found --sad or --encoder, too, and VRD-IR is made of whole files. Leave it out")
    ise = read_published(file, options.network, options.key)
    if ise.name != "vrdir_ise":
        raise AirpipeError(f"{ise.weights.file}: is {ise.name}; --sad and --encoder go with a file of VRD-IR's ISE")
    if missing := [f"--{role}" for role in PARTS if role not in parts]:
        raise AirpipeError(f"{missing[0]} is missing: a whole VRD-IR is made of ISE's file, --sad and --encoder")
    read = {role: read_published(parts[role], network) for role, network in PARTS.items()}
    sad, (first, channels) = read["sad"].arguments, read["encoder"].arguments["widths"]
    found = {"ISE": ise.arguments["in_channels"], "decoder": sad["in_channels"], "encoder": channels}
    if len(set(found.values())) > 1:
        told = ", ".join(f"{what} {count}" for what, count in found.items())
        raise AirpipeError(f"features have other numbers of channels: {told}. Give the files of one training")
    given = options.arguments
    check_arguments("vrdir", given)
    known = {**ise.arguments, "front_channels": first, "hidden": sad["hidden"], "normalise": "half", **given}
    network = build_network("vrdir", **known)
    inner = {"ext": read["encoder"].network, "ise": ise.network, "sad": read["sad"].network}
    network.load_state_dict(
        {f"{part}.{name}": value for part, one in inner.items() for name, value in one.state_dict().items()}
    )
    assumed = {} if "normalise" in given else assumed_arguments("vrdir", known)
    return replace(ise, network=network, name="vrdir", arguments=known, assumed=assumed, first=ise, parts=read)
