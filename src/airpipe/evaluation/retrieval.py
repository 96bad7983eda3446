"""Retrieval by embeddings: Rank-k and mean average precision with the cosine. This module needs no torch.

The protocol is that of Market-1501 where images have cameras: gallery images of the query's identity *and* camera are
left out, as are junk images. Average precision is the mean of the precisions at each match, as re-identification
code has it (ours; Market-1501's own script takes trapezoids).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airpipe.errors import AirpipeError

Numbers = npt.NDArray[np.int64]
RANKS = (1, 5, 10)
DECIMALS = 6
"""Cosines that agree to so many decimals are equal; of equals the first one of the gallery's list comes first."""
CHUNK = 2**23
"""Number of similarities that are in memory at once."""
JUNK = "-1"
"""Identity of images that count neither as right nor as wrong, as Market-1501 names it."""


@dataclass(frozen=True)
class Entries:
    """The images of a set of queries, or of a gallery."""

    embeddings: npt.NDArray[np.float32]
    """Embeddings (n, D), of any length."""
    identities: Sequence[str]
    """Identity of each image, (n,): equal for images that match."""
    images: Sequence[str]
    """A text that tells each image from all others, (n,): a query never finds itself."""
    cameras: Sequence[str] = ()
    """Camera of each image, (n,), "" where unknown; empty: no image has one."""


def retrieve(queries: Entries, gallery: Entries, where: str = "retrieval") -> dict[str, float]:
    """Look for images of each query's identity in the gallery.

    Args:
        queries: images whose identity is looked for; junk among them is left out.
        gallery: images to look among: may hold the queries themselves, junk and identities that nobody asks for.
        where: what is looked for, for messages.

    Returns:
        `rank1`, `rank5`, `rank10` and `map` in percent, means over the queries with a match; `chance_rank1` and
        `chance_map`: what a random order reaches on average; `queries`, those with a match; `without_match`; `gallery`,
        images in it without junk.

    Raises:
        AirpipeError: no query has a match, or embeddings that are not finite or have other lengths.
    """
    _check(queries, gallery, where)
    parts = [_scores(match, counted) for match, counted in _ordered(queries, gallery)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    asked = int(sum(identity != JUNK for identity in queries.identities))
    scored = len(columns["map"])
    if not scored:
        raise AirpipeError(
            f"{where}: none of the {asked} queries has an image of its identity in the gallery of "
            f"{len(gallery.identities)}. Name the gallery that belongs to the list"
        )
    counts = {"queries": scored, "without_match": asked - scored}
    counts["gallery"] = int(sum(identity != JUNK for identity in gallery.identities))
    return {name: 100 * float(values.mean()) for name, values in columns.items()} | counts


def _ordered(queries: Entries, gallery: Entries) -> Iterator[tuple[npt.NDArray[np.bool_], Numbers]]:
    """Yield for some queries at a time whether the entry at each place is a match, best first (q, g), and how many
    places count (q,)."""
    identity, of_gallery = _numbered(queries.identities, gallery.identities)
    camera, their_camera = _numbered(_cameras(queries), _cameras(gallery))
    image, their_image = _numbered(queries.images, gallery.images)
    known = np.array([bool(name) for name in _cameras(queries)])
    junk = np.array([name == JUNK for name in gallery.identities])
    first, second = _unit(queries.embeddings), _unit(gallery.embeddings)
    asked = np.flatnonzero([name != JUNK for name in queries.identities])
    step = max(1, CHUNK // max(1, len(second)))
    for start in range(0, max(len(asked), 1), step):
        rows = asked[start : start + step]
        same = identity[rows, None] == of_gallery
        left_out = junk | (image[rows, None] == their_image)
        left_out |= same & known[rows, None] & (camera[rows, None] == their_camera)
        cosine = np.where(left_out, -np.inf, np.round(first[rows] @ second.T, DECIMALS))
        order = np.argsort(-cosine, axis=1, kind="stable")
        yield np.take_along_axis(same & ~left_out, order, 1), np.asarray((~left_out).sum(1), np.int64)


def _scores(match: npt.NDArray[np.bool_], counted: Numbers) -> dict[str, npt.NDArray[np.float64]]:
    """Scores of the queries with a match, as shares in [0, 1]."""
    found = match.any(1)
    match, counted = match[found], counted[found]
    total = match.sum(1)
    precision = np.cumsum(match, 1) / np.arange(1, match.shape[1] + 1)
    first = match.argmax(1) if match.shape[1] else total
    scores = {f"rank{rank}": (first < rank).astype(float) for rank in RANKS}
    scores["map"] = np.asarray((precision * match).sum(1) / np.maximum(total, 1), float)
    scores["chance_rank1"] = np.asarray(total / np.maximum(counted, 1), float)
    return scores | {"chance_map": random_precision(total, counted)}


def random_precision(matches: Numbers, count: Numbers) -> npt.NDArray[np.float64]:
    """Expected average precision of a random order, (q,), in [0, 1].

    Args:
        matches: number of matches of each query, (q,), at least 1.
        count: number of entries that each query may find, (q,), matches included.
    """
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, count.max(initial=0) + 1))])[count]
    # mean of (1 + (k - 1) * others) / k over the places k at which a match may stand
    others = (matches - 1) / np.maximum(count - 1, 1)
    return np.asarray((others * (count - harmonic) + harmonic) / np.maximum(count, 1), float)


def _unit(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of length 1; zeros stay."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(length > 0, length, 1), np.float32)


def _numbered(first: Sequence[str], second: Sequence[str]) -> tuple[Numbers, Numbers]:
    """Equal texts as equal numbers."""
    table: dict[str, int] = {}
    numbers = [np.array([table.setdefault(name, len(table)) for name in names], np.int64) for names in (first, second)]
    return numbers[0], numbers[1]


def _cameras(entries: Entries) -> Sequence[str]:
    return entries.cameras or [""] * len(entries.identities)


def _check(queries: Entries, gallery: Entries, where: str) -> None:
    for name, entries in (("queries", queries), ("gallery", gallery)):
        lengths = {len(entries.embeddings), len(entries.identities), len(entries.images), len(_cameras(entries))}
        if len(lengths) != 1:
            raise AirpipeError(f"{where}: {name} have {sorted(lengths)} entries; expected one of each per image")
        if not np.isfinite(entries.embeddings).all():
            raise AirpipeError(f"{where}: embeddings of the {name} are not finite; check the recogniser's weights")
    lengths = {queries.embeddings.shape[1], gallery.embeddings.shape[1]}
    if len(lengths) != 1:
        raise AirpipeError(f"{where}: embeddings of {sorted(lengths)} numbers; expected those of one recogniser")
