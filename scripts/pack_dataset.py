"""Decode the images of a pair list once, into a memory-mapped pack; or verify a pack."""

import argparse
from pathlib import Path

from airpipe.data.packing import pack_pairs, tell_old_packs
from airpipe.data.packs import Pack
from airpipe.errors import AirpipeError, run_main
from airpipe.provenance import sha256_file, write_json


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("list", nargs="?", help="dataset.split")
    parser.add_argument("--pairs", type=Path, help="pair list, <dataset>.<split>.csv")
    parser.add_argument("--manifest", type=Path, help="of the list's files")
    parser.add_argument("--root", type=Path, help="the data set's folder")
    parser.add_argument("--packed", type=Path, default=Path("resources/packed"), help="folder of all packs")
    parser.add_argument("--output", type=Path, help="JSON that says where the pack is")
    parser.add_argument("--threads", type=int, default=1, help="processes that decode")
    parser.add_argument("--off", action="store_true", help="make no pack; write that down")
    parser.add_argument("--verify", type=Path, metavar="FOLDER", help="compare a whole pack with its checksums")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.verify:
        pack = Pack.open(given.verify)
        pack.verify()
        print(f"{given.verify}: {pack.images} images of {len(pack)} pairs are as they were packed")
        return
    if given.pairs is None or given.output is None:
        raise AirpipeError("give a list with --pairs and --output, or --verify FOLDER; see --help")
    if given.list != given.pairs.stem:
        raise AirpipeError(f"{given.pairs}: is not the pair list {given.list}. Expected --pairs .../{given.list}.csv")
    if given.off:
        facts = {"list": given.list, "pairs_sha256": sha256_file(given.pairs), "folder": None, "bytes": 0}
        write_json(given.output, facts)
        print(f"{given.list}: pack: off")
        return
    if given.manifest is None or given.root is None:
        raise AirpipeError("give --manifest and --root of the pair list, or --off; see --help")
    facts = pack_pairs(given.pairs, given.manifest, given.root, given.packed, given.threads)
    write_json(given.output, facts)
    tell_old_packs(given.list, given.packed, given.output.parent)
    print(f"{given.list}: {facts['images']} images in {facts['folder']}, {facts['seconds']} s")


if __name__ == "__main__":
    run_main(main)
