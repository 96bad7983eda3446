"""From a frozen config to `model.safetensors`: builds the parts and runs the step loop."""

import datetime as dt
import hashlib
import os
import shutil
import signal
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from airpipe import __version__
from airpipe.data.batch import collate
from airpipe.data.deferred import collate_deferred, why_not
from airpipe.data.locks import OWNER, only_process
from airpipe.data.packs import JoinedPacks, Pack
from airpipe.data.pairs import Pair, read_facts
from airpipe.data.samples import TrainingSamples, ValidationSamples
from airpipe.data.sampling import MicroBatches, SamplePlan, part_counts
from airpipe.data.sizes import PairSizes, packed_sizes, pair_sizes, refuse_small, refuse_smaller_than_network
from airpipe.data.sources import Source
from airpipe.errors import AirpipeError
from airpipe.models.contract import size_multiple
from airpipe.models.cost import network_cost
from airpipe.provenance import atomic_path, git_state, library_versions, sha256_file, write_text
from airpipe.registry import task_class
from airpipe.settings.base import settings_hash
from airpipe.settings.stages import CONTINUED, StageSettings
from airpipe.training.loop import StepLoop
from airpipe.training.parents import describe_loading
from airpipe.training.precision import told_slow
from airpipe.training.state import StateFolder
from airpipe.training.task import Task
from airpipe.weights.cards import CARD, read_card
from airpipe.weights.checkpoints import check_variants, load_model, save_model


@dataclass(frozen=True)
class RunOptions:
    """What a run needs beside its settings; none of it may change a number, but `threads` and `degrade`."""

    workdir: Path
    """The stage's folder: outputs, and `state/` to resume from."""
    gpus: int = 0
    """GPUs per node; 0 trains on the CPU."""
    processes: int = 1
    """Processes per node on the CPU (for tests of data parallelism)."""
    nodes: int = 1
    threads: int = 1
    """Torch threads of each process; the bits of a CPU run depend on it."""
    workers: int = 0
    """Loader processes per device; 0: samples are made in the training process."""
    degrade: str = "loader"
    """Where samples are degraded: in the loader, or on the device that trains, with other noise."""
    checkpoint_seconds: float = 60.0
    """Wall time between two checkpoints."""
    attempt: int = 1
    """Number of the attempt in this submission, from 1."""
    resume: Path | None = None
    """Checkpoint to resume from; None: the newest one in `state/`."""
    parents: Mapping[str, Path] = field(default_factory=dict)
    """Model file of each role; an optional one may be missing."""


@dataclass(frozen=True)
class PairLists:
    """The pair lists of a mix, in the order of its parts, with their files for the card."""

    files: Sequence[Path]
    pairs: Sequence[Sequence[Pair]]
    """Pairs of each list; empty where `packs` has it."""
    packs: Mapping[str, Pack | JoinedPacks] = field(default_factory=dict)
    """Decoded pairs by list id (`dataset.split`); they change no number."""
    manifests: Mapping[str, Path] = field(default_factory=dict)
    """Manifest by list id, where there is one; a pack knows the sizes of its images, too."""

    def sizes(self) -> dict[str, PairSizes]:
        """Return width and height of every pair by name, by the id of its list, where there is a manifest or a pack.

        By these, images that are too small are told before the first step.
        """
        sizes = {name: packed_sizes(pack) for name, pack in self.packs.items()}
        for file in self.files:
            if file.stem in self.manifests and file.stem not in sizes:
                sizes[file.stem] = pair_sizes(file, self.manifests[file.stem])
        return sizes

    def categories(self) -> list[Mapping[str, str]]:
        """Class of the images of each part, by name; empty where the data set does not say it."""
        return [read_facts(file).get("classes", {}) for file in self.files]

    def sources(self) -> list[Sequence[Pair] | Source]:
        """The source of each part's samples: a pack where there is one, otherwise its pairs."""
        return [self.packs.get(file.stem, pairs) for file, pairs in zip(self.files, self.pairs, strict=True)]


