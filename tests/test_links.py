"""Folders assembled of links are read like others; links that lead nowhere are named."""

import hashlib
import json
import os

import cv2
import pytest
from helpers import toy_images

from airpipe.cli.restore import find_photos
from airpipe.curation.listing import write_listing
from airpipe.data.check import check_split
from airpipe.data.files import list_images, split_is_there
from airpipe.errors import AirpipeError
from airpipe.images import read_picture
from airpipe.links import circle_problem, link_problem
from airpipe.settings.datasets import SplitSettings

PAIRED = SplitSettings(degraded="degraded/*", clean="clean/*")


@pytest.fixture
def hub(tmp_path):
    """A snapshot whose files are links to ../../../blobs/<sha256>, as hub caches lay data out."""
    snapshot = tmp_path / "hub" / "snapshots" / "main"
    (tmp_path / "hub" / "blobs").mkdir(parents=True)
    for folder in ("degraded", "clean"):
        (snapshot / folder).mkdir(parents=True)
        for path in toy_images(tmp_path / "made" / folder, 3):
            if folder == "degraded":
                cv2.imwrite(str(path), cv2.imread(str(path)) // 2)
            blob = tmp_path / "hub" / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            path.rename(blob)
            (snapshot / folder / path.name).symlink_to(os.path.relpath(blob, snapshot / folder))
    return snapshot


def test_a_snapshot_of_links_is_a_data_set_whose_manifest_names_links_and_hashes_contents(hub):
    files = check_split("d.train", PAIRED, str(hub)).files
    assert [file.path for file in files] == [f"{kind}/img{i}.png" for kind in ("clean", "degraded") for i in range(3)]
    for file in files:
        assert file.sha256 == hashlib.sha256((hub / file.path).read_bytes()).hexdigest()
        assert file.bytes == (hub / file.path).stat().st_size > 100


def test_a_root_may_be_assembled_of_links_to_folders(hub, tmp_path):
    root = tmp_path / "assembled"
    root.mkdir()
    (root / "degraded").symlink_to(hub / "degraded")
    (root / "clean").symlink_to(hub / "clean")
    assert split_is_there(str(root), PAIRED)
    assert check_split("d.train", PAIRED, str(root)).facts["pairs"] == 3


def broken(path):
    path.symlink_to("../.git/annex/objects/x")


def circular(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (broken, "a broken link, to ../.git/annex/objects/x. Fetch what it stands for, or remove it"),
        (circular, "a link in a circle, to bad.png. Remove it"),
    ],
)
def test_a_link_to_no_file_is_named_wherever_pictures_are_read(tmp_path, make, said, capsys):
    toy_images(tmp_path / "p", 2)
    bad = tmp_path / "p" / "bad.png"
    make(bad)
    with pytest.raises(AirpipeError) as caught:
        check_split("d.train", SplitSettings(clean="*"), str(tmp_path / "p"))
    assert f"3 files: 1 problems\n  bad.png: {said}\n" in str(caught.value)
    assert check_split("d.train", SplitSettings(clean="*", leave_out=["bad*"]), str(tmp_path / "p")).facts["pairs"] == 2
    with pytest.raises(AirpipeError) as caught:
        read_picture(bad)
    assert str(caught.value) == f"{bad}: {said}"
    for name in (tmp_path / "p", tmp_path / "p" / "*.png"):
        photos, problems = find_photos([str(name)], None)
        assert ([photo.path.name for photo in photos], [*map(str, problems)]) == (
            ["img0.png", "img1.png"],
            [f"{bad}: {said}"],
        )
    assert find_photos([str(bad)], None)[0][0].path == bad  # it is told when its turn comes
    facts = write_listing({"s": ("images", str(tmp_path / "p"))}, tmp_path / "listing.tsv")
    assert (facts["entries"], facts["left_out"]) == (2, 1)
    assert said in (tmp_path / "listing.left_out.csv").read_text()


def test_a_link_in_a_circle_that_pairs_with_nothing_is_named_as_such(hub):
    circular(hub / "clean" / "bad.png")
    with pytest.raises(AirpipeError) as caught:
        check_split("d.train", PAIRED, str(hub))
    assert "\n  clean/bad.png: no degraded file; it is a link in a circle, to bad.png. Remove it\n" in str(caught.value)


def test_a_link_to_no_folder_on_the_way_of_a_glob_is_a_problem(tmp_path):
    toy_images(tmp_path / "real", 1)
    (tmp_path / "away").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "self").symlink_to(".")
    (tmp_path / "real" / "up").symlink_to("..")
    assert list_images(tmp_path, ["*/*"]) == (
        ["real/img0.png"],
        [
            "away: a broken link, to nowhere. Fetch what it stands for, or remove it",
            "loop: a link in a circle, to loop. Remove it",
            f"self: a link in a circle, to the folder {tmp_path} that it lies in. Remove it",
        ],
    )
    assert list_images(tmp_path, ["real/*/*"])[1] == [
        f"real/up: a link in a circle, to the folder {tmp_path} that it lies in. Remove it"
    ]
    assert not split_is_there(str(tmp_path), SplitSettings(clean="loop/*"))


def test_linked_folders_are_searched_once_and_circles_are_named(tmp_path):
    toy_images(tmp_path / "elsewhere" / "deep", 1)
    toy_images(tmp_path / "p", 1)
    (tmp_path / "p" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path / "elsewhere")
    photos, problems = find_photos([str(tmp_path / "p")], None)
    assert [str(photo.below) for photo in photos] == [".", "linked/deep"]
    circle = f"a link in a circle, to the folder {tmp_path / 'elsewhere'} that it lies in. Remove it"
    assert [*map(str, problems)] == [f"{tmp_path}/p/linked/deep/back: {circle}"]
    write_listing({"s": ("images", str(tmp_path / "p"))}, tmp_path / "listing.tsv")
    assert (tmp_path / "listing.tsv").read_text() == "s\timg0.png\ns\tlinked/deep/img0.png\n"
    assert f's,linked/deep/back,"{circle}"' in (tmp_path / "listing.left_out.csv").read_text()
    assert json.loads((tmp_path / "listing.json").read_text())["left_out"] == 1


def test_good_links_and_plain_files_have_no_problem(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "ab").symlink_to("a")  # its name begins like that of the folder
    for name in ("a", "b", "ab", "gone"):
        assert link_problem(tmp_path / name) == circle_problem(tmp_path / name) == ""
