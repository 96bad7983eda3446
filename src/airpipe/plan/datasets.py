"""What jobs must know of data sets: one split without words and places, sources, and how made ones are made."""

from typing import Any

from airpipe.errors import AirpipeError
from airpipe.plan.models import Models
from airpipe.settings.base import unknown_name
from airpipe.settings.curation import Choosing, MadeCurated, PictureScoring
from airpipe.settings.datasets import DatasetSettings, Made
from airpipe.settings.names import NOLEAK
from airpipe.settings.places import place


class DataSets(Models):
    """Answers about the data sets of a project."""

    def dataset(self, name: str) -> DatasetSettings:
        """The registry's entry of a data set; AirpipeError for an unknown one."""
        if name not in self.project.datasets:
            raise AirpipeError(unknown_name(name, self.project.datasets, "data set"))
        return self.project.datasets[name]

    def dataset_of(self, pairs: str) -> DatasetSettings:
        """The registry's entry of a pair list's data set."""
        return self.dataset(pairs.split(".")[0])

    def split_entry(self, pairs: str) -> DatasetSettings:
        """Entry of a data set, cut to the split of a pair list, without words, root and sources.

        Raises:
            AirpipeError: unknown data set or split.
        """
        name, split = pairs.removesuffix(NOLEAK).split(".")
        entry = self.dataset(name)
        splits = sorted({file.split for file in entry.packages} or entry.splits)
        if split not in splits:
            raise AirpipeError(f"data set {name}: {unknown_name(split, splits, 'split')}")
        if entry.packages:
            return DatasetSettings(title="", packages=tuple(file for file in entry.packages if file.split == split))
        chosen = entry.splits[split]
        update: dict[str, Any] = {
            "layouts": tuple(layout.model_copy(update={"read_in": ""}) for layout in chosen.layouts)
        }
        if chosen.name_list:  # the file is an input; where it lies changes nothing
            update["name_list"] = chosen.name_list.model_copy(update={"file": ""})
        return DatasetSettings(title="", splits={split: chosen.model_copy(update=update)})

    def pairs_entry(self, pairs: str) -> DatasetSettings:
        """Entry of a data set, cut to what a pair list depends on: another expectation changes no pair."""
        entry = self.split_entry(pairs)
        plain: dict[str, Any] = {"expected": None, "sizes": {}, "input_psnr": None, "strict": False}
        splits = {name: split.model_copy(update=plain) for name, split in entry.splits.items()}
        return entry.model_copy(update={"splits": splits})

    def list_file(self, pairs: str) -> str | None:
        """File of the split's name list on this machine, if it has one."""
        name, split = pairs.removesuffix(NOLEAK).split(".")
        return self.project.list_file(name, split) if self.split_entry(pairs).splits else None

    def source_entry(self, name: str) -> DatasetSettings:
        """Entry of a data set, cut to how it comes here; where it lies and what is expected of it change nothing."""
        entry = self.dataset(name)
        if entry.made:
            raise AirpipeError(f"data set {name} is made here, not fetched: snakemake results/generated/{name}.json")
        plain: dict[str, Any] = {
            "expected": None,
            "sizes": {},
            "input_psnr": None,
            "strict": False,
            "names": None,
            "name_list": None,
            "pick": None,
            "cut": None,
        }
        splits = {split: chosen.model_copy(update=plain) for split, chosen in entry.splits.items()}
        return entry.model_copy(update={"root": None, "splits": splits})

    def made(self, name: str) -> Made:
        """Settings by which a data set is made here.

        Raises:
            AirpipeError: it is unknown, or not made here.
        """
        found = self.project.datasets[name].made if name in self.project.datasets else None
        if found is None:
            known = [name for name, entry in self.project.datasets.items() if entry.made]
            raise AirpipeError(unknown_name(name, known, "made data set"))
        return found

    def made_from(self, name: str) -> str | None:
        """The data set that a made one is cut out of, if it is."""
        return getattr(self.made(name), "dataset", None)

    def curated_sets(self) -> list[str]:
        """Names of the data sets whose pictures are chosen here, whether or not anything uses them."""
        return [name for name, entry in self.project.datasets.items() if entry.curated]

    def curation(self, name: str) -> MadeCurated:
        """Settings by which a data set is curated.

        Raises:
            AirpipeError: it is unknown, or not curated.
        """
        made = self.project.datasets[name].made if name in self.project.datasets else None
        if not isinstance(made, MadeCurated):
            raise AirpipeError(unknown_name(name, self.curated_sets(), "curated data set"))
        return made

    def curation_part(self, name: str) -> PictureScoring | Choosing:
        """Settings of one step of a curation: `<data set>.scores` or `<data set>.choose`."""
        made, step = self.curation(name.split(".")[0]), name.split(".")[1]
        return made.scores if step == "scores" else made.choose

    def picture_sources(self, name: str) -> dict[str, tuple[str, str]]:
        """Kind and place on this machine of each source of a curation, sorted by name.

        Raises:
            AirpipeError: a variable in a place is not set.
        """
        where = f"datasets.{name}.made.sources"
        sources = sorted(self.curation(name).sources.items())
        return {key: (source.kind, place(source.root, f"{where}.{key}.root")) for key, source in sources}
