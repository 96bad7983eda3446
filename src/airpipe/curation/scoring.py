"""The scores of one shard of a list, as a csv; a job that is killed goes on behind its last whole row."""

import csv
import hashlib
import io
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from airpipe.curation.listing import Line, read_facts, read_lines
from airpipe.curation.opening import Found, Key, Opener, open_picture
from airpipe.curation.polite import root_of
from airpipe.curation.scores import Plugin, TestImages, load_plugins, measure
from airpipe.data.locks import only_process
from airpipe.data.streams import write_all
from airpipe.errors import AirpipeError
from airpipe.progress import track
from airpipe.provenance import write_failed
from airpipe.rows import parsed, read_columns
from airpipe.settings.base import settings_hash
from airpipe.settings.curation import FACTS, KEY, MEASURES, PictureScoring

REMEDY = "Remove it and make it again: scripts/score_pictures.py"
HELD = 100
"""Number of pictures that wait at most, with the first of them, for a host that does not answer."""
LIMITED = 10
"""Pictures in a row that a host which is there may refuse with "later" before that is taken for a limit."""
WITNESSES = 16
"""Number of addresses whose hosts are asked whether the network is there."""


def columns(plugins: Sequence[str]) -> tuple[str, ...]:
    """Columns of a table of scores, with those of plug-ins."""
    return (*KEY, *FACTS, *MEASURES, *sorted(plugins))


