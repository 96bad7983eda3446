"""Settings of training stages and of the machine that they run on.

`StageSettings` is one training stage as frozen in its `config.yaml`: the unit of re-run. Device, workers, threads,
memory, paths and logging never enter it (see `ComputeSettings`).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from airpipe.settings.base import Json, Name, Settings
from airpipe.settings.degrading import Operation
from airpipe.settings.names import ModelId, PairListId


class DataPart(Settings):
    """One part of a training mix."""

    pairs: PairListId
    recipe: Name | None = Field(None, description="Degrades the clean image; none: the list has degraded files.")
    operations: tuple[Operation, ...] = Field((), description="The recipe, written out when frozen.")
    share: PositiveFloat | None = Field(1.0, description="Relative share of samples; none where `repeat` is given.")
    repeat: PositiveFloat | None = Field(
        None, description="Share as in the papers' lists: this many times the number of images, kept exactly."
    )
    label: NonNegativeInt = Field(0, description="Degradation class, for methods that classify.")
    rescale: tuple[float, float] = Field(
        (1.0, 1.0), description="Clean images are shrunk by a factor drawn from this range before the crop."
    )
    jitter: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Colours of the clean crop are varied before it is degraded: channels in random order, exponent "
        "exp(u) with u from -jitter to jitter, factor exp(-v) with v from 0 to jitter. 0: not.",
    )
    quantise: bool = Field(True, description="Clip and round the degraded image to 8 bit, as a file would be.")
    noise_seed: Literal["fresh", "image"] = Field(
        "fresh",
        description="fresh: new Gaussian noise for every sample; image: one field for each image for ever, from "
        "NumPy's legacy generator seeded with the image's index, as DCPT's published training does by mistake.",
    )
    small_images: Literal["refuse", "reflect"] = Field(
        "refuse",
        description="Images smaller than the patch: an error, or mirrored at the lower and right border (Restormer).",
    )
    augment: Literal["turns", "flip", "none"] = Field(
        "turns",
        description="turns: one of the eight flips and quarter turns; flip: mirrored left to right or not, for images "
        "with an upright; none.",
    )
    resize: PositiveInt | None = Field(
        None,
        description="Clean and degraded images are resized to this shorter side in pixels, before everything else. "
        "Ours.",
    )

    @model_validator(mode="before")
    @classmethod
    def _share_or_repeat(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        share, repeat = values.get("share", 1.0), values.get("repeat")
        if repeat is None and share is None:
            raise ValueError("give a share or a repeat")
        if repeat is None:
            return values
        if values.get("share") is not None:
            raise ValueError(f"found share {share} and repeat {repeat}; give one of them")
        return {**values, "share": None}

    @model_validator(mode="after")
    def _field_needs_noise(self) -> "DataPart":
        online = self.recipe is not None or self.operations
        noisy = not self.operations or any(step.operation == "gaussian_noise" for step in self.operations)
        if self.noise_seed == "image" and not (online and noisy):
            made = f"recipe {self.recipe!r} has no gaussian_noise" if online else "a part without recipe adds no noise"
            raise ValueError(f"noise_seed is 'image', but {made}; leave noise_seed out")
        return self

    @field_validator("rescale")
    @classmethod
    def _rescale_shrinks(cls, rescale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < rescale[0] <= rescale[1] <= 1:
            raise ValueError("expected [low, high] with 0 < low <= high <= 1")
        return rescale


class Phase(Settings):
    """A stretch of training with one patch and batch size (progressive schedules have several)."""

    steps: PositiveInt
    patch_size: PositiveInt = Field(description="Crop side in pixels.")
    batch_size: PositiveInt = Field(description="Samples per optimizer step, over all devices.")


class NetworkSettings(Settings):
    """A registered network and its constructor arguments."""

    name: Name
    arguments: dict[str, Json] = {}


class OptimizerSettings(Settings):
    """AdamW and its schedule: linear warm-up, a hold at the peak, then cosine to the minimum."""

    learning_rate: PositiveFloat = Field(description="Peak rate, after warm-up.")
    minimum_rate: NonNegativeFloat = Field(0.0, description="Rate at the last step.")
    warmup_steps: NonNegativeInt = 0
    hold_steps: NonNegativeInt = Field(0, description="Steps at the peak rate, between warm-up and cosine.")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0


class ValidationSettings(Settings):
    """PSNR on fixed centre crops of validation images; drawn in the curves, chooses nothing."""

    data: tuple[DataPart, ...] = ()
    every: PositiveInt = Field(500, description="Steps between two validations.")
    patch_size: PositiveInt = Field(256, description="Side of the centre crop.")


class StageSettings(Settings):
    """One training stage, as frozen in its config.yaml."""

    optional: ClassVar[frozenset[str]] = frozenset()
    """Roles whose model may be absent, although it is named: the task decides what that means."""

    task: str = Field(pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$", description="Entry of the registry.")
    revision: PositiveInt = Field(description="From the registry: raised when equal settings would give other numbers.")
    method: Name
    setting: Name
    stage: Name
    scale: Name
    seed: NonNegativeInt = Field(description="Seeds weights, samples, augmentation and degradations.")
    network: NetworkSettings
    variants: dict[Name, dict[str, Json]] = Field(
        {}, description="Networks that the same weights serve: name, and the arguments of `network` that differ."
    )
    parents: dict[Name, str] = Field({}, description="Role: model id of an earlier stage.")
    data: tuple[DataPart, ...] = Field(min_length=1)
    validation: ValidationSettings = ValidationSettings()
    phases: tuple[Phase, ...] = Field(min_length=1)
    optimizers: dict[Name, OptimizerSettings]
    loss_weights: dict[Name, float] = Field({}, description="Weight of each named loss; 1 when absent.")
    pixel_loss: Literal["l1", "charbonnier", "mse"] = "l1"
    ema_decay: float = Field(0.0, ge=0.0, lt=1.0, description="0 switches the moving average off.")
    clip_norm: NonNegativeFloat = Field(0.0, description="Largest gradient norm; 0 switches clipping off.")
    accumulate: PositiveInt = Field(1, description="Micro-batches per optimizer step; numbers stay those of the batch.")
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    deterministic: bool = Field(False, description="Deterministic CUDA kernels (CPU runs always are).")

    @property
    def steps(self) -> int:
        """Optimizer steps over all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def optional_roles(self) -> frozenset[str]:
        """Roles named by `parents` whose model may be absent."""
        return self.optional & set(self.parents)

    @property
    def exported_network(self) -> NetworkSettings:
        """What model.safetensors holds; stages that train more than `network` say so."""
        return self.network

    @property
    def model_id(self) -> str:
        """Text of the `ModelId`: the stage's folder below results/."""
        return str(ModelId(self.method, self.setting, self.seed, self.stage))

    @model_validator(mode="after")
    def _shares_or_repeats(self) -> "StageSettings":
        given = {part.repeat is None for part in self.data}
        if len(given) == 2:
            plain = next(part.pairs for part in self.data if part.repeat is None)
            raise ValueError(f"data: {plain} has no repeat, other parts have one; give repeat to all parts or to none")
        return self

    @model_validator(mode="after")
    def _schedules_fit(self) -> "StageSettings":
        for name, optimizer in self.optimizers.items():
            before = optimizer.warmup_steps + optimizer.hold_steps
            if optimizer.hold_steps and before >= self.steps:
                raise ValueError(
                    f"optimizers.{name}: warmup_steps + hold_steps is {before}, the stage has {self.steps} steps; "
                    "leave steps for the cosine, or set minimum_rate to learning_rate for a constant rate"
                )
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> "StageSettings":
        for phase in self.phases:
            if phase.batch_size % self.accumulate:
                raise ValueError(f"batch_size {phase.batch_size} is not a multiple of accumulate {self.accumulate}")
        return self


