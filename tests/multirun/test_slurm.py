"""On a real SLURM of two virtual nodes, which this file brings up: ``make test-slurm``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from mpt.run.claim import hold_claim
from tests.console import COMMANDS, command, process, read_result

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # on a busy machine
    pytest.mark.skipif("MPT_SLURM" not in os.environ, reason="make test-slurm runs it on a SLURM of its own"),
]
SCRIPT = Path(__file__).parents[1] / "slurm" / "one-machine.sh"
RUN = ("model=mlp", "data=digits", "width=0.125", "batch=64", "epochs=40", "trainer.accelerator=cpu")
SLURM = ("hydra/launcher=slurm", "hydra.launcher.partition=main")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    folder = Path(tempfile.mkdtemp(prefix="mpt-slurm-"))
    before = dict(os.environ)
    port = str(20_000 + 3 * os.getpid() % 10_000)
    os.environ |= {"SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1", "PORT": port}
    try:
        subprocess.run([SCRIPT, "start", folder], check=True, timeout=60)
        yield
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=False, timeout=60)
        os.environ.clear()
        os.environ |= before
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The ticket of an uninterrupted run on this machine, its bytes."""
    folder = tmp_path_factory.mktemp("whole")
    command("train", *RUN, "hydra.run.dir=run", cwd=folder)
    return (folder / "run" / "ticket.safetensors").read_bytes()


def shell(*words, cwd, check=True):
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=200, check=check)


def until(condition, *, seconds=150):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def epochs(folder):
    files = [path for path in folder.rglob("metrics.jsonl") if "wandb" not in path.parts]
    return min((len(path.read_text().splitlines()) for path in files), default=0)


def at_once(job, *, cwd):
    """After a requeue SLURM lets two minutes pass: let the job start now."""
    until(lambda: "PENDING" in shell("squeue", "-h", "-r", "-j", job, "-o", "%T", cwd=cwd, check=False).stdout)
    shell("scontrol", "update", f"jobid={job}", "StartTime=now", cwd=cwd)


def start_sweep(folder, *more):
    """``mpt-train -m`` on SLURM, its output in ``log``."""
    with (folder / "log").open("a") as log:
        command = [COMMANDS / "mpt-train", "-m", *RUN, *SLURM, "runs=runs", *more]
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)


