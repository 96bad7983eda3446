"""Tables of the recognition tests as people read them: Markdown and LaTeX twins, and all files.

This module needs no torch.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from airpipe.evaluation.detection import METRICS
from airpipe.provenance import write_text
from airpipe.reporting.pivots import latex_tabular, pipe_table
from airpipe.reporting.published import PAPER_SCALE
from airpipe.reporting.recognition import (
    PLACE,
    Result,
    Story,
    part_of,
    read_recognition,
    recognition_table,
    restoration_table,
)
from airpipe.reporting.tables import Row

TITLES = {"top1": "top-1", "rank1": "Rank-1", "map": "mAP", **{name: name for name in METRICS}}
HURTS = "↓"
"""Mark behind a value that is below the one without restoration."""


@dataclass(frozen=True)
class Table:
    """A table for readers, with its title."""

    title: str
    head: list[str]
    body: list[list[str]]


def row_label(model: str, models: Iterable[str]) -> str:
    """Name a row of a table for readers: the setting, and which part of its network the model is.

    Args:
        model: model id without its seed; empty: no restoration.
        models: ids of all models in the table.

    >>> row_label("method/nafnet_5d/train", [])
    'method/nafnet_5d'
    """
    if not model:
        return "no restoration"
    parts = model.split("/")
    setting = "/".join(parts[:2])
    part, told = part_of(model)
    if part:
        return f"{setting}, own {part}" if told else f"{setting}, {part} only"
    rivals = {
        other
        for other in models
        if other != model and other.split("/")[:2] == parts[:2] and not part_of(other)[0] and len(other.split("/")) > 2
    }
    return model if rivals else setting


def column_names(places: Sequence[tuple[str, str, str]]) -> list[str]:
    """Column titles: degradation and level, with the data set in front where there are several."""
    several = len({place[0] for place in places}) > 1
    return [" ".join(part for part in (place if several else place[1:]) if part) for place in places]


def recognition_blocks(table: pd.DataFrame) -> list[Table]:
    """The table for readers: one block per recogniser and metric; rows are enhancers, columns tests."""
    blocks = []
    ours = table[table["task"] != "detection"]
    for (recogniser, _, metric), part in ours.groupby(["recogniser", "task", "metric"], sort=False):
        head, body = _pivot(part, _percent)
        chance = " / ".join(f"{value:.1f}" for value in sorted({round(float(v), 1) for v in part["chance"]}))
        title = f"Recogniser {recogniser}, {TITLES[str(metric)]} (%, chance {chance})"
        blocks.append(Table(title, ["input of the recogniser", *head], body))
    detected = table[table["task"] == "detection"]
    for keys, part in detected.groupby(["recogniser", *PLACE], sort=False):
        name = " ".join(str(key) for key in keys if key)
        by_variant = {str(v): rows.set_index("metric")["value"] for v, rows in part.groupby("variant", sort=False)}
        body = [[variant, *(f"{float(values[m]):.1f}" for m in METRICS)] for variant, values in by_variant.items()]
        blocks.append(Table(f"Detections, {name} (%)", ["variant", *METRICS], body))
    return blocks


def _pivot(part: pd.DataFrame, show: Any) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a block; the first row is no restoration."""
    places = list(dict.fromkeys(part[PLACE].itertuples(index=False, name=None)))
    models = list(dict.fromkeys(part["model"]))
    lines: dict[str, dict[tuple[str, str, str], Row]] = {}
    for row in part.to_dict("records"):
        label = row_label(row["model"], models)
        lines.setdefault(label, {})[tuple(row[name] for name in PLACE)] = {str(k): v for k, v in row.items()}
    none = lines.get("no restoration", {})
    body = [
        [label, *(show(cells[place], none.get(place)) if place in cells else "–" for place in places)]
        for label, cells in lines.items()
    ]
    return column_names(places), body


def _percent(row: Row, none: Row | None) -> str:
    text = f"{float(row['value']):.1f}"
    if not math.isnan(float(row["sd"])):
        text += f" ± {float(row['sd']):.1f}"
    return f"{text} {HURTS}" if none is not None and row["value"] < none["value"] else text


def _decibels(row: Row, none: Row | None) -> str:
    text = f"{float(row['psnr']):.2f}"
    if math.isfinite(float(row["sd"])):
        text += f" ± {float(row['sd']):.2f}"
    text += f" / {float(row['ssim']):.3f}"
    return f"{text} {HURTS}" if none is not None and row["psnr"] < none["psnr"] else text


