"""The efficiency table: what every model costs, beside what papers print. This module needs no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from airpipe.reporting.published import source_of
from airpipe.reporting.reading import Card, card_of, read_json
from airpipe.reporting.table import Block, Cell, Line, Row, Table, about_model, facts_of, number, words

COLUMNS = (
    *("model", "network", "parameters", "macs", "macs_conv", "macs_linear", "macs_attention"),
    *("published_parameters", "parameters_difference", "published_macs", "macs_difference", "source"),
    *("peak_memory_mb", "latency_ms", "input", "device", "threads", "wall_s"),
)
COUNTS = {
    "conv": ("macs_conv",),
    "layers": ("macs_conv", "macs_linear"),
    "all": ("macs_conv", "macs_linear", "macs_attention"),
}
"""What a published number of multiply-accumulates counts: which of our columns it is set against."""
SAME_SIZE = 0.02
"""A published number belongs to our network when their parameters differ by no larger share."""
TEXTS = ("network", "input", "device", "threads")
NUMBERS = {
    "parameters": ("parameters (M)", 1e6, 3),
    "published_parameters": ("published (M)", 1e6, 1),
    "macs": ("MACs (G)", 1e9, 2),
    "macs_conv": ("convolutions alone (G)", 1e9, 2),
    "published_macs": ("published (G)", 1e9, 2),
    "peak_memory_mb": ("peak memory (MB)", 1.0, 0),
    "latency_ms": ("latency (ms)", 1.0, 1),
    "wall_s": ("training (s)", 1.0, 0),
}
"""Numbers that readers see: title, unit and digits."""


def efficiency_table(complexities: Sequence[Path], cards: Mapping[str, Card], published: Sequence[Row] = ()) -> Table:
    """Cost of every model: parameters, multiply-accumulates, memory in MB, latency in ms, training time in s.

    Args:
        complexities: results/complexity/<model id>.json files.
        cards: card of each of these models.
        published: printed costs, from `read_published`.

    Returns:
        A frame of COLUMNS; wall_s is the evaluated stage's own training time. Differences are ours minus
        published, as shares of the published: of what the published number counts. A published row is used
        for a network of the same name, input and (within 2 %) parameters.
    """
    rows = [_row(read_json(path), cards, published) for path in complexities]
    lines = tuple(_line(row, card_of(cards, row["model"])) for row in rows)
    block = Block("", ("model", *TEXTS, *(title for title, _, _ in NUMBERS.values())), lines)
    notes = ["MACs: multiply-accumulates for one input; memory and latency are those of the device named."]
    notes += [f"published: {source}." for source in dict.fromkeys(row["source"] for row in rows) if source]
    return Table("efficiency", "Efficiency", (block,), tuple(notes), pd.DataFrame(rows, columns=list(COLUMNS)))


def _row(measured: Row, cards: Mapping[str, Card], published: Sequence[Row]) -> Row:
    card = card_of(cards, measured["model"])
    row = {name: measured.get(name) for name in COLUMNS}
    row |= {"network": card["network"]["name"], "wall_s": card["wall_s"]}
    return row | _published_cost(row, published)


def _published_cost(row: Row, published: Sequence[Row]) -> Row:
    """Published numbers of the same network at the same size, how far ours are from them, and the source."""
    for printed in published:
        same = printed["network"] == row["network"] and printed["input"] == row["input"]
        off = row["parameters"] / printed["parameters"] - 1
        if not same or not abs(off) <= SAME_SIZE:  # NaN where none is printed
            continue
        found: Row = {"published_parameters": printed["parameters"], "parameters_difference": off}
        ours = [row[name] for name in COUNTS.get(printed["counts"], ())]
        if ours and None not in ours:
            found |= {"published_macs": printed["macs"], "macs_difference": sum(ours) / printed["macs"] - 1}
        return found | {"source": source_of(printed)}
    return {}


def _line(row: Row, card: Card) -> Line:
    measured = (*about_model(row["model"], card), f"input {row['input']}, {row['device']}, threads {row['threads']}")
    cells = []
    for name, (_, unit, digits) in NUMBERS.items():
        about = (f"printed in {row['source']}",) if name.startswith("published") and row["source"] else measured
        cells.append(Cell((number(row[name], digits, unit),), about))
    texts = words(*(str(row[name]) for name in TEXTS))
    return Line(row["model"], (*texts, *cells), facts=facts_of(row["model"], row["network"]), models=(row["model"],))
