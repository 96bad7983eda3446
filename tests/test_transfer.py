"""Models that transfer the degradation of a reference: how they are shown one, tested, and looked into."""

import json
import re
import runpy
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, shipped, toy_images, toy_list
from PIL import Image
from test_protocol import SHIPPED
from toys.shown import Shown

from airpipe import registry
from airpipe.cli.main import main
from airpipe.data.pairs import Pair, PairList
from airpipe.data.sources import ImageCache, pair_layers
from airpipe.degradations.recipes import draw
from airpipe.errors import AirpipeError
from airpipe.evaluation.candidates import Model, network_restorer
from airpipe.evaluation.embeddings import degraded_crops, search
from airpipe.evaluation.ensemble import SelfEnsemble
from airpipe.evaluation.guided import Guided
from airpipe.evaluation.metrics import Measurement, measure
from airpipe.evaluation.protocol import evaluate
from airpipe.evaluation.reference import Sample, transfer
from airpipe.evaluation.restore import restore
from airpipe.evaluation.scoring import Candidate, score_tests
from airpipe.images import Picture, read_rgb8, write_picture
from airpipe.plan import load_plan, models
from airpipe.reporting.builders.features import feature_table
from airpipe.reporting.builders.scores import build_scores
from airpipe.reporting.figures import pictures
from airpipe.reporting.page import Sources, all_gains, summary
from airpipe.reporting.published import read_all
from airpipe.reporting.reading import read_scores
from airpipe.reporting.scenes import read_scenes
from airpipe.reporting.table import write_table
from airpipe.settings.degrading import Recipe
from airpipe.settings.merging import deep_merge
from airpipe.settings.scoring import ReportSettings, TableSettings, TestJob, TestSettings
from airpipe.settings.studies import RetrievalSettings
from airpipe.weights.checkpoints import load_model, save_model

BRIGHT = {"operation": "colour_shift", "parameters": {"contrast": 1.0, "brightness": {"uniform": [-0.2, 0.2]}}}
NOISE = {"operation": "gaussian_noise", "parameters": {"sigma": {"uniform": [20, 50]}}, "chance": 0.5}
JPEG = {"operation": "jpeg", "parameters": {"quality": 20}, "chance": 0.5}
MIX = Recipe.model_validate({"operations": [NOISE, JPEG], "shuffle": 1.0})
CPU = torch.device("cpu")


def transferring(operations, target, **more) -> TestSettings:
    recipes = {"operations": Recipe.model_validate(operations), "target_operations": Recipe.model_validate(target)}
    return TestSettings(pairs="toy.train", degradation="transfer", **recipes, **more)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    known = registry.networks() | {"shown": "toys.shown:Shown"}
    monkeypatch.setattr(registry, "networks", lambda: known)


@pytest.fixture
def pairs(tmp_path):
    return [Pair(path, None, "", "", "none", path.stem, path.stem) for path in toy_images(tmp_path / "toys", 5)]


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "m", Shown(), {"network": {"name": "shown", "arguments": {}}, "scale": "demo"})
    return tmp_path / "m"


def mean_of(reference) -> np.ndarray:
    return np.asarray(reference, np.float32).mean((0, 1))


# References


def test_a_network_is_shown_the_whole_reference_beside_every_tile(model):
    rng = np.random.default_rng(0)
    image, reference = rng.random((70, 90, 3), np.float32), rng.random((9, 17, 3), np.float32)
    restored = network_restorer(load_model(model).network, CPU, 40)(Sample(image, "a", reference))
    assert restored == pytest.approx((image + mean_of(reference)) / 2, abs=1e-5)
    ensemble = SelfEnsemble(Guided(Shown(), torch.full((3, 8, 8), 0.5))).eval()
    assert ensemble(torch.zeros(2, 3, 8, 8)).unique().tolist() == [0.25]


