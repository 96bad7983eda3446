"""Every setting of airpipe, typed; unknown keys are errors that name the nearest valid key.

`airpipe.project` holds what `config/*.yaml` merge to. `StageSettings` is one training
stage as frozen in its `config.yaml`: the unit of re-run. Device, workers, threads,
memory, paths and logging never enter it (see `ComputeSettings`).

This module imports no torch: Snakemake reads it at every start.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from airpipe.errors import AirpipeError

Json = Any
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
SEED = "{seed}"
"""Stands for the run's seed in pair lists of data parts; `frozen_stage` replaces it."""


def _of_no_seed(pairs: Any) -> Any:
    if isinstance(pairs, str) and SEED in pairs:
        raise ValueError(f"{SEED} has no meaning here: there is no run whose seed it is. Name one data set")
    return pairs


PairListId = Annotated[
    str,
    Field(pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$", description="data set dot split"),
    BeforeValidator(_of_no_seed),
]
SeededPairListId = Annotated[
    str,
    Field(
        pattern=r"^([a-z0-9_]|\{seed\})+\.[a-z0-9_]+$",
        description="data set dot split; {seed} in it stands for the run's seed",
    ),
]
S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: frozen, and strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    added: ClassVar[frozenset[str]] = frozenset()
    """Settings that came later: written down only where they differ from the default, so that nothing is redone."""

    @model_serializer(mode="wrap")
    def _without_unused_additions(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = written(self)
        unused = {name for name in self.added if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in values.items() if name not in unused}

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(unknown_name(str(key), cls.model_fields, "setting"))
        return values


def unknown_name(found: str, valid: Any, what: str) -> str:
    """Say that `found` is not one of `valid`, and which of them is nearest."""
    names = sorted(str(name) for name in valid)
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {found!r}; {hint}Valid: {', '.join(names) or '(none)'}"


def check_settings(model: type[S], values: Any, where: str) -> S:
    """Validate `values` against `model`.

    Args:
        model: the settings class.
        values: plain mapping, as read from YAML.
        where: what is being read, for the message ("config/config.yaml", "stage train of ...").

    Raises:
        AirpipeError: one line per problem, each with its path, what was found and what is valid.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(str(p) for p in e['loc']) or 'top level'}: {_reason(e)}" for e in error.errors()]
        raise AirpipeError(f"{where} is not valid:\n  " + "\n  ".join(lines)) from None


def _reason(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    found = error.get("input")
    return message if isinstance(found, Mapping) else f"{message} (found {found!r})"


# Degradations and data


class Draw(Settings):
    """How one parameter is drawn; exactly one key. A bare number or text is a constant."""

    constant: Json = None
    choice: tuple[Json, ...] | None = None
    uniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = Field(None, description="both ends included")

    @model_validator(mode="before")
    @classmethod
    def _bare_value_is_constant(cls, values: Any) -> Any:
        return values if isinstance(values, Mapping | Draw) else {"constant": values}

    @model_validator(mode="after")
    def _one_key(self) -> "Draw":
        given = [k for k in ("constant", "choice", "uniform", "integers") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of constant, choice, uniform, integers")
        for low_high in (self.uniform, self.integers):
            if low_high is not None and low_high[0] > low_high[1]:
                raise ValueError(f"range {list(low_high)} runs backwards")
        return self


class Operation(Settings):
    """One degradation function of `airpipe.degradations` and how its parameters are drawn."""

    operation: Name
    parameters: dict[Name, Draw] = {}


class DataPart(Settings):
    """One part of a training mix."""

    added = frozenset({"jitter", "noise_seed", "small_images", "augment", "resize"})
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


# Training


class NetworkSettings(Settings):
    """A registered network and its constructor arguments."""

    name: Name
    arguments: dict[str, Json] = {}


class OptimizerSettings(Settings):
    """AdamW and its schedule: linear warm-up, a hold at the peak, then cosine to the minimum."""

    added = frozenset({"hold_steps"})
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

    task: str = Field(pattern=r"^[a-z0-9_]+\.[a-z0-9_]+$", description="Entry of the registry.")
    revision: PositiveInt = Field(description="From the registry: raised when equal settings would give other numbers.")
    method: Name
    setting: Name
    stage: Name
    scale: Name
    seed: NonNegativeInt = Field(description="Seeds weights, samples, augmentation and degradations.")
    network: NetworkSettings
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
    def exported_network(self) -> NetworkSettings:
        """What model.safetensors holds; stages that train more than `network` say so."""
        return self.network

    @property
    def model_id(self) -> str:
        """Path of the stage folder below results/."""
        return f"{self.method}/{self.setting}/seed{self.seed}/{self.stage}"

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


# Evaluation


class NoiseRule(Settings):
    """How a protocol makes the noisy input of a denoising test."""

    generator: Literal["per_image", "once", "restart"] = Field(
        description="per_image: own stream from (seed, sigma, name); once: one legacy NumPy stream over the sorted "
        "files; restart: the legacy stream is seeded again for every image."
    )
    seed: NonNegativeInt = 0
    clip: bool = True
    quantise: Literal["none", "round", "truncate"] = Field("round", description="To 8 bit.")


class ProtocolSettings(Settings):
    """A published (or our) convention of measuring, including its known mistakes."""

    title: str
    source: str
    colour: Literal["rgb", "y"] = "rgb"
    border: NonNegativeInt = Field(0, description="Pixels cut from each side before scoring.")
    round_output: bool = Field(True, description="Round the restored image to 8 bit before scoring.")
    ssim: Literal["gaussian11", "uniform7"] = "gaussian11"
    crop_multiple: PositiveInt = Field(1, description="Inputs are centre-cut to a multiple of this.")
    noise: NoiseRule


class TestSettings(Settings):
    """One test: a pair list, how it is degraded, under which protocols it is scored."""

    __test__ = False  # not a pytest class

    pairs: PairListId
    degradation: Name
    level: str = ""
    recipe: Name | None = Field(None, description="Degrades the clean image; none: the list has degraded files.")
    fixed: dict[Name, Json] = Field({}, description="Parameters that replace the recipe's draws.")
    operations: tuple[Operation, ...] = ()
    seed: NonNegativeInt = Field(100000, description="Unlike any training seed.")
    protocols: tuple[Name, ...] = Field(("airpipe",), min_length=1)
    tile: NonNegativeInt = Field(0, description="Side of the tiles that the network sees; 0: whole images.")
    keep_images: NonNegativeInt = Field(8, description="Restored images written to disk, in list order.")


class TableSettings(Settings):
    """What a table shows."""

    tests: tuple[Name, ...] = Field(min_length=1)
    models: tuple[str, ...] | None = Field(None, description="method/setting or imported/name; none: all of `models`.")
    scales: tuple[Name, ...] | None = Field(
        None,
        description="Scales at which the table is made, so that overlays of other scales need not name it; none: all.",
    )
    equal_budgets: bool = Field(
        False, description="Refuse models that saw other numbers of training samples, pretraining included."
    )


class ReportSettings(Settings):
    """What figures and page show; changing it redoes the report only."""

    title: str = "airpipe"
    zoom: PositiveInt = Field(96, description="Side in pixels of the zoomed crop in the qualitative grid.")
    images_per_test: PositiveInt = 2
    protocol: Name = "airpipe"
    jpeg_quality: int = Field(90, ge=50, le=100)


class LeakageSettings(Settings):
    """What happens to training images that test images show, too."""

    remove: bool = Field(False, description="Train without them; false: the published splits stay.")
    against: tuple[PairListId, ...] | None = Field(None, description="Test lists; none: those of all `tests`.")


# Feature analysis


class FeatureClass(Settings):
    """One degradation that the feature analysis tells apart."""

    pairs: PairListId
    recipe: Name | None = Field(None, description="Degrades the clean crop; none: the list has degraded files.")
    fixed: dict[Name, Json] = Field({}, description="Parameters that replace the recipe's draws.")
    label: NonNegativeInt | None = Field(
        None, description="As the trained classifiers number it; none: the position among the classes."
    )
    operations: tuple[Operation, ...] = Field((), description="The recipe, written out.")

    @model_validator(mode="after")
    def _fixed_needs_a_recipe(self) -> "FeatureClass":
        if self.fixed and self.recipe is None:
            raise ValueError(f"fixed {dict(self.fixed)} replaces draws of a recipe, and there is no recipe; name one")
        return self


class FeatureSettings(Settings):
    """kNN, t-SNE and confusion matrices on the features of checkpoints.

    Sources: "code" is MILab-PKU/dcpt `knn_gen.py`, `knn.py`, `t_sne.py`; "text" is MaskDCPT (arXiv 2510.13282),
    which restates the protocol.
    """

    models: tuple[str, ...] = Field(
        (), description="method/setting, method/setting/stage or imported/name; none: no analysis."
    )
    scales: tuple[Name, ...] | None = Field(
        None,
        description="Scales at which there is an analysis; none: all.",
    )
    classes: dict[Name, FeatureClass] = Field({}, description="Name: images. `name: null` in an overlay leaves it out.")
    images_per_class: PositiveInt = Field(
        100, description="At most; evenly spaced over the list (ours; code: the first of a directory). Source: code."
    )
    crops_per_image: PositiveInt = Field(
        1, description="1: the centre crop (source: code); more: evenly placed, each degraded by itself (ours)."
    )
    patch_size: PositiveInt = Field(128, description="Side of the crops in pixels. Source: code.")
    seed: NonNegativeInt = Field(
        100000, description="Of degradations, random weights and projection. Ours: unlike any training seed."
    )
    neighbours: PositiveInt = Field(5, description="k, Euclidean distance. Source: code.")
    test_share: float = Field(0.33, gt=0, lt=1, description="Of each split. Source: code.")
    split: Literal["scene", "random"] = Field(
        "scene",
        description="scene: all crops of one photograph on one side (ours); random: single crops (source: code).",
    )
    seeds: tuple[NonNegativeInt, ...] = Field(
        (0, 223, 929, 1234, 10086), min_length=1, description="One split each. Source: code."
    )
    feature: Literal["last", "all"] = Field(
        "last", description="Levels of the decoder: the last stage, level 0 (source: code), or all of them (ours)."
    )
    pooling: Literal["none", "mean"] = Field(
        "none", description="none: maps are flattened whole (source: code); mean: over height and width (ours)."
    )
    projection: NonNegativeInt = Field(
        0, description="Dimensions of a sparse random projection (ours: less disk and time); 0: exact (source: code)."
    )
    random_init: Literal["published", "own"] = Field(
        "published",
        description="Untrained weights: Kaiming-uniform with a = 2 and zero biases in convolutions and linear layers "
        "(source: code), or as the network initialises itself (ours).",
    )
    perplexity: PositiveFloat = Field(30, description="Of t-SNE. Source: code (scikit-learn's default).")
    iterations: int = Field(2000, ge=250, description="Of t-SNE. Source: code.")
    tsne_seed: NonNegativeInt = Field(0, description="Of t-SNE. Ours: the code draws it.")

    @field_validator("classes", mode="before")
    @classmethod
    def _left_out(cls, classes: Any) -> Any:
        if isinstance(classes, Mapping):
            return {name: entry for name, entry in classes.items() if entry is not None}
        return classes

    @model_validator(mode="after")
    def _classes_differ(self) -> "FeatureSettings":
        if self.models and len(self.classes) < 2:
            raise ValueError(f"found {len(self.classes)} classes; models are analysed with at least 2")
        by_label: dict[int, str] = {}
        for name, label in self.labels().items():
            if label in by_label:
                raise ValueError(f"classes {by_label[label]} and {name} both have label {label}; give each its own")
            by_label[label] = name
        return self

    def labels(self) -> dict[str, int]:
        """Label of each class: given, or its position."""
        return {n: i if c.label is None else c.label for i, (n, c) in enumerate(self.classes.items())}


# Identity and files


def canonical_json(settings: Settings) -> str:
    """Settings as one line of JSON with sorted keys: what is hashed and passed between programs."""
    return json.dumps(settings.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))


def settings_hash(settings: Settings) -> str:
    """First 16 hex digits of the sha256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:16]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        AirpipeError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AirpipeError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AirpipeError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(values, dict):
        raise AirpipeError(f"{path}: expected a YAML mapping, found {type(values).__name__}")
    return cast(dict[str, Any], values)
