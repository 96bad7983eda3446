"""DCPT's mixes, schedules and transfers at small, paper and released scale are what its sources say."""

import math
import re
from functools import cache

import numpy as np
import pytest
import torch
from helpers import shipped

from airpipe.data.sampling import interleave, part_counts
from airpipe.degradations.recipes import check_operations
from airpipe.registry import build_network, settings_class, stage_entry
from airpipe.settings.freezing import frozen_stage
from airpipe.settings.project import ProjectSettings, load_project
from airpipe.settings.stages import OptimizerSettings, StageSettings
from airpipe.training.schedules import learning_rate_at

OWN = "small", "paper", "released"
"""Scales of this file's tests; the demo has its own."""
COMMENTED = {"dfwb.train_cut": 69_635, "dpdd.train_crops": 7_000, "rain_train_hl.train": 3_000}
"""Sizes that only comments of the published option files tell."""
BACKBONES = {
    "restormer_dcpt": "restormer_dcpt",
    "restormer_std": "restormer",
    "nafnet": "nafnet",
    "swinir": "swinir_dcpt",
    "promptir": "promptir",
}
TASKS_5D = ("rain", "noise", "haze", "low_light", "motion_blur")
TASKS_10D = (
    "noise", "motion_blur", "defocus_blur", "jpeg", "haze", "rain", "snow", "mosaic", "low_light", "inpainting",
)  # fmt: skip
CDD11 = (
    "low", "haze", "rain", "snow", "low_haze", "low_rain", "low_snow", "haze_rain", "haze_snow", "low_haze_rain",
    "low_haze_snow",
)  # fmt: skip
TRANSFERS = [
    (source, target) for source in ("rain", "noise", "motion_blur") for target in ("rain", "noise", "motion_blur")
    if source != target
]  # fmt: skip


@cache
def project() -> ProjectSettings:
    return load_project(shipped("dcpt.yaml"))


@cache
def frozen(model: str, stage: str, scale: str) -> StageSettings:
    at_scale = project().model_copy(update={"scale": scale})
    task = at_scale.setting_plan(model).stages[stage].task
    return frozen_stage(at_scale, model, 0, stage, settings_class(task), stage_entry(task).revision)


@cache
def everything() -> list[tuple[str, str, str]]:
    return [
        (f"dcpt/{setting}", stage, scale)
        for setting, plan in project().methods["dcpt"].settings.items()
        for stage, settings in plan.stages.items()
        for scale in settings.scales
    ]


def size(pairs: str, sizes: dict[str, int] | None = None) -> int:
    dataset, split = pairs.split(".")
    known = (sizes or {}).get(pairs) or COMMENTED.get(pairs) or project().datasets[dataset].splits[split].expected
    assert known, pairs
    return known


def weights(settings: StageSettings, **sizes: int) -> dict[int, int]:
    """Samples of a pass over the mix, by label."""
    counts, exact = part_counts(settings.data, [size(part.pairs, sizes) for part in settings.data])
    assert exact
    summed: dict[int, int] = {}
    for part, count in zip(settings.data, counts, strict=True):
        summed[part.label] = summed.get(part.label, 0) + round(count)
    return summed


def schedule(settings: StageSettings, optimizer: str = "net") -> tuple:
    """(steps, patch, batch, rate, minimum, weight decay) of a stage with one phase."""
    (phase,) = settings.phases
    how = settings.optimizers[optimizer]
    return (
        settings.steps, phase.patch_size, phase.batch_size, how.learning_rate, how.minimum_rate, how.weight_decay,
    )  # fmt: skip


def degradation(part) -> str:
    """What a data part shows, by its recipe or the registry."""
    if part.recipe is not None:
        return re.match("noise|jpeg|mosaic|inpainting", part.recipe)[0]
    dataset, split = part.pairs.split(".")
    return project().datasets[dataset].splits[split].degradation


# All settings


