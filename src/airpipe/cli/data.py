"""`airpipe data`: list, show, check and fetch the data sets of the registry, without the workflow."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from airpipe.data.addresses import address_of
from airpipe.errors import AirpipeError
from airpipe.settings.base import check_settings, read_yaml, shown, unknown_name
from airpipe.settings.datasets import DatasetSettings
from airpipe.settings.merging import deep_merge, inherited, plain
from airpipe.settings.places import expanded

REGISTRY = Path("config/datasets.yaml")
DATASETS = Path("resources/datasets")
GENERATED = Path("results/generated")
DOWNLOADS = Path("resources/downloads")
LOCK = Path("config/datasets.lock.yaml")
MANIFESTS = Path("results/manifests")


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `airpipe data`, with their options, to a parser."""
    commands = parser.add_subparsers(required=True, metavar="ACTION")

    def command(name: str, about: str, action: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        added.set_defaults(command=action)
        added.add_argument("--configfile", type=Path, nargs="+", default=[], help="overlays of config/datasets.yaml")
        return added

    command("list", "list the data sets and where they are", _list)
    show = command("show", "show the entry of a data set", _show)
    show.add_argument("id")
    check = command("check", "read every file of a data set and say what is odd", _check)
    check.add_argument("id", help="data set, or dataset.split")
    check.add_argument("--root", help="check this folder instead; no manifest is written")
    check.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="processes that read files")
    fetch = command("fetch", "fetch a data set into resources/datasets/<id>", _fetch)
    fetch.add_argument("id")
    fetch.add_argument("--wait", type=float, help="minutes to wait for files that are fetched by hand")


def load_registry(overlays: Sequence[Path] = ()) -> dict[str, DatasetSettings]:
    """Read and validate the entries of config/datasets.yaml and of overlays.

    Args:
        overlays: YAML files laid over the registry, in order.

    Returns:
        Entry of each data set, by its id.

    Raises:
        AirpipeError: not in a checkout, or an invalid entry.
    """
    if not REGISTRY.is_file():
        raise AirpipeError(f"{REGISTRY}: no such file. Run this in a checkout of airpipe")
    merged: dict[str, Any] = {}
    for path in (REGISTRY, *overlays):
        datasets = read_yaml(path).get("datasets", {})
        if not isinstance(datasets, dict):
            raise AirpipeError(f"{path}: datasets: expected a mapping of entries, found {shown(datasets)}")
        merged = deep_merge(merged, datasets)
    try:
        entries = inherited(plain(merged, "datasets"))
    except ValueError as error:
        raise AirpipeError(str(error)) from None
    return {name: check_settings(DatasetSettings, entry, f"datasets.{name}") for name, entry in entries.items()}


def folder_of(name: str, entry: DatasetSettings) -> Path:
    """Folder of a data set, or the one that it would lie in once fetched or made."""
    if entry.made:
        return GENERATED / name
    return Path(expanded(entry.root or str(DATASETS / name)))


def _entry(arguments: argparse.Namespace, name: str) -> DatasetSettings:
    registry = load_registry(arguments.configfile)
    if name not in registry:
        raise AirpipeError(unknown_name(name, registry, "data set"))
    return registry[name]


def _list(arguments: argparse.Namespace) -> int:
    registry = load_registry(arguments.configfile)

    def lacking(entry: DatasetSettings) -> str:
        source = getattr(entry.made, "dataset", "")
        if source in registry and not folder_of(source, registry[source]).is_dir():
            return f"needs {source}, not here"
        return ways(entry)

    for name, entry in registry.items():
        folder = folder_of(name, entry)
        place = "embedded" if entry.packages else str(folder) if folder.is_dir() else f"not here ({lacking(entry)})"
        print(f"{name:20} {place:40} {entry.title}")
    return 0


