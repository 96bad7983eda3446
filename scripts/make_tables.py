"""Write a results table, the efficiency or feature table or metrics.json; run by rules in workflow/rules/."""

import logging
import os
from pathlib import Path
from typing import Any

from airpipe.errors import run_main
from airpipe.reporting.efficiency import write_efficiency
from airpipe.reporting.features import write_feature_table
from airpipe.reporting.pivots import write_metrics, write_tables
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
    cards = read_cards(map(Path, job.input.cards), RESULTS)
    folder = Path(job.output.csv).parent
    if job.rule == "efficiency":
        write_efficiency([Path(path) for path in job.input.complexity], cards, folder, Path(job.input.published))
        return
    scores, published = ([Path(path) for path in paths] for paths in (job.input.scores, job.input.published))
    write_tables(job.wildcards.table, job.params.scale, scores, cards, published, folder, job.params.equal_budgets)


run_main(lambda: main(snakemake))  # noqa: F821  (Snakemake defines it)
