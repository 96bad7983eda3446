"""What the documents and pins say is so."""

import importlib.metadata
import platform
import re
import subprocess
import sys

import pytest
import yaml
from helpers import ROOT
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from airpipe.registry import METHODS, method

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "config/README.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))),
]


def pins(python: str = "3.11") -> dict[str, str]:
    """Versions that constraints.txt gives to one version of Python on Linux."""
    here = platform.python_version()
    full = here if here.startswith(f"{python}.") else f"{python}.0"
    where = {"python_version": python, "python_full_version": full, "sys_platform": "linux"}
    wanted = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    chosen = [r for r in wanted if r.marker is None or r.marker.evaluate({**default_environment(), **where})]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in chosen}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_of_the_project_exist(document):
    text = (ROOT / document).read_text()
    named = re.findall(r"`((?:src|config|workflow|scripts|tests|envs|slurm)/[\w./-]+\.\w+)`", text)
    invented = {name for name in named if "edge" in name}  # CONTRIBUTING's worked example
    assert [name for name in named if name not in invented and not (ROOT / name).exists()] == []


def test_make_targets_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test", "clean"} <= named
    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_make_quotes_the_checkout_where_its_path_has_a_space(tmp_path):
    folder = tmp_path / "a b"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (folder / name).write_text((ROOT / name).read_text())
    command = ["make", "--no-print-directory", "-n", "setup"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert said.count(str(folder)) == said.count(f'"{folder}/.venv"') == 1


def test_snakemake_targets_and_commands_that_the_readme_names_exist():
    readme = (ROOT / "README.md").read_text()
    for command in set(re.findall(r"`airpipe (\w+)", readme)):
        done = subprocess.run(
            [sys.executable, "-m", "airpipe.cli.main", command, "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0, command
    assert "snakemake results/tables/allinone.csv" in readme
    assert "snakemake --profile slurm all" in readme


def test_the_first_screen_has_a_picture_and_the_two_commands_with_durations():
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:20])
    assert re.search(r"!\[[^\]]+\]\((docs/[\w.]+)\)", screen)
    assert "make demo" in screen
    assert "make test" in screen
    assert len(re.findall(r"\d+\s*(?:s|seconds|minutes|min)\b", screen)) >= 2


def test_installed_versions_are_those_of_the_lock():
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    locked = pins(f"{sys.version_info.major}.{sys.version_info.minor}")
    wrong = {n: (v, locked[n]) for n, v in installed.items() if n in locked and v.split("+")[0] != locked[n]}
    assert wrong == {}


@pytest.mark.parametrize("environment", ["train", "report"])
def test_conda_environments_pin_what_the_lock_pins(environment):
    text = yaml.safe_load((ROOT / "envs" / f"{environment}.yaml").read_text())
    listed = dict(package.split("==") for package in text["dependencies"][-1]["pip"])
    assert listed == {name: pins()[name] for name in listed}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_its_doors_of_one_name(name):
    assert (ROOT / "src" / "airpipe" / "methods" / name / "__init__.py").is_file()
    assert list(yaml.safe_load((ROOT / "config" / "methods" / f"{name}.yaml").read_text())["methods"]) == [name]
    assert (ROOT / "docs" / "methods" / f"{name}.md").read_text().startswith(f"# {method(name).title}: ")
    assert list((ROOT / "tests").glob(f"test_{name}*.py"))


def test_no_file_names_a_folder_of_some_machine():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = [f for f in files if f.endswith((".py", ".smk", ".md", ".yaml", ".yml", ".toml", ".sh", ".j2", ".cfg"))]
    pattern = re.compile(r"/(?:home|root|work|Users)/\w")
    assert [f for f in texts if pattern.search((ROOT / f).read_text(encoding="utf-8"))] == []