def test_the_wanted_settings_and_scales_are_there():
    settings = project().methods["dcpt"].settings
    everywhere = {"nafnet_5d", "nafnet_5d_direct", "nafnet_5d_probe", "nafnet_10d", "nafnet_cdd11"}
    everywhere |= {"restormer_rain", "restormer_motion_blur"}
    large = {"promptir_5d", "swinir_5d", "restormer_std_5d"}
    guided = {f"restormer_{source}_to_{target}" for source, target in TRANSFERS}
    large |= guided | {f"{name}_unguided" for name in guided}
    assert len(guided) == 6
    for name, scales in [*((n, set(OWN)) for n in everywhere), *((n, {"paper", "released"}) for n in large)]:
        for stage in settings[name].stages.values():
            assert set(stage.scales) & set(OWN) == scales, name
    at = {stage: set(values.scales) for stage, values in settings["restormer_5d"].stages.items()}
    assert at == {"pretrain": set(OWN), "finetune": {"paper", "released"}}  # single tasks start from the first one
    assert all(plan.about for plan in settings.values())


def test_every_setting_freezes_at_every_scale_with_recipes_that_run():
    assert len(everything()) > 60
    for model, stage, scale in everything():
        settings = frozen(model, stage, scale)
        classes = getattr(getattr(settings, "head", None), "num_classes", 11)
        for part in (*settings.data, *settings.validation.data):
            check_operations(part.operations, f"{model} {part.pairs}")
            assert part.label < classes
            dataset, split = part.pairs.split(".")
            entry = project().datasets[dataset]
            assert split in (entry.splits or {file.split for file in entry.packages}), part.pairs
        assert {part.pairs for part in settings.data}.isdisjoint(part.pairs for part in settings.validation.data)


def test_recipes_are_for_lists_without_degraded_files_alone():
    parts = [
        part
        for method, entry in project().methods.items()
        for setting, plan in entry.settings.items()
        for stage, values in plan.stages.items()
        for scale in values.scales
        for settings in [frozen(f"{method}/{setting}", stage, scale)]
        for part in (*settings.data, *settings.validation.data)
    ]
    config = load_project(shipped())
    parts += [*project().tests.values(), *config.tests.values(), *config.features.classes.values()]
    with_recipe = {part.pairs for part in parts if part.recipe}
    assert len(with_recipe) > 5
    for pairs in with_recipe:
        dataset, split = pairs.split(".")
        entry = project().datasets[dataset].splits.get(split)  # none: embedded images, which are clean
        assert not entry or not any(layout.degraded for layout in entry.layouts), pairs


def test_every_setting_trains_the_backbone_of_its_name_at_every_scale():
    for model, stage, scale in everything():
        name = model.removeprefix("dcpt/")
        dcpt_fork = name in ("restormer_5d", "restormer_rain", "restormer_motion_blur")
        expected = "restormer_dcpt" if dcpt_fork else BACKBONES.get("_".join(name.split("_")[:2]))
        expected = expected or BACKBONES.get(name.split("_")[0], "restormer")
        network = frozen(model, stage, scale).network
        assert network.name == expected, (model, scale)
        wide = {"small": 32, "paper": 64, "released": 64}
        if expected == "nafnet" and scale in wide:
            blocks = {"middle_blk_num": 1, "enc_blk_nums": [1, 1, 1, 28], "dec_blk_nums": [1, 1, 1, 1]}
            assert network.arguments == {"width": wide[scale], **blocks}


@pytest.mark.parametrize(
    ("setting", "parameters"),
    [("nafnet_5d", 67_888_835), ("restormer_5d", 26_111_668), ("promptir_5d", 35_376_967), ("swinir_5d", 11_455_563)],
)
def test_the_backbones_have_the_published_numbers_of_parameters(setting, parameters):
    settings = frozen(f"dcpt/{setting}", "finetune", "paper")
    with torch.device("meta"):
        network = build_network(settings.network.name, **settings.network.arguments)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert frozen(f"dcpt/{setting}", "pretrain", "paper").network == settings.network


def test_every_parent_is_a_stage_that_exists_at_the_same_scale():
    for model, stage, scale in everything():
        for parent in frozen(model, stage, scale).parents.values():
            method, setting, seed, last = parent.split("/")
            assert frozen(f"{method}/{setting}", last, scale).steps > 0
            assert seed == "seed0" and (f"{method}/{setting}", last) != (model, stage)


