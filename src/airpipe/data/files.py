"""Listing the image files of a folder by globs, without silent losses."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import translate
from functools import lru_cache
from pathlib import Path

from airpipe.errors import AirpipeError
from airpipe.links import circle_problem, link_problem
from airpipe.settings.datasets import SplitSettings

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""Suffixes of images, in lower or upper case; other files (Thumbs.db, README, .mat) are never taken for images."""

FETCHED = ".fetched.json"
"""End of the name of the file beside a folder that says that it was fetched and unpacked here."""


@lru_cache(maxsize=1024)
def _part(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def matching(paths: Iterable[str], globs: Sequence[str]) -> list[str]:
    """Choose the image files among `paths` that one of the globs names, in order; * stays within a folder."""
    patterns = [[_part(part) for part in glob.split("/")] for glob in globs]
    return [path for path in paths if is_image(path) and any(_fits(path.split("/"), p) for p in patterns)]


def _fits(parts: Sequence[str], patterns: Sequence[re.Pattern[str]]) -> bool:
    return len(parts) == len(patterns) and all(
        pattern.match(part) for part, pattern in zip(parts, patterns, strict=True)
    )


def is_image(path: str) -> bool:
    """Tell whether a suffix is that of an image; the attachments that macOS puts into archives (._1.png) are none."""
    return path.lower().endswith(SUFFIXES) and not path.rpartition("/")[2].startswith("._")


def list_images(root: Path, globs: Sequence[str]) -> tuple[list[str], list[str]]:
    """List the image files below a folder.

    Args:
        root: the folder.
        globs: patterns of paths relative to the folder, see `matching`.

    Returns:
        Paths relative to root, sorted, each once; and problems, one line each: links to folders that are broken or
        lead in a circle, names that are not UTF-8, and links that lead out of a folder that was unpacked here. Other
        links are followed; a path names the link.

    Raises:
        AirpipeError: a folder cannot be read.
    """
    found: dict[str, str | None] = {}
    unpacked = os.path.realpath(root) if root.with_name(f"{root.name}{FETCHED}").is_file() else None
    for glob in globs:
        for path, problem in _walk(str(root), "", glob.split("/")):
            if problem:
                found[path] = f"{path}: {problem}"
            elif is_image(path) and path not in found:
                found[path] = _problem(unpacked, path)
    problems = [problem for _, problem in sorted(found.items()) if problem is not None]
    return sorted(path for path, problem in found.items() if problem is None), problems


def split_is_there(root: str, split: SplitSettings) -> bool:
    """Tell whether a folder holds images of a split, in any of its layouts; looks no further than the first ones."""
    return any(
        all(_any_image(root, globs) for globs in (layout.degraded, layout.clean) if globs) for layout in split.layouts
    )


def _any_image(root: str, globs: Sequence[str]) -> bool:
    found = (path for glob in globs for path, problem in _walk(root, "", glob.split("/")) if not problem)
    return any(map(is_image, found))


def _walk(root: str, folder: str, parts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what fits a glob, each with "", and links on the way that lead nowhere, each with what is wrong."""
    pattern = _part(parts[0])
    place = f"{root}/{folder}"
    # not Path.glob, which passes over folders that cannot be read
    try:
        with os.scandir(place) as entries:
            chosen = [(entry.name, _is_folder(entry)) for entry in entries if pattern.match(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise AirpipeError(f"{place}: cannot be listed ({error.strerror}). Make the folder readable") from None
    for name, is_folder in chosen:
        path = f"{folder}{name}"
        if len(parts) == 1 and not is_folder:
            yield path, ""  # also a link that leads nowhere: reading it says so, unless it is left out
        elif len(parts) > 1:
            problem = (circle_problem if is_folder else link_problem)(Path(place, name))
            if problem:
                yield path, problem
            elif is_folder:
                yield from _walk(root, f"{path}/", parts[1:])


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _problem(unpacked: str | None, path: str) -> str | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"{os.fsencode(path)!r}: the name is not valid UTF-8. Rename the file"
    if unpacked is None:
        return None
    real = os.path.realpath(f"{unpacked}/{path}")
    if real != unpacked and not real.startswith(unpacked.rstrip("/") + "/"):
        return f"{path}: a link that leads out of the folder, to {real}. Copy the file, or set root to where it lies"
    return None
