"""SLURM's queue, as its own commands show it: which runs wait there, why, and how a job goes back into it.

The command that submits jobs writes their ids to ``jobs.json`` in the folder of the sweep, so that every other command
finds them. SLURM needs no accounting for this: whether a run is done, its directory says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from mpt.files import write_atomically
from mpt.processes import is_first, slurm_job
from mpt.schema import is_text, read_object

FILE = "jobs.json"  # name of a run -> id of its SLURM job
_EXPECTED = ("None", "Resources", "Priority", "BeginTime", "JobArrayTaskLimit", "")  # a job that waits for its turn


def ask(*command: str) -> str | None:
    """What one of SLURM's commands prints; None if it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def record_jobs(folder: Path, jobs: Mapping[str, str]) -> None:
    """Add ``jobs``, name of a run -> id of its job, to those of the sweep in ``folder``."""
    write_atomically(folder / FILE, json.dumps(read_object(folder / FILE) | dict(jobs), indent=1) + "\n")


def queued_runs(folder: Path) -> dict[str, tuple[str, str]]:
    """The runs of ``folder`` whose jobs SLURM has not ended: name -> id of the job, and its state or why it waits."""
    jobs = {name: job for name, job in read_object(folder / FILE).items() if is_text(job)}
    listing = ask("squeue", "-h", "-r", "-o", "%i|%T|%r") if jobs else None
    if listing is None:  # nobody knows: no job may be submitted twice because SLURM did not answer
        return {name: (job, "unknown") for name, job in jobs.items()} if shutil.which("squeue") else {}
    known = {job: (state, why) for job, state, why in (line.split("|", 2) for line in listing.splitlines())}
    states = {name: (job, known.get(job) or known.get(job.removesuffix("_0"))) for name, job in jobs.items()}
    return {
        name: (job, state[1] if state[0] == "PENDING" else state[0])
        for name, (job, state) in states.items()
        if state is not None
    }


def is_cancelled(directory: Path) -> bool:
    """True if somebody cancelled the last job of the run in ``directory``, as far as SLURM remembers it."""
    job = read_object(directory.parent / FILE).get(directory.name)
    if not isinstance(job, str) or not is_text(job):
        return False
    array = job.partition("_")[0]  # an array that was cancelled before SLURM looked at it is listed without its tasks
    cancelled = ask("squeue", "-h", "-r", "-t", "CANCELLED", "-j", array, "-o", "%i") or ""
    return not {job, array}.isdisjoint(cancelled.split())


def is_expected(why: str) -> bool:
    """True if ``why`` is a reason for which a job may wait that will start later."""
    return why in _EXPECTED or why.isupper()


def describe_partition(partition: str | None) -> tuple[int, bool] | None:
    """The most CPUs of a machine of ``partition`` (None: the default one), and whether any of them has GPUs."""
    listing = ask("sinfo", "-h", "-o", "%P|%c|%G", *(["-p", partition] if partition else []))
    lines = [line.split("|") for line in (listing or "").splitlines()]
    lines = [line for line in lines if partition or line[0].endswith("*")] or lines
    if not lines:
        return None
    return max(int(re.sub(r"\D", "", cpus) or 1) for _, cpus, _ in lines), any("gpu" in gres for *_, gres in lines)


def requeue() -> None:
    """In the first process of a job that a batch script started: SLURM puts the job into the queue again."""
    job = slurm_job()
    if job and is_first() and not any(name.startswith("SUBMITIT_") for name in os.environ):
        ask("scontrol", "requeue", job)
