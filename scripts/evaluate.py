"""Score one model (or none) on the tests of a table, each under every protocol of it; what fits is not done again."""

import argparse
from pathlib import Path

from airpipe.data.pairs import listed
from airpipe.errors import run_main
from airpipe.evaluation.job import job_parser
from airpipe.evaluation.scoring import Candidate, score_tests
from airpipe.provenance import write_json
from airpipe.settings.base import read_settings
from airpipe.settings.scoring import TestJob


def arguments() -> argparse.Namespace:
    parser = job_parser(__doc__, "pair lists of the tests", or_none=True)
    parser.add_argument("--table", required=True, help="name of the table, for the index")
    parser.add_argument("--tests", type=Path, nargs="+", required=True, help="tests with their protocols as YAML")
    parser.add_argument("--scores", type=Path, required=True, help="folder of the model's score files")
    parser.add_argument("--restored", type=Path, required=True, help="folder of its pictures")
    parser.add_argument("--index", type=Path, required=True, help="file that names the score files with their hashes")
    return parser.parse_args()


def candidate_of(given: argparse.Namespace) -> Candidate:
    """Make the model, or none, for which nothing imports torch."""
    words = (given.id, given.model, given.scores, given.restored, given.device, given.threads)
    if given.model is None:
        return Candidate(*words)
    import torch

    from airpipe.evaluation.candidates import Model

    torch.set_num_threads(given.threads)
    return Model(*words)


def main() -> None:
    given = arguments()
    jobs = [read_settings(TestJob, file) for file in given.tests]
    lists = listed(given.pairs, given.root)
    candidate = candidate_of(given)
    tests = score_tests(candidate, jobs, lists)
    write_json(given.index, {"table": given.table, "model": given.id, "tests": tests})


if __name__ == "__main__":
    run_main(main)
