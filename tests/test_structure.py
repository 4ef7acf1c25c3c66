"""The architecture: imports point one way, and what must be light is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mpt

PACKAGE = Path(mpt.__file__).parent
HEAVY = {"lightning", "hydra", "omegaconf", "pandas", "wandb"}
ALLOWED = {
    "search": {"search"},
    "backbones": {"backbones"},
    "data": {"data", "files", "search"},  # of search the random streams
    "analysis": {"analysis", "files"},
    "ticket": {"ticket", "search", "backbones", "files"},
    "engine": {"engine", "files"},  # the rest by its public names
}


def imported(path):
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" if node.module == "mpt" else node.module for alias in node.names)


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_point_one_way(room):
    files = list((PACKAGE / room).glob("*.py"))
    assert files
    for path in files:
        modules = set(imported(path))
        assert not {module.split(".")[0] for module in modules} & (
            HEAVY - ({"pandas"} if room == "analysis" else set())
        ), path
        ours = {module.split(".")[1] for module in modules if module.startswith("mpt.")}
        assert ours <= ALLOWED[room], path


def test_one_run_knows_nothing_of_many():
    for path in (PACKAGE / "experiment").glob("*.py"):
        if path.name != "cli.py":  # the commands begin there
            assert not [module for module in imported(path) if module.startswith("mpt.multirun")], path


def test_the_analysis_needs_no_torch():
    modules = {module.split(".")[0] for path in (PACKAGE / "analysis").glob("*.py") for module in imported(path)}
    assert modules - set(sys.stdlib_module_names) == {"matplotlib", "mpt", "numpy", "pandas"}


def test_the_algorithm_needs_torch_numpy_and_numba_only():
    modules = {module.split(".")[0] for path in (PACKAGE / "search").glob("*.py") for module in imported(path)}
    assert modules - set(sys.stdlib_module_names) == {"torch", "numpy", "numba", "mpt"}


def test_the_engine_needs_torch_numpy_and_llvmlite_only():
    modules = {module.split(".")[0] for path in (PACKAGE / "engine").glob("*.py") for module in imported(path)}
    assert modules - set(sys.stdlib_module_names) == {"torch", "numpy", "llvmlite", "mpt"}


def test_numba_is_imported_by_the_first_large_layer_and_not_before():
    code = """
import sys, torch, mpt
mpt.convert(torch.nn.Linear(8, 8), mpt.Biprop(prune=0.5))(torch.zeros(1, 8))
assert "numba" not in sys.modules
mpt.convert(torch.nn.Linear(256, 256), mpt.Biprop(prune=0.5))(torch.zeros(1, 256))
assert "numba" in sys.modules
"""
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def test_importing_mpt_imports_neither_torch_nor_numpy():
    code = "import sys, mpt; sys.exit(bool({'torch', 'numpy', 'lightning'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there():
    for name in mpt.__all__:
        assert getattr(mpt, name) is not None
    assert set(mpt.__all__) <= set(dir(mpt))
    assert mpt.__version__


def test_test_files_mirror_source_files():
    tests = Path(__file__).parent
    for path in tests.rglob("test_*.py"):
        room = path.parent.relative_to(tests)
        if str(room) not in (".", "golden"):
            assert (PACKAGE / room / path.name.removeprefix("test_")).is_file(), path