def test_micro_batches_are_what_one_published_gpu_held_and_divide_the_batch():
    held = {
        ("dcpt/nafnet_5d", "pretrain", "released"): 8,
        ("dcpt/restormer_5d", "pretrain", "released"): 4,
        ("dcpt/nafnet_5d", "finetune", "released"): 6,
        ("dcpt/restormer_5d", "finetune", "released"): 6,
        ("dcpt/promptir_5d", "finetune", "released"): 6,
        ("dcpt/swinir_5d", "finetune", "released"): 4,
        ("dcpt/nafnet_10d", "finetune", "released"): 32,
        ("dcpt/nafnet_5d", "finetune", "paper"): 8,
        ("dcpt/swinir_5d", "finetune", "paper"): 4,
        ("dcpt/restormer_noise_to_rain", "transfer", "released"): 8,
    }
    for key, micro in held.items():
        settings = frozen(*key)
        assert settings.phases[0].batch_size == micro * settings.accumulate


# Schedules


@pytest.mark.parametrize(
    ("setting", "scale", "net", "head"),
    [
        ("nafnet_5d", "small", (20_000, 128, 32, 3e-4, 1e-6, 0), (1e-4, 1e-6, 1e-4)),
        ("nafnet_5d", "paper", (100_000, 128, 32, 3e-4, 1e-6, 0), (1e-4, 1e-6, 1e-4)),
        ("nafnet_5d", "released", (1_000_000, 128, 32, 3e-4, 1e-6, 0), (1e-4, 1e-6, 1e-4)),
        ("nafnet_10d", "paper", (100_000, 128, 32, 3e-4, 1e-6, 0), (1e-4, 1e-6, 1e-4)),
        ("nafnet_10d", "released", (1_000_000, 128, 32, 3e-4, 1e-6, 0), (1e-4, 1e-6, 1e-4)),
        ("nafnet_3d", "paper", (100_000, 128, 32, 3e-4, 1e-6, 0), (1e-4, 1e-6, 1e-4)),
        ("nafnet_5d_direct", "released", (1_000_000, 128, 32, 3e-4, 1e-6, 0), (1e-4, 1e-6, 1e-4)),
        *((f"{name}_5d", "paper", (100_000, 128, 32, 2e-4, 1e-6, 0), (5e-5, 1e-6, 1e-4))
          for name in ("restormer", "promptir", "swinir", "restormer_std")),
        *((f"{name}_5d", "released", (1_000_000, 128, 16, 2e-4, 1e-6, 0), (5e-5, 1e-6, 1e-4))
          for name in ("restormer", "promptir", "swinir", "restormer_std")),
    ],
)  # fmt: skip
def test_pretraining_follows_the_published_schedule(setting, scale, net, head):
    settings = frozen(f"dcpt/{setting}", "pretrain", scale)
    assert schedule(settings) == net
    assert schedule(settings, "head")[3:] == head
    assert (settings.clip_norm, settings.ema_decay, settings.accumulate > 1) == (0, 0, scale != "small")
    assert (settings.loss, settings.focal_gamma) == ("focal", 2)
    assert settings.generation_input == ("degraded" if "direct" in setting else "clean")
    assert (
        settings.head.num_classes == {"3": 3, "5": 5, "1": 10}[setting.split("_")[-2 if "direct" in setting else -1][0]]
    )
    assert settings.head.downsample == setting.startswith("swinir")
    for optimizer in settings.optimizers.values():
        assert (optimizer.betas, optimizer.warmup_steps, optimizer.hold_steps) == ((0.9, 0.999), 0, 0)


