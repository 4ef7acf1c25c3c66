"""Writing a file whole or not at all, reading one that may be absent, and where mpt's own files are."""

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
_DAY = 86_400  # seconds; nothing takes that long to write


def version() -> str:
    """Version of the installed mpt. Asking takes a tenth of a second, so a command asks only where it needs it."""
    from importlib import metadata

    return metadata.version(DISTRIBUTION)


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that a reader, or a later run, sees the old file or the new one, never half."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty if there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` when the block ends well, and vanishes when it does not.

    Written beside itself as ``<name>.<machine>.<process>.part``, synced and renamed. A full disk or a missing right
    raises OSError, leaves the old file as it was and no part behind. A part whose writer was killed is removed by the
    next writer of the same file.
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
            error.filename = str(path)  # what the user knows
        raise


def _remove_abandoned(path: Path) -> None:
    """Remove the parts of ``path`` whose process is known to be gone, or that are older than a day."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        machine, _, process = part.name.removeprefix(f"{path.name}.").removesuffix(".part").rpartition(".")
        with contextlib.suppress(OSError):  # another process was faster, or may and we may not
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
