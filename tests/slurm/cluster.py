"""A SLURM for tests, one for each file, and what stops a run of theirs at the right moment.

Most tasks on it are forks (:mod:`tests.slurm.forks`), as a Python that imports torch takes seconds of a processor.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mpt.commands.wandb_sync import recordings
from tests.console import command, process, read_result
from tests.recordings import Recording, events
from tests.slurm.forks import forking

MARKS = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # on a busy machine
    pytest.mark.skipif("MPT_SLURM" not in os.environ, reason="make test-slurm runs it on a SLURM of its own"),
]
REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "one-machine.sh"
EPOCHS = 6
HELD = """
import os
import signal
import time
from pathlib import Path
import mpt.backbones

def die(moment):
    if os.environ.get("SLURM_PROCID") == "1" and Path(moment).exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)

def build(*, num_classes, in_channels, image_size, width):
    die("die-early")
    net = mpt.backbones.mlp(num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=width)
    net.steps = 0
    def wait(module, images):
        module.steps += module.training
        while module.steps > {steps} and Path("hold").exists():
            time.sleep(0.02)
        if module.steps > {steps}:
            die("die-late")
    net.register_forward_pre_hook(wait)
    return net
"""
HELD_STEPS = 30  # of 23 in an epoch: each process holds in its second one
RUN = ("model=held", "data=digits", "width=0.125", "batch=64", "trainer.accelerator=cpu")
FORKED = """
python={python} task={task}
srun() {{ command srun "${{@/#$python/$task}}"; }}
"""  # in a batch script of submitit: the tasks are forks
SLURM = ("hydra/launcher=slurm", "hydra.launcher.partition=main")
LAYOUTS = {"1x2": ("-N1", "--ntasks-per-node=2"), "2x1": ("-N2", "--ntasks-per-node=1")}
LOGGERS = ("local", "tensorboard", "wandb")
STOPS = {  # how SLURM stops jobs that it will start again; JOBS stands for their ids
    "signal": ("scancel", "--signal=USR2", "JOBS"),
    "requeue": ("scontrol", "requeue", "JOBS"),
    "preemption": ("sbatch", "-p", "urgent", "-N2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"),
    "limit": ("scontrol", "update", "TimeLimit=2", "JobId=JOBS"),  # SLURM looks every half a minute, and announces it
}


@pytest.fixture(scope="module")
def cluster():
    """A SLURM of two nodes for the tests of one file; its folder, which has ``model/held.yaml`` too."""
    folder = Path(tempfile.mkdtemp(prefix="mpt-slurm-"))
    before = dict(os.environ)
    port = str(20_000 + 3 * os.getpid() % 10_000)
    (folder / "model").mkdir()
    (folder / "model" / "held.yaml").write_text("name: held\ntarget: held.build\n")
    (folder / "held.py").write_text(HELD.format(steps=HELD_STEPS))
    os.environ |= {"SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1", "PORT": port}
    os.environ["JOB"] = str(1 + 100 * (os.getpid() % 600))  # or jobs of two clusters on this machine meet each other
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(REPOSITORY)])
    try:
        subprocess.run([SCRIPT, "start", folder], check=True, timeout=60)
        with forking(folder) as task:
            (folder / "forked").write_text(FORKED.format(python=sys.executable, task=task))
            yield folder
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=False, timeout=60)
        os.environ.clear()
        os.environ |= before
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def options(cluster):
    """Options of a run whose processes hold in the second epoch that they train while there is a file ``hold``."""
    return ("--config-dir", str(cluster), *RUN, f"epochs={EPOCHS}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, options):
    """The ticket of an uninterrupted run on this machine, its bytes."""
    folder = tmp_path_factory.mktemp("whole")
    done = process("train", *options, "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return (folder / "run" / "ticket.safetensors").read_bytes()


@pytest.fixture(scope="module")
def two(tmp_path_factory, cluster, options):
    """The folder of a finished run of two tasks of srun on one node."""
    folder = tmp_path_factory.mktemp("two")
    shell("srun", *LAYOUTS["1x2"], cluster / "task", "mpt-train", *options, "hydra.run.dir=run", cwd=folder)
    assert read_result(folder / "run")["processes"] == 2
    return folder


@pytest.fixture
def start_sweep(tmp_path, cluster, options, started):
    """``start_sweep(*more)``: ``mpt-train -m`` on SLURM, its output in ``log``; its jobs are forks unless ``fresh``."""

    def start(*more, runs="runs", fresh=False):
        setup = () if fresh else (f"hydra.launcher.setup=['. {cluster / 'forked'}']",)
        return started(tmp_path, "-m", *options, *SLURM, *setup, f"runs={runs}", *more)

    return start


def shell(*words, cwd, check=True):
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=200, check=check)


def until(condition, *, seconds=150):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)  # SLURM's commands take their time


def epochs(folder):
    files = [path for path in folder.rglob("metrics.jsonl") if "wandb" not in path.parts]
    return min((len(path.read_text().splitlines()) for path in files), default=0)


def once_queued(jobs, *, cwd):
    """Each of ``jobs`` that SLURM stopped, once it is in the queue again, from where it starts after 15 seconds.

    It is not told to start at once: of jobs that were, a few failed before their tasks began.
    """
    left = list(jobs)

    def queued():
        said = shell("squeue", "-h", "-r", "-j", ",".join(left), "-o", "%A %T", cwd=cwd, check=False).stdout
        return [job for job in left if f"{job} PENDING" in said.splitlines()]

    while left:
        until(queued)
        for job in queued()[:1]:
            yield job
            left.remove(job)


def jobs_of(folder, runs="runs"):
    return json.loads((folder / runs / "jobs.json").read_text())


def stop_in_every_way(folder, start, whole, *, devices, fresh=()):
    """Runs, one with each of ``LOGGERS``, are cancelled, their commands repeated, their jobs stopped as in ``STOPS``.

    Each try trains one epoch more. ``start(*more, runs=...)`` gives a command; ``whole`` is the uninterrupted ticket.
    The jobs of the loggers ``fresh`` are no forks.
    """
    places = [f"runs-{name}" for name in LOGGERS]
    options = (f"trainer.devices={devices}", "hydra.launcher.cpus_per_task=1")  # all jobs at once on eight CPUs

    def begin():
        return [start(*options, f"logger={name}", runs=f"runs-{name}", fresh=name in fresh) for name in LOGGERS]

    def jobs():
        return [job for place in places for job in jobs_of(folder, place).values()]

    def held_after(epoch):
        until(lambda: all(epochs(folder / place) >= epoch for place in places))

    (folder / "hold").touch()
    sweeps = begin()
    held_after(1)
    cancelled = jobs()
    shell("scancel", *cancelled, cwd=folder)
    assert [sweep.wait(60) for sweep in sweeps] == [1] * len(places), (folder / "log").read_text()
    assert (folder / "log").read_text().count("its job was cancelled: the same command continues") == len(places)
    for place in places:
        assert "1 interrupted, 0 failed" in command("status", place, cwd=folder).stdout
    sweeps = begin()
    for epoch, words in enumerate(STOPS.values(), 2):
        held_after(epoch)
        submitted = jobs()
        shell(*(word.replace("JOBS", ",".join(submitted)) for word in words), cwd=folder)
        for job in once_queued(submitted, cwd=folder):
            place = places[submitted.index(job)]
            (run,) = jobs_of(folder, place)
            assert f"queued      {run}" in (listed := command("status", place, cwd=folder).stdout)
            assert " 0 failed" in listed
            shell("scontrol", "update", f"jobid={job}", "TimeLimit=60", cwd=folder)
    (folder / "hold").unlink()
    assert [sweep.wait(200) for sweep in sweeps] == [0] * len(places), (folder / "log").read_text()
    assert jobs() == submitted
    assert set(submitted).isdisjoint(cancelled)
    assert [path.read_bytes() == whole for path in folder.rglob("ticket.safetensors")] == [True] * len(places)
    assert not list(folder.rglob("hpc_ckpt*"))
    for place in places:
        logs = "".join(path.read_text() for path in (folder / place).rglob("*_log.*"))
        ends = [f"interrupted after epoch {epoch} of {EPOCHS}" for epoch in range(1, len(STOPS) + 2)]
        assert [words for words in ends if words not in logs] == []
        assert "Traceback" not in logs
    check_recordings(folder / "runs-tensorboard", folder / "runs-wandb", tries=len(STOPS) + 2)


def check_recordings(tensorboard, wandb, *, tries):
    """Each epoch of runs of so many tries is once where it is looked for.

    A try logs the epochs of earlier ones again. TensorBoard's file is made anew each time; W&B's folders are of one id,
    and ``mpt-wandb sync`` sends the last one only.
    """
    steps = list(range(1, EPOCHS + 1))
    (run,), (recorded,) = tensorboard.glob("held-*"), wandb.glob("held-*")
    assert [value.step for value in events(run).Scalars("train/acc")] == steps
    *_, last = folders = sorted(recorded.glob("wandb/offline-run-*"))
    assert len(folders) == tries
    assert set(folders) & set(recordings(wandb)) == {last}
    assert [item["_step"] for item in Recording(last).history if "train/acc" in item] == steps
