"""VRD-IR's stages train what they say, hand on their models, resume to the same bits, and tell what does not fit."""

import csv
import json
import math
import re
import textwrap

import pytest
import torch
import yaml
from helpers import NOISE, ROOT, Stage, card, curve, model_of, shipped, stage, train
from parity import make_input
from torch import nn
from toys import vrdir as toys
from toys.vrdir import ENHANCER, RATE

from airpipe.data.batch import Batch
from airpipe.errors import AirpipeError
from airpipe.evaluation.restore import restore
from airpipe.methods.vrdir.network import DNC, SAD
from airpipe.methods.vrdir.training import DncTask, IseTask, RecogniserTask, SadTask
from airpipe.models.recognisers import RecogniserResidual
from airpipe.models.vgg import VGGFront
from airpipe.registry import settings_class
from airpipe.settings.base import canonical_json, check_settings
from airpipe.settings.freezing import frozen_stage
from airpipe.settings.merging import deep_merge
from airpipe.settings.project import load_project
from airpipe.settings.stages import StageSettings
from airpipe.training.task import Moment
from airpipe.weights.checkpoints import load_model

VRDIR_STAGE = {
    "method": "vrdir",
    "setting": "toy",
    **toys.SHARED,
    "phases": [{"steps": 6, "patch_size": 16, "batch_size": 4}],
    "validation": {"every": 3, "patch_size": 32, "data": []},
}
FOLDER = "vrdir/toy/seed3"


def in_folder(stage: str) -> dict:
    """Settings of a toy, with the stage's name and the ids of its parents."""
    toy = toys.TOYS[stage]
    parents = {role: f"{FOLDER}/{parent}" for role, parent in toy.get("parents", {}).items()}
    return {**toy, "stage": stage, "parents": parents}


A, B = in_folder("recogniser_a"), in_folder("recogniser_b")
SAD_STAGE, DNC_STAGE, ISE_STAGE = in_folder("sad"), in_folder("dnc_noise"), in_folder("ise")
BRANCHES = {f"dnc_{name}": f"{FOLDER}/dnc_{name}" for name in ("noise", "rain")}
SHORT = {"phases": [{"steps": 4, "patch_size": 16, "batch_size": 4}]}


def vrdir_stage(changes: dict, **more) -> StageSettings:
    """A tiny stage; None leaves a setting out."""
    values = json.loads(canonical_json(stage())) | VRDIR_STAGE | changes | more
    values = {key: value for key, value in values.items() if value is not None}
    return check_settings(settings_class(values["task"]), values, "toy")


def losses(made: Stage) -> set[str]:
    names = {row["name"] for row in csv.DictReader(made.curves().splitlines())}
    return {name.removeprefix("loss/") for name in names if name.startswith("loss/") and "total" not in name}


def network(made: Stage) -> nn.Module:
    return load_model(made.workdir).network


def part(net: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in net.state_dict().items() if k.startswith(prefix)}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(value, other[key]) for key, value in one.items())


