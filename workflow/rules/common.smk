# What the chapters share: the validated project, and the few questions that rules ask of it.
# Science goes into a rule's params (a change there redoes it); the machine goes into its
# resources (Snakemake does not compare them), so that devices and folders redo nothing.
import functools
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from airpipe.data.files import split_is_there
from airpipe.settings.datasets import DatasetSettings
from airpipe.degradations.recipes import check_operations
from airpipe.errors import AirpipeError
from airpipe.settings.freezing import frozen_stage
from airpipe.settings.places import place
from airpipe.settings.project import check_compute, load_project
from airpipe.settings.studies import check_labels
from airpipe.provenance import sha256_file
from airpipe.registry import runs_as, settings_class, stage_entry, stages
from airpipe.settings.base import canonical_json, unknown_name
from snakemake.exceptions import WorkflowError

# Threads that wait for each other spin only briefly: an idle machine loses nothing, a shared one
# does not stall (measured: docs/measurements.md).
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

# Jobs run this checkout's package, also in environments that Snakemake makes (--sdm conda).
package = os.path.join(os.path.dirname(workflow.basedir), "src")
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])))

if os.path.exists("results") and not (os.path.isdir("results") and os.access("results", os.W_OK | os.X_OK)):
    raise WorkflowError(
        "results/ is not a folder that this user can write to; free the name, or link it to a disk with space"
    )

FIGURES = ["bars", "curves", "qualitative"]

try:
    PROJECT = load_project(config)
    for name, operations in PROJECT.recipes.items():
        check_operations(operations, f"recipes.{name}")
    for name in PROJECT.tests:
        check_operations(PROJECT.test(name).operations, f"tests.{name}")
    check_compute(PROJECT, [*dict.fromkeys(map(runs_as, stages())), "evaluate"])
    FEATURES = PROJECT.feature_analysis()
    for name, entry in FEATURES.classes.items():
        check_operations(entry.operations, f"features.classes.{name}")
    RECOGNITION = PROJECT.recognition
    for name, entry in PROJECT.recognition_job(0).tests.items():
        check_operations(entry.operations, f"recognition.tests.{name}")
except AirpipeError as error:
    raise WorkflowError(str(error)) from None


wildcard_constraints:
    method="[a-z0-9_]+",
    setting="[a-z0-9_]+",
    seed="[0-9]+",
    stage="[a-z0-9_]+",
    which="[a-z0-9_]+",
    degradation="[a-z0-9_]+",
    dataset="[a-z0-9_]+",
    split="[a-z0-9_]+",
    test="[a-z0-9_]+",
    model="none|imported/[a-z0-9_]+|[a-z0-9_]+/[a-z0-9_]+/seed[0-9]+/[a-z0-9_]+",


@functools.cache
def stage_settings(method, setting, seed, stage):
    """Validated settings of a stage, as they get frozen."""
    try:
        plan = PROJECT.setting_plan(f"{method}/{setting}").stages.get(stage)
        task = plan.task if plan else f"{method}.{stage}"
        return frozen_stage(
            PROJECT, f"{method}/{setting}", int(seed), stage, settings_class(task), stage_entry(task).revision
        )
    except (AirpipeError, ValueError) as error:
        raise WorkflowError(str(error)) from None


def frozen_json(wildcards):
    """Settings of a stage as JSON: a change of them is what redoes a stage."""
    return canonical_json(stage_settings(wildcards.method, wildcards.setting, wildcards.seed, wildcards.stage))


def pair_lists(parts):
    """Files of the pair lists of data parts, each once, in order."""
    return [f"results/pairs/{name}.csv" for name in dict.fromkeys(part.pairs for part in parts)]


def settings_of(wildcards, method, stage):
    """Settings of a job's stage; wildcards stand in its name as `dnc_{degradation}`."""
    return stage_settings(method, wildcards.setting, wildcards.seed, stage.format(**dict(wildcards.items())))


def training_pairs(method, stage):
    """Input function: pair lists of a stage's mix."""
    return lambda w: pair_lists(settings_of(w, method, stage).data)


def validation_pairs(method, stage):
    """Input function: pair lists of a stage's validation."""
    return lambda w: pair_lists(settings_of(w, method, stage).validation.data)


