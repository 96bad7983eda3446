"""Run one enhancer (or none) through all recognition tests of a seed."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from airpipe.data.pairs import listed
from airpipe.errors import AirpipeError, run_main
from airpipe.evaluation.job import job_parser
from airpipe.evaluation.recognisers import shared_values
from airpipe.evaluation.recognition import recognise
from airpipe.evaluation.restore import choose_device
from airpipe.provenance import atomic_path, library_versions, sha256_file, write_json
from airpipe.settings.base import read_settings
from airpipe.settings.names import variant_of
from airpipe.settings.studies import RecognitionJob
from airpipe.weights.checkpoints import LoadedModel, load_model

TRAINING = ("method", "setting", "stage", "scale", "seed", "step")
"""Facts of a card that tell about the training."""


def arguments() -> argparse.Namespace:
    parser = job_parser(__doc__, "the lists of all tests", or_none=True)
    parser.add_argument("--seed", type=int, required=True, help="of the run")
    parser.add_argument("--recogniser", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--job", type=Path, required=True, help="tests and recognisers as YAML")
    parser.add_argument("--output", type=Path, required=True, help="json; pictures go beside it (npz)")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    job = read_settings(RecognitionJob, given.job)
    wanted = {pairs for test in job.tests.values() for pairs in test.lists()}
    lists = listed(given.pairs, given.root, wanted, "recognition")
    files_of = dict(text.split("=", 1) for text in given.recogniser)
    if set(files_of) != set(job.recognisers):
        raise AirpipeError(f"recognition: --recogniser {', '.join(files_of)}; expected {', '.join(job.recognisers)}")
    models = {name: load_model(Path(files_of[name]), variant_of(model)) for name, model in job.recognisers.items()}
    enhancer, device = (
        load_model(given.model, variant_of(given.id)) if given.model else None,
        choose_device(given.device),
    )
    pairs = {name: one.read() for name, one in lists.items()}
    tests, pictures = recognise(enhancer, models, job, pairs, device)
    facts = {
        "model": given.id,
        "seed": given.seed,
        **(_facts(enhancer) if enhancer else {}),
        "recognisers": {
            name: {"id": job.recognisers[name], **_facts(model), **_shared(enhancer, model)}
            for name, model in models.items()
        },
        "pairs_sha256": {name: one.sha256 for name, one in lists.items()},
        "settings": job.model_dump(mode="json"),
        "device": str(device),
        "threads": given.threads,
        "libraries": library_versions(),
        "tests": tests,
    }
    with atomic_path(given.output.with_suffix(".npz")) as temporary:
        np.savez_compressed(temporary, **pictures)  # type: ignore[arg-type]
    write_json(given.output, facts)


def _facts(model: LoadedModel) -> Mapping[str, Any]:
    card = model.card
    return {
        "network": card["network"],
        "training": {name: card.get(name) for name in TRAINING},
        "parents": [parent["role"] for parent in card.get("parents") or ()],
        "sha256": sha256_file(model.path),
    }


def _shared(enhancer: LoadedModel | None, recogniser: LoadedModel) -> Mapping[str, int]:
    return {"shared_values": shared_values(enhancer.network, recogniser.network)} if enhancer else {}


if __name__ == "__main__":
    run_main(main)
