"""The report page: one html file with everything in it, readable without a network.

It shows any tables in the form of `airpipe.reporting.table`. Pictures are JPEG in base64, each embedded once as a
style class, however many sliders show it. A content security policy in the page forbids any request.
"""

import base64
import hashlib
import io
import json
import logging
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from airpipe.provenance import write_text
from airpipe.reporting.markup import visible
from airpipe.reporting.published import PAPER_SCALE
from airpipe.reporting.reading import Card, read_json, score_info
from airpipe.reporting.scenes import Scene, Shown, read_pixels, read_scenes, smaller
from airpipe.reporting.table import (
    EMPTY,
    NOTED,
    PRINTED,
    SIGNS,
    Block,
    Line,
    Table,
    commit_of,
    counted,
    facts_of,
    number,
    read_frame,
    read_table,
    without_seed,
    words,
)

log = logging.getLogger(__name__)

TEMPLATE = "page.html.j2"
SIDES = (448, 384, 320, 256, 192, 128)
"""Longest side in pixels of gallery pictures: the largest with which all stay within the budget."""
SMALL_SIDES = (256, 192, 160, 128, 96)
"""The same of models that were not chosen."""
WIDTHS = (1600, 1300, 1000, 800, 600)
"""Width in pixels to which wider figures are scaled down: as for pictures."""
HIGHEST = 100_000
"""Height in pixels to which figures are scaled down, whatever their width."""
BUDGET = 3_600_000
"""Bytes of all gallery pictures together, and of all figures; base64 makes 4/3 of it."""
SMALL_BUDGET = 2_400_000
"""The same of models that were not chosen."""
SMALL_QUALITY = 70
"""JPEG quality of their pictures, unless the settings ask for less."""
SAMPLED = 24
"""Number of pictures whose bytes tell those of all."""
LIMIT = 15_000_000
"""Bytes of a page that still opens quickly."""
GRIDS = ("qualitative", "pictures", "stages")
"""Figures that show photographs: they become JPEG; charts are drawn in few colours."""
CAPTIONS = {
    "bars": "PSNR by degradation and level, with 95 % intervals over images",
    "costs": "PSNR against parameters and against multiply-accumulates",
    "curves": "Training loss and validation PSNR",
    "qualitative": "Degraded, restored and clean (or the target, behind the reference that shows how it is degraded), "
    "with the crop where models change most",
    "tsne": "t-SNE of the features, with random weights and as trained; each point is a degraded crop",
    "confusion": "Which degradation is taken for which",
    "top1": "What the frozen headline recogniser tells in degraded and in restored images",
    "pictures": "Degraded, restored and clean, and how much each branch of the enhancer counts at each place",
    "stages": "Degraded, what each stage makes of it, how uncertain the last one is of each pixel (bright: more; below "
    "it the least and largest logarithm), clean",
}
"""What figures show, by the names of their files."""
MARKS = {"best": "the best", "worse": "worse than no restoration", "tie": "the difference lies within its interval"}
FACTS = ("method", "task", "protocol")
"""What readers filter by, in this order; other facts follow."""


@dataclass(frozen=True)
class Sources:
    """The files that the page shows."""

    sections: Mapping[str, Sequence[Path]]
    """Json files of the tables of each section, by its name; the first table gives its title."""
    figures: Sequence[Path]
    """Figures, each in a folder with the name of its section."""
    gains: Sequence[Path]
    """Long frames of gains per image, for the summary."""
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


@dataclass(frozen=True)
class Figure:
    """A figure with its size in pixels, as a data address."""

    caption: str
    address: str
    width: int
    height: int


@dataclass(frozen=True)
class Section:
    """Tables and figures under one heading."""

    name: str
    tables: Sequence[Table]
    figures: Sequence[Figure]

    @property
    def title(self) -> str:
        """Title of the first table; of figures alone, the name."""
        return self.tables[0].title if self.tables else self.name.capitalize()


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
    facts: Mapping[str, str] = field(default_factory=dict)


# Pictures


def jpeg(pixels: Any, quality: int) -> bytes:
    """Encode uint8 (H, W, 3) RGB as JPEG without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()


def data_address(content: bytes, kind: str = "image/jpeg") -> str:
    """The bytes as a data: address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def size_within(budget: int, sizes: Sequence[int], weigh: Callable[[int], float]) -> int:
    """Find the largest size at which pictures weigh at most `budget` bytes, or the smallest one.

    Args:
        budget: in bytes.
        sizes: longest sides or widths in pixels, the largest first.
        weigh: tells the bytes of all pictures at a size; not asked where the area says that they are too many.
    """
    last, heavy = sizes[0], weigh(sizes[0])
    for size in sizes[1:]:
        if heavy <= budget:
            break
        if heavy * (size / last) ** 2 <= budget or size == sizes[-1]:  # bytes never shrink faster than the area
            last, heavy = size, weigh(size)
    return last


