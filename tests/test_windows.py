"""Windows lie where the published scripts cut, cost no copy, and give the same bits from files and from packs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from helpers import ROOT, shipped, toy_images
from hypothesis import given
from hypothesis import strategies as st

from airpipe.data.batch import collate
from airpipe.data.check import check_split, summary
from airpipe.data.duplicates import find_leaks, without_leaks, write_leaks
from airpipe.data.fingerprints import file_finder, read_fingerprints, write_fingerprints
from airpipe.data.lists import export
from airpipe.data.manifest import write_manifest
from airpipe.data.packing import pack_pairs
from airpipe.data.packs import Pack
from airpipe.data.pairs import COLUMNS, pair_up, read_facts, read_pairs, read_rows, write_pairs
from airpipe.data.samples import TrainingSamples, ValidationSamples
from airpipe.data.sampling import SampleKey, part_counts
from airpipe.data.sources import ImageCache, pair_layers
from airpipe.data.windows import Window, cut_out, cut_rows, starts
from airpipe.errors import AirpipeError
from airpipe.plan import Machine, load_plan
from airpipe.settings.base import check_settings, settings_hash
from airpipe.settings.datasets import Cut, DatasetSettings, SplitSettings
from airpipe.settings.merging import deep_merge
from airpipe.settings.stages import DataPart

DEGAE = Cut(size=480, step=240, rest=48)
SMALL = {"size": 24, "step": 16, "rest": 2}


# Where windows lie


@pytest.mark.parametrize(
    ("length", "cut", "expected"),
    [
        (2040, DEGAE, [0, 240, 480, 720, 960, 1200, 1440, 1560]),
        (1404, DEGAE, [0, 240, 480, 720, 924]),
        (768, DEGAE, [0, 240]),  # 48 pixels are left: no more than rest
        (769, DEGAE, [0, 240, 289]),
        (480, DEGAE, [0]),
        (1280, Cut(size=512, step=256), [0, 256, 512, 768]),
        (720, Cut(size=512, step=256), [0, 208]),
    ],
)
def test_windows_begin_every_step_and_once_more_at_the_border(length, cut, expected):
    assert starts(length, cut) == expected


@pytest.mark.parametrize(
    ("split", "size", "count"),
    [("df2k.train_cut", (2040, 1404), 40), ("gopro.train_crops", (1280, 720), 8), ("dfwb.train_cut", (481, 321), 1)],
)
def test_the_registry_cuts_an_image_into_as_many_windows_as_are_published(split, size, count):
    dataset, name = split.split(".")
    chosen = check_settings(SplitSettings, shipped()["datasets"][dataset]["splits"][name], split)
    rows, problems = cut_rows([row("x.png")], {"x.png": size}, chosen.cut)
    assert (len(rows), problems) == (count, [])
    if dataset == "gopro":
        assert chosen.expected == 2103 * count


cuts = st.builds(
    lambda size, step, rest: Cut(size=size, step=min(step, size), rest=rest),
    *(st.integers(1, 40), st.integers(1, 40), st.integers(0, 50)),
)


@given(cuts, st.integers(0, 200))
def test_windows_lie_inside_and_cover_all_but_the_rest(cut, more):
    length = cut.size + more
    found = starts(length, cut)
    assert found[0] == 0 and found[-1] + cut.size <= length
    covered = {pixel for start in found for pixel in range(start, start + cut.size)}
    assert len(covered) >= length - cut.rest
    assert covered == set(range(len(covered)))
    assert len(found) == more // cut.step + 1 + (more % cut.step > cut.rest)


@given(cuts, st.integers(0, 200))
def test_without_rest_they_lie_as_the_scripts_of_restormer_cut(cut, more):
    length = cut.size + more
    assert starts(length, cut.model_copy(update={"rest": 0})) == [*range(0, more, cut.step), length - cut.size]


@given(cuts, st.integers(0, 200))
def test_with_rest_they_lie_as_the_scripts_of_basicsr_cut(cut, more):
    length = cut.size + more
    space = np.arange(0, length - cut.size + 1, cut.step)
    if length - (space[-1] + cut.size) > cut.rest:
        space = np.append(space, length - cut.size)
    assert starts(length, cut) == space.tolist()


# Rows of pair lists


def row(clean, degraded="", crop="none"):
    known = {"clean": clean, "degraded": degraded, "crop": crop, "name": Path(degraded or clean).stem, "group": "g"}
    return dict.fromkeys(COLUMNS, "") | known


def test_windows_are_numbered_row_by_row_and_keep_what_their_image_has():
    rows, _ = cut_rows([row("a/0001.png")], {"a/0001.png": (56, 40)}, Cut(**SMALL))
    assert [(one["name"], one["window"]) for one in rows] == [
        ("0001_s001", "24x24+0+0"), ("0001_s002", "24x24+16+0"), ("0001_s003", "24x24+32+0"),
        ("0001_s004", "24x24+0+16"), ("0001_s005", "24x24+16+16"), ("0001_s006", "24x24+32+16"),
    ]  # fmt: skip
    assert {(one["clean"], one["group"], one["crop"]) for one in rows} == {("a/0001.png", "g", "none")}


def test_a_pair_is_cut_in_the_size_that_its_files_share():
    sizes = {"clean.png": (60, 48), "hazy.png": (40, 32)}
    (left, right, *_), _ = cut_rows([row("clean.png", "hazy.png", "centre")], sizes, Cut(**SMALL))
    assert (left["window"], right["window"]) == ("24x24+0+0", "24x24+16+0")
    assert len(cut_rows([row("clean.png", "hazy.png", "centre")], sizes, Cut(**SMALL))[0]) == 4


def test_small_images_stay_whole_where_asked_for_and_those_of_one_window_always():
    sizes = {"small.png": (100, 20), "exact.png": (24, 24), "wide.png": (25, 24)}
    rows, problems = cut_rows([row(path) for path in sizes], sizes, Cut(**SMALL, whole=20))
    assert [(one["name"], one["window"]) for one in rows] == [
        ("small", ""), ("exact", ""), ("wide_s001", "24x24+0+0"),
    ]  # fmt: skip
    assert problems == []


def test_too_small_images_and_clashing_names_are_problems():
    sizes = {"a.png": (23, 99), "b.png": (24, 40), "b_s001.png": (24, 24)}
    _, problems = cut_rows([row(path) for path in sizes], sizes, Cut(**SMALL))
    assert problems[0].startswith("a.png: 23x99 pixels hold no window of 24x24. Take a smaller cut.size")
    assert problems[1:] == ["b_s001: 2 windows or images have this name"]


@given(st.builds(Window, *[st.integers(1, 5000)] * 2, *[st.integers(0, 5000)] * 2))
def test_a_window_is_read_as_it_was_written(window):
    assert Window.parse(str(window)) == window


@pytest.mark.parametrize("text", ["480x480", "0x480+0+0", "480x480+-1+0", "480x480+0+0+0"])
def test_a_text_that_is_no_window_is_refused(text):
    with pytest.raises(AirpipeError, match=re.escape(f"{text!r} is no window")):
        Window.parse(text)


def test_a_window_over_the_border_is_refused():
    image = np.zeros((30, 40, 3), np.uint8)
    assert cut_out([image], Window(10, 10, 30, 20), "x")[0].base is image
    with pytest.raises(AirpipeError, match=r"x_s001: window 10x10\+31\+0 reaches over the image's 40x30 pixels"):
        cut_out([image], Window(10, 10, 31, 0), "x_s001")


# Settings


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"step": 0}, "step: Input should be greater than 0"),
        ({"size": 0}, "size: Input should be greater than 0"),
        ({"rest": -1}, "rest: Input should be greater than or equal to 0"),
        ({"whole": -1}, "whole: Input should be greater than or equal to 0"),
        ({"step": 25}, "step 25 is larger than size 24: pixels between windows would be lost"),
        ({"overlap": 8}, "unknown setting 'overlap'"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused(change, reason):
    with pytest.raises(AirpipeError, match=re.escape(reason)):
        check_settings(Cut, SMALL | change, "cut")


def test_labelled_splits_are_not_cut():
    with pytest.raises(AirpipeError, match="cut is for splits without classes"):
        check_settings(SplitSettings, {"clean": "*/*", "classes": "folder", "cut": SMALL}, "d.train")


def plan(*overlays, machine=None):
    merged = shipped()
    for overlay in overlays:
        merged = deep_merge(merged, overlay)
    return load_plan(merged, machine)


def mine(**cut):
    split = {"clean": "train/*"}
    return {"datasets": {"mine": {"title": "", "root": "x", "splits": {"train": split, "cut": split | {"cut": cut}}}}}


def test_tests_of_all_kinds_refuse_windows():
    test = {"tests": {"mine": {"pairs": "mine.cut", "degradation": "noise", "recipe": "noise"}}}
    features = {"features": {"classes": {"noise": {"pairs": "mine.cut"}}}}
    recognition = {"recognition": {"tests": {"shapes_clean": {"pairs": "mine.cut"}}}}
    named = ((test, "test mine"), (features, "features, class noise"), (recognition, "recognition, test shapes_clean"))
    for overlay, where in named:
        with pytest.raises(AirpipeError, match=rf"{where}: mine.cut is cut into windows, which are for training"):
            plan(mine(**SMALL), overlay)


def test_another_cut_is_another_pair_list_and_no_other_download():
    one, other = plan(mine(**SMALL)), plan(mine(**SMALL | {"rest": 3}))
    assert settings_hash(one.pairs_entry("mine.cut")) != settings_hash(other.pairs_entry("mine.cut"))
    assert one.frozen("sources", "mine") == other.frozen("sources", "mine")
    assert "cut" not in "\n".join(one.frozen("pairs", "mine.train"))


def test_windows_of_an_own_folder_are_searched_for_leaks_only_where_nothing_else_shows_it():
    assert plan(mine(**SMALL)).own_lists() == ["mine.train"]
    only = Machine(split=lambda dataset, split: split == "cut")
    assert plan(mine(**SMALL), machine=only).own_lists() == ["mine.cut"]


# Files and packs


def script(name, *arguments):
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


class Cutting:
    """A folder of pairs of the three crop rules, cut into windows, as files and packed."""

    def __init__(self, folder: Path, crop: str) -> None:
        self.root = folder / "data"
        for path in toy_images(self.root / "clean", 3, (61, 75)):
            clean = cv2.imread(str(path))
            seen = {"none": clean, "centre": clean[2:-2, 4:-4], "top_left": clean[:50, :60]}[crop]
            cv2.imwrite(str(self.root / path.name), seen // 2)
        self.split = SplitSettings(degraded="*.png", clean="clean/*", degradation="haze", crop=crop, cut=SMALL)
        self.checked = check_split("toy.train", self.split, str(self.root))
        self.list, self.manifest = folder / "pairs" / "toy.train.csv", folder / "manifest.csv"
        write_manifest(self.manifest, self.checked.files)
        sizes = {file.path: (file.width, file.height) for file in self.checked.files}
        whole = pair_up(list(sizes), self.split).rows
        self.list.parent.mkdir()
        write_pairs(self.list, cut_rows(whole, sizes, self.split.cut)[0], {})
        self.pairs = read_pairs(self.list, self.root)
        self.facts = pack_pairs(self.list, self.manifest, self.root, folder / "packed", 1)
        self.pack = Pack.open(Path(self.facts["folder"]))


@pytest.fixture(scope="module", params=["none", "centre", "top_left"])
def cutting(request, tmp_path_factory):
    return Cutting(tmp_path_factory.mktemp("cut"), request.param)


def test_a_pack_holds_images_once_and_gives_views_of_their_windows(cutting):
    assert (len(cutting.pack), cutting.pack.images) == (len(cutting.pairs), 6)
    assert len(cutting.pairs) > 3 * 6
    assert set(map(tuple, cutting.pack.sides())) == {(24, 24)}
    cache = ImageCache()
    for index, pair in enumerate(cutting.pairs):
        found, expected = cutting.pack.layers(index), pair_layers(pair, cache)
        assert len(found) == len(expected) == 2
        for one, other in zip(found, expected, strict=True):
            assert one.shape == (24, 24, 3)
            np.testing.assert_array_equal(one, other)
            assert np.shares_memory(one, cutting.pack._pixels) and not one.flags.writeable
        np.testing.assert_array_equal(found[1], found[0] // 2)  # cut alike
        names = (cutting.pack.name(index), cutting.pack.level(index), cutting.pack.degradation(index))
        assert names == (pair.name, "", "haze")


def test_windows_give_the_same_samples_as_files_that_were_cut_before(cutting, tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    rows, cache = [], ImageCache()
    for pair in cutting.pairs:
        for folder, image in zip("ba", pair_layers(pair, cache), strict=True):
            cv2.imwrite(str(tmp_path / folder / f"{pair.name}.png"), image[..., ::-1])
        rows.append(row(f"b/{pair.name}.png", f"a/{pair.name}.png"))
    write_pairs(tmp_path / "files.train.csv", rows, {})
    files = read_pairs(tmp_path / "files.train.csv", tmp_path)
    parts = [DataPart(pairs="toy.train", companion=True)]
    keys = [SampleKey(slot, 0, slot % len(files), 16) for slot in range(2 * len(files))]
    of_files, *of_windows = (
        collate([samples[key] for key in keys])
        for samples in (TrainingSamples(parts, [source], 5) for source in (files, cutting.pairs, cutting.pack))
    )
    for found in of_windows:
        assert found.name == of_files.name
        assert found.degraded.equal(of_files.degraded) and found.clean.equal(of_files.clean)
        assert found.companion.clean.equal(of_files.companion.clean)
    one, other = (ValidationSamples(parts, [pairs], 5, 16, 8) for pairs in (files, cutting.pairs))
    assert len(one) == len(other)
    np.testing.assert_array_equal(one[3]["degraded"], other[3]["degraded"])


def test_counts_are_counts_of_windows(cutting):
    count = len(cutting.pairs)
    assert cutting.checked.facts["pairs"] == cutting.facts["pairs"] == count
    assert f"{count} pairs" in summary(cutting.checked.facts)
    assert "windows of 3 images" in summary(cutting.checked.facts)
    part = DataPart(pairs="toy.train", share=None, repeat=5)
    assert part_counts([part], [len(cutting.pack)]) == ([5.0 * count], True)


def test_an_expected_number_is_one_of_windows(tmp_path):
    toy_images(tmp_path / "d", 2, (61, 75))
    split = {"clean": "*", "cut": SMALL, "strict": True, "expected": 2 * 4 * 5}
    assert check_split("d.train", SplitSettings(**split), str(tmp_path / "d")).facts["notes"] == []
    with pytest.raises(AirpipeError, match="40 windows found, 41 expected"):
        check_split("d.train", SplitSettings(**split | {"expected": 41}), str(tmp_path / "d"))
    with pytest.raises(AirpipeError, match=r"cut into windows: 2 problems\n  img0.png: 75x61 pixels hold no window"):
        check_split("d.train", SplitSettings(clean="*", cut={"size": 62, "step": 62}), str(tmp_path / "d"))


def test_the_scripts_make_a_list_of_windows_that_no_published_format_can_hold(tmp_path):
    toy_images(tmp_path / "d", 2, (61, 75))
    file, manifest, pairs = tmp_path / "entry.yaml", tmp_path / "m.csv", tmp_path / "d.train.csv"
    entry = DatasetSettings(title="", splits={"train": SplitSettings(clean="*", cut=SMALL)})
    file.write_text(yaml.safe_dump(entry.model_dump(mode="json", exclude_none=True)))
    script("check_dataset.py", "d.train", "--entry", file, "--root", tmp_path / "d", "--output", manifest)
    script("make_pairs.py", "d.train", "--entry", file, "--manifest", manifest, "--output", pairs)
    facts = read_facts(pairs)
    assert (facts["pairs"], facts["images"], facts["cut"]) == (40, 2, {**SMALL, "whole": 0})
    assert json.loads(manifest.with_suffix(".json").read_text())["pairs"] == 40
    with pytest.raises(AirpipeError, match=r"img0_s001: is a part of img0\.png, but published lists name whole"):
        export(read_rows(pairs), "names")


def test_lists_without_windows_are_written_as_before(tmp_path):
    write_pairs(tmp_path / "d.train.csv", [row("a.png")], {})
    assert (tmp_path / "d.train.csv").read_text().splitlines() == [",".join(COLUMNS), ",a.png,,,none,a,g"]
    assert read_pairs(tmp_path / "d.train.csv", tmp_path)[0].window is None


def test_an_image_that_leaks_is_left_out_with_all_its_windows(cutting, tmp_path):
    toy_images(tmp_path / "test", 1, (61, 75))
    write_pairs(tmp_path / "b.test.csv", [row("img0.png")], {})
    find = file_finder([f"toy={cutting.root}", f"b={tmp_path / 'test'}"])
    tables = []
    for pairs in (cutting.list, tmp_path / "b.test.csv"):
        write_fingerprints(pairs, find, tmp_path / "f" / pairs.name)
        tables.append(read_fingerprints(tmp_path / "f" / pairs.name))
    assert len(tables[0].paths) == 3  # images, not windows
    leaks = find_leaks(tables[:1], tables[1:], find)
    write_leaks(tmp_path / "leakage.csv", leaks, tables[:1], tables[1:])
    kept, removed = without_leaks(read_rows(cutting.list), "toy.train", tmp_path / "leakage.csv")
    assert {name.split("_")[0] for name in removed} == {"img0"}
    assert {one["clean"] for one in kept} == {"clean/img1.png", "clean/img2.png"}
    write_pairs(tmp_path / "toy.train_noleak.csv", kept, {})
    assert [one.window for one in read_pairs(tmp_path / "toy.train_noleak.csv", cutting.root)] == [
        pair.window for pair in cutting.pairs if pair.clean.stem != "img0"
    ]
