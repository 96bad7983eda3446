"""Restore a photo: a file, an array or a tensor comes back as what it was.

Three doors, one way through: `restore` for programs, `restore_file` for files,
`airpipe restore` (airpipe.cli) for people.
"""

import hashlib
import os
import re
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypedDict, Unpack, cast, get_type_hints, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from airpipe.errors import AirpipeError, lacks_memory
from airpipe.evaluation.budget import fitting_model
from airpipe.evaluation.channels import check_restorer, for_rgb
from airpipe.evaluation.ensemble import SelfEnsemble
from airpipe.evaluation.grid import Tile, fitting_tile, lay_tiles
from airpipe.evaluation.guided import guided
from airpipe.evaluation.origin import Origin, is_made_from, note, origin
from airpipe.evaluation.tiling import Progress, restore_pixels, restore_tiled
from airpipe.images import Picture, decoder_words, from_pillow, read_picture, to_pillow, why_not, write_picture
from airpipe.models.contract import image_channels
from airpipe.pixels import Pixels, equal_channels, to_tensor
from airpipe.settings.base import shown, unknown_name
from airpipe.weights.checkpoints import LoadedModel, load_model

PathLike: TypeAlias = str | os.PathLike[str]
Model: TypeAlias = PathLike | LoadedModel | nn.Module
Device: TypeAlias = str | torch.device
Array: TypeAlias = Pixels | npt.NDArray[np.floating[Any]]
"""An image in memory: of 8 or 16 bit, or of floats in [0, 1]."""
TILE = 512
"""Largest side of a tile in pixels, unless told otherwise."""
OVERLAP = 32
"""Pixels that neighbouring tiles share, unless told otherwise."""
REFERENCE = 512
"""Largest side of a reference in pixels: networks look at the whole of it beside every tile."""


@dataclass(frozen=True)
class RestoredFile:
    """A report of what `restore_file` did."""

    source: Path
    target: Path
    height: int = 0
    width: int = 0
    """Size of the photo in pixels, with `height`."""
    tiles: int = 0
    """Number of tiles that it was restored in."""
    tile_height: int = 0
    tile_width: int = 0
    """Size of each tile in pixels, with `tile_height`."""
    seconds: float = 0.0
    """Wall time from reading to the written file."""
    skipped: bool = False
    """The target was there already; nothing was done, and the numbers are 0."""


class Options(TypedDict, total=False):
    """Options of `restore`: how an image goes through the network."""

    tile: Annotated[int, Field(ge=0)]
    overlap: Annotated[int, Field(ge=0)]
    batch: int
    memory: Annotated[float, Field(gt=0)] | None
    self_ensemble: bool
    luma: bool
    reference: PathLike | Array | Tensor | Image.Image | None


