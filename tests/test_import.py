"""Published files become models of ours and go back bit for bit; what is wrong with a file is told, and never run."""

import json
import pickle
import re
import runpy
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, one_thread
from parity import fill_tensor, kind_of, load_golden, make_input
from safetensors.torch import save_file

from airpipe import build_network, load_published
from airpipe.cli import main as cli
from airpipe.errors import AirpipeError
from airpipe.images import Picture, read_picture, write_picture
from airpipe.registry import networks, resolve
from airpipe.reporting import published
from airpipe.reporting.builders import efficiency
from airpipe.weights import importing
from airpipe.weights.checkpoints import load_model
from airpipe.weights.foreign import read_weights
from airpipe.weights.importing import (
    ImportOptions,
    describe,
    export_published,
    import_name,
    import_published,
    network_arguments,
    table,
)
from airpipe.weights.published import candidates, read_published

GOLDENS = Path(__file__).parent / "goldens"
FAMILIES = ("nafnet_", "restormer_", "swinir_", "promptir_")
PUBLISHED = sorted(path.stem for path in GOLDENS.glob("*.npz") if path.stem.startswith(FAMILIES))
NAFNET = {"img_channel": 3, "width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 2], "dec_blk_nums": [2, 1]}
SCRIPT = ROOT / "scripts" / "import_weights.py"
EXTENSIONS = {"zip": ".pth", "legacy": ".bin", "safetensors": ".safetensors"}


def golden_state(name: str = "nafnet_small", buffers: bool = True) -> dict[str, torch.Tensor]:
    """The published state of a golden; buffers hold nonsense, because they must not be used."""
    golden = load_golden(GOLDENS / f"{name}.npz")
    extra = {key: torch.full((2, 2), torch.nan) for key in golden.other_keys} if buffers else {}
    return golden.reference_state() | extra


def network_of(name: str) -> str:
    """Registered network of a golden: swinir_dcpt_small is a swinir_dcpt, nafnet_tlc_small reads as a nafnet."""
    family = name.split("_")[0]
    return f"{family}_dcpt" if "_dcpt_" in name else family


def write(folder: Path, content, kind: str = "zip", name: str = "file") -> Path:
    path = folder / f"{name}{EXTENSIONS[kind]}"
    if kind == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def test_a_safetensors_file_whose_header_length_looks_like_a_pickle_is_read(tmp_path):
    file = tmp_path / "m.safetensors"
    for padding in range(0, 400, 2):  # the length of the header is a multiple of 8: one in 32 ends in this byte
        save_file({"a": torch.arange(3.0)}, file, {"note": "x" * padding})
        if file.read_bytes()[0] == 0x80:
            break
    assert file.read_bytes()[0] == 0x80  # as a pickle's first one
    assert read_weights(file).tensors["a"].tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def state():
    return golden_state()


@pytest.fixture
def file(tmp_path, state):
    return write(tmp_path, {"params": state})


# There and back


@pytest.mark.parametrize("name", PUBLISHED)
def test_import_export_import_is_the_same_bits(name, tmp_path):
    original, expected = golden_state(name), golden_state(name, buffers=False)
    golden = load_golden(GOLDENS / f"{name}.npz")
    file = write(tmp_path, {"params": original})
    del original
    found = import_published(file, tmp_path / "model", ImportOptions())
    assert found.name == network_of(name)
    assert set(found.report.dropped) == set(golden.other_keys)
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["parameters"] == golden.n_params
    assert card["imported"]["keys"]["matched"] == len(golden.keys)
    file.unlink()

    out = tmp_path / "out.pth"
    stored = set() if name.startswith("promptir") else set(golden.other_keys)  # PromptIR's are unused parameters
    assert export_published(tmp_path / "model", out) == len(golden.keys) + len(stored)
    exported = torch.load(out, weights_only=True)
    assert list(exported) == ["params"]
    assert set(exported["params"]) == set(expected) | stored
    assert all(torch.equal(exported["params"][key], value) for key, value in expected.items())
    del exported, expected

    again = read_published(out)
    assert (again.name, again.arguments) == (found.name, found.arguments)
    first = found.network.state_dict()
    assert all(torch.equal(value, first[key]) for key, value in again.network.state_dict().items())


def test_both_published_layouts_of_nafnet_are_written_and_read(file, tmp_path):
    import_published(file, tmp_path / "model", ImportOptions())
    export_published(tmp_path / "model", tmp_path / "megvii.pth", layout="megvii")
    names = torch.load(tmp_path / "megvii.pth", weights_only=True)["params"]
    assert "decoders.0.1.beta" in names
    assert not any(name.startswith("decoder0") for name in names)
    import_published(tmp_path / "megvii.pth", tmp_path / "again", ImportOptions())
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("model", "again")]
    assert weights[0] == weights[1]
    with pytest.raises(AirpipeError, match="no layout 'other': nafnet has megvii, milab"):
        export_published(tmp_path / "model", tmp_path / "x.pth", layout="other")
    with pytest.raises(AirpipeError, match=r"megvii.pth: exists already. Add --overwrite"):
        export_published(tmp_path / "model", tmp_path / "megvii.pth")


