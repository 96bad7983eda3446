"""`airpipe restore`: photos, folders and patterns in; restored photos out, and every failure told."""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from airpipe.errors import AirpipeError
from airpipe.links import link_problem, walk

if TYPE_CHECKING:
    import torch

    from airpipe.evaluation.restore import RestoredFile
    from airpipe.pixels import Pixels
    from airpipe.weights.checkpoints import LoadedModel

Report = Callable[[int, int], None]
"""A function that is called with (tiles done, tiles in all)."""
SECONDS = 10.0
"""Least time between two plain lines of progress."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `airpipe restore` to a parser."""
    parser.add_argument(
        "photos",
        nargs="+",
        metavar="PHOTO",
        help="PNG, JPEG, TIFF, WebP or BMP; a folder, searched to its depth; or a quoted pattern such as '*.jpg'",
    )
    _add_model(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE_OR_FOLDER",
        help="for one photo, a name with suffix is a file; else a folder (default: <photo>_restored beside the photo)",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--tile",
        type=_not_negative,
        default=512,
        help="largest side of a tile in pixels; smaller: less memory; 0: no tiles (default: %(default)s)",
    )
    size.add_argument(
        "--memory",
        type=_gigabytes,
        metavar="GB",
        help="choose the tile so that a pass needs about this much; photos that fit are not tiled",
    )
    parser.add_argument(
        "--overlap",
        type=_not_negative,
        default=32,
        help="pixels that neighbouring tiles share (default: %(default)s)",
    )
    parser.add_argument("--batch", type=_positive, default=1, help="tiles per pass (default: %(default)s)")
    parser.add_argument(
        "--self-ensemble", action="store_true", help="mean over eight flips and turns: better, eight times the work"
    )
    parser.add_argument(
        "--luma",
        action="store_true",
        help="with a model of grey pictures: restore the brightness of colour photos, whose colours (Cb, Cr) stay",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="a second image, whose degradation photos get from models that take one; of a large one its centre",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number> (default: %(default)s)")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files that exist; else a result of the same photo, model and options is skipped",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m",
        "--model",
        required=True,
        help="a model id that `airpipe models` lists, a stage folder, or a weights file (ours or published)",
    )
    variant = parser.add_mutually_exclusive_group()
    variant.add_argument(
        "--variant", metavar="NAME", help="which network, of a model that is several; the same as <model>@NAME"
    )
    variant.add_argument(
        "--budget",
        metavar="COST",
        help="what a megapixel may cost: 2s, 1.5GB or 800GMAC; takes the deepest variant that fits, measured here",
    )