@dataclass(frozen=True)
class Scorer:
    """Scorer of the pictures of a list.

    Args:
        listing: file that `write_listing` wrote.
        opener: opener of its pictures, entered.
        tests: images that pictures are searched for.
        settings: what is measured.
        identity: hash of all else that rows depend on: the tests.
    """

    listing: Path
    opener: Opener
    tests: TestImages
    settings: PictureScoring
    identity: str = ""

    def run(self, shard: int, shards: int, output: Path) -> int:
        """Score one of `shards` equal parts of the list, one picture after the other.

        Rows grow in `<output>.<hash>.part`; the hash stands for list, settings and tests, so that rows of others are
        never gone on with.

        Returns:
            The number of pictures.

        Raises:
            AirpipeError: the list is not whole, a plug-in or a test image is missing, a plug-in fails, the network or
                the folder of a source is gone, or the disk is full.
        """
        cv2.setNumThreads(1)
        plugins = load_plugins(self.settings.plugins)
        names = columns(list(plugins))
        part = output.with_name(f"{output.name}.{self._hash(shard, shards)}.part")
        try:
            with only_process(output.with_name(f".{output.name}.lock")):
                count, last = _resume(part, names)
                with part.open("ab", buffering=0) as stream:
                    if part.stat().st_size == 0:
                        write_all(stream, _line(names), part)
                    for found, line in self._settled(self._found(shard, shards, last)):
                        row = self._row(found, line, plugins)
                        write_all(stream, _line([row.get(name, "") for name in names]), part)
                        count += 1
                    os.fsync(stream.fileno())
                for other in output.parent.glob(f"{output.name}.*.part"):
                    if other != part:  # of other settings
                        other.unlink()
                part.replace(output)
        except OSError as error:
            raise write_failed(output, error) from None
        return count

    def _hash(self, shard: int, shards: int) -> str:
        listed = read_facts(self.listing)["sha256"]
        known = f"{listed} {settings_hash(self.settings)} {self.identity} {shard}/{shards}"
        return hashlib.sha256(known.encode()).hexdigest()[:8]

    def _found(self, shard: int, shards: int, last: Key | None) -> Iterator[tuple[Found, Line]]:
        """Pictures behind the last one that is done."""
        entries = read_facts(self.listing)["entries"]
        first, end = shard * entries // shards, (shard + 1) * entries // shards
        first = first if last is None else last.line
        if first == end:
            return
        for line in track(read_lines(self.listing, first, end), end - first, f"scoring {shard + 1} of {shards}"):
            for found in self.opener.find(line, lambda key: last is None or key > last):
                yield found, line

    def _settled(self, pictures: Iterator[tuple[Found, Line]]) -> Iterator[tuple[Found, Line]]:
        """Pass pictures on, in order; one of which nobody answered waits, with those behind it, to be asked again."""
        held: list[tuple[Found, Line]] = []
        for found, line in pictures:
            held.append((found, line))
            if not held[0][0].passing:
                yield held.pop()
            elif len(held) == HELD or self.opener.sources[line.source][0] == "tars":  # its bytes do not wait
                yield from self._asked_again(held)
                held = []
        yield from self._asked_again(held)

    def _asked_again(self, held: Sequence[tuple[Found, Line]]) -> list[tuple[Found, Line]]:
        """Ask once more where nobody answered; who is silent again while others answer is given up.

        Raises:
            AirpipeError: nobody of the list answers, or a host gives no more pictures for now.
        """
        fetcher = self.opener.fetcher
        fetcher.new_round()
        settled = [(self.opener.again(found, line) if found.passing else found, line) for found, line in held]
        silent = [found.problem for found, _ in settled if found.passing]
        if silent and not fetcher.is_online(self._addresses()):
            raise AirpipeError(
                f"{len(silent)} addresses were not answered, twice, nor is any other host of the list; the last: "
                f"{silent[-1][:300]}. Look whether this machine reaches the network, then run again: it goes on with "
                "them. If their hosts are gone for good, take them out of the list"
            )
        self._check_limits(settled)
        return settled

    def _check_limits(self, settled: Sequence[tuple[Found, Line]]) -> None:
        """Refuse to take it for a fault of pictures that a host which is there gives none of many, asked twice."""
        urls = [(found, root_of(line.path)) for found, line in settled if self.opener.sources[line.source][0] == "urls"]
        for root, silent in Counter(root for found, root in urls if found.passing).items():
            gives = any(host == root and not found.passing for found, host in urls)
            if silent >= LIMITED and not gives and self.opener.fetcher.is_there(root):
                last = next(found.problem for found, host in reversed(urls) if host == root)
                raise AirpipeError(
                    f"{root} answers, but gave none of {silent} pictures in a row, asked twice; the last: {last[:300]}."
                    " It limits what it gives: run again later, and it goes on with them; lower fetch.per_second, or"
                    " take the host out of the list"
                )

    def _addresses(self) -> Iterator[str]:
        """Some addresses of the list, evenly spaced."""
        entries = read_facts(self.listing)["entries"]
        for number in dict.fromkeys(entries * step // WITNESSES for step in range(WITNESSES)):
            [line] = read_lines(self.listing, number, number + 1)
            if self.opener.sources[line.source][0] == "urls":
                yield line.path

    def _row(self, found: Found, line: Line, plugins: Mapping[str, Plugin]) -> dict[str, Any]:
        row: dict[str, Any] = {"line": line.number, "member": found.key.member, "name": found.name}
        row |= {"source": line.source, "path": line.path}
        shown = "/".join(filter(None, (line.source, line.path, found.name)))
        opened = open_picture(found, shown, self.settings.largest)
        if isinstance(opened, str):
            self.opener.check_folder(line.source)
            return row | {"problem": " ".join(opened.split())}
        measured = measure(opened, self.settings, plugins)
        leak = self.tests.shown(opened.pixels, measured.phash)
        if leak is not None:
            correlation = f"{leak.correlation:.4f}"
            row |= {"leak": leak.test, "leak_relation": leak.relation, "leak_correlation": correlation}
        row |= {
            "sha256": opened.sha256,
            "phash": f"{measured.phash:016x}",
            "patches": " ".join(f"{share:.3g}" for share in measured.patches),
        }
        known = {name: value for name, value in measured.scores.items() if value is not None and math.isfinite(value)}
        # whole numbers in full: those of columns that are read as such
        return row | {name: str(value) if isinstance(value, int) else f"{value:.6g}" for name, value in known.items()}


def _line(values: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


def _resume(part: Path, names: Sequence[str]) -> tuple[int, Key | None]:
    """Cut a half-written table behind its last whole row; return the number of rows and the last picture."""
    if not part.exists():
        return 0, None
    count, last, place = 0, None, 0
    with part.open("r+b") as stream:
        for number, line in enumerate(stream):
            values: list[str] = []
            with suppress(csv.Error):  # what a power cut left of a row
                values = next(parsed([line.decode("utf-8", "replace")]), [])
            whole = line.endswith(b"\n") and len(values) == len(names)
            if not whole or (number == 0) != (values == list(names)):
                break
            if number:
                if not (values[0].isdecimal() and values[1].isdecimal()):
                    break
                count, last = count + 1, Key(int(values[0]), int(values[1]))
            place += len(line)
        stream.truncate(place)
    return count, last


def read_scores(files: Sequence[Path]) -> Iterator[dict[str, str]]:
    """Read the rows of tables of scores, in order, one at a time.

    Raises:
        AirpipeError: a table is missing, damaged, or has other columns than the first one.
    """
    first: tuple[str, ...] = ()
    for file in files:
        header, rows = read_columns(file, REMEDY)
        names = tuple(header)
        first = first or names
        if names != first or names[: len(KEY)] != KEY:
            raise AirpipeError(f"{file}: columns {str(names)[:80]}; expected {first or KEY}. {REMEDY}")
        for row in rows:
            yield dict(zip(names, row, strict=True))
