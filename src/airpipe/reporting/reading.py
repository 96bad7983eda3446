"""What builders read: score files with their facts, and cards of models. This module needs no torch."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from airpipe.errors import AirpipeError
from airpipe.reporting.frames import RESCORE, text_frame
from airpipe.reporting.table import setting_of, without_seed, without_variant
from airpipe.settings.names import NONE, ModelId
from airpipe.weights.cards import read_card

Card = Mapping[str, Any]

SCORE_COLUMNS = ("image", "degradation", "level", "protocol", "metric", "value")
VALIDATION = "validation/"
"""Beginning of the names of curves that are measured on held-out images."""


def score_info(path: Path) -> dict[str, Any]:
    """Read the JSON beside a score file: model, test, dataset, scale, kept, hashes.

    Raises:
        AirpipeError: it is missing or not JSON.
    """
    return read_json(path.with_suffix(".json"))


def read_cards(paths: Iterable[Path], root: Path) -> dict[str, Card]:
    """Read cards, by folder below `root` (usually results/): the model id, without a variant.

    Raises:
        AirpipeError: as `airpipe.weights.cards.read_card`.
    """
    return {path.parent.relative_to(root).as_posix(): read_card(path) for path in paths}


def card_of(cards: Mapping[str, Card], model_id: str) -> Card:
    """Return the card of a model; the variants of one share it.

    Raises:
        AirpipeError: it is not among the cards.
    """
    folder = ModelId.parse(model_id).folder
    if folder not in cards:
        raise AirpipeError(f"{model_id}: has scores but no card.json; train or import it again")
    return cards[folder]


def cards_of(cards: Mapping[str, Card], models: Iterable[str]) -> dict[str, Card]:
    """Keep the cards of models by the names that a configuration gives them; the variants of one share it."""
    named = set(map(without_variant, models))
    return {model: card for model, card in cards.items() if setting_of(model) in named}


def curves_by_variant(model: str, curve: pd.DataFrame, card: Card) -> dict[str, pd.DataFrame]:
    """Give the variants of a model what validation measured of them: `validation/psnr_s` is `validation/psnr` of `@s`.

    Args:
        model: id of the model.
        curve: its curves, with the columns step, name, value.
        card: its card, which names the variants.

    Returns:
        The curves of the model itself by its id, then those of each variant that has any by `model@variant`.
    """
    rest, found = curve, {}
    for variant in card.get("variants") or ():
        ending = f"_{variant}"
        own = rest["name"].str.startswith(VALIDATION) & rest["name"].str.endswith(ending)
        if own.any():
            names = rest.loc[own, "name"].str.removesuffix(ending)
            found[f"{model}@{variant}"] = rest[own].assign(name=names)
            rest = rest[~own]
    return {model: rest, **found}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that the pipeline wrote.

    Raises:
        AirpipeError: it is missing or not JSON.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AirpipeError(f"{path}: cannot be read ({error.strerror}); run the evaluation again") from None
    except json.JSONDecodeError as error:
        raise AirpipeError(f"{path}: not valid JSON ({error}); delete it and run again") from None
    return value


def read_scores(paths: Sequence[Path]) -> pd.DataFrame:
    """Read the per-image scores of all files, no restoration first, otherwise in the order given.

    Returns:
        The columns of the files (value as float, dB for psnr) after model_id, model (id without
        its seed), test, dataset, scale, list (checksum of the pair list); then grey (number of the test's grey files
        where the protocol compares luma, else 0).

    Raises:
        AirpipeError: wrong columns, a value that is not a number, no file of `none`, or files that were scored under
            different definitions of a protocol.
    """
    infos = {path: score_info(path) for path in paths}
    _check_definitions(infos)
    frames = [_read_score(path, info) for path, info in infos.items()]
    frames.sort(key=lambda frame: bool(frame["model"].iloc[0] != NONE))
    if not frames or frames[0]["model"].iloc[0] != NONE:
        raise AirpipeError("no scores of 'none' (no restoration) were given; every table needs them: give those, too")
    return pd.concat(frames, ignore_index=True)


def _check_definitions(infos: Mapping[Path, Mapping[str, Any]]) -> None:
    known: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    for path, info in infos.items():
        for name, found in info["protocols"].items():
            first, expected = known.setdefault(name, (path, found))
            if differs := sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key)):
                raise AirpipeError(
                    f"{path}: was scored under another definition of protocol {name} than {first} "
                    f"({', '.join(differs)} differ). Remove both and score them again: snakemake all -R evaluate"
                )


def _read_score(path: Path, info: Mapping[str, Any]) -> pd.DataFrame:
    frame = _csv(path, SCORE_COLUMNS)
    if frame.empty:
        raise AirpipeError(f"{path}: has no scores; delete it and run the evaluation again")
    scale = info["scale"] or ""
    facts = {"model_id": info["model"], "model": without_seed(info["model"]), "test": info["test"]}
    facts |= {"dataset": info["dataset"], "scale": scale, "list": info.get("pairs_sha256", info["dataset"])}
    for place, (name, text) in enumerate(facts.items()):
        frame.insert(place, name, text)
    return frame.assign(grey=frame["protocol"].map(info.get("grey_in_luma", {})).fillna(0).astype(int))


def _csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a csv of text columns and one numeric column, `value`; empty cells stay ''."""
    frame = text_frame(path, RESCORE)
    if list(frame.columns) != list(columns):
        raise AirpipeError(f"{path}: expected columns {','.join(columns)}; found {','.join(map(str, frame.columns))}")
    numbers = pd.to_numeric(frame["value"], errors="coerce").astype(float)
    if numbers.isna().any():
        line = int(np.flatnonzero(numbers.isna())[0])
        raise AirpipeError(f"{path}: line {line + 2}: value {frame['value'].iloc[line]!r} is not a number")
    return frame.assign(value=numbers)


def check_budgets(cards: Mapping[str, Card], table: str) -> None:
    """Check that models have cost equally many training samples, those of their pretraining included.

    Raises:
        AirpipeError: names the models by their samples.
    """
    samples = {model: samples_of(card) for model, card in cards.items()}
    if unknown := [model for model, count in samples.items() if count is None]:
        raise AirpipeError(
            f"tables.{table} compares equal budgets (equal_budgets: true), but the training samples of "
            f"{', '.join(unknown)} are unknown: trained before budgets were recorded, or imported (itself or a "
            "parent). Train them again, or leave them out of the table's models"
        )
    if len(set(samples.values())) > 1:
        found = "; ".join(
            f"{count} samples: {', '.join(model for model in samples if samples[model] == count)}"
            for count in dict.fromkeys(samples.values())
        )
        raise AirpipeError(
            f"tables.{table} compares equal budgets (equal_budgets: true), found {found}. Change the phases of the "
            "stages, their parents included, or the table's models"
        )


def samples_of(card: Card) -> int | None:
    """Training samples that a model has cost, its parents' included; None where that is not known."""
    budget = card.get("budget")
    return None if budget is None else int(budget["samples"])
