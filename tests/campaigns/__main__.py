"""Run one campaign and print its counts; the status is 1 where it found a fault."""

import argparse
import importlib
import pkgutil
import sys
import tempfile
import time
from pathlib import Path

from . import __doc__ as TITLE
from . import __path__ as PATHS

SHOWN = 20
"""Faults that are printed."""


def main() -> int:
    kinds = [module.name for module in pkgutil.iter_modules(PATHS) if not module.name.startswith("_")]
    parser = argparse.ArgumentParser("python -m tests.campaigns", description=TITLE.splitlines()[0])
    parser.add_argument("kind", choices=kinds, nargs="?", help="left out: the kinds are listed")
    parser.add_argument("--count", type=int, help="number of tries; left out: that of the kind")
    parser.add_argument("--seed", type=int, default=0, help="of the tries (default: 0)")
    given = parser.parse_args()
    modules = {kind: importlib.import_module(f"{__package__}.{kind}") for kind in kinds}
    if given.kind is None:
        for kind, module in modules.items():
            print(f"{kind:<16} {module.COUNT:>6,}  {module.__doc__.splitlines()[0]}")
        return 0
    module, begin = modules[given.kind], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="airpipe-campaign-") as folder:
        outcome = module.run(module.COUNT if given.count is None else given.count, given.seed, Path(folder))
    for fault in outcome.faults[:SHOWN]:
        print(f"fault: {fault}")
    print(f"{given.kind}, seed {given.seed}: {outcome}, in {time.monotonic() - begin:.0f} s")
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
