"""Patches of chosen pictures in packs: a pack for each part, and the pair list over all of them; or in tar files.

Which part a patch is in follows from the chosen pictures and the number of parts alone, so that packs are the same
whatever the shards were. A pack or tar file that was killed halfway is made anew. Chosen pictures are read twice, for
the index and for the pixels, so that memory does not grow with their number.
"""

import csv
import hashlib
import io
import json
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import cv2
import numpy as np

from airpipe.curation.choosing import CHOSEN
from airpipe.curation.listing import Line
from airpipe.curation.opening import Key, Opened, Opener, open_picture
from airpipe.data.locks import OWNER, only_process
from airpipe.data.packing import write_header
from airpipe.data.packs import FORMAT, IMAGE, NO_IMAGE, PAIR, VERSION, Pack
from airpipe.data.packs import INDEX as PACK_INDEX
from airpipe.data.pairs import COLUMNS
from airpipe.data.streams import enough_space, write_all
from airpipe.data.windows import Window, cut_out
from airpipe.errors import AirpipeError
from airpipe.pixels import Rgb8
from airpipe.provenance import atomic_path, sha256_file, write_failed, write_json
from airpipe.rows import read_records

Row = dict[str, str]
Rows = Callable[[], Iterator[Row]]
"""Function that reads chosen pictures, in order, from the beginning."""
INDEX = ("name", "source", "path", "member", "sha256", "window")
"""Columns of the index of a part: where each patch is from."""


