"""Padding at right and bottom, up to the grid of a network, whose result is cropped back.

Source: reflection as in SwinIR (`check_image_size`) and the runner of MILab-PKU/DCPT, zeros as in
megvii-research/NAFNet.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Pad = Literal["reflect", "zero", "none"]
"""Way to fill in missing pixels, see `pad_to_multiple`."""


def pad_to_multiple(image: Tensor, multiple: int, pad: Pad = "reflect") -> Tensor:
    """Pad (B, C, H, W) at right and bottom until H and W are multiples.

    Args:
        image: images of any size from one pixel.
        multiple: number of pixels that divides the padded sides.
        pad: "reflect" (by the last row or column where the image is too small to be reflected), "zero", or
            "none": other sizes are an error.

    Returns:
        (B, C, H', W'); the image itself where nothing is missing.

    Raises:
        ValueError: `pad` is "none" and H or W is no multiple.
    """
    height, width = image.shape[-2:]
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
