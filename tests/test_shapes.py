"""Drawn shapes are fixed by seed, split and number; made data sets are whole or not there; VOC boxes are cut right."""

from collections import Counter

import cv2
import numpy as np
import pytest
from helpers import read_config, toy_images

from airpipe.data.made import make_dataset
from airpipe.data.shapes import CLASSES, SHAPES, class_of, draw_picture
from airpipe.data.voc import Box, cut_out, read_boxes
from airpipe.degradations.recipes import degrade
from airpipe.errors import AirpipeError
from airpipe.images import read_rgb8
from airpipe.settings.base import check_settings
from airpipe.settings.datasets import DatasetSettings, MadeCrops, MadeShapes
from airpipe.settings.degrading import Recipe


def some(count=200, split="test"):
    return [draw_picture(0, split, number, 32) for number in range(count)]


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def test_a_picture_is_a_function_of_seed_split_and_number():
    first = draw_picture(0, "test", 5, 32)
    assert (first.shape, first.dtype) == ((32, 32, 3), np.uint8)
    np.testing.assert_array_equal(first, draw_picture(0, "test", 5, 32))
    for other in (draw_picture(1, "test", 5, 32), draw_picture(0, "train", 5, 32), draw_picture(0, "test", 6, 32)):
        assert np.abs(first.astype(int) - other).mean() > 5


def test_every_eight_pictures_show_all_classes_in_a_drawn_order():
    drawn = [class_of(0, "test", number) for number in range(600)]
    assert len(CLASSES) == 8
    assert set(Counter(drawn).values()) == {75}
    assert all(len(set(drawn[start : start + 8])) == 8 for start in range(0, 600, 8))
    assert drawn[:8] != drawn[8:16]


def test_the_shape_stands_out_in_the_middle_of_a_darker_background():
    pictures = np.stack(some()).astype(np.float32) / 255
    rim = pictures[:, [0, 0, -1, -1], [0, -1, 0, -1]].reshape(-1, 3)
    assert rim.max() <= 0.8 * 1.075 + 0.003  # background at 0.8, texture up to 7.5 %
    assert 0.3 < rim.mean() < 0.45
    assert (pictures[:, 12:20, 12:20] > 0.95).any((1, 2, 3)).mean() > 0.1  # colours of shapes go up to 1


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("bars", 6 * 0.36),
        ("disc", np.pi),
        ("plus", 4 * 0.5 - 0.25),
        ("ring", np.pi * (1 - 0.55**2)),
        ("square", 2),
        ("star", 10 * 0.5 * 0.4 * np.sin(np.pi / 5)),
        ("triangle", 0.75 * 3**0.5),
    ],
)
def test_shapes_have_the_area_that_geometry_says_at_any_angle(name, area):
    for angle in (0.0, 1.0, 2.5):
        mask = np.zeros((256, 256), np.uint8)
        SHAPES[name](mask, np.array([127.5, 128.2]), 100.0, angle)
        assert (mask > 0).sum() / 100**2 == pytest.approx(area, rel=0.05)  # OpenCV's outlines belong to the shape


@pytest.mark.parametrize(("recipe", "expected"), [("shapes_haze", 9.6), ("shapes_rain", 19.3), ("noise25", 20.45)])
def test_recipes_degrade_shapes_as_much_as_they_say(recipe, expected):
    written = Recipe.model_validate(read_config("recipes.yaml")["recipes"][recipe])
    values = []
    for number, picture in enumerate(some(300)):
        clean = picture.astype(np.float32) / 255
        degraded, _ = degrade(clean, written, np.random.default_rng([7, number]))
        values.append(-10 * np.log10(np.mean((np.clip(degraded, 0, 1) - clean) ** 2)))
    assert np.mean(values) == pytest.approx(expected, abs=0.35)