def batch(seed: int = 0) -> Batch:
    clean, degraded = make_input((4, 3, 16, 16), seed), make_input((4, 3, 16, 16), seed + 1)
    return Batch(degraded, clean, torch.zeros(4, dtype=torch.int64), ["x"] * 4, [""] * 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> dict[str, Stage]:
    """All stages of a toy setting."""
    folder = tmp_path_factory.mktemp("vrdir")
    made: dict[str, Stage] = {}
    for changes in (A, B, SAD_STAGE, DNC_STAGE, {**DNC_STAGE, "stage": "dnc_rain"}, ISE_STAGE):
        settings = vrdir_stage(changes)
        parents = {role: model_of(made[name.split("/")[-1]]) for role, name in settings.parents.items()}
        made[settings.stage] = train(folder / settings.stage, settings, **parents)
    return made


# What stages train and hand on


def test_every_stage_exports_a_network_that_restores_by_itself(run):
    image = make_input((3, 19, 22), 4)
    for name, branches in (("sad", 0), ("dnc_noise", 1), ("dnc_rain", 1), ("ise", 2)):
        found = card(run[name])["network"]
        own = {"num_branches": branches, "fusion": branches == 2}
        assert found == {"name": "vrdir", "arguments": {**ENHANCER["arguments"], **own}}
        assert card(run[name])["macs"] > 0
        assert restore(image, run[name].workdir).shape == image.shape
    assert network(run["ise"]).guidance(image[None]).shape == (1, 2, 10, 11)


def test_a_recogniser_restores_nothing(run):
    for name in ("recogniser_a", "recogniser_b"):
        with pytest.raises(AirpipeError, match="this model restores no image: it tells classes of images apart"):
            restore(make_input((3, 19, 22)), run[name].workdir)


def test_frozen_parts_stay_and_trained_ones_move(run):
    nets = {name: network(made) for name, made in run.items()}
    front = nets["recogniser_a"].front.state_dict()
    for name in ("sad", "dnc_noise", "dnc_rain", "ise"):
        assert same(part(nets[name], "ext."), front)
        assert same(part(nets[name], "sad."), part(nets["sad"], "sad."))
    for number, name in enumerate(("dnc_noise", "dnc_rain")):
        assert same(part(nets["ise"], f"ise.dncs.{number}."), part(nets[name], "ise.dncs.0."))
    fresh = IseTask(vrdir_stage(ISE_STAGE), {role: nets[role] for role in ("sad", "dnc_noise", "dnc_rain")})
    start = part(fresh.net, "ise.fgm.")
    assert all(not torch.equal(value, start[key]) for key, value in part(nets["ise"], "ise.fgm.").items())
    assert {name for name, p in fresh.net.named_parameters() if p.requires_grad} == {f"ise.fgm.{key}" for key in start}


def test_branches_that_are_not_frozen_move(run, tmp_path):
    parents = {role: model_of(run[role]) for role in ("sad", "dnc_noise", "dnc_rain")}
    made = train(tmp_path, vrdir_stage(ISE_STAGE, freeze_branches=False, **SHORT), **parents)
    for number, name in enumerate(("dnc_noise", "dnc_rain")):
        before, after = part(network(run[name]), "ise.dncs.0."), part(network(made), f"ise.dncs.{number}.")
        assert all(not torch.equal(value, before[key]) for key, value in after.items())
    assert same(part(network(made), "sad."), part(network(run["sad"]), "sad."))


def test_losses_have_their_names_and_the_decoder_of_a_recogniser_is_thrown_away(run):
    expected = {
        "recogniser_a": {"class", "rebuild"},
        "recogniser_b": {"class"},
        "sad": {"clean", "degraded", "similarity"},
        "dnc_noise": {"pixel", "semantic"},
        "ise": {"pixel", "semantic"},
    }
    assert {name: losses(run[name]) for name in expected} == expected
    assert not any("decoder" in key for key in network(run["recogniser_a"]).state_dict())
    state = torch.load(max((run["recogniser_a"].workdir / "state").glob("*.ckpt")), weights_only=True)
    assert {"network.decoder", "optimizer.decoder", "optimizer.net"} <= set(state)
    assert card(run["recogniser_a"])["classes"] == ["even", "odd"]


def test_cards_tell_what_came_from_which_parent(run):
    found = {parent["role"]: parent["keys"] for parent in card(run["ise"])["parents"]}
    assert {role: keys["matched"] for role, keys in found.items()} == {"sad": 12, "dnc_noise": 6, "dnc_rain": 6}
    assert all(not keys["missing"] and not keys["unexpected"] for keys in found.values())
    assert set(card(run["ise"])["budget"]["stages"]) == {f"{FOLDER}/{name}" for name in run if name != "recogniser_b"}


def test_validation_tells_psnr_and_top1(run, tmp_path):
    noisy = {"pairs": "toy.train", "recipe": "noise", "operations": [NOISE]}
    watched = {"validation": {"every": 2, "patch_size": 32, "data": [noisy]}}
    sad = train(tmp_path / "sad", vrdir_stage(SAD_STAGE, **SHORT, **watched), encoder=model_of(run["recogniser_a"]))
    assert len(curve(sad, "validation/psnr")) == len(curve(sad, "validation/psnr_clean")) == 2
    one = train(tmp_path / "b", vrdir_stage(B, **SHORT, **watched))
    assert {value % 20 for value in curve(one, "validation/top1")} == {0}  # of five images


def test_the_encoder_may_be_an_image_model_or_another_stage_of_the_enhancer(run):
    torch.manual_seed(1)
    front = VGGFront((4, 8))
    for encoder, expected in (
        (front, front),
        (network(run["sad"]), network(run["sad"]).ext),
        (network(run["recogniser_a"]), network(run["recogniser_a"]).front),
    ):
        assert same(SadTask(vrdir_stage(SAD_STAGE), {"encoder": encoder}).net.ext.state_dict(), expected.state_dict())


def test_imported_parts_are_parents_with_an_encoder_beside_them():
    torch.manual_seed(2)
    front, decoder = VGGFront((4, 8)), SAD(8, 6)
    roles = {"sad": "imported/sad", "encoder": "imported/vgg16"}
    task = DncTask(vrdir_stage(DNC_STAGE, parents=roles), {"sad": decoder, "encoder": front})
    assert same(part(task.net, "sad."), decoder.state_dict()) and same(part(task.net, "ext."), front.state_dict())
    branches = {role: DNC(8) for role in BRANCHES}
    task = IseTask(vrdir_stage(ISE_STAGE, parents=roles | BRANCHES), {"sad": decoder, "encoder": front, **branches})
    assert same(part(task.net, "ise.dncs.1."), branches["dnc_rain"].state_dict())


# Losses


def test_legacy_targets_are_the_images_between_minus_one_and_one(run):
    one = batch()
    parents = {"encoder": network(run["recogniser_a"])}
    found = {
        legacy: SadTask(vrdir_stage(SAD_STAGE, legacy_targets=legacy, sr_margin=1.0), parents).step(one, Moment())
        for legacy in (False, True)
    }
    net = SadTask(vrdir_stage(SAD_STAGE), parents).net
    rebuilt = net(one.clean)
    assert found[False]["clean"].item() == pytest.approx((rebuilt - one.clean).abs().mean().item(), rel=1e-5)
    assert found[True]["clean"].item() == pytest.approx((rebuilt - 2 * one.clean + 1).abs().mean().item(), rel=1e-5)
    assert found[True]["similarity"].item() != pytest.approx(found[False]["similarity"].item(), abs=1e-3)
    restoring = DncTask(vrdir_stage(DNC_STAGE, legacy_targets=True), {"sad": network(run["sad"])})
    pixel = (restoring.net(one.degraded) - 2 * one.clean + 1).abs().mean()
    assert restoring.step(one, Moment())["pixel"].item() == pytest.approx(pixel.item(), rel=1e-5)


def test_the_ranking_vanishes_where_the_margin_is_met(run):
    parents = {"encoder": network(run["recogniser_a"])}
    one = batch()
    found = [
        SadTask(vrdir_stage(SAD_STAGE, sr_margin=margin), parents).step(one, Moment())["similarity"].item()
        for margin in (1.0, 0.5)
    ]
    assert found[0] - found[1] == pytest.approx(0.5, abs=1e-6)


def test_a_recogniser_learns_from_classes_and_rebuilds_its_own_input():
    task = RecogniserTask(vrdir_stage(A), {})
    one = batch()
    wanted = torch.tensor([0, 1, -1, 1])
    labelled = Batch(one.degraded, one.clean, one.label, one.name, one.level, category=wanted)
    found = task.step(labelled, Moment())
    logits, front = task.networks["net"](one.degraded, front=True)
    known = [0, 1, 3]
    expected = torch.nn.functional.cross_entropy(logits[known], wanted[known])
    assert found["class"].item() == pytest.approx(expected.item(), rel=1e-5)
    rebuilt = task.networks["decoder"](front)
    assert found["rebuild"].item() == pytest.approx((rebuilt - one.degraded).abs().mean().item(), rel=1e-5)
    assert [turn.optimizers for turn in task.turns(0)] == [("net", "decoder")]


def test_images_of_unknown_class_are_not_measured():
    task = RecogniserTask(vrdir_stage(A), {})
    one, net = batch(), task.networks["net"]
    right = net(one.degraded).argmax(1)
    for classes, expected in (([0, 1, 2, 3], 100.0), ([1], 100.0), ([], None)):
        category = torch.full((4,), -1)
        category[classes] = right[classes]
        found = task.measure(net, Batch(one.degraded, one.clean, one.label, one.name, one.level, category=category))
        assert (found["top1"].mean().item() if found else None) == expected
        assert not found or len(found["top1"]) == len(classes)


# Errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (A | {"optimizers": {"net": RATE}}, "found net; with rebuild: true expected decoder and net"),
        (B | {"optimizers": {"net": RATE, "decoder": RATE}}, "with rebuild: false expected net"),
        (B | {"parents": {"init": "a"}}, r"parents: found \['init'\]; vrdir.recogniser needs none"),
        (SAD_STAGE | {"parents": {}}, "parents: found none; vrdir.sad needs encoder"),
        (DNC_STAGE | {"parents": {"encoder": "a"}}, "vrdir.dnc needs sad, and may have encoder"),
        (ISE_STAGE | {"branches": ["noise"]}, "vrdir.ise needs dnc_noise, sad, and may have encoder"),
        (ISE_STAGE | {"branches": ["noise", "rain", "rain"]}, "branches: rain is there twice"),
        (SAD_STAGE | {"network": {"name": "nafnet"}}, "network: found 'nafnet'; vrdir.sad trains a vrdir"),
        (
            SAD_STAGE | {"network": {"name": "vrdir", "arguments": {"num_branches": 3}}},
            "network: num_branches follows from the stage; leave it out",
        ),
        (SAD_STAGE | {"sr_margn": 1}, "unknown setting 'sr_margn'; did you mean 'sr_margin'"),
    ],
)
def test_wrong_settings_are_told(changes, message):
    with pytest.raises(AirpipeError, match=message):
        vrdir_stage(changes)