def test_a_reference_comes_as_file_array_or_tensor(model, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    write_picture(tmp_path / "r.png", Picture(pixels))
    image = np.full((16, 24, 3), 100, np.uint8)
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy()) / 255
    first, *others = (restore(image, model, reference=given) for given in (tmp_path / "r.png", pixels, tensor))
    assert first[0, 0] == pytest.approx((100 + mean_of(pixels)) / 2, abs=0.51)
    assert all(np.array_equal(first, other) for other in others)
    with pytest.raises(AirpipeError, match=r"a reference of shape \(1, 3, 20, 30\). Expected one image"):
        restore(image, model, reference=tensor[None])


def test_of_a_large_reference_the_centre_counts(model):
    reference = np.zeros((612, 512, 3), np.uint8)
    reference[50:-50] = 200
    assert restore(np.zeros((8, 8, 3), np.uint8), model, reference=reference).flat[0] == 100


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (None, "this model wants a reference beside the image, and there is none here. Give one"),
        ((5, 40), "the reference has 40x5 pixels; this model needs 6x6 or more"),
    ],
)
def test_a_reference_that_is_missing_or_too_small_is_refused(model, shape, message):
    reference = None if shape is None else np.zeros((*shape, 3), np.uint8)
    with pytest.raises(AirpipeError, match=message):
        restore(np.zeros((8, 8, 3), np.uint8), model, reference=reference, self_ensemble=True)


def test_a_network_that_takes_no_reference_refuses_one():
    image = np.zeros((8, 8, 3), np.float32)
    restorer = network_restorer(torch.nn.Identity(), CPU, 0)
    assert np.array_equal(restorer(Sample(image)), image)
    with pytest.raises(AirpipeError, match="this model takes no reference: it sees nothing but the image"):
        restorer(Sample(image, "a", image))


# The command


@pytest.fixture
def album(tmp_path):
    for name, level in (("photo", 100), ("other", 200), ("third", 50)):
        write_picture(tmp_path / "album" / f"{name}.png", Picture(np.full((16, 24, 3), level, np.uint8)))
    return tmp_path / "album"


def test_the_command_transfers_from_any_file_and_tells_results_of_other_references_apart(album, model, capsys):
    words = ["restore", str(album / "photo.png"), "-m", str(model), "-o", str(album / "new.png")]
    assert main([*words, "--reference", str(album / "other.png")]) == 0
    assert read_rgb8(album / "new.png").flat[0] == 150
    assert main([*words, "--reference", str(album / "other.png")]) == 0
    assert "done already" in capsys.readouterr().out
    assert main([*words, "--reference", str(album / "third.png")]) == 2
    assert "exists, made from something else" in capsys.readouterr().err
    assert main([*words, "--reference", str(album / "third.png"), "--overwrite"]) == 0
    assert read_rgb8(album / "new.png").flat[0] == 75


def test_the_command_refuses_at_once_what_does_not_fit(album, model, tmp_path, capsys):
    save_model(tmp_path / "p", torch.nn.Identity(), {"network": {"name": "plain", "arguments": {}}})
    known = registry.networks() | {"plain": "torch.nn:Identity"}
    registry.networks = lambda: known  # the fixture takes it back
    words = ["restore", str(album), "-o", str(tmp_path / "out"), "-m"]
    reference = ["--reference", str(album / "other.png")]
    for said, more in (
        ("wants a reference beside the image", [str(model)]),
        ("takes no reference", [str(tmp_path / "p"), *reference]),
        ("cannot be read .*Expected an image file", [str(model), "--reference", str(album)]),
        ("no such image", [str(model), "--reference", str(album / "gone.png")]),
    ):
        assert main([*words, *more]) == 2
        errors = capsys.readouterr().err
        assert re.search(said, errors) and errors.count("error") == 1
    assert not (tmp_path / "out").exists()


# What tests ask


def test_the_reference_is_another_image_with_the_draw_of_the_target(pairs):
    test, cache = transferring([NOISE], [BRIGHT]), ImageCache()
    seen = set()
    for pair in pairs:
        made = transfer(test, pair, pair_layers(pair, cache), pairs, cache)
        clean = pair_layers(pair, cache)[0].astype(int)
        shifts = [made.target.astype(int) - clean]
        for other in pairs:
            apart = made.reference.astype(int) - pair_layers(other, cache)[0]
            if np.ptp(apart[(made.reference > 0) & (made.reference < 255)]) <= 1:
                shifts.append(apart)
                assert other.name != pair.name
        assert len(shifts) == 2
        first, second = (int(np.median(shift)) for shift in shifts)
        assert abs(first - second) <= 1
        assert made.level == "colour_shift"
        seen.add(first)
    assert len(seen) == 5


