"""Every registered network keeps the contract of `airpipe.models.contract`; a new one is tested by itself."""

import inspect
from pathlib import Path

import pytest
import torch
from parity import fill_parameters, load_golden
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from airpipe.errors import AirpipeError
from airpipe.models import contract
from airpipe.models.contract import Network, example_input, image_channels
from airpipe.models.cost import count_parameters, network_cost
from airpipe.models.recognisers import ResidualBlock
from airpipe.registry import build_network, network_class, networks
from airpipe.weights.published import load_published

GOLDENS = Path(__file__).parent / "goldens"
NAFNET = {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
REQUIRED = {"num_classes": 3, "backbone": {"name": "nafnet", "arguments": NAFNET}}
"""For constructor arguments without default, by their names."""
NAMES = sorted(networks())
COMPILED = {"nafnet", "nafnet_tlc", "restormer", "restormer_dcpt", "promptir", "swinir", "swinir_dcpt"}
COMPILED |= {"vrdir", "dcpt", "degae"}
"""Networks whose own tests compile them, with gradients and for several sizes (dcpt: its two parts)."""
READ = [name for name in NAMES if network_class(name).arguments_from.__func__ is not Network.arguments_from.__func__]
"""Networks that recognise their published files."""
SEVERAL_FILES = {"dcpt", "degae", "degae_finetune"}
"""Restorers whose parts have a published file each."""
SHALLOW = {
    "dsrir": {"sn1_blocks": [1, 1, 1], "sn2_blocks": [1, 1], "sn3_blocks": 1, "sn3_grids": [4]},
    "dynet": {"reuse_freq": [1, 1, 1, 2]},
}
"""What makes networks small whose repeated blocks take the compiler long; one block is traced like the next."""
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def small(name: str) -> dict:
    """Arguments of a small golden of this network, or its defaults and what they leave open."""
    for golden in (GOLDENS / f"{name}{form}.npz" for form in ("_small", "", "_swinir_small")):
        if golden.exists():
            return {key: value for key, value in load_golden(golden).config.items() if key != "noise_seed"}
    parameters = inspect.signature(network_class(name)).parameters
    return {key: REQUIRED[key] for key, one in parameters.items() if one.default is one.empty}


def built(name: str, **others: object) -> Network:
    network = build_network(name, **{**small(name), **others})
    fill_parameters(network)
    return network.eval()


def inputs(network: nn.Module, height: int = 48, width: int = 32, seed: int = 0):
    torch.manual_seed(seed)
    return example_input(network, height, width, "cpu")


def flat(result) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [one for part in result for one in flat(part)]


def shown(network: Network, image: Tensor) -> list[Tensor]:
    """What a network is called with: an image, and a reference where it takes one."""
    return [image, torch.rand(len(image), 3, 40, 24)] if network.takes_reference else [image]


RESTORERS = [name for name in NAMES if not contract.no_restorer(build_network(name, **small(name)))]


def test_the_registry_has_restorers_and_others():
    assert {"nafnet", "restormer", "swinir", "promptir"} < set(RESTORERS) < set(NAMES)
    assert set(RESTORERS) - SEVERAL_FILES < set(READ)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_network_tells_has_the_right_type(name):
    network = built(name)
    assert isinstance(network, Network)
    assert contract.size_multiple(network) >= 1
    assert type(contract.pads_itself(network)) is type(contract.whole_image(network)) is bool
    assert type(contract.takes_reference(network)) is bool
    assert contract.least_reference(network) >= 1 and contract.embedding_length(network) >= 0
    assert contract.classes(network) >= 0 <= contract.branches(network)
    assert all(channels > 0 for channels in contract.feature_channels(network))
    assert all(isinstance(layout, str) and layout for layout in network.PUBLISHED_LAYOUTS)
    assert set(network.assumed) <= set(inspect.signature(type(network)).parameters)
    assert not contract.no_restorer(network).endswith(".")


@pytest.mark.parametrize("name", RESTORERS)
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 24)])
def test_a_restorer_keeps_every_size_or_says_which_it_takes(name, size):
    network = built(name)
    image = torch.rand(2, image_channels(network), *size)
    if network.whole_image and size == (1, 1):
        with pytest.raises(AirpipeError, match="larger image"):
            network(image)
    elif network.pads_itself or not any(side % network.size_multiple for side in size):
        restored = network(*shown(network, image))
        assert restored.shape[-2:] == image.shape[-2:]
        assert torch.isfinite(restored).all()
    else:
        with pytest.raises((ValueError, AirpipeError), match="multiple"):
            network(image)


class NoPadding(TorchDispatchMode):
    """Fails where an image is filled up by reflection."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert "reflection_pad" not in str(function), "padded"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", RESTORERS)
def test_multiples_of_the_size_that_a_network_tells_are_not_padded_and_others_are(name):
    network = built(name)
    multiple, channels = network.size_multiple, image_channels(network)
    with NoPadding():
        network(*shown(network, torch.rand(1, channels, 4 * multiple, 6 * multiple)))
    if multiple > 1 and network.pads_itself:
        with NoPadding(), pytest.raises(AssertionError, match="padded"):
            network(*shown(network, torch.rand(1, channels, 4 * multiple + multiple // 2, 6 * multiple)))


class NoStridedPoint(TorchDispatchMode):
    """Fails at a convolution of 1x1 with a stride, whose gradient writes outside its memory (docs/networks.md)."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "convolution" in str(function):
            _, weight, _, stride = args[:4]
            assert set(weight.shape[2:]) != {1} or max(stride) == 1, f"1x1 of stride {stride}"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_no_network_has_a_strided_convolution_of_one_pixel(name):
    network = built(name)
    with NoStridedPoint():
        network(*inputs(network))


