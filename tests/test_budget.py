"""The deepest variant whose cost on this machine fits a budget is taken, and one message tells what fits none."""

import cv2
import numpy as np
import pytest
import torch
from helpers import toy_images
from test_variants import DEEP, ID, TwoDepths

from airpipe import registry
from airpipe.cli.main import main
from airpipe.errors import AirpipeError
from airpipe.evaluation import budget
from airpipe.evaluation.budget import Budget, choose_variant, megapixel_cost
from airpipe.evaluation.restore import restore
from airpipe.weights.checkpoints import load_model, save_model, variants_of

CPU = torch.device("cpu")
VARIANTS = {"s": {"repeats": 1}, "m": {"repeats": 2}, "l": {"repeats": 5}}
GMAC = {name: (216 + 144 * changed["repeats"]) / 1000 for name, changed in VARIANTS.items()}
"""Of a megapixel: head and tail have 108 products for each pixel, each use of the block has 144."""


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    known = registry.networks() | {"two_depths": "test_variants:TwoDepths"}
    monkeypatch.setattr(registry, "networks", lambda: known)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    card = {"model": ID, "network": {"name": "two_depths", "arguments": DEEP}, "variants": VARIANTS}
    save_model(tmp_path / "results" / ID, TwoDepths(**DEEP), card)
    return tmp_path / "results" / ID


@pytest.fixture
def measured(monkeypatch):
    """Depths that were measured, each at its depth in seconds (and 10^7 bytes) for a pass."""
    depths = []

    def latency_ms(network, device, side, repeats):
        depths.append(network.repeats)
        return 1000.0 * network.repeats

    def peak_memory_mb(name, arguments, device, side):
        depths.append(arguments["repeats"])
        return 10 * arguments["repeats"]

    monkeypatch.setattr(budget, "latency_ms", latency_ms)
    monkeypatch.setattr(budget, "peak_memory_mb", peak_memory_mb)
    return depths


def test_a_model_tells_the_networks_of_its_variants(folder, tmp_path):
    expected = {name: {"name": "two_depths", "arguments": DEEP | changed} for name, changed in VARIANTS.items()}
    assert variants_of(folder) == variants_of(folder / "model.safetensors") == expected
    save_model(tmp_path / "plain", TwoDepths(), {"network": {"name": "two_depths", "arguments": DEEP}})
    assert variants_of(tmp_path / "plain") == {}


@pytest.mark.parametrize(
    ("given", "chosen"),
    [("0.936GMAC", "l"), ("0.935 GMAC", "m"), (".36GMAC", "s"), ("0.0005TMAC", "s"), ("7TMAC", "l")],
)
def test_multiply_accumulates_of_a_megapixel_choose_without_a_measurement(folder, measured, given, chosen):
    wanted = Budget.parse(given)
    name, cost = choose_variant(folder, wanted, CPU)
    assert name == chosen
    assert cost * budget.UNITS[wanted.unit] == pytest.approx(1e9 * GMAC[chosen])
    assert measured == []


@pytest.mark.parametrize(
    ("given", "chosen", "seen"),
    [
        ("80s", "l", [5]),  # 1e6 / 256^2 = 15.26 passes for a megapixel: 76.3, 30.5 and 15.3 s
        ("76s", "m", [5, 2]),
        ("15.3s", "s", [5, 2, 1]),
        ("800MB", "l", [5]),
        ("0.31 GB", "m", [5, 2]),
    ],
)
def test_time_and_memory_are_measured_from_the_deepest_variant_on_until_one_fits(folder, measured, given, chosen, seen):
    name, cost = choose_variant(folder, Budget.parse(given), CPU)
    assert (name, measured) == (chosen, seen)
    assert cost <= Budget.parse(given).amount


def test_a_budget_that_nothing_fits_names_the_cheapest_variant_and_its_cost(folder, measured):
    told = r"no variant fits a budget of 15 s per megapixel. The cheapest, s, takes 15.26 s per megapixel on cpu"
    with pytest.raises(AirpipeError, match=told):
        choose_variant(folder, Budget.parse("15s"), CPU)
    assert measured == [5, 2, 1]
    with pytest.raises(AirpipeError, match="The cheapest, s, takes 0.36 GMAC per megapixel"):
        choose_variant(folder, Budget.parse("0.3GMAC"), CPU)


def test_costs_are_measured_on_this_machine(folder):
    networks = variants_of(folder)
    seconds = megapixel_cost(networks["s"], "s", CPU)
    assert 1e-5 < seconds < 100
    assert choose_variant(folder, Budget(1e4, "s"), CPU)[0] == "l"
    with pytest.raises(AirpipeError, match="no variant fits a budget of 1e-09 s per megapixel"):
        choose_variant(folder, Budget(1e-9, "s"), CPU)


@pytest.mark.parametrize("text", ["2", "s", "-2s", "2 min", "0s", "1e3s", "2s/MP", "nan s", "2gb", ""])
def test_a_budget_of_another_form_is_refused(text):
    with pytest.raises(AirpipeError, match=r"is no budget. Expected .* one of s, MB, GB, GMAC, TMAC, such as 2s"):
        Budget.parse(text)


def test_models_that_leave_nothing_to_choose_are_refused(folder, tmp_path):
    cheap = Budget(1, "TMAC")
    save_model(tmp_path / "plain", TwoDepths(), {"network": {"name": "two_depths", "arguments": DEEP}})
    with pytest.raises(AirpipeError, match="plain: has no variants that a budget could choose from"):
        choose_variant(tmp_path / "plain", cheap, CPU)
    with pytest.raises(AirpipeError, match=f"{ID}: variant 's' and a budget of 1 TMAC per megapixel.* Give one of"):
        choose_variant(folder.with_name("train@s"), cheap, CPU)
    (photo,) = toy_images(tmp_path / "in", 1)
    for given in (load_model(folder), TwoDepths()):
        with pytest.raises(AirpipeError, match=f"found a {type(given).__name__}. Give the model's path"):
            restore(photo, given, budget="1TMAC")


def test_the_command_and_the_function_restore_with_the_variant_that_fits(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (photo,) = toy_images(tmp_path / "in", 1)
    words = ["restore", str(photo), "-m", ID, "--budget"]
    for given, variant in (("0.6GMAC", "m"), ("1GMAC", "l")):
        target = tmp_path / f"{variant}.png"
        assert main([*words, given, "-o", str(target)]) == 0
        assert f"variant {variant}, {GMAC[variant]:.4g} of {given[:-4]} GMAC per megapixel" in capsys.readouterr().out
        expected = restore(photo, f"{folder}@{variant}")
        assert np.array_equal(cv2.imread(str(target))[..., ::-1], expected)
        assert np.array_equal(restore(photo, folder, budget=given), expected)
    assert main([*words, "0.1GMAC"]) == 2
    assert "no variant fits a budget of 0.1 GMAC per megapixel. The cheapest, s, takes" in capsys.readouterr().err
    assert main([*words, "2 hours"]) == 2
    assert "'2 hours' is no budget" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "1GMAC", "--variant", "s"])
    assert "argument --variant: not allowed with argument --budget" in capsys.readouterr().err
