"""Indexes of scores: which score files belong to a table and a model, each with its hash. No torch here.

Score files are no outputs that Snakemake knows; an index stands for them. Equal scores give an equal index.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from airpipe.errors import AirpipeError
from airpipe.provenance import sha256_file


def index_entry(scores: Path) -> dict[str, Any]:
    """Describe a score file for an index: its path, its sha256, what it was made from, and its number of images."""
    facts = json.loads(scores.with_suffix(".json").read_text(encoding="utf-8"))
    return {"scores": str(scores), **{name: facts[name] for name in ("sha256", "identity", "images")}}


def scores_of(indexes: Iterable[Path]) -> list[Path]:
    """List the score files that indexes name, each once, in their order.

    Args:
        indexes: files results/evaluated/<table>/<model id>.json.

    Raises:
        AirpipeError: a score file is missing, or is not the one that was scored; says how to score it again.
    """
    found: dict[Path, None] = {}
    for index in indexes:
        for entry in read_index(index)["tests"].values():
            path = Path(entry["scores"])
            if not path.is_file() or sha256_file(path) != entry["sha256"]:
                state = "has other bytes than the scores" if path.is_file() else "is missing, with the scores"
                raise AirpipeError(f"{path}: {state} that {index} names. {again(index)}")
            found[path] = None
    return list(found)


def read_index(path: Path) -> dict[str, Any]:
    """Read an index.

    Raises:
        AirpipeError: it is missing, or no index.
    """
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        [(entry["scores"], entry["sha256"]) for entry in index["tests"].values()]  # a lack is told here
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AirpipeError(f"{path}: not an index of scores ({error!r}). {again(path)}") from None
    return index


def again(index: Path) -> str:
    """Say how to score again what an index names; what still fits is not scored again."""
    return f"Run `snakemake --force {index}` (with the same --configfile), then your command again"
