"""Reading weights files of others safely: what a file is, whether it is whole, and the tensors in it.

Tensors are all that is taken. Pickles go through torch's restricted reader only, also in the old
format: a file that needs code is refused without running it.
"""

import pickle
import re
import stat
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from airpipe.errors import AirpipeError
from airpipe.weights.containers import Contained, Known, check_names, find_weights

PATHS = ("", "Posix", "Windows", "Pure", "PurePosix", "PureWindows")
UNREADABLE = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError),
    *(AttributeError, AssertionError, ArithmeticError, MemoryError),
)
"""Exceptions that torch raises on damaged files."""


BESIDE = (
    *("argparse.Namespace", "types.SimpleNamespace"),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in PATHS),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.ndarray", "numpy.dtype"),
)
"""Objects that may lie beside weights, each by its name in a pickle. None is made: `Beside` takes its place."""
MAPPINGS = (
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
"""The same for dictionaries of other names."""


class Beside:
    """A stand-in for a harmless object in a pickle: it takes whatever the object was made of and keeps nothing."""

    def __init__(self, *made_of: object) -> None:
        pass

    def __new__(cls, *made_of: object) -> "Beside":
        """Make one, whatever is given."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


@dataclass(frozen=True, kw_only=True)
class Weights(Contained):
    """Tensors of a file, container and prefixes removed."""

    file: Path
    """The file."""


def read_weights(file: Path, key: str | None = None, known: Known | None = None) -> Weights:
    """Read the tensors of a `.safetensors` or torch file.

    Args:
        file: its content decides what it is, not its name.
        key: dotted path of the container, or of a prefix in it ("params", "state_dict.net"; "."
            for the outermost level); None: the only one, or the first of `CONTAINERS`, or an average (EMA) beside it.
        known: tells whether tensors are those of a known network; decides which keys a message offers.

    Raises:
        AirpipeError: the file is no model file, is damaged, holds no or several sets of weights, or is a
            pickle that needs code.
    """
    file = Path(file)
    found = find_weights(_content(file), str(file), key, known=known)
    for name, tensor in found.tensors.items():
        _check_plain(name, tensor, file)
    return Weights(**vars(found), file=file)


def read_own(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file that airpipe wrote, under their names as they are.

    Raises:
        AirpipeError: the file is damaged, no weights file, or has a name that is none.
    """
    content = _content(file)
    if not isinstance(content, Mapping):
        raise AirpipeError(f"{file}: holds a {type(content).__name__}, no weights. Make or import the model again")
    check_names(content, str(file))
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


# Files


def _content(file: Path) -> Any:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise AirpipeError(f"{file}: is {_kind(status.st_mode)}, no file. Expected a weights file")
        size = status.st_size
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


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")


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
        # of a path, torch would believe the name
        with file.open("rb") as stream, torch.serialization.safe_globals(_stand_ins()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # of no use to who has the file
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


def _stand_ins() -> list[Any]:
    """Pairs for torch's list of safe globals: what takes the place of a name in a pickle, and that name."""
    return [*((Beside, name) for name in BESIDE), *((OrderedDict, name) for name in MAPPINGS)]


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
    if sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise AirpipeError(f"{file}: its entries claim more bytes than the file has. Refused; get it from its source")
    if any(entry.CRC for entry in entries):  # torch can be told to write none
        _check_sums(file)


def _check_sums(file: Path) -> None:
    """Compare the archive's checksums, which torch writes and never reads."""
    try:
        with zipfile.ZipFile(file) as archive:
            bad = archive.testzip()
    except UNREADABLE + (zipfile.BadZipFile,) as error:
        bad = str(error)[:80]
    if bad is not None:
        raise AirpipeError(
            f"{file}: damaged: the checksum of {bad!a} is wrong, so some weights are not what was saved. "
            "Copy or download it again"
        )


def _check_plain(name: str, tensor: Tensor, file: Path) -> None:
    """Refuse what is no plain array: it could claim any size without having it."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise AirpipeError(f"{file}: {name} is no plain array of numbers (sparse, quantised or expanded). Refused")
