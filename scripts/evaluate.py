"""Score one model (or none) on one test under every protocol of the test."""

import argparse
import json
from pathlib import Path

from airpipe.data.pairs import read_facts, read_pairs
from airpipe.errors import run_main
from airpipe.evaluation.protocol import evaluate, network_restorer, picture_keeper, write_scores
from airpipe.provenance import sha256_file, write_json
from airpipe.settings.base import check_settings
from airpipe.settings.names import variant_of
from airpipe.settings.scoring import ProtocolSettings, TestSettings


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("id", help="model id, or none")
    parser.add_argument("--model", type=Path, nargs="?", help="model.safetensors; nothing for none")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--root", action="append", default=[], help="dataset=folder")
    parser.add_argument("--name", required=True, help="name of the test")
    parser.add_argument("--test", required=True, help="test settings as JSON")
    parser.add_argument("--protocols", required=True, help="protocols as JSON")
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--restored", type=Path, required=True, help="folder for pictures")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    test = check_settings(TestSettings, json.loads(given.test), f"tests.{given.name}")
    plain = json.loads(given.protocols)
    protocols = {name: check_settings(ProtocolSettings, p, f"protocols.{name}") for name, p in plain.items()}
    dataset = test.pairs.split(".")[0]
    root = dict(text.split("=", 1) for text in given.root).get(dataset)
    pairs = read_pairs(given.pairs, Path(root) if root else None)
    given.restored.mkdir(parents=True, exist_ok=True)
    restorer, card = (
        network_restorer(given.model, given.device, given.threads, test.tile, variant_of(given.id))
        if given.model
        else (None, {})
    )
    keeper = picture_keeper(given.restored, with_clean=restorer is None)
    rows = evaluate(test, protocols, pairs, restorer, keeper, f"scoring {given.name}")
    facts = {
        "model": given.id,
        "test": given.name,
        "dataset": dataset,
        "scale": card.get("scale"),
        "images": len(pairs),
        "kept": list(dict.fromkeys(row["image"] for row in rows))[: test.keep_images],
        "model_sha256": sha256_file(given.model) if given.model else None,
        "version": read_facts(given.pairs).get("version"),
        "pairs_sha256": sha256_file(given.pairs),
        "protocols": plain,
        "device": given.device,
        "threads": given.threads,
    }
    write_json(given.scores.with_suffix(".json"), facts)
    write_scores(given.scores, rows)


if __name__ == "__main__":
    run_main(main)
