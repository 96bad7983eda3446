"""Long tables of the recognition tests; `recognition_text` shows them to readers. This module needs no torch.

A variant says what recognisers saw. `clean`: clean images; `degraded`: degraded ones; `restored`, `restored_clean`:
what an enhancer makes of the two. Stages that train a part of a network (`registry.Stage.part`) have names of their
own: `<part>_only`, `<part>_clean`, and `<part>_<degradation>` of a part that is told which degradation it is, shown on
tests of that degradation only.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from airpipe.errors import AirpipeError
from airpipe.evaluation.detection import METRICS, average_precision, read_detections, read_truth
from airpipe.registry import stage_at
from airpipe.reporting.tables import NONE, Row, read_json, without_seed
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
NUMBERS = ("value", "sd", "recovery", "chance", "psnr_in", "ssim_in", "psnr", "ssim")
MEASURES = {
    ("classification", "top1"): ("chance", "images"),
    ("retrieval", "rank1"): ("chance_rank1", "queries"),
    ("retrieval", "map"): ("chance_map", "queries"),
}
"""Under which keys of a result chance and count stand, by task and metric."""
PLACE = ["dataset", "degradation", "level"]
"""Columns that together name a test for readers."""


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


def read_recognition(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Read results of the recognition tests, in the order given.

    Raises:
        AirpipeError: a file is missing or not JSON.
    """
    return [read_json(path) for path in paths]


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


# The long tables


def recognition_table(results: Sequence[Result], story: Story) -> pd.DataFrame:
    """The recognition table: one row per recogniser, metric, test, variant and model, mean over seeds in percent.

    n_images is the number of the seed with the fewest, sd is over seeds (n - 1). recovery is (restored - degraded) /
    (clean - degraded), where a clean test of the same list is there and the degradation costs something. chance is
    what guessing reaches.

    Args:
        results: results of the tests, from `read_recognition`.
        story: order of tests and recognisers, detections.

    Returns:
        COLUMNS; empty cells are "" or NaN.

    Raises:
        AirpipeError: a result lacks a test or recogniser.
    """
    rows = [row for result in results for row in _measured(result, story)]
    frame = pd.DataFrame(rows)
    found: list[Row] = []
    for keys, group in _groups(frame, ["recogniser", "task", "metric", "test", *PLACE, "variant", "model", "list"]):
        values = group["value"].to_numpy(float)
        counted = {"n_images": int(group["n_images"].min()), "chance": group["chance"].mean()}
        found.append(keys | _spread(values) | counted)
    with_recovery = [{**row, "recovery": _recovery(row, found)} for row in found]
    rank = {name: place for place, name in enumerate(story.recognisers)}
    with_recovery.sort(key=lambda row: rank[row["recogniser"]])  # stable: the rest stays in order
    detected = [row for name, entry in story.detections.items() for row in detection_rows(name, entry)]
    return pd.DataFrame([*with_recovery, *detected], columns=list(COLUMNS))


def _groups(frame: pd.DataFrame, keys: list[str]) -> list[tuple[Row, pd.DataFrame]]:
    groups = frame.groupby(keys, sort=False, dropna=False)
    return [(dict(zip(keys, values, strict=True)), group) for values, group in groups]


def _spread(values: Any) -> Row:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return {"value": float(np.mean(values)), "sd": sd, "seeds": len(values)}


def _measured(result: Result, story: Story) -> list[Row]:
    """All numbers of one enhancer and seed that are shown, test by test."""
    rows = []
    for test, facts, common in _shown(result, story):
        for name in story.recognisers:
            if name not in facts["recognition"]:
                raise AirpipeError(
                    f"recognition of {result['model']}: no recogniser {name} in test {test}; run it again"
                )
            for (task, metric), (chance, count) in MEASURES.items():
                scores = facts["recognition"][name].get(task)
                if scores is not None:
                    number = facts["images"] if count == "images" else scores[count]
                    rows.append(
                        {
                            **common,
                            "recogniser": name,
                            "task": task,
                            "metric": metric,
                            "value": scores[metric],
                            "chance": scores[chance],
                            "n_images": number,
                        }
                    )
    return rows


