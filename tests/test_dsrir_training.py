"""DSRIR's phases are the published ones, and its settings say which features are compared."""

import json
import re
from collections import Counter

import pytest
import torch
import yaml
from helpers import NOISE, ROOT, card, shipped, stage, train
from parity import make_input
from test_stages import settings_of
from toys.dsrir import GROWING, TRAIN

from airpipe.data.sampling import SamplePlan, part_counts
from airpipe.errors import AirpipeError
from airpipe.methods.dsrir.losses import VGG_LAYERS
from airpipe.methods.dsrir.progression import PUBLISHED, Progression
from airpipe.methods.dsrir.settings import DsrirSettings
from airpipe.methods.dsrir.training import DsrirTask, features_asked
from airpipe.models.vgg import VGG19Features, VGGFront
from airpipe.registry import build_network
from airpipe.settings.base import canonical_json, check_settings
from airpipe.settings.freezing import frozen_stage
from airpipe.settings.merging import deep_merge
from airpipe.settings.project import load_project
from airpipe.settings.stages import Phase

MODES = {
    # rows of the lists, of which one is lost; rows that are counted; ends of the phases, steps of the phases
    "all_in_one": (15_144, None, [135, 238, 314, 347], [127_710, 111_343, 95_836, 62_436]),
    "noise": (5_144, 5_244, [390, 689, 908, 1005], None),
    "noise, corrected": (5_144, None, [398, 702, 925, 1024], None),
    "rain": (5_000, None, [409, 722, 952, 1054], None),
    "haze": (5_000, None, [409, 722, 952, 1054], None),
}
STEPS = {"all_in_one": 397_325, "noise": 390_929, "noise, corrected": 398_328, "rain": 398_677, "haze": 398_677}


# The published formula


