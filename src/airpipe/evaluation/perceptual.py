"""LPIPS, DISTS and NIQE through pyiqa, where the extra `perceptual` is installed; it is imported nowhere else."""

import importlib
import sys
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from airpipe.settings.scoring import PERCEPTUAL


def perceptual_measures(names: Collection[str], device: Any) -> dict[str, Callable[[Any, Any], float]]:
    """Functions of restored and clean image, (H, W, 3) on the 0 to 255 scale, by name.

    Args:
        names: measures of a test; those of other kinds are passed over.
        device: where they are computed, a device of torch or its name.

    Returns:
        Those that can be computed: none without pyiqa, which one line on stderr says.
    """
    wanted = [name for name in PERCEPTUAL if name in names]
    if not wanted:
        return {}
    try:
        pyiqa = importlib.import_module("pyiqa")
    except ModuleNotFoundError:
        print(
            f"{', '.join(wanted)}: left out; they need `pip install airpipe[perceptual]`", file=sys.stderr, flush=True
        )
        return {}
    return {name: _measure(pyiqa.create_metric(name, device=device), device) for name in wanted}


def _measure(metric: Any, device: Any) -> Callable[[Any, Any], float]:
    torch = importlib.import_module("torch")  # pyiqa has it; a test without these measures may need none

    def tensor(image: Any) -> Any:
        given = image if isinstance(image, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(image))
        return given.to(device).float().div(255).permute(2, 0, 1)[None]

    def value(restored: Any, clean: Any) -> float:
        seen = (tensor(restored),) if metric.metric_mode == "NR" else (tensor(restored), tensor(clean))
        with torch.inference_mode():
            return float(metric(*seen))

    return value
