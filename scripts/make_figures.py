"""Draw the figures of one table or of the feature analysis; run by rules in workflow/rules/."""

import logging
import os
from pathlib import Path
from typing import Any

from airpipe.errors import run_main
from airpipe.reporting.feature_figures import draw_confusion, draw_tsne
from airpipe.reporting.features import read_results
from airpipe.reporting.figures import draw_figures, read_curves, read_scenes
from airpipe.reporting.tables import read_table

RESULTS = Path("results")


def main(job: Any) -> None:
    handle = os.open(job.log[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)  # everything that the job says goes to its log
    os.dup2(handle, 2)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    if job.rule == "dcpt_tsne":
        results = read_results([Path(path) for path in job.input.features])
        draw_tsne(results, Path(job.output.tsne))
        draw_confusion(results, Path(job.output.confusion))
        return
    report = job.params.report
    curves = read_curves([Path(path) for path in job.input.curves], RESULTS)
    scores = [Path(path) for path in job.input.scores]
    scenes = read_scenes(scores, RESULTS / "restored", report["protocol"], report["images_per_test"])
    draw_figures(read_table(Path(job.input.table)), curves, scenes, report, Path(job.output.bars).parent)


run_main(lambda: main(snakemake))  # noqa: F821  (Snakemake defines it)
