"""What makes trainings fast: averages in one operation, compiled networks, and a word where bfloat16 is slow."""

import json
import os
import re
from copy import deepcopy
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from helpers import Stage, shipped, stage
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from airpipe.provenance import cpu_facts
from airpipe.registry import settings_class, stage_entry
from airpipe.settings.base import settings_hash
from airpipe.settings.freezing import frozen_stage
from airpipe.settings.project import load_project
from airpipe.training import precision
from airpipe.training.averages import MovingAverage
from airpipe.training.compiling import asks_to_compile
from benchmarks import cost, measuring

SHORT = {"phases": [{"steps": 3, "patch_size": 16, "batch_size": 4}, {"steps": 2, "patch_size": 24, "batch_size": 2}]}
ZEN = ("Zen", frozenset({"avx2", "fma"}))


# Averages


def test_a_moving_average_has_the_bits_of_torch_s_own_with_its_buffers_and_when_resumed():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))
    ours, theirs = MovingAverage(network, 0.9), AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for update in range(6):
        with torch.no_grad():
            for tensor in (*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())):
                tensor.add_(torch.randn_like(tensor))
        if update == 3:
            state = deepcopy(ours.state_dict())
            ours = MovingAverage(network, 0.9)
            ours.load_state_dict(state)
        ours.update_parameters(network)
        theirs.update_parameters(network)
        found, expected = ours.state_dict(), theirs.state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[key], expected[key]) for key in expected), update
    assert not torch.equal(found["module.0.weight"], network[0].weight)
    assert int(found["n_averaged"]) == 6


def test_without_a_limit_the_norm_of_gradients_is_measured_and_changes_nothing(tmp_path):
    runs = [Stage(tmp_path / str(limit), stage(**SHORT, clip_norm=limit)) for limit in (0, 1e9, 0.05)]
    for one in runs:
        one.run()
    none, wide, narrow = runs
    assert none.weights() == wide.weights() != narrow.weights()
    assert none.curves() == wide.curves() != narrow.curves()
    assert none.curves().count("grad_norm_net") == 5


# bfloat16


def test_the_flags_of_the_cpu_are_those_that_linux_tells_on_x86_and_arm(monkeypatch):
    for text, expected in (
        ("processor : 0\nmodel name\t: A: B\nflags\t\t: fpu avx2\n\nprocessor : 1\nmodel name\t: C\nflags : sse\n",
         ("A: B", {"fpu", "avx2"})),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", (os.uname().machine, {"fp", "asimd", "bf16"})),
        ("", (os.uname().machine, set())),
    ):  # fmt: skip
        monkeypatch.setattr(Path, "read_text", lambda *_, text=text, **__: text)
        assert cpu_facts() == expected
    monkeypatch.undo()
    with patch.object(Path, "read_text", side_effect=FileNotFoundError):
        assert cpu_facts() == (os.uname().machine, frozenset())


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bfloat16_is_told_where_the_cpu_has_no_instructions_for_it_and_nowhere_else(monkeypatch, flag):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(precision, "cpu_facts", lambda: ZEN)
    monkeypatch.setattr(precision, "bf16_factor", lambda: 8.25)
    assert precision.told_slow("bf16-mixed", cpu) == (
        "WARNING: precision bf16-mixed on a CPU without bfloat16 instructions (amx_bf16, avx512_bf16, bf16): a "
        "convolution takes 8.2 times as long as in float32 here. Train on a GPU, or set precision: 32-true"
    )
    assert precision.told_slow("32-true", cpu) == precision.told_slow("bf16-mixed", cuda) == ""
    monkeypatch.setattr(precision, "cpu_facts", lambda: ("Other", ZEN[1] | {flag}))
    assert precision.told_slow("bf16-mixed", cpu) == ""


def test_a_stage_is_told_once_at_its_start_and_the_probe_changes_no_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "cpu_facts", lambda: ("Other", precision.BF16_FLAGS))
    quiet = Stage(tmp_path / "quiet", stage(**SHORT, precision="bf16-mixed"))
    assert "WARNING" not in quiet.run().stdout
    monkeypatch.setattr(precision, "cpu_facts", lambda: ZEN)
    told = Stage(tmp_path / "told", stage(**SHORT, precision="bf16-mixed"))
    said = told.run().stdout
    factor = re.search(r"a convolution takes (\d+\.\d) times as long as in float32 here", said)
    assert factor and 0 < float(factor[1]) < 1000
    assert said.count("WARNING") == 1 and said.index("WARNING") < said.index("from step 0 of 5")
    assert told.weights() == quiet.weights()


