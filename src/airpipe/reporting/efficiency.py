"""The efficiency table: what every model costs, beside what papers print.

This module needs no torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from airpipe.provenance import write_text
from airpipe.reporting.pivots import latex_tabular, pipe_table
from airpipe.reporting.published import COSTS, read_published, records, source_of
from airpipe.reporting.tables import Card, Row, card_of, read_json

EFFICIENCY_COLUMNS = (
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


def build_efficiency(
    complexities: Sequence[Path], cards: Mapping[str, Card], published: Path | None = None
) -> pd.DataFrame:
    """Cost of every model: parameters, multiply-accumulates, memory in MB, latency in ms, training time in s.

    Args:
        complexities: results/complexity/<model id>.json files.
        cards: card of each of these models.
        published: resources/published/efficiency.csv; None: nothing to compare with.

    Returns:
        EFFICIENCY_COLUMNS; wall_s is the evaluated stage's own training time. Differences are ours minus
        published, as shares of the published: of what the published number counts. A published row is used
        for a network of the same name, input and (within 2 %) parameters.
    """
    known = records(read_published([published], COSTS)) if published is not None else []
    copied = (
        *("model", "parameters", "macs", "macs_conv", "macs_linear", "macs_attention"),
        *("peak_memory_mb", "latency_ms", "input", "device", "threads"),
    )
    rows = []
    for path in complexities:
        measured = read_json(path)
        card = card_of(cards, measured["model"])
        row = {name: measured.get(name) for name in copied}
        row |= {"network": card["network"]["name"], "wall_s": card["wall_s"]}
        rows.append(row | _published_cost(row, known))
    return pd.DataFrame(rows, columns=list(EFFICIENCY_COLUMNS))


def _published_cost(row: Row, known: Sequence[Row]) -> Row:
    """Published numbers of the same network at the same size, how far ours are from them, and the source."""
    for printed in known:
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


def efficiency_cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and body of the efficiency table for readers: units in the head, rounded numbers."""
    head = ["model", "network", "parameters (M)", "published", "MACs (G)", "convolutions alone", "published"]
    body = [
        [
            *(str(row["model"]), str(row["network"])),
            *(_scaled(row["parameters"], 1e6, 3), _scaled(row["published_parameters"], 1e6, 1)),
            *(_scaled(row["macs"], 1e9, 2), _scaled(row["macs_conv"], 1e9, 2), _scaled(row["published_macs"], 1e9, 2)),
            *(_scaled(row["peak_memory_mb"], 1.0, 0), _scaled(row["latency_ms"], 1.0, 1)),
            *(str(row["input"]), str(row["device"]), str(row["threads"]), _scaled(row["wall_s"], 1.0, 0)),
        ]
        for row in table.to_dict("records")
    ]
    return [*head, "peak memory (MB)", "latency (ms)", "input", "device", "threads", "training (s)"], body


def _scaled(value: Any, unit: float, digits: int) -> str:
    return "–" if value is None or value == "" or pd.isna(value) else f"{float(value) / unit:.{digits}f}"


def efficiency_latex(table: pd.DataFrame) -> str:
    """The efficiency table as a LaTeX tabular (package booktabs)."""
    return latex_tabular(*efficiency_cells(table), 2)


def write_efficiency(
    complexities: Sequence[Path], cards: Mapping[str, Card], folder: Path, published: Path | None = None
) -> None:
    """Write efficiency.csv, .md and .tex below `folder`; `published` holds the numbers that papers print."""
    table = build_efficiency(complexities, cards, published)
    write_text(folder / "efficiency.csv", table.to_csv(index=False))
    write_text(folder / "efficiency.md", f"# Efficiency\n\n{pipe_table(*efficiency_cells(table))}\n")
    write_text(folder / "efficiency.tex", efficiency_latex(table))
