"""The published files of DegAE become models, alone or put together, and go back bit for bit."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, one_thread
from parity import Golden, fill_tensor, kind_of, load_golden
from torch import Tensor

from airpipe import build_network, load_published
from airpipe.errors import AirpipeError
from airpipe.methods.degae.decoder import FeatureModulation
from airpipe.weights.checkpoints import load_model
from airpipe.weights.importing import ImportOptions, describe, export_published, import_published, table
from airpipe.weights.published import read_published

GOLDENS = Path(__file__).parent / "goldens"
UNUSED = re.compile(r"(DDR_extractor\.)?(upconv|HRconv|conv_last)|conv_after_body")
"""Names that are exported as zeros, in the file of a part that does not use them."""
COUNTER = ".num_batches_tracked"


def golden_of(name: str) -> Golden:
    return load_golden(GOLDENS / f"degae_{name}.npz")


def contents(golden: Golden, gfm: bool = False) -> dict[str, dict[str, Tensor]]:
    """What is in each published file, by its name; `gfm`: the decoder in the form that option files name."""
    files: dict[str, dict[str, Tensor]] = {}
    for key, value in golden.reference_state().items():
        file, _, name = key.partition(".")
        files.setdefault(file, {})[name] = value
    if gfm:
        decoder = files["PretrainDecoder"]
        layer = FeatureModulation(golden.config["decoder"]["nf"], golden.config["decoder"]["degradation_embed_dim"])
        for key in [key for key in decoder if "modulation_layer" in key]:
            del decoder[key]
        for block in range(1, 5):
            for key, value in layer.state_dict().items():
                name = f"basic_block{block}.modulation_layer.{key}"
                decoder[name] = fill_tensor(name, tuple(value.shape), kind_of(name, tuple(value.shape)))
    return files


def saved(folder: Path, files: dict[str, dict[str, Tensor]]) -> dict[str, Path]:
    """Files as the published code saves them: bare state dicts, old format, from a wrapped network."""
    for name, state in files.items():
        wrapped = {f"module.{key}": value for key, value in state.items()}
        torch.save(wrapped, folder / f"300000_{name}.pth", _use_new_zipfile_serialization=False)
    return {name: folder / f"300000_{name}.pth" for name in files}


def pretraining(folder: Path, backbone: str = "swinir", gfm: bool = False) -> tuple[Path, dict[str, Path]]:
    files = saved(folder, contents(golden_of(f"{backbone}_small"), gfm))
    return files["PretrainEncoder"], {"decoder": files["PretrainDecoder"], "representor": files["DDG_Encoder"]}


def finetuning(folder: Path, backbone: str = "swinir") -> tuple[Path, dict[str, Path]]:
    files = saved(folder, contents(golden_of(f"finetune_{backbone}_small")))
    return files["Encoder"], {"decoder": files["Decoder"]}


# Sets of files


@pytest.mark.parametrize("gfm", [False, True])
@pytest.mark.parametrize("backbone", ["swinir", "restormer"])
def test_the_three_files_of_a_pretraining_are_one_model_that_comes_back_bit_for_bit(backbone, gfm, tmp_path):
    golden = golden_of(f"{backbone}_small")
    files = contents(golden, gfm)
    first, parts = pretraining(tmp_path, backbone, gfm)
    found = import_published(first, tmp_path / "made", ImportOptions(parts=parts))
    assert (found.name, found.arguments["backbone"]) == ("degae", backbone)
    assert found.arguments["decoder"]["modulation"] == ("gfm" if gfm else "stylegan2")
    loaded = load_model(tmp_path / "made")
    with torch.no_grad():
        out = loaded.network(golden.input(0), golden.input(1))
    if not gfm:
        torch.testing.assert_close(out, golden.outputs["out"], rtol=1e-4, atol=1e-4)
    again = {}
    for layout in loaded.network.PUBLISHED_LAYOUTS:
        again[layout] = tmp_path / f"again_{layout}.pth"
        export_published(tmp_path / "made", again[layout], layout=layout, bare=True)
        state = torch.load(again[layout], weights_only=True)
        computed = {key for key in state if key.endswith(("attn_mask", "relative_position_index"))}
        assert set(state) - computed == set(files[layout])
        for key, value in files[layout].items():
            unused = UNUSED.match(key) and layout != "PretrainDecoder"
            assert torch.equal(state[key], torch.zeros_like(value) if unused else value), (layout, key)
    roles = {"decoder": again["PretrainDecoder"], "representor": again["DDG_Encoder"]}
    import_published(again["PretrainEncoder"], tmp_path / "twice", ImportOptions(parts=roles))
    twice = load_model(tmp_path / "twice")
    assert twice.card["network"] == loaded.card["network"]
    own = loaded.network.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in twice.network.state_dict().items())


@pytest.mark.parametrize("backbone", ["swinir", "restormer"])
def test_the_two_files_of_a_finetuning_are_one_model_that_comes_back_bit_for_bit(backbone, tmp_path):
    golden = golden_of(f"finetune_{backbone}_small")
    files = contents(golden)
    first, parts = finetuning(tmp_path, backbone)
    found = import_published(first, tmp_path / "made", ImportOptions(parts=parts, method="degae"))
    assert found.name == "degae_finetune"
    loaded = load_model(tmp_path / "made")
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(golden.input()), golden.outputs["out"], rtol=1e-4, atol=1e-4)
    for layout in ("Encoder", "Decoder"):
        export_published(tmp_path / "made", tmp_path / f"{layout}.pth", layout=layout)
        state = torch.load(tmp_path / f"{layout}.pth", weights_only=True)["params"]
        for key, value in files[layout].items():
            unused = "HRconv" in key or (layout == "Encoder" and UNUSED.match(key))
            assert torch.equal(state[key], torch.zeros_like(value) if unused else value), (layout, key)
    roles = {"decoder": tmp_path / "Decoder.pth"}
    import_published(tmp_path / "Encoder.pth", tmp_path / "twice", ImportOptions(parts=roles))
    twice, own = load_model(tmp_path / "twice").network, loaded.network.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in twice.state_dict().items())


def test_the_report_tells_what_was_never_used(tmp_path):
    first, parts = pretraining(tmp_path)
    found = import_published(first, tmp_path / "made", ImportOptions(parts=parts))
    told = "\n".join(describe(found))
    assert "3 files make one network: degae(backbone=swinir" in told and "no shape tells" not in told
    assert "dropped knowingly: conv_after_body.weight, conv_after_body.bias, conv_last.weight, conv_last.bias" in told
    assert "dropped knowingly: DDR_extractor.upconv*.weight (2), DDR_extractor.upconv*.bias (2)" in told
    assert len(table(found)) == sum(len(state) for state in contents(golden_of("swinir_small")).values())
    card = load_model(tmp_path / "made").card
    assert set(card["imported"]["parts"]) == {"decoder", "representor"} and card["imported"]["assumed"] == {}


def test_the_command_line_imports_and_exports_a_set(tmp_path):
    first, parts = finetuning(tmp_path)
    script = [sys.executable, str(ROOT / "scripts/import_weights.py")]
    command = [*script, str(first), "--decoder", str(parts["decoder"]), "--name", "haze", "--method", "degae"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=one_thread())
    assert done.returncode == 0, done.stderr
    assert "2 files make one network: degae_finetune(" in done.stdout
    assert "airpipe restore PHOTO -m results/imported/haze" in done.stdout
    card = json.loads((tmp_path / "results/imported/haze/card.json").read_text())
    assert (card["network"]["name"], card["method"]) == ("degae_finetune", "degae")
    command = [*script, "results/imported/haze", "--export", "published", "out.pth", "--layout", "Decoder", "--bare"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=one_thread())
    assert done.stdout == "results/imported/haze: 4 entries -> out.pth\n"


# Single files


def single(name: str) -> dict[str, Tensor]:
    if name in ("patchgan", "vgg128"):
        golden = golden_of(name)
        counters = {key: torch.tensor(7) for key in golden.other_keys}
        return golden.reference_state() | counters
    state = golden_of("representor_small").reference_state()
    if name == "representor":
        return state
    return {key.removeprefix("DDR_extractor."): value for key, value in state.items() if key.startswith("DDR_")}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("representor", {"nf": 8, "nb": 4, "upscale": 4}),
        ("extractor", {"nf": 8, "nb": 4, "upscale": 4}),
        ("patchgan", {"input_nc": 3, "ndf": 64, "n_layers": 3}),
        ("vgg128", {"in_nc": 3, "nf": 64}),
    ],
)
def test_a_file_alone_is_recognised_by_its_keys_and_comes_back_whole(name, arguments, tmp_path):
    state = single(name)
    torch.save(state, tmp_path / "400000_G.pth")
    found = import_published(tmp_path / "400000_G.pth", tmp_path / "made", ImportOptions())
    assert (found.name, found.arguments, found.also) == (f"degae_{name}", arguments, ())
    export_published(tmp_path / "made", tmp_path / "out.pth", bare=True)
    again = torch.load(tmp_path / "out.pth", weights_only=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_the_extractor_of_a_file_fills_that_of_a_representor(tmp_path):
    torch.save(single("extractor"), tmp_path / "400000_G.pth")
    source = read_published(tmp_path / "400000_G.pth", arguments={"upscale": 1}).network
    whole = load_published(build_network("degae_representor", nf=8, nb=4), single("representor"))
    own = whole.extractor.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in source.state_dict().items())
    assert source.state_dict().keys() == own.keys()


def test_files_of_batch_norm_without_counters_are_whole(tmp_path):
    state = {key: value for key, value in single("patchgan").items() if not key.endswith(COUNTER)}
    torch.save(state, tmp_path / "D.pth")
    network = read_published(tmp_path / "D.pth").network
    assert network.state_dict()[f"model.3{COUNTER}"] == 0
    torch.save({key: value for key, value in state.items() if key != "model.3.running_var"}, tmp_path / "D.pth")
    with pytest.raises(AirpipeError, match=r"does not fit PatchGAN: 1 missing \(first model.3.running_var\)"):
        read_published(tmp_path / "D.pth")


# Files that do not belong together


@pytest.fixture
def sets(tmp_path) -> dict[str, tuple[Path, dict[str, Path]]]:
    made = {}
    for name, make in (("pretraining", pretraining), ("finetuning", finetuning)):
        for backbone in ("swinir", "restormer"):
            (tmp_path / name / backbone).mkdir(parents=True)
            made[f"{name} {backbone}"] = make(tmp_path / name / backbone, backbone)
    return made


def test_a_file_that_is_missing_or_something_else_is_told(sets, tmp_path):
    encoder, parts = sets["pretraining swinir"]
    _, finetuned = sets["finetuning swinir"]
    _, others = sets["pretraining restormer"]
    cases = [
        (encoder, {"representor": parts["representor"]}, "--decoder is missing: DegAE is made of its encoder's file"),
        (encoder, {"decoder": parts["decoder"]}, "--representor is missing: .*PretrainDecoder.pth is the decoder of a"),
        (encoder, {**parts, **finetuned}, "Decoder.pth: is the head of a finetuned DegAE, which has no representor"),
        (parts["decoder"], parts, "PretrainDecoder.pth: is degae_decoder; --decoder and --representor go with a file"),
        (encoder, {**parts, "decoder": encoder}, "PretrainEncoder.pth: is swinir, no decoder of DegAE"),
        (encoder, {**parts, "representor": encoder}, "is no degae_representor: its .* are those of swinir"),
        (encoder, {**parts, "decoder": others["decoder"]}, "not of one training: .*'in_c': 20, .* give {'in_c': 24"),
        (encoder, sets["finetuning restormer"][1], "not of one training: .*the head has in_c 20, but"),
        (encoder, {"decoder": tmp_path / "no.pth"}, "no.pth: cannot be read"),
        (encoder, {**parts, "sad": encoder}, "--decoder and --representor and --sad are no files of one network"),
    ]
    for first, roles, message in cases:
        with pytest.raises(AirpipeError, match=message):
            import_published(first, tmp_path / "made", ImportOptions(parts=roles))
    with pytest.raises(AirpipeError, match="--partial: .* DegAE is made of whole files"):
        import_published(encoder, tmp_path / "made", ImportOptions(parts=parts, partial=True))
    assert not (tmp_path / "made").exists()