def test_noise_is_drawn_for_each_image_anew_and_all_is_the_same_again(pairs):
    certain = {**NOISE, "chance": 1.0, "parameters": {"sigma": 30}}
    test, cache = transferring([], [certain]), ImageCache()
    layers = pair_layers(pairs[0], cache)
    made, again = (transfer(test, pairs[0], layers, pairs, cache) for _ in range(2))
    assert np.array_equal(made.degraded, layers[0])
    others = [pair_layers(pair, cache)[0].astype(int) for pair in pairs[1:]]
    shown = min(others, key=lambda other: abs(made.reference - other).mean())  # what the reference shows
    noises = [made.target.astype(int) - layers[0], made.reference - shown]
    assert [noise.std() for noise in noises] == pytest.approx([30, 30], rel=0.2)
    assert abs(np.corrcoef(noises[0].ravel(), noises[1].ravel())[0, 1]) < 0.1
    assert np.array_equal(made.reference, again.reference) and np.array_equal(made.target, again.target)
    another = transfer(test.model_copy(update={"seed": 1}), pairs[0], layers, pairs, cache)
    assert not np.array_equal(made.target, another.target)


def test_results_are_compared_with_the_target_and_told_apart_by_what_was_drawn(pairs):
    test, cache = transferring(MIX, MIX, protocols=("airpipe", "dcpt")), ImageCache()
    rows = evaluate(test, SHIPPED, pairs, None)
    for pair in pairs:
        made = transfer(test, pair, pair_layers(pair, cache), pairs, cache)
        wanted = Measurement("psnr", "rgb", 0, rounded=True, clipped=True)
        psnr = measure(made.degraded / np.float32(255), made.target, {wanted})[wanted]
        found = [row for row in rows if row["image"] == pair.name and row["metric"] == "psnr"]
        assert [row["value"] for row in found] == pytest.approx([psnr, psnr], abs=1e-4)
        assert {row["level"] for row in found} == {made.level}
    assert {row["level"] for row in rows} <= {"clean", "gaussian_noise", "jpeg", "gaussian_noise+jpeg"}


def test_the_label_names_what_changes_the_image_in_the_order_of_the_recipe():
    labels = {draw(MIX, np.random.default_rng(seed)).label() for seed in range(40)}
    assert labels == {"clean", "gaussian_noise", "jpeg", "gaussian_noise+jpeg"}
    last = MIX.model_copy(update={"composition": "last"})
    assert {draw(last, np.random.default_rng(seed)).label() for seed in range(40)} == labels - {"gaussian_noise+jpeg"}


def test_a_pair_of_clean_images_is_drawn_again_and_each_image_as_often_as_asked(pairs):
    seldom = Recipe(operations=MIX.operations, nothing=0.8)
    rows = evaluate(transferring(seldom, seldom, draws=4), SHIPPED, pairs, None)
    assert np.isfinite([row["value"] for row in rows]).all()
    names = list(dict.fromkeys(row["image"] for row in rows))
    assert names[:6] == ["img0", "img1", "img2", "img3", "img4", "img0@2"] and len(names) == 20
    assert len({row["level"] for row in rows}) > 2


def test_a_pass_of_each_image_has_a_reference_and_a_list_of_one_image_is_told(pairs):
    seen = []
    evaluate(transferring(MIX, MIX), SHIPPED, pairs, lambda sample: seen.append(sample) or sample.degraded)
    assert [sample.name for sample in seen] == [f"img{number}" for number in range(5)]
    assert all(sample.reference.shape == (48, 56, 3) for sample in seen)
    with pytest.raises(AirpipeError, match="img0 is the only image, and its reference is another one"):
        evaluate(transferring(MIX, MIX), SHIPPED, pairs[:1], None)


# From scores to table and figure


