"""Settings of curation: from any pictures to a training set of patches, scored and filtered (`airpipe.curation`).

This module imports no torch: Snakemake reads it at every start.
"""

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from airpipe.errors import AirpipeError
from airpipe.settings.base import Name, Settings, shown, unknown_name
from airpipe.settings.names import PairListId

MEASURES = ("width", "height", "side", "aspect", "grey", "alpha", "brightness", "blur", "flatness", "niqe", "brisque")
"""Scores of every picture (`airpipe.curation.scores`); plug-ins add theirs."""
KEY = ("line", "member", "source", "path", "name")
"""Columns that say which picture a row of scores is of; `name` is that in its tar file."""
FACTS = ("sha256", "problem", "phash", "leak", "leak_relation", "leak_correlation", "patches")
"""Columns beside scores: checksum of the file, why it could not be read, perceptual hash, the test image that it shows
and how, and the share of flat cells in each of its patches."""
REASONS = ("unreadable", "leak", "patches", "duplicate")
"""Why a picture is left out, beside the names of scores: it cannot be read, it shows a test image, no patch of it is
kept, it is like a better one."""
Quantile = Annotated[float, Field(ge=0, le=1)]


class PictureSource(Settings):
    """Where pictures come from."""

    kind: Literal["images", "tars", "urls"] = Field(
        description="images: all image files below a folder; tars: the images in all tar files below a folder "
        "(WebDataset's layout); urls: a text file with one address a line."
    )
    root: str = Field(description="The folder, or the text file; ~ and ${VARIABLES} are expanded.")


class FetchSettings(Settings):
    """How pictures at addresses are fetched."""

    per_second: PositiveFloat = Field(
        1.0, description="Requests to one host in a second, at most, by one job; robots.txt may ask for fewer."
    )


class PictureScoring(Settings):
    """What is measured of a picture. A change here scores all pictures again."""

    centre: PositiveInt = Field(1024, ge=96, description="Side in pixels of the middle part that is judged.")
    largest: PositiveInt = Field(
        50_000_000, description="Pictures of more pixels are left out unread; it bounds the memory of a job."
    )
    cell: PositiveInt = Field(16, description="Side in pixels of the cells that are flat or not.")
    flat_below: PositiveFloat = Field(
        25.0, description="A cell is flat where the variance of the Laplacian of its luminance (0 to 255) is lower."
    )
    patch: PositiveInt = Field(512, description="Side in pixels of the patches, a multiple of `cell`.")
    plugins: dict[Name, str] = Field(
        {},
        description="Further scores: name and 'module:function', which takes uint8 RGB (H, W, 3) and gives a number; "
        "for example an aesthetic score.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "PictureScoring":
        if self.patch % self.cell:
            raise ValueError(f"patch {self.patch} is no multiple of cell {self.cell}: cells would lie in two patches")
        for name, target in self.plugins.items():
            if name in MEASURES:
                raise ValueError(f"plugins: {name!r} is a score already; call the plug-in otherwise")
            if name in (*KEY, *FACTS, *REASONS):
                raise ValueError(f"plugins: {name!r} means something else in tables; call the plug-in otherwise")
            if target.count(":") != 1:
                raise ValueError(f"plugins.{name}: expected 'module:function', found {shown(target)}")
        return self


class Bound(Settings):
    """Range of a score; a bound is a number, or the quantile of all pictures that could be read."""

    least: float | None = None
    most: float | None = None
    least_quantile: Quantile | None = Field(None, description="Share of pictures below the least value.")
    most_quantile: Quantile | None = Field(None, description="Share of pictures at or below the largest value.")

    @model_validator(mode="after")
    def _one_form(self) -> "Bound":
        if self.model_dump(exclude_none=True) == {}:
            raise ValueError("give least, most, least_quantile or most_quantile")
        if None not in (self.least, self.least_quantile) or None not in (self.most, self.most_quantile):
            raise ValueError("give each side as a number or as a quantile, not both")
        return self


class Choosing(Settings):
    """Which pictures and patches are kept. A change here reads scores only."""

    bounds: dict[Name, Bound] = Field(
        {
            "side": Bound(least=1024),  # paper: pictures of high resolution
            "aspect": Bound(most=3.0),  # ours
            "grey": Bound(most=0),  # ours
            "alpha": Bound(most=0),  # ours
            "brightness": Bound(least=0.1),  # ours; the paper's figure rejects pictures that are nearly black
            # ours, between good pictures and bad ones of half of BSD400; the paper's for NIQE and BRISQUE are unknown
            "blur": Bound(most=0.55),
            "flatness": Bound(most=0.65),  # the figure rejects icons, drawings and text
            "niqe": Bound(most=9.0),
            "brisque": Bound(most=20.0),
        },
        description="Range of each score; a picture that lacks the score (too small or too flat for it) fails.",
    )
    duplicate_bits: int = Field(
        6,
        ge=0,
        le=10,
        description="Pictures whose perceptual hashes differ in at most so many of 64 bits show the same; the largest "
        "is kept.",
    )
    flat_cells: NonNegativeFloat = Field(0.5, le=1, description="Largest share of flat cells in a patch.")


class MadeCurated(Settings):
    """Patches of any pictures, scored and filtered (`airpipe.curation`): the list <id>.train."""

    kind: Literal["curated"]
    sources: dict[Name, PictureSource] = Field(min_length=1)
    fetch: FetchSettings = FetchSettings()
    shards: PositiveInt = Field(1, le=99_999, description="Jobs that score; changes no result.")
    parts: PositiveInt = Field(1, le=99_999, description="Packs that the patches are put into, a job each.")
    against: tuple[PairListId, ...] | None = Field(
        None, description="Lists of tests whose images are kept out; not given: those of all tests."
    )
    scores: PictureScoring = PictureScoring()
    choose: Choosing = Choosing()

    @model_validator(mode="after")
    def _bounds_are_scored(self) -> "MadeCurated":
        known = (*MEASURES, *self.scores.plugins)
        for name in self.choose.bounds:
            if name not in known:
                raise ValueError("choose.bounds: " + unknown_name(name, known, "score"))
        return self

    def splits(self) -> dict[str, dict[str, str]]:
        """The splits that the made set has; its images are in packs, not in files."""
        return {"train": {"clean": "*"}}


def numbered(count: int) -> list[str]:
    """Names of `count` jobs: number and count, so that another count is another file.

    >>> numbered(2)
    ['00000-of-00002', '00001-of-00002']
    """
    return [f"{number:05d}-of-{count:05d}" for number in range(count)]


def place_of(name: str) -> tuple[int, int]:
    """Number and count in a name that `numbered` gave.

    Raises:
        AirpipeError: the name is of another form.
    """
    match = re.fullmatch(r"(\d{5})-of-(\d{5})", name)
    if match is None or int(match[1]) >= int(match[2]):
        raise AirpipeError(f"{name!r}: expected a number and a count, such as 00000-of-00002")
    return int(match[1]), int(match[2])
