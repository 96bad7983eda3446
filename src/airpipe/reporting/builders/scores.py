"""Tables of scores for readers: blocks by protocol or by test, differences with intervals, notes. No torch here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from airpipe.reporting import intervals
from airpipe.reporting.builders.gains import gains_table, image_gains
from airpipe.reporting.builders.score_frame import build_frame, measure, places_of
from airpipe.reporting.published import UNKNOWN_PROTOCOL, Published, records, scale_notes
from airpipe.reporting.reading import Card, card_of
from airpipe.reporting.table import (
    NO_RESTORATION,
    PLACE,
    Block,
    Cell,
    Kind,
    Line,
    Mark,
    Part,
    Place,
    Row,
    Table,
    about_model,
    best,
    facts_of,
    number,
    place_names,
    place_of,
    setting_of,
    short_labels,
    with_spread,
    written,
)
from airpipe.settings.names import NONE
from airpipe.settings.scoring import TableSettings

DIGITS = {"psnr": 2, "psnr_gain": 2, "psnr_gain_min": 2, "psnr_difference": 2}
"""Digits shown; 3 of others."""
MAIN = ("psnr", "ssim")
"""Metrics that share a cell; others have a block of their own under their own name."""
DIFFERENCE = ("psnr_difference",)
KINDS: tuple[Kind, ...] = ("none", "ours", "published")
"""Order of the lines of a block."""
KIND_OF: dict[str, Kind] = {NONE: "none", "published": "published"}


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
    scores = scores[~scores["protocol"].isin(settings.without_protocols)]
    places = places_of(scores, settings)
    measured = measure(scores, settings, places)
    models = [model for model in dict.fromkeys(key[0] for key in measured) if model != NONE]
    frame = build_frame(measured, cards, scale, published, references_of(settings, models))
    title = settings.title or name
    sort = places.get(settings.sort or "")
    by_test = settings.columns == "protocol"
    blocks = Blocks(frame, by_test, _abouts(scores, cards), sort).all()
    remarks = (
        *notes(frame, scale),
        *equal_notes(scores),
        *grey_notes(scores),
        *(moved_by_protocol(frame) if by_test else ()),
    )
    table = Table(name, title, blocks, tuple(remarks), frame)
    gains = image_gains(scores)
    return table, gains_table(f"{name}_gains", title, gains)


def references_of(settings: TableSettings, models: Sequence[str]) -> dict[str, str]:
    """The model of its group that each model is set against; a model that is alone has none."""
    found: dict[str, str] = {}
    for group in settings.compared(tuple(map(setting_of, models))):
        members = [model for model in models if setting_of(model) in group.models]
        named = [model for model in members if setting_of(model) == group.reference]
        if len(members) > 1:
            found |= dict.fromkeys(members, (named or members)[0])
    return found


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
        self.rows = records(frame)
        self.labels = short_labels(dict.fromkeys(row["model"] for row in self.rows if row["model"] != "published"))
        self.places: list[Place] = list(dict.fromkeys(map(place_of, self.rows)))
        self.titles = dict(zip(self.places, place_names(self.places), strict=True))
        protocols = dict.fromkeys(row["protocol"] for row in self.rows)
        self.protocols = sorted(protocols, key=lambda name: name == UNKNOWN_PROTOCOL)  # stable: as they came
        metrics = dict.fromkeys(row["metric"] for row in self.rows if not row["metric"].startswith("psnr_"))
        self.metrics = [MAIN, *((metric,) for metric in metrics if metric not in MAIN)]

    def all(self) -> tuple[Block, ...]:
        """All blocks: by protocol or by test, each metric under its name, then the differences."""
        references = dict.fromkeys(row["against"] for row in self.rows if row["metric"] in DIFFERENCE)
        asked = [(metrics, "") for metrics in self.metrics]
        if self.by_test:
            blocks = [self._by_test(place, *one) for one in asked for place in self.places]
            blocks += [self._by_test(place, DIFFERENCE, other) for place in self.places for other in references]
        else:
            blocks = [self._by_protocol(name, *one) for one in asked for name in self.protocols]
            blocks += [self._by_protocol(name, DIFFERENCE, other) for name in self.protocols for other in references]
        return tuple(block for block in blocks if block.lines)

    def _title(self, what: str, metrics: Sequence[str], against: str) -> str:
        if against:
            return f"{what}: PSNR minus that of {self.labels[against]} in dB, 95 % interval over images"
        return what if metrics == MAIN else f"{what}: {metrics[0]}"

    def _by_protocol(self, protocol: str, metrics: Sequence[str], against: str) -> Block:
        rows = [row for row in self.rows if row["protocol"] == protocol and row["metric"] in metrics]
        rows = [row for row in rows if not against or row["against"] == against]
        places = list(dict.fromkeys(map(place_of, rows)))
        datasets = {place[0] for place in places if place[0]}
        one = f", data set {datasets.pop()}" if len(datasets) == 1 and not against else ""
        title = self._title(f"Protocol {protocol}{one}", metrics, against)
        lines = self._lines(rows, places, place_of, metrics)
        unknown = protocol == UNKNOWN_PROTOCOL
        return Block(title, ("model", *place_names(places)), lines, {"protocol": protocol}, folded=unknown)

    def _by_test(self, place: Place, metrics: Sequence[str], against: str) -> Block:
        rows = [row for row in self.rows if place_of(row) == place and row["metric"] in metrics]
        rows = [row for row in rows if row["protocol"] != UNKNOWN_PROTOCOL]
        rows = [row for row in rows if not against or row["against"] == against]
        protocols = list(dict.fromkeys(row["protocol"] for row in rows))
        lines = self._lines(rows, protocols, lambda row: row["protocol"], metrics)
        return Block(self._title(self.titles[place], metrics, against), ("model", *protocols), lines)

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
            models = (first["model"],) if kind == "ours" else ()
            lines.append((self._rank(cells, kind), Line(label, tuple(shown), kind, _facts(first), models)))
        return tuple(line for _, line in sorted(lines, key=lambda ranked: ranked[0]))

    def _rank(self, cells: Mapping[tuple[Any, str], Row], kind: Kind) -> tuple[int, float]:
        """Where a line stands: no restoration first, printed numbers last, ours between them, sorted where asked."""
        values = [row["value"] for row in cells.values() if row["metric"] == "psnr" and place_of(row) == self.sort]
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
        return Part(f"{written(row['value'], '+.2f')}{ends}", row["value"], "tie" if tie else "")
    mark: Mark = "best" if row["value"] == top else ""
    return with_spread(row["value"], row["sd"], digits, mark)


def published_label(row: Mapping[Any, Any]) -> str:
    """Name of a published row, with its setting and source."""
    return f"{row['method']}, {row['setting']} [{row['source']}]"


def notes(frame: pd.DataFrame, scale: str) -> list[str]:
    """Notes that must stand under a table: the scale, spread and intervals, infinite values, published rows."""
    lines = scale_notes(scale)
    lines.append("PSNR in dB / SSIM, mean over images; bold: the best of our own numbers in a column.")
    trained = frame[~frame["model"].isin([NONE, "published"])].drop_duplicates("model")
    budgets = {str(row["model"]): row["samples"] for row in trained.to_dict("records") if row["samples"]}
    if len(budgets) > 1:
        told = ", ".join(f"{model} {int(samples):,}" for model, samples in budgets.items())
        lines.append(f"Training samples, pretraining included: {told}.")
    if frame["sd"].notna().any():
        lines.append("±: standard deviation over seeds.")
    differences = frame[frame["metric"].isin(DIFFERENCE)]
    if len(differences):
        fewest = int(differences["n_images"].min())
        lines.append(
            f"Intervals: bootstrap over images ({intervals.DRAWS} draws, seed {intervals.SEED}), paired by image; "
            "≈: the interval holds 0, so that other images could turn the order round."
            + (f" {fewest} images are too few for a fair interval; it is too narrow." if fewest < 10 else "")  # noqa: PLR2004
        )
    if (frame["model"] == "published").any():
        lines.append("†: as printed in the source named in brackets; not run here.")
    if (frame["protocol"] == UNKNOWN_PROTOCOL).any():
        lines.append("Protocol unknown: how the source measured was not verified; never comparable.")
    return lines


def equal_notes(scores: pd.DataFrame) -> list[str]:
    """A note on the images that equal their clean ones, by test: how many, for which models, the first names."""
    equal = scores[np.isinf(scores["value"].to_numpy(float))]
    told = []
    for test, rows in equal.groupby("test", sort=False):
        images = rows["image"].unique()
        total = scores.loc[scores["test"] == test, "image"].nunique()
        labels = short_labels(rows["model"].unique()).values()
        told.append(f"{len(images)} of {total} of {test} ({', '.join(labels)}; first: {', '.join(images[:3])})")
    return [f"Images equal to their clean ones (∞) are left out of means: {'; '.join(told)}."] if told else []


def grey_notes(scores: pd.DataFrame) -> list[str]:
    """A note on grey files that are compared in luma, by test: how many, under which protocols."""
    told = []
    for test, rows in scores[scores["grey"] > 0].groupby("test", sort=False):
        total, protocols = rows["image"].nunique(), ", ".join(rows["protocol"].unique())
        told.append(f"{rows['grey'].max()} of {total} of {test} ({protocols})")
    if not told:
        return []
    return [
        f"Grey files compared in luma: {'; '.join(told)}. Their Y has 16 to 235, as in BasicSR: PSNR is 1.32 dB above "
        "that of the grey values."
    ]


def moved_by_protocol(frame: pd.DataFrame) -> list[str]:
    """A note on how far the protocol alone moves a number: the widest range of one model's PSNR on one test, in dB."""
    own = frame[(frame["metric"] == "psnr") & ~frame["model"].isin([NONE, "published"]) & (frame["dataset"] != "")]
    ranges = own.groupby(["model", *PLACE], sort=False)["value"].agg(["min", "max", "count"])
    ranges = ranges[(ranges["count"] > 1) & np.isfinite(ranges["max"])]
    if ranges.empty:
        return []
    widths = ranges["max"] - ranges["min"]
    model, *place = widths.idxmax()
    where = " ".join(str(part) for part in place[1:] if part)
    return [f"The protocol alone moves PSNR by up to {widths.max():.2f} dB ({model}, {where})."]
