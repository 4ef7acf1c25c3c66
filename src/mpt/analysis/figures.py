"""The figures of the papers as data: what is drawn over what, in which panels, from which runs.

``prune`` and accuracies are fractions in the table and percent on the axes. ``fig1`` to ``fig5`` are those of
Diffenderfer & Kailkhura, *Multi-Prize Lottery Ticket Hypothesis* (2021); ``power`` to ``zero_kernels`` those of Cheng et
al., *Efficient Multi-Prize Lottery Tickets*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        title: what it shows.
        x: column of the horizontal axis; text is drawn as bars.
        y: columns of the vertical axis; several give a row of panels each.
        hue: columns whose values tell the lines apart.
        panel: columns whose values tell the panels apart.
        where: values that a run's columns must have.
        apart: further columns whose values make points of their own, not lines.
        joined: whether the points of a line are joined.
        log: logarithmic horizontal axis.
        rows: what a row of the table is: ``runs``, or ``epochs`` of runs.
        published: the tables of published.csv whose rows stand beside it with ``--published``.
    """

    title: str
    x: str
    y: tuple[str, ...] = ("test_acc",)
    hue: tuple[str, ...] = ("variant",)
    panel: tuple[str, ...] = ("model",)
    where: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    apart: tuple[str, ...] = ()
    joined: bool = True
    log: bool = False
    rows: str = "runs"
    published: tuple[str, ...] = ()


def _variants(*names: str) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({"variant": names})


FIGURES = {
    "fig1": Figure(
        "Accuracy against size",
        x="num_kept",
        panel=("data",),
        apart=("model", "width", "prune"),
        joined=False,
        log=True,
        published=("table1", "table3"),
    ),
    "fig2": Figure("Depth and pruning rate", x="prune", where=_variants("MPT-1/32", "MPT-1/1", "dense")),
    "fig3": Figure("Width, MPT-1/32", x="width", hue=("variant", "prune"), where=_variants("MPT-1/32", "dense")),
    "fig4": Figure("Width, MPT-1/1", x="width", hue=("variant", "prune"), where=_variants("MPT-1/1", "dense")),
    "fig5": Figure("biprop and edge-popup", x="prune", where=_variants("MPT-1/32", "edge-popup", "dense")),
}
