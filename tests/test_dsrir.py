"""DSRIR's network and losses compute what the published code does; any size, grids and steps."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from parity import Golden, fill_parameters, load_golden, make_input
from torch import Tensor

from airpipe import build_network, load_published
from airpipe.errors import AirpipeError
from airpipe.evaluation.restore import restore
from airpipe.methods.dsrir.losses import VGG_LAYERS, contrastive_loss, psnr_loss, uncertainty_loss
from airpipe.methods.dsrir.network import DSRIR, PatchAttention
from airpipe.models.cost import network_cost
from airpipe.models.vgg import VGG19Features

GOLDENS = Path(__file__).parent / "goldens"
OTHERS = {
    "biases": {"bias": True, "kernel_size": 5, "reduction": 3},
    "grids": {"sn1_grids": [6, 2, 1], "sn2_grids": [3, 5], "sn3_grids": [1, 2, 6], "sn3_blocks": 3},
    "sizes": {"sn_feats": [6, 10, 4], "steps": [3, 0], "sn1_blocks": [1, 3, 2], "sn2_blocks": [3, 1], "in_channels": 1},
}
"""Configurations without golden, on top of the small one."""


def golden_of(name: str) -> Golden:
    return load_golden(GOLDENS / f"dsrir_{name}.npz")


def arguments_of(name: str = "") -> dict:
    changes = OTHERS.get(name, {})
    return golden_of("small").config | changes | {"out_channels": changes.get("in_channels", 3)}


def small(name: str = "", **changes) -> DSRIR:
    network = DSRIR(**{**arguments_of(name), **changes})
    fill_parameters(network)
    return network.eval()


def close(found: Tensor, expected: Tensor) -> None:
    """Values reach a hundred, because the filled weights do not shrink them: small ones are differences of large."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def images_and_maps(network: DSRIR, image: Tensor) -> dict[str, Tensor]:
    images, maps = network(image, stages=True)
    assert len(images) == len(maps) == 3
    return {f"{what}{3 - at}": one for what, made in (("img", images), ("var", maps)) for at, one in enumerate(made)}


# The network


@pytest.mark.parametrize("name", ["full", "small"])
def test_images_maps_and_what_is_between_equal_their_golden(name):
    golden = golden_of(name)
    net = build_network("dsrir", **golden.config).eval()
    load_published(net, golden.reference_state())
    assert sum(parameter.numel() for parameter in net.parameters()) == golden.n_params
    found: dict[str, Tensor] = {}
    for part in ("SN1", "PRU1", "SN2", "SN3"):
        net.get_submodule(part).register_forward_hook(
            lambda _, given, made, part=part: found.update({f"{part.lower()}_in": given[0], part.lower(): made})
        )
    with torch.no_grad():
        final = net(golden.input())
        found |= images_and_maps(net, golden.input())
    assert torch.equal(final, found["img3"])
    for key, expected in golden.outputs.items():
        close(found[key.removesuffix("_first8")][:, : expected.shape[1]], expected)


