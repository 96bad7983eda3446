"""Memory that jobs on long lists ask for (mem_mb), from what they read."""

LEAST, BASE = 2000, 400
"""What every job on lists asks for, and what it takes before it reads one, in 10^6 bytes."""
TIMES = {"pairs": 9.0, "fingerprint": 6.0, "leakage": 1.5, "remove_leaks": 3.0, "pack": 2.0}
"""How many times the size of its inputs a job takes, by rule (docs/measurements.md: lists of 2 million pairs)."""
CHECKED = 3e-3
"""What checking a pair takes, in 10^6 bytes."""


def list_memory_mb(rule: str, input_mb: float) -> int:
    """Memory in 10^6 bytes that a job of a rule of `TIMES` asks for.

    Args:
        rule: name of the rule.
        input_mb: size of its inputs in 10^6 bytes; 0 while they are not there.
    """
    return max(LEAST, round(BASE + TIMES[rule] * input_mb))


def check_memory_mb(pairs: int | None, attempt: int) -> int:
    """Memory in 10^6 bytes that checking a split asks for.

    Args:
        pairs: how many its registry entry expects; None: nobody knows, and every attempt asks for more.
        attempt: number of the attempt, from 1.
    """
    return max(LEAST, round(BASE + CHECKED * (pairs or 0))) * attempt
