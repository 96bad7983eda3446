"""The table of all printed numbers: one block per printed table, ours and the gap below each row that we have run."""

import math
from collections.abc import Mapping

import pandas as pd

from airpipe.reporting.published import AVERAGE, ERROR, Known, digits_of, records
from airpipe.reporting.table import Block, Cell, Line, Part, Row, Table, number, place_names, place_of, words

KEYS = ["paper", "table", "setting"]


def build_published(frame: pd.DataFrame, known: Known) -> Table:
    """The table of all printed numbers.

    Args:
        frame: long frame, from `airpipe.reporting.published.published_frame`.
        known: what errors in print there are.
    """
    blocks = [_block(group) for _, group in frame.groupby(KEYS, sort=False)]
    errors = [Line(e.where, words(e.printed, e.right, e.found)) for e in known.errors.values()]
    blocks.append(Block("Known errors in print", ("where", "printed", "right", "how it was found"), tuple(errors)))
    run = int(frame["ours"].notna().sum())
    yes = int((frame["comparable"] == "yes").sum())
    notes = (
        f"{len(frame)} printed numbers; ours stand beside {run} of them, {yes} are comparable. The rest was not run.",
        "Below a printed row: ours, then ours minus printed. Why two may not be compared is said with the gap.",
        "[…]: the mean of the columns, where the printed average is another. *: a known error in print.",
    )
    return Table("published", "Printed numbers", tuple(blocks), notes, frame)


def _block(group: pd.DataFrame) -> Block:
    rows = records(group)
    paper, table, setting = (str(rows[0][name]) for name in KEYS)
    places = list(dict.fromkeys(map(place_of, rows)))
    places.sort(key=lambda place: place[0] == AVERAGE)
    names = [AVERAGE if place[0] == AVERAGE else name for place, name in zip(places, place_names(places), strict=True)]
    digits = {str(name): digits_of(values) for name, values in group.groupby("metric")["published"]}
    metrics = sorted(digits, key=lambda metric: (not metric.startswith("psnr"), not metric.startswith("ssim"), metric))
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = {(*place_of(row), row["metric"]): row for row in rows if row["method"] == method}
        cells = [[own.get((*place, metric), {}) for metric in metrics] for place in places]
        lines += _lines(method, cells, digits)
    title = f"{paper}, {table}, {setting}: {' / '.join(metrics)}"
    return Block(title, ("method", *names, "ours"), tuple(lines), {"paper": paper, "task": setting}, folded=True)


def _lines(method: str, cells: list[list[Row]], digits: Mapping[str, int]) -> list[Line]:
    """The printed row, and below it ours and the gap where any of it was run."""
    models = dict.fromkeys(row["model"] for cell in cells for row in cell if row.get("model"))
    facts = {"method": method}
    end = Cell((Part("below" if models else "not run"),))
    lines = [Line(method, (*(_cell(cell, "published", digits) for cell in cells), end), "published", facts)]
    if models:
        label, ours = ", ".join(models), tuple(models)
        shown = (*(_cell(cell, "ours", digits) for cell in cells), Cell())
        lines.append(Line(label, shown, facts=facts, models=ours))
        comparable = {row["comparable"] for cell in cells for row in cell if row.get("model")} == {"yes"}
        end = Cell((Part("comparable" if comparable else "not comparable"),))
        shown = (*(_cell(cell, "gap", digits) for cell in cells), end)
        lines.append(Line(f"{label}: gap", shown, facts=facts, models=ours))
    return lines


def _cell(rows: list[Row], column: str, digits: Mapping[str, int]) -> Cell:
    found = [row for row in rows if row and not math.isnan(row[column])]
    about = [text for row in found for text in _about(row, column)]
    return Cell(tuple(_part(row, column, digits[row["metric"]]) for row in found), tuple(dict.fromkeys(about)))


def _part(row: Row, column: str, digits: int) -> Part:
    shown = number(row[column], digits)
    if column != "published":
        return shown
    mean = "" if math.isnan(row["recomputed"]) else f" [{row['recomputed']:.{digits + 1}f}]"
    return Part(f"{shown.text}{'*' if ERROR in row['flags'] else ''}{mean}", shown.value)


def _about(row: Row, column: str) -> list[str]:
    if column == "published":
        return [text for text in (f"protocol {row['protocol']}", row["flags"], row["note"]) if text]
    if column == "ours":
        return [f"protocol {row['ours_protocol']}"]
    return [row["reason"] or "comparable"]
