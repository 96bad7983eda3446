"""Folders and files that a configuration names, on this machine."""

import os
import re
from pathlib import Path

from airpipe.errors import AirpipeError
from airpipe.settings.base import shown


def expanded(root: str) -> str:
    """A folder with ~ and ${VARIABLES} replaced; variables that are not set stay as they are, to be shown."""
    return str(Path(os.path.expandvars(root)).expanduser())


def place(path: str, where: str) -> str:
    """A folder or file that is about to be used, with ~ and ${VARIABLES} replaced.

    Args:
        path: as the configuration has it.
        where: key of the configuration, for the message.

    Raises:
        AirpipeError: names the variables that are not set, or empty.
    """
    missing = [name for name in dict.fromkeys(re.findall(r"\$\{(\w+)\}", path)) if not os.environ.get(name)]
    if missing:
        raise AirpipeError(
            f"{where} is {shown(path)}, and the environment variable {' and '.join(missing)} is not set. "
            f"Set it ({missing[0]}=/folder snakemake ...), or write the path itself"
        )
    return expanded(path)