def embed_pictures(
    pairs: Sequence[tuple[Scene, Shown]], sides: Sequence[int], budget: int, quality: int
) -> tuple[dict[str, str], list[Slider]]:
    """Encode gallery pictures, each file once and all at one scale, and lay out the sliders that use them.

    The scale is the largest with which a seeded sample of the files keeps its share of the budget.

    Args:
        pairs: test images, each with one of its restored pictures.
        sides: longest sides in pixels to choose from, the largest first.
        budget: bytes of all pictures together.
        quality: JPEG quality.

    Returns:
        Data addresses by class name, equal pictures once; and a slider for each pair.
    """
    files = list(dict.fromkeys(shown.file for pair in pairs for shown in (pair[0].degraded, pair[1])))
    drawn = random.Random(0).sample(files, min(SAMPLED, len(files)))
    sample = [read_pixels(file, (sides[0], sides[0])) for file in drawn]

    def weigh(side: int) -> float:
        weights = [len(jpeg(smaller(pixels, side, side), quality)) for pixels in sample]
        return len(files) * sum(weights) / max(len(weights), 1)

    side = size_within(budget, sides, weigh)
    addresses: dict[str, str] = {}
    embedded: dict[Path, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        pixels = read_pixels(file, (side, side))
        content = jpeg(pixels, quality)
        name = f"p{hashlib.sha256(content).hexdigest()[:12]}"
        addresses[name], embedded[file] = data_address(content), (name, pixels.shape)
    return addresses, [_slider(*pair, embedded) for pair in pairs]


def _slider(scene: Scene, shown: Shown, embedded: Mapping[Path, tuple[str, tuple[int, ...]]]) -> Slider:
    before = scene.degraded
    degraded, (height, width, _) = embedded[before.file]
    values = number(before.psnr, 2).text, number(shown.psnr, 2).text
    names = (shown.title, scene.test, scene.image, degraded, embedded[shown.file][0])
    return Slider(*names, *values, width, height, facts_of(shown.model))


def embed_gallery(
    scenes: Sequence[Scene], report: Mapping[str, Any]
) -> tuple[dict[str, str], list[Slider], dict[str, list[Slider]]]:
    """Encode all pictures of the gallery: those of the chosen models large, those of all others small.

    Returns:
        Data addresses by class name; sliders of the chosen models; those of the others by the model's title.
    """
    chosen = [(scene, shown) for scene in scenes for shown in scene.restored]
    rest = [(scene, shown) for scene in scenes for shown in scene.others]
    quality = report["jpeg_quality"]
    pictures, sliders = embed_pictures(chosen, SIDES, BUDGET, quality)
    small, laid = embed_pictures(rest, SMALL_SIDES, SMALL_BUDGET, min(quality, SMALL_QUALITY))
    others: dict[str, list[Slider]] = {}
    for slider in laid:
        others.setdefault(slider.model, []).append(slider)
    return pictures | small, sliders, others


def embed_figures(paths: Sequence[Path]) -> dict[Path, Figure]:
    """Embed figures, all at one scale."""
    encoded: dict[int, dict[Path, Figure]] = {}

    def weigh(width: int) -> float:
        encoded[width] = {path: _figure(path, width) for path in paths}
        return 0.75 * sum(len(figure.address) for figure in encoded[width].values())

    return encoded[size_within(BUDGET, WIDTHS, weigh)]


def _figure(path: Path, width: int) -> Figure:
    pixels = read_pixels(path, (width, HIGHEST))
    if path.stem in GRIDS:
        address = data_address(jpeg(pixels, 82))
    else:
        buffer = io.BytesIO()
        Image.fromarray(pixels).quantize(128).save(buffer, "PNG", optimize=True)
        address = data_address(buffer.getvalue(), "image/png")
    return Figure(CAPTIONS.get(path.stem, path.stem), address, pixels.shape[1], pixels.shape[0])


# Text


def summary(gains: pd.DataFrame, cards: Mapping[str, Card], scale: str) -> str:
    """One paragraph: what was run at which scale, and what came of it.

    Args:
        gains: gain of every image, each measurement once.
        cards: card of every trained model, by model id.
        scale: scale of this run.
    """
    models = len({without_seed(model) for model in cards})
    text = f"{_count(models, 'model')}, {_count(len(cards), 'training run')}, {scale} scale."
    if len(gains):
        values, pictures = gains["gain"].to_numpy(float), len(gains[["test", "image"]].drop_duplicates())
        text += (
            f" On {_count(pictures, 'test picture')}, PSNR changes by {counted(values).mean():+.2f} dB on average; "
            f"the smallest gain of a single picture is {values.min():+.2f} dB, "
            f"and {int((values < 0).sum()) or 'none'} of {len(values)} gains are negative."
        )
    if scale != PAPER_SCALE:
        text += " Numbers at this scale show that the pipeline works; do not compare them with published ones."
    return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def all_gains(sources: Sources, protocol: str) -> pd.DataFrame:
    """Gains of all tables under one protocol (where it was used, otherwise all), each measurement once.

    Tests of transfer are left out: there is nothing to restore.
    """
    gains = pd.concat([read_frame(path) for path in sources.gains], ignore_index=True)
    gains = gains.drop_duplicates(["model", "test", "image", "protocol"])
    infos = [score_info(path) for path in sources.scores]
    gains = gains[~gains["test"].isin([info["test"] for info in infos if info.get("transfers")])]
    wanted = gains["protocol"] == protocol
    return gains[wanted] if wanted.any() else gains


def provenance_block(cards: Mapping[str, Card]) -> Block:
    """Settings hash, git commit, end of training, device and notes of every model."""
    lines = []
    for model, card in cards.items():
        settings = str(card["settings_hash"] or "imported")[:12]
        notes = "; ".join(card.get("notes", ()))
        cells = words(settings, commit_of(card), str(card["finished"]), str(card["device"] or ""), notes)
        lines.append(Line(model, cells, facts=facts_of(model)))
    return Block("", ("model", "settings hash", "git commit", "training finished", "device", "notes"), tuple(lines))


def data_lines(sources: Sources) -> list[str]:
    """Lines on what a reader should know of the data: odd copies, missing files."""
    lines = []
    for path, check in zip(sources.lists, sources.checks, strict=True):
        facts, checked = read_json(path), read_json(check)
        notes = [f"version {checked['version']}"] if checked.get("version") else []
        notes += [f"{len(facts['removed'])} images of the tests left out"] if facts.get("removed") else []
        notes += checked.get("notes", [])
        lines.append(f"{path.stem}: {_count(facts['pairs'], 'pair')}. {'; '.join(notes)}".rstrip(". "))
    return lines


def leakage_lines(path: Path | None) -> list[str]:
    """Lines on test images that were trained on."""
    if path is None:
        return []
    return [
        f"{pair['train_list']} shows {pair['test_images']} of the {pair['of_test_images']} test images of "
        f"{pair['test_list']} (results/data/leakage.csv names them; docs/datasets.md tells how to train without them)"
        for pair in read_json(path)["shared"]
    ]


# The page


def origins_of(block: Block) -> dict[tuple[str, ...], int]:
    """Number all that cells of a block tell of where they come from, each once."""
    told = dict.fromkeys(cell.about for line in block.lines for cell in line.cells if cell.about)
    return {about: number for number, about in enumerate(told)}


def words_of(block: Block) -> set[int]:
    """Columns of words: they stand left, as the labels do."""
    columns = range(1, len(block.head))
    parts = {at: [part for line in block.lines for part in line.cells[at - 1].parts[:1]] for at in columns}
    return {at for at, found in parts.items() if found and all(math.isnan(part.value) for part in found)}


def choices(tables: Sequence[Table]) -> dict[str, list[str]]:
    """What readers can filter by: values of each fact of lines and blocks that has several."""
    found: dict[str, set[str]] = {name: set() for name in FACTS}
    for block in (block for table in tables for block in table.blocks):
        for facts in (block.facts, *(line.facts for line in block.lines if line.kind != "none")):
            for name, value in facts.items():
                found.setdefault(name, set()).add(value)
    several = {name: sorted(value for value in values if value) for name, values in found.items()}
    return {name: values for name, values in several.items() if len(values) > 1}


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
        AirpipeError: a table, picture or score is missing, or the disk refuses.
    """
    figures = embed_figures(sources.figures)
    sections = [
        Section(
            name,
            [read_table(path) for path in tables],
            [figure for path, figure in figures.items() if path.parent.name == name],
        )
        for name, tables in sources.sections.items()
    ]
    pictures, sliders, others = embed_gallery(read_scenes(sources.scores, sources.pictures, report), report)
    text = _template().render(
        title=report["title"],
        scale=scale,
        summary=summary(all_gains(sources, report["protocol"]), cards, scale),
        choices=choices([table for section in sections for table in section.tables]),
        sections=sections,
        remarks={"Leakage": leakage_lines(sources.leakage), "Data": data_lines(sources)},
        pictures=pictures,
        sliders=sliders,
        others=others,
        provenance=provenance_block(cards),
    )
    if len(text) > LIMIT:
        log.warning("%s has %.0f MB; fewer tables or report.images_per_test make it smaller", target, len(text) / 1e6)
    write_text(target, text)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json_text"] = lambda facts: json.dumps({key: value for key, value in facts.items() if value})
    environment.filters["breakable"] = lambda text: Markup(re.sub("([/_])", r"\1<wbr>", str(escape(visible(text)))))
    environment.globals |= {"signs": SIGNS, "marks": MARKS, "empty": EMPTY, "printed": PRINTED, "noted": NOTED}
    environment.globals |= {"origins_of": origins_of, "words_of": words_of}
    return environment.get_template(TEMPLATE)
