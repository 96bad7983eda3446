"""What does one pretraining of both depths save against two separate ones, and what does each depth lose by it?

    AIRPIPE_SAMPLE_ROOT=/folder snakemake train_dynet --configfile config/overlays/dynet_work.yaml
    python -m benchmarks.dynet_work

For every seed and as their mean: work in CPU-hours, as a share of both separate runs together, and what validation
says of each depth at the end: mean absolute error in grey levels, PSNR in dB. Work is the time of data and steps in
card.json times the threads, without validation and checkpoints; it is CPU time where nothing else runs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from airpipe.errors import AirpipeError, run_main
from airpipe.reporting.reading import read_json
from airpipe.reporting.records import record_training

SEPARATE = {"cells_s": ("s",), "cells_l": ("l",)}
"""Settings of the separate runs, with the depths that they train."""
JOINT = {"cells": ("s", "l"), "cells_long": ("s", "l")}
"""Settings of the joint runs: as many steps as one separate run, and as much work as both."""
OVERLAY = "config/overlays/dynet_work.yaml"
COLUMNS = ("seed", "setting", "steps", "cpu_hours", "share", "l1_s", "l1_l", "psnr_s", "psnr_l")


def compare(results: Path, seeds: Sequence[int]) -> pd.DataFrame:
    """Set the joint runs of all seeds beside the separate ones.

    Args:
        results: folder that model ids count from.
        seeds: seeds of the runs.

    Returns:
        COLUMNS, a row for each seed and setting, then their means with the seed "mean". `share` is the work of the run
        over that of both separate ones; l1 in grey levels, NaN for a depth that the run does not train.

    Raises:
        AirpipeError: a run is not there.
    """
    rows = [row for seed in seeds for row in _rows_of_seed(results, seed)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    means = frame.drop(columns="seed").groupby("setting", sort=False).mean().reset_index()
    both = pd.concat([frame, means.assign(seed="mean")], ignore_index=True)
    return both[list(COLUMNS)].astype({"steps": int})


def _rows_of_seed(results: Path, seed: int) -> list[dict[str, object]]:
    both = SEPARATE | JOINT
    folders = {setting: results / "dynet" / setting / f"seed{seed}" / "pretrain" for setting in both}
    models, curves = record_training(list(folders.values()), results)
    hours = {setting: cpu_hours(folder) for setting, folder in folders.items()}
    separate = sum(hours[setting] for setting in SEPARATE)
    last = curves[curves["step"] == curves.groupby("model")["step"].transform("max")]
    found = last.set_index(["model", "name"])["value"].astype(float)
    rows = []
    for (setting, depths), model, steps in zip(both.items(), models["model"], models["steps"], strict=True):
        row = {"seed": seed, "setting": setting, "steps": steps, "cpu_hours": hours[setting]}
        row["share"] = hours[setting] / separate
        for depth in depths:
            row[f"l1_{depth}"] = 255 * found[f"{model}@{depth}", "l1"]
            row[f"psnr_{depth}"] = found[f"{model}@{depth}", "psnr"]
        rows.append(row)
    return rows


def cpu_hours(folder: Path) -> float:
    """Hours of data and steps of a stage, those before a resume included, times its threads."""
    card = read_json(folder / "card.json")
    return float((card["shares"]["data"] + card["shares"]["step"]) * card["threads"] / 3600)


def main() -> None:
    """Print the comparison, and what joint runs of all seeds cost in the mean."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that model ids count from")
    given = parser.parse_args()
    finished = (given.results / "dynet" / next(iter(JOINT))).glob("seed*/pretrain/card.json")
    seeds = sorted(int(path.parts[-3].removeprefix("seed")) for path in finished)
    if not seeds:
        raise AirpipeError(f"{given.results}: no runs. Make them: snakemake train_dynet --configfile {OVERLAY}")
    frame = compare(given.results, seeds)
    print(frame.to_string(index=False, na_rep="-", float_format="{:.4f}".format))
    means = frame[frame["seed"] == "mean"].set_index("setting")
    for setting in JOINT:
        print(f"{setting}: {100 * means.loc[setting, 'share']:.1f} % of the CPU-hours of both separate runs")


if __name__ == "__main__":
    run_main(main)
