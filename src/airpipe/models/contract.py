"""The contract of networks: what a network may tell about itself, and the functions by which all other modules ask.

Registered networks derive from `Network` and override what differs. Any `nn.Module` that maps images to images can
restore as well: for what it does not tell, the defaults of `Network` hold.

The call is `network(image)`, (B, C, H, W) in [0, 1] to the same shape; `network(image, reference)` where
`takes_reference`; `network(image, features=True)` gives a list of maps with `feature_channels`, with `classify=True` as
well, where the network has `classes`, (logits, maps), and
`network(image, stages=True)` images and maps of all `restoring_stages`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError

T = TypeVar("T")
Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each state-dict entry, by its name."""
Inputs = tuple[Tensor | list[Tensor], ...]
"""Positional arguments of a call."""


@dataclass(frozen=True)
class Form:
    """A published form: what is known of files of these names and shapes that the shapes themselves do not tell."""

    name: str
    """Whose form it is, for messages: "SwinIR for JPEG artefacts (window 7)"."""
    arguments: Mapping[str, Any]
    """Constructor arguments that the form settles."""
    usual: bool = True
    """Whether such files are used as this network, where several registered ones fit."""


class Network(nn.Module):
    """Base of the registered networks: the defaults of the contract."""

    # Images

    image_channels: int = 3
    """Channels of the image: 3 for RGB, 1 for grey; networks that take others restore no pictures."""
    size_multiple: int = 1
    """Multiple in pixels that sides of tiles must have, so that strides and windows fall as in the whole image."""
    pads_itself: bool = False
    """Whether the network takes images of any size; otherwise it gets sides that are multiples of `size_multiple`."""
    least_telling: int = 1
    """Side in pixels of the smallest square image that shows all settings of the network."""
    whole_image: bool = False
    """Whether tiles would change the result: the network then gets whole images, whatever is asked for."""
    takes_reference: bool = False
    """Whether the network is called with a second image, (B, 3, h, w) of any size, that shows how the result looks."""
    least_reference: int = 1
    """Shortest side in pixels that a reference may have."""
    restoring_stages: int = 0
    """Number of stages whose images and maps `forward(image, stages=True)` gives, the last one first: two lists of
    tensors of the image's shape, a map being the logarithm of how far off a pixel may be; 0: it restores at once."""
    no_restorer: str = ""
    """Why the network restores no image ("it tells classes of images apart"); empty: it restores."""

    # Features

    feature_channels: Sequence[int] = ()
    """Channels of each map of `forward(image, features=True)`; empty: the network gives none."""
    classes: int = 0
    """Number of classes that the logits tell apart; 0: the network has no logits."""
    branches: int = 0
    """Number of branches whose weights `guidance(image)` gives, (B, branches, h, w); below 2: it gives none."""

    embedding_length: int = 0
    """Length D of `embedding(image)`, (B, D), which tells what degrades an image; 0: the network gives none."""

    # Files

    PUBLISHED_LAYOUTS: ClassVar[tuple[str, ...]] = ("published",)
    """Key layouts that `published_state` writes, the usual one first; empty: no published file holds it."""
    UNPADDED_LAYOUTS: ClassVar[tuple[str, ...]] = ()
    """Layouts whose published class takes multiples of `size_multiple` only; its runner pads, by reflection."""
    PUBLISHED_CONTAINER: ClassVar[str] = "params"
    """Key under which published files keep the weights."""
    assumed: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that change the result and that no shape of a published file tells."""
    published_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Networks that the weights of every published file serve: name, and the constructor arguments that differ."""

    def takes_images_as(self, network: nn.Module) -> None:
        """Copy from another network all that concerns images; for networks that wrap one."""
        self.size_multiple, self.pads_itself = size_multiple(network), pads_itself(network)
        self.whole_image, self.no_restorer = whole_image(network), no_restorer(network)
        self.takes_reference, self.least_reference = takes_reference(network), least_reference(network)
        self.image_channels = image_channels(network)

    def example_input(self, height: int, width: int) -> Inputs:
        """Return the inputs of a call with one image of this size in pixels, as meta tensors without data.

        By default the image (1, C, height, width), and a reference of that size where the network takes one, or of the
        smallest that it may have.
        """
        image = torch.empty(1, image_channels(self), height, width, device="meta")
        if not self.takes_reference:
            return (image,)
        least = self.least_reference
        return image, image.new_empty(1, 3, max(height, least), max(width, least))

    def published_key(self, key: str) -> str | None:
        """Return the name here of a published state-dict entry; None for one without use. By default: the same."""
        return key

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Return the weights under their published names; by default these are the names here.

        Args:
            buffers: whether to add the buffers that are computed here and that published files store.
            layout: one of `PUBLISHED_LAYOUTS`; empty: the usual one.

        Raises:
            ValueError: the network has no such layout.
        """
        self.published_layout(layout)
        return dict(self.state_dict())

    @classmethod
    def published_layout(cls, layout: str) -> str:
        """Return the layout that is meant: the one given, or the usual one.

        Raises:
            ValueError: the network has no such layout, or none at all.
        """
        known = cls.PUBLISHED_LAYOUTS
        if not known or layout not in ("", *known):
            raise ValueError(f"layout is {layout!r}; expected one of {', '.join(known) or '(none)'}")
        return layout or known[0]

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the constructor arguments that fit a published state; None: it is of another network (the default).

        Args:
            shapes: shape of each entry, by its published name.
        """
        return None

    @classmethod
    def published_form(cls, shapes: Shapes) -> Form | None:
        """Return the published form that names and shapes of a fitting file tell; None: they tell none (the default).

        Args:
            shapes: shape of each entry, by its published name.
        """
        return None

    @classmethod
    def layout_of(cls, shapes: Shapes) -> str:
        """Return which of `PUBLISHED_LAYOUTS` the names of a fitting file have; by default the usual one.

        Args:
            shapes: shape of each entry, by its published name.
        """
        return next(iter(cls.PUBLISHED_LAYOUTS), "")

    @classmethod
    def unsupported(cls, shapes: Shapes) -> str:
        """Return what a published state is that a relative of this network has and this code has no place for.

        Args:
            shapes: shape of each entry, by its published name.

        Returns:
            A phrase that names it and why it is not taken ("a NAFSSR, ...: airpipe ..."); empty: nothing that is known.
        """
        return ""


