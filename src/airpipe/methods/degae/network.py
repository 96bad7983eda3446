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

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airpipe.errors import AirpipeError
from airpipe.models.contract import Inputs, Network, Shapes
from airpipe.models.features import Features, Output
from airpipe.models.layout import FiveDimensional
from airpipe.models.precision import full_precision
from airpipe.models.restormer import Restormer
from airpipe.models.swinir import SwinIR

SMALLEST = 22
"""Shortest side of a reference in pixels, for which three strided convolutions leave one place."""
BLOCKS = 4
"""Modulated blocks of the decoder, each with a noise map."""
Noise = Literal["random", "zero"] | Sequence[Tensor] | None
"""Noise that the decoder adds. "random": drawn from torch's global generator of the device; "zero": none; one map
(B, 1, H, W) for each block; None: random in training, zero in evaluation."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with ReLU between, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, F, H, W) to the same shape."""
        return cast(Tensor, features + self.conv2(self.conv1(features).relu()))


class Extractor(Network):
    """A super-resolution network; features in its middle tell degradations apart, be it trained with a GAN.

    Published keys are its own.

    Args:
        nf: channels F.
        nb: residual blocks, a multiple of 4.
        upscale: 4: the result is the image, four times as large; 1: the features, without the layers behind them.

    Raises:
        ValueError: a number below 1, or another enlargement.
    """

    no_restorer = "it enlarges an image, or makes its features (extractor of DegAE's representor)"

    def __init__(self, nf: int = 64, nb: int = 16, upscale: Literal[1, 4] = 4) -> None:
        super().__init__()
        if nf < 1 or nb < 4 or nb % 4:
            raise ValueError(f"nf is {nf}, nb {nb}; expected nf from 1, and nb a multiple of 4")
        if upscale not in (1, 4):
            raise ValueError(f"upscale is {upscale}; expected 4 (super-resolution) or 1 (features only)")
        self.nf, self.nb, self.upscale = nf, nb, upscale
        self.conv_first = nn.Conv2d(3, nf, 3, padding=1)
        self.recon_trunk1, self.recon_trunk2, self.recon_trunk3, self.recon_trunk4 = (
            nn.Sequential(*(ResidualBlock(nf) for _ in range(nb // 4))) for _ in range(4)
        )
        if upscale == 4:
            self.upconv1, self.upconv2 = (nn.Conv2d(nf, 4 * nf, 3, padding=1) for _ in range(2))
            self.HRconv = nn.Conv2d(nf, nf, 3, padding=1)
            self.conv_last = nn.Conv2d(nf, 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                module.weight.data *= 0.1
                nn.init.zeros_(cast(Tensor, module.bias))

    def features(self, image: Tensor) -> Tensor:
        """Return the features (B, F, h, w) of images (B, 3, h, w): what leaves the last residual block."""
        shallow = leaky(self.conv_first(image))
        trunk = (self.recon_trunk1, self.recon_trunk2, self.recon_trunk3, self.recon_trunk4)
        for group in trunk:
            shallow = group(shallow)
        return shallow

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, h, w) to (B, 3, 4h, 4w), or to its features where `upscale` is 1."""
        found = self.features(image)
        if self.upscale == 1:
            return found
        for enlarge in (self.upconv1, self.upconv2):
            found = leaky(F.pixel_shuffle(enlarge(found), 2))
        found = self.conv_last(leaky(self.HRconv(found)))
        return cast(Tensor, found + F.interpolate(image, scale_factor=4, mode="bilinear"))

    def published_key(self, key: str) -> str | None:
        """Return the name here of a published entry; None for the layers behind the features where there are none."""
        return None if self.upscale == 1 and key.startswith(("upconv", "HRconv.", "conv_last.")) else key

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Return the weights under their published names.

        Args:
            buffers: whether to add zeros for the layers behind the features where there are none.
            layout: see `Network.published_state`.
        """
        self.published_layout(layout)
        with torch.device("meta"):
            whole = Extractor(self.nf, self.nb)
        return completed(self.state_dict(), whole if buffers else None)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the sizes of a published super-resolution network or its front; None for others.

        Args:
            shapes: shape of each entry, by its published name.
        """
        first = shapes.get("conv_first.weight", ())
        blocks = {tuple(key.split(".")[:2]) for key in shapes if key.startswith("recon_trunk")}
        if len(first) != 4 or not blocks:
            return None
        return {"nf": first[0], "nb": len(blocks), "upscale": 4 if "upconv2.weight" in shapes else 1}


class Representor(Network):
    """Embed the degradation of an image: frozen features of super-resolution, then a small trained head.

    Args:
        nf: channels F of the extractor; the embedding has E = 8 F.
        nb: residual blocks of the extractor, a multiple of 4.
        upscale: 4: the extractor also has the layers that enlarge images, as published files do; nothing here uses
            them. 1: it has not.

    Raises:
        ValueError: see `Extractor`.
    """

    no_restorer = "it describes the degradation of an image (DegAE's representor)"

    def __init__(self, nf: int = 64, nb: int = 16, upscale: Literal[1, 4] = 1) -> None:
        super().__init__()
        self.embedding_length = 8 * nf
        self.extractor = Extractor(nf, nb, upscale)
        self.conv1 = nn.Conv2d(nf, 2 * nf, 4, 2)
        self.conv2 = nn.Conv2d(2 * nf, 4 * nf, 4, 2)
        self.conv3 = nn.Conv2d(4 * nf, 8 * nf, 4, 2)
        self.conv1x1_1, self.conv1x1_2, self.conv1x1_3 = (nn.Conv2d(8 * nf, 8 * nf, 1) for _ in range(3))

    def forward(self, reference: Tensor) -> Tensor:
        """Map (B, 3, h, w) to embeddings (B, E, 1, 1).

        Raises:
            AirpipeError: a side is shorter than `SMALLEST` pixels.
        """
        height, width = reference.shape[-2:]
        if min(height, width) < SMALLEST:
            raise AirpipeError(
                f"DegAE got a reference of {width}x{height} pixels; its representor needs {SMALLEST}x{SMALLEST}. "
                "Use a larger reference or patch_size"
            )
        found = self.extractor.features(reference)
        for convolution in (self.conv1, self.conv2, self.conv3):
            found = leaky(convolution(found))
        found = found.mean((2, 3), keepdim=True)
        return cast(Tensor, self.conv1x1_3(leaky(self.conv1x1_2(leaky(self.conv1x1_1(found))))))

    def embedding(self, image: Tensor) -> Tensor:
        """Return the embeddings (B, E) of images (B, 3, h, w) as vectors."""
        found: Tensor = self(image)
        return found.flatten(1)

    def published_key(self, key: str) -> str | None:
        """Return the name here of an entry of a published file; None for layers that the extractor here has not."""
        inner = key.removeprefix("DDR_extractor.")
        if inner == key:
            return key
        own = self.extractor.published_key(inner)
        return None if own is None else f"extractor.{own}"

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Return the weights under their published names; `buffers` as for `Extractor`."""
        self.published_layout(layout)
        extractor = self.extractor.published_state(buffers)
        head = {key: value for key, value in self.state_dict().items() if not key.startswith("extractor.")}
        return {f"DDR_extractor.{key}": value for key, value in extractor.items()} | head

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the sizes of a published representor, or None when it is none.

        Args:
            shapes: shape of each entry, by its published name.
        """
        inner = {key.removeprefix("DDR_extractor."): shape for key, shape in shapes.items() if key[:4] == "DDR_"}
        return Extractor.arguments_from(inner) if "conv1x1_3.weight" in shapes else None


class ModulatedConv(FiveDimensional):
    """A convolution whose weights the embedding scales (StyleGAN2), noise, and a plain convolution.

    Args:
        channels: channels F of the features.
        embedding: channels E of the embedding.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(9 * channels)
        self.weight = nn.Parameter(torch.randn(1, channels, channels, 3, 3))
        self.weight_noise = nn.Parameter(torch.zeros(1))
        self.modulation = nn.Conv2d(embedding, channels, 1)
        self.conv_last = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor, embedding: Tensor, noise: Tensor | None) -> Tensor:
        """Map (B, F, H, W) to the same shape, with embeddings (B, E, 1, 1) and noise (B, 1, H, W) or None."""
        with full_precision(features):
            style = self.modulation(embedding.float())  # (B, F, 1, 1)
            kernel = self.scale * self.weight[0]
            # scaling what goes in and out equals scaling each sample's weights, and is one convolution for all
            power = F.conv2d(style.square(), kernel.square().sum((2, 3), keepdim=True))  # (B, F, 1, 1)
            mixed = F.conv2d(features.float() * style, kernel, padding=1) * torch.rsqrt(power + 1e-8)
            if noise is not None:
                mixed = mixed + self.weight_noise * noise
        return leaky(self.conv_last(mixed))


class FeatureModulation(nn.Module):
    """A scale and a shift of each channel from the embedding (GFM), then noise.

    Args:
        channels: channels F of the features.
        embedding: channels E of the embedding.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.weight_noise = nn.Parameter(torch.zeros(1))
        self.cond_scale, self.cond_shift = (nn.Linear(embedding, channels) for _ in range(2))

    def forward(self, features: Tensor, embedding: Tensor, noise: Tensor | None) -> Tensor:
        """Map (B, F, H, W) to the same shape, with embeddings (B, E, 1, 1) and noise (B, 1, H, W) or None."""
        with full_precision(features):
            code = embedding.float().flatten(1)
            scale, shift = (layer(code)[:, :, None, None] for layer in (self.cond_scale, self.cond_shift))
            found = leaky(features.float() * (1 + scale) + shift)
            return leaky(found if noise is None else found + self.weight_noise * noise)


MODULATIONS: dict[str, type[ModulatedConv] | type[FeatureModulation]] = {
    "stylegan2": ModulatedConv,
    "gfm": FeatureModulation,
}
"""How an embedding changes features. stylegan2: what the published code builds; gfm: what its option files name."""


class ModulatedBlock(ResidualBlock):
    """A residual block, and the modulation of its result by an embedding."""

    def __init__(self, channels: int, embedding: int, modulation: str) -> None:
        super().__init__(channels)
        self.modulation_layer = MODULATIONS[modulation](channels, embedding)

    def forward(  # type: ignore[override]
        self, features: Tensor, embedding: Tensor, noise: Tensor | None
    ) -> Tensor:
        """Map (B, F, H, W) to the same shape, with embeddings (B, E, 1, 1) and noise (B, 1, H, W) or None."""
        return cast(Tensor, self.modulation_layer(super().forward(features), embedding, noise))


class Decoder(Network):
    """Make an image of the encoder's features, degraded as an embedding says. Published keys are its own.

    Args:
        in_c: channels C of the features.
        out_c: channels of the image.
        nf: channels F inside.
        scale: 1; enlarging is not implemented.
        require_modulation: true; a decoder without embedding is not implemented.
        degradation_embed_dim: channels E of the embedding.
        modulation: see `MODULATIONS`.

    Raises:
        ValueError: a number below 1, another modulation, or an option that is not implemented.
    """

    no_restorer = "it is a part of DegAE that works on features"

    def __init__(
        self,
        in_c: int = 180,
        out_c: int = 3,
        nf: int = 64,
        scale: Literal[1] = 1,
        require_modulation: Literal[True] = True,
        degradation_embed_dim: int = 512,
        modulation: Literal["stylegan2", "gfm"] = "stylegan2",
    ) -> None:
        super().__init__()
        if min(in_c, out_c, nf, degradation_embed_dim) < 1:
            raise ValueError("in_c, out_c, nf and degradation_embed_dim must be at least 1")
        if scale != 1 or not require_modulation:
            raise ValueError(
                f"scale is {scale}, require_modulation {require_modulation}; only 1 and true are implemented"
            )
        if modulation not in MODULATIONS:
            raise ValueError(f"modulation is {modulation!r}; expected {' or '.join(map(repr, MODULATIONS))}")
        self.in_c, self.degradation_embed_dim = in_c, degradation_embed_dim
        self.conv_first = nn.Conv2d(in_c, nf, 3, padding=1)
        self.basic_block1, self.basic_block2, self.basic_block3, self.basic_block4 = (
            ModulatedBlock(nf, degradation_embed_dim, modulation) for _ in range(BLOCKS)
        )
        self.HRconv = nn.Conv2d(nf, nf, 3, padding=1)
        self.conv_last = nn.Conv2d(nf, out_c, 3, padding=1)

    def forward(self, features: Tensor, embedding: Tensor, noise: Noise = None) -> Tensor:
        """Map features (B, C, H, W) and embeddings (B, E, 1, 1) to images (B, out_c, H, W).

        Raises:
            AirpipeError: noise that is neither a known word nor one map for each block.
        """
        found = leaky(self.conv_first(features))
        blocks = (self.basic_block1, self.basic_block2, self.basic_block3, self.basic_block4)
        for block, one in zip(blocks, self._maps(noise, features), strict=True):
            found = block(found, embedding, one)
        return cast(Tensor, self.conv_last(leaky(self.HRconv(found))))

    def _maps(self, noise: Noise, features: Tensor) -> Sequence[Tensor | None]:
        """The noise of each block."""
        batch, _, height, width = features.shape
        if noise is None:
            noise = "random" if self.training else "zero"
        if noise == "zero":
            return [None] * BLOCKS
        if noise == "random":
            return [torch.randn(batch, 1, height, width, device=features.device) for _ in range(BLOCKS)]
        one, found = (batch, 1, height, width), [tuple(getattr(given, "shape", ())) for given in noise]
        if found != [one] * BLOCKS:
            told = found if any(found) else noise
            raise AirpipeError(f"DegAE's noise is {told!r}; expected 'random', 'zero' or {BLOCKS} maps {one}")
        return noise

    def example_input(self, height: int, width: int) -> Inputs:
        """Empty features of an image of this size, and an embedding."""
        embedding = torch.empty(1, self.degradation_embed_dim, 1, 1, device="meta")
        return (torch.empty(1, self.in_c, height, width, device="meta"), embedding)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the sizes and the modulation of a published decoder, or None when it is none.

        Args:
            shapes: shape of each entry, by its published name.
        """
        layer = "basic_block4.modulation_layer."
        gfm = f"{layer}cond_scale.weight" in shapes
        style = shapes.get(f"{layer}cond_scale.weight" if gfm else f"{layer}modulation.weight", ())
        first, last = shapes.get("conv_first.weight", ()), shapes.get("conv_last.weight", ())
        if len(style) < 2 or len(first) != 4 or len(last) != 4:
            return None
        sizes = {"in_c": first[1], "out_c": last[0], "nf": first[0], "degradation_embed_dim": style[1]}
        return {**sizes, "modulation": "gfm" if gfm else "stylegan2"}


class Head(Network):
    """One convolution from the encoder's features to an image; the decoder of finetuning.

    Args:
        in_c: channels C of the features.
        out_c: channels of the image.

    Raises:
        ValueError: a number below 1.
    """

    no_restorer = "it is a part of a finetuned DegAE that works on features"

    def __init__(self, in_c: int = 180, out_c: int = 3) -> None:
        super().__init__()
        if min(in_c, out_c) < 1:
            raise ValueError(f"in_c is {in_c}, out_c {out_c}; expected 1 or more")
        self.in_c = in_c
        self.conv_last = nn.Conv2d(in_c, out_c, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_c, H, W)."""
        return cast(Tensor, self.conv_last(features))

    def example_input(self, height: int, width: int) -> Inputs:
        """Empty features of an image of this size."""
        return (torch.empty(1, self.in_c, height, width, device="meta"),)

    def published_key(self, key: str) -> str | None:
        """Return the name here of a published entry; None for a convolution that was never used."""
        return None if key.startswith("HRconv.") else key

    def published_state(self, buffers: bool = False, layout: str = "") -> dict[str, Tensor]:
        """Return the weights under their published names; `buffers` adds zeros for what was never used."""
        self.published_layout(layout)
        with torch.device("meta"):
            unused = nn.ModuleDict({"HRconv": nn.Conv2d(self.in_c, self.in_c, 3)})
        return completed(self.state_dict(), unused if buffers else None)

    @classmethod
    def arguments_from(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Return the sizes of a published head, or None when it is none.

        Args:
            shapes: shape of each entry, by its published name.
        """
        weight = shapes.get("conv_last.weight", ())
        if {key.split(".")[0] for key in shapes} - {"HRconv"} != {"conv_last"} or len(weight) != 4:
            return None
        return {"in_c": weight[1], "out_c": weight[0]}


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


def leaky(features: Tensor) -> Tensor:
    """Leaky ReLU with slope 0.1."""
    return F.leaky_relu(features, 0.1)


def completed(state: Mapping[str, Tensor], whole: nn.Module | None) -> dict[str, Tensor]:
    """Add zeros for entries that only a published network has; its code never uses them, but loads strictly."""
    missing = {} if whole is None else whole.state_dict()
    return dict(state) | {key: torch.zeros(value.shape) for key, value in missing.items() if key not in state}
