"""One form for every table: blocks and notes for readers, a long frame for machines, and one writer.

Builders (`airpipe.reporting.builders`) turn results into a `Table`; `write_table` makes csv, md, tex and json of it,
and the page shows what it finds in the json files. This module needs no torch.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from airpipe.errors import AirpipeError
from airpipe.provenance import write_json, write_text
from airpipe.reporting.frames import csv_frame
from airpipe.reporting.markup import md, tex
from airpipe.settings.names import NONE

Row = dict[str, Any]
Mark = Literal["", "best", "worse", "tie"]
Kind = Literal["ours", "none", "published"]

Values = npt.NDArray[np.float64]
Place = tuple[str, str, str]
PLACE = ["dataset", "degradation", "level"]
"""Columns of a long frame that together name what was measured on."""
NUMBERS = {
    *("value", "sd", "low", "high", "published", "gap", "chance", "recovery", "psnr_in", "ssim_in", "psnr", "ssim"),
    *("none", "restored", "gain", "n", "n_images", "seeds"),
}
"""Columns of long frames that hold numbers; all others are text."""
NO_RESTORATION = "no restoration"
EMPTY = "–"
SIGNS = {"worse": "↓", "tie": "≈"}
"""Signs of marks in text; the best number is set in bold instead."""
PRINTED, NOTED = "†", "‡"
"""Signs behind the label of a printed row, and of a row whose models a note speaks of."""
SCHEMA = 2
"""Version of the json form."""


@dataclass(frozen=True)
class Part:
    """One number of a cell as shown, or a word."""

    text: str
    value: float = math.nan
    """The number behind the text, by which the page sorts; NaN for words."""
    mark: Mark = ""
    """best: the best of our own in its column; worse: than no restoration; tie: its interval holds zero."""


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a block: no, one or several numbers."""

    parts: tuple[Part, ...] = ()
    about: tuple[str, ...] = ()
    """Lines on where the numbers come from: model, list, protocol, commit."""


@dataclass(frozen=True)
class Line:
    """One row of a block."""

    label: str
    cells: tuple[Cell, ...]
    kind: Kind = "ours"
    facts: Mapping[str, str] = field(default_factory=dict)
    """What readers may filter by: method, task."""
    models: tuple[str, ...] = ()
    """Ids of the models whose numbers it shows, with or without their seeds."""
    noted: bool = False
    """Whether a note below the table says something of these models, see `airpipe.reporting.marks`."""


@dataclass(frozen=True)
class Block:
    """Rows under one head. Numbers under different protocols never share a column."""

    title: str
    head: tuple[str, ...]
    """Title of the labels, then of each column."""
    lines: tuple[Line, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    """What readers may filter by: protocol."""
    folded: bool = False
    """Whether the page shows it on demand only."""


@dataclass(frozen=True)
class Table:
    """A table in both forms."""

    name: str
    title: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]
    frame: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False)
    """The long frame; empty in a table that was read back."""


def words(*texts: str) -> tuple[Cell, ...]:
    """Cells of one word each."""
    return tuple(Cell((Part(text),)) if text else Cell() for text in texts)


def written(value: float, form: str) -> str:
    """Write a number for readers by a format specification such as ".2f"; the infinite as ∞."""
    return f"{value:{form}}".replace("inf", "∞")


def number(value: Any, digits: int, unit: float = 1.0) -> Part:
    """Show a number with that many digits, in multiples of `unit`; a dash for what is missing."""
    if value is None or value == "" or pd.isna(value):
        return Part(EMPTY)
    scaled = float(value) / unit
    return Part(written(scaled, f".{digits}f"), scaled)


def with_spread(value: float, sd: float | None, digits: int, mark: Mark = "") -> Part:
    """Show a number and, where there is one, its standard deviation."""
    spread = f" ± {sd:.{digits}f}" if sd is not None and math.isfinite(sd) else ""
    return Part(f"{written(value, f'.{digits}f')}{spread}", value, mark)


def spread(values: Iterable[float]) -> Row:
    """Mean, standard deviation (n - 1) and number of values: `value`, `sd`, `seeds`; NaN where it is not defined."""
    found: npt.NDArray[np.float64] = np.fromiter(values, float)
    sd = float(found.std(ddof=1)) if len(found) > 1 and np.isfinite(found).all() else math.nan
    return {"value": float(found.mean()), "sd": sd, "seeds": len(found)}


def counted(values: Values) -> Values:
    """Return the values that count in means: the finite ones, or all where none is."""
    finite = np.isfinite(values)
    return values[finite] if finite.any() else values


