"""The long frame of a table of scores: our numbers over seeds and images, gains, differences, averages, printed ones.

A row is one number: a metric of one model (its seeds taken together) on one data set, degradation and level, under one
protocol. This module needs no torch.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from airpipe.errors import AirpipeError
from airpipe.reporting import intervals
from airpipe.reporting.published import Published, compare, reference_rows
from airpipe.reporting.reading import Card, card_of, samples_of
from airpipe.reporting.table import NO_RESTORATION, PLACE, Place, Row, place_of, spread
from airpipe.settings.names import NONE
from airpipe.settings.scoring import TableSettings

log = logging.getLogger(__name__)

COLUMNS = (
    *("method", "backbone", "setting", "model", "against", "scale", "seeds", *PLACE),
    *("protocol", "metric", "value", "sd", "low", "high", "n_images"),
    *("published", "gap", "comparable", "reason", "source", "samples"),
)
"""Columns of the long frame. `against`: the model that a gain or difference is taken from; `low`, `high`: interval of
the value over images; `samples`: those of a model's training and of all that it started from."""


@dataclass(frozen=True)
class Test:
    """What a model did on one test, under one protocol and metric."""

    __test__ = False  # not a pytest class

    images: str
    """Names the list of images."""
    values: pd.DataFrame
    """A row per image, a column per seed (model id)."""
    weight: float = 1.0

    def minus(self, other: "Test") -> "Test":
        """Differences from another model's mean over seeds, image by image; two infinite values differ by 0."""
        with np.errstate(invalid="ignore"):  # inf - inf, mended at once
            base = other.values.mean(axis=1).reindex(self.values.index)
            apart = self.values.sub(base, axis=0)
        return replace(self, values=apart.mask(self.values.eq(base, axis=0), 0.0))

    def sampled(self, seed: str = "") -> intervals.Sampled:
        """Values by image: of one seed (model id), or means over all."""
        with np.errstate(invalid="ignore"):
            values = self.values[seed] if seed else self.values.mean(axis=1)
        return intervals.Sampled(self.images, values.to_numpy(float), self.weight)


Key = tuple[str, Place, str, str]
"""Model without its seed, place, protocol, metric."""
Measured = dict[Key, list[Test]]
"""What was measured in each place: one test, or those of an average."""


def places_of(scores: pd.DataFrame, settings: TableSettings) -> dict[str, Place]:
    """Place of each test and average, by name; a test whose images differ in level has none for all of them."""
    tests: dict[str, Place] = {}
    for test, group in scores.groupby("test", sort=False):
        dataset, degradation, level = place_of(group.iloc[0].to_dict())
        tests[str(test)] = dataset, degradation, level if group["level"].nunique() == 1 else ""
    return tests | {name: ("", name, "") for name in settings.averages}


def measure(scores: pd.DataFrame, settings: TableSettings, places: Mapping[str, Place]) -> Measured:
    """Gather per-image scores by model, place, protocol and metric; averages follow where all their tests are there.

    Where the images of a test differ in level, each level has a place of its own behind that of all images.

    Args:
        scores: per-image scores, from `reading.read_scores`.
        settings: tests and averages of the table.
        places: from `places_of`.

    Raises:
        AirpipeError: two tests for one place, or seeds scored on different images.
    """
    found: Measured = {}
    for names, group in scores.groupby(["model", "test", "protocol", "metric"], sort=False):
        (model, test, protocol, metric), first = map(str, names), group.iloc[0]
        place = places[test]
        where = f"{model}, {' '.join(filter(None, place))}, {protocol}"
        if (model, place, protocol, metric) in found:
            rivals = [name for name, other in places.items() if other == place]
            raise AirpipeError(f"{where}: tests {' and '.join(rivals)} would share a cell; give them different levels")
        values = group.pivot(index="image", columns="model_id", values="value")
        if values.isna().to_numpy().any():
            lacking = ", ".join(map(str, values.index[values.isna().any(axis=1)][:10]))
            raise AirpipeError(f"{where}: seeds were scored on other images ({lacking}); run the evaluation again")
        found[model, place, protocol, metric] = [Test(str(first["list"]), values)]
        levels = group.drop_duplicates("image").set_index("image")["level"].reindex(values.index)
        for level in sorted(levels.unique()) if levels.nunique() > 1 else ():
            part = Test(f"{first['list']} {test} {level}", values[levels == level])
            found[model, (*place[:2], level), protocol, metric] = [part]
    if len(settings.tests) > 1:
        for name, average in settings.averages.items():
            members = [places[test] for test in average.tests or settings.tests]
            found |= _averaged(found, places[name], members, average.weigh)
    return found


def _averaged(found: Measured, place: Place, members: Sequence[Place], weigh: str) -> Measured:
    """What the models did on all members together, where they were measured on all of them."""
    keys = dict.fromkeys((model, protocol, metric) for model, _, protocol, metric in found)
    averages: Measured = {}
    for model, protocol, metric in keys:
        tests = [found.get((model, member, protocol, metric)) for member in members]
        if len(tests) < 2 or None in tests:
            continue
        parts = [part for test in tests for part in test or ()]
        names = [member[:2] for member in members]
        weights = {
            "test": [1.0 for _ in parts],
            "degradation": [1 / names.count(name) for name in names],
            "image": [float(len(part.values)) for part in parts],
        }[weigh]
        weighted = [replace(part, weight=weight) for part, weight in zip(parts, weights, strict=True)]
        averages[model, place, protocol, metric] = weighted
    return averages


