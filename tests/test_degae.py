"""DegAE's networks compute what the published code does, with any noise, reference and modulation."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from parity import Golden, fill_parameters, load_golden, make_input
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from airpipe import build_network, load_published
from airpipe.errors import AirpipeError
from airpipe.evaluation.restore import restore
from airpipe.methods.degae.decoder import BLOCKS, FeatureModulation, ModulatedConv
from airpipe.methods.degae.network import DegAE
from airpipe.models.contract import feature_channels
from airpipe.models.cost import network_cost

GOLDENS = Path(__file__).parent / "goldens"
UNUSED = re.compile(r"DDR_extractor\.(upconv|HRconv|conv_last)|Encoder\.(conv_after_body|conv_last)|^Decoder\.HRconv")
"""Published parameters that the published code never uses."""
TINY = {"embed_dim": 12, "depths": [2], "num_heads": [2]}
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def golden_of(name: str) -> Golden:
    return load_golden(GOLDENS / f"degae_{name}.npz")


def published(network: str, golden: Golden) -> nn.Module:
    """The network of a golden, with its weights; all but unused parameters are there."""
    arguments = {key: value for key, value in golden.config.items() if key != "noise_seed"}
    made = build_network(network, **arguments).eval()
    unused = sum(torch.Size(shape).numel() for key, shape in golden.keys.items() if UNUSED.search(key))
    if network == "degae_representor":  # its golden enlarges images, too
        unused = 0
    assert sum(p.numel() for p in made.parameters()) == golden.n_params - unused
    return load_published(made, golden.reference_state())


def small(backbone: str = "swinir", seed: int = 0, **decoder) -> DegAE:
    arguments = {key: value for key, value in golden_of(f"{backbone}_small").config.items() if key != "noise_seed"}
    arguments["decoder"] = {**arguments["decoder"], **decoder}
    torch.manual_seed(seed)
    network = DegAE(**arguments)
    fill_parameters(network)
    return network.eval()


def given_noise(golden: Golden) -> list[Tensor]:
    batch, _, height, width = golden.input().shape
    seeds = [golden.config["noise_seed"] + block for block in range(BLOCKS)]
    return [2 * make_input((batch, 1, height, width), seed) - 1 for seed in seeds]


def heard(**modules: nn.Module) -> dict[str, Tensor]:
    """Outputs of modules, by name, filled when a network is called."""
    found: dict[str, Tensor] = {}
    for name, module in modules.items():
        module.register_forward_hook(lambda _, inputs, output, name=name: found.update({name: output}))
    return found


def close(found: dict[str, Tensor], golden: Golden, atol: float = 1e-4) -> None:
    """Every output of a golden; some hold the first channels and a corner only."""
    assert set(found) == set(golden.outputs)
    for name, expected in golden.outputs.items():
        cut = found[name][tuple(slice(length) for length in expected.shape)]
        torch.testing.assert_close(cut, expected, rtol=1e-4, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


# Goldens


@pytest.mark.parametrize("name", ["swinir_small", "restormer_small", "restormer_full"])
def test_the_whole_network_equals_its_golden_with_and_without_noise(name):
    golden = golden_of(name)
    net = published("degae", golden)
    image, reference = golden.input(0), golden.input(1)
    blocks = {f"dec_block{k}": net.decoder.get_submodule(f"basic_block{k}") for k in range(1, BLOCKS + 1)}
    with torch.no_grad():
        noisy = net(image, reference, noise=given_noise(golden))
        found = heard(embedding=net.representor, encoder_features=net.encoder, **blocks)
        out = net(image, reference, noise="zero")
    close({"out": out, "out_noise": noisy, **found}, golden, 3e-4 if name == "restormer_full" else 1e-4)


@pytest.mark.parametrize("name", ["finetune_swinir_small", "finetune_restormer_small", "finetune_swinir_full"])
def test_the_finetuned_network_equals_its_golden(name):
    golden = golden_of(name)
    net = published("degae_finetune", golden)
    with torch.no_grad():
        out, (features,) = net(golden.input(), features="also")
    close({"out": out, "encoder_features": features}, golden)


def test_the_representor_and_the_image_of_its_extractor_equal_their_golden():
    golden = golden_of("representor_small")
    net = published("degae_representor", golden)
    parts = {"trunk1": net.extractor.recon_trunk1, "trunk4": net.extractor.recon_trunk4}
    found = heard(**parts, conv1=net.conv1, conv3=net.conv3)
    inputs: list[Tensor] = []
    net.conv1x1_1.register_forward_hook(lambda _, given, output: inputs.extend(given))
    with torch.no_grad():
        embedding = net(golden.input())
        enlarged = net.extractor(golden.input())
    assert enlarged.shape == (2, 3, 128, 120)
    close({"embedding": embedding, "pool": inputs[0], "sr_crop": enlarged, **found}, golden)
    plain = build_network("degae_representor", nf=8, nb=4).eval()
    assert not hasattr(plain.extractor, "upconv1")
    with torch.no_grad():
        assert torch.equal(load_published(plain, golden.reference_state())(golden.input()), embedding)


def test_the_patchgan_equals_its_golden():
    golden = golden_of("patchgan")
    net = published("degae_patchgan", golden)
    with torch.no_grad():
        close({"out": net(golden.input())}, golden)


def test_the_vgg_discriminator_equals_its_golden():
    golden = golden_of("vgg128")
    net = published("degae_vgg128", golden)
    found = heard(conv0_0=net.conv0_0, bn2_1=net.bn2_1, bn4_1=net.bn4_1, linear1=net.linear1)
    with torch.no_grad():
        out = net(golden.input())
    close({"out": out, **found}, golden)


# Other configurations, against plain restatements


def plain_modulation(layer: ModulatedConv, x: Tensor, e: Tensor, noise: Tensor) -> Tensor:
    """Section 2.3 word by word: weights of its own for each sample."""
    made = []
    for b in range(len(x)):
        s = layer.modulation.weight[:, :, 0, 0] @ e[b, :, 0, 0] + layer.modulation.bias
        w = layer.weight[0] * s[None, :, None, None] / (x.shape[1] * 9) ** 0.5
        w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        made.append(F.conv2d(x[b : b + 1], w, padding=1) + layer.weight_noise * noise[b])
    found = layer.conv_last(torch.cat(made))
    return torch.where(found > 0, found, 0.1 * found)


@pytest.mark.parametrize(("channels", "length"), [(1, 3), (5, 2), (12, 40)])
def test_scaled_features_equal_scaled_weights(channels, length):
    layer = ModulatedConv(channels, length)
    fill_parameters(layer)
    x, e, noise = make_input((3, channels, 6, 5)), make_input((3, length, 1, 1), 1), make_input((3, 1, 6, 5), 2)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, e, noise), plain_modulation(layer, x, e, noise), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer(x, e, None), plain_modulation(layer, x, e, 0 * noise), rtol=1e-5, atol=1e-5)


def test_gfm_scales_and_shifts_each_channel():
    layer = FeatureModulation(4, 7)
    fill_parameters(layer)
    x, e, noise = 2 * make_input((2, 4, 5, 3)) - 1, make_input((2, 7, 1, 1), 1), make_input((2, 1, 5, 3), 2) - 0.5
    code = e[:, :, 0, 0]
    scale, shift = (code @ one.weight.T + one.bias for one in (layer.cond_scale, layer.cond_shift))
    first = x * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    first = torch.where(first > 0, first, 0.1 * first)
    second = first + layer.weight_noise * noise
    with torch.no_grad():
        torch.testing.assert_close(layer(x, e, noise), torch.where(second > 0, second, 0.1 * second))
        torch.testing.assert_close(layer(x, e, None), torch.where(first > 0, first, 0.1 * first))


@pytest.mark.parametrize("modulation", ["stylegan2", "gfm"])
@pytest.mark.parametrize("backbone", ["swinir", "restormer"])
@pytest.mark.parametrize("size", [(16, 16), (7, 19), (1, 2)], ids=str)
def test_any_image_takes_a_reference_of_any_size(backbone, modulation, size):
    net = small(backbone, modulation=modulation)
    image = make_input((2, 3, *size))
    with torch.no_grad():
        found = [net(image, make_input((2, 3, *other), seed)) for seed, other in enumerate([(22, 22), (30, 47)])]
    assert all(one.shape == image.shape for one in found)
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_a_pretraining_starts_as_published():
    torch.manual_seed(0)
    net = DegAE("swinir", TINY, None, {"nf": 48, "nb": 4})
    assert net.decoder.basic_block1.modulation_layer.weight_noise.item() == 0
    assert net.decoder.basic_block1.modulation_layer.weight.std().item() == pytest.approx(1, rel=0.02)
    trunk = net.representor.extractor.recon_trunk2[0].conv1
    assert trunk.weight.std().item() == pytest.approx(0.1 * (2 / (9 * 48)) ** 0.5, rel=0.03)
    assert not trunk.bias.any() and net.representor.conv1.bias.any()


# Noise


def test_noise_is_drawn_in_training_and_where_asked_for_only():
    net, image, reference = small(), make_input((2, 3, 9, 12)), make_input((2, 3, 22, 24), 1)
    with torch.no_grad():
        still = net(image, reference)
        assert torch.equal(still, net(image, reference, noise="zero"))
        torch.manual_seed(3)
        first, second = (net(image, reference, noise="random") for _ in range(2))
        torch.manual_seed(3)
        assert torch.equal(net(image, reference, noise="random"), first) and not torch.equal(first, second)
        net.encoder.drop_path_rate = 0.0  # stochastic depth draws, too
        torch.manual_seed(3)
        assert torch.equal(net.train()(image, reference), first)
        assert torch.equal(net(image, reference, noise="zero"), still)


def test_noise_counts_only_by_its_weight():
    net, image, reference = small(), make_input((1, 3, 8, 8)), make_input((1, 3, 22, 22), 1)
    for block in range(1, BLOCKS + 1):
        net.decoder.get_submodule(f"basic_block{block}.modulation_layer").weight_noise.data.zero_()
    with torch.no_grad():
        assert torch.equal(net(image, reference, noise="random"), net(image, reference, noise="zero"))


# A training step, features and embeddings in one call


def test_twins_are_embedded_beside_and_references_serve_several_images():
    net = small()
    image, reference, twin = (make_input((2, 3, 24, 24), seed) for seed in range(3))
    with torch.no_grad():
        both, embedding, other = net(torch.cat([image, twin]), reference, twin=twin)
        expected = torch.cat([net(image, reference), net(twin, reference)])
        torch.testing.assert_close(both, expected, **TOLERANCE)
        torch.testing.assert_close(embedding, net.representor(reference), **TOLERANCE)
        torch.testing.assert_close(other.flatten(1), net.embedding(twin), **TOLERANCE)
        one = net(image, reference[:1])
        torch.testing.assert_close(one, net(image, reference[:1].expand(2, -1, -1, -1)), **TOLERANCE)
    assert embedding.shape == (2, net.embedding_length, 1, 1)


def test_features_are_the_encoders_and_need_no_reference():
    net, image = small(), make_input((1, 3, 10, 13))
    with torch.no_grad():
        assert torch.equal(net(image, features=True)[0], net.encoder(image))
    assert feature_channels(net) == [24]


def test_all_parameters_get_a_gradient_and_the_same_from_ddp_and_the_compiler(tmp_path):
    def gradients(wrap) -> dict[str, Tensor]:
        net = small()
        image, reference, twin = (make_input((2, 3, 24, 24), seed) for seed in range(3))
        restored, one, two = wrap(net)(torch.cat([image, twin]), reference, given, twin=twin)
        (restored.square().mean() + (one - two).square().mean()).backward()
        return {name: parameter.grad for name, parameter in net.named_parameters()}

    given = [make_input((4, 1, 24, 24), seed) - 0.5 for seed in range(BLOCKS)]
    expected = gradients(lambda net: net)
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in expected.values())
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = gradients(DistributedDataParallel)
    finally:
        distributed.destroy_process_group()
    compiled = gradients(lambda net: torch.compile(net, backend="aot_eager", fullgraph=True))
    for name, gradient in expected.items():
        assert torch.equal(parallel[name], gradient), name
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("modulation", ["stylegan2", "gfm"])
def test_half_precision_training_keeps_the_modulation_in_float32(modulation):
    net, image, reference = small(modulation=modulation), make_input((1, 3, 12, 12)), make_input((1, 3, 24, 24), 1)
    seen: list[Tensor] = []
    layer = net.decoder.basic_block1.modulation_layer
    inner = (layer.modulation, layer.conv_last) if modulation == "stylegan2" else (layer.cond_scale, layer.cond_shift)
    for part in inner:
        part.register_forward_hook(lambda _, given, output: seen.append(output))
    with torch.no_grad():
        expected = net(image, reference)
        with torch.autocast("cpu", torch.bfloat16):
            found = net(image, reference)
    assert [one.dtype for one in seen] == [torch.float32] * 4
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("name", ["degae_patchgan", "degae_vgg128"])
def test_discriminators_are_float32_in_mixed_precision(name):
    net = build_network(name, **({"ndf": 4} if name == "degae_patchgan" else {"nf": 4})).eval()
    image = make_input((1, 3, 128, 128))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert net(image).dtype == torch.float32


@pytest.mark.parametrize("layers", [1, 3, 4])
def test_a_patchgan_judges_patches(layers):
    net = build_network("degae_patchgan", ndf=2, n_layers=layers).eval()
    least = 3 * 2**layers
    with torch.no_grad():
        assert net(torch.rand(1, 3, least, least)).shape == (1, 1, 1, 1)
        assert net(torch.rand(1, 3, 128, 128)).shape == (1, 1, 128 // 2**layers - 2, 128 // 2**layers - 2)
    with pytest.raises(AirpipeError, match=f"{least}x{least - 1} pixels; it needs {least}x{least}"):
        net(torch.rand(1, 3, least - 1, least))


# Cost


@pytest.mark.parametrize(
    ("name", "arguments", "parameters", "gmacs"),
    [
        ("degae_decoder", {}, 864_327, 48.0),
        ("degae_decoder", {"in_c": 64}, 797_511, 43.6),
        ("degae_head", {}, 4_863, 0.319),
        ("degae_head", {"in_c": 64}, 1_731, 0.113),
        ("degae_representor", {}, 4_724_864, None),
        ("degae_representor", {"upscale": 4}, 5_058_947, None),
        ("degae_finetune", {"backbone": "swinir"}, 11_212_383, 780.9 + 0.32),
        ("degae_finetune", {"backbone": "restormer"}, 26_181_079, 158.3 + 0.11),
        ("degae", {"backbone": "swinir"}, 16_796_711, None),
        ("degae", {"backbone": "restormer"}, 31_701_723, None),
    ],
)
def test_full_sizes_are_those_of_the_published_code(name, arguments, parameters, gmacs):
    cost = network_cost(name, arguments)
    assert cost["parameters"] == parameters
    assert gmacs is None or cost["macs"] / 1e9 == pytest.approx(gmacs, rel=5e-3)


# Errors


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("degae", {"backbone": "uformer"}, "backbone is 'uformer'; expected 'swinir' or 'restormer'"),
        ("degae", {"encoder": TINY, "decoder": {"modulation": "adain"}}, "is 'adain'; expected 'stylegan2' or 'gfm'"),
        ("degae", {"encoder": TINY, "decoder": {"in_c": 64}}, "the decoder has .*'in_c': 64.* representor give .*12"),
        ("degae", {"encoder": TINY, "decoder": {"scale": 2}}, "scale is 2, require_modulation True; only 1 and true"),
        ("degae", {"encoder": TINY, "decoder": {"modul_channels": 512}}, "unexpected keyword argument 'modul_c"),
        ("degae", {"encoder": {"embed_dims": 12}}, "unexpected keyword argument 'embed_dims'"),
        ("degae", {"encoder": TINY, "representor": {"nb": 6}}, "nb 6; expected nf from 1, and nb a multiple of 4"),
        ("degae_representor", {"upscale": 2}, r"upscale is 2; expected 4 \(super-resolution\) or 1"),
        ("degae_finetune", {"backbone": "restormer", "head": {"in_c": 180}}, "the head has in_c 180, but .* gives 64"),
        ("degae_finetune", {"backbone": "restormer", "encoder": {"global_residual": True}}, "an image of 3 channels"),
        ("degae_patchgan", {"n_layers": 0}, "input_nc is 3, ndf 64, n_layers 0; expected 1 or more"),
        ("degae_vgg128", {"nf": 0}, "in_nc is 3, nf 0; expected 1 or more"),
    ],
)
def test_impossible_networks_are_refused(name, arguments, message):
    with pytest.raises(AirpipeError, match=f"network {name}: .*{message}"):
        build_network(name, **arguments)


def test_a_reference_that_is_missing_too_small_or_one_too_many_is_told():
    net, image = small(), torch.rand(2, 3, 12, 12)
    with pytest.raises(AirpipeError, match="the degradation of a reference, and there is none here. Give one"):
        net(image)
    with pytest.raises(AirpipeError, match="a reference of 21x30 pixels; its representor needs 22x22"):
        net(image, torch.rand(2, 3, 30, 21))
    with pytest.raises(AirpipeError, match="2 images and 3 references; expected as many, or a multiple"):
        net(image, torch.rand(3, 3, 22, 22))


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ("none", "noise is 'none'; expected 'random', 'zero' or 4 maps"),
        (3, "noise is 3; expected 'random', 'zero' or 4 maps"),
        ([torch.zeros(1, 1, 8, 8)] * 3, r"expected 'random', 'zero' or 4 maps \(1, 1, 8, 8\)"),
        ([torch.zeros(1, 1, 8, 7)] * 4, r"\(1, 1, 8, 7\).*expected 'random', 'zero' or 4 maps \(1, 1, 8, 8\)"),
    ],
)
def test_impossible_noise_is_told(noise, message):
    with pytest.raises(AirpipeError, match=message):
        small()(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 22, 22), noise=noise)


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (256, 256)], ids=str)
def test_the_vgg_discriminator_takes_one_size(size):
    net = build_network("degae_vgg128", nf=2).eval()
    with pytest.raises(AirpipeError, match=f"{size[1]}x{size[0]} pixels; it takes 128x128 only. Set patch_size to 128"):
        net(torch.rand(1, 3, *size))


def test_without_a_reference_an_image_is_not_restored_but_refused():
    with pytest.raises(AirpipeError, match="wants a reference beside the image, and there is none here"):
        restore(torch.rand(3, 16, 16), small())
