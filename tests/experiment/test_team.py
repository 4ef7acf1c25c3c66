from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from mpt.experiment.team import share, together

SECONDS = 30  # from the end of a process to that of the others, which are at work or import on a busy machine

CODE = """
import sys
from mpt.errors import ToldElsewhereError
from mpt.experiment.team import share, together
from mpt.processes import is_first
print(share(lambda: {"first": is_first()}), flush=True)
with together():
    pass
try:
    with together():
        if not is_first():
            raise ValueError("the second cannot")
except ToldElsewhereError:
    print("silent", flush=True)
except ValueError as error:
    print(error, flush=True)
def fail():
    raise OSError("full")
try:
    share(fail)
except (ToldElsewhereError, OSError) as error:
    sys.exit(getattr(error, "status", 7))
"""


def test_a_process_that_stands_alone_agrees_with_itself():
    assert share(lambda: 3) == 3
    with pytest.raises(ValueError, match="mine"), together():
        raise ValueError("mine")


def run_two(code):
    """The outputs and the statuses of two processes of torchrun that run ``code``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in ("0", "1"):
        ranks = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": rank}
        variables = os.environ | ranks | {"LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(
            subprocess.Popen([sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate(timeout=100)[0].splitlines() for process in processes]
    return outputs, [process.returncode for process in processes]


@pytest.mark.slow
def test_what_the_first_process_finds_is_what_all_find_and_one_failure_is_the_failure_of_all():
    outputs, statuses = run_two(CODE)
    assert outputs == [["{'first': True}", "the second cannot"], ["{'first': True}", "silent"]]
    assert statuses == [7, 1]


KILLED = """
import os, signal, time
from mpt.experiment.team import together
from mpt.processes import is_first
from mpt.run.peers import meet
peers, end = meet(), time.monotonic() + 60
while not peers._connected and time.monotonic() < end:
    time.sleep(0.01)
def die():
    if not is_first():
        print(time.monotonic(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
{before}
try:
    with together():
        die()
except ValueError as error:
    print(time.monotonic(), error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "die()"], ids=["after they met", "before they meet"])
def test_a_process_that_is_killed_ends_the_first_one_at_once_with_a_sentence(before):
    (first, killed), statuses = run_two(KILLED.format(before=before))
    assert statuses == [0, -9]
    heard, _, words = first[0].partition(" ")
    assert words.startswith("process 2 of 2 of this run has ended")
    assert float(heard) - float(killed[0]) < SECONDS


SLOW = """
import ctypes, time
from mpt.experiment.team import share, together
from mpt.processes import is_first
from mpt.run.peers import meet
meet()
if not is_first():
    ctypes.PyDLL(None).sleep(20)  # holds the lock of the interpreter, as a slow import does
with together():
    pass
print(share(lambda: 1))
"""


@pytest.mark.slow
def test_a_process_that_does_nothing_for_a_while_is_not_taken_for_dead():
    assert run_two(SLOW) == ([["1"], ["1"]], [0, 0])


RESTARTED = """
import os, sys, time
from mpt.experiment.team import share
again = os.environ["TORCHELASTIC_RESTART_COUNT"]
def slowly():
    time.sleep(2)
    return again
sys.stdout.write(f"{again} heard {share(slowly)}\\n")
sys.exit(again == "0")
"""


@pytest.mark.slow
def test_processes_that_torchrun_starts_again_do_not_hear_what_was_said_before():
    options = ["--standalone", "--nproc-per-node=2", "--max-restarts=1", "--no-python"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, sys.executable, "-c", RESTARTED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["0 heard 0"] * 2 + ["1 heard 1"] * 2
