"""Memory layout of parameters that are no images."""

from collections.abc import Callable
from typing import Self, cast

from torch import Tensor, nn


class FiveDimensional(nn.Module):
    """Base of layers with parameters of five dimensions, which `channels_last`, for four, leaves as they are."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def move(tensor: Tensor) -> Tensor:
            return fn(tensor.flatten()).reshape(tensor.shape) if tensor.ndim == 5 else fn(tensor)

        return cast(Self, super()._apply(move, recurse))  # type: ignore[no-untyped-call]
