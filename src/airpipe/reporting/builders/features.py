"""The table of the feature analysis: what features tell of degradations. This module needs no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from airpipe.registry import below_head, described, family
from airpipe.reporting.published import PAPER_SCALE
from airpipe.reporting.table import (
    Block,
    Cell,
    Line,
    Row,
    Table,
    facts_of,
    grouped,
    number,
    short_labels,
    with_spread,
    words,
)

Result = Mapping[str, Any]
"""Content of results/features/<model>/<init>.json, see `airpipe.evaluation.features.analyse`."""

COLUMNS = (
    *("model", "network", "init", "measure", "class", "value", "sd", "chance", "neighbours", "split"),
    *("n_crops", "n_images", "n_scenes", "seeds", "distinct_splits", "patch_size", "feature", "pooling"),
    *("projection", "published", "differs", "source"),
)
PROTOCOL = {
    "images_per_class": 100,
    "crops_per_image": 1,
    "patch_size": 128,
    "neighbours": 5,
    "test_share": 0.33,
    "split": "random",
    "feature": "last",
    "pooling": "none",
    "projection": 0,
}
"""Settings of the published analysis."""
CLASSES = {"haze", "motion_blur", "noise", "rain", "low_light"}
"""Degradations of the published analysis."""
KNN, CLASSIFIER = "knn", "classifier"
RETRIEVAL, BY_CHANCE = "retrieval", "retrieval_chance"
AMONG_OTHERS, OTHERS_BY_CHANCE = "retrieval_others", "retrieval_others_chance"


def feature_table(results: Sequence[Result], published: Sequence[Row], searched: Sequence[Result] = ()) -> Table:
    """The feature table, in percent; a line per checkpoint, weights and measure.

    A published number stands beside the line of the same network and training, `differs` says in what the two
    analyses are not the same.

    Args:
        results: results of the analysis.
        published: printed accuracies, from `read_published`.
        searched: results of the retrieval by embeddings, see `airpipe.evaluation.embeddings.search`.

    Returns:
        A frame of COLUMNS with a row per class ('': all of them); sd is over the seeds of the splits (n - 1).
    """
    measured = [(result, _rows(result, published)) for result in results]
    rows = [row for _, found in measured for row in found]
    labels = short_labels(dict.fromkeys(result["model"] for result in (*results, *searched)))
    classes = list(dict.fromkeys(row["class"] for row in rows if row["class"]))
    lines = [
        _line(labels[result["model"]], same, classes, result)
        for result, found in measured
        for same in grouped(found, "measure").values()
    ]
    head = ("checkpoint", "weights", "measure", "all", *classes, "chance", "published")
    blocks = [Block("", head, tuple(lines))] if results else []
    blocks += [_retrieval_block(searched, labels)] if searched else []
    frame = pd.DataFrame([*rows, *(row for one in searched for row in _retrieval_rows(one))], columns=list(COLUMNS))
    notes = [*_notes(rows), *_retrieval_notes(searched)]
    return Table("features", "Feature analysis", tuple(blocks), tuple(notes), frame)


def _rows(result: Result, published: Sequence[Row]) -> list[Row]:
    """All numbers of a result: of each measure that of all classes first."""
    settings, knn, head = result["settings"], result["knn"], result["classifier"]
    common = {
        "model": result["model"],
        "network": network_name(result),
        "init": result["init"],
        "chance": result["chance"],
        "n_crops": result["crops"],
        "n_images": result["images"],
        "n_scenes": result["scenes"],
        **{name: settings[name] for name in ("patch_size", "feature", "pooling", "projection")},
    }
    splits = {"neighbours": settings["neighbours"], "split": settings["split"], "seeds": len(settings["seeds"])}
    splits["distinct_splits"] = knn.get("distinct_splits", "")  # not counted in older results
    by_class = {"": knn, **knn["per_class"]}
    rows = [
        common | splits | {"measure": KNN, "class": name, "value": found["mean"], "sd": found["sd"]}
        for name, found in by_class.items()
    ]
    rows[0] |= compare(result, published)
    if head:
        alone = common | dict.fromkeys(splits, "") | {"measure": CLASSIFIER}
        by_class = {"": head["accuracy"], **head["per_class"]}
        rows += [alone | {"class": name, "value": value} for name, value in by_class.items()]
    return rows


def network_name(result: Result) -> str:
    """Name of the backbone: of a network with a head, that of the network below it."""
    return str(below_head(result["network"])["name"])


# Beside printed numbers


def compare(result: Result, published: Sequence[Row]) -> Row:
    """Set the first printed number of its network and training beside a checkpoint: published, differs and source."""
    training = result["training"]
    backbone = family(network_name(result))
    for printed in published:
        same = printed["network"] == backbone and printed["init"] == result["init"]
        if same and (result["init"] == "random" or _same_training(training, printed)):
            source = ", ".join(part for part in (printed["paper"], printed["table"], printed["note"]) if part)
            return {"published": printed["value"], "differs": "; ".join(differences(result)), "source": source}
    return {}


def _same_training(training: Mapping[str, Any], printed: Row) -> bool:
    tasks = str(training["setting"]).split("_")
    return (
        described(str(training["method"])).control
        and printed["tasks"] in tasks
        and str(training["step"]) == str(printed["steps"])
    )


def differences(result: Result) -> list[str]:
    """Reasons why our number and the printed one measure different things."""
    settings = result["settings"]
    found = [
        f"{name} {settings[name]} instead of {value}" for name, value in PROTOCOL.items() if settings[name] != value
    ]
    if set(settings["classes"]) != CLASSES:
        found.append("other degradations")
    if any(entry["recipe"] for entry in settings["classes"].values()):
        found.append("synthetic degradations")
    if result["init"] == "random" and settings["random_init"] != "published":
        found.append("the network's own random weights")
    if result["init"] == "trained" and result["training"]["scale"] != PAPER_SCALE:
        found.append(f"{result['training']['scale']} scale")
    return [*found, "paper and published code name different test images"]


# For readers


def _line(label: str, rows: Sequence[Row], classes: Sequence[str], result: Result) -> Line:
    """One measure of one result."""
    whole, by_class = rows[0], {row["class"]: row for row in rows}
    about = _about(result)
    cells = [
        Cell((with_spread(row["value"], row.get("sd"), 1),), about) if (row := by_class.get(name)) else Cell()
        for name in ("", *classes)
    ]
    printed = (whole["source"], f"not comparable: {whole['differs']}") if "published" in whole else ()
    cells += [Cell((number(whole["chance"], 1),)), Cell((number(whole.get("published"), 0),), printed)]
    measure = "classifier" if whole["measure"] == CLASSIFIER else f"kNN, k = {whole['neighbours']}"
    facts = facts_of(whole["model"], whole["network"])
    return Line(label, (*words(whole["init"], measure), *cells), facts=facts, models=(whole["model"],))


def _about(result: Result) -> tuple[str, ...]:
    settings, sha256 = result["settings"], result.get("model_sha256")
    lists = ", ".join(dict.fromkeys(entry["pairs"] for entry in settings["classes"].values()))
    weights = f", sha256 {sha256[:12]}" if sha256 else ""
    return (f"model {result['model']}, {result['init']} weights{weights}", f"{result['crops']} crops of {lists}")


def _notes(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    first = rows[0]
    how = "whole photographs apart" if first["split"] == "scene" else "single crops apart"
    notes = [
        f"Percent of crops whose degradation is told; {first['n_crops']} crops of {first['n_images']} photographs, "
        f"{first['patch_size']} pixels. chance: the share of the largest class.",
        f"kNN: mean ± standard deviation over the splits of {first['seeds']} seeds, {how}.",
    ]
    if first["distinct_splits"] not in ("", first["seeds"]):
        notes.append(
            f"Only {first['distinct_splits']} of the {first['seeds']} splits are distinct, and some count more than "
            "once: the standard deviation is no measure of how other photographs would do."
        )
    if any(row["measure"] == CLASSIFIER for row in rows):
        notes.append("classifier: the trained head itself, on all crops.")
    compared = [row for row in rows if "published" in row]
    notes += [f"published: not comparable ({text})." for text in dict.fromkeys(row["differs"] for row in compared)]
    return notes + [f"published: {text}." for text in dict.fromkeys(row["source"] for row in compared)]


# Retrieval


def _retrieval_rows(result: Result) -> list[Row]:
    """Numbers of a retrieval: of all crops with that of chance, the same among other photographs, then by label."""
    common = {"model": result["model"], "network": network_name(result), "init": "trained", "neighbours": 1}
    common |= {"n_images": result["images"], "patch_size": result["settings"]["patch_size"]}
    whole, others = common | {"class": "", "chance": result["chance_rank1"]}, result["others"]
    whole |= {"n_crops": result["queries"]}
    return [
        whole | {"measure": RETRIEVAL, "value": result["rank1"]},
        whole | {"measure": BY_CHANCE, "value": result["chance_rank1"]},
        whole | {"measure": AMONG_OTHERS, "value": others["rank1"], "chance": others["chance_rank1"]},
        whole | {"measure": OTHERS_BY_CHANCE, "value": others["chance_rank1"], "chance": others["chance_rank1"]},
        *(
            common
            | {"measure": RETRIEVAL, "class": label, "value": found["rank1"]}
            | {"chance": found["chance_rank1"], "n_crops": found["queries"]}
            for label, found in result["per_label"].items()
        ),
    ]


def _retrieval_block(searched: Sequence[Result], labels: Mapping[str, str]) -> Block:
    names = list(dict.fromkeys(label for result in searched for label in result["per_label"]))
    lines = []
    for result in searched:
        found = {"": result, **result["per_label"]}
        values = [found[name]["rank1"] if name in found else None for name in ("", *names)]
        values += [result["chance_rank1"], result["others"]["rank1"], result["others"]["chance_rank1"]]
        cells = [Cell((number(value, 1),)) for value in values]
        facts = facts_of(result["model"], network_name(result))
        lines.append(Line(labels[result["model"]], tuple(cells), facts=facts, models=(result["model"],)))
    title = "Embeddings: is the nearest crop degraded by the same operations?"
    return Block(title, ("checkpoint", "all", *names, "chance", "other photographs", "chance there"), tuple(lines))


def _retrieval_notes(searched: Sequence[Result]) -> list[str]:
    if not searched:
        return []
    first = searched[0]
    return [
        f"Embeddings: percent of {first['queries']} crops whose nearest one (cosine) shows another photograph that is "
        f"degraded by the same operations; {first['settings']['draws']} draws of recipe {first['settings']['recipe']} "
        f"on {first['images']} photographs. The same photograph with other operations is among those searched, but for "
        "`other photographs`, which alone are searched there; each set of operations counts alike there. chance: a "
        "random order."
    ]
