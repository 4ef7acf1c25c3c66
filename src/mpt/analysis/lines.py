"""A line of a panel: the points of one setting, with the lowest and highest seed of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Line:
    """One line of a panel, in the units of the axes; ``across`` draws it horizontally over the whole panel.

    ``kind`` gives it its colour: its variant, or ``dense``, or else its label.
    """

    label: str
    x: list[Any]
    mean: list[float]
    lowest: list[float]
    highest: list[float]
    n: list[int]
    kind: str
    across: bool = False
