"""DegAE: an image is shown again with the degradation of another one; its encoder then serves to restore.

Source: Liu et al., "DegAE: A New Pretraining Paradigm for Low-Level Vision", CVPR 2023. Of the paper only the abstract
was available; behaviour matched: lyh-18/DegAE_DegradationAutoencoder `DDG_arch.py` (DeepDegradationEncoder_v2 over
MSRResNet_wGR_i_fea) and `RCAN_Pretrain_Head_arch.py` (MSRResNet_Head with modulation, One_Conv_Head); goldens
`degae_{swinir,restormer}_*`, `degae_finetune_*`, `degae_representor_*`.

State-dict keys: encoder (that of SwinIR or Restormer), representor, decoder, head; inside a part the published ones,
except `extractor`, which is published as DDR_extractor. A published file holds one part. Parameters with SwinIR
16,796,711, with Restormer 31,701,723; finetuned 11,212,383 and 26,181,079.

Differences from the published code: parameters that it stores and never uses are not made (two convolutions of SwinIR,
the upsampling of the extractor, one convolution of the head); the extractor stops where its features are taken;
modulation scales features instead of weights (the same function within rounding), always in float32; noise is drawn
in training only unless it is asked for; a reference may serve several images.

Shapes: B batch, H and W of the image, h and w of the reference, C channels of the encoder's features, F channels inside
extractor and decoder (`nf`), E of the embedding; images are RGB in [0, 1].
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from airpipe.errors import AirpipeError
from airpipe.methods.degae.decoder import Decoder, Head, Noise
from airpipe.methods.degae.representor import SMALLEST, Representor
from airpipe.models.contract import Network
from airpipe.models.features import Features, Output
from airpipe.models.restormer import Restormer
from airpipe.models.swinir import SwinIR


class _Assembled(Network):
    """An encoder with other parts, each of which has a published file of its own."""

    FILES: ClassVar[Mapping[str, str]]
    """Part by the name of its published file, which prefixes its entries where several files are one."""

    def __init__(self, backbone: str, encoder: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.encoder: SwinIR | Restormer
        given = {"global_residual": False, **(encoder or {})}
        if backbone == "swinir":
            self.encoder = SwinIR(**{**given, "output": "features"})
            channels = self.encoder.norm.weight.shape[0]
        elif backbone == "restormer":
            self.encoder = Restormer(**{"out_channels": 64, **given})
            channels = self.encoder.output.out_channels
        else:
            raise ValueError(f"backbone is {backbone!r}; expected 'swinir' or 'restormer'")
        self.feature_channels = [channels]
        self.size_multiple, self.pads_itself = self.encoder.size_multiple, self.encoder.pads_itself
        self.image_channels = self.encoder.image_channels

    def published_key(self, key: str) -> str | None:
        """Return the name here of an entry that has the name of its file in front."""
        file, _, inner = key.partition(".")
        if file not in self.FILES:
            return key
        own = cast(Network, self.get_submodule(self.FILES[file])).published_key(inner)
        return None if own is None else f"{self.FILES[file]}.{own}"

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Return the weights of one published file, without its name in front.

        Args:
            buffers: as the part takes it.
            layout: one of `FILES`; empty: the encoder's.
        """
        part = cast(Network, self.get_submodule(self.FILES[self.published_layout(layout)]))
        return part.published_state(buffers)


