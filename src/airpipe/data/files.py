"""Listing the image files of a folder by globs, without silent losses."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import translate
from functools import lru_cache
from pathlib import Path

from airpipe.errors import AirpipeError
from airpipe.settings.datasets import SplitSettings

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""Suffixes of images, in lower or upper case; other files (Thumbs.db, README, .mat) are never taken for images."""


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
        Paths relative to root, sorted, each once; and problems, one line each: links that lead out of
        the folder, names that are not UTF-8.

    Raises:
        AirpipeError: a folder cannot be read.
    """
    found: dict[str, str | None] = {}
    inside = os.path.realpath(root)
    for glob in globs:
        for path in _walk(str(root), "", glob.split("/")):
            if is_image(path) and path not in found:
                found[path] = _problem(inside, path)
    problems = [problem for _, problem in sorted(found.items()) if problem is not None]
    return sorted(path for path, problem in found.items() if problem is None), problems


def split_is_there(root: str, split: SplitSettings) -> bool:
    """Tell whether a folder holds images of a split, in any of its layouts; looks no further than the first ones."""
    return any(
        all(_any_image(root, globs) for globs in (layout.degraded, layout.clean) if globs) for layout in split.layouts
    )


def _any_image(root: str, globs: Sequence[str]) -> bool:
    return any(is_image(path) for glob in globs for path in _walk(root, "", glob.split("/")))


def _walk(root: str, folder: str, parts: Sequence[str]) -> Iterator[str]:
    pattern = _part(parts[0])
    place = f"{root}/{folder}"
    # not Path.glob, which passes over folders that cannot be read
    try:
        with os.scandir(place) as entries:
            chosen = [e for e in entries if pattern.match(e.name) and (len(parts) > 1) == e.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise AirpipeError(f"{place}: cannot be listed ({error.strerror}). Make the folder readable") from None
    for entry in chosen:
        path = f"{folder}{entry.name}"
        if len(parts) == 1:
            yield path
        else:
            yield from _walk(root, f"{path}/", parts[1:])


def _problem(inside: str, path: str) -> str | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"{os.fsencode(path)!r}: the name is not valid UTF-8. Rename the file"
    real = os.path.realpath(f"{inside}/{path}")
    if real != inside and not real.startswith(inside.rstrip("/") + "/"):
        return f"{path}: a link that leads out of the folder, to {real}. Copy the file, or set root to where it lies"
    return None
