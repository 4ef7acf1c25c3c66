"""Batch scripts and jobs of several tasks on a real SLURM, which this file brings up: ``make test-slurm``."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from pathlib import Path

import pytest

from mpt.run.claim import hold_claim
from tests.console import COMMANDS, read_result
from tests.slurm.cluster import EPOCHS, LAYOUTS, MARKS, epochs, jobs_of, once_queued, shell, until

pytestmark = MARKS
TASKS = Path(__file__).parent / "tasks.py"


def submit(folder, options, *more, command=COMMANDS / "mpt-train"):
    """Submit a batch script of one task, as docs/running.md has it; return the job's id."""
    (folder / "job.sh").write_text(f"#!/bin/sh\nsrun {command} {' '.join(options)} hydra.run.dir=run\n")
    flags = ("--parsable", "--ntasks-per-node=1", "--open-mode=append", "--output=log")
    return shell("sbatch", *flags, *more, "job.sh", cwd=folder).stdout.strip()


def wait_for(job, *, cwd):
    """The exit status of a job, once it has ended. sbatch --wait asks for it every half a minute."""
    until(lambda: shell("squeue", "-h", "-j", job, cwd=cwd, check=False).stdout == "")
    return int(re.search(r" ExitCode=(\d+)", shell("scontrol", "show", "job", job, cwd=cwd).stdout)[1])


def test_a_batch_script_that_is_told_of_its_limit_is_queued_again_and_goes_on(tmp_path, options, whole):
    (tmp_path / "hold").touch()
    job = submit(tmp_path, options, "--requeue", "--signal=USR1@60")
    until(lambda: epochs(tmp_path) >= 1)
    shell("scancel", "--signal=USR1", job, cwd=tmp_path)
    assert list(once_queued([job], cwd=tmp_path)) == [job]
    (tmp_path / "hold").unlink()
    until(lambda: (tmp_path / "run" / "result.json").exists() and read_result(tmp_path / "run")["status"] == "done")
    assert (tmp_path / "run" / "ticket.safetensors").read_bytes() == whole
    assert "interrupted after epoch" in (tmp_path / "log").read_text()
    assert "resuming from" in (tmp_path / "log").read_text()
    assert not list((tmp_path / "run").glob("hpc_ckpt*"))


def test_a_batch_script_that_is_told_nothing_before_sigterm_is_interrupted_and_goes_on(
    tmp_path, cluster, options, whole
):
    (tmp_path / "hold").touch()
    forked = f"{cluster / 'task'} mpt-train"
    job = submit(tmp_path, options, command=forked)
    until(lambda: epochs(tmp_path) >= 1)
    shell("scancel", "--signal=TERM", job, cwd=tmp_path)  # as at a limit: SIGKILL is next
    assert wait_for(job, cwd=tmp_path) == 143, (tmp_path / "log").read_text()
    assert read_result(tmp_path / "run")["status"] == "interrupted"
    assert (tmp_path / "run" / "last.ckpt").is_file()
    (tmp_path / "hold").unlink()
    assert wait_for(submit(tmp_path, options, command=forked), cwd=tmp_path) == 0
    assert (tmp_path / "run" / "ticket.safetensors").read_bytes() == whole
    assert f"interrupted after epoch 1 of {EPOCHS}: the same command continues" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_tasks_of_srun_train_one_run_wherever_they_are_and_end_together(tmp_path, cluster, options, two, layout):
    for name in ("finished", "claimed", "damaged"):
        shutil.copytree(two / "run", tmp_path / name)
    for name in ("claimed", "damaged"):
        for file in ("result.json", "ticket.safetensors"):
            (tmp_path / name / file).unlink()
    checkpoint = tmp_path / "damaged" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    cases = {
        "new": (),
        "finished": (),
        "claimed": (),
        "damaged": (),
        "other": ("seed=1", "hydra.run.dir=finished"),
        "bad": ("data.mean=[0.5,0.5]",),
        "fewer": ("trainer.devices=1",),
    }
    cases = {name: [*options, f"hydra.run.dir={name}", *more] for name, more in cases.items()}
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    with hold_claim(tmp_path / "claimed"):
        shell("srun", *LAYOUTS[layout], sys.executable, TASKS, cluster / "socket", "cases.json", cwd=tmp_path)
    assert (tmp_path / "new" / "ticket.safetensors").read_bytes() == (two / "run" / "ticket.safetensors").read_bytes()
    _said(tmp_path, "new", status=0)
    assert _said(tmp_path, "finished", status=0).count("this run is finished") == 1
    refusals = {
        "claimed": "another command is running",
        "damaged": "last.ckpt is damaged",
        "other": "holds a run with other settings",
        "bad": "data.mean needs",
        "fewer": "srun started 2 processes",
    }
    for name, words in refusals.items():
        said = _said(tmp_path, name, status=1)
        assert said.count(words) == said.count("mpt-train: ") == 1, said
        assert "Traceback" not in said


def _said(folder, name, *, status):
    """What the tasks printed in one case, in which all ended with ``status``."""
    said = "".join(path.read_text() for path in folder.glob(f"{name}.*.said"))
    assert [int(path.read_text()) for path in folder.glob(f"{name}.*.status")] == [status, status], said
    return said


@pytest.mark.parametrize(("moment", "layout"), [("early", "1x2"), ("late", "2x1")])
def test_a_task_of_srun_that_is_killed_ends_the_other_within_half_a_minute(tmp_path, cluster, options, moment, layout):
    (tmp_path / f"die-{moment}").touch()
    run = ("srun", *LAYOUTS[layout], cluster / "task", "mpt-train", *options, "hydra.run.dir=run")
    said = shell(*run, cwd=tmp_path, check=False).stderr
    assert time.time() - (tmp_path / "died").stat().st_mtime < 30
    assert said.count("mpt-train: ") == said.count("process 2 of 2 of this run has ended") == 1, said
    assert "Traceback" not in said


def test_a_job_of_two_tasks_that_is_stopped_in_its_first_epoch_gives_the_ticket_of_an_uninterrupted_one(
    tmp_path, start_sweep, two
):
    (tmp_path / "hold").touch()  # in its second epoch, if the signal comes late
    sweep = start_sweep("trainer.devices=2", fresh=True)
    until(lambda: list(tmp_path.glob("runs/*/config.yaml")))
    (job,) = jobs_of(tmp_path).values()
    shell("scancel", "--signal=USR2", job, cwd=tmp_path)
    assert list(once_queued([job], cwd=tmp_path)) == [job]
    (tmp_path / "hold").unlink()
    assert sweep.wait(200) == 0, (tmp_path / "log").read_text()
    (ticket,) = tmp_path.glob("runs/*/ticket.safetensors")
    assert ticket.read_bytes() == (two / "run" / "ticket.safetensors").read_bytes()
    assert not list(tmp_path.rglob("hpc_ckpt*"))
