"""DyNet's stages train one depth in each step, on the tasks that are asked for, in the published numbers and rates."""

import itertools
import json
import re
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from helpers import Stage, card, curve, model_of, shipped, stage, train
from toys.dynet import DYNAMIC, TOYS

from airpipe.data.batch import Batch
from airpipe.data.pairs import Pair
from airpipe.data.samples import TrainingSamples
from airpipe.data.sampling import SampleKey, part_counts
from airpipe.errors import AirpipeError
from airpipe.evaluation.restore import restore
from airpipe.images import centre_crop
from airpipe.methods.dynet.settings import DE_TYPES
from airpipe.methods.dynet.training import DynamicTask, TrainTask
from airpipe.models.cost import network_cost
from airpipe.registry import settings_class
from airpipe.settings.base import canonical_json, check_settings
from airpipe.settings.freezing import frozen_stage
from airpipe.settings.project import load_project
from airpipe.settings.stages import DataPart, StageSettings
from airpipe.training.schedules import learning_rate_at, schedule_time
from airpipe.training.task import Moment, step_generator
from airpipe.weights.checkpoints import load_model

PHASES = [{"steps": 12, "patch_size": 16, "batch_size": 2}]
LENGTHS = {"bsd400.train": 400, "wed.train": 4744, "rain100l.train": 200, "reside_ots.train": 72_135}
LENGTHS |= {"gopro.train": 2103, "lol_v1.train": 485}


def toy(name: str = "pretrain", **changes) -> StageSettings:
    """Settings of a toy in a folder of its own; None leaves a setting out."""
    own = {"method": "dynet", "setting": "toy", "stage": name, "phases": PHASES}
    values = json.loads(canonical_json(stage())) | own | TOYS[name] | {"ema_decay": 0.0} | changes
    if values.get("parents"):
        values["parents"] = {role: f"dynet/toy/seed3/{parent}" for role, parent in values["parents"].items()}
    values = {key: value for key, value in values.items() if value is not None}
    return check_settings(settings_class(values["task"]), values, name)


@cache
def shipped_stage(setting: str, name: str, scale: str = "paper") -> StageSettings:
    project = load_project({**shipped(), "scale": scale})
    task = project.methods["dynet"].settings[setting].stages[name].task
    return frozen_stage(project, f"dynet/{setting}", 0, name, settings_class(task), 1)


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> Stage:
    """A pretraining of both depths."""
    longer = [{"steps": 300, "patch_size": 16, "batch_size": 4}]
    validation = {"every": 20, "patch_size": 32, "data": TOYS["pretrain"]["data"]}
    settings = toy(phases=longer, validation=validation, optimizers={"net": {"learning_rate": 3e-3}})
    return train(tmp_path_factory.mktemp("joint"), settings)


# Branches


def losses(made: Stage, name: str) -> dict[int, float]:
    """Loss by step; steps that did not compute it are left out."""
    rows = [line.split(",") for line in made.curves().splitlines()[1:]]
    return {int(step): float(value) for step, found, value in rows if found == f"loss/{name}"}


def test_each_step_trains_the_depth_that_its_seed_and_number_draw(tmp_path):
    made = train(tmp_path, toy())
    drawn = ["ls"[step_generator(3, step).integers(2)] for step in range(12)]
    assert set(drawn) == {"s", "l"}
    for name in "sl":
        assert list(losses(made, f"pixel_{name}")) == [step for step, one in enumerate(drawn, 1) if one == name]


def test_the_draw_is_even_and_of_all_variants():
    task = DynamicTask(toy(variants={**DYNAMIC["variants"], "m": {"reuse_freq": [1, 2, 1, 1]}}), {})
    batch = Batch(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64), ["a"], [""])
    task.networks["net"] = lambda image, reuse_freq: image
    found = [*itertools.chain(*(task.step(batch, Moment(generator=step_generator(0, step))) for step in range(600)))]
    counts = [found.count(f"pixel_{name}") for name in "slm"]
    assert sum(counts) == 600
    assert min(counts) > 170


def test_the_network_runs_as_deep_as_the_loss_says():
    task, seen = DynamicTask(toy(), {}), []
    batch = Batch(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64), ["a"], [""])
    net = task.networks["net"]
    net.latent.register_forward_hook(lambda *_: seen.append(1))
    for step in range(8):
        seen.clear()
        (name,) = task.step(batch, Moment(generator=step_generator(3, step)))
        assert len(seen) == {"pixel_s": 1, "pixel_l": 2}[name]
    with torch.no_grad():
        error = (net(batch.degraded, reuse_freq=[1, 1, 1, 1]) - batch.clean).abs().mean()
    steady = DynamicTask(toy(branch="s"), {})
    steady.networks["net"].load_state_dict(net.state_dict())
    assert steady.step(batch, Moment())["pixel_s"].item() == pytest.approx(error.item(), rel=1e-5)


def test_one_depth_alone_is_trained_where_the_setting_names_it(tmp_path):
    made = train(tmp_path, toy(branch="l", loss_weights={"pixel_s": 0.5}))
    assert list(losses(made, "pixel_l")) == list(range(1, 13))
    assert not losses(made, "pixel_s")


