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


@pytest.mark.slow
def test_what_the_first_process_finds_is_what_all_find_and_one_failure_is_the_failure_of_all():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in ("0", "1"):
        ranks = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": rank}
        variables = os.environ | ranks | {"LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(
            subprocess.Popen([sys.executable, "-c", CODE], env=variables, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate(timeout=100)[0].splitlines() for process in processes]
    assert outputs == [["{'first': True}", "the second cannot"], ["{'first': True}", "silent"]]
    assert [process.returncode for process in processes] == [7, 1]
