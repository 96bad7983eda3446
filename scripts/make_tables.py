"""Write a results table, the efficiency, feature or recognition tables or metrics.json; run by Snakemake."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from airpipe.errors import run_rules
from airpipe.evaluation.indexes import scores_of
from airpipe.provenance import write_json
from airpipe.reporting.builders.efficiency import efficiency_table
from airpipe.reporting.builders.features import feature_table
from airpipe.reporting.builders.published import build_published
from airpipe.reporting.builders.recognition import Story, recognition_table, restoration_table
from airpipe.reporting.builders.scores import build_scores
from airpipe.reporting.marks import marked
from airpipe.reporting.published import ACCURACIES, COSTS, published_frame, read_all, read_published, records
from airpipe.reporting.reading import Card, cards_of, check_budgets, read_cards, read_json, read_scores
from airpipe.reporting.records import metrics
from airpipe.reporting.table import read_frame, setting_of, without_seed, write_table
from airpipe.settings.scoring import TableSettings

TABLES = Path("results/tables")


def cards(job: Any) -> dict[str, Card]:
    return read_cards(map(Path, job.input.cards), Path("results"))


def scores(job: Any) -> None:
    settings = TableSettings.model_validate(job.params.settings)
    known = cards(job)
    for group in settings.compared(tuple(map(setting_of, known))):
        if group.equal_budgets:
            check_budgets(cards_of(known, group.models), job.wildcards.table)
    measured = read_scores(scores_of(map(Path, job.input.scores)))
    printed = read_all([Path(path) for path in job.input.published])
    for table in build_scores(job.wildcards.table, settings, job.params.scale, measured, known, printed):
        write_table(marked(table, known), TABLES)


def published(job: Any) -> None:
    printed = read_all([Path(path) for path in job.input.published])
    ours = pd.concat([read_frame(Path(path)) for path in job.input.tables], ignore_index=True)
    ours = ours[(ours["model"] != "published") & (ours["against"] == "")]
    known = cards(job)
    by_name = {without_seed(model): card for model, card in known.items()}
    write_table(marked(build_published(published_frame(printed, ours, by_name), printed.known), known), TABLES)


def efficiency(job: Any) -> None:
    costs = records(read_published([Path(job.input.published)], COSTS))
    known = cards(job)
    write_table(marked(efficiency_table([Path(path) for path in job.input.complexity], known, costs), known), TABLES)


def features(job: Any) -> None:
    results, searched = ([read_json(Path(path)) for path in of] for of in (job.input.features, job.input.retrieval))
    printed = records(read_published([Path(job.input.published)], ACCURACIES))
    write_table(marked(feature_table(results, printed, searched), cards(job)), TABLES)


def recognition(job: Any) -> None:
    results = [read_json(Path(path)) for path in job.input.results]
    for build, csv in ((recognition_table, job.output.recognition), (restoration_table, job.output.restoration)):
        write_table(marked(build(results, story(job), Path(csv).stem), cards(job)), Path(csv).parent)


def story(job: Any) -> Story:
    """Gather what the configuration says around the recognition tests."""
    files = json.loads(job.resources.detections) if job.input.detections else {}
    detections = {name: {**files[name], **job.params.detections[name]} for name in files}
    return Story(job.params.scale, job.params.tests, job.params.recognisers, job.params.abouts, detections)


def for_dvc(job: Any) -> None:
    tables = {Path(path).stem: read_frame(Path(path)) for path in job.input.tables}
    write_json(Path(job.output.metrics), metrics(tables))


RULES = {
    "tables": scores,
    "published": published,
    "efficiency": efficiency,
    "features_table": features,
    "recognition_tables": recognition,
    "recognition_seeds": recognition,
    "metrics": for_dvc,
}
run_rules(snakemake, RULES)  # noqa: F821  (Snakemake defines it)
