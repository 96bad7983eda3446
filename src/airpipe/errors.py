"""The one exception that users see without a traceback.

A message says what was found, what was expected and what to do next. The command
line and the scripts print it as it is and exit with status 2.
"""

import sys
from collections.abc import Callable


class AirpipeError(Exception):
    """Something that the user can mend: bad input, a bad setting, a full disk."""


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
