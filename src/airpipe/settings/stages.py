"""Settings of training stages and of the machine that they run on.

`StageSettings` is one training stage as frozen in its `config.yaml`: the unit of re-run. Device, workers, threads,
memory, paths and logging never enter it (see `ComputeSettings`).
"""

from collections.abc import Mapping, Sequence
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
from airpipe.settings.degrading import Recipe
from airpipe.settings.names import ModelId, PairListId

CONTINUED = "continued"
"""Role of a finished stage that any stage with the same networks and optimizers may train on from."""


class DataPart(Settings):
    """One part of a training mix."""

    pairs: PairListId
    recipe: Name | None = Field(None, description="Degrades the clean image; none: the list has degraded files.")
    operations: Recipe = Field(Recipe(), description="The recipe, written out when frozen.")
    target_recipe: Name | None = Field(
        None, description="Degrades the clean side as well, for tasks whose target is a degraded image."
    )
    target_operations: Recipe = Field(Recipe(), description="The target's recipe, written out when frozen.")
    companion: bool = Field(
        False,
        description="Each sample has a second image, drawn at random from the same list: recipe and target recipe "
        "apply the same operations and parameters to it, with other noise.",
    )
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
    quantise: bool | Literal["truncate"] = Field(
        True,
        description="true: clip and round the degraded image to 8 bit, as a file would be; truncate: clip it and drop "
        "the fraction, as a cast to uint8 does (half a grey level darker on average); false: neither.",
    )
    noise_seed: Literal["fresh", "image"] = Field(
        "fresh",
        description="fresh: new Gaussian noise for every sample; image: one field for each image for ever, from "
        "NumPy's legacy generator seeded with the image's index, as DCPT's published training does by mistake.",
    )
    surroundings: bool = Field(
        False,
        description="Degrade what lies around the patch, too, as far as it matters, and cut then: blur sees the pixels "
        "beyond the border, and the blocks of JPEG lie anywhere, as where whole images are degraded before the crop.",
    )
    small_images: Literal["refuse", "reflect"] = Field(
        "refuse",
        description="Images smaller than the patch: an error, or mirrored at the lower and right border (Restormer).",
    )
    augment: Literal["turns", "nine", "flip", "none"] = Field(
        "turns",
        description="turns: one of the eight flips and quarter turns; nine: likewise, by one of nine choices, of which "
        "two change nothing (DSRIR); flip: mirrored left to right or not, for images with an upright; none.",
    )
    crop_multiple: PositiveInt = Field(
        1, description="Images are centre-cut to a multiple of this before the crop (AirNet, PromptIR, DyNet: 16)."
    )
    resize: PositiveInt | None = Field(
        None,
        description="Clean and degraded images are resized to this shorter side in pixels, before everything else. "
        "Ours.",
    )

    @property
    def shares_draws(self) -> bool:
        """Whether all is drawn before anything is applied: for several images, or for a part of a larger one."""
        return self.companion or bool(self.target_operations) or self.surroundings

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
    def _surroundings_are_those_of_the_image(self) -> "DataPart":
        if self.surroundings and (self.rescale != (1.0, 1.0) or self.jitter or self.noise_seed == "image"):
            raise ValueError("surroundings are those of the image as it is; leave out rescale, jitter and noise_seed")
        return self

    @model_validator(mode="after")
    def _field_needs_noise(self) -> "DataPart":
        if self.noise_seed != "image":
            return self
        online = self.recipe is not None or self.operations
        steps = self.operations.operations
        if not online or (steps and all(step.operation != "gaussian_noise" for step in steps)):
            made = f"recipe {self.recipe!r} has no gaussian_noise" if online else "a part without recipe adds no noise"
            raise ValueError(f"noise_seed is 'image', but {made}; leave noise_seed out")
        if self.companion or self.target_recipe is not None or self.target_operations:
            raise ValueError("noise_seed is 'image', but a companion or a target needs noise of its own; leave it out")
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
    accumulate: PositiveInt | None = Field(
        None, description="Micro-batches per optimizer step in this phase; none: the stage's `accumulate`."
    )
    epoch_steps: PositiveInt | None = Field(
        None, description="Steps of one pass over the data, for schedules that count epochs (`per: epoch`)."
    )

    @property
    def epochs(self) -> int:
        """Passes over the data, of which the last one may be cut short; 0 where `epoch_steps` is not given."""
        return -(-self.steps // self.epoch_steps) if self.epoch_steps else 0


class NetworkSettings(Settings):
    """A registered network and its constructor arguments."""

    name: Name
    arguments: dict[str, Json] = {}


class Restart(Settings):
    """A place where a schedule begins anew."""

    step: PositiveInt = Field(description="Where, counted from the start of the schedule.")
    weight: PositiveFloat = Field(1.0, description="Factor of the peak rate from there on.")


class OptimizerSettings(Settings):
    """Adam or AdamW and its schedule (`airpipe.training.schedules`).

    Lengths and places of a schedule count optimizer steps, or epochs with `per: epoch`.
    """

    kind: Literal["adamw", "adam"] = Field(
        "adamw", description="Weight decay shrinks the weights (adamw) or is a gradient (adam)."
    )
    learning_rate: PositiveFloat = Field(description="Peak rate, after warm-up.")
    schedule: Literal["cosine", "constant", "steps"] = Field(
        "cosine",
        description="After a linear warm-up: hold and half a cosine to `minimum_rate`; the peak rate; or the peak rate "
        "times `factor` at each of `milestones`.",
    )
    per: Literal["step", "epoch"] = Field(
        "step", description="What the schedule counts; with epoch the rate is constant within one (`epoch_steps`)."
    )
    minimum_rate: NonNegativeFloat = Field(0.0, description="cosine: rate one step after the last one.")
    delay_steps: NonNegativeInt = Field(0, description="Steps at rate 0 before the schedule starts.")
    warmup_steps: NonNegativeInt = Field(
        0, description="Step i of the warm-up, from 1, has i / warmup_steps of the peak."
    )
    hold_steps: NonNegativeInt = Field(0, description="cosine: steps at the peak rate, between warm-up and cosine.")
    cosine_steps: PositiveInt | None = Field(
        None, description="cosine: steps from the peak to the minimum, which then stays; none: to the end of the run."
    )
    milestones: tuple[PositiveInt, ...] = Field((), description="steps: where the rate falls, warm-up included.")
    factor: PositiveFloat = Field(0.5, description="steps: what the rate is multiplied with at a milestone.")
    restarts: tuple[Restart, ...] = Field(
        (), description="cosine, steps: where the schedule begins anew, without warm-up and hold."
    )
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _belongs_to_schedule(self) -> "OptimizerSettings":
        for name, schedules in SCHEDULE_KEYS.items():
            if self.schedule not in schedules and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} belongs to schedule {' or '.join(schedules)}, found schedule {self.schedule}; "
                    f"leave {name} out ({name}: null in an overlay)"
                )
        if self.schedule == "steps" and not self.milestones:
            raise ValueError("schedule steps needs milestones; for one rate all the time set schedule: constant")
        if self.restarts and self.cosine_steps is not None:
            raise ValueError("found cosine_steps and restarts, which say the cosine's length both; give one of them")
        return self

    @property
    def places(self) -> dict[str, tuple[int, ...]]:
        """Steps or epochs at which something happens to the rate, by the setting that names them."""
        return {"milestones": self.milestones, "restarts": tuple(restart.step for restart in self.restarts)}