@pytest.mark.parametrize(
    ("setting", "scale", "net", "clip"),
    [
        ("nafnet_5d", "small", (60_000, 128, 32, 3e-4, 1e-6, 0), 0.01),
        ("nafnet_5d", "paper", (750_000, 128, 32, 3e-4, 1e-6, 0), 0.01),
        ("nafnet_5d", "released", (1_000_000, 128, 24, 3e-4, 1e-6, 0), 0.01),
        ("restormer_5d", "released", (1_000_000, 128, 24, 3e-4, 1e-6, 0), 0.01),
        ("promptir_5d", "paper", (750_000, 128, 32, 3e-4, 1e-6, 0), 0.01),
        ("promptir_5d", "released", (1_000_000, 128, 24, 3e-4, 1e-6, 0), 0.01),
        ("swinir_5d", "paper", (750_000, 128, 32, 1.5e-4, 1e-6, 0), 0),
        ("swinir_5d", "released", (1_000_000, 128, 16, 1.5e-4, 1e-6, 0), 0),
        ("nafnet_10d", "released", (500_000, 128, 128, 2.5e-4, 1e-5, 0), 0.01),
        ("nafnet_cdd11", "paper", (750_000, 128, 32, 3e-4, 1e-6, 0), 0.01),
        ("nafnet_cdd11", "released", (750_000, 128, 32, 3e-4, 1e-6, 0), 0.01),
    ],
)
def test_finetuning_follows_the_published_schedule(setting, scale, net, clip):
    settings = frozen(f"dcpt/{setting}", "finetune", scale)
    assert schedule(settings) == net
    assert (settings.clip_norm, settings.ema_decay, settings.pixel_loss) == (clip, 0.999, "l1")
    source = "nafnet_5d" if setting == "nafnet_cdd11" else setting
    assert settings.parents == {"init": f"dcpt/{source}/seed0/pretrain"}


def test_a_probe_trains_a_head_on_the_pretraining_of_five_degradations():
    for scale in OWN:
        probe, pretrain = frozen("dcpt/nafnet_5d_probe", "probe", scale), frozen("dcpt/nafnet_5d", "pretrain", scale)
        assert probe.parents == {"init": "dcpt/nafnet_5d/seed0/pretrain"}
        assert probe.optimizers == {"head": pretrain.optimizers["head"]}
        assert (probe.network, probe.head) == (pretrain.network, pretrain.head)


RESTORMER = [
    (92_000, 128, 64), (64_000, 160, 40), (48_000, 192, 32), (36_000, 256, 16), (36_000, 320, 8), (24_000, 384, 8),
]  # fmt: skip


@pytest.mark.parametrize("scale", ["paper", "released"])
@pytest.mark.parametrize("task", ["rain", "motion_blur"])
def test_single_tasks_follow_restormers_recipe_with_and_without_pretraining(task, scale):
    tuned = frozen(f"dcpt/restormer_{task}", "finetune", scale)
    assert [(p.steps, p.patch_size, p.batch_size) for p in tuned.phases] == RESTORMER
    net = tuned.optimizers["net"]
    assert (net.learning_rate, net.minimum_rate, net.weight_decay, net.hold_steps) == (3e-4, 1e-6, 1e-4, 92_000)
    assert (tuned.steps, tuned.accumulate, tuned.clip_norm, tuned.ema_decay) == (300_000, 8, 0.01, 0)
    assert tuned.parents == {"init": "dcpt/restormer_5d/seed0/pretrain"}
    for control, network in (("restormer_dcpt", tuned.network.name), ("restormer", "restormer")):
        plain = frozen(f"baseline/{control}_{task}", "train", scale)
        assert plain.network.name == network
        for same in ("phases", "optimizers", "data", "clip_norm", "ema_decay", "accumulate", "pixel_loss"):
            assert getattr(plain, same) == getattr(tuned, same)


@pytest.mark.parametrize("task", ["rain", "motion_blur"])
def test_small_single_tasks_have_their_control_in_all_but_the_pretraining(task):
    tuned, plain = (
        frozen(f"dcpt/restormer_{task}", "finetune", "small"),
        frozen(f"baseline/restormer_dcpt_{task}", "train", "small"),
    )
    assert (tuned.steps, tuned.optimizers["net"].hold_steps) == (60_000, 18_000)
    assert frozen("dcpt/restormer_5d", "pretrain", "small").network.name == tuned.network.name == "restormer_dcpt"
    for same in ("network", "phases", "optimizers", "data", "clip_norm", "accumulate", "precision", "pixel_loss"):
        assert getattr(plain, same) == getattr(tuned, same)


