"""Shared by all tests: small networks, and a quiet, reproducible torch."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one worker per core: more threads would only wait

import gc
import signal
from importlib.util import find_spec

import pytest

gc.disable()  # until all tests are imported: it would look through the packages that stay, a third of that time
HAS_TORCH = find_spec("torch") is not None  # make test-light runs without


def pytest_collection_modifyitems(items):
    """Files with a test that has a time limit of its own, the longest, come first, so that none begins at the end."""
    first = {item.path for item in items if item.get_closest_marker("timeout")}
    items.sort(key=lambda item: item.path not in first)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _seeded():
    if HAS_TORCH:
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture
def mlp():
    """Two linear layers with biases, (N, 6) -> (N, 3)."""
    from torch import nn

    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def run_here(tmp_path):
    """``run(*overrides)`` -> (result, directory), in this process."""
    from mpt.experiment.kinds import run
    from tests import console

    def go(*overrides, directory="run"):
        return run(console.compose(*console.SMALL, *overrides), tmp_path / directory), tmp_path / directory

    return go


@pytest.fixture
def started():
    """``started(folder, *arguments)`` starts a sweep in a new process group, which is killed at the end of the test."""
    from tests import console

    sweeps = []
    yield lambda *arguments: sweeps.append(console.start_sweep(*arguments)) or sweeps[-1]
    for sweep in sweeps:
        if sweep.poll() is None:
            os.killpg(sweep.pid, signal.SIGKILL)
            sweep.wait()
