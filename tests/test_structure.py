"""The architecture: a room imports only the rooms below it, no file imports in a circle, and light rooms stay light."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mpt

PACKAGE, TESTS = Path(mpt.__file__).parent, Path(__file__).parent
GROUND = {
    "causes",
    "words",
    "errors",
    "files",
    "phases",
    "processes",
    "schema",
    "signals",
    "startup",
    "streams",
    "values",
}  # at the top, below every room
SHARED = GROUND - {"startup"}  # which is the commands' alone
ALLOWED = {  # room -> the rooms and ground-floor files that it may import besides itself, from the bottom up
    "backbones": {"files", "values"},
    "search": {"causes", "files", "streams", "words", "values"},
    "data": {"files", "phases", "schema", "streams", "words", "values"},
    "run": {"errors", "files", "processes", "schema", "signals", "words"},
    "analysis": {"run", "files", "schema"},
    "ticket": {"causes", "search", "backbones", "data", "files", "schema", "streams", "values"},
    "engine": {"ticket", "search", "files", "values"},
    "theory": {"ticket", "analysis", "data", "search", "backbones", "files", "phases", "words", "values"},
    "pages": {"engine", "ticket", "analysis", "run", "files", "schema", "words"},
    "experiment": {"pages", "ticket", "run", "data", "search", "backbones", *SHARED},
    "multirun": {"experiment", "pages", "run", "data", *SHARED},
    "commands": {
        "multirun",
        "experiment",
        "pages",
        "engine",
        "theory",
        "ticket",
        "analysis",
        "run",
        "data",
        "search",
        "backbones",
        *SHARED,
        "startup",
    },
}
LIBRARIES = {  # of the rooms that must stay light: what they import beyond the standard library
    "search": {"llvmlite", "numba", "numpy", "torch", "triton"},
    "engine": {"llvmlite", "numpy", "onnx", "torch"},
    "analysis": {"matplotlib", "numpy", "pandas"},
    "pages": {"PIL", "jinja2", "numpy", "pandas", "yaml"},
    "run": {"hydra", "omegaconf", "yaml", "torch"},  # torch in two functions that count devices
}
HEAVY = {"lightning", "hydra", "omegaconf", "pandas", "wandb"}


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


@functools.cache
def imports(path):
    """Every module that a file imports, at its top, inside a function, or for types alone."""
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if name in MODULES else node.module for name in inner]
    return found


def libraries(room):
    """Top-level names of what the files of a room import."""
    return {module.split(".")[0] for path in (PACKAGE / room).rglob("*.py") for module in imports(path)}


def test_every_room_is_listed():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and list(path.glob("*.py"))} == set(ALLOWED)
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == GROUND


def test_no_room_imports_upwards():
    order = list(ALLOWED)
    for room, below in ALLOWED.items():
        assert below - GROUND <= set(order[: order.index(room)]), room


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_the_rooms_below_it(room):
    for path in (PACKAGE / room).rglob("*.py"):
        ours = {module.split(".")[1] for module in imports(path) if module.startswith("mpt.")}
        assert ours <= ALLOWED[room] | {room}, path
        assert "mpt" not in imports(path) or room in ("experiment", "commands"), path


def test_ground_floor_files_import_no_room():
    floor = {f"mpt.{name}" for name in GROUND}
    for name in GROUND:
        ours = {
            ".".join(module.split(".")[:2]) for module in imports(PACKAGE / f"{name}.py") if module.startswith("mpt")
        }
        assert ours <= floor, name


def test_no_file_imports_in_a_circle():
    graph = {name: set(imports(path)) & MODULES.keys() - {"mpt"} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


def test_the_circle_check_finds_a_circle():
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


def test_no_room_is_above_22_percent_of_the_lines():
    lines = {room: sum(len(p.read_text().splitlines()) for p in (PACKAGE / room).rglob("*.py")) for room in ALLOWED}
    assert max(lines.values()) <= 0.22 * sum(lines.values()), lines


def test_no_file_is_above_300_lines():
    assert not [path for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > 300]


@pytest.mark.parametrize("room", LIBRARIES)
def test_a_light_room_needs_no_more_libraries(room):
    assert libraries(room) - set(sys.stdlib_module_names) - {"mpt"} <= LIBRARIES[room]


@pytest.mark.slow
@pytest.mark.parametrize("room", ["search", "backbones", "data", "ticket", "engine", "theory"])
def test_rooms_for_other_programs_need_no_framework(room):
    assert not libraries(room) & HEAVY


def test_one_run_before_torch_imports_no_torch():
    names = sorted(name for name in MODULES if name.startswith(("mpt.run", "mpt.analysis")))
    code = f"import sys, importlib; [importlib.import_module(n) for n in {names}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
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


def test_every_file_begins_with_a_sentence_that_says_what_it_is():
    for path in MODULES.values():
        text = ast.get_docstring(parsed(path))
        assert text, path
        assert text.splitlines()[0][0].isupper() or text.startswith(("mpt", "`", "One")), path


COVERED_BY_OTHERS = {  # source files that have no test file of their name: the list only gets shorter
    *("engine/code", "engine/graph", "engine/layout", "engine/lists", "engine/moves", "engine/plan", "engine/program"),
    *("engine/rules", "analysis/claims", "analysis/figures", "commands/schemas", "data/augment"),
    *("multirun/tuning", "search/conversion", "search/fast/threshold"),
    "search/trace",
}


def test_test_files_mirror_source_files():
    sources = {str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py")}
    tests = {
        path.relative_to(TESTS) for path in TESTS.rglob("test_*.py") if path.parent.name not in ("golden", "slurm")
    }
    tested = {str(path.parent / path.stem.removeprefix("test_")) for path in tests}
    assert {name for name in tested if "/" in name} <= sources
    assert {name for name in sources - tested if not name.endswith("__init__")} == COVERED_BY_OTHERS