def parent_file(model):
    """Model file of a stage's parent."""
    return f"results/{imported(model) if model.startswith('imported/') else model}/model.safetensors"


def parent_models(method, stage):
    """Input function: model files of a stage's parents."""
    return lambda w: [parent_file(model) for model in settings_of(w, method, stage).parents.values()]


def parent_arguments(method, stage):
    """Params function: --parent arguments of a stage."""

    def arguments(wildcards):
        parents = settings_of(wildcards, method, stage).parents
        return " ".join(f"--parent {role}={parent_file(model)}" for role, model in parents.items())

    return arguments


def root_of(dataset):
    """Folder of a data set on this machine."""
    try:
        return PROJECT.root(dataset)
    except AirpipeError as error:
        raise WorkflowError(str(error)) from None


def roots(files):
    """--root arguments: where the data sets of a job's pair lists lie on this machine (embedded ones need none)."""
    lists = [os.path.basename(path) for path in files if path.startswith(("results/pairs/", "results/fingerprints/"))]
    folders = {name: root_of(name) for name in sorted({name.split(".")[0] for name in lists})}
    return " ".join(f"--root {shlex.quote(f'{name}={folder}')}" for name, folder in folders.items() if folder)


def launcher(compute, threads):
    """How a training command starts: python, torchrun for several GPUs, srun for several nodes."""
    if compute.nodes > 1:
        per_node = max(compute.gpu, 1)
        shape = f"-n {compute.nodes * per_node} --ntasks-per-node {per_node} -c {threads}"
        return f"srun --kill-on-bad-exit=1 {shape} python"
    if compute.gpu > 1:
        return f"torchrun --standalone --nproc-per-node {compute.gpu}"
    return "python"


def stage_resources(task):
    """Resources of a training rule: what it asks of the machine and the matching arguments."""
    compute = PROJECT.compute_for(task)

    def machine(wildcards, input, attempt):
        return (
            f"--gpus {compute.gpu} --nodes {compute.nodes} --workers {compute.workers}"
            f" --checkpoint-seconds {compute.checkpoint_seconds} --attempt {attempt} {roots(input)}"
        )

    asked = {
        "mem_mb": compute.mem_mb,
        "runtime": compute.runtime,
        "launch": launcher(compute, compute.threads),
        "machine": machine,
    }
    if compute.nodes > 1:  # the executor plugin reads `gpu` as the job's total; `gres` counts per node
        asked |= {"nodes": compute.nodes, "tasks": compute.nodes * max(compute.gpu, 1), "mpi": "srun"}
        if compute.gpu:
            asked |= {"gres": f"gpu:{compute.gpu}", "tasks_per_gpu": 0}
    elif compute.gpu:
        asked["gpu"] = compute.gpu
    return asked


def stage_threads(task):
    """Threads of a stage at this scale."""
    return PROJECT.compute_for(task).threads


def last_stage(model):
    """The stage of method/setting that is evaluated."""
    try:
        return PROJECT.setting_plan(model).last(PROJECT.scale)
    except ValueError as error:
        raise WorkflowError(f"{model}: {error}") from None


def model_ids(models=None, seeds=None):
    """Folders below results/: method/setting (its last stage) or one of its stages for all seeds, or imported/name."""
    ids = []
    for model in PROJECT.models if models is None else models:
        if model.startswith("imported/"):
            ids.append(imported(model))
        else:
            method, setting, *stage = model.split("/")
            shown = stage[0] if stage else last_stage(model)
            runs = PROJECT.seeds if seeds is None else seeds
            ids += [f"{method}/{setting}/seed{seed}/{shown}" for seed in runs]
    return ids


def imported(model):
    """Id of an imported model, which no rule makes."""
    if not os.path.isfile(f"results/{model}/model.safetensors"):
        name = model.removeprefix("imported/")
        what = " (FILE: torchvision's ImageNet weights, vgg16-397923af.pth)" if name == "vgg16" else ""
        raise WorkflowError(f"results/{model} is not there: python scripts/import_weights.py FILE --name {name}{what}")
    return model


def trained(models):
    """Those of some model ids that were trained here."""
    return [model for model in models if not model.startswith("imported/")]


