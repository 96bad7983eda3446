"""A record of what the results in a folder were made from, so that a later run skips what it would make again.

A folder of results holds a hidden `.airpipe.json`: the name of each result, with the sha256 of its
photo and of its model, which variant of it, and the options.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.provenance import sha256_file, write_json
from airpipe.weights.cards import WEIGHTS
from airpipe.weights.checkpoints import split_variant

RECORD = ".airpipe.json"
Origin = dict[str, Any]


def origin(source: Path, model: Any, options: Mapping[str, Any]) -> Origin:
    """Describe what a result is made from, in the form that the record holds.

    Args:
        source: the photo.
        model: a path, a `LoadedModel` or a network; a network without a file is known by its class and weights.
        options: those options of `restore` that change the result, as JSON holds them.

    Raises:
        AirpipeError: the photo cannot be read, or there is no such model.
    """
    try:
        photo = sha256_file(source)
    except OSError as error:
        raise AirpipeError(f"{source}: cannot be read ({error.strerror}). Expected an image file") from None
    variant = _variant(model)
    named = {"variant": variant} if variant else {}
    return {"source": photo, "model": _model_hash(model), **named, "options": dict(options)}


def is_made_from(target: Path, expected: Origin) -> bool:
    """Tell whether the record beside the target says that it was made from what is expected.

    Raises:
        AirpipeError: the record cannot be read.
    """
    return _read(target.parent / RECORD).get(target.name) == expected


def note(target: Path, made_from: Origin | None) -> None:
    """Write into the record beside the target what it is made from; None takes its entry out.

    Raises:
        AirpipeError: the record cannot be read or written.
    """
    path = target.parent / RECORD
    entries = _read(path)
    if entries.get(target.name) == made_from:
        return
    others = {name: entry for name, entry in entries.items() if name != target.name}
    write_json(path, others if made_from is None else others | {target.name: made_from})


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise AirpipeError(_unreadable(path, str(error))) from None
    if not isinstance(entries, dict):
        raise AirpipeError(_unreadable(path, f"a {type(entries).__name__}, no object"))
    return entries


def _unreadable(path: Path, reason: str) -> str:
    return (
        f"{path}: cannot be read as the record of what results were made from ({reason}). "
        "Delete it, then use --overwrite or another -o"
    )


def _variant(model: Any) -> str:
    """Name of the variant that is meant; all variants of a file share its hash."""
    if isinstance(model, str | os.PathLike):
        return split_variant(Path(model))[1]
    return str(getattr(model, "variant", ""))


def _model_hash(model: Any) -> str:
    if isinstance(model, nn.Module):
        return _network_hash(model)
    place = model if isinstance(model, str | os.PathLike) else getattr(model, "path", None)
    if place is None:
        raise AirpipeError(f"a {type(model).__name__} is no model. Expected a path, a LoadedModel or a network")
    path, _ = split_variant(Path(place))
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file() and isinstance(getattr(model, "network", None), nn.Module):
        return _network_hash(model.network)
    if not file.is_file():
        raise AirpipeError(f"{file}: no such model. `airpipe models` lists what is there")
    facts = file.stat()
    return _file_hash(file, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=8)
def _file_hash(file: Path, changed: int, size: int) -> str:
    """One reading for many photos; `changed` and `size` tell files apart that have had the same name."""
    return sha256_file(file)


def _network_hash(network: nn.Module) -> str:
    digest = hashlib.sha256(f"{type(network).__module__}.{type(network).__qualname__}".encode())
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(name.encode())
            # as bytes, because NumPy has no bfloat16
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
