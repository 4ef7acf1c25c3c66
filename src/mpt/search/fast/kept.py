"""Numba's cache of compiled loops on disk, sealed: what is damaged is compiled again, and no cache ends a run.

Numba reads its cache with pickle and checks nothing: a file that was cut short raises at every later start, and one
with a flipped bit computes something else.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from mpt.files import DamagedError, check_seal, replacing

_numba: Any = import_module("numba.core.caching")  # its types say little


class SealedFiles(_numba.IndexDataCacheFile):  # type: ignore[misc]
    """The index and the code of one loop, in sealed files with numba's names and content."""

    def _open_for_write(self, filepath: str) -> AbstractContextManager[BinaryIO]:
        return replacing(filepath, seal=True)

    def _load_index(self) -> Any:
        try:
            check_seal(self._index_path)
        except FileNotFoundError:
            return {}
        except (OSError, DamagedError) as error:
            _say(f"{error}: the loop is compiled again")
            with suppress(OSError):
                Path(self._index_path).unlink()
            return {}
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        try:
            check_seal(self._data_path(name))
        except DamagedError as error:
            _say(f"{error}: the loop is compiled again")
            raise OSError(str(error)) from error  # which numba takes for a missing file
        return super()._load_data(name)


class KeptLoop(_numba.FunctionCache):  # type: ignore[misc]
    """The cache of one loop. An error in it costs a compilation.

    Raises:
        RuntimeError: numba can write to no directory.
    """

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self._cache_file = SealedFiles(self._cache_path, self._impl.filename_base, _stamp(loop))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # of pickle, or of code that this numba cannot take
            _say(f"the compiled loop in {self._cache_path} cannot be used ({error!r}): it is compiled again")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            reason = error.strerror or error
            _say(f"compiled loops cannot be kept in {self._cache_path} ({reason}): they are compiled at each start")
            self.disable()


def _stamp(loop: Any) -> tuple[tuple[str, float, int], ...]:
    """Names, times and sizes of the files beside that of ``loop`` and beside this one, whose functions are in its code.

    Numba alone would look at the loop's own file.
    """
    folders = {Path(loop.__code__.co_filename).parent, Path(__file__).parent}
    paths = [path for folder in sorted(folders) for path in sorted(folder.glob("*.py")) if path.is_file()]
    return tuple((path.name, path.stat().st_mtime, path.stat().st_size) for path in paths)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
