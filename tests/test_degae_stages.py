"""DegAE's stages train what they say, hand their weights on, and tell what does not fit before the first step."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from helpers import card, curve, model_of, shipped, stage, toy_list, train
from parity import make_input
from test_degae_import import pretraining, single
from toys import degae as toys

from airpipe import build_network
from airpipe.data.batch import collate
from airpipe.data.pairs import Pair
from airpipe.data.samples import TrainingSamples
from airpipe.data.sampling import SampleKey
from airpipe.errors import AirpipeError
from airpipe.methods.degae.training import (
    FinetuneTask,
    PretrainTask,
    RepresentorTask,
    SuperResolutionTask,
    drawn_noise,
    ends_of,
    parameter_ends,
    reduced,
    targets,
)
from airpipe.models.vgg import VGG19Features, VGGFront
from airpipe.plan import load_plan
from airpipe.registry import settings_class
from airpipe.settings.base import canonical_json, check_settings
from airpipe.settings.degrading import Draw, Recipe
from airpipe.training.task import Moment
from airpipe.weights.checkpoints import load_model
from airpipe.weights.importing import ImportOptions, import_published

FOLDER = "degae/toy/seed3"
BLURRED = {"operations": [toys.BLUR]}
"""No noise: the least L1 of a noisy target is the noise's own."""
GAN = {"gan": "none", "gan_from": 0, "optimizers": {"net": toys.RATE}, "loss_weights": {}}


def degae_stage(name, **changes):
    """Settings of a toy; None leaves a setting out."""
    toy = toys.TOYS[name]
    parents = {role: f"{FOLDER}/{parent}" for role, parent in toy.get("parents", {}).items()}
    own = {"method": "degae", "setting": "toy", "stage": name, "validation": {"data": []}, "parents": parents}
    values = json.loads(canonical_json(stage())) | {"phases": toys.SHORT} | toy | own | changes
    values = {key: value for key, value in values.items() if value is not None}
    return check_settings(settings_class(values["task"]), values, name)


@pytest.fixture(scope="module")
def representor(tmp_path_factory):
    return train(tmp_path_factory.mktemp("representor"), degae_stage("representor"))


@pytest.fixture(scope="module")
def pretrained(representor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    return train(folder, degae_stage("pretrain"), representor=model_of(representor))


def batch_of(folder, settings, count=4, side=24, first=0):
    """A batch of the first samples of a stage on the toy images."""
    toy_list(folder)
    paths = sorted((folder / "images").glob("*.png"))
    pairs = [Pair(path, None, "", "", "none", path.stem, path.stem) for path in paths]
    samples = TrainingSamples(settings.data, [pairs], settings.seed)
    rows = [samples[SampleKey(slot, 0, slot % len(pairs), side)] for slot in range(first, first + count)]
    return collate(rows).to(torch.device("cpu"))


# What is handed on


def test_finetuning_starts_from_the_encoder_of_the_pretraining_bit_for_bit_with_a_head_of_its_own(pretrained):
    net = load_model(pretrained.workdir).network
    task = FinetuneTask(degae_stage("finetune"), {"init": net})
    control = FinetuneTask(degae_stage("finetune", parents={}), {})
    for key, value in net.encoder.state_dict().items():
        assert torch.equal(task.networks["net"].encoder.state_dict()[key], value)
    assert not torch.equal(control.networks["net"].encoder.output.weight, task.networks["net"].encoder.output.weight)
    for key, value in control.networks["net"].head.state_dict().items():
        assert torch.equal(task.networks["net"].head.state_dict()[key], value)
    assert len(task.parent_reports["init"]["matched"]) == len(net.encoder.state_dict())


@pytest.mark.parametrize("scale", ["demo", "small", "paper"])
def test_the_frozen_settings_of_a_control_differ_in_where_it_starts_and_in_nothing_else(scale):
    plan = load_plan({**shipped(), "scale": scale})
    settings = plan.project.methods["degae"].settings
    controls = [name for name, entry in settings.items() if name.endswith("_scratch")]
    controls = [name for name in controls if scale in settings[name].stages["finetune"].scales]
    assert len(controls) == (1 if scale == "demo" else 6)
    for name in controls:
        control, own = (
            plan.stage_settings(f"degae/{setting}/seed0/finetune").model_dump()
            for setting in (name, name.removesuffix("_scratch"))
        )
        assert {key for key in own if own[key] != control[key]} == {"setting", "parents"}
        assert control["parents"] == {} and list(own["parents"]) == ["init"]


def test_the_extractor_of_the_representor_rests_and_its_head_learns(representor, pretrained):
    before, after = load_model(representor.workdir).network, load_model(pretrained.workdir).network.representor
    for key, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[key], value) == key.startswith("extractor."), key


