"""Settings of tests, protocols, tables and the report."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from airpipe.settings.base import Json, Name, Names, Settings, unknown_name
from airpipe.settings.degrading import Recipe
from airpipe.settings.names import PairListId, SettingModel


class NoiseRule(Settings):
    """How a protocol makes the noisy input of a denoising test."""

    generator: Literal["per_image", "once", "restart"] = Field(
        description="per_image: own stream from (seed, sigma, name); once: one legacy NumPy stream over the sorted "
        "files; restart: the legacy stream is seeded again for every image."
    )
    seed: NonNegativeInt = Field(0, description="Seed of that stream.")
    clip: bool = Field(True, description="Clip the noisy image to the range of 8 bit.")
    quantise: Literal["none", "round", "truncate"] = Field(
        "round", description="How the noisy image becomes 8 bit, if so."
    )


Colour = Literal["rgb", "y", "y8", "y8_negated"]
"""Channels that are compared: all three; luma of BT.601, studio range; that, rounded to 8 bit; 256 less that."""
PERCEPTUAL = ("lpips", "dists", "niqe")
"""Measures of the extra `perceptual`."""


class MetricSettings(Settings):
    """One number of a protocol."""

    measure: Literal["psnr", "ssim_gaussian11", "ssim_uniform7", "ssim_columns7", "lpips", "dists", "niqe"]
    colour: Colour = Field("rgb", description="Channels that are compared; y: luma of BT.601, y8: rounded to 8 bit.")
    colour_of: dict[Name, Colour] = Field({}, description="Other channels for tests of some degradations.")
    only: Names = Field((), description="Degradations whose tests have this number; none named: all.")

    @model_validator(mode="after")
    def _perceptual_sees_colours(self) -> "MetricSettings":
        if self.measure in PERCEPTUAL and {self.colour, *self.colour_of.values()} != {"rgb"}:
            raise ValueError(f"{self.measure} is made for RGB images; leave its colour out")
        return self

    def channels(self, degradation: str) -> Colour | None:
        """Channels that are compared in tests of a degradation; None: they do not have this number."""
        if self.only and degradation not in self.only:
            return None
        return self.colour_of.get(degradation, self.colour)


class ProtocolSettings(Settings):
    """A published (or our) convention of measuring, including its known mistakes."""

    title: str
    source: str = Field(description="Paper or code whose convention it is.")
    border: NonNegativeInt = Field(0, description="Pixels cut from each side before scoring.")
    round_output: bool = Field(True, description="Round the restored image to 8 bit before scoring.")
    crop_multiple: PositiveInt = Field(1, description="Inputs are centre-cut to a multiple of this.")
    metrics: dict[Name, MetricSettings] = Field(
        {"psnr": MetricSettings(measure="psnr"), "ssim": MetricSettings(measure="ssim_gaussian11")},
        min_length=1,
        description="Its numbers by name; tables show psnr and ssim.",
    )
    noise: NoiseRule

    @model_validator(mode="after")
    def _names_say_what_is_measured(self) -> "ProtocolSettings":
        plain = {"psnr": ("psnr",), "ssim": ("ssim_gaussian11", "ssim_uniform7")}
        for name, allowed in plain.items():
            if name in self.metrics and self.metrics[name].measure not in allowed:
                found = self.metrics[name].measure
                raise ValueError(f"metric {name!r} is {found}, expected {' or '.join(allowed)}: give it another name")
        for name, one in self.metrics.items():
            if one.measure == "ssim_columns7" and name != "ssim_columns":
                raise ValueError(f"metric {name!r} is ssim_columns7, no SSIM of images: call it ssim_columns")
        return self


class TestSettings(Settings):
    """One test: a pair list, how it is degraded, under which protocols it is scored."""

    __test__ = False  # not a pytest class

    pairs: PairListId
    degradation: Name = Field(description="What the degraded images show, as tables call it.")
    level: str = Field("", description="Strength of the degradation, as tables show it.")
    recipe: Name | None = Field(None, description="Degrades the clean image; none: the list has degraded files.")
    fixed: dict[Name, Json] = Field({}, description="Parameters that replace the recipe's draws.")
    operations: Recipe = Field(Recipe(), description="The recipe, written out.")
    target_recipe: Name | None = Field(
        None,
        description="Degrades the image that results are compared with, too: the model has to transfer what it draws "
        "from a reference, another image of the list with the same draw and noise of its own. Only models that take a "
        "reference can; their tables name no other tests. Tables tell apart which operations were drawn.",
    )
    target_operations: Recipe = Field(Recipe(), description="The target's recipe, written out.")
    draws: PositiveInt = Field(1, description="Times that each image is drawn for, with a target recipe: image@2, ...")
    seed: NonNegativeInt = Field(100000, description="Seed of the degradation; unlike any training seed.")
    protocols: Names = Field(("airpipe",), min_length=1, description="Protocols under which it is scored.")
    tile: NonNegativeInt = Field(0, description="Side of the tiles that the network sees; 0: whole images.")
    keep_images: NonNegativeInt = Field(8, description="Restored images written to disk, in list order.")

    @model_validator(mode="after")
    def _targets_say_their_level(self) -> "TestSettings":
        if self.draws > 1 and not self.transfers:
            raise ValueError(f"draws is {self.draws}, but there is no target_recipe; leave draws out")
        if self.level and self.transfers:
            raise ValueError(
                f"level is {self.level!r}, but the level of an image is what its target_recipe draws; leave level out"
            )
        return self

    @property
    def transfers(self) -> bool:
        """Whether the model is shown a reference, whose degradation it has to transfer to the image."""
        return self.target_recipe is not None or bool(self.target_operations)


REVISION = 1
"""Raise it when the same test would give other scores: all tests are then scored again."""


class TestJob(Settings):
    """A test with all that its scores depend on; a change scores it again."""

    __test__ = False  # not a pytest class

    name: Name
    test: TestSettings
    protocols: dict[Name, ProtocolSettings] = Field(description="Those of the test, which says their order.")
    revision: PositiveInt = Field(REVISION, description="Of the code that scores.")


class AverageSettings(Settings):
    """A column with the mean over several tests."""

    tests: Names | None = Field(None, min_length=1, description="Tests that it is taken over; none: all.")
    weigh: Literal["test", "degradation", "image"] = Field(
        "test",
        description="test: each test counts once, hence three levels of noise three times, as in the tables of AirNet, "
        "PromptIR and DyNet; degradation: levels of one are averaged first; image: each image counts once.",
    )


class GroupSettings(Settings):
    """Models of a table that are set against each other."""

    models: tuple[SettingModel, ...] = Field(
        min_length=1, description="method/setting or imported/name, each with @variant where it has variants."
    )
    tests: Names | None = Field(
        None, min_length=1, description="Tests of the table that they are scored on; none: all."
    )
    reference: SettingModel | None = Field(
        None, description="Model from which the others are told apart, image by image; none: the first one."
    )
    equal_budgets: bool = Field(
        False, description="Refuse models that saw other numbers of training samples, pretraining included."
    )

    @model_validator(mode="after")
    def _reference_is_there(self) -> "GroupSettings":
        if self.reference is not None and self.reference not in self.models:
            raise ValueError(unknown_name(self.reference, self.models, "model of the table in reference"))
        return self


class TableSettings(Settings):
    """What a table of scores shows."""

    title: str = Field("", description="Title for readers; none: the name of the table.")
    tests: Names = Field(min_length=1)
    models: tuple[SettingModel, ...] | None = Field(
        None, description="method/setting or imported/name, each with @variant where it has variants; none: `models`."
    )
    columns: Literal["degradation", "protocol"] = Field(
        "degradation",
        description="Columns are tests, in a block for each protocol; or protocols, in a block for each test.",
    )
    without_protocols: Names = Field((), description="Protocols of its tests that it does not show.")
    averages: dict[Name, AverageSettings] = Field(
        {"average": AverageSettings()}, description="Columns behind the tests, where a table has several tests."
    )
    sort: Name | None = Field(
        None, description="Test or average by whose PSNR models stand, best first; none: as listed."
    )
    reference: SettingModel | None = Field(
        None, description="Model from which the others are told apart, image by image; none: the first of the table."
    )
    equal_budgets: bool = Field(
        False, description="Refuse models that saw other numbers of training samples, pretraining included."
    )
    groups: tuple[GroupSettings, ...] = Field(
        (),
        description="Several groups of models instead of one: each has `models`, and may have tests, a reference and "
        "equal budgets of its own.",
    )
    figures: bool = Field(True, description="Whether its bars, costs, curves and pictures are drawn.")
    scales: Names | None = Field(
        None,
        description="Scales at which the table is made, so that overlays of other scales need not name it; none: all.",
    )

    def compared(self, chosen: tuple[str, ...] = ()) -> tuple[GroupSettings, ...]:
        """Return the groups of models, each with its tests: those of `groups`, or all of the table as one.

        Args:
            chosen: models of a table that names none.
        """
        models, groups = self.models or chosen, self.groups
        if not groups and models:
            one = GroupSettings(models=models, equal_budgets=self.equal_budgets)
            groups = (one.model_copy(update={"reference": self.reference}),)  # checked where the models are known
        return tuple(group.model_copy(update={"tests": group.tests or self.tests}) for group in groups)

    @model_validator(mode="after")
    def _groups_or_models(self) -> "TableSettings":
        if not self.groups:
            return self
        if self.models is not None or self.reference is not None or self.equal_budgets:
            raise ValueError("found groups beside models, reference or equal_budgets; write these into each group")
        named = [model for group in self.groups for model in group.models]
        if twice := sorted({model for model in named if named.count(model) > 1}):
            raise ValueError(f"groups: {twice[0]} stands in two of them; name each model once")
        for group in self.groups:
            for test in group.tests or ():
                if test not in self.tests:
                    raise ValueError(unknown_name(test, self.tests, "test of the table in groups"))
        return self

    @model_validator(mode="after")
    def _names_exist(self) -> "TableSettings":
        for name, average in self.averages.items():
            for test in average.tests or ():
                if test not in self.tests:
                    raise ValueError(unknown_name(test, self.tests, f"test in average {name}"))
        if self.sort is not None and self.sort not in (*self.tests, *self.averages):
            raise ValueError(unknown_name(self.sort, (*self.tests, *self.averages), "test or average in sort"))
        if self.reference is not None and self.models is not None and self.reference not in self.models:
            raise ValueError(unknown_name(self.reference, self.models, "model of the table in reference"))
        return self


class ReportSettings(Settings):
    """What figures and page show. A change redoes the report only."""

    title: str = "airpipe"
    zoom: PositiveInt = Field(96, description="Side in pixels of the zoomed crop in the qualitative grid.")
    images_per_test: PositiveInt = Field(
        2, description="Images of each test in the grid and on the page, which show at most 24 in all."
    )
    models: tuple[SettingModel, ...] = Field(
        (),
        max_length=6,
        description="Models whose pictures are shown beside those of the best and the median one; the first ones fill "
        "up to four. The page lists all others, in small.",
    )
    protocol: Name = Field("airpipe", description="Protocol whose values figures show.")
    jpeg_quality: int = Field(90, ge=50, le=100, description="JPEG quality of the pictures on the page.")


class LeakageSettings(Settings):
    """Whether images that tests show, too, are kept out of training."""

    remove: bool = Field(False, description="Train without them; false: the published splits stay.")
    against: tuple[PairListId, ...] | None = Field(
        None, description="Test lists that are searched; none: those of all `tests`."
    )
