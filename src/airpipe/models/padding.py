"""Padding at right and bottom, up to the grid of a network, whose result is cropped back.

Source: reflection as in SwinIR (`check_image_size`) and the runner of MILab-PKU/DCPT, zeros as in
megvii-research/NAFNet, mirrors as in SwinIR's test script (`main_test_swinir.py`).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Pad = Literal["reflect", "zero", "mirror", "none"]
"""Way to fill in missing pixels, see `pad_to_multiple`."""


def pad_to_multiple(image: Tensor, multiple: int, pad: Pad = "reflect") -> Tensor:
    """Pad (B, C, H, W) at right and bottom until H and W are multiples.

    Args:
        image: images of any size from one pixel.
        multiple: number of pixels that divides the padded sides.
        pad: "reflect" (by the last row or column where the image is too small to be reflected), "zero", "mirror"
            (reflection that repeats the edge, and a whole multiple more where nothing is missing), or "none": other
            sizes are an error.

    Returns:
        (B, C, H', W'); but for "mirror" the image itself where nothing is missing.

    Raises:
        ValueError: `pad` is "none" and H or W is no multiple.
    """
    height, width = image.shape[-2:]
    if pad == "mirror":
        down, across = (_mirrored(side, multiple, image.device) for side in (height, width))
        return image[..., down[:, None], across]
    rows, columns = -height % multiple, -width % multiple
    if pad == "none" and (rows or columns):
        raise ValueError(f"image is {width}x{height}; both must be multiples of {multiple}: pad it first")
    if pad == "zero":
        return F.pad(image, (0, columns, 0, rows)) if rows or columns else image
    if columns:
        image = F.pad(image, (0, columns, 0, 0), "reflect" if columns < width else "replicate")
    if rows:
        image = F.pad(image, (0, 0, 0, rows), "reflect" if rows < height else "replicate")
    return image


def _mirrored(side: int, multiple: int, device: torch.device) -> Tensor:
    """Indices 0 .. side-1, then back from side-1 on, up to the next multiple above `side`."""
    index = torch.arange((side // multiple + 1) * multiple, device=device) % (2 * side)
    return index.minimum(2 * side - 1 - index)
