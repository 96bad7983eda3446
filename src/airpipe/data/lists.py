"""Published list formats: which files a paper's train or test list names, and lists for published code.

names: one file a line (AirNet, PromptIR, DyNet), with its size behind it as BasicSR writes `name (h,w,c)`, or twice
where the two files of a pair have one name. bar: `degraded|clean` (VRD-IR). comma: `clean,degraded` without a
header (DSRIR, whose README writes ` | ` for the comma); rows of noise repeat the clean path.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from airpipe.data.files import is_image
from airpipe.errors import AirpipeError
from airpipe.rows import parsed
from airpipe.settings.base import shown
from airpipe.settings.datasets import NameList

ListFormat = Literal["names", "bar", "comma"]
FORMS = {"names": "one file name a line", "bar": "degraded|clean", "comma": "clean,degraded"}
"""Form of a line of each format, in words for messages."""
BSD_NAME = re.compile(r"^a(\d+\.jpg)$")
"""Name of a BSD image as some lists write it: `a247012.jpg` for a file that is distributed as `247012.jpg`."""
SIZE = re.compile(r"\s+\(\s*\d+\s*,\s*\d+\s*(,\s*\d+\s*)?\)$")
"""What BasicSR's meta information has behind a name: height, width, channels."""
MARKS = {"bar": "|", "comma": ",", "names": None}
"""What stands between two columns; None: blanks, which no format of ours has."""
Row = dict[str, str]
"""Row of a pair list: text by column."""


@dataclass(frozen=True)
class ListedPair:
    """One row of a published list: `name`, or `clean` with or without `degraded`."""

    name: str | None = None
    """File of format names: the degraded one where the split has degraded files, else the clean one."""
    degraded: str | None = None
    """Degraded file of formats bar and comma; None: synthesised from the clean file."""
    clean: str | None = None
    """Clean file of formats bar and comma."""

    def __str__(self) -> str:
        return self.name or " with ".join(path for path in (self.degraded, self.clean) if path)


@dataclass(frozen=True)
class Chosen:
    """Choice of a published list among the rows of a pair list."""

    rows: list[Row]
    """Chosen rows, in the order of the list."""
    repeats: int
    """Number of rows of the list beyond the first that name the same pair (DSRIR lists its rain pairs 25 times)."""


# Reading


def read_list(path: Path, settings: NameList) -> list[ListedPair]:
    """Read a published list.

    Args:
        path: the list, a UTF-8 text file.
        settings: format, lines and prefix to take, whether the first row is lost.

    Returns:
        One entry a line, in order, blank lines left out. The `a` in front of BSD names is removed, and so is the size
        behind a name.
        Repeated rows of bar and comma are kept.

    Raises:
        AirpipeError: the list is unreadable, empty, not UTF-8 or of another format, a path leaves the folder,
            or a name is listed twice.
    """
    if settings.lose_first_row and settings.format != "comma":
        raise AirpipeError(f"{path}: lose_first_row is for format comma, found {settings.format}. Remove it")
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors of Windows put a mark before the first name
    except UnicodeDecodeError as error:
        raise AirpipeError(f"{path}: byte {error.start + 1} is not UTF-8. Expected a text file: convert it") from None
    except OSError as error:
        raise AirpipeError(f"{path}: cannot be read ({error.strerror}). Expected a list of file names") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if settings.lose_first_row:
        lines = lines[1:]
    quote = '"' if settings.format == "comma" else ""  # paths may be quoted; those with a comma are
    lines = [(number, line) for number, line in lines if line.removeprefix(quote).startswith(settings.only or "")]
    if not lines:
        such = f" that begin with {settings.only!r}" if settings.only else ""
        raise AirpipeError(f"{path}: lists no files{such}. Expected lines like: {FORMS[settings.format]}")
    listed = [_listed(f"{path}, line {number}", line, settings) for number, line in lines]
    if settings.format == "names":
        _refuse_twice(path, [str(one) for one in listed])
    return listed


def _listed(where: str, line: str, settings: NameList) -> ListedPair:
    if settings.format == "names":
        return ListedPair(name=_bsd_name(_path(where, _one_name(where, line), settings)))
    try:
        fields = line.split("|") if settings.format == "bar" else _comma_fields(line)
    except csv.Error as error:
        raise AirpipeError(f"{where}: not comma-separated ({error}). Expected {FORMS['comma']}") from None
    fields = [field.strip() for field in fields]
    if len(fields) != 2 or not all(fields):
        other = _looks_like(line) or "names"
        hint = f"; is the format {other}?" if other != settings.format else ""
        raise AirpipeError(
            f"{where}: {len([one for one in fields if one])} paths in {shown(line)}. "
            f"Expected {FORMS[settings.format]}{hint}"
        )
    first, second = (_path(where, one, settings) for one in fields)
    if settings.format == "bar":
        return ListedPair(degraded=first, clean=second)
    return ListedPair(degraded=None if first == second else second, clean=first)


