"""Numbers that papers print: read, set beside ours, their averages recomputed. This module needs no torch.

All of it is data under resources/published/ (docs/published.md): csv files of numbers, each with paper, table and
flags, and yaml files of what else must be known to compare: complete test sets, settings, papers, errors in print.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import pandas as pd
from pydantic import Field, PositiveInt

from airpipe.errors import AirpipeError
from airpipe.registry import described
from airpipe.reporting.reading import Card
from airpipe.reporting.table import PLACE, Row, place_of, without_variant
from airpipe.rows import read_csv
from airpipe.settings.base import Name, Settings, check_settings, read_yaml, unknown_name
from airpipe.settings.names import NONE, variant_of

SOURCE = ("paper", "table", "flags", "note")
AVERAGE = "average"
"""Data set of a printed average over the other numbers of its row."""
UNKNOWN_PROTOCOL, OWN_PROTOCOL = "unknown", "airpipe"
"""Protocol of numbers whose measuring code nobody has read, and ours, which then stands beside them."""
PAPER_SCALE = "paper"
ORIGINS = ("primary", "quoted", "retrained", "unstated", "third_party", "replication")
"""First flag: how a number came into its source. The others: plot, rounded, error:<key>."""
ERROR = "error:"
BESIDE = ("model", "ours", "ours_protocol", "gap", "comparable", "reason")
"""Columns of what stands beside a printed number."""
FRAME_COLUMNS = (
    *("paper", "table", "setting", "method", "backbone", *PLACE, "protocol", "metric", "published", "recomputed"),
    *(*BESIDE, "flags", "note"),
)
"""Columns of the long frame of all printed tables; `recomputed` is filled where a printed average is not the mean."""


@dataclass(frozen=True)
class Form:
    """The columns of a csv file of printed numbers."""

    columns: tuple[str, ...]
    numbers: tuple[str, ...] = ("value",)
    required: tuple[str, ...] = ("paper", "table")
    may_lack: tuple[str, ...] = ()
    """Numbers that may be empty."""
    words: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Columns that hold one of a few words."""


SCORES = Form(
    ("method", "backbone", "setting", *PLACE, "protocol", "metric", "value", *SOURCE),
    required=("protocol", "method", "setting", "dataset", "metric", "paper", "table"),
)
COSTS = Form(
    ("method", "network", "parameters", "macs", "counts", "input", *SOURCE),
    numbers=("parameters", "macs"),
    required=("paper",),
    may_lack=("parameters", "macs"),
    words={"counts": ("", "conv", "layers", "all")},
)
ACCURACIES = Form(("network", "init", "tasks", "steps", "value", *SOURCE))
CLAIMS = Form(("method", "quantity", "value", "unit", *SOURCE))
FORMS = {"efficiency": COSTS, "features": ACCURACIES, "claims": CLAIMS}
"""Forms of the files that hold no scores, by the names of the files."""


class CompleteSet(Settings):
    """A test set as papers use it."""

    images: PositiveInt = Field(description="Pictures in it; with fewer, no number is comparable.")


class PrintedSetting(Settings):
    """What the models of a printed row were trained for."""

    about: str
    tasks: Name | None = Field(None, description="Tasks in the name of our setting, <backbone>_<tasks>; none: no such.")
    mode: Name | None = Field(None, description="Name of our setting where a method has one network and its modes.")
    trained_on: tuple[Name, ...] = Field((), description="Data sets of the training.")


class PrintedError(Settings):
    """A number in print that is wrong, or that other printed numbers contradict."""

    where: str = Field(description="Paper, table, cell.")
    printed: str
    right: str = Field(description="What is right, or likely; 'unknown' where nobody can tell.")
    found: str = Field(description="How it was found.")


class Known(Settings):
    """What resources/published/*.yaml say beside the numbers."""

    datasets: dict[Name, CompleteSet] = {}
    settings: dict[Name, PrintedSetting] = {}
    papers: dict[str, str] = Field({}, description="Paper to where its numbers were read.")
    errors: dict[Name, PrintedError] = {}


# Reading


def read_published(paths: Iterable[Path], form: Form = SCORES, known: Known | None = None) -> pd.DataFrame:
    """Read the printed numbers of all files of a form, in the order given; numbers as float, missing ones NaN.

    Raises:
        AirpipeError: names file and line: wrong columns, not a number, no source or protocol, an unknown word.
    """
    csvs = [path for path in paths if form is not SCORES or (path.suffix == ".csv" and path.stem not in FORMS)]
    rows = [row for path in csvs for row in _read(path, form, known or Known())]
    frame = pd.DataFrame(rows, columns=list(form.columns))
    return frame.assign(**{name: pd.to_numeric(frame[name]).astype(float) for name in form.numbers})


