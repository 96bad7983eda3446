"""Baseline: a network learns all degradations from pairs, from scratch."""

from airpipe.registry import Method, Stage

METHOD = Method(
    title="Baseline",
    stages={"train": Stage(task="BaselineTask")},
    printed=("{backbone}",),
    control=True,
)
