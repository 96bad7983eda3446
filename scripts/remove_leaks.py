"""Write a training list without the images that test images show, too."""

import argparse
from pathlib import Path

from airpipe.data.duplicates import without_leaks
from airpipe.data.pairs import read_facts, read_rows, write_pairs
from airpipe.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path, help="dataset.split.csv of the training list")
    parser.add_argument("leaks", type=Path, help="leakage.csv of find_leaks.py")
    parser.add_argument("--against", nargs="*", default=[], help="test lists (dataset.split) that count; none: all")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    rows, facts = read_rows(given.pairs), read_facts(given.pairs)
    kept, removed = without_leaks(rows, given.pairs.stem, given.leaks, given.against)
    facts |= {"pairs": len(kept), "source_list": given.pairs.stem, "removed": removed}
    for key in facts.keys() & {"depth", "classes", "cameras"}:
        facts[key] = {name: known for name, known in facts[key].items() if name not in removed}
    write_pairs(given.output, kept, facts)
    print(f"{given.output}: {len(kept)} pairs, {len(removed)} removed")


if __name__ == "__main__":
    run_main(main)