def test_images_without_or_with_other_classes_are_told(tmp_path):
    with pytest.raises(AirpipeError, match="found no class for any training image; a recogniser learns from splits wi"):
        train(tmp_path / "none", vrdir_stage(B), classes=False)
    arguments = {"num_classes": 3, "stem": 4, "widths": [4]}
    three = B | {"network": {"name": "recogniser_residual", "arguments": arguments}}
    message = r"images show 2 classes \(even, odd, ...\), the network tells 3 apart. Set .*num_classes: 2"
    with pytest.raises(AirpipeError, match=message):
        train(tmp_path / "three", vrdir_stage(three))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**A, "network": B["network"]}, "rebuild needs the front of a recogniser_vgg; recogniser_residual has none"),
        ({**B, "network": ENHANCER}, "network vrdir tells no classes; expected recogniser_vgg or recogniser_residual"),
    ],
)
def test_a_network_that_is_no_fitting_recogniser_is_told(changes, message):
    with pytest.raises(AirpipeError, match=message):
        RecogniserTask(vrdir_stage(changes), {})


def test_parents_that_do_not_fit_are_told(run):
    sad, noise = network(run["sad"]), network(run["dnc_noise"])
    with pytest.raises(AirpipeError, match="parent encoder is a RecogniserResidual without encoder; .*import_weights"):
        SadTask(vrdir_stage(SAD_STAGE), {"encoder": RecogniserResidual(2)})
    with pytest.raises(AirpipeError, match="parent encoder has .* 64 and 128 channels, the network of 4 and 8"):
        SadTask(vrdir_stage(SAD_STAGE), {"encoder": VGGFront()})
    roles = {"sad": "imported/sad", "encoder": "imported/vgg16"}
    with pytest.raises(AirpipeError, match="parent sad is a VGGFront without decoder; give a stage vrdir.sad"):
        DncTask(vrdir_stage(DNC_STAGE, parents=roles), {"sad": VGGFront((4, 8)), "encoder": VGGFront((4, 8))})
    with pytest.raises(AirpipeError, match="parent dnc_rain: found 0 branches, expected one branch. Give a stage vrdi"):
        IseTask(vrdir_stage(ISE_STAGE), {"sad": sad, "dnc_noise": noise, "dnc_rain": sad})