def test_a_fixed_representor_stays_bit_for_bit_and_the_rest_learns(representor, tmp_path):
    settings = degae_stage("pretrain", fix_representor=True)
    made = load_model(train(tmp_path, settings, representor=model_of(representor)).workdir).network
    for key, value in load_model(representor.workdir).network.state_dict().items():
        assert torch.equal(made.representor.state_dict()[key], value), key
    torch.manual_seed(settings.seed)
    start = build_network("degae", **toys.DEGAE["arguments"])
    assert not torch.equal(made.decoder.conv_last.weight, start.decoder.conv_last.weight)


def test_without_a_parent_the_extractor_learns_too(tmp_path):
    alone = degae_stage("pretrain_alone")
    torch.manual_seed(alone.seed)
    start = PretrainTask(alone, {}).networks["net"].representor.extractor.conv_first.weight.detach().clone()
    made = load_model(train(tmp_path, alone).workdir).network
    assert not torch.equal(made.representor.extractor.conv_first.weight, start)


def test_an_extractor_of_super_resolution_fills_that_of_the_representor(tmp_path):
    sr = train(tmp_path / "sr", degae_stage("srresnet"))
    settings = degae_stage("pretrain", parents={"extractor": f"{FOLDER}/srresnet"}, perceptual="extractor")
    made = train(tmp_path / "pretrain", settings, extractor=model_of(sr))
    extractor, source = load_model(made.workdir).network.representor.extractor, load_model(sr.workdir).network
    for key, value in extractor.state_dict().items():
        assert torch.equal(value, source.state_dict()[key])
    task = PretrainTask(settings, {"extractor": source})
    report = task.parent_reports["extractor"]
    assert len(report["matched"]) == len(extractor.state_dict()) and "upconv1.weight" in report["unexpected"]
    assert len(curve(made, "loss/perceptual")) == 6


@pytest.mark.parametrize("files", ["representor", "whole", "extractor"])
def test_official_files_give_the_representor_without_the_layers_that_enlarge(files, tmp_path):
    if files == "whole":
        first, parts = pretraining(tmp_path, "restormer")
        import_published(first, tmp_path / "made", ImportOptions(parts=parts))
    else:
        torch.save(single(files), tmp_path / "DDG_Encoder.pth")
        import_published(tmp_path / "DDG_Encoder.pth", tmp_path / "made", ImportOptions())
    role = "extractor" if files == "extractor" else "representor"
    parent = load_model(tmp_path / "made").network
    sizes = {"decoder": {"in_c": 6, "nf": 8, "degradation_embed_dim": 64}, "representor": {"nf": 8, "nb": 4}}
    network = {**toys.DEGAE, "arguments": toys.DEGAE["arguments"] | sizes}
    task = PretrainTask(degae_stage("pretrain", network=network, parents={role: "imported/made"}), {role: parent})
    own = task.networks["net"].representor.published_state()
    published = getattr(parent, "representor", parent).published_state()
    prefix = "DDR_extractor." if files == "extractor" else ""
    names = [key for key in own if key.startswith(prefix)]
    assert names and all(torch.equal(own[key], published[key.removeprefix(prefix)]) for key in names)
    assert len(task.parent_reports[role]["matched"]) == len(names)
    assert len(task.parent_reports[role]["unexpected"]) == (0 if files == "whole" else 8)  # dropped on import