def _comma_fields(line: str) -> list[str]:
    """By commas, as in DSRIR's files; by " | ", as in its README."""
    if "," not in line and " | " in line:
        return line.split(" | ")
    return next(parsed([line]))


def _one_name(where: str, line: str) -> str:
    """The name of a line of format names: without the size behind it, and once where it stands twice."""
    name = SIZE.sub("", line)
    other = _looks_like(name)
    columns = [column.strip() for column in name.split(MARKS[other])] if other else [name]
    if len(set(columns)) > 1:
        hint = "write them as degraded|clean (format: bar)" if other == "names" else f"is the format {other}?"
        raise AirpipeError(f"{where}: {shown(line)} names two files. Expected one; {hint}")
    return columns[0]


def _looks_like(line: str) -> str | None:
    """The format of a line of two columns, both image files; "names" where blanks stand between them."""
    for kind, mark in MARKS.items():
        columns = [column.strip() for column in line.split(mark)]
        if len(columns) == 2 and all(is_image(column) for column in columns):
            return kind
    return None


def _path(where: str, text: str, settings: NameList) -> str:
    if not text.startswith(settings.remove_prefix):
        raise AirpipeError(
            f"{where}: {shown(text)} does not begin with {settings.remove_prefix!r}. Correct remove_prefix, or, if "
            "it is a list of several data sets, read the lines of one of them with only"
        )
    text = text.removeprefix(settings.remove_prefix)
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or not path.name:
        raise AirpipeError(
            f"{where}: {shown(text)} is not a path below the data set's folder. "
            "Expected one like rain/rain-001.png (remove_prefix cuts what stands before it)"
        )
    return str(path)


def _bsd_name(path: str) -> str:
    whole = PurePosixPath(path)
    return str(whole.with_name(BSD_NAME.sub(r"\1", whole.name)))


