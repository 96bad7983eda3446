"""Find training images that show test images, among fingerprint tables; one warning line per pair of lists."""

import argparse
import sys
from pathlib import Path

from airpipe.data.duplicates import find_leaks, write_leaks
from airpipe.data.fingerprints import file_finder, read_fingerprints
from airpipe.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="fingerprints of training lists")
    parser.add_argument("--test", type=Path, nargs="+", required=True, help="fingerprints of test lists")
    parser.add_argument("--root", action="append", default=[], help="dataset=folder; embedded data sets need none")
    parser.add_argument("--output", type=Path, required=True, help="results/data/leakage.csv; a JSON is put beside it")
    given = parser.parse_args()
    train = [read_fingerprints(path) for path in dict.fromkeys(given.train)]
    test = [read_fingerprints(path) for path in dict.fromkeys(given.test)]
    leaks = find_leaks(train, test, file_finder(given.root))
    for warning in write_leaks(given.output, leaks, train, test):
        print(f"airpipe: warning: {warning}", file=sys.stderr)
    print(f"{given.output}: {len(leaks)} pairs of images")


if __name__ == "__main__":
    run_main(main)