@pytest.fixture
def scored(tmp_path, model):
    """Score files of none and the toy, on a list of five images."""
    test = transferring(MIX, MIX, keep_images=2)
    job = TestJob(name="swap", test=test, protocols={"airpipe": SHIPPED["airpipe"]})
    lists = {"toy.train": PairList(toy_list(tmp_path), tmp_path / "images")}
    files = []
    for name, file in (("none", None), ("toy/swap/seed0/train", model / "model.safetensors")):
        candidate = (Model if file else Candidate)(name, file, tmp_path / "scores" / name, tmp_path / "restored" / name)
        files.append(tmp_path / "scores" / name / "swap.csv")
        assert score_tests(candidate, [job], lists)["swap"]["images"] == 5
    none = Candidate("none", None, files[0].parent, tmp_path / "restored/none")
    return files, lambda: score_tests(none, [job], lists)


def test_a_missing_reference_among_the_pictures_scores_the_test_again(scored, tmp_path, capsys):
    _, again = scored
    again()
    assert "swap: reused" in capsys.readouterr().out
    (tmp_path / "restored/none/swap/img1_reference.png").unlink()
    again()
    assert "pictures are missing" in capsys.readouterr().out


def test_the_table_has_all_images_and_each_label(scored, tmp_path):
    files, _ = scored
    card = {"toy/swap/seed0/train": {"method": "toy", "setting": "swap", "network": {"name": "shown"}, "scale": "demo"}}
    table, gains = build_scores("swaps", TableSettings(tests=("swap",)), "demo", read_scores(files), card, read_all([]))
    frame = table.frame[(table.frame["metric"] == "psnr") & (table.frame["model"] == "toy/swap/train")]
    scores = pd.read_csv(files[1])
    psnr = scores[scores["metric"] == "psnr"]
    expected = {"": psnr["value"].mean()} | psnr.groupby("level")["value"].mean().to_dict()
    assert len(expected) > 2
    assert dict(zip(frame["level"], frame["value"], strict=True)) == pytest.approx(expected)
    assert dict(zip(frame["level"], frame["n_images"], strict=True))[""] == 5
    assert table.blocks[0].head == ("model", *(f"transfer {level}".strip() for level in expected))
    assert len(gains.frame) == 5
    write_table(gains, tmp_path)  # the page's summary is about restoring
    sources = Sources({}, [], gains=[tmp_path / "swaps_gains.csv"], scores=files, pictures=tmp_path)
    assert all_gains(sources, "airpipe").empty and "On " not in summary(all_gains(sources, "airpipe"), card, "demo")


def test_the_grid_shows_reference_and_target_with_what_was_drawn(scored, tmp_path):
    files, _ = scored
    scenes = read_scenes(files, tmp_path / "restored", ReportSettings(zoom=16).model_dump(mode="json"))
    assert [shown.title for shown in scenes[0].shown] == ["degraded", "reference", "swap", "target"]
    assert [shown.title for shown in scenes[0].restored] == ["swap"]
    levels = pd.read_csv(files[0]).groupby("image")["level"].first()
    assert [scene.shown[1].note for scene in scenes] == [levels[scene.image].replace("+", " + ") for scene in scenes]
    pictures.draw_qualitative(scenes, 16, tmp_path / "swaps.png")
    assert Image.open(tmp_path / "swaps.png").size[0] > 1000


# The plan


SWAP = {
    "tests": {"swap": {"pairs": "photos.test", "degradation": "transfer", "recipe": "jpeg", "target_recipe": "haze"}},
    "tables": {"swaps": {"tests": ["swap"], "models": ["dcpt/nafnet_5d"]}},
}


def planned(*overlays):
    merged = shipped()
    for overlay in overlays:
        merged = deep_merge(merged, overlay)
    return load_plan(merged)


@pytest.fixture
def taking(monkeypatch):
    """The stage dcpt.finetune as one whose network takes a reference."""
    known = models.stage_entry
    monkeypatch.setattr(
        models,
        "stage_entry",
        lambda task: replace(known(task), takes_reference=True) if task == "dcpt.finetune" else known(task),
    )


