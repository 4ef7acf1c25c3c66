"""Checks of what a caller hands over, each with one sentence that names the argument. Imports only the library."""

from __future__ import annotations

import functools
import inspect
import math
import os
import sys
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, each argument :func:`of_kind` its hint, if this consists of ``_KINDS``."""
    hints = {name: str(hint).split(" | ") for name, hint in function.__annotations__.items() if name != "return"}
    plain = {name: parts for name, parts in hints.items() if _KINDS.keys() >= set(parts)}
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            given = signature.bind(*arguments, **named)
        except TypeError:
            return function(*arguments, **named)  # Python's own words name the function
        for name, value in given.arguments.items():
            if name in plain:
                given.arguments[name] = of_kind(name, value, *plain[name])
        return function(*given.args, **given.kwargs)

    return checked


def of_kind(name: str, value: Any, *kinds: str) -> Any:
    """``value`` as Python has it; ValueError unless it is of one of ``kinds``, keys of ``_KINDS``.

    A number of NumPy or torch becomes one of Python, 4.0 a whole number where one is needed, and 0 or 1 a flag.
    """
    for kind in kinds:
        _, convert, is_one = _KINDS[kind]
        if is_one(own := convert(value)):
            return own
    raise ValueError(f"{name} must be {', or '.join(_KINDS[kind][0] for kind in kinds)}, got {value!r}")


def of_python(value: Any) -> Any:
    """``value`` as Python has it, if it is one number or flag of NumPy or torch, or a fraction; else itself."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, Integral) else value


def is_whole(value: object) -> bool:
    """Whether ``value`` is a whole number of Python, as files hold them; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether ``value`` is a number of Python, as files and sentences hold them; True and False are none."""
    return is_whole(value) or isinstance(value, float)


def _whole(value: Any) -> Any:
    own = of_python(value)
    return int(own) if isinstance(own, float) and own.is_integer() else own


def _flag(value: Any) -> Any:
    own = of_python(value)
    return bool(own) if is_number(own) and own in (0, 1) else own


def _itself(value: Any) -> Any:
    return value


# plain hints: in words, what a value becomes, and whether that is one
_KINDS: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], bool]]] = {
    "int": ("a whole number", _whole, is_whole),
    "float": ("a number", of_python, is_number),
    "bool": ("True or False", _flag, lambda value: isinstance(value, bool)),
    "str": ("text", _itself, lambda value: isinstance(value, str)),
    "Path": ("a path", _itself, lambda value: isinstance(value, os.PathLike)),
    "None": ("None", _itself, lambda value: value is None),
}


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
    if not is_number(value) or not (least <= value <= most and value > above and abs(value) <= sys.float_info.max):
        advice = "" if is_number(value) or not is_number(of_python(value)) else ": write float(...) around it"
        raise ValueError(f"{name} is {meaning}, got {value!r}{advice}")


def check_whole(name: str, meaning: str, value: int, *, least: int) -> None:
    """ValueError unless ``value`` is a whole number of at least ``least``; ``meaning`` says what it is."""
    if not is_whole(value) or value < least:
        advice = "" if is_whole(value) or not is_whole(_whole(value)) else ": write int(...) around it"
        raise ValueError(f"{name} is {meaning} and must be a whole number of at least {least}, got {value!r}{advice}")


def check_least(least: int = 1, **values: int) -> None:
    """ValueError unless each of ``values``, whole numbers, is at least ``least``."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def path_of(name: str, value: str | os.PathLike[str], *, example: str) -> Path:
    """``value`` as a path; ValueError unless it is one, and not empty. ``example`` is one that would do."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise ValueError(f"{name} is a path, text or a pathlib.Path as {example!r}, got {type(value).__name__}")
    if not text or "\0" in text:
        raise ValueError(f"{name} is a path as {example!r}, got {text!r}")
    return Path(text)
