"""Score detections of an external detector on degraded and restored images: AP of COCO, one row per variant."""

import argparse
from pathlib import Path

import pandas as pd

from airpipe.errors import AirpipeError, run_main
from airpipe.evaluation.detection import METRICS, average_precision, read_detections, read_truth
from airpipe.provenance import write_text


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=Path, required=True, help="objects in COCO's layout")
    parser.add_argument("--detections", nargs="+", required=True, metavar="VARIANT=FILE", help="e.g. degraded=a.json")
    parser.add_argument("--output", type=Path, required=True, help="csv")
    return parser.parse_args()


def variants(texts: list[str]) -> dict[str, Path]:
    """Read arguments VARIANT=FILE: files of detections by variant; AirpipeError for another form or one twice."""
    files: dict[str, Path] = {}
    for text in texts:
        variant, _, file = text.partition("=")
        if not variant or not file:
            raise AirpipeError(f"--detections {text!r}: expected variant=file, for example degraded=degraded.json")
        if variant in files:
            raise AirpipeError(f"--detections: {variant} stands for {files[variant]} and {file}; call one otherwise")
        files[variant] = Path(file)
    return files


def main() -> None:
    given = arguments()
    files = variants(given.detections)
    truth = read_truth(given.annotations)
    rows = []
    for variant, file in files.items():
        values = average_precision(truth, read_detections(file, truth))
        rows += [{"variant": variant, "metric": metric, "value": round(values[metric], 4)} for metric in METRICS]
    write_text(given.output, pd.DataFrame(rows).to_csv(index=False))
    print(pd.DataFrame(rows).pivot(index="variant", columns="metric", values="value").to_string())


if __name__ == "__main__":
    run_main(main)
