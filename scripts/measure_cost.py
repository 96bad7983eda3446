"""Measure parameters, multiply-accumulates, peak memory and latency of one model."""

import argparse
from pathlib import Path

import torch

from airpipe.errors import run_main
from airpipe.evaluation.memory import peak_memory_mb
from airpipe.evaluation.restore import choose_device
from airpipe.models.contract import image_channels
from airpipe.models.cost import latency_ms, network_cost
from airpipe.provenance import write_json
from airpipe.settings.names import variant_of
from airpipe.weights.checkpoints import load_model, network_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("id", help="model id")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device, variant = choose_device(given.device), variant_of(given.id)
    network = network_of(given.model, variant)
    # first: all else takes memory, too
    peak = peak_memory_mb(network["name"], network["arguments"], device, fresh=True)
    loaded = load_model(given.model, variant)
    facts = {
        "model": given.id,
        **network_cost(network["name"], network["arguments"]),
        "input": f"1x{image_channels(loaded.network)}x256x256",
        "peak_memory_mb": peak,
        "latency_ms": round(latency_ms(loaded.network, device), 2),
        "device": str(device),
        "threads": given.threads,
    }
    write_json(given.output, facts)


if __name__ == "__main__":
    run_main(main)
