"""Restore the first image of some tests with a network that restores in stages, and keep what each stage made."""

import argparse
from pathlib import Path

import numpy as np
import torch

from airpipe.data.pairs import listed
from airpipe.errors import run_main
from airpipe.evaluation.job import job_parser
from airpipe.evaluation.restore import choose_device
from airpipe.evaluation.stages import show_stages
from airpipe.provenance import atomic_path
from airpipe.settings.base import read_settings
from airpipe.settings.names import variant_of
from airpipe.settings.scoring import TestJob
from airpipe.weights.checkpoints import load_model


def arguments() -> argparse.Namespace:
    parser = job_parser(__doc__, "pair lists of the tests")
    parser.add_argument("--tests", type=Path, nargs="+", required=True, help="tests with their protocols as YAML")
    parser.add_argument("--output", type=Path, required=True, help="npz to write")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    jobs = [read_settings(TestJob, file) for file in given.tests]
    lists = listed(given.pairs, given.root, {job.test.pairs for job in jobs}, "gallery")
    network, device = load_model(given.model, variant_of(given.id)).network, choose_device(given.device)
    pairs = {name: one.read() for name, one in lists.items()}
    shown = show_stages(network.to(device), jobs, pairs, device)
    with atomic_path(given.output) as temporary:
        np.savez_compressed(temporary, **shown)  # type: ignore[arg-type]


if __name__ == "__main__":
    run_main(main)