@pytest.mark.parametrize("role", ["representor", "extractor"])
def test_a_representor_with_more_blocks_is_refused(role):
    parent = build_network("degae_representor", nf=4, nb=8)
    with pytest.raises(AirpipeError, match=f"parent {role} does not fit .* 16 unexpected"):
        PretrainTask(degae_stage("pretrain", parents={role: "imported/made"}), {role: parent})


# Steps


def test_a_step_has_the_losses_of_the_published_objective(pretrained, tmp_path):
    """Both images take on the second target's degradation; terms are sums over both images, as published."""
    settings = degae_stage("pretrain", gan_real="input")
    task = PretrainTask(settings, {"representor": load_model(pretrained.workdir).network.representor})
    batch = batch_of(tmp_path, settings)
    found = task.step(batch, at := Moment("generate", step=3))
    net = task.networks["net"]
    first, second = drawn_noise(settings.seed, batch.slot, batch.degraded)[0].shape, batch.degraded.shape
    assert first == (2 * second[0], 1, *second[2:])
    noise = drawn_noise(settings.seed, batch.slot, batch.degraded)
    other = batch.companion
    made = [
        net(image, other.clean, noise=[one.chunk(2)[which] for one in noise])
        for which, image in enumerate((batch.degraded, other.degraded))
    ]
    pixel = F.l1_loss(made[0], batch.clean) + F.l1_loss(made[1], other.clean)
    torch.testing.assert_close(found["pixel"], pixel)
    embeddings = [net.representor(image) for image in (batch.clean, other.clean)]
    torch.testing.assert_close(found["embedding"], F.mse_loss(*embeddings))
    fake = task.networks["discriminator"](torch.cat(made))
    torch.testing.assert_close(found["adversarial"], 2 * (fake - 1).square().mean(), rtol=1e-3, atol=1e-4)
    assert torch.equal(at.handed["real"], torch.cat([batch.degraded, other.degraded]))
    real = task.networks["discriminator"](at.handed["real"])
    judged = task.step(batch, Moment("discriminate", step=3, handed=at.handed))
    assert set(judged) == {"real", "fake"} and judged["fake"] > 0
    torch.testing.assert_close(judged["real"], 2 * (real - 1).square().mean(), rtol=1e-3, atol=1e-4)


def test_what_is_told_in_validation_does_not_depend_on_the_size_of_embeddings(representor, tmp_path):
    settings = degae_stage("representor")
    task, net = RepresentorTask(settings, {}), load_model(representor.workdir).network
    batch = batch_of(tmp_path, settings)
    task.networks["reader"].bias.data.fill_(0.01)  # alone it would decide for embeddings that are small
    told = task.measure(net, batch)["operation_accuracy"]
    for value in (net.conv1x1_3.weight, net.conv1x1_3.bias):
        value.data *= 1e-3
    assert torch.equal(task.measure(net, batch)["operation_accuracy"], told)


def test_the_discriminator_begins_late_and_is_logged_from_there_on(pretrained):
    assert [len(curve(pretrained, f"loss/{name}")) for name in ("pixel", "adversarial", "real", "fake")] == [6, 3, 3, 3]


def test_killed_before_the_discriminator_begins_a_pretraining_ends_with_the_same_bits(
    representor, pretrained, tmp_path, monkeypatch
):
    settings, step = degae_stage("pretrain"), PretrainTask.step

    def killed(self, batch, at):
        if at.step == 2:
            raise KeyboardInterrupt
        return step(self, batch, at)

    with monkeypatch.context() as patched:
        patched.setattr(PretrainTask, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, settings, seconds=1e-6, representor=model_of(representor))
    resumed = train(tmp_path, settings, representor=model_of(representor))
    assert json.loads((resumed.workdir / "state" / "attempts.json").read_text()) == [2]
    assert (resumed.weights(), resumed.curves()) == (pretrained.weights(), pretrained.curves())


