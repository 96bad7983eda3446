"""Import the published files of encoder, decoder and, of a pretraining, representor as one network."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from airpipe.errors import AirpipeError
from airpipe.registry import build_network
from airpipe.weights.importing import ImportOptions
from airpipe.weights.published import Published, read_published

AS_ENCODER: dict[str, dict[str, Any]] = {
    "swinir": {"output": "features", "global_residual": False, "rgb_mean": False},
    "restormer": {"global_residual": False},
}
"""Arguments of an encoder that its file does not tell, by its architecture."""


def with_parts(file: Path, parts: Mapping[str, Path], options: ImportOptions) -> Published:
    """Read the published files of DegAE as one network, `degae` or `degae_finetune`.

    Args:
        file: file of the encoder.
        parts: files by role: `decoder`, and `representor` beside a decoder that is modulated (a pretraining's).
        options: how the encoder is read.

    Raises:
        AirpipeError: as `read_published`; a file is missing, too many, or something else, the files are of different
            trainings, or `partial`.
    """
    if options.partial:
        raise AirpipeError("--partial: found --decoder or --representor, too, and DegAE is made of whole files")
    encoder = _encoder(file, options)
    if "decoder" not in parts:
        raise AirpipeError("--decoder is missing: DegAE is made of its encoder's file, --decoder and --representor")
    read = {"decoder": read_published(parts["decoder"])}
    decoder = read["decoder"].name
    if decoder not in ("degae_decoder", "degae_head"):
        raise AirpipeError(f"{parts['decoder']}: is {decoder}, no decoder of DegAE. Give the one of {file}")
    if (decoder == "degae_decoder") != ("representor" in parts):
        raise AirpipeError(
            f"--representor is missing: {parts['decoder']} is the decoder of a pretraining, which has one (DDG_Encoder)"
            if decoder == "degae_decoder"
            else f"{parts['decoder']}: is the head of a finetuned DegAE, which has no representor. Leave --representor "
            "out, or give the decoder of the pretraining"
        )
    if "representor" in parts:
        read["representor"] = read_published(parts["representor"], "degae_representor", arguments={"upscale": 1})
    members = {"head" if part.name == "degae_head" else role: part for role, part in read.items()}
    arguments = {"backbone": encoder.name, "encoder": encoder.arguments}
    arguments |= {member: part.arguments for member, part in members.items()}
    name = "degae" if "representor" in read else "degae_finetune"
    try:
        network = build_network(name, **arguments)
    except AirpipeError as error:
        raise AirpipeError(f"these files are not of one training: {error}. Give those that belong together") from None
    inner = {"encoder": encoder.network, **{member: part.network for member, part in members.items()}}
    network.load_state_dict(
        {f"{member}.{name}": value for member, one in inner.items() for name, value in one.state_dict().items()}
    )
    return replace(encoder, network=network, name=name, arguments=arguments, assumed={}, first=encoder, parts=read)


def _encoder(file: Path, options: ImportOptions) -> Published:
    """The encoder's file, read as what makes features."""
    name = read_published(file, options.network, options.key).name
    if name not in AS_ENCODER:
        raise AirpipeError(
            f"{file}: is {name}; --decoder and --representor go with a file of DegAE's encoder (*_PretrainEncoder, "
            "*_Encoder)"
        )
    arguments = AS_ENCODER[name] | dict(options.arguments)
    return replace(read_published(file, name, options.key, arguments), assumed={})
