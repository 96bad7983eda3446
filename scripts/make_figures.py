"""Draw the figures of one table, feature analysis, recognition tests or gallery of stages; run by Snakemake."""

from pathlib import Path
from typing import Any

import pandas as pd

from airpipe.errors import run_rules
from airpipe.evaluation.indexes import scores_of
from airpipe.reporting.figures import charts, pictures
from airpipe.reporting.reading import read_json
from airpipe.reporting.scenes import read_scenes
from airpipe.reporting.table import read_frame

RESULTS = Path("results")


def features(job: Any) -> None:
    results = [read_json(Path(path)) for path in job.input.features]
    charts.draw_tsne(results, Path(job.output.tsne))
    charts.draw_confusion(results, Path(job.output.confusion))


def recognition(job: Any) -> None:
    results = [read_json(Path(path)) for path in job.input.results]
    model, rows = pictures.read_pictures(results, [Path(path) for path in job.input.pictures], job.params.tests)
    charts.draw_top1(read_frame(Path(job.input.table)), job.params.recognisers[0], Path(job.output.top1))
    pictures.draw_pictures(model, rows, job.params.branches.get(model, []), Path(job.output.pictures))


def gallery(job: Any) -> None:
    files = dict(zip(job.params.models, map(Path, job.input.stages), strict=True))
    pictures.draw_stages(pictures.read_stages(files, job.params.tests), Path(job.output.stages))


def scores(job: Any) -> None:
    report, table = job.params.report, read_frame(Path(job.input.table))
    charts.draw_bars(table, report["protocol"], Path(job.output.bars))
    costs = pd.DataFrame([read_json(Path(path)) for path in job.input.costs])
    charts.draw_costs(table, costs, report["protocol"], Path(job.output.costs))
    curves = charts.read_curves([Path(path) for path in job.input.curves], RESULTS)
    charts.draw_curves(curves, Path(job.output.curves))
    scenes = read_scenes(scores_of(map(Path, job.input.scores)), RESULTS / "restored", report)
    pictures.draw_qualitative(scenes, report["zoom"], Path(job.output.qualitative))


RULES = {
    "features_figures": features,
    "recognition_figures": recognition,
    "gallery": gallery,
    "figures": scores,
}
run_rules(snakemake, RULES)  # noqa: F821  (Snakemake defines it)
