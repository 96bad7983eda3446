"""Wrong values in the configuration: each is taken, or refused in short lines that are no traceback."""

import datetime
import random
import re
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

from helpers import shipped
from redoing import jobs

from airpipe.degradations.recipes import check_operations
from airpipe.errors import AirpipeError
from airpipe.plan import Machine, load_plan

from . import Outcome

COUNT = 1000
LONGEST = 1000
"""Characters of the longest line that a message may have, names of all valid choices left out."""
DEEP = 2000


def nested(kind: type) -> Any:
    """A list or mapping of `DEEP` levels."""
    value: Any = "bottom"
    for _ in range(DEEP):
        value = [value] if kind is list else {"a": value}
    return value


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 3, 10**30, 0.5, -2.5, float("nan"), float("inf")),
    *("", " ", "a/b", "noise", "photos.train", "a" * 10_000, "äöü\n\x00|", "{seed}", "${HOME}", "../../etc"),
    *([], [None], ["a", "a"], ["noise", "rain"], [[1]], [{"pairs": 3}], [0, 0], ["a" * 10_000]),
    *({}, {"a": None}, {"name": ["nafnet"]}, {"a": {"b": [1, {}]}}, {"like": "a"}, {"": ""}, {3: 4}),
    *(datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1, 12), b"bytes", {"a set"}),
)
NESTED = (list, dict)


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Change one or two places of the shipped configuration in each try, and plan everything."""
    del folder
    base, outcome = shipped(), Outcome()
    for number in range(count):
        generator = random.Random(f"{seed} {number}")
        changed, said = deepcopy(base), []
        for _ in range(generator.choice((1, 1, 2))):
            said.append(change(changed, generator))
        begin = time.monotonic()
        how, fault = judge(changed)
        outcome.add(f"try {number}, {'; '.join(said)}", how, fault, time.monotonic() - begin)
    return outcome


def change(config: dict, generator: random.Random) -> str:
    """Replace, wrap, rename or take away one value at random; what was done, in words."""
    holder, key, path = pick(config, generator)
    how = generator.choice(("replace",) * 6 + ("wrap", "rename", "drop"))
    value = generator.choice(VALUES)
    if how == "replace" and generator.random() < 0.05:
        holder[key], value = nested(generator.choice(NESTED)), f"{DEEP} levels"
    elif how == "replace":
        holder[key] = deepcopy(value)
    elif how == "wrap":
        holder[key], value = [holder[key]], ""
    elif how == "rename" and isinstance(holder, dict):
        holder[f"{key}x"], value = holder.pop(key), ""
    else:
        del holder[key]
    return f"{how} {path} {str(value)[:30]!r}"


def pick(config: dict, generator: random.Random) -> tuple[Any, Any, str]:
    """A place in a tree: the mapping or list that holds it, its key, and its path."""
    holder, path = config, []
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = generator.choice(keys)
        path.append(str(key))
        below = holder[key]
        if not isinstance(below, dict | list) or not below or generator.random() < 0.15:
            return holder, key, ".".join(path)
        holder = below


def judge(config: dict) -> tuple[str, str]:
    """How a configuration ends, and the fault where that is one."""
    try:
        plan_all(config)
    except (AirpipeError, ValueError) as error:
        if isinstance(error, ValueError) and type(error) is not ValueError:
            return "", f"{type(error).__name__}: {str(error)[:300]!r}"
        shown = re.sub(r"Valid: .*", "", str(error))
        if not shown.strip() or max(map(len, shown.splitlines())) > LONGEST:
            return "", f"a message of {len(shown)} characters: {shown[:200]!r}"
        return "refused", ""
    except Exception as error:  # what a user would see as a traceback: counted, that is the campaign
        return "", f"{type(error).__name__}: {str(error)[:300]!r}"
    return "taken", ""


def plan_all(config: dict) -> None:
    """Ask of a plan what Snakemake's rules ask."""
    plan = load_plan(config, Machine(model=lambda _: True, split=lambda *_: False))
    for where, operations in plan.operations().items():
        check_operations(operations, where)
    jobs(plan)
    for task in ("evaluate", "baseline.train"):
        plan.project.compute_for(task)