def _with_differences(found: Measured, references: Mapping[str, str]) -> Measured:
    """Add gains in PSNR over no restoration, and differences from each model's reference.

    Raises:
        AirpipeError: a model was not scored on exactly the images of `none`.
    """
    more: Measured = {}
    for (model, place, protocol, metric), tests in found.items():
        if model == NONE or metric != "psnr":
            continue
        where, base = f"{model} on {' '.join(filter(None, place))}", found.get((NONE, place, protocol, metric))
        if base is None:
            raise AirpipeError(
                f"{where}: scored under {protocol}, {NONE!r} is not. Score them again: snakemake all -R evaluate"
            )
        for test, none in zip(tests, base, strict=True):
            _check_same_images(test, none, where)
        gains = [test.minus(none) for test, none in zip(tests, base, strict=True)]
        more[model, place, protocol, "psnr_gain"] = gains
        if len(gains) == 1:
            more[model, place, protocol, "psnr_gain_min"] = gains
        other = found.get((references.get(model, model), place, protocol, metric))
        if other is not None and references.get(model, model) != model:
            more[model, place, protocol, "psnr_difference"] = [
                test.minus(rival) for test, rival in zip(tests, other, strict=True)
            ]
    return found | more


def _check_same_images(ours: Test, none: Test, where: str) -> None:
    differ = sorted(set(ours.values.index) ^ set(none.values.index))
    if differ:
        raise AirpipeError(
            f"{where}: scored on other images than no restoration; {len(differ)} differ: "
            f"{', '.join(differ[:10])}. Run the evaluation of both again"
        )


# The frame


def build_frame(
    measured: Measured, cards: Mapping[str, Card], scale: str, published: Published, references: Mapping[str, str]
) -> pd.DataFrame:
    """The long frame: our numbers over seeds, then the printed ones.

    value is the mean over n_images images, then over seeds (psnr_gain_min: the smallest of all): those that equal their
    clean ones count only where all do. sd is the standard deviation (n - 1) over the seeds' means, NaN with one seed;
    low and high are the bootstrap interval over images of the mean over seeds. PSNR in dB.

    Args:
        measured: per-image values, from `measure`.
        cards: card of every model id but `none`.
        scale: scale of this run; anything but "paper" makes published numbers not comparable.
        published: printed numbers, from `read_all`.
        references: the model that each model's differences are taken from.

    Returns:
        COLUMNS; empty cells are "" or NaN.
    """
    full = _with_differences(measured, references)
    rows = [_row(key, tests, cards, published, references) for key, tests in full.items()]
    rows.sort(key=_order(measured))
    return pd.DataFrame([*rows, *reference_rows(rows, published, scale)], columns=list(COLUMNS))


def _order(measured: Measured) -> Any:
    """Sort key: models, places, protocols and metrics as they came; gains and differences behind."""
    ranks: list[dict[str | Place, int]] = [
        {name: rank for rank, name in enumerate(dict.fromkeys(part))} for part in zip(*measured, strict=True)
    ]
    models, places, protocols, metrics = ranks

    def key(row: Row) -> tuple[int, int, int, int]:
        rank = metrics.get(row["metric"], len(metrics))
        return models[row["model"]], places[place_of(row)], protocols[row["protocol"]], rank

    return key


def _row(
    key: Key, tests: Sequence[Test], cards: Mapping[str, Card], published: Published, references: Mapping[str, str]
) -> Row:
    model, place, protocol, metric = key
    row: Row = {"model": model, **dict(zip(PLACE, place, strict=True)), "protocol": protocol, "metric": metric}
    ids = list(tests[0].values.columns)
    row["against"] = ""
    if metric == "psnr_gain_min":
        row |= {"value": float(min(test.values.to_numpy(float).min() for test in tests)), "sd": math.nan}
        row |= {"low": math.nan, "high": math.nan}
    else:
        row |= spread(intervals.mean([test.sampled(seed) for test in tests]) for seed in ids)
        row["low"], row["high"] = intervals.interval([test.sampled() for test in tests])
    if metric.startswith("psnr_"):
        row["against"] = references[model] if metric == "psnr_difference" else NONE
    row["n_images"] = sum(min(len(test.sampled(seed).counted) for seed in ids) for test in tests)
    if not row["against"] and any(np.isinf(test.values.to_numpy(float)).any() for test in tests):
        where = " ".join(str(part) for part in (model, *place, protocol, metric) if part)
        log.warning("%s: %d images count, others equal their clean ones (infinite)", where, row["n_images"])
    row |= _identity(ids, cards)
    row |= compare(row, card_of(cards, ids[0]) if model != NONE else {}, published)
    return row


def _identity(ids: Sequence[str], cards: Mapping[str, Card]) -> Row:
    if ids == [NONE]:
        return {"method": NO_RESTORATION, "backbone": "", "setting": "", "scale": "", "seeds": "", "samples": ""}
    card = card_of(cards, ids[0])
    named = {"method": card["method"], "backbone": card["network"]["name"], "setting": card["setting"]}
    return named | {"scale": card.get("scale") or "", "seeds": len(ids), "samples": samples_of(card) or ""}
