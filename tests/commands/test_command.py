"""A console command from a function of its arguments."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mpt import phases
from mpt.commands.command import command
from tests.console import terminal


def test_a_command_shows_a_line_while_it_works_and_a_quick_one_does_not(monkeypatch):
    shown = []
    slow = command("mpt-x", "train")(lambda arguments: shown.append((arguments, phases.is_shown())))
    quick = command("mpt-x", "train", quick=True)(lambda arguments: shown.append((arguments, phases.is_shown())))
    with terminal() as (stream, _):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "argv", ["mpt-x", "a=1"])
        slow()
        quick()
    assert shown == [(["a=1"], True), (["a=1"], False)]


def test_help_and_version_do_not_start_the_work(monkeypatch, capsys):
    def work(arguments):
        pytest.fail("the work began")

    for flag in ("--help", "--version"):
        monkeypatch.setattr(sys, "argv", ["mpt-train", flag])
        command("mpt-train", "train")(work)()
    out = capsys.readouterr().out
    assert "mpt-train" in out
    assert out.splitlines()[-1].startswith("mpt-train ")


CLOSED = """
import os, sys
from mpt.commands.command import start
def work(arguments):
    with open("x", "w") as file:
        print("printed", flush=True)
        os.system("echo from a child")
        os.write(2, f"{file.fileno() > 2}".encode())
        file.write("written")
start("mpt-x", work)
"""


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_the_null_device_and_no_file_takes_its_place(tmp_path, closed):
    line = f'"{sys.executable}" -c "$CODE" {closed}'
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, env={"CODE": CLOSED}, check=True)
    assert (tmp_path / "x").read_text() == "written"
    assert done.stderr == (b"" if "2>" in closed else b"True")
    assert done.stdout == (b"printed\nfrom a child\n" if closed == "2>&-" else b"")
