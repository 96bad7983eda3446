"""Every published form of a restorer without upscaling is imported as its authors run it, without further arguments."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import fill_parameters, load_golden
from torch import nn

from airpipe import build_network
from airpipe.errors import AirpipeError
from airpipe.evaluation.grid import lay_tiles
from airpipe.evaluation.restore import restore_file
from airpipe.images import Picture, read_picture, write_picture
from airpipe.models.contract import image_channels
from airpipe.weights.checkpoints import LoadedModel, load_model, save_model
from airpipe.weights.importing import ImportOptions, describe, export_published, import_published
from airpipe.weights.published import read_published
from airpipe.weights.unsaid import unsaid

GOLDENS = Path(__file__).parent / "goldens"
RESTORMER = {
    "dim": 8,  # published: 48
    "num_blocks": [4, 6, 6, 8],
    "num_refinement_blocks": 4,
    "heads": [1, 2, 4, 8],
    "ffn_expansion_factor": 2.66,
    "bias": False,
}
SWINIR = {"embed_dim": 12, "depths": [6] * 6, "num_heads": [6] * 6, "mlp_ratio": 2.0}  # published: 180
LOCAL = {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1, 1, 1, 28], "dec_blk_nums": [1, 1, 1, 1]}
SIDD = {"width": 4, "middle_blk_num": 12, "enc_blk_nums": [2, 2, 4, 8], "dec_blk_nums": [2, 2, 2, 2]}  # 32, 64
AT_256 = {"train_size": [1, 3, 256, 256], "pad": "zero"}
BASE = {"dw_expand": 1, "ffn_expand": 2}
DENOISE = {"window_size": 8, "img_range": 1.0, "rgb_mean": True}
JPEG = {"window_size": 7, "img_range": 255.0, "rgb_mean": True}
MEGVII = "of megvii-research/NAFNet, which pools"
GOPRO = f"{MEGVII} locally, as for GoPro and REDS: pad=zero, train_size=[1, 3, 256, 256] (--argument pad="
GLOBAL = f"{MEGVII} globally, as for SIDD: pad=zero (--argument pad=... for another)"
AT_255 = "note: SwinIR for JPEG artefacts (window 7): img_range=255.0 (--argument img_range=... for another)"
GREY = "note: restores grey pictures: images have 1 channel"


@dataclass(frozen=True)
class Published:
    """A published form: its option values (fewer channels inside), how it is saved, and what an import must say."""

    files: str
    count: int
    network: str
    options: dict[str, Any]
    note: str = ""
    refused: str = ""
    layout: str = ""
    container: tuple[str, ...] = ("params",)
    prefix: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


FORMS = [
    Published(
        "Restormer: rain, motion, defocus of one view", 3, "restormer", {**RESTORMER, "LayerNorm_type": "WithBias"}
    ),
    Published(
        "Restormer: defocus of dual pixels",
        1,
        "restormer",
        {**RESTORMER, "LayerNorm_type": "WithBias", "inp_channels": 6, "dual_pixel_task": True},
        note="note: restores no image: it takes the two views of a dual-pixel sensor, 6 channels in all",
        refused="this model restores no image: it takes the two views of a dual-pixel sensor",
    ),
    Published(
        "Restormer: colour noise (15, 25, 50, blind), real noise",
        5,
        "restormer",
        {**RESTORMER, "LayerNorm_type": "BiasFree"},
    ),
    Published(
        "Restormer: grey noise (15, 25, 50, blind)",
        4,
        "restormer",
        {**RESTORMER, "LayerNorm_type": "BiasFree", "inp_channels": 1, "out_channels": 1},
        note=GREY,
    ),
    Published("NAFNet: GoPro (32, 64), REDS (64)", 3, "nafnet_tlc", {**LOCAL, **AT_256}, note=f"note: NAFNet {GOPRO}"),
    Published("NAFNet: SIDD (32, 64)", 2, "nafnet", {**SIDD, "pad": "zero"}, note=f"note: NAFNet {GLOBAL}"),
    Published(
        "Baseline: GoPro (32, 64)", 2, "basenet_tlc", {**LOCAL, **BASE, **AT_256}, note=f"note: Baseline {GOPRO}"
    ),
    Published(
        "Baseline: SIDD (32, 64)", 2, "basenet", {**SIDD, **BASE, "pad": "zero"}, note=f"note: Baseline {GLOBAL}"
    ),
    Published("SwinIR: colour noise (15, 25, 50)", 3, "swinir", {**SWINIR, **DENOISE}),
    Published("SwinIR: grey noise (15, 25, 50)", 3, "swinir", {**SWINIR, **DENOISE, "in_chans": 1}, note=GREY),
    Published("SwinIR: colour JPEG (10 to 40)", 4, "swinir", {**SWINIR, **JPEG}, note=AT_255),
    Published("SwinIR: grey JPEG (10 to 40)", 4, "swinir", {**SWINIR, **JPEG, "in_chans": 1}, note=f"{AT_255}\n{GREY}"),
    Published(
        "PromptIR",
        1,
        "promptir",
        RESTORMER,
        container=("state_dict",),
        prefix="net.",
        extra={"chnl_reduce1.weight": torch.ones(64, 64, 1, 1)},
        note="1 dropped knowingly: chnl_reduce*.weight",
    ),
    Published(
        "DCPT: NAFNet", 1, "nafnet", LOCAL, layout="milab", container=("params_ema",), note="fit nafnet_tlc, too"
    ),
    Published("DCPT: Restormer", 1, "restormer_dcpt", RESTORMER, container=("params_ema",)),
    Published("DCPT: SwinIR", 1, "swinir_dcpt", {**SWINIR, "window_size": 8}, container=("params_ema",)),
    Published("DCPT: PromptIR", 1, "promptir", RESTORMER, container=("params_ema",)),
]


def test_the_table_of_published_forms_is_complete():
    assert sum(form.count for form in FORMS) == 41
    assert sum(form.count for form in FORMS if not form.refused) == 40


def saved(form: Published, folder: Path) -> tuple[torch.nn.Module, Path]:
    """The network with the option values of a form, and its file as its authors save it."""
    network = build_network(form.network, **form.options).eval()
    fill_parameters(network)
    state = {**network.published_state(buffers=True, layout=form.layout), **form.extra}
    content: dict[str, Any] = {form.prefix + key: value for key, value in state.items()}
    for name in reversed(form.container):
        content = {name: content}
    torch.save(content, folder / "file.pth")
    return network, folder / "file.pth"


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.files)
def test_a_published_form_is_what_its_authors_run_and_restores_a_file_of_its_kind(form, tmp_path):
    network, file = saved(form, tmp_path)
    found = read_published(file)
    assert found.name == form.network
    assert {key: value for key, value in form.options.items() if found.arguments.get(key, value) != value} == {}
    assert form.note in "\n".join(describe(found))
    back, before = found.network.published_state(True, found.layout), found.weights.tensors
    assert back.keys() == before.keys() - form.extra.keys()  # so that its export is imported as the same
    assert all(torch.equal(value, before[key]) for key, value in back.items())
    channels = image_channels(network)
    image = torch.rand(1, channels, 19, 26, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(image)
        assert torch.equal(found.network.eval()(image), expected)
    values = (image[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    photo, target = tmp_path / "photo.png", tmp_path / "restored.png"
    write_picture(
        photo, Picture(np.repeat(values[..., :1], 3, axis=2) if channels != 3 else values, grey=channels == 1)
    )
    if form.refused:
        with pytest.raises(AirpipeError, match=form.refused):
            restore_file(photo, target, file, device="cpu")
        assert not target.exists()
    else:
        restore_file(photo, target, LoadedModel(found.network, {}, file), device="cpu")
        restored = read_picture(target)
        assert restored.pixels.shape == (19, 26, 3) and restored.grey == (channels == 1)


GOLDEN_FILES = {
    "import_nafnet_megvii": "nafnet",
    "import_baseline_megvii": "basenet",
    "import_swinir_jpeg_grey": "swinir",
    "import_restormer_grey": "restormer",
}


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_a_published_file_computes_what_its_authors_compute_and_so_does_its_export(name, tmp_path, caplog):
    golden = load_golden(GOLDENS / f"{name}.npz")
    state = golden.reference_state()
    torch.save({"params": state}, tmp_path / "file.pth")
    found = import_published(tmp_path / "file.pth", tmp_path / "model", ImportOptions())
    assert found.name == GOLDEN_FILES[name]
    loaded = load_model(tmp_path / "model")
    assert loaded.card["parameters"] == golden.n_params
    export_published(tmp_path / "model", tmp_path / "again.pth", buffers=False)
    sizes = "again.pth: the published class takes sides that are multiples of 8 only. Pad other images by reflection"
    assert [line.count(sizes) for line in caplog.messages] == ([1] if name == "import_restormer_grey" else [])
    again = torch.load(tmp_path / "again.pth", weights_only=True)["params"]
    assert again.keys() == state.keys() and all(torch.equal(again[key], value) for key, value in state.items())
    back = read_published(tmp_path / "again.pth")
    assert back.arguments == found.arguments
    for network in (loaded.network, back.network.eval()):
        for index in range(len(golden.input_shapes)):
            expected = golden.outputs[f"out{index or ''}"]
            with torch.no_grad():
                off = (network(golden.input(index)) - expected).abs().max()
            assert off <= 1e-4 * (expected.max() - expected.min())


SWIN = {**SWINIR, "depths": [2], "num_heads": [6]}
UNLIKE = [
    ("nafnet", {"width": 4, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}, {"pad": "zero"}),
    ("basenet", {"width": 4, "enc_blk_nums": [1], "dec_blk_nums": [1]}, {"pad": "zero"}),
    ("swinir", SWIN, {"rgb_mean": True}),
    ("swinir", {**SWIN, "rgb_mean": True, "img_range": 255.0}, {"img_range": 1.0}),
    ("swinir", {**SWIN, "rgb_mean": True, "global_residual": False}, {"global_residual": True}),
    ("restormer", {**RESTORMER, "num_blocks": [1] * 4, "attention": "relu"}, {"attention": "softmax"}),
]


@pytest.mark.parametrize(("name", "options", "instead"), UNLIKE)
def test_an_export_tells_each_setting_that_it_cannot_carry_and_the_difference_it_makes(
    name, options, instead, tmp_path, caplog
):
    ours, theirs = (build_network(name, **{**options, **more}).eval() for more in ({}, instead))
    fill_parameters(ours)
    theirs.load_state_dict(ours.state_dict())
    save_model(tmp_path / "model", ours, {"network": {"name": name, "arguments": options}})
    export_published(tmp_path / "model", tmp_path / "out.pth")
    line, *sizes = caplog.messages
    assert len(sizes) == (name == "restormer")
    [(setting, value)] = instead.items()
    told = re.fullmatch(
        rf".*out.pth: {setting}=\S+ is not in the file, and who reads it takes {setting}={value}: "
        r"up to (\S+) of the range for a random image of (\d+)x(\d+) pixels",
        line,
    )
    assert told is not None
    width, height = int(told[2]), int(told[3])
    torch.manual_seed(0)
    image = torch.rand(1, 3, height, width)
    with torch.no_grad():
        off = float((ours(image) - theirs(image)).abs().max())
    assert off > 1e-3 and float(told[1]) == pytest.approx(off, rel=0.01)
    read = read_published(tmp_path / "out.pth")
    assert read.arguments.get(setting, value) == value


def test_an_export_of_a_network_that_pools_globally_tells_that_its_readers_pool_locally(tmp_path, caplog):
    network = build_network("nafnet", **LOCAL, pad="zero")
    fill_parameters(network)
    save_model(tmp_path / "model", network, {"network": {"name": "nafnet", "arguments": {**LOCAL, "pad": "zero"}}})
    export_published(tmp_path / "model", tmp_path / "out.pth")
    [line] = caplog.messages
    assert "network nafnet is not in the file, and who reads it takes nafnet_tlc: up to " in line
    assert line.endswith("of the range for a random image of 405x405 pixels")  # the window has 384
    assert (
        next(iter(torch.load(tmp_path / "out.pth")["params"])).startswith("intro")
        and "decoders.0.0.beta" in (torch.load(tmp_path / "out.pth")["params"])
    )
    caplog.clear()
    export_published(tmp_path / "model", tmp_path / "milab.pth", layout="milab")
    pad, sizes = caplog.messages
    assert "pad=zero is not in the file, and who reads it takes pad=reflect: up to " in pad
    assert "milab.pth: the published class takes sides that are multiples of 16 only" in sizes


def test_a_setting_of_training_alone_gets_no_line():
    network = build_network("swinir", **SWIN, rgb_mean=True, drop_path_rate=0.3)
    assert unsaid("swinir", {**SWIN, "rgb_mean": True, "drop_path_rate": 0.3}, network.published_state()) == []


def test_a_size_that_ours_refuses_is_told_as_such():
    sizes = {"width": 4, "enc_blk_nums": [1], "dec_blk_nums": [1]}
    [line] = unsaid("nafnet", {**sizes, "pad": "none"}, build_network("nafnet", **sizes).published_state())
    assert line.endswith("takes pad=zero: one of them refuses a random image of 11x9 pixels")


@pytest.mark.parametrize("size", [(16, 24), (19, 26), (3, 9)])
def test_swinir_s_test_script_is_an_option_that_repeats_the_edge_and_always_adds(size):
    """Its lines: cat([image, flip(image)]) along each axis, cut to (side // window + 1) * window, cropped back."""
    network = build_network("swinir", **SWIN, rgb_mean=True, pad="mirror").eval()
    fill_parameters(network)
    plain = build_network("swinir", **SWIN, rgb_mean=True).eval()
    plain.load_state_dict(network.state_dict())
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    padded = image
    for axis, side in ((2, size[0]), (3, size[1])):
        mirrored = torch.cat([padded, padded.flip(axis), padded, padded.flip(axis)], axis)
        padded = mirrored.narrow(axis, 0, (side // 8 + 1) * 8)
    with torch.no_grad():
        expected = plain(padded)[..., : size[0], : size[1]]
        torch.testing.assert_close(network(image), expected, rtol=0, atol=1e-6)
        assert (plain(image) - expected).abs().max() > 1e-3
    assert len(lay_tiles(network, 200, 300, 64, 8)) == 1


@pytest.mark.parametrize(("expand", "hidden", "channels"), [(1, 2, 3), (2, 3, 1), (3, 1, 4)])
def test_a_baseline_of_other_expansions_is_read_and_computes_its_paper_s_formula(expand, hidden, channels, tmp_path):
    sizes = {"img_channel": channels, "width": 4, "middle_blk_num": 2, "enc_blk_nums": [1], "dec_blk_nums": [0]}
    options = {**sizes, "dw_expand": expand, "ffn_expand": hidden}
    network = build_network("basenet", **options).eval()
    state = fill_parameters(network) and network.state_dict()
    torch.save(network.published_state(), tmp_path / "file.pth")
    found = read_published(tmp_path / "file.pth")
    assert (found.name, found.arguments) == ("basenet", {**options, "pad": "zero"})

    def conv(name, features, **how):
        return nn.functional.conv2d(features, state[f"{name}.weight"], state[f"{name}.bias"], **how)

    def norm(name, features):
        off = features - features.mean(1, keepdim=True)
        scale, bias = (state[f"{name}.{key}"][:, None, None] for key in ("weight", "bias"))
        return off / (off.square().mean(1, keepdim=True) + 1e-6).sqrt() * scale + bias

    features = torch.rand(2, 8, 5, 6, generator=torch.Generator().manual_seed(0))
    block, wide = "middle_blks.1", 8 * expand
    mixed = conv(f"{block}.conv1", norm(f"{block}.norm1", features))
    mixed = nn.functional.gelu(conv(f"{block}.conv2", mixed, padding=1, groups=wide))
    squeezed = conv(f"{block}.se.1", mixed.mean((2, 3), keepdim=True)).relu()
    mixed = mixed * conv(f"{block}.se.3", squeezed).sigmoid()
    expected = features + conv(f"{block}.conv3", mixed) * state[f"{block}.beta"]
    inner = nn.functional.gelu(conv(f"{block}.conv4", norm(f"{block}.norm2", expected)))
    expected = expected + conv(f"{block}.conv5", inner) * state[f"{block}.gamma"]
    with torch.no_grad():
        torch.testing.assert_close(network.middle_blks[1](features), expected, rtol=1e-5, atol=1e-5)


def test_local_pooling_of_a_baseline_has_the_windows_of_megvii_s_training_size():
    network = build_network("basenet_tlc", **LOCAL)
    stages = [*network.encoders, network.middle_blks, *network.decoders]
    assert [stage[0].se[0].kernel[0] for stage in stages] == [384, 192, 96, 48, 24, 48, 96, 192, 384]
    with pytest.raises(AirpipeError, match="network basenet: dw_expand 0 and ffn_expand 2; expected 1 or more"):
        build_network("basenet", dw_expand=0)
