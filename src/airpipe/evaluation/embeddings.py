"""Do embeddings of a network tell what was done to an image, whatever it shows?

Ours: DegAE's specification asks for the nearest neighbour by label as a sanity check. Draws of a recipe degrade all
images; queries and gallery are the same crops, and what shows the same photograph with the same operations does not
count (as images of one camera do in Market-1501). So the nearest one is right where it is another photograph with the
same operations, while the same photograph with others stands beside it. Then the same among other photographs alone:
the references of the pretraining show something else than the image, too.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from airpipe.data.degrading import degraded_image
from airpipe.data.pairs import Pair
from airpipe.data.sources import ImageCache, pair_layers
from airpipe.degradations.recipes import draw
from airpipe.errors import AirpipeError
from airpipe.evaluation.feature_crops import cut_crops, evenly
from airpipe.evaluation.features import as_batch
from airpipe.evaluation.retrieval import Entries, retrieve
from airpipe.models.contract import embedding_length
from airpipe.pixels import Rgb8
from airpipe.progress import track
from airpipe.settings.studies import RetrievalSettings

WHERE = "features.retrieval"


def search(
    network: nn.Module, settings: RetrievalSettings, pairs: Sequence[Pair], device: torch.device | None = None
) -> dict[str, Any]:
    """Look for the operations that degraded each crop in the embeddings of all others.

    Args:
        network: a network with an embedding, in evaluation mode, on the device.
        settings: with the recipe written out (`ProjectSettings.retrieval`).
        pairs: the clean images.
        device: where the network is; None: on the CPU.

    Returns:
        What `retrieve` gives over all crops, and under `per_label` for the crops of each label (see `Drawn.label`) that
        has a match; in percent. `others`: `rank1` and `chance_rank1` where each crop is looked for among other
        photographs only, means over labels. `crops`, `images`: how many there were.

    Raises:
        AirpipeError: a network without embedding, images that do not fit the settings, embeddings that are not finite.
    """
    if not embedding_length(network):
        raise AirpipeError(
            f"{WHERE}: network {type(network).__name__} gives no embedding of an image; leave it out of the models"
        )
    crops = degraded_crops(settings, pairs)
    with torch.inference_mode():
        rows = [
            network.embedding(as_batch(pixels, device or torch.device("cpu"))).float().cpu().numpy()  # type: ignore[operator]
            for _, _, pixels in track(crops, len(crops), "embeddings")
        ]
    embeddings, labels = np.concatenate(rows), [label for label, _, _ in crops]
    photographs = [image for _, image, _ in crops]

    def entries(places: Sequence[int]) -> Entries:
        return Entries(
            embeddings[list(places)],
            [labels[place] for place in places],
            [str(place) for place in places],
            [photographs[place] for place in places],
        )

    every = entries(range(len(crops)))
    found = retrieve(every, every, WHERE)
    by_label = {label: [place for place, own in enumerate(labels) if own == label] for label in sorted(set(labels))}
    several = {label: of for label, of in by_label.items() if len({photographs[place] for place in of}) > 1}
    per_label = {label: retrieve(entries(of), every, f"{WHERE}, {label}") for label, of in several.items()}
    others = _among_others(entries, photographs, labels)
    return {**found, "per_label": per_label, "others": others, "crops": len(crops), "images": len(set(photographs))}


def _among_others(
    entries: Callable[[Sequence[int]], Entries], photographs: Sequence[str], labels: Sequence[str]
) -> dict[str, float]:
    """Means over labels of what `retrieve` finds for each photograph's crops among those of the other ones.

    Each label counts alike: most draws may leave an image clean, and to tell clean from degraded is little.
    """
    found = []
    for name in dict.fromkeys(photographs):
        rest = [place for place, other in enumerate(photographs) if other != name]
        # the draws are the same for all photographs, so that every crop has a match among the others
        for label in dict.fromkeys(labels):
            own = [at for at, other in enumerate(photographs) if other == name and labels[at] == label]
            found.append(retrieve(entries(own), entries(rest), f"{WHERE}, {name} among others"))
    return {key: float(np.mean([one[key] for one in found])) for key in ("rank1", "chance_rank1")}


def degraded_crops(settings: RetrievalSettings, pairs: Sequence[Pair]) -> list[tuple[str, str, Rgb8]]:
    """Degrade the centre crop of every image by every draw; returns label, name of the image and pixels of each.

    Raises:
        AirpipeError: fewer than two images, one that is smaller than the crop, or one with a degraded file.
    """
    chosen, cache = evenly(pairs, settings.images), ImageCache()
    if len(chosen) < 2:  # noqa: PLR2004
        raise AirpipeError(f"{WHERE}: {settings.pairs} has {len(chosen)} images; a neighbour is another one")
    drawn = [draw(settings.operations, np.random.default_rng([settings.seed, turn])) for turn in range(settings.draws)]
    crops = []
    for pair in chosen:
        cut = cut_crops(pair, pair_layers(pair, cache), settings.patch_size, 1, WHERE)[0]
        for turn, how in enumerate(drawn):
            # a stream for each crop: other images or numbers of draws change nothing of it
            generator = np.random.default_rng([settings.seed, turn, zlib.crc32(pair.name.encode())])
            where = f"{WHERE}, {settings.pairs}: recipe {settings.recipe}"
            paired = pair.degraded is not None
            pixels, _ = degraded_image(cut, paired, how, generator, where=where, name=pair.name)
            crops.append((how.label(), pair.name, pixels))
    return crops
