from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mpt.signals import Interrupted, cause, handled
from tests.console import COMMANDS, SMALL, command, hear_signals, left_behind, read_result, start_sweep

HEAD = """
import ctypes, os, signal, sys, time
from mpt import signals
from mpt.errors import run_command
sys.argv = ["mpt-x"]
"""
READY = "print('ready', flush=True); time.sleep(30)"


def script(body):
    """A command of our own in a new process, whose function is ``body``."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    code = f"{HEAD}\ndef work(arguments):\n{lines}\nrun_command('mpt-x', work)\n"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_signals,
    )


def ended(process, signum, *, lines=1):
    """Status and stderr of ``process``, which gets ``signum`` once it has printed ``lines``."""
    for _ in range(lines):
        assert process.stdout.readline() == "ready\n"
    process.send_signal(signum)
    _, err = process.communicate(timeout=20)
    return process.returncode, err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_a_command_with_one_sentence_and_its_status(signum):
    assert ended(script(READY), signum) == (128 + signum, "mpt-x: interrupted: repeat the command\n")


def test_a_signal_that_a_library_swallows_is_raised_again():
    body = f"""
signals._AGAIN = 0.1
try:
    {READY}
except BaseException:
    pass
time.sleep(30)"""
    assert ended(script(body), signal.SIGTERM)[0] == 143


def test_a_command_that_waits_in_c_is_ended():
    body = (
        "signals.PATIENCE, signals._AGAIN = 0.3, 0.1\n"
        "mutex, lock = (ctypes.c_char * 64)(), ctypes.CDLL(None).pthread_mutex_lock\n"
        "lock(mutex)\nprint('ready', flush=True)\nlock(mutex)"
    )
    assert ended(script(body), signal.SIGTERM) == (143, "mpt-x: interrupted: repeat the command\n")


def test_what_the_parent_ignores_stays_ignored_as_with_nohup():
    process = subprocess.Popen(
        [sys.executable, "-c", f"{HEAD}\nrun_command('mpt-x', lambda _: os.kill(os.getpid(), signal.SIGHUP))"],
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.wait(20) == 0


def test_a_forked_process_of_a_command_dies_of_a_signal_and_the_command_does_not():
    body = """
if (child := os.fork()) == 0:
    time.sleep(30)
os.kill(child, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
time.sleep(0.2)"""
    process = script(body)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0


def test_an_error_that_follows_a_signal_is_the_interruption_and_another_one_is_itself():
    body = (
        "try:\n    print('ready', flush=True)\n    time.sleep(30)\nexcept BaseException:\n    raise ValueError('lost')"
    )
    assert ended(script(body), signal.SIGTERM) == (143, "mpt-x: interrupted: repeat the command\n")
    with handled():
        assert isinstance(cause(KeyboardInterrupt()), Interrupted)
        error = ValueError("x")
        assert cause(error, patience=0.01) is error


def test_handlers_are_as_before_once_a_command_has_ended():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with handled() as ours, handled() as inner:
        assert (ours, inner) == (True, False)
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


RUN = [*[o for o in SMALL if not o.startswith(("epochs", "data.num_images"))], "data.num_images=1280", "epochs=10"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The ticket of an uninterrupted run, its bytes."""
    folder = tmp_path_factory.mktemp("whole")
    command("train", *RUN, "hydra.run.dir=run", cwd=folder)
    return (folder / "run" / "ticket.safetensors").read_bytes()


def until(process, condition):
    end = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)


def rows(directory):
    try:
        return len((directory / "metrics.jsonl").read_text().splitlines())
    except OSError:
        return 0


