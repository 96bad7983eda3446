"""List all pictures that a curation looks at: files, tar files, addresses."""

import argparse
from pathlib import Path

from airpipe.curation.listing import parse_sources, write_listing
from airpipe.errors import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", action="append", required=True, help="name=kind:place; kind images, tars or urls")
    parser.add_argument("--output", type=Path, required=True, help="listing.tsv")
    given = parser.parse_args()
    facts = write_listing(parse_sources(given.source), given.output)
    print(f"{given.output}: {facts['entries']:,} entries; {facts['left_out']:,} left out")


if __name__ == "__main__":
    run_main(main)
