"""NAFNet computes what the published implementation computes, for the stored and for other configurations."""

from pathlib import Path

import pytest
import torch
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


def test_sizes_that_do_not_divide_are_refused_or_zero_padded():
    model, golden = published("nafnet_small", "nafnet")
    with pytest.raises(ValueError, match="multiples of 4"):
        model(make_input((1, 3, 30, 33)))
    padded = load_published(build_network("nafnet", **golden.config, pad="zero"), golden.reference_state())
    image = make_input((1, 3, 30, 33))
    by_hand = model(torch.nn.functional.pad(image, (0, 3, 0, 2)))[..., :30, :33]
    torch.testing.assert_close(padded(image), by_hand)


def test_channels_last_computes_the_same():
    model, golden = published("nafnet_small", "nafnet")
    with torch.no_grad():
        last = model.to(memory_format=torch.channels_last)(golden.input().to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, golden.outputs["out"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spelling", ["decoder0.", "decoders.0."])
def test_sizes_are_read_off_both_published_key_layouts(spelling):
    golden = load_golden(GOLDENS / "nafnet_small.npz")
    shapes = {k.replace("decoder0.", spelling): s for k, s in golden.keys.items()}
    assert NAFNet.arguments_from(shapes) == golden.config


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
