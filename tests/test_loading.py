"""Samples are the same from files and packs, for any number of workers; mixes keep their repeats."""

import collections
import hashlib
import itertools
import json
import runpy
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import NOISE, ROOT, Stage, one_thread, stage, toy_images
from test_packing import Data
from torch.utils.data import DataLoader

from airpipe.data.batch import collate
from airpipe.data.crops import turned
from airpipe.data.packing import pack_pairs
from airpipe.data.packs import Pack
from airpipe.data.pairs import read_pairs
from airpipe.data.samples import TrainingSamples, ValidationSamples
from airpipe.data.sampling import MicroBatches, SamplePlan, interleave, part_counts
from airpipe.errors import AirpipeError
from airpipe.provenance import sha256_file, write_json
from airpipe.settings.base import canonical_json, check_settings
from airpipe.settings.stages import DataPart, Phase, StageSettings

PHASES = [Phase(steps=6, patch_size=16, batch_size=4), Phase(steps=6, patch_size=24, batch_size=2)]
ONLINE = {"pairs": "clean.train", "operations": [NOISE], "rescale": [0.5, 1.0], "quantise": False}
MIX = [DataPart(pairs="toy.train", share=2), DataPart.model_validate(ONLINE)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two parts as files and as packs: degraded files of three crop rules, and clean ones degraded online."""
    both, clean = (Data(tmp_path_factory.mktemp(name)) for name in ("pairs", "clean"))
    clean.write([clean.row("", f"img{i}.png", "", f"img{i}") for i in range(4)])
    both.write([r for r in rows(both) if r[0]])
    files = [read_pairs(data.list, data.root) for data in (both, clean)]
    return files, [Pack.open(Path(data.pack()["folder"])) for data in (both, clean)]


def rows(data: Data) -> list[list[str]]:
    return [line.split(",") for line in data.list.read_text().splitlines()[1:]]


def batches(sources, workers: int = 0, first: int = 0) -> list:
    plan = SamplePlan([len(s) for s in sources], [2.0, 1.0], PHASES, 7)
    sampler = MicroBatches(plan, first, 0, 1, 1)
    samples = TrainingSamples(MIX, sources, 7)
    return list(DataLoader(samples, batch_sampler=sampler, collate_fn=collate, num_workers=workers))


def same(one, other) -> bool:
    return (
        torch.equal(one.degraded, other.degraded)
        and torch.equal(one.clean, other.clean)
        and torch.equal(one.label, other.label)
        and (one.name, one.level) == (other.name, other.level)
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
@pytest.mark.parametrize(("packed", "workers"), [(1, 0), (0, 1), (1, 1), (0, 4), (1, 4)])
def test_workers_packs_and_resume_do_not_change_a_sample(sources, packed, workers):
    plain = batches(sources[0])
    assert len(plain) == 12
    assert all(same(a, b) for a, b in zip(plain, batches(sources[packed], workers), strict=True))
    late = batches(sources[packed], workers, first=5)  # in the middle of a pass over either part
    assert all(same(a, b) for a, b in zip(plain[5:], late, strict=True))
    assert not same(plain[0], plain[1])


def test_an_image_smaller_than_the_patch_is_named_from_files_and_packs(sources):
    plan = SamplePlan([12, 4], [1.0, 1.0], [Phase(steps=1, patch_size=64, batch_size=1)], 0)
    for found in sources:
        with pytest.raises(
            AirpipeError, match=r"toy.train, image img\d_\w+: \d+x\d+ pixels is smaller than patch_size"
        ):
            TrainingSamples(MIX, found, 0)[plan.batch(0)[0]]


def test_rescaling_pairs_is_refused_from_files_and_packs(sources):
    part = DataPart(pairs="toy.train", rescale=(0.5, 1.0))
    plan = SamplePlan([12, 4], [1.0, 1.0], PHASES, 0)
    for found in sources:
        with pytest.raises(AirpipeError, match="rescale and jitter are for images .*; toy.train has pairs"):
            TrainingSamples([part, MIX[1]], found, 0)[plan.batch(0)[0]]


def test_a_recipe_for_pairs_is_refused_from_files_and_packs_and_in_validation(sources):
    part = DataPart.model_validate({"pairs": "toy.train", "recipe": "noise", "operations": [NOISE]})
    plan = SamplePlan([12, 4], [1.0, 1.0], PHASES, 0)
    message = r"data part toy.train: recipe noise is for clean images, but img\d_\w+ has a degraded file. Leave the"
    for found in sources:
        with pytest.raises(AirpipeError, match=message):
            TrainingSamples([part, MIX[1]], found, 0)[plan.batch(0)[0]]
    with pytest.raises(AirpipeError, match=message):
        ValidationSamples([part], sources[0][:1], 0, 16, 1)[0]


@pytest.mark.parametrize("shape", [(9, 12, 3), (9, 12)])
def test_turning_is_anticlockwise_and_copies(shape):
    image = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8 if len(shape) == 3 else np.float32)
    window = image[1:6, 2:7]
    for turns, flip in itertools.product(range(4), (False, True)):
        expected = np.rot90(window, turns)
        found = turned(window, turns, flip)
        np.testing.assert_array_equal(found, expected[:, ::-1] if flip else expected)
        assert found.dtype == image.dtype
        assert found.flags.c_contiguous
        assert not np.shares_memory(found, image)


def test_the_order_of_samples_is_the_one_of_earlier_versions():
    """Hashes were computed with the lists and permutations of airpipe 0.1.0."""
    phases = [Phase(steps=50, patch_size=8, batch_size=4), Phase(steps=50, patch_size=16, batch_size=6)]
    plan = SamplePlan([5, 3, 40], [2.0, 1.0, 0.33], phases, 7)
    keys = [tuple(key) for step in range(100) for key in plan.batch(step)]
    assert keys[:3] == [(0, 0, 2, 8), (1, 1, 0, 8), (2, 0, 0, 8)]
    assert hashlib.sha256(repr(keys).encode()).hexdigest()[:16] == "5d65f66b74b93b46"
    order = interleave([72135, 5144, 24000, 2103, 485])
    assert (len(order), hashlib.sha256(bytes(order.tolist())).hexdigest()[:16]) == (1440, "82c20fffc7eae155")


def test_repeats_are_kept_exactly_and_shares_in_thousandths():
    parts = [DataPart(pairs=f"p{i}.train", repeat=r) for i, r in enumerate((1, 120, 3, 0.5))]
    shares, exact = part_counts(parts, [72135, 200, 5144, 11])
    assert (shares, exact) == ([72135, 24000, 15432, 6], True)
    assert np.bincount(interleave(shares, exact)).tolist() == [24045, 8000, 5144, 2]
    assert np.bincount(interleave(shares[:3])).tolist() == [1000, 333, 214]
    plan = SamplePlan([72135, 200, 5144, 11], shares, [Phase(steps=10, patch_size=8, batch_size=37191)], 0, exact)
    counts = collections.Counter(key.part for key in plan.batch(4))
    assert counts == {0: 24045, 1: 8000, 2: 5144, 3: 2}
    with pytest.raises(AirpipeError, match=r"p3.train: repeat 0.5 leaves no image of this part"):
        part_counts(parts, [9, 9, 9, 1])


def test_a_mix_of_millions_is_kept_exactly_up_to_a_limit():
    counts = [2_100_001, 1_800_000]
    assert np.bincount(interleave(counts, exact=True)).tolist() == counts
    order = interleave([4_100_003, 1_800_000], exact=True)
    assert np.bincount(order).tolist() == [1000, 439]
    many = interleave([1] * 300)
    assert (many.dtype, many.tolist()) == (np.uint16, list(range(300)))


def test_a_plan_for_two_million_images_holds_two_permutations():
    length = 2_000_000
    plan = SamplePlan([length], [1.0], [Phase(steps=4, patch_size=8, batch_size=length)], 0)
    expected = [np.random.default_rng([0, 0, epoch]).permutation(length)[5] for epoch in range(4)]
    tracemalloc.start()
    found = [plan.key(length * epoch + 5, 8).image for epoch in range(4)]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert found == expected
    assert held < 2 * 4 * length + 2**20


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"repeat": 2, "share": 3}, {"repeat": 1}, "data.0: found share 3 and repeat 2; give one of them"),
        ({"repeat": 2}, {}, "b.train has no repeat, other parts have one; give repeat to all parts or to none"),
        ({"repeat": 0}, {"repeat": 1}, "data.0.repeat: Input should be greater than 0"),
        ({"share": None}, {}, "data.0: give a share or a repeat"),
    ],
)
def test_a_mix_has_shares_or_repeats(first, second, message):
    values = stage().model_dump(mode="json") | {"data": [{"pairs": "a.train", **first}, {"pairs": "b.train", **second}]}
    with pytest.raises(AirpipeError, match=message):
        check_settings(StageSettings, values, "x")


def test_frozen_repeats_read_back_and_shares_say_one():
    repeated = stage(data=[{"pairs": "a.train", "repeat": 1.5}])
    assert '"repeat":1.5' in canonical_json(repeated)
    assert check_settings(StageSettings, json.loads(canonical_json(repeated)), "x") == repeated
    plain = json.loads(canonical_json(stage(data=[{"pairs": "a.train"}])))
    assert plain["data"][0]["share"] == 1.0 and "repeat" not in plain["data"][0]


def packed_stage(folder: Path) -> tuple[Stage, Path]:
    """A stage without validation, and the JSON of a pack of its list."""
    values = stage().model_dump(mode="json")
    trained = Stage(folder, stage(validation={}, data=[part | {"share": 1.0} for part in values["data"]]))
    manifest = folder / "manifest.csv"
    lines = ["path,bytes,sha256,width,height"]
    for path in sorted((folder / "images").iterdir()):
        height, width = cv2.imread(str(path)).shape[:2]
        lines.append(f"{path.name},{path.stat().st_size},{sha256_file(path)},{width},{height}")
    manifest.write_text("\n".join(lines) + "\n")
    note = folder / "pack.json"
    write_json(note, pack_pairs(trained.list, manifest, folder / "images", folder / "packed", 1))
    return trained, note


def test_a_stage_trained_from_a_pack_alone_has_the_same_bits_and_identity(tmp_path):
    trained, note = packed_stage(tmp_path)
    trained.run()
    weights, curves = trained.weights(), trained.curves()
    (trained.workdir / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "images")
    finished = trained.run("--packs", str(note))
    assert "from step 60 of 60" in finished.stdout  # the state of the run without a pack is its own
    shutil.rmtree(trained.workdir / "state")
    assert "from step 0 of 60" in trained.run("--packs", str(note)).stdout
    assert (trained.weights(), trained.curves()) == (weights, curves)


def test_a_packed_list_is_not_read_pair_by_pair(tmp_path, monkeypatch):
    trained, note = packed_stage(tmp_path)
    script = runpy.run_path(str(ROOT / "scripts" / "train.py"))
    monkeypatch.setitem(script["pair_lists"].__globals__, "read_pairs", None)
    lists = script["pair_lists"]([trained.list], ["toy.train"] * 2, {}, [note])
    assert [type(source) for source in lists.sources()] == [Pack, Pack]
    assert lists.pairs == [[], []]


def test_the_benchmark_prints_every_way_and_its_goals(tmp_path):
    toy_images(tmp_path / "CBSD68", 2, (260, 300))
    command = [sys.executable, "-m", "benchmarks.loading", "--root", str(tmp_path), "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, env=one_thread(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in (
        "raw decode ",
        "pack, crop 256 ",
        "files / raw decode, crop 128 ",
        "index of 2,000,000 images: 80.0 bytes",
    ):
        assert f"\n{line}" in done.stdout
    failed = subprocess.run([*command[:4], str(tmp_path / "no")], cwd=ROOT, capture_output=True, text=True)
    assert (failed.returncode, "Give --root FOLDER" in failed.stderr) == (2, True)
