"""Write a results table, the efficiency, feature or recognition tables or metrics.json; run by Snakemake."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd

from airpipe.errors import run_main
from airpipe.evaluation.indexes import scores_of
from airpipe.provenance import write_json
from airpipe.reporting.builders.efficiency import efficiency_table
from airpipe.reporting.builders.features import feature_table
from airpipe.reporting.builders.published import build_published
from airpipe.reporting.builders.recognition import Story, recognition_table, restoration_table
from airpipe.reporting.builders.scores import build_scores
from airpipe.reporting.published import ACCURACIES, COSTS, published_frame, read_all, read_published, records
from airpipe.reporting.reading import check_budgets, read_cards, read_json, read_scores
from airpipe.reporting.records import metrics
from airpipe.reporting.table import read_frame, without_seed, write_table
from airpipe.settings.scoring import TableSettings

RESULTS = Path("results")


def main(job: Any) -> None:
    handle = os.open(job.log[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)  # everything that the job says goes to its log
    os.dup2(handle, 2)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    if job.rule == "metrics":
        tables = {Path(path).stem: read_frame(Path(path)) for path in job.input.tables}
        write_json(Path(job.output.metrics), metrics(tables))
        return
    if job.rule == "features_table":
        features = [read_json(Path(path)) for path in job.input.features]
        published = records(read_published([Path(job.input.published)], ACCURACIES))
        write_table(feature_table(features, published), Path(job.output.csv).parent)
        return
    if job.rule in ("recognition_tables", "recognition_seeds"):
        results = [read_json(Path(path)) for path in job.input.results]
        for build, csv in ((recognition_table, job.output.recognition), (restoration_table, job.output.restoration)):
            write_table(build(results, story(job), Path(csv).stem), Path(csv).parent)
        return
    cards = read_cards(map(Path, job.input.cards), RESULTS)
    folder = Path(job.output.csv).parent
    if job.rule == "published":
        found = read_all([Path(path) for path in job.input.published])
        ours = pd.concat([read_frame(Path(path)) for path in job.input.tables], ignore_index=True)
        ours = ours[(ours["model"] != "published") & (ours["against"] == "")]
        by_name = {without_seed(model): card for model, card in cards.items()}
        write_table(build_published(published_frame(found, ours, by_name), found.known), folder)
        return
    if job.rule == "efficiency":
        costs = records(read_published([Path(job.input.published)], COSTS))
        write_table(efficiency_table([Path(path) for path in job.input.complexity], cards, costs), folder)
        return
    scores, printed = scores_of(map(Path, job.input.scores)), [Path(path) for path in job.input.published]
    settings = TableSettings.model_validate(job.params.settings)
    if settings.equal_budgets:
        check_budgets(cards, job.wildcards.table)
    found = read_scores(scores), cards, read_all(printed)
    for table in build_scores(job.wildcards.table, settings, job.params.scale, *found):
        write_table(table, folder)


def story(job: Any) -> Story:
    """Gather what the configuration says around the recognition tests."""
    files = json.loads(job.resources.detections) if job.input.detections else {}
    detections = {name: {**files[name], **job.params.detections[name]} for name in files}
    return Story(job.params.scale, job.params.tests, job.params.recognisers, job.params.abouts, detections)


run_main(lambda: main(snakemake))  # noqa: F821  (Snakemake defines it)
