"""Shared by all tests: one thread, no time limits of hypothesis, the order for several workers."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("airpipe", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("airpipe")

LONGEST = (
    *("test_slurm", "test_training", "test_data_workflow", "test_dvc", "test_reruns", "test_samples"),
    *("test_contributing", "test_imported_workflow"),
)
"""Files of a minute or more, longest first (2026-11-20, CPU time with all that they start)."""


def pytest_collection_modifyitems(config, items):
    """Among several workers (`make test`) the longest files start first, so that no worker ends alone."""
    if hasattr(config, "workerinput"):
        order = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)