def plain(state: dict[str, Tensor], image: Tensor, options: dict) -> tuple[list[Tensor], list[Tensor]]:
    """Section 1 of the specification word by word, the first stage first."""

    def conv(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def gate(x: Tensor, name: str) -> Tensor:
        return torch.sigmoid(conv(F.relu(conv(x, f"{name}.0")), f"{name}.2"))

    def block(x: Tensor, name: str, grid: int) -> Tensor:
        y = conv(F.relu(conv(x, f"{name}.conv1")), f"{name}.conv2")
        weights = gate(F.adaptive_avg_pool2d(y, grid), f"{name}.PA.conv_du")
        rows, columns = (side // grid for side in y.shape[-2:])
        return x + y * weights.repeat_interleave(rows, 2).repeat_interleave(columns, 3)

    def blocks(x: Tensor, name: str, count: int, grid: int) -> Tensor:
        for number in range(count):
            x = block(x, f"{name}.{number}", grid)
        return x

    def resized(x: Tensor, factor: float, name: str) -> Tensor:
        return conv(F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False), name)

    def pyramid(x: Tensor, name: str, counts: list[int], grids: list[int], scale: int = 1) -> Tensor:
        e = blocks(x, f"{name}.encoder{scale}", counts[0], grids[0])
        d = e
        if len(counts) > 1:
            lower = resized(e, 0.5, f"{name}.down{scale}.down.1")
            lower = pyramid(lower, name, counts[1:], grids[1:], scale + 1)
            d = resized(lower, 2, f"{name}.up{scale}.up.1") + block(e, f"{name}.skipatt{scale}", grids[0])
        return blocks(d, f"{name}.decoder{scale}", counts[0], grids[0])

    def groups(x: Tensor) -> Tensor:
        for group in range(1, 5):
            y = x
            for number, grid in enumerate(options["sn3_grids"]):
                y = block(y, f"SN3.PAG{group}.body.{number}", grid)
            x = x + conv(y, f"SN3.PAG{group}.body.{options['sn3_blocks']}")
        return x

    def end(x: Tensor, stage: int) -> Tensor:
        u = conv(x, f"PRU{stage}.conv")
        x = gate(u, f"PRU{stage}.fr") * u + x
        name = f"usau_{stage}"
        f = conv(x, f"{name}.conv1") + conv(image, f"{name}.conv_in")
        v = F.leaky_relu(conv(f, f"{name}.var_est.0"), 0.1)
        images.append(conv(f, f"{name}.conv_out") + image)
        maps.append(F.leaky_relu(conv(v, f"{name}.var_map.0"), 0.1))
        return torch.sigmoid(conv(v, f"{name}.att_map.0")) * conv(x, f"{name}.conv2") + x

    images: list[Tensor] = []
    maps: list[Tensor] = []
    x1, x2, x3 = conv(image, "ebd").split(options["sn_feats"], 1)
    t1 = end(pyramid(x1, "SN1", options["sn1_blocks"], options["sn1_grids"]), 1)
    t2 = conv(torch.cat([t1, x2], 1), "channel_comp1")
    t2 = end(pyramid(t2, "SN2", options["sn2_blocks"], options["sn2_grids"]), 2)
    end(groups(conv(torch.cat([t2, x3], 1), "channel_comp2")), 3)
    return images, maps


@pytest.mark.parametrize("name", OTHERS)
def test_other_configurations_equal_a_plain_restatement(name):
    net, options = small(name).double(), arguments_of(name)  # rounding grows with the features, up to a hundred
    sides = (net.size_multiple, 2 * net.size_multiple)
    image = make_input((2, options["in_channels"], *sides), 3).double()
    with torch.no_grad():
        images, maps = net(image, stages=True)
        expected = plain(net.state_dict(), image, options)
    for found, wanted in zip((*images, *maps), (*expected[0][::-1], *expected[1][::-1]), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_sides_are_multiples_of_what_all_grids_and_scales_need():
    assert [small(name).size_multiple for name in ("", *OTHERS)] == [8, 8, 60, 8]
    assert small(sn1_grids=[1, 1, 1], sn2_grids=[1, 1], sn3_grids=[1, 1, 1, 1]).size_multiple == 4


@pytest.mark.parametrize("size", [(16, 23), (9, 24), (1, 2)], ids=str)
def test_images_of_any_size_are_mirrored_to_a_multiple_and_cut_back(size):
    net, image = small(), make_input((2, 3, *size))
    rows, columns = (-side % 8 for side in size)
    mode = "reflect" if min(size) > 7 else "replicate"
    with torch.no_grad():
        images, maps = net(image, stages=True)
        expected = net(F.pad(image, (0, columns, 0, rows), mode), stages=True)
    for found, wanted in zip((*images, *maps), (*expected[0], *expected[1]), strict=True):
        assert torch.equal(found, wanted[..., : size[0], : size[1]])


def test_the_published_crop_restores_the_centre():
    net, image = small(fit="crop"), make_input((1, 3, 21, 19))
    with torch.no_grad():
        assert torch.equal(net(image), net(image[..., 2:18, 1:17]))
        images, maps = net(image, stages=True)
    assert {one.shape for one in (*images, *maps)} == {(1, 3, 16, 16)}
    with pytest.raises(ValueError, match="image is 19x7; cropped to multiples of 8, nothing is left of it"):
        net(image[..., :7, :])


def test_photographs_keep_their_size_with_a_network_that_crops():
    photo = make_input((1, 3, 21, 19))[0]
    assert restore(photo, small(fit="crop")).shape == photo.shape


def test_cells_grow_with_the_image():
    net, image = small().SN1.encoder1[0].PA, make_input((1, 8, 16, 32))
    seen: list[Tensor] = []
    net.conv_du.register_forward_hook(lambda _, given, made: seen.append(given[0]))
    with torch.no_grad():
        net(image)
        net(image.repeat_interleave(3, 2).repeat_interleave(5, 3))
    assert seen[0].shape[-2:] == (8, 8)
    torch.testing.assert_close(*seen)


@pytest.mark.parametrize("grid", [2, 8])
def test_each_pixel_is_weighed_by_its_own_cell_at_any_size_of_cells(grid):
    part = PatchAttention(1, grid, 1)
    part.conv_du = torch.nn.Identity()  # a cell's weight is its mean
    cells = make_input((1, 1, grid, grid)).repeat_interleave(41, 2).repeat_interleave(47, 3)
    torch.testing.assert_close(part(cells), cells.square(), rtol=1e-4, atol=0)


def test_what_nothing_follows_gets_no_gradient_and_all_else_does():
    net = small()
    images, maps = net(make_input((1, 3, 16, 16)), stages=True)
    torch.stack([one.square().mean() for one in (*images, *maps)]).sum().backward()
    without = {name.rsplit(".", 1)[0] for name, parameter in net.named_parameters() if parameter.grad is None}
    assert without == {"usau_3.conv2", "usau_3.att_map.0"}


def test_the_full_size_is_that_of_the_published_code():
    cost = network_cost("dsrir", {})
    assert cost["parameters"] == 3_516_837
    assert cost["macs"] / 1e9 == pytest.approx(138.36, rel=2.5e-3)  # of the published code, by an unknown counter
    parts = {"ebd": 3_888, "SN1": 1_157_324, "PRU1": 11_556, "usau_1": 14_947, "channel_comp1": 3_840}
    parts |= {"SN2": 815_246, "PRU2": 25_974, "usau_2": 31_635, "channel_comp2": 7_168}
    parts |= {"SN3": 1_344_640, "PRU3": 46_152, "usau_3": 54_467}
    net = DSRIR()
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()} == parts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sn_feats": [32, 48]}, r"sn_feats is \[32, 48\]; expected 3 numbers from 1"),
        ({"steps": [32]}, r"steps is \[32\]; expected 2 numbers from 0"),
        ({"sn1_grids": [8, 4, 0]}, r"sn1_grids is \[8, 4, 0\]; expected 3 numbers from 1"),
        ({"sn2_blocks": [2, 2, 2]}, r"sn2_blocks is \[2, 2, 2\]; expected 2 numbers from 1"),
        ({"sn3_blocks": 3}, r"sn3_grids is \[8, 4, 2, 1\]; expected 3 numbers from 1"),
        ({"sn3_blocks": 0, "sn3_grids": []}, "sn3_blocks is 0; expected 1 or more"),
        ({"out_channels": 1}, "in_channels 3 and out_channels 1 differ; the image is added"),
        ({"kernel_size": 4}, "kernel_size is 4; expected an odd number"),
        ({"reduction": 64}, "reduction is 64; expected 1 to 32, the fewest channels"),
        ({"fit": "published"}, "fit is 'published'; expected 'pad' or 'crop'"),
        ({"grids": [8]}, "unexpected keyword argument 'grids'"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(AirpipeError, match=f"network dsrir: .*{message}"):
        build_network("dsrir", **arguments)


# The losses


def given() -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Clean and degraded images, images and maps of the stages, as the golden has them."""
    golden = golden_of("losses")
    clean, degraded, *made = (golden.input(at) for at in range(8))
    return clean, degraded, made[:3], [2 * one - 0.5 for one in made[3:]]


def test_losses_and_gradients_equal_their_golden():
    golden, (clean, degraded, images, maps) = golden_of("losses"), given()
    vgg = VGG19Features()
    fill_parameters(vgg)
    vgg.requires_grad_(False)
    for one in (*images, *maps):
        one.requires_grad_()
    losses = {
        "uncertainty": uncertainty_loss(images, maps, clean),
        "psnr": psnr_loss(images, clean),
        "contrastive": contrastive_loss(lambda shown: vgg(shown, VGG_LAYERS, normalise=False), images, clean, degraded),
    }
    total = losses["uncertainty"] + losses["psnr"] + golden.config["weights"]["contrastive"] * losses["contrastive"]
    total.backward()
    found = {f"loss_{name}": loss.detach()[None] for name, loss in {**losses, "total": total}.items()}
    grads = {"img3": images[0], "img2": images[1], "img1": images[2], "var3": maps[0]}
    found |= {f"grad_{name}_x1000": 1000 * one.grad for name, one in grads.items()}
    assert set(found) == set(golden.outputs)
    for name, expected in golden.outputs.items():
        close(found[name], expected)


def test_an_uncertain_pixel_costs_less_for_its_error_and_more_for_its_doubt():
    clean, _, images, _ = given()
    error = (images[0] - clean).abs().mean().item()
    for doubt in (-0.5, 0.0, 1.0):
        found = uncertainty_loss([images[0]], [torch.full_like(clean, doubt)], clean).item()
        assert found == pytest.approx(error * torch.tensor(-doubt).exp().item() + 2 * doubt, abs=1e-5)


def test_the_loss_in_decibels_is_the_negative_psnr():
    clean = torch.zeros(2, 3, 8, 8)
    images = [torch.full_like(clean, 10 ** (-decibels / 20)) for decibels in (30, 20, 24)]
    assert psnr_loss(images, clean).item() == pytest.approx(-30 - 0.5 * 22, abs=1e-2)
    assert psnr_loss([clean] * 3, clean).item() == pytest.approx(-80 - 40)


@pytest.mark.parametrize("maps", [1, 3, 5])
def test_of_fewer_maps_the_deepest_weighs_as_published(maps):
    clean, degraded, images, _ = given()

    def features(shown: Tensor) -> list[Tensor]:
        return [shown] * maps

    one = contrastive_loss(lambda shown: [shown], images, clean, degraded).item()
    weights = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1][-maps:]
    assert contrastive_loss(features, images, clean, degraded).item() == pytest.approx(sum(weights) * one, rel=1e-5)
