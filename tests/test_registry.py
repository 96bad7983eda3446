"""The registry of data sets: complete, well formed, and its layouts find the pairs that they promise."""

import csv
import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import yaml
from helpers import ROOT
from samples import SAMPLES, needs_samples

from airpipe.data.files import list_images
from airpipe.data.pairs import Pairing, pair_up
from airpipe.errors import AirpipeError
from airpipe.settings.base import check_settings, read_yaml
from airpipe.settings.datasets import ADDRESSES, Classes, DatasetSettings, Layout, PairRule, SplitSettings
from airpipe.settings.merging import deep_merge, inherited

IDS = [
    "photos", "bsd400", "cbsd68", "bsd68", "wed", "div2k", "flickr2k", "df2k", "dfwb", "urban100", "kodak24",
    "mcmaster", "set5", "set12", "set14", "classic5", "live1", "rain100l", "rain100h", "rain12", "rain13k",
    "rain14000", "rain_train_hl", "reside_its", "reside_ots", "sots_indoor", "sots_outdoor", "reside_6k", "nh_haze",
    "dense_haze", "gopro", "hide", "realblur_r", "realblur_j",
    "dpdd", "lol_blur", "lol_v1", "lol_v2", "lol_syns", "snow100k", "csd", "cdd_11", "sidd", "raindrop", "srd",
    "celeba_hq_256", "da_clip", "instructir_5d", "dsrir_bundle", "cub", "pascal_voc",
    "market_1501", "voc_2007_crops", "shapes0", "shapes1", "shapes2", "shapes3",
]  # fmt: skip
COMPOSITE = {"cdd_11"}
"""Sets whose folders name the degradation."""
NAMES = {
    "same": ("1", "1"),
    "auto": ("rain-001", "norain-001"),
    "rain_no": ("rain-001", "norain-001"),
    "no_prefix": ("rain-1", "norain-1"),
    "haze_id": ("0001_0.8_0.2", "0001"),
    "hazy_gt": ("01_hazy", "01_GT"),
    "gopro_flat": ("GOPR0384_11_00-000001", "GOPR0384_11_00-000001"),
    "gopro_seq": ("000001", "000001"),
    "cdd": ("00001", "00001"),
}
"""By rule: stems of a degraded and its clean file."""
CLEAN_NAMES = ("0001", "0800", "0801", "0810", "0900", "img_001_HR")
"""For splits without degraded files; the first one that fits a glob is taken."""


@cache
def registry() -> dict[str, DatasetSettings]:
    entries = inherited(read_yaml(ROOT / "config/datasets.yaml")["datasets"])
    return {name: check_settings(DatasetSettings, entry, f"datasets.{name}") for name, entry in entries.items()}


def splits() -> list[tuple[str, SplitSettings]]:
    return [
        (f"{name}.{split}", settings) for name, entry in registry().items() for split, settings in entry.splits.items()
    ]


def made(glob: str, stems: tuple[str, ...]) -> str:
    """A path that a glob matches: any folder is called x, the file is the first of `stems` that fits."""
    *folders, last = glob.split("/")
    fitting = [f"{stem}.png" for stem in stems if fnmatchcase(f"{stem}.png", last)]
    assert fitting, f"{glob} matches none of {stems}"
    return "/".join([*(folder.replace("*", "x") for folder in folders), fitting[0]])


def example(layout: Layout, clean: tuple[str, ...] = CLEAN_NAMES) -> list[str]:
    """The smallest tree that a layout describes: a file for its first clean and first degraded glob."""
    if layout.degraded is None:
        return [made(layout.clean[0], clean)]
    degraded, clean = NAMES[layout.rule]
    return [made(layout.degraded[0], (degraded,)), made(layout.clean[0], (clean,))]


def found(root: Path, dataset: str, split: str) -> Pairing:
    """Pairs of a split in a folder on disk."""
    settings = registry()[dataset].splits[split]
    globs = [glob for layout in settings.layouts for glob in (*layout.clean, *(layout.degraded or ()))]
    paths, problems = list_images(root, globs)
    assert problems == []
    return pair_up(paths, settings)


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def test_every_entry_is_valid_and_the_sets_of_the_papers_are_all_there():
    assert sorted(registry()) == sorted(IDS)


def test_every_entry_has_title_home_and_licence():
    assert [name for name, entry in registry().items() if not (entry.title and entry.home and entry.licence)] == []
    assert [name for name, entry in registry().items() if not re.match(r"https?://[\w.-]+/\S*$", entry.home)] == []