def test_both_depths_learn_from_one_run_and_one_file_serves_them(joint):
    for name in "sl":
        found = list(losses(joint, f"pixel_{name}").values())
        assert np.mean(found[-25:]) < 0.7 * np.mean(found[:10])
        psnr, error = (curve(joint, f"validation/{metric}_{name}") for metric in ("psnr", "l1"))
        assert len(psnr) == len(error) == 15
        assert psnr[-1] > psnr[0] + 1
        assert error[-1] < 0.8 * error[0]
    assert card(joint)["variants"] == DYNAMIC["variants"]
    loaded = {name: load_model(model_of(joint), name) for name in ("s", "l")}
    assert {name: one.network.reuse_freq for name, one in loaded.items()} == {"s": (1, 1, 1, 1), "l": (1, 2, 1, 2)}
    photo = next((joint.folder / "images").glob("*.png"))
    restored = [restore(photo, f"{joint.workdir}@{name}") for name in "sl"]
    assert not np.array_equal(*restored)
    costs = [network_cost(**loaded[name].card["network"]) for name in ("s", "l")]
    assert costs[0]["macs"] < 0.9 * costs[1]["macs"]
    assert costs[0]["parameters"] == costs[1]["parameters"]


# Training


def test_training_starts_from_the_pretrained_weights(joint):
    parent = load_model(model_of(joint)).network
    task = TrainTask(toy("train"), {"init": parent})
    own = task.networks["net"].state_dict()
    assert all(torch.equal(value, own[key]) for key, value in parent.state_dict().items())
    assert len(task.parent_reports["init"]["matched"]) == len(own)
    fresh = TrainTask(toy("train", parents=None), {}).networks["net"].state_dict()
    assert not torch.equal(fresh["latent.attn.qkv.weight"], own["latent.attn.qkv.weight"])


@pytest.mark.parametrize("clamp", [True, False])
def test_a_clamped_loss_has_no_gradient_beyond_zero_and_one(clamp):
    task = TrainTask(toy("train", parents=None, clamp=clamp), {})
    made = torch.tensor([-0.5, 0.25, 1.5]).reshape(1, 3, 1, 1).requires_grad_(True)
    task.networks["net"] = lambda image, reuse_freq: made
    clean = torch.tensor([0.5, 0.5, 0.5]).reshape(1, 3, 1, 1)
    batch = Batch(clean, clean, torch.zeros(1, dtype=torch.int64), ["a"], [""])
    (loss,) = task.step(batch, Moment()).values()
    loss.backward()
    assert loss.item() == pytest.approx((0.5 + 0.25 + 0.5) / 3 if clamp else (1 + 0.25 + 1) / 3)
    assert made.grad.flatten().tolist() == pytest.approx([0 if clamp else -1 / 3, -1 / 3, 0 if clamp else 1 / 3])


# The mix


def samples_of(settings: StageSettings) -> list[float]:
    """Samples of each part in one pass."""
    return part_counts(settings.data, [LENGTHS[part.pairs] for part in settings.data])[0]


