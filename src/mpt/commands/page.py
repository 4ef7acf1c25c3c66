"""The part of a help text that was asked for, at the width of the terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

from mpt.commands.help import WIDTH

LEAST = 60  # columns; a narrower terminal gets lines that it breaks itself


def show(text: str, arguments: Sequence[str]) -> str:
    """The help ``text`` of a command, or the parts that ``arguments`` name after ``--help``.

    Raises:
        ValueError: the text has no such part.
    """
    flag = next(place for place, argument in enumerate(arguments) if argument in ("-h", "--help"))
    topics = [argument for argument in arguments[flag + 1 :] if not argument.startswith("-") and "=" not in argument]
    parts = [part(text, topic) for topic in topics]
    shown = "\n\n".join(parts) if parts else text
    return fit_terminal(shown)


def part(text: str, topic: str) -> str:
    """The group ``topic`` of a help text, all groups of that first word, or the one parameter of that name.

    Raises:
        ValueError: there is none.
    """
    groups = _groups(text)
    found = ["\n".join(lines) for head, lines in groups if head == topic]
    rows = [line for _, lines in groups for line in lines[1:] if line.split()[:1] == [topic]]
    if not found and not rows:
        heads = " ".join(dict.fromkeys(head for head, _ in groups))
        raise ValueError(f"--help knows no {topic}: name a parameter or one of {heads}")
    return "\n".join([*found, *(rows if not found else [])])


def topics(text: str) -> list[str]:
    """What may follow ``--help``: the groups of a help text, then its parameters."""
    groups = _groups(text)
    rows = [line.split()[0] for _, lines in groups for line in lines[1:]]
    return list(dict.fromkeys([*(head for head, _ in groups), *rows]))


def _groups(text: str) -> list[tuple[str, list[str]]]:
    """The groups of a help text: the first word of each heading, and the heading with its indented lines."""
    groups: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            groups.append((line.replace(",", " ").replace(":", " ").split()[0], [line]))
        elif groups and line.startswith("  "):
            groups[-1][1].append(line)
    return groups


def fit_terminal(text: str) -> str:
    """``text`` at the width of the terminal; as it is in a pipe."""
    return fit(text, columns=shutil.get_terminal_size().columns) if sys.stdout.isatty() else text


def fit(text: str, *, columns: int) -> str:
    """``text`` with long lines broken at ``columns``, and what belongs to a name indented below it."""
    if columns < LEAST:
        return text
    lines = (
        textwrap.wrap(
            line,
            columns,
            subsequent_indent=" " * (WIDTH + 3 if line.startswith("  ") else 0),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.splitlines()
    )
    return "\n".join("\n".join(parts) for parts in lines)
