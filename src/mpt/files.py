"""Write a file whole or not at all; read a file that may be missing; where mpt's own files are, and on what machine."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

PACKAGE = Path(__file__).resolve().parent
HOME = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parents[1]  # in a wheel the package, else the checkout
CONF = HOME / "conf"
DISTRIBUTION = "multiprize"  # the package index's name of mpt
_DAY = 86_400  # seconds; no write takes that long


def version() -> str:
    """Version of the installed mpt. Asking takes a tenth of a second, so a command asks only where it needs it."""
    from importlib import metadata

    return metadata.version(DISTRIBUTION)


def processor() -> str:
    """Name of this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write ``content`` to ``path``; a reader or a later run sees the old file or the new one, never a part."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty if the file is missing, unreadable or holds no JSON object."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces ``path`` if the block succeeds, and is removed if it fails.

    The content goes to ``<name>.<machine>.<process>.part`` in the same folder, which is synced and then renamed. A full
    disk or a missing permission raises OSError, keeps the old file and leaves no part behind. If a writer was killed,
    the next writer of the same file removes its part.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.part")
    _remove_abandoned(path)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.filename == str(part):
            error.filename = str(path)  # the name that the user knows
        raise


def _remove_abandoned(path: Path) -> None:
    """Remove the parts of ``path`` whose process has ended, as far as this machine can tell, or older than a day."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        machine, _, process = part.name.removeprefix(f"{path.name}.").removesuffix(".part").rpartition(".")
        with contextlib.suppress(OSError):  # another process removed it first, or we lack the permission
            here = machine == platform.node() and process.isdigit() and os.name == "posix"
            if (here and not _is_running(int(process))) or time.time() - part.stat().st_mtime > _DAY:
                part.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