def read_part(chosen: Path, part: int, parts: int) -> Iterator[Row]:
    """Read the chosen pictures of one of `parts` equal parts.

    Raises:
        AirpipeError: the table is missing or damaged.
    """
    remedy = "Make it again: scripts/choose_pictures.py"
    try:
        count = int(json.loads(chosen.with_suffix(".json").read_text(encoding="utf-8"))["chosen"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise AirpipeError(f"{chosen}: its JSON cannot be read ({error}). {remedy}") from None
    first, end = part * count // parts, (part + 1) * count // parts
    for row in islice(read_records(chosen, remedy, CHOSEN), first, end):
        yield row
        first += 1
    if first != end:
        raise AirpipeError(f"{chosen}: has fewer than {count} pictures. {remedy}")


def pack_part(rows: Rows, opener: Opener, name: str, packed: Path, output: Path) -> int:
    """Cut the patches of chosen pictures into a pack, or find the finished one.

    Args:
        rows: reads the chosen pictures.
        opener: opener of the pictures, entered.
        name: of the part, such as `curated.train.00002`; the pack's folder is called so, with a hash.
        packed: folder of all packs.
        output: JSON with the pack's folder and counts; the index, a csv with `INDEX`, comes beside it.

    Returns:
        The number of patches.

    Raises:
        AirpipeError: a picture is not what it was when it was scored, another process makes the pack, or the disk is
            full.
    """
    layout = _write_index(rows(), output.with_suffix(".csv"))
    facts: dict[str, Any] = {
        "folder": None,
        "patches": layout.patches,
        "index_sha256": sha256_file(output.with_suffix(".csv")),
    }
    if layout.patches:
        folder = packed / f"{name}.{layout.key}"
        if not folder.is_dir():
            _make(name, layout, rows(), opener, folder)
        Pack.open(folder)
        facts |= {"folder": folder.as_posix(), "bytes": layout.total_bytes}
    write_json(output, facts)
    return layout.patches


def tar_part(rows: Rows, opener: Opener, output: Path) -> int:
    """Cut the patches of chosen pictures into a tar file: WebDataset's layout, PNG files called by their `patch_name`.

    Its bytes follow from the patches alone: headers hold no time, owner or machine.

    Args:
        rows: reads the chosen pictures.
        opener: opener of the pictures, entered.
        output: the tar file; the index, a csv with `INDEX`, comes beside it.

    Returns:
        The number of patches.

    Raises:
        AirpipeError: a picture is not what it was when it was scored, or the disk is full.
    """
    layout = _write_index(rows(), output.with_suffix(".csv"))
    with atomic_path(output) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row, window, pixels in _patches(rows(), opener):
            code = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()
            member = tarfile.TarInfo(f"{patch_name(row, window)}.png")
            member.size = len(code)
            tar.addfile(member, io.BytesIO(code))
            tar.members = []  # type: ignore[attr-defined]  # they would fill the memory
    return layout.patches


@dataclass
class _Layout:
    """What is known of a pack before it is made."""

    patches: int
    total_bytes: int
    """Size of the pack, but for its header."""
    key: str
    """Hash of the patches and of where they are from."""


def _write_index(rows: Iterator[Row], output: Path) -> _Layout:
    """Write where each patch of a part is from."""
    key = hashlib.sha256(f"{FORMAT} {VERSION} patches\n".encode())
    patches = total = 0
    with atomic_path(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(INDEX)
        for row in rows:
            for window in map(Window.parse, row["windows"].split()):
                name = patch_name(row, window)
                writer.writerow((name, row["source"], row["path"], row["name"], row["sha256"], window))
                key.update(json.dumps([name, row["sha256"], str(window)]).encode())
                patches += 1
                total += 3 * window.height * window.width + IMAGE.itemsize + PAIR.itemsize + len(_words(name))
    return _Layout(patches, total, key.hexdigest()[:12])


def _words(name: str) -> bytes:
    """What text.bin of a pack holds of a patch: its name, no level, no degradation."""
    return f"{name}\0\0".encode()


def patch_name(row: Row, window: Window) -> str:
    """Name of a patch, unique in its list: line, number in a tar file, place."""
    return f"{int(row['line']):09d}_{int(row['member']):05d}_{window.left}_{window.top}"


def _make(name: str, layout: _Layout, rows: Iterator[Row], opener: Opener, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    busy = f"{partial}: {OWNER} makes this pack. Wait for it, then run again"
    try:
        with only_process(partial.with_name(f".{partial.name}.lock"), wait=False, message=busy):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            enough_space(partial, layout.total_bytes)
            _write_patches(_patches(rows, opener), partial)
            write_header(name, partial)
            partial.replace(folder)
    except OSError as error:
        raise write_failed(folder, error) from None


def _write_patches(patches: Iterator[tuple[Row, Window, Rgb8]], partial: Path) -> None:
    """Write all files of a pack but its header: each patch is an image and a pair."""
    offset = place = 0
    with ExitStack() as stack:
        pixels = stack.enter_context((partial / "pixels.bin").open("wb", buffering=0))
        images, pairs, text = (stack.enter_context((partial / name).open("wb")) for name in PACK_INDEX)
        for number, (row, window, patch) in enumerate(patches):
            data, words = patch.tobytes(), _words(patch_name(row, window))
            write_all(cast(BinaryIO, pixels), data, partial / "pixels.bin")
            images.write(np.array((offset, window.height, window.width, zlib.crc32(data)), IMAGE).tobytes())
            pairs.write(np.array((number, NO_IMAGE, 0, place, len(words)), PAIR).tobytes())
            text.write(words)
            offset, place = offset + len(data), place + len(words)


def _patches(rows: Iterator[Row], opener: Opener) -> Iterator[tuple[Row, Window, Rgb8]]:
    """All patches, in order, with the picture that each is of: uint8 RGB (H, W, 3)."""
    for number, group in groupby(rows, key=lambda row: int(row["line"])):
        for row, opened in _pictures(number, group, opener):
            for window in map(Window.parse, row["windows"].split()):
                yield row, window, np.ascontiguousarray(cut_out([opened.pixels], window, opened.shown)[0])


def _pictures(number: int, group: Iterator[Row], opener: Opener) -> Iterator[tuple[Row, Opened]]:
    """The chosen pictures of a line of the list, one by one: of a tar file, those among its members."""
    coming = [first := next(group)]  # the next one, until there is none
    line = Line(number, first["source"], first["path"])
    for found in opener.find(line, lambda key: bool(coming) and key == Key(number, int(coming[0]["member"]))):
        row = coming.pop()
        if found.passing:
            opener.fetcher.new_round()
            found = opener.again(found, line)
        if found.passing:  # that says nothing of the picture
            raise AirpipeError(
                f"{found.problem}. It was fetched for its scores and is no longer in {opener.fetcher.cache}; run again "
                "when its host answers"
            )
        shown = "/".join(filter(None, (row["source"], row["path"], row["name"])))
        opened = open_picture(found, shown, int(row["width"]) * int(row["height"]))
        if isinstance(opened, str) or opened.sha256 != row["sha256"]:
            raise _changed(shown, opened if isinstance(opened, str) else "its bytes are others")
        yield row, opened
        coming.extend(islice(group, 1))
    if coming:
        gone = f"{len(coming) + sum(1 for _ in group)} pictures are gone"
        raise _changed("/".join((first["source"], first["path"])), gone)


def _changed(shown: str, how: str) -> AirpipeError:
    return AirpipeError(
        f"{shown}: is not what it was when it was scored ({how}). Put it back, or remove the scores of its shard and "
        "run again"
    )


def join_parts(parts: Sequence[Path], output: Path, packs: Path) -> int:
    """Write the pair list over all parts, and the JSON by which training finds their packs.

    Args:
        parts: JSON files that `pack_part` wrote, in order.
        output: results/pairs/<dataset>.train.csv; its JSON comes beside it.
        packs: results/packs/<dataset>.train.json.

    Returns:
        The number of patches.

    Raises:
        AirpipeError: a part is missing or damaged.
    """
    remedy = "Make it again: scripts/pack_patches.py"
    try:
        known = [json.loads(part.read_text(encoding="utf-8")) for part in parts]
        index = hashlib.sha256("\n".join(part["index_sha256"] for part in known).encode()).hexdigest()
        count, size = (sum(int(part.get(what, 0)) for part in known) for what in ("patches", "bytes"))
        with atomic_path(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for part in parts:
                for row in read_records(part.with_suffix(".csv"), remedy, INDEX):
                    scene = "_".join(row["name"].split("_")[:2])
                    writer.writerow(("", row["name"], "", "", "none", row["name"], scene))
            # the JSON before the list, as for other lists: who finds the list finds its JSON, too
            write_json(output.with_suffix(".json"), {"pairs": count, "list": output.stem, "manifest_sha256": index})
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise AirpipeError(f"{output}: a part cannot be read ({error}). {remedy}") from None
    folders = [part["folder"] for part in known if part["folder"]]
    facts = {"list": output.stem, "pairs_sha256": sha256_file(output), "folder": folders, "pairs": count, "bytes": size}
    write_json(packs, facts)
    return count
