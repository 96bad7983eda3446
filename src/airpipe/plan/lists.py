"""Which stages and which pair lists a project uses, and for what."""

from collections.abc import Iterable

from airpipe.errors import AirpipeError
from airpipe.plan.models import trained
from airpipe.plan.studies import Studies
from airpipe.registry import runs_as
from airpipe.settings.names import ModelId
from airpipe.settings.stages import StageSettings

TRAINING_SPLITS = ("train", "val")
"""Beginnings of the names of splits that are for training, in a user's own data set."""


class Lists(Studies):
    """Answers about the stages and pair lists that a project uses."""

    def stages_in_use(self, of: str | None = None) -> list[StageSettings]:
        """Settings of every stage that chosen models, tables and recognition tests need, those before them included.

        Args:
            of: the method that matters; stages of others are left out where they cannot be planned (a seed
                without data). None: all matter.
        """
        found: list[StageSettings] = self._once(("in use", of), lambda: self._stages_in_use(of))
        return found

    def _stages_in_use(self, of: str | None) -> list[StageSettings]:
        waiting = trained([*self.shown_models(), *self.recognition_models()])
        found: dict[str, StageSettings | None] = {}
        while waiting:
            model = ModelId.parse(waiting.pop(0)).folder
            if model in found:
                continue
            try:
                found[model] = self.stage_settings(model)
                waiting += trained(self.parents_of(model).values())
            except AirpipeError:
                if of in (None, model.split("/")[0]):
                    raise
                found[model] = None
        return [settings for settings in found.values() if settings is not None]

    def models_of(self, paper: str) -> list[str]:
        """Ids of the models of a method that the chosen ones and the tables need."""
        return [settings.model_id for settings in self.stages_in_use(paper) if settings.method == paper]

    # Pair lists

    def training_lists(self) -> list[str]:
        """Pair lists that stages in use train and validate on."""
        parts = [part for settings in self.stages_in_use() for part in (*settings.data, *settings.validation.data)]
        return sorted({part.pairs for part in parts})

    def test_lists(self) -> list[str]:
        """Pair lists of the tests in the tables and of the recognition tests."""
        shown = {pairs for table in self.project.tables for pairs in self.table_lists(table)}
        return sorted(shown | {pairs for seed in self.project.seeds for pairs in self.recognition_lists(seed)})

    def used_lists(self) -> list[str]:
        """Pair lists of trainings and tests."""
        return sorted({*self.training_lists(), *self.test_lists()})

    def own_lists(self) -> list[str]:
        """Splits that the folders named by `root` hold; of a folder with none of them, the first.

        Splits that are cut show no other images than a whole one beside them.
        """
        found = []
        for name, entry in self.project.datasets.items():
            if entry.root:
                here = [split for split in entry.splits if self.machine.split(name, split)]
                whole = [split for split in here if entry.splits[split].cut is None]
                found += [f"{name}.{split}" for split in whole or here or list(entry.splits)[:1]]
        return found

    def compared_lists(self) -> tuple[list[str], list[str]]:
        """Training lists, and test lists that they are searched for; own folders are searched, too."""
        own = set(self.own_lists())
        own_train = {name for name in own if name.split(".")[1].startswith(TRAINING_SPLITS)}
        train, test = (
            {name for name in lists if not (self.dataset_of(name).drawn or self.dataset_of(name).curated)}
            for lists in (self.training_lists(), self.test_lists())
        )
        return sorted(train | own_train), sorted(test | own - own_train)

    def drawn_lists(self) -> list[str]:
        """Lists in use whose files are drawn here: they are not searched for leaks."""
        return [name for name in self.used_lists() if self.dataset_of(name).drawn]

    def checked_lists(self) -> list[str]:
        """Lists that `data` makes and `check` reads again: compared and drawn ones."""
        train, test = self.compared_lists()
        return sorted({*train, *test, *self.drawn_lists()})

    def folder_lists(self) -> list[str]:
        """Lists in use whose files are not embedded, drawn or curated: the page tells what is odd about them."""
        return [name for name in self.not_embedded(self.used_lists()) if not self.dataset_of(name).curated]

    def not_embedded(self, lists: Iterable[str]) -> list[str]:
        """Keep those lists whose files are in a folder of the user's, each once, in order."""
        return [name for name in dict.fromkeys(lists) if not self.dataset_of(name).embedded]

    def leak_tests(self) -> list[str]:
        """Test lists whose images `leakage: remove` keeps out of training, those of fresh seeds included."""
        tests = {test.pairs for test in self.project.tests.values()}
        for seed in {*self.project.seeds, *self.project.recognition.fresh_seeds}:
            try:
                tests |= set(self.recognition_lists(seed))
            except AirpipeError:  # a seed without data: told where a job of that seed is planned
                continue
        named = self.project.leakage.against
        return list(named or [name for name in sorted(tests) if not self.dataset_of(name).drawn])

    def kept_out(self, name: str) -> list[str]:
        """Test lists whose images a curation keeps out: those that it names, else those of all tests."""
        against = self.curation(name).against
        return self.leak_tests() if against is None else list(against)

    def packed(self, pairs: str) -> bool:
        """Whether a stage that trains on a list wants it packed; stages that cannot be planned want nothing."""
        tasks = {
            runs_as(settings.task)
            for settings in self.stages_in_use(of="")
            if any(part.pairs == pairs for part in settings.data)
        }
        return any(self.project.compute_for(task).pack for task in tasks)

    def made_sets(self) -> list[str]:
        """Names of the data sets in use that are made here as files."""
        names = {name.split(".")[0] for name in self.used_lists()}
        entries = self.project.datasets
        return [name for name in sorted(names) if entries[name].made and not entries[name].curated]
