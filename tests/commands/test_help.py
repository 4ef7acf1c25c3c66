from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest

from mpt.commands import help
from mpt.commands.schemas import BenchSettings, EvalSettings, ImportSettings, ReportSettings
from mpt.run.settings import FinetuneSettings, Settings, dials
from tests.console import SCRIPTS, command

HELP = """
import contextlib, importlib, io, sys
for script in sys.argv[1:]:
    module, function = script.split(":")
    sys.argv = ["mpt", "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        getattr(importlib.import_module(module), function)()
    assert text.getvalue().count("\\n") > 1, script
sys.exit(", ".join({"hydra", "omegaconf", "torch", "numpy", "lightning", "pandas"} & set(sys.modules)) or 0)
"""
CONFIGURATION = """
import sys
from mpt.commands.cli import train
sys.argv = ["mpt-train", "--cfg", "job"]
train()
sys.exit("torch" in sys.modules)
"""


def test_help_imports_neither_hydra_nor_torch():
    scripts = [script for script in SCRIPTS.values() if script.startswith("mpt.commands.cli:")]
    assert len(scripts) == 11
    done = subprocess.run([sys.executable, "-c", HELP, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_printed_configuration_needs_no_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURATION], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "prune: 0.5" in done.stdout


def names(text):
    """Names in the left column of a help text."""
    return {line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.split()}


@pytest.mark.parametrize(("name", "schema"), [("train", Settings), ("finetune", FinetuneSettings)])
def test_help_of_a_run_lists_every_option_of_its_settings_and_no_input(tmp_path, name, schema):
    text = command(name, "--help", cwd=tmp_path).stdout
    searched_with = {f.name for f in fields(schema) if name == "finetune" and f.metadata["search"]}
    options = {key for key, f in dials(schema) if f.metadata["of"] != "input"} - searched_with - {"model", "method"}
    assert options <= names(text)
    assert not {"data_checksum", "distill_checksum", "ticket_digest", *searched_with} & names(text)


@pytest.mark.parametrize(
    ("text", "schemas"),
    [(help.evaluate, [EvalSettings]), (help.ticket, [ReportSettings, BenchSettings, ImportSettings])],
)
def test_help_of_a_ticket_s_commands_lists_every_option(text, schemas):
    options = {f.name for schema in schemas for f in fields(schema) if f.name != "data"}
    assert options <= names(text())


def test_defaults_and_ranges_are_printed_as_they_are_typed():
    lines = {line.split()[0]: line for line in help.train().splitlines() if line.startswith("  ") and line.split()}
    assert lines["prune"].endswith("fraction of the weights removed; must be in [0, 1) [0.5]")
    assert lines["learn_batchnorm"].endswith("[false]")
    assert lines["budget"].endswith("[null]")


def test_every_option_of_a_group_shows_its_default():
    lines = {line.split()[0]: line for line in help.train().splitlines() if line.startswith("  ") and line.split()}
    defaults = {"optim.lr": "0.1", "optim.nesterov": "false", "method.score_grad": "weight", "trainer.devices": "auto"}
    for name, default in defaults.items():
        assert lines[name].endswith(f" [{default}]"), lines[name]
    groups = ("optim.", "trainer.", "logger.", "method.")
    assert all(line.endswith("]") for name, line in lines.items() if name.startswith(groups))
