"""Labelled folders: classes by folder or published layout, shares of classes, and what is wrong with a folder."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, stage
from samples import SAMPLES, needs_samples

from airpipe.data.batch import Batch, collate
from airpipe.data.check import check_split, summary
from airpipe.data.labelled import name_of, place_of, shared_out
from airpipe.data.manifest import write_manifest
from airpipe.data.packing import pack_pairs
from airpipe.data.packs import Pack
from airpipe.data.pairs import read_facts, read_pairs
from airpipe.data.samples import TrainingSamples, ValidationSamples
from airpipe.data.sampling import SampleKey
from airpipe.errors import AirpipeError
from airpipe.methods.baseline.training import BaselineTask
from airpipe.provenance import write_json
from airpipe.registry import settings_class
from airpipe.settings.base import canonical_json, check_settings
from airpipe.settings.datasets import ClassShare, DatasetSettings, SplitSettings
from airpipe.settings.stages import DataPart
from airpipe.training.run import PairLists, RunOptions, run_identity, train_stage

SHARE = {"start": 0.0, "stop": 0.7}


def pictures(root, *paths):
    """Small images below a folder, all different."""
    root.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image = np.full((12, 14, 3), number, np.uint8)
        image[: number % 12 + 1, 0] = 255
        assert cv2.imwrite(str(root / path), image)
    return root


def split(clean="*/*", classes="folder", **more):
    return SplitSettings.model_validate({"clean": clean, "classes": classes, **more})


def listed(root, settings, folder, name="toy.train"):
    """Check a split, make its pair list as the workflow does, and read it."""
    checked = check_split(name, settings, str(root))
    manifest = folder / f"{name}.manifest.csv"
    write_manifest(manifest, checked.files)
    write_json(manifest.with_suffix(".json"), checked.facts)
    entry = DatasetSettings(title="", splits={name.split(".")[1]: settings})
    output = folder / f"{name}.csv"
    frozen = folder / f"{name}.yaml"
    frozen.write_text(canonical_json(entry))
    words = ["make_pairs.py", name, "--entry", str(frozen), "--manifest", str(manifest)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*words, "--output", str(output)])
        runpy.run_path(str(ROOT / "scripts/make_pairs.py"))["main"]()
    return output


def names(root, settings):
    return [file.path for file in check_split("toy.train", settings, str(root)).files]


CATS = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "dog/3.png"]


def test_the_folder_of_an_image_is_its_class_and_part_of_its_name(tmp_path):
    root = pictures(tmp_path / "pets", *CATS)
    path = listed(root, split(), tmp_path)
    pairs = read_pairs(path, root)
    assert [pair.name for pair in pairs] == ["cat__1", "cat__2", "dog__1", "dog__2", "dog__3"]
    assert [pair.category for pair in pairs] == ["cat", "cat", "dog", "dog", "dog"]
    assert read_facts(path)["classes"]["dog__3"] == "dog"
    checked = check_split("toy.train", split(), str(root))
    assert "5 pairs, layout own, rule clean only; 2 classes" in summary(checked.facts)


def test_odd_characters_leave_names_but_not_classes_and_clashes_are_errors(tmp_path):
    assert name_of("brown bear", "a/b c.1") == "brown_bear__a_b_c.1"
    assert name_of("..", "-x") == "___x"
    root = pictures(tmp_path / "pets", "brown bear/1.png", "brown_bear/2.png")
    pairs = read_pairs(listed(root, split(), tmp_path), root)
    assert [(pair.name, pair.category) for pair in pairs] == [
        ("brown_bear__1", "brown bear"),
        ("brown_bear__2", "brown_bear"),
    ]
    pictures(tmp_path / "pets", "brown_bear/1.png")
    with pytest.raises(AirpipeError, match="files share a name"):
        names(root, split())


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ([*CATS, "stray.png"], {}, r"stray.png: lies beside the class folders \(\*/\* names what is read\)"),
        ([*CATS, "cat/old/9.png"], {}, "cat/old/9.png: lies deeper than its class folder"),
        (["cat/1.png", "cat/2.png"], {}, "2 images are all of class 'cat'; expected at least two classes"),
        (["1.png", "2.png"], {"clean": "*"}, "1.png: lies directly in the folder; expected <class>/1.png"),
        (["cat/1.txt"], {}, r"no image file matches \*/\*"),
        ([*CATS, "emu/1.png"], {"share_of_class": SHARE}, "class emu: has one image; a share of it needs at least two"),
    ],
)
def test_wrong_layouts_are_told(tmp_path, files, settings, message):
    root = pictures(tmp_path / "pets", *[path for path in files if path.endswith(".png")])
    with pytest.raises(AirpipeError, match=message):
        names(root, split(**settings))


@pytest.mark.parametrize(
    ("done", "message"),
    [
        (None, "is not there. It is made here. Make it again"),
        ("a/x/0.png", "no image file. It is made here"),
    ],
)
def test_a_made_data_set_that_is_gone_or_damaged_is_to_be_made_again(tmp_path, done, message):
    root = tmp_path / "results/generated/shapes9"
    if done:
        pictures(root, done)
    with pytest.raises(AirpipeError, match=rf"{message}.*: snakemake -f results/generated/shapes9.json") as error:
        names(root, split("train/*/*"))
    assert "fetch" not in str(error.value)


def test_degraded_files_in_class_folders_are_matched_within_their_class(tmp_path):
    root = pictures(
        tmp_path / "pets", *(f"{kind}/{name}/0.png" for kind in ("clean", "rain") for name in ("cat", "dog"))
    )
    settings = split("clean/*/*", degraded="rain/*/*")
    pairs = read_pairs(listed(root, settings, tmp_path), root)
    assert [(pair.name, pair.degraded.parent.name, pair.clean.parent.name) for pair in pairs] == [
        ("cat__0", "cat", "cat"),
        ("dog__0", "dog", "dog"),
    ]
    pictures(root, "rain/dog/1.png", "clean/cat/1.png")
    with pytest.raises(AirpipeError, match="rain/dog/1.png: no clean file 1.* of class dog"):
        names(root, settings)


def test_classes_of_one_image_are_noted(tmp_path):
    root = pictures(tmp_path / "pets", *CATS, "emu/1.png")
    checked = check_split("toy.train", split(), str(root))
    assert checked.facts["notes"] == [
        "1 of 3 classes have one image (first: emu): "
        "a recogniser learns little of them, and no query of theirs finds another image"
    ]


def test_strays_may_be_left_out(tmp_path):
    root = pictures(tmp_path / "pets", *CATS, "stray.png", "cat/old/9.png", "emu/1.png")
    settings = split(leave_out=["*.png", "cat/old/*", "emu/*"], share_of_class={"stop": 1.0})
    assert names(root, settings) == CATS
    assert check_split("toy.train", settings, str(root)).facts["left_out"] == ["emu/1.png"]


# Shares of classes


def sides(root, seed=0, at=0.7):
    return [
        names(root, split(share_of_class={"start": start, "stop": stop, "seed": seed}))
        for start, stop in ((0, at), (at, 1))
    ]


def test_shares_part_every_class_and_new_images_move_no_other(tmp_path):
    before = [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(40)]
    root = pictures(tmp_path / "pets", *before)
    train, test = sides(root)
    assert sorted(train + test) == sorted(before)
    assert 0.55 < len(train) / 80 < 0.85
    assert {path.split("/")[0] for path in test} == {"cat", "dog"}
    pictures(root, *(f"cat/new{number}.png" for number in range(30)))
    later, later_test = sides(root)
    assert set(train) <= set(later)
    assert set(test) <= set(later_test)
    assert sides(root, seed=1) != [later, later_test]


def test_a_side_that_had_to_be_filled_gives_the_image_back_once_it_has_its_own():
    names = sorted((f"cat/{number}.png" for number in range(40)), key=lambda name: place_of(name, 0))
    low, high = names[:2], names[-1]
    test = ClassShare(start=0.5, stop=1.0)
    assert shared_out(dict.fromkeys(low, "cat"), test)[0] == [low[1]]
    assert shared_out(dict.fromkeys([*low, high], "cat"), test)[0] == [high]


@pytest.mark.parametrize("at", [0.01, 0.5, 0.99])
def test_both_sides_have_an_image_of_every_class(tmp_path, at):
    root = pictures(tmp_path / "pets", *CATS)
    train, test = sides(root, at=at)
    assert sorted(train + test) == CATS
    assert {path.split("/")[0] for path in train} == {path.split("/")[0] for path in test} == {"cat", "dog"}


def test_a_share_in_the_middle_may_be_empty_and_is_then_told():
    classes = {"cat/1.png": "cat", "cat/2.png": "cat"}
    shares = [ClassShare(start=a, stop=b) for a, b in ((0, 0.4), (0.4, 0.6), (0.6, 1))]
    found = [shared_out(classes, share) for share in shares]
    assert sorted(path for chosen, _ in found for path in chosen) == sorted(classes)
    assert found[1][1] == [
        "class cat: none of its 2 images lies in the share from 0.4 to 0.6; "
        "add images, widen the share, or choose another seed"
    ]
    places = [place_of(f"cat/{number}.png", 0) for number in range(1000)]
    assert np.mean(places) == pytest.approx(0.5, abs=0.03)


def test_a_pair_list_of_a_share_is_that_of_its_manifest(tmp_path):
    root = pictures(tmp_path / "pets", *CATS)
    for name, share in (("toy.train", {"stop": 0.01}), ("toy.test", {"start": 0.01})):
        settings = split(share_of_class=share)
        pairs = read_pairs(listed(root, settings, tmp_path, name), root)
        assert [pair.clean.relative_to(root).as_posix() for pair in pairs] == names(root, settings)


# Published layouts


def birds(root):
    """A CUB-200-2011 of two classes."""
    files = ["001.Crow/Crow_1.jpg", "001.Crow/Crow_2.jpg", "002.Owl/Owl_1.jpg", "002.Owl/Owl_2.jpg"]
    pictures(root / "images", *files)
    lists = {
        "images.txt": [f"{n} {file}" for n, file in enumerate(files, 1)],
        "image_class_labels.txt": ["1 1", "2 1", "3 2", "4 2"],
        "classes.txt": ["1 001.Crow", "2 002.Owl"],
        "train_test_split.txt": ["1 1", "2 0", "3 1", "4 0"],
    }
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("inner", ["", "CUB_200_2011"])
def test_cub_follows_its_lists(tmp_path, inner):
    birds(tmp_path / "cub" / inner)
    layouts = [{"name": "archive", "clean": "CUB_200_2011/images/*/*"}, {"name": "inner", "clean": "images/*/*"}]
    for part, number in (("train", 1), ("test", 2)):
        settings = SplitSettings.model_validate({"classes": "cub", "part": part, "layouts": layouts})
        pairs = read_pairs(listed(tmp_path / "cub", settings, tmp_path, f"cub.{part}"), tmp_path / "cub")
        assert [pair.name for pair in pairs] == [f"001.Crow__Crow_{number}", f"002.Owl__Owl_{number}"]
        assert [pair.category for pair in pairs] == ["001.Crow", "002.Owl"]


def test_cub_may_lie_in_a_folder_whose_name_ends_alike(tmp_path):
    birds(tmp_path / "cub" / "my_images")
    found = names(tmp_path / "cub", split("my_images/images/*/*", "cub", part="train"))
    assert found == ["my_images/images/001.Crow/Crow_1.jpg", "my_images/images/002.Owl/Owl_1.jpg"]
    with pytest.raises(AirpipeError, match="expected one folder `images` of CUB-200-2011"):
        names(tmp_path / "cub/my_images/images", split("*/*", "cub"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", None, r"classes.txt: cannot be read .* Expected the folder of CUB-200-2011 with images.txt"),
        ("classes.txt", "1\n2", r"classes.txt: \['1'\]; expected lines of two columns"),
        ("classes.txt", "1 001.Crow\n2 002.Hawk", "the lists say class '002.Hawk', its folder '002.Owl'"),
        ("images.txt", "1 001.Crow/Crow_1.jpg", "Crow_2.jpg: images.txt does not list it"),
        ("train_test_split.txt", "1 1", "Crow_2.jpg: train_test_split.txt does not list it"),
    ],
)
def test_lists_of_cub_that_do_not_fit_are_told(tmp_path, name, text, message):
    root = birds(tmp_path / "cub")
    (root / name).unlink() if text is None else (root / name).write_text(text)
    with pytest.raises(AirpipeError, match=message):
        names(root, split("images/*/*", "cub"))


def test_a_listed_bird_that_is_gone_is_told(tmp_path):
    root = birds(tmp_path / "cub")
    (root / "images/002.Owl/Owl_2.jpg").unlink()
    with pytest.raises(AirpipeError, match="images/002.Owl/Owl_2.jpg: listed in images.txt, but not there"):
        names(root, split("images/*/*", "cub", part="train"))


def test_market_names_give_person_and_camera_and_junk_is_left_out(tmp_path):
    files = ["0002_c1s1_000451_03.jpg", "0007_c3s3_077419_03.jpg", "-1_c1s1_000401_03.jpg", "0000_c6s1_000151_01.jpg"]
    root = pictures(tmp_path / "market", *(f"bounding_box_test/{name}" for name in files))
    pairs = read_pairs(listed(root, split("bounding_box_test/*", "market"), tmp_path), root)
    assert [(pair.category, pair.camera) for pair in pairs] == [("0000", "6"), ("0002", "1"), ("0007", "3")]
    pictures(root, "bounding_box_test/other.jpg")
    with pytest.raises(AirpipeError, match="other.jpg: expected a name as in Market-1501"):
        names(root, split("bounding_box_test/*", "market"))


# What training gets


@pytest.fixture
def pets(tmp_path):
    root = pictures(tmp_path / "pets", *CATS)
    return root, listed(root, split(), tmp_path)


def test_samples_and_batches_tell_the_class_from_files_and_packs(pets, tmp_path):
    root, path = pets
    parts, pairs = [DataPart(pairs="toy.train")], read_pairs(path, root)
    facts = pack_pairs(path, tmp_path / "toy.train.manifest.csv", root, tmp_path / "packed", 1)
    pack = Pack.open(Path(facts["folder"]))
    known = PairLists([path], [[]], {"toy.train": pack}).categories()
    for source, categories in ((pairs, None), (pairs, known), (pack, known)):
        samples = TrainingSamples(parts, [source], 0, categories=categories)
        assert samples.classes == ("cat", "dog")
        batch = collate([samples[SampleKey(slot, 0, slot, 8)] for slot in range(5)])
        assert batch.category.tolist() == [0, 0, 1, 1, 1]
        assert batch.to(torch.device("cpu")).category.dtype == torch.int64
    shown = ValidationSamples(parts, [pairs], 0, 8, 1, classes=("bird", "cat"))
    assert [shown[row]["category"] for row in range(5)] == [1, 1, -1, -1, -1]


def test_images_without_class_have_category_minus_one(tmp_path):
    image = torch.zeros(2, 3, 4, 4)
    assert Batch(image, image, torch.tensor([0, 1]), [], []).category.tolist() == [-1, -1]


@pytest.mark.parametrize(("augment", "views"), [("turns", 8), ("flip", 2), ("none", 1)])
def test_a_part_says_how_its_images_are_turned(pets, augment, views):
    root, path = pets
    part = DataPart.model_validate({"pairs": "toy.train", "augment": augment, "resize": 12})
    samples = TrainingSamples([part], [read_pairs(path, root)], 0)
    pair = next(pair for pair in read_pairs(path, root) if pair.name == "dog__3")
    whole = cv2.imread(str(pair.clean))[:, :12]  # resize keeps it: the crop's place is drawn, so cut a square image
    cv2.imwrite(str(pair.clean), whole)
    seen = {samples[SampleKey(slot, 0, 4, 12)]["clean"].tobytes() for slot in range(60)}
    assert len(seen) == views
    assert np.ascontiguousarray(whole[..., ::-1]).tobytes() in seen
    assert (np.ascontiguousarray(whole[:, ::-1, ::-1]).tobytes() in seen) == (augment != "none")


@pytest.mark.parametrize(("shorter", "size"), [(6, (6, 7)), (24, (24, 28))])
def test_images_are_resized_to_their_shorter_side_before_the_crop(pets, shorter, size):
    root, path = pets
    part = DataPart.model_validate({"pairs": "toy.train", "augment": "none", "resize": shorter})
    pairs = read_pairs(path, root)
    sample = TrainingSamples([part], [pairs], 0)[SampleKey(0, 0, 2, shorter)]
    method = cv2.INTER_AREA if shorter < 12 else cv2.INTER_CUBIC
    whole = cv2.resize(cv2.imread(str(pairs[2].clean))[..., ::-1], size[::-1], interpolation=method)
    windows = [whole[:, left : left + shorter] for left in range(size[1] - shorter + 1)]
    assert any(np.array_equal(window, sample["clean"]) for window in windows)
    shown = ValidationSamples([part], [pairs], 0, 100, 1)[2]
    np.testing.assert_array_equal(shown["clean"], whole)


def test_a_run_is_another_one_with_other_classes(pets, tmp_path):
    root, path = pets
    settings, options = stage(), RunOptions(tmp_path)
    lists = PairLists([path], [read_pairs(path, root)])
    known = run_identity(settings, lists, options)
    facts = read_facts(path)
    write_json(path.with_suffix(".json"), facts | {"classes": {**facts["classes"], "cat__1": "dog"}})
    assert run_identity(settings, lists, options) != known
    del facts["classes"]
    write_json(path.with_suffix(".json"), facts)
    assert run_identity(settings, lists, options) != known


def test_a_task_gets_the_classes_before_the_first_step_and_the_card_has_them(pets, tmp_path, monkeypatch):
    root, path = pets
    part = {"pairs": "toy.train", "resize": 16}
    phases = [{"steps": 2, "patch_size": 16, "batch_size": 2}]
    settings = stage(data=[part], phases=phases, validation={}, optimizers={"net": {"learning_rate": 1e-3}})
    lists = PairLists([path], [read_pairs(path, root)])
    told = []
    monkeypatch.setattr(BaselineTask, "accept", lambda self, classes: told.append(classes))
    train_stage(settings, lists, PairLists([], []), RunOptions(tmp_path / "stage"))
    assert told == [("cat", "dog")]
    assert json.loads((tmp_path / "stage/card.json").read_text())["classes"] == ["cat", "dog"]

    def refuse(self, classes):
        raise AirpipeError(f"{len(classes)} classes")

    monkeypatch.setattr(BaselineTask, "accept", refuse)
    with pytest.raises(AirpipeError, match="2 classes"):
        train_stage(settings, lists, PairLists([], []), RunOptions(tmp_path / "other"))


def scene_recogniser(num_classes):
    """Two steps of a small recogniser on scenes.train."""
    network = {"name": "recogniser_residual", "arguments": {"num_classes": num_classes, "stem": 4, "widths": [4, 8]}}
    changes = {
        "task": "vrdir.recogniser",
        "method": "vrdir",
        "stage": "recogniser_b",
        "network": network,
        "data": [{"pairs": "scenes.train", "augment": "flip", "resize": 48}],
        "phases": [{"steps": 2, "patch_size": 32, "batch_size": 4}],
        "optimizers": {"net": {"learning_rate": 1e-3}},
        "validation": {"every": 2, "patch_size": 32, "data": []},
    }
    values = json.loads(canonical_json(stage())) | changes
    return check_settings(settings_class("vrdir.recogniser"), values, "scenes")


@needs_samples
def test_a_real_labelled_folder_goes_from_check_to_a_trained_recogniser(tmp_path):
    """Crops of photographs, each photograph a class."""
    root = tmp_path / "scenes"
    for photograph in sorted((SAMPLES / "CBSD68").glob("*.jpg"))[:4]:
        image = cv2.imread(str(photograph))
        (root / photograph.stem).mkdir(parents=True)
        for number in range(6):
            top, left = 40 * number, 45 * number
            cv2.imwrite(str(root / photograph.stem / f"{number}.png"), image[top : top + 96, left : left + 128])
    parts, sources = [], []
    for name, share in (("scenes.train", {"stop": 0.6}), ("scenes.test", {"start": 0.6})):
        path = listed(root, split(share_of_class=share), tmp_path, name)
        parts.append(DataPart.model_validate({"pairs": name, "augment": "flip", "resize": 48}))
        sources.append(read_pairs(path, root))
        assert len({pair.category for pair in sources[-1]}) == 4
    assert sum(map(len, sources)) == 24
    assert {pair.name for pair in sources[0]}.isdisjoint(pair.name for pair in sources[1])
    samples = TrainingSamples(parts, sources, 0)
    batch = collate([samples[SampleKey(slot, 0, slot, 32)] for slot in range(len(sources[0]))])
    assert batch.clean.shape == (len(sources[0]), 3, 32, 32)
    order = sorted({pair.category for pair in sources[0]})
    assert batch.category.tolist() == [order.index(pair.category) for pair in sources[0]]
    assert float(batch.clean.float().std()) > 5
    lists = PairLists([tmp_path / "scenes.train.csv"], sources[:1])
    train_stage(scene_recogniser(4), lists, PairLists([], []), RunOptions(tmp_path / "stage"))
    card = json.loads((tmp_path / "stage/card.json").read_text())
    assert card["classes"] == order
    with pytest.raises(AirpipeError, match="show 4 classes .*, the network tells 5 apart"):
        train_stage(scene_recogniser(5), lists, PairLists([], []), RunOptions(tmp_path / "five"))
