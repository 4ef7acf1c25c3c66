"""Numba's cache: used, checked, never fatal."""

from __future__ import annotations

import errno

import pytest

pytest.importorskip("numba")
from mpt.search.fast import kept


def twice(x):
    return x + x


@pytest.fixture
def compile_twice(tmp_path, monkeypatch):
    """A function that compiles :func:`twice` as a new process would, calls it, and returns its hits of the cache."""
    from numba import njit
    from numba.core import config

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))

    def compile_and_call():
        dispatcher = njit(nogil=True)(twice)
        dispatcher._cache = kept.KeptLoop(twice)
        assert dispatcher(2.5) == 5.0
        return sum(dispatcher.stats.cache_hits.values())

    return compile_and_call


def files(folder, ending):
    return [path for path in folder.rglob(f"*{ending}") if path.is_file()]


def test_the_second_time_nothing_is_compiled(compile_twice, capsys):
    assert [compile_twice(), compile_twice()] == [0, 1]
    assert capsys.readouterr().err == ""


def test_a_loop_is_compiled_again_when_a_file_beside_it_has_changed(compile_twice, tmp_path, monkeypatch, capsys):
    (beside := tmp_path / "fast").mkdir()
    monkeypatch.setattr(kept, "__file__", str(beside / "kept.py"))
    (beside / "addresses.py").write_text("x = 1")
    assert [compile_twice(), compile_twice()] == [0, 1]
    (beside / "addresses.py").write_text("x = 11")
    (beside / ".#addresses.py").symlink_to("somebody@a-machine")  # as editors lock a file
    assert [compile_twice(), compile_twice()] == [0, 1]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_a_damaged_file_is_made_again_with_a_line_that_names_it(compile_twice, tmp_path, capsys, ending):
    compile_twice()
    (path,) = files(tmp_path, ending)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:middle], whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :]):
        path.write_bytes(damaged)
        assert compile_twice() == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(str(path))
        assert line.endswith("the loop is compiled again")
        assert compile_twice() == 1


def test_a_missing_file_is_made_again_in_silence(compile_twice, tmp_path, capsys):
    compile_twice()
    for ending in (".nbi", ".nbc"):
        files(tmp_path, ending)[0].unlink()
        assert [compile_twice(), compile_twice()] == [0, 1]
    assert capsys.readouterr().err == ""


def test_a_full_disk_costs_a_compilation(compile_twice, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept, "replacing", full)
    assert [compile_twice(), compile_twice()] == [0, 0]
    assert "(No space left on device): they are compiled at each start" in capsys.readouterr().err


def test_whatever_a_whole_file_holds_costs_a_compilation(compile_twice, tmp_path, capsys):
    compile_twice()
    from mpt.files import write_atomically

    write_atomically(files(tmp_path, ".nbc")[0], b"no pickle", seal=True)
    assert compile_twice() == 0
    assert "cannot be used (UnpicklingError" in capsys.readouterr().err
