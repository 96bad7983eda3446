"""The report: numbers of the tables, and what the figures and the page show."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from airpipe.reporting import figures, page, pivots, tables
from airpipe.reporting.builders import efficiency
from airpipe.reporting.table import write_table
from airpipe.settings.scoring import ReportSettings

MODELS = ("baseline/nafnet_5d/seed0/train", "baseline/nafnet_5d/seed1/train", "dcpt/nafnet_5d/seed0/finetune")
IMAGES = ("<b>one", "two")
TESTS = {"noise15": ("noise", "15"), "noise25": ("noise", "25")}
PROTOCOLS = ("airpipe", "dcpt")
REPORT = ReportSettings(title="A <title>", zoom=16).model_dump(mode="json")
PUBLISHED = """
NAFNet,nafnet,allinone5,cbsd68,noise,25,dcpt,psnr,31.02,A paper,Table 1,
PromptIR,,allinone3,cbsd68,noise,25,dcpt,psnr,31.31,B paper,Table 2,
AirNet,,allinone3,cbsd68,noise,25,unknown,psnr,31.26,B paper,,
AirNet,,allinone3,cbsd68,noise,50,dcpt,psnr,28.00,B paper,,
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
        self.cards = tables.read_cards([self.write_card(model) for model in MODELS], root)
        for model in MODELS:
            self.write_curves(model)
        self.published = [root / "published.csv"]
        self.published[0].write_text(",".join(tables.PUBLISHED_COLUMNS) + PUBLISHED)

    def write_score(self, model: str, test: str, change: dict[tuple[str, str], str] | None = None) -> Path:
        path = self.root / "scores" / model / f"{test}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for protocol in PROTOCOLS:
            for number, image in enumerate(IMAGES):
                psnr = (change or {}).get((image, protocol), f"{psnr_of(model, number, test, protocol):.6f}")
                rows.append((image, *TESTS[test], protocol, "psnr", psnr))
                rows.append((image, *TESTS[test], protocol, "ssim", f"{0.8 + 0.1 * number:.6f}"))
        pd.DataFrame(rows, columns=list(tables.SCORE_COLUMNS)).to_csv(path, index=False)
        scale = None if model == "none" else "demo"
        info = {"model": model, "test": test, "dataset": "cbsd68", "scale": scale, "kept": list(IMAGES)}
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

    def table(self, scale: str = "demo") -> pd.DataFrame:
        published = tables.read_published(self.published)
        return tables.build_table(tables.read_scores(self.scores), self.cards, published, scale)

    def page(self, scale: str = "demo") -> str:
        folder = self.root / "tables"
        pivots.write_tables("all", scale, self.scores, self.cards, self.published, folder)
        complexities = [self.root / "complexity" / f"{model}.json" for model in MODELS]
        write_table(efficiency.efficiency_table(complexities, self.cards), folder)
        scenes = figures.read_scenes(self.scores, self.root / "restored", "airpipe", 2)
        curves = figures.read_curves([self.root / model / "curves.csv" for model in MODELS], self.root)
        drawn = self.root / "figures" / "all"
        figures.draw_figures(tables.read_table(folder / "all.csv"), curves, scenes, REPORT, drawn)
        sources = page.Sources(
            tables=[folder / "all.csv"],
            figures=self.root / "figures",
            efficiency=folder / "efficiency.csv",
            scores=self.scores,
            pictures=self.root / "restored",
        )
        page.write_page(sources, self.cards, REPORT, scale, self.root / "index.html")
        return (self.root / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    tree = Tree(tmp_path_factory.mktemp("report"))
    return tree, tree.page()


def pick(table, model, test="noise15", protocol="airpipe", metric="psnr"):
    wanted = dict(zip(("degradation", "level"), TESTS[test], strict=True))
    wanted |= {"model": model, "protocol": protocol, "metric": metric}
    rows = table[np.logical_and.reduce([table[name] == value for name, value in wanted.items()])]
    assert len(rows) == 1
    return rows.iloc[0]


def test_the_crop_lies_where_restoration_changes_most(tree):
    scene = figures.read_scenes(tree.scores, tree.root / "restored", "airpipe", 1)[0]
    restored = [shown.pixels for shown in scene.restored]
    assert len(restored) == 2  # one seed of each model
    assert figures.crop_place(scene.degraded.pixels, restored, 16) == (20, 40, 16)
    assert figures.crop_place(scene.degraded.pixels, restored, 500)[2] == 40


def test_pictures_carry_the_psnr_of_the_report_protocol(tree):
    scene = figures.read_scenes(tree.scores, tree.root / "restored", "dcpt", 1)[0]
    assert [shown.psnr for shown in scene.pictures] == [24.5, 27.5, 29.5, None]


def test_equal_numbers_give_equal_figures(report):
    tree, _ = report
    again = tree.root / "again.png"
    figures.draw_bars(tables.read_table(tree.root / "tables" / "all.csv"), ["airpipe"], again)
    assert again.read_bytes() == (tree.root / "figures" / "all" / "bars.png").read_bytes()
    with Image.open(again) as image:
        assert not {"Software", "Creation Time"} & set(image.info)


def test_the_page_asks_nothing_from_outside(report):
    _, text = report
    assert not re.search(r"https?://", text)
    assert not re.search(r"""src=(?!"data:)|href=(?!"#)|url\((?!data:)|@import|<link""", text)
    assert "default-src 'none'" in text


def test_the_page_has_one_slider_per_model_test_and_image(report):
    _, text = report
    assert text.count('<input type="range"') == 2 * len(TESTS) * len(IMAGES)


def test_names_are_escaped_in_the_page(report):
    _, text = report
    assert "<b>one" not in text
    assert "&lt;b&gt;one" in text
    assert "A &lt;title&gt;" in text


def test_the_page_shows_numbers_scale_and_provenance(report):
    _, text = report
    assert "demo scale: not comparable with published numbers" in text
    assert '<span class="best">29.50 /</span>' in text
    assert "the smallest gain of a single picture is -1.00 dB" in text
    for words in ("0123456789ab", "aaaaaaaaaaaa", "2026-01-01T00:00:00Z", "1.500", "12.5"):
        assert words in text


def test_the_report_needs_no_torch():
    code = "import sys; import airpipe.reporting.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
