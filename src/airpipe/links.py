"""Links among files: followed where they lead somewhere, named where they are broken or lead in a circle."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path


def link_problem(path: Path) -> str:
    """Say why a link leads to no file or folder; "" for a good link, and for whatever is no link.

    Args:
        path: path of the link.
    """
    if not path.is_symlink():
        return ""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return f"a link in a circle, to {path.readlink()}. Remove it"
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return f"a broken link, to {path.readlink()}. Fetch what it stands for, or remove it"
        return f"a link that cannot be followed ({error.strerror}). Make its target readable, or remove it"
    return ""


def circle_problem(folder: Path) -> str:
    """Say that a link leads to a folder that it lies in itself; "" if it does not.

    Args:
        folder: path of the link, or of a folder that is none.
    """
    if not folder.is_symlink():
        return ""
    real = Path(os.path.realpath(folder))
    inside = Path(os.path.realpath(folder.parent)).is_relative_to(real)
    return f"a link in a circle, to the folder {real} that it lies in. Remove it" if inside else ""


def walk(root: str, failed: Callable[[OSError], None]) -> Iterator[tuple[str, str]]:
    """Yield every file below a folder, in order; links are followed.

    Args:
        root: the folder.
        failed: called with the error of every folder that cannot be listed.

    Returns:
        Pairs of a path relative to root and "", or of a broken or circular link and what is wrong with it.
    """
    for where, folders, names in os.walk(root, onerror=failed, followlinks=True):
        found = {name: link_problem(Path(where, name)) for name in names}
        circles = {name: circle_problem(Path(where, name)) for name in folders}
        folders[:] = sorted(name for name in folders if not circles[name])
        found |= {name: problem for name, problem in circles.items() if problem}
        for name in sorted(found):
            yield os.path.relpath(f"{where}/{name}", root), found[name]
