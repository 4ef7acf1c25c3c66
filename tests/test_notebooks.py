"""The notebooks run from top to bottom on the committed tables, and are committed without outputs."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # mpt-train of this environment
    "CUDA_VISIBLE_DEVICES": "",
    "WANDB_MODE": "disabled",
}


def python(cell):
    """The cell without IPython's own lines."""
    return "\n".join(line for line in cell.source.splitlines() if not line.startswith(("!", "%")))


def test_the_six_notebooks_have_their_names():
    assert [path.stem for path in NOTEBOOKS] == [
        "1_first_ticket",
        "2_prune_curves",
        "3_width",
        "4_inside_a_ticket",
        "5_comparing_methods",
        "6_why_tickets_exist",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_and_defines_no_function(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code:
        assert not cell.outputs, cell.source
        assert cell.execution_count is None
        assert not any(isinstance(node, ast.FunctionDef) for node in ast.walk(ast.parse(python(cell)))), cell.source
    assert "from mpt import analysis" in "".join(cell.source for cell in code)


@pytest.mark.slow
@pytest.mark.timeout(900)  # training, and one import of torch per command, on a machine that may be busy
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, monkeypatch):
    from nbclient import NotebookClient

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    pictures = [
        o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})
    ]
    assert pictures
    output = "".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)
    assert "mpt-train:" not in output, output  # the error of a command starts with its name
    assert "mpt-eval:" not in output, output