@overload
def restore(
    image: PathLike, model: Model, *, device: Device = ..., budget: str | None = ..., **options: Unpack[Options]
) -> Pixels: ...
@overload
def restore(
    image: Image.Image, model: Model, *, device: Device = ..., budget: str | None = ..., **options: Unpack[Options]
) -> Image.Image: ...
@overload
def restore(
    image: Array, model: Model, *, device: Device = ..., budget: str | None = ..., **options: Unpack[Options]
) -> Array: ...
@overload
def restore(
    image: Tensor, model: Model, *, device: Device = ..., budget: str | None = ..., **options: Unpack[Options]
) -> Tensor: ...
def restore(
    image: PathLike | Array | Tensor | Image.Image,
    model: Model,
    *,
    device: Device = "auto",
    budget: str | None = None,
    **options: Unpack[Options],
) -> Array | Tensor | Image.Image:
    """Restore one image, or a batch of tensors; the result is of the kind that came in.

    Args:
        image: a path; an array, uint8, uint16 or floats in [0, 1], (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA;
            a Pillow image of 8 bit, or grey of 16 bit, as it stands (its EXIF orientation is not applied);
            or a floating-point tensor, (3, H, W) or (B, 3, H, W), RGB in [0, 1], or the same with one channel, grey.
            Any H and W.
        model: what `load_model` takes (a stage folder, ours or a published file, with @variant), a loaded
            model, or a network. A network is put on `device`, runs in evaluation mode and
            gets its mode back.
        device: "auto" (where a given network is; else the GPU, if there is one), "cpu",
            "cuda" or "cuda:1", or a torch.device of these.
        budget: what a megapixel may cost, in seconds, memory or multiply-accumulates ("2s", "1.5GB", "800GMAC"): the
            deepest variant of the model's file that fits is measured and taken (`airpipe.evaluation.budget`). Each
            call measures anew; for many images, choose once. None: the model as it is named.
        options: tile (512): largest side of a tile in pixels; bounds the memory; 0: the whole image
            at once. overlap (32): least number of pixels that neighbouring tiles share. batch (1):
            tiles per pass. memory (None): bytes for a pass; chooses the tile, or the whole image where
            it fits. self_ensemble (False): mean over the eight flips and turns; eight times the work. luma (False):
            let a model of grey pictures restore the brightness of colour ones, whose Cb and Cr stay as they are.
            reference (None): a second image, of the kinds above, for models that take one and give the image its
            degradation; of a larger one its centre of 512 pixels counts.

    Returns:
        Path: uint8 or uint16, upright, (H, W, 3) RGB, or (H, W) of a grey file. Array: same shape and dtype; grey is
        the mean of the three outputs, alpha is untouched. Pillow image: the same, a palette as RGB. Tensor: same shape,
        dtype and device, clipped to [0, 1].

    Raises:
        AirpipeError: an image of another kind, shape or range, an unreadable file, a model
            that does not load, a device that is not there, too little memory, a model that takes a reference without
            one, or the other way round; a budget that no variant fits; an unknown option, or one of a wrong value.

    Example:
        >>> restored = restore("photo.jpg", "results/method/nafnet_5d/seed0/train")
    """
    given = _checked(image)
    _check_options(options)
    if budget is not None:
        model = fitting_model(model, budget, choose_device(device))
    with _enough_memory("the images"), _ready(model, device) as (network, where):
        way = _Way(network, where, **options)
        if isinstance(given, Picture):
            restored = _restore_picture(given, way, in_place=not isinstance(image, np.ndarray))
            if isinstance(image, Image.Image):
                return to_pillow(restored, image.info)
            return _as_array(restored if isinstance(image, np.ndarray) else replace(restored, alpha=None))
        if isinstance(image, np.ndarray):
            return _as_floats(_restore_planes(given, way), image)
        images = given.detach().float().cpu().reshape(-1, *given.shape[-3:])
        results = torch.stack([_restore_planes(one, way) for one in images])
        return results.clamp_(0, 1).reshape(given.shape).to(given.device, given.dtype)


