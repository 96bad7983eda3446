"""Cut the patches of one part of the chosen pictures into a pack."""

import argparse
from functools import partial
from pathlib import Path

from airpipe.curation.opening import Opener, add_arguments
from airpipe.curation.packing import pack_part, read_part
from airpipe.errors import run_main
from airpipe.settings.curation import place_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chosen", type=Path, help="chosen.csv of choose_pictures.py")
    add_arguments(parser)
    parser.add_argument("--list", required=True, help="dataset.split")
    parser.add_argument("--part", type=place_of, required=True, help="00000-of-00001")
    parser.add_argument("--packed", type=Path, default=Path("resources/packed"), help="folder of all packs")
    parser.add_argument("--output", type=Path, required=True, help="JSON that says where the pack is")
    given = parser.parse_args()
    rows = partial(read_part, given.chosen, *given.part)
    with Opener.of(given) as opener:
        patches = pack_part(rows, opener, f"{given.list}.{given.part[0]:05d}", given.packed, given.output)
    print(f"{given.output}: {patches:,} patches")


if __name__ == "__main__":
    run_main(main)
