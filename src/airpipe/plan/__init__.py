"""What the configuration asks for: models, stages, pair lists, tests and studies, as ids and settings.

Snakemake's rules turn ids into paths and ask nothing else of the configuration. Facts about the machine come in as
functions (`Machine`). This package imports no torch: Snakemake reads it at every start.
"""

from airpipe.plan.frozen import Plan, configuration, frozen_lines, load_plan
from airpipe.plan.models import Machine, trained
from airpipe.plan.rules import TrainingRule, asked_of_scheduler, launcher, training_rules

__all__ = [
    "Machine",
    "Plan",
    "TrainingRule",
    "asked_of_scheduler",
    "configuration",
    "frozen_lines",
    "launcher",
    "load_plan",
    "trained",
    "training_rules",
]