SCHEDULE_KEYS = {
    "minimum_rate": ("cosine",),
    "hold_steps": ("cosine",),
    "cosine_steps": ("cosine",),
    "milestones": ("steps",),
    "factor": ("steps",),
    "restarts": ("cosine", "steps"),
}
"""Schedules that a setting of an optimizer belongs to."""


class ValidationSettings(Settings):
    """PSNR on fixed centre crops of validation images; drawn in the curves, chooses nothing."""

    data: tuple[DataPart, ...] = ()
    every: PositiveInt = Field(500, description="Steps between two validations.")
    patch_size: PositiveInt = Field(256, description="Side of the centre crop.")


class StageSettings(Settings):
    """One training stage, as frozen in its config.yaml.

    A stage with parents has a class of its own, which declares their roles.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """Roles that `parents` has to name."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """Roles that `parents` may name, too."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """Roles whose model may be absent, although it is named: the task decides what that means."""
    uncounted: ClassVar[frozenset[str]] = frozenset()
    """Roles of models that do not count in the budget, such as a frozen network for a perceptual loss."""
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
    parents: dict[Name, str] = Field(
        {},
        description="Role: model id of an earlier stage. Any stage takes `continued`: it trains on from the last "
        "checkpoint of that one, with its weights, averages and optimizers, through its own phases and schedules.",
    )
    data: tuple[DataPart, ...] = Field(min_length=1)
    validation: ValidationSettings = ValidationSettings()
    phases: tuple[Phase, ...] = Field(min_length=1)
    optimizers: dict[Name, OptimizerSettings]
    loss_weights: dict[Name, float] = Field({}, description="Weight of each named loss; 1 when absent.")
    pixel_loss: Literal["l1", "charbonnier", "mse", "mse_blur"] = "l1"
    ema_decay: float = Field(0.0, ge=0.0, lt=1.0, description="0 switches the moving average off.")
    clip_norm: NonNegativeFloat = Field(0.0, description="Largest gradient norm; 0 switches clipping off.")
    accumulate: PositiveInt = Field(
        1, description="Micro-batches per optimizer step where a phase says no other; numbers stay those of the batch."
    )
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool | Literal["auto"] | None = Field(
        None,
        description="true: torch.compile makes one graph of each network for each size of the phases, in minutes at "
        "first; roundings change. auto: on a GPU. Where compiling fails, one line says so and networks run as written.",
    )
    deterministic: bool = Field(False, description="Deterministic CUDA kernels (CPU runs always are).")

    @property
    def steps(self) -> int:
        """Optimizer steps over all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def needed_roles(self) -> frozenset[str]:
        """Roles that `parents` has to name, those that follow from other settings included."""
        return self.needs

    @property
    def optional_roles(self) -> frozenset[str]:
        """Roles named by `parents` whose model may be absent."""
        return self.optional & set(self.parents)

    def micro_batches(self, phase: Phase) -> int:
        """Micro-batches per optimizer step in a phase."""
        return phase.accumulate or self.accumulate

    @property
    def exported_network(self) -> NetworkSettings:
        """What model.safetensors holds; stages that train more than `network` say so."""
        return self.network

    @property
    def model_id(self) -> str:
        """Text of the `ModelId`: the stage's folder below results/."""
        return str(ModelId(self.method, self.setting, self.seed, self.stage))

    def check_rows(self, rows: Sequence[int]) -> None:
        """Refuse pair lists that other settings do not fit, before the first step; by default nothing.

        Args:
            rows: samples of each part of `data` in one pass over the lists, `repeat` included.

        Raises:
            AirpipeError: in stages whose settings say how many rows there are.
        """

    @field_validator("compile")
    @classmethod
    def _not_compiled(cls, value: bool | str | None) -> bool | str | None:
        return value or None  # so that false is written down, and hashed, as nothing

    @model_validator(mode="after")
    def _shares_or_repeats(self) -> "StageSettings":
        given = {part.repeat is None for part in self.data}
        if len(given) == 2:
            plain = next(part.pairs for part in self.data if part.repeat is None)
            raise ValueError(f"data: {plain} has no repeat, other parts have one; give repeat to all parts or to none")
        return self

    @model_validator(mode="after")
    def _companions_for_all(self) -> "StageSettings":
        for where, parts in (("data", self.data), ("validation.data", self.validation.data)):
            if len({part.companion for part in parts}) > 1:
                alone = next(part.pairs for part in parts if not part.companion)
                raise ValueError(f"{where}: {alone} has no companion, other parts have one; give it to all or to none")
        return self

    @model_validator(mode="after")
    def _schedules_fit(self) -> "StageSettings":
        for name, optimizer in self.optimizers.items():
            _check_schedule(optimizer, self.phases, f"optimizers.{name}")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> "StageSettings":
        for phase in self.phases:
            if phase.batch_size < self.micro_batches(phase):
                raise ValueError(
                    f"batch_size {phase.batch_size} has not a sample for each of accumulate "
                    f"{self.micro_batches(phase)} micro-batches; set accumulate to {phase.batch_size} or less"
                )
        return self

    @model_validator(mode="after")
    def _roles_are_declared(self) -> "StageSettings":
        found = set(self.parents) - {CONTINUED}
        if not self.needed_roles <= found <= self.needed_roles | self.takes:
            needed, more = ", ".join(sorted(self.needed_roles)) or "none", ", ".join(sorted(self.takes))
            also = f", and may have {more}" if more else ""
            raise ValueError(f"parents: found {sorted(found) or 'none'}; {self.task} needs {needed}{also}")
        return self


