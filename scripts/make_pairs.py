"""Make the pair list of one split from its manifest."""

import argparse
from pathlib import Path

from airpipe.data.manifest import file_sizes, read_manifest
from airpipe.data.pairs import complain, package_pairs, pair_up, read_facts, size_problems, write_pairs
from airpipe.data.windows import cut_rows
from airpipe.errors import run_main
from airpipe.provenance import sha256_file
from airpipe.settings.base import read_settings
from airpipe.settings.datasets import DatasetSettings

KEPT = ("layout", "rule", "crop", "version", "left_out", "repeats", "pick")
"""Facts of the check that a pair list carries on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("list", help="dataset.split")
    parser.add_argument("--entry", type=Path, required=True, help="the registry entry, cut to this split, as YAML")
    parser.add_argument("--name-list", type=Path, help="file of the split's name_list")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    split = given.list.split(".")[1]
    entry = read_settings(DatasetSettings, given.entry)
    checked = read_facts(given.manifest)
    facts = {"list": given.list, **{key: checked[key] for key in KEPT if key in checked}}
    facts["manifest_sha256"] = sha256_file(given.manifest)
    if entry.packages:
        rows, facts["depth"] = package_pairs(entry.packages)
    else:
        sizes = file_sizes(read_manifest(given.manifest))
        pairing = pair_up(list(sizes), entry.splits[split], given.name_list)
        remedy = f"The manifest is out of step: rm {given.manifest}, then run snakemake again"
        complain([*pairing.problems, *size_problems(pairing.rows, sizes)], given.list, remedy)
        rows = pairing.rows
        facts |= pairing.labels()
        if cut := entry.splits[split].cut:
            facts |= {"cut": cut.model_dump(), "images": len(rows)}
            rows, problems = cut_rows(rows, sizes, cut)
            complain(problems, given.list, remedy)
    write_pairs(given.output, rows, facts)
    print(f"{given.list}: {len(rows)} pairs")


if __name__ == "__main__":
    run_main(main)