def test_a_test_of_transfer_has_both_recipes_written_out(taking):
    plan = planned(SWAP)
    job = plan.test_job("swap")
    assert job.test.target_operations.names == ("haze",) and job.test.operations.names == ("jpeg",)
    assert plan.operations()["tests.swap, target"] == plan.project.recipes["haze"]
    assert TestJob.model_validate(json.loads(job.model_dump_json())) == job
    with pytest.raises(AirpipeError, match="table allinone: dcpt/nafnet_5d/finetune takes a reference .* test photos_"):
        planned(SWAP, {"models": ["dcpt/nafnet_5d"]}).table_models("allinone")
    tables = {"pretraining": {"scales": []}}
    assert planned(SWAP, {"tables": tables}).table_models("swaps") == ["dcpt/nafnet_5d/seed0/finetune"]


def test_models_without_reference_are_kept_from_tests_of_transfer():
    with pytest.raises(AirpipeError, match="table swaps: dcpt/nafnet_5d/finetune takes no reference, and test swap"):
        planned(SWAP).table_models("swaps")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_recipe": "hase"}, "unknown target recipe in test swap 'hase'; did you mean 'haze'"),
        ({"level": "strong"}, "level is 'strong', but the level of an image is what its target_recipe draws"),
        ({"draws": 3, "target_recipe": None}, "draws is 3, but there is no target_recipe; leave draws out"),
    ],
)
def test_a_wrong_test_of_transfer_gets_one_message(change, message):
    with pytest.raises(AirpipeError, match=message):
        planned(SWAP, {"tests": {"swap": change}})


# Retrieval


def searched(**changes) -> RetrievalSettings:
    values = {"pairs": "toy.train", "operations": [NOISE], "draws": 6, "patch_size": 32, "recipe": "mine"}
    return RetrievalSettings.model_validate(values | changes)


def test_an_embedding_of_roughness_finds_noise_and_a_constant_one_finds_nothing(pairs):
    found = search(Shown(), searched(), pairs)
    assert found["rank1"] == 100 and found["chance_rank1"] < 60
    assert set(found["per_label"]) == {"clean", "gaussian_noise"} and found["crops"] == 6 * 5
    blind = Shown()
    blind.embedding = lambda image: torch.ones(len(image), 2)
    assert search(blind, searched(), pairs)["rank1"] < 80


def test_among_other_photographs_an_embedding_of_content_reaches_chance_only(pairs):
    settings, levels = searched(draws=12), {}

    def brightness(image):
        """The mean of a crop, to a thousandth the same whatever the noise: what the photograph shows."""
        level = levels.setdefault(round(float(image.mean()), 2), len(levels))
        return torch.nn.functional.one_hot(torch.tensor([level] * len(image)), 64).float() + 0.01

    content = Shown()
    content.embedding = brightness
    found = search(content, settings, pairs)["others"]
    assert found["rank1"] == pytest.approx(found["chance_rank1"], abs=25)
    told = search(Shown(), settings, pairs)["others"]
    labels = [label for label, _, _ in degraded_crops(settings, pairs)]
    assert len(set(labels)) == 2 and told == pytest.approx({"rank1": 100, "chance_rank1": 50})
    assert found["chance_rank1"] == pytest.approx(50)


def test_each_set_of_operations_counts_alike_among_other_photographs(pairs):
    """Most draws are clean; of the others all look alike here, so that the first one in the list is the nearest."""
    recipe = Recipe.model_validate({"operations": [NOISE, JPEG], "nothing": 0.5})
    settings, network = searched(draws=24, operations=recipe), Shown()
    labels = [label for label, _, _ in degraded_crops(settings, pairs)]
    assert labels.count("clean") > len(labels) / 2 and len(set(labels)) == 4
    told = iter(labels)
    network.embedding = lambda image: torch.eye(2)[[int(next(told) == "clean") for _ in image]]
    assert search(network, settings, pairs)["others"] == pytest.approx({"rank1": 50, "chance_rank1": 25})