def test_our_rates_are_those_of_the_published_scheduler_at_every_update():
    steps, how = 200, OptimizerSettings(learning_rate=3e-4, minimum_rate=1e-6)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=how.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, how.minimum_rate)
    for update in range(1, steps + 1):
        if update > 1:  # the published loop steps its scheduler before the second update first
            optimizer.step()
            scheduler.step()
        assert learning_rate_at(update - 1, steps, how) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
    last = 1e-6 + (3e-4 - 1e-6) * (1 + math.cos(math.pi * (steps - 1) / steps)) / 2
    assert learning_rate_at(steps - 1, steps, how) == pytest.approx(last)
    assert last > 1e-6


# Mixes


def test_in_the_canonical_mix_every_task_weighs_60_to_85_thousand():
    for model in ("nafnet", "swinir", "restormer", "promptir", "restormer_std"):
        for stage in ("pretrain", "finetune"):
            found = weights(frozen(f"dcpt/{model}_5d", stage, "paper"))
            assert found == {0: 60_000, 1: 77_160, 2: 72_135, 3: 77_600, 4: 84_120}
    assert 16_824 * 5 == 84_120  # sub-images that the repeats of whole frames stand for


@pytest.mark.parametrize(
    ("setting", "stage", "sizes", "expected"),
    [
        ("nafnet_5d", "pretrain", {}, {0: 13_712, 1: 69_635, 2: 72_135, 3: 13_830, 4: 16_824}),
        ("swinir_5d", "pretrain", {}, {0: 13_712, 1: 69_635, 2: 72_135, 3: 13_830, 4: 16_824}),
        ("restormer_5d", "pretrain", {}, {0: 13_712, 1: 69_635, 2: 72_135, 3: 69_150, 4: 84_120}),
        ("promptir_5d", "pretrain", {}, {0: 13_712, 1: 69_635, 2: 72_135, 3: 69_150, 4: 84_120}),
        *((f"{name}_5d", "finetune", {"dfwb.train_cut": 85_443, "rain_train_hl.train": 3_600},
           {0: 1_080_000, 1: 683_544, 2: 72_135, 3: 77_600, 4: 84_120})
          for name in ("nafnet", "swinir", "restormer", "promptir")),
    ],
)  # fmt: skip
def test_the_released_mixes_of_five_weigh_what_their_comments_say(setting, stage, sizes, expected):
    assert weights(frozen(f"dcpt/{setting}", stage, "released"), **sizes) == expected


def test_haze_counted_thirty_times_makes_78_percent_of_the_released_ten():
    settings = frozen("dcpt/nafnet_10d", "pretrain", "released")
    found = weights(settings)
    assert found == {
        0: 69_635, 1: 67_296, 2: 63_000, 3: 69_635, 4: 2_164_050, 5: 68_560, 6: 50_000, 7: 69_635, 8: 69_150, 9: 69_635,
    }  # fmt: skip
    order = interleave(*part_counts(settings.data, [size(part.pairs) for part in settings.data]))
    assert np.mean(order == 4) == pytest.approx(0.784, abs=0.001)
    assert len(order) == sum(found.values()) / math.gcd(*found.values())
    finetune = weights(frozen("dcpt/nafnet_10d", "finetune", "released"))
    assert finetune == {**found, 5: 60_000}


def test_our_ten_degradations_weigh_the_same_within_a_third_and_as_the_sub_images_they_stand_for():
    for scale in ("small", "paper"):
        for stage in ("pretrain", "finetune"):
            found = weights(frozen("dcpt/nafnet_10d", stage, scale))
            assert found == {
                0: 68_752, 1: 67_296, 2: 63_000, 3: 68_752, 4: 72_135, 5: 68_560, 6: 50_000, 7: 68_752, 8: 68_870,
                9: 68_752,
            }  # fmt: skip


def test_published_slips_are_at_released_scale_only():
    for model, stage, scale in everything():
        for part in frozen(model, stage, scale).data:
            slips = (part.noise_seed == "image", part.recipe == "mosaic_swapped", (part.repeat or 0) == 30)
            assert scale == "released" or not any(slips), (model, part)
            assert scale == "demo" or part.quantise == (degradation(part) != "noise")
    for stage in ("pretrain", "finetune"):
        ten = {part.label: part for part in frozen("dcpt/nafnet_10d", stage, "released").data}
        assert (ten[0].noise_seed, ten[4].repeat, ten[7].recipe) == ("image", 30, "mosaic_swapped")
        assert {part.noise_seed for label, part in ten.items() if label} == {"fresh"}
        tests = frozen("dcpt/nafnet_10d", stage, "released").validation.data
        assert next(part.recipe for part in tests if part.label == 7) == "mosaic_swapped"
        assert next(p.noise_seed for p in frozen("dcpt/nafnet_5d", stage, "released").data if p.recipe) == "image"