def restoration_block(table: pd.DataFrame) -> Table:
    """The restoration table for readers: PSNR / SSIM, rows are enhancers, columns tests."""
    head, body = _pivot(table, _decibels)
    return Table("PSNR (dB) / SSIM", ["enhancer", *head], body)


def recognition_notes(table: pd.DataFrame, results: Sequence[Result], story: Story) -> list[str]:
    """Notes that must stand under the recognition table."""
    lines = [f"{story.scale} scale: not comparable with published numbers."] if story.scale != PAPER_SCALE else []
    lines.append(
        "Recognisers were trained on clean images and are frozen; no enhancer learns from their answers. Restored "
        "images are rounded to 8 bit, as files are. chance: what guessing reaches."
    )
    lines.append(f"{HURTS}: below the same images without restoration.")
    lines += _about_seeds(table, results)
    for part in sorted({part for part, told in map(part_of, set(table["model"])) if told}):
        lines.append(f"own {part}: the single {part} of the test's degradation, which it is told (an oracle).")
    lines += _about_sharing(results, story)
    return lines + [f"{model}: {about}." for model, about in story.abouts.items() if about]


def _about_seeds(table: pd.DataFrame, results: Sequence[Result]) -> list[str]:
    seeds = sorted({result["seed"] for result in results})
    # largest standard error of a share: sqrt(p (1 - p) / n) with p = 1/2, in percent
    counts = table.loc[table["task"] == "classification", "n_images"]
    error = f"; of {int(counts.min())} images a share has a standard error of up to " if len(counts) else ""
    error += f"{50 / math.sqrt(counts.min()):.1f} points" if len(counts) else ""
    if len(seeds) == 1:
        return [f"One seed ({seeds[0]}){error}."]
    return [f"±: standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))}){error}."]


def _about_sharing(results: Sequence[Result], story: Story) -> list[str]:
    lines = []
    for name in story.recognisers:
        shared = {
            "/".join(result["model"].split("/")[:2]): result["recognisers"][name]["shared_values"]
            for result in results
            if result["recognisers"][name].get("shared_values")
        }
        if shared:
            told = ", ".join(f"{model} ({count:,} weights)" for model, count in shared.items())
            lines.append(f"Recogniser {name} shares its front with {told}: it is no independent check of them.")
    return lines


def restoration_notes(table: pd.DataFrame, story: Story) -> list[str]:
    """Notes that must stand under the restoration table."""
    lines = [f"{story.scale} scale: not comparable with published numbers."] if story.scale != PAPER_SCALE else []
    lines.append(f"RGB, [0, 1], rounded to 8 bit; mean over images. {HURTS}: below the input.")
    if (table["seeds"] > 1).any():
        seeds = int(table["seeds"].max())
        lines.append(f"±: standard deviation over {seeds} seeds; n: images of the seed that has the fewest.")
    if np.isinf(table["psnr"].to_numpy(float)).any():
        lines.append("inf: an image equals its clean one.")
    return lines


# Files


def read_notes(path: Path) -> list[str]:
    """Read the notes under a table from its Markdown twin."""
    return [line[2:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("- ")]


def write_recognition(paths: Sequence[Path], story: Story, recognition: Path, restoration: Path) -> None:
    """Write both tables as csv, md and tex.

    Args:
        paths: files of all results.
        story: what the configuration says.
        recognition: csv file of the recognition table; its twins stand beside it.
        restoration: csv file of the restoration table, likewise.
    """
    results = read_recognition(paths)
    first, second = recognition_table(results, story), restoration_table(results, story)
    _write(recognition, "Recognition", first, recognition_blocks(first), recognition_notes(first, results, story))
    _write(restoration, "Restoration", second, [restoration_block(second)], restoration_notes(second, story))


def _write(path: Path, title: str, table: pd.DataFrame, blocks: Sequence[Table], remarks: Sequence[str]) -> None:
    parts = [f"# {title}"]
    for block in blocks:
        parts += [f"## {block.title}", pipe_table(block.head, block.body)]
    parts.append("\n".join(f"- {note}" for note in remarks))
    write_text(path, table.to_csv(index=False))
    write_text(path.with_suffix(".md"), "\n\n".join(parts) + "\n")
    twins = [f"% {block.title.replace('%', 'percent')}\n{_latex(block)}" for block in blocks]
    write_text(path.with_suffix(".tex"), "\n".join(twins))


def _latex(block: Table) -> str:
    body = [[cell.replace(HURTS, "-") if cell.endswith(HURTS) else cell for cell in line] for line in block.body]
    return latex_tabular(block.head, body, 1)
