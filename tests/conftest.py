"""Shared by all tests: one thread, so that numbers are the same bits on every machine."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)
