from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mpt.startup import COMMANDS
from tests.console import hear_signals

AT_AN_IMPORT = """
import sys, time

class Slow:  # at the import of a package that nobody has loaded
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            print("ready", flush=True)
            for _ in range(300):  # a signal just before a sleep is heard after it
                time.sleep(0.1)

sys.modules.pop({module!r}, None)
sys.meta_path.insert(0, Slow)
from mpt.commands.cli import train
"""


def interrupted(file, text):
    """Status and stderr of the script ``text``, which hears Ctrl-C once it has printed a line."""
    file.write_text(text)
    process = subprocess.Popen(
        [sys.executable, file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_signals
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    return process.returncode, err


@pytest.mark.parametrize("module", ["importlib", "typing", "mpt.commands", "mpt.commands.command", "mpt.errors"])
def test_ctrl_c_during_any_import_of_a_command_is_answered_in_one_sentence(tmp_path, module):
    status, text = interrupted(tmp_path / "mpt-train", AT_AN_IMPORT.format(module=module))
    assert (status, text) == (130, "mpt-train: interrupted: repeat the command\n")


@pytest.mark.parametrize(
    ("name", "ours"), [("mpt-eval", True), ("mpt", True), ("mpt-x", False), ("mpt-train.py", False)]
)
def test_ctrl_c_is_answered_in_a_script_of_ours_alone(tmp_path, name, ours):
    body = "import mpt, time\nprint('ready', flush=True)\nfor _ in range(300):\n    time.sleep(0.1)\n"
    status, text = interrupted(tmp_path / name, body)
    assert (text == f"{name}: interrupted: repeat the command\n") == ours
    assert (status == 130) == ours


def test_the_scripts_of_ours_are_those_that_are_installed():
    scripts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(COMMANDS) == set(scripts)


def test_a_thread_of_a_script_may_be_the_first_to_import_mpt(tmp_path):
    (tmp_path / "mpt").write_text(
        "import threading\nthread = threading.Thread(target=lambda: __import__('mpt'))\nthread.start()\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "mpt"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
