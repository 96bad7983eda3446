"""What a network costs: parameters, multiply-accumulates, latency."""

import time
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from airpipe.registry import build_network


def multiply_accumulates(network: nn.Module, height: int = 256, width: int = 256) -> int:
    """Multiply-accumulates of convolutions and matrix products in one forward pass of (1, 3, H, W).

    Counted by torch on the meta device: nothing is computed. Half of torch's floating point
    operations.
    """
    image = torch.empty(1, 3, height, width, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network.to("meta")(image)
    return int(counter.get_total_flops()) // 2


def count_parameters(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def latency_ms(network: nn.Module, device: torch.device, side: int = 256, repeats: int = 7) -> float:
    """Median wall time in ms of a forward pass of (1, 3, side, side) after two warm-up passes."""
    image = torch.rand(1, 3, side, side, device=device)
    network = network.to(device).eval()
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 2):
            start = time.perf_counter()
            network(image)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    return 1000 * median(times[2:])


def network_cost(name: str, arguments: dict[str, Any]) -> dict[str, int]:
    """Parameters and multiply-accumulates (for 1x3x256x256) of a registered network; builds no weights."""
    with torch.device("meta"):
        network = build_network(name, **arguments)
    return {"parameters": count_parameters(network), "macs": multiply_accumulates(network)}
