"""Write the pair list of one split of a data set from its manifest."""

import argparse
import json
from pathlib import Path

from airpipe.data.manifest import manifest_paths
from airpipe.data.pairs import folder_pairs, package_pairs, write_pairs
from airpipe.datasets import DatasetSettings
from airpipe.errors import AirpipeError, run_main
from airpipe.provenance import sha256_file
from airpipe.settings import check_settings, unknown_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("list", help="dataset.split")
    parser.add_argument("--entry", required=True, help="the registry entry as JSON")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    dataset, split = arguments.list.split(".")
    entry = check_settings(DatasetSettings, json.loads(arguments.entry), f"datasets.{dataset}")
    known = {file.split for file in entry.packages} or set(entry.splits)
    if split not in known:
        raise AirpipeError(f"data set {dataset}: " + unknown_name(split, known, "split"))
    depth: dict[str, str] = {}
    if entry.packages:
        rows, depth = package_pairs(entry.packages, split)
    else:
        rows = folder_pairs(manifest_paths(arguments.manifest), entry.splits[split])
    rule = entry.splits[split].rule if entry.splits else "clean only"
    facts = {
        "list": arguments.list,
        "rule": rule,
        "manifest_sha256": sha256_file(arguments.manifest),
        "depth": depth,
    }
    write_pairs(arguments.output, rows, facts)
    print(f"{arguments.list}: {len(rows)} pairs")


if __name__ == "__main__":
    run_main(main)