def train_stage(settings: StageSettings, train: PairLists, validation: PairLists, options: RunOptions) -> None:
    """Train a stage to its end, resuming from its state folder.

    Args:
        settings: frozen settings of the stage.
        train, validation: one pair list per data part.
        options: device, threads, folders and parents.

    Raises:
        AirpipeError: see the messages: no GPU, foreign state, non-finite loss, full disk, ...
    """
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)  # cores belong to torch and to the loader workers
    fabric = launch(settings, options)
    if options.degrade == "device" and (refused := why_not(settings.data)):
        fabric.print(f"degrading in the loader, not on the device (compute: degrade): {refused}", flush=True)
        options = replace(options, degrade="loader")
    state = StateFolder(options.workdir / "state", run_identity(settings, train, options))
    with ExitStack() as held:
        if fabric.is_global_zero:
            held.enter_context(_only_training(options.workdir, wait=fabric.world_size == 1))
            if said := state.claim(options.threads, fabric.world_size, options.degrade):
                print(said, flush=True)
            if said := told_slow(settings.precision, fabric.device):
                print(said, flush=True)
        fabric.barrier()
        try:
            _train(fabric, settings, (train, validation), state, options)
        except AirpipeError as error:
            write_text(state.last_error, f"{error}\n")
            raise


def _only_training(workdir: Path, wait: bool) -> AbstractContextManager[None]:
    """A lock on a stage's folder: a killed Snakemake may have left its training at work there."""
    message = f"{workdir}: {OWNER} trains this stage. Wait until it ends or end it, then run again"
    return only_process(workdir / ".training.lock", wait, message)


def _train(
    fabric: Fabric,
    settings: StageSettings,
    lists: tuple[PairLists, PairLists],
    state: StateFolder,
    options: RunOptions,
) -> None:
    train, validation = lists
    started = dt.datetime.now(dt.UTC)
    refuse_small(settings.data, train.sizes(), max(phase.patch_size for phase in settings.phases))
    defer = options.degrade == "device"
    samples = TrainingSamples(settings.data, train.sources(), settings.seed, categories=train.categories(), defer=defer)
    absent = absent_parents(settings, options.parents)
    loop, plan = _assemble(fabric, settings, samples, state, options)
    spent = budget(settings, options.parents)
    first = state.load(fabric, loop.stored(), options.resume)
    if not first and CONTINUED in options.parents:
        fabric.print(state.train_on(fabric, loop.stored(), options.parents[CONTINUED].parent / state.folder.name))
    if fabric.is_global_zero:
        state.note_attempt(options.attempt, first)
        state.drop_curves_after(first)
        for role, model in absent.items():
            print(f"WARNING: parent {role} ({model}) is absent: training without it", flush=True)
        for role, report in loop.task.parent_reports.items():
            print(describe_loading(role, report), flush=True)
        print(
            f"{settings.model_id}: from step {first} of {plan.steps} on {fabric.device}, world {fabric.world_size}"
            f"{', compiling, which takes minutes for each size' if loop.compiled else ''}",
            flush=True,
        )
    if first < plan.steps:
        batches = _loader(fabric, settings, samples, plan, first, options)
        loop.run(batches, first, _validation(settings, validation, loop, samples.classes))
        fabric.print(loop.shares.summary())
    if fabric.is_global_zero:
        known: dict[str, Any] = {"budget": spent, "started": started.isoformat(timespec="seconds")}
        known |= {"absent_parents": absent} if absent else {}
        known |= {"notes": notes} if (notes := card_notes(loop.task, absent, options.parents)) else {}
        known |= {"classes": list(samples.classes)} if samples.classes else {}
        known |= {"degrade": options.degrade} if defer else {}
        known |= {"compiled": loop.compiled} if settings.compile else {}
        _export(fabric, loop, settings, lists, options, known)
    fabric.barrier()


def run_identity(settings: StageSettings, train: PairLists, options: RunOptions) -> str:
    """Hash of all that fixes a run's numbers: settings, pair lists (with manifests' checksums and classes), parents."""
    lists = dict.fromkeys(train.files)
    facts = [read_facts(path) for path in lists]
    contents = [f"{known.get('manifest_sha256')} {sorted(known.get('depth', {}).items())}" for known in facts]
    contents += [f"classes {sorted(found['classes'].items())}" for found in facts if found.get("classes")]
    parents = [f"{role} {sha256_file(path)}" for role, path in sorted(options.parents.items())]
    # no step that was done depends on small_images: `refuse` allows no small image, `reflect` changes no other one
    parts = tuple(part.model_copy(update={"small_images": "refuse"}) for part in settings.data)
    settings = settings.model_copy(update={"data": parts})
    known = [settings_hash(settings), *(sha256_file(path) for path in lists), *contents, *parents]
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]