@pytest.mark.parametrize("mode", MODES)
def test_the_phases_of_the_published_modes_follow_from_their_rows(mode):
    rows, counted, ends, steps = MODES[mode]
    phases = Progression(rows=rows, lost_rows=1, counted_rows=counted).phases()
    epochs = [phase.epochs for phase in phases]
    assert [sum(epochs[: number + 1]) for number in range(4)] == ends
    assert sum(phase.steps for phase in phases) == STEPS[mode]
    assert steps is None or [phase.steps for phase in phases] == steps
    assert [(phase.patch_size, phase.batch_size) for phase in phases] == [(128, 16), (160, 14), (192, 12), (256, 8)]
    assert [phase.epoch_steps for phase in phases] == [(rows - 1) // phase.batch_size for phase in phases]


def test_the_typo_costs_the_noise_mode_seven_thousand_steps():
    assert STEPS["noise, corrected"] - STEPS["noise"] == 7_399
    # counting right and reading every row
    assert sum(phase.steps for phase in Progression(rows=5_144).phases()) == 398_427


def test_the_phases_are_meant_to_have_400000_steps():
    assert sum(stretch.iterations for stretch in PUBLISHED) == 400_000


@pytest.mark.parametrize(
    ("rows", "stretch", "message"),
    [
        (1000, {"iterations": 10, "patch_size": 16, "batch_size": 4}, "10 iterations of 4 samples are less than an ep"),
        (3, {"iterations": 10, "patch_size": 16, "batch_size": 4}, "or 3 rows less than a batch; change the iterat"),
    ],
)
def test_a_phase_without_an_epoch_is_refused(rows, stretch, message):
    with pytest.raises(ValueError, match=message):
        Progression(rows=rows, stretches=[stretch]).phases()


def test_every_epoch_of_a_phase_shows_every_image_once_but_for_what_fills_no_batch():
    phases = Progression(rows=7, stretches=[{"iterations": 6, "patch_size": 8, "batch_size": 2}]).phases()
    [phase] = phases
    assert (phase.epoch_steps, phase.steps, phase.epochs) == (3, 3, 1)
    plan = SamplePlan([7], [1.0], phases, 0)
    images = [key.image for step in range(plan.steps) for key in plan.batch(step)]
    assert len(set(images)) == len(images) == 6


# Settings


def settings(**changes) -> DsrirSettings:
    own = {"method": "dsrir", "stage": "train"}
    values = json.loads(canonical_json(stage())) | TRAIN | own | changes
    return check_settings(DsrirSettings, {key: value for key, value in values.items() if value is not None}, "here")


def test_phases_are_derived_once_and_stay_what_they_were_when_frozen():
    derived = settings(progression=GROWING, phases=None)
    assert [(phase.steps, phase.epochs, phase.patch_size) for phase in derived.phases] == [
        (2, 2, 12),
        (2, 2, 16),
        (2, 1, 24),
    ]
    assert check_settings(DsrirSettings, json.loads(canonical_json(derived)), "frozen") == derived


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"progression": GROWING}, "phases are others than those that progression makes; leave one of them out"),
        ({"progression": {"rows": 1}, "phases": None}, "or 1 rows less than a batch"),
        ({"progression": {"row": 1}, "phases": None}, "unknown setting 'row'; did you mean 'rows'"),
        (
            {"contrast": "vgg"},
            r"parents: found none, but contrast is vgg; give {vgg: imported/vgg19}, or choose another",
        ),
        (
            {"contrast": "encoder", "parents": {"vgg": "imported/x"}},
            "found vgg, but contrast is encoder; give {encoder:",
        ),
        ({"parents": {"vgg": "imported/x"}}, "found vgg, but contrast is none; leave them out"),
        ({"parents": {"init": "a/b/c"}}, "parents: found .*init"),
        (
            {"loss_weights": {"contrast": 0.2}},
            "found a weight for the loss contrast, but contrast is none; leave it out",
        ),
        ({"network": {"name": "nafnet"}}, "network: unknown network 'nafnet'; .*dsrir"),
        ({"optimizers": {"head": {"learning_rate": 1e-3}}}, "optimizers: found head; expected net"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(AirpipeError, match=message):
        settings(**changes)


@pytest.mark.parametrize("scale", ["demo", "small", "paper", "released"])
def test_the_shipped_modes_grow_their_patches_at_every_scale(scale):
    project = load_project(shipped()).model_copy(update={"scale": scale})
    for mode in ("all_in_one", "noise", "rain", "haze"):
        frozen = frozen_stage(project, f"dsrir/{mode}", 0, "train", DsrirSettings, 1)
        patches = [phase.patch_size for phase in frozen.phases]
        assert len(patches) >= 3 and patches == sorted(set(patches))
        assert frozen.contrast == ("none" if scale == "demo" else "vgg")
        if scale == "released":
            assert frozen.steps == STEPS[mode]
        if scale == "paper":
            counts = {"noise": 5144, "rain": 5000, "haze": 5000, "all_in_one": 15144}
            assert frozen.progression == Progression(rows=counts[mode])


# The lists


LISTED = {"bsd400.train": 400, "wed.train": 4_744, "rain100l.train": 200, "reside_ots.train_5000": 5_000}


def rows_of(parts) -> list[int]:
    shares, exact = part_counts(parts, [LISTED[part.pairs] for part in parts])
    assert exact
    return [int(count) for count in shares]


@pytest.mark.parametrize("scale", ["small", "paper", "released"])
@pytest.mark.parametrize("mode", ["all_in_one", "noise", "rain", "haze"])
def test_the_registrys_lists_have_the_rows_that_the_phases_are_derived_from(mode, scale):
    project = load_project(shipped()).model_copy(update={"scale": scale})
    frozen = frozen_stage(project, f"dsrir/{mode}", 0, "train", DsrirSettings, 1)
    for part in frozen.data:
        dataset, split = part.pairs.split(".")
        assert project.datasets[dataset].splits[split].expected == LISTED[part.pairs]
        assert part.augment == "nine"
        assert (part.quantise == "truncate") == (part.recipe == "noise_0_55")
    rows = rows_of(frozen.data)
    assert sum(rows) == frozen.progression.rows
    frozen.check_rows(rows)
    rows[0] -= 1
    if scale == "released":  # a list that has lost its first row itself
        frozen.check_rows(rows)
        rows[0] -= 1
    with pytest.raises(
        AirpipeError, match=rf"data has {sum(rows):,} rows \({rows[0]:,} {frozen.data[0].pairs}.*\), but"
    ):
        frozen.check_rows(rows)


def test_the_documented_lists_choose_what_an_epoch_of_the_released_scale_reads():
    [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/methods/dsrir.md").read_text(), re.DOTALL)
    project = load_project(deep_merge(shipped(), yaml.safe_load(text)))
    splits = {name: project.datasets[name].splits[split] for name, split in (part.split(".") for part in LISTED)}
    lost = {
        name: split.expected for name, split in splits.items() if split.name_list and split.name_list.lose_first_row
    }
    assert lost == {"bsd400": LISTED["bsd400.train"] - 1}
    assert splits["reside_ots"].name_list.only == "Reside/" and splits["reside_ots"].pick is None


def test_an_epoch_shows_each_rain_pair_25_times_and_every_other_image_once():
    project = load_project(shipped()).model_copy(update={"scale": "paper"})
    data = frozen_stage(project, "dsrir/all_in_one", 0, "train", DsrirSettings, 1).data
    phases = [Phase(steps=15_144, patch_size=128, batch_size=1)]
    plan = SamplePlan([LISTED[part.pairs] for part in data], rows_of(data), phases, 0, exact=True)
    seen = Counter((key.part, key.image) for key in (plan.key(slot, 128) for slot in range(15_144)))
    assert Counter((part, times) for (part, _), times in seen.items()) == {
        (0, 1): 400, (1, 1): 4_744, (2, 25): 200, (3, 1): 5_000
    }  # fmt: skip


def test_a_run_with_other_lists_is_refused_before_its_first_step(tmp_path):
    data = [{"pairs": "toy.train", "recipe": "noise", "operations": [NOISE], "repeat": 2}]
    with pytest.raises(AirpipeError) as caught:
        train(tmp_path, settings_of("dsrir/progressive", data=data))
    assert str(caught.value) == (
        "data has 10 rows (10 toy.train), but progression.rows is 4, from which the phases follow. Complete the lists "
        "(airpipe data check), or set progression: {rows: 10} in an overlay"
    )
    assert not (tmp_path / "stage" / "model.safetensors").exists()


def test_phases_that_are_written_out_take_lists_of_any_length(tmp_path):
    data = [{"pairs": "toy.train", "recipe": "noise", "operations": [NOISE], "repeat": 2}]
    made = train(
        tmp_path, settings_of("dsrir/train", data=data, phases=[{"steps": 1, "patch_size": 16, "batch_size": 2}])
    )
    assert card(made)["step"] == 1


# Features that are compared


PUBLISHED_CONTRAST = settings(contrast="vgg", parents={"vgg": "imported/vgg19"})


def test_vgg19_is_asked_for_its_first_maps_of_five_sizes_without_normalisation():
    vgg = VGG19Features()
    asked = features_asked(PUBLISHED_CONTRAST, vgg)
    assert asked == {"layers": VGG_LAYERS, "normalise": False}
    with torch.no_grad():
        maps = vgg(make_input((1, 3, 32, 32)), **asked)
    assert [one.shape[1:] for one in maps] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    assert all(one.min() >= 0 for one in maps)


def test_features_of_other_networks_are_refused():
    encoder = settings(contrast="encoder", parents={"encoder": "baseline/a/seed0/train"})
    with pytest.raises(AirpipeError, match="parent vgg is a VGGFront; features of VGG19 .* contrast: encoder"):
        features_asked(PUBLISHED_CONTRAST, VGGFront())
    with pytest.raises(AirpipeError, match="parent encoder is a DSRIR with 0 feature maps; .* compares 1 to 5 maps"):
        features_asked(encoder, build_network("dsrir"))


def test_patches_that_vgg19_would_pool_to_nothing_are_refused():
    small = settings(contrast="vgg", parents={"vgg": "imported/vgg19"}, phases=None, progression=GROWING)
    with pytest.raises(AirpipeError, match="dsrir.train: patch_size is 12, VGG19 needs 16 pixels. Use larger patches"):
        features_asked(small, VGG19Features())


def test_only_the_last_stages_unused_layers_rest():
    net = DsrirTask(settings(), {}).networks["net"]
    resting = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert resting == {f"usau_3.{name}" for name in ("conv2.weight", "att_map.0.weight", "att_map.0.bias")}


def test_without_vgg19_its_loss_is_left_out_and_the_card_says_so(tmp_path, capfd):
    made = train(
        tmp_path,
        settings_of("dsrir/train", contrast="vgg", parents={"vgg": "imported/vgg19"}, loss_weights={"contrast": 0.2}),
    )
    assert card(made)["absent_parents"] == {"vgg": "imported/vgg19"}
    assert card(made)["notes"] == ["trained without imported/vgg19 (parent vgg is absent)"]
    assert "WARNING: parent vgg (imported/vgg19) is absent: training without it" in capfd.readouterr().out
    names = {line.split(",")[1] for line in made.curves().splitlines()[1:]}
    assert "loss/psnr" in names and "loss/contrast" not in names


def test_another_contrast_than_the_published_one_is_noted_for_every_table():
    assert DsrirTask(settings(), {}).notes == ("no contrastive loss (contrast: none; published: VGG19)",)
    other = settings(contrast="encoder", parents={"encoder": "baseline/a/seed0/train"})
    encoder = build_network("nafnet", width=4, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])
    (note,) = DsrirTask(other, {"encoder": encoder}).notes
    assert note == "contrastive loss in features of baseline/a/seed0/train (contrast: encoder; published: VGG19)"
    assert DsrirTask(PUBLISHED_CONTRAST, {"vgg": VGG19Features()}).notes == ()


def test_the_phases_of_a_progression_change_patches_and_batches_within_one_run(tmp_path):
    seen: list[tuple] = []
    step = DsrirTask.step

    def noted(self, batch, at):
        seen.append((at.step, *batch.degraded.shape[::2]))
        return step(self, batch, at)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DsrirTask, "step", noted)
        train(tmp_path, settings_of("dsrir/progressive"))
    assert seen == [(0, 4, 12), (1, 4, 12), (2, 3, 16), (3, 3, 16), (4, 2, 24), (5, 2, 24)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three phases that nothing interrupts."""
    return train(tmp_path_factory.mktemp("whole"), settings_of("dsrir/progressive"))


@pytest.mark.parametrize("last", [1, 2, 3, 4, 5])
def test_a_run_that_is_killed_in_any_phase_ends_with_the_same_bits(whole, tmp_path, last):
    step = DsrirTask.step

    def killed(self, batch, at):
        if at.step == last:
            raise KeyboardInterrupt
        return step(self, batch, at)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DsrirTask, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, settings_of("dsrir/progressive"), seconds=1e-6)
    resumed = train(tmp_path, settings_of("dsrir/progressive"))
    assert json.loads((resumed.workdir / "state" / "attempts.json").read_text()) == [last]
    assert resumed.weights() == whole.weights() and resumed.curves() == whole.curves()
