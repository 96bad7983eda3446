"""NAFNet computes what the published implementation computes, for the stored and for other configurations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import fill_parameters, load_golden, make_input
from torch import nn

from airpipe import build_network, load_published
from airpipe.errors import AirpipeError
from airpipe.models.nafnet import ChannelNorm, LocalPool, NAFNet

GOLDENS = Path(__file__).parent / "goldens"
SMALL = {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 2], "dec_blk_nums": [2, 1]}


def published(name: str, network: str) -> tuple[nn.Module, object]:
    golden = load_golden(GOLDENS / f"{name}.npz")
    return load_published(build_network(network, **golden.config), golden.reference_state()).eval(), golden


@pytest.mark.parametrize("name", ["nafnet_w64_5d", "nafnet_small"])
def test_outputs_features_and_size_equal_the_golden(name):
    model, golden = published(name, "nafnet")
    assert sum(p.numel() for p in model.parameters()) == golden.n_params
    maps = {}
    model.middle_blks.register_forward_hook(lambda m, i, o: maps.update(middle=o))
    model.encoders[0].register_forward_hook(lambda m, i, o: maps.update(enc0_gap=o))
    with torch.no_grad():
        maps["out"] = model(golden.input())
        maps |= {f"decoder{i}": f for i, f in enumerate(reversed(model(golden.input(), features=True)))}
    assert set(golden.outputs) <= set(maps)
    for key, expected in golden.outputs.items():
        found = maps[key].mean((2, 3)) if expected.ndim == 2 else maps[key]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_local_pooling_equals_the_golden_and_shares_its_state_dict():
    local, golden = published("nafnet_tlc_small", "nafnet_tlc")
    config = {k: v for k, v in golden.config.items() if k != "train_size"}
    everywhere = load_published(build_network("nafnet", **config), golden.reference_state()).eval()
    with torch.no_grad():
        torch.testing.assert_close(local(golden.input()), golden.outputs["out"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(everywhere(golden.input()), golden.outputs["out_global"], rtol=1e-4, atol=1e-4)


def test_local_windows_of_the_published_size():
    model = build_network("nafnet_tlc", width=4, middle_blk_num=1, enc_blk_nums=[1] * 4, dec_blk_nums=[1] * 4)
    stages = [*model.encoders, model.middle_blks, *model.decoders]
    assert [stage[0].sca[0].kernel[0] for stage in stages] == [192, 96, 48, 24, 12, 24, 48, 96, 192]


def test_local_pooling_is_the_mean_of_the_nearest_complete_window():
    features = make_input((1, 2, 9, 7))
    pooled = LocalPool((4, 3))(features)
    assert pooled.shape == features.shape
    torch.testing.assert_close(pooled[..., 0, 0], features[..., :4, :3].mean((2, 3)))
    torch.testing.assert_close(pooled[..., -1, -1], features[..., -4:, -3:].mean((2, 3)))
    torch.testing.assert_close(pooled[..., 4, 3], features[..., 3:7, 2:5].mean((2, 3)))


@pytest.mark.parametrize("size", [(8, 8), (16, 40), (4, 12)])
def test_a_fresh_network_ignores_its_blocks(size):
    """beta and gamma start at zero, so blocks are identities whatever their weights."""
    model = build_network("nafnet", **SMALL)
    image = make_input((1, 3, *size))
    before = model(image)
    for block in [m for m in model.modules() if hasattr(m, "conv5")]:
        nn.init.normal_(block.conv3.weight)
        nn.init.normal_(block.conv5.weight)
    torch.testing.assert_close(model(image), before, rtol=0, atol=0)


def test_channel_norm_gradient_is_right_in_float64():
    norm = ChannelNorm(5).double()
    fill_parameters(norm)
    image = make_input((2, 5, 3, 4)).double().requires_grad_()
    assert torch.autograd.gradcheck(norm, (image,))


@pytest.mark.parametrize("size", [(30, 33), (7, 9), (2, 3), (1, 1), (1, 6), (32, 16)])
def test_any_size_is_padded_by_reflection_and_cropped_back(size):
    model, golden = published("nafnet_small", "nafnet")
    exact = load_published(build_network("nafnet", **golden.config, pad="none"), golden.reference_state())
    image = make_input((2, 3, *size))
    by_hand = image.numpy()
    for axis, length in ((2, size[0]), (3, size[1])):
        extra = -length % 4
        mode = "reflect" if extra < length else "edge"
        by_hand = np.pad(by_hand, [(0, extra if a == axis else 0) for a in range(4)], mode)
    with torch.no_grad():
        expected = exact(torch.from_numpy(by_hand))[..., : size[0], : size[1]]
        torch.testing.assert_close(model(image), expected, rtol=0, atol=0)
        maps = model(image, features=True)
    grid = by_hand.shape[2:]
    assert [tuple(m.shape[1:]) for m in maps] == [(8, *grid), (16, grid[0] // 2, grid[1] // 2)]
    assert [m.shape[1] for m in maps] == model.feature_channels


def test_sizes_that_do_not_divide_are_refused_or_zero_padded_on_demand():
    golden = load_golden(GOLDENS / "nafnet_small.npz")
    exact = load_published(build_network("nafnet", **golden.config, pad="none"), golden.reference_state())
    image = make_input((1, 3, 30, 33))
    with pytest.raises(ValueError, match="33x30; both must be multiples of 4"):
        exact(image)
    padded = load_published(build_network("nafnet", **golden.config, pad="zero"), golden.reference_state())
    by_hand = exact(torch.nn.functional.pad(image, (0, 3, 0, 2)))[..., :30, :33]
    torch.testing.assert_close(padded(image), by_hand)
    with pytest.raises(AirpipeError, match="pad is 'wrap'; expected 'reflect', 'zero' or 'none'"):
        build_network("nafnet", pad="wrap")


@pytest.mark.parametrize("local", ["nafnet", "nafnet_tlc"])
def test_compiling_makes_one_graph_and_compiles_once_per_size(local):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = build_network(local, width=4, middle_blk_num=1, enc_blk_nums=[1, 2], dec_blk_nums=[2, 1])
    fill_parameters(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    for seed in (0, 1):
        image = make_input((1, 3, 10, 13), seed)
        model.zero_grad()
        plain = model(image)
        plain.sum().backward()
        expected = model.intro.weight.grad.clone()
        model.zero_grad()
        found = compiled(image)
        found.sum().backward()
        torch.testing.assert_close(found, plain)
        torch.testing.assert_close(model.intro.weight.grad, expected)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_lower_and_higher_precision_stay_close():
    model, golden = published("nafnet_small", "nafnet")
    with torch.no_grad():
        exact = build_network("nafnet", **golden.config).double()
        exact = load_published(exact, golden.reference_state())(golden.input().double())
        assert exact.dtype == torch.float64
        torch.testing.assert_close(model(golden.input()).double(), exact, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = model(golden.input())
    scale = (golden.outputs["out"] - golden.input()).abs().mean()
    assert (coarse.float() - golden.outputs["out"]).abs().mean() < 0.02 * scale


def test_the_meta_device_knows_shapes_without_memory():
    with torch.device("meta"):
        model = build_network("nafnet", width=64, middle_blk_num=1, enc_blk_nums=[1, 1, 1, 28], dec_blk_nums=[1] * 4)
        assert model(torch.empty(1, 3, 4000, 6001)).shape == (1, 3, 4000, 6001)
    assert model.size_multiple == 16


@pytest.mark.parametrize("spelling", ["decoder0.", "decoders.0."])
def test_sizes_are_read_off_both_published_key_layouts(spelling):
    golden = load_golden(GOLDENS / "nafnet_small.npz")
    shapes = {k.replace("decoder0.", spelling): s for k, s in golden.keys.items()}
    assert NAFNet.arguments_from(shapes) == golden.config


@given(
    width=st.integers(1, 6),
    middle=st.integers(0, 3),
    stages=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=3),
    channels=st.integers(1, 4),
)
@settings(max_examples=20, deadline=None)
def test_arguments_are_read_off_own_and_published_names(width, middle, stages, channels):
    arguments = {
        "img_channel": channels,
        "width": width,
        "middle_blk_num": middle,
        "enc_blk_nums": [encoder for encoder, _ in stages],
        "dec_blk_nums": [decoder for _, decoder in stages],
    }
    model = NAFNet(**arguments)
    for state in (model.state_dict(), model.published_state(layout="milab"), model.published_state(layout="megvii")):
        assert NAFNet.arguments_from({key: tuple(value.shape) for key, value in state.items()}) == arguments


@pytest.mark.parametrize("name", ["nafnet_small", "nafnet_w64_5d"])
def test_the_published_state_is_the_golden_s_again_in_either_layout(name):
    model, golden = published(name, "nafnet")
    back = model.published_state(buffers=True, layout="milab")
    expected = golden.reference_state()
    assert set(back) == set(expected)
    assert all(torch.equal(back[key], expected[key]) for key in expected)
    megvii = model.published_state()  # the usual one
    assert {key.replace("decoders.", "decoder") for key in megvii} == set(expected)
    assert "decoders.0.0.conv1.weight" in megvii
    with pytest.raises(ValueError, match="expected one of megvii, milab"):
        model.published_state(layout="nafssr")


def test_other_networks_and_absurd_names_are_told_apart():
    assert NAFNet.arguments_from({"intro.weight": (8, 3, 3, 3)}) is None
    assert NAFNet.arguments_from({"intro.weight": (8,), "ending.weight": (3, 8, 3, 3)}) is None
    golden = load_golden(GOLDENS / "nafnet_small.npz")
    absurd = {**golden.keys, "encoders.0.999999.conv1.bias": (1,)}
    assert NAFNet.arguments_from(absurd) is None


def test_bad_arguments_and_states_get_one_clear_message():
    with pytest.raises(AirpipeError, match="did you mean 'nafnet'"):
        build_network("nafnett")
    with pytest.raises(AirpipeError, match="differ in length"):
        build_network("nafnet", enc_blk_nums=[1], dec_blk_nums=[])
    with pytest.raises(AirpipeError, match="widht"):
        build_network("nafnet", widht=3)
    golden = load_golden(GOLDENS / "nafnet_small.npz")
    state = golden.reference_state()
    state["extra"] = state.pop("intro.bias")
    with pytest.raises(AirpipeError, match=r"1 missing \(first intro.bias\); 1 unexpected \(first extra\)"):
        load_published(build_network("nafnet", **golden.config), state)
