"""Campaigns of survival: many seeded tries of one kind, of which none may differ, end in a traceback or cost too much.

    python -m tests.campaigns                     the kinds, and how many tries each makes
    python -m tests.campaigns kills               all tries of one kind
    python -m tests.campaigns configurations --count 100 --seed 3

A kind is a module of this package with `COUNT` (tries), `run(count, seed, folder)`, and its first line as its title.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

SLOWEST = 10.0
"""Seconds that one try of a kind without a run may take."""

sys.path.insert(0, str(Path(__file__).parents[1]))  # helpers of the tests


@dataclass
class Outcome:
    """How the tries of a campaign ended."""

    counts: Counter[str] = field(default_factory=Counter)
    """Tries by how they ended; what is no fault."""
    faults: list[str] = field(default_factory=list)
    """One line for each try that ended as none may."""

    def add(self, tried: str, how: str, fault: str, seconds: float = 0.0) -> None:
        """Record one try.

        Args:
            tried: the try, in words.
            how: how it ended, where that is no fault.
            fault: what was wrong; empty: nothing.
            seconds: what it took, where that is bounded by `SLOWEST`.
        """
        if not fault and seconds > SLOWEST:
            fault = f"took {seconds:.0f} s"
        if fault:
            self.faults.append(f"{tried}: {fault}")
        else:
            self.counts[how] += 1

    def __str__(self) -> str:
        tried = sum(self.counts.values()) + len(self.faults)
        ended = ", ".join(f"{count:,} {how}" for how, count in sorted(self.counts.items()))
        return f"{tried:,} tried: {ended or 'none in order'}; {len(self.faults):,} faults"