@pytest.mark.parametrize(("key", "what"), [("ext.0.weight", "encoder"), ("sad.decoder.2.bias", "decoder")])
def test_branches_of_another_encoder_or_decoder_are_told(run, key, what):
    parents = {role: network(run[role]) for role in ("sad", "dnc_noise", "dnc_rain")}
    parents["dnc_rain"].state_dict()[key].add_(1e-3)
    message = f"parent dnc_rain was trained with another {what} than parent sad has .first difference: {key}.. Train"
    with pytest.raises(AirpipeError, match=message):
        IseTask(vrdir_stage(ISE_STAGE), parents)


def other_way(stage_changes: dict, **more) -> StageSettings:
    """The stage with a network that normalises images as ImageNet's do."""
    network = {"name": "vrdir", "arguments": ENHANCER["arguments"] | {"normalise": "imagenet"}}
    return vrdir_stage(stage_changes, network=network, **more)


def test_parents_that_normalise_images_in_another_way_are_told(run):
    nets = {name: network(made) for name, made in run.items()}
    message = "parent {} was trained with images normalised as half, the network normalises as imagenet. Set .*: half"
    for encoder in ("recogniser_a", "sad"):
        with pytest.raises(AirpipeError, match=message.format("encoder")):
            SadTask(other_way(SAD_STAGE), {"encoder": nets[encoder]})
    with pytest.raises(AirpipeError, match=message.format("sad")):
        DncTask(other_way(DNC_STAGE), {"sad": nets["sad"]})
    roles = {"sad": "imported/sad", "encoder": "imported/vgg16"}
    imported = {"sad": nets["sad"].sad, "encoder": nets["sad"].ext}  # no file tells how it saw images
    DncTask(other_way(DNC_STAGE, parents=roles), imported)
    with pytest.raises(AirpipeError, match=message.format("dnc_noise")):
        IseTask(
            other_way(ISE_STAGE, parents=roles | BRANCHES),
            imported | {role: nets[role] for role in BRANCHES},
        )


