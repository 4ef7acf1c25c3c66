"""Sweeps on a real SLURM of two virtual nodes, which this file brings up: ``make test-slurm``."""

from __future__ import annotations

import signal

import pytest

from mpt.run.queue import is_cancelled, queued_runs, record_jobs
from tests.console import read_result
from tests.slurm.cluster import MARKS, epochs, jobs_of, shell, until

pytestmark = MARKS


def test_every_task_of_an_array_that_is_cancelled_at_once_is_cancelled(tmp_path, cluster):
    job = shell("sbatch", "--parsable", "--array=0-40", "--output=/dev/null", "--wrap", "sleep 9", cwd=tmp_path).stdout
    shell("scancel", job.strip(), cwd=tmp_path)
    record_jobs(tmp_path, {str(task): f"{job.strip()}_{task}" for task in range(41)})
    until(lambda: not queued_runs(tmp_path))
    assert all(is_cancelled(tmp_path / str(task)) for task in range(41))


def test_two_commands_at_once_one_of_them_killed_train_and_submit_every_run_once(tmp_path, start_sweep):
    sweeps = [start_sweep("epochs=2", "seed=0,1") for _ in range(2)]
    jobs = tmp_path / "runs" / "jobs.json"
    until(lambda: jobs.exists() and len(jobs_of(tmp_path)) == 2)
    submitted = jobs.read_text()
    sweeps[0].send_signal(signal.SIGKILL)
    sweeps[0].wait()
    again = start_sweep("epochs=2", "seed=0,1")  # while jobs wait or run
    for sweep in (sweeps[1], again):
        assert sweep.wait(200) == 0, (tmp_path / "log").read_text()
    assert jobs.read_text() == submitted
    assert [epochs(path) for path in tmp_path.glob("runs/*-s?-*")] == [2, 2]
    logs = "".join(path.read_text() for path in tmp_path.rglob("*_log.*"))
    assert "resuming from" not in logs
    assert "this run is finished" not in logs


def test_what_slurm_refuses_or_cannot_start_is_said(tmp_path, start_sweep):
    refused = start_sweep("hydra.launcher.partition=nope")
    blocked = start_sweep("hydra.launcher.cpus_per_task=64", "runs=blocked")
    try:
        assert refused.wait(60) == 1
        until(lambda: "waits because of PartitionConfig" in (tmp_path / "log").read_text(), seconds=60)
    finally:
        blocked.send_signal(signal.SIGTERM)
    assert blocked.wait(30) == 143
    said = (tmp_path / "log").read_text()
    assert "mpt-train: SLURM refuses the job (invalid partition specified: nope" in said
    assert "Traceback" not in said
    assert "sbatch: " not in said


def test_a_study_of_optuna_ends_without_accounting(tmp_path, start_sweep):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    study = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "prune=interval(0.3,0.9)")
    assert start_sweep(*study, "epochs=2").wait(150) == 0, (tmp_path / "log").read_text()
    accs = [read_result(path.parent)["test_acc"] for path in tmp_path.rglob("result.json")]
    assert len(accs) == 2
    assert f"Best value: {max(accs)}" in (tmp_path / "log").read_text()
