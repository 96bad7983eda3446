"""Pair lists: what every loader reads.

A list `results/pairs/<dataset>.<split>.csv` has the columns of `COLUMNS`; a sibling JSON
holds counts, the layout and rule used and the manifest's checksum. Paths are relative to the
data set's root, which is looked up at run time and enters no hash. A list whose split is `cut` has a
further column `window` (`airpipe.data.windows`), empty where an image stays whole.
"""

import csv
import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, cast

from airpipe.data.compact import Compact, read_table
from airpipe.data.files import matching
from airpipe.data.labelled import label_of, name_of
from airpipe.data.lists import choose, read_list
from airpipe.data.packages import locate
from airpipe.data.picking import picked
from airpipe.data.rules import partners, tried, without_suffix
from airpipe.data.windows import Window
from airpipe.errors import AirpipeError
from airpipe.provenance import atomic_path, sha256_file, write_json
from airpipe.settings.datasets import Layout, PackageFile, SplitSettings

COLUMNS = ("degraded", "clean", "degradation", "level", "crop", "name", "group")
WINDOW = "window"
"""Column that lists of windows have beside `COLUMNS`."""
Row = dict[str, str]
NO_DEGRADED = ": no degraded file"
"""End of the problem of a lone clean file; choosing by names drops the problems that end so."""


@dataclass(frozen=True)
class Pair:
    """One row of a pair list: the clean file, and the degraded one unless it is synthesised."""

    clean: Path
    degraded: Path | None
    """Degraded file; None: synthesised by the stage's or test's recipe."""
    degradation: str
    level: str
    """Strength of the degradation, as text."""
    crop: str
    """Crop rule none, centre or top_left: how the larger file is cut to the smaller."""
    name: str
    """Name of the pair, unique in the list; seeds and scores go by it."""
    group: str
    """Scene of the pair; never split over train and test."""
    depth: Path | None = None
    """Disparity file of the clean image, where there is one."""
    category: str = ""
    """Class of what the image shows, where its data set says it."""
    camera: str = ""
    """Camera that took it, where its data set says it."""
    window: Window | None = None
    """Part of both images that this pair is, after the crop rule; None: all."""


@dataclass
class Pairing:
    """Result of pairing the files of a split."""

    layout: Layout
    """Layout that most files fit."""
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Problems, one line each: files without partner, names that clash or do not fit the rule."""
    left_out: list[str] = field(default_factory=list)
    """Files that `leave_out` names."""
    lone_clean: list[str] = field(default_factory=list)
    """Clean files that no degraded file shows (no problem where several share one)."""
    repeats: int = 0
    """Number of rows of the name list beyond the first that name the same pair."""
    picked_from: dict[str, int] = field(default_factory=dict)
    """Number of pairs and clean images that `pick` chose from; empty where there is none."""
    classes: dict[str, str] = field(default_factory=dict)
    """Class of what each pair's image shows, by the pair's name, in labelled splits."""
    cameras: dict[str, str] = field(default_factory=dict)
    """Camera of each pair, by the pair's name, where the split tells it."""

    def labels(self) -> dict[str, dict[str, str]]:
        """Return classes and cameras for the JSON of the pair list, where there are any."""
        both = {"classes": self.classes, "cameras": self.cameras}
        return {key: known for key, known in both.items() if known}

    def files(self) -> list[str]:
        """List every file that the rows name, each once, sorted."""
        return sorted({path for row in self.rows for path in (row["clean"], row["degraded"]) if path})


@dataclass(frozen=True)
class PairList:
    """A pair list on this machine."""

    file: Path
    root: Path | None = None
    """Folder of its data set; None: its files are embedded."""

    @cached_property
    def sha256(self) -> str:
        """Hash of the list."""
        return sha256_file(self.file)

    def read(self) -> Sequence[Pair]:
        """Read its pairs, see `read_pairs`."""
        return read_pairs(self.file, self.root)