def test_what_the_shipped_compute_trains_on_a_cpu_is_float32():
    values = shipped()
    on_cpu = [scale for scale, entry in values["compute"].items() if entry["default"]["gpu"] == 0]
    assert on_cpu == ["demo", "small"]
    seen = dict.fromkeys(on_cpu, 0)
    for scale in on_cpu:
        project = load_project({**values, "scale": scale})
        for method, entry in project.methods.items():
            for setting, plan in entry.settings.items():
                for name, one in plan.stages.items():
                    if scale in one.scales:
                        kind, revision = settings_class(one.task), stage_entry(one.task).revision
                        frozen = frozen_stage(project, f"{method}/{setting}", 0, name, kind, revision)
                        assert frozen.precision == "32-true", (scale, frozen.model_id)
                        seen[scale] += 1
    assert min(seen.values()) > 15


# Compiling


@pytest.fixture
def compiler(monkeypatch):
    """Lets tests choose what compiles in torch.compile's place; forgets graphs and variables afterwards."""
    real = torch.compile
    with patch.dict(os.environ):
        os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
        yield lambda backend: monkeypatch.setattr(torch, "compile", partial(real, backend=backend))
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def eager(tmp_path_factory):
    done = Stage(tmp_path_factory.mktemp("eager"), stage(**SHORT))
    done.run()
    return done


def card_of(done: Stage) -> dict:
    return json.loads((done.workdir / "card.json").read_text())


def test_a_compiled_stage_has_one_graph_for_each_size_and_files_beside_its_checkpoints(tmp_path, compiler, eager):
    sizes = []

    def backend(graph, inputs):
        sizes.append(next(tuple(i.shape) for i in inputs if i.ndim == 4 and i.shape[1] == 3 and not i.requires_grad))
        return graph.forward

    compiler(backend)
    done = Stage(tmp_path, stage(**SHORT, compile=True))
    said = done.run().stdout
    assert "on cpu, world 1, compiling, which takes minutes for each size\n" in said
    assert sizes == [(4, 3, 16, 16), (2, 3, 24, 24)]  # those of the phases, none of validation
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(done.workdir / "state" / "compiled")
    assert card_of(done)["compiled"] is True
    assert done.weights() == eager.weights()  # these graphs run the same operations
    assert "compiled" not in card_of(eager)


@pytest.mark.parametrize(("size", "step"), [(16, 1), (24, 4)])
def test_where_compiling_fails_one_line_says_so_and_the_numbers_are_those_of_networks_as_written(
    tmp_path, compiler, eager, size, step
):
    works = []

    def backend(graph, inputs):
        if not works and any(one.ndim == 4 and one.shape[-1] == size for one in inputs):
            raise RuntimeError("no working compiler\nfound here")
        return graph.forward

    compiler(backend)
    done = Stage(tmp_path, stage(**SHORT, compile=True))
    said = done.run("--checkpoint-seconds", "0.0001").stdout
    told = [line for line in said.splitlines() if "not compiled" in line]
    assert told == [
        f"not compiled from step {step} on, networks run as written: RuntimeError: no working compiler found here"
    ]
    assert card_of(done)["compiled"] is False
    assert (done.weights(), done.curves()) == (eager.weights(), eager.curves())
    works.append(True)  # a resumed run stays with what the first one came to
    (done.workdir / "model.safetensors").unlink()
    assert "compiling" not in done.run("--resume", str(done.workdir / "state" / "step_00000004.ckpt")).stdout
    assert card_of(done)["compiled"] is False and done.weights() == eager.weights()


def test_compile_enters_the_hash_where_it_is_asked_for_and_auto_means_a_gpu():
    plain = stage()
    assert settings_hash(stage(compile=False)) == settings_hash(plain)
    asked, auto = stage(compile=True), stage(compile="auto")
    assert len({settings_hash(one) for one in (plain, asked, auto)}) == 3
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    found = [[asks_to_compile(one, device) for device in (cpu, cuda)] for one in (plain, asked, auto)]
    assert found == [[False, False], [True, True], [False, True]]


# The benchmark


def test_before_and_after_compute_the_same_with_the_stated_differences():
    found = {one.name: cost.largest_difference(one.before(), one.after()) for one in cost.comparisons()}
    assert found.pop("restore") < 1e-6
    assert found.pop("lengths") < 1e-5 * 256  # of lengths of up to 256
    assert set(found.values()) == {0}
    equal = ["training step", "moving average", "collate", "feature analysis", "patch attention", "snow", "haze"]
    assert list(found) == equal


def test_the_benchmark_prints_both_ways_their_ratio_and_the_floor_and_names_the_machine(monkeypatch):
    haze = cost.comparisons()[-1]
    words = cost.row(haze, 1).split()
    before, after, ratio, floor, over = (float(word.rstrip("x")) for word in (*words[1:4], *words[5:7]))
    assert words[0] == "haze" and float(words[4]) == 0
    assert ratio == pytest.approx(before / after, abs=0.05)
    assert over == pytest.approx(after / floor, abs=0.05)
    monkeypatch.setattr(measuring, "cpu_facts", lambda: ZEN)
    flags, threads = "avx2 yes, avx512f no, avx512_bf16 no, amx_bf16 no", torch.get_num_threads()
    assert measuring.machine_line() == f"CPU: Zen; {flags}; {threads} thread(s), torch {torch.__version__}"
