"""What an entry of the data-set registry (config/datasets.yaml) may say.

This module imports no torch: Snakemake reads it at every start.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from airpipe.errors import AirpipeError
from airpipe.settings.base import Name, Settings, shown, unknown_name
from airpipe.settings.curation import MadeCurated
from airpipe.settings.names import SEED

PairRule = Literal["same", "rain_no", "no_prefix", "auto", "haze_id", "hazy_gt", "gopro_seq", "gopro_flat", "cdd"]
Crop = Literal["none", "centre", "top_left"]
Classes = Literal["folder", "cub", "market"]
ADDRESSES = ("url", "gdrive", "gdrive_folder", "huggingface", "by_hand")
SHORTHAND = ("clean", "degraded", "rule", "crop")
"""Keys of a layout that a split may hold itself, where it has one layout."""


def _below_root(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or "**" in path or "\\" in path:
        raise ValueError("expected a glob below root such as 'clean/*.png', without a leading /, '..' or '**'")
    return path


def _as_tuple(globs: Any) -> Any:
    return (globs,) if isinstance(globs, str) else globs


Glob = Annotated[str, AfterValidator(_below_root)]
Globs = Annotated[tuple[Glob, ...], BeforeValidator(_as_tuple), Field(min_length=1)]


# Where a data set comes from


class HubFile(Settings):
    """A file of a data set on Hugging Face."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name of the data set.")
    file: str = Field(description="Path inside the repository.")
    revision: str = Field("main", description="Branch, tag or commit.")


class RemoteFile(Settings):
    """One file of a source; exactly one of url, gdrive, gdrive_folder, huggingface, by_hand."""

    url: str | None = Field(None, pattern=r"^https?://", description="Direct address.")
    gdrive: str | None = Field(None, description="Google Drive file id.")
    gdrive_folder: str | None = Field(None, description="Google Drive folder id.")
    huggingface: HubFile | None = None
    by_hand: str | None = Field(None, description="What to open and download in a browser, with any password.")
    name: str = Field(
        pattern=r"^[\w][\w. ()+-]*$", description="The file is kept under this name; its suffix is its format."
    )
    bytes: PositiveInt | None = Field(None, description="Size of the file.")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    into: Annotated[str, AfterValidator(_below_root)] = Field("", description="Unpacked below this subfolder of root.")

    @model_validator(mode="after")
    def _one_address(self) -> "RemoteFile":
        given = [
            k for k in ("url", "gdrive", "gdrive_folder", "huggingface", "by_hand") if getattr(self, k) is not None
        ]
        if len(given) != 1:
            raise ValueError("give exactly one of url, gdrive, gdrive_folder, huggingface, by_hand")
        return self


