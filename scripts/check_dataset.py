"""Check every file of one split of a data set and write its manifest."""

import argparse
from pathlib import Path

from airpipe.data.check import check_packages, check_split, summary
from airpipe.data.manifest import write_manifest
from airpipe.errors import run_main
from airpipe.provenance import write_json
from airpipe.settings.base import read_settings
from airpipe.settings.datasets import DatasetSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("list", help="dataset.split")
    parser.add_argument("--entry", type=Path, required=True, help="the registry entry, cut to this split, as YAML")
    parser.add_argument("--root", default="", help="folder; nothing for embedded files")
    parser.add_argument("--name-list", type=Path, help="file of the split's name_list")
    parser.add_argument("--output", type=Path, required=True, help="the manifest; facts go into a JSON beside it")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    split = given.list.split(".")[1]
    entry = read_settings(DatasetSettings, given.entry)
    if entry.packages:
        checked = check_packages(given.list, entry.packages)
    else:
        journal = given.output.with_name(f".{given.output.name}.partial")
        checked = check_split(given.list, entry.splits[split], given.root, given.threads, given.name_list, journal)
    changed = write_manifest(given.output, checked.files)
    write_json(given.output.with_suffix(".json"), checked.facts)
    print(summary(checked.facts))
    print(f"{given.output}: {len(checked.files)} files, {'written' if changed else 'unchanged'}")


if __name__ == "__main__":
    run_main(main)
