"""What tables, figures and page of many models cost: `python -m benchmarks.many_models --output FOLDER`.

A results folder of 80 models and 15 tests is made (seed 0): scores of 24 images a test under two protocols, two kept
pictures of 240x160 pixels a test and model, cards, curves and costs. Our builders make of it tables, figures and page,
each step in a process of its own, as jobs do. Printed: processor seconds, largest memory and bytes or pixels of each.
Goals: page at most 15 MB, every process at most 500 MB. The files stay in FOLDER, to be looked at.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from airpipe.errors import AirpipeError, run_main
from airpipe.reporting.builders.efficiency import efficiency_table
from airpipe.reporting.builders.scores import build_scores
from airpipe.reporting.page import Sources, write_page
from airpipe.reporting.published import read_all
from airpipe.reporting.reading import SCORE_COLUMNS, read_cards, read_json, read_scores
from airpipe.reporting.scenes import read_scenes
from airpipe.reporting.table import read_frame, write_table
from airpipe.resident import peak_bytes
from airpipe.settings.scoring import ReportSettings, TableSettings

IMAGES, KEPT = 24, 2
WIDTH, HEIGHT = 240, 160
PROTOCOLS = ("airpipe", "other")
DEGRADATIONS = ("noise", "rain", "haze", "blur", "low_light")
METHODS = ("alpha", "beta", "gamma", "delta")
FIGURES = ("bars", "costs", "curves", "qualitative")
REPORT = ReportSettings().model_dump(mode="json")
TABLE = "many"


class Made:
    """A results folder with invented scores and pictures.

    Args:
        root: the folder.
        models: number of models; model k removes a share of the noise (sigma 25) that grows with k.
        tests: number of tests.
    """

    def __init__(self, root: Path, models: int, tests: int) -> None:
        self.root = root
        self.models = [f"{METHODS[k % len(METHODS)]}/nafnet_5d_{k:02d}/seed0/train" for k in range(models)]
        self.tests = {
            f"set{k:02d}_{DEGRADATIONS[k % len(DEGRADATIONS)]}": (DEGRADATIONS[k % len(DEGRADATIONS)], str(k))
            for k in range(tests)
        }

    @property
    def scores(self) -> list[Path]:
        """Score files of all models and tests, `none` first."""
        return [self.score(model, test) for model in ("none", *self.models) for test in self.tests]

    def score(self, model: str, test: str) -> Path:
        """The score file of a model and a test."""
        return self.root / "scores" / model / f"{test}.csv"

    def cards(self) -> dict:
        """Card of every model by its id."""
        return read_cards([self.root / model / "card.json" for model in self.models], self.root)

    def make(self) -> str:
        """Write all files; equal for equal numbers of models and tests."""
        for number, test in enumerate(self.tests):
            generator = np.random.default_rng([0, number])
            pairs = [(picture(generator), generator.normal(0, 25, (HEIGHT, WIDTH, 3))) for _ in range(KEPT)]
            levels = 20 + generator.normal(0, 2, IMAGES)
            for place, model in enumerate(("none", *self.models)):
                share = place / (len(self.models) + 1)
                psnr = levels + 12 * share + generator.normal(0, 0.5, IMAGES) * (place > 0)
                self.write_scores(model, test, psnr)
                self.write_pictures(model, test, [clean + (1 - share) * noise for clean, noise in pairs])
            self.write_pictures("none", test, [clean for clean, _ in pairs], "_clean")
        for place, model in enumerate(self.models):
            self.write_model(place, model)
        return f"{len(self.scores)} score files"

    def write_scores(self, model: str, test: str, psnr: np.ndarray) -> None:
        """Write a score file; psnr: of each image, in dB."""
        rows = [
            (f"image{k:02d}", *self.tests[test], protocol, metric, f"{value:.6f}")
            for protocol in PROTOCOLS
            for k, dB in enumerate(psnr)
            for metric, value in (("psnr", dB), ("ssim", 1 - 3 / dB))
        ]
        path = self.score(model, test)
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows, columns=list(SCORE_COLUMNS)).to_csv(path, index=False)
        facts = {
            "model": model,
            "test": test,
            "dataset": test.split("_")[0],
            "scale": "demo" if model != "none" else None,
        }
        facts |= {"kept": [f"image{k:02d}" for k in range(KEPT)], "protocols": {name: {} for name in PROTOCOLS}}
        path.with_suffix(".json").write_text(json.dumps(facts))

    def write_pictures(self, model: str, test: str, found: list[np.ndarray], end: str = "") -> None:
        """Write the kept pictures of a model and a test; found: each (H, W, 3), from 0 to 255."""
        folder = self.root / "restored" / model / test
        folder.mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(found):
            image = Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))
            image.save(folder / f"image{number:02d}{end}.png", compress_level=1)

    def write_model(self, place: int, model: str) -> None:
        """Write card, costs and curves of a model."""
        method, setting, _, stage = model.split("/")
        card = {"method": method, "setting": setting, "seed": 0, "stage": stage, "scale": "demo", "device": "cpu"}
        card |= {"network": {"name": "nafnet", "arguments": {}}, "settings_hash": f"{place:016x}", "wall_s": 61.0}
        card |= {"git": {"commit": "a" * 40, "dirty": False}, "finished": "2026-01-01T00:00:00Z"}
        costs = {"model": model, "parameters": 1e6 * (1 + place), "macs": 2e9 * (1 + place), "input": "1x3x256x256"}
        costs |= {"latency_ms": 12.5, "device": "cpu", "threads": 1}
        rows = [(step, "loss/total", 1 / (step + place)) for step in range(1, 101)]
        rows += [(step, "validation/psnr", 20 + step / 50 + place / 20) for step in range(20, 101, 20)]
        for path, text in (
            (self.root / model / "card.json", json.dumps(card)),
            (self.root / "complexity" / f"{model}.json", json.dumps(costs)),
            (
                self.root / model / "curves.csv",
                pd.DataFrame(rows, columns=["step", "name", "value"]).to_csv(index=False),
            ),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    # Our builders

    def tables(self) -> str:
        """Build the tables of scores, gains and costs."""
        settings = TableSettings(title="Many models", tests=tuple(self.tests))
        cards, folder = self.cards(), self.root / "tables"
        for table in build_scores(TABLE, settings, "demo", read_scores(self.scores), cards, read_all([])):
            write_table(table, folder)
        write_table(
            efficiency_table([self.root / "complexity" / f"{model}.json" for model in self.models], cards), folder
        )
        return ", ".join(f"{path.name} {path.stat().st_size / 1e6:.2f} MB" for path in sorted(folder.iterdir()))

    def charts(self) -> str:
        """Draw bars, costs and curves."""
        from airpipe.reporting.figures import charts  # plotting is heavy, and no part of the other steps

        table, folder = read_frame(self.root / "tables" / f"{TABLE}.csv"), self.root / "figures" / TABLE
        folder.mkdir(parents=True, exist_ok=True)
        charts.draw_bars(table, "airpipe", folder / "bars.png")
        costs = pd.DataFrame([read_json(self.root / "complexity" / f"{model}.json") for model in self.models])
        charts.draw_costs(table, costs, "airpipe", folder / "costs.png")
        curves = charts.read_curves([self.root / model / "curves.csv" for model in self.models], self.root)
        charts.draw_curves(curves, folder / "curves.png")
        return self.sizes("bars", "costs", "curves")

    def grid(self) -> str:
        """Draw the grid of pictures."""
        from airpipe.reporting.figures import pictures

        scenes = read_scenes(self.scores, self.root / "restored", REPORT)
        pictures.draw_qualitative(scenes, REPORT["zoom"], self.root / "figures" / TABLE / "qualitative.png")
        return self.sizes("qualitative")

    def page(self) -> str:
        """Write the page."""
        sources = Sources(
            sections={
                TABLE: [self.root / "tables" / f"{name}.json" for name in (TABLE, f"{TABLE}_gains")],
                "efficiency": [self.root / "tables" / "efficiency.json"],
            },
            figures=[self.root / "figures" / TABLE / f"{name}.png" for name in FIGURES],
            gains=[self.root / "tables" / f"{TABLE}_gains.csv"],
            scores=self.scores,
            pictures=self.root / "restored",
        )
        target = self.root / "index.html"
        write_page(sources, self.cards(), REPORT, "demo", target)
        return f"{target.stat().st_size / 1e6:.1f} MB"

    def sizes(self, *names: str) -> str:
        """Width and height of figures in pixels, in words."""
        found = []
        for name in names:
            with Image.open(self.root / "figures" / TABLE / f"{name}.png") as image:
                found.append(f"{name} {image.width}x{image.height}")
        return ", ".join(found)


def picture(generator: np.random.Generator) -> np.ndarray:
    """A picture of the spectrum of photographs, (HEIGHT, WIDTH, 3) float32 around 128."""
    found = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
    for octave in range(7):
        coarse = generator.normal(0, 24 * 0.8**octave, (2 + 2**octave, 3 + 2**octave, 3)).astype(np.float32)
        found += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return found


def timed(name: str, step: Callable[[], str]) -> None:
    """Run a step and print what it took, in this process."""
    begin = time.process_time()
    told = step()
    memory = peak_bytes() / 1e6
    print(f"{name:<8}{time.process_time() - begin:>8.1f} s{memory:>8.0f} MB  {told}", flush=True)


def main() -> None:
    """Make, build and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--models", type=int, default=80)
    parser.add_argument("--tests", type=int, default=15)
    given = parser.parse_args()
    if given.output.exists():
        raise AirpipeError(f"{given.output}: exists already. Name a new folder, or remove it")
    from benchmarks.measuring import machine_line  # torch: not in the processes that are measured

    print(machine_line(), flush=True)
    made = Made(given.output, given.models, given.tests)
    start = multiprocessing.get_context("spawn")
    for name in ("make", "tables", "charts", "grid", "page"):
        process = start.Process(target=timed, args=(name, getattr(made, name)))
        process.start()
        process.join()
        if process.exitcode:
            raise AirpipeError(f"{name} ended with status {process.exitcode}; see above")


if __name__ == "__main__":
    run_main(main)
