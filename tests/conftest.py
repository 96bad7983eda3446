"""Shared by all tests: one thread, no time limits of hypothesis, one toy run, the order for several workers."""

import fcntl
import gc
import os

import hypothesis
import pytest
import torch

from workflow import make_toy_run

hypothesis.settings.register_profile("airpipe", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("airpipe")

LONGEST = (
    *("test_slurm", "test_dvc", "test_training", "test_samples", "test_data_workflow", "test_contributing"),
    *("test_vrdir_workflow", "test_reruns", "test_promptir", "test_restormer", "test_import", "test_stages"),
    "test_curation_workflow",
)
"""Files of twenty seconds or more, longest first (2026-11-27, wall time in one run of `make test`)."""


if "PYTEST_XDIST_WORKER" in os.environ:  # the process that starts the workers collects no tests
    gc.disable()  # until all tests are collected: what is read by then lives to the end


def pytest_collection_finish(session):
    """From here on, garbage collections pass over what was read and collected (they took a twentieth of the time)."""
    gc.enable()
    gc.freeze()


def pytest_xdist_auto_num_workers():
    """One worker more than cores: the tests with Slurm start first, and one after the other they mostly wait."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config, items):
    """Among several workers (`make test`) the longest files start first, so that no worker ends alone."""
    if hasattr(config, "workerinput"):
        order = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory):
    """A copy of the project after `snakemake all` with the overlay TOY; one for all workers: `copy_run` it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "toy_run.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        return make_toy_run(shared / "toy_run")