def check_roles(
    settings: StageSettings, needs: frozenset[str] = frozenset(), takes: frozenset[str] = frozenset()
) -> None:
    """Check the roles of a stage's parents.

    Args:
        settings: of the stage.
        needs: roles that have to be there.
        takes: roles that may be there, too.

    Raises:
        ValueError: roles are missing, or others there.
    """
    found = set(settings.parents)
    if not needs <= found <= needs | takes:
        needed, more = ", ".join(sorted(needs)) or "none", ", ".join(sorted(takes))
        also = f", and may have {more}" if more else ""
        raise ValueError(f"parents: found {sorted(found) or 'none'}; {settings.task} needs {needed}{also}")


class ComputeSettings(Settings):
    """What a stage asks of the machine; never science, never in a frozen config."""

    threads: PositiveInt = 2
    gpu: NonNegativeInt = Field(0, description="GPUs per node.")
    nodes: PositiveInt = 1
    mem_mb: PositiveInt = 4000
    runtime: PositiveInt = Field(60, description="Minutes before a cluster stops the job; it then resumes.")
    workers: NonNegativeInt = Field(0, description="Loader processes per device.")
    checkpoint_seconds: PositiveFloat = Field(60.0, description="Wall time between two checkpoints.")
    pack: bool = Field(False, description="Decode the images once into a memory-mapped file (needs disk space).")
