"""DyNet's test modes, its lists, both depths in the tables, and the overlays that compare runs."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, shipped, toy_list
from test_protocol import SHIPPED
from toys.dynet import DYNAMIC, SIZES

from airpipe.data.pairs import PairList, pair_up
from airpipe.data.sampling import part_counts
from airpipe.errors import AirpipeError
from airpipe.evaluation.budget import Budget, choose_variant
from airpipe.evaluation.candidates import Model
from airpipe.evaluation.protocol import evaluate
from airpipe.evaluation.scoring import Candidate, score_tests
from airpipe.models.cost import network_cost
from airpipe.plan import load_plan
from airpipe.registry import build_network
from airpipe.reporting.builders.efficiency import efficiency_table
from airpipe.reporting.builders.scores import build_scores
from airpipe.reporting.published import read_all
from airpipe.reporting.reading import read_cards, read_scores
from airpipe.settings.scoring import TableSettings, TestJob, TestSettings
from airpipe.weights.checkpoints import check_variants, load_model, save_model
from benchmarks import dynet_work

MODEL = "dynet/dynet_3d/seed0/train"
NOISE = ["cbsd68_noise15", "cbsd68_noise25", "cbsd68_noise50"]
MODES = {0: NOISE, 1: ["rain100l"], 2: ["sots_outdoor"], 3: [*NOISE, "rain100l", "sots_outdoor"]}


# Modes


@pytest.fixture(scope="module")
def modes():
    return load_plan(shipped("dynet_modes.yaml"))


def test_each_mode_of_the_test_script_is_a_table_of_both_depths(modes):
    assert {name: list(table.tests) for name, table in modes.project.tables.items()} == {
        f"dynet_mode{mode}": tests for mode, tests in MODES.items()
    }
    for mode in MODES:
        assert modes.table_models(f"dynet_mode{mode}") == [f"{MODEL}@s", f"{MODEL}@l"]
    assert [one.model_id for one in modes.stages_in_use()] == [MODEL, "dynet/cells/seed0/pretrain"]


def test_modes_measure_as_the_test_script_does(modes):
    jobs = {name: modes.test_job(name) for name in MODES[3]}
    sigmas = [jobs[name].test.operations.operations[0].parameters["sigma"].constant for name in NOISE]
    assert sigmas == [15, 25, 50]
    for name, job in jobs.items():
        rules = job.protocols["promptir"]
        assert (rules.crop_multiple, rules.round_output, rules.border) == (16, False, 0)
        assert (rules.metrics["psnr"].colour, rules.metrics["ssim"].measure) == ("rgb", "ssim_uniform7")
        assert bool(job.test.operations) == (name in NOISE)
    assert modes.project.tables["dynet_mode3"].averages["average"].weigh == "test"
    assert modes.project.report.protocol == "promptir"


def test_an_average_of_mode_3_is_the_printed_one(modes):
    """Places of our columns are those of the printed row, hence its average is over the same five numbers."""
    printed = read_all(sorted((ROOT / "resources" / "published").iterdir())).scores
    printed = printed[(printed["paper"] == "DyNet") & (printed["method"] == "DyNet-S") & (printed["metric"] == "psnr")]
    places = {
        (test.pairs.split(".")[0], test.degradation, test.level)
        for test in (modes.project.tests[name] for name in MODES[3])
    }
    columns = printed[
        [place in places for place in zip(printed.dataset, printed.degradation, printed.level, strict=True)]
    ]
    assert len(columns) == 5
    assert columns["value"].mean() == pytest.approx(
        float(printed[printed.dataset == "average"]["value"].iloc[0]), abs=0.01
    )


def noise_scores(folder: Path, sigma: int, order: slice = slice(None)) -> dict[str, float]:
    recipe = [{"operation": "gaussian_noise", "parameters": {"sigma": sigma}}]
    test = TestSettings(pairs="toy.test", degradation="noise", operations=recipe, protocols=("promptir", "airpipe"))
    pairs = PairList(toy_list(folder), folder / "images").read()[order]
    rows = evaluate(test, {name: SHIPPED[name] for name in test.protocols}, pairs, None)
    return {f"{row['protocol']} {row['image']}": row["value"] for row in rows if row["metric"] == "psnr"}


def test_the_noise_of_a_test_depends_on_no_order_of_files_and_of_levels(tmp_path):
    found = noise_scores(tmp_path, 25)
    assert noise_scores(tmp_path, 25, slice(None, None, -1)) == found
    noise_scores(tmp_path, 15)
    assert noise_scores(tmp_path, 25) == found
    part = noise_scores(tmp_path, 25, slice(2, 4))
    ours = {key for key in part if key.startswith("airpipe")}
    assert {key: part[key] for key in ours} == {key: found[key] for key in ours}
    assert any(part[key] != found[key] for key in set(part) - ours)  # of published noise, a subset has another


# Lists


def folders() -> dict[str, list[str]]:
    """Files of the published training folders: 5,144 clean, 200 rainy, 35 hazy of each of 2,061 clean ones."""
    haze = [f"{a}_{b}" for a in (0.8, 0.85, 0.9, 0.95, 1) for b in (0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2)]
    scenes = [f"{number:04}" for number in range(25, 25 + 2061)]
    return {
        "bsd400.train": [f"a{number}.jpg" for number in range(2092, 2492)],
        "wed.train": [f"{number:05}.bmp" for number in range(1, 4745)],
        "rain100l.train": [f"{kind}-{number}.png" for kind in ("rainy/rain", "gt/norain") for number in range(1, 201)],
        "reside_ots.train": [
            *(f"original/{scene}.jpg" for scene in scenes),
            *(f"synthetic/part{int(scene) % 4 + 1}/{scene}_{one}.jpg" for scene in scenes for one in haze),
        ],
    }


def test_the_published_lists_are_rebuilt_from_folders(modes):
    settings = modes.stage_settings(MODEL)
    entries = {name: modes.project.datasets[name.split(".")[0]].splits["train"] for name in folders()}
    unlisted = {name: entry.model_copy(update={"name_list": None}) for name, entry in entries.items()}
    found = {name: pair_up(sorted(files), unlisted[name]) for name, files in folders().items()}
    assert {name: len(pairing.rows) for name, pairing in found.items()} == {
        "bsd400.train": 400, "wed.train": 4744, "rain100l.train": 200, "reside_ots.train": 72_135,
    }  # fmt: skip
    assert not any(pairing.problems for pairing in found.values())
    counts, exact = part_counts(settings.data, [len(found[part.pairs].rows) for part in settings.data])
    assert exact
    assert sum(counts) == 142_431
    pairs = {row["degraded"]: row["clean"] for name in found for row in found[name].rows if row["degraded"]}
    one_folder = sorted(folders()["bsd400.train"] + folders()["wed.train"])
    for name, others in (("bsd400.train", "0*"), ("wed.train", "a*")):
        assert pair_up(one_folder, unlisted[name].model_copy(update={"leave_out": (others,)})).rows == found[name].rows
    assert pairs["rainy/rain-200.png"] == "gt/norain-200.png"
    assert pairs["synthetic/part2/0025_0.85_0.04.jpg"] == "original/0025.jpg"


# Tables


def small_model(results: Path) -> Path:
    """A model of random weights, as a training leaves it."""
    torch.manual_seed(0)
    network = build_network("dynet", **SIZES)
    card = {
        "model": MODEL, "method": "dynet", "setting": "dynet_3d", "seed": 0, "stage": "train", "scale": "demo",
        "network": DYNAMIC["network"], "variants": DYNAMIC["variants"], "settings_hash": "0" * 64, "wall_s": 9.0,
        "git": {"commit": "a" * 40, "dirty": False}, "device": "cpu", "finished": "2026-01-01T00:00:00Z",
        "pairs": [],
    }  # fmt: skip
    save_model(results / MODEL, network, card)
    return results / MODEL


@pytest.fixture
def folder(tmp_path):
    return small_model(tmp_path / "results")


def test_both_depths_stand_in_the_table_of_scores(folder, tmp_path):
    recipe = [{"operation": "gaussian_noise", "parameters": {"sigma": 25}}]
    test = TestSettings(pairs="toy.test", degradation="noise", level="25", operations=recipe)
    job = TestJob(name="noise25", test=test, protocols={"airpipe": SHIPPED["airpipe"]})
    lists = {"toy.test": PairList(toy_list(tmp_path), tmp_path / "images")}
    for model in ("none", f"{MODEL}@s", f"{MODEL}@l"):
        file = None if model == "none" else folder / "model.safetensors"
        kind = Model if file else Candidate
        score_tests(kind(model, file, tmp_path / model / "scores", tmp_path / model / "seen"), [job], lists)
    scores = read_scores(sorted(tmp_path.glob("**/scores/noise25.csv")))
    cards = read_cards([folder / "card.json"], tmp_path / "results")
    settings = TableSettings(tests=("noise25",), models=("dynet/dynet_3d@s", "dynet/dynet_3d@l"))
    table, _ = build_scores("allinone", settings, "demo", scores, cards, read_all([]))
    frame = table.frame[table.frame["metric"] == "psnr"].set_index("model")
    assert list(frame.index) == ["none", "dynet/dynet_3d/train@l", "dynet/dynet_3d/train@s"]
    assert set(frame["backbone"][1:]) == {"dynet"}
    assert frame["value"]["dynet/dynet_3d/train@s"] != frame["value"]["dynet/dynet_3d/train@l"]
    difference = table.frame[table.frame["metric"] == "psnr_difference"].set_index("model")
    assert list(difference["against"]) == ["dynet/dynet_3d/train@l"]


def test_both_depths_stand_in_the_table_of_efficiency_with_costs_of_their_own(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("airpipe.evaluation.memory.peak_memory_mb", lambda *network, **_: asked.append(network[1]) or 7)
    script = runpy.run_path(str(ROOT / "scripts" / "measure_cost.py"))["main"]
    files = [tmp_path / f"{name}.json" for name in "sl"]
    for name, file in zip("sl", files, strict=True):
        given = ["measure_cost.py", f"{MODEL}@{name}", "--model", str(folder), "--output", str(file)]
        monkeypatch.setattr("sys.argv", given)
        script()
    cards = read_cards([folder / "card.json"], tmp_path / "results")
    frame = efficiency_table(files, cards).frame
    assert list(frame["model"]) == [f"{MODEL}@s", f"{MODEL}@l"]
    assert frame["parameters"].nunique() == 1
    for name, row in zip("sl", frame.to_dict("records"), strict=True):
        arguments = SIZES | DYNAMIC["variants"][name]
        assert row["macs"] == network_cost("dynet", arguments)["macs"]
        assert row["latency_ms"] == json.loads(files["sl".index(name)].read_text())["latency_ms"] > 0
        assert asked["sl".index(name)] == arguments
    assert frame["macs"][0] < 0.9 * frame["macs"][1]


def test_a_budget_chooses_a_depth(folder):
    macs = {name: network_cost("dynet", SIZES | changed)["macs"] for name, changed in DYNAMIC["variants"].items()}
    between = Budget(sum(macs.values()) / 2 / 256**2 * 1e6 / 1e9, "GMAC")  # of a megapixel
    assert choose_variant(folder, between, torch.device("cpu"))[0] == "s"
    assert choose_variant(folder, Budget(1, "TMAC"), torch.device("cpu"))[0] == "l"
    with pytest.raises(AirpipeError, match="no variant fits a budget of 0.001 GMAC per megapixel. The cheapest, s"):
        choose_variant(folder, Budget(0.001, "GMAC"), torch.device("cpu"))
    with pytest.raises(AirpipeError, match=r"no variant 'xl'. It has s, l"):
        load_model(folder, "xl")


def test_a_depth_or_a_task_that_does_not_exist_stops_the_plan():
    config = shipped("dynet_modes.yaml")
    config["models"] = ["dynet/dynet_3d@xl"]
    with pytest.raises(AirpipeError, match=r"train@xl: unknown variant 'xl'.*Valid: l, s"):
        load_plan(config).chosen_models()
    config = shipped("dynet_modes.yaml")
    train = config["methods"]["dynet"]["settings"]["dynet_3d"]["stages"]["train"]
    train["common"]["de_type"] = ["derain", "desnow"]
    with pytest.raises(AirpipeError, match=r"de_type(?s:.)*'denoise_15', 'denoise_25'"):
        load_plan(config).stages_in_use()


# Runs that are compared


@pytest.mark.parametrize("overlay", ["dynet_samples.yaml", "dynet_work.yaml"])
def test_a_run_on_samples_is_planned_whole_with_two_depths_and_whole_cells(overlay):
    plan = load_plan(shipped(overlay))
    stages = plan.stages_in_use()
    assert {(one.method, one.scale, one.seed) for one in stages} == {("dynet", "samples", 0), ("dynet", "samples", 1)}
    assert plan.test_lists() and plan.training_lists()
    for one in stages:
        check_variants(one.network.name, one.network.arguments, one.variants)
        assert set(one.variants) == {"s", "l"}
        assert {phase.patch_size % 16 for phase in one.phases} == {0}


def budgets(plan) -> dict[str, int]:
    """Samples of each stage, those of its parents included."""
    own = {one.model_id: sum(phase.steps * phase.batch_size for phase in one.phases) for one in plan.stages_in_use()}
    return {
        model: count + sum(own[parent] for parent in plan.parents_of(model).values()) for model, count in own.items()
    }


def test_the_pretrained_run_and_its_control_see_equally_many_samples():
    plan = load_plan(shipped("dynet_samples.yaml"))
    groups = plan.table_groups("pretraining")
    assert [[model.partition("@")[2] for model in models] for models, _ in groups] == [["s"] * 4, ["l"] * 4]
    found = budgets(plan)
    assert {found[model.partition("@")[0]] for models, _ in groups for model in models} == {8000}
    assert all(group.equal_budgets for group in plan.project.tables["pretraining"].groups)
    assert {task for one in plan.stages_in_use() for task in getattr(one, "de_type", ())} == {
        "denoise_15", "denoise_25", "denoise_50", "derain", "dehaze",
    }  # fmt: skip


def test_the_joint_run_has_the_steps_of_one_separate_run_and_the_long_one_those_of_both():
    plan = load_plan(shipped("dynet_work.yaml"))
    found = {one.setting: one for one in plan.stages_in_use() if one.seed == 0}
    steps = {setting: one.steps for setting, one in found.items()}
    assert steps["cells"] == steps["cells_s"] == steps["cells_l"]
    assert steps["cells_long"] == 2 * steps["cells"]
    branches = {setting: one.branch for setting, one in found.items()}
    assert branches == {"cells": "random", "cells_long": "random", "cells_s": "s", "cells_l": "l"}
    assert {setting: one.network for setting, one in found.items()} == dict.fromkeys(found, found["cells"].network)


def finished_run(results: Path, setting: str, seed: int, seconds: float, grey: dict[str, float]) -> None:
    folder = results / "dynet" / setting / f"seed{seed}" / "pretrain"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    card = {"network": {"name": "dynet"}, "variants": {"l": {}, "s": {}}, "step": 8, "threads": 2}
    card["shares"] = {"data": 1.0, "step": seconds - 1, "checkpoint": 50.0, "validation": 50.0}
    (folder / "card.json").write_text(json.dumps(card))
    rows = ["step,name,value", "4,validation/l1_s,9", "4,validation/l1_l,9"]
    rows += [f"8,validation/l1_{depth},{value / 255}" for depth, value in grey.items()]
    rows += [f"8,validation/psnr_{depth},{30 - value}" for depth, value in grey.items()]
    (folder / "curves.csv").write_text("\n".join(rows))


def test_the_work_of_joint_runs_is_set_beside_that_of_separate_ones(tmp_path, monkeypatch, capsys):
    for seed in (0, 1):
        finished_run(tmp_path, "cells_s", seed, 360, {"s": 3 + seed, "l": 90})
        finished_run(tmp_path, "cells_l", seed, 720, {"s": 90, "l": 2 + seed})
        finished_run(tmp_path, "cells", seed, 540 + 54 * seed, {"s": 5, "l": 4})
        finished_run(tmp_path, "cells_long", seed, 1080, {"s": 3, "l": 2})
    frame = dynet_work.compare(tmp_path, [0, 1])
    assert list(frame["setting"]) == ["cells_s", "cells_l", "cells", "cells_long"] * 3
    means = frame[frame["seed"] == "mean"].set_index("setting")
    assert means["cpu_hours"].to_dict() == pytest.approx(
        {"cells_s": 0.2, "cells_l": 0.4, "cells": 0.315, "cells_long": 0.6}
    )
    assert means["share"].to_dict() == pytest.approx(
        {"cells_s": 1 / 3, "cells_l": 2 / 3, "cells": 0.525, "cells_long": 1}
    )
    assert means["l1_s"].to_dict() == pytest.approx(
        {"cells_s": 3.5, "cells_l": np.nan, "cells": 5, "cells_long": 3}, nan_ok=True
    )
    assert means["psnr_l"].to_dict() == pytest.approx(
        {"cells_s": np.nan, "cells_l": 27.5, "cells": 26, "cells_long": 28}, nan_ok=True
    )
    monkeypatch.setattr("sys.argv", ["dynet_work", "--results", str(tmp_path)])
    dynet_work.main()
    assert "cells: 52.5 % of the CPU-hours of both separate runs" in capsys.readouterr().out
    with pytest.raises(AirpipeError, match="no finished model"):
        dynet_work.compare(tmp_path, [2])
    monkeypatch.setattr("sys.argv", ["dynet_work", "--results", str(tmp_path / "none")])
    with pytest.raises(AirpipeError, match="no runs. Make them: snakemake train_dynet"):
        dynet_work.main()
