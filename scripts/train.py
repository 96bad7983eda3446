"""Train one stage from its frozen config, or resume it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from airpipe.data.packs import usable_packs
from airpipe.data.pairs import read_pairs
from airpipe.errors import AirpipeError, run_main
from airpipe.registry import settings_class
from airpipe.settings.base import check_settings, read_yaml
from airpipe.training.run import PairLists, RunOptions, train_stage


def role_path(text: str) -> tuple[str, Path]:
    """Read an argument of the form name=path."""
    role, _, path = text.partition("=")
    if not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=path")
    return role, Path(path)


def pair_lists(
    files: list[Path],
    wanted: list[str],
    roots: dict[str, Path],
    packs: Sequence[Path] = (),
    manifests: Sequence[Path] = (),
) -> PairLists:
    """Read the pair lists that the frozen config names, in its order; one that is packed is not read."""
    by_id = {file.stem: file for file in files}
    missing = [name for name in wanted if name not in by_id]
    if missing:
        raise AirpipeError(f"the frozen config names pair list {missing[0]!r}; given: {', '.join(by_id) or 'none'}")
    packed = usable_packs([by_id[name] for name in wanted], packs)
    unpacked = [name for name in dict.fromkeys(wanted) if name not in packed]
    lists = {name: read_pairs(by_id[name], roots.get(name.split(".")[0])) for name in unpacked}
    known = {file.stem: file for file in manifests}
    whole = {name: name.removesuffix("_noleak") for name in by_id}  # a list without leaks has its split's manifest
    sizes = {name: known[split] for name, split in whole.items() if split in known}
    return PairLists([by_id[name] for name in wanted], [lists.get(name, []) for name in wanted], packed, sizes)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="frozen config.yaml")
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="pair lists of the mix")
    parser.add_argument("--val", type=Path, nargs="*", default=[], help="pair lists for validation")
    parser.add_argument("--packs", type=Path, nargs="*", default=[], help="JSON files of pack_dataset.py")
    parser.add_argument("--manifests", type=Path, nargs="*", default=[], help="where the sizes of the images stand")
    parser.add_argument("--root", type=role_path, action="append", default=[], help="dataset=folder; none: embedded")
    parser.add_argument("--parent", type=role_path, action="append", default=[], help="role=model.safetensors")
    parser.add_argument("--workdir", type=Path, required=True, help="stage folder")
    parser.add_argument("--resume", type=Path, help="a checkpoint, instead of the newest in state/")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs per node; 0: CPU")
    parser.add_argument("--processes", type=int, default=1, help="processes per node on the CPU")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--degrade", choices=["loader", "device"], default="loader", help="where samples are degraded")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0)
    parser.add_argument("--attempt", type=int, default=1, help="counted up by the workflow's retries")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    values = read_yaml(given.config)
    settings = check_settings(settings_class(str(values.get("task"))), values, str(given.config))
    roots = dict(given.root)
    options = RunOptions(
        workdir=given.workdir,
        gpus=given.gpus,
        processes=given.processes,
        nodes=given.nodes,
        threads=given.threads,
        workers=given.workers,
        degrade=given.degrade,
        checkpoint_seconds=given.checkpoint_seconds,
        attempt=given.attempt,
        resume=given.resume,
        parents=dict(given.parent),
    )
    train = pair_lists(given.train, [part.pairs for part in settings.data], roots, given.packs, given.manifests)
    validation = pair_lists(
        given.val, [part.pairs for part in settings.validation.data], roots, manifests=given.manifests
    )
    train_stage(settings, train, validation, options)


if __name__ == "__main__":
    run_main(main)
