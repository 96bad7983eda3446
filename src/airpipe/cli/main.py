"""The command `airpipe`: restore photos, import and list models, check the machine.

Heavy libraries are imported by the command that needs them, so that `--help` answers at once.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import airpipe
from airpipe.cli import data as data_cli
from airpipe.cli import restore as restore_cli
from airpipe.cli import weights as weights_cli
from airpipe.data.locks import UNKNOWN, left_locks
from airpipe.errors import AirpipeError
from airpipe.provenance import nearest
from airpipe.settings.places import expanded
from airpipe.weights.cards import CARD, read_card

RESULTS = Path("results")
SNAKEMAKE = Path(".snakemake")
OLDEST_PYTHON = (3, 11)
FREE_GB = 5
"""Less free disk than this is worth a warning: the demo writes about 1 GB, checkpoints come on top."""
HOW_TO_TRAIN = "make one with `make demo` or `snakemake all`"


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: words after `airpipe`; None: those of the command line.

    Returns:
        Exit status: 0; 1 when `doctor` found a problem; 2 after an error, told on stderr; 130 when stopped by ctrl-c.
    """
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except AirpipeError as error:
        _say_error(error)
        return 2
    except KeyboardInterrupt:
        print("airpipe: stopped; finished files are complete", file=sys.stderr)
        return 130


