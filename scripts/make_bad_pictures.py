"""Make bad pictures of good ones, and the truth about them, to measure the filters of a curation with."""

import argparse
from pathlib import Path

from airpipe.curation.spoiling import make_bad_pictures
from airpipe.data.files import is_image
from airpipe.errors import run_main


def images_below(folder: Path) -> list[Path]:
    """All image files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and is_image(path.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("good", type=Path, help="folder of good pictures")
    parser.add_argument("--tests", type=Path, nargs="+", required=True, help="folders of test images")
    parser.add_argument("--output", type=Path, required=True, help="new folder; truth.csv is put into it")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tests = [path for folder in given.tests for path in images_below(folder)]
    make_bad_pictures(images_below(given.good), tests, given.output, given.count, given.seed)
    print(f"{given.output}: {given.count:,} bad pictures")


if __name__ == "__main__":
    run_main(main)
