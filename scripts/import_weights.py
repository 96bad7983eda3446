"""Import a published weights file: the same as `airpipe import`; with --export the same as `airpipe export`."""

import argparse
from pathlib import Path

from airpipe.cli.weights import add_import, add_layout, export, import_file
from airpipe.errors import run_main


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add_import(parser)
    add_layout(parser)
    parser.add_argument(
        "--export",
        nargs=2,
        metavar=("KIND", "OUT"),
        help="of the model FILE: published OUT.pth, or model FOLDER (a model of its own, such as one @variant)",
    )
    given = parser.parse_args()
    if given.export is None:
        return import_file(given)
    given.model, given.to, given.target = str(given.file), given.export[0], Path(given.export[1])
    return export(given)


if __name__ == "__main__":
    run_main(main)
