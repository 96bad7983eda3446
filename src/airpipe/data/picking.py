"""Picking some degraded versions of some clean images, by a seed that the data set's entry writes down.

Haze and rain are often synthesised many times for each photograph, and papers train on a random part of the pairs. The
pair list is the record of what was picked; the JSON beside it says by which seed and from how many.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from airpipe.data.labelled import place_of
from airpipe.settings.datasets import Pick


def picked(rows: Sequence[Mapping[str, str]], pick: Pick) -> tuple[list[dict[str, str]], list[str]]:
    """Keep the rows of a pair list that a seed picks.

    Every clean image and every version has a place in [0, 1), from a hash of the seed and its file name without
    folders and suffix; the lowest places are kept. The choice therefore depends neither on the layout of the copy nor
    on the order of its files, another file displaces at most one, and picking again from what was picked changes
    nothing.

    Args:
        rows: rows of a pair list.
        pick: how many clean images and versions, and the seed.

    Returns:
        The kept rows, in their order; and problems, one line each: too few clean images or versions.
    """
    versions: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        versions.setdefault(row["clean"], []).append(row)
    wanted = pick.clean_images or len(versions)
    kept = sorted(versions, key=lambda clean: (place_of(PurePosixPath(clean).stem, pick.seed), clean))[:wanted]
    problems = [
        f"{clean}: {len(versions[clean])} of {pick.per_clean} degraded versions are there. Add them, or lower per_clean"
        for clean in kept
        if len(versions[clean]) < pick.per_clean
    ]
    if len(kept) < wanted:
        problems.append(
            f"{len(kept)} clean images have a pair, {wanted} are to be picked. Add some, lower clean_images of "
            "pick, or leave pick out (pick: null in an overlay)"
        )
    names = set()
    for clean in kept:
        order = sorted(row["name"] for row in versions[clean])
        names |= set(sorted(order, key=lambda name: place_of(name, pick.seed))[: pick.per_clean])
    return [dict(row) for row in rows if row["name"] in names], problems
