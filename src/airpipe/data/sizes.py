"""Sizes of listed images, from manifests or packs: what is too small is told before the first step, not when drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from airpipe.data.manifest import file_sizes, read_manifest
from airpipe.data.packs import JoinedPacks, Pack
from airpipe.data.pairs import WINDOW, read_rows
from airpipe.data.windows import Window
from airpipe.errors import AirpipeError
from airpipe.settings.stages import DataPart

NAMED = 10
"""Largest number of images that a message names."""


@dataclass(frozen=True)
class PairSizes:
    """Sizes of the pairs of a list."""

    name: Callable[[int], str]
    """Gives the name of a pair by its number."""
    sides: npt.NDArray[np.int64]
    """Width and height in pixels, (pairs, 2)."""


def pair_sizes(pair_list: Path, manifest: Path) -> PairSizes:
    """Tell the size of every pair of a list, after its crop rule and as its window cuts it.

    Args:
        pair_list: csv file of the list.
        manifest: csv file with the sizes of all files that the list names.

    Raises:
        AirpipeError: a file cannot be read, or the manifest lacks a file of the list.
    """
    files, rows = file_sizes(read_manifest(manifest)), read_rows(pair_list)
    sides = np.empty((len(rows), 2), np.int64)
    try:
        for number, row in enumerate(rows):
            both = [files[path] for path in (row["clean"], row["degraded"]) if path]
            window = Window.parse(text) if (text := row.get(WINDOW)) else None
            sides[number] = window[:2] if window else (min(w for w, _ in both), min(h for _, h in both))
    except KeyError as error:
        raise AirpipeError(
            f"{manifest}: lacks {error.args[0]!r} of {pair_list}. Check the data set again: snakemake check"
        ) from None
    return PairSizes(rows.convert(itemgetter("name")).__getitem__, sides)


def packed_sizes(pack: Pack | JoinedPacks) -> PairSizes:
    """Tell the size of every pair of a list that lies in packs, such as a curated one, which has no manifest."""
    return PairSizes(pack.name, pack.sides())


def refuse_small(parts: Sequence[DataPart], sizes: Mapping[str, PairSizes], patch_size: int) -> None:
    """Refuse training images that hold no patch, all of them at once.

    Args:
        parts: parts of the mix.
        sizes: sizes of the pairs by list id; lists that are not there are not judged.
        patch_size: side of the largest patch of all phases in pixels.

    Raises:
        AirpipeError: images are too small (count and first names of each list).
    """
    small = []
    for part in (part for part in parts if part.pairs in sizes):
        mirrored = part.small_images == "reflect"  # only what `crop_multiple` cuts to nothing cannot be
        known, cut = sizes[part.pairs], f"crop_multiple {part.crop_multiple}"
        shorter = _shorter(part, known)
        found = shorter - shorter % part.crop_multiple < (1 if mirrored else patch_size)
        if found.any():
            than = cut if mirrored else f"patch_size {patch_size}" + f" after {cut}" * (part.crop_multiple > 1)
            small.append(_told(part.pairs, known, found, than))
    if small:
        raise AirpipeError(
            f"{'; '.join(dict.fromkeys(small))}. Next: small_images: reflect for the part (mirrors them, keeps "
            "the steps done); or, to begin anew, a smaller patch in the phases, `resize`, or leave_out of the split"
        )


def refuse_smaller_than_network(parts: Sequence[DataPart], sizes: Mapping[str, PairSizes], multiple: int) -> None:
    """Refuse validation images that are smaller than the network takes.

    Args:
        parts: parts of the validation.
        sizes: sizes of the pairs by list id; lists that are not there are not judged.
        multiple: pixels that the network's sides are multiples of.

    Raises:
        AirpipeError: images are too small (count and first names).
    """
    for part in (part for part in parts if part.pairs in sizes):
        known = sizes[part.pairs]
        found = _shorter(part, known) < multiple
        if found.any():
            told = _told(f"validation {part.pairs}", known, found, f"the {multiple} pixels that the network needs")
            raise AirpipeError(f"{told}. Leave them out of the split (leave_out), or set `resize` of the part")


def _shorter(part: DataPart, known: PairSizes) -> npt.NDArray[np.int64]:
    """Shorter side in pixels of each image as the part reads it, (pairs,)."""
    return np.full(len(known.sides), part.resize) if part.resize else known.sides.min(axis=1)


def _told(where: str, known: PairSizes, small: npt.NDArray[np.bool_], than: str) -> str:
    numbers = np.flatnonzero(small)
    first = [(known.name(number), *known.sides[number]) for number in map(int, numbers[:NAMED])]
    named = ", ".join(f"{name} ({width}x{height})" for name, width, height in first)
    more = ", ..." if len(numbers) > NAMED else ""
    total = len(known.sides)
    return f"{where}: the shorter side of {len(numbers)} of {total} images is smaller than {than}: {named}{more}"