def ways(entry: DatasetSettings) -> str:
    """Say how a data set can be had, in a few words."""
    if entry.packages or entry.made:
        return "made here" if entry.made else "embedded"
    if not entry.sources:
        return "no address known"
    by_hand = [any(file.by_hand for file in source.files) for source in entry.sources]
    return "by hand" if all(by_hand) else "fetched on demand"


def _show(arguments: argparse.Namespace) -> int:
    entry = _entry(arguments, arguments.id)
    values = entry.model_dump(mode="json", exclude_defaults=True)
    print(yaml.safe_dump({arguments.id: values}, sort_keys=False, allow_unicode=True, width=110), end="")
    for source in entry.sources:
        words = "fetched by us" if source.verified else "not verified by us"
        print(f"# {', '.join(address_of(file) for file in source.files)}  (read in: {source.read_in}; {words})")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    name, _, only = arguments.id.partition(".")
    entry = _entry(arguments, name)
    failed = checked = 0
    for split in _splits(name, entry, only, arguments.root):
        checked += 1
        try:
            _check_one(f"{name}.{split}", entry, arguments)
        except AirpipeError as error:
            failed += 1
            print(f"airpipe: error: {error}", flush=True)
    if failed:
        raise AirpipeError(f"{failed} of {checked} splits of {name} cannot be used (see above)")
    return 0


def _splits(name: str, entry: DatasetSettings, only: str, root: str | None) -> Iterator[str]:
    """The split that was asked for, or all that the folder holds."""
    from airpipe.data.files import split_is_there

    known = list(dict.fromkeys(file.split for file in entry.packages)) or list(entry.splits)
    if only and only not in known:
        raise AirpipeError(f"data set {name}: " + unknown_name(only, known, "split"))
    if only or entry.packages:
        yield from [only] if only else known
        return
    folder = root or str(folder_of(name, entry))
    here = [split for split in known if split_is_there(folder, entry.splits[split])]
    missing = [split for split in known if split not in here]
    if here and missing:
        print(f"{name}: no files of {', '.join(missing)} in {folder}")
    yield from here or known[:1]


def _check_one(list_id: str, entry: DatasetSettings, arguments: argparse.Namespace) -> None:
    from airpipe.data.check import check_packages, check_split, summary
    from airpipe.data.manifest import write_manifest
    from airpipe.provenance import write_json

    name, split = list_id.split(".")
    if entry.packages:
        checked = check_packages(list_id, [file for file in entry.packages if file.split == split])
    else:
        chosen = entry.splits[split].name_list
        names = Path(expanded(chosen.file)) if chosen else None
        root = arguments.root or str(folder_of(name, entry))
        checked = check_split(list_id, entry.splits[split], root, arguments.threads, names)
    print(summary(checked.facts), flush=True)
    manifest = MANIFESTS / f"{list_id}.csv"
    if arguments.root is None and manifest.is_file():  # one that the workflow made: keep it true
        changed = write_manifest(manifest, checked.files)
        if changed:
            write_json(manifest.with_suffix(".json"), checked.facts)
        print(f"{manifest}: {'renewed; what depends on it will be redone' if changed else 'unchanged'}")


def _fetch(arguments: argparse.Namespace) -> int:
    from airpipe.data.fetch import Places, default_wait, fetch_dataset

    name = arguments.id
    entry = _entry(arguments, name)
    if entry.packages:
        raise AirpipeError(f"data set {name} ships inside installed packages; there is nothing to fetch")
    if entry.made:
        command = "curate" if entry.curated else f"-f {GENERATED}/{name}.json"
        raise AirpipeError(f"data set {name} is made, not fetched: snakemake {command}")
    if entry.root:
        raise AirpipeError(f"data set {name} has root {entry.root}. Remove it to have the data set fetched")
    places = Places(DATASETS / name, DOWNLOADS / name, LOCK)
    wait = default_wait() if arguments.wait is None else arguments.wait
    fetch_dataset(name, entry, places, wait)
    return 0
