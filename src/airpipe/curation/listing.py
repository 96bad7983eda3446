"""The list of everything that a curation looks at: one line for a file, a tar file or an address.

Lines stand in the order of the sources' names, folders sorted; a picture is called by its line, and by its
number in a tar file. Nothing here holds the list in memory.
"""

import codecs
import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from airpipe.data.files import is_image
from airpipe.data.locks import only_process
from airpipe.errors import AirpipeError
from airpipe.links import walk
from airpipe.provenance import atomic_path, sha256_file, write_json

TARS = (".tar", ".tar.gz", ".tgz")
"""Suffixes of tar files that are looked into."""
STEP = 1000
"""Every so many lines, the place in the list is noted, so that a shard finds its beginning."""
BUCKETS = 256
"""Number of files that lines are sorted into, to find those that stand twice."""
RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("line", "<i8")])
"""Hash of a line's place, and its number."""
LONGEST = 4096
"""Characters of the longest path or address that is listed."""
LEFT_OUT = ("source", "path", "reason")
"""Columns of the table of what is not listed."""


class Line(NamedTuple):
    """One line of a list."""

    number: int
    """Number of the line, from 0."""
    source: str
    path: str
    """Path below the source's root, or the address."""


def write_listing(sources: Mapping[str, tuple[str, str]], output: Path) -> dict[str, Any]:
    """List all that the sources hold; what cannot be listed is recorded with its reason.

    Args:
        sources: kind (images, tars or urls) and place of each source by its name.
        output: listing.tsv; beside it come `.offsets`, `.left_out.csv` and, at last, `.json`.

    Returns:
        The facts in the JSON: entries, left_out, sha256, step.

    Raises:
        AirpipeError: a source is missing, cannot be read or holds nothing.
    """
    table = output.with_suffix(".left_out.csv")
    output.with_suffix(".json").unlink(missing_ok=True)  # of an earlier list: what is killed from here on is not whole
    with atomic_path(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as notes:
        left_out = csv.writer(notes)
        left_out.writerow(LEFT_OUT)
        refused = 0
        with _scratch(output) as scratch:
            draft = scratch / "draft.tsv"
            with draft.open("w", encoding="utf-8", newline="\n") as stream, _Buckets(scratch) as buckets:
                for name, (kind, root) in sorted(sources.items()):
                    for path, problem in _found(name, kind, root):
                        if reason := _why_not(path) or problem:
                            left_out.writerow((name, ascii(path)[1:-1][:LONGEST], reason))
                            refused += 1
                            continue
                        buckets.add(path if kind == "urls" else f"{root}/{path}")
                        stream.write(f"{name}\t{path}\n")
            repeated = buckets.repeated()
            count = _copy(draft, repeated, output, left_out)
    if not count:
        raise AirpipeError(f"{output}: all {refused} entries were left out; see {table}. Correct the sources")
    facts = {"entries": count, "left_out": refused + len(repeated), "sha256": sha256_file(output), "step": STEP}
    write_json(output.with_suffix(".json"), facts)
    return facts


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """An empty folder beside a list, as large as the list; one that a killed process left is removed."""
    folder = output.with_name(f".{output.name}.scratch")
    with only_process(folder.with_suffix(".lock")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def _copy(draft: Path, repeated: npt.NDArray[np.int64], output: Path, left_out: Any) -> int:
    """Write the lines of a draft that do not repeat another one, and where every `STEP`th begins."""
    twice, place, number = 0, 0, -1
    offsets = []
    with atomic_path(output) as temporary, temporary.open("wb") as stream, draft.open("rb") as lines:
        for number, line in enumerate(lines):
            if twice < len(repeated) and repeated[twice] == number:
                twice += 1
                left_out.writerow((*line.decode().rstrip("\n").split("\t"), "listed before"))
                continue
            if (number - twice) % STEP == 0:
                offsets.append(place)
            place += stream.write(line)
    with atomic_path(output.with_suffix(".offsets")) as temporary:
        np.array(offsets, "<i8").tofile(temporary)
    return number + 1 - twice


def read_facts(listing: Path) -> dict[str, Any]:
    """Read the JSON that `write_listing` wrote beside a list.

    Raises:
        AirpipeError: it is missing or damaged.
    """
    try:
        facts = json.loads(listing.with_suffix(".json").read_text(encoding="utf-8"))
        return {**facts, "entries": int(facts["entries"]), "sha256": str(facts["sha256"])}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _not_whole(listing, error) from None


def read_lines(listing: Path, first: int, end: int) -> Iterator[Line]:
    """Read the lines from number `first` to before `end` of a list.

    Raises:
        AirpipeError: the list is not whole.
    """
    try:
        offsets = np.memmap(listing.with_suffix(".offsets"), "<i8", mode="r")
        with listing.open("rb") as stream:
            stream.seek(int(offsets[first // STEP]))
            for number in range(first - first % STEP, end):
                source, tab, path = stream.readline().decode().rstrip("\n").partition("\t")
                if not tab:
                    raise ValueError(f"line {number} is missing")
                if number >= first:
                    yield Line(number, source, path)
    except (OSError, ValueError, LookupError) as error:
        raise _not_whole(listing, error) from None


def _not_whole(listing: Path, error: Exception) -> AirpipeError:
    return AirpipeError(f"{listing}: not a whole list ({error}). Make it again: scripts/list_pictures.py")


def _found(name: str, kind: str, root: str) -> Iterator[tuple[str, str]]:
    """Paths or addresses of a source, in order, each with what is wrong with it ("": nothing)."""
    addresses = ((address, "") for address in _addresses(Path(root))) if kind == "urls" else None
    entries = addresses or _files(root, TARS if kind == "tars" else None)
    found = False
    for entry in entries:
        found = True
        yield entry
    if not found:
        what = {"images": "image files", "tars": "tar files", "urls": "addresses"}[kind]
        raise AirpipeError(f"source {name}: {root} holds no {what}. Correct its root or its kind ({kind})")


def _files(root: str, suffixes: tuple[str, ...] | None) -> Iterator[tuple[str, str]]:
    if not Path(root).is_dir():
        raise AirpipeError(f"{root}: is not a folder. Put the files there, or correct the source's root")

    def failed(error: OSError) -> None:
        raise AirpipeError(f"{error.filename}: cannot be listed ({error.strerror}). Make the folder readable") from None

    for path, problem in walk(root, failed):
        if problem or (path.lower().endswith(suffixes) if suffixes else is_image(path)):
            yield path, problem


def _addresses(file: Path) -> Iterator[str]:
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream):
                # some editors of Windows put a mark before the first address
                if text := (line if number else line.removeprefix(codecs.BOM_UTF8)).strip():
                    yield os.fsdecode(text)
    except OSError as error:
        raise AirpipeError(f"{file}: cannot be read ({error.strerror}). Expected one address a line") from None


def _why_not(path: str) -> str:
    """Say why an entry cannot be listed; "" if it can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    return unfit(path)


def unfit(path: str) -> str:
    """Say why a name cannot stand in tables: control characters, or its length; "" if it can."""
    if len(path) > LONGEST:
        return f"is longer than {LONGEST} characters"
    return "has a control character" if any(ord(letter) < 32 or ord(letter) == 127 for letter in path) else ""


class _Buckets:
    """Hashes of places, sorted into files, so that those that stand twice are found in little memory."""

    def __init__(self, folder: Path) -> None:
        self.files = [folder / f"{number:03d}.bin" for number in range(BUCKETS)]
        self.count = 0

    def __enter__(self) -> "_Buckets":
        self._stack = ExitStack()
        self._streams = [self._stack.enter_context(file.open("wb")) for file in self.files]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, place: str) -> None:
        digest = hashlib.blake2b(place.encode(), digest_size=16).digest()
        self._streams[digest[0] % BUCKETS].write(digest + self.count.to_bytes(8, "little"))
        self.count += 1

    def repeated(self) -> npt.NDArray[np.int64]:
        """Numbers of the places that stood before, ascending."""
        found = [_repeated(np.fromfile(file, RECORD)) for file in self.files]
        return np.sort(np.concatenate(found))


def _repeated(records: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    order = records[np.lexsort((records["line"], records["low"], records["high"]))]
    same = (order["high"][1:] == order["high"][:-1]) & (order["low"][1:] == order["low"][:-1])
    return np.asarray(order["line"][1:][same], np.int64)


def parse_sources(texts: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Read arguments of the form name=kind:place.

    Raises:
        AirpipeError: another form.
    """
    found = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        kind, colon, place = rest.partition(":")
        if not equals or not colon or kind not in ("images", "tars", "urls"):
            raise AirpipeError(f"--source {text}: expected name=kind:place, kind one of images, tars, urls")
        found[name] = (kind, place)
    return found
