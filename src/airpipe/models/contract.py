"""What a network may tell of itself, each with a default, and the only way in which the other rooms ask.

Registered networks derive from `Network` and override what differs. Any `nn.Module` that maps images to images is
restored as well: what it does not say is as `Network` has it.

The call is `network(image)`, (B, C, H, W) in [0, 1] to the same shape; `network(image, reference)` where
`takes_reference`; `network(image, features=True)` gives a list of maps with `feature_channels`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError

T = TypeVar("T")
Shapes = Mapping[str, tuple[int, ...]]
"""Name of a state-dict entry to its shape."""
Inputs = tuple[Tensor | list[Tensor], ...]
"""Positional arguments of a call."""


class Network(nn.Module):
    """Base of the registered networks: the defaults of the contract."""

    # Images

    size_multiple: int = 1
    """Tiles have sides of multiples of this many pixels, so that strides and windows fall as in the whole image."""
    pads_itself: bool = False
    """Whether it takes images of any size; else it gets multiples of `size_multiple`."""
    whole_image: bool = False
    """Whether tiles would change what it makes of an image: it then gets none, whatever is asked for."""
    takes_reference: bool = False
    """Whether it is called with a second image, (B, 3, h, w) of any size, that shows how the result should look."""
    no_restorer: str = ""
    """Why it restores no image ("it tells classes of images apart"); empty: it restores."""

    # Features

    feature_channels: Sequence[int] = ()
    """Channels of each map of `forward(image, features=True)`; empty: it gives none."""
    classes: int = 0
    """Classes that its logits tell apart; 0: it has none."""
    branches: int = 0
    """Branches whose weights `guidance(image)` tells, (B, branches, h, w); below 2 there is nothing to weigh."""

    # Files

    PUBLISHED_LAYOUTS: ClassVar[tuple[str, ...]] = ("published",)
    """Key layouts that `published_state` writes, the usual one first; empty: no published file holds it."""
    assumed: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that change the result and that no shape of a published file tells."""

    def takes_images_as(self, network: nn.Module) -> None:
        """Say of images what another network says: for those that wrap one."""
        self.size_multiple, self.pads_itself = size_multiple(network), pads_itself(network)
        self.whole_image, self.no_restorer = whole_image(network), no_restorer(network)
        self.takes_reference = takes_reference(network)

    def example_input(self, height: int, width: int) -> Inputs:
        """What it is called with for one image of this size, without data.

        By default the image (1, C, height, width), and a reference of the same size where it takes one.
        """
        image = torch.empty(1, image_channels(self), height, width, device="meta")
        return (image, image) if self.takes_reference else (image,)

    @staticmethod
    def published_key(key: str) -> str | None:
        """Name here of a published state-dict entry; None for one that is not needed. By default the same."""
        return key

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Weights under their published names; by default those here.

        Args:
            buffers: also those that are computed here and that published files store.
            layout: one of `PUBLISHED_LAYOUTS`; empty: the usual one.

        Raises:
            ValueError: another layout.
        """
        self.published_layout(layout)
        return dict(self.state_dict())

    @classmethod
    def published_layout(cls, layout: str) -> str:
        """The layout that is meant: the one given, or the usual one.

        Raises:
            ValueError: it has no such layout, or none at all.
        """
        known = cls.PUBLISHED_LAYOUTS
        if not known or layout not in ("", *known):
            raise ValueError(f"layout is {layout!r}; expected one of {', '.join(known) or '(none)'}")
        return layout or known[0]

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Constructor arguments that a published state has; None: it is another network. By default always None.

        Args:
            shapes: published name to shape.
        """
        return None


# How the other rooms ask; `network` is any module


def size_multiple(network: nn.Module) -> int:
    """Multiple that the sides of its images must have, in pixels."""
    return _told(network, "size_multiple", int, 1)


def pads_itself(network: nn.Module) -> bool:
    """Whether it takes images of any size."""
    return _told(network, "pads_itself", bool, False)


def whole_image(network: nn.Module) -> bool:
    """Whether tiles would change what it makes of an image."""
    return _told(network, "whole_image", bool, False)


def takes_reference(network: nn.Module) -> bool:
    """Whether it is called with a reference beside the image."""
    return _told(network, "takes_reference", bool, False)


def no_restorer(network: nn.Module) -> str:
    """Why it restores no image; empty: it does."""
    return _told(network, "no_restorer", str, "")


def feature_channels(network: nn.Module) -> list[int]:
    """Channels of each of its feature maps; empty: it gives none."""
    found = getattr(network, "feature_channels", ())
    if not isinstance(found, Sequence) or not all(isinstance(channels, int) for channels in found):
        raise _mistold(network, "feature_channels", found, "whole numbers in a list")
    return list(found)


def classes(network: nn.Module) -> int:
    """Classes that its logits tell apart; 0: it has none."""
    return _told(network, "classes", int, 0)


def branches(network: nn.Module) -> int:
    """Branches whose weights `network.guidance(image)` tells; below 2 there is nothing to weigh."""
    return _told(network, "branches", int, 0)


def image_channels(network: nn.Module) -> int:
    """Channels of the first convolution's input: 3, but 1 or 6 for some published networks."""
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return first.in_channels if first is not None else 3


def example_input(
    network: nn.Module, height: int, width: int, device: torch.device | str, channels: int | None = None
) -> Inputs:
    """Random inputs for one image of this size.

    Args:
        network: of any kind.
        height: of the image, in pixels.
        width: of the image, in pixels.
        device: where to make them.
        channels: of the image; None: those of its first convolution.
    """
    if isinstance(network, Network) and channels is None:
        return tuple(_random(shown, device) for shown in network.example_input(height, width))
    return (torch.rand(1, channels or image_channels(network), height, width, device=device),)


def _random(shown: Tensor | list[Tensor], device: torch.device | str) -> Tensor | list[Tensor]:
    if isinstance(shown, Tensor):
        return torch.rand(shown.shape, device=device)
    return [torch.rand(one.shape, device=device) for one in shown]


def _told(network: nn.Module, name: str, kind: type[T], default: T) -> T:
    """What a network says, or the default.

    Raises:
        AirpipeError: something of another type, which would be read wrongly.
    """
    found = getattr(network, name, default)
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise _mistold(network, name, found, kind.__name__)
    return found


def _mistold(network: nn.Module, name: str, found: object, expected: str) -> AirpipeError:
    return AirpipeError(
        f"network {type(network).__name__}: {name} is {found!r}; expected {expected}. See airpipe.models.contract"
    )
