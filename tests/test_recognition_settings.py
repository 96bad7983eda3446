"""Settings of the recognition tests: names, seeds and recipes are written out; what does not exist is told."""

import pytest
from helpers import shipped

from airpipe.errors import AirpipeError
from airpipe.registry import stages
from airpipe.settings.degrading import Recipe
from airpipe.settings.project import check_recognisers, load_project
from airpipe.settings.studies import RecognitionSettings, RecognitionTest

RECOGNITION = {
    "models": ["baseline/nafnet_5d", "dcpt/nafnet_5d/pretrain", "imported/mine"],
    "recognisers": {"b": "vrdir/airpipe/recogniser_b", "a": "imported/mine"},
    "tests": {
        "clean": {"pairs": "photos.test", "degradation": "clean"},
        "noise25": {"pairs": "photos.test", "degradation": "noise", "recipe": "noise", "fixed": {"sigma": 25}},
    },
}


def project(**changes):
    return load_project(shipped() | {"recognition": {**RECOGNITION, **changes}})


def test_a_job_has_the_seed_in_its_lists_and_models_and_its_recipes_written_out():
    values = shipped() | {"recognition": RECOGNITION}
    values["datasets"] = {**values["datasets"], "photos3": values["datasets"]["photos"]}
    for seed in (0, 1, 2):
        values["datasets"][f"photos{seed}"] = values["datasets"]["photos"]
    values["recognition"] = {**RECOGNITION, "tests": {**RECOGNITION["tests"], "own": {
        **NOISY, "pairs": "photos{seed}.test", "gallery": "photos.val", "level": "any",
    }}}  # fmt: skip
    found = load_project(values).recognition_job(3)
    assert found.recognisers == {"b": "vrdir/airpipe/seed3/recogniser_b", "a": "imported/mine"}
    assert (found.tests["own"].pairs, found.tests["own"].dataset) == ("photos3.test", "photos")
    assert found.tests["own"].lists() == ("photos3.test", "photos.val")
    assert found.tests["noise25"].operations.operations[0].parameters["sigma"].constant == 25
    assert found.tests["clean"].operations == Recipe()


def test_the_headline_is_the_first_recogniser_or_the_named_one():
    assert project().recognition.in_order() == ("b", "a")
    assert project(headline="a").recognition.in_order() == ("a", "b")
    assert RecognitionSettings().in_order() == ()


def test_other_scales_have_no_recognition():
    assert project(scales=["paper"]).recognition.models == ()
    assert project(scales=["demo"]).recognition.models == tuple(RECOGNITION["models"])


NOISY = {"pairs": "photos.test", "degradation": "noise", "recipe": "noise"}


def one(**changes):
    return {"tests": {"odd": {**NOISY, **changes}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"models": ["nafnet"]},
            "recognition.models.0: 'nafnet' is not method/setting, method/setting/stage",
        ),
        ({"models": ["baseline/nafnet_5"]}, "unknown setting of baseline 'nafnet_5'; did you mean 'nafnet_5"),
        (
            {"models": ["baseline/nafnet_5d/trian"]},
            "unknown stage of baseline/nafnet_5d in recognition 'trian'; did you",
        ),
        (
            {"recognisers": {"b": "baseline/nafnet_5d"}},
            "recognition.recognisers.b: 'baseline/nafnet_5d' is not method/setting/stage or imported/name",
        ),
        ({"recognisers": {}}, "found 2 tests and 0 recognisers; models need both"),
        ({"retrieval": ["c"]}, "unknown recogniser in retrieval 'c'"),
        ({"headline": "c"}, "unknown recogniser in headline 'c'"),
        (one(pairs="fotos.test"), "unknown data set in recognition, test odd 'fotos'; did you mean 'photos'"),
        (
            one(pairs="photos{seed}.test"),
            r"unknown data set in recognition, test odd 'photos\{seed\}'; did you mean 'photos'",
        ),
        (one(pairs="photos.tset"), "unknown split of photos in recognition, test odd 'tset'; did you mean 'test'"),
        (one(gallery="photos.gallery"), "unknown split of photos in recognition, test odd 'gallery'"),
        (one(recipe="nose"), "unknown recipe in recognition, test odd 'nose'; did you mean 'noise'"),
        (one(recipe=None, fixed={"sigma": 25}), "replaces draws of a recipe, and there is no recipe"),
        (one(degradation="clean"), "degradation is clean, but recipe 'noise' degrades"),
        (one(tasks=[]), "tests.odd.tasks"),
        (one(pairs="shapes{seed}.tset"), "unknown split of shapes0 in recognition, test odd 'tset'; did you mean"),
        (
            {"tests": {"first": NOISY, "second": {**NOISY, "fixed": {"sigma": 5}}}},
            "tests first and second are both called 'photos noise' in tables.*give one a `level` or a `dataset`",
        ),
        (
            {**one(tasks=["classification", "retrieval"]), "retrieval": []},
            r"test odd asks for retrieval, and retrieval: \[\] names no recogniser",
        ),
        (
            {**one(tasks=["retrieval"]), "retrieval": ["a"]},
            "test odd asks nothing of the headline b, which figures show: name b in retrieval",
        ),
    ],
)
def test_names_that_do_not_exist_are_told_with_the_nearest(changes, message):
    with pytest.raises(AirpipeError, match=message):
        project(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"models": ["vrdir/airpipe/recogniser_a"]},
            "vrdir/airpipe/recogniser_a tells classes apart and restores nothing; name it in recognition.recognisers",
        ),
        (
            {"recognisers": {"b": "vrdir/airpipe/sad"}},
            r"recogniser b: vrdir/airpipe/sad \(vrdir.sad\) tells no classes apart; name a stage of vrdir.recogniser",
        ),
    ],
)
def test_recognisers_recognise_and_enhancers_restore(changes, message):
    recognising = [name for name, stage in stages().items() if stage.recognises]
    check_recognisers(project(), recognising)
    check_recognisers(project(scales=[], **changes), recognising)
    with pytest.raises(AirpipeError, match=message):
        check_recognisers(project(**changes), recognising)


