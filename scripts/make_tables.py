"""Write a results table, the efficiency, feature or recognition tables or metrics.json; run by Snakemake."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from airpipe.errors import run_main
from airpipe.evaluation.indexes import scores_of
from airpipe.reporting.efficiency import write_efficiency
from airpipe.reporting.features import write_feature_table
from airpipe.reporting.pivots import write_metrics, write_tables
from airpipe.reporting.recognition import Story
from airpipe.reporting.recognition_text import write_recognition
from airpipe.reporting.tables import read_cards

RESULTS = Path("results")


def main(job: Any) -> None:
    handle = os.open(job.log[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)  # everything that the job says goes to its log
    os.dup2(handle, 2)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    if job.rule == "metrics":
        write_metrics([Path(path) for path in job.input.tables], Path(job.output.metrics))
        return
    if job.rule == "features_table":
        features = [Path(path) for path in job.input.features]
        write_feature_table(features, Path(job.input.published), Path(job.output.csv).parent)
        return
    if job.rule in ("recognition_tables", "recognition_seeds"):
        results = [Path(path) for path in job.input.results]
        write_recognition(results, story(job), Path(job.output.recognition), Path(job.output.restoration))
        return
    cards = read_cards(map(Path, job.input.cards), RESULTS)
    folder = Path(job.output.csv).parent
    if job.rule == "efficiency":
        write_efficiency([Path(path) for path in job.input.complexity], cards, folder, Path(job.input.published))
        return
    scores, published = scores_of(map(Path, job.input.scores)), [Path(path) for path in job.input.published]
    write_tables(job.wildcards.table, job.params.scale, scores, cards, published, folder, job.params.equal_budgets)


def story(job: Any) -> Story:
    """Gather what the configuration says around the recognition tests."""
    files = json.loads(job.resources.detections) if job.input.detections else {}
    detections = {name: {**files[name], **job.params.detections[name]} for name in files}
    return Story(job.params.scale, job.params.tests, job.params.recognisers, job.params.abouts, detections)


run_main(lambda: main(snakemake))  # noqa: F821  (Snakemake defines it)
