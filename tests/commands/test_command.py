"""A console command from a function of its arguments."""

from __future__ import annotations

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
