"""Check every file of a data set and write its manifest."""

import argparse
import json
from pathlib import Path

from airpipe.data.manifest import build_manifest, write_manifest
from airpipe.datasets import DatasetSettings
from airpipe.errors import run_main
from airpipe.settings import check_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="id in config/datasets.yaml")
    parser.add_argument("--entry", required=True, help="the registry entry as JSON")
    parser.add_argument("--root", default="", help="folder of the files; empty for embedded ones")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    entry = check_settings(DatasetSettings, json.loads(arguments.entry), f"datasets.{arguments.dataset}")
    rows = build_manifest(arguments.dataset, entry, arguments.root)
    write_manifest(arguments.output, rows)
    print(f"{arguments.dataset}: {len(rows)} files")


if __name__ == "__main__":
    run_main(main)