def shown_models():
    """Ids of the chosen models and of those in the tables."""
    return list(dict.fromkeys([*model_ids(), *(model for table in PROJECT.tables for model in table_models(table))]))


def table_models(table):
    """Model ids in a table."""
    return model_ids(PROJECT.tables[table].models)


def table_scores(table):
    """Score files of a table: no restoration, then its models."""
    return [
        f"results/scores/{model}/{test}.csv"
        for model in ["none", *table_models(table)]
        for test in PROJECT.tables[table].tests
    ]


def split_entry(dataset, split):
    """Registry entry of a data set, cut to one split, without words, root and sources."""
    if dataset not in PROJECT.datasets:
        raise WorkflowError(unknown_name(dataset, PROJECT.datasets, "data set"))
    entry = PROJECT.datasets[dataset]
    splits = sorted({file.split for file in entry.packages} or entry.splits)
    if split not in splits:
        raise WorkflowError(f"data set {dataset}: {unknown_name(split, splits, 'split')}")
    if entry.packages:
        return DatasetSettings(title="", packages=[file for file in entry.packages if file.split == split])
    chosen = entry.splits[split]
    layouts = [layout.model_copy(update={"read_in": ""}) for layout in chosen.layouts]
    update = {"layouts": tuple(layouts)}
    if chosen.name_list:  # the file is an input; where it lies changes nothing
        update["name_list"] = chosen.name_list.model_copy(update={"file": ""})
    return DatasetSettings(title="", splits={split: chosen.model_copy(update=update)})


def pairs_json(wildcards):
    """What a pair list depends on: another expectation changes no pair."""
    entry = split_entry(wildcards.dataset, wildcards.split)
    plain = {"expected": None, "sizes": {}, "input_psnr": None, "strict": False}
    splits = {name: split.model_copy(update=plain) for name, split in entry.splits.items()}
    return canonical_json(entry.model_copy(update={"splits": splits}))


def list_file(dataset, split):
    """File of the split's name list, if it has one."""
    try:
        file = PROJECT.list_file(dataset, split) if split_entry(dataset, split).splits else None
    except AirpipeError as error:
        raise WorkflowError(str(error)) from None
    return [file] if file else []


def list_sha256(wildcards):
    """Content of the split's name list: where it lies changes nothing."""
    files = [path for path in list_file(wildcards.dataset, wildcards.split) if os.path.isfile(path)]
    return [sha256_file(Path(path)) for path in files]


def places(dataset, split):
    """Where the files of a split lie on this machine, as arguments."""
    root = root_of(dataset)
    return " ".join(filter(None, [shlex.join(["--root", root]) if root else "", name_list(dataset, split)]))


def name_list(dataset, split):
    """Where the split's name list lies, as an argument."""
    return shlex.join([word for path in list_file(dataset, split) for word in ("--name-list", path)])


def checks(threads):
    """A command for every list in use: check its files again."""
    for name in sorted({name for half in [*compared_lists(), drawn_lists()] for name in half}):
        dataset, split = name.removesuffix("_noleak").split(".")
        entry = canonical_json(split_entry(dataset, split))
        words = ["python", "scripts/check_dataset.py", f"{dataset}.{split}", "--entry", entry]
        output = shlex.join(["--output", f"results/manifests/{dataset}.{split}.csv", "--threads", str(threads)])
        yield f"{shlex.join(words)} {places(dataset, split)} {output}"


def fetched(wildcards):
    """Says that a data set is here, however it came: always the same file, so that a move redoes nothing."""
    if wildcards.dataset not in PROJECT.datasets:
        raise WorkflowError(unknown_name(wildcards.dataset, PROJECT.datasets, "data set"))
    entry = PROJECT.datasets[wildcards.dataset]
    if entry.made:
        return [f"results/generated/{wildcards.dataset}.json"]
    return [] if entry.packages else [ancient(f"results/fetched/{wildcards.dataset}.json")]


def made_json(wildcards):
    """How a data set is made: a change of it makes the data set anew."""
    made = PROJECT.datasets[wildcards.dataset].made if wildcards.dataset in PROJECT.datasets else None
    if made is None:
        known = [name for name, entry in PROJECT.datasets.items() if entry.made]
        raise WorkflowError(unknown_name(wildcards.dataset, known, "made data set"))
    return canonical_json(made)