def test_a_made_data_set_is_the_same_twice_and_grows_without_changing(tmp_path):
    small, large = ({"kind": "shapes", "side": 16, "counts": {"train": n, "val": 8}} for n in (20, 30))
    counts = make_dataset(MadeShapes.model_validate(small), tmp_path / "a")
    assert counts == {"train": 20, "val": 8}
    make_dataset(MadeShapes.model_validate(small), tmp_path / "b")
    make_dataset(MadeShapes.model_validate(large), tmp_path / "c")
    first = files(tmp_path / "a")
    assert first == files(tmp_path / "b")
    assert len(first) == 28
    assert first.items() <= files(tmp_path / "c").items()
    picture = read_rgb8(tmp_path / "a" / "train" / class_of(0, "train", 3) / "000003.png")
    np.testing.assert_array_equal(picture, draw_picture(0, "train", 3, 16))


def test_a_killed_run_leaves_the_old_data_set_and_the_next_one_replaces_it(tmp_path, monkeypatch):
    made = MadeShapes.model_validate({"kind": "shapes", "side": 16, "counts": {"train": 9}})
    make_dataset(made, tmp_path / "set")
    before = files(tmp_path / "set")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cv2, "imwrite", killed)
        with pytest.raises(KeyboardInterrupt):
            make_dataset(made.model_copy(update={"seed": 4}), tmp_path / "set")
    assert files(tmp_path / "set") == before
    (tmp_path / ".set.partial" / "train").mkdir(parents=True)  # as a power cut leaves it
    (tmp_path / ".set.partial" / "train" / "old.png").write_bytes(b"half")
    make_dataset(made.model_copy(update={"seed": 4}), tmp_path / "set")
    assert set(files(tmp_path / "set")).isdisjoint({"train/old.png"})
    assert files(tmp_path / "set") != before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["set"]


def test_a_run_killed_between_two_renames_loses_no_data_set(tmp_path, monkeypatch):
    made = MadeShapes.model_validate({"kind": "shapes", "side": 16, "counts": {"train": 9}})
    make_dataset(made, tmp_path / "set")
    before = files(tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / ".set.old")  # as a power cut leaves it

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("airpipe.data.made.make_shapes", full)
        with pytest.raises(AirpipeError):
            make_dataset(made, tmp_path / "set")
    assert files(tmp_path / "set") == before


def test_an_image_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)
    made = MadeShapes.model_validate({"kind": "shapes", "counts": {"train": 1}})
    with pytest.raises(AirpipeError, match=r"000000.png: cannot be written. Free disk space"):
        make_dataset(made, tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"made": {"kind": "shapes", "counts": {"a": 1}}, "splits": {"a": {"clean": "*"}}}, "or made"),
        ({"made": {"kind": "shapes", "counts": {"a": 1}}, "root": "x"}, "neither root nor sources"),
        ({"made": {"kind": "shapes", "counts": {}}}, "too few entries; expected 1 or more"),
        ({"made": {"kind": "shapes", "counts": {"a": 1}, "size": 3}}, "unknown setting 'size'; did you mean 'side'"),
        ({"made": {"kind": "circles"}}, "shapes"),
        ({"splits": {"a": {"clean": "*/*", "part": "train"}}}, "part is for classes: cub"),
        ({"splits": {"a": {"clean": "*/*", "share_of_class": {}}}}, "share_of_class needs classes"),
        (
            {"splits": {"a": {"clean": "*/*", "classes": "folder", "share_of_class": {"start": 0.8, "stop": 0.2}}}},
            "start 0.8 is not below stop 0.2",
        ),
    ],
)
def test_entries_that_contradict_themselves_are_refused(entry, message):
    with pytest.raises(AirpipeError, match=message):
        check_settings(DatasetSettings, {"title": "x", **entry}, "datasets.x")


def test_made_entries_have_their_splits():
    entry = DatasetSettings.model_validate(read_config("datasets.yaml")["datasets"]["shapes0"])
    assert {name: split.expected for name, split in entry.splits.items()} == {
        "recognise": 4000,
        "train": 1500,
        "val": 32,
        "test": 600,
    }
    assert entry.splits["test"].layouts[0].clean == ("test/*/*",)
    assert entry.embedded


# Crops of VOC