STOPS = {  # how SLURM stops a job that it will start again
    "limit": ("scancel", "--signal=USR2"),
    "requeue": ("scontrol", "requeue"),
    "preemption": ("sbatch", "-p", "urgent", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"),
}


@pytest.mark.parametrize(
    ("stop", "logger"), [("limit", "wandb"), ("requeue", "local"), ("preemption", "[wandb,tensorboard]")]
)
def test_a_job_that_slurm_stops_goes_on_and_the_sweep_ends_well(tmp_path, whole, stop, logger):
    sweep = start_sweep(tmp_path, f"logger={logger}")
    until(lambda: epochs(tmp_path) >= 2)
    name, job = next(iter(json.loads((tmp_path / "runs" / "jobs.json").read_text()).items()))
    assert shell("squeue", "-h", "-j", job, "-o", "%j", cwd=tmp_path).stdout.strip() == name
    shell(*STOPS[stop], *([job] if stop != "preemption" else []), cwd=tmp_path)
    at_once(job, cwd=tmp_path)
    assert f"queued      {name}" in command("status", "runs", cwd=tmp_path).stdout
    assert sweep.wait(200) == 0, (tmp_path / "log").read_text()
    directory = tmp_path / "runs" / name
    assert (directory / "ticket.safetensors").read_bytes() == whole
    assert not list(directory.glob("hpc_ckpt*"))
    assert len(json.loads((tmp_path / "runs" / "jobs.json").read_text())) == 1
    logs = "".join(path.read_text() for path in tmp_path.rglob("*_log.err"))
    assert re.search(r"interrupted after epoch \d+ of 40", logs)
    assert "Traceback" not in logs


def test_a_cancelled_job_is_interrupted_and_the_repeated_command_goes_on(tmp_path, whole):
    sweep = start_sweep(tmp_path)
    until(lambda: epochs(tmp_path) >= 2)
    (job,) = json.loads((tmp_path / "runs" / "jobs.json").read_text()).values()
    shell("scancel", job, cwd=tmp_path)
    assert sweep.wait(60) == 1
    assert "its job was cancelled: the same command continues" in (tmp_path / "log").read_text()
    assert "interrupted " in command("status", "runs", cwd=tmp_path).stdout
    assert start_sweep(tmp_path).wait(100) == 0, (tmp_path / "log").read_text()
    (ticket,) = tmp_path.rglob("ticket.safetensors")
    assert ticket.read_bytes() == whole


def test_a_job_of_two_tasks_that_is_stopped_in_its_first_epoch_gives_the_ticket_of_an_uninterrupted_one(tmp_path):
    few = [option for option in RUN if not option.startswith("epochs")]
    assert process("train", *few, "epochs=3", "trainer.devices=2", "hydra.run.dir=whole", cwd=tmp_path).returncode == 0
    sweep = start_sweep(tmp_path, "epochs=3", "trainer.devices=2")
    until(lambda: list(tmp_path.glob("runs/*/config.yaml")))
    (job,) = json.loads((tmp_path / "runs" / "jobs.json").read_text()).values()
    shell("scancel", "--signal=USR2", job, cwd=tmp_path)
    at_once(job, cwd=tmp_path)
    assert sweep.wait(200) == 0, (tmp_path / "log").read_text()
    (ticket,) = tmp_path.glob("runs/*/ticket.safetensors")
    assert ticket.read_bytes() == (tmp_path / "whole" / "ticket.safetensors").read_bytes()
    assert not list(tmp_path.rglob("hpc_ckpt*"))


def test_two_commands_at_once_one_of_them_killed_train_and_submit_every_run_once(tmp_path):
    sweeps = [start_sweep(tmp_path, "epochs=2", "seed=0,1") for _ in range(2)]
    jobs = tmp_path / "runs" / "jobs.json"
    until(lambda: jobs.exists() and len(json.loads(jobs.read_text())) == 2)
    submitted = jobs.read_text()
    sweeps[0].kill()
    sweeps[0].wait()
    again = start_sweep(tmp_path, "epochs=2", "seed=0,1")  # while jobs wait or run
    for sweep in (sweeps[1], again):
        assert sweep.wait(200) == 0, (tmp_path / "log").read_text()
    assert jobs.read_text() == submitted
    assert [epochs(path) for path in tmp_path.glob("runs/*-s?-*")] == [2, 2]
    logs = "".join(path.read_text() for path in tmp_path.rglob("*_log.*"))
    assert "resuming from" not in logs
    assert "this run is finished" not in logs


def test_what_slurm_refuses_or_cannot_start_is_said(tmp_path):
    refused = start_sweep(tmp_path, "hydra.launcher.partition=nope")
    blocked = start_sweep(tmp_path, "hydra.launcher.cpus_per_task=64", "runs=blocked")
    try:
        assert refused.wait(60) == 1
        until(lambda: "waits because of PartitionConfig" in (tmp_path / "log").read_text(), seconds=60)
    finally:
        blocked.terminate()
    assert blocked.wait(30) == 143
    said = (tmp_path / "log").read_text()
    assert "mpt-train: SLURM refuses the job (invalid partition specified: nope" in said
    assert "Traceback" not in said


def test_a_study_of_optuna_ends_without_accounting(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    options = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "prune=interval(0.3,0.9)")
    assert start_sweep(tmp_path, *options, "epochs=2").wait(150) == 0, (tmp_path / "log").read_text()
    accs = [read_result(path.parent)["test_acc"] for path in tmp_path.rglob("result.json")]
    assert len(accs) == 2
    assert f"Best value: {max(accs)}" in (tmp_path / "log").read_text()


BATCH = """#!/bin/sh
srun {train} {arguments} hydra.run.dir=run
"""


def test_a_batch_script_that_is_told_of_its_limit_is_queued_again_and_goes_on(tmp_path, whole):
    (tmp_path / "job.sh").write_text(BATCH.format(train=COMMANDS / "mpt-train", arguments=" ".join(RUN)))
    options = ("--requeue", "--open-mode=append", "--ntasks-per-node=1", "--signal=USR1@60", "--output=log")
    job = shell("sbatch", "--parsable", *options, "job.sh", cwd=tmp_path).stdout.strip()
    until(lambda: epochs(tmp_path) >= 2)
    shell("scancel", "--signal=USR1", job, cwd=tmp_path)
    at_once(job, cwd=tmp_path)
    until(lambda: (tmp_path / "run" / "result.json").exists() and read_result(tmp_path / "run")["status"] == "done")
    assert (tmp_path / "run" / "ticket.safetensors").read_bytes() == whole
    assert "interrupted after epoch" in (tmp_path / "log").read_text()
    assert "resuming from" in (tmp_path / "log").read_text()
    assert not list((tmp_path / "run").glob("hpc_ckpt*"))


def test_a_batch_script_that_is_told_nothing_before_sigterm_is_interrupted_and_goes_on(tmp_path, whole):
    (tmp_path / "job.sh").write_text(BATCH.format(train=COMMANDS / "mpt-train", arguments=" ".join(RUN)))
    options = ("--parsable", "--wait", "--ntasks-per-node=1", "--open-mode=append", "--output=log")
    with subprocess.Popen(["sbatch", *options, "job.sh"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as job:
        until(lambda: epochs(tmp_path) >= 2)
        shell("scancel", "--signal=TERM", job.stdout.readline().strip(), cwd=tmp_path)  # as at a limit: SIGKILL is next
        assert job.wait(150) == 143, (tmp_path / "log").read_text()
    assert read_result(tmp_path / "run")["status"] == "interrupted"
    assert (tmp_path / "run" / "last.ckpt").is_file()
    shell("sbatch", *options, "job.sh", cwd=tmp_path)
    assert (tmp_path / "run" / "ticket.safetensors").read_bytes() == whole
    assert re.search(r"interrupted after epoch \d+ of 40: the same command continues", (tmp_path / "log").read_text())


def test_the_tasks_of_srun_train_one_run_wherever_they_are_and_end_together(tmp_path):
    few = [o for o in RUN if not o.startswith("epochs")]
    train = (COMMANDS / "mpt-train", *few, "epochs=2")
    shell("srun", "-N1", "--ntasks-per-node=2", *train, "hydra.run.dir=one", cwd=tmp_path)
    shell("srun", "-N2", "--ntasks-per-node=1", *train, "hydra.run.dir=two", cwd=tmp_path)
    assert read_result(tmp_path / "one")["processes"] == 2
    tickets = [(tmp_path / name / "ticket.safetensors").read_bytes() for name in ("one", "two")]
    assert tickets[0] == tickets[1]
    again = shell("srun", "-N2", "--ntasks-per-node=1", *train, "hydra.run.dir=one", cwd=tmp_path)
    assert again.stdout.count("this run is finished") == 1
    _refused(tmp_path, "-N1", *train, "trainer.devices=1", words="srun started 2 processes")
    _refused(tmp_path, "-N2", *train, "seed=1", words="holds a run with other settings")
    for name in ("result.json", "ticket.safetensors"):
        (tmp_path / "one" / name).unlink()
    with hold_claim(tmp_path / "one"):
        _refused(tmp_path, "-N2", *train, words="another command is running")


def _refused(folder, nodes, *train, words):
    done = shell("srun", nodes, "-n2", *train, "hydra.run.dir=one", cwd=folder, check=False)
    assert done.returncode == 1
    assert done.stderr.count(words) == done.stderr.count("mpt-train: ") == 1
    assert "Traceback" not in done.stderr
