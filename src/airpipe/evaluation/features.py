"""Do the features of a checkpoint tell degradations apart? kNN, t-SNE and the trained classifier itself.

Source: MILab-PKU/DCPT `knn_gen.py`, `knn.py`, `t_sne.py`. Features are those of
`forward(image, features=True)`: of the decoder, shallow first, so that level 0 is the last stage before the
restoration head. docs/evaluation.md tells what deviates.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from sklearn.random_projection import SparseRandomProjection
from torch import Tensor, nn

from airpipe.data.pairs import Pair
from airpipe.errors import AirpipeError
from airpipe.evaluation.feature_crops import Crop, class_crops, in_order
from airpipe.evaluation.gram import FeatureRows, Vector, check_perplexity, distances, feature_rows, tsne
from airpipe.evaluation.neighbours import Rows, Samples, classify, splits
from airpipe.models.contract import classes, feature_channels, image_channels
from airpipe.pixels import Rgb8, in_floats
from airpipe.progress import track
from airpipe.registry import below_head, build_network, networks
from airpipe.settings.studies import FeatureSettings
from airpipe.weights.checkpoints import LoadedModel

Init = Literal["trained", "random"]


def analyse(
    model: LoadedModel,
    settings: FeatureSettings,
    pairs: Mapping[str, Sequence[Pair]],
    scratch: Path,
    init: Init = "trained",
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Analyse the features of a checkpoint, or of the same architecture with random weights.

    Args:
        model: what `load_model` gave.
        settings: the feature settings, with operations and labels written out (`ProjectSettings.feature_analysis`).
        pairs: pairs of every list that a class names, by its id.
        scratch: folder with space for the features; nothing stays in it.
        init: "random" takes nothing but the architecture.
        device: where the network runs; None: on the CPU.

    Returns:
        `knn` (see `neighbours.classify`), `classifier` (`accuracy`, `per_class`, `confusion`, `other` in percent
        and counts; None without a trained head), `tsne` (coordinates `x`, `y`, class and image of every crop),
        `chance` in percent and the counts that they rest on.

    Raises:
        AirpipeError: a network without features, images or classes that do not fit the settings, features
            that are not finite, a full disk.
    """
    where = device or torch.device("cpu")
    network, init_seed = probed_network(model, settings, init)
    network = network.to(where)
    crops = class_crops(settings, pairs)
    samples = as_samples(settings, crops)
    splits(samples, settings)  # errors of the settings come before the long part
    check_perplexity(settings.perplexity, len(crops))
    classifies = init == "trained" and classes(network) > 0
    if classifies:
        _check_labels(network, settings)
    with feature_rows(scratch) as rows:
        answers = extract(network, settings, crops, rows, where, classifies)
        gram, length = rows.gram(), rows.length
    x, y = tsne(gram, settings.perplexity, settings.iterations, settings.tsne_seed).T
    return {
        "init": init,
        "init_seed": init_seed,
        "classes": _class_facts(settings, crops),
        "crops": len(crops),
        "images": len({(crop.scene, crop.image) for crop in crops}),
        "scenes": len(set(samples.scenes)),
        "feature_length": length,
        "chance": samples.chance,
        "knn": classify(distances(gram), samples, settings),
        "classifier": judge(samples, settings, answers) if classifies else None,
        "tsne": {
            "x": [round(float(value), 4) for value in x],
            "y": [round(float(value), 4) for value in y],
            "class": [samples.classes[number] for number in samples.numbers],
            "image": [crop.image for crop in crops],
        },
    }


# Networks


def probed_network(model: LoadedModel, settings: FeatureSettings, init: Init) -> tuple[nn.Module, int | None]:
    """The network to look into, and the seed of its weights where they are random.

    Random weights are those of the backbone, so that a pretraining and what follows it share them.

    Raises:
        AirpipeError: a network without features, or not for RGB.
    """
    entry = model.card["network"]
    _check_network(model.network, entry["name"])
    if init == "trained":
        return model.network, None
    entry = below_head(entry)
    seed = settings.seed + (model.card.get("seed") or 0)
    network = random_network(entry["name"], entry.get("arguments", {}), settings.random_init, seed)
    return network.eval().requires_grad_(False), seed