# Labels


@pytest.mark.parametrize("scale", OWN)
@pytest.mark.parametrize(
    ("setting", "tasks"),
    [("nafnet_5d", TASKS_5D), ("nafnet_5d_direct", TASKS_5D), ("nafnet_10d", TASKS_10D), ("restormer_5d", TASKS_5D)],
)
def test_labels_are_positions_in_the_published_lists(setting, tasks, scale):
    for stage in ("pretrain", "finetune"):
        if (f"dcpt/{setting}", stage, scale) in everything():
            settings = frozen(f"dcpt/{setting}", stage, scale)
            for parts in (settings.data, settings.validation.data):
                assert {degradation(part): part.label for part in parts} == {task: i for i, task in enumerate(tasks)}


def test_three_degradations_have_three_labels_in_our_order():
    for part in frozen("dcpt/nafnet_3d", "pretrain", "paper").data:
        assert ("rain", "haze", "noise")[part.label] == degradation(part)


def test_mixed_degradations_have_eleven_flat_labels():
    parts = frozen("dcpt/nafnet_cdd11", "finetune", "paper").data
    assert [part.pairs.split(".train_")[1] for part in parts] == list(CDD11)
    assert [part.label for part in parts] == list(range(11))
    assert set(weights(frozen("dcpt/nafnet_cdd11", "finetune", "paper")).values()) == {1183}
    for part in parts:
        (layout,) = project().datasets["cdd_11"].splits[part.pairs.split(".")[1]].layouts
        kind = CDD11[part.label]
        assert layout.degraded == (f"train/{kind}/*", f"CDD-11_train/{kind}/*")


# Transfers


@pytest.mark.parametrize("scale", ["paper", "released"])
@pytest.mark.parametrize(("source", "target"), TRANSFERS)
def test_a_transfer_and_its_control_differ_in_the_guide_alone(source, target, scale):
    guided = frozen(f"dcpt/restormer_{source}_to_{target}", "transfer", scale)
    control = frozen(f"dcpt/restormer_{source}_to_{target}_unguided", "transfer", scale)
    assert guided.parents == {
        "init": f"baseline/restormer_{source}/seed0/train",
        "guide": "dcpt/restormer_std_5d/seed0/pretrain",
    }
    assert control.parents == {"init": guided.parents["init"]}
    different = {name for name in type(guided).model_fields if getattr(guided, name) != getattr(control, name)}
    assert different == {"parents", "setting"}
    assert schedule(guided) == (100_000, 128, 8, 3e-4, 3e-4, 1e-4)
    assert (guided.clip_norm, guided.ema_decay, guided.loss, guided.accumulate) == (0.01, 0.999, "ce", 1)
    assert guided.loss_weights == {"pixel": 1, "class": 1}
    (part,) = guided.data
    assert part.label == {"rain": 0, "noise": 1, "motion_blur": 4}[target]
    assert degradation(part) == target
    assert part.noise_seed == ("image" if (target, scale) == ("noise", "released") else "fresh")
    guide = frozen("dcpt/restormer_std_5d", "pretrain", scale)
    assert guide.network == guided.network == frozen(f"baseline/restormer_{source}", "train", scale).network
    assert guide.network.name == "restormer"
    learnt = {degradation(p) for p in frozen(f"baseline/restormer_{source}", "train", scale).data}
    assert learnt == {source}


