"""The report page: one html file with everything in it, readable without a network.

Pictures are JPEG in base64, each embedded once as a style class, however many sliders show it.
A content security policy in the page forbids any request.
"""

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from airpipe.provenance import write_text
from airpipe.reporting.figures import Scene, read_pixels, read_scenes
from airpipe.reporting.pivots import Block, notes, pivot, place_names, short_labels
from airpipe.reporting.published import PAPER_SCALE
from airpipe.reporting.table import EMPTY
from airpipe.reporting.table import Block as Shown
from airpipe.reporting.table import read_table as read_shown
from airpipe.reporting.tables import PLACE, Card, read_gains, read_table, without_seed

TEMPLATE = "page.html.j2"
SIDES = (448, 384, 320, 256, 192)
"""Longest side in pixels of gallery pictures: the largest with which all stay below PICTURE_BYTES."""
PICTURE_BYTES = 2_600_000
"""Largest size of all gallery pictures together, in bytes."""
LARGE_FIGURE = 300_000
"""Figures of more bytes (pictures, not charts) become JPEG."""
FIGURE_WIDTH = 1600
"""Width in pixels to which wider JPEG figures are scaled down."""
FIGURES = (
    ("bars", "PSNR by degradation and level"),
    ("curves", "Training loss and validation PSNR"),
    ("qualitative", "Degraded, restored and clean, with the crop where restoration changes most"),
)
FEATURE_FIGURES = (
    ("tsne", "t-SNE of the features, with random weights and as trained; each point is a degraded crop"),
    ("confusion", "Which degradation is taken for which"),
)
RECOGNITION_FIGURES = (
    ("top1", "What the frozen headline recogniser tells in degraded and in restored images"),
    ("pictures", "Degraded, restored and clean, and how much each branch of the enhancer counts at each place"),
)


@dataclass(frozen=True)
class Sources:
    """The files that the page shows."""

    tables: Sequence[Path]
    """Long tables <name>.csv; <name>_gains.csv lies beside each."""
    figures: Path
    """Folder with <name>/bars.png, curves.png and qualitative.png of each table."""
    efficiency: Path
    """The efficiency table, efficiency.csv."""
    scores: Sequence[Path]
    """Score files of all tests, `none` and the models."""
    pictures: Path
    """Folder with <model id>/<test>/<image>.png."""
    lists: Sequence[Path] = ()
    """JSON of the pair lists of folders: results/pairs/<dataset>.<split>.json."""
    checks: Sequence[Path] = ()
    """What the check of each of these lists found: results/manifests/<dataset>.<split>.json."""
    leakage: Path | None = None
    """The leakage report, results/data/leakage.json; None: no list is of a folder."""
    features: Path | None = None
    """The feature table, features.csv, where features were analysed; its figures are in `figures`/features."""
    recognition: Sequence[Path] = ()
    """The tables recognition.csv and restoration.csv, where there were recognition tests; figures in
    `figures`/recognition."""


@dataclass(frozen=True)
class GainLine:
    """Gains of one model in one column: mean and smallest in dB, and those of every image."""

    model: str
    place: str
    protocol: str
    mean: float
    smallest: float
    images: tuple[tuple[str, float, float, float], ...]
    """Image name, PSNR without restoration, PSNR restored, gain."""


@dataclass(frozen=True)
class Section:
    """One table of the project with its figures."""

    name: str
    blocks: list[Block]
    notes: list[str]
    gains: list[GainLine]
    figures: list[dict[str, str]]
    """Title and data address of each figure."""


@dataclass(frozen=True)
class FeatureSection:
    """The feature analysis: its table, notes and figures."""

    head: list[str]
    body: list[list[str]]
    notes: list[str]
    figures: list[dict[str, str]]
    """Title and data address of each figure."""


@dataclass(frozen=True)
class RecognitionSection:
    """The recognition tests: their blocks (title, head, body), notes and figures."""

    blocks: list[dict[str, Any]]
    notes: list[str]
    figures: list[dict[str, str]]
    """Title and data address of each figure."""


@dataclass(frozen=True)
class Slider:
    """A degraded and a restored picture to compare; classes name the embedded pictures."""

    model: str
    test: str
    image: str
    degraded: str
    restored: str
    before: str
    after: str
    """PSNR before and after, as shown."""
    width: int
    height: int


# Pictures


