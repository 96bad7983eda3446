"""A paper lives in one folder: what generic rooms know of a method, it says of itself."""

import re
import subprocess
import sys
from collections import Counter
from inspect import signature

import pytest
from helpers import ROOT, one_thread

from airpipe.registry import (
    METHODS,
    assemblies,
    assembling_function,
    family,
    method,
    network_class,
    networks,
    stage_at,
    stage_folder,
    stages,
)

SOURCES = ROOT / "src" / "airpipe"
THE_LIST = "METHODS = ("
ORDINARY_WORDS = ("edge",)
"""Names of methods that comments use as plain English, too: only code counts. It is CONTRIBUTING.md's example."""


def names_of(method: str) -> re.Pattern[str]:
    """How lines name a method: anywhere in the line, or as a string, a path or a part of an identifier."""
    word = rf"(?<![a-z]){method}(?=[./][a-z{{]|[_\"'])|(?<=[./_\"']){method}(?![a-z])"
    return re.compile(word if method in ORDINARY_WORDS else method)


@pytest.mark.parametrize("name", METHODS)
def test_no_room_outside_the_methods_names_one(name):
    rooms = [path for path in SOURCES.rglob("*") if path.suffix in (".py", ".j2")]
    rooms = [path for path in rooms if not path.is_relative_to(SOURCES / "methods")]
    rules = [path for path in (ROOT / "workflow/rules").glob("*.smk") if path.stem not in METHODS]
    rooms += [*(ROOT / "scripts").glob("*.py"), ROOT / "workflow/Snakefile", *rules]
    assert len(rooms) > 100
    named = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in rooms
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if names_of(name).search(line) and not (path.name == "registry.py" and line.startswith(THE_LIST))
    ]
    assert named == [], f"write it without {name}, or ask METHOD in methods/{name}/__init__.py"


@pytest.mark.parametrize(
    "line", ['if method == "edge":', "results/edge/x", "airpipe.methods.edge", "edge.train", "edge_loss"]
)
def test_code_that_names_a_method_of_an_ordinary_name_is_found(line):
    assert names_of("edge").search(line)


def test_prose_may_use_an_ordinary_name():
    lines = ["the tile's edge.", "soft edges", "edge-aware", "edgecolor", 'upper edge."""', "knowledge_base"]
    assert not any(names_of("edge").search(line) for line in lines)


def test_the_list_of_methods_is_one_line():
    lines = (SOURCES / "registry.py").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(THE_LIST)]
    assert [word.strip('", ()') for word in line.removeprefix("METHODS = ").split()] == list(METHODS)


def test_every_folder_of_a_method_is_listed():
    folders = {path.parent.name for path in (SOURCES / "methods").glob("*/__init__.py")}
    assert folders == set(METHODS)


def test_what_methods_say_of_themselves_needs_no_torch():
    code = (
        "import sys; from airpipe.registry import METHODS, method, settings_class, stages; "
        "[method(name) for name in METHODS]; [settings_class(name) for name in stages()]; "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=one_thread())
    assert done.returncode == 0, done.stderr


TRAINED = {"train", "measure_cost", "probe_features", "recognise", "retrieve_degradations", "show_stages"}
"""Scripts that run networks; evaluate imports torch for a model, restore and import_weights when they begin to work."""


def test_scripts_that_run_no_network_import_no_torch():
    names = sorted({path.stem for path in (ROOT / "scripts").glob("*.py")} - TRAINED)
    code = """
import ast, pathlib, sys
for name in sys.argv[1:]:
    parsed = ast.parse(pathlib.Path(f"scripts/{name}.py").read_text())
    parsed.body = [line for line in parsed.body if isinstance(line, ast.Import | ast.ImportFrom)]
    exec(compile(parsed, name, "exec"), {})
    assert "torch" not in sys.modules, f"scripts/{name}.py imports torch"
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, env=one_thread(), cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert {"evaluate", "make_tables", "pack_dataset"} < set(names)


def test_what_methods_say_leads_somewhere():
    for name in METHODS:
        for of, fork in method(name).forks.items():
            assert family(fork) == of and {of, fork} <= networks().keys()
    for name in assemblies():
        assert list(signature(assembling_function(name)).parameters) == ["file", "parts", "options"]
    for name in networks():
        network = network_class(name)
        assert set(network.assumed) <= signature(network).parameters.keys(), name


def test_roles_of_published_files_belong_to_one_method_each():
    roles = Counter(role for assembly in assemblies().values() for role in assembly.roles)
    assert max(roles.values()) == 1


def test_one_method_is_the_control():
    assert sum(method(name).control for name in METHODS) == 1


@pytest.mark.parametrize("task", stages())
def test_a_stage_is_found_by_its_folder(task):
    name = task.split(".")[0]
    folder = stage_folder(task).format(which="b", degradation="haze")
    found = stage_at(name, folder)
    assert found is not None
    entry, wildcards = found
    assert stage_folder(f"{name}.{entry_name(name, entry)}").format(**wildcards) == folder
    assert stage_at(name, f"{folder}/x") is None


def entry_name(name: str, entry) -> str:
    """Under which name a method registers a stage."""
    return next(stage for stage, known in method(name).stages.items() if known is entry)