# Baselines and the overlay


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize(
    ("setting", "first"),
    [
        ("nafnet_5d", "nafnet_5d"),
        ("nafnet_10d", "nafnet_10d"),
        ("nafnet_cdd11", "nafnet_5d"),
        ("restormer_5d", "restormer_5d"),
        ("promptir_5d", "promptir_5d"),
        ("swinir_5d", "swinir_5d"),
    ],
)
def test_a_baseline_draws_as_many_samples_as_pretraining_and_finetuning_by_the_same_recipe(setting, first, scale):
    if (f"dcpt/{setting}", "finetune", scale) not in everything():
        assert scale not in project().setting_plan(f"baseline/{setting}").stages["train"].scales
        return
    stages = [frozen(f"dcpt/{first}", "pretrain", scale), frozen(f"dcpt/{setting}", "finetune", scale)]
    plain = frozen(f"baseline/{setting}", "train", scale)

    def samples(settings: StageSettings) -> int:
        return sum(phase.steps * phase.batch_size for phase in settings.phases)

    assert samples(plain) == sum(samples(stage) for stage in stages)
    recipe = "network data optimizers validation clip_norm ema_decay pixel_loss accumulate precision"
    for same in recipe.split():
        assert getattr(plain, same) == getattr(stages[1], same), same
    assert plain.phases[0].batch_size == stages[1].phases[0].batch_size


def test_the_overlay_tests_light_and_heavy_levels_of_the_ten_degradations():
    tables = project().tables
    assert {*tables["allinone10"].tests} >= {
        "cbsd68_noise25", "cbsd68_noise50", "cbsd68_jpeg20", "cbsd68_jpeg10", "live1_jpeg10", "rain100l", "rain100h",
    }  # fmt: skip
    sigma = {
        name: project().test(name).operations.operations[0].parameters["sigma"].constant
        for name in tables["allinone10"].tests[:2]
    }
    assert sigma == {"cbsd68_noise25": 25, "cbsd68_noise50": 50}
    for name, quality in (("cbsd68_jpeg20", 20), ("cbsd68_jpeg10", 10), ("live1_jpeg10", 10)):
        assert project().test(name).operations.operations[0].parameters["quality"].constant == quality
    assert {project().tests[name].degradation for name in tables["allinone10"].tests} == set(TASKS_10D)
    assert [project().tests[name].pairs for name in tables["mixed"].tests] == [f"cdd_11.test_{kind}" for kind in CDD11]
    assert set(tables) >= {
        "allinone5",
        "allinone10",
        "mixed",
        "single_task_rain",
        "single_task_motion_blur",
        "pretraining",
    }


@pytest.mark.parametrize(
    ("scale", "tables"),
    [
        ("small", {"allinone", "allinone10", "mixed", "pretraining"}),
        (
            "paper",
            {"allinone", "allinone5", "allinone10", "mixed", "pretraining", "single_task_rain", "transfer_noise"},
        ),
        ("released", {"allinone5_released", "allinone10_released", "single_task_motion_blur", "transfer_rain"}),
    ],
)
def test_every_model_of_a_scale_s_tables_has_its_stages_and_their_parents_there(scale, tables):
    chosen = load_project(shipped("dcpt.yaml") | {"scale": scale})
    assert tables <= set(chosen.tables)
    waiting = [tuple(model.split("/")) for model in chosen.models]
    for table in chosen.tables.values():
        waiting += [tuple(model.split("/")) for model in table.models or ()]
    seen = set()
    while waiting:
        method, setting, *stage = waiting.pop()
        plan = chosen.setting_plan(f"{method}/{setting}")
        model = f"{method}/{setting}", stage[0] if stage else plan.last(scale), scale
        if model not in seen:
            seen.add(model)
            settings = frozen(*model)
            assert settings.scale == scale
            parents = [parent.split("/") for parent in settings.parents.values()]
            waiting += [(method, setting, stage) for method, setting, _, stage in parents]
    assert ("dcpt/nafnet_5d", "pretrain", scale) in seen
    assert any("restormer" in model for model, *_ in seen) == (scale != "small")


def test_the_overlay_asks_for_one_gpu_at_every_scale():
    at = {scale: project().model_copy(update={"scale": scale}).compute_for("dcpt.pretrain") for scale in OWN}
    assert at["released"] == at["paper"]
    assert {compute.gpu for compute in at.values()} == {1}


def test_without_the_published_haze_list_the_registry_says_so():
    assert size("reside_ots.train") == 72_135
    assert load_project(shipped()).datasets["reside_ots"].splits["train"].expected == 313_950
