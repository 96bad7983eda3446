"""Published weights in, published weights out: `results/imported/<name>` and back to the original key layout."""

import datetime as dt
import logging
import math
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from airpipe import __version__
from airpipe.errors import AirpipeError
from airpipe.models.contract import Network, image_channels, no_restorer, pads_itself, takes_reference
from airpipe.models.cost import network_cost
from airpipe.provenance import atomic_path, git_state, library_versions, sha256_file, write_failed
from airpipe.registry import assemblies, assembling_function
from airpipe.settings.names import IMPORTED
from airpipe.weights.checkpoints import load_model, save_model
from airpipe.weights.containers import choices
from airpipe.weights.published import Published, read_published
from airpipe.weights.unsaid import unsaid

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import: what a user says about a published file. None and empty values: as found in the file."""

    network: str | None = None
    """Registered network that it has to be; None: the first that fits."""
    key: str | None = None
    """Container of the weights in the file, see `read_weights`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Constructor arguments that shapes cannot tell, or tell wrongly."""
    partial: bool = False
    """Whether missing and unexpected entries are allowed."""
    method: str = IMPORTED
    """The registered method whose printed numbers belong to these weights, for tables."""
    setting: str | None = None
    """Setting of that method, for tables: "nafnet_5d"; None: the name of the import."""
    parts: Mapping[str, Path] = field(default_factory=dict)
    """Further files of the same network, by their roles (`part_options`); all together become one network."""


def import_name(file: Path, name: str | None) -> str:
    """Return the name of an import: as given, or made from the file's name.

    Raises:
        AirpipeError: the name has other characters than a-z, 0-9 and _.
    """
    made = name or re.sub(r"[^a-z0-9]+", "_", file.stem.lower()).strip("_")
    if not re.fullmatch(r"[a-z0-9_]+", made):
        raise AirpipeError(f"{made!r} cannot name a model: use a-z, 0-9 and _ only (--name my_restormer)")
    return made


def network_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Read constructor arguments from words NAME=VALUE, with values as YAML writes them.

    Raises:
        AirpipeError: a word that is not NAME=VALUE, a value that is no YAML, or a number that is not finite.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise AirpipeError(f"--argument {text}: expected NAME=VALUE, such as global_residual=false")
        try:
            found[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = getattr(error, "problem", None) or error
            raise AirpipeError(
                f"--argument {text}: the value is no YAML ({reason}). Write 3, 0.5, true, text or [1, 2]"
            ) from None
        if not _finite(found[name]):
            raise AirpipeError(f"--argument {text}: expected finite numbers")
    return found


def _finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def import_published(file: Path, folder: Path, options: ImportOptions, overwrite: bool = False) -> Published:
    """Turn a published file into a model folder of ours: `model.safetensors` and `card.json`.

    Args:
        file: the published file, of torch or safetensors.
        folder: the folder to make, usually results/imported/<name>; its name is the model's.
        options: what the user says about the file.
        overwrite: whether to replace a folder that is there.

    Returns:
        What was read, for `describe`.

    Raises:
        AirpipeError: as `read_all`; or the folder exists or cannot be written. Nothing is left half-written.
    """
    if folder.exists() and not overwrite:
        raise AirpipeError(f"{folder}: exists already. Add --overwrite to replace it, or choose another --name")
    if folder.exists() and not (folder / "card.json").is_file():
        raise AirpipeError(f"{folder}: exists and is no model folder, so it is not replaced. Choose another --name")
    found = read_all(file, options)
    card = _card(found, folder.name, options)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # beside the folder, on the same file system: only there a rename moves it at once
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise write_failed(folder, error) from None
    try:
        save_model(temporary / "new", found.network, card)
        _replace(folder, temporary / "new", temporary / "old")
    except OSError as error:
        raise write_failed(folder, error) from None
    finally:
        if folder.exists() or not (temporary / "old").exists():  # never the only copy
            shutil.rmtree(temporary, ignore_errors=True)
    return found


def read_all(file: Path, options: ImportOptions) -> Published:
    """Read a published file and the others that belong to it, as one network.

    A method whose network comes in several files says which (`registry.Assembly`). Its function is called with the
    first file, the others by their roles (some may be missing) and the options, and returns a `Published` that has
    `first` and `parts`.

    Raises:
        AirpipeError: as `read_published` and the method's function; or the roles belong to several methods, or
            to none.
    """
    if not options.parts:
        return read_published(file, options.network, options.key, options.arguments, options.partial)
    wanted = {
        name: [role for role in assembly.roles if role in options.parts] for name, assembly in assemblies().items()
    }
    wanted = {name: roles for name, roles in wanted.items() if roles}
    if len(wanted) != 1 or len(*wanted.values()) < len(options.parts):
        meant = [assembly for name, assembly in assemblies().items() if name in wanted]
        told = ", ".join(f"{_flags(one.roles)} with {one.first}" for one in meant or assemblies().values())
        raise AirpipeError(f"{_flags(options.parts)} are no files of one network: found {told}. Leave one out")
    [name] = wanted
    found: Published = assembling_function(name)(file, options.parts, options)
    return found


def _flags(roles: Iterable[str]) -> str:
    return " and ".join(f"--{role}" for role in roles)


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Move `new` to `folder`, what was there to `old`, and that back again when the first fails."""
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise


