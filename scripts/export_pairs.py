"""Write a pair list as published code reads it: names (AirNet, PromptIR, DyNet), bar (VRD-IR) or comma (DSRIR)."""

import argparse
from pathlib import Path

from airpipe.data.lists import FORMS, export
from airpipe.data.pairs import read_rows
from airpipe.errors import run_main
from airpipe.provenance import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path, help="results/pairs/dataset.split.csv")
    forms = "; ".join(f"{name}: {form}" for name, form in FORMS.items())
    parser.add_argument("--as", dest="form", choices=FORMS, required=True, help=forms)
    parser.add_argument("--prefix", default="", help="in front of every path, for example Rain100L/train/")
    parser.add_argument("--bsd-prefix", action="store_true", help="names: a247012.jpg for 247012.jpg")
    parser.add_argument("--file-names", action="store_true", help="names: without folders")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    rows = read_rows(given.pairs)
    write_text(given.output, export(rows, given.form, given.prefix, given.bsd_prefix, given.file_names))
    print(f"{given.output}: {len(rows)} lines")


if __name__ == "__main__":
    run_main(main)
