"""What it saves that jobs keep the memory which tensors free: `python -m benchmarks.freed_memory`.

Forward passes of an image and training steps of small networks, in processes with the variables that the pipeline
sets for its jobs (`airpipe.resident.KEPT`) and in others without them, by turns, the order reversed every other
round. Printed: CPU milliseconds of one (user and system), their ratio, and the peak memory of the processes. One
thread; random weights (seed 0). The exit status is 0.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from airpipe.errors import run_main
from airpipe.progress import track
from airpipe.registry import build_network
from airpipe.resident import KEPT, peak_bytes
from benchmarks.measuring import machine_line

NETWORKS: dict[str, dict[str, Any]] = {
    "nafnet": {"width": 16, "middle_blk_num": 2, "enc_blk_nums": [1, 1, 2], "dec_blk_nums": [1, 1, 1]},
    "restormer": {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 1, 2, 4]},
    "dsrir": {"bias": True, "sn_feats": [8, 12, 12], "steps": [8, 8], "reduction": 4, "sn1_blocks": [1, 1, 1]}
    | {"sn2_blocks": [1, 1], "sn3_blocks": 1, "sn1_grids": [1, 1, 1], "sn2_grids": [1, 1], "sn3_grids": [1]},
}
SIDE, BATCH, PATCH, REPEATS = 512, 4, 64, 3
"""Side of the image; patches of a step; passes and steps that a process measures, after one that it does not."""
WORK = "worker"


def measured() -> Iterator[tuple[str, float]]:
    """Measure in this process: what, and CPU milliseconds of one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, arguments in NETWORKS.items():
        network = build_network(name, **arguments).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        image, patches = (
            torch.rand(count, 3, side, side).contiguous(memory_format=torch.channels_last)
            for count, side in ((1, SIDE), (BATCH, PATCH))
        )

        @torch.inference_mode()
        def restore(network: Any = network, image: Any = image) -> None:
            network(image)

        def step(network: Any = network, patches: Any = patches) -> None:
            network(patches).square().mean().backward()

        for what, call in (
            (f"{name}, forward pass {SIDE}x{SIDE}", restore),
            (f"{name}, step {BATCH}x{PATCH}x{PATCH}", step),
        ):
            call()
            start = time.process_time()
            for _ in range(REPEATS):
                call()
            yield what, 1000 * (time.process_time() - start) / REPEATS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(f"--{WORK}", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps({**dict(measured()), "peak": peak_bytes() / 1e6}))
        return
    plain = {name: value for name, value in os.environ.items() if name not in KEPT}
    ways = {"before": plain, "after": plain | KEPT}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in track(range(given.rounds), given.rounds, "measuring"):
        for way in ways if number % 2 else reversed(list(ways)):
            words = [sys.executable, "-m", "benchmarks.freed_memory", f"--{WORK}"]
            done = subprocess.run(words, env=ways[way], check=True, capture_output=True, text=True)
            found[way].append(json.loads(done.stdout))
    print(f"{machine_line()}; {given.rounds} rounds of processes of one thread; CPU ms")
    print(f"{'what':<36}{'before':>10}{'after':>10}{'ratio':>9}")
    for what in found["before"][0]:
        before, after = ([one[what] for one in found[way]] for way in ways)
        ratio = statistics.median(b / a for b, a in zip(before, after, strict=True))
        unit = " MB" if what == "peak" else ""
        print(f"{what + unit:<36}{statistics.median(before):>10.1f}{statistics.median(after):>10.1f}{ratio:>8.2f}x")


if __name__ == "__main__":
    run_main(main)