def _card(found: Published, name: str, options: ImportOptions) -> dict[str, Any]:
    weights = found.weights
    # the keys of a trained model's card; None where a published file does not say it
    return {
        "schema_version": 1,
        "model": f"{IMPORTED}/{name}",
        "method": options.method,
        "stage": IMPORTED,
        "setting": options.setting or name,
        "scale": "published",
        "seed": None,
        "network": {"name": found.name, "arguments": found.arguments},
        "variants": dict(found.variants),
        "settings_hash": None,
        "revision": None,
        "parents": [],
        "weights": "ema" if weights.average else "raw",
        "step": None,
        "pairs": [],
        "package": f"airpipe {__version__}",
        "git": git_state(),
        "libraries": library_versions(),
        "device": None,
        "threads": None,
        "world_size": None,
        "precision": None,
        "wall_s": None,
        "gpu_hours": None,
        **network_cost(found.name, found.arguments),
        "started": None,
        "finished": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "imported": {
            "file": weights.file.name,
            "sha256": sha256_file(weights.file),
            "container": weights.container,
            "other_containers": list(weights.others),
            "prefix": weights.prefix,
            "layout": found.layout,
            "form": found.form.name if found.form else None,
            "left_out": list(weights.left_out),
            "counters": list(weights.counters),
            "dtypes": found.dtypes,
            "also": list(found.also),
            "partial": options.partial,
            "assumed": (found.first.assumed if found.first else {}) | found.assumed,
            **({"parts": {role: _file_facts(part) for role, part in found.parts.items()}} if found.parts else {}),
            "keys": found.report.facts(),
        },
    }


def _file_facts(part: Published) -> dict[str, Any]:
    """Facts of a further file, for the card."""
    file = part.weights.file
    return {
        "file": file.name,
        "sha256": sha256_file(file),
        "container": part.weights.container,
        "assumed": part.assumed,
        "keys": part.report.facts(),
    }


def describe(found: Published) -> list[str]:
    """Describe what was read, what was left out and why: lines for the terminal, file by file."""
    lines = []
    if found.first is not None:
        lines = [f"{len(found.files())} files make one network: {_called(found)}", *_assumed(found)]
    return [*lines, *(line for file in found.files() for line in _of_file(file))]


def _of_file(found: Published) -> list[str]:
    weights, report = found.weights, found.report
    lines = [f"{weights.file}: {_called(found)}"]
    source = "the outermost level" if weights.container == "." else weights.container
    others = f"; not taken: {choices(list(weights.others), '--key {}')}" if weights.others else ""
    lines.append(f"weights from {source}{', an average over training (EMA)' * weights.average}{others}")
    if weights.prefix:
        lines.append(f"prefix removed from every name: {weights.prefix}")
    lines.append(f"{len(report.matched)} entries matched")
    if report.dropped:
        lines.append(
            f"{len(report.dropped)} dropped knowingly: {_named(report.dropped)} (computed here, or never used)"
        )
    if weights.counters:
        lines.append(f"{len(weights.counters)} counters of profilers and averages left out: {_named(weights.counters)}")
    if weights.left_out:
        lines.append(f"{len(weights.left_out)} entries that are no tensors left out: {_named(weights.left_out)}")
    converted = {kind: count for kind, count in found.dtypes.items() if kind != "float32"}
    lines += [f"note: {count} tensors converted from {kind} to float32" for kind, count in converted.items()]
    if report.missing:
        lines.append(f"{len(report.missing)} missing, left at their initial values: {', '.join(report.missing)}")
    if report.unexpected:
        lines.append(f"{len(report.unexpected)} unexpected, not used: {', '.join(report.unexpected)}")
    if found.also:
        lines.append(f"note: the same names and shapes fit {', '.join(found.also)}, too; choose with --as")
    lines += _assumed(found)
    if reason := no_restorer(found.network):
        lines.append(f"note: restores no image: {reason}")
    elif image_channels(found.network) == 1:
        lines.append("note: restores grey pictures: images have 1 channel")
    return lines


def _called(found: Published) -> str:
    return f"{found.name}({', '.join(f'{option}={value}' for option, value in found.arguments.items())})"


