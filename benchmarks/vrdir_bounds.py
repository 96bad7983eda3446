"""Does VRD-IR's demo do what it is for? Bounds on its tables over fresh seeds.

    snakemake --cores all vrdir_seeds
    python -m benchmarks.vrdir_bounds results/tables/recognition_seeds.csv results/tables/restoration_seeds.csv

The bounds are ours and loose. They were set beside the measurements of a prototype on one seed, so that a miss on
fresh seeds says that something is broken, and a pass says little about the method. Spread is the standard deviation of
the enhancer's own value over seeds. The exit status is 1 when a bound does not hold; fewer than 3 seeds count as one.
"""

import argparse
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from airpipe.errors import AirpipeError, run_main
from airpipe.reporting.table import read_frame

PSNR_GAINS = {("haze", ""): 4.0, ("noise", "25"): 1.5, ("rain", ""): 1.0}
"""Degradation and level: dB."""
TOP1_GAINS = {("noise", "25"): 8.0, ("rain", ""): 8.0, ("haze", ""): 3.0}
"""Points."""
BRANCHED = (("haze", ""), ("noise", "15"), ("noise", "25"), ("noise", "50"), ("rain", ""))
"""Tests on which the fusion is held against the branch that is told the degradation."""
SEEDS = 3
DECODER = 24.0
"""PSNR in dB of clean images that pass encoder and decoder."""
ORACLE, CLEAN = 4.0, 12.0
"""Points that the fusion may lose against the branch that is told the degradation, and clean images by passing."""


@dataclass(frozen=True)
class Bound:
    """One line: a value over seeds and what it must reach."""

    what: str
    value: float
    sd: float
    least: float
    unit: str

    @property
    def holds(self) -> bool:
        """Whether the value reaches the bound."""
        return self.value >= self.least


def bounds(recognition: pd.DataFrame, restoration: pd.DataFrame, recogniser: str, model: str) -> Iterator[Bound]:
    """All bounds.

    Args:
        recognition: long table.
        restoration: long table of PSNR and SSIM.
        recogniser: that plays no part in training.
        model: method/setting.

    Raises:
        AirpipeError: a row that a bound needs is not there.
    """
    top1 = recognition[(recognition["recogniser"] == recogniser) & (recognition["metric"] == "top1")]
    row = _row(restoration, "decoder_clean", model=f"{model}/sad")
    yield Bound("clean images behind the decoder", row["psnr"], row["sd"], DECODER, "dB")
    for (degradation, level), least in PSNR_GAINS.items():
        row = _row(restoration, "restored", degradation, level, f"{model}/ise")
        yield Bound(f"PSNR gain, {degradation} {level}".rstrip(), row["psnr"] - row["psnr_in"], row["sd"], least, "dB")
    for (degradation, level), least in TOP1_GAINS.items():
        after = _row(top1, "restored", degradation, level, f"{model}/ise")
        gain = after["value"] - _row(top1, "degraded", degradation, level)["value"]
        yield Bound(f"top-1 gain, {degradation} {level}".rstrip(), gain, after["sd"], least, "points")
    for place in BRANCHED:
        after = _row(top1, "restored", *place, f"{model}/ise")
        gain = after["value"] - _row(top1, f"branch_{place[0]}", *place, f"{model}/dnc_{place[0]}")["value"]
        yield Bound(f"top-1 against the own branch, {' '.join(place)}".rstrip(), gain, after["sd"], -ORACLE, "points")
    after = _row(top1, "restored_clean", model=f"{model}/ise")
    loss = after["value"] - _row(top1, "clean")["value"]
    yield Bound("top-1 of clean images that are restored", loss, after["sd"], -CLEAN, "points")
    yield Bound("fresh seeds", fewest_seeds((top1, restoration), model), math.nan, SEEDS, "seeds")


def fewest_seeds(tables: Iterable[pd.DataFrame], model: str) -> int:
    """Seeds of the row that has the fewest, among those of the model and of no enhancer."""
    wanted = [table[(table["model"] == "") | table["model"].str.startswith(f"{model}/")] for table in tables]
    return int(min(table["seeds"].min() for table in wanted))


def _row(table: pd.DataFrame, variant: str, degradation: str = "clean", level: str = "", model: str = "") -> Any:
    wanted = {"variant": variant, "degradation": degradation, "level": level, "model": model}
    found = table
    for key, value in wanted.items():
        found = found[found[key] == value]
    if len(found) != 1:
        said = ", ".join(f"{key} {value!r}" for key, value in wanted.items())
        raise AirpipeError(f"{len(found)} rows with {said}; expected one. Make the tables: snakemake vrdir_seeds")
    return found.iloc[0]


def main() -> int:
    """Print all bounds; 1 when one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recognition", type=Path, help="recognition_seeds.csv")
    parser.add_argument("restoration", type=Path, help="restoration_seeds.csv")
    parser.add_argument("--recogniser", default="b")
    parser.add_argument("--model", default="vrdir/airpipe", help="method/setting")
    given = parser.parse_args()
    tables = read_frame(given.recognition), read_frame(given.restoration)
    found = list(bounds(*tables, given.recogniser, given.model))
    print(f"{'bound':44} {'mean':>8} {'sd':>6} {'least':>7}")
    for bound in found:
        sd = "" if math.isnan(bound.sd) else f"{bound.sd:.2f}"
        verdict = "holds" if bound.holds else "MISSED"
        print(f"{bound.what:44} {bound.value:8.2f} {sd:>6} {bound.least:7.1f} {bound.unit:7} {verdict}")
    missed = sum(not bound.holds for bound in found)
    seeds = int(found[-1].value)
    print(f"{len(found) - missed} of {len(found)} bounds hold, {seeds} seeds")
    if seeds < SEEDS:
        print(f"warning: {seeds} seeds say little; make {SEEDS} or more: snakemake vrdir_seeds")
    return 1 if missed else 0


if __name__ == "__main__":
    run_main(main)
