"""Every way of starting several processes for one run: all end soon, with one sentence and one status."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from unittest import mock

import pytest

from mpt.run.claim import hold_claim
from tests.console import COMMANDS, SMALL, fork, process, read_result

pytestmark = pytest.mark.slow
RUN = [*(option for option in SMALL if not option.startswith("trainer.devices")), "hydra.run.dir=run"]
WAYS = {"own": (), "srun 1x2": (1, 2), "srun 2x1": (2, 1), "torchrun 1x2": (1, 2), "torchrun 2x1": (2, 1)}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def variables(way, *, rank, port):
    """What srun or torchrun tells the process ``rank`` of two."""
    nodes, each = WAYS[way]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if way.startswith("torchrun"):
        world = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": each, "GROUP_WORLD_SIZE": nodes}
        ranks = {"RANK": rank, "LOCAL_RANK": rank % each, "GROUP_RANK": rank // each}
        about = {"TORCHELASTIC_RUN_ID": "x"} | world | ranks
    else:
        step = {"ID": 0, "NUM_TASKS": 2, "NUM_NODES": nodes, "TASKS_PER_NODE": each, "NODELIST": "127.0.0.1"}
        ranks = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % each, "SLURM_NODEID": rank // each}
        about = {f"SLURM_STEP_{name}": value for name, value in step.items()} | ranks
        about |= {"SLURM_JOB_ID": 1, "SLURM_NTASKS": 2}
    return where | {name: str(value) for name, value in about.items()}


def start(way, *arguments, cwd):
    """Start the run's processes in this way; return their statuses and all that they said."""
    log, port = cwd / "log", free_port()
    log.write_text("")
    if way == "own":
        processes = [fork("train", *RUN, "trainer.devices=2", *arguments, cwd=cwd, out=log)]
    else:
        processes = []
        for rank in (0, 1):
            with mock.patch.dict(os.environ, variables(way, rank=rank, port=port)):
                processes.append(fork("train", *RUN, *arguments, cwd=cwd, out=log))
    return [process.wait(200) for process in processes], log.read_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of two processes."""
    folder = tmp_path_factory.mktemp("finished")
    statuses, said = start("torchrun 1x2", cwd=folder)
    assert statuses == [0, 0], said
    assert read_result(folder / "run")["processes"] == 2
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path


def unfinish(folder):
    for name in ("result.json", "ticket.safetensors"):
        (folder / "run" / name).unlink()


def refused(statuses, said, words):
    assert set(statuses) == {1}
    assert said.count(words) == said.count("mpt-train: ") == 1, said
    assert "Traceback" not in said


@pytest.mark.parametrize("way", WAYS)
def test_a_finished_run_is_answered_by_all_its_processes(folder, finished, way):
    statuses, said = start(way, cwd=folder)
    assert set(statuses) == {0}
    assert said.count("this run is finished") == 1
    assert read_result(folder / "run") == read_result(finished / "run")


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_another_command_holds_is_refused_once_by_all(folder, way):
    unfinish(folder)
    with hold_claim(folder / "run"):
        refused(*start(way, cwd=folder), "another command is running")


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_wrong_is_refused_once_by_all(folder, way):
    refused(*start(way, "seed=7", cwd=folder), "holds a run with other settings")
    refused(*start(way, "data.mean=[0.5]", "hydra.run.dir=new", cwd=folder), "data.mean needs 3 numbers")
    if way != "own":
        refused(*start(way, "trainer.devices=3", cwd=folder), "started 2 processes, but trainer.devices=3")
    unfinish(folder)
    checkpoint = folder / "run" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    refused(*start(way, cwd=folder), "last.ckpt is damaged")


def test_several_runs_under_torchrun_are_refused_once_and_nothing_is_made(tmp_path):
    done = []
    for rank in (0, 1):
        with mock.patch.dict(os.environ, variables("torchrun 1x2", rank=rank, port=free_port())):
            done.append(process("train", "-m", *RUN[:-1], "seed=0,1", cwd=tmp_path))
    assert [one.returncode for one in done] == [1, 1]
    assert "so -m cannot share them: leave out torchrun, or -m" in done[0].stderr
    assert done[1].stderr == ""
    assert not list(tmp_path.iterdir())


def test_torchrun_of_two_machines_trains_and_refuses(tmp_path):
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc-per-node=1",
        "--master-addr=127.0.0.1",
    ]

    def go(*more):
        port = free_port()
        agents = [
            subprocess.Popen(
                [*words, f"--master-port={port}", f"--node-rank={rank}", COMMANDS / "mpt-train", *RUN, *more],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in (0, 1)
        ]
        said = "".join(agent.communicate(timeout=200)[0] for agent in agents)
        return {agent.returncode for agent in agents}, said

    statuses, said = go()
    assert statuses == {0}, said
    assert read_result(tmp_path / "run")["processes"] == 2
    statuses, said = go("seed=7")
    assert statuses == {1}
    assert "holds a run with other settings" in said
