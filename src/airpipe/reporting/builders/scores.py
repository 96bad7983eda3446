"""Tables of scores: our numbers over seeds and images, gains, differences, averages, and printed numbers beside them.

A row of the long frame is one number: a metric of one model (its seeds taken together) on one data set, degradation
and level, under one protocol. This module needs no torch.
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
from airpipe.reporting.published import PAPER_SCALE, UNKNOWN_PROTOCOL, Published, compare, reference_rows
from airpipe.reporting.reading import Card, card_of, samples_of
from airpipe.reporting.table import (
    NO_RESTORATION,
    PLACE,
    Block,
    Cell,
    Kind,
    Line,
    Mark,
    Part,
    Row,
    Table,
    about_model,
    best,
    facts_of,
    number,
    place_names,
    setting_of,
    short_labels,
    spread,
    with_spread,
    without_seed,
    words,
)
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
GAIN_COLUMNS = ("model", "dataset", "test", "image", "degradation", "level", "protocol", "none", "restored", "gain")
DIGITS = {"psnr": 2, "psnr_gain": 2, "psnr_gain_min": 2, "psnr_difference": 2}
"""Digits shown; 3 of others."""
MAIN = ("psnr", "ssim")
"""Metrics that share a cell; others have a block of their own under their own name."""
SMALLEST = 50
"""Gains of single images that readers are shown."""

KINDS: tuple[Kind, ...] = ("none", "ours", "published")
"""Order of the lines of a block."""
KIND_OF: dict[str, Kind] = {NONE: "none", "published": "published"}

Place = tuple[str, str, str]


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


# Measured


def places_of(scores: pd.DataFrame, settings: TableSettings) -> dict[str, Place]:
    """Place of each test and average, by name; a test whose images differ in level has none for all of them."""
    tests: dict[str, Place] = {}
    for test, group in scores.groupby("test", sort=False):
        dataset, degradation, level = (str(group.iloc[0][name]) for name in PLACE)
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


def _with_differences(found: Measured, reference: str | None) -> Measured:
    """Add gains in PSNR over no restoration, and differences from the reference.

    Raises:
        AirpipeError: a model was not scored on exactly the images of `none`.
    """
    more: Measured = {}
    for (model, place, protocol, metric), tests in found.items():
        if model == NONE or metric != "psnr":
            continue
        base = found.get((NONE, place, protocol, metric))
        if base is None:
            raise AirpipeError(f"{model}: no restoration was not scored on {' '.join(place)} under {protocol}")
        for test, none in zip(tests, base, strict=True):
            _check_same_images(test, none, f"{model} on {' '.join(filter(None, place))}")
        gains = [test.minus(none) for test, none in zip(tests, base, strict=True)]
        more[model, place, protocol, "psnr_gain"] = gains
        if len(gains) == 1:
            more[model, place, protocol, "psnr_gain_min"] = gains
        other = found.get((reference, place, protocol, metric)) if reference else None
        if other is not None and model != reference:
            apart = [test.minus(base) for test, base in zip(tests, other, strict=True)]
            more[model, place, protocol, "psnr_difference"] = apart
    return found | more


def _check_same_images(ours: Test, none: Test, where: str) -> None:
    differ = sorted(set(ours.values.index) ^ set(none.values.index))
    if differ:
        raise AirpipeError(
            f"{where}: scored on other images than no restoration; {len(differ)} differ: "
            f"{', '.join(differ[:10])}. Run the evaluation of both again"
        )


# The long frame


def build_frame(
    measured: Measured, cards: Mapping[str, Card], scale: str, published: Published, reference: str | None
) -> pd.DataFrame:
    """The long frame: our numbers over seeds, then the printed ones.

    value is the mean over images, then over seeds (psnr_gain_min: the smallest of all); sd is the standard deviation
    (n - 1) over the seeds' means, NaN with one seed; low and high are the bootstrap interval over images of the mean
    over seeds. PSNR in dB.

    Args:
        measured: per-image values, from `measure`.
        cards: card of every model id but `none`.
        scale: scale of this run; anything but "paper" makes published numbers not comparable.
        published: printed numbers, from `read_all`.
        reference: the model that differences are taken from.

    Returns:
        COLUMNS; empty cells are "" or NaN.
    """
    full = _with_differences(measured, reference)
    rows = [_row(key, tests, cards, published, reference) for key, tests in full.items()]
    rows.sort(key=_order(measured))
    return pd.DataFrame([*rows, *reference_rows(rows, published, scale)], columns=list(COLUMNS))


def _order(measured: Measured) -> Any:
    """Sort key: models, places, protocols and metrics as they came; gains and differences behind."""
    ranks: list[dict[str | Place, int]] = [
        {name: rank for rank, name in enumerate(dict.fromkeys(part))} for part in zip(*measured, strict=True)
    ]
    models, places, protocols, metrics = ranks

    def key(row: Row) -> tuple[int, int, int, int]:
        place = tuple(row[name] for name in PLACE)
        rank = metrics.get(row["metric"], len(metrics))
        return models[row["model"]], places[place], protocols[row["protocol"]], rank

    return key


def _row(
    key: Key, tests: Sequence[Test], cards: Mapping[str, Card], published: Published, reference: str | None
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
        row["against"] = reference if metric == "psnr_difference" else NONE
    row["n_images"] = sum(len(test.values) for test in tests)
    if math.isinf(row["value"]):
        where = " ".join(str(part) for part in (model, *place, protocol, metric) if part)
        log.warning("%s: the mean is infinite because an image equals its clean one", where)
    row |= _identity(ids, cards)
    row |= compare(row, card_of(cards, ids[0]) if model != NONE else {}, published)
    return row


def _identity(ids: Sequence[str], cards: Mapping[str, Card]) -> Row:
    if ids == [NONE]:
        return {"method": NO_RESTORATION, "backbone": "", "setting": "", "scale": "", "seeds": "", "samples": ""}
    card = card_of(cards, ids[0])
    named = {"method": card["method"], "backbone": card["network"]["name"], "setting": card["setting"]}
    return named | {"scale": card.get("scale") or "", "seeds": len(ids), "samples": samples_of(card) or ""}


# For readers


def build_scores(
    name: str,
    settings: TableSettings,
    scale: str,
    scores: pd.DataFrame,
    cards: Mapping[str, Card],
    published: Published,
) -> tuple[Table, Table]:
    """The table of scores, and that of the gains of every image.

    Args:
        name: name of the table.
        settings: what the table shows.
        scale: scale of this run.
        scores: per-image scores, from `reading.read_scores`.
        cards: card of every model id but `none`.
        published: printed numbers.

    Raises:
        AirpipeError: scores that do not fit together.
    """
    places = places_of(scores, settings)
    measured = measure(scores, settings, places)
    models = [model for model in dict.fromkeys(key[0] for key in measured) if model != NONE]
    reference = _reference(settings, models)
    frame = build_frame(measured, cards, scale, published, reference)
    title = settings.title or name
    sort = places.get(settings.sort or "")
    blocks = Blocks(frame, settings.columns == "protocol", _abouts(scores, cards), sort).all()
    table = Table(name, title, blocks, tuple(notes(frame, scale, reference)), frame)
    gains = image_gains(scores)
    return table, gains_table(f"{name}_gains", title, gains)


def _reference(settings: TableSettings, models: Sequence[str]) -> str | None:
    """The model that the others are set against; none where there is only one."""
    wanted = settings.reference
    named = [model for model in models if setting_of(model) == wanted]
    return None if len(models) < 2 else (named or list(models))[0]


def _abouts(scores: pd.DataFrame, cards: Mapping[str, Card]) -> dict[str, tuple[str, ...]]:
    """Lines on where the numbers of each model come from."""
    found = {}
    for model, group in scores[scores["model"] != NONE].groupby("model", sort=False):
        ids = list(dict.fromkeys(group["model_id"]))
        seeds = (f"{len(ids)} seeds, of which the first is named",) if len(ids) > 1 else ()
        found[str(model)] = (*about_model(ids[0], card_of(cards, ids[0])), *seeds)
    return found | {NONE: (NO_RESTORATION,)}


class Blocks:
    """The blocks of a table of scores.

    Args:
        frame: the long frame.
        by_test: a block for each test, with protocols as columns; else a block for each protocol.
        abouts: lines on where the numbers of each model come from.
        sort: place by whose PSNR our models stand, best first; None: as they came.
    """

    def __init__(
        self, frame: pd.DataFrame, by_test: bool, abouts: Mapping[str, tuple[str, ...]], sort: Place | None
    ) -> None:
        self.abouts, self.by_test, self.sort = abouts, by_test, sort
        self.rows: list[Row] = [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]
        self.labels = short_labels(dict.fromkeys(row["model"] for row in self.rows if row["model"] != "published"))
        self.places: list[Place] = list(dict.fromkeys(map(_place, self.rows)))
        self.titles = dict(zip(self.places, place_names(self.places), strict=True))
        protocols = dict.fromkeys(row["protocol"] for row in self.rows)
        self.protocols = sorted(protocols, key=lambda name: name == UNKNOWN_PROTOCOL)  # stable: as they came
        metrics = dict.fromkeys(row["metric"] for row in self.rows if not row["metric"].startswith("psnr_"))
        self.metrics = [MAIN, *((metric,) for metric in metrics if metric not in MAIN)]

    def all(self) -> tuple[Block, ...]:
        """All blocks: by protocol or by test, each metric under its name, then the differences."""
        if self.by_test:
            blocks = [self._by_test(place, metrics) for metrics in self.metrics for place in self.places]
        else:
            blocks = [self._by_protocol(name, metrics) for metrics in self.metrics for name in self.protocols]
        blocks += [self._differences(protocol) for protocol in self.protocols if protocol != UNKNOWN_PROTOCOL]
        return tuple(block for block in blocks if block.lines)

    def _by_protocol(self, protocol: str, metrics: Sequence[str]) -> Block:
        rows = [row for row in self.rows if row["protocol"] == protocol and row["metric"] in metrics]
        places = list(dict.fromkeys(map(_place, rows)))
        datasets = {place[0] for place in places if place[0]}
        title = f"Protocol {protocol}" + (f", data set {datasets.pop()}" if len(datasets) == 1 else "")
        title += "" if metrics == MAIN else f": {metrics[0]}"
        lines = self._lines(rows, places, _place, metrics)
        unknown = protocol == UNKNOWN_PROTOCOL
        return Block(title, ("model", *place_names(places)), lines, {"protocol": protocol}, folded=unknown)

    def _by_test(self, place: Place, metrics: Sequence[str]) -> Block:
        rows = [row for row in self.rows if _place(row) == place and row["metric"] in metrics]
        rows = [row for row in rows if row["protocol"] != UNKNOWN_PROTOCOL]
        protocols = list(dict.fromkeys(row["protocol"] for row in rows))
        title = self.titles[place] + ("" if metrics == MAIN else f": {metrics[0]}")
        return Block(title, ("model", *protocols), self._lines(rows, protocols, lambda row: row["protocol"], metrics))

    def _differences(self, protocol: str) -> Block:
        kinds = ("psnr_difference",)
        rows = [row for row in self.rows if row["protocol"] == protocol and row["metric"] in kinds]
        places = list(dict.fromkeys(map(_place, rows)))
        against = self.labels[rows[0]["against"]] if rows else ""
        title = f"Protocol {protocol}: PSNR minus that of {against} in dB, 95 % interval over images"
        lines = self._lines(rows, places, _place, kinds)
        return Block(title, ("model", *place_names(places)), lines, {"protocol": protocol})

    def _lines(
        self, rows: Sequence[Row], columns: Sequence[Any], column: Any, metrics: Sequence[str]
    ) -> tuple[Line, ...]:
        by_label: dict[str, dict[tuple[Any, str], Row]] = {}
        for row in rows:
            label = self.labels.get(row["model"]) or published_label(row)
            by_label.setdefault(label, {})[column(row), row["metric"]] = row
        tops = {(place, metric): _best(by_label, place, metric) for place in columns for metric in metrics}
        lines = []
        for label, cells in by_label.items():
            shown = [self._cell([cells.get((place, metric)) for metric in metrics], tops, place) for place in columns]
            first = next(iter(cells.values()))
            kind = KIND_OF.get(first["model"], "ours")
            lines.append((self._rank(cells, kind), Line(label, tuple(shown), kind, _facts(first))))
        return tuple(line for _, line in sorted(lines, key=lambda ranked: ranked[0]))

    def _rank(self, cells: Mapping[tuple[Any, str], Row], kind: Kind) -> tuple[int, float]:
        """Where a line stands: no restoration first, printed numbers last, ours between them, sorted where asked."""
        values = [row["value"] for row in cells.values() if row["metric"] == "psnr" and _place(row) == self.sort]
        return KINDS.index(kind), -float(values[0]) if values and kind == "ours" else 0.0

    def _cell(self, rows: Sequence[Row | None], tops: Mapping[Any, float], column: Any) -> Cell:
        if not any(rows):
            return Cell()
        parts = tuple(_part(row, tops[column, row["metric"]]) if row else number(None, 0) for row in rows)
        return Cell(parts, self._about(next(row for row in rows if row)))

    def _about(self, row: Row) -> tuple[str, ...]:
        if row["model"] == "published":
            return tuple(filter(None, (row["source"], row["reason"])))
        interval = f"95 % interval {row['low']:.2f} to {row['high']:.2f}" if math.isfinite(row["low"]) else ""
        printed = "" if math.isnan(row["published"]) else f"printed {row['published']:g} ({row['source']}), {_gap(row)}"
        lines = (f"protocol {row['protocol']}", f"{row['n_images']} images", interval, printed)
        return tuple(filter(None, (*self.abouts[row["model"]], *lines)))


def _gap(row: Row) -> str:
    return f"gap {row['gap']:+.2f}" + (f", not comparable: {row['reason']}" if row["comparable"] == "no" else "")


def _place(row: Row) -> Place:
    return row["dataset"], row["degradation"], row["level"]


def _facts(row: Row) -> dict[str, str]:
    """What readers may filter a line by: its method, and the tasks that it was trained for; nothing for none."""
    if row["model"] in KIND_OF:
        return {"method": row["method"], "task": row["setting"]} if row["model"] != NONE else {}
    return facts_of(row["model"], row["backbone"])


def _best(lines: Mapping[str, Mapping[tuple[Any, str], Row]], place: Any, metric: str) -> float:
    """The best of our own numbers in a column; NaN where there is nothing to be better than."""
    return best(float(cells[place, metric]["value"]) for cells in lines.values() if (place, metric) in cells)


def _part(row: Row, top: float) -> Part:
    digits = DIGITS.get(row["metric"], 3)
    if row["model"] == "published":
        return number(row["published"], digits)
    if row["metric"] == "psnr_difference":
        tie = row["low"] <= 0 <= row["high"]
        ends = f" ({row['low']:+.2f} to {row['high']:+.2f})" if math.isfinite(row["low"]) else ""
        return Part(f"{row['value']:+.2f}{ends}", row["value"], "tie" if tie else "")
    mark: Mark = "best" if row["value"] == top else ""
    return with_spread(row["value"], row["sd"], digits, mark)


def published_label(row: Mapping[Any, Any]) -> str:
    """Name of a published row, with its setting and source."""
    return f"{row['method']}, {row['setting']} [{row['source']}]"


def notes(frame: pd.DataFrame, scale: str, reference: str | None) -> list[str]:
    """Notes that must stand under a table: the scale, spread and intervals, infinite values, published rows."""
    lines = [f"{scale} scale: not comparable with published numbers."] if scale != PAPER_SCALE else []
    lines.append("PSNR in dB / SSIM, mean over images; bold: the best of our own numbers in a column.")
    trained = frame[~frame["model"].isin([NONE, "published"])].drop_duplicates("model")
    budgets = {str(row["model"]): row["samples"] for row in trained.to_dict("records") if row["samples"]}
    if len(budgets) > 1:
        told = ", ".join(f"{model} {int(samples):,}" for model, samples in budgets.items())
        lines.append(f"Training samples, pretraining included: {told}.")
    if frame["sd"].notna().any():
        lines.append("±: standard deviation over seeds.")
    if reference:
        fewest = int(frame.loc[frame["metric"] == "psnr_difference", "n_images"].min())
        lines.append(
            f"Intervals: bootstrap over images ({intervals.DRAWS} draws, seed {intervals.SEED}), paired by image; "
            "≈: the interval holds 0, so that other images could turn the order round."
            + (f" {fewest} images are too few for a fair interval; it is too narrow." if fewest < 10 else "")  # noqa: PLR2004
        )
    if np.isinf(frame["value"].to_numpy(float)).any():
        lines.append("inf: an image equals its clean one.")
    if (frame["model"] == "published").any():
        lines.append("†: as printed in the source named in brackets; not run here.")
    if (frame["protocol"] == UNKNOWN_PROTOCOL).any():
        lines.append("Protocol unknown: how the source measured was not verified; never comparable.")
    return lines


# Gains


def image_gains(scores: pd.DataFrame) -> pd.DataFrame:
    """PSNR of every restored image minus that of the same image without restoration, in dB.

    Two infinite values (nothing to restore, nothing broken) are a gain of 0.

    Returns:
        GAIN_COLUMNS; model is the full id with its seed.
    """
    keys = ["test", "image", "protocol", *PLACE]
    psnr = scores[scores["metric"] == "psnr"]
    none = psnr[psnr["model"] == NONE].set_index(keys)["value"].rename("none")
    gains = psnr[psnr["model"] != NONE].join(none, on=keys).rename(columns={"value": "restored"})
    with np.errstate(invalid="ignore"):  # inf - inf, mended below
        difference = gains["restored"].to_numpy(float) - gains["none"].to_numpy(float)
    same = gains["restored"].to_numpy(float) == gains["none"].to_numpy(float)
    gains = gains.assign(gain=np.where(same, 0.0, difference), model=gains["model_id"])
    return gains[list(GAIN_COLUMNS)].reset_index(drop=True)


def gains_table(name: str, title: str, gains: pd.DataFrame) -> Table:
    """The gains of every image: mean and smallest of each model and place, and the smallest ones of all."""
    own = gains.assign(key=gains["model"].map(without_seed))
    labels = short_labels(own["key"].unique())
    places = list(dict.fromkeys(own[PLACE].itertuples(index=False, name=None)))
    names = dict(zip(places, place_names(places), strict=True))
    lines = []
    for (model, *_, protocol), group in own.groupby(["key", *PLACE, "protocol"], sort=False):
        values = group["gain"].to_numpy(float)
        texts = words(names[tuple(group.iloc[0][PLACE])], str(protocol))
        count = Cell((number(len(values), 0),))
        cells = (*texts, count, _gain(float(values.mean())), _gain(float(values.min())))
        lines.append(Line(labels[str(model)], cells, facts=facts_of(str(model))))
    head = ("model", "degradation", "protocol", "images x seeds", "mean gain (dB)", "smallest (dB)")
    lost = int((gains["gain"] < 0).sum())
    remarks = (f"{lost} of {len(gains)} gains are negative; PSNR in dB.",)
    blocks = (Block("", head, tuple(lines)), _smallest(own, labels, names)) if lines else ()
    return Table(name, f"{title}: PSNR gain of every image", blocks, remarks, gains)


def _smallest(own: pd.DataFrame, labels: Mapping[str, str], names: Mapping[Any, str]) -> Block:
    lines = [
        Line(
            labels[row["key"]],
            (
                *words(names[tuple(row[part] for part in PLACE)], row["protocol"], row["image"]),
                *(Cell((number(row[part], 2),)) for part in ("none", "restored")),
                _gain(row["gain"]),
            ),
            facts=facts_of(row["key"]),
        )
        for row in own.sort_values("gain", kind="stable").head(SMALLEST).to_dict("records")
    ]
    head = ("model", "degradation", "protocol", "image", "before (dB)", "after (dB)", "gain (dB)")
    return Block("Smallest gains of single images", head, tuple(lines), folded=True)


def _gain(value: float) -> Cell:
    return Cell((Part(f"{value:+.2f}", value, "worse" if value < 0 else ""),))