def _read(path: Path, form: Form, known: Known) -> list[Row]:
    lines = read_csv(path, "Expected a csv file in UTF-8")
    _, header = next(lines, (0, []))
    if tuple(header) != form.columns:
        found = ",".join(header)[:80]
        raise AirpipeError(f"{path}: expected columns {','.join(form.columns)}; found {found or 'none'}")
    # what is too much or too little has None as name or value
    rows = [(line, cast(Row, dict(zip_longest(header, values)))) for line, values in lines]
    for line, row in rows:
        if problem := _problem(row, form, known):
            raise AirpipeError(f"{path}: line {line}: {problem}")
    return [row for _, row in rows]


def _problem(row: Row, form: Form, known: Known) -> str:
    """What is wrong with a row, and what to do; '' if nothing is."""
    if None in row or None in row.values():
        return f"expected {len(form.columns)} cells; put texts with commas in quotes"
    for name in form.required:
        if not row[name]:
            return f"names no {name}; every printed number needs its source" + (
                f" ({UNKNOWN_PROTOCOL}: nobody has read how it was measured)" if name == "protocol" else ""
            )
    for name in form.numbers:
        if not _is_number(row[name]) and not (name in form.may_lack and row[name] == ""):
            return f"{name} {row[name]!r} is not a number; write it as printed, without a unit"
    for name, words in form.words.items():
        if row[name] not in words:
            return f"{name} {row[name]!r}; expected one of {', '.join(filter(None, words))}"
    for name, valid in (("setting", known.settings), ("paper", known.papers)):
        if valid and name in row and row[name] not in valid:
            return f"{unknown_name(row[name], valid, name)}. Or add it to {name}s.yaml"
    return _wrong_flags(row["flags"].split(), known)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _wrong_flags(flags: Sequence[str], known: Known) -> str:
    if not flags or flags[0] not in ORIGINS:
        return f"flags {' '.join(flags)!r}; the first must say where the number comes from: {', '.join(ORIGINS)}"
    for flag in flags[1:]:
        key = flag.removeprefix(ERROR)
        if flag.startswith(ERROR) and known.errors and key not in known.errors:
            return f"{unknown_name(key, known.errors, 'error')}. Or add it to errors.yaml"
        if not flag.startswith(ERROR) and flag not in ("plot", "rounded"):
            return f"unknown flag {flag!r}; expected plot, rounded or {ERROR}<key of errors.yaml>"
    return ""


@dataclass(frozen=True)
class Published:
    """All printed scores, and what must be known to compare with them."""

    scores: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SCORES.columns)))
    known: Known = field(default_factory=Known)

    @cached_property
    def metrics(self) -> Collection[str]:
        """Metrics that any paper prints."""
        return frozenset(self.scores["metric"])

    @cached_property
    def by_column(self) -> Mapping[tuple[Any, ...], Sequence[Row]]:
        """Rows by place, protocol and metric, those of papers about their own methods first."""
        found = defaultdict(list)
        for row in sorted(records(self.scores), key=lambda row: not row["flags"].startswith("primary")):
            found[_column(row)].append(row)
        return found


def _column(row: Row) -> tuple[Any, ...]:
    return *place_of(row), row["protocol"], row["metric"]


def read_all(paths: Sequence[Path]) -> Published:
    """Read the csv files of scores and the yaml files among `paths` (resources/published/*), checked together.

    Raises:
        AirpipeError: a file is not as `read_published` or its settings want it, or a row names what no yaml file does.
    """
    values = {path.stem: read_yaml(path) for path in paths if path.suffix == ".yaml"}
    known = check_settings(Known, values, "resources/published")
    return Published(read_published(paths, known=known), known)


