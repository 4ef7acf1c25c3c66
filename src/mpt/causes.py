"""Causes of an error: code of the user's own, such as a method or a network, or want of memory."""

from __future__ import annotations

import os
import re
import traceback
from pathlib import Path

_OURS = Path(__file__).parent, Path(__file__).parents[1] / "hydra_plugins"
_INSTALLED = {"site-packages", "dist-packages"}  # names of folders
_NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory|Storage size calculation overflowed")


def place_in_own_code(error: BaseException) -> str | None:
    """The line of the user's own code that raised ``error`` or called what raised it; None if none did.

    What mpt raises below such code is the user's mistake only where it may come from what that code handed over: a
    RuntimeError of torch, or a TypeError. All else is ours, such as an ``assert``, or the end of a command.
    """
    frames = [(Path(frame.f_code.co_filename), line, frame) for frame, line in traceback.walk_tb(error.__traceback__)]
    if frames and _is_in(frames[-1][0], *_OURS) and not isinstance(error, (RuntimeError, TypeError)):
        return None
    for file, line, frame in reversed(frames):
        installed = _INSTALLED.intersection(file.parts) or _is_in(file, *_OURS, Path(os.__file__).parent)
        if file.suffix == ".py" and not installed:
            return f"line {line} of {file.name}, in {frame.f_code.co_name}"
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """True if the memory of the machine or of a GPU did not suffice."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))


def _is_in(file: Path, *folders: Path) -> bool:
    return any(map(file.is_relative_to, folders))