def _assumed(found: Published) -> list[str]:
    told = dict(found.form.arguments) if found.form else {}
    lines = [
        f"note: no shape tells {name}; {value} is used (--argument {name}=...)"
        for name, value in found.assumed.items()
        if name not in told
    ]
    if found.form:
        used = ", ".join(f"{name}={value}" for name, value in told.items())
        lines.append(f"note: {found.form.name}: {used} (--argument {next(iter(told))}=... for another)")
    return lines


def how_to_use(found: Published, folder: Path) -> str:
    """Say what an imported model is good for: the command that restores with it, or what else it is."""
    if no_restorer(found.network):
        return f"a parent for training: imported/{folder.name}"
    shown = " --reference FILE" if takes_reference(found.network) else ""
    also = "; of colour photos the brightness: --luma" if image_channels(found.network) == 1 else ""
    return f"airpipe restore PHOTO{shown} -m {folder}{also}"


def table(found: Published) -> list[str]:
    """List every entry of the files, one line each: published name, own name, shape, type."""
    return [line for file in found.files() for line in _entries(file)]


def _entries(found: Published) -> list[str]:
    report = found.report
    states = {**report.matched, **dict.fromkeys(report.dropped, "dropped"), **dict.fromkeys(report.unexpected, "?")}
    entries = found.weights.tensors
    rows = [
        (name, own, "x".join(map(str, entries[name].shape)) or "1", str(entries[name].dtype).removeprefix("torch."))
        for name, own in states.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    padded = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
    return [*padded, *(f"{name}  missing" for name in report.missing)]


def _named(names: tuple[str, ...]) -> str:
    """Names with their numbers taken together: `layers.*.attn_mask (27)`."""
    counts = Counter(re.sub(r"\d+", "*", name) for name in names)
    shown = [f"{kind} ({count})" if count > 1 else kind for kind, count in list(counts.items())[:6]]
    return ", ".join(shown) + (", ..." if len(counts) > 6 else "")


def export_model(model: Path, folder: Path, overwrite: bool = False) -> None:
    """Write a model, or one variant of it, as a model folder of its own: weights, and a card that names this network.

    Args:
        model: a path that `load_model` takes.
        folder: folder to make.
        overwrite: whether to replace the model in it.

    Raises:
        AirpipeError: no such model, or a folder that exists or cannot be written.
    """
    if folder.exists() and not overwrite:
        raise AirpipeError(f"{folder}: exists already. Add --overwrite to replace it")
    loaded = load_model(model)
    cost = network_cost(**loaded.card["network"])  # a variant has another one than its card says
    save_model(folder, loaded.network, {**loaded.card, **cost, "variants": {}})


def export_published(
    model: Path,
    target: Path,
    layout: str | None = None,
    overwrite: bool = False,
    buffers: bool = True,
    bare: bool = False,
) -> int:
    """Write a model's weights in the original key layout, in the container of published files (mostly `params`).

    Settings that the file cannot carry, and that its readers take otherwise, are logged as warnings with the difference
    that they make, see `unsaid`.

    Args:
        model: a path that `load_model` takes.
        target: .pth file to write.
        layout: which published layout, for networks that have several; None: that of the file which the model was
            imported from, else the usual one.
        overwrite: whether to replace a file that is there.
        buffers: whether to write the computed buffers that published files store, too; strict loading needs them.
        bare: whether to save the state dict itself, without container, as some published code does.

    Returns:
        Number of entries, buffers included.

    Raises:
        AirpipeError: no such model, a network without a published layout, or a file that exists
            or cannot be written.
    """
    if target.exists() and not overwrite:
        raise AirpipeError(f"{target}: exists already. Add --overwrite to replace it")
    loaded = load_model(model)
    network, name = loaded.network, loaded.card["network"]["name"]
    if not isinstance(network, Network) or not network.PUBLISHED_LAYOUTS:
        raise AirpipeError(f"{model}: {name} has no published layout; use its model.safetensors as it is")
    layouts = network.PUBLISHED_LAYOUTS
    if layout is not None and layout not in layouts:
        has = f"has {', '.join(layouts)}" if len(layouts) > 1 else "has one layout only: leave --layout out"
        raise AirpipeError(f"{model}: no layout {layout!r}: {name} {has}")
    layout = layout or (loaded.card.get("imported") or {}).get("layout") or ""
    state = network.published_state(buffers, layout)
    # clones, because torch.save writes the whole storage behind a view
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    with atomic_path(target) as temporary, temporary.open("wb") as stream:
        torch.save(plain if bare else {network.PUBLISHED_CONTAINER: plain}, stream)
    lines = unsaid(name, loaded.card["network"]["arguments"], plain)
    if pads_itself(network) and network.published_layout(layout) in network.UNPADDED_LAYOUTS:
        lines.append(
            f"the published class takes sides that are multiples of {network.size_multiple} only. Pad other images by "
            "reflection at right and bottom and crop the result, as the published runner and airpipe do"
        )
    for line in lines:
        log.warning("%s: %s", target, line)
    return len(plain)