def test_a_bare_export_has_no_container_and_no_buffers_when_not_wanted(tmp_path):
    file = write(tmp_path, {"params": golden_state("swinir_small")})
    import_published(file, tmp_path / "model", ImportOptions())
    out, golden = tmp_path / "bare.pth", load_golden(GOLDENS / "swinir_small.npz")
    assert export_published(tmp_path / "model", out, buffers=False, bare=True) == len(golden.keys)
    assert set(torch.load(out, weights_only=True)) == set(golden.keys)
    again, first = read_published(out), load_model(tmp_path / "model").network.state_dict()
    assert all(torch.equal(value, first[key]) for key, value in again.network.state_dict().items())


# Containers, formats, prefixes


@pytest.mark.parametrize("kind", EXTENSIONS)
@pytest.mark.parametrize("prefix", ["", "module.", "net.", "net_g.module.", "_orig_mod.model."])
def test_every_format_and_prefix_gives_the_same_network(kind, prefix, tmp_path, state):
    named = {prefix + key: value for key, value in state.items()}
    found = read_published(write(tmp_path, named, kind))
    assert (found.name, found.arguments, found.weights.prefix) == ("nafnet", NAFNET, prefix)
    assert all(torch.equal(found.network.state_dict()[own], state[key]) for key, own in found.report.matched.items())
    assert len(found.report.matched) == len(state) == 136


CONTAINED = [
    ({"params": 1, "params_ema": 2}, None, "params_ema", ("params",)),
    ({"params": 1, "params_ema": 2}, "params", "params", ()),
    ({"state_dict": 1, "epoch": 4, "optimizer_states": []}, None, "state_dict", ()),
    ({"model": {"state_dict": {"params": 1}}}, None, "model.state_dict.params", ()),
    ({"generator": 1, "optimizer": {"state": {0: {"exp_avg": 2}}, "param_groups": []}}, None, "generator", ()),
    ({"generator": 1, "discriminator": 2}, "generator", "generator", ()),
]


@pytest.mark.parametrize(("shape", "key", "container", "others"), CONTAINED)
def test_the_container_that_was_taken_is_told(shape, key, container, others, tmp_path, state):
    def with_tensors(value):
        if isinstance(value, dict):
            return {name: with_tensors(inner) for name, inner in value.items()}
        return {name: tensor * value for name, tensor in state.items()} if value in (1, 2) else value

    weights = read_weights(write(tmp_path, with_tensors(shape)), key)
    assert (weights.container, weights.others) == (container, others)
    times = 2 if container == "params_ema" else 1
    assert torch.equal(weights.tensors["intro.weight"], state["intro.weight"] * times)


