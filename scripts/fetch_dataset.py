"""Fetch a data set of the registry into a folder."""

import argparse
from pathlib import Path

from airpipe.data.fetch import WAIT_MINUTES, Places, default_wait, fetch_dataset
from airpipe.errors import run_main
from airpipe.provenance import write_json
from airpipe.settings.base import read_settings
from airpipe.settings.datasets import DatasetSettings


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("id", help="name of the data set")
    parser.add_argument("--entry", type=Path, required=True, help="its entry in the registry as YAML")
    parser.add_argument("--folder", type=Path, required=True, help="the finished data set")
    parser.add_argument("--downloads", type=Path, required=True, help="kept downloads, and files dropped in by hand")
    parser.add_argument("--lock", type=Path, required=True, help="YAML file of checksums")
    parser.add_argument(
        "--wait", type=float, help=f"minutes to wait for files by hand; {WAIT_MINUTES:.0f} on a terminal, else 0"
    )
    return parser.parse_args()


def main() -> None:
    given = arguments()
    entry = read_settings(DatasetSettings, given.entry)
    wait = default_wait() if given.wait is None else given.wait
    places = Places(given.folder, given.downloads, given.lock)
    facts = fetch_dataset(given.id, entry, places, wait)
    if not places.facts.exists():  # Snakemake removed it before it ran this again, and expects it back
        write_json(places.facts, facts)


if __name__ == "__main__":
    run_main(main)