def test_only_a_folder_that_was_never_published_has_no_source():
    without = [name for name, entry in registry().items() if not (entry.sources or entry.embedded or entry.made)]
    assert without == ["rain_train_hl"]


def test_addresses_are_well_formed_and_say_where_they_were_read():
    forms = {
        "url": r"https?://[\w.-]+/\S+",
        "gdrive": r"[\w-]{33}",
        "gdrive_folder": r"[\w-]{33}",
        "by_hand": r"(.* )?(https?://[\w.-]+/\S*)( .*|,.*|;.*)?",
    }
    odd = []
    for name, entry in registry().items():
        for source in entry.sources:
            assert len(source.read_in) > 10 and not source.verified, name
            for file in source.files:
                kind = next(kind for kind in ADDRESSES if getattr(file, kind) is not None)
                if kind in forms and not re.fullmatch(forms[kind], getattr(file, kind).strip()):
                    odd.append((name, getattr(file, kind)))
                if kind != "gdrive_folder":
                    assert "." in file.name, f"{name}: {file.name} has no suffix"
    assert odd == []


def test_files_of_different_sources_of_a_set_have_names_of_their_own():
    repeated = []
    for name, entry in registry().items():
        names = [file.name for source in entry.sources for file in source.files]
        repeated += [(name, file) for file in set(names) if names.count(file) > 1]
    assert repeated == []


def test_splits_with_degraded_files_name_their_degradation():
    for name, split in splits():
        paired = any(layout.degraded for layout in split.layouts)
        assert bool(split.degradation) == (paired and name.split(".")[0] not in COMPOSITE), name


def test_layouts_of_a_split_have_different_names():
    for name, split in splits():
        names = [layout.name for layout in split.layouts]
        assert len(set(names)) == len(names), name


@pytest.mark.parametrize("dataset", [name for name in IDS if name != "photos"])
def test_each_layout_of_a_set_is_recognised_in_the_smallest_tree_that_it_describes(dataset, tmp_path):
    for split, settings in registry()[dataset].splits.items():
        for layout in settings.layouts:
            clean = ("0002_c1s1_000451_03",) if settings.classes == "market" else CLEAN_NAMES
            root = tree(tmp_path / f"{split}.{layout.name}", *example(layout, clean))
            globs = [glob for one in settings.layouts for glob in (*one.clean, *(one.degraded or ()))]
            pairing = pair_up(list_images(root, globs)[0], settings.model_copy(update={"names": None, "pick": None}))
            where = f"{dataset}.{split}, layout {layout.name}"
            assert pairing.problems == [] and len(pairing.rows) == 1, where
            assert pairing.layout.name == layout.name, f"{where} is taken for {pairing.layout.name}"