def test_noise_of_the_decoder_is_fixed_by_seed_and_sample():
    images = make_input((4, 3, 8, 6))
    maps = drawn_noise(3, [7, 9], images)
    again = drawn_noise(3, [9, 7], images)
    assert len(maps) == 4 and maps[0].shape == (4, 1, 8, 6)
    for one, two in zip(maps, again, strict=True):
        assert torch.equal(one[0], two[1]) and torch.equal(one[2], two[3])
        assert not torch.equal(one[0], one[2])
    assert torch.stack(maps).std() == pytest.approx(1, abs=0.1)


def test_200_steps_on_four_images_halve_the_pixel_loss(tmp_path):
    rate = {"net": {**toys.RATE, "learning_rate": 3e-3}}
    phases = [{"steps": 200, "patch_size": 24, "batch_size": 4}]
    data = [{**toys.TRANSFER[0], "operations": BLURRED, "target_operations": BLURRED}]
    settings = degae_stage("pretrain_alone", phases=phases, optimizers=rate, data=data, clip_norm=1.0)
    losses = curve(train(tmp_path, settings), "loss/pixel")
    first, last = (sum(part) / len(part) for part in (losses[:10], losses[-20:]))
    assert last < 0.5 * first


def test_the_representor_learns_to_tell_clean_blurred_and_noisy_images_apart(tmp_path):
    blur = {"operation": "defocus_blur", "parameters": {"diameter": 6}, "chance": 0.5}
    noise = {"operation": "gaussian_noise", "parameters": {"sigma": {"integers": [30, 50]}}, "chance": 0.5}
    data = [{**toys.PAIR, "operations": {"operations": [blur, noise]}}]
    rate = {"net": {**toys.RATE, "learning_rate": 2e-3}}
    phases = [{"steps": 120, "patch_size": 24, "batch_size": 6}]
    settings = degae_stage("representor", data=data, phases=phases, optimizers=rate, clip_norm=1.0)
    net = load_model(train(tmp_path, settings).workdir).network.eval()
    batch = batch_of(tmp_path, settings, 60, 48, first=50_000)
    with torch.no_grad():
        found = F.normalize(net(batch.degraded).flatten(1))
    labels = batch.drawn.applied.int() @ torch.tensor([1, 2], dtype=torch.int32)
    alike = (found @ found.T).fill_diagonal_(-1).argmax(1)
    chance = sum((labels == label).float().mean().square() for label in range(4))
    assert (labels[alike] == labels).float().mean() > 1.8 * chance


def test_the_representor_is_asked_for_what_was_drawn_only():
    recipe = Recipe.model_validate(
        [
            {"operation": "gaussian_noise", "parameters": {"sigma": {"integers": [5, 25]}}},
            {"operation": "poisson_noise", "parameters": {"photons": {"log_uniform": [100, 10_000]}}},
        ]
    )
    ends = parameter_ends([recipe], ["gaussian_noise.sigma", "poisson_noise.photons"])
    assert ends[0].tolist() == [5, 25, 0] and ends[1, 2] == 1
    assert ends_of(Draw(choice=("independent", "grey"))) == (0, 1)
    values = torch.tensor([[15.0, 1000.0], [25.0, float("nan")]])
    wanted, known = targets(type("Drawn", (), {"values": values}), ends)
    torch.testing.assert_close(wanted[known], torch.tensor([0.5, 0.5, 1.0]))
    assert known.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("first", [{"constant": 1000}, {"log_uniform": [100, 5000]}])
def test_one_scale_holds_all_draws_of_a_parameter(first):
    draws = [first, {"log_uniform": [100, 10_000]}, {"uniform": [200, 300]}]
    recipes = [
        Recipe.model_validate([{"operation": "poisson_noise", "parameters": {"photons": draw}}]) for draw in draws
    ]
    ends = parameter_ends(recipes, ["poisson_noise.photons"])
    values = torch.tensor([[100.0], [1000.0], [10_000.0]])
    wanted, _ = targets(type("Drawn", (), {"values": values}), ends)
    torch.testing.assert_close(wanted[:, 0], torch.tensor([0.0, 0.5, 1.0]))
    plain = parameter_ends(
        [*recipes, Recipe.model_validate([{"operation": "poisson_noise", "parameters": {"photons": 0}}])],
        ["poisson_noise.photons"],
    )
    assert plain.tolist() == [[0, 10_000, 0]]  # 0 has no logarithm


