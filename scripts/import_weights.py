"""Import a published weights file as results/imported/<name>, or export a model in its published layout."""

import argparse
from pathlib import Path

from airpipe.errors import AirpipeError, run_main
from airpipe.weights.importing import (
    ImportOptions,
    describe,
    export_model,
    export_published,
    how_to_use,
    import_name,
    import_published,
    network_arguments,
    part_options,
    read_all,
    table,
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("file", type=Path, help=".pth, .pt, .ckpt, .bin or .safetensors; with --export: a model")
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
    parser.add_argument(
        "--export",
        nargs=2,
        metavar=("KIND", "OUT"),
        help="published OUT.pth: the original key layout; model FOLDER: a model of its own, such as one @variant",
    )
    parser.add_argument("--layout", help="with --export: which, where a network has several (nafnet: milab, megvii)")
    parser.add_argument("--bare", action="store_true", help="with --export: without the container params")
    parser.add_argument("--overwrite", action="store_true", help="replace what exists")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.export:
        kind, target = given.export
        if kind == "model":
            export_model(given.file, Path(target), given.overwrite)
            print(f"{given.file} -> {target}")
            return
        if kind != "published":
            raise AirpipeError(f"--export {kind}: expected --export published OUT.pth or --export model FOLDER")
        count = export_published(given.file, Path(target), given.layout, given.overwrite, bare=given.bare)
        print(f"{given.file}: {count} entries -> {target}")
        return
    options = ImportOptions(
        network=given.network,
        key=given.key,
        arguments=network_arguments(given.argument),
        partial=given.partial,
        method=given.method,
        setting=given.setting,
        parts={role: file for role in part_options() if (file := getattr(given, role)) is not None},
    )
    if given.report:
        found = read_all(given.file, options)
        print("\n".join([*table(found), *describe(found)]))
        return
    folder = given.output or Path("results/imported") / import_name(given.file, given.name)
    found = import_published(given.file, folder, options, given.overwrite)
    print("\n".join([*describe(found), f"-> {folder} ({how_to_use(found, folder)})"]))


if __name__ == "__main__":
    run_main(main)
