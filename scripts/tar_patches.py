"""Cut the patches of one part of the chosen pictures into a tar file in WebDataset's layout."""

import argparse
from functools import partial
from pathlib import Path

from airpipe.curation.opening import Opener, add_arguments
from airpipe.curation.packing import read_part, tar_part
from airpipe.errors import run_main
from airpipe.settings.curation import place_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chosen", type=Path, help="chosen.csv of choose_pictures.py")
    add_arguments(parser)
    parser.add_argument("--part", type=place_of, required=True, help="00000-of-00001")
    parser.add_argument("--output", type=Path, required=True, help="the tar file; its index, a csv, comes beside it")
    given = parser.parse_args()
    rows = partial(read_part, given.chosen, *given.part)
    with Opener.of(given) as opener:
        patches = tar_part(rows, opener, given.output)
    print(f"{given.output}: {patches:,} patches")


if __name__ == "__main__":
    run_main(main)