def test_draws_are_shared_by_all_images_and_noise_is_not(pairs):
    crops = degraded_crops(searched(operations=[{**NOISE, "chance": 1.0}], draws=2), pairs)
    assert [image for _, image, _ in crops] == [pair.name for pair in pairs for _ in range(2)]
    clean = degraded_crops(searched(operations=[], draws=1), pairs)
    noises = [crops[2 * place][2].astype(int) - clean[place][2] for place in range(2)]
    assert not np.array_equal(*noises) and noises[0].std() == pytest.approx(noises[1].std(), rel=0.2)
    alone = degraded_crops(searched(operations=[{**NOISE, "chance": 1.0}], draws=1), pairs[1:3])
    assert np.array_equal(alone[0][2], crops[2][2])  # other images and draws change nothing


@pytest.mark.parametrize(
    ("network", "changes", "count", "message"),
    [
        (torch.nn.Identity(), {}, 5, "network Identity gives no embedding of an image; leave it out of the models"),
        (Shown(), {"patch_size": 50}, 5, "img0 has 56x48 pixels and is smaller than patch_size 50"),
        (Shown(), {}, 1, "toy.train has 1 images; a neighbour is another one"),
    ],
)
def test_what_cannot_be_searched_is_told(pairs, network, changes, count, message):
    with pytest.raises(AirpipeError, match=message):
        search(network, searched(**changes), pairs[:count])


def test_retrieval_stands_in_the_table_of_features_beside_chance(pairs):
    facts = search(Shown(), searched(), pairs) | {"model": "toy/swap/seed0/train"}
    facts |= {"network": {"name": "shown", "arguments": {}}, "settings": searched().model_dump(mode="json")}
    table = feature_table([], [], [facts])
    rows = table.frame.set_index(["measure", "class"])
    assert rows.loc[("retrieval", ""), "value"] == 100
    assert rows.loc[("retrieval_chance", ""), "value"] == rows.loc[("retrieval", ""), "chance"] == facts["chance_rank1"]
    assert rows.loc[("retrieval", "clean"), "value"] == rows.loc[("retrieval_others", ""), "value"] == 100
    assert rows.loc[("retrieval_others_chance", ""), "value"] == facts["others"]["chance_rank1"]
    head = ("checkpoint", "all", "clean", "gaussian_noise", "chance", "other photographs", "chance there")
    assert table.blocks[0].head == head
    assert "another photograph that is degraded by the same operations" in table.notes[0]


def test_the_script_writes_what_the_search_finds_and_what_it_was_made_from(model, tmp_path, monkeypatch):
    (tmp_path / "retrieval.yaml").write_text(searched().model_dump_json(exclude_none=True))
    words = ["toy/swap/seed0/train", "--model", model / "model.safetensors", "--pairs", toy_list(tmp_path)]
    words += ["--root", f"toy={tmp_path / 'images'}", "--retrieval", tmp_path / "retrieval.yaml"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in ("x", *words, "--output", tmp_path / "found.json")])
    runpy.run_path(str(ROOT / "scripts" / "retrieve_degradations.py"))["main"]()
    facts = json.loads((tmp_path / "found.json").read_text())
    assert facts["rank1"] == 100 and facts["settings"]["draws"] == 6 and facts["network"]["name"] == "shown"


def test_retrieval_is_planned_by_itself():
    asked = {"models": ["dcpt/nafnet_5d/pretrain"], "pairs": "photos.test", "recipe": "noise"}
    plan = planned({"features": {"retrieval": asked}})
    assert plan.retrieval_models() == ["dcpt/nafnet_5d/seed0/pretrain"] and plan.retrieval_lists() == ["photos.test"]
    assert any("sigma" in line for line in plan.frozen("studies", "retrieval"))
    assert plan.frozen("studies", "features") == planned().frozen("studies", "features")
    assert planned({"features": {"scales": [], "retrieval": asked}}).retrieval_models() == []
    with pytest.raises(AirpipeError, match="unknown recipe in features.retrieval 'nose'; did you mean 'noise'"):
        planned({"features": {"retrieval": asked | {"recipe": "nose"}}})
    with pytest.raises(AirpipeError, match="found pairs None and recipe 'noise'; models need both"):
        planned({"features": {"retrieval": {**asked, "pairs": None}}})