def source_of(dataset):
    """The data set that a made one is cut out of, or none."""
    return getattr(PROJECT.datasets[dataset].made, "dataset", None)


def made_from(wildcards):
    """Says that the data set is here that a made one is cut out of."""
    made_json(wildcards)  # unknown names are told here
    source = source_of(wildcards.dataset)
    return [ancient(f"results/fetched/{source}.json")] if source else []


def source_argument(dataset):
    """Where the data set lies that a made one is cut out of, as an argument."""
    source = source_of(dataset)
    return shlex.join(["--source", root_of(source)]) if source else ""


def fetch_command(wildcards):
    """How a data set comes here: nothing to do for a folder that the user has."""
    name, entry = wildcards.dataset, PROJECT.datasets[wildcards.dataset]
    facts = f"results/fetched/{name}.json"
    if entry.root or os.path.isdir(f"resources/datasets/{name}"):
        return f"echo '{{}}' > {facts}"
    words = ["python", "scripts/fetch_dataset.py", name, "--entry", canonical_json(entry)]
    words += ["--folder", f"resources/datasets/{name}", "--downloads", f"resources/downloads/{name}"]
    words += ["--lock", "config/datasets.lock.yaml"]
    if sys.stdin.isatty() and sys.stderr.isatty():  # somebody is there to drop in files that are fetched by hand
        words += ["--wait", "60"]
    return f"{shlex.join(words)} && cp resources/datasets/{name}.fetched.json {facts}"


def stages_in_use(of=None):
    """Settings of every stage that the chosen models, those in the tables and the recognition tests need.

    of: the method that matters; stages of others are left out where they cannot be planned (a seed without data).
    """
    waiting, seen = trained([*shown_models(), *recognition_models()]), set()
    while waiting:
        model = waiting.pop(0)
        if model not in seen:
            seen.add(model)
            method, setting, seed, stage = model.split("/")
            try:
                settings = stage_settings(method, setting, seed.removeprefix("seed"), stage)
            except WorkflowError:
                if of in (None, method):
                    raise
                continue
            for parent in settings.parents.values():
                parent_file(parent)  # told here: for a file that exists, Snakemake hides what input functions raise
            waiting += trained(settings.parents.values())
            yield settings


def train_targets(method):
    """Models of a method that the chosen ones and the tables need, stages before them included."""
    return [f"results/{s.model_id}/model.safetensors" for s in stages_in_use(method) if s.method == method]


def training_lists():
    """Pair lists that the chosen models train and validate on."""
    parts = [part for settings in stages_in_use() for part in (*settings.data, *settings.validation.data)]
    return sorted({part.pairs for part in parts})


def test_lists():
    """Pair lists of the tests in the tables and of the recognition tests."""
    shown = {PROJECT.tests[test].pairs for table in PROJECT.tables.values() for test in table.tests}
    return sorted(shown | {pairs for seed in PROJECT.seeds for pairs in recognition_lists(seed)})


def own_lists():
    """Splits that the folders named by `root` hold."""
    for name, entry in PROJECT.datasets.items():
        if entry.root:
            here = [split for split, settings in entry.splits.items() if split_is_there(root_of(name), settings)]
            yield from (f"{name}.{split}" for split in here or list(entry.splits)[:1])


def compared_lists():
    """Training lists, and test lists that they are searched for; splits called train... or val... are for training."""
    own = list(own_lists())
    own_train = {name for name in own if name.split(".")[1].startswith(("train", "val"))}
    train, test = ({name for name in lists if not drawn_here(name)} for lists in (training_lists(), test_lists()))
    return sorted(train | own_train), sorted(test | set(own) - own_train)


def drawn_lists():
    """Lists in use whose files are drawn here."""
    return [name for name in sorted({*training_lists(), *test_lists()}) if drawn_here(name)]


def made_folders():
    """Folders of the made data sets in use: one that was deleted is made again."""
    names = {name.split(".")[0] for name in (*training_lists(), *test_lists())}
    return [f"results/generated/{name}" for name in sorted(names) if PROJECT.datasets[name].made]


def embedded(pairs):
    """Whether everybody has the files of a pair list: they are embedded or drawn here."""
    return PROJECT.datasets[pairs.split(".")[0]].embedded