def _check_schedule(optimizer: OptimizerSettings, phases: tuple[Phase, ...], where: str) -> None:
    """Refuse a schedule that does not fit the run.

    Raises:
        ValueError: epochs of unknown length, no step left for the cosine, or places outside the run or out of order.
    """
    if optimizer.per == "epoch" and not all(phase.epoch_steps for phase in phases):
        raise ValueError(f"{where}: per is epoch, but a phase does not say its epoch_steps; add them to every phase")
    steps, unit = sum(phase.steps for phase in phases), "steps"
    if optimizer.per == "epoch":
        steps, unit = sum(phase.epochs for phase in phases), "epochs"
    if optimizer.delay_steps >= steps:
        raise ValueError(
            f"{where}: delay_steps is {optimizer.delay_steps}, the stage has {steps} {unit}: all would have rate 0"
        )
    before = optimizer.warmup_steps + optimizer.hold_steps
    if optimizer.hold_steps and before >= steps - optimizer.delay_steps:
        raise ValueError(
            f"{where}: warmup_steps + hold_steps is {before}, the stage has {steps} {unit}; "
            "leave steps for the cosine, or set schedule: constant"
        )
    for name, places in optimizer.places.items():
        if list(places) != sorted(set(places)):
            raise ValueError(f"{where}: {name} are {list(places)}; expected each once, in rising order")
        if places and places[-1] >= steps - optimizer.delay_steps:
            raise ValueError(
                f"{where}: {name} has {places[-1]}, but the stage has {steps} {unit}"
                f"{f', the first {optimizer.delay_steps} without a rate' if optimizer.delay_steps else ''}; "
                "choose places inside the run, or leave out those that it does not reach"
            )
        if name == "restarts" and places and optimizer.schedule == "cosine" and places[0] <= before:
            raise ValueError(f"{where}: the first restart is at {places[0]}, warm-up and hold end at {before}")


class ComputeSettings(Settings):
    """What a stage asks of the machine; never science, never in a frozen config."""

    threads: PositiveInt = 2
    gpu: NonNegativeInt = Field(0, description="GPUs per node.")
    nodes: PositiveInt = 1
    mem_mb: PositiveInt = 4000
    runtime: PositiveInt = Field(60, description="Minutes before a cluster stops the job; it then resumes.")
    workers: NonNegativeInt = Field(0, description="Loader processes per device.")
    checkpoint_seconds: PositiveFloat = Field(60.0, description="Wall time between two checkpoints.")
    degrade: Literal["loader", "device"] = Field(
        "loader",
        description="Where samples are degraded: one by one in the loader, or as batches on the device that trains. "
        "Draws and distributions are the same, the bits of the noise are not. Where a recipe has an operation that "
        "batches lack, the loader does it, and one line says so.",
    )
    pack: bool = Field(False, description="Decode the images once into a memory-mapped file (needs disk space).")
