"""Moving averages of the weights of networks."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """The exponential moving average of a network, moved by one operation over all weights.

    Names and values of its state are those of `AveragedModel` with `get_ema_multi_avg_fn`, bit for bit. The first
    update takes the weights as they are; buffers are copied by all.

    Args:
        network: copied; its parameters have to stay the same objects from the first update on.
        decay: share of the average that an update keeps, in (0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network)
        self.decay = decay
        self.has_buffers = any(True for _ in network.buffers())
        self._weights: tuple[list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the weights of the network that it was made of."""
        if self._weights is None:  # to walk through all modules takes longer than the arithmetic
            self._weights = list(self.module.parameters()), list(model.parameters())
        if self.n_averaged:
            torch._foreach_lerp_(*self._weights, 1 - self.decay)
        else:
            torch._foreach_copy_(*self._weights)
        if self.has_buffers:  # looked up at each step: a network may put others in their place
            torch._foreach_copy_(list(self.module.buffers()), list(model.buffers()))
        self.n_averaged += 1
