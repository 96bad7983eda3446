"""The one exception that users see without a traceback.

A message says what was found, what was expected and what to do next. The command
line and the scripts print it as it is and exit with status 2.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any


class AirpipeError(Exception):
    """Something that the user can mend: bad input, a bad setting, a full disk."""


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an exception says that there is too little memory; torch says it by a RuntimeError."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error))


def run_main(main: Callable[[], int | None]) -> None:
    """Run a script's main function and leave with its exit status.

    An `AirpipeError` is printed on one line and ends with status 2; any other
    exception is a defect of airpipe and keeps its traceback.
    """
    try:
        sys.exit(main() or 0)
    except AirpipeError as error:
        print(f"airpipe: error: {error}", file=sys.stderr)
        sys.exit(2)


def run_rules(snakemake: Any, rules: dict[str, Callable[[Any], None]]) -> None:
    """Run what a `script:` rule of Snakemake asks for; all that it says goes to the rule's log.

    Args:
        snakemake: the object that Snakemake gives its scripts.
        rules: function of that object for each rule that runs this script.
    """
    handle = os.open(snakemake.log[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    run_main(lambda: rules[snakemake.rule](snakemake))
