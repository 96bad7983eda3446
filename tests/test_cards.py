"""A card is believed only where its types are right, its network has the file's shapes, and the file its checksum."""

import inspect
import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from airpipe import build_network, registry
from airpipe.cli import main as cli
from airpipe.errors import AirpipeError
from airpipe.provenance import sha256_file
from airpipe.reporting.reading import read_cards
from airpipe.weights.cards import read_card
from airpipe.weights.checkpoints import load_matching, load_model, load_strictly, save_model
from airpipe.weights.trial import on_trial

SIZES = {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]}
NETWORK = {"name": "nafnet", "arguments": SIZES}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "results" / "m"
    save_model(folder, build_network("nafnet", **SIZES), {"schema_version": 1, "network": NETWORK, "variants": {}})
    return folder


def rewritten(model, **values):
    card = json.loads((model / "card.json").read_text()) | values
    (model / "card.json").write_text(json.dumps(card))
    return model


# Types


WRONG = [
    ({"network": {"name": ["nafnet"], "arguments": {}}}, r"network.name: input should be a valid string, found \['naf"),
    ({"network": {"name": {"a": 1}, "arguments": {}}}, "network.name: .* valid string"),
    ({"network": {"name": None, "arguments": {}}}, "network.name: .* valid string, found None"),
    ({"network": {"name": "n" * 9999, "arguments": {}}}, "network.name: .* at most 100 characters, found 'nnn"),
    ({"network": {"name": "nafnet", "arguments": [1]}}, r"network.arguments: .* valid dictionary, found \[1\]"),
    ({"network": {"name": "nafnet"}}, "network.arguments: field required"),
    ({"network": "nafnet"}, "network: .*, found 'nafnet'"),
    ({"variants": ["s"]}, "variants: .* valid dictionary"),
    ({"variants": {"s": 3}}, "variants.s: .* valid dictionary, found 3"),
    ({"step": "40"}, "step: .* valid integer, found '40'"),
    ({"wall_s": [1]}, "wall_s: .* valid number"),
    ({"notes": "one"}, "notes: .* valid list"),
    ({"weights": "best"}, "weights: .*'ema' or 'raw', found 'best'"),
    ({"classes": {"a": 1}}, "classes: .* valid list"),
    ({"budget": {"steps": 1, "samples": 2, "stages": {"a": 3}}}, "budget.stages.a: .* valid list"),
    ({"sha256": "abc"}, "sha256: .*pattern"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_types_in_a_card_are_checked_in_one_line_everywhere(values, message, model, capsys):
    rewritten(model, **values)
    for read in (load_model, lambda folder: read_cards([folder / "card.json"], folder.parent)):
        with pytest.raises(AirpipeError, match=f"card.json: not a model card: {message}") as caught:
            read(model)
        assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 500
    assert cli.main(["models", "--results", str(model.parent)]) == 0
    assert "card.json cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[" * 100_000, '{"network": ' * 50_000, "{", "[]", "null", "NaN", '{"a": 1e', "\xff"])
def test_a_card_that_is_no_card_is_one_line(text, model):
    (model / "card.json").write_text(text, encoding="latin-1")
    with pytest.raises(AirpipeError, match="card.json: not a model card") as caught:
        load_model(model)
    assert len(str(caught.value).splitlines()) == 1


def test_a_pipe_for_a_card_is_not_waited_for(model):
    (model / "card.json").unlink()
    os.mkfifo(model / "card.json")
    with pytest.raises(AirpipeError, match="no such card, or no file"):
        read_card(model / "card.json")


# Arguments


ARGUMENTS = [
    ({"width": "4"}, "argument width is '4': input should be a valid integer. Expected int"),
    ({"width": 4.5}, "argument width is 4.5"),
    ({"width": True}, "argument width is True"),
    ({"width": None}, "argument width is None"),
    ({"enc_blk_nums": 3}, "argument enc_blk_nums is 3"),
    ({"enc_blk_nums": [[1]]}, r"argument enc_blk_nums is \[\[1\]\]"),
    ({"pad": "x" * 5000}, "argument pad is 'xxx"),
    ({"depth": 3}, "unexpected keyword argument 'depth'"),
    ({"width": 8}, r"does not fit NAFNet: .*8, 3, 3, 3\] in the network"),
    ({"width": 10**6}, "does not fit NAFNet"),  # 10^15 numbers if it were built
    ({"middle_blk_num": 10**9}, "its arguments make far more than the 61 entries of the file"),
    ({"middle_blk_num": 10**18}, "Expected numbers below 2\\^31"),
    ({"enc_blk_nums": [1] * 40, "dec_blk_nums": [1] * 40}, "nafnet: |does not fit NAFNet: .* missing"),
]


