"""The README's commands are commands: they parse and compose."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.console import compose

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TEXTS = "\n".join([README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))])
COMMANDS = sorted(set(re.findall(r"(?m)(?:^|`)mpt-train ([^`#\n]*(?:\n[^`#\n]*)?)(?:`|#|$)", TEXTS)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_training_command_composes(command):
    words = [word for word in shlex.split(command.splitlines()[0]) if word not in ("-m", "--help")]
    if words[:1] == ["--config-dir"]:  # a YAML of the reader's own: tests/experiment/test_train.py runs such a one
        words = ["model=conv2"]
    compose(*(word.split(",")[0] for word in words))  # the first value of each axis


def test_the_readme_s_commands_were_found():
    assert any("model=conv6 prune=0.8 width=1.5" in command for command in COMMANDS)
    assert len(COMMANDS) >= 4


def test_the_make_targets_and_files_that_the_readme_names_are_there():
    targets = set(re.findall(r"(?m)^([a-z-]+):.*##", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets
    for path in re.findall(r"\| `((?:src|conf|tests|docs|benchmarks)/[^`]*)`", README):
        assert (ROOT / path).exists(), path
    sources = [path for path in (ROOT / "src" / "mpt").rglob("*.py") if path.name != "__init__.py"]
    assert [path.name for path in sources if f"{path.name}`" not in README] == []