def test_an_overlay_leaves_tests_and_recognisers_out_by_null():
    found = project(
        tests={**RECOGNITION["tests"], "noise25": None}, recognisers={**RECOGNITION["recognisers"], "a": None}
    )
    assert list(found.recognition.tests) == ["clean"] and found.recognition.in_order() == ("b",)
    boxes = {"annotations": "a.json", "detections": {"clean": "b.json"}}
    assert list(project(detections={"boxes": boxes, "other": None}).recognition.detections) == ["boxes"]


def test_a_level_or_a_data_set_tells_tests_apart():
    tests = {"first": NOISY, "second": {**NOISY, "level": "25"}, "third": {**NOISY, "dataset": "others"}}
    assert list(project(tests=tests).recognition.tests) == list(tests)


def test_a_seed_without_data_is_told_where_its_lists_are_asked_for():
    tests = {"own": {**NOISY, "pairs": "shapes{seed}.test", "gallery": "photos.test"}}
    values = shipped() | {"recognition": {**RECOGNITION, "tests": tests}, "seeds": [0, 4]}
    found = load_project(values)
    assert found.recognition_lists(0) == ["photos.test", "shapes0.test"]
    message = (
        r"recognition, test own: seed 4 has no data set shapes4 \(shapes\{seed\}\). "
        r"Add `shapes4: \{like: shapes0, made: \{seed: 4\}\}` to datasets .*recognition: \{scales: \[\]\}"
    )
    with pytest.raises(AirpipeError, match=message):
        found.recognition_lists(4)
    values["datasets"] = {**values["datasets"], "shapes4": {"like": "shapes0", "made": {"seed": 4}}}
    assert load_project(values).recognition_lists(4) == ["photos.test", "shapes4.test"]
    off = load_project(values | {"recognition": {**RECOGNITION, "scales": []}})
    assert off.recognition_lists(5) == []


def test_tables_of_the_recognition_tests_keep_their_names():
    values = shipped()
    values["tables"] = {**values["tables"], "restoration": {"tests": ["photos_rain"]}}
    with pytest.raises(AirpipeError, match="the name 'restoration' belongs to the recognition tests"):
        load_project(values)
    values["recognition"] = {**values["recognition"], "scales": []}
    assert "restoration" in load_project(values).tables


def test_images_of_every_seed_are_degraded_otherwise_those_of_a_fixed_list_never():
    drawn = RecognitionTest(pairs="shapes{seed}.test", degradation="haze", recipe="haze")
    assert [drawn.for_seed(seed).seed for seed in (0, 1, 3)] == [100000, 100001, 100003]
    fixed = drawn.model_copy(update={"pairs": "cub.test"})
    assert [fixed.for_seed(seed).seed for seed in (0, 3)] == [100000, 100000]