@pytest.mark.parametrize(("changed", "message"), ARGUMENTS)
def test_a_card_decides_neither_memory_nor_time(changed, message, model):
    rewritten(model, network={"name": "nafnet", "arguments": SIZES | changed})
    with pytest.raises(AirpipeError, match=message) as caught:
        load_model(model)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 600


def integers():
    for name in registry.networks():
        for argument, parameter in inspect.signature(registry.network_class(name)).parameters.items():
            if isinstance(parameter.default, int) and not isinstance(parameter.default, bool):
                yield name, {argument: 2**31 - 1}
            if isinstance(parameter.default, tuple) and parameter.default:
                yield name, {argument: [2**31 - 1] * len(parameter.default)}


@pytest.mark.parametrize(("name", "arguments"), list(integers()))
def test_no_number_of_any_network_makes_a_trial_endless(name, arguments):
    try:
        assert len(on_trial(name, arguments, 0).state_dict()) < 2000
    except AirpipeError as error:
        assert str(error).startswith(f"network {name}: ")
    assert torch.is_grad_enabled()  # a construction that was stopped leaves gradients on


@pytest.mark.parametrize(
    "backbone", [{"x": 1}, {"name": ["a"], "arguments": {}}, {"name": "nafnet", "arguments": 3}, [], 3]
)
def test_a_nested_network_of_any_type_is_one_error(backbone):
    with pytest.raises(AirpipeError, match="network|backbone"):
        build_network("dcpt", backbone=backbone, num_classes=5)


# The file


def test_the_card_has_the_checksum_of_the_file_and_a_flipped_bit_is_found(model):
    file = model / "model.safetensors"
    assert json.loads((model / "card.json").read_text())["sha256"] == sha256_file(file)
    assert load_model(model).card["sha256"] == sha256_file(file)
    data = bytearray(file.read_bytes())
    data[-3] ^= 0x40
    file.write_bytes(data)
    load_file(file)  # safetensors does not see it
    with pytest.raises(AirpipeError, match="model.safetensors: damaged: its sha256 is not the one in card.json"):
        load_model(model)
    card = json.loads((model / "card.json").read_text())
    del card["sha256"]  # as cards of earlier versions
    (model / "card.json").write_text(json.dumps(card))
    assert load_model(model).network.intro.weight.shape == (4, 3, 3, 3)


@pytest.mark.parametrize("kind", [torch.bool, torch.complex64, torch.int32])
def test_own_weights_of_another_type_are_refused(kind, model):
    file = model / "model.safetensors"
    state = load_file(file)
    state["intro.bias"] = torch.ones(4).to(kind)
    save_file(state, file)
    rewritten(model, sha256=sha256_file(file))
    with pytest.raises(AirpipeError, match=r"1 wrong type \(first intro.bias: .* in the file, floating-point numbers"):
        load_model(model)
    network = build_network("nafnet", **SIZES)
    with pytest.raises(AirpipeError, match="1 wrong type"):
        load_strictly(network, state, "parent")
    assert load_matching(network, state, "parent")["missing"] == ["intro.bias"]
    batch = torch.nn.BatchNorm2d(2)
    with pytest.raises(AirpipeError, match=r"num_batches_tracked: floating-point numbers in the file, integers"):
        load_strictly(batch, batch.state_dict() | {"num_batches_tracked": torch.tensor(1.0)}, "parent")


def test_messages_of_the_trial_do_not_repeat_long_values(model):
    rewritten(model, network={"name": "nafnt" * 15, "arguments": {}})
    with pytest.raises(AirpipeError, match="unknown network") as caught:
        load_model(model)
    assert not re.search(r"'[^']{90,}'", str(caught.value))
