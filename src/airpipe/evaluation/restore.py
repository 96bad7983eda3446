"""Restore a photo: a file, an array or a tensor comes back as what it was.

Three doors, one way through: `restore` for programs, `restore_file` for files,
`airpipe restore` (airpipe.cli) for people.
"""

import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.evaluation.tiling import Progress, plan_tiles, restore_tiled
from airpipe.images import Picture, Pixels, read_picture, to_pixels, to_tensor, why_not, write_picture

if TYPE_CHECKING:
    from airpipe.training.checkpoints import LoadedModel

PathLike: TypeAlias = str | os.PathLike[str]
Model: TypeAlias = "PathLike | LoadedModel | nn.Module"
TILE = 512
OVERLAP = 32


@dataclass(frozen=True)
class RestoredFile:
    """What `restore_file` did."""

    source: Path
    target: Path
    height: int
    width: int
    tiles: int
    tile_height: int
    tile_width: int
    seconds: float
    """Wall time from reading to the written file."""


@overload
def restore(image: PathLike, model: Model, *, tile: int = ..., overlap: int = ..., device: str = ...) -> Pixels: ...
@overload
def restore(image: Pixels, model: Model, *, tile: int = ..., overlap: int = ..., device: str = ...) -> Pixels: ...
@overload
def restore(image: Tensor, model: Model, *, tile: int = ..., overlap: int = ..., device: str = ...) -> Tensor: ...
def restore(
    image: PathLike | Pixels | Tensor,
    model: Model,
    *,
    tile: int = TILE,
    overlap: int = OVERLAP,
    device: str = "auto",
) -> Pixels | Tensor:
    """Restore one image, or a batch of tensors; the result is of the kind that came in.

    Args:
        image: a path; an array, uint8 or uint16, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA;
            or a floating-point tensor, (3, H, W) or (B, 3, H, W), RGB in [0, 1]. Any H and W.
        model: what `load_model` takes (a stage folder, ours or a published file), a loaded
            model, or a network. A network is put on `device`, runs in evaluation mode and
            gets its mode back.
        tile: largest side of a tile in pixels; bounds the memory. 0: the whole image at once.
        overlap: least number of pixels that neighbouring tiles share.
        device: "auto" (where a given network is; else the GPU, if there is one), "cpu",
            "cuda" or "cuda:1".

    Returns:
        Path: uint8 or uint16 (H, W, 3), upright RGB. Array: same shape and dtype; grey is the
        mean of the three outputs, alpha is untouched. Tensor: same shape, dtype and device,
        clipped to [0, 1].

    Raises:
        AirpipeError: an image of another kind, shape or range, an unreadable file, a model
            that does not load, a device that is not there, or too little memory.

    Example:
        >>> restored = restore("photo.jpg", "results/baseline/nafnet_5d/seed0/train")
    """
    given = _checked(image)
    with _ready(model, device) as (network, where):
        if isinstance(given, Picture):
            restored = _restore_picture(given, network, where, tile, overlap)
            return restored.pixels if not isinstance(image, np.ndarray) else _as_array(restored, image.ndim)
        images = given.detach().float().cpu().reshape(-1, *given.shape[-3:])
        results = [restore_tiled(network, one, tile=tile, overlap=overlap, device=where) for one in images]
        return torch.stack(results).clamp_(0, 1).reshape(given.shape).to(given.device, given.dtype)


def restore_file(
    source: Path,
    target: Path | None,
    model: Model,
    *,
    tile: int = TILE,
    overlap: int = OVERLAP,
    device: str = "auto",
    overwrite: bool = False,
    keep: Collection[Path] = (),
    progress: Progress | None = None,
) -> RestoredFile:
    """Restore an image file into a new file with the same depth, alpha and colour profile.

    Args:
        source: the photo.
        target: the file to write, or a folder (it exists, or has no suffix); None: beside the
            photo. In a folder the name is `<stem>_restored<suffix>`, with .png where the photo's own format
            cannot hold the result.
        model: as for `restore`; load it once for many files.
        tile: as for `restore`.
        overlap: as for `restore`.
        device: as for `restore`.
        overwrite: replace an existing file (never the photo itself).
        keep: resolved paths that stay even so, such as earlier results of the same run.
        progress: called with (tiles done, tiles in all).

    Raises:
        AirpipeError: as `restore`, and when the target exists, cannot hold the result or
            cannot be written; nothing is then left half-written.
    """
    begun = time.perf_counter()
    picture = read_picture(source)
    target = _target(source, target, picture)
    _refuse_to_replace(target, source, overwrite, keep)
    with _ready(model, device) as (network, where):
        restored = _restore_picture(picture, network, where, tile, overlap, progress)
    write_picture(target, restored)
    height, width = picture.pixels.shape[:2]
    plan = plan_tiles(height, width, tile, overlap, int(getattr(network, "size_multiple", 1)))
    seconds = time.perf_counter() - begun
    return RestoredFile(source, target, height, width, len(plan), plan[0].height, plan[0].width, seconds)


