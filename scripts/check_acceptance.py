"""Check what a run promises against its tables; exit status 1 where a promise is broken."""

import argparse
import sys
from pathlib import Path

from airpipe.errors import run_main
from airpipe.reporting.promises import Acceptance, check_promises
from airpipe.settings.base import check_settings, read_yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("promises", type=Path, nargs="?", default=Path("config/acceptance.yaml"))
    parser.add_argument("--tables", type=Path, default=Path("results/tables"))
    given = parser.parse_args()
    acceptance = check_settings(Acceptance, read_yaml(given.promises), str(given.promises))
    lines, broken = check_promises(acceptance, given.tables)
    print("\n".join(lines))
    if broken:
        sys.exit(f"{broken} of {len(lines)} promises are broken")


if __name__ == "__main__":
    run_main(main)
