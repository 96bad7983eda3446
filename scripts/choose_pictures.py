"""Choose pictures by their scores: bounds, leaks, patches, near-duplicates."""

import argparse
from pathlib import Path

from airpipe.curation.choosing import choose
from airpipe.errors import run_main
from airpipe.settings.base import read_settings
from airpipe.settings.curation import Choosing, numbered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path, help="folder of the csv files of score_pictures.py")
    parser.add_argument("--shards", type=int, required=True, help="number of these files")
    parser.add_argument("--settings", type=Path, required=True, help="what is kept, as YAML")
    parser.add_argument("--patch", type=int, required=True, help="side of the patches in pixels")
    parser.add_argument("--output", type=Path, required=True, help="chosen.csv; removed.csv and a JSON come beside it")
    given = parser.parse_args()
    files = [given.scores / f"{name}.csv" for name in numbered(given.shards)]
    facts = choose(files, read_settings(Choosing, given.settings), given.patch, given.output)
    for reason, count in facts["removed"].items():
        print(f"{reason}: removes {count:,}, alone {facts['removed_alone'].get(reason, 0):,}")
    print(f"{given.output}: {facts['chosen']:,} of {facts['pictures']:,} pictures, {facts['patches']:,} patches")


if __name__ == "__main__":
    run_main(main)