def records(frame: pd.DataFrame) -> list[Row]:
    """Rows of a frame, each by the names of its columns."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def scale_notes(scale: str) -> list[str]:
    """What a table at a scale must say of printed numbers."""
    return [f"{scale} scale: not comparable with published numbers."] if scale != PAPER_SCALE else []


def source_of(reference: Row) -> str:
    """Paper and table of a printed number."""
    return ", ".join(str(part) for part in (reference["paper"], reference["table"]) if part)


# Beside ours


def compare(row: Row, card: Card, published: Published) -> Row:
    """Set the matching printed number beside one of our rows: published, gap, comparable, reason and source."""
    none: Row = {"published": math.nan, "gap": math.nan, "source": ""}
    if row["model"] == NONE or row["metric"] not in published.metrics:
        return none | _verdict(["nothing published to compare with"])
    same = (other for other in published.by_column.get(_column(row), ()) if same_model(row, other, published.known))
    reference = next(same, None)
    if reference is None or row["protocol"] == UNKNOWN_PROTOCOL:
        return none | _verdict(["no published number for this method, tasks and protocol"])
    found = {"published": reference["value"], "gap": row["value"] - reference["value"], "source": source_of(reference)}
    return found | _verdict(differences(row, card, reference, published.known))


def _verdict(reasons: Collection[str]) -> Row:
    """Whether two numbers may be compared, and all reasons why not."""
    return {"comparable": "no" if reasons else "yes", "reason": "; ".join(reasons)}


def same_model(row: Row, reference: Row, known: Known) -> bool:
    """Whether a printed row is of our method, network and tasks, as the method says how it is called in print.

    Other settings (`nafnet_5d_masked`, `nafnet_5d_short`) are other experiments and have no printed number; variants
    (`…@s`) have one where the method's printed names tell them apart.
    """
    setting = known.settings.get(str(reference["setting"]))
    family = str(reference["backbone"])
    if not family or setting is None:
        return False
    method, variant = described(str(row["method"])), variant_of(str(row.get("model", "")))
    forms = [form for form in method.printed if ("{variant}" in form) == bool(variant)]
    ours = {form.format(title=method.title, backbone=family, variant=variant).lower() for form in forms}
    same_network = row["backbone"] == method.forks.get(family, family)
    names = {setting.mode, *(f"{name}_{setting.tasks}" for name in (family, f"{family}_std") if setting.tasks)} - {None}
    return str(reference["method"]).lower() in ours and same_network and row["setting"] in names


def differences(row: Row, card: Card, reference: Row, known: Known) -> list[str]:
    """Reasons why our number and the printed one measure different things; empty when nothing is known to differ."""
    imported = "imported" in card
    reasons = []
    if row["scale"] != PAPER_SCALE and not imported:
        reasons.append(f"{row['scale'] or 'unknown'} scale")
    complete = known.datasets.get(str(row["dataset"]))
    if complete is not None and row["n_images"] != complete.images:
        reasons.append(f"{row['n_images']} images instead of {complete.images}")
    # older cards do not tell what a list was for
    trained = {str(part["id"]).split(".")[0] for part in card["pairs"] if part.get("use", "train") == "train"}
    setting = known.settings.get(str(reference["setting"]))
    if not imported and (setting is None or trained != set(setting.trained_on)):
        reasons.append("other training data")
    return reasons


def reference_rows(ours: Sequence[Row], published: Published, scale: str) -> list[Row]:
    """Printed rows for the columns of our rows, in the order of the files.

    Rows of an unknown protocol are listed beside others of their paper only, and otherwise left to the table of all
    printed numbers, lest they bury ours.
    """
    places = set(map(place_of, ours))
    columns = {_column(row) for row in ours}
    every = records(published.scores)
    papers = {row["paper"] for row in every if _column(row) in columns}
    rows = []
    for printed in every:
        unknown = printed["protocol"] == UNKNOWN_PROTOCOL and place_of(printed) in places
        beside = unknown and printed["paper"] in papers and printed["metric"] in ("psnr", "ssim")
        if beside or _column(printed) in columns:
            rows.append(_reference_row(printed, scale))
    return rows


def _reference_row(printed: Row, scale: str) -> Row:
    reasons = [f"{scale} scale"] if scale != PAPER_SCALE else []
    reasons += ["protocol not re-measured"] if printed["protocol"] == UNKNOWN_PROTOCOL else []
    copied = {name: printed[name] for name in ("method", "backbone", "setting", *PLACE, "protocol", "metric")}
    empty = dict.fromkeys(("scale", "seeds", "n_images", "against", "samples"), "")
    found = {"model": "published", "published": printed["value"], "source": source_of(printed)}
    return copied | empty | found | _verdict(reasons)


# Averages


def digits_of(values: pd.Series) -> int:
    """Digits behind the point that most of the numbers were printed with; zeros at their ends are not known."""
    return int(values.map(lambda value: len(f"{value!r}".split(".")[1])).mode().max())


def recomputed_averages(scores: pd.DataFrame) -> pd.DataFrame:
    """Recompute every printed average as the plain mean of the numbers printed in its row, the sigmas one by one.

    `wrong` where they differ by more than rounding allows: half a unit of the last digit in the average, and half a
    unit in the mean of the columns. Averages whose columns are not printed are left out.

    Returns:
        One row per printed average: paper, table, setting, method, metric, printed, mean, columns, wrong.
    """
    kind = scores["metric"].str.split("_").str[0]  # psnr and psnr_y go into one average
    digits = scores["value"].groupby([scores["paper"], scores["table"], kind]).transform(digits_of)
    rows = []
    keys = ["paper", "table", "setting", "method", "metric"]
    for name, group in scores.assign(metric=kind, digits=digits).groupby(keys, sort=False):
        whole = group["dataset"] == AVERAGE
        if not whole.any() or whole.all():
            continue
        printed, mean = float(group.loc[whole, "value"].iloc[0]), float(group.loc[~whole, "value"].mean())
        wrong = abs(printed - mean) > 10.0 ** -int(group["digits"].iloc[0]) + 1e-9
        rows.append((*name, printed, mean, int((~whole).sum()), wrong))
    return pd.DataFrame(rows, columns=[*keys, "printed", "mean", "columns", "wrong"])


# All printed tables


def published_frame(published: Published, ours: pd.DataFrame, cards: Mapping[str, Card]) -> pd.DataFrame:
    """Every printed number with ours, the gap, whether the two are comparable and why not; "not run" where none is.

    A row whose protocol is unknown gets ours under the protocol of its table's other rows, or `airpipe`; the gap is
    then not comparable. An average gets the mean of ours over the columns of its row, if all were measured.

    Args:
        published: all printed numbers.
        ours: long tables, concatenated: method, backbone, setting, model, scale, place, protocol, metric, value,
            n_images; no published rows.
        cards: card of each model, by its name in `ours`, without a variant.

    Returns:
        FRAME_COLUMNS, in the order of the files; numbers that are missing are NaN.
    """
    measured = defaultdict(list)
    for row in records(ours):
        if without_variant(row["model"]) in cards:
            measured[_column(row)].append(row)
    scores = published.scores
    of_table = scores[scores["protocol"] != UNKNOWN_PROTOCOL].drop_duplicates(["paper", "table"])
    protocols = of_table.set_index(["paper", "table"])["protocol"].to_dict()
    rows = []
    for printed in records(scores):
        protocol = printed["protocol"]
        if protocol == UNKNOWN_PROTOCOL:
            protocol = protocols.get((printed["paper"], printed["table"]), OWN_PROTOCOL)
        same = measured.get(_column(printed | {"protocol": protocol}), ())
        own = next((row for row in same if same_model(row, printed, published.known)), None)
        rows.append(printed | _beside(printed, own, cards, published.known, protocol))
    frame = pd.DataFrame(rows, columns=[*SCORES.columns, *BESIDE]).rename(columns={"value": "published"})
    return _with_averages(frame, scores)[list(FRAME_COLUMNS)]


def _beside(printed: Row, own: Row | None, cards: Mapping[str, Card], known: Known, protocol: str) -> Row:
    if own is None:
        return {"model": "", "ours": math.nan, "ours_protocol": "", "gap": math.nan} | _verdict(["not run"])
    reasons = differences(own, cards[without_variant(own["model"])], printed, known)
    if printed["protocol"] == UNKNOWN_PROTOCOL:
        reasons.insert(0, "its protocol is unknown")
    gap = own["value"] - printed["value"]
    return {"model": own["model"], "ours": own["value"], "ours_protocol": protocol, "gap": gap} | _verdict(reasons)


def _with_averages(frame: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Fill `recomputed` where a printed average is wrong, and `ours` of averages from the columns of their rows."""
    frame = frame.assign(recomputed=math.nan)
    keys = ["paper", "table", "setting", "method"]
    checked = recomputed_averages(scores)
    wrong = checked[checked["wrong"]].set_index([*keys, "metric"])["mean"].to_dict()
    for name, group in frame.assign(kind=frame["metric"].str.split("_").str[0]).groupby([*keys, "kind"], sort=False):
        average = group.index[group["dataset"] == AVERAGE]
        columns = group[group["dataset"] != AVERAGE]
        frame.loc[average, "recomputed"] = wrong.get(name, math.nan)
        if len(average) and len(columns) and columns["ours"].notna().all():
            mean = float(columns["ours"].mean())
            reasons = dict.fromkeys(part for text in columns["reason"] if text for part in text.split("; "))
            first = columns.iloc[0]
            found = {"model": first["model"], "ours": mean, "ours_protocol": first["ours_protocol"]}
            found |= {"gap": mean - frame.loc[average, "published"], **_verdict(reasons)}
            for column, value in found.items():
                frame.loc[average, column] = value
    return frame