def test_a_strided_convolution_of_one_pixel_is_found():
    with NoStridedPoint(), pytest.raises(AssertionError, match=r"1x1 of stride \[2, 2\]"):
        nn.Conv2d(4, 8, 1, 2)(torch.rand(1, 4, 8, 8))


def test_the_residual_recogniser_s_projection_is_one_of_stride_two():
    torch.manual_seed(0)
    block, features = ResidualBlock(4, 6).double().eval(), torch.rand(2, 4, 9, 12, dtype=torch.float64)
    projection = nn.functional.conv2d(features, block.projection.weight, block.projection.bias, stride=2)
    torch.testing.assert_close(block(features), (block.inner(features) + projection).relu())


@pytest.mark.parametrize("name", NAMES)
def test_features_and_logits_have_the_channels_that_a_network_tells(name):
    network = built(name)
    if channels := contract.feature_channels(network):
        maps = network(*inputs(network), features=True)
        assert [one.shape[1] for one in maps] == channels
        restored, also = network(*inputs(network), features="also")
        assert torch.equal(restored, network(*inputs(network)))
        assert all(torch.equal(*pair) for pair in zip(maps, also, strict=True))
    if network.classes:
        more = {"classify": True} if channels else {}
        assert network(*inputs(network), **more).shape == (1, network.classes)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_restores_in_stages_gives_an_image_and_a_map_of_each_the_last_one_first(name):
    network = built(name)
    count = contract.restoring_stages(network)
    assert count >= 0 and (count > 0) == ("stages" in inspect.signature(network.forward).parameters)
    if count:
        (image,) = inputs(network)
        images, maps = network(image, stages=True)
        assert [one.shape for one in (*images, *maps)] == [image.shape] * 2 * count
        assert torch.equal(images[0], network(image)) and not torch.equal(images[0], images[-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_network_gives_equal_bits_twice_and_the_same_in_channels_last(name):
    network = built(name)
    with torch.inference_mode():
        first, second = flat(network(*inputs(network))), flat(network(*inputs(network)))
        last = [
            one.contiguous(memory_format=torch.channels_last) if isinstance(one, Tensor) else one
            for one in inputs(network)
        ]
        other = flat(network.to(memory_format=torch.channels_last)(*last))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    for one, two in zip(first, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5 * max(1, float(one.abs().max())))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in COMPILED])
def test_the_compiler_traces_a_network_in_one_graph(name):
    network = built(name, **SHALLOW.get(name, {}))
    torch.compiler.reset()
    traced = torch.compile(network, backend="eager", fullgraph=True)
    for one, two in zip(flat(network(*inputs(network))), flat(traced(*inputs(network))), strict=True):
        torch.testing.assert_close(one, two, **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_of_a_network_is_counted_without_its_weights(name):
    cost = network_cost(name, small(name))
    assert cost["parameters"] == count_parameters(built(name)) > 0
    assert cost["macs"] == cost["macs_conv"] + cost["macs_linear"] + cost["macs_attention"] > 0


@pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for name in READ for layout in network_class(name).PUBLISHED_LAYOUTS]
)
def test_a_published_state_finds_its_network_and_comes_back_bit_for_bit(name, layout):
    network = built(name)
    state = network.published_state(buffers=True, layout=layout)
    found = type(network).arguments_from({key: tuple(value.shape) for key, value in state.items()})
    given = small(name)
    untold = {key: given[key] for key in network.assumed if key in given}
    again = load_published(build_network(name, **{**found, **untold}), state).eval()
    own = network.state_dict()
    assert again.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in again.state_dict().items())
    assert set(found) <= set(inspect.signature(type(network)).parameters)


@pytest.mark.parametrize("name", NAMES)
def test_another_layout_is_refused_with_those_that_there_are(name):
    network = built(name)
    known = ", ".join(network.PUBLISHED_LAYOUTS) or r"\(none\)"
    with pytest.raises(ValueError, match=f"layout is 'other'; expected one of {known}"):
        network.published_state(layout="other")


@pytest.mark.parametrize(
    ("told", "value"), [("size_multiple", 8.0), ("size_multiple", True), ("pads_itself", 1), ("no_restorer", None)]
)
def test_what_is_told_in_another_type_is_an_error_and_not_read_wrongly(told, value):
    network = nn.Identity()
    assert (contract.size_multiple(network), contract.pads_itself(network), contract.no_restorer(network)) == (1, 0, "")
    setattr(network, told, value)
    with pytest.raises(AirpipeError, match=f"network Identity: {told} is {value}; expected (int|bool|str)"):
        getattr(contract, told)(network)
