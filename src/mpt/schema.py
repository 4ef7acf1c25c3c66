"""What a file says is data: read within bounds, held against types, and escaped when printed.

Every file that mpt reads back goes through this module: ticket headers, results, settings, metrics, reports, lists of
runs, descriptions of caches. Depth, size and numbers are bounded before anything uses them.
"""

from __future__ import annotations

import functools
import json
import math
import os
import stat
import types
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

MAX_BYTES = 2**26  # of a text file that is read whole
MAX_DEPTH = 32  # of lists and objects in one another
MAX_NAME = 1000  # characters of a name
MAX_TEXT = 10_000  # characters of any other text
MAX_DIGITS = 20  # of a whole number
SHOWN = 60  # characters of a foreign name that are printed


def read_text(path: Path, *, most: int = MAX_BYTES) -> str:
    """The text of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, larger than ``most`` bytes, or not UTF-8.
    """
    with open(
        path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
    ) as file:  # or a pipe would wait
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is not a regular file")
        if about.st_size > most:
            raise ValueError(f"it is larger than {most:,} bytes")
        content = file.read(most)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from error


def parse(text: str | bytes, *, finite: bool = True) -> Any:
    """The JSON value of ``text``.

    Args:
        text: of any length.
        finite: refuse numbers that are not finite; else they are None.

    Raises:
        ValueError: no JSON, nested deeper than ``MAX_DEPTH``, or a number that is not finite or too long.
    """

    def constant(name: str) -> None:
        if finite:
            raise ValueError(f"{name} is not a number of JSON")

    def number(digits: str) -> float | None:
        value = float(digits)
        if not math.isfinite(value):
            return constant(digits[:SHOWN])  # type: ignore[func-returns-value]
        return value

    try:
        value = json.loads(text, parse_constant=constant, parse_float=number, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error})") from error
    check_depth(value)
    return value


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"{digits[:SHOWN]} has more than {MAX_DIGITS} digits")
    return int(digits)


def check_depth(value: Any) -> None:
    """ValueError if lists and objects are nested deeper than ``MAX_DEPTH``."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ValueError("it is nested too deep")


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def read_json(path: Path, *, most: int = MAX_BYTES) -> Any:
    """The JSON value in a file; OSError and ValueError as :func:`read_text` and :func:`parse`."""
    return parse(read_text(path, most=most))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty if the file is missing, unreadable or holds no JSON object."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_int(value: Any, least: int, below: float) -> bool:
    """Whether ``value`` is a whole number in [least, below)."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < below


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number; a whole one of at most 64 bits."""
    return math.isfinite(value) if isinstance(value, float) else is_int(value, -(2**63), 2**64)


def is_text(value: Any, *, most: int = MAX_NAME) -> bool:
    """Whether ``value`` is a text of at most ``most`` characters."""
    return isinstance(value, str) and len(value) <= most


def fits(value: Any, hint: Any) -> bool:
    """Whether ``value``, from a file, is of the type that ``hint`` annotates.

    Known are None, bool, int, float (whole numbers too), str, Any (plain JSON), lists, dictionaries with names as keys,
    unions, and dataclasses as dictionaries: each field that is there must fit, further entries must be plain.
    """
    return _check_of(hint)(value)


@functools.cache
def _check_of(hint: Any) -> Callable[[Any], bool]:
    """What :func:`fits` asks of a value for this ``hint``, which is taken apart once."""
    if hint in _CHECKS:
        return _CHECKS[hint]
    if is_dataclass(hint):
        return lambda value: isinstance(value, dict) and not misfits(value, hint)
    origin, inner = get_origin(hint), [_check_of(kind) for kind in get_args(hint)]
    if origin in (Union, types.UnionType):
        return lambda value: any(check(value) for check in inner)
    if origin is list:
        return lambda value: isinstance(value, list) and all(map(inner[0], value))
    assert origin is dict, hint
    return lambda value: isinstance(value, dict) and all(map(is_text, value)) and all(map(inner[1], value.values()))


def misfits(content: dict[Any, Any], schema: Any) -> list[str]:
    """The entries of ``content`` that do not fit the fields of the dataclass ``schema``, as ``key is value``."""
    hints = _hints(schema)
    wrong = {key for key, value in content.items() if not (is_text(key) and fits(value, hints.get(key, Any)))}
    return [f"{printable(key)} is {printable(value)}" for key, value in content.items() if key in wrong]


@functools.cache
def _hints(schema: Any) -> dict[str, Any]:
    return get_type_hints(schema)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(is_text, value)) and all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool) or is_number(value) or is_text(value, most=MAX_TEXT)


_CHECKS: dict[Any, Callable[[Any], bool]] = {
    None: lambda value: value is None,
    type(None): lambda value: value is None,
    bool: lambda value: isinstance(value, bool),
    int: lambda value: is_int(value, -(2**63), 2**64),
    float: is_number,
    str: lambda value: is_text(value, most=MAX_TEXT),
    Any: _is_plain,
}


def printable(value: Any, most: int = SHOWN) -> str:
    """``value`` as text for a terminal: what is not printable is escaped, and what is longer than ``most`` is cut."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= most else f"{text[:most]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
