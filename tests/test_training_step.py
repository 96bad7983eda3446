"""The yardstick of the training benchmark computes the same as the networks, and the benchmark prints what it found."""

import subprocess
import sys

import pytest
import torch
from helpers import ROOT, one_thread
from parity import fill_parameters, make_input
from torch import Tensor, nn

from airpipe import build_network
from benchmarks.published_forms import FORMS, published_form

TINY = {"dim": 8, "num_blocks": [1, 1, 1, 2], "num_refinement_blocks": 1}
NETWORKS = {
    "nafnet": ("nafnet", {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 2], "dec_blk_nums": [2, 1]}),
    "restormer": ("restormer", {**TINY, "bias": True}),
    "restormer, norm without bias": ("restormer", {**TINY, "LayerNorm_type": "BiasFree"}),
    "swinir": ("swinir", {"embed_dim": 24, "depths": [2, 2], "num_heads": [3, 2], "window_size": 4}),
    "swinir without bias": ("swinir", {"embed_dim": 12, "depths": [2], "num_heads": [2], "relative_bias": False}),
    "swinir without mask": ("swinir", {"embed_dim": 12, "depths": [2], "num_heads": [2], "attn_mask": False}),
    "promptir": ("promptir", TINY),
}


def output_and_gradients(network: nn.Module, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    image = image.clone().requires_grad_()
    output = network(image)
    (output - make_input(output.shape, 1)).abs().mean().backward()
    return output.detach(), {"image": image.grad} | {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_yardstick_has_the_same_weights_outputs_and_gradients(name):
    network, arguments = NETWORKS[name]
    dropping = {"drop_path_rate": 0.0} if network == "swinir" else {}
    ours = build_network(network, **arguments, **dropping)
    fill_parameters(ours)
    slow = published_form(ours)
    slow.load_state_dict(ours.state_dict())
    assert not {type(module) for module in slow.modules()} & set(FORMS)
    assert {type(module) for module in ours.modules()} & set(FORMS)
    image = make_input((2, 3, 24, 32))
    output, gradients = output_and_gradients(ours, image)
    slow_output, slow_gradients = output_and_gradients(slow, image)
    torch.testing.assert_close(slow_output, output, rtol=0, atol=1e-4)
    assert (output - image).abs().mean() > 0.01  # more than the identity is compared
    assert slow_gradients.keys() == gradients.keys()
    for key, gradient in gradients.items():
        scale = gradient.abs().max().item() + 1e-6
        torch.testing.assert_close(slow_gradients[key] / scale, gradient / scale, rtol=0, atol=1e-3, msg=key)


def run(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.training_step", "--tiny", "--rounds", "1", *options]
    environment = {**one_thread(), **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_benchmark_prints_speed_parity_and_goal_of_every_network():
    done = run("--no-compile")
    assert done.returncode == 0, done.stderr
    tables = done.stdout.split("\n\n")[1:]
    assert [table.split(",")[0] for table in tables] == ["nafnet", "restormer", "swinir", "promptir"]
    for table in tables:
        rows = table.splitlines()[2:]
        assert [row[:36].strip() for row in rows[:-1]] == [
            "published form, float32",
            "float32",
            "float32, channels_last",
            "bfloat16",
            "bfloat16, channels_last",
        ]
        speeds, outputs = ([float(row[36:].split()[i].rstrip("x")) for row in rows[:-1]] for i in (2, 3))
        assert (speeds[0], outputs[0]) == (1, 0)
        assert max(outputs[1:3]) < 1e-4 < min(outputs[3:]) <= max(outputs[3:]) < 0.05
        assert rows[-1].startswith(f"best: {max(speeds[1:]):.2f}x (")
    assert [table.strip().rsplit("; ")[-1] for table in tables] == ["goal >= 1.7x", "goal >= 2x", "no goal", "no goal"]


def test_without_a_compiler_compiled_modes_are_left_out_with_one_line():
    done = run("--network", "nafnet", PATH="", CXX="g++")
    assert done.returncode == 0, done.stderr
    assert "\nno C++ compiler (g++ or clang++, or $CXX): compiled modes are left out\n" in done.stdout
    assert "bfloat16, channels_last" in done.stdout
    assert "compiled, " not in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "--rounds is 0, --threads 1; give at least 1 of each"),
        (["--device", "cuda"], "--device cuda: torch sees no GPU here. Run where one is, or give --device cpu"),
    ],
)
def test_bad_options_get_one_clear_message(options, message):
    done = run(*options, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
