"""`airpipe import` and `airpipe export`: published files of weights in and out."""

import argparse
from collections.abc import Callable
from pathlib import Path

from airpipe.errors import AirpipeError
from airpipe.registry import part_options

KINDS = ("published", "model")
"""What an export writes: a file in the original key layout, or a model folder of ours."""


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add the options of `airpipe import` to a parser."""
    parser.add_argument("file", type=Path, help="published file: .pth, .pt, .ckpt, .bin or .safetensors")
    parser.add_argument("--as", dest="network", help="network it has to be; default: found from names and shapes")
    parser.add_argument("--name", help="a-z, 0-9, _ (default: from the file's name)")
    parser.add_argument("--output", type=Path, help="folder (default: results/imported/<name>)")
    parser.add_argument("--key", help="container or prefix that holds the weights, such as params or state_dict.net")
    parser.add_argument("--argument", action="append", default=[], metavar="NAME=VALUE", help="of the network")
    parser.add_argument("--partial", action="store_true", help="allow missing and unexpected entries")
    parser.add_argument("--method", default="imported", help="whose printed numbers belong to it (default: none)")
    parser.add_argument("--setting", help="of that method, such as nafnet_5d")
    for role, text in part_options().items():
        parser.add_argument(f"--{role}", type=Path, help=text)
    parser.add_argument("--report", action="store_true", help="only tell every entry and what would become of it")
    parser.add_argument("--overwrite", action="store_true", help="replace what exists")


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the options of `airpipe export` to a parser."""
    parser.add_argument("model", help="a model id that `airpipe models` lists, or a model's folder or file")
    parser.add_argument("target", type=Path, metavar="OUT", help="file to write, such as net.pth; of a model: a folder")
    parser.add_argument(
        "--to",
        choices=KINDS,
        default=KINDS[0],
        help="published: the original key layout; model: one of its own, such as one @variant (default: %(default)s)",
    )
    add_layout(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace what exists")


def add_layout(parser: argparse.ArgumentParser) -> None:
    """Add the options of published files to a parser."""
    parser.add_argument("--layout", help="of an export: which, where a network has several (nafnet: megvii, milab)")
    parser.add_argument("--bare", action="store_true", help="of an export: without the container params")


def import_file(arguments: argparse.Namespace) -> int:
    """Import a published file as a model folder, or only report what would become of it.

    Args:
        arguments: what a parser with `add_import` read.

    Raises:
        AirpipeError: as `airpipe.weights.importing.import_published`.
    """
    from airpipe.weights import importing

    options = importing.ImportOptions(
        network=arguments.network,
        key=arguments.key,
        arguments=importing.network_arguments(arguments.argument),
        partial=arguments.partial,
        method=arguments.method,
        setting=arguments.setting,
        parts={role: file for role in part_options() if (file := getattr(arguments, role)) is not None},
    )
    if arguments.report:
        found = importing.read_all(arguments.file, options)
        print("\n".join([*importing.table(found), *importing.describe(found)]))
        return 0
    folder = arguments.output or Path("results/imported") / importing.import_name(arguments.file, arguments.name)
    found = importing.import_published(arguments.file, folder, options, arguments.overwrite)
    print("\n".join([*importing.describe(found), f"-> {folder} ({importing.how_to_use(found, folder)})"]))
    return 0


def export(arguments: argparse.Namespace, find_model: Callable[[str], Path] = Path) -> int:
    """Write a model in its published layout, or as a model of its own.

    Args:
        arguments: what a parser with `add_export` read.
        find_model: gives the path of a model by the name that the user typed.

    Raises:
        AirpipeError: as `export_published` and `export_model` of `airpipe.weights.importing`.
    """
    from airpipe.weights import importing

    model = find_model(arguments.model)
    if arguments.to not in KINDS:
        raise AirpipeError(f"--export {arguments.to}: expected --export published OUT.pth or --export model FOLDER")
    if arguments.to == "model":
        importing.export_model(model, arguments.target, arguments.overwrite)
        print(f"{model} -> {arguments.target}")
        return 0
    layout, overwrite = arguments.layout, arguments.overwrite
    count = importing.export_published(model, arguments.target, layout, overwrite, bare=arguments.bare)
    print(f"{model}: {count} entries -> {arguments.target}")
    return 0
