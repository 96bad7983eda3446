# What the chapters share: the plan (airpipe.plan answers what the configuration asks for), and how its ids become
# paths and arguments here. Science goes into a rule's params or frozen inputs (a change there redoes it); the machine
# goes into its resources (Snakemake does not compare them), so that devices and folders redo nothing.
import functools
import json
import os
import shlex
from pathlib import Path

from airpipe.data.files import split_is_there
from airpipe.degradations.recipes import check_operations
from airpipe.errors import AirpipeError
from airpipe.plan import Machine, asked_of_scheduler, configuration, launcher, load_plan, trained, training_rules
from airpipe.plan.memory import check_memory_mb, list_memory_mb
from airpipe.provenance import sha256_file
from airpipe.settings.names import ID_PATTERN, NONE, PART, ModelId
from snakemake.exceptions import WorkflowError


def told(function):
    """The same function, whose errors Snakemake tells as its own: without a traceback."""

    @functools.wraps(function)
    def telling(*arguments, **named):
        try:
            return function(*arguments, **named)
        except (AirpipeError, ValueError) as error:
            raise WorkflowError(str(error)) from None

    return telling


class Told:
    """An object whose methods are `told`."""

    def __init__(self, whole):
        self._whole = whole

    def __getattr__(self, name):
        found = getattr(self._whole, name)
        return told(found) if callable(found) else found


@told
def read_plan():
    """The plan of this run, with every degradation checked."""
    machine = Machine(model=lambda model: os.path.isfile(weights(model)), split=is_here)
    plan = load_plan(configuration(Path("config"), config), machine)  # not `configfile:`, which takes a second longer
    for where, operations in plan.operations().items():
        check_operations(operations, where)
    return plan


def is_here(dataset, split):
    """Whether a data set's folder on this machine holds images of a split."""
    return split_is_there(PROJECT.root(dataset), PROJECT.datasets[dataset].splits[split])


def weights(model):
    """File with the weights of a model, which its variants share."""
    return f"results/{ModelId.parse(model).folder}/model.safetensors"


PLAN = Told(read_plan())
PROJECT = Told(PLAN.project)
RECOGNITION = PROJECT.recognition


wildcard_constraints:
    method=PART,
    setting=PART,
    seed="[0-9]+",
    stage=PART,
    dataset=PART,
    split=PART,
    table="|".join(PROJECT.tables),
    model=ID_PATTERN,


FIRST = 100  # priority of what everything else waits for; trainings have theirs (plan.TrainingRule), the rest none


# Paths


def pair_lists(names):
    """Files of pair lists."""
    return [f"results/pairs/{name}.csv" for name in names]


def packs(names):
    """Files that say where the packs of pair lists are; embedded lists have none. A new pack redoes nothing."""
    return [ancient(f"results/packs/{name}.json") for name in PLAN.not_embedded(names)]


def model_file(wildcards):
    """The model of an evaluation; nothing for `none`."""
    return [] if wildcards.model == NONE else weights(wildcards.model)


# The machine


def roots(files):
    """--root arguments that say where the data sets of a job's pair lists lie here (embedded ones need none)."""
    lists = [os.path.basename(path) for path in files if path.startswith(("results/pairs/", "results/fingerprints/"))]
    folders = {name: PROJECT.root(name) for name in sorted({name.split(".")[0] for name in lists})}
    return " ".join(f"--root {shlex.quote(f'{name}={folder}')}" for name, folder in folders.items() if folder)


def evaluation_resources(always=False):
    """Resources of a rule that runs a trained model (`none` runs no network and needs no GPU, or `always` one)."""
    compute = PROJECT.compute_for("evaluate")
    asked = {
        "mem_mb": compute.mem_mb,
        "runtime": compute.runtime,
        "machine": lambda wildcards, input: f"--device {'cuda' if compute.gpu else 'cpu'} {roots(input)}",
    }
    if not compute.gpu:
        return asked
    return asked | {"gpu": lambda wildcards: compute.gpu if always or wildcards.model != NONE else 0}
