"""Sizes of listed images, from manifests: images that are too small are told before the first step, not when drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from airpipe.data.manifest import read_manifest
from airpipe.data.pairs import WINDOW, read_rows
from airpipe.data.windows import Window
from airpipe.errors import AirpipeError
from airpipe.settings.stages import DataPart

NAMED = 10
"""Largest number of images that a message names."""
Size = tuple[int, int]
"""Width and height in pixels."""


def pair_sizes(pair_list: Path, manifest: Path) -> dict[str, Size]:
    """Tell the size of every pair of a list, after its crop rule and as its window cuts it, by name.

    Args:
        pair_list: csv file of the list.
        manifest: csv file with the sizes of all files that the list names.

    Raises:
        AirpipeError: a file cannot be read, or the manifest lacks a file of the list.
    """
    files = {file.path: (file.width, file.height) for file in read_manifest(manifest)}
    found = {}
    try:
        for row in read_rows(pair_list):
            sides = [files[path] for path in (row["clean"], row["degraded"]) if path]
            window = Window.parse(text) if (text := row.get(WINDOW)) else None
            found[row["name"]] = window[:2] if window else (min(w for w, _ in sides), min(h for _, h in sides))
    except KeyError as error:
        raise AirpipeError(
            f"{manifest}: lacks {error.args[0]!r} of {pair_list}. Check the data set again: snakemake check"
        ) from None
    return found


def refuse_small(parts: Sequence[DataPart], sizes: Mapping[str, Mapping[str, Size]], patch_size: int) -> None:
    """Refuse training images that hold no patch, all of them at once.

    Args:
        parts: parts of the mix.
        sizes: size of every pair by name, by list id; lists that are not there are not judged.
        patch_size: side of the largest patch of all phases in pixels.

    Raises:
        AirpipeError: images are too small (count and first names of each list).
    """
    small = []
    for part in parts:
        mirrored = part.small_images == "reflect"  # only what `crop_multiple` cuts to nothing cannot be
        least = 1 if mirrored else patch_size
        found = {name: size for name, size in sizes.get(part.pairs, {}).items() if _side(part, size) < least}
        if found:
            cut = f"crop_multiple {part.crop_multiple}"
            than = cut if mirrored else f"patch_size {patch_size}" + f" after {cut}" * (part.crop_multiple > 1)
            small.append(_told(part.pairs, len(sizes[part.pairs]), found, than))
    if small:
        raise AirpipeError(
            f"{'; '.join(dict.fromkeys(small))}. Next: small_images: reflect for the part (mirrors them, keeps "
            "the steps done); or, to begin anew, a smaller patch in the phases, `resize`, or leave_out of the split"
        )


def refuse_smaller_than_network(
    parts: Sequence[DataPart], sizes: Mapping[str, Mapping[str, Size]], multiple: int
) -> None:
    """Refuse validation images that are smaller than the network takes.

    Args:
        parts: parts of the validation.
        sizes: size of every pair by name, by list id; lists that are not there are not judged.
        multiple: pixels that the network's sides are multiples of.

    Raises:
        AirpipeError: images are too small (count and first names).
    """
    for part in parts:
        known = sizes.get(part.pairs, {})
        found = {name: size for name, size in known.items() if (part.resize or min(size)) < multiple}
        if found:
            told = _told(f"validation {part.pairs}", len(known), found, f"the {multiple} pixels that the network needs")
            raise AirpipeError(f"{told}. Leave them out of the split (leave_out), or set `resize` of the part")


def _side(part: DataPart, size: Size) -> int:
    """Shorter side in pixels of an image when its patch is cut."""
    shorter = part.resize or min(size)
    return shorter - shorter % part.crop_multiple


def _told(where: str, total: int, small: Mapping[str, Size], than: str) -> str:
    named = ", ".join(f"{name} ({width}x{height})" for name, (width, height) in list(small.items())[:NAMED])
    more = ", ..." if len(small) > NAMED else ""
    return f"{where}: the shorter side of {len(small)} of {total} images is smaller than {than}: {named}{more}"
