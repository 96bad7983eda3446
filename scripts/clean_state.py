"""Remove the checkpoints of finished stages, after showing their size; the models stay."""

import argparse
import shutil
from pathlib import Path

from airpipe.errors import run_main
from airpipe.weights.cards import WEIGHTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    given = parser.parse_args()
    finished = [model.parent for model in sorted(given.results.rglob(WEIGHTS))]
    folders = [folder for stage in finished for folder in sorted(stage.glob("state*")) if folder.is_dir()]
    for folder in folders:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{folder}: {size / 2**20:.1f} MiB")
        shutil.rmtree(folder)
    print(f"removed the state of {len(folders)} finished stages")


if __name__ == "__main__":
    run_main(main)