def test_a_pass_has_the_published_numbers_of_samples():
    settings = shipped_stage("dynet_3d", "train")
    counts = dict.fromkeys(DE_TYPES[:5], 0.0)
    for part, count in zip(settings.data, samples_of(settings), strict=True):
        counts[DE_TYPES[part.label]] += count
    published = {"denoise_15": 15_432, "denoise_25": 15_432, "denoise_50": 15_432, "derain": 24_000, "dehaze": 72_135}
    assert counts == published
    assert sum(counts.values()) == 142_431
    (phase,) = settings.phases
    assert (phase.epoch_steps, phase.epochs) == (142_431 // 32, 120)


@pytest.mark.parametrize("setting", ["dynet_3d", "dynet_3d_reference"])
def test_shipped_rates_are_the_published_ones(setting):
    settings = shipped_stage(setting, "train")
    shifted = {0: 0, 1: 0, 2: 1.428571e-5, 14: 1.857143e-4, 15: 2e-4, 16: 2e-4, 17: 1.999729e-4}
    shifted |= {60: 1.520015e-4, 118: 2.806602e-5, 119: 2.646910e-5}
    late = 0 if setting == "dynet_3d_reference" else 2  # epochs without a rate, which ours leaves out
    for epoch, rate in shifted.items():
        for step in (epoch * 4450, epoch * 4450 + 4449):
            time = schedule_time(step, settings.phases, "epoch")
            assert time == (epoch, 120)
            if epoch >= late:
                found = learning_rate_at(epoch - late, 120, settings.optimizers["net"])
                assert found == pytest.approx(rate, rel=1e-6)


ALL = [{"pairs": "toy.train", "label": label} for label in range(7)]


@pytest.mark.parametrize(
    "chosen",
    [
        *(list(some) for count in (1, 2, 3) for some in itertools.combinations(DE_TYPES[:5], count)),
        list(DE_TYPES),
        ["denoise_25", "derain", "dehaze", "deblur", "lowlight"],
    ],
    ids="+".join,
)
def test_any_subset_of_the_tasks_is_trained(chosen):
    """Upstream crashes with denoise_15 alone and adds no noise with denoise_25 or _50 alone."""
    settings = toy("train", data=ALL, validation={"data": ALL}, de_type=chosen)
    assert [DE_TYPES[part.label] for part in settings.data] == [name for name in DE_TYPES if name in chosen]
    assert [part.label for part in settings.validation.data] == [part.label for part in settings.data]
    again = check_settings(type(settings), json.loads(canonical_json(settings)), "again")
    assert again == settings


def test_one_noise_level_alone_is_a_shipped_mix_of_its_own_sigma():
    project = load_project({**shipped(), "scale": "small"})
    plan = project.methods["dynet"].settings["dynet_3d"].stages["train"]
    for name, sigma in (("denoise_15", 15), ("denoise_25", 25), ("denoise_50", 50)):
        plan.common["de_type"] = [name]
        settings = frozen_stage(project, "dynet/dynet_3d", 0, "train", settings_class("dynet.train"), 1)
        sigmas = [part.operations.operations[0].parameters["sigma"].constant for part in settings.data]
        assert sigmas == [sigma] * 2
        assert sum(samples_of(settings)) == 15_432


def test_without_de_type_every_part_is_trained():
    assert len(toy("train", data=ALL).data) == 7


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("train", {"data": ALL, "de_type": ["derain", "desnow"]}, r"de_type.*(?s:.)*'denoise_15', 'denoise_25'"),
        (
            "train",
            {"data": ALL, "de_type": []},
            r"not valid:\n  de_type: names no task; expected .*denoise_15, .* all parts \(.*\)$",
        ),
        ("train", {"data": ALL[:4], "de_type": ["dehaze"]}, "de_type has dehaze, but no part of data has its label, 4"),
        ("train", {"data": ALL, "de_type": 5}, r"de_type: expected a list \(found 5\)"),
        ("train", {"data": ALL, "de_type": [["derain"]]}, "de_type"),
        ("train", {"data": None, "de_type": ["derain"]}, "data: Field required"),
        ("train", {"data": ["toy.train"], "de_type": ["derain"]}, r"data\.0"),
        ("train", {"data": [*ALL, {**ALL[0], "label": [3]}], "de_type": ["derain"]}, r"data\.7\.label"),
        ("train", {"data": ALL, "de_type": ["derain"], "validation": {"data": None}}, r"validation\.data"),
        ("train", {"branch": "xl"}, "branch: unknown variant 'xl'"),
        *(
            (
                "train",
                {"variants": {"s": {"reuse_freq": found}}},
                rf"variants.s: reuse_freq is {re.escape(str(found))}; exp",
            )
            for found in (5, None, "1234", [1, 2], [1, 1, 1, 0], [1, 1, 1, 1.5], [1, 1, 1, True])
        ),
        ("pretrain", {"variants": {}}, "variants: none given; name the depths"),
        ("pretrain", {"variants": {"s": {"dim": 8}}}, r"variants.s has \['dim'\]; a step changes reuse_freq"),
        ("pretrain", {"de_type": ["derain"]}, "de_type"),
    ],
)
def test_settings_that_do_not_fit_get_one_message(name, changes, message):
    with pytest.raises(AirpipeError, match=message):
        toy(name, **changes)


# Crops


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((321, 481), (0, 319), (0, 479)), ((413, 550), (6, 405), (3, 546))]
)
def test_images_are_cut_to_multiples_of_16_before_the_crop(tmp_path, size, rows, columns):
    across, down = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
    cut = centre_crop(np.dstack([down, across]), 16)
    assert (cut[0, 0].tolist(), cut[-1, -1].tolist()) == ([rows[0], columns[0]], [rows[1], columns[1]])
    image = np.full((*size, 3), 255, np.uint8)
    image[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = 0
    cv2.imwrite(str(tmp_path / "a.png"), image)
    pair = Pair(tmp_path / "a.png", None, "", "", "none", "a", "a")
    side = rows[1] - rows[0] + 1  # as high as what is left
    seen = []
    for multiple in (16, 1):
        part = DataPart(pairs="toy.train", crop_multiple=multiple)
        samples = TrainingSamples([part], [[pair]], 0)
        seen.append(max(samples[SampleKey(slot, 0, 0, side)]["clean"].max() for slot in range(20)))
    assert seen == [0, 255]


def test_shipped_training_cuts_to_16_and_pretraining_hides_cells():
    assert {part.crop_multiple for part in shipped_stage("dynet_5d", "train").data} == {16}
    shares = {"cells": (0.3, 0.5), "cells_s": (0.3, 0.5), "cells_l": (0.3, 0.5), "cells_figure": (0.5, 0.3)}
    for setting, expected in shares.items():
        settings = shipped_stage(setting, "pretrain")
        (part,) = settings.data
        drawn = part.operations.operations[0].parameters
        assert (drawn["masked"].constant, drawn["degraded"].constant) == expected
        assert settings.branch == {"cells_s": "s", "cells_l": "l"}.get(setting, "random")
        assert settings.steps == 1_000_000
        assert learning_rate_at(999_999, 1_000_000, settings.optimizers["net"]) == 1e-4
