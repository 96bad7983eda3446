"""Write one stage's frozen config.yaml from its validated settings."""

import argparse
import json
from pathlib import Path

import yaml

from airpipe.errors import run_main
from airpipe.provenance import write_text
from airpipe.registry import settings_class
from airpipe.settings.base import check_settings, settings_hash


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", help="the stage's settings as JSON")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    values = json.loads(arguments.settings)
    settings = check_settings(settings_class(values["task"]), values, "stage settings")
    text = yaml.safe_dump(settings.model_dump(mode="json", exclude_none=True), sort_keys=False)
    write_text(arguments.output, f"# frozen by airpipe; settings hash {settings_hash(settings)}\n{text}")


if __name__ == "__main__":
    run_main(main)
