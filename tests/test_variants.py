"""One checkpoint serves several networks, which every command knows by @ and a name."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, one_thread, toy_images
from torch import Tensor, nn

from airpipe import registry
from airpipe.cli.main import find_model, list_models, main
from airpipe.errors import AirpipeError
from airpipe.evaluation.origin import origin
from airpipe.evaluation.restore import restore
from airpipe.models.contract import Network
from airpipe.models.cost import network_cost
from airpipe.weights.checkpoints import check_variants, load_model, save_model
from airpipe.weights.importing import export_model, export_published

DEEP, SHALLOW = {"repeats": 3, "width": 4}, {"repeats": 1}
ID = "toy/deep_3d/seed0/train"


class TwoDepths(Network):
    """One block, used as often as it is told."""

    def __init__(self, repeats: int = 3, width: int = 4) -> None:
        super().__init__()
        if repeats < 1:
            raise ValueError(f"repeats is {repeats}; expected 1 or more")
        self.repeats = repeats
        self.head, self.block = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.tail = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        features = self.head(image)
        for _ in range(self.repeats):
            features = self.block(features).relu()
        return image + self.tail(features)


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    known = registry.networks() | {"two_depths": f"{__name__}:TwoDepths"}
    monkeypatch.setattr(registry, "networks", lambda: known)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    card = {
        "model": ID,
        "network": {"name": "two_depths", "arguments": DEEP},
        "variants": {"s": SHALLOW, "l": {"repeats": 5}},
    }
    save_model(tmp_path / "results" / ID, TwoDepths(**DEEP), card)
    return tmp_path / "results" / ID


def test_a_variant_has_the_file_s_weights_and_arguments_of_its_own(folder):
    whole, small = load_model(folder), load_model(folder, "s")
    assert (whole.network.repeats, small.network.repeats) == (3, 1)
    assert (whole.variant, small.variant) == ("", "s")
    assert small.card["network"]["arguments"] == {"repeats": 1, "width": 4}
    assert small.card["model"] == f"{ID}@s"
    assert whole.card["model"] == ID
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, small.network.state_dict()[key])
    for named in (f"{folder}@l", f"{folder / 'model.safetensors'}@l"):
        assert load_model(named).network.repeats == 5


def test_a_variant_that_is_not_there_is_refused_with_those_that_are(folder, tmp_path):
    with pytest.raises(AirpipeError, match=r"no variant 'm'. It has s, l"):
        load_model(folder, "m")
    save_model(tmp_path / "plain", TwoDepths(), {"network": {"name": "two_depths", "arguments": DEEP}})
    with pytest.raises(AirpipeError, match=r"no variant 's'. It has none: leave it out"):
        load_model(tmp_path / "plain", "s")


def test_a_folder_whose_name_has_an_at_sign_is_no_variant(folder, tmp_path):
    moved = folder.rename(tmp_path / "mine@home")
    assert load_model(moved).variant == ""
    assert load_model(f"{moved}@s").variant == "s"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"repeat": 2}, r"variants.s: network two_depths: .*unexpected keyword argument 'repeat'"),
        ({"repeats": 0}, r"variants.s: network two_depths: repeats is 0; expected 1 or more"),
        ({"width": 8}, r"variants.s: width would need other weights: 5 entries differ \(first head.weight\)"),
    ],
)
def test_variants_that_do_not_share_their_weights_are_refused(changed, message):
    check_variants("two_depths", DEEP, {"l": {"repeats": 5}})
    with pytest.raises(AirpipeError, match=message):
        check_variants("two_depths", DEEP, {"l": {"repeats": 5}, "s": changed})


def test_a_variant_costs_what_its_depth_costs(folder):
    costs = [network_cost(**load_model(folder, variant).card["network"]) for variant in ("s", "", "l")]
    macs = [cost["macs"] for cost in costs]
    assert macs[1] - macs[0] == macs[2] - macs[1] == 2 * 256 * 256 * 4 * 4 * 9
    assert len({cost["parameters"] for cost in costs}) == 1


def test_the_command_line_restores_with_a_variant_and_lists_all(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert [model["variants"] for model in list_models(folder.parents[3])] == [["s", "l"]]
    assert main(["models"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [ID, f"{ID}@s", f"{ID}@l"]
    (photo,) = toy_images(tmp_path / "in", 1)
    for name in (ID, f"{ID}@s"):
        assert main(["restore", str(photo), "-m", name, "-o", f"{tmp_path / name.replace('/', '_')}.png"]) == 0
    written = [cv2.imread(str(tmp_path / f"{name.replace('/', '_')}.png"))[..., ::-1] for name in (ID, f"{ID}@s")]
    assert np.array_equal(written[1], restore(photo, f"{folder}@s"))
    assert not np.array_equal(*written)
    chosen = tmp_path / "chosen.png"
    assert main(["restore", str(photo), "-m", ID, "--variant", "s", "-o", str(chosen)]) == 0
    assert np.array_equal(cv2.imread(str(chosen))[..., ::-1], written[1])
    assert main(["restore", str(photo), "-m", ID, "--variant", "m", "-o", str(chosen)]) == 2
    assert "no variant 'm'. It has s, l" in capsys.readouterr().err
    with pytest.raises(AirpipeError, match=f"Models here: {ID}, {ID}@s, {ID}@l"):
        find_model("toy/deep_3d/seed1/train@s")
    assert main(["restore", str(photo), "-m", f"{ID}@m"]) == 2
    assert "no variant 'm'. It has s, l" in capsys.readouterr().err


def test_another_variant_is_another_origin(folder, tmp_path):
    (photo,) = toy_images(tmp_path / "in", 1)
    whole, small = origin(photo, folder, {}), origin(photo, f"{folder}@s", {})
    assert whole["model"] == small["model"]
    assert "variant" not in whole
    assert small == whole | {"variant": "s"}
    assert origin(photo, load_model(folder, "s"), {}) == small


def test_a_variant_is_exported_by_itself(folder, tmp_path):
    assert export_published(f"{folder}@s", tmp_path / "s.pth") == 6
    with pytest.raises(AirpipeError, match="no variant 'm'"):
        export_published(f"{folder}@m", tmp_path / "m.pth")


def test_a_fixed_variant_becomes_a_model_of_its_own(folder, tmp_path):
    export_model(f"{folder}@s", tmp_path / "small")
    alone, small = load_model(tmp_path / "small"), load_model(folder, "s")
    assert alone.network.repeats == 1
    assert all(torch.equal(value, small.network.state_dict()[key]) for key, value in alone.network.state_dict().items())
    assert alone.card["macs"] == network_cost("two_depths", DEEP | SHALLOW)["macs"]
    assert (alone.card["variants"], alone.card["model"]) == ({}, f"{ID}@s")
    with pytest.raises(AirpipeError, match=r"no variant 's'. It has none: leave it out"):
        load_model(tmp_path / "small", "s")
    with pytest.raises(AirpipeError, match="exists already. Add --overwrite"):
        export_model(folder, tmp_path / "small")


def test_the_scripts_take_the_variant_from_the_id(tmp_path):
    arguments = {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1], "pad": "reflect"}
    card = {"network": {"name": "nafnet", "arguments": arguments}, "variants": {"z": {"pad": "zero"}}}
    save_model(tmp_path / "m", registry.build_network("nafnet", **arguments), card)
    words = [f"{ID}@z", "--model", str(tmp_path / "m" / "model.safetensors"), "--output", str(tmp_path / "cost.json")]
    script = [sys.executable, str(ROOT / "scripts" / "measure_cost.py")]
    done = subprocess.run([*script, *words], env=one_thread(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "cost.json").read_text())["model"] == f"{ID}@z"
    words[0] = f"{ID}@y"
    done = subprocess.run([*script, *words], env=one_thread(), capture_output=True, text=True)
    assert (done.returncode, "no variant 'y'. It has z" in done.stderr) == (2, True)
