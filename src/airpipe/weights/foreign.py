"""Reading weights files of others safely: what a file is, which container holds the weights, which prefix they have.

Tensors are all that is taken. Pickles go through torch's restricted reader only, also in the old
format: a file that needs code is refused without running it.
"""

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from airpipe.errors import AirpipeError

CONTAINERS = ("params_ema", "params", "state_dict", "model")
"""Keys under which published files keep the weights, in order of preference."""
PREFIXES = ("module.", "_orig_mod.", "net_g.", "net_dc.", "net.", "model.", "PretrainEncoder.", "Encoder.")
"""Prefixes that wrappers add to names (DataParallel, torch.compile, BasicSR, ...); stripped where all have one."""
TRAINING_STATE = {
    *("optimizer", "optimizers", "optimizer_states", "optimizer_state_dict", "optim", "param_groups"),
    *("scheduler", "schedulers", "lr_scheduler", "lr_schedulers", "callbacks", "loops", "scaler", "hyper_parameters"),
}
"""Keys of a checkpoint that hold the state of a training, no weights."""
TOP = "."
"""Value of `key` that means the outermost level of a file."""
UNREADABLE = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError),
    *(AttributeError, AssertionError, ArithmeticError, MemoryError),
)
"""Exceptions that torch raises on damaged files."""


@dataclass(frozen=True)
class Weights:
    """Tensors of a file, container and prefixes removed."""

    file: Path
    tensors: dict[str, Tensor]
    """Tensors on the CPU, by their names without prefixes."""
    container: str
    """Dotted path of the container that they come from; "." where there is none."""
    others: tuple[str, ...] = ()
    """Other containers in the file that hold tensors."""
    prefix: str = ""
    """Prefixes that were stripped from all names, joined."""
    left_out: tuple[str, ...] = ()
    """Entries of the container that are no tensors, such as `epoch`."""


def read_weights(file: Path, key: str | None = None) -> Weights:
    """Read the tensors of a `.safetensors` or torch file.

    Args:
        file: its content decides what it is, not its name.
        key: dotted path of the container, or of a prefix in it ("params", "state_dict.net"; "."
            for the outermost level); None: the first of `CONTAINERS`, or the only one.

    Raises:
        AirpipeError: the file is no model file, is damaged, holds no or several sets of weights, or is a
            pickle that needs code.
    """
    content = _content(Path(file))
    if not isinstance(content, Mapping):
        raise AirpipeError(f"{file}: holds a {type(content).__name__}. Expected a state dict: names and tensors")
    path, others = (key, []) if key is not None else _choose(content, file)
    chosen = _descend(content, path, file)
    tensors = {str(name): value for name, value in chosen.items() if isinstance(value, Tensor)}
    if not tensors:
        raise _no_tensors(content, path, file)
    for name, tensor in tensors.items():
        _check_plain(name, tensor, file)
    left_out = tuple(str(name) for name, value in chosen.items() if not isinstance(value, Tensor))
    tensors, prefix = strip_prefixes(tensors)
    return Weights(Path(file), tensors, path, tuple(others), prefix, left_out)


def read_own(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file that airpipe wrote, under their names as they are.

    Raises:
        AirpipeError: the file is damaged, or no weights file.
    """
    content = _content(file)
    if not isinstance(content, Mapping):
        raise AirpipeError(f"{file}: holds a {type(content).__name__}, no weights. Make or import the model again")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def strip_prefixes(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Remove the prefixes that every name has; return the tensors and the removed prefixes, joined."""
    stripped = ""
    while found := next((p for p in PREFIXES if all(name.startswith(p) and name != p for name in tensors)), None):
        tensors = {name.removeprefix(found): tensor for name, tensor in tensors.items()}
        stripped += found
    return tensors, stripped


def parts(names: Mapping[str, Any]) -> dict[str, int]:
    """Count entries by the first word of their names, the largest count first."""
    words = [name.split(".")[0] for name in names]
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


# Files


def _content(file: Path) -> Any:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise AirpipeError(f"{file}: cannot be read ({error.strerror}). Expected a weights file") from None
    if size == 0:
        raise AirpipeError(f"{file}: is empty. Copy or download it again")
    if head.startswith(b"PK\x03\x04"):  # torch since 1.6
        return _torch(file, "zip")
    if head[:1] == b"\x80" and head[8:9] != b"{" and size >= 64:  # one in 32 safetensors headers starts so, too
        return _torch(file, "pickle")
    if head[8:9] == b"{" and size > 9:
        return _safetensors(file, int.from_bytes(head[:8], "little"), size)
    raise AirpipeError(f"{file}: {_strange(head, size)}")


def _strange(head: bytes, size: int) -> str:
    expected = "Expected a torch file (.pth, .pt, .ckpt, .bin) or .safetensors"
    text = head.decode("utf-8", "replace")
    if head.startswith(b"version https://git-lfs"):
        return f"is a Git LFS pointer, not the weights. Get the file itself with `git lfs pull`. {expected}"
    if re.match(r"\s*<(!doctype|html|head|\?xml)", text, re.IGNORECASE):
        return (
            "is a web page, not weights: servers send one for a login, a quota or a warning. "
            f"Open the link in a browser and download again. {expected}"
        )
    if size < 64:
        return f"has only {size} bytes, too few for weights. {expected}; copy or download it again"
    if re.fullmatch(r"[^\x00-\x08\x0e-\x1f\ufffd]+", text.rstrip("\ufffd")):  # the last letter may be cut in two
        return f"is text (it begins with {text[:30]!r}). {expected}"
    return f"is no weights file (it begins with {head[:8].hex(' ')}). {expected}"


def _safetensors(file: Path, header: int, size: int) -> dict[str, Tensor]:
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError) as error:
        cut = f"; its header alone has {header + 8:,} bytes, the file {size:,}" if header + 8 > size else ""
        raise AirpipeError(
            f"{file}: not a readable safetensors file, cut off or damaged ({error}{cut}). Copy or download it again"
        ) from None


