"""Analyse the features of one checkpoint: kNN, t-SNE and confusion matrices."""

import argparse
from pathlib import Path

import torch

from airpipe.data.pairs import listed
from airpipe.errors import run_main
from airpipe.evaluation.features import analyse
from airpipe.evaluation.job import job_parser
from airpipe.evaluation.restore import choose_device
from airpipe.provenance import library_versions, sha256_file, write_json
from airpipe.settings.base import read_settings
from airpipe.settings.names import variant_of
from airpipe.settings.studies import FeatureSettings
from airpipe.weights.checkpoints import load_model

TRAINING = ("method", "setting", "stage", "scale", "seed", "step")
"""Facts of the card that tell about the training."""


def arguments() -> argparse.Namespace:
    parser = job_parser(__doc__, "the lists of all classes")
    parser.add_argument("--init", choices=["trained", "random"], default="trained", help="weights to look into")
    parser.add_argument("--features", type=Path, required=True, help="feature settings as YAML")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    settings = read_settings(FeatureSettings, given.features)
    lists = listed(given.pairs, given.root, {entry.pairs for entry in settings.classes.values()}, "features")
    pairs = {name: one.read() for name, one in lists.items()}
    model, device = load_model(given.model, variant_of(given.id)), choose_device(given.device)
    facts = {
        "model": given.id,
        "network": model.card["network"],
        "training": {name: model.card.get(name) for name in TRAINING},
        "model_sha256": sha256_file(model.path),
        "pairs_sha256": {name: one.sha256 for name, one in lists.items()},
        "settings": settings.model_dump(mode="json"),
        "device": str(device),
        "threads": given.threads,
        "libraries": library_versions(),
    }
    write_json(given.output, facts | analyse(model, settings, pairs, given.output.parent, given.init, device))


if __name__ == "__main__":
    run_main(main)
