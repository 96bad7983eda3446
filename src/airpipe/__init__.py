"""All-in-one image restoration as one reproducible pipeline.

The public functions are loaded on first use, so that light commands stay light.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airpipe.evaluation.restore import restore
    from airpipe.registry import build_network
    from airpipe.weights.published import load_published

__version__ = "0.1.0"
__all__ = ["__version__", "build_network", "load_published", "restore"]

_HOMES = {
    "build_network": "airpipe.registry",
    "load_published": "airpipe.weights.published",
    "restore": "airpipe.evaluation.restore",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'airpipe' has no attribute {name!r}; public names: {', '.join(__all__)}")