def best(values: Iterable[float]) -> float:
    """The largest of several numbers; NaN where there is nothing to compare."""
    found = [value for value in values if not math.isnan(value)]
    return max(found) if len(found) > 1 else math.nan


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Gather the rows that are equal in these columns, in the order in which they first occur."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


# Names


def facts_of(model_id: str, network: str = "") -> dict[str, str]:
    """What readers filter models by: their method, and the tasks where the setting says them after the network.

    >>> facts_of("method/nafnet_5d_short/seed0/train", "nafnet")
    {'method': 'method', 'task': '5d'}
    """
    method, setting = (*model_id.split("/"), "")[:2]
    _, found, tasks = setting.partition(f"{network}_")
    return {"method": method} | ({"task": tasks.split("_")[0]} if network and found else {})


def about_model(model_id: str, card: Mapping[str, Any]) -> tuple[str, ...]:
    """Lines on a model: its id, and commit and settings of its training, where the card knows them."""
    settings = f"settings {card['settings_hash'][:12]}" if card.get("settings_hash") else ""
    return tuple(text for text in (f"model {model_id}", f"commit {commit_of(card)}", settings) if text)


def commit_of(card: Mapping[str, Any]) -> str:
    """The commit that a model was made at, as far as its card knows."""
    git = card.get("git") or {}
    if not git.get("commit"):
        return "not in git"
    return str(git["commit"])[:12] + (" with uncommitted changes" if git.get("dirty") else "")


def without_seed(model_id: str) -> str:
    """Take the seed out of a model id: method/nafnet_5d/seed0/train becomes method/nafnet_5d/train; others stay."""
    return "/".join(part for part in model_id.split("/") if not re.fullmatch(r"seed\d+", part))


def without_variant(model: str) -> str:
    """Take the variant out of a model id or name, whose folder and card it shares: model@s becomes model."""
    return model.partition("@")[0]


def setting_of(model: str) -> str:
    """How tables name a model in the configuration: a model id without its stage (and seed).

    >>> setting_of("method/nafnet_5d/train@s")
    'method/nafnet_5d@s'
    """
    path, at, variant = model.partition("@")
    return "/".join(path.split("/")[:2]) + at + variant


def place_of(row: Mapping[Any, Any]) -> Place:
    """What the number of a row was measured on: its values of `PLACE`."""
    return row["dataset"], row["degradation"], row["level"]


def shown_protocol(found: Sequence[str], wanted: str) -> str:
    """The protocol whose numbers figures show: the wanted one where it was used, otherwise the first one."""
    return wanted if wanted in found else found[0]


def place_names(places: Sequence[tuple[Any, ...]]) -> list[str]:
    """Column titles: degradation and level, with the data set in front where there are several."""
    several = len({place[0] for place in places if place[0]}) > 1
    return [" ".join(str(part) for part in (place if several else place[1:]) if part) for place in places]


def short_labels(models: Iterable[str]) -> dict[str, str]:
    """The shortest name of each model that no other one has: setting, method/setting or all of it.

    The method is left out only where all models have the same one.

    >>> short_labels(["none", "one/nafnet_5d/finetune", "other/nafnet_5d/train"])["none"]
    'no restoration'
    """
    names = [str(model) for model in models]
    own = [name for name in names if name != NONE]
    labels = dict.fromkeys(names, NO_RESTORATION)
    methods = {name.split("/")[0] for name in own}
    for name in own:
        parts = name.split("/")
        if len(parts) < 3:
            labels[name] = name
            continue
        choices = (parts[1], "/".join(parts[:2]), name)
        rivals = [other.split("/") for other in own if other != name]
        settings = {other[1] for other in rivals} if len(methods) == 1 else {parts[1]}
        taken = (settings, {"/".join(other[:2]) for other in rivals}, set[str]())
        labels[name] = next(choice for choice, used in zip(choices, taken, strict=True) if choice not in used)
    return labels


# Writing


def write_table(table: Table, folder: Path) -> None:
    """Write <name>.csv (the long frame), .md, .tex and .json (blocks and notes) below `folder`.

    Raises:
        AirpipeError: the table has no line.
    """
    if not any(block.lines for block in table.blocks):
        raise AirpipeError(f"table {table.name} has no lines; nothing was written. Give it models and tests")
    write_text(folder / f"{table.name}.csv", table.frame.to_csv(index=False))
    write_text(folder / f"{table.name}.md", markdown(table))
    write_text(folder / f"{table.name}.tex", latex(table))
    write_json(folder / f"{table.name}.json", as_json(table))


