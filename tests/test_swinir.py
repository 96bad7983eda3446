"""SwinIR and its variants compute what the published implementations compute, and what a plain restatement computes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import Golden, fill_parameters, load_golden, make_input
from torch import Tensor, nn

from airpipe import build_network, load_published
from airpipe.errors import AirpipeError
from airpipe.methods.dcpt.backbones import SwinIRDCPT
from airpipe.models import swinir
from airpipe.models.cost import count_parameters, multiply_accumulates
from airpipe.models.swinir import MASKED, SwinIR, relative_index, shift_mask

GOLDENS = Path(__file__).parent / "goldens"
PLAIN = ["swinir_small", "swinir_small_3conv", "swinir_full"]
FORK = ["swinir_dcpt_small", "swinir_dcpt_5d"]
SMALL = {"depths": [2, 2], "embed_dim": 12, "num_heads": [2, 3], "window_size": 4}


def golden_of(name: str) -> Golden:
    return load_golden(GOLDENS / f"{name}.npz")


def network_of(name: str) -> str:
    return "swinir_dcpt" if "dcpt" in name else "swinir"


def published(name: str, **options) -> tuple[nn.Module, Golden]:
    golden = golden_of(name)
    model = build_network(network_of(name), **golden.config, **options)
    return load_published(model, golden.reference_state()).eval(), golden


def filled(**arguments) -> SwinIR:
    model = SwinIR(**{**SMALL, **arguments})
    fill_parameters(model)
    return model.eval()


def run(model: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return model(image)


@pytest.mark.parametrize("name", PLAIN)
def test_outputs_and_intermediate_maps_equal_the_golden(name):
    """In float64: maps of the full network reach 66, where float32 alone is 1e-4 off."""
    model, golden = published(name)
    assert count_parameters(model) == golden.n_params
    torch.testing.assert_close(run(model, golden.input()), golden.outputs["out"], rtol=1e-4, atol=1e-4)
    model.double()
    watched = {"conv_first": model.conv_first, "patch_embed": model.embed_norm, "norm": model.norm}
    watched |= {"conv_after_body": model.conv_after_body}
    watched |= {f"block{i}": block for i, block in enumerate(model.layers[0].blocks[:2])}
    watched |= {f"rstb{i}": layer for i, layer in enumerate(model.layers)}
    maps = {}
    for key, module in watched.items():
        module.register_forward_hook(lambda m, i, o, key=key: maps.update({key: o}))
    out = run(model, golden.input().double())
    found = {key: value if "conv" in key else value.permute(0, 3, 1, 2) for key, value in maps.items()}
    found = {"out": out} | {key: value[:, :4] for key, value in found.items()}
    assert set(found) == set(golden.outputs)
    for key, expected in golden.outputs.items():
        torch.testing.assert_close(found[key], expected.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FORK)
def test_the_fork_of_dcpt_equals_its_golden(name):
    model, golden = published(name)
    assert count_parameters(model) == golden.n_params
    maps = {}
    model.layers[0].register_forward_hook(lambda m, i, o: maps.update(first=o.flatten(1, 2)[..., :32]))
    found = {"out": run(model, golden.input()), "encode_layers0_first32": maps["first"]}
    with torch.no_grad():
        sixth, _, fourth = (feature.mean((2, 3)) for feature in model(golden.input(), features=True))
    found |= {"decode_layers0_mean": fourth, "decode_layers2_mean": sixth}
    assert set(found) == set(golden.outputs)
    for key, expected in golden.outputs.items():
        torch.testing.assert_close(found[key], expected, rtol=1e-4, atol=1e-4)


def test_features_for_the_classifier_come_in_its_order():
    golden = golden_of("dcpt_hook_swinir_small")
    config = {key: value for key, value in golden.config["net_g"].items() if key != "type"}
    state = {k.removeprefix("net_g."): v for k, v in golden.reference_state().items() if k.startswith("net_g.")}
    model = load_published(build_network("swinir_dcpt", **config), state)
    with torch.no_grad():
        features = model(golden.input(), features=True)
    assert [tuple(f.shape) for f in features] == [(2, 24, 32, 32)] * 3
    assert model.feature_channels == [24, 24, 24] == golden.config["net_dc"]["feature_dims"]
    for i, feature in enumerate(features):
        expected = golden.outputs[f"feature{i}_mean"]
        torch.testing.assert_close(feature.mean((2, 3)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "prefix"), [("degae_swinir_small", "PretrainEncoder."), ("degae_finetune_swinir_full", "Encoder.")]
)
def test_the_encoder_of_degae_equals_its_golden(name, prefix):
    golden = golden_of(name)
    state = {k.removeprefix(prefix): v for k, v in golden.reference_state().items() if k.startswith(prefix)}
    model = load_published(build_network("swinir", **golden.config["encoder"], output="features"), state).eval()
    features = run(model, golden.input())
    assert features.shape[-2:] == golden.input().shape[-2:]
    torch.testing.assert_close(features[:, :8], golden.outputs["encoder_features"], rtol=1e-4, atol=1e-4)
    unused = {key: value for key, value in state.items() if key.startswith(("conv_after_body.", "conv_last."))}
    assert sum(p.numel() for p in (*model.parameters(), *unused.values())) == sum(v.numel() for v in state.values())
    back = model.published_state(buffers=True)  # as strict loading wants it
    assert all(torch.equal(back[key], torch.zeros_like(state[key])) for key in unused)
    assert all(torch.equal(back[key], value) for key, value in state.items() if key not in unused)


def test_without_the_shift_mask_the_golden_is_missed():
    model, golden = published("swinir_small", attn_mask=False)
    assert (run(model, golden.input()) - golden.outputs["out"]).abs().max() > 0.1


# A restatement that knows only published names: windows are visited one by one, no roll, no mask tensor.


def plain_attention(tokens: Tensor, state: dict[str, Tensor], name: str, heads: int, shift: int, options) -> Tensor:
    height, width, channels = tokens.shape
    side, d = options["window_size"], channels // heads
    result = torch.empty_like(tokens)
    band = {"y": (height - side, height - shift), "x": (width - side, width - shift)}
    table = state.get(f"{name}.relative_position_bias_table")
    for top in range(0, height, side):
        for left in range(0, width, side):
            places = [(top + y, left + x) for y in range(side) for x in range(side)]
            ys = [(y + shift) % height for y, _ in places]
            xs = [(x + shift) % width for _, x in places]
            parts = F.linear(tokens[ys, xs], state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"]).split(channels, 1)
            labels = [(sum(y >= b for b in band["y"]), sum(x >= b for b in band["x"])) for y, x in places]
            mixed = []
            for h in range(heads):
                q, k, v = (part[:, h * d : (h + 1) * d] for part in parts)
                logits = q @ k.T / math.sqrt(d)
                for i, (yi, xi) in enumerate(places):
                    for j, (yj, xj) in enumerate(places):
                        if table is not None:
                            logits[i, j] += table[(yi - yj + side - 1) * (2 * side - 1) + xi - xj + side - 1, h]
                        if shift and options["attn_mask"] and labels[i] != labels[j]:
                            logits[i, j] -= 100
                mixed.append(logits.softmax(1) @ v)
            result[ys, xs] = F.linear(torch.cat(mixed, 1), state[f"{name}.proj.weight"], state[f"{name}.proj.bias"])
    return result


def plain_convolution(image: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    if f"{name}.weight" in state:
        return F.conv2d(image, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
    for i, padding in ((0, 1), (2, 0), (4, 1)):
        image = F.leaky_relu(image, 0.2) if i else image
        image = F.conv2d(image, state[f"{name}.{i}.weight"], state[f"{name}.{i}.bias"], padding=padding)
    return image


def plain_swinir(image: Tensor, state: dict[str, Tensor], options) -> Tensor:
    """(1, C, H, W), multiples of the window."""

    def norm(tokens: Tensor, name: str) -> Tensor:
        return F.layer_norm(tokens, tokens.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1) if options["rgb_mean"] else 0
    factor = options["img_range"] if options["rgb_mean"] else 1
    x = (image - mean) * factor
    shallow = plain_convolution(x, state, "conv_first")
    tokens = norm(shallow[0].permute(1, 2, 0), "patch_embed.norm")
    for group, (depth, heads) in enumerate(zip(options["depths"], options["num_heads"], strict=True)):
        before = tokens
        for number in range(depth):
            name = f"layers.{group}.residual_group.blocks.{number}"
            shift = options["window_size"] // 2 if number % 2 else 0
            mixed = norm(tokens, f"{name}.norm1")
            tokens = tokens + plain_attention(mixed, state, f"{name}.attn", heads, shift, options)
            mixed = F.linear(norm(tokens, f"{name}.norm2"), *(state[f"{name}.mlp.fc1.{k}"] for k in ("weight", "bias")))
            mixed = mixed * 0.5 * (1 + torch.erf(mixed / math.sqrt(2)))
            tokens = tokens + F.linear(mixed, *(state[f"{name}.mlp.fc2.{k}"] for k in ("weight", "bias")))
        mixed = plain_convolution(tokens.permute(2, 0, 1)[None], state, f"layers.{group}.conv")
        tokens = before + mixed[0].permute(1, 2, 0)
    body = norm(tokens, "norm").permute(2, 0, 1)[None]
    out = plain_convolution(plain_convolution(body, state, "conv_after_body") + shallow, state, "conv_last")
    return (x + out if options["global_residual"] else out) / factor + mean


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"relative_bias": False},
        {"attn_mask": False, "rgb_mean": True, "img_range": 255.0},
        {"relative_bias": False, "attn_mask": False, "rgb_mean": True},
        {"rgb_mean": True, "img_range": 2.0, "global_residual": False, "resi_connection": "3conv"},
        {"window_size": 3, "depths": [3], "num_heads": [4], "mlp_ratio": 1.7},
        {"window_size": 2, "depths": [1, 4, 2], "num_heads": [1, 6, 12]},
        {"window_size": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("windows", [(1, 1), (2, 3)])
def test_every_configuration_equals_a_plain_restatement(changes, windows):
    model = filled(**changes).double()
    defaults = {"relative_bias": True, "attn_mask": True, "rgb_mean": False, "img_range": 1.0, "global_residual": True}
    options = {**SMALL, **defaults, **changes}
    image = make_input((1, 3, *(n * options["window_size"] for n in windows))).double()
    expected = plain_swinir(image, model.published_state(), options)
    torch.testing.assert_close(run(model, image), expected.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (3, 21), (5, 4), (7, 5), (33, 40)])
def test_any_size_equals_padding_by_hand(size):
    model, exact = filled(), filled(pad="none")
    image = make_input((2, 3, *size))
    by_hand = image.numpy()
    for axis in (2, 3):
        missing = -by_hand.shape[axis] % 4
        widths = [(0, missing if i == axis else 0) for i in range(4)]
        by_hand = np.pad(by_hand, widths, mode="reflect" if missing < by_hand.shape[axis] else "edge")
    by_hand = torch.from_numpy(by_hand)
    height, width = size
    torch.testing.assert_close(run(model, image), run(exact, by_hand)[..., :height, :width])
    with torch.no_grad():
        found, padded = model(image, features=True), exact(by_hand, features=True)
    assert [f.shape for f in found] == [(2, 12, height, width)]
    torch.testing.assert_close(found[0], padded[0][..., :height, :width])
    if height % 4 or width % 4:
        with pytest.raises(ValueError, match=f"image is {width}x{height}; both must be multiples of 4"):
            exact(image)


@pytest.mark.parametrize("groups", [1, 2, 5, 6])
def test_features_are_the_second_half_of_the_groups_last_first(groups):
    model = filled(depths=[1] * groups, num_heads=[2] * groups)
    maps = []
    for layer in model.layers:
        layer.register_forward_hook(lambda m, i, o: maps.append(o.permute(0, 3, 1, 2)))
    with torch.no_grad():
        features = model(make_input((1, 3, 8, 4)), features=True)
    expected = maps[groups // 2 :][::-1]
    assert len(features) == len(expected) == len(model.feature_channels)
    assert all(torch.equal(a, b) for a, b in zip(features, expected, strict=True))


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_index_tables_equal_their_definition(window):
    index = relative_index(window)
    for i in range(window**2):
        for j in range(window**2):
            (yi, xi), (yj, xj) = divmod(i, window), divmod(j, window)
            assert index[i, j] == (yi - yj + window - 1) * (2 * window - 1) + xi - xj + window - 1


@pytest.mark.parametrize(("height", "width", "window"), [(4, 4, 4), (8, 12, 4), (6, 9, 3), (4, 6, 2), (7, 14, 7)])
def test_shift_masks_equal_their_definition(height, width, window):
    shift = window // 2

    def band(position: int, length: int) -> int:
        return 0 if position < length - window else 1 if position < length - shift else 2

    mask = shift_mask(height, width, window)
    per_row = width // window
    assert mask.shape == (height // window * per_row, window**2, window**2)
    for m in range(len(mask)):
        places = [(m // per_row * window + y, m % per_row * window + x) for y in range(window) for x in range(window)]
        labels = [3 * band(y, height) + band(x, width) for y, x in places]
        expected = [[0.0 if a == b else -100.0 for b in labels] for a in labels]
        assert mask[m].tolist() == expected


@pytest.mark.parametrize("variant", [{}, {"relative_bias": False}, {"relative_bias": False, "attn_mask": False}])
@pytest.mark.parametrize("multiple", [1, 8])
def test_fused_attention_equals_matrix_products(variant, multiple, monkeypatch):
    image = make_input((2, 3, 8, 12))
    results = []
    for fused in (False, True):
        monkeypatch.setattr(swinir, "fused_is_faster", lambda query, bias, fused=fused: fused)
        monkeypatch.setattr(swinir, "head_multiple", lambda device, fused=fused: multiple if fused else 1)
        model = filled(**variant)
        out = model(image)
        out.square().mean().backward()
        results.append([out, *(p.grad for p in model.parameters())])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_fused_attention_is_used_where_it_is_faster():
    query = torch.empty(1, 4, 2, 16, 6)
    bias = torch.zeros(1, 2, 16, 16)
    assert swinir.fused_is_faster(query, None)
    assert swinir.fused_is_faster(query, bias)
    assert not swinir.fused_is_faster(query, bias.requires_grad_())
    assert not swinir.fused_is_faster(query.bfloat16(), None)
    assert not swinir.fused_is_faster(query.to("meta"), None)


@pytest.mark.parametrize("name", PLAIN + FORK)
def test_published_states_come_back_bit_for_bit(name):
    model, golden = published(name)
    state, returned = golden.reference_state(), model.published_state()
    assert set(returned) == set(state)
    assert all(torch.equal(returned[key], state[key]) for key in state)
    everything = model.published_state(buffers=True)
    assert set(everything) == {*golden.keys, *golden.other_keys}
    assert [key for key in golden.other_keys if model.published_key(key) is not None] == []


def test_published_buffers_are_those_of_the_configured_64_pixels():
    everything = build_network("swinir", **golden_of("swinir_small").config).published_state(buffers=True)
    index = everything["layers.1.residual_group.blocks.0.attn.relative_position_index"]
    assert torch.equal(index, relative_index(4)) and index.dtype == torch.int64
    assert torch.equal(everything["layers.1.residual_group.blocks.1.attn_mask"], shift_mask(64, 64, 4))
    assert int((everything["layers.0.residual_group.blocks.1.attn_mask"] == MASKED).sum()) > 0


@pytest.mark.parametrize("own_names", [False, True])
@pytest.mark.parametrize("name", PLAIN + FORK)
def test_arguments_are_read_off_keys_and_shapes(name, own_names):
    model, golden = published(name)
    state = model.state_dict() if own_names else golden.reference_state()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    network = network_of(name)
    right, wrong = (SwinIRDCPT, SwinIR) if network == "swinir_dcpt" else (SwinIR, SwinIRDCPT)
    assert wrong.arguments_from(shapes) is None
    arguments = right.arguments_from(shapes)
    known = {key: value for key, value in golden.config.items() if key in arguments}
    chosen = {"global_residual": True} if network == "swinir" else {"num_heads": [6] * 6}
    assert {**known, **chosen} == {key: arguments[key] for key in known}
    assert set(golden.config) - set(known) <= {"upscale", "upsampler", "img_range"}
    load_published(build_network(network, **arguments), state)


sizes = st.integers(1, 3)


@settings(max_examples=25, deadline=None)
@given(
    depths=st.lists(sizes, min_size=1, max_size=12),
    heads=st.lists(sizes, min_size=12, max_size=12),
    width=st.integers(1, 31),
    window=st.integers(1, 8),
    ratio=st.floats(0.2, 5),
    in_chans=st.sampled_from([1, 3]),
    connection=st.sampled_from(["1conv", "3conv"]),
)
def test_arguments_of_random_configurations_are_found(depths, heads, width, window, ratio, in_chans, connection):
    expected = {"depths": depths, "num_heads": heads[: len(depths)], "embed_dim": 6 * width, "window_size": window}
    expected |= {"in_chans": in_chans, "resi_connection": connection}
    with torch.device("meta"):
        model = SwinIR(**expected, mlp_ratio=ratio)
    shapes = {key: tuple(value.shape) for key, value in model.published_state().items()}
    found = SwinIR.arguments_from(shapes)
    assert {key: found[key] for key in expected} == expected
    assert int(6 * width * found["mlp_ratio"]) == int(6 * width * ratio)
    assert found["rgb_mean"] and found["global_residual"]
    assert SwinIRDCPT.arguments_from(shapes) is None


@pytest.mark.parametrize(("width", "heads"), [(24, 6), (20, 5), (8, 4), (7, 1)])
def test_heads_of_the_fork_are_six_or_the_largest_smaller_divisor(width, heads):
    with torch.device("meta"):
        model = SwinIRDCPT(embed_dim=width, depths=[1, 2, 1, 1, 1, 3], num_heads=[1] * 6, mlp_ratio=3)
    shapes = {key: tuple(value.shape) for key, value in model.published_state().items()}
    found = SwinIRDCPT.arguments_from(shapes)
    assert found["num_heads"] == [heads] * 6 and found["depths"] == [1, 2, 1, 1, 1, 3]
    assert found["mlp_ratio"] == 3 and found["window_size"] == 8
    assert SwinIR.arguments_from(shapes) is None


def test_other_states_are_no_swinir():
    shapes = dict(golden_of("swinir_small").keys)
    for cls in (SwinIR, SwinIRDCPT):
        assert cls.arguments_from(golden_of("nafnet_small").keys) is None
        assert cls.arguments_from({**shapes, "upsample.0.weight": (96, 24, 3, 3)}) is None
        assert cls.arguments_from({k: v for k, v in shapes.items() if "qkv.bias" not in k}) is None
    assert SwinIR.arguments_from(shapes) is not None


def test_branches_are_dropped_at_rates_that_rise_from_zero():
    model = SwinIR(**{**SMALL, "depths": [3, 2]}, drop_path_rate=0.4).train()
    torch.manual_seed(1)
    kept = model._kept(torch.zeros(20000, 1, 1, 12))
    rates = torch.tensor([0, 0.1, 0.2, 0.3, 0.4])[:, None, None]
    assert kept.shape == (5, 2, 20000)
    torch.testing.assert_close((kept == 0).float().mean(2, keepdim=True), rates.expand(5, 2, 1), rtol=0, atol=0.015)
    scale = (1 / (1 - rates)).expand_as(kept)
    torch.testing.assert_close(kept[kept != 0], scale[kept != 0])
    assert (kept[1, 0] != kept[1, 1]).any()


def test_a_dropped_branch_leaves_its_sample_alone_and_kept_ones_are_scaled():
    model = filled()
    block, index, tokens = model.layers[0].blocks[0], relative_index(4), make_input((2, 4, 8, 12))
    with torch.no_grad():
        usual = block(tokens, index, None, None)
        attention = tokens + 2 * block.attn(block.norm1(tokens), index, None)
        dropped = block(tokens, index, None, torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
    assert torch.equal(dropped[0], tokens[0])
    torch.testing.assert_close(dropped[1], attention[1])
    assert not torch.allclose(dropped[1], usual[1])


def test_only_training_drops_and_its_seed_decides_what():
    model, image = filled(drop_path_rate=0.5), make_input((8, 3, 8, 8))
    expected = run(model, image)
    model.train()
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(run(model, image))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])
    assert not torch.allclose(outputs[0], expected)
    model.drop_path_rate = 0
    assert torch.equal(run(model, image), expected)
    assert SwinIR(**SMALL).drop_path_rate == 0.1
    assert SwinIRDCPT(12, [1] * 6, [2] * 6).drop_path_rate == 0


def test_a_fresh_network_starts_as_published():
    torch.manual_seed(0)
    model = SwinIR(depths=[2], num_heads=[6])
    block = model.layers[0].blocks[1]
    for weight in (block.attn.qkv.weight, block.mlp.fc1.weight, block.attn.relative_position_bias_table):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.attn.proj.bias.abs().max() == 0 and torch.equal(block.norm2.weight, torch.ones(180))


def unique_graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.fixture
def counted():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("variant", [{"drop_path_rate": 0.2}, {"relative_bias": False, "attn_mask": False}])
def test_it_compiles_into_one_graph_with_its_gradients(variant, counted):
    model, image = filled(**variant).train(), make_input((2, 3, 9, 8))
    torch.manual_seed(3)
    expected = model(image)
    expected.square().mean().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        model.zero_grad()
        torch.manual_seed(3)
        found = compiled(image)
        found.square().mean().backward()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)
    assert unique_graphs() == 1
    assert not torch._dynamo.utils.counters["graph_break"]


def test_groups_compiled_alone_share_one_graph(counted):
    model, image = filled(depths=[2] * 4, num_heads=[3] * 4, drop_path_rate=0.2).train(), make_input((2, 3, 8, 8))
    for layer in model.layers:
        layer.compile(backend="aot_eager", fullgraph=True)
    for _ in range(2):
        model(image).mean().backward()
        assert unique_graphs() == 1


def test_channels_last_and_bfloat16_stay_close_to_float32():
    model, golden = published("swinir_small")
    image, expected = golden.input(), golden.outputs["out"]
    last = run(model.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)
    error = (expected - image).square().mean().sqrt()
    with torch.autocast("cpu", torch.bfloat16):
        assert (run(model, image) - expected).square().mean().sqrt() < 0.02 * error
    half = run(model.bfloat16(), image.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).square().mean().sqrt() < 0.02 * error


@pytest.mark.parametrize(
    ("output", "parameters", "expected"), [("image", 11_504_163, 800.3), ("features", 11_207_520, 780.9)]
)
def test_the_full_network_costs_what_the_published_one_costs(output, parameters, expected):
    with torch.device("meta"):
        model = build_network("swinir", output=output)
    assert count_parameters(model) == parameters
    assert multiply_accumulates(model) / 1e9 == pytest.approx(expected, abs=0.05)


def test_any_number_of_image_channels_has_a_mean():
    assert filled(in_chans=1, rgb_mean=True).mean.flatten().tolist() == [0]
    assert filled(rgb_mean=True).mean.flatten().tolist() == pytest.approx([0.4488, 0.4371, 0.4040])
    assert run(filled(in_chans=1, rgb_mean=True), make_input((1, 1, 5, 6))).shape == (1, 1, 5, 6)


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        ("swinir", {"upscale": 2}, "upscale is 2, upsampler ''; only restoration"),
        ("swinir", {"upsampler": "pixelshuffle"}, "upsampler 'pixelshuffle'; only restoration"),
        ("swinir", {"num_heads": [6]}, "must have one entry for each group"),
        ("swinir", {"depths": [], "num_heads": []}, "must have one entry for each group"),
        ("swinir", {"depths": [1, 0], "num_heads": [1, 1]}, "all at least 1"),
        ("swinir", {"embed_dim": 100}, "must each divide embed_dim 100"),
        ("swinir", {"window_size": 0}, "window_size"),
        ("swinir", {"drop_path_rate": 1}, "drop_path_rate is 1; expected"),
        ("swinir", {"resi_connection": "2conv"}, "resi_connection is '2conv'; expected '1conv' or '3conv'"),
        ("swinir", {"pad": "zero"}, "pad is 'zero'; expected 'reflect' or 'mirror' or 'none'"),
        ("swinir", {"output": "tokens"}, "output is 'tokens'; expected 'image' or 'features'"),
        ("swinir", {"windows": 8}, "windows"),
        ("swinir_dcpt", {"depths": [2, 2], "num_heads": [6, 6]}, "has 2 groups; the DCPT fork has 6"),
        ("swinir_dcpt", {"upscale": 4}, "upscale is 4"),
    ],
)
def test_impossible_arguments_get_one_clear_message(network, arguments, message):
    with pytest.raises(AirpipeError, match=message):
        build_network(network, **arguments)