def test_a_second_encoder_beside_that_of_sad_is_told(run):
    roles = {"sad": f"{FOLDER}/sad", "encoder": "imported/vgg16"}
    parents = {"sad": network(run["sad"]), "encoder": VGGFront((4, 8))}
    with pytest.raises(AirpipeError, match="sad brings the encoder .* encoder names a second one. Leave encoder out"):
        DncTask(vrdir_stage(DNC_STAGE, parents=roles), parents)


def test_one_pixel_of_features_stops_the_first_step_with_a_clear_message(run, tmp_path):
    tiny = {"phases": [{"steps": 1, "patch_size": 2, "batch_size": 4}]}
    with pytest.raises(AirpipeError, match=r"a feature map of 1x1 has no standard deviation; .*patch_size"):
        train(tmp_path, vrdir_stage(DNC_STAGE, **tiny), sad=model_of(run["sad"]))


# Shipped settings


def test_the_shipped_settings_share_the_recognisers_of_the_first_one():
    plans = load_project(shipped()).methods["vrdir"].settings
    assert list(plans) == ["airpipe", "reference", "airpipe_trained", "airpipe_no_sr"]
    assert {name: list(plan.stages) for name, plan in plans.items()}["airpipe_trained"] == ["ise"]
    for name in ("reference", "airpipe_no_sr"):
        assert plans[name].stages["sad"].parents("demo") == {"vrdir/airpipe/recogniser_a"}
        assert plans[name].stages["sad"].parents("paper") == {"imported/vgg16"}
    assert {plan.last(scale) for plan in plans.values() for scale in ("demo", "paper")} == {"ise"}


