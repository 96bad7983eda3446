"""Write the report page over all tables; run by workflow/rules/report.smk."""

import logging
import os
from pathlib import Path
from typing import Any

from airpipe.errors import run_main
from airpipe.evaluation.indexes import scores_of
from airpipe.reporting.page import Sources, write_page
from airpipe.reporting.tables import read_cards

RESULTS = Path("results")


def main(job: Any) -> None:
    handle = os.open(job.log[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)  # everything that the job says goes to its log
    os.dup2(handle, 2)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    sources = Sources(
        tables=[Path(path) for path in job.input.tables],
        figures=RESULTS / "figures",
        efficiency=Path(job.input.efficiency),
        scores=scores_of(map(Path, job.input.scores)),
        pictures=RESULTS / "restored",
        lists=[Path(path) for path in job.input.lists],
        checks=[Path(path) for path in job.input.checks],
        leakage=Path(job.input.leakage[0]) if job.input.leakage else None,
        features=Path(job.input.features[0]) if job.input.features else None,
        recognition=[Path(path) for path in job.input.recognition[:2]],
    )
    cards = read_cards(map(Path, job.input.cards), RESULTS)
    write_page(sources, cards, job.params.report, job.params.scale, Path(job.output.page))


run_main(lambda: main(snakemake))  # noqa: F821  (Snakemake defines it)