def _not_negative(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return number


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def _gigabytes(text: str) -> float:
    try:
        size = float(text) * 1e9
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of gigabytes above 0")
    return size


def restore(arguments: argparse.Namespace, find_model: Callable[[str], Path]) -> int:
    """Restore all photos that a command line names.

    Args:
        arguments: what a parser with `add_arguments` read.
        find_model: gives the path of a model by the name that the user typed.

    Returns:
        Exit status: 0; 2 when a photo failed, which stops no other.

    Raises:
        AirpipeError: nothing can be done: no such model, variant or device, no variant that fits the budget, one file
            for several photos, or a reference that the model does not take, or a missing one.
    """
    output: Path | None = arguments.output
    photos, problems = find_photos(arguments.photos, output)
    in_folder = len(photos) + len(problems) > 1 or any(photo.below is not None for photo in photos)
    if output is not None and in_folder:
        _refuse_file(output)
    for problem in problems:
        _say_error(problem)
    if not photos:
        return 2
    from airpipe.evaluation.channels import check_restorer
    from airpipe.evaluation.guided import check_reference
    from airpipe.evaluation.restore import choose_device
    from airpipe.images import read_picture

    device = choose_device(arguments.device)  # before minutes are spent on loading
    reference = read_picture(arguments.reference).pixels if arguments.reference else None
    model = _load(arguments, find_model, device)
    check_restorer(model.network, arguments.luma)
    check_reference(model.network, *(reference.shape[:2] if reference is not None else ()))
    failed, skipped, kept = len(problems), 0, set[Path]()
    with _progress(len(photos)) as begin:
        for photo in photos:
            try:
                done = _restore_one(photo, model, arguments, reference, in_folder, kept, begin(photo.path.name))
            except AirpipeError as error:
                failed += 1
                _say_error(error)
                continue
            skipped += done.skipped
            kept.add(done.target.resolve())
            print(_describe(done), flush=True)
    total = len(photos) + len(problems)
    if skipped and total > 1:
        print(f"{skipped} of {total} photos were done already")
    if failed and total > 1:
        others = "none is restored" if failed == total else "the others are restored"
        _say_error(f"{failed} of {total} photos failed; {others}")
    return 2 if failed else 0


def _load(arguments: argparse.Namespace, find_model: Callable[[str], Path], device: "torch.device") -> "LoadedModel":
    """The model, in the variant that is named or that fits the budget; the latter is told."""
    from airpipe.evaluation.budget import Budget, choose_variant
    from airpipe.weights.checkpoints import load_model

    if arguments.budget is None:
        named = f"{arguments.model}@{arguments.variant}" if arguments.variant else arguments.model
        return load_model(find_model(named))
    budget, path = Budget.parse(arguments.budget), find_model(arguments.model)
    variant, cost = choose_variant(path, budget, device)
    print(f"{path}: variant {variant}, {cost:.4g} of {budget}", flush=True)
    return load_model(path, variant)


def _refuse_file(output: Path) -> None:
    from airpipe.images import SUFFIXES

    if not output.is_dir() and (output.exists() or output.suffix.lower() in SUFFIXES):
        raise AirpipeError(
            f"-o {output} is one file, but a folder, a pattern or several photos are given. Give a folder"
        )


def _say_error(error: object) -> None:
    print(f"airpipe: error: {error}", file=sys.stderr)


# Photos


@dataclass(frozen=True)
class Photo:
    """A file to restore."""

    path: Path
    below: Path | None = None
    """Folder of the file, counted from the folder or the pattern that it was found by; None: it was named itself."""
    result: bool = False
    """Whether it is taken for the result of an earlier run, and left out."""


def find_photos(names: Sequence[str], output: Path | None) -> tuple[list[Photo], list[AirpipeError]]:
    """Find the files that names, folders and patterns mean, each once; folders and patterns sorted.

    What folders and patterns find is left out when it is hidden, no image by its suffix, or, with a line on stderr,
    taken for a result: `*_restored.*`, or below the output folder. Links are followed.

    Args:
        names: a path, a folder (searched to its depth), or a pattern with * ? [ ] or **.
        output: where results go.

    Returns:
        The photos, and an error for every folder or pattern without any, and for every link that leads nowhere.
    """
    photos: dict[str, Photo] = {}
    problems = []
    for name in names:
        found = list(_expand(name, output))
        results = [one.path for one in found if isinstance(one, Photo) and one.result]
        if results:
            _say_results(name, results)
        if len(found) == len(results):
            problems.append(AirpipeError(f"{name}: holds no image to restore. Expected files of {_suffixes()}"))
        for one in found:
            if isinstance(one, AirpipeError):
                problems.append(one)
            elif not one.result:
                photos.setdefault(os.path.realpath(one.path), one)
    return list(photos.values()), problems


def _suffixes() -> str:
    from airpipe.images import SUFFIXES

    return ", ".join(SUFFIXES)


def _say_results(name: str, results: Sequence[Path]) -> None:
    print(
        f"{name}: {len(results)} files are left out as results (*_restored, or below -o), the first {results[0]}; "
        "name them to restore them again",
        file=sys.stderr,
    )


def _expand(name: str, output: Path | None) -> Iterator[Photo | AirpipeError]:
    """Photos that a name, folder or pattern means, results among them, and an error for what cannot be followed."""
    path = Path(name)
    if path.is_dir():
        failed: list[OSError] = []
        base, found = path, sorted((path / below, problem) for below, problem in walk(name, failed.append))
        yield from (AirpipeError(f"{error.filename}: cannot be listed ({error.strerror})") for error in failed)
    elif not path.exists() and has_magic(name):
        fixed = next(index for index, part in enumerate(path.parts) if has_magic(part))
        base = Path(*path.parts[:fixed])
        try:
            matched = sorted(base.glob(str(Path(*path.parts[fixed:]))))
        except ValueError as error:
            raise AirpipeError(f"{name}: not a pattern ({error}). Expected one such as 'photos/**/*.jpg'") from None
        found = [(one, link_problem(one)) for one in matched]
    else:
        yield Photo(path)  # one that is not there is told when its turn comes
        return
    for candidate, problem in found:
        inside = candidate.relative_to(base)
        if not _is_photo(inside, problem):
            continue
        if problem:
            yield AirpipeError(f"{candidate}: {problem}")
        elif candidate.is_file():
            result = inside.stem.endswith("_restored") or _is_below(candidate, output)
            yield Photo(candidate, inside.parent, result)


def _is_photo(inside: Path, problem: str) -> bool:
    """Whether a name is that of a photo; a link that leads nowhere may stand for a folder of photos as well."""
    from airpipe.images import SUFFIXES

    hidden = any(part.startswith(".") for part in inside.parts)
    return not hidden and (inside.suffix.lower() in SUFFIXES or bool(problem and not inside.suffix))


def _is_below(path: Path, output: Path | None) -> bool:
    return output is not None and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(output))


