from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from tests.console import SCRIPTS, command


def mpt(*arguments, cwd, check=True):
    """``mpt ...`` in this process."""
    from unittest import mock

    with mock.patch.dict(SCRIPTS, {"mpt-": SCRIPTS["mpt"]}):
        return command("", *arguments, cwd=cwd, check=check)


def test_mpt_lists_every_command(tmp_path):
    text = mpt(cwd=tmp_path).stdout
    assert all(f"  {name} " in text for name in SCRIPTS if name.startswith("mpt-"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["method", "model"])
def test_a_new_method_or_model_passes_its_test_and_is_found_by_name(tmp_path, kind):
    said = mpt("new", kind, f"my_{kind}", cwd=tmp_path).stdout
    test = [sys.executable, "-m", "pytest", "-q", f"test_my_{kind}.py"]
    done = subprocess.run(test, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    words = said.splitlines()[-1].split()[1:]
    script = [sys.executable, "-m", "mpt.commands.cli", *words, "width=0.1", "epochs=1", "hydra.run.dir=run"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "ticket.safetensors").is_file()
    evaluate = next(line.split(None, 1)[1] for line in done.stdout.splitlines() if line.startswith("evaluate"))
    shown = command("eval", *shlex.split(evaluate)[1:], cwd=tmp_path)
    assert shown.stdout.startswith(done.stdout[done.stdout.index("accuracy  ") :][:17])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("old", "method", "x"), "mpt knows new and completion, got old"),
        (("new",), "say what to write: mpt new method NAME"),
        (("new", "recipe", "x"), "say what to write"),
        (("new", "method", "My-Method"), "the name of a method is that of a Python module"),
        (("new", "model", "class"), "the name of a model is that of a Python module"),
        (("new", "method", "taken"), "taken.py is there already"),
        (("new", "method", "edge_popup"), "edge_popup is a method or a Python module already"),
        (("new", "model", "conv2"), "conv2 is a model or a Python module already"),
        (("new", "method", "random"), "choose another name, as my_random"),
        (("new", "model", "torch"), "choose another name, as my_torch"),
        (("new", "method", "größe"), "the name of a method is that of a Python module"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_sentence(tmp_path, arguments, sentence):
    (tmp_path / "taken.py").touch()
    done = mpt(*arguments, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken.py"]
