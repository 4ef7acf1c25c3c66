"""Shared by all tests: small networks, and a quiet, reproducible torch."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker a core: more threads would only wait for each other

import signal

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def mlp():
    """Two linear layers with biases, (N, 6) -> (N, 3)."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def run_here(tmp_path):
    """``run(*overrides)`` -> (row, directory), in this process."""
    from mpt.commands.cli import quieten
    from mpt.experiment.kinds import run
    from tests import console

    quieten()

    def go(*overrides, directory="run"):
        return run(console.compose(*console.SMALL, *overrides), tmp_path / directory), tmp_path / directory

    return go


@pytest.fixture
def started():
    """``started(folder, *arguments)`` is a sweep of its own process group; killed at the end of the test."""
    from tests import console

    sweeps = []
    yield lambda *arguments: sweeps.append(console.start_sweep(*arguments)) or sweeps[-1]
    for sweep in sweeps:
        if sweep.poll() is None:
            os.killpg(sweep.pid, signal.SIGKILL)
            sweep.wait()
