"""The embedded data set: photographs that ship inside packages which airpipe needs anyway.

A file is named "package:path below the package's folder"; nothing is downloaded or copied.
"""

from importlib.util import find_spec
from pathlib import Path

from airpipe.errors import AirpipeError


def locate(name: str) -> Path:
    """Find an embedded file in its installed package.

    Args:
        name: package and path, for example "skimage:data/astronaut.png".

    Raises:
        AirpipeError: the package is not installed or ships no such file.
    """
    package, colon, relative = name.partition(":")
    if not colon:
        raise AirpipeError(f"{name}: a file of a folder, but no folder was given (--root dataset=folder)")
    spec = find_spec(package)  # imports nothing
    if spec is None or spec.origin is None:
        raise AirpipeError(f"{name}: package {package} is not installed; run: make setup")
    path = Path(spec.origin).parent / relative
    if not path.is_file():
        raise AirpipeError(
            f"{name}: the installed {package} ships no such file (looked at {path}); "
            "install the version that constraints.txt names: make setup"
        )
    return path
