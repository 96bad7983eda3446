"""Write the report page over all tables; run by workflow/rules/report.smk."""

from pathlib import Path
from typing import Any

from airpipe.errors import run_rules
from airpipe.evaluation.indexes import scores_of
from airpipe.reporting.page import Sources, write_page
from airpipe.reporting.reading import read_cards

RESULTS = Path("results")


def main(job: Any) -> None:
    sources = Sources(
        sections={
            name: [RESULTS / "tables" / f"{table}.json" for table in tables]
            for name, tables in job.params.sections.items()
        },
        figures=[Path(path) for path in job.input.figures],
        gains=[Path(path) for path in job.input.gains],
        scores=scores_of(map(Path, job.input.scores)),
        pictures=RESULTS / "restored",
        lists=[Path(path) for path in job.input.lists],
        checks=[Path(path) for path in job.input.checks],
        leakage=Path(job.input.leakage[0]) if job.input.leakage else None,
    )
    cards = read_cards(map(Path, job.input.cards), RESULTS)
    write_page(sources, cards, job.params.report, job.params.scale, Path(job.output.page))


run_rules(snakemake, {"page": main})  # noqa: F821  (Snakemake defines it)