def shipped_stage(scale: str, setting: str, name: str) -> StageSettings:
    project = load_project({**shipped(), "scale": scale})
    task = project.methods["vrdir"].settings[setting].stages[name].task
    return frozen_stage(project, f"vrdir/{setting}", 2, name, settings_class(task), 1)


@pytest.mark.parametrize(
    ("name", "images", "batch_size"),
    [
        ("sad", 13990 + 5144 + 200, 600),
        ("dnc_haze", 13990, 300),
        ("dnc_noise", 5144, 300),
        ("dnc_rain", 200, 200),
        ("ise", 13990 + 5144 + 200, 200),
    ],
)
def test_paper_scale_is_thirty_epochs_of_the_published_batches(name, images, batch_size):
    for setting in ("airpipe", "reference"):
        settings = shipped_stage("paper", setting, name)
        assert settings.phases[0].batch_size == batch_size and settings.phases[0].patch_size == 128
        assert settings.steps == 30 * math.ceil(images / batch_size)
        assert settings.legacy_targets == (setting == "reference")
        assert settings.exported_network.arguments["normalise"] == "half"
        shares: dict[int, float] = {}
        for one in settings.data:
            shares[one.label] = shares.get(one.label, 0) + one.share
        assert set(shares.values()) == {1.0}
        rate = settings.optimizers["net"]
        assert (rate.learning_rate, rate.minimum_rate, rate.weight_decay) == (2e-4, 2e-4, 0.0)


def test_the_demo_trains_on_pictures_of_its_seed():
    assert {one.pairs for one in shipped_stage("demo", "airpipe", "ise").data} == {"shapes2.train"}
    encoder = shipped_stage("demo", "reference", "sad").parents
    assert encoder == {"encoder": "vrdir/airpipe/seed2/recogniser_a"}
    reference, ours = (shipped_stage("demo", name, "sad") for name in ("reference", "airpipe"))
    assert (reference.sr_margin, reference.loss_weights["similarity"]) == (1.0, 1.0)
    assert (ours.sr_margin, ours.loss_weights["similarity"]) == (0.1, 0.1)
    frozen = {name: shipped_stage("demo", name, "ise").freeze_branches for name in ("airpipe", "airpipe_trained")}
    assert frozen == {"airpipe": True, "airpipe_trained": False}


def test_the_documented_fourth_branch_is_a_valid_setting():
    text = (ROOT / "docs/methods/vrdir.md").read_text()
    block = re.search(r"```yaml\n(airpipe_snow:\n.*?)```", text, re.DOTALL)
    assert block is not None
    file = (ROOT / "config/methods/vrdir.yaml").read_text() + textwrap.indent(block[1], " " * 6)
    project = load_project(deep_merge(shipped(), yaml.safe_load(file)))
    plan = project.methods["vrdir"].settings["airpipe_snow"]
    assert list(plan.stages) == ["sad", "dnc_haze", "dnc_noise", "dnc_rain", "ise", "dnc_snow"]
    frozen = {
        name: frozen_stage(project, "vrdir/airpipe_snow", 0, name, settings_class(stage.task), 1)
        for name, stage in plan.stages.items()
    }
    assert frozen["ise"].exported_network.arguments["num_branches"] == 4
    assert frozen["ise"].parents["dnc_snow"] == "vrdir/airpipe_snow/seed0/dnc_snow"
    assert {name: len(stage.data) for name, stage in frozen.items()} == dict.fromkeys(frozen, 1) | {"sad": 4, "ise": 4}
    watched = {name: len(stage.validation.data) for name, stage in frozen.items()}
    assert watched == dict.fromkeys(frozen, 1) | {"sad": 4, "ise": 4}
    assert frozen["dnc_snow"].data[0].recipe == "snow" and frozen["dnc_snow"].parents.keys() == {"sad"}
