"""Import the two published files of a pretraining, backbone and head, as one network."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from airpipe.errors import AirpipeError
from airpipe.models.contract import feature_channels
from airpipe.registry import build_network
from airpipe.weights.importing import ImportOptions
from airpipe.weights.published import Published, read_published


def with_head(file: Path, parts: Mapping[str, Path], options: ImportOptions) -> Published:
    """Read the two files of a published DCPT pretraining as one network, `dcpt`.

    Args:
        file: file of the backbone (net_g).
        parts: files by role: `head`, that of the head (net_dc).
        options: how the backbone is read; `partial` counts for the head, too.

    Raises:
        AirpipeError: as `read_published`; no head, or one for features of another network.
    """
    found = read_published(file, options.network, options.key, options.arguments, options.partial)
    head = read_published(parts["head"], "dcpt_head", partial=options.partial)
    given, wanted = feature_channels(found.network), list(head.arguments["feature_dims"])
    if not wanted or given[: len(wanted)] != wanted:
        raise AirpipeError(
            f"{parts['head']}: a head for features of {wanted} channels, but {found.name} in {found.weights.file} "
            f"gives {given}. Give the two files of one pretraining (net_g and net_dc)"
        )
    sizes = {name: head.arguments[name] for name in ("num_classes", "num_res_blocks", "downsample")}
    backbone = {"name": found.name, "arguments": found.arguments}
    features = "all" if len(wanted) == len(given) else "last"
    arguments = {"backbone": backbone, "features": features, **sizes}
    network = build_network("dcpt", **arguments)
    inner = {"backbone": found.network, "head": head.network}
    network.load_state_dict(
        {f"{part}.{name}": value for part, one in inner.items() for name, value in one.state_dict().items()}
    )
    own = replace(found, network=network, name="dcpt", arguments=arguments, assumed={})
    return replace(own, first=found, parts={"head": head})