def _say_error(error: object) -> None:
    print(f"airpipe: error: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("airpipe", description="All-in-one image restoration.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"airpipe {airpipe.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    photos = commands.add_parser("restore", help="restore photos with a trained model", allow_abbrev=False)
    photos.set_defaults(command=_restore)
    restore_cli.add_arguments(photos)

    taken = commands.add_parser("import", help="make a published file of weights a model", allow_abbrev=False)
    taken.set_defaults(command=weights_cli.import_file)
    weights_cli.add_import(taken)
    given = commands.add_parser("export", help="write a model as its authors' code reads it", allow_abbrev=False)
    given.set_defaults(command=_export)
    weights_cli.add_export(given)

    models = commands.add_parser("models", help="list the trained models", allow_abbrev=False)
    models.set_defaults(command=_models)
    models.add_argument("--results", type=Path, default=RESULTS, help="folder to look in (default: %(default)s)")
    models.add_argument("--json", action="store_true", help="for programs")

    data_cli.add_parser(commands.add_parser("data", help="list, show, check, fetch data sets", allow_abbrev=False))

    doctor = commands.add_parser("doctor", help="check this machine and the data", allow_abbrev=False)
    doctor.set_defaults(command=_doctor)
    doctor.add_argument("--json", action="store_true", help="for programs")
    return parser


# restore


def _restore(arguments: argparse.Namespace) -> int:
    return restore_cli.restore(arguments, find_model)


def _export(arguments: argparse.Namespace) -> int:
    return weights_cli.export(arguments, find_model)


def find_model(name: str, results: Path = RESULTS) -> Path:
    """The path of a model given as a path or as a model id below `results`, each with or without @variant.

    Raises:
        AirpipeError: neither exists; says which models there are.
    """
    plain, at, variant = name.rpartition("@")
    for place, rest in ((name, ""), (plain, f"@{variant}")) if at else ((name, ""),):
        for path in (Path(place), results / place):
            if place and path.exists():
                return path.with_name(path.name + rest)
    known = [name for card in list_models(results) for name in _ids(card)]
    hint = f"Models here: {', '.join(known)}" if known else f"No models below {results}: {HOW_TO_TRAIN}"
    raise AirpipeError(f"no model {name!r}, as a path or below {results}. {hint}")


# models


def list_models(results: Path) -> list[dict[str, Any]]:
    """Every exported model below a folder, sorted by id; those in `state` folders are not exported.

    Returns:
        model, network, parameters, scale, step, finished (None where the card does not say), variants (names),
        and problem: None, or why the card cannot be read.
    """
    found = []
    for folder, below, files in os.walk(results):
        below[:] = [name for name in below if name != "state" and not name.startswith(("state.", "."))]
        if {"card.json", "model.safetensors"} <= set(files):
            found.append(_read_model(Path(folder), results))
    return sorted(found, key=lambda model: str(model["model"]))


def _read_model(folder: Path, results: Path) -> dict[str, Any]:
    columns = ("parameters", "scale", "step", "finished")
    model: dict[str, Any] = {"model": folder.relative_to(results).as_posix(), "network": None, "variants": []}
    try:
        card = read_card(folder / CARD)
        model["network"], model["variants"] = card["network"]["name"], list(card.get("variants") or ())
        model |= {name: card.get(name) for name in columns} | {"problem": None}
        return model if model["scale"] else model | {"scale": _frozen_scale(folder / "config.yaml")}
    except AirpipeError as error:
        problem = f"card.json cannot be read ({error})"
        return model | dict.fromkeys(columns) | {"problem": problem}


def _frozen_scale(config: Path) -> str | None:
    """The scale that a stage was trained at, from the settings frozen beside it."""
    from airpipe.settings.base import read_yaml

    return read_yaml(config).get("scale") if config.is_file() else None


def _models(arguments: argparse.Namespace) -> int:
    models = list_models(arguments.results)
    if arguments.json:
        print(json.dumps(models, indent=2))
    elif not models:
        print(f"no models below {arguments.results}: {HOW_TO_TRAIN}")
    else:
        header = ("model", "network", "parameters", "scale", "step", "finished")
        listed = [model | {"model": name} for model in models for name in _ids(model)]
        rows = [header, *(tuple(_cell(model, name) for name in header) for model in listed)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for model in models:
            if model["problem"]:
                print(f"{model['model']}: {model['problem']}")
    return 0


def _ids(model: dict[str, Any]) -> list[str]:
    """Id of a model, and those of its variants."""
    return [model["model"], *(f"{model['model']}@{variant}" for variant in model["variants"])]


def _cell(model: dict[str, Any], name: str) -> str:
    value = model[name]
    if value is None:
        return "unreadable" if name == "network" else "-"
    return f"{value:,}" if isinstance(value, int) else str(value)


# doctor


@dataclass(frozen=True)
class Check:
    """One line of `airpipe doctor`."""

    state: Literal["ok", "note", "problem"]
    what: str
    found: str
    remedy: str = ""


def _doctor(arguments: argparse.Namespace) -> int:
    checks = [_check_python(), *_check_torch(), _check_slurm(), *_check_results(RESULTS)]
    checks += [*_check_dvc(RESULTS), *_check_locks(SNAKEMAKE), *_check_data()]
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{check.state:<8} {check.what}: {check.found}" + (f". {check.remedy}" if check.remedy else ""))
    return 1 if any(check.state == "problem" for check in checks) else 0


def _check_python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return Check("ok", "Python", found)
    return Check("problem", "Python", found, "Install 3.11 or newer, then `make clean setup PY=python3.11`")


def _check_torch() -> list[Check]:
    if importlib.util.find_spec("torch") is None:
        return [
            Check(
                "problem",
                "torch",
                "not installed",
                "Run `make setup`; tables and figures alone do not need it",
            )
        ]
    version = Check("ok", "torch", importlib.metadata.version("torch"))
    import torch

    if not torch.cuda.is_available():
        remedy = "Fine at demo scale; with an NVIDIA GPU here, `make clean setup TORCH=cuda`"
        return [version, Check("note", "GPU", "none that torch can use", remedy)]
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [version, Check("ok", "GPU", ", ".join(names))]


def _check_slurm() -> Check:
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        return Check("note", "Slurm", "no sbatch on PATH", "Needed only for `snakemake --profile slurm`")
    return Check("ok", "Slurm", sbatch)


def _check_results(results: Path) -> list[Check]:
    """Room and right to write in the folder, or where it would be made."""
    place = nearest(results)
    free = shutil.disk_usage(place).free / 1e9
    remedy = "" if free >= FREE_GB else f"Less than {FREE_GB} GB: free some, or link results/ to a larger disk"
    room = Check("ok" if free >= FREE_GB else "note", "disk", f"{free:.0f} GB free for {results}/", remedy)
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return [room, Check("ok", "results", f"{place} can be written")]
    return [
        room,
        Check("problem", "results", f"{place} cannot be written", "Change its permissions or work elsewhere"),
    ]


def _check_dvc(results: Path) -> list[Check]:
    """DVC takes no outputs behind a link that leads out of its repository."""
    if not (results.is_symlink() and Path("dvc.yaml").is_file()):
        return []
    remedy = (
        f"`dvc repro` refuses its outputs there. To use DVC, make {results}/ a folder and link the large folders in it "
        f"instead ({results}/<method>, {results}/restored), or move the whole checkout; Snakemake works either way"
    )
    return [Check("note", "DVC", f"{results} is a link to {results.resolve()}", remedy)]


def _check_locks(snakemake: Path) -> list[Check]:
    """Locks of Snakemake that a killed one may have left."""
    left = left_locks(snakemake)
    if not left.files:
        return []
    if left.stale:
        remedy = "The next `snakemake` removes them; `snakemake --unlock` does so now"
        return [Check("note", "Snakemake", "locks of one that died on this host", remedy)]
    if left.alone:
        hosts = ", ".join(sorted(left.hosts - {UNKNOWN})) or "an unknown host"
        remedy = "If no Snakemake works on this folder any more: `snakemake --unlock`"
        return [Check("note", "Snakemake", f"locks of a run on {hosts}", remedy)]
    return [Check("ok", "Snakemake", "at work in this folder")]


def _check_data() -> list[Check]:
    """The data sets of config/datasets.yaml that are here, where there is one."""
    if not data_cli.REGISTRY.is_file():
        remedy = "Run this in a checkout to have its data sets checked"
        return [Check("note", "data", f"no {data_cli.REGISTRY} here", remedy)]
    try:
        registry = data_cli.load_registry()
    except AirpipeError as error:
        return [Check("problem", "data", str(error), f"Mend {data_cli.REGISTRY}")]
    checks = [_check_embedded(name, entry) for name, entry in registry.items() if entry.packages]
    folders = {name: data_cli.folder_of(name, entry) for name, entry in registry.items() if not entry.embedded}
    checks += [Check("ok", f"data set {name}", str(folder)) for name, folder in folders.items() if folder.is_dir()]
    away = [name for name, folder in folders.items() if not folder.is_dir()]
    checks += [_check_away(name, registry[name]) for name in away if registry[name].root]
    others = len(away) - sum(1 for name in away if registry[name].root)
    remedy = "Fine: they are fetched when needed; `airpipe data list` names them"
    return [*checks, Check("note", "other data sets", f"{others} of the registry are not here", remedy)]


def _check_embedded(name: str, dataset: Any) -> Check:
    from airpipe.data.packages import locate
    from airpipe.provenance import sha256_file

    bad = []
    for file in dataset.packages:
        wanted = [(file.path, file.sha256)] + ([(file.depth, file.depth_sha256)] if file.depth else [])
        for path, digest in wanted:
            try:
                if digest is not None and sha256_file(locate(f"{file.package}:{path}")) != digest:
                    bad.append(f"{file.package}:{path} has another sha256")
            except (AirpipeError, OSError) as error:
                bad.append(str(error))
    if bad:
        found = f"{len(bad)} files missing or changed, first: {bad[0]}"
        return Check("problem", f"data set {name}", found, "Install the pinned versions again: `make clean setup`")
    return Check("ok", f"data set {name}", f"{len(dataset.packages)} embedded photographs, checksums right")


def _check_away(name: str, dataset: Any) -> Check:
    home = f" (see {dataset.home})" if dataset.home else ""
    remedy = f"Needed only where it is used: put it there{home}, or change root in config/datasets.yaml"
    return Check("note", f"data set {name}", f"no folder {expanded(dataset.root)}", remedy)


if __name__ == "__main__":
    sys.exit(main())