def as_json(table: Table) -> Row:
    """The blocks and notes of a table as JSON has it; None stands for numbers that are missing or infinite."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [finite(inner) for inner in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    shown = {"name": table.name, "title": table.title, "notes": table.notes}
    return finite({"schema": SCHEMA, **shown, "blocks": [asdict(block) for block in table.blocks]})  # type: ignore[no-any-return]


def read_table(path: Path) -> Table:
    """Read the json of a table, for the page.

    Raises:
        AirpipeError: it is missing, not JSON, or of another version.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AirpipeError(f"{path}: cannot be read ({error}); make the table again: snakemake {path}") from None
    if found.get("schema") != SCHEMA:
        raise AirpipeError(f"{path}: has form {found.get('schema')!r}, expected {SCHEMA}; delete it and make it again")
    blocks = tuple(_read_block(block) for block in found["blocks"])
    return Table(found["name"], found["title"], blocks, tuple(found["notes"]))


def _read_block(found: Mapping[str, Any]) -> Block:
    lines = []
    for line in found["lines"]:
        cells = []
        for cell in line["cells"]:
            parts = [
                Part(part["text"], math.nan if part["value"] is None else part["value"], part["mark"])
                for part in cell["parts"]
            ]
            cells.append(Cell(tuple(parts), tuple(cell["about"])))
        shown = (line["kind"], line["facts"], tuple(line["models"]), line["noted"])
        lines.append(Line(line["label"], tuple(cells), *shown))
    return Block(found["title"], tuple(found["head"]), tuple(lines), found["facts"], found["folded"])


def read_frame(path: Path) -> pd.DataFrame:
    """Read the csv of a table: texts as text, the columns of `NUMBERS` as float.

    Raises:
        AirpipeError: it is missing or damaged, or a number is none.
    """
    frame = csv_frame(path, NUMBERS)
    return frame.astype({name: float for name in frame if name in NUMBERS})


# Markdown


def markdown(table: Table) -> str:
    """The table as Markdown: one pipe table per block, then the notes."""
    parts = [f"# {md(table.title)}"]
    for block in table.blocks:
        rule = ["---", *["---:"] * (len(block.head) - 1)]
        body = [[md(_label(line)), *(_md_cell(cell) for cell in line.cells)] for line in block.lines]
        rows = [[md(name) for name in block.head], rule, *body]
        parts += [f"## {md(block.title)}"] if block.title else []
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    if table.notes:
        parts.append("\n".join(f"- {md(note)}" for note in table.notes))
    return "\n\n".join(parts) + "\n"


def _md_cell(cell: Cell) -> str:
    shown = [f"**{md(part.text)}**" if part.mark == "best" else md(_signed(part)) for part in cell.parts]
    return " / ".join(shown) or EMPTY


def _signed(part: Part) -> str:
    return f"{part.text} {SIGNS[part.mark]}" if part.mark in SIGNS else part.text


def _label(line: Line) -> str:
    return line.label + (f" {PRINTED}" if line.kind == "published" else "") + (f" {NOTED}" if line.noted else "")


# LaTeX


def latex(table: Table) -> str:
    """The table as LaTeX (packages booktabs, amssymb and, for quotation marks, fontenc with T1), one table per block.

    Title and notes are its caption.
    """
    return "\n".join(_tex_block(block, table) for block in table.blocks)


def _tex_block(block: Block, table: Table) -> str:
    caption = " ".join(f"{text.rstrip('.')}." for text in (table.title, block.title, *table.notes) if text)
    body = [[tex(_label(line)), *(_tex_cell(cell) for cell in line.cells)] for line in block.lines]
    return "\n".join(
        [
            "\\begin{table}",
            "  \\centering",
            f"  \\caption{{{tex(caption)}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(block.head) - 1)}}}",
            "    \\toprule",
            f"    {_tex_row(map(tex, block.head))}",
            "    \\midrule",
            *(f"    {_tex_row(row)}" for row in body),
            "    \\bottomrule",
            "  \\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


def _tex_row(cells: Iterable[str]) -> str:
    """One row; braces keep the end of the row before from reading its first character as an option."""
    row = " & ".join(cells)
    return f"{'{}' if row.startswith(('[', '*')) else ''}{row} \\\\"


def _tex_cell(cell: Cell) -> str:
    shown = [f"\\textbf{{{tex(part.text)}}}" if part.mark == "best" else tex(_signed(part)) for part in cell.parts]
    return " / ".join(shown) or tex(EMPTY)