def random_network(name: str, arguments: Mapping[str, Any], how: Literal["published", "own"], seed: int) -> nn.Module:
    """A registered network with random weights; equal arguments give equal weights.

    Args:
        name: registered name of the network.
        arguments: arguments of its constructor.
        how: "published": Kaiming-uniform weights with a = 2 and zero biases in all Conv2d and Linear layers, the
            rest (NAFNet's beta and gamma: zeros) as built; "own": as built.
        seed: seed of the weights; torch's global state stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(name, **arguments)
        if how == "published":
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_uniform_(module.weight, a=2)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
    return network


def _check_network(network: nn.Module, name: str) -> None:
    if not feature_channels(network):
        others = ", ".join(sorted(set(networks()) - {name}))
        raise AirpipeError(f"network {name} gives no features; leave it out of features.models. Others: {others}")
    channels = image_channels(network)
    if channels != 3:
        raise AirpipeError(f"network {name} takes images of {channels} channels; features are those of RGB images")


def _check_labels(network: nn.Module, settings: FeatureSettings) -> None:
    count = classes(network)
    for name, label in settings.labels().items():
        if label >= count:
            raise AirpipeError(
                f"features, class {name} has label {label}; the trained classifier knows 0 to {count - 1}. "
                "Give the classes the labels of its training (features.classes.<name>.label)"
            )


# Features


@torch.inference_mode()
def extract(
    network: nn.Module,
    settings: FeatureSettings,
    crops: Sequence[Crop],
    rows: FeatureRows,
    device: torch.device,
    classifies: bool = False,
) -> Rows:
    """Write the feature vector of every crop to `rows`; with `classifies` return the answers (n,) of the head.

    One crop at a time: equal crops give equal features, whatever stands beside them.

    Raises:
        AirpipeError: features that are not finite, or a projection that is none.
    """
    projection: SparseRandomProjection | None = None
    answers = []
    for crop in track(crops, len(crops), "features"):
        image = as_batch(crop.pixels, device)
        if classifies:
            logits, levels = network(image, classify=True, features=True)
            answers.append(int(logits.argmax(1)))
        else:
            levels = network(image, features=True)
        vector = feature_vector(levels, settings)
        if not np.isfinite(vector).all():
            raise AirpipeError(
                f"features of {crop.image} are not finite: the weights are broken; train or import again"
            )
        if settings.projection:
            projection = projection or _projection(len(vector), settings)
            vector = projection.transform(vector[None])[0]
        rows.append(vector)
    return np.array(answers, np.int64)


def as_batch(pixels: Rgb8, device: torch.device) -> Tensor:
    """A crop (P, P, 3) in 8 bit as a batch (1, 3, P, P) of float32 in [0, 1]."""
    return in_floats(torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None])


def feature_vector(levels: Sequence[Tensor], settings: FeatureSettings) -> Vector:
    """The features of one crop as a vector (D,) float32.

    Args:
        levels: feature maps (1, C_i, H_i, W_i), shallow first.
        settings: `feature` and `pooling` say which levels count, and how.
    """
    chosen = levels if settings.feature == "all" else levels[:1]
    parts = [level.mean((2, 3)) if settings.pooling == "mean" else level for level in chosen]
    return torch.cat([part.flatten() for part in parts]).float().cpu().numpy()


def _projection(length: int, settings: FeatureSettings) -> SparseRandomProjection:
    if settings.projection >= length:
        raise AirpipeError(
            f"features.projection {settings.projection} is not below the {length} numbers of a feature; 0 leaves it out"
        )
    projection = SparseRandomProjection(settings.projection, random_state=settings.seed)
    return projection.fit(np.zeros((1, length), np.float32))


# Results


def as_samples(settings: FeatureSettings, crops: Sequence[Crop]) -> Samples:
    """Classes, class numbers and scenes of the crops: what the classifiers need to know of them.

    Raises:
        AirpipeError: a class without images.
    """
    labels = settings.labels()
    names = tuple(name for name, _ in in_order(settings))
    number = {labels[name]: place for place, name in enumerate(names)}
    found = {crop.label for crop in crops}
    for name in names:
        if labels[name] not in found:
            raise AirpipeError(f"features, class {name}: {settings.classes[name].pairs} holds no images")
    return Samples(names, np.array([number[crop.label] for crop in crops]), tuple(crop.scene for crop in crops))


def judge(samples: Samples, settings: FeatureSettings, answers: Rows) -> dict[str, Any]:
    """Score the answers of a classifier: the share of them that is right.

    Args:
        samples: the n crops.
        settings: the feature settings, which say the labels.
        answers: label that it gave each crop, (n,).

    Returns:
        `accuracy` and `per_class` in percent, `confusion` (rows: true class, columns: answer; counts) and
        `other`: answers per true class that are no class of the analysis.
    """
    labels = settings.labels()
    known = np.array([labels[name] for name in samples.classes])
    truth = known[samples.numbers]
    table = confusion_matrix(truth, answers, labels=known)
    totals = np.bincount(samples.numbers, minlength=len(known))
    return {
        "accuracy": 100 * float((truth == answers).mean()),
        "per_class": dict(zip(samples.classes, (100 * np.diagonal(table) / totals).tolist(), strict=True)),
        "confusion": table.tolist(),
        "other": (totals - table.sum(1)).tolist(),
    }


def _class_facts(settings: FeatureSettings, crops: Sequence[Crop]) -> list[dict[str, Any]]:
    count = Counter(crop.label for crop in crops)
    labels = settings.labels()
    return [
        {
            "name": name,
            "label": labels[name],
            "pairs": entry.pairs,
            "crops": count[labels[name]],
            "images": len({crop.image for crop in crops if crop.label == labels[name]}),
            "scenes": len({crop.scene for crop in crops if crop.label == labels[name]}),
        }
        for name, entry in in_order(settings)
    ]
