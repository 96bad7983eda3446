"""Settings of VRD-IR's stages. Imports no torch, because Snakemake reads it at every start.

Sources: "code" is aaaasan111/vrdir; of the paper (Yang et al., CVPR 2023) only the abstract was available.
"""

from typing import ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from airpipe.settings.base import Name
from airpipe.settings.stages import NetworkSettings, StageSettings


class RecogniserSettings(StageSettings):
    """vrdir.recogniser: a classifier of clean images; optimizer `net`, loss `class`. Source: ours.

    With `rebuild` also optimizer `decoder` and loss `rebuild`.
    """

    rebuild: bool = Field(
        False,
        description="Train a decoder beside it that rebuilds its input from the features of its front, so that the "
        "front, VRD-IR's encoder, keeps what an image looks like. The decoder is thrown away.",
    )
    decoder_hidden: PositiveInt = Field(32, description="Channels of that decoder at full size.")

    @model_validator(mode="after")
    def _optimizers_fit(self) -> "RecogniserSettings":
        wanted = {"net", "decoder"} if self.rebuild else {"net"}
        if set(self.optimizers) != wanted:
            raise ValueError(
                f"optimizers: found {', '.join(sorted(self.optimizers)) or 'none'}; with rebuild: "
                f"{str(self.rebuild).lower()} expected {' and '.join(sorted(wanted))}"
            )
        return self


class EnhancerSettings(StageSettings):
    """What the stages of the enhancer share: `network` is a `vrdir` whose branches the stage sets."""

    legacy_targets: bool = Field(
        False,
        description="Images in the losses are in [-1, 1], although the decoder ends in (0, 1): a slip of the code, "
        "which loses all shadows. Ours: false.",
    )

    @property
    def branches_trained(self) -> tuple[Name, ...]:
        """Names of the branches that the stage's network has; by default it has none."""
        return ()

    @property
    def exported_network(self) -> NetworkSettings:
        """What model.safetensors holds: the encoder, this stage's branches and the decoder."""
        count = len(self.branches_trained)
        own = {"num_branches": count, "fusion": self._fuses}
        return NetworkSettings(name="vrdir", arguments={**self.network.arguments, **own})

    @property
    def _fuses(self) -> bool:
        return False

    @model_validator(mode="after")
    def _is_an_enhancer(self) -> "EnhancerSettings":
        if self.network.name != "vrdir":
            raise ValueError(f"network: found {self.network.name!r}; {self.task} trains a vrdir")
        for name in ("num_branches", "fusion"):
            if name in self.network.arguments:
                raise ValueError(f"network: {name} follows from the stage; leave it out")
        return self


class SadSettings(EnhancerSettings):
    """vrdir.sad: the decoder learns to rebuild images from the features of the frozen parent `encoder`.

    Optimizer `net`; losses `clean`, `degraded`, `similarity`. Code: their weights are 1, 0.1 and 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"encoder"})
    sr_margin: NonNegativeFloat = Field(
        0.1,
        description="By how much the rebuilt clean image is to be more like its source than the rebuilt degraded one "
        "(cosine). Source: code: 1, which a cosine can hardly reach; ours: 0.1.",
    )


class DncSettings(EnhancerSettings):
    """vrdir.dnc: a branch for one degradation, between the frozen encoder and decoder of the parent `sad`.

    Optimizer `net`; losses `pixel`, `semantic`. Code: their weights are 1 and 1.
    `encoder` is another parent where `sad` is an imported decoder alone.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"sad"})
    takes: ClassVar[frozenset[str]] = frozenset({"encoder"})

    @property
    def branches_trained(self) -> tuple[Name, ...]:
        """One branch, named like the stage."""
        return (self.stage,)


class IseSettings(EnhancerSettings):
    """vrdir.ise: all branches and their fusion; parents `sad` and `dnc_<name>` for every name of `branches`.

    Optimizer `net`; losses as for `vrdir.dnc`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"sad"})
    takes: ClassVar[frozenset[str]] = frozenset({"encoder"})
    branches: tuple[Name, ...] = Field(
        ("haze", "noise", "rain"), min_length=1, description="Names, in the order of the network. Source: code."
    )
    freeze_branches: bool = Field(
        True, description="Train the fusion only, as the code's description says; false: the branches too, as it does."
    )

    @property
    def branches_trained(self) -> tuple[Name, ...]:
        """Names of all branches, in the order of the network."""
        return self.branches

    @property
    def _fuses(self) -> bool:
        return True

    @property
    def needed_roles(self) -> frozenset[str]:
        """Roles that `parents` has to name: the prior, and one for every branch."""
        return self.needs | {f"dnc_{name}" for name in self.branches}

    @model_validator(mode="after")
    def _branches_differ(self) -> "IseSettings":
        twice = sorted({name for name in self.branches if self.branches.count(name) > 1})
        if twice:
            raise ValueError(f"branches: {twice[0]} is there twice; name each once")
        return self
