"""A results folder as the rules before the report leave it, with invented numbers."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from airpipe.reporting.builders.scores import build_scores
from airpipe.reporting.published import SCORES, read_all
from airpipe.reporting.reading import SCORE_COLUMNS, read_cards, read_scores
from airpipe.reporting.table import Table
from airpipe.settings.scoring import TableSettings

MODELS = ("baseline/nafnet_5d/seed0/train", "baseline/nafnet_5d/seed1/train", "dcpt/nafnet_5d/seed0/finetune")
IMAGES = ("<b>one", "two")
TESTS = {"noise15": ("noise", "15"), "noise25": ("noise", "25")}
PROTOCOLS = ("airpipe", "dcpt")
PUBLISHED = """
NAFNet,nafnet,allinone5,cbsd68,noise,25,dcpt,psnr,31.02,A paper,Table 1,primary,
PromptIR,,allinone3,cbsd68,noise,25,dcpt,psnr,31.31,B paper,Table 2,primary,
AirNet,,allinone3,cbsd68,noise,25,unknown,psnr,31.26,B paper,Table 2,quoted,
AirNet,,allinone3,cbsd68,noise,50,dcpt,psnr,28.00,B paper,Table 2,quoted,
"""


def psnr_of(model: str, image: int, test: str, protocol: str) -> float:
    """Invented: every number of the tree follows from this."""
    base = 24.0 if test == "noise15" else 20.0
    gains = {"none": 0.0, MODELS[0]: 3.0, MODELS[1]: 4.0, MODELS[2]: 5.0}
    last_loses = -4.0 if model == MODELS[0] and image == 1 and test == "noise15" else 0.0
    return base + image + gains[model] + last_loses + (0.5 if protocol == "dcpt" else 0.0)


class Tree:
    """A results folder as the rules before the report leave it."""

    def __init__(self, root: Path):
        self.root = root
        self.scores = [self.write_score(m, t) for m in (*MODELS, "none") for t in TESTS]  # none is not first
        self.cards = read_cards([self.write_card(model) for model in MODELS], root)
        for model in MODELS:
            self.write_curves(model)
        self.published = [root / "published.csv", root / "datasets.yaml", root / "settings.yaml"]
        self.published[0].write_text(",".join(SCORES.columns) + PUBLISHED)
        self.published[1].write_text("cbsd68: {images: 68}")
        self.published[2].write_text("allinone3: {about: x, tasks: 3d}\nallinone5: {about: x, tasks: 5d}")

    def write_score(self, model: str, test: str, change: dict[tuple[str, str], str] | None = None) -> Path:
        path = self.root / "scores" / model / f"{test}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for protocol in PROTOCOLS:
            for number, image in enumerate(IMAGES):
                psnr = (change or {}).get((image, protocol), f"{psnr_of(model, number, test, protocol):.6f}")
                rows.append((image, *TESTS[test], protocol, "psnr", psnr))
                rows.append((image, *TESTS[test], protocol, "ssim", f"{0.8 + 0.1 * number:.6f}"))
        pd.DataFrame(rows, columns=list(SCORE_COLUMNS)).to_csv(path, index=False)
        scale = None if model == "none" else "demo"
        info = {"model": model, "test": test, "dataset": "cbsd68", "scale": scale, "kept": list(IMAGES)}
        info["protocols"] = {name: {"border": 0} for name in PROTOCOLS}
        path.with_suffix(".json").write_text(json.dumps(info))
        self.write_pictures(model, test)
        return path

    def write_pictures(self, model: str, test: str) -> None:
        folder = self.root / "restored" / model / test
        folder.mkdir(parents=True, exist_ok=True)
        clean = np.full((40, 60, 3), 128, np.uint8)
        picture = clean.copy()
        if model == "none":
            picture[20:36, 40:56] = 255  # all degradation is here
        for image in IMAGES:
            Image.fromarray(picture).save(folder / f"{image}.png")
            if model == "none":
                Image.fromarray(clean).save(folder / f"{image}_clean.png")

    def write_card(self, model: str) -> Path:
        method, setting, seed, stage = model.split("/")
        card = {
            "method": method,
            "setting": setting,
            "seed": int(seed[4:]),
            "stage": stage,
            "scale": "demo",
            "network": {"name": "nafnet", "arguments": {}},
            "settings_hash": "0123456789abcdef",
            "parameters": 1_500_000,
            "macs": 2_000_000_000,
            "wall_s": 61.0,
            "device": "cpu",
            "git": {"commit": "a" * 40, "dirty": False},
            "finished": "2026-01-01T00:00:00Z",
            "pairs": [{"id": "photos.train", "sha256": "0" * 64}],
        }
        path = self.root / model / "card.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(card))
        measured = {"model": model, "parameters": 1_500_000, "macs": 2_000_000_000, "input": "1x3x256x256"}
        measured |= {"latency_ms": 12.5, "device": "cpu", "threads": 2}
        complexity = self.root / "complexity" / f"{model}.json"
        complexity.parent.mkdir(parents=True, exist_ok=True)
        complexity.write_text(json.dumps(measured))
        return path

    def write_curves(self, model: str) -> None:
        rows = [(step, "loss/total", 1 / step) for step in range(1, 30)]
        rows += [(step, "validation/psnr", 20 + step / 10) for step in (10, 20)]
        path = self.root / model / "curves.csv"
        pd.DataFrame(rows, columns=["step", "name", "value"]).to_csv(path, index=False)

    def tables(self, scale: str = "demo", **settings) -> tuple[Table, Table]:
        """The table of scores and that of gains."""
        chosen = TableSettings(tests=tuple(TESTS), **settings)
        return build_scores("all", chosen, scale, read_scores(self.scores), self.cards, read_all(self.published))

    def table(self, scale: str = "demo", **settings) -> pd.DataFrame:
        """The long frame of the table."""
        return self.tables(scale, **settings)[0].frame


def pick(table, model, test="noise15", protocol="airpipe", metric="psnr"):
    wanted = dict(zip(("degradation", "level"), TESTS[test], strict=True))
    wanted |= {"model": model, "protocol": protocol, "metric": metric}
    rows = table[np.logical_and.reduce([table[name] == value for name, value in wanted.items()])]
    assert len(rows) == 1
    return rows.iloc[0]