def _refuse_twice(path: Path, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise AirpipeError(f"{path}: {len(twice)} names are listed twice: {_first_ten(twice)}. Remove the repeats")


def _first_ten(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


# Choosing


@dataclass
class _Index:
    """Finds rows by path, by file name or, failing these, by stem."""

    paths: dict[str, set[int]] = field(default_factory=dict)
    names: dict[str, set[int]] = field(default_factory=dict)
    stems: dict[str, set[int]] = field(default_factory=dict)

    def add(self, path: str, number: int) -> None:
        path = _bsd_name(path)
        name = PurePosixPath(path)
        for table, key in ((self.paths, path), (self.names, name.name), (self.stems, name.stem)):
            table.setdefault(key, set()).add(number)

    def find(self, listed: str, rows: Sequence[Mapping[str, str]], column: str) -> set[int]:
        """Rows at the first of three looks that finds any; longer common paths win among them."""
        path = PurePosixPath(_bsd_name(listed))
        stem = path.stem if is_image(path.name) else path.name
        found = self.paths.get(str(path)) or self.names.get(path.name) or self.stems.get(stem) or set()
        if len(found) == 1 or len(path.parts) == 1:
            return found
        folder = path.parts[:-1]
        same = {n for n in found if PurePosixPath(rows[n][column]).parts[:-1][-len(folder) :] == folder}
        return same or found


def choose(rows: Sequence[Row], listed: Sequence[ListedPair], where: Path) -> Chosen:
    """Pick the rows of a pair list that a published list names, in the list's order.

    A file is looked up by its relative path, then by its file name, then by its stem. `names` are
    looked up among the degraded files (clean ones where a row has no degraded file), then among the
    clean files; for bar and comma both columns have to agree. A path that comma has twice means a row without
    degraded file, else the pair whose two files are called so. Rows that a list repeats are kept
    once, since names are unique in a pair list.

    Args:
        rows: rows of a pair list.
        listed: entries that `read_list` read.
        where: file of the list, for messages.

    Raises:
        AirpipeError: no row or several rows have a listed file (says the first ten and a count), or two
            names mean one row.
    """
    index = {"degraded": _Index(), "clean": _Index()}
    for number, row in enumerate(rows):
        for column, one in index.items():
            if row[column]:
                one.add(row[column], number)
    found = [_rows_of(one, rows, index) for one in listed]
    if missing := [str(one) for one, numbers in zip(listed, found, strict=True) if not numbers]:
        raise AirpipeError(
            f"{where}: {len(missing)} of {len(listed)} listed are not among the {len(rows)} pairs of the split: "
            f"{_first_ten(missing)}. Next: {_remedy(listed, found, rows, index)}"
        )
    if several := [str(one) for one, numbers in zip(listed, found, strict=True) if len(numbers) > 1]:
        raise AirpipeError(
            f"{where}: {len(several)} listed names fit more than one pair: {_first_ten(several)}. "
            "Write them with their folder and suffix"
        )
    numbers = Counter(number for (number,) in found)
    if len(numbers) < len(listed) and any(one.name for one in listed):
        names = [rows[n]["degraded"] or rows[n]["clean"] for n, count in numbers.items() if count > 1]
        raise AirpipeError(f"{where}: several names mean the same file: {_first_ten(names)}. Keep one of each")
    return Chosen([rows[number] for number in numbers], len(listed) - len(numbers))


def _remedy(
    listed: Sequence[ListedPair], found: Sequence[set[int]], rows: Sequence[Row], index: Mapping[str, _Index]
) -> str:
    """What to do about listed files that are not there."""
    first, hints = listed[0], []
    columns = [path for path in (first.clean, first.degraded) if path]
    if columns and not any(map(is_image, columns)) and not found[0]:
        hints = ["the first line looks like a header: remove it (or drop it with lose_first_row, in a comma list)"]
    missing = [one for one, numbers in zip(listed, found, strict=True) if not numbers]
    wide = [one for one in missing if one.name and is_image(one.name.split()[0]) and " " in one.name]
    if wide:
        _, rest = str(wide[0]).split(maxsplit=1)
        hints.append(f"only the first column is a file name: remove the one behind it, such as {shown(rest)}")
    swapped = [ListedPair(degraded=one.clean, clean=one.degraded) for one in listed if one.degraded]
    if any(_rows_of(one, rows, index) for one in swapped):
        hints.append("the columns look swapped: bar lists degraded|clean, comma clean,degraded; correct `format`")
    elif len(missing) > max(len(hints), len(wide)):
        hints.append("complete the folder, correct remove_prefix or format, or remove them from the list")
    return "; ".join(hints)


def _rows_of(listed: ListedPair, rows: Sequence[Row], index: Mapping[str, _Index]) -> set[int]:
    if listed.name is not None:
        return index["degraded"].find(listed.name, rows, "degraded") or index["clean"].find(listed.name, rows, "clean")
    clean = index["clean"].find(listed.clean or "", rows, "clean")
    if listed.degraded is None:
        alone = {number for number in clean if not rows[number]["degraded"]}
        return alone or clean & index["degraded"].find(listed.clean or "", rows, "degraded")
    return clean & index["degraded"].find(listed.degraded, rows, "degraded")


# Writing


def export(
    rows: Iterable[Mapping[str, str]],
    form: ListFormat,
    prefix: str = "",
    bsd_prefix: bool = False,
    file_names: bool = False,
) -> str:
    """Write the text of a list for published code.

    Args:
        rows: rows of a pair list.
        form: format of the list. names writes the degraded file, or the clean one where there is none; comma
            repeats the clean path where there is no degraded file.
        prefix: text in front of every path, for example "Rain100L/train/".
        bsd_prefix: whether to write `a247012.jpg` for `247012.jpg`, as AirNet's lists do (names only).
        file_names: whether to leave the folders out, as denoising lists do (names only).

    Raises:
        AirpipeError: the format cannot hold a path, a bar row has no degraded file, a row is a window, or there is
            nothing to write.
    """
    if form != "names" and (bsd_prefix or file_names):
        raise AirpipeError(f"format {form}: the BSD prefix and bare file names are for format names. Leave them out")
    lines = []
    for row in rows:
        degraded, clean = row["degraded"], row["clean"]
        if row.get("window"):
            raise AirpipeError(
                f"{row['name']}: is a part of {clean}, but published lists name whole files. Export a split without cut"
            )
        if form == "bar" and not degraded:
            raise AirpipeError(
                f"{row['name']}: has no degraded file, and a bar list needs one. Export clean lists as comma or names"
            )
        paths = {"names": [degraded or clean], "bar": [degraded, clean], "comma": [clean, degraded or clean]}[form]
        if form == "names":
            paths = [_as_name(paths[0], bsd_prefix, file_names)]
        lines.append(_line([prefix + path for path in paths], form))
    if not lines:
        raise AirpipeError("the pair list is empty: nothing to export. Make it again")
    return "".join(lines)


def _as_name(path: str, bsd_prefix: bool, file_names: bool) -> str:
    whole = PurePosixPath(path)
    if bsd_prefix and re.fullmatch(r"\d+\.jpg", whole.name):
        whole = whole.with_name(f"a{whole.name}")
    return whole.name if file_names else str(whole)


def _line(paths: Sequence[str], form: ListFormat) -> str:
    for path in paths:
        cannot = not path.isprintable() or path != path.strip() or "\\" in path
        if cannot or (form == "bar" and "|" in path) or (form == "names" and _looks_like(path)):
            raise AirpipeError(f"{path!r}: a {form} list ({FORMS[form]}) cannot hold this name. Rename the file")
    if form == "comma":
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(paths)
        return line.getvalue()
    return "|".join(paths) + "\n"
