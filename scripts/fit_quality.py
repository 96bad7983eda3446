"""Fit the reference values of the quality scores of a curation to a folder of good pictures."""

import argparse
import json
from pathlib import Path

from airpipe.curation.fitting import fit
from airpipe.data.files import is_image
from airpipe.errors import run_main
from airpipe.provenance import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="good pictures, such as the 24 of Kodak's PhotoCD")
    parser.add_argument("--about", required=True, help="what they are, for the file")
    parser.add_argument("--output", type=Path, default=Path("src/airpipe/curation/natural.json"))
    given = parser.parse_args()
    values = fit(sorted(path for path in given.folder.iterdir() if is_image(path.name)), given.about)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in values.items())
    write_text(given.output, f"{{\n{lines}\n}}\n")
    print(f"{given.output}: {values['blocks']} blocks, rank correlation {values['spearman']}")


if __name__ == "__main__":
    run_main(main)
