"""Patches of chosen pictures in packs: a pack for each part, and the pair list over all of them; or in tar files.

Which part a patch is in follows from the chosen pictures and the number of parts alone, so that packs are the same
whatever the shards were. A pack or tar file that was killed halfway is made anew.
"""

import csv
import hashlib
import io
import json
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import cv2
import numpy as np

from airpipe.curation.listing import Line
from airpipe.curation.opening import Key, Opener, open_picture
from airpipe.data.locks import OWNER, only_process
from airpipe.data.pack_contents import Contents
from airpipe.data.packing import write_header, write_index
from airpipe.data.packs import FORMAT, IMAGE, NO_IMAGE, PAIR, VERSION, Pack
from airpipe.data.pairs import COLUMNS
from airpipe.data.streams import enough_space, write_all
from airpipe.data.windows import Window, cut_out
from airpipe.errors import AirpipeError
from airpipe.provenance import atomic_path, sha256_file, write_failed, write_json

INDEX = ("name", "source", "path", "member", "sha256", "window")
"""Columns of the index of a part: where each patch is from."""


def read_part(chosen: Path, part: int, parts: int) -> list[dict[str, str]]:
    """Read the chosen pictures of one of `parts` equal parts.

    Raises:
        AirpipeError: the table is missing or damaged.
    """
    try:
        count = int(json.loads(chosen.with_suffix(".json").read_text(encoding="utf-8"))["chosen"])
        first, end = part * count // parts, (part + 1) * count // parts
        with chosen.open(newline="", encoding="utf-8") as stream:
            found = list(islice(csv.DictReader(stream), first, end))
    except (OSError, ValueError, LookupError, csv.Error) as error:
        raise AirpipeError(f"{chosen}: cannot be read ({error}). Make it again: scripts/choose_pictures.py") from None
    if len(found) != end - first:
        raise AirpipeError(f"{chosen}: has fewer than {count} pictures. Make it again: scripts/choose_pictures.py")
    return found


def pack_part(rows: Sequence[Mapping[str, str]], opener: Opener, name: str, packed: Path, output: Path) -> None:
    """Cut the patches of chosen pictures into a pack, or find the finished one.

    Args:
        rows: chosen pictures, in order.
        opener: opener of the pictures, entered.
        name: of the part, such as `curated.train.00002`; the pack's folder is called so, with a hash.
        packed: folder of all packs.
        output: JSON with the pack's folder and counts; the index, a csv with `INDEX`, comes beside it.

    Raises:
        AirpipeError: a picture is not what it was when it was scored, another process makes the pack, or the disk is
            full.
    """
    index = _write_index(rows, output.with_suffix(".csv"))
    facts: dict[str, Any] = {
        "folder": None,
        "patches": len(index),
        "index_sha256": sha256_file(output.with_suffix(".csv")),
    }
    if index:
        contents = _contents(index, name)
        folder = packed / f"{name}.{contents.key}"
        if not folder.is_dir():
            _make(contents, rows, opener, folder)
        Pack.open(folder)
        facts |= {"folder": folder.as_posix(), "bytes": contents.total_bytes}
    write_json(output, facts)


def tar_part(rows: Sequence[Mapping[str, str]], opener: Opener, output: Path) -> None:
    """Cut the patches of chosen pictures into a tar file: WebDataset's layout, PNG files called by their `patch_name`.

    Its bytes follow from the patches alone: headers hold no time, owner or machine.

    Args:
        rows: chosen pictures, in order.
        opener: opener of the pictures, entered.
        output: the tar file; the index, a csv with `INDEX`, comes beside it.

    Raises:
        AirpipeError: a picture is not what it was when it was scored, or the disk is full.
    """
    index = _write_index(rows, output.with_suffix(".csv"))
    with atomic_path(output) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for (row, window), patch in zip(index, _patches(rows, opener), strict=True):
            pixels = np.frombuffer(patch, np.uint8).reshape(window.height, window.width, 3)
            code = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()
            member = tarfile.TarInfo(f"{patch_name(row, window)}.png")
            member.size = len(code)
            tar.addfile(member, io.BytesIO(code))
            tar.members = []  # type: ignore[attr-defined]  # they would fill the memory


