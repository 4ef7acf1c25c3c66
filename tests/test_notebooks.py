"""The notebooks run from top to bottom on the committed tables, and are committed with the outputs of that."""

from __future__ import annotations

import ast
import re

import nbformat
import pytest
from notebooks import make

NOTEBOOKS = make.notebooks()
MOST = 300_000  # bytes of a notebook
PATH = re.compile(r"(?<![\w.<])/(?:[\w.-]+/)+[\w.-]*|\b[A-Z]:\\\\")  # an absolute path, in text without pictures


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


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """What the outputs of a cell say, without pictures."""
    for output in cell.outputs:
        yield from (text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))
        yield output.get("text", "")


def kinds(cell):
    """The kinds of outputs of a cell, in their order."""
    return [sorted(output.get("data", [output.output_type])) for output in make.joined(cell.outputs)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_no_function_and_searches_in_python(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code_cells(notebook):
        assert not any(isinstance(node, ast.FunctionDef) for node in ast.walk(ast.parse(python(cell)))), cell.source
        assert "mpt-train" not in cell.source
    assert "from mpt import analysis" in "".join(cell.source for cell in code_cells(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_outputs_that_name_no_machine(path):
    assert path.stat().st_size < MOST
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))  # from top to bottom, at once
    assert sum(bool(cell.outputs) for cell in cells) > len(cells) / 2
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    for cell in cells:
        assert "execution" not in cell.metadata
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
        for text in texts(cell):
            plain = re.sub(r"base64,[^\"]*", "", text)
            assert not PATH.search(plain), PATH.search(plain)
            assert "\x1b" not in plain
            assert "mpt-eval:" not in plain  # the error of a command starts with its name
            assert not re.search(r"images/s| left$| at 0x[0-9a-f]+", plain, re.MULTILINE)


def test_noise_is_what_differs_between_machines_and_moments():
    line = "epoch   3/20  loss 0.5  train/acc  96.20 %  flips 0.55 %"
    assert make.without_noise(f"{line}  12,345 images/s  2 minutes 1 second left\nnext") == f"{line}\nnext"
    assert make.without_noise(f"{line}  45 images/s") == line
    assert make.without_noise("a\ntime        about 9 seconds for 9 epochs\nb") == "a\nb"
    assert make.without_noise("device      cpu, 1 process, 32-true (native bf16: faster)") == (
        "device      cpu, 1 process, 32-true"
    )


@pytest.mark.slow
@pytest.mark.timeout(900)  # training, and one import of torch per command, on a machine that may be busy
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom_and_shows_what_is_committed(path, monkeypatch):
    for name, value in make.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)  # so that they are as before afterwards
    committed = code_cells(nbformat.read(path, as_version=4))
    notebook = make.execute(path)
    make.clean(notebook)
    for cell, before in zip(code_cells(notebook), committed, strict=True):
        assert kinds(cell) == kinds(before), cell.source
        assert "mpt-eval:" not in "".join(texts(cell)), cell.outputs
