"""The whole plan, and the small files in which it hands settings to scripts."""

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from airpipe.plan.lists import Lists
from airpipe.plan.models import Machine
from airpipe.registry import METHODS, runs_as, stages
from airpipe.settings.base import Settings, canonical_json, read_yaml, settings_hash
from airpipe.settings.degrading import Recipe
from airpipe.settings.merging import deep_merge
from airpipe.settings.project import check_compute, check_recognisers, load_project

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The fast YAML writer where PyYAML was built with it, else the slow one; both write the same."""
FILES = ("config", "datasets", "recipes", "protocols")
"""The project's own settings in config/, beside those of each method."""


class Plan(Lists):
    """All that a project asks for: models, data sets, tests, studies and lists."""

    def operations(self) -> dict[str, Recipe]:
        """All degradations by the key that names them, to be checked."""
        recognition = self.recognition_job(0).tests
        tests = {name: self.project.test(name) for name in self.project.tests}
        return {
            **{f"recipes.{name}": operations for name, operations in self.project.recipes.items()},
            **{f"tests.{name}": test.operations for name, test in tests.items()},
            **{f"tests.{name}, target": test.target_operations for name, test in tests.items()},
            **{f"features.classes.{name}": entry.operations for name, entry in self.features().classes.items()},
            "features.retrieval": self.project.retrieval().operations,
            **{f"recognition.tests.{name}": entry.operations for name, entry in recognition.items()},
        }

    @cached_property
    def _freezers(self) -> dict[str, Callable[[str], Settings]]:
        return {
            "tests": self.test_job,
            "splits": self.split_entry,
            "pairs": self.pairs_entry,
            "sources": self.source_entry,
            "made": self.made,
            "curation": self.curation_part,
            "studies": lambda name: self.project.retrieval() if name == "retrieval" else self.features(),
            "recognition": lambda seed: self.recognition_job(int(seed.removeprefix("seed"))),
        }

    @property
    def frozen_kinds(self) -> list[str]:
        """Kinds of settings that get a file."""
        return list(self._freezers)

    def frozen(self, kind: str, name: str) -> list[str]:
        """Lines of the file in which settings are handed to a script.

        Args:
            kind: one of `frozen_kinds`.
            name: name of the test, pair list, data set, study or seed ("seed0").
        """
        lines: list[str] = self._once((kind, name), lambda: frozen_lines(self._freezers[kind](name)))
        return lines

    def frozen_stage(self, model: str) -> list[str]:
        """Lines of the config.yaml of a stage."""
        lines: list[str] = self._once(("config", model), lambda: frozen_lines(self.stage_settings(model)))
        return lines


def configuration(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the project's own files of settings, and over them what a run was given.

    Args:
        folder: the project's config/.
        given: what Snakemake merged of `--configfile` and `--config`.

    Raises:
        AirpipeError: a file is missing or cannot be read.
    """
    merged = dict[str, Any]()
    for name in (*FILES, *(f"methods/{method}" for method in METHODS)):
        merged = deep_merge(merged, read_yaml(folder / f"{name}.yaml", ours=True))
    return deep_merge(merged, given)


def load_plan(config: Mapping[str, Any], machine: Machine | None = None) -> Plan:
    """Validate the merged configuration (see `configuration`), and what it says of registered stages.

    Raises:
        AirpipeError: one line per problem.
    """
    plan = Plan(load_project(config), machine or Machine())
    check_compute(plan.project, [*dict.fromkeys(map(runs_as, stages())), "evaluate"])
    check_recognisers(plan.project, [task for task, entry in stages().items() if entry.recognises])
    return plan


def frozen_lines(settings: Settings) -> list[str]:
    """Settings as lines of YAML, under a line with their hash; mappings are sorted by their keys."""
    values = json.loads(canonical_json(settings))
    plain = type(settings).model_validate(values).model_dump(mode="json", exclude_none=True)
    text = yaml.dump(plain, Dumper=DUMPER, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
    return [f"# frozen by airpipe; settings hash {settings_hash(settings)}", *text.rstrip("\n").split("\n")]
