"""Published DCPT files become models: one file for a finetuned backbone, two for a pretraining."""

from pathlib import Path

import pytest
import torch
from helpers import ROOT
from parity import load_golden

from airpipe.errors import AirpipeError
from airpipe.registry import build_network
from airpipe.weights.checkpoints import load_model
from airpipe.weights.importing import ImportOptions, describe, export_published, import_published
from airpipe.weights.published import load_published

GOLDENS = ROOT / "tests" / "goldens"
BACKBONES = ["nafnet_small", "restormer_dcpt_small", "swinir_dcpt_small", "promptir_small"]


def save(path: Path, content: dict) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("containers", [("params",), ("params_ema",), ("params", "params_ema")])
@pytest.mark.parametrize("name", BACKBONES)
def test_a_finetuned_file_is_the_backbone_of_its_golden_and_the_average_is_taken(tmp_path, name, containers):
    golden = load_golden(GOLDENS / f"{name}.npz")
    state = golden.reference_state()
    content = {container: {f"module.{key}": value for key, value in state.items()} for container in containers}
    if len(containers) == 2:  # the raw weights are others
        content["params"] = {key: value + 1 for key, value in content["params"].items()}
    file = save(tmp_path / "dcpt_5d.pth", content)
    told = {key: value for key, value in golden.config.items() if key in ("num_heads", "window_size", "img_range")}
    import_published(file, tmp_path / "results" / "imported" / "mine", ImportOptions(arguments=told))
    loaded = load_model(tmp_path / "results" / "imported" / "mine")
    assert loaded.card["imported"]["container"] == containers[-1]
    with torch.no_grad():
        found = loaded.network(golden.input(0))
    torch.testing.assert_close(found, golden.outputs["out"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["restormer", "promptir", "swinir"])
def test_the_two_files_of_a_pretraining_are_one_model_that_classifies_as_the_golden(tmp_path, name):
    golden = load_golden(GOLDENS / f"dcpt_hook_{name}_small.npz")
    state = golden.reference_state()
    files = []
    for part in ("net_g", "net_dc"):
        inner = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        files.append(save(tmp_path / f"{part}_100.pth", {"params": inner}))
    settings = golden.config["net_g"]
    told = {key: value for key, value in settings.items() if key in ("num_heads", "window_size", "img_range")}
    folder = tmp_path / "results" / "imported" / "both"
    import_published(files[0], folder, ImportOptions(arguments=told, parts={"head": files[1]}))
    loaded = load_model(folder)
    assert loaded.card["network"]["name"] == "dcpt"
    facts = loaded.card["imported"]
    assert facts["parts"]["head"]["file"] == "net_dc_100.pth" and facts["parts"]["head"]["keys"]["missing"] == []
    assert facts["parts"]["head"]["assumed"] == {"downsample": name == "swinir"}
    assert set(facts["assumed"]) == ({"num_heads", "window_size", "img_range"} if name == "swinir" else set())
    with torch.no_grad():
        logits = loaded.network(golden.input(0), classify=True)
    torch.testing.assert_close(logits, golden.outputs["logits"], rtol=1e-4, atol=1e-4)
    for part, file in zip(("net_g", "net_dc"), files, strict=True):
        export_published(folder, tmp_path / "again.pth", layout=part, overwrite=True)
        again, before = (torch.load(path, weights_only=True)["params"] for path in (tmp_path / "again.pth", file))
        assert all(torch.equal(again[key], value) for key, value in before.items() if key in again)
        assert set(again) <= set(before)


def test_nafnet_s_two_files_come_back_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    backbone = {
        "name": "nafnet",
        "arguments": {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]},
    }
    made = build_network("dcpt", backbone=backbone, num_classes=3)
    files = [
        save(tmp_path / f"{part}.pth", {"params": made.published_state(layout=part)}) for part in ("net_g", "net_dc")
    ]
    import_published(files[0], tmp_path / "imported" / "both", ImportOptions(parts={"head": files[1]}))
    read = load_model(tmp_path / "imported" / "both").network.state_dict()
    assert all(torch.equal(read[key], value) for key, value in made.state_dict().items())


def test_a_head_of_another_backbone_is_refused(tmp_path):
    golden = load_golden(GOLDENS / "dcpt_head_small.npz")
    head = build_network("dcpt_head", **golden.config)
    load_published(head, golden.reference_state())
    file = save(tmp_path / "net_dc.pth", {"params": head.published_state()})
    nafnet = build_network("nafnet", width=4, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])
    net = save(tmp_path / "net_g.pth", {"params": nafnet.published_state()})
    with pytest.raises(AirpipeError, match=r"net_dc.pth: a head for features of .* but nafnet in .* gives \[4\]"):
        import_published(net, tmp_path / "imported" / "x", ImportOptions(parts={"head": file}))
    assert not (tmp_path / "imported" / "x").exists()


def test_a_head_alone_is_imported_and_costs_what_its_layers_do(tmp_path):
    golden = load_golden(GOLDENS / "dcpt_head_small.npz")
    file = save(tmp_path / "net_dc.pth", {"params": golden.reference_state()})
    import_published(file, tmp_path / "imported" / "head", ImportOptions())
    card = load_model(tmp_path / "imported" / "head").card
    assert card["parameters"] == golden.n_params
    blocks, dims = 2, golden.config["feature_dims"]
    per_pixel = [blocks * (2 * c * c + 4 * 9 * c * c + 2 * c * c) for c in dims]
    following = [*dims[1:], dims[-1]]
    pixels = [256 * 256 // 4**level for level in range(len(dims))]
    levels = sum(p * (own + c * n) for p, own, c, n in zip(pixels, per_pixel, dims, following, strict=True))
    last = pixels[-1] // 4 * per_pixel[-1]
    assert card["macs_conv"] == levels + last


def test_both_files_are_told_with_what_no_shape_says(tmp_path):
    golden = load_golden(GOLDENS / "dcpt_hook_swinir_small.npz")
    parts = {}
    for part in ("net_g", "net_dc"):
        inner = {k.removeprefix(f"{part}."): v for k, v in golden.reference_state().items() if k.startswith(f"{part}.")}
        parts[part] = save(tmp_path / f"{part}.pth", {"params": inner})
    found = import_published(
        parts["net_g"], tmp_path / "imported" / "x", ImportOptions(parts={"head": parts["net_dc"]})
    )
    told = "\n".join(describe(found))
    for name in ("num_heads", "window_size", "img_range", "downsample"):
        assert f"no shape tells {name};" in told
    assert "net_g.pth: swinir_dcpt(" in told and "net_dc.pth: dcpt_head(" in told
