"""Colour, marker and line of each line by its meaning: a variant looks the same in every figure.

Colours are those of Okabe & Ito, which people tell apart whatever colours they see. The papers' variants have theirs;
other methods, your own too, take the next ones in the order of their names. The dense network is grey and dotted.
Lines of one variant, such as its fractions pruned, have its colour in tints, and a marker each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osP^v*X<>"  # the diamond is the dense network's
DENSE = "0.35"
_OF_PAPERS = {  # variant -> place in COLORS, marker
    "MPT-1/32": (0, "o"),
    "MPT-1/1": (1, "s"),
    "edge-popup": (2, "^"),
    "MPT-1/32+BN": (0, "P"),
    "MPT-1/1+BN": (1, "X"),
    "edge-popup 1/1": (2, "v"),
}
STYLES: dict[str, dict[str, Any]] = {  # of matplotlib, on a screen and in a column of a paper
    "screen": {"lines.markersize": 4.5, "legend.fontsize": 9},
    "paper": {
        **{"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7.5, "figure.titlesize": 8},
        **{"xtick.labelsize": 7, "ytick.labelsize": 7, "lines.linewidth": 1, "lines.markersize": 3},
        **{"axes.linewidth": 0.6, "savefig.dpi": 300, "pdf.fonttype": 42},
    },
}
COLUMN = 3.3  # inches, of a paper's column


@dataclass(frozen=True)
class Mark:
    """How a line looks; ``line`` is a line style of matplotlib."""

    color: Any
    marker: str
    line: Any


def marks(kinds: Mapping[str, str]) -> dict[str, Mark]:
    """Label -> its mark.

    Args:
        kinds: label of each line, in the order of the legend -> what gives it its colour: its variant, or itself.
    """
    numbers = places(kinds.values())
    found = {}
    for label, kind in kinds.items():
        siblings = [other for other, of in kinds.items() if of == kind]
        rank = siblings.index(label)
        if kind == "dense":
            found[label] = Mark(_tint(DENSE, rank, len(siblings)), "D", ":")
            continue
        place, marker = _OF_PAPERS.get(kind) or _next(numbers[kind])
        marker = MARKERS[rank % len(MARKERS)] if len(siblings) > 1 else marker
        found[label] = Mark(_tint(COLORS[place], rank, len(siblings)), marker, "-")
    return found


def places(kinds: Iterable[str]) -> dict[str, int]:
    """Kind -> the number of its colour, without the dense network; kinds that no paper has take the next numbers."""
    known = {*kinds} - {"dense"}
    others = sorted(known - {*_OF_PAPERS})
    first = max((3, *(1 + _OF_PAPERS[kind][0] for kind in known if kind in _OF_PAPERS))) if known - {*others} else 0
    return {kind: _OF_PAPERS[kind][0] for kind in known if kind in _OF_PAPERS} | {
        kind: first + rank for rank, kind in enumerate(others)
    }


def _next(number: int) -> tuple[int, str]:
    return number % len(COLORS), MARKERS[number % len(MARKERS)]


def _tint(color: str, rank: int, count: int) -> Any:
    """``color``, lighter for the later ones of several lines."""
    from matplotlib.colors import to_rgb

    if count < 2:
        return color
    share = 0.65 * rank / (count - 1)
    return tuple(round(1 - (1 - part) * (1 - share), 4) for part in to_rgb(color))
