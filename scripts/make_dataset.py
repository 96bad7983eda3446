"""Make a data set of the registry: drawn shapes, or objects cut out of another data set."""

import argparse
from pathlib import Path

from airpipe.data.made import make_dataset
from airpipe.errors import AirpipeError, run_main
from airpipe.provenance import write_json
from airpipe.settings.base import check_settings, read_yaml
from airpipe.settings.datasets import DatasetSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--made", type=Path, required=True, help="how, as in the registry, as YAML")
    parser.add_argument("--source", default="", help="folder of the data set that it is made from")
    parser.add_argument("--output", type=Path, required=True, help="the folder; facts go into a JSON beside it")
    given = parser.parse_args()
    entry = check_settings(DatasetSettings, {"title": "", "made": read_yaml(given.made)}, f"datasets.{given.dataset}")
    if entry.made is None:
        raise AirpipeError(f"datasets.{given.dataset}: nothing says how it is made")
    counts = make_dataset(entry.made, given.output, given.source)
    write_json(
        given.output.with_name(f"{given.dataset}.json"), {"images": counts, **entry.made.model_dump(mode="json")}
    )
    print(f"{given.output}: {', '.join(f'{split} {count:,}' for split, count in counts.items())} images")


if __name__ == "__main__":
    run_main(main)