OBJECT = """<object><name>{}</name><truncated>{}</truncated><difficult>{}</difficult>
<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def kit(folder, objects, text=""):
    """A development kit with one image of 64x60 pixels and these objects: name, truncated, difficult, corners."""
    image = toy_images(folder / "VOC2007/JPEGImages", count=1, size=(60, 64))[0]
    cv2.imwrite(str(image.with_name("000005.jpg")), cv2.imread(str(image)))
    (folder / "VOC2007/Annotations").mkdir()
    (folder / "VOC2007/ImageSets/Main").mkdir(parents=True)
    (folder / "VOC2007/ImageSets/Main/trainval.txt").write_text("000005\n")
    body = text or f"<annotation>{''.join(OBJECT.format(*one) for one in objects)}</annotation>"
    (folder / "VOC2007/Annotations/000005.xml").write_text(body)
    return folder


def crops(folder, target, **changes):
    values = {"kind": "voc_crops", "dataset": "voc", "smallest": 8, "margin": 0, "lists": {"train": "trainval"}}
    return make_dataset(MadeCrops.model_validate(values | changes), target, str(folder))


def test_objects_are_cut_out_by_class_without_small_cut_and_difficult_ones(tmp_path):
    objects = [
        ("dog", 0, 0, 1, 1, 20, 16),
        ("cat", 0, 0, 11, 21, 30, 50),
        ("cat", 1, 0, 1, 1, 30, 30),
        ("cat", 0, 1, 1, 1, 30, 30),
        ("dog", 0, 0, 1, 1, 40, 7),
    ]
    root = kit(tmp_path / "kit" / "VOCdevkit", objects).parent
    assert crops(root, tmp_path / "out") == {"train": 2}
    assert sorted(files(tmp_path / "out")) == ["train/cat/000005_1.png", "train/dog/000005_0.png"]
    whole = read_rgb8(root / "VOCdevkit/VOC2007/JPEGImages/000005.jpg")
    np.testing.assert_array_equal(read_rgb8(tmp_path / "out/train/dog/000005_0.png"), whole[:16, :20])
    np.testing.assert_array_equal(read_rgb8(tmp_path / "out/train/cat/000005_1.png"), whole[20:50, 10:30])
    assert crops(root, tmp_path / "all", truncated=True, difficult=True, smallest=1) == {"train": 5}


def test_a_margin_ends_at_the_rim():
    image = np.arange(60 * 64 * 3, dtype=np.uint8).reshape(60, 64, 3)
    box = Box("dog", 2, 10, 22, 30, difficult=False, truncated=False)
    np.testing.assert_array_equal(cut_out(image, box, 0.2), image[6:34, 0:26])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "declares a document type or entities"),
        ("<annotation><object></annotation>", "not an annotation of VOC"),
        ("<annotation>" + OBJECT.format("../up", 0, 0, 1, 1, 9, 9) + "</annotation>", r"an object is called '../up'"),
        ("<annotation><object><name>dog</name></object></annotation>", "object dog has no box"),
        ("<annotation>" + OBJECT.format("dog", 0, 0, 9, 1, 1, 9) + "</annotation>", "runs backwards"),
        ("<annotation>" + OBJECT.format("dog", 0, 0, "x", 1, 1, 9) + "</annotation>", "not an annotation of VOC"),
    ],
)
def test_damaged_or_hostile_annotations_are_refused(tmp_path, text, message):
    folder = kit(tmp_path / "kit", [], text)
    with pytest.raises(AirpipeError, match=message):
        read_boxes(folder / "VOC2007/Annotations/000005.xml")


def test_missing_kits_lists_and_objects_are_told(tmp_path):
    folder = kit(tmp_path / "kit", [("dog", 0, 0, 1, 1, 20, 16)])
    with pytest.raises(AirpipeError, match=r"holds no VOC2012/Annotations, nor VOCdevkit/VOC2012/Annotations"):
        crops(folder, tmp_path / "out", year=2012)
    with pytest.raises(AirpipeError, match=r"nothing.txt: cannot be read .* Name a file of ImageSets/Main"):
        crops(folder, tmp_path / "out", lists={"train": "nothing"})
    with pytest.raises(AirpipeError, match="1 images have no object that is wanted .smallest 30 pixels"):
        crops(folder, tmp_path / "out", smallest=30)
    assert not (tmp_path / "out").exists()