def _shown(result: Result, story: Story) -> list[tuple[str, Mapping[str, Any], Row]]:
    """Tests of a result that are shown, in order, and what identifies their rows."""
    model, found = without_seed(result["model"]), []
    for test in story.tests:
        facts = result["tests"].get(test)
        if facts is None:
            raise AirpipeError(f"recognition of {result['model']}: no test {test} in its result; run it again")
        variant = variant_of(model, facts["degradation"])
        if variant is not None:
            texts = {name: facts[name] for name in PLACE}
            split = facts["pairs"].split(".")[1]
            common = {"test": test, **texts, "variant": variant, "model": "" if model == NONE else model}
            found.append((test, facts, {**common, "list": f"{facts['dataset']}.{split}"}))
    return found


def _recovery(row: Row, rows: Sequence[Row]) -> float:
    """Share of what the degradation cost that restoring brings back."""
    if row["variant"] in ("clean", "degraded") or row["degradation"] == CLEAN:
        return math.nan
    same = [r for r in rows if all(r[k] == row[k] for k in ("recogniser", "metric", "list"))]
    clean = [r["value"] for r in same if r["variant"] == "clean"]
    degraded = [r["value"] for r in same if r["variant"] == "degraded" and r["test"] == row["test"]]
    return recovery(row["value"], degraded[0], clean[0]) if clean and degraded else math.nan


def recovery(restored: float, degraded: float, clean: float) -> float:
    """Share of the loss by degrading that restoring brings back; NaN where degrading costs nothing.

    It is (restored - degraded) / (clean - degraded): 1 is all of it, below 0 restoring does harm.
    """
    lost = clean - degraded
    return (restored - degraded) / lost if lost > 0 else math.nan


def detection_rows(name: str, entry: Mapping[str, Any]) -> list[Row]:
    """Rows with AP, AP50 and AP75 of an external detector on each variant.

    Args:
        name: name of the data set.
        entry: see `Story.detections`.

    Raises:
        AirpipeError: files that are not in COCO's layout or do not belong together.
    """
    truth = read_truth(Path(entry["annotations"]))
    found = {
        variant: average_precision(truth, read_detections(Path(file), truth))
        for variant, file in entry["detections"].items()
    }
    common = {"recogniser": entry["recogniser"] or "detector", "task": "detection", "dataset": name, "model": ""}
    common |= {key: entry[key] for key in ("degradation", "level")} | {"n_images": len(truth.images)}
    rows = []
    for variant, values in found.items():
        for metric in METRICS:
            again = math.nan
            if variant not in ("clean", "degraded") and {"clean", "degraded"} <= set(found):
                again = recovery(values[metric], found["degraded"][metric], found["clean"][metric])
            numbers = {"value": values[metric], "sd": math.nan, "seeds": 1, "recovery": again, "chance": math.nan}
            rows.append({**common, "metric": metric, "variant": variant, **numbers})
    return rows


def restoration_table(results: Sequence[Result], story: Story) -> pd.DataFrame:
    """The restoration table: PSNR in dB and SSIM of input and result by test, variant and model.

    Values are means over images and seeds; n is the number of images of the seed with the fewest; sd is that of psnr
    over seeds; inf: an image equals its clean one.

    Returns:
        RESTORATION_COLUMNS.
    """
    rows = []
    for result in results:
        for _, facts, common in _shown(result, story):
            scores = {key: math.inf if value is None else value for key, value in facts["restoration"].items()}
            rows.append({**common, "n": facts["images"], **scores})
    found = []
    for keys, group in _groups(pd.DataFrame(rows), ["test", *PLACE, "variant", "model", "list"]):
        with np.errstate(invalid="ignore"):  # inf - inf
            spread = _spread(group["psnr"].to_numpy(float))
        means = {name: float(group[name].mean()) for name in ("psnr_in", "ssim_in", "psnr", "ssim")}
        found.append({**keys, **means, "n": int(group["n"].min()), "sd": spread["sd"], "seeds": spread["seeds"]})
    return pd.DataFrame(found, columns=list(RESTORATION_COLUMNS))


def read_long(path: Path) -> pd.DataFrame:
    """Read a long table of the recognition tests: texts as text, numbers as float."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers = [name for name in (*NUMBERS, "n", "n_images", "seeds") if name in frame]
    return frame.assign(**{name: pd.to_numeric(frame[name]).astype(np.float64) for name in numbers})