def jpeg(pixels: Any, quality: int) -> bytes:
    """Encode uint8 (H, W, 3) RGB as JPEG without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()


def data_address(content: bytes, kind: str = "image/jpeg") -> str:
    """The bytes as a data: address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _smaller(pixels: Any, side: int) -> Any:
    """Scale down (never up) so that the longest side is at most `side` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def embed_pictures(scenes: Sequence[Scene], quality: int) -> tuple[dict[str, str], list[Slider]]:
    """Encode all gallery pictures as data addresses by class name, and lay out the sliders that use them."""
    for side in SIDES:
        encoded, sliders = _encode(scenes, quality, side)
        if sum(map(len, encoded.values())) <= PICTURE_BYTES:
            break
    return {name: data_address(content) for name, content in encoded.items()}, sliders


def _encode(scenes: Sequence[Scene], quality: int, side: int) -> tuple[dict[str, bytes], list[Slider]]:
    encoded: dict[str, bytes] = {}

    def add(pixels: Any) -> str:
        content = jpeg(_smaller(pixels, side), quality)
        name = f"p{hashlib.sha256(content).hexdigest()[:12]}"
        encoded[name] = content
        return name

    sliders = []
    for scene in scenes:
        before = add(scene.degraded.pixels)
        height, width = _smaller(scene.degraded.pixels, side).shape[:2]
        for shown in scene.restored:
            names = (shown.title, scene.test, scene.image, before, add(shown.pixels))
            values = (_decibel(scene.degraded.psnr), _decibel(shown.psnr))
            sliders.append(Slider(*names, *values, width, height))
    return encoded, sliders


def _decibel(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def embed_figure(path: Path) -> str:
    """A figure as a data address: charts as PNG, the large grid of pictures as JPEG."""
    if path.stat().st_size < LARGE_FIGURE:
        return data_address(path.read_bytes(), "image/png")
    image = Image.fromarray(read_pixels(path))
    image.thumbnail((FIGURE_WIDTH, image.height), Image.Resampling.LANCZOS)
    return data_address(jpeg(np.asarray(image), 82))


# Text


def gain_lines(gains: pd.DataFrame) -> list[GainLine]:
    """Gather per-image gains by model, column and protocol, all seeds together."""
    if gains.empty:
        return []
    own = gains.assign(key=gains["model"].map(without_seed))
    labels = short_labels(own["key"].unique())
    places = list(dict.fromkeys(own[PLACE].itertuples(index=False, name=None)))
    names = dict(zip(places, place_names(places), strict=True))
    lines = []
    for _, group in own.groupby(["key", *PLACE, "protocol"], sort=False):
        columns = group[["image", "none", "restored", "gain"]].itertuples(index=False, name=None)
        images = tuple((str(i), float(n), float(r), float(g)) for i, n, r, g in columns)
        values = group["gain"].to_numpy(float)
        first = group.iloc[0]
        texts = (labels[first["key"]], names[tuple(first[PLACE])], str(first["protocol"]))
        lines.append(GainLine(*texts, float(values.mean()), float(values.min()), images))
    return lines


def summary(gains: pd.DataFrame, cards: Mapping[str, Card], scale: str) -> str:
    """One paragraph: what was run at which scale, and what came of it.

    Args:
        gains: per-image gains to speak of, each measurement once.
        cards: card of every trained model, by model id.
        scale: scale of this run.
    """
    models = len({without_seed(model) for model in cards})
    text = f"{_count(models, 'model')}, {_count(len(cards), 'training run')}, {scale} scale."
    if len(gains):
        values, pictures = gains["gain"].to_numpy(float), len(gains[["test", "image"]].drop_duplicates())
        text += (
            f" On {_count(pictures, 'test picture')}, PSNR changes by {values.mean():+.2f} dB on average; "
            f"the smallest gain of a single picture is {values.min():+.2f} dB, "
            f"and {int((values < 0).sum()) or 'none'} of {len(values)} gains are negative."
        )
    if scale != PAPER_SCALE:
        text += " Numbers at this scale show that the pipeline works; do not compare them with published ones."
    return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def all_gains(tables: Sequence[Path], protocol: str) -> pd.DataFrame:
    """Gains of all tables under one protocol (where it was used, otherwise all), each measurement once."""
    gains = pd.concat([read_gains(gains_path(path)) for path in tables], ignore_index=True)
    gains = gains.drop_duplicates(["model", "test", "image", "protocol"])
    wanted = gains["protocol"] == protocol
    return gains[wanted] if wanted.any() else gains


def gains_path(table: Path) -> Path:
    """Path of the file with the gains of a table."""
    return table.with_name(f"{table.stem}_gains.csv")


def _section(path: Path, sources: Sources, scale: str) -> Section:
    name, table = path.stem, read_table(path)
    gains = read_gains(gains_path(path))
    figures = [
        {"title": title, "address": embed_figure(sources.figures / name / f"{kind}.png"), "kind": kind}
        for kind, title in FIGURES
    ]
    return Section(name, pivot(table), notes(table, scale), gain_lines(gains), figures)


def _feature_section(sources: Sources) -> FeatureSection | None:
    if sources.features is None:
        return None
    table = read_shown(sources.features.with_suffix(".json"))
    figures = [
        {"title": title, "address": embed_figure(sources.figures / "features" / f"{kind}.png")}
        for kind, title in FEATURE_FIGURES
    ]
    block = _texts(table.blocks[0])
    return FeatureSection(block["head"], block["body"], list(table.notes), figures)


def _recognition_section(sources: Sources) -> RecognitionSection | None:
    if not sources.recognition:
        return None
    tables = [read_shown(path.with_suffix(".json")) for path in sources.recognition]
    blocks = [_texts(block) for table in tables for block in table.blocks]
    notes = [note for table in tables for note in table.notes]
    figures = [
        {"title": title, "address": embed_figure(sources.figures / "recognition" / f"{kind}.png")}
        for kind, title in RECOGNITION_FIGURES
    ]
    return RecognitionSection(blocks, list(dict.fromkeys(notes)), figures)


def _texts(block: Shown) -> dict[str, Any]:
    """A block as plain texts."""
    cells = [[" / ".join(part.text for part in cell.parts) or EMPTY for cell in line.cells] for line in block.lines]
    body = [[line.label, *texts] for line, texts in zip(block.lines, cells, strict=True)]
    return {"title": block.title, "head": list(block.head), "body": body}


def provenance_lines(cards: Mapping[str, Card]) -> list[list[str]]:
    """Model, settings hash, git commit, end of training and device of every model, for the footer."""
    lines = []
    for model, card in cards.items():
        commit = str(card["git"]["commit"] or "not in git")[:12]
        changed = " + uncommitted changes" if card["git"]["dirty"] else ""
        texts = (
            str(card["settings_hash"] or "imported")[:12],
            commit + changed,
            str(card["finished"]),
            str(card["device"] or ""),
        )
        lines.append([model, *texts])
    return lines


def data_lines(sources: Sources) -> list[str]:
    """Lines on what a reader should know of the data: odd copies, missing files, test images that were trained on."""
    lines = []
    for path, check in zip(sources.lists, sources.checks, strict=True):
        facts, checked = (json.loads(each.read_text(encoding="utf-8")) for each in (path, check))
        notes = [f"version {checked['version']}"] if checked.get("version") else []
        notes += [f"{len(facts['removed'])} images of the tests left out"] if facts.get("removed") else []
        notes += checked.get("notes", [])
        lines.append(f"{path.stem}: {_count(facts['pairs'], 'pair')}. {'; '.join(notes)}".rstrip(". "))
    if sources.leakage is not None:
        for pair in json.loads(sources.leakage.read_text(encoding="utf-8"))["shared"]:
            lines.append(
                f"Leakage: {pair['train_list']} shows {pair['test_images']} of the {pair['of_test_images']} test "
                f"images of {pair['test_list']} (results/data/leakage.csv names them; docs/datasets.md tells "
                "how to train without them)"
            )
    return lines


def write_page(
    sources: Sources, cards: Mapping[str, Card], report: Mapping[str, Any], scale: str, target: Path
) -> None:
    """Write the page.

    Args:
        sources: the files to show.
        cards: card of every trained model, by model id.
        report: the fields of ReportSettings.
        scale: scale of this run.
        target: html file to write.

    Raises:
        AirpipeError: a picture or score is missing, or the disk refuses.
    """
    sections = [_section(path, sources, scale) for path in sources.tables]
    efficiency = _texts(read_shown(sources.efficiency.with_suffix(".json")).blocks[0])
    scenes = read_scenes(sources.scores, sources.pictures, report["protocol"], report["images_per_test"])
    pictures, sliders = embed_pictures(scenes, report["jpeg_quality"])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(TEMPLATE).render(
        title=report["title"],
        scale=scale,
        summary=summary(all_gains(sources.tables, report["protocol"]), cards, scale),
        sections=sections,
        features=_feature_section(sources),
        recognition=_recognition_section(sources),
        data=data_lines(sources),
        pictures=pictures,
        sliders=sliders,
        efficiency=(efficiency["head"], efficiency["body"]),
        provenance=provenance_lines(cards),
    )
    write_text(target, text)