class Source(Settings):
    """One way to get a whole data set. Sources are tried in order."""

    read_in: str = Field(min_length=1, description="Where the addresses were read.")
    verified: bool = Field(False, description="Whether we have fetched from these addresses.")
    files: tuple[RemoteFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> "Source":
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            raise ValueError(f"files of one source share a name: {', '.join(names)}")
        return self


# What its files are


class PackageFile(Settings):
    """A photograph that ships inside an installed package."""

    name: str = Field(description="Name in manifests and lists, with suffix.")
    package: Name
    path: str = Field(description="Path below the package's folder.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    split: Name
    group: Name = Field(description="Scene; never split over train and test.")
    depth: str | None = Field(None, description="Disparity file (npz, key arr_0) below the package's folder.")
    depth_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")


class Layout(Settings):
    """One way in which copies of a split arrange their files. Globs name image files only."""

    name: Name = "own"
    clean: Globs = Field(description='Glob of the clean files below root, for example "clean/*"; several: a list.')
    degraded: Globs | None = Field(None, description="Globs of the degraded files; pairs are matched by `rule`.")
    rule: PairRule = Field("same", description="How a degraded file's name gives its clean file (airpipe.data.rules).")
    crop: Crop = Field("none", description="How the larger file is cut: centre the clean one, top_left any.")
    read_in: str = Field("", description="Where this layout was met.")


class NameList(Settings):
    """A published list that chooses the files of a split."""

    file: str = Field(description="Path; ~ and ${VARIABLES} are expanded.")
    format: Literal["names", "bar", "comma"] = Field(
        "names",
        description="names: one file name or path a line (AirNet, PromptIR, DyNet); bar: degraded|clean (VRD-IR); "
        "comma: clean,degraded without a header (DSRIR)",
    )
    lose_first_row: bool = Field(False, description="comma: drop the first row, as the published reader does.")
    only: str | None = Field(
        None,
        description="Lines that begin otherwise are passed over: one list of several data sets serves each of them.",
    )
    remove_prefix: str = Field("", description="Removed from the front of every listed path.")


class Pick(Settings):
    """Some degraded versions of some clean images, picked by a seed (`airpipe.data.picking`)."""

    per_clean: PositiveInt = Field(1, description="Degraded versions that are kept of each clean image.")
    clean_images: PositiveInt | None = Field(None, description="Clean images that are kept; none: all.")
    seed: NonNegativeInt = Field(0, description="Fixes both choices, wherever the files lie.")


class ClassShare(Settings):
    """The part of each class that a split takes.

    Every file has a place in [0, 1), from a hash of seed and path: another image moves no other. Where a class has no
    file on one side of `start` or `stop`, the nearest one goes there.
    """

    start: float = Field(0.0, ge=0, lt=1, description="Place of the first file, inclusive.")
    stop: float = Field(1.0, gt=0, le=1, description="Place after the last file.")
    seed: NonNegativeInt = Field(0, description="Seed of the hash.")

    @model_validator(mode="after")
    def _forwards(self) -> "ClassShare":
        if self.start >= self.stop:
            raise ValueError(f"start {self.start} is not below stop {self.stop}")
        return self


class Cut(Settings):
    """Windows that large images are cut into, as published training sets are (`airpipe.data.windows`)."""

    size: PositiveInt = Field(description="Side of the square windows, in pixels.")
    step: PositiveInt = Field(description="Distance of neighbouring windows in pixels, at most `size`.")
    rest: NonNegativeInt = Field(
        0, description="One more window lies at the end of a side where more than this many pixels would be left."
    )
    whole: NonNegativeInt = Field(
        0, description="Images whose shorter side has at most this many pixels stay whole; those below `size` have to."
    )

    @model_validator(mode="after")
    def _windows_touch(self) -> "Cut":
        if self.step > self.size:
            raise ValueError(f"step {self.step} is larger than size {self.size}: pixels between windows would be lost")
        return self


class SplitSettings(Settings):
    """Which files of a folder make a split. `clean`, `degraded`, `rule`, `crop` may stand here: a single layout."""

    layouts: tuple[Layout, ...] = Field(min_length=1, description="The one that matches most files is taken.")
    degradation: Name | None = Field(None, description="What the degraded files show; none: clean images.")
    level: str = Field("", description="Strength of the degradation, as tables show it.")
    names: tuple[str, ...] | None = Field(
        None, max_length=1000, description="File stems of the split; a missing one is an error. Longer: name_list."
    )
    name_list: NameList | None = None
    pick: Pick | None = Field(None, description="Picks pairs by a seed, after names and lists; none: all are kept.")
    leave_out: tuple[Glob, ...] = Field(
        (), description="Globs of files to leave out; recorded in the pair list's JSON."
    )
    expected: PositiveInt | None = Field(
        None,
        description="Number of pairs, clean images or (with `cut`) windows; another number is reported, with `strict` "
        "an error.",
    )
    sizes: dict[str, tuple[str, ...]] = Field(
        {}, description='Version: its image sizes, as "480x320" (width x height).'
    )
    input_psnr: PositiveFloat | None = Field(
        None, description="Mean PSNR of the degraded files, RGB, in dB: tells copies apart."
    )
    strict: bool = Field(False, description="Another number of pairs than expected is an error.")
    classes: Classes | None = Field(
        None,
        description="What the images show. folder: the name of the folder that holds the file; cub: likewise, checked "
        "against the lists of CUB-200-2011; market: person and camera, from names as in Market-1501. "
        "Pairs are then called <class>__<stem>.",
    )
    part: Literal["train", "test"] | None = Field(None, description="cub: side of train_test_split.txt; none: both.")
    share_of_class: ClassShare | None = Field(None, description="Takes a part of each class; none: all.")
    cut: Cut | None = Field(None, description="Windows that images are cut into, for training; none: whole images.")

    @model_validator(mode="after")
    def _parts_need_classes(self) -> "SplitSettings":
        if self.part is not None and self.classes != "cub":
            raise ValueError(f"part is {self.part!r}, but classes are {self.classes}; part is for classes: cub")
        if self.share_of_class is not None and self.classes is None:
            raise ValueError("share_of_class needs classes, for example classes: folder")
        if self.share_of_class is not None and any(layout.degraded for layout in self.layouts):
            raise ValueError("share_of_class is for splits of clean images; this one has degraded files")
        return self

    @model_validator(mode="after")
    def _windows_have_no_class(self) -> "SplitSettings":
        if self.cut is not None and self.classes is not None:
            raise ValueError("cut is for splits without classes: a window need not show what its image shows")
        return self

    @model_validator(mode="before")
    @classmethod
    def _single_layout(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        order = list(values)
        last = max((order.index(key) for key in SHORTHAND if key in values), default=-1)
        if last >= 0 and ("layouts" not in values or order.index("layouts") < last):  # an overlay's keys come last
            rest = {key: value for key, value in values.items() if key not in (*SHORTHAND, "layouts")}
            return rest | {"layouts": [{key: values[key] for key in SHORTHAND if values.get(key) is not None}]}
        return {key: value for key, value in values.items() if key not in SHORTHAND}

    @field_validator("sizes")
    @classmethod
    def _sizes_are_sizes(cls, sizes: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for size in (size for version in sizes.values() for size in version):
            if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size):
                raise ValueError(f"expected width x height such as '480x320', found {shown(size)}")
        return sizes


class MadeShapes(Settings):
    """Labelled pictures of eight shapes, drawn here (`airpipe.data.shapes`)."""

    kind: Literal["shapes"]
    seed: NonNegativeInt = Field(0, description="Seed of all pictures; splits differ all the same.")
    side: int = Field(32, ge=16, le=256, description="Side of the square pictures, in pixels.")
    counts: dict[Name, Annotated[int, Field(ge=1, le=1_000_000)]] = Field(
        min_length=1, description="Split: number of pictures."
    )

    def splits(self) -> dict[str, Any]:
        """The splits that the made folder has."""
        return {name: _made_split(name) | {"expected": n, "strict": True} for name, n in self.counts.items()}


class MadeCrops(Settings):
    """The annotated objects of a PASCAL VOC folder, cut out (`airpipe.data.voc`)."""

    kind: Literal["voc_crops"]
    dataset: Name = Field(description="Data set whose folder is, or holds, VOCdevkit.")
    year: int = Field(2007, ge=2005, le=2012, description="VOC<year> is taken.")
    lists: dict[Name, Name] = Field(min_length=1, description="Split: file of ImageSets/Main, without suffix.")
    margin: NonNegativeFloat = Field(
        0.1, description="Rim added on each side, as a share of the box's side; the image's own rim limits it."
    )
    smallest: PositiveInt = Field(32, description="Boxes with a shorter side below this many pixels are left out.")
    difficult: bool = Field(False, description="Take objects that are marked as difficult.")
    truncated: bool = Field(False, description="Take objects that the image's rim cuts.")

    def splits(self) -> dict[str, Any]:
        """The splits that the made folder has."""
        return {name: _made_split(name) for name in self.lists}


Made = Annotated[MadeShapes | MadeCrops | MadeCurated, Field(discriminator="kind")]


def _made_split(name: str) -> dict[str, Any]:
    return {"clean": f"{name}/*/*", "classes": "folder"}


class DatasetSettings(Settings):
    """A data set: files of installed packages, a folder that is fetched or that the user has, or one made here."""

    title: str
    home: str = ""
    licence: str = ""
    citation: str = ""
    about: str = Field("", description="What one has to know: traps, versions, contradictions.")
    used_by: tuple[str, ...] = Field((), description="Which systems train (+) or test on it, in words.")
    root: str | None = Field(
        None, description="Folder; ~ and ${VARIABLES} are expanded; default resources/datasets/<id>, fetched on demand."
    )
    sources: tuple[Source, ...] = Field((), description="Ways to get it, in order of preference.")
    packages: tuple[PackageFile, ...] = ()
    splits: dict[Name, SplitSettings] = {}
    made: Made | None = Field(None, description="Made here, below results/generated/<id>; its splits follow from it.")

    @property
    def embedded(self) -> bool:
        """Whether everybody has the files: there is nothing to fetch, to search for leaks or to tell."""
        return bool(self.packages or self.drawn)

    @property
    def drawn(self) -> bool:
        """Whether the images are drawn here: they show no photograph, so that there are no leaks to search for."""
        return isinstance(self.made, MadeShapes)

    @property
    def curated(self) -> bool:
        """Whether its images are patches in packs, chosen here and searched for leaks: there are no files to list."""
        return isinstance(self.made, MadeCurated)

    @property
    def split_names(self) -> list[str]:
        """Names of the data set's splits, sorted."""
        return sorted({file.split for file in self.packages} or self.splits)

    @model_validator(mode="after")
    def _packages_or_splits(self) -> "DatasetSettings":
        if [bool(self.packages), bool(self.splits), self.made is not None].count(True) != 1:
            raise ValueError(
                "give either packages (embedded files) or splits (files below a folder), or made (files made here)"
            )
        if self.made is not None and (self.root or self.sources):
            raise ValueError("made data sets have neither root nor sources: they lie below results/generated")
        places: dict[str, str] = {}
        for file in self.packages:
            if places.setdefault(file.group, file.split) != file.split:
                raise ValueError(f"scene {file.group!r} is in {places[file.group]} and in {file.split}; keep it in one")
        return self

    @model_validator(mode="after")
    def _splits_of_made_ones(self) -> "DatasetSettings":
        if self.made is None:
            return self
        splits = {name: SplitSettings.model_validate(split) for name, split in self.made.splits().items()}
        return self.model_copy(update={"splits": splits})


# Data sets that belong to a seed: `{seed}` in a pair list stands for the run's seed


def fitting(dataset: str, datasets: Iterable[str]) -> list[str]:
    """Names of data sets that a name with {seed} stands for, sorted.

    >>> fitting("shapes{seed}", ["shapes1", "shapes0", "shapes_a", "photos"])
    ['shapes0', 'shapes1']
    """
    form = r"\d+".join(map(re.escape, dataset.split(SEED)))
    return sorted(name for name in datasets if re.fullmatch(form, name))


def of_seed(pairs: str, seed: int, datasets: Mapping[str, DatasetSettings], where: str) -> str:
    """Id of a pair list with the run's seed in the place of {seed}.

    Args:
        pairs: data set dot split, as the configuration has it.
        seed: seed of the run.
        datasets: all entries of the registry by name.
        where: what asks, for the message.

    Raises:
        AirpipeError: there is no such data set; of a seed without one, how to add it.
    """
    found = pairs.replace(SEED, str(seed))
    form, dataset = pairs.split(".")[0], found.split(".")[0]
    if dataset in datasets:
        return found
    others = fitting(form, datasets) if SEED in form else []
    if not others:
        raise AirpipeError(f"{where}: " + unknown_name(dataset, datasets, "data set"))
    made = datasets[others[0]].made is not None
    entry = f"{dataset}: {{like: {others[0]}, made: {{seed: {seed}}}}}" if made else dataset
    raise AirpipeError(
        f"{where}: seed {seed} has no data set {dataset} ({form}). Add `{entry}` to datasets (in an overlay), or, "
        "where only the recognition tests want it, switch them off (recognition: {scales: []})"
    )