def test_operations_of_the_validation_are_told_by_name(representor, tmp_path):
    """The validation's recipe has the second operation of the training alone, and applies it always."""
    settings = degae_stage("representor")
    task, net = RepresentorTask(settings, {}), load_model(representor.workdir).network
    always = {"operations": [{**toys.NOISE, "chance": 1.0}]}
    part = settings.data[0].model_copy(update={"operations": Recipe.model_validate(always)})
    batch = batch_of(tmp_path, settings.model_copy(update={"data": (part,)}))
    task.networks["reader"].weight.data.zero_()
    task.networks["reader"].bias.data[:2] = torch.tensor([-1.0, 1.0])  # says noise, and never blur
    assert task.measure(net, batch)["operation_accuracy"].tolist() == [100.0] * 4


def test_clean_images_are_reduced_fourfold_and_rounded():
    image = make_input((1, 3, 32, 24))
    small = reduced(image)
    assert small.shape == (1, 3, 8, 6) and torch.equal((small * 255).round() / 255, small)
    torch.testing.assert_close(reduced(torch.full((1, 3, 16, 16), 0.4)), torch.full((1, 3, 4, 4), 0.4))  # 102 / 255


# What does not fit


def validated(part, side=24):
    return {"validation": {"data": [part], "patch_size": side}}


NO_COMPANION = [{**toys.TRANSFER[0], "companion": False}]
NO_TARGET = [{key: value for key, value in toys.TRANSFER[0].items() if not key.startswith("target")}]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("pretrain", {"data": NO_COMPANION}, "toy.train has no companion; degae.pretrain compares two images"),
        ("pretrain", {"data": NO_TARGET}, "toy.train has no target_recipe; degae.pretrain gives an image"),
        ("pretrain", {"discriminator": {"name": "degae_vgg128"}}, "takes patches of 128 pixels, found patch_size 24"),
        ("pretrain", {"discriminator": {"name": "nafnet"}}, "discriminator: unknown network 'nafnet'"),
        ("pretrain", {"gan_from": 6}, "gan_from is 6, but the stage has 6 steps"),
        (
            "pretrain",
            {"optimizers": {"net": toys.RATE}},
            "found net; with gan: lsgan expected discriminator",
        ),
        (
            "pretrain",
            GAN | {"loss_weights": {"adversarial": 0.1}},
            "for the loss adversarial, but gan is none",
        ),
        ("pretrain", GAN | {"gan_from": 2}, "found gan_from, but gan is none"),
        ("pretrain", {"perceptual": "vgg"}, "perceptual is vgg, but parents name no vgg"),
        ("pretrain_alone", {"perceptual": "extractor"}, "perceptual is extractor, but no parent gives a frozen one"),
        (
            "pretrain",
            {"parents": {"representor": FOLDER + "/representor", "extractor": FOLDER + "/srgan"}},
            "found representor and extractor; a representor has an extractor",
        ),
        ("representor", {"data": [{"pairs": "toy.train", "companion": True}]}, "toy.train has no recipe"),
        ("representor", validated({**toys.PAIR, "companion": False}), "validation.data: toy.train has no companion"),
        (
            "representor",
            validated({**toys.PAIR, "operations": [{"operation": "jpeg", "parameters": {"quality": 50}}]}),
            "validation.data: unknown operation of the training 'jpeg'",
        ),
        ("pretrain", validated(toys.PAIR), "validation.data: toy.train has no target_recipe"),
        (
            "pretrain",
            {"parents": {"vgg": "imported/vgg19"}},
            "found vgg, but perceptual is none; leave it out ({vgg: null})",
        ),
        ("srresnet", {"phases": [{"steps": 2, "patch_size": 18, "batch_size": 2}]}, "expected a multiple of 4"),
        ("probe", {"parents": {}}, "there is no parent init to start from"),
        ("pretrain_alone", {"fix_representor": True}, "fix_representor keeps the parent representor as it is"),
    ],
)
def test_settings_that_do_not_fit_are_told_by_name(name, changes, message):
    with pytest.raises(AirpipeError, match=re.escape(message)):
        degae_stage(name, **changes)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("pretrain_alone", {"loss_weights": {"adversarial_loss": 1}}, "unknown loss 'adversarial_loss'"),
        ("representor", {"phases": [{"steps": 2, "patch_size": 64, "batch_size": 2}]}, "smaller than patch_size 64"),
        (
            "representor",
            {"phases": [toys.SHORT[0], {"steps": 2, "patch_size": 16, "batch_size": 2}]},
            "degae.representor: patch_size is 16, the representor needs 22 pixels",
        ),
        (
            "pretrain_alone",
            validated(toys.TRANSFER[0], 16),
            "validation.patch_size is 16, the representor needs 22 pixels",
        ),
        (
            "srgan",
            {"parents": {}, "loss_weights": {"pixel": 0.01}},
            "has 0.01 for pixel, but no VGG19 .* set loss_weights: {pixel: 1.0}",
        ),
        (
            "pretrain_alone",
            {"phases": [{"steps": 2, "patch_size": 16, "batch_size": 2}]},
            "the representor needs 22 pixels",
        ),
        (
            "pretrain",
            {"phases": [{"steps": 9, "patch_size": 23, "batch_size": 2}], "gan_from": 8, "parents": {}},
            "patch_size is 23, the PatchGAN discriminator needs 24 pixels",
        ),
    ],
)
def test_a_stage_that_cannot_run_is_told_before_anything_is_exported(name, changes, message, tmp_path):
    with pytest.raises(AirpipeError, match=message):
        train(tmp_path, degae_stage(name, **changes))
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_parent_without_an_encoder_is_no_start(representor):
    with pytest.raises(AirpipeError, match="parent init is a Representor; degae.finetune starts from the encoder"):
        FinetuneTask(degae_stage("finetune"), {"init": load_model(representor.workdir).network})


