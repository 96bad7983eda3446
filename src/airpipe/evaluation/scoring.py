"""One model on the tests of a table, one after another: loaded once, and what was scored before stays as it is.

Every test leaves a score file, a JSON beside it that says what it was made from, and pictures. They are complete when
the JSON is there, so that a job that was killed goes on behind its last complete test.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from airpipe.data.locks import Busy, only_process
from airpipe.data.pairs import PairList, read_facts
from airpipe.errors import AirpipeError
from airpipe.evaluation.indexes import index_entry
from airpipe.evaluation.metrics import ON_CPU, Kit
from airpipe.evaluation.protocol import Restorer, evaluate, grey_in_luma, picture_keeper, write_scores
from airpipe.provenance import sha256_file, write_json
from airpipe.settings.base import canonical_json
from airpipe.settings.names import variant_of
from airpipe.settings.scoring import TestJob


@dataclass(frozen=True)
class Candidate:
    """What is scored, with the folders that its results go to: no model here, `candidates.Model` has weights."""

    id: str
    """Model id, with its variant; or none."""
    file: Path | None
    """File of weights; None: nothing is restored."""
    scores: Path
    """Folder of <test>.csv and <test>.json."""
    pictures: Path
    """Folder of <test>/<image>.png."""
    device: str = "cpu"
    threads: int = 1
    """Threads that restore, for the record."""

    @cached_property
    def sha256(self) -> str | None:
        """Hash of the weights."""
        return sha256_file(self.file) if self.file else None

    @property
    def card(self) -> dict[str, Any]:
        """The card of the model; empty: there is none."""
        return {}

    @property
    def kit(self) -> Kit[Any]:
        """How its images are compared."""
        return ON_CPU

    def restorer(self, tile: int) -> Restorer | None:
        """The model as a restorer with tiles of a side in pixels (0: whole images); None: nothing is restored."""
        return None


def score_tests(
    candidate: Candidate, jobs: Sequence[TestJob], lists: Mapping[str, PairList]
) -> dict[str, dict[str, Any]]:
    """Score a model on tests; those whose results are there and fit are left as they are.

    Of two processes that score one model (for two tables), each does the tests that the other is not at. Every test
    gets a line on stdout: scored, or reused.

    Args:
        candidate: the model.
        jobs: the tests with their protocols.
        lists: pair list of each test, by its id.

    Returns:
        Index entries by test (see `index_entry`), in the order of the tests.

    Raises:
        AirpipeError: a test without its pair list, a model or image that cannot be read, a network that gives
            no finite numbers.
    """
    if missing := sorted({job.test.pairs for job in jobs} - set(lists)):
        raise AirpipeError(f"no file of pair list {', '.join(missing)}; found {', '.join(lists) or 'none'}")
    found: dict[str, dict[str, Any]] = {}
    for wait in (False, True):  # what another process is at comes last
        for job in [job for job in jobs if job.name not in found]:
            try:
                with only_process(candidate.scores / f".{job.name}.lock", wait, f"{job.name}: being scored elsewhere"):
                    found[job.name] = _scored(candidate, job, lists[job.test.pairs])
            except Busy as busy:
                print(f"{busy}; waiting for it after the others", flush=True)
    return {job.name: found[job.name] for job in jobs}


def _scored(candidate: Candidate, job: TestJob, pairs: PairList) -> dict[str, Any]:
    """Index entry of a test, which is scored unless its results fit."""
    scores = candidate.scores / f"{job.name}.csv"
    identity = identity_of(candidate, job, pairs)
    if reason := why_again(candidate, job, identity):
        begin = time.perf_counter()
        images = _score(candidate, job, pairs, identity)
        print(f"{job.name}: scored {images} images in {time.perf_counter() - begin:.1f} s ({reason})", flush=True)
    else:
        print(f"{job.name}: reused", flush=True)
    return index_entry(scores)


def identity_of(candidate: Candidate, job: TestJob, pairs: PairList) -> str:
    """16 hex digits that change with the test, its protocols, its pair list, the weights and the variant."""
    parts = [canonical_json(job), pairs.sha256, candidate.sha256, variant_of(candidate.id)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def why_again(candidate: Candidate, job: TestJob, identity: str) -> str:
    """Tell why a test has to be scored; empty: its results are there and fit."""
    scores, pictures = candidate.scores / f"{job.name}.csv", candidate.pictures / job.name
    try:
        facts = json.loads(scores.with_suffix(".json").read_text(encoding="utf-8"))
        if facts["identity"] != identity:
            return "test, protocol, list or model changed"
        if sha256_file(scores) != facts["sha256"]:
            return "the score file was edited"
        kept = _picture_names(facts["kept"], candidate, job)
    except FileNotFoundError:
        return "new"
    except (OSError, ValueError, KeyError, TypeError):
        return "its record does not fit"
    return "" if all((pictures / name).is_file() for name in kept) else "pictures are missing"


def _picture_names(images: Sequence[str], candidate: Candidate, job: TestJob) -> list[str]:
    """Names of the files that `picture_keeper` writes for images."""
    ends = [""]
    if candidate.file is None:
        ends += ["_clean", "_reference"] if job.test.transfers else ["_clean"]
    return [f"{image}{end}.png" for image in images for end in ends]


def _score(candidate: Candidate, job: TestJob, pairs: PairList, identity: str) -> int:
    """Score one test and write what it leaves, the JSON last; returns the number of images."""
    test, scores, pictures = job.test, candidate.scores / f"{job.name}.csv", candidate.pictures / job.name
    record = scores.with_suffix(".json")
    record.unlink(missing_ok=True)  # from here on the results are incomplete
    shutil.rmtree(pictures, ignore_errors=True)
    images, restorer, begin = pairs.read(), candidate.restorer(test.tile), time.perf_counter()
    keeper = picture_keeper(pictures, with_clean=restorer is None)
    rows = evaluate(test, job.protocols, images, restorer, keeper, f"scoring {job.name}", kit=candidate.kit)
    write_scores(scores, rows)
    facts = {
        "images": len(images),
        "grey_in_luma": grey_in_luma(test, job.protocols, images),
        "kept": list(dict.fromkeys(row["image"] for row in rows))[: test.keep_images],
        "seconds": round(time.perf_counter() - begin, 3),
        "sha256": sha256_file(scores),
        "identity": identity,
    }
    write_json(record, _origin(candidate, job, pairs) | facts)
    return len(images)


def _origin(candidate: Candidate, job: TestJob, pairs: PairList) -> dict[str, Any]:
    """Facts on what scores were made from."""
    return {
        "model": candidate.id,
        "test": job.name,
        "dataset": job.test.pairs.split(".")[0],
        "scale": candidate.card.get("scale"),
        "model_sha256": candidate.sha256,
        "version": read_facts(pairs.file).get("version"),
        "pairs_sha256": pairs.sha256,
        "revision": job.revision,
        "transfers": job.test.transfers,
        "protocols": {
            name: job.protocols[name].model_dump(mode="json", exclude_none=True) for name in job.test.protocols
        },
        "device": candidate.device,
        "threads": candidate.threads,
    }
