from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from mpt.experiment.team import share, together

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
from datetime import timedelta
from mpt.experiment import team
from mpt.processes import is_first
{before}
team._BEAT, team._SILENCE = 0.1, 5.0
try:
    with team.together():
        time.sleep(7)  # longer than the silence of a dead one
    with team.together():
        if not is_first():
            os.kill(os.getpid(), signal.SIGKILL)
except ValueError as error:
    print(error)
"""
ALONE = """
team._START = timedelta(seconds=5)
if not is_first():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "words"),
    [("", "process 2 of this run has ended"), (ALONE, "did not meet at 127.0.0.1:")],
    ids=["after they met", "before they meet"],
)
def test_a_process_that_is_killed_ends_the_first_one_with_a_sentence(before, words):
    outputs, statuses = run_two(KILLED.format(before=before))
    assert statuses == [0, -9]
    assert words in outputs[0][0]