def drawn_here(pairs):
    """Whether the files of a pair list are drawn here: they are not searched for leaks."""
    return PROJECT.datasets[pairs.split(".")[0]].drawn


def folder_lists():
    """Lists in use whose files are not embedded or drawn: the page tells what is odd about them."""
    names = sorted({*training_lists(), *test_lists()})
    return [name for name in names if not embedded(name)]


def leak_tests():
    """Test lists whose images `leakage: remove` keeps out of training, those of fresh seeds included."""
    tests = {test.pairs for test in PROJECT.tests.values()}
    seeds = {*PROJECT.seeds, *RECOGNITION.fresh_seeds}
    tests |= {pairs for seed in seeds for pairs in recognition_lists(seed, missing="left out")}
    return list(PROJECT.leakage.against or [name for name in sorted(tests) if not drawn_here(name)])


def fingerprints(names):
    """Fingerprint files of pair lists."""
    return [f"results/fingerprints/{name}.csv" for name in names]


def packing(wildcards):
    """Whether a stage that trains on a list wants it packed."""
    name = f"{wildcards.dataset}.{wildcards.split}"
    tasks = {
        runs_as(settings.task)
        for settings in stages_in_use(of="")  # what cannot be planned wants nothing
        if any(part.pairs == name for part in settings.data)
    }
    return "" if any(PROJECT.compute_for(task).pack for task in tasks) else "--off"


def packs(names):
    """Says where the packs of pair lists are; embedded lists have none. A new pack redoes nothing."""
    folders = [name for name in dict.fromkeys(names) if not embedded(name)]
    return [ancient(f"results/packs/{name}.json") for name in folders]


def training_packs(method, stage):
    """Input function: packs of a stage's mix."""
    return lambda w: packs([part.pairs for part in settings_of(w, method, stage).data])


def test_json(wildcards):
    """A test with its recipe written out, as JSON."""
    return canonical_json(PROJECT.test(wildcards.test))


def protocols_json(wildcards):
    """The protocols of a test, as JSON."""
    names = PROJECT.tests[wildcards.test].protocols
    plain = {name: PROJECT.protocols[name].model_copy(update={"title": "", "source": ""}) for name in names}
    return json.dumps({name: json.loads(canonical_json(protocol)) for name, protocol in plain.items()})


def test_pairs(wildcards):
    """Pair list of a test."""
    if wildcards.test not in PROJECT.tests:
        raise WorkflowError(unknown_name(wildcards.test, PROJECT.tests, "test"))
    return f"results/pairs/{PROJECT.tests[wildcards.test].pairs}.csv"


def model_file(wildcards):
    """The model of an evaluation; nothing for `none`."""
    return [] if wildcards.model == "none" else f"results/{wildcards.model}/model.safetensors"


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
    return asked | {"gpu": lambda wildcards: compute.gpu if always or wildcards.model != "none" else 0}


def feature_results():
    """Files of the feature analysis: every checkpoint as trained and with random weights; none where it is off."""
    for model in dict.fromkeys(model_ids(PROJECT.features.models)):
        check_feature_labels(model)
        yield from (f"results/features/{model}/{init}.json" for init in ("random", "trained"))


def check_feature_labels(model):
    """Stop where a trained classifier numbers a class otherwise than the feature analysis."""
    if not model.startswith("imported/"):
        method, setting, seed, stage = model.split("/")
        try:
            check_labels(FEATURES, stage_settings(method, setting, seed.removeprefix("seed"), stage))
        except AirpipeError as error:
            raise WorkflowError(str(error)) from None


def feature_outputs():
    """Table and figures of the feature analysis; none where it is off."""
    if not PROJECT.features.models:
        return []
    return ["results/tables/features.csv", *(f"results/figures/features/{name}.png" for name in ("tsne", "confusion"))]


onstart:
    if workflow.executor_plugin.name == "slurm" and shutil.which("sbatch") is None:
        raise WorkflowError(
            "--profile slurm submits jobs with sbatch, and this machine has no sbatch on its PATH. Run on a login"
            " node of the cluster, or without --profile slurm to use this machine; `airpipe doctor` tells more"
        )