def test_without_vgg19_the_perceptual_loss_is_left_out_and_the_card_says_so(tmp_path, capsys):
    settings = degae_stage("pretrain_alone", perceptual="vgg", parents={"vgg": "imported/vgg19"})
    made = train(tmp_path, settings)
    assert "WARNING: parent vgg (imported/vgg19) is absent: training without it" in capsys.readouterr().out
    assert card(made)["absent_parents"] == {"vgg": "imported/vgg19"}
    assert not curve(made, "loss/perceptual")


def test_features_of_another_network_than_vgg19_are_refused():
    parents = {"vgg": "imported/vgg19"}
    with pytest.raises(AirpipeError, match="parent vgg is a VGGFront; .* choose perceptual: none"):
        PretrainTask(degae_stage("pretrain_alone", perceptual="vgg", parents=parents), {"vgg": VGGFront()})
    with pytest.raises(AirpipeError, match="parent vgg is a VGGFront; .* leave vgg out of parents"):
        SuperResolutionTask(degae_stage("srgan", parents=parents), {"vgg": VGGFront()})


def test_patches_that_vgg19_would_pool_to_nothing_are_refused():
    small = degae_stage(
        "srgan", parents={"vgg": "imported/x"}, phases=[{"steps": 1, "patch_size": 12, "batch_size": 2}]
    )
    with pytest.raises(AirpipeError, match="patch_size is 12, VGG19 needs 16 pixels. Use larger patches"):
        SuperResolutionTask(small, {"vgg": VGG19Features()})


def test_a_task_without_companions_says_what_it_needs(tmp_path):
    settings = degae_stage("representor")
    batch = batch_of(tmp_path, settings)
    with pytest.raises(AirpipeError, match="degae.representor needs a second image of equal draws"):
        RepresentorTask(settings, {}).step(type(batch)(batch.degraded, batch.clean, batch.label, [], []), Moment())
