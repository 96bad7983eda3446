"""Cost of a network: parameters, multiply-accumulates, latency; for memory see `airpipe.evaluation.memory`.

Multiply-accumulates are counted by torch's `FlopCounterMode` on the meta device, where nothing is
computed: half of its floating point operations, with two corrections. The gradient of a grouped
convolution's weights is counted there as if it had one group; and attention on a CPU is not counted at all.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from airpipe.models.contract import example_input
from airpipe.registry import build_network

aten = torch.ops.aten
CONVOLUTIONS = ("convolution", "_convolution", "cudnn_convolution", "convolution_overrideable", "convolution_backward")
"""Names of torch's convolutions."""
PRODUCTS = ("mm", "addmm")
"""Names of torch's matrix products with weights; those of two activations (attention) are batched."""


@dataclass(frozen=True)
class Operations:
    """Multiply-accumulates by kind."""

    conv: int
    """Multiply-accumulates of convolutions."""
    linear: int
    """Multiply-accumulates of linear layers."""
    attention: int
    """Multiply-accumulates of products of two activations (`bmm`, `einsum`, scaled dot products). Papers often
    leave them out."""

    @property
    def total(self) -> int:
        """Multiply-accumulates of all kinds."""
        return self.conv + self.linear + self.attention


def count_operations(
    network: nn.Module, height: int = 256, width: int = 256, channels: int | None = None, *, backward: bool = False
) -> Operations:
    """Count the multiply-accumulates of one pass of one image; element-wise operations and FFTs count nothing.

    Args:
        network: any network, on any device; nothing of it is changed.
        height: height of the image in pixels.
        width: width of the image in pixels.
        channels: channels of the image; None: as many as the network takes.
        backward: whether to count the gradients of all parameters, too, as in a training step.
    """
    inputs = example_input(network, height, width, "meta", channels)
    state = meta_state(network)
    counter = FlopCounterMode(display=False, custom_mapping=_corrections())
    with counter, torch.set_grad_enabled(backward):
        output = torch.func.functional_call(network, state, inputs)
        if backward:
            output.sum().backward()
    flops = {str(kind).removeprefix("aten."): n for kind, n in counter.get_flop_counts()["Global"].items()}
    conv = sum(flops.get(name, 0) for name in CONVOLUTIONS)
    linear = sum(flops.get(name, 0) for name in PRODUCTS)
    return Operations(conv // 2, linear // 2, (sum(flops.values()) - conv - linear) // 2)


def meta_state(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters and buffers without data, for `torch.func.functional_call` on the meta device."""
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in network.named_buffers()}
    for name, parameter in network.named_parameters():
        # torch multiplies by weights that need no gradient in another way, which looks like attention
        state[name] = torch.empty_like(parameter, device="meta").requires_grad_()
    return state


def _corrections() -> dict[Any, Callable[..., int]]:
    return {
        aten.convolution_backward: _convolution_backward,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_on_cpu,
    }


def _convolution_backward(
    outer: Sequence[int], inner: Sequence[int], weight: Sequence[int], *arguments: Any, out_shape: Any, **_: Any
) -> int:
    """Operations of both gradients of a convolution: each has as many as the convolution itself."""
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, wanted = arguments
    once = conv_flop_count(list(inner), list(weight), list(outer), transposed)
    return once * (bool(wanted[0]) + bool(wanted[1]))


def _attention_on_cpu(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, out_shape: Any = None, **__: Any
) -> int:
    *many, rows, channels = query  # times the keys, times the channels of keys and of values
    return 2 * math.prod(many) * rows * key[-2] * (channels + value[-1])


def multiply_accumulates(network: nn.Module, height: int = 256, width: int = 256) -> int:
    """Count all multiply-accumulates of one pass of an image of this size; see `count_operations`."""
    return count_operations(network, height, width).total


def count_parameters(network: nn.Module) -> int:
    """Count the values in all parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def latency_ms(network: nn.Module, device: torch.device, side: int = 256, repeats: int = 7) -> float:
    """Measure the median wall time in ms of a forward pass of (1, C, side, side), after two warm-up passes."""
    inputs = example_input(network, side, side, device)
    network = network.to(device).eval()
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 2):
            start = time.perf_counter()
            network(*inputs)
            if device.type == "cuda":  # the call returns before the GPU is done
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    return 1000 * median(times[2:])


def network_cost(name: str, arguments: dict[str, Any]) -> dict[str, int]:
    """Count parameters and multiply-accumulates (of 1xCx256x256) of a registered network; builds no weights.

    Returns:
        `parameters`, `macs` (all), and their parts `macs_conv`, `macs_linear`, `macs_attention`.
    """
    with torch.device("meta"):
        network = build_network(name, **arguments)
    counted = count_operations(network)
    return {
        "parameters": count_parameters(network),
        "macs": counted.total,
        "macs_conv": counted.conv,
        "macs_linear": counted.linear,
        "macs_attention": counted.attention,
    }
