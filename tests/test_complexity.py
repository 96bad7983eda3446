"""What networks cost: counted against published and measured numbers, and against arithmetic."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from parity import load_golden
from torch import nn

from airpipe.errors import AirpipeError
from airpipe.evaluation.memory import COPIES, activation_bytes, peak_memory_mb
from airpipe.models.cost import count_operations, latency_ms, multiply_accumulates, network_cost
from airpipe.registry import build_network
from airpipe.resident import peak_bytes, resident_bytes
from airpipe.weights.checkpoints import network_of, save_model

FULL = [
    # network, golden, convolutions, linear layers, attention: 10^9 multiply-accumulates at 256x256
    ("nafnet", "nafnet_w64_5d", 63.05, 0, 0),
    ("restormer", "restormer_full", 140.99, 0, 13.89),
    ("restormer_dcpt", "restormer_dcpt_5d", 140.99, 0, 13.89),
    ("promptir", "promptir_full", 158.14, 0, 14.56),
    ("swinir", "swinir_full", 134.4, 611.5, 54.4),
    ("swinir_dcpt", "swinir_dcpt_5d", 134.4, 611.5, 54.4),
]
SMALL = {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}


@pytest.mark.parametrize(("name", "golden", "conv", "linear", "attention"), FULL)
def test_full_networks_cost_what_was_measured_on_the_published_ones(name, golden, conv, linear, attention):
    golden = load_golden(Path(__file__).parent / "goldens" / f"{golden}.npz")
    cost = network_cost(name, golden.config)
    assert abs(cost["parameters"] - golden.n_params) < 0.02 * golden.n_params  # dead layers are left out
    assert cost["macs_conv"] / 1e9 == pytest.approx(conv, abs=0.06)
    assert cost["macs_linear"] / 1e9 == pytest.approx(linear, abs=0.06)
    assert cost["macs_attention"] / 1e9 == pytest.approx(attention, abs=0.06)
    assert cost["macs"] == cost["macs_conv"] + cost["macs_linear"] + cost["macs_attention"]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(8, 16, 3, padding=1), 10 * 12 * 16 * 8 * 9),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), 10 * 12 * 8 * 9),
        (nn.Conv2d(8, 16, 3, padding=1, stride=2, groups=4), 5 * 6 * 16 * 2 * 9),
        (nn.ConvTranspose2d(8, 16, 2, 2), 10 * 12 * 8 * 16 * 4),
        (nn.ConvTranspose2d(8, 16, 2, 2, groups=2), 10 * 12 * 8 * 8 * 4),
    ],
)
def test_convolutions_cost_three_times_as_much_with_their_gradients_whatever_their_groups(layer, expected):
    assert count_operations(layer, 10, 12, 8).conv == expected
    first = nn.Conv2d(8, 8, 1)
    both = count_operations(nn.Sequential(first, layer), 10, 12, 8, backward=True).conv
    assert both == 3 * expected + 2 * 10 * 12 * 64  # the first layer's input needs no gradient


class Attention(nn.Module):
    """Attention over all pixels of 8 channels, written in three ways."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.mix = nn.Linear(8, 24, bias=way != "product")

    def forward(self, image):
        query, key, value = self.mix(image.flatten(2).transpose(1, 2)).chunk(3, -1)  # (1, pixels, 8)
        if self.way == "fused":
            return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])
        if self.way == "product":
            return (query @ key.transpose(1, 2)).softmax(-1) @ value
        return torch.einsum("bij,bjc->bic", torch.einsum("bic,bjc->bij", query, key).softmax(-1), value)


@pytest.mark.parametrize("way", ["fused", "product", "einsum"])
def test_attention_is_counted_apart_from_layers_however_it_is_written(way):
    network = Attention(way)
    for trained in (True, False):
        counted = count_operations(network.requires_grad_(trained), 6, 7, 8)
        assert (counted.conv, counted.linear, counted.attention) == (0, 42 * 8 * 24, 2 * 42 * 42 * 8)
        assert counted.total == counted.linear + counted.attention


def test_counting_leaves_the_network_as_it_was():
    network = build_network("nafnet", **SMALL)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert multiply_accumulates(network, 64, 64) > 0
    activation_bytes(network, 64, 64)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_operations_grow_with_the_pixels():
    network = build_network("nafnet", **SMALL)
    small, large = (count_operations(network, 64, side).conv for side in (64, 128))
    assert large == pytest.approx(2 * small, rel=0.02)  # the attention of the channels does not


def test_networks_of_other_channels_are_counted():
    assert network_cost("nafnet", {**SMALL, "img_channel": 1})["macs"] < network_cost("nafnet", SMALL)["macs"]


def test_the_measured_memory_is_near_the_estimate():
    arguments = {**SMALL, "width": 32}
    measured = 1e6 * peak_memory_mb("nafnet", arguments, torch.device("cpu"), 384)
    estimate = activation_bytes(build_network("nafnet", **arguments), 384, 384)
    assert 0.5 * estimate < measured < 1.5 * COPIES * estimate


@pytest.mark.parametrize("fresh", [False, True])
def test_a_measurement_that_fails_is_told_with_its_reason(fresh):
    with pytest.raises(AirpipeError, match="width must be at least 1"):
        peak_memory_mb("nafnet", {"width": 0}, torch.device("cpu"), 64, fresh)


def test_a_card_that_does_not_fit_its_file_is_told_before_its_network_is_built(tmp_path, monkeypatch):
    save_model(
        tmp_path,
        build_network("nafnet", **SMALL),
        {"schema_version": 1, "network": {"name": "nafnet", "arguments": SMALL}},
    )
    assert network_of(tmp_path) == {"name": "nafnet", "arguments": SMALL}
    card = json.loads((tmp_path / "card.json").read_text())
    card["network"]["arguments"]["width"] = 4096
    (tmp_path / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr("airpipe.weights.checkpoints.build_network", pytest.fail)
    with pytest.raises(AirpipeError, match="model.safetensors does not fit NAFNet: .*wrong shape"):
        network_of(tmp_path)


def test_the_peak_of_a_process_is_its_own():
    assert peak_bytes() >= resident_bytes() > 10e6
    code = """
from airpipe.resident import peak_bytes
before = peak_bytes()
waste = b"x" * 300_000_000
print(peak_bytes() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 250e6 < int(done.stdout) < 350e6


def test_latency_is_a_time():
    assert 0 < latency_ms(build_network("nafnet", **SMALL), torch.device("cpu"), side=16, repeats=3) < 10_000


def test_the_script_writes_all_facts(tmp_path):
    card = {"schema_version": 1, "network": {"name": "nafnet", "arguments": SMALL}}
    save_model(tmp_path / "model", build_network("nafnet", **SMALL), card)
    script = Path(__file__).parents[1] / "scripts" / "measure_cost.py"
    words = [sys.executable, script, "x/y", "--model", tmp_path / "model", "--output", tmp_path / "cost.json"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "cost.json").read_text())
    assert facts["model"] == "x/y"
    assert facts["input"] == "1x3x256x256"
    assert facts["parameters"] == sum(p.numel() for p in build_network("nafnet", **SMALL).parameters())
    assert facts["macs"] == facts["macs_conv"] > 0
    assert 0 < facts["peak_memory_mb"] < 200
