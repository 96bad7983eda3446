"""Check a split: find its layout, pair its files, read each one completely, and say what is odd."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from airpipe.data.files import list_images
from airpipe.data.labelled import chosen_files
from airpipe.data.likeness import Likeness, likeness, likeness_notes
from airpipe.data.manifest import FileFacts, Journal, describe, file_sizes
from airpipe.data.packages import locate
from airpipe.data.pairs import Pairing, Row, complain, pair_up, size_problems
from airpipe.data.windows import cut_rows
from airpipe.errors import AirpipeError
from airpipe.links import link_problem
from airpipe.progress import in_parallel, track
from airpipe.provenance import sha256_file
from airpipe.settings.datasets import PackageFile, SplitSettings

MEASURED_PAIRS = 500
"""Largest number of pairs whose two files are compared, evenly spaced over the list (shorter lists: all)."""
PSNR_TOLERANCE = 0.05
"""Tolerance in dB; a copy whose mean input PSNR is farther off holds other files."""
REMEDY = "Complete or correct the files, or name them in `leave_out` of the split (config/datasets.yaml)"


@dataclass(frozen=True)
class Checked:
    """A split that can be used."""

    files: list[FileFacts]
    """Every file that its pairs name, sorted by path."""
    facts: dict[str, Any]
    """Content of the JSON beside the manifest: layout, counts, sizes, version, kinds, input PSNR, notes."""


def check_packages(list_id: str, files: Sequence[PackageFile]) -> Checked:
    """Check embedded photographs against their listed checksums.

    Raises:
        AirpipeError: a package or file is missing, or has other contents.
    """
    found: list[FileFacts] = []
    problems: list[str] = []
    for file in track(files, len(files), f"checking {list_id}"):
        name = f"{file.package}:{file.path}"
        try:
            _check_sha256(locate(name), file.sha256)
            if file.depth:
                _check_sha256(locate(f"{file.package}:{file.depth}"), file.depth_sha256)
            facts = describe((name, str(locate(name))))
        except AirpipeError as error:
            facts = str(error)
        if isinstance(facts, FileFacts):
            found.append(facts)
        else:
            problems.append(facts)
    complain(problems, list_id, "Install the versions of constraints.txt again: make setup")
    return Checked(found, {"list": list_id, "layout": "embedded", "rule": "clean only", "pairs": len(found)})


def _check_sha256(path: Path, expected: str | None) -> None:
    if expected is not None and sha256_file(path) != expected:
        raise AirpipeError(
            f"{path}: sha256 is not the listed {expected[:12]}...; install the package version of constraints.txt"
        )


def check_split(
    list_id: str,
    split: SplitSettings,
    root: str,
    threads: int = 1,
    name_list: Path | None = None,
    journal: Path | None = None,
) -> Checked:
    """Check one split of a folder; the folder is only read.

    Args:
        list_id: `dataset.split`, for messages.
        split: settings of the split in the registry.
        root: folder of the data set.
        threads: number of processes that read files.
        name_list: the file of `split.name_list`.
        journal: file that keeps what was read, should the check be killed.

    Raises:
        AirpipeError: missing folder, no known layout, missing partners, clashing names, unreadable
            files, sizes that differ within a pair: the first ten and a count.
    """
    folder, remedy = _there(root, list_id.split(".")[0]), remake(root) or REMEDY
    globs = [glob for layout in split.layouts for glob in (*layout.clean, *(layout.degraded or ()))]
    paths, problems = list_images(folder, list(dict.fromkeys(globs)))
    complain(problems, f"{list_id} in {root}", remedy)
    if split.classes is not None:
        paths, problems = chosen_files(folder, paths, split)
        complain(problems, f"{list_id} in {root}, classes: {split.classes}", remedy)
    try:
        pairing = pair_up(paths, split, name_list)
    except AirpipeError as error:
        raise AirpipeError(f"{list_id} in {root}: {f'no image file. {remedy}' if remake(root) else error}") from None
    complain(_with_links(folder, pairing.problems), f"{list_id} in {root}, layout {pairing.layout.name}", remedy)

    store = Journal(journal)
    named = pairing.files()
    found = store.describe([(path, str(folder / path)) for path in named], threads, f"checking {list_id}")
    complain([one for one in found if isinstance(one, str)], f"{list_id}, {len(named)} files", remedy)
    files = [one for one in found if isinstance(one, FileFacts)]
    sizes = file_sizes(files)
    complain(size_problems(pairing.rows, sizes), f"{list_id}: files of a pair differ in size", remedy)
    compared = _compared(pairing.rows, folder, threads, list_id)
    equal = _equal(pairing.rows, files, compared)
    if equal and len(equal) == len(pairing.rows):
        raise AirpipeError(
            f"{list_id} in {root}: all {len(equal)} degraded files equal their clean ones ({', '.join(equal[:10])}). "
            "Correct the globs of the split, or the files"
        )
    facts = _facts(list_id, split, pairing, files) | _input_psnr(compared)
    if split.cut is not None:
        windows, problems = cut_rows(pairing.rows, sizes, split.cut)
        complain(problems, f"{list_id}, cut into windows", remedy)
        facts |= {"cut": split.cut.model_dump(), "images": len(pairing.rows), "pairs": len(windows)}
    facts["notes"] = _notes(split, pairing, facts) + _said(files) + likeness_notes(compared, equal, len(pairing.rows))
    if split.strict and split.expected not in (None, facts["pairs"]):
        after = remake(root) or f"{REMEDY}, or set strict: false"
        raise AirpipeError(f"{list_id} in {root}: {facts['notes'][0]}. {after}")
    store.close()  # not before: a check that fails is repeated without reading all files again
    return Checked(files, facts)


def _with_links(folder: Path, problems: Sequence[str]) -> list[str]:
    """Say of files that do not pair when they are links that lead nowhere."""
    said = {one: link_problem(folder / one.partition(": ")[0]) for one in problems}
    return [f"{one}; it is {problem}" if problem else one for one, problem in said.items()]


def _there(root: str, dataset: str) -> Path:
    """The folder of a data set; an error with the remedy where it is none."""
    folder = Path(root)
    if not folder.is_dir() and remake(root):
        raise AirpipeError(f"data set {dataset}: {root} is not there. {remake(root)}")
    if not folder.is_dir():
        raise AirpipeError(
            f"data set {dataset}: {root} is not a folder. Put the files there, or set datasets.{dataset}.root "
            "(an overlay: --configfile; variables such as ${HOME} are expanded), or have it fetched: "
            f"airpipe data fetch {dataset}"
        )
    return folder


def remake(root: str) -> str:
    """Say how a data set is made again, where `root` is results/generated/<id>; return nothing otherwise.

    Example:
        >>> remake("results/generated/shapes0")
        'It is made here. Make it again: snakemake -f results/generated/shapes0.json'
    """
    if Path(root).parts[-3:-1] != ("results", "generated"):
        return ""
    return f"It is made here. Make it again: snakemake -f results/generated/{Path(root).name}.json"


def _facts(list_id: str, split: SplitSettings, pairing: Pairing, files: Sequence[FileFacts]) -> dict[str, Any]:
    by_path = {file.path: f"{file.width}x{file.height}" for file in files}
    sizes = Counter(by_path[row["degraded"] or row["clean"]] for row in pairing.rows)
    kinds = Counter(word for file in files for word in file.kinds.split(", ") if word)
    return {
        "list": list_id,
        "layout": pairing.layout.name,
        "rule": pairing.layout.rule if pairing.layout.degraded else "clean only",
        "crop": pairing.layout.crop,
        "pairs": len(pairing.rows),
        "expected": split.expected,
        "clean_images": len({row["clean"] for row in pairing.rows}),
        "bytes": sum(file.bytes for file in files),
        "pixel_bytes": sum(3 * file.width * file.height for file in files),
        "sizes": dict(sizes.most_common(10)),
        "version": _version(split.sizes, sizes),
        "kinds": dict(kinds),
        "left_out": pairing.left_out,
        "lone_clean": len(pairing.lone_clean),
        "repeats": pairing.repeats,
        **({"pick": split.pick.model_dump() | pairing.picked_from} if split.pick else {}),
        **({"classes": len(set(pairing.classes.values()))} if pairing.classes else {}),
    }


def _version(known: Mapping[str, Sequence[str]], sizes: Mapping[str, int]) -> str | None:
    """Name of the version whose sizes these are; "mixed" or "unknown" when there are versions, but none fits."""
    if not known:
        return None
    fitting = [name for name, listed in known.items() if set(sizes) <= set(listed)]
    if fitting:
        return fitting[0]
    return "mixed" if set(sizes) <= {size for listed in known.values() for size in listed} else "unknown"


def _compared(rows: Sequence[Row], folder: Path, threads: int, list_id: str) -> list[Likeness]:
    """How like the files of evenly spaced pairs are."""
    pairs = [row for row in rows if row["degraded"]]
    step = max(1, math.ceil(len(pairs) / MEASURED_PAIRS))
    tasks = [(str(folder / r["degraded"]), str(folder / r["clean"]), r["crop"], r["name"]) for r in pairs[::step]]
    return list(in_parallel(likeness, tasks, threads, f"comparing pairs of {list_id}"))


def _equal(rows: Sequence[Row], files: Sequence[FileFacts], compared: Sequence[Likeness]) -> list[str]:
    """Names of the pairs whose files are equal: by their bytes, or, of those that were compared, by their pixels."""
    content = {file.path: file.sha256 for file in files}
    pixels = {pair.name for pair in compared if math.isinf(pair.psnr)}
    pairs = [row for row in rows if row["degraded"]]
    same = {row["name"] for row in pairs if content[row["degraded"]] == content[row["clean"]]}
    return [row["name"] for row in pairs if row["name"] in same | pixels]


def _input_psnr(compared: Sequence[Likeness]) -> dict[str, Any]:
    """Mean RGB PSNR in dB of degraded files that are not equal to their clean ones."""
    values = [pair.psnr for pair in compared if math.isfinite(pair.psnr)]
    return {"input_psnr": round(float(np.mean(values)), 4), "input_psnr_pairs": len(values)} if values else {}


def _notes(split: SplitSettings, pairing: Pairing, facts: Mapping[str, Any]) -> list[str]:
    notes = []
    if split.expected not in (None, facts["pairs"]):
        what = "windows" if split.cut else "pairs" if pairing.layout.degraded else "images"
        notes.append(f"{facts['pairs']} {what} found, {split.expected} expected")
    if facts["version"] in ("mixed", "unknown"):
        found = ", ".join(facts["sizes"])
        notes.append(
            f"sizes {found} are of no one version ({', '.join(split.sizes)}); scores compare with no other copy"
        )
    measured = facts.get("input_psnr")
    if split.input_psnr is not None and measured is not None and abs(measured - split.input_psnr) > PSNR_TOLERANCE:
        notes.append(f"mean input PSNR is {measured:.3f} dB, {split.input_psnr:.3f} expected: other files or a subset")
    if pairing.lone_clean and not split.names and not split.name_list:
        notes.append(f"{len(pairing.lone_clean)} clean files have no degraded one (first: {pairing.lone_clean[0]})")
    lone = sorted(name for name, count in Counter(pairing.classes.values()).items() if count == 1)
    if lone:
        notes.append(
            f"{len(lone)} of {facts['classes']} classes have one image (first: {lone[0]}): "
            "a recogniser learns little of them, and no query of theirs finds another image"
        )
    if pairing.left_out:
        notes.append(f"{len(pairing.left_out)} files left out as `leave_out` says")
    for kind, treatment in (("16 bit", "cut to 8 bit"), ("with alpha", "alpha is ignored"), ("grey", "made RGB")):
        if kind in facts["kinds"]:
            notes.append(f"{facts['kinds'][kind]} files are {kind}: {treatment}")
    notes += [
        f"{count} files are {kind}: read by content" for kind, count in facts["kinds"].items() if "inside" in kind
    ]
    return notes


def _said(files: Sequence[FileFacts]) -> list[str]:
    """A note on the files that decode, but of which decoders say that something is wrong."""
    odd = [f"{file.path}: {file.said}" for file in files if file.said]
    return [f"decoders warn of {len(odd)} files, look at them (first: {'; '.join(odd[:3])})"] if odd else []


def summary(facts: Mapping[str, Any]) -> str:
    """Sum up the facts of a split in some lines for the terminal."""
    words = [f"{facts['list']}: {facts['pairs']} pairs, layout {facts['layout']}, rule {facts['rule']}"]
    if facts.get("cut"):
        words.append(f"windows of {facts['images']} images")
    if facts.get("pick"):
        words.append(
            "picked from {of_pairs} pairs of {of_clean_images} clean images by seed {seed}".format(**facts["pick"])
        )
    if facts.get("classes"):
        words.append(f"{facts['classes']} classes")
    if facts.get("sizes"):
        words.append("sizes " + ", ".join(f"{size} ({n})" for size, n in facts["sizes"].items()))
    if facts.get("version"):
        words.append(f"version {facts['version']}")
    if facts.get("input_psnr") is not None:
        words.append(f"mean input PSNR {facts['input_psnr']:.3f} dB over {facts['input_psnr_pairs']} pairs")
    return "\n".join(["; ".join(words), *(f"  note: {note}" for note in facts.get("notes", ()))])
