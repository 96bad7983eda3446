"""Windows: sub-images of large images, as published training sets are cut, without a copy of any file.

A window is a row of a pair list that names the files of its image and its place in them. What is loaded is a view
into the decoded image, which comes from a file or from a pack.

Source of the rule: BasicSR's `extract_subimages.py`, of which DegAE has a copy (480, step 240, rest 48). Restormer's
`generate_patches_*.py` place the same windows as `rest: 0`; their overlap is size - step, their `p_max` is `whole`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from airpipe.errors import AirpipeError
from airpipe.settings.datasets import Cut


class Window(NamedTuple):
    """A rectangle of pixels in an image."""

    width: int
    height: int
    left: int
    """Number of columns before it."""
    top: int
    """Number of rows above it."""

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Read the form that `str` writes.

        Example:
            >>> Window.parse("480x480+1560+240").left
            1560

        Raises:
            AirpipeError: the text is no window.
        """
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)\+(\d+)\+(\d+)", text)
        if match is None:
            raise AirpipeError(f"{text!r} is no window. Expected width x height + left + top, such as 480x480+1560+240")
        return cls(*map(int, match.groups()))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}+{self.left}+{self.top}"


def starts(length: int, cut: Cut) -> list[int]:
    """Place windows along one side: every `step` pixels, and one at the end if more than `rest` pixels are left there.

    Args:
        length: side of the image in pixels, at least `cut.size`.
        cut: how the image is cut.

    Example:
        >>> starts(2040, Cut(size=480, step=240, rest=48))
        [0, 240, 480, 720, 960, 1200, 1440, 1560]
    """
    last = length - cut.size
    found = list(range(0, last + 1, cut.step))
    return [*found, last] if last - found[-1] > cut.rest else found


def cut_rows(
    rows: Sequence[Mapping[str, str]], sizes: Mapping[str, tuple[int, int]], cut: Cut
) -> tuple[list[dict[str, str]], list[str]]:
    """Put a row for each window in the place of each row of a pair list, from left to right, then downwards.

    Names get `_s001`, `_s002`, ... as BasicSR writes them. An image that stays whole keeps its name, and its column
    `window` is empty.

    Args:
        rows: rows whose files pair in size.
        sizes: (width, height) of every file in pixels, by its path.
        cut: how images are cut.

    Returns:
        The new rows, and the problems, one line each: images that are too small, names that clash.
    """
    found: list[dict[str, str]] = []
    problems = []
    for row in rows:
        files = [row["clean"], row["degraded"]] if row["degraded"] else [row["clean"]]
        width, height = (min(side) for side in zip(*(sizes[path] for path in files), strict=True))
        if min(width, height) <= cut.whole or width == height == cut.size:
            found.append({**row, "window": ""})
        elif min(width, height) < cut.size:
            problems.append(
                f"{row['clean']}: {width}x{height} pixels hold no window of {cut.size}x{cut.size}. Take a smaller "
                f"cut.size, leave the image out, or keep small images whole (cut: {{whole: {cut.size - 1}}})"
            )
        else:
            places = [(left, top) for top in starts(height, cut) for left in starts(width, cut)]
            for number, place in enumerate(places, start=1):
                window = Window(cut.size, cut.size, *place)
                found.append({**row, "name": f"{row['name']}_s{number:03d}", "window": str(window)})
    names = Counter(row["name"] for row in found)
    problems += [f"{name}: {count} windows or images have this name" for name, count in names.items() if count > 1]
    return found, problems


def cut_out(layers: Sequence[npt.NDArray[Any]], window: Window, name: str) -> list[npt.NDArray[Any]]:
    """Views of a window into the layers of an image, which are equally large.

    Args:
        layers: (H, W) or (H, W, 3).
        window: part of them.
        name: name of the pair, for messages.

    Raises:
        AirpipeError: the window reaches over a border.
    """
    bottom, right = window.top + window.height, window.left + window.width
    height, width = layers[0].shape[:2]
    if bottom > height or right > width:
        raise AirpipeError(
            f"{name}: window {window} reaches over the image's {width}x{height} pixels. Check the data set again"
        )
    return [layer[window.top : bottom, window.left : right] for layer in layers]
