"""Tables as people read them: pivots with one block per protocol, in Markdown and LaTeX; and all files.

Numbers under different protocols never share a block, let alone a column. This module needs no torch.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from airpipe.provenance import write_json, write_text
from airpipe.reporting.published import PAPER_SCALE, UNKNOWN_PROTOCOL, read_all
from airpipe.reporting.tables import (
    GAIN_COLUMNS,
    NO_RESTORATION,
    NONE,
    PLACE,
    Card,
    Row,
    build_table,
    check_budgets,
    image_gains,
    metrics,
    read_scores,
    read_table,
)

# Pivots


@dataclass(frozen=True)
class Cell:
    """PSNR in dB and SSIM of one model in one column, as shown; '' where there is none."""

    psnr: str = ""
    ssim: str = ""
    psnr_best: bool = False
    ssim_best: bool = False


@dataclass(frozen=True)
class Line:
    """One row of a block."""

    label: str
    published: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Block:
    """All numbers under one protocol."""

    protocol: str
    dataset: str
    """Id of the data set where the block has only one; the columns name it otherwise."""
    columns: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def title(self) -> str:
        """Protocol and data set, for headings."""
        return f"Protocol {self.protocol}" + (f", data set {self.dataset}" if self.dataset else "")


def pivot(table: pd.DataFrame) -> list[Block]:
    """Turn the long table into one block per protocol: rows are models, columns are degradation and level.

    The best of our own numbers in a column (no restoration takes part) is marked, PSNR and SSIM
    each. Published rows stand last in their block and take no part.
    """
    shown = table[table["metric"].isin(["psnr", "ssim"])]
    labels = short_labels(shown.loc[shown["model"] != "published", "model"].unique())
    protocols = list(dict.fromkeys(shown["protocol"]))
    protocols.sort(key=lambda name: name == UNKNOWN_PROTOCOL)
    return [_block(shown[shown["protocol"] == name], name, labels) for name in protocols]


def _block(part: pd.DataFrame, protocol: str, labels: Mapping[str, str]) -> Block:
    places = list(dict.fromkeys(part[PLACE].itertuples(index=False, name=None)))
    rows: dict[str, dict[tuple[Any, ...], Row]] = {}
    for row in part.to_dict("records"):
        label = labels.get(row["model"]) or published_label(row)
        place = (*(row[name] for name in PLACE), row["metric"])
        rows.setdefault(label, {})[place] = {str(key): value for key, value in row.items()}
    best = {place: _best(rows, place) for cells in rows.values() for place in cells}
    lines = tuple(
        Line(
            label,
            next(iter(cells.values()))["model"] == "published",
            tuple(_cell(cells, place, best) for place in places),
        )
        for label, cells in rows.items()
    )
    datasets = {str(place[0]) for place in places}
    return Block(protocol, datasets.pop() if len(datasets) == 1 else "", tuple(place_names(places)), lines)


def _best(rows: Mapping[str, Mapping[tuple[Any, ...], Row]], place: tuple[Any, ...]) -> float:
    values = [float(cells[place]["value"]) for cells in rows.values() if place in cells]
    values = [value for value in values if not math.isnan(value)]
    return max(values) if len(values) > 1 else math.nan


def _cell(cells: Mapping[tuple[Any, ...], Row], place: tuple[Any, ...], best: Mapping[Any, float]) -> Cell:
    texts, marks = [], []
    for metric, digits in (("psnr", 2), ("ssim", 3)):
        row = cells.get((*place, metric))
        texts.append(_number(row, digits) if row else "")
        marks.append(bool(row) and row is not None and row["value"] == best[(*place, metric)])
    return Cell(texts[0], texts[1], marks[0], marks[1])


def _number(row: Row, digits: int) -> str:
    value = row["published"] if row["model"] == "published" else row["value"]
    text = f"{float(value):.{digits}f}"
    return f"{text} ± {float(row['sd']):.{digits}f}" if not math.isnan(float(row["sd"])) else text


def place_names(places: Sequence[tuple[Any, ...]]) -> list[str]:
    """Column titles: degradation and level, with the data set in front where there are several."""
    several = len({place[0] for place in places}) > 1
    return [" ".join(str(part) for part in (place if several else place[1:]) if part) for place in places]


def published_label(row: Mapping[Any, Any]) -> str:
    """Name of a published row, with its setting and source."""
    return f"{row['method']}, {row['setting']} [{row['source']}]"


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


def notes(table: pd.DataFrame, scale: str) -> list[str]:
    """Notes that must stand under a table: the scale, the spread over seeds, infinite values, published rows."""
    lines = []
    if scale != PAPER_SCALE:
        lines.append(f"{scale} scale: not comparable with published numbers.")
    lines.append("PSNR in dB / SSIM, mean over images; bold: the best of our own numbers in a column.")
    trained = table[~table["model"].isin([NONE, "published"])].drop_duplicates("model")
    budgets = {str(row["model"]): row["samples"] for row in trained.to_dict("records") if row["samples"]}
    if len(budgets) > 1:
        told = ", ".join(f"{model} {int(samples):,}" for model, samples in budgets.items())
        lines.append(f"Training samples, pretraining included: {told}.")
    if table["sd"].notna().any():
        lines.append("±: standard deviation over seeds.")
    if np.isinf(table["value"].to_numpy(float)).any():
        lines.append("inf: an image equals its clean one.")
    if (table["model"] == "published").any():
        lines.append("†: as printed in the source named in brackets; not run here.")
    if (table["protocol"] == UNKNOWN_PROTOCOL).any():
        lines.append("Protocol unknown: how the source measured was not verified; never comparable.")
    return lines


def markdown(table: pd.DataFrame, title: str, scale: str) -> str:
    """The pivots as Markdown, one pipe table per protocol, with their notes."""
    parts = [f"# {title}"]
    for block in pivot(table):
        parts.append(f"## {block.title}")
        head = ["model", *block.columns]
        body = [[_markdown_label(line), *map(_markdown_cell, line.cells)] for line in block.lines]
        parts.append(pipe_table(head, body))
    parts.append("\n".join(f"- {note}" for note in notes(table, scale)))
    return "\n\n".join(parts) + "\n"


def _markdown_label(line: Line) -> str:
    return f"{line.label} †" if line.published else line.label


def _markdown_cell(cell: Cell) -> str:
    psnr = f"**{cell.psnr}**" if cell.psnr_best else cell.psnr
    ssim = f"**{cell.ssim}**" if cell.ssim_best else cell.ssim
    return f"{psnr or '–'} / {ssim or '–'}" if psnr or ssim else "–"


def pipe_table(head: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column left, the others right aligned."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [head, rule, *body]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def latex(table: pd.DataFrame, title: str, scale: str) -> str:
    """The pivots as LaTeX tables (package booktabs), one per protocol, with their notes as caption."""
    return "\n".join(_latex_block(block, title, notes(table, scale)) for block in pivot(table))


def _latex_block(block: Block, title: str, remarks: Sequence[str]) -> str:
    body = [
        " & ".join([tex(line.label) + ("$^\\dagger$" if line.published else ""), *map(_tex_cell, line.cells)])
        for line in block.lines
    ]
    caption = " ".join([f"{title}. {block.title}.", *remarks])
    return "\n".join(
        [
            "\\begin{table}",
            "  \\centering",
            f"  \\caption{{{tex(caption)}}}",
            f"  \\begin{{tabular}}{{l{'c' * len(block.columns)}}}",
            "    \\toprule",
            "    " + " & ".join(["model", *map(tex, block.columns)]) + " \\\\",
            "    \\midrule",
            *(f"    {line} \\\\" for line in body),
            "    \\bottomrule",
            "  \\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


def _tex_cell(cell: Cell) -> str:
    psnr = f"\\textbf{{{tex(cell.psnr)}}}" if cell.psnr_best else tex(cell.psnr)
    ssim = f"\\textbf{{{tex(cell.ssim)}}}" if cell.ssim_best else tex(cell.ssim)
    return f"{psnr or '--'} / {ssim or '--'}" if psnr or ssim else "--"


def tex(text: str) -> str:
    """Escape the characters that LaTeX reads as commands."""
    special = {char: f"\\{char}" for char in "&%$#_{}"}
    special |= {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special |= {"±": "$\\pm$", "†": "$^\\dagger$", "–": "--"}
    return "".join(special.get(char, char) for char in text)


# Gains


def gains_markdown(gains: pd.DataFrame, title: str) -> str:
    """Gain of every image as a Markdown table, with the number of images that lost."""
    head = [name for name in GAIN_COLUMNS if name != "dataset"]
    body = [[_short(row[name]) for name in head] for row in gains.to_dict("records")]
    lost = int((gains["gain"] < 0).sum())
    verdict = f"{lost} of {len(gains)} gains are negative; PSNR in dB."
    return "\n\n".join([f"# {title}: PSNR gain of every image", pipe_table(head, body), verdict]) + "\n"


def _short(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def latex_tabular(head: Sequence[str], body: Sequence[Sequence[str]], texts: int) -> str:
    """A LaTeX tabular (package booktabs); the first `texts` columns left, the others right aligned."""
    lines = [" & ".join(tex(cell) for cell in line) + " \\\\" for line in (head, *body)]
    rule = f"\\begin{{tabular}}{{{'l' * texts}{'r' * (len(head) - texts)}}}"
    return "\n".join([rule, "\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule", "\\end{tabular}", ""])


# Writing


def write_tables(
    name: str,
    scale: str,
    scores: Sequence[Path],
    cards: Mapping[str, Card],
    published: Sequence[Path],
    folder: Path,
    equal_budgets: bool = False,
) -> None:
    """Write <name>.csv, .md and .tex and <name>_gains.csv and .md below `folder`.

    Raises:
        AirpipeError: scores that do not fit together (see `read_scores`, `build_table`), or with
            `equal_budgets` models of other budgets.
    """
    if equal_budgets:
        check_budgets(cards, name)
    values = read_scores(scores)
    table = build_table(values, cards, read_all(published), scale)
    gains = image_gains(values)
    write_text(folder / f"{name}.csv", table.to_csv(index=False))
    write_text(folder / f"{name}.md", markdown(table, name, scale))
    write_text(folder / f"{name}.tex", latex(table, name, scale))
    write_text(folder / f"{name}_gains.csv", gains.to_csv(index=False))
    write_text(folder / f"{name}_gains.md", gains_markdown(gains, name))


def write_metrics(tables: Sequence[Path], target: Path) -> None:
    """Write metrics.json for DVC from long tables, each under the name of its file."""
    write_json(target, metrics({path.stem: read_table(path) for path in tables}))
