"""Search one checkpoint's embeddings of degraded images for those that were degraded by the same operations."""

import argparse
from pathlib import Path

import torch

from airpipe.data.pairs import listed
from airpipe.errors import run_main
from airpipe.evaluation.embeddings import search
from airpipe.evaluation.job import job_parser
from airpipe.evaluation.restore import choose_device
from airpipe.provenance import library_versions, sha256_file, write_json
from airpipe.settings.base import read_settings
from airpipe.settings.names import variant_of
from airpipe.settings.studies import RetrievalSettings
from airpipe.weights.checkpoints import load_model


def arguments() -> argparse.Namespace:
    parser = job_parser(__doc__, "list of clean images")
    parser.add_argument("--retrieval", type=Path, required=True, help="retrieval settings as YAML")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    settings = read_settings(RetrievalSettings, given.retrieval)
    wanted = str(settings.pairs)
    pairs = listed(given.pairs, given.root, [wanted], "features.retrieval")[wanted]
    model, device = load_model(given.model, variant_of(given.id)), choose_device(given.device)
    facts = {
        "model": given.id,
        "network": model.card["network"],
        "model_sha256": sha256_file(model.path),
        "pairs_sha256": pairs.sha256,
        "settings": settings.model_dump(mode="json"),
        "device": str(device),
        "threads": given.threads,
        "libraries": library_versions(),
    }
    write_json(given.output, facts | search(model.network.to(device), settings, pairs.read(), device))


if __name__ == "__main__":
    run_main(main)
