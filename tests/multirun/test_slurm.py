"""Sweeps on a real SLURM of two virtual nodes, which this file brings up: ``make test-slurm``."""

from __future__ import annotations

import signal

import pytest

from mpt.run.queue import is_cancelled, queued_runs, record_jobs
from tests.console import command, read_result
from tests.slurm.cluster import EPOCHS, MARKS, epochs, jobs_of, shell, start_now, until, until_queued

pytestmark = MARKS
STOPS = {  # how SLURM stops a job that it will start again
    "limit": ("scancel", "--signal=USR2"),
    "requeue": ("scontrol", "requeue"),
    "preemption": ("sbatch", "-p", "urgent", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"),
}


@pytest.mark.parametrize(
    ("stop", "logger"), [("limit", "wandb"), ("requeue", "local"), ("preemption", "[wandb,tensorboard]")]
)
def test_a_job_that_slurm_stops_goes_on_and_the_sweep_ends_well(tmp_path, start_sweep, whole, stop, logger):
    (tmp_path / "hold").touch()
    sweep = start_sweep(f"logger={logger}")
    until(lambda: epochs(tmp_path) >= 2)
    name, job = next(iter(jobs_of(tmp_path).items()))
    assert shell("squeue", "-h", "-j", job, "-o", "%j", cwd=tmp_path).stdout.strip() == name
    shell(*STOPS[stop], *([job] if stop != "preemption" else []), cwd=tmp_path)
    until_queued(job, cwd=tmp_path)
    assert f"queued      {name}" in command("status", "runs", cwd=tmp_path).stdout
    start_now(job, cwd=tmp_path)
    assert sweep.wait(200) == 0, (tmp_path / "log").read_text()
    directory = tmp_path / "runs" / name
    assert (directory / "ticket.safetensors").read_bytes() == whole
    assert not list(directory.glob("hpc_ckpt*"))
    assert len(jobs_of(tmp_path)) == 1
    logs = "".join(path.read_text() for path in tmp_path.rglob("*_log.err"))
    assert f"interrupted after epoch 2 of {EPOCHS}" in logs
    assert "Traceback" not in logs


def test_a_cancelled_job_is_interrupted_and_the_repeated_command_goes_on(tmp_path, start_sweep, whole):
    (tmp_path / "hold").touch()
    sweep = start_sweep()
    until(lambda: epochs(tmp_path) >= 2)
    (job,) = jobs_of(tmp_path).values()
    shell("scancel", job, cwd=tmp_path)
    assert sweep.wait(60) == 1
    assert "its job was cancelled: the same command continues" in (tmp_path / "log").read_text()
    assert "interrupted " in command("status", "runs", cwd=tmp_path).stdout
    (tmp_path / "hold").unlink()
    assert start_sweep().wait(100) == 0, (tmp_path / "log").read_text()
    (ticket,) = tmp_path.rglob("ticket.safetensors")
    assert ticket.read_bytes() == whole


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


def test_a_study_of_optuna_ends_without_accounting(tmp_path, start_sweep):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    study = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "prune=interval(0.3,0.9)")
    assert start_sweep(*study, "epochs=2").wait(150) == 0, (tmp_path / "log").read_text()
    accs = [read_result(path.parent)["test_acc"] for path in tmp_path.rglob("result.json")]
    assert len(accs) == 2
    assert f"Best value: {max(accs)}" in (tmp_path / "log").read_text()