def test_what_holds_several_networks_asks_for_a_choice(tmp_path, state):
    one = {"a.weight": torch.ones(2)}
    with pytest.raises(AirpipeError, match="generator, other. Choose with --key generator or --key other"):
        read_weights(write(tmp_path, {"generator": one, "other": one}))
    mixed = write(tmp_path, {"params": state, "intro.weight": torch.ones(2)})
    with pytest.raises(AirpipeError, match=r"1 tensors beside them \(first: intro.weight\).*--key params or --key \."):
        read_weights(mixed)
    assert list(read_weights(mixed, ".").tensors) == ["intro.weight"]
    with pytest.raises(AirpipeError, match="nothing under 'ema'. It has: params, intro"):
        read_weights(mixed, "ema")
    flat = {f"net_g.{k}": v for k, v in state.items()} | {f"net_dc.{k}": v for k, v in one.items()}
    whole = write(tmp_path, {"state_dict": flat})
    with pytest.raises(
        AirpipeError, match=r"net_g \(136 entries\), net_dc \(1 entries\). Choose with --key state_dict.net_g$"
    ):
        read_published(whole)
    assert read_published(whole, key="state_dict.net_g").arguments == NAFNET


# Files that are no weights


class Trace:
    """Unpickling it makes a file: the proof that code ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain", "protocol 0"])
def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(kind, tmp_path, state):
    trace = tmp_path / "trace"
    content = {"params": {"intro.weight": state["intro.weight"]}, "more": Trace(trace), "pad": "x" * 100}
    file = tmp_path / "bad.pth"
    if kind in ("zip", "legacy"):
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    else:
        file.write_bytes(pickle.dumps({"more": Trace(trace), "pad": "x" * 100}, 0 if kind == "protocol 0" else 2))
    with pytest.raises(AirpipeError, match="bad.pth: (cannot be loaded safely|is text)"):
        load_model(file)
    assert not trace.exists()
    if kind in ("zip", "legacy"):
        torch.load(file, weights_only=False)
    else:
        pickle.loads(file.read_bytes())  # noqa: S301 - our own file
    assert trace.exists()  # otherwise the file would prove nothing


def test_a_file_that_needs_a_class_says_which(tmp_path, state):
    file = write(tmp_path, {"params": state, "args": Fraction(1, 3)})
    with pytest.raises(AirpipeError, match=r"it needs code \('fractions.Fraction'\)"):
        read_weights(file)


BROKEN = [
    (b"", "is empty"),
    (b"\x80\x02}", "has only 3 bytes"),
    (b"<!DOCTYPE html><html><body>Quota exceeded</body></html>" + b" " * 50, "is a web page, not weights"),
    (b"\n<HTML>" + b"x" * 100, "is a web page, not weights"),
    ("Liebe Grüße, hier die Gewichte. ".encode() * 5, "is text"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", "git lfs pull"),
    (bytes(range(200, 256)) * 3, "is no weights file .it begins with c8 c9"),
    (b"PK\x03\x04" + b"\x00" * 300, "cut off or damaged: the end of the file is missing"),
    (b"\x80\x02" + b"\x8a" * 300, "cut off or damaged"),
    ((10**6).to_bytes(8, "little") + b'{"a":' + b" " * 100, "header alone has 1,000,008 bytes, the file 113"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_file_that_is_no_model_is_told_for_what_it_is(content, message, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AirpipeError, match=f"{name}: .*{message}"):
        read_published(tmp_path / name)


def test_archives_and_objects_that_are_no_state_are_told(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    torch.save({"a": torch.ones(3)}, tmp_path / "stored.pth")
    with zipfile.ZipFile(tmp_path / "stored.pth") as old, zipfile.ZipFile(tmp_path / "c.pth", "w", 8) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    torch.save([torch.ones(3)], tmp_path / "list.pth")
    torch.save({"a": torch.ones(1).expand(10**10)}, tmp_path / "huge.pth")
    expected = {
        "a.npz": "zip archive without torch weights .first entry: a.npy",
        "script.pt": "TorchScript program, which is code",
        "c.pth": "entries are compressed",
        "list.pth": "holds a list. Expected a state dict",
        "huge.pth": "a is no plain array of numbers",
        "nothing.pth": "No such file",
    }
    for name, message in expected.items():
        with pytest.raises(AirpipeError, match=message):
            read_weights(tmp_path / name)


OPTIMISER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "content", [OPTIMISER, {"optimizer": OPTIMISER, "epoch": 1}, {"iter": 9, "optimizers": [OPTIMISER]}]
)
def test_a_training_state_without_weights_is_told(content, tmp_path):
    with pytest.raises(AirpipeError, match="state of a training run .* without weights. Give the model file"):
        read_published(write(tmp_path, content))


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_a_file_cut_off_anywhere_is_one_clear_error(kind, tmp_path):
    file = write(tmp_path, {"a.weight": torch.rand(5, 4), "b": torch.rand(7)}, kind)
    data = file.read_bytes()
    for length in range(0, len(data), 13):
        file.write_bytes(data[:length])
        with pytest.raises(AirpipeError, match=file.name):
            read_weights(file)


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_a_file_with_changed_bytes_is_read_or_refused_never_a_traceback(kind, tmp_path):
    file = write(tmp_path, {"a.weight": torch.rand(5, 4), "b": torch.rand(7)}, kind)
    data, random = file.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        changed = bytearray(data)
        for place in random.integers(0, len(data), 3):
            changed[place] = random.integers(256)
        file.write_bytes(changed)
        try:
            assert set(read_weights(file).tensors)
        except AirpipeError:
            refused += 1
    assert 5 < refused < 100


# Which network, and what fits


def test_another_architecture_than_asked_for_is_refused_and_named(file):
    with pytest.raises(AirpipeError, match="is no swinir: its names and shapes are those of nafnet or nafnet_tlc"):
        read_published(file, name="swinir")
    with pytest.raises(AirpipeError, match="no network 'nafnt'|did you mean 'nafnet'"):
        read_published(file, name="nafnt")
    assert type(read_published(file, name="nafnet_tlc").network).__name__ == "NAFNetTLC"


def test_unknown_names_are_told_with_the_first_of_them(tmp_path):
    file = write(tmp_path, {"backbone.stem.weight": torch.ones(2), "head.bias": torch.ones(1)})
    with pytest.raises(AirpipeError, match=r"its 2 entries \(first: backbone.stem.weight, head.bias\). Known: nafnet"):
        read_published(file)


def test_the_pretraining_encoder_of_degae_is_read_as_an_encoder(tmp_path):
    golden = load_golden(GOLDENS / "restormer_small.npz")
    shapes = {key: (64, *shape[1:]) if key == "output.weight" else shape for key, shape in golden.keys.items()}
    state = {key: fill_tensor(key, shape, kind_of(key, shape)) for key, shape in shapes.items()}
    found = read_published(write(tmp_path, {f"module.{key}": value for key, value in state.items()}, "legacy"))
    assert (found.name, found.arguments["out_channels"]) == ("restormer", 64)
    assert found.arguments["global_residual"] is False
    with torch.no_grad():
        assert found.network(make_input((1, 3, 9, 11))).shape == (1, 64, 9, 11)
    assert any("64 output channels: an encoder, which makes features" in line for line in describe(found))


def test_missing_and_extra_entries_are_refused_unless_partial(tmp_path, state):
    changed = {key: value for key, value in state.items() if key != "ending.bias"} | {"extra.weight": torch.ones(2)}
    file = write(tmp_path, changed)
    with pytest.raises(AirpipeError, match=r"1 missing \(first ending.bias\); 1 unexpected \(first extra.weight\)"):
        import_published(file, tmp_path / "model", ImportOptions())
    assert not (tmp_path / "model").exists()
    found = import_published(file, tmp_path / "model", ImportOptions(partial=True))
    said = "\n".join(describe(found))
    assert "135 entries matched" in said
    assert "1 missing, left at their initial values: ending.bias" in said
    assert "1 unexpected, not used: extra.weight" in said
    keys = json.loads((tmp_path / "model" / "card.json").read_text())["imported"]["keys"]
    assert keys == {"matched": 135, "dropped": [], "missing": ["ending.bias"], "unexpected": ["extra.weight"]}
    again = import_published(file, tmp_path / "again", ImportOptions(partial=True))
    assert torch.equal(again.network.ending.bias, found.network.ending.bias)


def test_conflicting_shapes_are_refused_with_both_shapes(tmp_path, state):
    file = write(tmp_path, state | {"middle_blks.0.conv4.weight": torch.ones(64, 31, 1, 1)})
    with pytest.raises(AirpipeError, match="1 wrong shape .first middle_blks.0.conv4.weight is 64x31x1x1 in the file"):
        read_published(file, partial=True)
    with pytest.raises(AirpipeError, match="intro.weight is 8x3x3x3 in the file, 16x3x3x3 in the network"):
        read_published(write(tmp_path, state), arguments={"width": 16})
    with pytest.raises(AirpipeError, match="unexpected keyword argument 'depth'"):
        read_published(write(tmp_path, state), arguments={"depth": 16})


def test_two_layouts_in_one_file_are_refused(tmp_path, state):
    file = write(tmp_path, state | {"decoders.0.0.beta": torch.ones(1, 16, 1, 1)})
    with pytest.raises(AirpipeError, match="decoder0.0.beta and decoders.0.0.beta are both"):
        read_published(file)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_with_a_note(dtype, tmp_path, state):
    found = read_published(write(tmp_path, {key: value.to(dtype) for key, value in state.items()}))
    kind = str(dtype).removeprefix("torch.")
    assert f"note: 136 tensors converted from {kind} to float32" in describe(found)
    assert found.dtypes == {kind: 136}
    weight = found.network.state_dict()["intro.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["intro.weight"].to(dtype).float())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite_are_refused_and_the_first_is_named(bad, tmp_path, state):
    spoilt = {key: value.clone() for key, value in state.items()}
    spoilt["encoders.1.0.beta"][0, 3] = bad
    spoilt["encoders.1.1.beta"][:] = bad
    with pytest.raises(AirpipeError, match="encoders.1.0.beta has 1 numbers that are NaN, infinite or too large"):
        read_published(write(tmp_path, spoilt))
    large = torch.full((8,), 1e300, dtype=torch.float64)
    spoilt = {key: value.double() for key, value in state.items()} | {"intro.bias": large}
    with pytest.raises(AirpipeError, match="intro.bias has 8 numbers that are NaN, infinite or too large"):
        read_published(write(tmp_path, spoilt))
    whole = {key: value.to(torch.int32) for key, value in state.items()}
    with pytest.raises(AirpipeError, match="intro.weight is of type int32"):
        read_published(write(tmp_path, whole))


NUMBERED_WITH_GAPS = [
    ("swinir_small", "layers.99999999999999999999.residual_group.blocks.0.norm1.bias"),
    ("swinir_small", "layers.0.residual_group.blocks.7.norm1.bias"),
    ("nafnet_small", "downs.999999.weight"),
    ("nafnet_small", "encoders.0.7.beta"),
]


@pytest.mark.parametrize(("name", "key"), NUMBERED_WITH_GAPS)
def test_numbers_with_gaps_are_no_known_network(name, key, tmp_path):
    file = write(tmp_path, golden_state(name, buffers=False) | {key: torch.ones(2)})
    with pytest.raises(AirpipeError, match="no known network has its"):
        read_published(file)


def test_sizes_that_no_memory_holds_are_one_error(tmp_path, state):
    file = write(tmp_path, state)
    with pytest.raises(AirpipeError, match="intro.weight is 8x3x3x3 in the file, 4000000x3x3x3 in the network"):
        read_published(file, arguments={"width": 4_000_000})
    with pytest.raises(AirpipeError, match="network nafnet: "):
        read_published(file, arguments={"width": 2**62})
    with pytest.raises(AirpipeError, match="network nafnet: .*memory"):
        build_network("nafnet", img_channel=2**50)  # more than any address space


WRONG_ARGUMENTS = [
    ("global_residual", "yes", "should be a valid boolean. Expected bool"),
    ("global_residual", 1, "should be a valid boolean"),
    ("window_size", 8.5, "should be a valid integer"),
    ("window_size", True, "should be a valid integer"),
    ("img_range", torch.inf, "should be a finite number"),
    ("depths", 6, "Expected .*Sequence"),
    ("output", "picture", "'image' or 'features'"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG_ARGUMENTS)
def test_an_argument_of_wrong_type_is_one_error(name, value, message, tmp_path):
    file = write(tmp_path, golden_state("swinir_small"))
    with pytest.raises(AirpipeError, match=f"network swinir: argument {name} is .*{message}"):
        read_published(file, arguments={name: value})


@pytest.mark.parametrize(
    "text", ["x", "=3", "x=[1", "x={", "x=2024-99-99", "x=.nan", "x=[1, -.inf]", "x=" + "[" * 5000]
)
def test_an_argument_that_cannot_be_read_is_one_error(text):
    with pytest.raises(AirpipeError, match="--argument .*(expected NAME=VALUE|is no YAML|expected finite numbers)"):
        network_arguments([text])
    assert network_arguments(["a=[1, 2]", "b=false", "c=1.5"]) == {"a": [1, 2], "b": False, "c": 1.5}


def test_reading_leaves_the_random_numbers_of_the_caller_alone(file):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    read_published(file)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "assumed"),
    [
        ("swinir_small", {"global_residual": True, "rgb_mean": True, "img_range": 1.0, "output": "image"}),
        ("swinir_dcpt_small", {"num_heads": [6] * 6, "window_size": 8, "img_range": 1.0}),
        ("nafnet_small", {}),
    ],
)
def test_what_no_shape_tells_is_logged_and_in_the_card(name, assumed, tmp_path, caplog):
    card = load_model(write(tmp_path, golden_state(name))).card
    assert card["assumed"] == assumed
    assert len(caplog.records) == bool(assumed)
    assert all(f"{argument}={value}" in caplog.text for argument, value in assumed.items())


def test_a_printed_cost_without_parameters_matches_no_network(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({"model": "imported/m", "parameters": 100, "input": "1x3x8x8"}))
    cards = {"imported/m": {"network": {"name": "nafnet"}, "wall_s": None}}
    costs = tmp_path / "efficiency.csv"
    for parameters, source in (("", None), ("100", "a paper")):
        row = dict.fromkeys(published.COSTS.columns, "")
        row |= {
            "network": "nafnet",
            "parameters": parameters,
            "input": "1x3x8x8",
            "paper": "a paper",
            "flags": "primary",
        }
        costs.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
        printed = published.records(published.read_published([costs], published.COSTS))
        found = efficiency.efficiency_table([tmp_path / "model.json"], cards, printed).frame.iloc[0]["source"]
        assert (found == source) if source else pd.isna(found)


def test_load_published_takes_states_with_buffers_and_refuses_nonsense():
    golden = load_golden(GOLDENS / "swinir_small.npz")
    network = build_network("swinir", **golden.config)
    assert load_published(network, golden_state("swinir_small")) is network
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    with pytest.raises(AirpipeError, match="the published state does not fit SwinIR: .* missing"):
        load_published(network, golden_state("nafnet_small"))


def test_load_published_looks_into_containers_or_says_which_key(state):
    half = {name: value / 2 for name, value in state.items()}
    behind = {f"module.net.{name}": value for name, value in state.items()}
    contents = [
        state,
        {"params": state},
        {"state_dict": behind, "epoch": 3},
        behind,
        {"params": half, "params_ema": state},
    ]
    for content in contents:
        network = load_published(build_network("nafnet", **NAFNET), content)
        assert torch.equal(network.intro.weight, state["intro.weight"])
    two = {"model": {"first": half, "second": state}}
    with pytest.raises(AirpipeError, match="holds several sets of weights: first, second. Choose with key=") as caught:
        load_published(build_network("nafnet", **NAFNET), two)
    keys = re.findall("key='([^']+)'", str(caught.value))
    assert keys == ["model.first", "model.second"]
    network = load_published(build_network("nafnet", **NAFNET), two, key=keys[1])
    assert torch.equal(network.intro.weight, state["intro.weight"])
    wrong = [
        ([state], "holds a list. Expected a state dict"),
        (3, "holds a int"),
        ({}, "holds no tensors"),
        (None, "NoneType"),
    ]
    wrong += [
        ({"a": 3}, r"holds no tensors \(it has a\)"),
        ({"intro.weight": torch.ones(2)}, "does not fit NAFNet: .* missing"),
    ]
    wrong += [(state | {"intro.bias": torch.ones(8).to_sparse()}, "intro.bias is no plain array of numbers")]
    wrong += [(state | {"intro.bias": torch.ones(8, device="meta")}, "intro.bias is no plain array of numbers")]
    for content, message in wrong:
        with pytest.raises(AirpipeError, match=message):
            load_published(build_network("nafnet", **NAFNET), content)
    with pytest.raises(AirpipeError, match="given a int as key"):
        load_published(build_network("nafnet", **NAFNET), state, key=3)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "small" in name])
def test_no_network_stumbles_over_states_of_others_or_with_a_name_missing(name):
    golden = load_golden(GOLDENS / f"{name}.npz")
    assert next(iter(candidates(golden.keys))) == network_of(name)
    readers = [resolve(target).arguments_from for target in networks().values()]
    for left_out in golden.keys:
        less = {key: shape for key, shape in golden.keys.items() if key != left_out}
        assert all(isinstance(reader(less), dict | None) for reader in readers)
        flat = candidates(golden.keys | {left_out: (1,)})
        assert set(flat) <= {"nafnet", "nafnet_tlc", network_of(name)}


# Folders, the command line


def test_an_imported_model_is_listed_found_and_restores(tmp_path, monkeypatch, capsys, state):
    monkeypatch.chdir(tmp_path)
    import_published(write(tmp_path, {"params": state}), Path("results/imported/mine"), ImportOptions(method="dcpt"))
    assert cli.main(["models"]) == 0
    assert "imported/mine  nafnet   24,539      published" in capsys.readouterr().out
    photo = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    write_picture(tmp_path / "a.png", Picture(photo))
    words = ["restore", "a.png", "-o", "b.png", "--device", "cpu"]
    assert cli.main([*words, "-m", "imported/mine"]) == 0
    network = load_published(build_network("nafnet", **NAFNET), state).eval()
    image = torch.from_numpy(photo.transpose(2, 0, 1) / np.float32(255))[None]
    with torch.no_grad():
        expected = (network(image).clamp(0, 1) * 255).round()[0].numpy().transpose(1, 2, 0)
    found = read_picture(tmp_path / "b.png").pixels
    assert np.abs(found - expected).max() <= 1  # the tiled way pads otherwise
    assert (found == expected).mean() > 0.5
    with pytest.raises(AirpipeError, match="Models here: imported/mine"):
        cli.find_model("imported/other")


def test_a_folder_is_replaced_only_when_asked_and_only_as_a_whole(file, tmp_path, monkeypatch):
    folder = tmp_path / "imported" / "mine"
    import_published(file, folder, ImportOptions())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(AirpipeError, match="mine: exists already. Add --overwrite"):
        import_published(file, folder, ImportOptions())

    def full_disk(target, network, card):
        target.mkdir()
        (target / "card.json").write_text("{")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(importing, "save_model", full_disk)
        with pytest.raises(AirpipeError, match="mine: cannot be written .No space left on device."):
            import_published(file, folder, ImportOptions(), overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]
    rename = Path.rename

    def fails_for_the_new(path, target):
        if path.name == "new":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails_for_the_new)
        with pytest.raises(AirpipeError, match="mine: cannot be written .Input/output error."):
            import_published(file, folder, ImportOptions(), overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]
    import_published(file, folder, ImportOptions(network="nafnet_tlc", setting="nafnet_5d"), overwrite=True)
    card = json.loads((folder / "card.json").read_text())
    assert (card["network"]["name"], card["setting"], card["model"]) == ("nafnet_tlc", "nafnet_5d", "imported/mine")
    assert list(folder.parent.iterdir()) == [folder]
    (tmp_path / "photos").mkdir()
    with pytest.raises(AirpipeError, match="photos: exists and is no model folder, so it is not replaced"):
        import_published(file, tmp_path / "photos", ImportOptions(), overwrite=True)


def test_names_are_made_from_files_and_checked():
    assert import_name(Path("dir/DCPT-NAFNet.5d.pth"), None) == "dcpt_nafnet_5d"
    assert import_name(Path("x.pth"), "mine_2") == "mine_2"
    for name in ("Mine", "../up", "a/b"):
        with pytest.raises(AirpipeError, match="use a-z, 0-9 and _ only"):
            import_name(Path("x.pth"), name)


def test_the_report_has_a_line_for_every_entry(tmp_path):
    state = golden_state("swinir_small") | {"strange": torch.ones(3)}
    found = read_published(write(tmp_path, {"params": state, "epoch": 3}), partial=True)
    lines = table(found)
    assert len(lines) == len(state)
    assert [line.split()[0] for line in lines if line.split()[1] == "?"] == ["strange"]
    assert sum(line.split()[1] == "dropped" for line in lines) == 6
    said = "\n".join(describe(found))
    assert "6 dropped knowingly: layers.*.residual_group.blocks.*.attn.relative_position_index (4)" in said
    assert "note: no shape tells global_residual; True is used (--argument global_residual=...)" in said
    assert "note: no shape tells output; image is used" in said


def test_the_command_imports_exports_and_restores_as_its_last_line_says(tmp_path, monkeypatch, capsys, state):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"params": state}, name="official")
    assert cli.main(["import", "official.pth"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "-> results/imported/official (airpipe restore PHOTO -m results/imported/official)"
    write_picture(tmp_path / "photo.png", Picture(np.full((9, 9, 3), 90, np.uint8)))
    assert cli.main(last[last.index("restore") : -1].replace("PHOTO", "photo.png").split()) == 0
    assert read_picture(tmp_path / "photo_restored.png").pixels.shape == (9, 9, 3)
    capsys.readouterr()
    for model, words in (("imported/official", ["--layout", "milab", "--bare"]), ("results/imported/official", [])):
        assert cli.main(["export", model, "out.pth", "--overwrite", *words]) == 0
        assert capsys.readouterr().out == "results/imported/official: 136 entries -> out.pth\n"
    assert set(torch.load("out.pth", weights_only=True)) == {"params"}
    assert cli.main(["export", "imported/official", "copy", "--to", "model"]) == 0
    assert load_model(Path("copy")).card["network"] == load_model(Path("results/imported/official")).card["network"]
    capsys.readouterr()
    assert cli.main(["import", "official.pth"]) == cli.main(["export", "imported/other", "x.pth"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith("airpipe: error: ") for line in said] == [True, True]
    assert "Add --overwrite" in said[0] and "Models here: imported/official" in said[1]


def script(monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["import_weights.py", *map(str, words)])
    runpy.run_path(str(SCRIPT))["main"]()


def test_the_script_imports_reports_and_exports(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script(monkeypatch, file, "--report")
    assert len(capsys.readouterr().out.splitlines()) == 136 + 4
    assert not Path("results").exists()
    script(monkeypatch, file, "--as", "nafnet_tlc", "--name", "mine", "--argument", "train_size=[1, 3, 64, 64]")
    assert "-> results/imported/mine" in capsys.readouterr().out
    assert load_model(Path("results/imported/mine")).card["network"]["arguments"]["train_size"] == [1, 3, 64, 64]
    odd = tmp_path / "---.pth"
    odd.write_bytes(file.read_bytes())
    script(monkeypatch, odd, "--output", "results/imported/other")
    script(monkeypatch, odd, "--report")
    capsys.readouterr()
    with pytest.raises(AirpipeError, match="cannot name a model"):
        script(monkeypatch, odd)
    script(monkeypatch, "results/imported/mine", "--export", "published", "bare.pth", "--bare")
    assert len(torch.load("bare.pth", weights_only=True)) == 136
    capsys.readouterr()
    script(monkeypatch, "results/imported/mine", "--export", "published", "out.pth")
    assert capsys.readouterr().out == "results/imported/mine: 136 entries -> out.pth\n"
    for words in (["--argument", "x"], ["--export", "onnx", "out.onnx"]):
        with pytest.raises(AirpipeError, match="expected (NAME=VALUE|--export published)"):
            script(monkeypatch, file, *words)


def test_the_script_fails_with_status_2_and_one_line(file):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(file), "--as", "promptir"],
        capture_output=True,
        text=True,
        timeout=120,
        env=one_thread() | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"airpipe: error: {file}: is no promptir: its names and shapes are those of nafnet")
    assert len(done.stderr.splitlines()) == 1