def launch(settings: StageSettings, options: RunOptions) -> Fabric:
    """Start Fabric and check that it has the devices and processes that were asked for.

    Raises:
        AirpipeError: no GPU where one is asked for, or another world size than asked for.
    """
    per_node = options.gpus or options.processes
    world = per_node * options.nodes
    if options.gpus and torch.cuda.device_count() < options.gpus:
        raise AirpipeError(
            f"{options.gpus} GPU(s) asked for (compute: gpu), torch sees {torch.cuda.device_count()}. Ask for gpu: 0, "
            "run where a GPU is, or install the CUDA build (make clean setup TORCH=cuda); `airpipe doctor` tells more"
        )
    if world > 1 and _launched() != world:
        raise AirpipeError(
            f"{world} processes asked for, launched {_launched() or 1}: start with "
            f"torchrun --standalone --nproc-per-node {per_node}, or srun with {world} tasks"
        )
    if settings.deterministic:
        # cuBLAS is deterministic only with a fixed workspace; torch refuses to run without it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not settings.deterministic
    warnings.filterwarnings("ignore", message="The .srun. command is available")  # one process is meant
    fabric = Fabric(
        accelerator="cuda" if options.gpus else "cpu",
        devices=per_node,
        num_nodes=options.nodes,
        strategy="ddp" if world > 1 else "auto",
        precision=settings.precision,
    )
    fabric.launch()
    if fabric.world_size != world:
        raise AirpipeError(f"world size is {fabric.world_size}, {world} asked for; check the launcher")
    return fabric


def _launched() -> int | None:
    """World size that torchrun or srun announced, or None."""
    found = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS")
    return int(found) if found else None


def _assemble(
    fabric: Fabric, settings: StageSettings, samples: TrainingSamples, state: StateFolder, options: RunOptions
) -> tuple[StepLoop, SamplePlan]:
    given = {role: path for role, path in options.parents.items() if role != CONTINUED}
    parents: dict[str, nn.Module] = {role: load_model(path).network for role, path in given.items()}
    exported = settings.exported_network
    check_variants(exported.name, exported.arguments, settings.variants)
    task: Task = task_class(settings.task)(settings, parents)
    task.accept(samples.classes)
    lengths = [len(source) for source in samples.sources]
    shares, exact = part_counts(settings.data, lengths)
    if exact:
        settings.check_rows([int(count) for count in shares])
    plan = SamplePlan(lengths, shares, settings.phases, settings.seed, exact)

    def batch_names(step: int) -> list[str]:
        return [samples.name(key) for key in plan.batch(step)]

    return StepLoop(fabric, task, plan, state, options.checkpoint_seconds, batch_names), plan


def absent_parents(settings: StageSettings, given: Mapping[str, Path]) -> dict[str, str]:
    """Model id of each optional parent that is not there, by role.

    Raises:
        AirpipeError: another parent is missing, or one is given that the stage does not name.
    """
    absent = {role: model for role, model in settings.parents.items() if role not in given}
    if not set(absent) <= settings.optional_roles or not set(given) <= set(settings.parents):
        also = f", of which {sorted(settings.optional_roles)} may be absent" if settings.optional_roles else ""
        raise AirpipeError(
            f"stage has parents {sorted(settings.parents)}{also}, given {sorted(given)} (--parent role=path)"
        )
    return absent


def card_notes(task: Task, absent: Mapping[str, str], parents: Mapping[str, Path]) -> list[str]:
    """Say what tables must tell of a model: absent parents, what its task notes, and what cards of its parents say.

    Args:
        task: the task after training.
        absent: model id of each parent that was not there, by role.
        parents: model file of each other one, by role.
    """
    notes = [f"trained without {model} (parent {role} is absent)" for role, model in absent.items()]
    notes += task.notes
    for path in (path.with_name(CARD) for path in parents.values()):
        card = read_card(path) if path.is_file() else {}
        notes += [f"in its parent {card.get('model') or path.parent}: {note}" for note in card.get("notes", ())]
    return list(dict.fromkeys(notes))


