"""DyNet computes what the published code does at every depth, and its files serve all of them."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from parity import fill_parameters, load_golden, make_input
from test_promptir import PromptIRByHand
from test_restormer import assert_equals_golden, from_golden, outputs_named
from torch import Tensor

from airpipe import build_network, load_published
from airpipe.errors import AirpipeError
from airpipe.methods.dynet.network import DyNet, L, S
from airpipe.models.cost import network_cost
from airpipe.weights.checkpoints import check_variants, load_model
from airpipe.weights.importing import ImportOptions, describe, export_model, export_published, import_published
from airpipe.weights.published import candidates

GOLDEN = load_golden(Path(__file__).parent / "goldens" / "dynet_small.npz")
MODULES = {
    **{f"enc{level}": f"encoder_level{level}" for level in (1, 3)},
    **{f"dec{level}": f"decoder_level{level}" for level in (1, 2, 3)},
    **{f"prompt{level}_x1000": f"prompt{level}" for level in (1, 2, 3)},
    "latent": "latent",
    "latent_prompted": "reduce_noise_level3",
    "skip3_prompted": "reduce_noise_level2",
    "skip2_prompted": "reduce_noise_level1",
}
TINY = {
    "dim": 4,
    "num_refinement_blocks": 1,
    "heads": [1, 1, 2, 2],
    "prompt_dims": [4, 6, 8],
    "prompt_sizes": [8, 4, 2],
}


def tiny(**arguments) -> DyNet:
    network = build_network("dynet", **TINY, **arguments).eval()
    fill_parameters(network)
    return network


def output_of(network: DyNet, image: Tensor, **more) -> Tensor:
    with torch.no_grad():
        return network(image, **more)


# The function


def test_all_outputs_and_the_size_equal_the_golden():
    """Largest difference seen: 2e-5 (of prompts times 1000, values to 42)."""
    network, golden = from_golden("dynet_small", "dynet")
    assert sum(p.numel() for p in network.parameters()) == golden.n_params
    modules = {name: MODULES[re.sub(r"_first\d+$", "", name)] for name in golden.outputs if name != "out"}
    assert_equals_golden(outputs_named(network, golden.input(), modules), golden.outputs)


class DyNetByHand(PromptIRByHand):
    """DyNet written down slowly."""

    def times(self, name: str, x: Tensor, count: int) -> Tensor:
        for _ in range(count):
            x = self.block(name, x)
        return x

    def dynet(self, image: Tensor, r: list[int]) -> Tensor:
        e1 = self.times("encoder_level1", self.conv("patch_embed.proj", image), r[0])
        e2 = self.times("encoder_level2", self.down("down1_2", e1), r[1])
        e3 = self.times("encoder_level3", self.down("down2_3", e2), r[2])
        z = self.times("latent", self.down("down3_4", e3), r[3])
        x = torch.cat([self.up("up4_3", self.interact(3, z)), self.interact(2, e3)], 1)
        x = self.times("decoder_level3", self.conv("reduce_chan_level3", x), r[2])
        x = torch.cat([self.up("up3_2", x), self.interact(1, e2)], 1)
        x = self.times("decoder_level2", self.conv("reduce_chan_level2", x), r[1])
        x = self.times("decoder_level1", torch.cat([self.up("up2_1", x), e1], 1), r[0])
        return self.conv("output", self.stage("refinement", x)) + image


@pytest.mark.parametrize("more", [{}, {"bias": True, "layer_norm": "BiasFree", "num_refinement_blocks": 0}], ids=str)
@pytest.mark.parametrize("reuse", [[1, 1, 1, 1], [3, 1, 2, 4], S], ids=str)
def test_other_depths_and_widths_equal_the_network_written_down_slowly(reuse, more):
    arguments = {
        "dim": 6,
        "heads": [3, 2, 2, 6],
        "ffn_expansion_factor": 1.2,
        "prompt_dims": [4, 2, 6],
        "prompt_len": 2,
    }
    network = build_network("dynet", **arguments | more).eval()
    fill_parameters(network)
    with torch.no_grad():
        for level in (1, 2, 3):  # as large as in a trained network: the fill leaves prompts near zero
            network.get_submodule(f"prompt{level}").prompt_param.mul_(1000)
    network, image = network.double(), make_input((2, 3, 16, 24)).double()
    by_hand = DyNetByHand(network.published_state(), "softmax", 1e-5)
    with torch.no_grad():
        expected = by_hand.dynet(image, reuse)
        torch.testing.assert_close(network(image, reuse_freq=reuse), expected, rtol=1e-8, atol=1e-8)


def test_one_state_makes_s_and_l_and_anything_between():
    deep, image = tiny(), make_input((1, 3, 21, 16))
    for reuse in (S, L, [1, 1, 1, 1], [1, 5, 2, 3]):
        alone = tiny(reuse_freq=reuse)
        assert alone.state_dict().keys() == deep.state_dict().keys()
        assert torch.equal(output_of(alone, image), output_of(deep, image, reuse_freq=reuse))
    assert torch.equal(output_of(deep, image), output_of(deep, image, reuse_freq=L))
    assert (output_of(deep, image) - output_of(deep, image, reuse_freq=S)).abs().max() > 0.01


def test_the_gradient_of_a_shared_block_is_the_sum_over_its_uses():
    network, image = tiny(), make_input((1, 3, 16, 16))
    qkv, copies = network.encoder_level2.attn.qkv, list[Tensor]()
    network(image, reuse_freq=[1, 3, 1, 1]).square().mean().backward()
    whole = qkv.weight.grad

    def with_a_copy(features: Tensor) -> Tensor:
        copies.append(qkv.weight.detach().clone().requires_grad_(True))
        return F.conv2d(features, copies[-1])

    qkv.forward = with_a_copy
    network(image, reuse_freq=[1, 3, 1, 1]).square().mean().backward()
    assert len(copies) == 3
    assert all(copy.grad.abs().max() > 0 for copy in copies)
    torch.testing.assert_close(torch.stack([copy.grad for copy in copies]).sum(0), whole, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("reuse", [S, L], ids=["s", "l"])
def test_all_parameters_get_a_gradient_at_every_depth(reuse):
    network = tiny()
    network(make_input((1, 3, 16, 16)), reuse_freq=reuse).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


# Cost


def test_published_sizes_and_costs_are_those_of_the_code():
    small, large = (network_cost("dynet", {"reuse_freq": reuse}) for reuse in (S, L))
    assert network_cost("dynet", {}) == large
    assert small["parameters"] == large["parameters"] == 16_613_135
    plain = [cost["macs_conv"] + cost["macs_linear"] for cost in (small, large)]
    assert plain == pytest.approx([108.57e9, 158.14e9], rel=1e-4)
    assert [small["macs"], large["macs"]] == pytest.approx([118.61e9, 172.71e9], rel=1e-4)
    assert 1 - plain[0] / plain[1] == pytest.approx(0.3135, abs=5e-5)
    with torch.device("meta"):
        stored = build_network("dynet").published_state(buffers=True)
    assert len(stored) == 182
    assert sum(tensor.numel() for tensor in stored.values()) == 16_726_031


# Files


def published_file(folder: Path, network: DyNet) -> tuple[Path, dict[str, Tensor]]:
    """A Lightning file, as the code saves it: convolutions that nothing uses are in it."""
    state = network.published_state(buffers=True)
    state |= {key: torch.full_like(value, 0.5) for key, value in state.items() if key.startswith("reduce_noise_ch")}
    file = folder / "epoch=119.ckpt"
    torch.save({"state_dict": {f"net.{key}": value for key, value in state.items()}, "epoch": 119}, file)
    return file, state


@pytest.mark.parametrize("bias", [False, True])
def test_a_lightning_file_is_read_and_comes_back_bit_for_bit(tmp_path, bias):
    network = tiny(bias=bias)
    file, state = published_file(tmp_path, network)
    found = import_published(file, tmp_path / "dynet", ImportOptions())
    assert (found.name, found.arguments) == (
        "dynet",
        DyNet.arguments_from({k: tuple(v.shape) for k, v in state.items()}),
    )
    assert found.arguments == {
        **TINY,
        "ffn_expansion_factor": 2.66,
        "bias": bias,
        "layer_norm": "WithBias",
        "prompt_len": 5,
    }
    told = "\n".join(describe(found))
    assert "prefix removed from every name: net." in told
    assert f"{6 if bias else 3} dropped knowingly" in told
    assert "no shape tells reuse_freq; [4, 6, 6, 8] is used" in told
    assert export_published(tmp_path / "dynet", tmp_path / "back.pth") == len(state)
    back = torch.load(tmp_path / "back.pth", weights_only=True)["params"]
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(back[key], torch.zeros_like(value) if key.startswith("reduce_noise_ch") else value), key


@pytest.mark.parametrize("imported", [True, False], ids=["imported", "as it is"])
def test_a_published_file_serves_s_and_l(tmp_path, imported, caplog):
    file, _ = published_file(tmp_path, tiny())
    if imported:
        import_published(file, tmp_path / "dynet", ImportOptions())
        file = tmp_path / "dynet"
    image = make_input((1, 3, 16, 24))
    small = load_model(file, "s")
    assert not caplog.records
    assert small.card["network"]["arguments"]["reuse_freq"] == S
    own = tiny().to(memory_format=torch.channels_last)  # as loaded models are
    assert torch.equal(output_of(small.network, image), output_of(own, image, reuse_freq=S))
    assert torch.equal(output_of(load_model(f"{file}@l").network, image), output_of(own, image))
    assert torch.equal(output_of(load_model(file).network, image), output_of(own, image))
    with pytest.raises(AirpipeError, match=r"no variant 'm'. It has s, l"):
        load_model(file, "m")


def test_a_fixed_variant_becomes_a_model_of_its_own(tmp_path):
    file, _ = published_file(tmp_path, tiny())
    export_model(f"{file}@s", tmp_path / "small")
    alone = load_model(tmp_path / "small")
    assert alone.network.reuse_freq == tuple(S)
    assert alone.card["macs"] == network_cost("dynet", {**TINY, "reuse_freq": S})["macs"]
    with pytest.raises(AirpipeError, match="no variant 'l'. It has none"):
        load_model(tmp_path / "small", "l")


def test_a_depth_that_no_shape_tells_can_be_given_on_import(tmp_path):
    file, _ = published_file(tmp_path, tiny())
    found = import_published(file, tmp_path / "dynet", ImportOptions(arguments={"reuse_freq": S}))
    assert found.assumed == {"reuse_freq": S}
    assert load_model(tmp_path / "dynet").network.reuse_freq == tuple(S)


def test_a_dynet_is_taken_for_no_other_network_and_no_other_for_a_dynet():
    assert list(candidates(GOLDEN.keys)) == ["dynet"]
    own = {key: value for key, value in GOLDEN.config.items() if key != "reuse_freq"}
    assert DyNet.arguments_from(GOLDEN.keys) == own
    other = load_golden(Path(__file__).parent / "goldens" / "promptir_small.npz")
    assert DyNet.arguments_from(other.keys) is None
    assert torch.equal(
        load_published(DyNet(**own), GOLDEN.reference_state()).output.weight, GOLDEN.reference_state()["output.weight"]
    )


def test_variants_differ_in_depth_only():
    check_variants("dynet", TINY, dict(DyNet.published_variants))
    with pytest.raises(AirpipeError, match="variants.wide: dim would need other weights"):
        check_variants("dynet", TINY, {"wide": {"dim": 8}})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reuse_freq": [2, 3, 3]}, r"reuse_freq is \[2, 3, 3\]; expected four whole numbers from 1"),
        ({"reuse_freq": [2, 0, 3, 4]}, r"reuse_freq is \[2, 0, 3, 4\]"),
        ({"reuse_freq": [2, 1.5, 3, 4]}, r"reuse_freq is \[2, 1.5, 3, 4\]"),
        ({"prompt_dims": [64, 128]}, r"prompt_dims is \[64, 128\]; expected three numbers from 1"),
        ({"prompt_sizes": [64, 0, 16]}, r"prompt_sizes is \[64, 0, 16\]; expected three"),
        ({"prompt_len": 0}, "prompt_len is 0; expected 1 or more"),
        ({"prompt_dims": [64, 128, 321]}, r"heads\[2\] is 4; it must divide the prompt interactions \[160, 320, 705\]"),
        ({"decoder": True}, "unexpected keyword argument 'decoder'"),
    ],
)
def test_impossible_arguments_get_one_clear_message(arguments, message):
    with pytest.raises(AirpipeError, match=f"network dynet: .*{message}"):
        build_network("dynet", **arguments)


def test_an_impossible_depth_of_a_call_is_refused():
    with pytest.raises(ValueError, match=r"reuse_freq is \[0, 1, 1, 1\]; expected four whole numbers from 1"):
        tiny()(make_input((1, 3, 8, 8)), reuse_freq=[0, 1, 1, 1])
