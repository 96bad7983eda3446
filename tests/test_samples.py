"""Real benchmark images through the shipped registry: pairs, input PSNRs, counts, noise levels, leaks.

They lie in the folder that AIRPIPE_SAMPLE_ROOT names, arranged as config/overlays/samples.yaml says, with a
`pairs.csv` that lists partner, cut and input PSNR of every pair.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT
from samples import SAMPLES, needs_samples

from airpipe.cli.data import folder_of, load_registry
from airpipe.data.check import check_split
from airpipe.data.files import split_is_there
from airpipe.data.likeness import likeness
from airpipe.data.pairs import Pair, pair_up, read_rows
from airpipe.evaluation.protocol import evaluate
from airpipe.settings.base import read_yaml
from airpipe.settings.degrading import Recipe
from airpipe.settings.scoring import ProtocolSettings, TestSettings
from workflow import copy_project, planned, snakemake

pytestmark = needs_samples


@pytest.fixture(scope="module")
def checked():
    """(folder, split) -> (facts, pair list rows), for every split of the overlay that is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        registry = load_registry([Path("config/overlays/samples.yaml")])
        own = read_yaml(Path("config/overlays/samples.yaml"))["datasets"]
    found = {}
    for name in own:
        folder = folder_of(name, registry[name])
        for split, settings in registry[name].splits.items():
            if split_is_there(str(folder), settings):
                result = check_split(f"{name}.{split}", settings, str(folder))
                pairing = pair_up([file.path for file in result.files], settings)
                found[f"{name}.{split}"] = (folder, result.facts, pairing.rows)
    return found


@pytest.mark.pipeline
def test_the_samples_are_checked_paired_and_compared_and_then_nothing_is_left_to_do(tmp_path):
    folder = copy_project(tmp_path)
    snakemake(folder, "data", "--configfile", "config/overlays/samples.yaml")
    pairs = [path for path in (folder / "results/pairs").glob("*.csv") if read_rows(path)[0]["degraded"]]
    assert sum(len(read_rows(path)) for path in pairs) == 84
    assert len(read_rows(folder / "results/pairs/bsd400.train.csv")) == 391
    leaks = pd.read_csv(folder / "results/data/leakage.csv")
    counts = leaks[leaks.train_list == "bsd400.train"].groupby("test_list").size().to_dict()
    assert counts == {
        "rain100l.test": 5, "rain100l_input_target.test": 2, "rain100l_481x321.test": 1, "rain100h.test": 5,
        "rain12.test": 9,
    }  # fmt: skip
    assert planned(folder, "data", "--configfile", "config/overlays/samples.yaml") == {}


def test_every_listed_pair_is_found_with_its_partner_cut_and_input_psnr(checked):
    listed = {row["degraded"]: row for row in csv.DictReader((SAMPLES / "pairs.csv").open())}
    found = {}
    for folder, _, rows in checked.values():
        for row in rows:
            if row["degraded"]:
                found[(folder / row["degraded"]).relative_to(SAMPLES).as_posix()] = (folder, row)
    assert sorted(found) == sorted(listed)
    assert len(found) == 84
    for degraded, (folder, row) in found.items():
        expected = listed[degraded]
        assert (folder / row["clean"]).relative_to(SAMPLES).as_posix() == expected["clean"]
        assert (row["crop"] == "centre") == (expected["clean_centre_crop_px"] != "0")
        measured = likeness((str(folder / row["degraded"]), str(folder / row["clean"]), row["crop"], degraded)).psnr
        assert measured == pytest.approx(float(expected["input_psnr_rgb_db"]), abs=0.01)


@pytest.mark.parametrize(
    ("name", "images"),
    [("bsd400.train", 391), ("cbsd68.test", 68), ("kodak24.test", 24), ("set12.test", 12), ("set14.test", 14),
     ("mcmaster.test", 4), ("urban100.test", 6), ("classic5.test", 5), ("lol_v1.train", 16), ("lol_v1.test", 12),
     ("sots_indoor.test", 3), ("gopro.train", 3), ("gopro.test", 3)],
)  # fmt: skip
def test_counts_are_those_of_the_folders(checked, name, images):
    assert checked[name][1]["pairs"] == images


def test_both_versions_of_rain100l_are_told_apart(checked):
    assert checked["rain100l.test"][1]["version"] == "b"
    assert checked["rain100l_481x321.test"][1]["version"] == "a"
    assert checked["rain100l.test"][1]["notes"] == ["7 pairs found, 100 expected"]


def protocol_inputs(name, sigma):
    """Mean PSNR of the noisy input of a data set under the protocols promptir and dcpt."""
    folder = SAMPLES / name
    paths = sorted(folder.iterdir())
    pairs = [Pair(path, None, "noise", str(sigma), "none", path.stem, path.stem) for path in paths]
    noise = Recipe.model_validate([{"operation": "gaussian_noise", "parameters": {"sigma": sigma}}])
    test = TestSettings(
        pairs="x.test", degradation="noise", operations=noise, protocols=("promptir", "dcpt"), keep_images=0
    )
    shipped = read_yaml(ROOT / "config/protocols.yaml")["protocols"]
    protocols = {key: ProtocolSettings(**shipped[key]) for key in test.protocols}
    rows = evaluate(test, protocols, pairs, None)
    return {
        key: np.mean([row["value"] for row in rows if row["protocol"] == key and row["metric"] == "psnr"])
        for key in test.protocols
    }


@pytest.mark.parametrize(
    ("name", "sigma", "clipped", "unclipped"),
    [
        ("CBSD68", 15, 24.833, 24.612),
        ("CBSD68", 25, 20.538, 20.175),
        ("CBSD68", 50, 15.004, 14.154),
        ("Kodak24", 15, 24.754, 24.612),
        ("Kodak24", 25, 20.442, 20.175),
        ("Kodak24", 50, 14.875, 14.154),
    ],
)
def test_noisy_inputs_have_the_published_protocols_mean_psnr(name, sigma, clipped, unclipped):
    """Measured on the real files with the published noise rules: promptir clips and cuts to uint8, dcpt does not."""
    found = protocol_inputs(name, sigma)
    assert found["promptir"] == pytest.approx(clipped, abs=0.02)
    assert found["dcpt"] == pytest.approx(unclipped, abs=0.02)


def test_facts_are_plain_json(checked):
    assert json.loads(json.dumps({name: facts for name, (_, facts, _) in checked.items()}))