def listed(
    files: Iterable[Path], roots: Iterable[str], wanted: Iterable[str] = (), what: str = ""
) -> dict[str, PairList]:
    """Find the pair lists that a command was given, by id.

    Args:
        files: files of the lists.
        roots: folders of data sets that are not embedded, `dataset=folder` each.
        wanted: ids of the lists that are needed.
        what: what needs them, for the message.

    Raises:
        AirpipeError: the file of a list is missing.
    """
    folders = {name: Path(folder) for name, folder in (text.split("=", 1) for text in roots)}
    found = {file.stem: PairList(file, folders.get(file.stem.split(".")[0])) for file in files}
    if missing := set(wanted) - set(found):
        raise AirpipeError(f"{what}: no --pairs file for {', '.join(sorted(missing))}; found {', '.join(found)}")
    return found


def read_pairs(path: Path, root: Path | None) -> Compact[Pair]:
    """Read a pair list; a pair is made when it is asked for, so that long lists take little more than their file.

    Args:
        path: the csv file; its sibling JSON may name depth files, classes and cameras by pair.
        root: the data set's folder; None: files of installed packages.

    Raises:
        AirpipeError: the list is missing or empty, has other columns or damaged windows, or a package is not installed.
    """
    rows, facts = read_rows(path), read_facts(path)
    if not rows:
        raise AirpipeError(f"{path}: holds no pairs")
    pairs = rows.convert(partial(_pair, root, *(facts.get(key, {}) for key in ("depth", "classes", "cameras"))))
    if root is None or WINDOW in rows[0]:
        deque(pairs, maxlen=0)  # makes each once: what is wrong is told now
    return pairs


def _pair(
    root: Path | None, depth: Mapping[str, str], classes: Mapping[str, str], cameras: Mapping[str, str], row: Row
) -> Pair:
    name = row["name"]
    return Pair(
        clean=_place(root, row["clean"]),
        degraded=_place(root, row["degraded"]) if row["degraded"] else None,
        degradation=row["degradation"],
        level=row["level"],
        crop=row["crop"],
        name=name,
        group=row["group"],
        depth=_place(root, depth[name]) if depth.get(name) else None,
        category=classes.get(name, ""),
        camera=cameras.get(name, ""),
        window=Window.parse(text) if (text := row.get(WINDOW)) else None,
    )


_located = cache(locate)


def _place(root: Path | None, relative: str) -> Path:
    return _located(relative) if root is None else root / relative


def read_rows(path: Path) -> Compact[Row]:
    """Read the rows of a pair list as they stand in the file; a row is made when it is asked for.

    Raises:
        AirpipeError: the list is missing or damaged, or has other columns.
    """
    remedy = f"Make it: snakemake {path}"
    header, rows = read_table(path, remedy)
    if tuple(header) not in (COLUMNS, (*COLUMNS, WINDOW)):
        raise AirpipeError(f"{path}: columns {str(header)[:80]}; expected {list(COLUMNS)}. {remedy}")
    return rows.convert(partial(_row_of, header))


def _row_of(header: Sequence[str], fields: Sequence[str]) -> Row:
    return dict(zip(header, fields, strict=True))