PUBLISHED = {
    "official Rain100L": (
        "rain100l", "test",
        ["rain/rain-001.png", "rain/rain-002.png", "norain/norain-001.png", "norain/norain-002.png"],
        [("rain/rain-001.png", "norain/norain-001.png"), ("rain/rain-002.png", "norain/norain-002.png")],
    ),
    "training folder of AirNet": (
        "rain100l", "train",
        ["rainy/rain-1.png", "rainy/rain-10.png", "gt/norain-1.png", "gt/norain-10.png"],
        [("rainy/rain-1.png", "gt/norain-1.png"), ("rainy/rain-10.png", "gt/norain-10.png")],
    ),
    "both splits below one folder": (
        "rain100l", "test",
        ["train/rainy/rain-1.png", "train/gt/norain-1.png", "test/input/1.png", "test/target/1.png"],
        [("test/input/1.png", "test/target/1.png")],
    ),
    "OTS in parts": (
        "reside_ots", "train",
        ["synthetic/part1/0005_0.8_0.04.jpg", "synthetic/part4/0005_1_0.2.jpg", "original/0005.jpg",
         "original/Thumbs.db"],
        [("synthetic/part1/0005_0.8_0.04.jpg", "original/0005.jpg"),
         ("synthetic/part4/0005_1_0.2.jpg", "original/0005.jpg")],
    ),
    "SOTS as an archive": (
        "sots_outdoor", "test",
        ["SOTS/outdoor/hazy/0001_0.8_0.2.jpg", "SOTS/outdoor/gt/0001.png", "SOTS/indoor/nyuhaze500/hazy/1400_1.png",
         "SOTS/indoor/nyuhaze500/gt/1400.png"],
        [("SOTS/outdoor/hazy/0001_0.8_0.2.jpg", "SOTS/outdoor/gt/0001.png")],
    ),
    "NH-HAZE, flat": (
        "nh_haze", "all", ["01_hazy.png", "01_GT.png", "02_hazy.png", "02_GT.png"],
        [("01_hazy.png", "01_GT.png"), ("02_hazy.png", "02_GT.png")],
    ),
    "GOPRO_Large": (
        "gopro", "test",
        [f"test/GOPR0384_11_00/{kind}/000001.png" for kind in ("blur", "blur_gamma", "sharp")]
        + [f"train/GOPR0372_07_00/{kind}/000047.png" for kind in ("blur", "blur_gamma", "sharp")],
        [("test/GOPR0384_11_00/blur/000001.png", "test/GOPR0384_11_00/sharp/000001.png")],
    ),
    "GOPRO_Large, gamma": (
        "gopro", "train_gamma",
        [f"GOPRO_Large/train/GOPR0372_07_00/{kind}/000047.png" for kind in ("blur", "blur_gamma", "sharp")],
        [("GOPRO_Large/train/GOPR0372_07_00/blur_gamma/000047.png",
          "GOPRO_Large/train/GOPR0372_07_00/sharp/000047.png")],
    ),
    "GoPro, flat": (
        "gopro", "train",
        ["train/input/GOPR0372_07_00_000047.png", "train/target/GOPR0372_07_00_000047.png"],
        [("train/input/GOPR0372_07_00_000047.png", "train/target/GOPR0372_07_00_000047.png")],
    ),
    "Snow100K test archive": (
        "snow100k", "test_m",
        [f"media/jdway/GameSSD/overlapping/test/Snow100K-{size}/{kind}/a_1.jpg"
         for size in "SML" for kind in ("gt", "mask", "synthetic")],
        [("media/jdway/GameSSD/overlapping/test/Snow100K-M/synthetic/a_1.jpg",
          "media/jdway/GameSSD/overlapping/test/Snow100K-M/gt/a_1.jpg")],
    ),
    "DA-CLIP": (
        "da_clip", "jpeg_compressed",
        ["val/jpeg-compressed/LQ/1.png", "val/jpeg-compressed/GT/1.png", "val/hazy/LQ/1.png", "val/hazy/GT/1.png"],
        [("val/jpeg-compressed/LQ/1.png", "val/jpeg-compressed/GT/1.png")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_trees_give_their_pairs(case, tmp_path):
    dataset, split, paths, pairs = PUBLISHED[case]
    pairing = found(tree(tmp_path, *paths), dataset, split)
    assert pairing.problems == []
    assert [(row["degraded"], row["clean"]) for row in pairing.rows] == sorted(pairs)


def test_bsd400_takes_train_and_test_of_the_berkeley_archive_and_cbsd68_its_68_of_val(tmp_path):
    chosen = registry()["cbsd68"].splits["test"].names
    assert len(chosen) == len(set(chosen)) == 68
    images = "BSR/BSDS500/data/images"
    val = [f"{images}/val/{stem}.jpg" for stem in (*chosen, "8049", "8143")]
    root = tree(tmp_path, f"{images}/train/100075.jpg", f"{images}/test/100007.jpg", f"{images}/test/Thumbs.db", *val)
    assert [row["name"] for row in found(root, "bsd400", "train").rows] == ["100007", "100075"]
    pairing = found(root, "cbsd68", "test")
    assert sorted(row["name"] for row in pairing.rows) == sorted(chosen) and pairing.problems == []
    (root / images / "val" / "3096.jpg").unlink()
    assert "3096" in found(root, "cbsd68", "test").problems[0]


def test_a_flat_folder_of_div2k_is_split_by_number(tmp_path):
    root = tree(tmp_path, *(f"{number:04}.png" for number in range(1, 901)))
    train, valid = (sorted(row["name"] for row in found(root, "div2k", split).rows) for split in ("train", "valid"))
    assert (len(train), train[0], train[-1]) == (800, "0001", "0800")
    assert (len(valid), valid[0], valid[-1]) == (100, "0801", "0900")


def test_cdd_11_has_eleven_degradations_of_each_scene(tmp_path):
    kinds = [folder.split("/")[1] for folder in registry()["cdd_11"].splits["test"].layouts[0].degraded]
    assert len(set(kinds)) == 11 and "clear" not in kinds
    root = tree(tmp_path, *(f"CDD-11_test/{kind}/{n:05}.png" for kind in (*kinds, "clear") for n in (1, 2)))
    rows = found(root, "cdd_11", "test").rows
    assert len(rows) == 22
    assert {row["degradation"] for row in rows} == set(kinds)
    assert {row["clean"] for row in rows} == {"CDD-11_test/clear/00001.png", "CDD-11_test/clear/00002.png"}


def test_a_foreign_folder_is_taken_for_no_paired_split():
    paired = [(name, split) for name, split in splits() if all(layout.degraded for layout in split.layouts)]
    assert len(paired) > 60
    for _, split in paired:
        with pytest.raises(AirpipeError, match="no image file matches"):
            pair_up(["holidays/2024/beach.jpg", "beach.jpg"], split)


def test_the_examples_of_the_documentation_are_valid_entries():
    text = (ROOT / "docs/datasets.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^( *)```yaml\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    examples = [values["datasets"] for values in (yaml.safe_load(block) for _, block in blocks) if "datasets" in values]
    assert len(examples) == 8
    shipped = read_yaml(ROOT / "config/datasets.yaml")["datasets"]
    for example in examples:
        entries = inherited(deep_merge(shipped, example))
        for name in example:
            entry = check_settings(DatasetSettings, entries[name], name)
            assert entry.made or entry.root is not None


def test_the_documentation_explains_every_pairing_rule():
    text, _, _ = (ROOT / "docs/datasets.md").read_text(encoding="utf-8").partition("## Labelled images")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(get_args(PairRule))


def test_the_documentation_explains_every_kind_of_classes():
    _, _, text = (ROOT / "docs/datasets.md").read_text(encoding="utf-8").partition("## Labelled images")
    text, _, _ = text.partition("## Data sets that are made here")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) - {"classes"} == set(get_args(Classes))


OWN_COPIES = {
    "BSD400": ("bsd400", "train", 391),
    "CBSD68": ("cbsd68", "test", 68),
    "Kodak24": ("kodak24", "test", 24),
    "Set12": ("set12", "test", 12),
    "Set14": ("set14", "test", 14),
    "McMaster": ("mcmaster", "test", 4),
    "Urban100": ("urban100", "test", 6),
    "DIV2K": ("div2k", "valid", 2),
    "DIV2K/DIV2K_valid_HR": ("div2k", "valid", 2),
    "classic5": ("classic5", "test", 5),
    "Rain100L": ("rain100l", "test", 7),
    "Rain100L_481x321": ("rain100l", "test", 1),
    "Rain100L_input_target": ("rain100l", "test", 2),
    "Rain100H": ("rain100h", "test", 7),
    "Rain12": ("rain12", "test", 9),
    "SOTS/outdoor": ("sots_outdoor", "test", 1),
    "SOTS/indoor": ("sots_indoor", "test", 3),
    "SOTS/indoor/nyuhaze500": ("sots_indoor", "test", 3),
    "ITS_v2": ("reside_its", "train", 4),
    "GOPRO_derived/train": ("gopro", "train", 3),
    "GOPRO_derived/test": ("gopro", "test", 3),
    "GOPRO_examples": ("gopro", "examples", 2),
    "LOL/our485": ("lol_v1", "train", 16),
    "LOL/eval15": ("lol_v1", "test", 12),
}
"""Real files by folder: data set, split, number of pairs. The root is the folder above where that holds all splits."""
ABOVE = ("GOPRO_derived", "LOL")


@needs_samples
@pytest.mark.parametrize("folder", OWN_COPIES)
def test_real_copies_give_the_listed_pairs(folder):
    dataset, split, count = OWN_COPIES[folder]
    top = folder.split("/")[0]
    root = SAMPLES / (top if top in ABOVE else folder)
    pairing = found(root, dataset, split)
    assert pairing.problems == [] and len(pairing.rows) == count
    with (SAMPLES / "pairs.csv").open(newline="") as stream:
        listed = {(r["degraded"], r["clean"]) for r in csv.DictReader(stream) if r["degraded"].startswith(f"{folder}/")}
    prefix = root.relative_to(SAMPLES).as_posix()
    assert {
        (f"{prefix}/{row['degraded']}", f"{prefix}/{row['clean']}") for row in pairing.rows if row["degraded"]
    } == listed