def restore_file(
    source: Path,
    target: Path | None,
    model: Model,
    *,
    device: Device = "auto",
    in_folder: bool = False,
    overwrite: bool = False,
    skip_done: bool = False,
    keep: Collection[Path] = (),
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> RestoredFile:
    """Restore an image file into a new file with the same depth, alpha, colour profile and EXIF.

    Args:
        source: the photo.
        target: the file to write, or a folder (it exists, or has no suffix); None: beside the
            photo. In a folder the name is `<stem>_restored<suffix>`, with .png where the photo's own format
            cannot hold the result.
        model: as for `restore`; load it once for many files.
        device: as for `restore`.
        in_folder: the target is a folder, whatever its name looks like.
        overwrite: replace an existing file (never the photo itself).
        skip_done: skip what is done: the file is no older than the photo, and a hidden record beside it
            (`.airpipe.json`, kept up with this) says that it was made from the same photo, by the same model
            with the same options. Any other existing file is refused.
        keep: resolved paths that stay even so, such as earlier results of the same run.
        progress: called with (tiles done, tiles in all).
        options: as for `restore`.

    Raises:
        AirpipeError: as `restore`, and when the target exists, cannot hold the result or
            cannot be written; nothing is then left half-written.
    """
    begun = time.perf_counter()
    _check_options(options)
    if options.get("reference") is not None:
        options["reference"] = _shown(options["reference"])
    likely = _target(source, target, in_folder)
    made_from = origin(source, model, _recorded(options)) if skip_done and source.is_file() else None
    if not overwrite and made_from and _is_done(likely, source, keep, made_from):
        return RestoredFile(source, likely, skipped=True)
    with decoder_words() as words:
        picture = read_picture(source)
    for word in words:
        print(f"{source}: {word}", file=sys.stderr)
    target = _target(source, target, in_folder, picture)
    if not overwrite and made_from and _is_done(target, source, keep, made_from):
        return RestoredFile(source, target, skipped=True)
    _refuse_to_replace(target, source, overwrite, keep, skip_done)
    height, width = picture.pixels.shape[:2]
    with _enough_memory(f"{source}: {width}x{height} pixels"), _ready(model, device) as (network, where):
        way = _Way(network, where, **options)
        plan = way.plan(picture, source)
        picture = _restore_picture(picture, way, in_place=True, progress=progress)
        _write(target, picture, made_from)
    seconds = time.perf_counter() - begun
    return RestoredFile(source, target, height, width, len(plan), plan[0].height, plan[0].width, seconds)


class _Way:
    """A network on its device, and the options, ready for images of any size."""

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        tile: int = TILE,
        overlap: int = OVERLAP,
        batch: int = 1,
        memory: float | None = None,
        self_ensemble: bool = False,
        luma: bool = False,
        reference: PathLike | Array | Tensor | Image.Image | None = None,
    ) -> None:
        if batch < 1:
            raise AirpipeError(f"a batch of {batch} tiles. Expected 1 or more")
        check_restorer(network, luma)
        if reference is not None:
            network = guided(network, _shown(reference))
        self.bare, self.device, self.self_ensemble, self.luma = network, device, self_ensemble, luma
        self.tile, self.overlap, self.batch, self.memory = tile, overlap, batch, memory

    def network(self, image: Picture | Tensor, what: str = "the picture") -> nn.Module:
        """The network for an image, which messages call `what`, as one that takes three channels.

        Raises:
            AirpipeError: the image has colours that the network does not take.
        """
        one_channel = image_channels(self.bare) == 1
        ready = for_rgb(self.bare, one_channel and _is_grey(image), self.luma, what)
        return SelfEnsemble(ready).eval() if self.self_ensemble else ready

    def tiling(self, height: int, width: int) -> dict[str, Any]:
        """Arguments of `restore_tiled` and `restore_pixels` for an image of this size."""
        options = {"overlap": self.overlap, "batch_size": self.batch}
        if self.memory is None:
            return {"tile": self.tile, **options}
        return {"tile": fitting_tile(self.bare, height, width, memory=self.memory, **options), **options}

    def plan(self, picture: Picture, source: Path) -> list[Tile]:
        """The tiles of a picture."""
        height, width = picture.pixels.shape[:2]
        return lay_tiles(
            self.network(picture, str(source)), height, width, self.tiling(height, width)["tile"], self.overlap
        )


def choose_device(device: Device) -> torch.device:
    """The torch device of a name: "auto", "cpu", "cuda" or "cuda:<number>".

    Raises:
        AirpipeError: another name or device, or a GPU that is not there.
    """
    device = str(device) if isinstance(device, torch.device) else device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if count else "cpu")
    if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d{1,4})?", device):
        raise AirpipeError(f"unknown device {shown(device)}. Expected auto, cpu, cuda or cuda:<number>")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        found = f"{count} GPU(s), numbered from 0" if count else "no GPU that this torch can use"
        raise AirpipeError(
            f"device {device!r} is not there: found {found}. Use --device auto or cpu; see `airpipe doctor`"
        )
    return chosen


@contextmanager
def _ready(model: Model, device: Device) -> Iterator[tuple[nn.Module, torch.device]]:
    """The network of a model, on the device and in evaluation mode; its mode is given back."""
    if not isinstance(model, nn.Module):
        where = choose_device(device)
        if isinstance(model, str | os.PathLike):
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


