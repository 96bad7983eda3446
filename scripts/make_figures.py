"""Draw the figures of one table, of the feature analysis or of the recognition tests; run by Snakemake."""

import logging
import os
from pathlib import Path
from typing import Any

from airpipe.errors import run_main
from airpipe.evaluation.indexes import scores_of
from airpipe.reporting.feature_figures import draw_confusion, draw_tsne
from airpipe.reporting.features import read_results
from airpipe.reporting.figures import draw_figures, read_curves, read_scenes
from airpipe.reporting.recognition import read_long, read_recognition
from airpipe.reporting.recognition_figures import draw_pictures, draw_top1, read_pictures
from airpipe.reporting.tables import read_table

RESULTS = Path("results")


def main(job: Any) -> None:
    handle = os.open(job.log[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)  # everything that the job says goes to its log
    os.dup2(handle, 2)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    if job.rule == "features_figures":
        results = read_results([Path(path) for path in job.input.features])
        draw_tsne(results, Path(job.output.tsne))
        draw_confusion(results, Path(job.output.confusion))
        return
    if job.rule == "recognition_figures":
        results = read_recognition(map(Path, job.input.results))
        model, rows = read_pictures(results, [Path(path) for path in job.input.pictures], job.params.tests)
        draw_top1(read_long(Path(job.input.table)), job.params.recognisers[0], Path(job.output.top1))
        draw_pictures(model, rows, job.params.branches.get(model, []), Path(job.output.pictures))
        return
    report = job.params.report
    curves = read_curves([Path(path) for path in job.input.curves], RESULTS)
    scores = scores_of(map(Path, job.input.scores))
    scenes = read_scenes(scores, RESULTS / "restored", report["protocol"], report["images_per_test"])
    draw_figures(read_table(Path(job.input.table)), curves, scenes, report, Path(job.output.bars).parent)


run_main(lambda: main(snakemake))  # noqa: F821  (Snakemake defines it)
