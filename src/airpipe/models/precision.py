"""Computing in float32 inside a network that is trained in mixed precision."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on the device of a tensor; what was cast before stays so."""
    kind = tensor.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)  # meta has no autocast