MOMENTS = [  # logger, signal, to all processes of the session or to one, and when
    ("local", signal.SIGTERM, False, "epoch 0"),
    ("local", signal.SIGINT, True, "ticket"),
    ("tensorboard", signal.SIGHUP, True, "epoch 1"),
    ("wandb", signal.SIGTERM, True, "epoch 2"),
    ("wandb", signal.SIGUSR2, True, "epoch 1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("logger", "signum", "everyone", "moment"), MOMENTS)
def test_a_run_that_a_signal_ends_is_interrupted_and_the_same_command_ends_in_the_uninterrupted_ticket(
    tmp_path, whole, logger, signum, everyone, moment
):
    directory, arguments = tmp_path / "run", [*RUN, f"logger={logger}", "hydra.run.dir=run"]
    process = start_sweep(tmp_path, *arguments)
    if moment == "ticket":
        until(process, (directory / "ticket.safetensors").exists)
    else:
        epoch = int(moment.split()[1])
        until(process, lambda: (directory / "config.yaml").exists() and rows(directory) >= epoch)
        time.sleep(random.Random(moment).uniform(0, 0.1))
    (os.killpg if everyone else os.kill)(process.pid, signum)
    assert process.wait(30) == 128 + signum, (tmp_path / "log").read_text()
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "mpt-train: interrupted " in log.splitlines()[-1]  # maybe after a line that it cut short
    assert log.splitlines()[-1].endswith((": the same command continues", ": the same command starts the run again"))
    listed = command("status", ".", cwd=tmp_path).stdout
    assert "1 interrupted, 0 failed" in listed
    assert not left_behind(tmp_path)
    assert not list(directory.glob("hpc_ckpt*"))
    command("train", *arguments, cwd=tmp_path)
    assert (directory / "ticket.safetensors").read_bytes() == whole


@pytest.mark.slow
def test_a_limit_that_nothing_announces_before_sigterm_leaves_an_interrupted_run_that_goes_on(
    tmp_path, whole, monkeypatch
):
    for name, value in {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "1"}.items():  # of a batch script without srun
        monkeypatch.setenv(name, value)
    directory, arguments = tmp_path / "run", [*RUN, "hydra.run.dir=run"]
    process = start_sweep(tmp_path, *arguments)
    until(process, lambda: rows(directory) >= 3)
    os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)  # SLURM's KillWait
    killed = process.poll() is None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    log = (tmp_path / "log").read_text()
    assert (killed, process.wait(5)) == (False, 143), log
    assert re.fullmatch(
        r"mpt-train: interrupted after epoch \d+ of 10: the same command continues", log.splitlines()[-1]
    )
    assert read_result(directory)["status"] == "interrupted"
    assert not (directory / "ticket.safetensors").exists()
    assert (directory / "last.ckpt").is_file()
    command("train", *arguments, cwd=tmp_path)
    assert (directory / "ticket.safetensors").read_bytes() == whole


@pytest.mark.slow
def test_a_run_whose_reader_leaves_is_interrupted_with_a_status_that_stops_the_next_command(tmp_path, whole):
    line = f"set -o pipefail; {COMMANDS / 'mpt-train'} {' '.join(RUN)} hydra.run.dir=run 2>err | head -1"
    done = subprocess.run(["bash", "-c", f"({line}) && touch next"], cwd=tmp_path, check=False, timeout=120)
    assert done.returncode == 128 + signal.SIGPIPE
    assert not (tmp_path / "next").exists()
    assert "Traceback" not in (tmp_path / "err").read_text()
    assert (tmp_path / "err").read_text().startswith("mpt-train: interrupted ")
    assert read_result(tmp_path / "run")["status"] == "interrupted"
    command("train", *RUN, "hydra.run.dir=run", cwd=tmp_path)
    assert (tmp_path / "run" / "ticket.safetensors").read_bytes() == whole


@pytest.mark.slow
def test_a_sweep_that_a_signal_ends_says_how_many_runs_are_done_and_goes_on(tmp_path):
    arguments = ["-m", *RUN, "seed=0,1,2", "prune=0.5", "runs=runs"]
    process = start_sweep(tmp_path, *arguments)
    until(process, lambda: len(list(tmp_path.glob("runs/*/result.json"))) == 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert log.splitlines()[-1] == "mpt-train: interrupted with 1 of 3 runs done: the same command continues"
    assert "1 done, 0 running" in command("status", "runs", cwd=tmp_path).stdout
    command("train", *arguments, cwd=tmp_path)
    assert {json.loads(p.read_text())["status"] for p in Path(tmp_path).glob("runs/*/result.json")} == {"done"}
