"""Checks of what a caller hands over, each with one sentence that names the argument. Imports only the library."""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {  # plain hints: in words, and whether a value is one
    "int": ("a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool)),
    "float": ("a number", lambda value: isinstance(value, Real) and not isinstance(value, bool)),
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "str": ("text", lambda value: isinstance(value, str)),
    "Path": ("a path", lambda value: isinstance(value, os.PathLike)),
    "None": ("None", lambda value: value is None),
}


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, with a ValueError for an argument that is not of its hint, if this consists of ``_KINDS``."""
    hints = {name: str(hint).split(" | ") for name, hint in function.__annotations__.items() if name != "return"}
    plain = {name: parts for name, parts in hints.items() if _KINDS.keys() >= set(parts)}
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            given = signature.bind(*arguments, **named).arguments
        except TypeError:
            return function(*arguments, **named)  # Python's own words name the function
        for name, value in given.items():
            if name in plain and not any(_KINDS[part][1](value) for part in plain[name]):
                wanted = ", or ".join(_KINDS[part][0] for part in plain[name])
                raise ValueError(f"{name} must be {wanted}, got {value!r}")
        return function(*arguments, **named)

    return checked


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_number(
    name: str, meaning: str, value: float, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> None:
    """ValueError unless ``value`` is a finite number, at least ``least``, above ``above`` and at most ``most``.

    ``meaning`` says what it is and must be.
    """
    if not is_number(value) or not math.isfinite(value) or not (least <= value <= most and value > above):
        raise ValueError(f"{name} is {meaning}, got {value!r}{_as_number(value)}")


def check_whole(name: str, meaning: str, value: int, *, least: int) -> None:
    """ValueError unless ``value`` is a whole number of at least ``least``; ``meaning`` says what it is."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {meaning} and must be a whole number of at least {least}, got {value!r}")


def check_counts(least: int = 1, **values: int) -> None:
    """ValueError unless each of ``values`` is a whole number of at least ``least``."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_flag(name: str, value: bool) -> None:
    """ValueError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is True or False, got {value!r}")


def is_number(value: object) -> bool:
    """Whether ``value`` is a number of Python, as files and sentences hold them; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_number(value: Any) -> str:
    """What to do with a number of NumPy or torch, which JSON does not know."""
    other = isinstance(value, Real) or (hasattr(value, "item") and getattr(value, "size", None) is not None)
    return "" if isinstance(value, (int, float)) or not other else ": write float(...) around it"


def path_of(name: str, value: str | os.PathLike[str], *, example: str) -> Path:
    """``value`` as a path; ValueError unless it is one, and not empty. ``example`` is one that would do."""
    if not isinstance(value, (str, Path)):
        if not isinstance(value, os.PathLike) or not isinstance(os.fspath(value), str):
            raise ValueError(f"{name} is a path, text or a pathlib.Path as {example!r}, got {type(value).__name__}")
        value = os.fspath(value)
    if not str(value) or "\0" in str(value):
        raise ValueError(f"{name} is a path as {example!r}, got {str(value)!r}")
    return Path(value)
