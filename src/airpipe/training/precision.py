"""What bfloat16 costs on a CPU that computes it in software."""

import statistics
import time

import torch
import torch.nn.functional as F

from airpipe.provenance import cpu_facts

BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of CPUs with instructions for bfloat16: of x86 and, the last one, of Arm."""


def told_slow(precision: str, device: torch.device) -> str:
    """Say what mixed precision costs where the CPU has no instructions for it.

    Args:
        precision: of the stage; only "bf16-mixed" can be slow.
        device: what trains.

    Returns:
        One line with a factor measured in a fraction of a second; empty where nothing is slow.
    """
    if precision != "bf16-mixed" or device.type != "cpu" or BF16_FLAGS & cpu_facts()[1]:
        return ""
    return (
        f"WARNING: precision bf16-mixed on a CPU without bfloat16 instructions ({', '.join(sorted(BF16_FLAGS))}): a "
        f"convolution takes {bf16_factor():.1f} times as long as in float32 here. Train on a GPU, or set precision: "
        "32-true"
    )


def bf16_factor(rounds: int = 3) -> float:
    """Measure the CPU time of a convolution and its gradients in bfloat16, as a multiple of that in float32.

    Args:
        rounds: measurements of both, in alternation after one that is not counted; their median counts.
    """
    image, weight = torch.ones(1, 24, 48, 48), torch.ones(24, 24, 3, 3, requires_grad=True)  # no draw: seeds stay
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds + 1):
        for bf16, spent in times.items():
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                torch.autograd.grad(F.conv2d(image, weight, padding=1).float().sum(), weight)
            spent.append(time.process_time() - start)
    half, single = (statistics.median(times[bf16][1:]) for bf16 in (True, False))
    return half / max(single, 1e-9)
