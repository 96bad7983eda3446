"""A model is scored on the tests of a table in one go, and again only where its scores no longer fit."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, one_thread, toy_list
from test_protocol import SHIPPED, noise_test
from test_variants import DEEP, ID, SHALLOW, TwoDepths

from airpipe import registry
from airpipe.data.pairs import PairList
from airpipe.errors import AirpipeError
from airpipe.evaluation import candidates, scoring
from airpipe.evaluation.candidates import Model
from airpipe.evaluation.indexes import scores_of
from airpipe.evaluation.scoring import Candidate, score_tests
from airpipe.provenance import write_json
from airpipe.settings.base import canonical_json
from airpipe.settings.scoring import TestJob
from airpipe.weights.checkpoints import save_model

TESTS = ("noise15", "noise25", "noise50")
ALL_NEW, ALL_REUSED = dict.fromkeys(TESTS, "new"), dict.fromkeys(TESTS, "reused")
CHANGED = "test, protocol, list or model changed"


def job(name: str, shipped: dict = SHIPPED, **change) -> TestJob:
    test = noise_test(float(name.removeprefix("noise")), **{"protocols": ("airpipe",), "keep_images": 2, **change})
    return TestJob(name=name, test=test, protocols={key: shipped[key] for key in test.protocols})


JOBS = [job(name) for name in TESTS]


class Bench:
    """A model, or none, and a list of five images that it is scored on."""

    def __init__(self, folder: Path, said, model: str = "none", file: Path | None = None) -> None:
        self.folder, self.said, self.model, self.file = folder, said, model, file
        self.list, self.results = toy_list(folder), folder / "results"
        self.index = self.results / f"evaluated/mine/{model}.json"

    def candidate(self) -> Candidate:
        kind = Model if self.file else Candidate
        return kind(self.model, self.file, self.results / "scores" / self.model, self.pictures)

    @property
    def pictures(self) -> Path:
        return self.results / "restored" / self.model

    def score(self, *jobs: TestJob) -> dict[str, str]:
        """Score the tests, write the index, and return for each why it was scored, or "reused"."""
        self.said.readouterr()
        tests = score_tests(self.candidate(), jobs or JOBS, {"toy.test": PairList(self.list, self.folder / "images")})
        write_json(self.index, {"table": "mine", "model": self.model, "tests": tests})
        said = self.said.readouterr().out
        found = dict(re.findall(r"^(\w+): (?:reused|scored .* \((.*)\))$", said, re.MULTILINE))
        return {name: reason or "reused" for name, reason in found.items()}

    def scores(self, name: str) -> Path:
        return self.candidate().scores / f"{name}.csv"


@pytest.fixture
def none(tmp_path, capsys):
    return Bench(tmp_path, capsys)


@pytest.fixture
def network(tmp_path, capsys, monkeypatch):
    """A network with the variants s and l."""
    known = registry.networks() | {"two_depths": "test_variants:TwoDepths"}
    monkeypatch.setattr(registry, "networks", lambda: known)
    save(tmp_path / "results" / ID, seed=0)
    return Bench(tmp_path, capsys, ID, tmp_path / "results" / ID / "model.safetensors")


def save(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    card = {"network": {"name": "two_depths", "arguments": DEEP}, "variants": {"s": SHALLOW}, "scale": "demo"}
    save_model(folder, TwoDepths(**DEEP), card)


# What is scored again


def test_all_tests_are_scored_once_and_then_reused(none):
    assert none.score() == ALL_NEW
    before = none.scores("noise25").stat().st_mtime_ns, none.index.read_bytes()
    assert none.score() == ALL_REUSED
    assert (none.scores("noise25").stat().st_mtime_ns, none.index.read_bytes()) == before
    frame = pd.read_csv(none.scores("noise25"))
    assert frame.groupby("metric").size().to_dict() == {"psnr": 5, "ssim": 5}
    psnr = frame[frame["metric"] == "psnr"]["value"].mean()
    assert psnr == pytest.approx(20 * np.log10(255 / 25), abs=0.1)


def test_another_test_is_scored_alone_and_another_table_takes_what_is_there(none):
    assert none.score(*JOBS[:2]) == {"noise15": "new", "noise25": "new"}
    assert none.score(*JOBS[1:]) == {"noise25": "reused", "noise50": "new"}
    assert list(json.loads(none.index.read_text())["tests"]) == ["noise25", "noise50"]


@pytest.mark.parametrize(
    "changed",
    [
        job("noise25", seed=1),
        job("noise25", tile=40),
        job("noise25", keep_images=1),
        job("noise25", {"airpipe": SHIPPED["airpipe"].model_copy(update={"border": 4})}),
        job("noise25", protocols=("airpipe", "dcpt")),
        job("noise25").model_copy(update={"revision": 99}),
    ],
    ids=["seed", "tile", "pictures", "protocol", "protocols", "revision"],
)
def test_a_changed_test_or_protocol_scores_that_test_only(none, changed):
    none.score()
    assert none.score(JOBS[0], changed, JOBS[2]) == {**ALL_REUSED, "noise25": CHANGED}


def test_fewer_kept_pictures_leave_no_old_ones_behind(none):
    none.score(JOBS[0])
    assert len(list((none.pictures / "noise15").iterdir())) == 4  # two images, each with its clean one
    none.score(job("noise15", keep_images=1))
    assert sorted(path.name for path in (none.pictures / "noise15").iterdir()) == ["img0.png", "img0_clean.png"]


def test_another_pair_list_scores_all_of_its_tests(none):
    none.score()
    none.list.write_text("".join(none.list.read_text().splitlines(keepends=True)[:-1]))
    assert none.score() == dict.fromkeys(TESTS, CHANGED)
    assert json.loads(none.index.read_text())["tests"]["noise15"]["images"] == 4


def test_other_weights_score_all_tests_and_a_variant_has_scores_of_its_own(network):
    assert network.score() == ALL_NEW and network.score() == ALL_REUSED
    small = Bench(network.folder, network.said, f"{ID}@s", network.file)
    assert small.score() == ALL_NEW
    assert small.scores("noise25").read_bytes() != network.scores("noise25").read_bytes()
    save(network.file.parent, seed=1)
    assert network.score() == dict.fromkeys(TESTS, CHANGED)


def test_machines_change_no_score(network):
    network.score()
    other = Model(ID, network.file, network.candidate().scores, network.pictures, device="cuda:7")
    score_tests(other, JOBS, {"toy.test": PairList(network.list, network.folder / "images")})
    assert network.said.readouterr().out.count("reused") == 3


def test_a_network_is_loaded_once_whatever_the_tiles_and_not_at_all_for_what_fits(network, monkeypatch):
    loads, tiles = [], []
    load, make = candidates.load_model, candidates.network_restorer
    monkeypatch.setattr(candidates, "load_model", lambda *given: loads.append(given) or load(*given))
    monkeypatch.setattr(candidates, "network_restorer", lambda net, at, tile: tiles.append(tile) or make(net, at, tile))
    network.score(JOBS[0], job("noise25", tile=40))
    assert (len(loads), tiles) == (1, [0, 40])
    network.score(JOBS[0], job("noise25", tile=40))
    assert (len(loads), tiles) == (1, [0, 40])


# What users and accidents do to files


def test_an_edited_score_file_is_scored_again(none):
    none.score()
    before = none.scores("noise25").read_text()
    none.scores("noise25").write_text(before.replace("20.", "40."))
    assert none.score() == {**ALL_REUSED, "noise25": "the score file was edited"}
    assert none.scores("noise25").read_text() == before


@pytest.mark.parametrize(
    ("victim", "reason"),
    [
        ("scores/none/noise25.csv", "new"),
        ("scores/none/noise25.json", "new"),
        ("restored/none/noise25/img1.png", "pictures are missing"),
        ("restored/none/noise25/img0_clean.png", "pictures are missing"),
    ],
)
def test_a_missing_file_of_a_test_scores_that_test_again(none, victim, reason):
    none.score()
    before = (none.results / victim).read_bytes()
    (none.results / victim).unlink()
    assert none.score() == {**ALL_REUSED, "noise25": reason}
    if not victim.endswith(".json"):  # which tells how long it took
        assert (none.results / victim).read_bytes() == before


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"identity": 1}'])
def test_a_record_that_is_none_scores_its_test_again(none, record):
    none.score(JOBS[0])
    none.scores("noise15").with_suffix(".json").write_text(record)
    assert none.score(JOBS[0])["noise15"] in ("its record does not fit", CHANGED)


def test_a_job_killed_between_two_tests_goes_on_with_the_second(none, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "evaluate", dies_at("noise25", scoring.evaluate))
        with pytest.raises(KeyboardInterrupt):
            none.score()
    assert none.score() == {"noise15": "reused", "noise25": "new", "noise50": "new"}


def test_a_job_killed_while_it_redoes_a_test_leaves_no_mixture(none, monkeypatch):
    """Back at the old settings, pictures of the new ones must not stand beside the old scores."""
    none.score()
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "evaluate", dies_at("noise25", scoring.evaluate))
        with pytest.raises(KeyboardInterrupt):
            none.score(JOBS[0], job("noise25", seed=1), JOBS[2])
    assert none.score() == {**ALL_REUSED, "noise25": "new"}


def dies_at(name: str, evaluate):
    """An evaluation that is interrupted in a test."""

    def dying(*given, **more):
        if given[-1] == f"scoring {name}":
            raise KeyboardInterrupt
        return evaluate(*given, **more)

    return dying


def test_a_test_that_another_process_scores_comes_last_and_a_killed_one_holds_nothing(none, monkeypatch):
    guard = none.candidate().scores / ".noise15.lock"
    guard.parent.mkdir(parents=True)
    code = "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f,fcntl.LOCK_EX); print(1,flush=True); input()"
    command = [sys.executable, "-c", code, str(guard)]
    evaluate, order = scoring.evaluate, []

    def evaluating(*given, **more):
        order.append(given[-1].removeprefix("scoring "))
        if order[-1] == "noise50":
            other.kill()
        return evaluate(*given, **more)

    monkeypatch.setattr(scoring, "evaluate", evaluating)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=one_thread()) as other:
        other.stdout.readline()
        tests = score_tests(none.candidate(), JOBS, {"toy.test": PairList(none.list, none.folder / "images")})
    assert order == ["noise25", "noise50", "noise15"] and list(tests) == list(TESTS)
    assert "noise15: being scored elsewhere; waiting for it after the others" in none.said.readouterr().out


# Bad input


def test_a_network_without_finite_numbers_is_told_and_leaves_nothing(network):
    torch.manual_seed(0)
    broken = TwoDepths(**DEEP)
    broken.tail.bias.data.fill_(float("nan"))
    card = json.loads(network.file.with_name("card.json").read_text())
    save_model(network.file.parent, broken, card)
    with pytest.raises(AirpipeError, match="the network gave values that are not finite"):
        network.score()
    assert not network.scores("noise15").exists() and not network.scores("noise15").with_suffix(".json").exists()


def test_a_test_without_its_list_is_told(none):
    with pytest.raises(AirpipeError, match=r"no file of pair list toy.test; found other.test"):
        score_tests(none.candidate(), JOBS, {"other.test": PairList(none.list)})


# Readers


def test_an_index_leads_to_its_scores_in_the_order_of_the_tests(none, network):
    none.score()
    network.score(JOBS[2], JOBS[0])
    found = scores_of([none.index, network.index, none.index])
    assert found == [*map(none.scores, TESTS), network.scores("noise50"), network.scores("noise15")]


@pytest.mark.parametrize("damage", ["edited", "deleted"])
def test_a_reader_notices_scores_that_are_not_those_of_the_index(none, damage):
    none.score()
    scores = none.scores("noise25")
    scores.write_text(scores.read_text().replace("20.", "40.")) if damage == "edited" else scores.unlink()
    state = {"edited": "has other bytes than the scores that", "deleted": "is missing, with the scores that"}[damage]
    told = re.escape(f"{scores}: {state} {none.index} names. Run `snakemake --force {none.index}`")
    with pytest.raises(AirpipeError, match=told):
        scores_of([none.index])
    none.score()
    assert scores_of([none.index]) == [*map(none.scores, TESTS)]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"tests": {"a": {}}}'])
def test_a_reader_is_told_what_is_no_index(tmp_path, text):
    index = tmp_path / "none.json"
    index.write_text(text)
    with pytest.raises(AirpipeError, match=re.escape(f"{index}: not an index of scores")):
        scores_of([index])


def test_reading_an_index_needs_no_torch():
    code = "import sys; import airpipe.evaluation.indexes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=one_thread()).returncode == 0


def test_scoring_no_restoration_needs_no_torch(none):
    frozen, listed = none.folder / "noise25.yaml", none.folder / "toy.test.csv"
    frozen.write_text(canonical_json(JOBS[1]))
    for end in (".csv", ".json"):
        shutil.copy(none.list.with_suffix(end), listed.with_suffix(end))
    words = ["none", "--table", "mine", "--model", "--tests", frozen, "--pairs", listed]
    words += ["--root", f"toy={none.folder / 'images'}", "--scores", none.folder / "s", "--restored", none.folder / "r"]
    code = """
import runpy, sys
try:
    runpy.run_path("scripts/evaluate.py", run_name="__main__")
except SystemExit as end:
    sys.exit(end.code or 3 * ("torch" in sys.modules))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        [*command, *map(str, [*words, "--index", none.folder / "i.json"])], cwd=ROOT, env=one_thread(),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    none.score(JOBS[1])
    assert (none.folder / "s/noise25.csv").read_bytes() == none.scores("noise25").read_bytes()
