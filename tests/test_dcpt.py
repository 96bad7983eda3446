"""DCPT's head, losses and stages compute what the published code does, and resume, share and hand on their models."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import Stage, card, curve, model_of, stage, train
from lightning_fabric import Fabric
from parity import Golden, load_golden, make_input
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from toys.dcpt import HEAD, NAFNET, RATE

from airpipe import build_network, load_published
from airpipe.data.batch import Batch
from airpipe.errors import AirpipeError
from airpipe.methods.dcpt.network import DCPT, DegradationHead
from airpipe.methods.dcpt.training import PretrainTask, TransferTask
from airpipe.registry import runs_as, settings_class
from airpipe.settings.base import canonical_json, check_settings
from airpipe.settings.stages import OptimizerSettings, StageSettings
from airpipe.training.losses import IGNORED, cross_entropy, focal_loss
from airpipe.training.schedules import learning_rate_at
from airpipe.training.task import Moment
from airpipe.weights.checkpoints import load_model
from airpipe.weights.importing import export_published
from airpipe.weights.published import candidates, read_published

GOLDENS = Path(__file__).parent / "goldens"
BACKBONES = {
    "nafnet": NAFNET,
    "restormer_dcpt": {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 2, 4]},
    "promptir": {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 2, 4]},
    "swinir_dcpt": {"depths": [1] * 6, "embed_dim": 12, "num_heads": [2] * 6, "mlp_ratio": 2},
}
PRETRAIN = {
    "task": "dcpt.pretrain",
    "method": "dcpt",
    "stage": "pretrain",
    **HEAD,
    "phases": [{"steps": 14, "patch_size": 16, "batch_size": 4}],
    "validation": {"every": 7, "patch_size": 32, "data": []},
}
MODEL = "dcpt/nafnet_toy/seed3/pretrain"
ONE = {"optimizers": {"net": RATE}, "head": None}
FINETUNE = {**ONE, "task": "dcpt.finetune", "stage": "finetune", "parents": {"init": MODEL}}
TRANSFER = {**ONE, "task": "dcpt.transfer", "stage": "transfer", "parents": {"init": MODEL, "guide": MODEL}}
PROBE = {"task": "dcpt.probe", "stage": "probe", "optimizers": {"head": RATE}, "parents": {"init": MODEL}}


def dcpt_stage(**changes) -> StageSettings:
    """A tiny stage; None leaves a setting out."""
    values = json.loads(canonical_json(stage())) | PRETRAIN | changes
    values = {key: value for key, value in values.items() if value is not None}
    return check_settings(settings_class(values["task"]), values, "toy")


def of_part(golden: Golden, prefix: str) -> dict[str, torch.Tensor]:
    """Published state of one network of a golden."""
    return {k.removeprefix(prefix): v for k, v in golden.reference_state().items() if k.startswith(prefix)}


def last_state(made: Stage) -> dict:
    newest = max((made.workdir / "state").glob("step_*.ckpt"))
    return torch.load(newest, weights_only=True)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Stage:
    return train(tmp_path_factory.mktemp("pretrained"), dcpt_stage())


# Head


@pytest.mark.parametrize("name", ["nafnet", "restormer", "promptir", "swinir", "small"])
def test_the_head_equals_its_golden_level_by_level(name):
    golden = load_golden(GOLDENS / f"dcpt_head_{name}.npz")
    head = build_network("dcpt_head", **golden.config)
    assert sum(p.numel() for p in head.parameters()) == golden.n_params
    load_published(head, golden.reference_state())
    found = {}

    def keep(key):
        return lambda module, inputs, output: found.update({key: output.mean((2, 3))})

    for level in range(len(head.feature_dims)):
        head.bottleneck_layers[level].register_forward_hook(keep(f"bottleneck{level}_gap"))
        head.downsample_layers[level].register_forward_hook(keep(f"downsample{level}_gap"))
    head.last_stage.register_forward_hook(keep("last_stage_gap"))
    with torch.no_grad():
        found["logits"] = head.eval()([golden.input(i) for i in range(len(golden.input_shapes))])
    assert set(found) == set(golden.outputs)
    for key, expected in golden.outputs.items():
        torch.testing.assert_close(found[key], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["restormer", "promptir", "swinir", "small"])
def test_a_published_head_file_is_read_and_its_keys_come_back(name, tmp_path):
    golden = load_golden(GOLDENS / f"dcpt_head_{name}.npz")
    torch.save({"params": {f"module.{k}": v for k, v in golden.reference_state().items()}}, tmp_path / "net_dc_1.pth")
    found = read_published(tmp_path / "net_dc_1.pth")
    assert (found.name, found.also) == ("dcpt_head", ())
    assert found.arguments == {"num_res_blocks": 2, "downsample": False, **golden.config}
    assert list(found.network.published_state()) == list(golden.keys)
    for left_out in golden.keys:  # no network stumbles over it
        assert set(candidates({k: s for k, s in golden.keys.items() if k != left_out})) <= {"dcpt_head"}
        assert set(candidates(golden.keys | {left_out: (1,)})) <= {"dcpt_head"}


def test_tokens_of_a_crop_that_is_not_square_are_the_maps_they_came_from():
    head = DegradationHead([6, 6], 3, downsample=True).eval()
    maps = [make_input((2, 6, 8, 20), seed) for seed in (0, 1)]
    tokens = [one.flatten(2).transpose(1, 2) for one in maps]
    assert torch.equal(head(tokens, size=(8, 20)), head(maps))
    apart = DegradationHead([6, 6], 3).eval()
    apart.load_state_dict(head.state_dict())
    nearest = F.interpolate(maps[1], scale_factor=0.5)
    assert torch.equal(apart([maps[0], nearest]), head(maps))
    with pytest.raises(AirpipeError, match=r"160 tokens are no 12x12 map. Give their size"):
        head(tokens)


@pytest.mark.parametrize("side", [8, 9, 13, 22])
def test_levels_of_one_size_fit_each_other_at_any_size(side):
    assert DegradationHead([4, 4, 4], 2, downsample=True)([make_input((1, 4, side, side + 3))] * 3).shape == (1, 2)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([torch.zeros(1, 4, 8, 8)], "takes a list of 2 feature maps, found 1. Give what forward"),
        (torch.zeros(2, 3, 8, 8), "found an image"),
        ([torch.zeros(1, 4, 8, 8)] * 2, r"expected \[\(4, 8, 8\), \(6, 4, 4\)\].*head.downsample: true"),
        ([torch.zeros(1, 4, 3, 8), torch.zeros(1, 6, 1, 4)], "halves 2 times: features of 3x8 are too small, they nee"),
    ],
)
def test_features_that_do_not_fit_are_told(features, message):
    with pytest.raises(AirpipeError, match=message):
        DegradationHead([4, 6], 2)(features)


def test_impossible_heads_are_refused():
    for arguments in ({"feature_dims": [], "num_classes": 2}, {"feature_dims": [4, 0], "num_classes": 2}):
        with pytest.raises(
            AirpipeError, match="network dcpt_head: feature_dims .*at least one level, and numbers from"
        ):
            build_network("dcpt_head", **arguments)


# Losses


def test_the_focal_loss_weighs_the_cross_entropy_by_the_distance_from_certainty():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.5, 0.0], [3.0, 0.0, 0.0]])
    labels = torch.tensor([0, 2, 1])
    p = logits.softmax(1)[range(3), labels]
    assert focal_loss(logits, labels).item() == pytest.approx((-((1 - p) ** 2) * p.log()).mean().item(), rel=1e-6)
    assert cross_entropy(logits, labels).item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    some = torch.tensor([0, IGNORED, 1])
    assert focal_loss(logits, some).item() == pytest.approx(focal_loss(logits[[0, 2]], labels[[0, 2]]).item(), rel=1e-6)


def test_ignored_labels_give_zero_loss_and_zero_gradient():
    logits = torch.tensor([[1e4, 0.0], [-1e4, 2.0]], requires_grad=True)
    loss = focal_loss(logits, torch.full((2,), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 2))


# Backbone and head together


@pytest.mark.parametrize("name", ["restormer", "promptir", "swinir"])
def test_head_on_backbone_equals_the_hooked_golden(name):
    golden = load_golden(GOLDENS / f"dcpt_hook_{name}_small.npz")
    backbone, head = dict(golden.config["net_g"]), dict(golden.config["net_dc"])
    dims = head.pop("feature_dims")
    net = DCPT({"name": backbone.pop("type"), "arguments": backbone}, **head).eval()
    assert net.head.feature_dims == net.feature_channels == dims
    load_published(net.backbone, of_part(golden, "net_g."))
    load_published(net.head, of_part(golden, "net_dc."))
    with torch.no_grad():
        features = net(golden.input(), features=True)
        logits = net(golden.input(), classify=True)
    torch.testing.assert_close(logits, golden.outputs["logits"], rtol=1e-4, atol=1e-4)
    for level, feature in enumerate(features):
        torch.testing.assert_close(feature.mean((2, 3)), golden.outputs[f"feature{level}_mean"], rtol=1e-4, atol=1e-4)


def test_a_pretraining_step_equals_the_golden_in_losses_and_gradients():
    golden = load_golden(GOLDENS / "dcpt_step_small.npz")
    settings = dcpt_stage(network={"name": "nafnet", "arguments": golden.config["net_g"]}, head={"num_classes": 5})
    task = PretrainTask(settings, {})
    net = task.networks["net"]
    assert net.head.feature_dims == golden.config["net_dc"]["feature_dims"]
    load_published(net.backbone, of_part(golden, "net_g."))
    load_published(net.head, of_part(golden, "net_dc."))
    labels = torch.tensor(golden.config["targets"])
    losses = task.step(Batch(golden.input(1), golden.input(0), labels, ["a"] * 3, [""] * 3), Moment())
    torch.stack(list(losses.values())).sum().backward()
    logits, restored = net(golden.input(1), classify=True, generate=golden.input(0))
    each = torch.stack([focal_loss(logits[i : i + 1], labels[i : i + 1]) for i in range(3)])
    found = {
        "l_pix": losses["pixel"][None],
        "l_cls": losses["class"][None],
        "logits": logits,
        "pix_output": restored,
        "focal_none": each,
        "ce": cross_entropy(logits, labels)[None],
        "grad_net_g_intro_weight": net.backbone.intro.weight.grad,
        "grad_net_g_ending_weight": net.backbone.ending.weight.grad,
        "grad_net_g_decoder0_0_conv1_weight": net.backbone.decoders[0][0].conv1.weight.grad[:8],
        "grad_net_dc_mixing_weights": net.head.mixing_weights.grad,
        "grad_net_dc_fc_weight": net.head.fc.weight.grad,
    }
    assert set(found) == set(golden.outputs)
    for name, expected in golden.outputs.items():
        largest = expected.abs().max().item()
        torch.testing.assert_close(found[name].detach(), expected, rtol=1e-4, atol=1e-4 * largest, msg=name)


@pytest.fixture(scope="module")
def one_process_group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", BACKBONES)
def test_features_are_the_same_behind_every_wrapper(name, one_process_group):
    torch.manual_seed(0)
    net = DCPT({"name": name, "arguments": BACKBONES[name]}, 3, downsample=name.startswith("swinir"))
    image = make_input((2, 3, 16, 24))
    wrapped = {
        "ddp": DistributedDataParallel(net),
        "fabric": Fabric(accelerator="cpu", devices=1).setup(net),
        "backbone in ddp": DistributedDataParallel(net.backbone),
    }
    if name == "nafnet":  # what compiling takes into account is DCPT's own, and costs seconds a network
        wrapped["compile"] = torch.compile(net, backend="eager")
    with torch.no_grad():
        plain, logits = net.backbone(image, features=True), net(image, classify=True)
        assert [one.shape[1] for one in plain] == net.feature_channels
        for how, other in wrapped.items():
            for mine, theirs in zip(plain, other(image, features=True), strict=True):
                assert torch.equal(mine, theirs), how
            if how in ("ddp", "fabric"):
                assert torch.equal(other(image, classify=True), logits), how


def test_only_the_last_stage_can_be_classified():
    net = DCPT({"name": "nafnet", "arguments": NAFNET}, 3, features="last").eval()
    image = make_input((1, 3, 16, 16))
    assert net.head.feature_dims == [8]
    assert torch.equal(net(image, classify=True), net.head([net(image, features=True)[0]]))
    with pytest.raises(AirpipeError, match="network dcpt: features is 'first'; expected 'all' or 'last'"):
        build_network("dcpt", backbone={"name": "nafnet", "arguments": NAFNET}, num_classes=2, features="first")
    head = {"feature_dims": [4], "num_classes": 2}
    with pytest.raises(AirpipeError, match="dcpt_head gives no features to classify"):
        build_network("dcpt", num_classes=2, backbone={"name": "dcpt_head", "arguments": head})


# Stages


def test_clean_images_make_the_pixel_loss_and_degraded_ones_the_class_loss():
    batch = Batch(make_input((2, 3, 16, 16), 1), make_input((2, 3, 16, 16), 2), torch.tensor([0, 2]), [], [])
    losses = {}
    for how in ("clean", "degraded", "none"):
        task = PretrainTask(dcpt_stage(generation_input=how), {})
        net = task.networks["net"]
        nn.init.normal_(net.backbone.ending.weight, generator=torch.Generator().manual_seed(1))
        losses[how] = task.step(batch, Moment())
        shown = batch.clean if how == "clean" else batch.degraded
        if how != "none":
            assert losses[how]["pixel"].item() == F.l1_loss(net(shown), batch.clean).item()
        assert losses[how]["class"].item() == focal_loss(net(batch.degraded, classify=True), batch.label).item()
    assert set(losses["none"]) == {"class"}
    assert losses["clean"]["class"].item() == losses["none"]["class"].item()
    assert losses["clean"]["pixel"].item() != losses["degraded"]["pixel"].item()
    assert dcpt_stage(task="dcpt.direct").generation_input == "degraded"


@pytest.mark.parametrize("name", BACKBONES)
def test_without_generation_exactly_the_parameters_behind_the_features_rest(name):
    network = {"name": name, "arguments": BACKBONES[name]}
    head = {"num_classes": 3, "downsample": name.startswith("swinir")}
    task = PretrainTask(dcpt_stage(network=network, head=head, generation_input="none"), {})
    net = task.networks["net"]
    image = make_input((2, 3, 16, 16))
    task.step(Batch(image, image, torch.tensor([0, 1]), [], []), Moment())["class"].backward()
    resting = {key for key, parameter in net.named_parameters() if not parameter.requires_grad}
    assert resting == {key for key, parameter in net.named_parameters() if parameter.grad is None}
    last = {"nafnet": "ending.weight", "swinir_dcpt": "conv_last.weight"}.get(name, "output.weight")
    assert f"backbone.{last}" in resting


def test_pretraining_exports_backbone_and_head_which_stand_for_the_backbone(pretrained, tmp_path):
    loaded = load_model(pretrained.workdir)
    made = card(pretrained)
    assert made["network"]["name"] == "dcpt"
    assert made["network"]["arguments"]["backbone"]["arguments"] == NAFNET
    assert made["parameters"] == sum(p.numel() for p in loaded.network.parameters())
    image = make_input((1, 3, 17, 20))
    assert torch.equal(loaded.network(image), loaded.network.backbone(image))
    export_published(pretrained.workdir, tmp_path / "net_g.pth")
    export_published(pretrained.workdir, tmp_path / "net_dc.pth", layout="net_dc")
    parts = [read_published(tmp_path / f"{part}.pth") for part in ("net_g", "net_dc")]
    assert [part.name for part in parts] == ["nafnet", "dcpt_head"]
    for part, mine in zip(parts, (loaded.network.backbone, loaded.network.head), strict=True):
        assert all(torch.equal(value, part.network.state_dict()[key]) for key, value in mine.state_dict().items())


def test_pretraining_learns_to_tell_noise_from_rain_and_to_keep_clean_images(tmp_path):
    rate = {"learning_rate": 2e-3, "warmup_steps": 5}
    phases = [{"steps": 70, "patch_size": 32, "batch_size": 8}]
    settings = dcpt_stage(optimizers={"net": rate, "head": rate | {"learning_rate": 1e-3}}, phases=phases)
    made = train(tmp_path / "longer", settings)
    chance = 0.5**2 * math.log(2)  # focal loss of two classes told apart by a coin
    assert sum(curve(made, "loss/class")[-10:]) / 10 < chance / 2
    pixels = curve(made, "loss/pixel")
    assert sum(pixels[-10:]) < 0.3 * sum(pixels[:10])
    assert [curve(made, f"learning_rate/{name}")[4] for name in ("net", "head")] == [2e-3, 1e-3]


def test_finetuning_starts_from_the_backbone_and_reports_the_unused_head(pretrained, tmp_path, capsys):
    still = {"net": {"learning_rate": 1e-30}}
    phases = [{"steps": 1, "patch_size": 16, "batch_size": 2}]
    settings = dcpt_stage(**FINETUNE | {"optimizers": still, "phases": phases})
    made = train(tmp_path / "tuned", settings, init=model_of(pretrained))
    parent, tuned = (load_model(one.workdir).network for one in (pretrained, made))
    for key, value in tuned.state_dict().items():
        assert torch.equal(value, parent.backbone.state_dict()[key])
    assert card(made)["network"]["name"] == "nafnet"
    keys = card(made)["parents"][0]["keys"]
    assert (keys["matched"], keys["missing"]) == (len(tuned.state_dict()), [])
    assert set(keys["unexpected"]) == {f"head.{key}" for key in parent.head.state_dict()}
    assert f"parent init: {keys['matched']} entries loaded; 59 unexpected (first head." in capsys.readouterr().out


def test_the_card_counts_what_a_model_has_cost_with_its_parents_once(pretrained, tmp_path):
    again = {"parents": {"init": "dcpt/nafnet_toy/seed3/finetune", "guide": MODEL}}
    fine = train(tmp_path / "fine", dcpt_stage(**FINETUNE), init=model_of(pretrained))
    steps, batch = PRETRAIN["phases"][0]["steps"], PRETRAIN["phases"][0]["batch_size"]
    one = [steps, steps * batch]
    assert card(pretrained)["budget"] == {"steps": steps, "samples": steps * batch, "stages": {MODEL: one}}
    two = {MODEL: one, "dcpt/nafnet_toy/seed3/finetune": one}
    assert card(fine)["budget"] == {"steps": 2 * steps, "samples": 2 * steps * batch, "stages": two}
    guided = train(tmp_path / "t", dcpt_stage(**TRANSFER | again), init=model_of(fine), guide=model_of(pretrained))
    assert card(guided)["budget"]["steps"] == 3 * steps


def test_a_parent_of_another_size_is_refused_unless_it_may_be_partial(tmp_path):
    wider = {**NAFNET, "width": 16}
    torch.save(build_network("nafnet", **wider).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(AirpipeError, match=r"parent init fills 1 of 100 entries of NAFNet; it lacks .*partial: true"):
        train(tmp_path / "refused", dcpt_stage(**FINETUNE), init=tmp_path / "wide.pth")
    made = train(tmp_path / "some", dcpt_stage(**FINETUNE, partial=True), init=tmp_path / "wide.pth")
    assert card(made)["parents"][0]["keys"]["matched"] == 1


def test_a_guide_of_another_variant_is_refused(tmp_path):
    arguments = BACKBONES["restormer_dcpt"]
    guide = DCPT({"name": "restormer_dcpt", "arguments": arguments}, 3)
    network = {"name": "restormer", "arguments": {**arguments, "LayerNorm_type": "BiasFree"}}
    settings = dcpt_stage(**TRANSFER | {"network": network})
    init = build_network("restormer", **network["arguments"])
    with pytest.raises(AirpipeError, match="parent guide was pretrained on a RestormerDCPT, restormer here is another"):
        TransferTask(settings, {"init": init, "guide": guide})


def test_finetuning_from_a_model_without_head_fits_and_from_another_network_is_refused(tmp_path):
    torch.manual_seed(0)
    torch.save(build_network("nafnet", **NAFNET).state_dict(), tmp_path / "net_g.pth")
    made = train(tmp_path / "tuned", dcpt_stage(**FINETUNE), init=tmp_path / "net_g.pth")
    assert card(made)["parents"][0]["keys"]["unexpected"] == []
    torch.save(build_network("promptir", **BACKBONES["promptir"]).state_dict(), tmp_path / "other.pth")
    with pytest.raises(AirpipeError, match="parent init: none of its .* entries fits NAFNet; wrong parent?"):
        train(tmp_path / "refused", dcpt_stage(**FINETUNE), init=tmp_path / "other.pth")


def test_a_probe_trains_the_head_only(pretrained, tmp_path):
    made = train(tmp_path / "probe", dcpt_stage(**PROBE), init=model_of(pretrained))
    before, after = (load_model(one.workdir).network for one in (pretrained, made))
    for key, value in after.backbone.state_dict().items():
        assert torch.equal(value, before.backbone.state_dict()[key])
    fresh = DCPT({"name": "nafnet", "arguments": NAFNET}, 3).head.state_dict()
    assert set(last_state(made)) >= {"optimizer.head"}
    moved = [key for key, value in after.head.state_dict().items() if not torch.equal(value, fresh[key])]
    assert moved == list(fresh)
    untrained = train(tmp_path / "random", dcpt_stage(**PROBE | {"parents": {}}))
    assert card(untrained)["parents"] == []


def test_a_frozen_backbone_stays_in_evaluation_mode():
    net = DCPT({"name": "nafnet", "arguments": NAFNET}, 3)
    assert net.train().backbone.training
    net.backbone.requires_grad_(False)
    net.train()
    assert (net.training, net.head.training, net.backbone.training) == (True, True, False)


def test_transfer_is_guided_by_a_frozen_head_on_its_own_features(pretrained, tmp_path):
    path = model_of(pretrained)
    guided = train(tmp_path / "guided", dcpt_stage(**TRANSFER), init=path, guide=path)
    assert set(last_state(guided)) & {"network.guide", "optimizer.guide"} == set()
    settings = dcpt_stage(**TRANSFER)
    parents = {role: load_model(path).network for role in ("init", "guide")}
    before = {key: value.clone() for key, value in parents["guide"].head.state_dict().items()}
    task = TransferTask(settings, parents)
    batch = Batch(make_input((2, 3, 16, 16), 1), make_input((2, 3, 16, 16), 2), torch.tensor([0, 2]), [], [])
    losses = task.step(batch, Moment())
    expected = F.cross_entropy(parents["guide"](batch.degraded, classify=True), batch.label)
    assert losses["class"].item() == pytest.approx(expected.item(), rel=1e-5)
    losses["class"].backward()
    assert task.networks["net"].intro.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in parents["guide"].parameters())
    assert all(torch.equal(value, before[key]) for key, value in task.frozen["guide"].state_dict().items())
    alone = train(tmp_path / "alone", dcpt_stage(**TRANSFER | {"parents": {"init": MODEL}}), init=path)
    assert curve(alone, "loss/class") == []
    assert curve(alone, "loss/pixel")[0] == curve(guided, "loss/pixel")[0]
    assert alone.weights() != guided.weights()


def test_a_published_head_guides_and_an_unfit_one_is_refused(pretrained, tmp_path):
    export_published(pretrained.workdir, tmp_path / "net_dc.pth", layout="net_dc")
    one = train(tmp_path / "one", dcpt_stage(**TRANSFER), init=model_of(pretrained), guide=tmp_path / "net_dc.pth")
    two = train(tmp_path / "two", dcpt_stage(**TRANSFER), init=model_of(pretrained), guide=model_of(pretrained))
    assert one.weights() == two.weights()
    export_published(pretrained.workdir, tmp_path / "net_g.pth")
    with pytest.raises(AirpipeError, match="parent guide is a NAFNet without head; give a dcpt.pretrain"):
        train(tmp_path / "a", dcpt_stage(**TRANSFER), init=model_of(pretrained), guide=tmp_path / "net_g.pth")
    torch.save(DegradationHead([4, 8], 3).state_dict(), tmp_path / "narrow.pth")
    with pytest.raises(AirpipeError, match=r"features of \[4, 8\] channels, nafnet gives \[8, 16\]"):
        train(tmp_path / "b", dcpt_stage(**TRANSFER), init=model_of(pretrained), guide=tmp_path / "narrow.pth")
    torch.save(DegradationHead([8, 16], 1).state_dict(), tmp_path / "one_class.pth")
    with pytest.raises(AirpipeError, match=r"data has labels \[0, 1\], parent guide knows 0 to 0"):
        train(tmp_path / "c", dcpt_stage(**TRANSFER), init=model_of(pretrained), guide=tmp_path / "one_class.pth")


def test_variants_of_the_pretraining_run_by_its_rule():
    found = [runs_as(task) for task in ("dcpt.pretrain", "dcpt.direct", "dcpt.masked_pretrain", "dcpt.finetune")]
    assert found == ["dcpt.pretrain"] * 3 + ["dcpt.finetune"]


def test_the_published_schedules_are_settings():
    steps, low = 1000, 1e-6
    net = OptimizerSettings(learning_rate=3e-4, minimum_rate=low)
    for update in (1, 2, 500, 1000):
        published = low + 0.5 * (3e-4 - low) * (1 + math.cos(math.pi * (update - 1) / steps))
        assert learning_rate_at(update - 1, steps, net) == pytest.approx(published, rel=1e-12)
    constant = OptimizerSettings(learning_rate=3e-4, minimum_rate=3e-4)
    assert {learning_rate_at(step, steps, constant) for step in (0, 1, 999)} == {3e-4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"num_classes": 2}, "data": None}, "data: Field required"),
        ({"head": {"num_classes": 1}}, "head.num_classes: Input should be greater than or equal to 2"),
        ({"head": {"num_classes": 3, "downsampel": True}}, "unknown setting 'downsampel'; did you mean 'downsample'"),
        ({"parents": {"init": MODEL}}, r"parents: found \['init'\]; dcpt.pretrain needs none"),
        (FINETUNE | {"parents": {}}, "parents: found none; dcpt.finetune needs init"),
        (TRANSFER | {"parents": {"guide": MODEL}}, r"found \['guide'\]; dcpt.transfer needs init, and may have guide"),
        ({"task": "dcpt.direct", "generation_input": "clean"}, "generation_input: Input should be 'degraded'"),
        ({"loss": "hinge"}, "loss: Input should be 'focal' or 'ce'"),
        ({"focal_gamma": 0.5}, "focal_gamma: Input should be greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_told(changes, message):
    with pytest.raises(AirpipeError, match=message):
        dcpt_stage(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_weights": {"clas": 0.01}}, r"unknown loss 'clas'; did you mean 'class'\? Valid: class, pixel$"),
        ({"loss_weights": {"total": 2, "class": 1}}, "unknown loss 'total'; Valid: class, pixel$"),
    ],
)
def test_a_weight_of_a_loss_that_no_turn_has_is_refused(changes, message, tmp_path):
    with pytest.raises(AirpipeError, match="^dcpt/nafnet_toy/seed3/pretrain, loss_weights: " + message):
        train(tmp_path / "made", dcpt_stage(**changes), seconds=1e-6)
    assert not list((tmp_path / "made").rglob("*.ckpt"))


def test_losses_that_a_control_leaves_out_may_have_weights(pretrained, tmp_path):
    weights = {"loss_weights": {"pixel": 1, "class": 0.5}, "phases": [{"steps": 1, "patch_size": 16, "batch_size": 2}]}
    parent = {"init": pretrained.workdir / "model.safetensors"}
    control = dcpt_stage(**TRANSFER | weights | {"parents": {"init": MODEL}})
    assert "loss/class" not in train(tmp_path / "control", control, **parent).curves()
    classified = train(tmp_path / "classified", dcpt_stage(**weights, generation_input="none"))
    assert "loss/pixel" not in classified.curves()
    with pytest.raises(AirpipeError, match="unknown loss 'class'; Valid: pixel$"):
        train(tmp_path / "finetuned", dcpt_stage(**FINETUNE | weights), **parent)


def test_a_label_without_class_is_told():
    data = [{"pairs": "toy.train", "label": 0}, {"pairs": "toy.train", "recipe": "rain", "label": 3}]
    message = r"data: toy.train \(rain\) has label 3; head.num_classes 3 allows 0 to 2"
    with pytest.raises(AirpipeError, match=message):
        dcpt_stage(data=data)
