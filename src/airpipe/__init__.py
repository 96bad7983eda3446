"""All-in-one image restoration as one reproducible pipeline.

The public functions are loaded on first use, so that light commands stay light.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airpipe.errors import AirpipeError
    from airpipe.evaluation.restore import restore
    from airpipe.registry import build_network
    from airpipe.weights.checkpoints import LoadedModel, load_model
    from airpipe.weights.published import load_published

__version__ = "0.1.0"
__all__ = ["AirpipeError", "LoadedModel", "__version__", "build_network", "load_model", "load_published", "restore"]

_HOMES = {
    "AirpipeError": "airpipe.errors",
    "LoadedModel": "airpipe.weights.checkpoints",
    "build_network": "airpipe.registry",
    "load_model": "airpipe.weights.checkpoints",
    "load_published": "airpipe.weights.published",
    "restore": "airpipe.evaluation.restore",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'airpipe' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)