def _write_index(rows: Sequence[Mapping[str, str]], output: Path) -> list[tuple[Mapping[str, str], Window]]:
    """Write where each patch of a part is from, and return the patches."""
    index = [(row, window) for row in rows for window in map(Window.parse, row["windows"].split())]
    with atomic_path(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(INDEX)
        for row, window in index:
            where = (row["source"], row["path"], row["name"], row["sha256"])
            writer.writerow((patch_name(row, window), *where, window))
    return index


def patch_name(row: Mapping[str, str], window: Window) -> str:
    """Name of a patch, unique in its list: line, number in a tar file, place."""
    return f"{int(row['line']):09d}_{int(row['member']):05d}_{window.left}_{window.top}"


def _contents(index: Sequence[tuple[Mapping[str, str], Window]], name: str) -> Contents:
    """The layout of a pack whose images are patches, one for each pair."""
    key = hashlib.sha256(f"{FORMAT} {VERSION} patches\n".encode())
    images, pairs = np.zeros(len(index), IMAGE), np.zeros(len(index), PAIR)
    names, text, offset = [], bytearray(), 0
    for number, (row, window) in enumerate(index):
        names.append(patch_name(row, window))
        key.update(json.dumps([names[-1], row["sha256"], str(window)]).encode())
        images[number] = (offset, window.height, window.width, 0)
        offset += 3 * window.height * window.width
        words = f"{names[-1]}\0\0".encode()  # without level and degradation
        pairs[number] = (number, NO_IMAGE, 0, len(text), len(words))
        text += words
    checksums = np.zeros((len(index), 32), np.uint8)
    return Contents(name, "", key.hexdigest()[:12], names, checksums, images, pairs, bytes(text))


def _make(contents: Contents, rows: Sequence[Mapping[str, str]], opener: Opener, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    busy = f"{partial}: {OWNER} makes this pack. Wait for it, then run again"
    try:
        with only_process(partial.with_name(f".{partial.name}.lock"), wait=False, message=busy):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            enough_space(partial, contents.total_bytes)
            with (partial / "pixels.bin").open("wb", buffering=0) as stream:
                for number, patch in enumerate(_patches(rows, opener)):
                    contents.images[number]["crc32"] = zlib.crc32(patch)
                    write_all(cast(BinaryIO, stream), patch, partial / "pixels.bin")
            write_index(contents, partial)
            write_header(contents, partial)
            partial.replace(folder)
    except OSError as error:
        raise write_failed(folder, error) from None


def _patches(rows: Sequence[Mapping[str, str]], opener: Opener) -> Iterator[bytes]:
    """Pixels of all patches, in order."""
    for number, group in groupby(rows, key=lambda row: int(row["line"])):
        wanted = {Key(number, int(row["member"])): row for row in group}
        first = next(iter(wanted.values()))
        for found in opener.find(Line(number, first["source"], first["path"]), wanted.__contains__):
            row = wanted.pop(found.key)
            shown = "/".join(filter(None, (row["source"], row["path"], row["name"])))
            opened = open_picture(found, shown, int(row["width"]) * int(row["height"]))
            if isinstance(opened, str) or opened.sha256 != row["sha256"]:
                raise _changed(shown, opened if isinstance(opened, str) else "its bytes are others")
            for window in map(Window.parse, row["windows"].split()):
                yield np.ascontiguousarray(cut_out([opened.pixels], window, shown)[0]).tobytes()
        if wanted:
            raise _changed("/".join((first["source"], first["path"])), f"{len(wanted)} pictures are gone")


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
    try:
        known = [json.loads(part.read_text(encoding="utf-8")) for part in parts]
        index = hashlib.sha256("\n".join(part["index_sha256"] for part in known).encode()).hexdigest()
        count, size = (sum(int(part.get(what, 0)) for part in known) for what in ("patches", "bytes"))
        with atomic_path(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for part in parts:
                with part.with_suffix(".csv").open(newline="", encoding="utf-8") as rows:
                    for row in csv.DictReader(rows):
                        name = row["name"]
                        scene = "_".join(name.split("_")[:2])
                        writer.writerow(("", name, "", "", "none", name, scene))
            # the JSON before the list, as for other lists: who finds the list finds its JSON, too
            write_json(output.with_suffix(".json"), {"pairs": count, "list": output.stem, "manifest_sha256": index})
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
        raise AirpipeError(
            f"{output}: a part cannot be read ({error}). Make it again: scripts/pack_patches.py"
        ) from None
    folders = [part["folder"] for part in known if part["folder"]]
    facts = {"list": output.stem, "pairs_sha256": sha256_file(output), "folder": folders, "pairs": count, "bytes": size}
    write_json(packs, facts)
    return count
