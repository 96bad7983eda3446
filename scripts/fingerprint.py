"""Take the fingerprints of the clean images of a pair list, for the leakage report."""

import argparse
from pathlib import Path

from airpipe.data.fingerprints import file_finder, write_fingerprints
from airpipe.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path, help="dataset.split.csv")
    parser.add_argument("--root", action="append", default=[], help="dataset=folder; embedded data sets need none")
    parser.add_argument("--output", type=Path, required=True, help="results/fingerprints/dataset.split.csv")
    parser.add_argument("--threads", type=int, default=1, help="images read at the same time")
    given = parser.parse_args()
    count = write_fingerprints(given.pairs, file_finder(given.root), given.output, given.threads)
    print(f"{given.output}: {count} images")


if __name__ == "__main__":
    run_main(main)
