"""VGG16 as torchvision has it, and the files of VRD-IR's published code, become models and parents."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, one_thread
from parity import Golden, load_golden, make_input
from torch import Tensor

from airpipe import build_network, load_published
from airpipe.errors import AirpipeError
from airpipe.provenance import sha256_file
from airpipe.weights.checkpoints import load_model
from airpipe.weights.importing import ImportOptions, describe, export_published, import_published, read_all, table
from airpipe.weights.published import candidates, read_published

GOLDENS = Path(__file__).parent / "goldens"
VGG16 = {
    0: (64, 3),
    2: (64, 64),
    5: (128, 64),
    7: (128, 128),
    10: (256, 128),
    12: (256, 256),
    14: (256, 256),
    17: (512, 256),
    **dict.fromkeys((19, 21, 24, 26, 28), (512, 512)),
}
"""Output and input channels of the convolutions in torchvision's `features`."""


def golden() -> Golden:
    return load_golden(GOLDENS / "vrdir_full.npz")


def part(prefix: str) -> dict[str, Tensor]:
    """Published entries of one part of the whole network."""
    return {k.removeprefix(prefix): v for k, v in golden().reference_state().items() if k.startswith(prefix)}


def vgg16(channels: int = 8) -> dict[str, Tensor]:
    """Names of a whole VGG16, front of the golden; later layers hold a few numbers only."""
    state = {f"features.{key}": value for key, value in part("ext.").items()}
    for module in VGG16:
        state.setdefault(f"features.{module}.weight", torch.zeros(channels, channels, 3, 3))
        state.setdefault(f"features.{module}.bias", torch.zeros(channels))
    for module in (0, 3, 6):
        state |= {f"classifier.{module}.weight": torch.zeros(4, 4), f"classifier.{module}.bias": torch.zeros(4)}
    return state


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """What the published code and torchvision save."""
    training = {"optimizer": {"state": {}, "param_groups": []}, "scheduler": {"last_epoch": 30}, "epoch": 30}
    contents = {
        "sad": {"model": {f"module.{k}": v for k, v in part("sad.").items()}, **training},
        "dnc": {"model": part("ise.dncs.1."), **training},
        "ise": {"ise": part("ise."), **training},
        "encoder": vgg16(),
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / f"{name}.pth")
    return {name: tmp_path / f"{name}.pth" for name in contents}


@pytest.mark.parametrize(
    ("file", "name", "arguments", "prefix"),
    [
        ("sad", "vrdir_sad", {"in_channels": 128, "hidden": 64, "out_channels": 3}, "sad."),
        ("dnc", "vrdir_dnc", {"in_channels": 128, "ratio": 4}, "ise.dncs.1."),
        ("ise", "vrdir_ise", {"in_channels": 128, "ratio": 4, "num_branches": 3}, "ise."),
    ],
)
def test_published_checkpoints_become_parts(files, file, name, arguments, prefix, tmp_path):
    found = import_published(files[file], tmp_path / "made", ImportOptions())
    assert (found.name, found.arguments, found.also) == (name, arguments, ())
    loaded = load_model(tmp_path / "made")
    state, wanted = loaded.network.state_dict(), part(prefix)
    assert list(state) == list(wanted) and all(torch.equal(state[key], value) for key, value in wanted.items())
    assert loaded.card["macs"] > 0 and loaded.card["imported"]["keys"]["matched"] == len(wanted)
    export_published(tmp_path / "made", tmp_path / "out.pth")
    assert list(torch.load(tmp_path / "out.pth", weights_only=True)["params"]) == list(wanted)


def test_the_front_of_a_whole_vgg16_is_taken_and_the_rest_told(files, tmp_path):
    found = import_published(files["encoder"], tmp_path / "vgg16", ImportOptions())
    assert (found.name, found.arguments) == ("vgg_front", {"widths": [64, 128]})
    assert (len(found.report.matched), len(found.report.dropped)) == (8, 24)
    assert "24 dropped knowingly: features.*.weight (9), features.*.bias (9), classifier.*" in "\n".join(
        describe(found)
    )
    card = load_model(tmp_path / "vgg16").card
    assert card["imported"]["sha256"] == sha256_file(files["encoder"])
    assert card["parameters"] == 260_160
    front = load_model(tmp_path / "vgg16").network
    whole = load_published(build_network("vrdir", **golden().config), golden().reference_state())
    image = golden().input()
    assert torch.equal(front(image), whole.ext.to(memory_format=torch.channels_last)(image))  # as loaded models are
    export_published(tmp_path / "vgg16", tmp_path / "out.pth", bare=True)
    again = torch.load(tmp_path / "out.pth", weights_only=True)
    assert again.keys() == {f"features.{i}.{kind}" for i in (0, 2, 5, 7) for kind in ("weight", "bias")}


def test_what_only_resembles_the_front_is_something_else():
    shapes = {name: tuple(value.shape) for name, value in vgg16().items()}
    assert candidates(shapes) == {"vgg_front": {"widths": [64, 128]}}
    with_norm = shapes | {"features.1.weight": (64,), "features.1.running_mean": (64,)}
    assert candidates(with_norm) == {}
    assert candidates({k: v for k, v in shapes.items() if k != "features.5.bias"}) == {}
    bare = {k.removeprefix("features."): v for k, v in shapes.items() if k.startswith("features.")}
    assert candidates(bare) == {}
    for name in ("sad", "dnc_full", "ise_full", "full"):
        golden_keys = load_golden(GOLDENS / f"vrdir_{name}.npz").keys
        assert list(candidates(golden_keys)) == [f"vrdir_{name.split('_')[0]}".replace("_full", "")]
        for left_out in golden_keys:
            assert candidates({k: s for k, s in golden_keys.items() if k != left_out}) == {}


