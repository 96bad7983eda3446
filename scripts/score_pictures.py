"""Score the pictures of one shard of a list; a killed run goes on where it was."""

import argparse
from pathlib import Path

from airpipe.curation.opening import Opener, add_arguments
from airpipe.curation.scores import TestImages, tests_sha256
from airpipe.curation.scoring import Scorer
from airpipe.data.fingerprints import file_finder, read_fingerprints
from airpipe.errors import run_main
from airpipe.settings.base import read_settings
from airpipe.settings.curation import PictureScoring, place_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("listing", type=Path, help="listing.tsv of list_pictures.py")
    add_arguments(parser)
    parser.add_argument("--settings", type=Path, required=True, help="what is measured, as YAML")
    parser.add_argument("--shard", type=place_of, required=True, help="00000-of-00001")
    parser.add_argument("--test", type=Path, nargs="*", default=[], help="fingerprints of test lists")
    parser.add_argument("--root", action="append", default=[], help="dataset=folder of tests; embedded ones need none")
    parser.add_argument("--output", type=Path, required=True, help="csv of the scores")
    given = parser.parse_args()
    tables = [read_fingerprints(path) for path in given.test]
    tests = TestImages(tables, file_finder(given.root))
    with Opener.of(given) as opener:
        settings = read_settings(PictureScoring, given.settings)
        scorer = Scorer(given.listing, opener, tests, settings, tests_sha256(tables))
        count = scorer.run(*given.shard, given.output)
    print(f"{given.output}: {count:,} pictures")


if __name__ == "__main__":
    run_main(main)
