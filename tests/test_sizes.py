"""Images that are too small for a stage are named before its first step, from manifests."""

import csv
import json

import numpy as np
import pytest
from helpers import Stage, stage, toy_images

from airpipe.data.pairs import COLUMNS
from airpipe.data.sizes import PairSizes, pair_sizes, refuse_small, refuse_smaller_than_network
from airpipe.errors import AirpipeError
from airpipe.settings.stages import DataPart

PHASES = [{"steps": 4, "patch_size": 16, "batch_size": 2}, {"steps": 2, "patch_size": 48, "batch_size": 12}]
ONE = {"pairs": "toy.train"}


def written(path, header, rows):
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def manifest(folder, sizes):
    """A manifest of files by their (width, height)."""
    rows = [[path, 1, "0", *size] for path, size in sizes.items()]
    return written(folder / "manifests" / "toy.train.csv", ["path", "bytes", "sha256", "width", "height"], rows)


@pytest.fixture
def late(tmp_path):
    """A stage whose second phase is too large for one of five images."""
    made = Stage(tmp_path, stage(phases=PHASES))
    toy_images(tmp_path / "images", 1, (40, 56))
    return made, manifest(tmp_path, {f"img{i}.png": (56, 40 if i == 0 else 48) for i in range(5)})


def test_a_picture_too_small_for_the_last_phase_is_named_before_the_first_step(late):
    made, sizes = late
    failed = made.run("--manifests", str(sizes), check=False)
    assert "the shorter side of 1 of 5 images is smaller than patch_size 48: img0 (56x40). Next:" in failed.stderr
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
    assert not list((made.workdir / "state").glob("*.ckpt")) and not (made.workdir / "state" / "curves.csv").exists()


def test_mirroring_small_pictures_goes_on_behind_the_steps_done(late):
    made, sizes = late
    failed = made.run("--checkpoint-seconds", "0", check=False)  # as before: nobody knows the sizes
    assert "img0: 56x40 pixels is smaller than patch_size 48; mirror it" in failed.stderr
    data = [{**part, "small_images": "reflect"} for part in stage().model_dump(mode="json")["data"]]
    made.freeze(stage(phases=PHASES, data=data))
    done = made.run("--manifests", str(sizes))
    assert "from step 4 of 6" in done.stdout
    card = json.loads((made.workdir / "card.json").read_text())
    assert card["step"] == 6


def sized(folder, rows, sizes):
    found = pair_sizes(written(folder / "toy.train.csv", [*COLUMNS, "window"], rows), manifest(folder, sizes))
    return {found.name(number): tuple(sides) for number, sides in enumerate(found.sides.tolist())}


def known(sizes):
    """Sizes by name as `pair_sizes` gives them."""
    return PairSizes(list(sizes).__getitem__, np.array(list(sizes.values())))


def test_the_size_of_a_pair_is_what_crop_rule_and_window_leave(tmp_path):
    files = {"a.png": (60, 50), "b.png": (64, 48), "c.png": (90, 80), "small.png": (70, 60)}
    rows = [
        ["a.png", "b.png", "", "", "top_left", "both", "g", ""],
        ["small.png", "c.png", "", "", "centre", "middle", "g", ""],
        ["", "c.png", "", "", "none", "cut", "g", "32x24+5+6"],
    ]
    assert sized(tmp_path, rows, files) == {"both": (60, 48), "middle": (70, 60), "cut": (32, 24)}
    with pytest.raises(AirpipeError, match=r"toy.train.csv: lacks 'gone.png' of .*snakemake check"):
        sized(tmp_path, [["", "gone.png", "", "", "none", "gone", "g", ""]], files)


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({}, "2 of 3 images is smaller than patch_size 50: low (90x40), tiny (7x9)"),
        ({"resize": 50}, ""),
        ({"resize": 49}, "3 of 3 images is smaller than patch_size 50: "),
        ({"crop_multiple": 16}, "3 of 3 images is smaller than patch_size 50 after crop_multiple 16: fits (50x50)"),
        ({"small_images": "reflect"}, ""),
        ({"small_images": "reflect", "crop_multiple": 8}, "1 of 3 images is smaller than crop_multiple 8: tiny (7x9)"),
    ],
)
def test_what_is_too_small_depends_on_how_the_part_is_read(part, problem):
    sizes = {"toy.train": known({"fits": (50, 50), "low": (90, 40), "tiny": (7, 9)})}
    parts = [DataPart.model_validate({**ONE, **part})]
    if not problem:
        refuse_small(parts, sizes, 50)
        return
    with pytest.raises(AirpipeError) as caught:
        refuse_small(parts, sizes, 50)
    assert problem in str(caught.value)


def test_ten_small_pictures_of_each_list_are_named_and_all_counted():
    sizes = {"toy.train": known({f"n{i:02}": (8, 8) for i in range(12)}), "toy.more": known({"one": (9, 9)})}
    parts = [DataPart.model_validate({"pairs": name}) for name in ("toy.train", "toy.more", "toy.none")]
    with pytest.raises(
        AirpipeError, match=r"of 12 of 12 .* n09 \(8x8\), \.{3}; toy.more: .* of 1 of 1 .*one"
    ) as caught:
        refuse_small(parts, sizes, 16)
    assert "n10" not in str(caught.value)


def test_validation_pictures_smaller_than_the_network_takes_are_named():
    sizes = {"toy.train": known({"a": (64, 64), "b": (64, 15)})}
    refuse_smaller_than_network([DataPart.model_validate({**ONE, "resize": 16})], sizes, 16)
    with pytest.raises(AirpipeError, match=r"validation toy.train: .* 1 of 2 images is smaller than the 16 pixels"):
        refuse_smaller_than_network([DataPart.model_validate(ONE)], sizes, 16)