def _torch(file: Path, kind: str) -> Any:
    if kind == "zip":
        _check_zip(file)
    try:
        with file.open("rb") as stream:  # of a path, torch would believe the name
            return torch.load(stream, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        message = str(error)
    code = re.search(r"(?:Unsupported global: GLOBAL|Trying to (?:call|load) (?:unsupported )?GLOBAL) (\S+)", message)
    if code or "Unsupported" in message:
        what = f"it needs code ({code[1]!a})" if code else "it is damaged, or a pickle of another kind"
        raise AirpipeError(
            f"{file}: cannot be loaded safely: {what}. Refused, nothing was run. Expected "
            "a state dict of tensors: ask its authors for one, made with torch.save(model.state_dict(), ...)"
        )
    first = (message.splitlines() or ["damaged"])[0][:160]
    raise AirpipeError(f"{file}: cut off or damaged, cannot be loaded ({first}). Copy or download it again")


def _check_zip(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise AirpipeError(f"{file}: cut off or damaged: the end of the file is missing. Download it again") from None
    names = [entry.filename for entry in entries]
    if any("/code/" in name for name in names):
        raise AirpipeError(f"{file}: is a TorchScript program, which is code. Expected a state dict of tensors")
    if not any(name.endswith("/data.pkl") for name in names):
        raise AirpipeError(
            f"{file}: is a zip archive without torch weights (first entry: {names[0] if names else 'none'}). "
            "Unpack it and give the weights file in it"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise AirpipeError(
            f"{file}: its entries are compressed, which torch never does. Refused; get it from its source"
        )


def _check_plain(name: str, tensor: Tensor, file: Path) -> None:
    """Refuse what is no plain array: it could claim any size without having it."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise AirpipeError(f"{file}: {name} is no plain array of numbers (sparse, quantised or expanded). Refused")


# Containers


def _choose(content: Mapping[Any, Any], file: Path) -> tuple[str, list[str]]:
    """Dotted path of the weights, and the containers beside it."""
    path: list[str] = []
    others: list[str] = []
    while True:
        inner = [name for name, value in content.items() if _is_container(name, value)]
        own = [str(name) for name, value in content.items() if isinstance(value, Tensor) and value.ndim > 0]
        if not inner:
            return ".".join(path) or TOP, others
        known = [name for name in CONTAINERS if name in inner]
        if own or not (known or len(inner) == 1):
            choices = [".".join([*path, name]) for name in inner] + ([".".join(path) or TOP] if own else [])
            also = f", and {len(own)} tensors beside them (first: {own[0]})" if own else ""
            raise AirpipeError(
                f"{file}: holds several sets of weights: {', '.join(inner)}{also}. "
                f"Choose with --key {' or --key '.join(choices)}"
            )
        best = known[0] if known else inner[0]
        others += [".".join([*path, name]) for name in inner if name != best]
        path.append(best)
        content = content[best]


def _is_container(name: Any, value: Any) -> bool:
    """Whether an entry is a mapping of names with a tensor somewhere in it, and no training state."""
    if not isinstance(name, str) or not isinstance(value, Mapping) or name in TRAINING_STATE or "param_groups" in value:
        return False
    return any(isinstance(v, Tensor) and isinstance(k, str) or _is_container(k, v) for k, v in value.items())


def _descend(content: Mapping[Any, Any], path: str, file: Path) -> Mapping[Any, Any]:
    words = [] if path == TOP else path.split(".")
    here = content
    while words and isinstance(here.get(words[0]), Mapping):
        here = here[words.pop(0)]
    if not words:
        return here
    prefix = ".".join(words) + "."
    found = {name: v for name, v in here.items() if isinstance(name, str) and name.startswith(prefix)}
    if not found:
        tensors = {name: v for name, v in here.items() if isinstance(name, str)}
        raise AirpipeError(
            f"{file}: nothing under {path!r}. It has: {', '.join(list(parts(tensors))[:12]) or 'nothing'}"
        )
    return {name.removeprefix(prefix): value for name, value in found.items()}


def _no_tensors(content: Mapping[Any, Any], path: str, file: Path) -> AirpipeError:
    names = ", ".join(map(str, list(content)[:8]))
    if TRAINING_STATE & set(map(str, content)):
        return AirpipeError(
            f"{file}: is the state of a training run ({names}) without weights. "
            "Give the model file that was saved beside it (net_g_*.pth or the like)"
        )
    where = "" if path == TOP else f" under {path}"
    return AirpipeError(
        f"{file}: holds no tensors{where} (it has {names or 'no entry'}). "
        f"Expected a state dict, or one under {', '.join(CONTAINERS)}"
    )
