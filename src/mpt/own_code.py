"""Which errors come from code of the user's own, such as a method or a network, and where."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

_OURS = Path(__file__).parent, Path(__file__).parents[1] / "hydra_plugins"
_INSTALLED = {"site-packages", "dist-packages"}  # names of folders


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


def _is_in(file: Path, *folders: Path) -> bool:
    return any(map(file.is_relative_to, folders))
