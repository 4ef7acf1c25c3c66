from __future__ import annotations

import json
import os
import signal
from unittest import mock

import pytest

from tests.console import SMALL, command, left_behind, read_result, start_sweep

SIGNALLING = """
import json
import os
import sys
from pathlib import Path
import mpt.backbones

ORDER = Path("order.json")  # what to do once: the signal, the moment, its file, and which time
renamed, times = set(), 0

def interrupt(moment, name):
    global times
    if not ORDER.exists():
        return
    order = json.loads(ORDER.read_text())
    times += (order["moment"], order["file"]) == (moment, name)
    if times == order["time"]:
        ORDER.unlink()
        os.kill(os.getpid(), order["signal"])

def hear(event, arguments):
    if event not in ("open", "os.rename") or not isinstance(arguments[0], (str, os.PathLike)):
        return
    path = Path(arguments[event == "os.rename"])
    if path == ORDER:
        return
    if event == "os.rename":
        renamed.add(path)
        interrupt("replace", path.name)
    elif path.suffix == ".part":
        interrupt("write", ".".join(path.name.split(".")[:2]))
    elif arguments[1] is None:  # a folder, which is synced after each of these
        for file in [file for file in renamed if file.parent == path]:
            renamed.remove(file)
            interrupt("sync", file.name)

sys.addaudithook(hear)

def build(*, num_classes, in_channels, image_size, width):
    net = mpt.backbones.conv2(num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=width)
    def forward(module, images):
        if Path("run", "config.yaml").exists():  # after the network was tried
            interrupt("train" if module.training else "evaluate", "")
    net.register_forward_pre_hook(forward)
    return net
"""
MOMENTS = [  # moment, file, which time
    ("train", "", 2),  # of ten steps: in the first epoch
    ("train", "", 15),  # in a later one
    ("evaluate", "", 2),
    ("write", "ticket.safetensors", 1),
]
OF_SLURM = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM]  # by which it announces or enforces a limit
LOGGERS = ["local", "tensorboard", "wandb"]
ORDERS = [  # moment, file, which time, signal, logger
    *(
        (*moment, signum, LOGGERS[(row + column) % 3])
        for row, moment in enumerate(MOMENTS)
        for column, signum in enumerate(OF_SLURM)
    ),
    ("evaluate", "", 1, signal.SIGINT, "tensorboard"),
    ("write", "last.ckpt", 2, signal.SIGHUP, "wandb"),
    ("replace", "last.ckpt", 1, signal.SIGUSR1, "local"),
    ("sync", "last.ckpt", 3, signal.SIGINT, "wandb"),
    ("replace", "ticket.safetensors", 1, signal.SIGTERM, "wandb"),
    ("sync", "ticket.safetensors", 1, signal.SIGHUP, "local"),
    ("write", "result.json", 1, signal.SIGINT, "local"),
    ("replace", "result.json", 1, signal.SIGUSR1, "wandb"),
    ("sync", "result.json", 1, signal.SIGTERM, "tensorboard"),
]


TASK = {  # the environment of a batch script's only task, in which Lightning has ideas of its own about signals
    "SLURM_CONF": "/dev/null",  # no scontrol of this machine may take it for its job
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NAME": "test",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_NTASKS": "1",
    **dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0"),
}


@pytest.fixture(scope="module")
def signalling(tmp_path_factory):
    """The options of a run whose model sends a signal when ``order.json`` says so, and its uninterrupted ticket."""
    folder = tmp_path_factory.mktemp("signalling")
    (folder / "model").mkdir()
    (folder / "model" / "signalling.yaml").write_text("name: signalling\ntarget: signalling.build\n")
    (folder / "signalling.py").write_text(SIGNALLING)
    options = [option for option in SMALL if not option.startswith("model")]
    options += ["model=signalling", "--config-dir", str(folder), "hydra.run.dir=run"]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    with mock.patch.dict(os.environ, TASK, PYTHONPATH=path):
        assert start_sweep(folder, *options).wait(200) == 0, (folder / "log").read_text()
        yield options, (folder / "run" / "ticket.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "-".join(map(str, filter(None, order))))
def test_a_signal_while_a_run_evaluates_or_writes_is_an_interruption_and_the_same_command_ends_in_the_same_ticket(
    tmp_path, signalling, order
):
    (*about, signum, logger), (options, ticket) = order, signalling
    orders = dict(zip(("moment", "file", "time", "signal"), (*about, signum), strict=True))
    (tmp_path / "order.json").write_text(json.dumps(orders))
    process = start_sweep(tmp_path, *options, f"logger={logger}")
    assert process.wait(120) == 128 + signum, (tmp_path / "log").read_text()
    assert not (tmp_path / "order.json").exists()
    said, directory = (tmp_path / "log").read_text(), tmp_path / "run"
    assert "Traceback" not in said
    assert said.count("mpt-train: ") == said.count("mpt-train: interrupted ") == 1, said
    assert said.endswith((": the same command continues\n", ": the same command starts the run again\n"))
    listed = command("status", ".", cwd=tmp_path).stdout
    done = about[:2] == ["sync", "result.json"]
    assert ("1 done, " if done else "1 interrupted, 0 failed") in listed, listed
    assert not list(directory.rglob("*.part"))
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    assert not left_behind(tmp_path)
    assert start_sweep(tmp_path, *options, f"logger={logger}").wait(200) == 0, (tmp_path / "log").read_text()
    assert (directory / "ticket.safetensors").read_bytes() == ticket
    assert read_result(directory)["status"] == "done"
