"""The resumable state of a stage: `state/` beside its outputs, never declared to Snakemake.

state/settings.json        hash of the frozen settings, threads, world size
state/step_00001200.ckpt   the last two checkpoints
state/curves.csv           step,name,value
state/attempts.json        at which step each attempt of this submission started
"""

import csv
import json
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from airpipe.errors import AirpipeError
from airpipe.provenance import atomic_path, write_failed, write_json

KEPT = 2


class StateFolder:
    """Checkpoints and curves of one stage.

    Args:
        folder: `<stage folder>/state`.
        settings_hash: of the frozen settings; state of other settings is set aside, not used.
    """

    def __init__(self, folder: Path, settings_hash: str) -> None:
        self.folder, self.settings_hash = folder, settings_hash
        self.curves = folder / "curves.csv"

    def claim(self, threads: int, world_size: int) -> str | None:
        """Make the folder ours; called by one process.

        State of other settings is renamed `state.<old hash>`.

        Returns:
            A line to print when something was set aside or bits may differ, else None.
        """
        record, said = self.folder / "settings.json", None
        mine = {"settings_hash": self.settings_hash, "threads": threads, "world_size": world_size}
        if self.folder.is_dir():
            theirs = self._read(record) if record.is_file() else {}
            old = theirs.get("settings_hash", "unknown")
            if old != self.settings_hash and any(self.folder.iterdir()):
                aside = _free_name(self.folder.with_name(f"state.{old}"))
                self.folder.rename(aside)
                said = f"settings changed ({old} -> {self.settings_hash}): old state kept in {aside}, starting anew"
            elif theirs and theirs != mine:
                said = f"resuming with {mine}, earlier steps ran with {theirs}: bits may differ"
        write_json(record, mine)
        return said

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
        started = self._read(record) if attempt > 1 and record.is_file() else []
        if started[-2:] == [step, step]:
            raise AirpipeError(
                f"no progress: the last two attempts started at step {step} and ended before the next checkpoint. "
                "Give the stage more time or memory (compute: runtime, mem_mb) or checkpoint more often "
                "(compute: checkpoint_seconds); the first error stands in the earlier attempt's log. "
                "Then run the same command again"
            )
        write_json(record, [*started, step])

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
        content = {**state, "step": step, "settings_hash": self.settings_hash}
        try:
            fabric.save(temporary, content)
            if fabric.is_global_zero:
                temporary.replace(target)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise write_failed(target, error) from None
        if fabric.is_global_zero:
            for old in self.checkpoints()[KEPT:]:
                old.unlink()
        fabric.barrier()
        return target

    def load(self, fabric: Fabric, state: dict[str, Any], file: Path | None = None) -> int:
        """Restore `state` in place from `file`, or from the newest checkpoint that can be read.

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
                if header.get("settings_hash") != self.settings_hash:
                    raise AirpipeError(
                        f"{candidate}: belongs to settings {header.get('settings_hash')}, this stage has "
                        f"{self.settings_hash}. Use a checkpoint of the same frozen config.yaml"
                    )
                restore_into(state, header)
                return int(header["step"])
            except (OSError, RuntimeError, KeyError, ValueError, EOFError) as error:
                problems.append(f"{candidate}: {str(error).splitlines()[0] if str(error) else error!r}")
                fabric.print(f"checkpoint cannot be used, trying the one before: {problems[-1]}")
        if problems:
            raise AirpipeError(
                f"no checkpoint can be read ({'; '.join(problems)}). Delete the broken file(s) to start anew"
            )
        return 0

    def drop_curves_after(self, step: int) -> None:
        """Remove rows that a resumed run will write again."""
        if not self.curves.is_file():
            return
        with self.curves.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if len(row) == 3]
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
            target.update(loaded[name])


def _free_name(wanted: Path) -> Path:
    candidate, number = wanted, 1
    while candidate.exists():
        number += 1
        candidate = wanted.with_name(f"{wanted.name}.{number}")
    return candidate
