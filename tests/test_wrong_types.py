"""Wrong types in a configuration are one short line each: where, what was found, what is expected."""

import datetime

import pytest
import yaml
from campaigns import configurations
from helpers import shipped

from airpipe.errors import AirpipeError
from airpipe.plan import load_plan
from airpipe.registry import settings_class
from airpipe.settings.base import SHOWN, check_settings, shown
from airpipe.settings.merging import DEEPEST, deep_merge, plain

STAGE = "methods: {baseline: {settings: {nafnet_5d: {stages: {train: {%s}}}}}}"
TRAIN = "methods.baseline.settings.nafnet_5d.stages.train."
MAPPING = "expected a mapping of names to values"


def planned(text: str) -> str:
    """What planning the shipped configuration with an overlay ends with; empty where it is taken."""
    try:
        load_plan(deep_merge(shipped(), yaml.safe_load(text))).stages_in_use()
    except AirpipeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        (
            'datasets: {garden: {about: 2026-01-01, root: x, splits: {train: {clean: "*.png"}}}}',
            "datasets.garden.about: expected text, a number, a list or a mapping, found the date '2026-01-01'; put it "
            "into quotes if text is meant",
        ),
        (STAGE % "common: {data: [photos.train]}", f"{TRAIN}common.data.0: {MAPPING} (found 'photos.train')"),
        (STAGE % "common: {data: photos.train}", f"{TRAIN}common.data: expected a list (found 'photos.train')"),
        (
            STAGE % "common: {data: null}",
            "baseline/nafnet_5d, stage train, scale demo is not valid:\n  data: Field req",
        ),
        (
            STAGE % "common: {data: [{pairs: photos.train, recipe: [noise, rain]}]}",
            f"{TRAIN}common.data.0.recipe: expected text (found ['noise', 'rain'])",
        ),
        (
            STAGE % "scales: {demo: {network: {name: [nafnet]}}}",
            f"{TRAIN}scales.demo.network.name: expected text (found ['nafnet'])",
        ),
        (STAGE % "scales: {demo: 3}", f"{TRAIN}scales.demo: {MAPPING} (found 3)"),
        (STAGE % "common: {parents: [init]}", f"{TRAIN}common.parents: {MAPPING} (found ['init'])"),
        (STAGE % "scales: {demo: {validation: {data: [x]}}}", f"{TRAIN}scales.demo.validation.data.0: {MAPPING}"),
        ("seeds: 0", "seeds: expected a list (found 0); write [0]"),
        ("models: a/b", "models: expected a list (found 'a/b'); write ['a/b']"),
        ("seeds: [0, 0]", "seeds: found 0 more than once, expected each once; leave out the repeats"),
        ("recognition: {fresh_seeds: [1, 2, 1]}", "recognition.fresh_seeds: found 1 more than once"),
        ("features: {seeds: [4, 4]}", "features.seeds: found 4 more than once"),
        ("tests: {photos_noise15: {protocols: [airpipe, airpipe]}}", "protocols: found 'airpipe' more than once"),
        ("tables: {allinone: {tests: [photos_noise15, photos_noise15]}}", "tests: found 'photos_noise15' more than"),
        ("report: " + "{a: " * 60 + "1" + "}" * 60, f"expected at most {DEEPEST} levels, found more; take some out"),
        ("report: &a {b: *a}", f"expected at most {DEEPEST} levels, found more; take some out"),
    ],
)
def test_a_wrong_type_is_told_with_its_place_before_anything_looks_into_it(overlay, message):
    assert message in planned(overlay)


def test_null_takes_the_validation_of_a_scale_away():
    assert planned(STAGE % "scales: {demo: {validation: null}}") == ""


def test_found_values_are_cut():
    assert shown("a" * 78) == f"'{'a' * 78}'" and len(shown("a" * 79)) == SHOWN
    long = planned(f"scale: {'x' * 5000}")
    assert "xxx... (" not in long and len(long.partition("Valid")[0]) < 300
    assert f"models.0: '{'a' * 76}... is not method/setting" in planned(f"models: [{'a' * 5000}]")


@pytest.mark.parametrize("value", [datetime.datetime(2026, 1, 1, 12), b"bytes", {"a set"}], ids=repr)
def test_values_that_json_has_not_are_told_with_their_path(value):
    with pytest.raises(ValueError, match=rf"^a\.0\.b: expected text, .* found the {type(value).__name__} "):
        plain({"a": [{"b": value}]})


@pytest.mark.parametrize("de_type", [3, "rain", ["rain", ["snow"]], [], [{}]], ids=repr)
def test_tasks_that_are_no_list_of_names_are_refused_by_their_type(de_type):
    with pytest.raises(AirpipeError, match=r"de_type[\d.]*: "):
        check_settings(settings_class("dynet.train"), {"de_type": de_type, "data": [{"label": 1.0}]}, "stage")


def test_a_hundred_random_changes_of_the_configuration_are_taken_or_refused(tmp_path):
    outcome = configurations.run(100, 17, tmp_path)
    assert outcome.faults == []
    assert outcome.counts["refused"] > 50 and outcome.counts["taken"] > 3
