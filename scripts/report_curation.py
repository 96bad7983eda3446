"""Show what each filter of a curation removed, with sample pictures, as one HTML file."""

import argparse
import json
from pathlib import Path

from airpipe.curation.opening import Opener, add_arguments
from airpipe.errors import AirpipeError, run_main
from airpipe.reporting.curation import write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chosen", type=Path, help="chosen.json of choose_pictures.py")
    add_arguments(parser)
    parser.add_argument("--name", required=True, help="of the data set")
    parser.add_argument("--output", type=Path, required=True, help="the HTML file")
    given = parser.parse_args()
    try:
        facts = json.loads(given.chosen.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AirpipeError(f"{given.chosen}: cannot be read ({error}). Make it: scripts/choose_pictures.py") from None
    with Opener.of(given) as opener:
        write_report(given.name, facts, opener, given.output)
    print(f"{given.output}: {len(facts['removed'])} filters")


if __name__ == "__main__":
    run_main(main)
