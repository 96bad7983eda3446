"""DSRIR's overlay: its modes beside one-task models of other methods, its all-in-one network under every protocol."""

from functools import cache

import pytest
from helpers import shipped

from airpipe.plan import Plan, load_plan
from airpipe.settings.merging import deep_merge

SCALES = pytest.mark.parametrize("scale", ["small", "paper"])
NOISE = {f"{name}_noise{sigma}" for name in ("cbsd68", "urban100") for sigma in (15, 25, 50)}
TESTS = {
    "noise": NOISE,
    "rain": {"rain100l", "test100"},
    "haze": {"sots_outdoor", "sots_indoor"},
    "motion_blur": {"gopro"},
}
ARMS = ("", "_scratch")
WANTED = {
    "noise": {"dsrir/noise", "baseline/nafnet_noise", "baseline/restormer_noise"},
    "rain": {
        "dsrir/rain", "baseline/nafnet_rain", "baseline/restormer_rain", "baseline/restormer_dcpt_rain",
        "dcpt/restormer_rain", *(f"degae/{name}_derain{arm}" for name in ("restormer", "swinir") for arm in ARMS),
    },
    "haze": {
        "dsrir/haze", "baseline/nafnet_haze",
        *(f"degae/{name}_dehaze{arm}" for name in ("restormer", "swinir") for arm in ARMS),
    },
    "motion_blur": {
        "baseline/restormer_motion_blur", "baseline/restormer_dcpt_motion_blur", "dcpt/restormer_motion_blur",
        *(f"degae/{name}_deblur{arm}" for name in ("restormer", "swinir") for arm in ARMS),
    },
}  # fmt: skip
"""Models of each task: DSRIR's modes, DegAE's finetunings with their controls, DCPT's single tasks, baselines."""


@cache
def planned(scale: str) -> Plan:
    return load_plan(deep_merge(shipped("dsrir.yaml"), {"scale": scale}))


def setting_of(model: str) -> str:
    return "/".join(model.split("/")[:2])


@SCALES
def test_every_single_task_model_is_in_the_table_and_scored_on_tests_of_its_task(scale):
    plan = planned(scale)
    models = plan.table_models("single_task")
    assert {setting_of(model) for model in models} == set().union(*WANTED.values())
    for model in models:
        [task] = [task for task, wanted in WANTED.items() if setting_of(model) in wanted]
        assert set(plan.table_tests("single_task", model)) == TESTS[task], model
        degradations = {plan.project.tests[test].degradation for test in TESTS[task]}
        assert degradations == {task}


@SCALES
def test_every_stage_that_the_overlay_needs_freezes_at_its_scales(scale):
    plan = planned(scale)
    stages = {settings.model_id: settings for settings in plan.stages_in_use()}
    assert {settings.scale for settings in stages.values()} == {scale}
    first = {"dcpt/restormer_5d", "degae/swinir", "dynet/cells"}
    assert {f"{setting}/seed0/pretrain" for setting in first} <= set(stages)
    assert {"dcpt/restormer_rain/seed0/finetune", "dsrir/all_in_one/seed0/train"} <= set(stages)
    assert plan.evaluations(*plan.project.tables)
    assert plan.gallery_models() == ["dsrir/all_in_one/seed0/train"]


@SCALES
@pytest.mark.parametrize(
    ("baseline", "mode"),
    [("nafnet_3d", "all_in_one"), ("nafnet_noise", "noise"), ("nafnet_rain", "rain"), ("nafnet_haze", "haze")],
)
def test_each_mode_stands_beside_a_nafnet_with_its_data_and_as_many_samples(scale, baseline, mode):
    plan = planned(scale)
    theirs, ours = (plan.stage_settings(f"{name}/seed0/train") for name in (f"dsrir/{mode}", f"baseline/{baseline}"))
    assert ours.data == theirs.data
    assert {part.pairs for part in ours.validation.data} == {part.pairs for part in theirs.validation.data}
    sizes = [[(phase.steps, phase.patch_size, phase.batch_size) for phase in one.phases] for one in (ours, theirs)]
    assert sizes[0] == sizes[1] and len(sizes[0]) == 4


@SCALES
def test_all_in_one_models_stand_side_by_side_under_every_protocol(scale):
    plan = planned(scale)
    table = plan.project.tables["protocols"]
    assert (table.columns, table.figures, table.without_protocols) == ("protocol", False, ())
    assert {setting_of(model) for model in plan.table_models("protocols")} >= {"dsrir/all_in_one", "dynet/dynet_3d"}
    for test in table.tests:
        protocols = plan.test_job(test).protocols
        assert {"airpipe", "airpipe_y", "promptir", "promptir_y", "dsrir", "dsrir_rgb", "dsrir_y"} == set(protocols)
    assert set(table.tests) == set(plan.project.tables["allinone"].tests)  # scored once for both
