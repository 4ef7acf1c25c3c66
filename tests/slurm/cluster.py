"""A SLURM for tests, one for each file, and what stops a run of theirs at the right moment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.console import process

MARKS = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # on a busy machine
    pytest.mark.skipif("MPT_SLURM" not in os.environ, reason="make test-slurm runs it on a SLURM of its own"),
]
REPOSITORY = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "one-machine.sh"
EPOCHS = 4
HELD = """
import time
from pathlib import Path
import mpt.backbones

def build(*, num_classes, in_channels, image_size, width):
    net = mpt.backbones.mlp(num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=width)
    net.steps = 0
    def wait(module, images):
        module.steps += module.training
        while module.steps > {steps} and Path("hold").exists():
            time.sleep(0.02)
    net.register_forward_pre_hook(wait)
    return net
"""
HELD_STEPS = 60  # of 23 in an epoch
RUN = ("model=held", "data=digits", "width=0.125", "batch=64", "trainer.accelerator=cpu")
SLURM = ("hydra/launcher=slurm", "hydra.launcher.partition=main")


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
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(REPOSITORY)])
    try:
        subprocess.run([SCRIPT, "start", folder], check=True, timeout=60)
        yield folder
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=False, timeout=60)
        os.environ.clear()
        os.environ |= before
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def options(cluster):
    """The options of a run that holds in its third epoch while there is a file ``hold`` in its folder."""
    return ("--config-dir", str(cluster), *RUN, f"epochs={EPOCHS}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, options):
    """The ticket of an uninterrupted run on this machine, its bytes."""
    folder = tmp_path_factory.mktemp("whole")
    done = process("train", *options, "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return (folder / "run" / "ticket.safetensors").read_bytes()


@pytest.fixture
def start_sweep(tmp_path, options, started):
    """``start_sweep(*more)``: ``mpt-train -m`` on SLURM, its output in ``log``."""
    return lambda *more: started(tmp_path, "-m", *options, *SLURM, "runs=runs", *more)


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


def until_queued(job, *, cwd):
    """Wait until the job that SLURM stopped has ended and is in the queue again."""
    until(lambda: "PENDING" in shell("squeue", "-h", "-r", "-j", job, "-o", "%T", cwd=cwd, check=False).stdout)


def start_now(job, *, cwd):
    """After a requeue SLURM lets two minutes pass: let the job start now."""
    until_queued(job, cwd=cwd)
    (cwd / "hold").unlink(missing_ok=True)
    shell("scontrol", "update", f"jobid={job}", "StartTime=now", cwd=cwd)


def jobs_of(folder):
    return json.loads((folder / "runs" / "jobs.json").read_text())
