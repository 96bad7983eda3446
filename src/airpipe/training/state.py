"""The resumable state of a stage: `state/` beside its outputs, never declared to Snakemake.

state/run.json             identity of the run (settings, pair lists, parents), threads, world size, where it degrades
state/step_00001200.ckpt   the last two checkpoints
state/curves.csv           step,name,value
state/attempts.json        at which step each attempt of this submission started
state/last_error.txt       what the last failed attempt said
"""

import csv
import json
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from lightning_fabric import Fabric

from airpipe.errors import AirpipeError
from airpipe.provenance import atomic_path, write_failed, write_json
from airpipe.rows import read_journal

KEPT = 2
"""Checkpoints that stay: the one before serves where the newest cannot be read."""


class StateFolder:
    """Checkpoints and curves of one stage.

    Args:
        folder: `<stage folder>/state`.
        identity: hash of all that fixes the numbers (frozen settings, pair lists, parents); state of
            another identity is set aside, not used.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity
        self.last_error = folder / "last_error.txt"
        self.curves = folder / "curves.csv"

    def claim(self, threads: int, world_size: int, degrade: str = "loader") -> str | None:
        """Make the folder ours; called by one process.

        State of another identity is renamed `state.<old identity>`; what a kill left half-written is removed.

        Returns:
            A line to print when something was set aside or bits may differ, else None.
        """
        record, said = self.folder / "run.json", None
        mine: dict[str, Any] = {"identity": self.identity, "threads": threads, "world_size": world_size}
        mine |= {"degrade": degrade} if degrade != "loader" else {}
        if self.folder.is_dir():
            theirs = self._read(record) if record.is_file() else {}
            old = theirs.get("identity", "unknown")
            if old != self.identity and any(self.folder.iterdir()):
                aside = _free_name(self.folder.with_name(f"state.{old}"))
                self.folder.rename(aside)
                said = (
                    f"settings, pair lists or parents changed: old state kept in {aside}, starting anew. To train on "
                    "from a finished stage, name it as a parent of another one: parents: {continued: ...}"
                )
            elif theirs and theirs != mine:
                said = f"resuming with {mine}, earlier steps ran with {theirs}: bits may differ"
            for half in (*self.folder.glob("*.tmp"), *self.folder.glob(".*"), *self._half_exported()):
                half.unlink()
        write_json(record, mine)
        return said

    def _half_exported(self) -> list[Path]:
        """Temporary names of the stage's own outputs (see `atomic_path`); no other file of the folder."""
        outputs = (".model.*.safetensors", ".card.*.json", ".curves.*.csv")
        return [path for pattern in outputs for path in self.folder.parent.glob(pattern)]

    @staticmethod
    def _read(path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AirpipeError(f"{path}: cannot be read ({error}); delete {path.parent} to start anew") from None

    def note_attempt(self, attempt: int, step: int) -> None:
        """Record that an attempt starts at `step`; fail when two before it ended without progress.

        Args:
            attempt: 1 for a fresh submission, counted up by the workflow's retries.
            step: where this attempt resumes.

        Raises:
            AirpipeError: the last two attempts of this submission started at this step as well.
        """
        record = self.folder / "attempts.json"
        if attempt == 1:  # an error of an earlier submission explains nothing
            self.last_error.unlink(missing_ok=True)
        started = self._read(record) if attempt > 1 and record.is_file() else []
        if started[-2:] == [step, step]:
            raise AirpipeError(
                f"no progress: the last two attempts started at step {step} and ended before the next checkpoint"
                f"{self._told()}. Mend that, give the stage more time or memory (compute: runtime, mem_mb) or "
                "checkpoint more often (compute: checkpoint_seconds), then run the same command again"
            )
        write_json(record, [*started, step])

    def _told(self) -> str:
        if not self.last_error.is_file():
            return " without a word (killed?)"
        return f"; the last error: {self.last_error.read_text(encoding='utf-8').strip()}"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, newest first."""
        return sorted(self.folder.glob("step_*.ckpt"), reverse=True)

    def save(self, fabric: Fabric, step: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint under a temporary name, rename it, drop all but the last two.

        Called by all processes; one writes.

        Raises:
            AirpipeError: the disk is full or the folder not writable; earlier checkpoints stay.
        """
        target = self.folder / f"step_{step:08d}.ckpt"
        temporary = target.with_suffix(".tmp")
        content = {**state, "step": step, "identity": self.identity}
        try:
            fabric.save(temporary, content)
            if fabric.is_global_zero:
                with temporary.open("rb") as stream:
                    os.fsync(stream.fileno())
                temporary.replace(target)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise write_failed(target, error) from None
        if fabric.is_global_zero:
            later = [old for old in self.checkpoints() if old.name > target.name]  # a run that went back
            for old in [*later, *[c for c in self.checkpoints() if c not in later][KEPT:]]:
                old.unlink()
        fabric.barrier()
        return target

    def load(self, fabric: Fabric, state: dict[str, Any], file: Path | None = None) -> int:
        """Restore `state` in place from `file`, or from the newest checkpoint that can be read.

        Args:
            fabric: Fabric, already launched.
            state: modules, optimizers and dicts by name, as `save` got them.
            file: a checkpoint of this run; None: the newest.

        Returns:
            Completed steps; 0 where there is nothing to resume.

        Raises:
            AirpipeError: `file` is unreadable or belongs to other settings; no checkpoint is readable.
        """
        candidates = [file] if file is not None else self.checkpoints()
        problems = []
        for candidate in candidates:
            try:
                header = fabric.load(candidate, weights_only=True)
                if not isinstance(header, dict) or "identity" not in header:
                    raise ValueError("not a checkpoint of airpipe")
                if header["identity"] != self.identity:
                    raise AirpipeError(
                        f"{candidate}: belongs to run {header['identity']}, this stage is {self.identity}. "
                        "Use a checkpoint of the same settings, pair lists and parents"
                    )
                restore_into(state, header)
                return int(header["step"])
            except (OSError, RuntimeError, KeyError, ValueError, EOFError, UnpicklingError) as error:
                problems.append(f"{candidate}: {str(error).splitlines()[0] if str(error) else error!r}")
                fabric.print(f"checkpoint cannot be used: {problems[-1]}")
        if problems:
            remedy = "Give another --resume file, or leave it out" if file else "Delete the broken files to start anew"
            raise AirpipeError(f"no checkpoint can be read ({'; '.join(problems)}). {remedy}")
        return 0

    def train_on(self, fabric: Fabric, state: dict[str, Any], folder: Path) -> str:
        """Take over modules and optimizers, in place, from the last checkpoint of another stage; the rest stays there.

        Args:
            fabric: Fabric, already launched.
            state: modules, optimizers and dicts by name, as `save` got them.
            folder: state folder of the other stage.

        Returns:
            A line to print.

        Raises:
            AirpipeError: there is no checkpoint, it cannot be read, or it holds other networks or optimizers.
        """
        checkpoints = StateFolder(folder, "").checkpoints()
        if not checkpoints:
            raise AirpipeError(
                f"{folder}: no checkpoint to train on from (clean_state removes those of finished stages). Train that "
                "stage again, or start from its weights alone where this stage takes a parent init"
            )
        try:
            header = fabric.load(checkpoints[0], weights_only=True)
            restore_into({name: target for name, target in state.items() if not isinstance(target, dict)}, header)
        except (OSError, RuntimeError, KeyError, ValueError, EOFError, UnpicklingError) as error:
            raise AirpipeError(
                f"{checkpoints[0]}: cannot be trained on from ({(str(error).splitlines() or [repr(error)])[0][:200]}). "
                "Expected the last checkpoint of a stage with the same networks, averages and optimizers"
            ) from None
        return f"training on from {checkpoints[0]}, step {header['step']} of its own"

    def drop_curves_after(self, step: int) -> None:
        """Remove rows that a resumed run will write again."""
        if not self.curves.is_file():
            return
        rows = [row for row in read_journal(self.curves) if len(row) == 3]
        kept = [row for row in rows if not row[0].isdigit() or int(row[0]) <= step]
        with (
            atomic_path(self.curves) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as stream,
        ):
            csv.writer(stream).writerows(kept)

    def add_curves(self, step: int, values: dict[str, float]) -> None:
        """Append one row per value."""
        fresh = not self.curves.is_file()
        try:
            with self.curves.open("a", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                if fresh:
                    writer.writerow(["step", "name", "value"])
                writer.writerows([step, name, f"{value:.8g}"] for name, value in values.items())
        except OSError as error:
            raise write_failed(self.curves, error) from None


def restore_into(state: dict[str, Any], loaded: dict[str, Any]) -> None:
    """Load every module and optimizer of `state` from `loaded`, in place.

    Raises:
        KeyError: `loaded` lacks one of them.
    """
    for name, target in state.items():
        if hasattr(target, "load_state_dict"):
            target.load_state_dict(loaded[name])
        elif isinstance(target, dict):
            target.update(loaded.get(name, {}))  # facts that an older version did not keep stay as they are


def _free_name(wanted: Path) -> Path:
    candidate, number = wanted, 1
    while candidate.exists():
        number += 1
        candidate = wanted.with_name(f"{wanted.name}.{number}")
    return candidate
