from __future__ import annotations

import pytest

from mpt.commands import help, page
from tests.console import SCRIPTS, command, on_terminal


def test_help_of_one_group_shows_that_group_alone(tmp_path):
    text = command("train", "--help", "optim", cwd=tmp_path).stdout
    assert text.startswith("optim:\n")
    assert "  optim.lr " in text
    assert "data.root" not in text


def test_help_of_one_parameter_is_its_line(tmp_path):
    assert command("train", "--help", "optim.lr", cwd=tmp_path).stdout.startswith("  optim.lr   ")
    assert command("train", "--help", "optim.lr", cwd=tmp_path).stdout.count("\n") == 1


def test_groups_of_one_name_are_shown_together():
    assert page.part(help.train(), "method").startswith("method:\n  method.selection ")
    assert page.part(help.ticket(), "compile").startswith("compile, parameters")


def test_a_part_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    done = command("train", "--help", "optimm", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "--help knows no optimm: name a parameter or one of parameters groups method data" in done.stderr


@pytest.mark.parametrize("columns", [60, 80, 132])
def test_help_fits_the_terminal_and_loses_no_word(columns):
    whole = help.train()
    shown = page.fit(whole, columns=columns)
    too_long = [line for line in shown.splitlines() if len(line) > columns]
    assert all(len(line.split()) <= 2 for line in too_long)  # one long word, and the name before it
    assert shown.split() == whole.split()


def test_the_options_of_a_command_beside_help_are_no_parts(tmp_path):
    assert command("train", "prune=0.5", "--help", "epochs=1", cwd=tmp_path).stdout == help.train() + "\n"


@pytest.mark.parametrize("name", sorted(name.removeprefix("mpt-") for name in SCRIPTS if name != "mpt"))
def test_help_of_every_command_fits_a_terminal(tmp_path, name):
    text = on_terminal(name, "--help", cwd=tmp_path, columns=70)
    too_long = [line for line in text.splitlines() if len(line) > 70]
    assert not [line for line in too_long if len(line.split()) > 2]
