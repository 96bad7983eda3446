"""What networks that restore in stages make of an image on the way, for the gallery."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from airpipe.data.pairs import Pair
from airpipe.errors import AirpipeError
from airpipe.evaluation.metrics import psnr
from airpipe.evaluation.protocol import evaluate, natural_key
from airpipe.evaluation.reference import Sample
from airpipe.models.contract import image_channels, restoring_stages, size_multiple
from airpipe.models.padding import pad_to_multiple
from airpipe.pixels import FloatImage, Rgb8, quantised
from airpipe.settings.scoring import TestJob


def show_stages(
    network: nn.Module,
    jobs: Sequence[TestJob],
    lists: Mapping[str, Sequence[Pair]],
    device: torch.device | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Restore the first image of each test stage by stage, as its first protocol shows it to a model.

    Args:
        network: in evaluation mode, on the device; gives `restoring_stages`.
        jobs: the tests, with recipes and protocols written out.
        lists: pairs of every list that a test names.
        device: where the network is; None: the CPU.

    Returns:
        By "<test>.<what>": `degraded`, `clean` uint8 (H, W, 3), `images` uint8 (S, H, W, 3) of the stages in their
        order, `map` float16 (H, W), the logarithm of the last stage's uncertainty, its mean over channels, and `psnr`
        (1 + S,), in dB of what is shown: of the degraded image and of each stage.

    Raises:
        AirpipeError: a network without stages, a list without images, a result of another form than the network tells.
    """
    if not restoring_stages(network):
        raise AirpipeError(
            f"gallery: {type(network).__name__} does not restore in stages (`restoring_stages` in "
            "airpipe.models.contract); take its model out of gallery.models"
        )
    if (channels := image_channels(network)) != 3:
        raise AirpipeError(
            f"gallery: the model takes images of {channels} channels, not RGB; take it out of gallery.models"
        )
    shown: dict[str, npt.NDArray[Any]] = {}
    for job in jobs:
        degraded, clean = _first_sample(job, lists[job.test.pairs])
        images, uncertainty = stages_of(network, degraded, device or torch.device("cpu"))
        pictures = [quantised(one) for one in (degraded, *images)]
        scores = np.array([psnr(one, clean) for one in pictures])
        found = {"degraded": pictures[0], "clean": clean, "images": np.stack(pictures[1:])}
        found |= {"map": uncertainty.astype(np.float16), "psnr": scores}
        shown |= {f"{job.name}.{what}": value for what, value in found.items()}
    return shown


def _first_sample(job: TestJob, pairs: Sequence[Pair]) -> tuple[FloatImage, Rgb8]:
    """Degraded and clean image that the first protocol of a test makes of the first pair, in natural order."""
    first = job.test.protocols[0]
    test = job.test.model_copy(update={"protocols": (first,), "keep_images": 1})
    ordered = sorted(pairs, key=lambda pair: natural_key(pair.name))
    kept: list[tuple[FloatImage, Rgb8]] = []

    def keep(sample: Sample, restored: FloatImage, clean: Rgb8) -> None:
        kept.append((sample.degraded, clean))

    evaluate(test, {first: job.protocols[first]}, ordered[:1], None, keep, f"gallery, {job.name}")
    if not kept:
        raise AirpipeError(f"gallery, test {job.name}: {test.pairs} lists no images. Name another test")
    return kept[0]


@torch.inference_mode()
def stages_of(network: nn.Module, degraded: FloatImage, device: torch.device) -> tuple[list[FloatImage], FloatImage]:
    """Restore one image whole, stage by stage.

    Args:
        network: as for `show_stages`.
        degraded: (H, W, 3), nominally in [0, 1].
        device: where the network is.

    Returns:
        The image of each stage, first to last, (H, W, 3), not clipped; and the last stage's map, its mean over
        channels, (H, W).

    Raises:
        AirpipeError: other numbers of images or maps than `restoring_stages`.
    """
    height, width = degraded.shape[:2]
    image = torch.from_numpy(np.ascontiguousarray(degraded.transpose(2, 0, 1)))[None].to(device)
    images, maps = network(pad_to_multiple(image, size_multiple(network)), stages=True)
    count = restoring_stages(network)
    if (len(images), len(maps)) != (count, count):
        raise AirpipeError(
            f"{type(network).__name__} gave {len(images)} images and {len(maps)} maps; it tells of {count} stages"
        )

    def shown(one: Tensor) -> FloatImage:
        return np.ascontiguousarray(one[0, :, :height, :width].float().cpu().numpy().transpose(1, 2, 0))

    return [shown(one) for one in reversed(images)], shown(maps[0]).mean(axis=2)
