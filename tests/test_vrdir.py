"""VRD-IR's networks and losses compute what the published code does (made to run), at any size, with any branches."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from parity import Golden, fill_parameters, load_golden, make_input
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from airpipe import build_network, load_published
from airpipe.errors import AirpipeError
from airpipe.evaluation.restore import restore
from airpipe.methods.vrdir.losses import rebuilding_losses, restoring_losses
from airpipe.methods.vrdir.network import DNC, FGM, ISE, VRDIR
from airpipe.models.cost import network_cost
from airpipe.models.recognisers import Quarters, RecogniserResidual, RecogniserVGG

GOLDENS = Path(__file__).parent / "goldens"
SMALL = {"in_channels": 8, "front_channels": 4, "hidden": 6, "ratio": 2}


def golden_of(name: str) -> Golden:
    return load_golden(GOLDENS / f"vrdir_{name}.npz")


def published(name: str, golden: Golden) -> nn.Module:
    network = build_network(name, **golden.config).eval()
    assert sum(p.numel() for p in network.parameters()) == golden.n_params
    return load_published(network, golden.reference_state())


def small(seed: int = 0, **changes) -> VRDIR:
    torch.manual_seed(seed)
    network = VRDIR(**{**SMALL, **changes})
    fill_parameters(network)
    return network.eval()


def heard(network: nn.Module, **modules: nn.Module) -> dict[str, Tensor]:
    """Outputs of modules, by name, filled when the network is called."""
    found: dict[str, Tensor] = {}

    def keep(name):
        return lambda module, inputs, output: found.update({name: output, f"{name}_input": inputs[0]})

    for name, module in modules.items():
        module.register_forward_hook(keep(name))
    return found


def close(found: dict[str, Tensor], golden: Golden) -> None:
    """Every output of a golden within 1e-4; amplitudes of the half spectrum are half of the golden's."""
    assert set(found) == set(golden.outputs)
    for name, expected in golden.outputs.items():
        if name in ("amp", "amp_adjusted"):
            expected = expected[..., : expected.shape[-1] // 2 + 1]
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def fusion_outputs(heard_of: dict[str, Tensor]) -> dict[str, Tensor]:
    logits = heard_of["guide"]
    return {
        "amp": heard_of["amp_input"],
        "amp_adjusted": heard_of["amp"],
        "adjusted_spatial": heard_of["guide_input"],
        "guidance_logits": logits,
        "guidance": logits.softmax(1),
    }


# Goldens


def test_the_decoder_equals_its_golden():
    golden = golden_of("sad")
    sad = published("vrdir_sad", golden)
    found = heard(sad, deconv1=sad.decoder[0], deconv2_logits=sad.decoder[2])
    with torch.no_grad():
        out = sad(golden.input())
    close({"out": out, "deconv1": found["deconv1"], "deconv2_logits": found["deconv2_logits"]}, golden)


@pytest.mark.parametrize("size", ["full", "small"])
def test_a_branch_equals_its_golden(size):
    golden = golden_of(f"dnc_{size}")
    dnc = published("vrdir_dnc", golden)
    found = heard(dnc, pooled=dnc.se[0], gates=dnc.se)
    with torch.no_grad():
        out, normalised = dnc(golden.input()), dnc.normalised(golden.input())
    close({"out": out, "normalised": normalised, "se_pooled": found["pooled"], "se_weights": found["gates"]}, golden)


@pytest.mark.parametrize("size", ["full", "small"])
def test_the_fusion_equals_its_golden(size):
    golden = golden_of(f"fgm_{size}")
    fgm = published("vrdir_fgm", golden)
    found = heard(fgm, amp=fgm.conv_amp, guide=fgm.conv_guidance)
    with torch.no_grad():
        out = fgm(golden.input(0), golden.input(1))
    close({"out": out, **fusion_outputs(found)}, golden)


@pytest.mark.parametrize("size", ["full", "small"])
def test_branches_and_fusion_together_equal_their_golden(size):
    golden = golden_of(f"ise_{size}")
    ise = published("vrdir_ise", golden)
    branches = {f"dnc{i}": branch for i, branch in enumerate(ise.dncs)}
    found = heard(ise, amp=ise.fgm.conv_amp, guide=ise.fgm.conv_guidance, **branches)
    with torch.no_grad():
        out = ise(golden.input())
    close({"out": out, **{name: found[name] for name in branches}, **fusion_outputs(found)}, golden)


def stages(golden: Golden) -> tuple[VRDIR, dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The whole network of a golden, the losses of its three stages with the published weights, and its outputs."""
    net = published("vrdir", golden)
    degraded, clean = golden.input(0), golden.input(1)
    f_clean, f_degraded = net.encode(clean), net.encode(degraded)
    rebuilt = {"sad_clean": net.sad(f_clean), "sad_deg": net.sad(f_degraded)}
    restored, (normal,) = net(degraded, clean, features="also")
    single = net.ise.dncs[0](f_degraded)
    outputs = {"feat": f_degraded, "ise": normal, "guidance": net.guidance(degraded), "out": restored, **rebuilt}
    outputs["s2_out"] = net.sad(single)
    losses = {
        "s1": rebuilding_losses(rebuilt["sad_clean"], rebuilt["sad_deg"], clean, degraded, margin=1.0),
        "s2": restoring_losses(outputs["s2_out"], clean, single, f_clean),
        "s3": restoring_losses(restored, clean, normal, f_clean),
    }
    return net, losses, outputs


def test_the_whole_network_and_the_losses_of_all_stages_equal_their_golden():
    golden = golden_of("full")
    with torch.no_grad():
        _, losses, outputs = stages(golden)
    first = losses["s1"]
    scalars = {"s1_rec": first["clean"] + 0.1 * first["degraded"], "s1_sr": first["similarity"]}
    for stage in ("s2", "s3"):
        scalars |= {f"{stage}_rec": losses[stage]["pixel"], f"{stage}_smc": losses[stage]["semantic"]}
    close(outputs | scalars, golden)


def test_gradients_of_all_stages_equal_their_golden():
    golden = golden_of("grads")
    net, losses, _ = stages(golden)
    weights = {"degraded": 0.1}
    totals = {stage: sum(weights.get(k, 1) * v for k, v in found.items()) for stage, found in losses.items()}
    parameters = dict(net.named_parameters())
    checked = 0
    for stage, total in totals.items():
        assert total.item() == pytest.approx(golden.outputs[f"{stage}_loss"].item(), rel=1e-5)
        names = [k.removeprefix(f"{stage}_grad_") for k in golden.outputs if k.startswith(f"{stage}_grad_")]
        found = torch.autograd.grad(total, [parameters[name] for name in names], retain_graph=True)
        for name, gradient in zip(names, found, strict=True):
            expected = golden.outputs[f"{stage}_grad_{name}"]
            assert (gradient - expected).abs().max() <= 1e-4 * expected.abs().max(), name
            checked += 1
    assert checked == 12


# Other sizes and numbers of branches, against a plain restatement


def plain_branch(branch: DNC, x: Tensor) -> Tensor:
    """Section 1.5 word by word, one image and channel at a time."""
    normal = torch.empty_like(x)
    for b in range(len(x)):
        for c in range(x.shape[1]):
            values = x[b, c].flatten()
            mean = values.sum() / len(values)
            spread = ((values - mean).square().sum() / (len(values) - 1)).sqrt()
            normal[b, c] = branch.gamma[c] * (x[b, c] - mean) / (spread + 1e-6) + branch.beta[c]
    z = torch.cat([x, normal], 1).mean((2, 3))
    first, second = branch.se[1], branch.se[3]
    inner = (z @ first.weight[:, :, 0, 0].T + first.bias).clamp_min(0)
    a = 1 / (1 + torch.exp(-(inner @ second.weight[:, :, 0, 0].T + second.bias)))[:, :, None, None]
    channels = x.shape[1]
    return a[:, :channels] * x + a[:, channels:] * normal


def plain_fusion(fgm: FGM, branches: list[Tensor], x: Tensor) -> Tensor:
    """Section 1.6 with the full complex transform."""
    spectrum = torch.fft.fft2(x)
    amplitude = spectrum.abs()
    weight = fgm.conv_amp.weight[:, :, 0, 0]
    adjusted = torch.einsum("dc,bchw->bdhw", weight, amplitude) + fgm.conv_amp.bias[:, None, None]
    y = torch.fft.ifft2(adjusted * spectrum / (amplitude + 1e-8)).real
    padded = F.pad(y, (1, 1, 1, 1))
    height, width = y.shape[-2:]
    logits = fgm.conv_guidance.bias[:, None, None] + sum(
        torch.einsum("nc,bchw->bnhw", fgm.conv_guidance.weight[:, :, i, j], padded[..., i : i + height, j : j + width])
        for i in range(3)
        for j in range(3)
    )
    share = logits.exp() / logits.exp().sum(1, keepdim=True)
    return sum(share[:, n, None] * branch for n, branch in enumerate(branches))


@pytest.mark.parametrize("size", [(7, 9), (8, 6), (5, 1), (1, 2), (2, 7)], ids=str)
@pytest.mark.parametrize("branches", [1, 2, 4, 5])
def test_half_and_full_spectrum_agree_for_any_size_and_number_of_branches(branches, size):
    torch.manual_seed(branches)
    ise = ISE(8, branches, 3)
    fill_parameters(ise)
    features = 3 * make_input((2, 8, *size), branches) - 1
    with torch.no_grad():
        expected = plain_fusion(ise.fgm, [plain_branch(branch, features) for branch in ise.dncs], features)
        assert (ise(features) - expected).abs().max() <= 2e-6 * max(1, float(expected.abs().max()))


def test_weights_of_the_branches_sum_to_one_at_every_place():
    guidance = small(num_branches=4).guidance(make_input((2, 3, 13, 22)))
    assert guidance.shape == (2, 4, 7, 11)
    torch.testing.assert_close(guidance.sum(1), torch.ones(2, 7, 11))
    assert guidance.std(1).min() > 1e-4


@pytest.mark.parametrize("size", [(24, 20), (13, 22), (8, 5), (3, 2), (1, 4)], ids=str)
@pytest.mark.parametrize("branches", [0, 1, 3])
def test_any_image_size_comes_back_and_odd_ones_are_reflected(branches, size):
    network = small(num_branches=branches)
    image = make_input((2, 3, *size), 5)
    rows, columns = (side % 2 for side in size)
    padded = image
    if columns:
        padded = torch.cat([padded, padded[..., -2:-1]], -1)
    if rows:
        padded = torch.cat([padded, padded[..., -2:-1, :] if size[0] > 1 else padded], -2)
    with torch.no_grad():
        restored = network(image)
        assert restored.shape == image.shape
        assert torch.equal(restored, network(padded)[..., : size[0], : size[1]])
    assert restored.min() > 0 and restored.max() < 1


def test_parts_of_the_network_restore_alone():
    image = make_input((2, 3, 12, 10), 7)
    whole = small()
    state = whole.state_dict()
    decoder, branch = VRDIR(**SMALL, num_branches=0).eval(), VRDIR(**SMALL, num_branches=1, fusion=False).eval()
    decoder.load_state_dict({k: v for k, v in state.items() if not k.startswith("ise.")})
    second = {k.replace("dncs.1.", "dncs.0."): v for k, v in state.items() if "dncs.0." not in k}
    branch.load_state_dict({k: v for k, v in second.items() if k in branch.state_dict()})
    with torch.no_grad():
        features = whole.encode(image)
        assert torch.equal(decoder(image), whole.sad(features))
        assert torch.equal(branch(image), whole.sad(whole.ise.dncs[1](features)))
        assert torch.equal(decoder(image, features=True)[0], features)


@pytest.mark.parametrize(
    ("normalise", "mean", "spread"),
    [("half", [0.5] * 3, [0.5] * 3), ("imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])],
)
def test_the_encoder_sees_normalised_images(normalise, mean, spread):
    image = make_input((1, 3, 6, 8))
    normal = (image - torch.tensor(mean)[:, None, None]) / torch.tensor(spread)[:, None, None]
    one, none = small(normalise=normalise), small()
    assert list(one.state_dict()) == list(none.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(one.encode(image), none.ext(normal))


# Errors


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (2, 2)], ids=str)
def test_a_feature_map_of_one_pixel_is_told(size):
    with pytest.raises(AirpipeError, match=r"a feature map of 1x1 has no standard deviation; expected an image"):
        small()(torch.rand(1, 3, *size))
    assert small(num_branches=0)(torch.rand(1, 3, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vrdir", {"num_branches": 2, "fusion": False}, "2 branches without fusion; expected fusion, or one branch"),
        ("vrdir", {"num_branches": -1}, "num_branches is -1; expected 0 or more"),
        ("vrdir", {"normalise": "vgg"}, "normalise is 'vgg'; expected none, half, imagenet"),
        ("vrdir_ise", {"num_branches": 0}, "num_branches is 0; expected 1 or more"),
        ("vrdir_dnc", {"in_channels": 3, "ratio": 4}, "ratio 4 leaves nothing of in_channels 3"),
        ("vrdir_sad", {"hidden": 0}, "hidden is 0; expected 1 or more"),
        ("vgg_front", {"widths": [64]}, r"widths is \[64\]; expected two numbers from 1"),
        ("recogniser_vgg", {"num_classes": 1}, "num_classes is 1; expected at least 2"),
        ("recogniser_residual", {"num_classes": 2, "image_size": 4}, "image_size is 4; expected at least 8"),
    ],
)
def test_impossible_networks_are_refused(name, arguments, message):
    with pytest.raises(AirpipeError, match=f"network {name}: {message}"):
        build_network(name, **arguments)


@pytest.mark.parametrize("size", [(0, 5), (4, 0)], ids=str)
def test_an_image_without_pixels_is_told(size):
    with pytest.raises(AirpipeError, match=f"VRD-IR got an image of {size[1]}x{size[0]} pixels; expected at least one"):
        small()(torch.rand(1, 3, *size))


def test_guidance_needs_two_branches():
    for branches in (0, 1):
        with pytest.raises(AirpipeError, match=f"this VRD-IR has {branches}. Take one with at least two"):
            small(num_branches=branches).guidance(torch.rand(1, 3, 8, 8))


# In the house


def test_an_image_is_restored_as_a_whole_whatever_the_tile(tmp_path):
    network = small()
    image = make_input((3, 50, 41), 3)
    with torch.no_grad():
        whole = network(image[None])[0]
    for options in ({}, {"tile": 16, "overlap": 4}, {"memory": 1e9}):
        assert torch.equal(restore(image, network, **options), whole)
    turned = restore(image, network, tile=16, self_ensemble=True)
    assert turned.shape == image.shape and not torch.equal(turned, whole)
    with pytest.raises(AirpipeError, match="as a whole, and 41x50 pixels need about .* GB, not 1e-05"):
        restore(image, network, memory=1e4)


def test_an_image_of_too_many_pixels_is_refused():
    network = small(max_pixels=100)
    assert network(torch.rand(1, 3, 10, 10)).shape == (1, 3, 10, 10)
    with pytest.raises(AirpipeError, match="11x10 pixels are more than its max_pixels of 100. Give a smaller image"):
        restore(torch.rand(3, 10, 11), network)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("recogniser_vgg", {"num_classes": 3}, "this model restores no image: it tells classes of images apart"),
        ("vgg_front", {"widths": [4, 8]}, "this model restores no image: it makes features of an image"),
        ("vrdir_dnc", {}, "this model restores no image: it is a part of VRD-IR that works on features"),
    ],
)
def test_what_is_no_restorer_is_refused(name, arguments, message):
    for options in ({}, {"self_ensemble": True}):
        with pytest.raises(AirpipeError, match=message):
            restore(torch.rand(3, 16, 16), build_network(name, **arguments), **options)


def test_costs_are_counted():
    vrdir, sad = network_cost("vrdir", {}), network_cost("vrdir_sad", {})
    assert (vrdir["parameters"], sad["parameters"]) == (463_782, 132_867)
    assert sad["macs"] / 4 == pytest.approx(565e6, rel=0.001)  # at 128x128
    assert vrdir["macs"] / 4 == pytest.approx(1538e6 + 565e6 + 35e6 + 14e6, rel=0.002)
    assert network_cost("vgg_front", {})["parameters"] == 260_160
    assert network_cost("vrdir_ise", {})["parameters"] == 70_755


def test_wrappers_and_the_compiler_change_nothing(tmp_path):
    network, image = small(), make_input((2, 3, 12, 10), 2)
    expected = network(image)
    fabric = Fabric(accelerator="cpu")
    assert torch.equal(fabric.setup(small())(image), expected)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        assert torch.equal(DistributedDataParallel(small())(image), expected)
    finally:
        distributed.destroy_process_group()
    twin = small()
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    found, _ = compiled(image, features="also")
    torch.testing.assert_close(found, expected)
    found.square().mean().backward()
    expected.square().mean().backward()
    for (name, one), other in zip(network.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_half_precision_training_keeps_the_fusion_in_float32():
    network, image = small(), make_input((2, 3, 12, 10), 2)
    expected = network(image)
    found = heard(network, amp=network.ise.fgm.conv_amp)
    with torch.autocast("cpu", torch.bfloat16):
        restored = network(image)
    assert found["amp"].dtype == torch.float32
    assert (restored.float() - expected).abs().max() < 0.02


# Recognisers


def test_recognisers_give_logits_and_embeddings_of_normalised_images():
    image = make_input((2, 3, 32, 32))
    torch.manual_seed(0)
    one, two = RecogniserVGG(8).eval(), RecogniserResidual(8).eval()
    assert (one.image_size, RecogniserResidual(8, image_size=32).image_size) == (None, 32)
    with torch.no_grad():
        assert one(image).shape == two(image).shape == (2, 8)
        assert (one(image, features=True).shape, two(image, features=True).shape) == ((2, 256), (2, 64))
        for network in (one, two):
            assert torch.equal(network.head(network(image, features=True)), network(image))
        logits, front = one(image, front=True)
        assert torch.equal(logits, one(image)) and torch.equal(front, one.front(2 * image - 1))
    assert front.shape == (2, 32, 16, 16)


def test_the_recognisers_have_the_layers_that_are_documented():
    def sizes(network):
        return [tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    front = [(16, 3, 3, 3), (16, 16, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3)]
    assert sizes(RecogniserVGG(8)) == [*front, (64, 32, 3, 3), (64, 64, 3, 3), (8, 256)]
    blocks = [[(o, i, 3, 3), (o, o, 3, 3), (o, i, 1, 1)] for i, o in ((16, 24), (24, 48), (48, 64))]
    assert sizes(RecogniserResidual(8)) == [(16, 3, 3, 3), *(size for block in blocks for size in block), (8, 64)]


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (4, 6), (5, 8), (7, 3)], ids=str)
def test_means_of_quarters_are_those_of_adaptive_pooling(size):
    one = make_input((2, 3, *size)).requires_grad_()
    other = one.detach().clone().requires_grad_()
    found, expected = Quarters()(one), F.adaptive_avg_pool2d(other, 2)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    weights = make_input((2, 3, 2, 2), 1)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-7)
    # deterministic GPUs refuse the other one's gradient
    assert not any(isinstance(m, nn.AdaptiveAvgPool2d) for m in RecogniserVGG(3).modules())


def test_an_image_too_small_to_recognise_is_told():
    for network in (RecogniserVGG(3), RecogniserResidual(3).eval()):
        assert network(torch.rand(1, 3, 8, 9)).shape == (1, 3)
        with pytest.raises(AirpipeError, match="the recogniser got an image of 9x7 pixels; it needs 8x8"):
            network(torch.rand(1, 3, 7, 9))
