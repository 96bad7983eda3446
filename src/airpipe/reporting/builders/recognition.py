"""The tables of the recognition tests: what recognisers tell of restored images, and how these were restored.

A variant says what recognisers saw. `clean`: clean images; `degraded`: degraded ones; `restored`, `restored_clean`:
what an enhancer makes of the two. Stages that train a part of a network (`registry.Stage.part`) have names of their
own: `<part>_only`, `<part>_clean`, and `<part>_<degradation>` of a part that is told which degradation it is, shown on
tests of that degradation only. This module needs no torch.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from airpipe.errors import AirpipeError
from airpipe.evaluation.detection import METRICS, average_precision, read_detections, read_truth
from airpipe.registry import stage_at
from airpipe.reporting.published import scale_notes
from airpipe.reporting.table import (
    NO_RESTORATION,
    PLACE,
    SIGNS,
    Block,
    Cell,
    Line,
    Mark,
    Row,
    Table,
    best,
    facts_of,
    grouped,
    place_names,
    spread,
    with_spread,
    without_seed,
)
from airpipe.settings.names import NONE
from airpipe.settings.studies import CLEAN

Result = Mapping[str, Any]
"""Content of results/recognition/seed<k>/<model>.json, see `airpipe.evaluation.recognition.recognise`."""
COLUMNS = (
    *("recogniser", "task", "metric", "dataset", "degradation", "level", "variant", "model"),
    *("value", "sd", "seeds", "recovery", "n_images", "chance"),
)
RESTORATION_COLUMNS = (
    *("dataset", "degradation", "level", "variant", "model", "n"),
    *("psnr_in", "ssim_in", "psnr", "ssim", "sd", "seeds"),
)
MEASURES = {
    ("classification", "top1"): ("chance", "images"),
    ("retrieval", "rank1"): ("chance_rank1", "queries"),
    ("retrieval", "map"): ("chance_map", "queries"),
}
"""Under which keys of a result chance and count stand, by task and metric."""
TITLES = {"top1": "top-1", "rank1": "Rank-1", "map": "mAP"}
SHOWN = ("test", *PLACE, "variant", "model", "list")
"""What identifies the rows of a test that is shown."""


@dataclass(frozen=True)
class Story:
    """What the configuration says around the numbers."""

    scale: str
    tests: Sequence[str]
    """Names of the tests, in the order of the columns."""
    recognisers: Sequence[str]
    """Names of the recognisers, the headline first."""
    abouts: Mapping[str, str] = field(default_factory=dict)
    """What each enhancer's setting is for, in words, by method/setting."""
    detections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Files of an external detector and what tables say of them, by data set: `annotations`, `detections` (variant:
    file), `recogniser`, `degradation`, `level`."""


def recognition_table(results: Sequence[Result], story: Story, name: str = "recognition") -> Table:
    """The recognition table: one block per recogniser and metric, in percent; lines are enhancers, columns tests.

    Args:
        results: results of the tests.
        story: order of tests and recognisers, detections.
        name: name of the table.

    Returns:
        A frame of COLUMNS with a row per recogniser, metric, test, variant and model: the mean over seeds, sd over
        them (n - 1), n_images of the seed with the fewest. recovery is (restored - degraded) / (clean - degraded),
        where a clean test of the same list is there and the degradation costs something. chance is what guessing
        reaches.

    Raises:
        AirpipeError: a result lacks a test or recogniser.
    """
    measured = [row for result in results for row in _measured(result, story)]
    rows = _over_seeds(measured, ("recogniser", "task", "metric", *SHOWN), "value", ["chance"], "n_images")
    detected = [row for dataset, entry in story.detections.items() for row in _detected(dataset, entry)]
    for row in (*rows, *detected):
        row["recovery"] = _recovery(row, [*rows, *detected])
    rows.sort(key=lambda row: story.recognisers.index(row["recogniser"]))  # stable: the rest stays in order
    blocks = []
    for (recogniser, task, metric), same in grouped(rows, "recogniser", "task", "metric").items():
        chance = " / ".join(f"{value:.1f}" for value in sorted({round(row["chance"], 1) for row in same}))
        title = f"Recogniser {recogniser}, {TITLES[metric]} (%, chance {chance})"
        lines = _lines(same, PLACE, {"value": 1}, NO_RESTORATION)
        places = place_names(list(grouped(same, *PLACE)))
        blocks.append(Block(title, ("input of the recogniser", *places), lines, {"task": task}))
    for keys, same in grouped(detected, "recogniser", *PLACE).items():
        title = f"Detections, {' '.join(key for key in keys if key)} (%)"
        lines = _lines(same, ["metric"], {"value": 1}, "degraded")
        blocks.append(Block(title, ("variant", *METRICS), lines, {"task": "detection"}))
    frame = pd.DataFrame([*rows, *detected], columns=list(COLUMNS))
    return Table(
        name, "Recognition", tuple(blocks), tuple(_recognition_notes(rows, results, story) if rows else ()), frame
    )


def restoration_table(results: Sequence[Result], story: Story, name: str = "restoration") -> Table:
    """The restoration table: PSNR in dB / SSIM of the same tests; lines are enhancers, columns tests.

    Returns:
        A frame of RESTORATION_COLUMNS with a row per test, variant and model: means over images and seeds of input
        and result; n is the number of images of the seed with the fewest; sd is that of psnr over seeds; inf: all
        images equal their clean ones (single ones that do are left out).
    """
    scored = [
        {**common, "n": facts["images"], "equal": facts.get("equal", 0)}
        | {k: math.inf if v is None else v for k, v in facts["restoration"].items()}
        for result in results
        for facts, common in _shown(result, story)
    ]
    rows = _over_seeds(scored, SHOWN, "psnr", ["psnr_in", "ssim_in", "psnr", "ssim"], "n")
    lines = _lines(rows, PLACE, {"psnr": 2, "ssim": 3}, NO_RESTORATION)
    block = Block("PSNR (dB) / SSIM", ("enhancer", *place_names(list(grouped(rows, *PLACE)))), lines)
    frame = pd.DataFrame(rows, columns=list(RESTORATION_COLUMNS))
    return Table(name, "Restoration", (block,), tuple(_restoration_notes(rows, scored, story) if rows else ()), frame)


# Names


def variant_of(model: str, degradation: str) -> str | None:
    """Name the variant that recognisers saw after a model, see above; None where it is not shown.

    Args:
        model: model id without its seed.
        degradation: degradation of the test.

    >>> variant_of("imported/mine", "haze")
    'restored'
    """
    clean = degradation == CLEAN
    if model == NONE:
        return "clean" if clean else "degraded"
    part, own = part_of(model)
    if not part:
        return "restored_clean" if clean else "restored"
    if own:
        return f"{part}_{degradation}" if degradation == own else None
    return f"{part}_clean" if clean else f"{part}_only"


def part_of(model: str) -> tuple[str, str]:
    """Name the part of its method's network that a model is, and the degradation that it is told; each "" for none.

    Args:
        model: model id without its seed.
    """
    path = model.partition("@")[0]
    method, stage = path.partition("/")[0], path.rpartition("/")[2]
    entry, wildcards = stage_at(method, stage) or (None, {})
    return (entry.part, wildcards.get("degradation", "")) if entry is not None and entry.part else ("", "")


def row_label(model: str, models: Iterable[str]) -> str:
    """Name a line for readers: the setting, and which part of its network the model is.

    Args:
        model: model id without its seed; empty: no restoration.
        models: ids of all models in the table.

    >>> row_label("method/nafnet_5d/train", [])
    'method/nafnet_5d'
    """
    if not model:
        return NO_RESTORATION
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


# Rows


def _shown(result: Result, story: Story) -> Iterator[tuple[Mapping[str, Any], Row]]:
    """Tests of a result that are shown, in order, and what identifies their rows."""
    model = without_seed(result["model"])
    for test in story.tests:
        facts = result["tests"].get(test)
        if facts is None:
            raise AirpipeError(f"recognition of {result['model']}: no test {test} in its result; run it again")
        variant = variant_of(model, facts["degradation"])
        if variant is not None:
            common = {"test": test, "variant": variant, "id": result["model"], "pairs": facts["pairs"]}
            common |= {"model": "" if model == NONE else model, **{name: facts[name] for name in PLACE}}
            yield facts, common | {"list": f"{facts['dataset']}.{facts['pairs'].split('.')[1]}"}


def _measured(result: Result, story: Story) -> Iterator[Row]:
    """All numbers of one enhancer and seed that are shown, test by test."""
    for facts, common in _shown(result, story):
        for name in story.recognisers:
            if name not in facts["recognition"]:
                raise AirpipeError(
                    f"recognition of {result['model']}: no recogniser {name} in test {common['test']}; run it again"
                )
            common |= {"recogniser": name, "judge": result["recognisers"][name]["id"]}
            for (task, metric), (chance, count) in MEASURES.items():
                if scores := facts["recognition"][name].get(task):
                    counted = {"images": facts["images"], **scores}[count]
                    numbers = {"value": scores[metric], "chance": scores[chance], "n_images": counted}
                    yield common | {"task": task, "metric": metric} | numbers


def _over_seeds(rows: Sequence[Row], keys: Sequence[str], main: str, means: Sequence[str], count: str) -> list[Row]:
    """One row for all seeds: spread of one number, means of others, the smallest count, and where they come from."""
    models, found = {row["model"] for row in rows}, []
    for key, same in grouped(rows, *keys).items():
        row = dict(zip(keys, key, strict=True)) | spread(one[main] for one in same)
        row |= {name: float(np.mean([one[name] for one in same])) for name in means}
        row |= {count: min(one[count] for one in same), "label": row_label(row["model"], models)}
        row["oracle"] = bool(part_of(row["model"])[1])
        row["about"] = _about(same, row[count])
        found.append(row)
    return found


def _about(same: Sequence[Row], images: int) -> tuple[str, ...]:
    """Lines on where numbers come from; the model ids say the seeds."""
    models = dict.fromkeys(f"model {row['id']}" for row in same)
    judges = dict.fromkeys(f"recogniser {row['judge']}" for row in same if "judge" in row)
    return (*models, *judges, f"{images} images of {', '.join(dict.fromkeys(row['pairs'] for row in same))}")


def _recovery(row: Row, rows: Sequence[Row]) -> float:
    """Share of what the degradation costs that restoring brings back: 1 is all of it, below 0 restoring does harm.

    It is NaN where nothing was restored, nothing is lost, or the clean images or the degraded ones were not tested.
    """
    if row["variant"] in ("clean", "degraded") or row["degradation"] == CLEAN:
        return math.nan
    same = [r for r in rows if all(r[k] == row[k] for k in ("recogniser", "metric", "list"))]
    clean = [r["value"] for r in same if r["variant"] == "clean"]
    degraded = [r["value"] for r in same if r["variant"] == "degraded" and r["test"] == row["test"]]
    lost = clean[0] - degraded[0] if clean and degraded else 0.0
    return (row["value"] - degraded[0]) / lost if lost > 0 else math.nan


def _detected(name: str, entry: Mapping[str, Any]) -> Iterator[Row]:
    """AP, AP50 and AP75 of an external detector on each variant of a data set, see `Story.detections`.

    Raises:
        AirpipeError: files that are not in COCO's layout or do not belong together.
    """
    truth = read_truth(Path(entry["annotations"]))
    common = {"recogniser": entry["recogniser"] or "detector", "task": "detection", "dataset": name, "model": ""}
    common |= {"degradation": entry["degradation"], "level": entry["level"], "list": name, "test": name}
    common |= {"n_images": len(truth.images), "seeds": 1, "sd": math.nan}
    for variant, file in entry["detections"].items():
        shown = {"variant": variant, "label": variant, "oracle": variant == "clean", "about": (str(file),)}
        for metric, value in average_precision(truth, read_detections(Path(file), truth)).items():
            yield {**common, **shown, "metric": metric, "value": value}


# For readers


def _lines(rows: Sequence[Row], column: Sequence[str], shown: Mapping[str, int], none: str) -> tuple[Line, ...]:
    """One line per label, one cell per value of `column`; the best of all but oracles, and what is below none, marked.

    Args:
        rows: numbers with their `label`, `about` and `oracle`.
        column: keys that together name a column.
        shown: numbers of a cell with their digits; the first one has a spread.
        none: label of the line that restores nothing.
    """
    cells: dict[str, dict[Any, Cell]] = {row["label"]: {} for row in rows}
    models = {row["label"]: (row["model"],) if row["model"] else () for row in rows}
    facts = {label: facts_of(*ids) if ids else {} for label, ids in models.items()}
    columns = grouped(rows, *column)
    for place, same in columns.items():
        before = next((row for row in same if row["label"] == none), None)
        highest = {name: best(row[name] for row in same if not row["oracle"]) for name in shown}
        for row in same:
            spreads = (row["sd"], *[None] * (len(shown) - 1))
            parts = [
                with_spread(row[name], sd, digits, _mark(row, name, highest[name], before))
                for (name, digits), sd in zip(shown.items(), spreads, strict=True)
            ]
            cells[row["label"]][place] = Cell(tuple(parts), row["about"])
    lines = {label: tuple(found.get(place, Cell()) for place in columns) for label, found in cells.items()}
    return tuple(
        Line(label, line, "none" if label == none else "ours", facts[label], models[label])
        for label, line in lines.items()
    )


def _mark(row: Row, name: str, highest: float, before: Row | None) -> Mark:
    if row[name] == highest and not row["oracle"]:
        return "best"
    return "worse" if before is not None and row[name] < before[name] else ""


def _recognition_notes(rows: Sequence[Row], results: Sequence[Result], story: Story) -> list[str]:
    notes = scale_notes(story.scale)
    notes.append(
        "Recognisers were trained on clean images and are frozen; no enhancer learns from their answers. Restored "
        "images are rounded to 8 bit, as files are. chance: what guessing reaches."
    )
    notes.append(f"bold: the best in its column; {SIGNS['worse']}: below the same images without restoration.")
    notes.append(_about_seeds(rows, results))
    for part in sorted({part for part, told in (part_of(row["model"]) for row in rows) if told}):
        notes.append(
            f"own {part}: the single {part} of the test's degradation, which it is told (an oracle; never bold)."
        )
    notes += _about_sharing(results, story)
    return notes + [f"{model}: {about}." for model, about in story.abouts.items() if about]


def _about_seeds(rows: Sequence[Row], results: Sequence[Result]) -> str:
    seeds = sorted({result["seed"] for result in results})
    # largest standard error of a share: sqrt(p (1 - p) / n) with p = 1/2, in percent
    told = f"One seed ({seeds[0]})"
    if len(seeds) > 1:
        told = f"±: standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))})"
    if counts := [row["n_images"] for row in rows if row["task"] == "classification"]:
        error = 50 / math.sqrt(min(counts))
        told += f"; of {min(counts)} images a share has a standard error of up to {error:.1f} points"
    return f"{told}."


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


def _restoration_notes(rows: Sequence[Row], scored: Sequence[Row], story: Story) -> list[str]:
    notes = scale_notes(story.scale)
    notes.append(
        f"RGB, [0, 1], rounded to 8 bit; mean over images. bold: the best in its column; "
        f"{SIGNS['worse']}: below the input."
    )
    if (seeds := max(row["seeds"] for row in rows)) > 1:
        notes.append(f"±: standard deviation over {seeds} seeds; n: images of the seed that has the fewest.")
    if any(math.isinf(row["psnr"]) for row in rows):
        notes.append("∞: all images equal their clean ones.")
    if partly := [f"{one['equal']} of {one['n']} of {one['test']}" for one in scored if 0 < one["equal"] < one["n"]]:
        notes.append(f"Images equal to their clean ones are left out of mean PSNR: {', '.join(dict.fromkeys(partly))}.")
    return notes
