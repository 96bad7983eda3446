"""Write the pair list over all packs of a curation, and where they are."""

import argparse
from pathlib import Path

from airpipe.curation.packing import join_parts
from airpipe.data.packing import tell_old_packs
from airpipe.errors import run_main
from airpipe.settings.curation import numbered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", type=Path, help="folder of the JSON files of pack_patches.py")
    parser.add_argument("--parts", dest="count", type=int, required=True, help="number of these files")
    parser.add_argument("--packed", type=Path, default=Path("resources/packed"), help="folder of all packs")
    parser.add_argument("--output", type=Path, required=True, help="results/pairs/dataset.split.csv")
    parser.add_argument("--packs", type=Path, required=True, help="results/packs/dataset.split.json")
    given = parser.parse_args()
    files = [given.parts / f"{name}.json" for name in numbered(given.count)]
    patches = join_parts(files, given.output, given.packs)
    tell_old_packs(given.output.stem, given.packed, given.packs.parent)
    print(f"{given.output}: {patches:,} patches")


if __name__ == "__main__":
    run_main(main)
