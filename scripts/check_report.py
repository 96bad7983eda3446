"""Check that Snakemake's own report holds every table and figure and the page, as they are now, with their captions."""

import argparse
import re
import zipfile
from pathlib import Path

from airpipe.errors import AirpipeError, run_main

SHOWN = ("tables/*.csv", "figures/*/*.png", "report/index.html")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="made by snakemake --report FILE.zip")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--captions", type=Path, default=Path("workflow/report"))
    return parser.parse_args()


def main() -> None:
    given = arguments()
    with zipfile.ZipFile(given.report) as report:
        held = {report.read(name) for name in report.namelist() if "/data/raw/" in name}
        page = report.read(f"{given.report.stem}/report.html").decode()
    files = [path for glob in SHOWN for path in sorted(given.results.glob(glob)) if not path.stem.endswith("_gains")]
    if lacking := [str(path) for path in files if path.read_bytes() not in held]:
        raise AirpipeError(f"{given.report}: lacks {len(lacking)} of {len(files)} results: {', '.join(lacking)}")
    captions = sorted(given.captions.glob("*.rst"))
    if silent := [path.name for path in captions if beginning(path) not in page]:
        raise AirpipeError(f"{given.report}: shows no caption of {', '.join(silent)}")
    print(f"{given.report}: {len(files)} results, {len(captions)} captions")


def beginning(caption: Path) -> str:
    """First words of a caption, as far as they are the same in every run."""
    return re.split(r"``|\n", caption.read_text(encoding="utf-8"))[0].strip()


if __name__ == "__main__":
    run_main(main)