def _restore_one(
    photo: Photo,
    model: "LoadedModel",
    arguments: argparse.Namespace,
    reference: "Pixels | None",
    in_folder: bool,
    kept: set[Path],
    progress: Report,
) -> "RestoredFile":
    from airpipe.evaluation.restore import restore_file

    output: Path | None = arguments.output
    return restore_file(
        photo.path,
        output / (photo.below or Path()) if output is not None else None,
        model,
        device=arguments.device,
        in_folder=in_folder,
        overwrite=arguments.overwrite,
        skip_done=True,
        keep=kept,
        progress=progress,
        tile=arguments.tile,
        overlap=arguments.overlap,
        batch=arguments.batch,
        memory=arguments.memory,
        self_ensemble=arguments.self_ensemble,
        luma=arguments.luma,
        reference=reference,
    )


def _describe(done: "RestoredFile") -> str:
    from airpipe.resident import peak_bytes

    if done.skipped:
        return f"{done.source}: done already -> {done.target} (--overwrite makes it anew)"
    tiles = f"{done.tiles} tile{'s' if done.tiles > 1 else ''} of {done.tile_width}x{done.tile_height}"
    return (
        f"{done.source}: {done.width}x{done.height}, {tiles}, {done.seconds:.1f} s, "
        f"peak memory {round(peak_bytes() / 1e6)} MB -> {done.target}"
    )


# Progress


@contextmanager
def _progress(photos: int) -> Iterator[Callable[[str], Report]]:
    """Give a function that begins a photo. A terminal gets bars, a log a line at most every ten seconds; on stderr."""
    if not sys.stderr.isatty():
        yield _lines(photos)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bars:
        whole = bars.add_task("photos", total=photos, visible=photos > 1)
        one = bars.add_task("", total=None)
        begun = 0

        def begin(name: str) -> Report:
            nonlocal begun
            bars.update(whole, completed=begun)
            begun += 1
            bars.reset(one, description=name, total=None)
            return lambda done, total: bars.update(one, completed=done, total=total)

        yield begin


def _lines(photos: int) -> Callable[[str], Report]:
    last = time.monotonic()
    begun = 0

    def begin(name: str) -> Report:
        nonlocal begun
        begun += 1
        number = begun

        def say(done: int, total: int) -> None:
            nonlocal last
            if done < total and time.monotonic() - last >= SECONDS:
                last = time.monotonic()
                print(f"{name} ({number} of {photos}): {done} of {total} tiles", file=sys.stderr, flush=True)

        return say

    return begin
