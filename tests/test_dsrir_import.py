"""The published checkpoints of DSRIR become models and go back bit for bit."""

from pathlib import Path

import pytest
import torch
from parity import make_input
from test_dsrir import OTHERS, arguments_of, golden_of, small
from torch import Tensor

from airpipe.errors import AirpipeError
from airpipe.methods.dsrir.network import DSRIR
from airpipe.weights.checkpoints import load_model
from airpipe.weights.importing import ImportOptions, describe, export_published, import_published
from airpipe.weights.published import read_published

GRIDS = ("sn1_grids", "sn2_grids", "sn3_grids")


def saved(file: Path, state: dict[str, Tensor], prefix: str = "") -> Path:
    """A checkpoint as the published code saves it, with the state of its optimizer; `prefix`: of several GPUs."""
    moments = {number: {"step": 3, "exp_avg": torch.ones(2)} for number in range(4)}
    optimizer = {"state": moments, "param_groups": [{"lr": 2e-4, "params": [0, 1, 2, 3]}]}
    wrapped = {f"{prefix}{key}": value for key, value in state.items()}
    torch.save({"epoch": 347, "state_dict": wrapped, "optimizer": optimizer}, file)
    return file


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["small", "full"])
def test_a_published_checkpoint_comes_back_bit_for_bit(name, prefix, tmp_path):
    golden = golden_of(name)
    state = golden.reference_state()
    found = import_published(saved(tmp_path / "model_best.pth", state, prefix), tmp_path / "made", ImportOptions())
    assert found.name == "dsrir" and found.also == ()
    assert (found.weights.container, found.weights.prefix) == ("state_dict", prefix)
    assert len(found.report.matched) == 316
    loaded = load_model(tmp_path / "made")
    with torch.no_grad():
        out = loaded.network(golden.input())
    expected = golden.outputs["img3"]
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert export_published(tmp_path / "made", tmp_path / "again.pth") == 316
    again = torch.load(tmp_path / "again.pth", weights_only=True)["state_dict"]
    assert list(again) == list(state)
    assert all(torch.equal(again[key], value) for key, value in state.items())
    import_published(tmp_path / "again.pth", tmp_path / "twice", ImportOptions())
    assert load_model(tmp_path / "twice").card["network"] == loaded.card["network"]
    assert (tmp_path / "twice/model.safetensors").read_bytes() == (tmp_path / "made/model.safetensors").read_bytes()


@pytest.mark.parametrize("name", OTHERS)
def test_other_configurations_are_read_off_the_shapes_but_for_their_grids(name, tmp_path):
    net, arguments = small(name), arguments_of(name)
    told = {grid: arguments[grid] for grid in GRIDS}
    file = saved(tmp_path / "model.pth", net.state_dict(), "module.")
    found = read_published(file, arguments=told)
    image = make_input((1, arguments["in_channels"], 12, 17))
    with torch.no_grad():
        assert torch.equal(found.network.eval()(image), net(image))
    assert {key: found.arguments[key] for key in arguments} == arguments
    assert "note: no shape tells sn1_grids" in "\n".join(describe(found))


def test_a_file_with_other_groups_than_published_asks_for_their_grids(tmp_path):
    file = saved(tmp_path / "model.pth", small("grids").state_dict())
    with pytest.raises(AirpipeError, match=r"network dsrir: sn3_grids is \[8, 4, 2, 1\]; expected 3 numbers from 1"):
        read_published(file)


def test_a_checkpoint_that_lacks_an_entry_is_refused(tmp_path):
    state = golden_of("small").reference_state()
    del state["SN1.skipatt1.conv2.weight"]
    with pytest.raises(AirpipeError, match=r"does not fit DSRIR: 1 missing \(first SN1.skipatt1.conv2.weight\)"):
        read_published(saved(tmp_path / "model.pth", state))


def test_states_of_other_networks_are_no_dsrir():
    assert DSRIR.arguments_from({"ebd.weight": (144, 3, 3, 3)}) is None
