"""What all benchmarks on a CPU share: the line that names the machine, and ways timed in turns."""

import time
from collections.abc import Callable, Mapping

import torch

from airpipe.progress import track
from airpipe.provenance import cpu_facts

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instructions on which ratios of this project depend."""


def machine_line() -> str:
    """The CPU, which of `FLAGS` it has, torch's threads and version: ratios hold for such machines only."""
    model, known = cpu_facts()
    flags = ", ".join(f"{flag} {'yes' if flag in known else 'no'}" for flag in FLAGS)
    return f"CPU: {model}; {flags}; {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def cpu_times(ways: Mapping[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of CPU time of one call of each way, per round.

    Args:
        ways: by name; in every round each has its turn, the order reversed every other round.
        rounds: after one that is not counted.
        repeats: calls in a turn.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in track(range(rounds + 1), rounds + 1, "measuring"):
        for name in ways if number % 2 else reversed(list(ways)):
            start = time.process_time()
            for _ in range(repeats):
                ways[name]()
            if number:
                times[name].append(1000 * (time.process_time() - start) / repeats)
    return times
