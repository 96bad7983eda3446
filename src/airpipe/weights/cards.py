"""Cards: the JSON beside a model's weights that tells what they are. This module needs no torch."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airpipe.errors import AirpipeError
from airpipe.settings.base import shown

CARD = "card.json"
"""Name of the file beside a model's weights."""
WEIGHTS = "model.safetensors"
"""Name of the file of weights in a model's folder."""
LARGEST = 2**26
"""Largest card that is read, in bytes; those of real models have some thousand."""
Text = Annotated[str, Field(max_length=1000)]
Entry = dict[str, Any]


class CardNetwork(BaseModel):
    """The network of a card, as `airpipe.registry.build_network` takes it."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: Annotated[str, Field(max_length=100)]
    arguments: Entry


class Budget(BaseModel):
    """The training that a model has cost, see `airpipe.training.run.budget`."""

    model_config = ConfigDict(strict=True, extra="allow")

    steps: int
    samples: int
    stages: dict[str, list[int]]


class Card(BaseModel):
    """The types of a card's values; what is not named here may be anything, and all but the network may be missing."""

    model_config = ConfigDict(strict=True, extra="allow")

    network: CardNetwork
    variants: dict[str, Entry] | None = None
    model: Text | None = None
    method: Text | None = None
    stage: Text | None = None
    setting: Text | None = None
    scale: Text | None = None
    seed: int | None = None
    settings_hash: Text | None = None
    revision: int | None = None
    parents: list[Entry] = []
    weights: Literal["ema", "raw"] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    step: int | None = None
    pairs: list[Entry] = []
    git: Entry | None = None
    device: Text | None = None
    wall_s: float | None = None
    gpu_hours: float | None = None
    parameters: int | None = None
    macs: float | None = None
    finished: Text | None = None
    notes: list[Text] = []
    classes: list[Text] | None = None
    budget: Budget | None = None
    imported: Entry | None = None


def read_card(path: Path) -> dict[str, Any]:
    """Read a model's card.

    Raises:
        AirpipeError: the card cannot be read, names no network, or has a value of another type; says which.
    """
    remedy = "Make or import the model again"
    try:
        if not path.is_file():  # a pipe would be waited for
            raise AirpipeError(f"{path}: no such card, or no file. {remedy}")
        if path.stat().st_size > LARGEST:
            raise AirpipeError(f"{path}: not a model card ({path.stat().st_size:,} bytes). {remedy}")
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Card.model_validate(card)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part)[:80] for part in problem["loc"]) or "the whole"
        found = "" if problem["type"] == "missing" else f", found {shown(problem['input'])}"
        raise AirpipeError(f"{path}: not a model card: {where}: {problem['msg'].lower()}{found}. {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AirpipeError(f"{path}: not a model card ({str(error)[:80]}). {remedy}") from None
    return card