def read_facts(path: Path) -> dict[str, Any]:
    """Read the JSON beside a pair list.

    Raises:
        AirpipeError: it is missing or damaged.
    """
    try:
        return cast(dict[str, Any], json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise AirpipeError(f"{path}: cannot be read with its JSON ({error}); make it: snakemake {path}") from None


def write_pairs(path: Path, rows: Sequence[Mapping[str, str]], facts: Mapping[str, Any]) -> None:
    """Write a pair list and its JSON, each atomically, the list last; rows have a window each, or none has one."""
    columns = (*COLUMNS, WINDOW) if rows and WINDOW in rows[0] else COLUMNS
    # the list last: who finds it finds its JSON, too
    write_json(path.with_suffix(".json"), {"pairs": len(rows), **facts})
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def package_pairs(files: Sequence[PackageFile]) -> tuple[list[Row], dict[str, str]]:
    """Make the rows of embedded files; return them and the depth file of each image that has one, by name."""
    rows = [_row(clean=f"{file.package}:{file.path}", name=Path(file.name).stem, group=file.group) for file in files]
    depth = {Path(file.name).stem: f"{file.package}:{file.depth}" for file in files if file.depth}
    return rows, depth


def pair_up(paths: Sequence[str], split: SplitSettings, name_list: Path | None = None) -> Pairing:
    """Find the layout of a split among files, and pair them by its rule.

    Args:
        paths: image files below the root.
        split: settings with the layouts, and with what is left out or chosen.
        name_list: the file of `split.name_list`, when the split has one.

    Raises:
        AirpipeError: no layout matches a file, or the name list is wrong. Other problems are returned.
    """
    kept, left_out = _leave_out(paths, split.leave_out)
    layout = _most_files(kept, split)
    pairing = Pairing(layout, left_out=left_out)
    clean = matching(kept, layout.clean)
    options = {"degradation": split.degradation or "", "level": split.level, "crop": layout.crop}
    if layout.degraded is None:
        pairing.rows = [_row(clean=path, name=stem, group=stem, **options) for path, stem in _stems(clean)]
    else:
        _match(pairing, matching(kept, layout.degraded), clean, options, by_class=split.classes in ("folder", "cub"))
    _choose(pairing, split, name_list)
    if split.pick is not None:
        cleans = {row["clean"] for row in pairing.rows}
        pairing.picked_from = {"of_pairs": len(pairing.rows), "of_clean_images": len(cleans)}
        pairing.rows, problems = picked(pairing.rows, split.pick)
        pairing.problems += problems
    _label(pairing, split)
    _refuse_repeated(pairing)
    return pairing


def _leave_out(paths: Sequence[str], globs: Sequence[str]) -> tuple[list[str], list[str]]:
    left_out = set(matching(paths, globs))
    return [path for path in paths if path not in left_out], sorted(left_out)


def _most_files(paths: Sequence[str], split: SplitSettings) -> Layout:
    """The layout that matches most degraded (or clean) files; among equals the one listed first."""
    counts = [len(matching(paths, one.degraded or one.clean)) for one in split.layouts]
    if not max(counts):
        globs = [" + ".join(one.degraded or one.clean) for one in split.layouts]
        raise AirpipeError(
            f"no image file matches {' or '.join(globs)}. Correct root, or the layout in config/datasets.yaml"
        )
    return split.layouts[counts.index(max(counts))]


def _match(
    pairing: Pairing, degraded: Sequence[str], clean: Sequence[str], options: Mapping[str, str], by_class: bool
) -> None:
    rule = pairing.layout.rule
    whole_path = any(one.whole_path for one in tried(rule))
    index: dict[str, list[str]] = {}
    for path in clean:
        index.setdefault(without_suffix(path) if whole_path else PurePosixPath(path).stem, []).append(path)
    classes = {PurePosixPath(path).parent.name for path in clean} if by_class else set()
    shown: dict[str, str] = {}
    shared = any(one.shared_clean for one in tried(rule))
    for path in degraded:
        candidates = partners(path, rule)
        found = next((one for one in candidates if one.clean in index), None)
        fitting = index[found.clean] if found else []
        category = PurePosixPath(path).parent.name
        if category in classes:  # degraded files in class folders show images of their class
            fitting = [one for one in fitting if PurePosixPath(one).parent.name == category]
        if not candidates:
            pairing.problems.append(f"{path}: its name does not fit rule {rule}")
        elif found is None:
            pairing.problems.append(f"{path}: no clean file {' or '.join(f'{one.clean}.*' for one in candidates)}")
        elif not fitting:
            pairing.problems.append(f"{path}: no clean file {found.clean}.* of class {category}")
        elif len(fitting) > 1:
            pairing.problems.append(f"{path}: its clean file may be {' or '.join(fitting)}")
        elif fitting[0] == path:
            pairing.problems.append(f"{path}: is its own clean file; correct the globs")
        elif fitting[0] in shown and not shared:
            pairing.problems.append(f"{path} and {shown[fitting[0]]}: share the clean file {fitting[0]}")
        else:
            known = {**options, "degradation": options["degradation"] or found.degradation}
            pairing.rows.append(_row(degraded=path, clean=fitting[0], name=found.name, group=found.group, **known))
            shown[fitting[0]] = path
    pairing.lone_clean = sorted(set(clean) - set(shown))
    if not shared:
        pairing.problems += [f"{path}{NO_DEGRADED}" for path in pairing.lone_clean]


def _choose(pairing: Pairing, split: SplitSettings, name_list: Path | None) -> None:
    """Keep what the split's names or list choose; files beyond them are then no problem."""
    if split.names is not None:
        wanted = set(split.names)
        missing = wanted - {row["name"] for row in pairing.rows}
        unpaired = [one for one in pairing.problems if not one.endswith(NO_DEGRADED)]
        named = {one: PurePosixPath(one.split(":")[0]).stem for one in unpaired}
        pairing.rows = [row for row in pairing.rows if row["name"] in wanted]
        pairing.problems = [one for one, stem in named.items() if stem in missing]
        absent = sorted(missing - set(named.values()))
        pairing.problems += [f"{name}: listed in `names`, but there is no such file" for name in absent]
    if split.name_list is not None and name_list is not None:
        try:
            chosen = choose(pairing.rows, read_list(name_list, split.name_list), name_list)
        except AirpipeError as error:
            first = f" (files without pair: {len(pairing.problems)}; {pairing.problems[0]})" if pairing.problems else ""
            raise AirpipeError(f"{error}{first}") from None
        pairing.rows, pairing.repeats, pairing.problems = chosen.rows, chosen.repeats, []


def _label(pairing: Pairing, split: SplitSettings) -> None:
    """Note what the clean image of each row shows, and call the row after it: names stay apart between classes."""
    for row in pairing.rows if split.classes else ():
        found = label_of(row["clean"], split)
        if isinstance(found, str):
            pairing.problems.append(found)
            continue
        row["name"] = name_of(found.category, row["name"])
        pairing.classes[row["name"]] = found.category
        if found.camera:
            pairing.cameras[row["name"]] = found.camera


def _refuse_repeated(pairing: Pairing) -> None:
    first: dict[str, Row] = {}
    for row in pairing.rows:
        other = first.setdefault(row["name"], row)
        if other is not row:
            both = [one["degraded"] or one["clean"] for one in (other, row)]
            pairing.problems.append(f"{both[0]} and {both[1]}: files share a name")


def size_problems(rows: Sequence[Row], sizes: Mapping[str, tuple[int, int]]) -> list[str]:
    """Find pairs whose files differ in size after their crop rule: one line each.

    Args:
        rows: rows of a pair list.
        sizes: (width, height) of every file in pixels, by its path.
    """
    problems = []
    for row in rows:
        if not row["degraded"]:
            continue
        degraded, clean = sizes[row["degraded"]], sizes[row["clean"]]
        spare = (clean[0] - degraded[0], clean[1] - degraded[1])
        fits = spare == (0, 0) or row["crop"] == "top_left"
        if row["crop"] == "centre":  # a difference in one direction only is another picture, not a border
            fits = fits or (min(spare) > 0 and spare[0] % 2 == spare[1] % 2 == 0)
        if not fits:
            problems.append(
                f"{row['degraded']} is {degraded[0]}x{degraded[1]}, {row['clean']} is {clean[0]}x{clean[1]} "
                f"(crop: {row['crop']})"
            )
    return problems


def complain(problems: Sequence[str], where: str, remedy: str) -> None:
    """Raise one error with the first ten problems and a count; nothing when there are none."""
    if problems:
        shown = "\n  ".join(problems[:10])
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise AirpipeError(f"{where}: {len(problems)} problems\n  {shown}{more}\n{remedy}")


def _stems(paths: Sequence[str]) -> list[tuple[str, str]]:
    return [(path, PurePosixPath(path).stem) for path in paths]


def _row(**known: str) -> Row:
    return {**dict.fromkeys(COLUMNS, ""), "crop": "none", **known}