def test_the_three_files_become_one_network_that_computes_the_golden(files, tmp_path):
    parts = {role: files[role] for role in ("sad", "encoder")}
    options = ImportOptions(parts=parts, arguments={"normalise": "none"})
    found = import_published(files["ise"], tmp_path / "whole", options)
    assert found.name == "vrdir"
    loaded = load_model(tmp_path / "whole")
    torch.testing.assert_close(loaded.network(golden().input()), golden().outputs["out"], rtol=1e-4, atol=1e-4)
    told = loaded.card["imported"]
    assert {role: facts["sha256"] for role, facts in told["parts"].items()} == {
        role: sha256_file(file) for role, file in parts.items()
    }
    assert told["assumed"] == {}
    assumed = import_published(files["ise"], tmp_path / "usual", ImportOptions(parts=parts))
    assert assumed.assumed == {"normalise": "half"}
    normal = load_model(tmp_path / "usual").network
    image = make_input((1, 3, 12, 10))
    torch.testing.assert_close(normal(image), loaded.network(2 * image - 1))


def test_parts_that_do_not_fit_are_told(files, tmp_path):
    with pytest.raises(AirpipeError, match="--encoder is missing: a whole VRD-IR is made of ISE's file, --sad and"):
        import_published(files["ise"], tmp_path / "a", ImportOptions(parts={"sad": files["sad"]}))
    both = {"sad": files["sad"], "encoder": files["encoder"]}
    with pytest.raises(AirpipeError, match="is vrdir_dnc; --sad and --encoder go with a file of VRD-IR's ISE"):
        import_published(files["dnc"], tmp_path / "b", ImportOptions(parts=both))
    with pytest.raises(AirpipeError, match="is no vrdir_sad: its names and shapes are those of vrdir_dnc"):
        import_published(files["ise"], tmp_path / "c", ImportOptions(parts=both | {"sad": files["dnc"]}))
    torch.save({"model": build_network("vrdir_sad", in_channels=8).state_dict()}, tmp_path / "small.pth")
    with pytest.raises(AirpipeError, match="other numbers of channels: ISE 128, decoder 8, encoder 128"):
        import_published(files["ise"], tmp_path / "d", ImportOptions(parts=both | {"sad": tmp_path / "small.pth"}))
    with pytest.raises(
        AirpipeError,
        match="--sad and --encoder and --head are no files of one network: found --head with the backbone of a DCPT "
        "pretraining, --sad and --encoder with ISE's file of VRD-IR. Leave one out",
    ):
        import_published(files["ise"], tmp_path / "e", ImportOptions(parts=both | {"head": files["sad"]}))
    with pytest.raises(AirpipeError, match="--partial: found --sad or --encoder, too, and VRD-IR is made of"):
        import_published(files["ise"], tmp_path / "f", ImportOptions(parts=both, partial=True))
    assert not any((tmp_path / name).exists() for name in "abcdef")


def test_the_report_of_three_files_is_of_the_network_that_would_be_imported(files):
    parts = {role: files[role] for role in ("sad", "encoder")}
    found = read_all(files["ise"], ImportOptions(parts=parts, arguments={"normalise": "imagenet", "max_pixels": 4096}))
    assert (found.network.normalise, found.network.max_pixels) == ("imagenet", 4096)
    lines = table(found)
    assert len(lines) == len(part("ise.")) + len(part("sad.")) + len(vgg16())
    assert sum(line.split()[1] == "dropped" for line in lines) == 24
    assert "imagenet" in describe(found)[0]


def test_the_command_line_imports_the_three_files_as_one(files, tmp_path):
    command = [sys.executable, str(ROOT / "scripts/import_weights.py"), str(files["ise"]), "--name", "vrdir"]
    command += ["--sad", str(files["sad"]), "--encoder", str(files["encoder"])]
    more_told = ["--argument", "max_pixels=4096"]
    for more in (["--report"], ["--report", *more_told], []):
        done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, env=one_thread())
        assert done.returncode == 0, done.stderr
    assert "note: no shape tells normalise; half is used (--argument normalise=...)" in done.stdout
    assert "airpipe restore PHOTO -m results/imported/vrdir" in done.stdout
    card = json.loads((tmp_path / "results/imported/vrdir/card.json").read_text())
    assert (card["network"]["name"], card["parameters"]) == ("vrdir", 463_782)
    alone = [sys.executable, str(ROOT / "scripts/import_weights.py"), str(files["encoder"]), "--name", "vgg16"]
    done = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True, env=one_thread())
    assert done.stdout.strip().endswith("(a parent for training: imported/vgg16)")


def test_a_whole_network_in_one_file_is_read(tmp_path):
    torch.save(golden().reference_state(), tmp_path / "whole.pth")
    found = read_published(tmp_path / "whole.pth")
    assert (found.name, found.assumed) == ("vrdir", {"normalise": "none"})
    assert found.arguments == {**golden().config, "front_channels": 64, "hidden": 64}
