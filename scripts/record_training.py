"""Record which models a method trained and how their validation went, as two small tables for DVC."""

import argparse
from pathlib import Path

from airpipe.errors import run_main
from airpipe.provenance import write_text
from airpipe.reporting.records import record_training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="*", help="model.safetensors of each trained model")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that model ids count from")
    parser.add_argument("--output", type=Path, required=True, help="table of the models")
    parser.add_argument("--curves", type=Path, required=True, help="table of their validation curves")
    given = parser.parse_args()
    models, curves = record_training([file.parent for file in given.models], given.results)
    write_text(given.output, models.to_csv(index=False))
    write_text(given.curves, curves.to_csv(index=False))


if __name__ == "__main__":
    run_main(main)