def _loader(
    fabric: Fabric,
    settings: StageSettings,
    samples: TrainingSamples,
    plan: SamplePlan,
    first: int,
    options: RunOptions,
) -> DataLoader[Any]:
    sampler = MicroBatches(plan, first, fabric.global_rank, fabric.world_size, settings.accumulate)
    return DataLoader(
        samples,
        batch_sampler=sampler,
        collate_fn=collate_deferred if samples.defer else collate,
        num_workers=options.workers,
        pin_memory=fabric.device.type == "cuda",
        worker_init_fn=_leave_sigterm_to_the_parent,
    )


def _leave_sigterm_to_the_parent(worker: int) -> None:
    """A cluster signals all processes of a job; workers must live until the parent has saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _validation(
    settings: StageSettings, validation: PairLists, loop: StepLoop, classes: tuple[str, ...]
) -> DataLoader[Any] | None:
    if not validation.pairs:
        return None
    multiple = size_multiple(loop.exported())
    size = settings.validation.patch_size
    refuse_smaller_than_network(settings.validation.data, validation.sizes(), multiple)
    samples = ValidationSamples(settings.validation.data, validation.pairs, settings.seed, size, multiple, classes)
    return DataLoader(samples, batch_size=1, collate_fn=collate)


def _export(
    fabric: Fabric,
    loop: StepLoop,
    settings: StageSettings,
    lists: tuple[PairLists, PairLists],
    options: RunOptions,
    known: Mapping[str, Any],
) -> None:
    """Write curves.csv, card.json and, last, model.safetensors."""
    network = settings.exported_network
    seconds = sum(loop.shares.seconds.values())
    card = {
        "schema_version": 1,
        "model": settings.model_id,
        "method": settings.method,
        "stage": settings.stage,
        "setting": settings.setting,
        "scale": settings.scale,
        "seed": settings.seed,
        "network": {"name": network.name, "arguments": network.arguments},
        "variants": settings.variants,
        "settings_hash": settings_hash(settings),
        "revision": settings.revision,
        "parents": _parents(loop.task, options),
        "weights": "ema" if loop.exports_average else "raw",
        "step": loop.plan.steps,
        "pairs": [
            {"id": f.stem, "sha256": sha256_file(f), "use": use}
            for use, pair_list in zip(("train", "validation"), lists, strict=True)
            for f in dict.fromkeys(pair_list.files)
        ],
        "package": f"airpipe {__version__}",
        "git": git_state(),
        "libraries": library_versions(),
        "device": device_name(fabric.device),
        "threads": options.threads,
        "world_size": fabric.world_size,
        "precision": settings.precision,
        "wall_s": round(seconds, 1),
        "shares": {what: round(s, 2) for what, s in loop.shares.seconds.items()},
        "gpu_hours": round(seconds * fabric.world_size / 3600, 4) if options.gpus else 0.0,
        **network_cost(network.name, network.arguments),
        **known,
        "finished": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    with atomic_path(options.workdir / "curves.csv") as temporary:
        shutil.copyfile(loop.state.curves, temporary)
    save_model(options.workdir, loop.exported(), card)


def budget(settings: StageSettings, parents: Mapping[str, Path]) -> dict[str, Any] | None:
    """Optimizer steps and samples that a model costs, those of its parents included; None if a parent's are unknown.

    A sample is one crop in one step, whatever its size and the number of passes. Parents of `uncounted` roles count
    nothing.

    Returns:
        {"steps", "samples", "stages": {model id: [steps, samples]}}: a parent of two parents counts once.
    """
    samples = sum(phase.steps * phase.batch_size for phase in settings.phases)
    stages: dict[str, list[int]] = {}
    for path in (path for role, path in parents.items() if role not in settings.uncounted):
        known = read_card(path.with_name(CARD)).get("budget") if path.with_name(CARD).is_file() else None
        if known is None:
            return None
        stages |= known["stages"]
    stages[settings.model_id] = [settings.steps, samples]
    steps, samples = (sum(counts) for counts in zip(*stages.values(), strict=True))
    return {"steps": steps, "samples": samples, "stages": stages}


def _parents(task: Task, options: RunOptions) -> list[dict[str, Any]]:
    """Describe each parent for the card: its file and, where it was loaded by name, how it fitted."""
    parents: list[dict[str, Any]] = []
    for role, path in options.parents.items():
        parents.append({"role": role, "path": str(path), "sha256": sha256_file(path)})
        if report := task.parent_reports.get(role):
            parents[-1]["keys"] = report | {"matched": len(report["matched"])}
    return parents


def device_name(device: torch.device) -> str:
    """Name of the GPU, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