# How all other modules ask; `network` is any `nn.Module`


def size_multiple(network: nn.Module) -> int:
    """Return the multiple, in pixels, that the sides of a network's images must have."""
    return _told(network, "size_multiple", int, 1)


def pads_itself(network: nn.Module) -> bool:
    """Tell whether a network takes images of any size."""
    return _told(network, "pads_itself", bool, False)


def least_telling(network: nn.Module) -> int:
    """Return the side in pixels of the smallest square image that shows all settings of a network."""
    return _told(network, "least_telling", int, 1)


def whole_image(network: nn.Module) -> bool:
    """Tell whether tiles would change what a network makes of an image."""
    return _told(network, "whole_image", bool, False)


def takes_reference(network: nn.Module) -> bool:
    """Tell whether a network is called with a reference beside the image."""
    return _told(network, "takes_reference", bool, False)


def least_reference(network: nn.Module) -> int:
    """Return the shortest side in pixels that a network's reference may have."""
    return _told(network, "least_reference", int, 1)


def restoring_stages(network: nn.Module) -> int:
    """Return the number of stages whose images and maps a network gives; 0: it restores at once."""
    return _told(network, "restoring_stages", int, 0)


def no_restorer(network: nn.Module) -> str:
    """Return why a network restores no image; empty: it does."""
    told, channels = _told(network, "no_restorer", str, ""), _told(network, "image_channels", int, 3)
    if told or channels in (1, 3):
        return told
    return f"it takes images of {channels} channels, and a picture has 3 (RGB) or 1 (grey)"


def feature_channels(network: nn.Module) -> list[int]:
    """Return the channels of each of a network's feature maps; empty: it gives none."""
    found = getattr(network, "feature_channels", ())
    if not isinstance(found, Sequence) or not all(isinstance(channels, int) for channels in found):
        raise _mistold(network, "feature_channels", found, "whole numbers in a list")
    return list(found)


def classes(network: nn.Module) -> int:
    """Return the number of classes that a network's logits tell apart; 0: it has no logits."""
    return _told(network, "classes", int, 0)


def branches(network: nn.Module) -> int:
    """Return the number of branches whose weights `network.guidance(image)` gives; below 2 nothing is weighed."""
    return _told(network, "branches", int, 0)


def embedding_length(network: nn.Module) -> int:
    """Return the length of `network.embedding(image)`, which tells what degrades an image; 0: it gives none."""
    return _told(network, "embedding_length", int, 0)


def image_channels(network: nn.Module) -> int:
    """Return the channels of a network's images; those of its first convolution's input where it does not tell."""
    if hasattr(network, "image_channels"):
        return _told(network, "image_channels", int, 3)
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return first.in_channels if first is not None else 3


def example_input(
    network: nn.Module, height: int, width: int, device: torch.device | str, channels: int | None = None
) -> Inputs:
    """Make random inputs for a call with one image.

    Args:
        network: any module that maps images.
        height: height of the image in pixels.
        width: width of the image in pixels.
        device: device of the inputs.
        channels: channels of the image; None: as the network tells, or as many as its first convolution takes.
    """
    if isinstance(network, Network) and channels is None:
        return tuple(_random(shown, device) for shown in network.example_input(height, width))
    return (torch.rand(1, channels or image_channels(network), height, width, device=device),)


def _random(shown: Tensor | list[Tensor], device: torch.device | str) -> Tensor | list[Tensor]:
    if isinstance(shown, Tensor):
        return torch.rand(shown.shape, device=device)
    return [torch.rand(one.shape, device=device) for one in shown]


def _told(network: nn.Module, name: str, kind: type[T], default: T) -> T:
    """What a network tells, or the default.

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
