from __future__ import annotations

import signal
import subprocess
import sys

import pytest

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
    status, text = interrupted(tmp_path / "mpt-x", AT_AN_IMPORT.format(module=module))
    assert (status, text) == (130, "mpt-x: interrupted: repeat the command\n")


@pytest.mark.parametrize(("name", "ours"), [("mpt-x", True), ("mpt", True), ("mpt-x.py", False), ("other", False)])
def test_ctrl_c_is_answered_in_a_script_of_ours_alone(tmp_path, name, ours):
    body = "import mpt, time\nprint('ready', flush=True)\nfor _ in range(300):\n    time.sleep(0.1)\n"
    status, text = interrupted(tmp_path / name, body)
    assert (text == f"{name}: interrupted: repeat the command\n") == ours
    assert (status == 130) == ours