@contextmanager
def _enough_memory(what: str) -> Iterator[None]:
    """Turn a lack of memory, wherever it shows, into an error about what was restored."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise AirpipeError(
            f"{what} need more memory than there is. Use a smaller --tile, or cut the picture into parts"
        ) from None


def _restore_picture(picture: Picture, way: _Way, in_place: bool, progress: Progress | None = None) -> Picture:
    pixels = restore_pixels(
        way.network(picture),
        picture.pixels,
        device=way.device,
        grey=picture.grey,
        in_place=in_place and picture.pixels.flags.writeable,
        progress=progress,
        **way.tiling(*picture.pixels.shape[:2]),
    )
    return replace(picture, pixels=pixels)


def _restore_planes(image: Tensor, way: _Way) -> Tensor:
    """Restore float32 (3, H, W), or (1, H, W) whose result is the mean of three outputs."""
    planes = image.expand(3, -1, -1)
    restored = restore_tiled(way.network(planes), planes, device=way.device, **way.tiling(*image.shape[-2:]))
    return restored if len(image) == 3 else restored.mean(0, keepdim=True)


def _is_grey(image: Picture | Tensor) -> bool:
    if isinstance(image, Tensor):
        return bool((image == image[:1]).all())
    return image.grey or equal_channels(image.pixels)


def _check_options(options: Options) -> None:
    """Refuse unknown names, and values of other types or ranges; a reference is looked at where it is used."""
    hints = get_type_hints(Options, include_extras=True)
    for name, value in options.items():
        if name not in hints:
            raise AirpipeError(unknown_name(name, hints, "option of restore"))
        if name == "reference":
            continue
        try:
            TypeAdapter(hints[name], config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
        except ValidationError as error:
            problem = str(error.errors()[0]["msg"])
            raise AirpipeError(f"restore: {name} is {shown(value)}: {problem[:1].lower()}{problem[1:]}") from None


def _checked(image: PathLike | Array | Tensor | Image.Image) -> Picture | Tensor:
    """What has 8 or 16 bit as picture, floats as tensor (C, H, W) without alpha; anything unsuitable is an error."""
    if isinstance(image, Tensor):
        return _checked_tensor(image)
    if isinstance(image, np.ndarray):
        return _checked_floats(image) if image.dtype.kind == "f" else _as_picture(image)
    if isinstance(image, Image.Image):
        return from_pillow(image)
    if isinstance(image, str | os.PathLike):
        return read_picture(Path(image))
    raise AirpipeError(
        f"cannot restore a {type(image).__name__}. Expected a path, an array or a tensor, or a Pillow image"
    )


def _checked_tensor(image: Tensor) -> Tensor:
    shape = tuple(image.shape)
    if len(shape) not in (3, 4) or shape[-3] not in (1, 3) or 0 in shape:
        raise AirpipeError(
            f"a tensor of shape {shape}. Expected (3, H, W) or (B, 3, H, W), or one channel for grey, none of them 0"
        )
    if not image.is_floating_point():
        raise AirpipeError(f"a tensor of {image.dtype}. Expected floats in [0, 1]: divide 8-bit values by 255")
    image = image.detach()
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise AirpipeError(f"a tensor with values from {low:g} to {high:g}. Expected [0, 1], without NaN")
    return image


def _check_shape(array: Any) -> None:
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)) or 0 in array.shape:
        raise AirpipeError(f"an array of shape {array.shape}. Expected (H, W), (H, W, 3) or (H, W, 4), none of them 0")


def _checked_floats(array: Any) -> Tensor:
    """Floats (H, W), (H, W, 3) or (H, W, 4) as float32 (1, H, W) or (3, H, W)."""
    _check_shape(array)
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise AirpipeError(f"an array of floats from {low:g} to {high:g}. Expected [0, 1], without NaN")
    planes = array[None] if array.ndim == 2 else array[..., :3].transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes, np.float32, order="C"))


def _as_picture(array: Any) -> Picture:
    _check_shape(array)
    if array.dtype not in (np.uint8, np.uint16):
        raise AirpipeError(f"an array of {array.dtype}. Expected uint8 or uint16, or floats in [0, 1]")
    if array.ndim == 2:
        return Picture(np.repeat(array[..., None], 3, axis=2), grey=True)
    return Picture(array[..., :3], alpha=array[..., 3] if array.shape[2] == 4 else None)


def _shown(reference: PathLike | Array | Tensor | Image.Image | None) -> Tensor:
    """A reference as float32 (3, h, w) in [0, 1], at most `REFERENCE` pixels a side: its centre."""
    image = _checked(cast(Any, reference))
    planes = to_tensor(image.pixels) if isinstance(image, Picture) else image.detach().float().cpu()
    if planes.ndim != 3:
        raise AirpipeError(f"a reference of shape {tuple(planes.shape)}. Expected one image, (3, H, W)")
    top, left = (max(side - REFERENCE, 0) // 2 for side in planes.shape[-2:])
    return planes[:, top : top + REFERENCE, left : left + REFERENCE].expand(3, -1, -1)


def _recorded(options: Options) -> dict[str, Any]:
    """The options that change the result."""
    memory, reference = options.get("memory"), options.get("reference")
    shown = {} if reference is None else {"reference": _digest(cast(Tensor, reference))}
    return shown | {
        "tile": options.get("tile", TILE) if memory is None else None,
        "overlap": options.get("overlap", OVERLAP),
        "memory": memory,
        "self_ensemble": options.get("self_ensemble", False),
        **({"luma": True} if options.get("luma") else {}),
    }


def _digest(image: Tensor) -> str:
    return hashlib.sha256(str(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes()).hexdigest()


def _is_done(target: Path, source: Path, keep: Collection[Path], made_from: Origin) -> bool:
    """Tell whether an earlier run left this result there: files appear only when they are complete."""
    if not target.is_file() or target.samefile(source) or target.resolve() in keep:
        return False
    return target.stat().st_mtime_ns >= source.stat().st_mtime_ns and is_made_from(target, made_from)


def _write(target: Path, picture: Picture, made_from: Origin | None) -> None:
    """Write result and record in an order that is safe to be stopped in: no file has a record that is not its own."""
    if target.exists():
        note(target, None)
        write_picture(target, picture)
        note(target, made_from)
    else:
        note(target, made_from)
        write_picture(target, picture)


def _refuse_to_replace(target: Path, source: Path, overwrite: bool, keep: Collection[Path], skip_done: bool) -> None:
    if not target.exists():
        return
    if target.samefile(source):
        raise AirpipeError(f"{target}: is the photo itself. Give another name")
    if target.resolve() in keep:
        raise AirpipeError(f"{target}: holds the result of another photo of the same name. Use another folder")
    if not overwrite and skip_done:
        raise AirpipeError(f"{target}: exists, made from something else. Use --overwrite or another -o")
    if not overwrite:
        raise AirpipeError(f"{target}: exists already. Add --overwrite to replace it, or move it away")


def _as_array(picture: Picture) -> Pixels:
    pixels: Any = picture.pixels
    if picture.grey:
        pixels = np.ascontiguousarray(pixels[..., 0])
    elif picture.alpha is not None:
        pixels = np.dstack([pixels, picture.alpha])
    return cast(Pixels, pixels)


def _as_floats(restored: Tensor, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Planes in the form of the array that they were made from, with its alpha."""
    colours = restored.clamp_(0, 1).permute(1, 2, 0).numpy()
    whole = colours[..., 0] if image.ndim == 2 else np.concatenate([colours, image[..., 3:]], axis=2)
    return whole.astype(image.dtype)


def _target(source: Path, target: Path | None, in_folder: bool, picture: Picture | None = None) -> Path:
    """The file to write; judged before the work, so that no result is lost. Without the picture, the likely one."""
    if target is None or in_folder or target.is_dir() or not target.suffix:
        name = Path(f"{source.stem}_restored{source.suffix}")
        if picture is not None and why_not(name, picture):
            name = Path(f"{source.stem}_restored.png")
        return (target or source.parent) / name
    if picture is not None and (reason := why_not(target, picture)):
        raise AirpipeError(reason)
    return target