def choose_device(device: str) -> torch.device:
    """The torch device of a name: "auto", "cpu", "cuda" or "cuda:<number>".

    Raises:
        AirpipeError: another name, or a GPU that is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if count else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise AirpipeError(f"unknown device {device!r}. Expected auto, cpu, cuda or cuda:<number>")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        found = f"{count} GPU(s), numbered from 0" if count else "no GPU that this torch can use"
        raise AirpipeError(
            f"device {device!r} is not there: found {found}. Use --device auto or cpu; see `airpipe doctor`"
        )
    return chosen


@contextmanager
def _ready(model: Model, device: str) -> Iterator[tuple[nn.Module, torch.device]]:
    """The network of a model, on the device and in evaluation mode; its mode is given back."""
    if not isinstance(model, nn.Module):
        where = choose_device(device)
        if isinstance(model, str | os.PathLike):
            from airpipe.training.checkpoints import load_model

            model = load_model(Path(model))
        network = getattr(model, "network", None)
        if not isinstance(network, nn.Module):
            raise AirpipeError(f"a {type(model).__name__} is no model. Expected a path, a LoadedModel or a network")
    else:
        network = model
        first = next(network.parameters(), None)
        here = torch.device("cpu") if first is None else first.device
        where = here if device == "auto" else choose_device(device)
    modes = {module: module.training for module in network.modules()}
    network.to(where).eval()
    try:
        yield network, where
    finally:
        for module, mode in modes.items():
            module.training = mode


def _restore_picture(
    picture: Picture,
    network: nn.Module,
    device: torch.device,
    tile: int,
    overlap: int,
    progress: Progress | None = None,
) -> Picture:
    image = to_tensor(picture.pixels)  # (3, H, W)
    output = restore_tiled(network, image, tile=tile, overlap=overlap, device=device, progress=progress)
    del image  # the peak is at the conversion below
    if picture.grey:
        output = output.mean(0, keepdim=True).expand(3, -1, -1)
    bits = 16 if picture.pixels.dtype == np.uint16 else 8
    return replace(picture, pixels=to_pixels(output, bits))


def _checked(image: PathLike | Pixels | Tensor) -> Picture | Tensor:
    """A path or an array as picture, a tensor as it is; anything unsuitable is an error."""
    if isinstance(image, Tensor):
        return _checked_tensor(image)
    if isinstance(image, np.ndarray):
        return _as_picture(image)
    if isinstance(image, str | os.PathLike):
        return read_picture(Path(image))
    raise AirpipeError(f"cannot restore a {type(image).__name__}. Expected a path, an array or a tensor")


def _checked_tensor(image: Tensor) -> Tensor:
    shape = tuple(image.shape)
    if len(shape) not in (3, 4) or shape[-3] != 3 or 0 in shape:
        raise AirpipeError(f"a tensor of shape {shape}. Expected (3, H, W) or (B, 3, H, W), none of them 0")
    if not image.is_floating_point():
        raise AirpipeError(f"a tensor of {image.dtype}. Expected floats in [0, 1]: divide 8-bit values by 255")
    image = image.detach()
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise AirpipeError(f"a tensor with values from {low:g} to {high:g}. Expected [0, 1], without NaN")
    return image


def _as_picture(array: Any) -> Picture:
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)) or 0 in array.shape:
        raise AirpipeError(f"an array of shape {array.shape}. Expected (H, W), (H, W, 3) or (H, W, 4), none of them 0")
    if array.dtype not in (np.uint8, np.uint16):
        raise AirpipeError(f"an array of {array.dtype}. Expected uint8 or uint16; for floats in [0, 1] give a tensor")
    if array.ndim == 2:
        return Picture(np.repeat(array[..., None], 3, axis=2), grey=True)
    return Picture(array[..., :3], alpha=array[..., 3] if array.shape[2] == 4 else None)


def _refuse_to_replace(target: Path, source: Path, overwrite: bool, keep: Collection[Path]) -> None:
    if not target.exists():
        return
    if target.samefile(source):
        raise AirpipeError(f"{target}: is the photo itself. Give another name")
    if target.resolve() in keep:
        raise AirpipeError(f"{target}: holds the result of another photo of the same name. Use another folder")
    if not overwrite:
        raise AirpipeError(f"{target}: exists already. Add --overwrite to replace it, or move it away")


def _as_array(picture: Picture, ndim: int) -> Pixels:
    pixels: Any = picture.pixels
    if ndim == 2:
        pixels = np.ascontiguousarray(pixels[..., 0])
    elif picture.alpha is not None:
        pixels = np.dstack([pixels, picture.alpha])
    return cast(Pixels, pixels)


def _target(source: Path, target: Path | None, picture: Picture) -> Path:
    """The file to write; judged before the work, so that no result is lost."""
    if target is None or target.is_dir() or not target.suffix:
        name = Path(f"{source.stem}_restored{source.suffix}")
        if why_not(name, picture):
            name = Path(f"{source.stem}_restored.png")
        return (target or source.parent) / name
    if reason := why_not(target, picture):
        raise AirpipeError(reason)
    return target
