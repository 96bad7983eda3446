"""Settings of tests, protocols, tables and the report."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from airpipe.settings.base import Json, Name, Settings
from airpipe.settings.degrading import Operation
from airpipe.settings.names import PairListId, SettingModel


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


class TestJob(Settings):
    """What a model is scored on by one job; a change redoes it."""

    __test__ = False  # not a pytest class

    name: Name
    test: TestSettings
    protocols: dict[Name, ProtocolSettings] = Field(description="Those of the test, which says their order.")


class TableSettings(Settings):
    """What a table shows."""

    tests: tuple[Name, ...] = Field(min_length=1)
    models: tuple[SettingModel, ...] | None = Field(
        None, description="method/setting or imported/name, each with @variant where it has variants; none: `models`."
    )
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