class DegAE(_Assembled):
    """Show an image with the degradation of a reference: encoder, representor and decoder.

    Args:
        backbone: "swinir" or "restormer", the encoder's architecture.
        encoder: its arguments; those that it has as an encoder are set.
        decoder: arguments of `Decoder`; None: its defaults, sized as the other parts need it.
        representor: arguments of `Representor`; None: its defaults.

    Raises:
        ValueError: see the parts; or they do not fit each other.
    """

    takes_reference = True
    least_reference = SMALLEST
    FILES: ClassVar[Mapping[str, str]] = {
        "PretrainEncoder": "encoder",
        "DDG_Encoder": "representor",
        "PretrainDecoder": "decoder",
    }
    PUBLISHED_LAYOUTS = tuple(FILES)

    def __init__(
        self,
        backbone: Literal["swinir", "restormer"] = "swinir",
        encoder: Mapping[str, Any] | None = None,
        decoder: Mapping[str, Any] | None = None,
        representor: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, encoder)
        self.representor = Representor(**(representor or {}))
        self.embedding_length = self.representor.embedding_length
        sizes = {"in_c": self.feature_channels[0], "degradation_embed_dim": self.embedding_length}
        self.decoder = Decoder(**{**sizes, **(decoder or {})})
        found = {"in_c": self.decoder.in_c, "degradation_embed_dim": self.decoder.degradation_embed_dim}
        if found != sizes:
            raise ValueError(f"the decoder has {found}, but encoder and representor give {sizes}")

    def forward(
        self,
        image: Tensor,
        reference: Tensor | None = None,
        noise: Noise = None,
        features: Features = False,
        twin: Tensor | None = None,
    ) -> Output | tuple[Tensor, Tensor, Tensor]:
        """Give images the degradation of references.

        Args:
            image: (B, 3, H, W); also a whole number of such batches, one behind the other, which then share their
                references.
            reference: (B, 3, h, w), any size from `SMALLEST`; not used for features alone.
            noise: see `Noise`.
            features: True: return [features of the encoder (B, C, H, W)] instead; "also": (result, that).
            twin: (B, 3, h, w), for each reference another image of the same degradation; returns (result, embedding
                of the references, embedding of the twins). All of a training step is one call, as data parallelism
                wants it.

        Raises:
            AirpipeError: no reference, one that is too small, another number of them, or impossible noise.
        """
        found = self.encoder(image)  # (B, C, H, W)
        if features is True:
            return [found]
        if reference is None:
            raise AirpipeError("DegAE gives an image the degradation of a reference, and there is none here. Give one")
        shown = reference if twin is None else torch.cat([reference, twin])
        embedding, *of_twin = self.representor(shown).split(len(reference))  # (B, E, 1, 1) each
        if len(image) % len(reference):
            raise AirpipeError(f"{len(image)} images and {len(reference)} references; expected as many, or a multiple")
        restored = self.decoder(found, embedding.repeat(len(image) // len(reference), 1, 1, 1), noise)
        if twin is not None:
            return restored, embedding, of_twin[0]
        return (restored, [found]) if features else cast(Tensor, restored)

    def embedding(self, image: Tensor) -> Tensor:
        """Return the embeddings (B, E) of images (B, 3, h, w) as vectors."""
        return self.representor.embedding(image)


class DegAEFinetune(_Assembled):
    """The encoder of DegAE and one convolution: what restores after finetuning. No image is added.

    Args:
        backbone: "swinir" or "restormer", the encoder's architecture.
        encoder: its arguments; those that it has as an encoder are set.
        head: arguments of `Head`; None: its defaults, sized as the encoder needs it.

    Raises:
        ValueError: see the parts; or they do not fit each other.
    """

    FILES: ClassVar[Mapping[str, str]] = {"Encoder": "encoder", "Decoder": "head"}
    PUBLISHED_LAYOUTS = tuple(FILES)

    def __init__(
        self,
        backbone: Literal["swinir", "restormer"] = "swinir",
        encoder: Mapping[str, Any] | None = None,
        head: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, encoder)
        channels = self.feature_channels[0]
        self.head = Head(**{"in_c": channels, **(head or {})})
        if self.head.in_c != channels:
            raise ValueError(f"the head has in_c {self.head.in_c}, but the encoder gives {channels}")

    def forward(self, image: Tensor, features: Features = False) -> Output:
        """Restore (B, 3, H, W).

        Args:
            image: RGB in [0, 1].
            features: True: return [features of the encoder (B, C, H, W)] instead; "also": (restored, that).
        """
        found = self.encoder(image)
        if features is True:
            return [found]
        restored: Tensor = self.head(found)
        return (restored, [found]) if features else restored
