"""Which training rules there are, and what their jobs ask of the machine."""

import re
from dataclasses import dataclass

from airpipe.registry import method, stage_entry, stage_folder, stages
from airpipe.settings.stages import ComputeSettings


@dataclass(frozen=True)
class TrainingRule:
    """A registered stage that has a rule of its own."""

    task: str
    """Full name of the stage, such as "mine.train"."""

    @property
    def name(self) -> str:
        """Name of the rule."""
        return self.task.replace(".", "_")

    @property
    def stage(self) -> str:
        """Folder of the stage, with wildcards ("dnc_{degradation}")."""
        return stage_folder(self.task)

    @property
    def path(self) -> str:
        """Model id of its jobs, with wildcards."""
        return f"{self.task.split('.')[0]}/{{setting}}/seed{{seed}}/{self.stage}"

    @property
    def wildcards(self) -> list[str]:
        """Wildcards in its folder."""
        return re.findall(r"\{(\w+)\}", self.stage)

    @property
    def priority(self) -> int:
        """How many stages of its method come from it on in the order of the science, itself included.

        A chain of stages takes as long as all of them together, so that its first stage starts before others' last.
        """
        own = [task for task in stages() if task.split(".")[0] == self.task.split(".")[0]]
        return len(own) - own.index(self.task)

    @property
    def message(self) -> str:
        """What a job says on the terminal, with Snakemake's wildcards."""
        own, (paper, name) = stage_entry(self.task), self.task.split(".")
        title = re.sub(r"\{(\w+)\}", r"{wildcards.\1}", own.title or name)
        return f"{method(paper).title} {{wildcards.setting}}, seed {{wildcards.seed}}: {title}"


def training_rules() -> list[TrainingRule]:
    """Every registered stage that has a rule of its own, in the order of the registry."""
    return [TrainingRule(task) for task, entry in stages().items() if not entry.runs_as]


# What a job asks of the machine


def launcher(compute: ComputeSettings) -> str:
    """The command that starts a training: python, torchrun for several GPUs, srun for several nodes."""
    if compute.nodes > 1:
        per_node = max(compute.gpu, 1)
        shape = f"-n {compute.nodes * per_node} --ntasks-per-node {per_node} -c {compute.threads}"
        return f"srun --kill-on-bad-exit=1 {shape} python"
    if compute.gpu > 1:
        return f"torchrun --standalone --nproc-per-node {compute.gpu}"
    return "python"


def asked_of_scheduler(compute: ComputeSettings) -> dict[str, int | str]:
    """Resources of a training job, as Snakemake and its executor for clusters name them."""
    asked: dict[str, int | str] = {"mem_mb": compute.mem_mb, "runtime": compute.runtime}
    if compute.nodes > 1:  # the executor plugin reads `gpu` as the job's total; `gres` counts per node
        asked |= {"nodes": compute.nodes, "tasks": compute.nodes * max(compute.gpu, 1), "mpi": "srun"}
        if compute.gpu:
            asked |= {"gres": f"gpu:{compute.gpu}", "tasks_per_gpu": 0}
    elif compute.gpu:
        asked["gpu"] = compute.gpu
    return asked
