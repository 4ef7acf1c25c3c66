from __future__ import annotations

import json

import pytest

from mpt.multirun.job import _first_task_runs
from mpt.run.apart import is_first, needs_processes
from mpt.run.settings import Trainer

ONE = {"num_nodes": 1, "accelerator": "cpu", "devices": 1}


@pytest.fixture
def slurm(monkeypatch):
    """The second of two tasks of job 7."""
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("slurm")
def test_a_second_task_of_a_slurm_job_runs_only_what_the_first_one_holds(tmp_path):
    (tmp_path / "claim").write_text(json.dumps({"host": "x", "pid": 1, "job": "7"}))
    assert _first_task_runs(tmp_path, seconds=1)
    (tmp_path / "claim").write_text(json.dumps({"host": "x", "pid": 1, "job": "8"}))
    assert not _first_task_runs(tmp_path, seconds=0.3)
    assert not _first_task_runs(tmp_path / "none", seconds=0.3)


@pytest.mark.usefixtures("slurm")
def test_one_task_per_device_needs_no_fresh_interpreter():
    assert not needs_processes(Trainer(**ONE | {"devices": 2}))
    assert not is_first()
