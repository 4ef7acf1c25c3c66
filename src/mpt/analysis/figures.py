"""The figures of the papers as data: axes, panels, and the runs that they show.

``prune`` and accuracies are fractions in the table and percent on the axes. ``fig1`` to ``fig5`` reproduce figures of
Diffenderfer & Kailkhura, *Multi-Prize Lottery Ticket Hypothesis* (2021). ``power`` to ``acceleration`` reproduce
figures of Cheng et al., *Efficient Multi-Prize Lottery Tickets*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mpt.analysis.papers import EFFICIENT, MULTI_PRIZE


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        title: title of the figure.
        x: column of the horizontal axis; text is drawn as bars.
        y: columns of the vertical axis; each has its own panels.
        reference: column drawn as a further line in the same panels, such as chance next to the observed values.
        hue: columns whose values distinguish the lines.
        panel: columns whose values distinguish the panels.
        where: values that a run must have in these columns.
        needs: columns in which a run must have a value.
        apart: further columns whose values give separate points on the same line.
        joined: join the points of a line.
        log: use a logarithmic horizontal axis.
        rows: content of a row of the table: ``runs``, or ``epochs``, ``layers``, ``scores`` of runs.
        paper: source of the figure.
        published: tables in published.csv whose rows ``--published`` adds to the figure.
    """

    title: str
    x: str
    y: tuple[str, ...] = ("test_acc",)
    reference: str | None = None
    hue: tuple[str, ...] = ("variant",)
    panel: tuple[str, ...] = ("model",)
    where: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    needs: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    joined: bool = True
    log: bool = False
    rows: str = "runs"
    paper: str = MULTI_PRIZE
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
        published=("table 1", "table 2", "table 3", "table 4"),
    ),
    "fig2": Figure("Depth and pruning rate", x="prune", where=_variants("MPT-1/32", "MPT-1/1", "dense")),
    "fig3": Figure("Width, MPT-1/32", x="width", hue=("variant", "prune"), where=_variants("MPT-1/32", "dense")),
    "fig4": Figure("Width, MPT-1/1", x="width", hue=("variant", "prune"), where=_variants("MPT-1/1", "dense")),
    "fig5": Figure("biprop and edge-popup", x="prune", where=_variants("MPT-1/32", "edge-popup", "dense")),
    "power": Figure("Power-propagation", x="prune", hue=("method.power",), where=_variants("MPT-1/32", "dense")),
    "scores": Figure(
        "Distribution of scores",
        x="score",
        y=("share",),
        hue=("method.power",),
        panel=("model", "layer"),
        rows="scores",
    ),
    "finetune": Figure(
        "Fine-tuning",
        x="epoch",
        y=("test/acc",),
        hue=("layers",),
        needs=("layers",),  # only fine-tuned runs: the folder also holds their search
        rows="epochs",
    ),
    "finetune_grid": Figure(
        "Fine-tuning, settings",
        x="optim.lr",
        hue=("optim.name", "optim.schedule"),
        panel=("layers", "batch"),
        needs=("layers",),
        log=True,
    ),
    "threshold": Figure(
        "Exact selection and thresholds",
        x="method.power",
        y=("seconds_per_epoch", "test_acc"),
        hue=("method.selection",),
        panel=("model", "prune"),
        where=_variants("MPT-1/32"),
        paper=EFFICIENT,
        published=("table 2",),
    ),
    "zero_kernels": Figure(
        "Kernels without a weight",
        x="layer",
        y=("zero",),
        reference="zero_chance",
        hue=(),
        panel=("model", "prune"),
        rows="layers",
    ),
    "acceleration": Figure(
        "Acceleration by leaving out zero kernels",
        x="prune",
        y=("report/acceleration",),
        reference="report/acceleration_chance",
        where=_variants("MPT-1/32"),
        paper=EFFICIENT,
        published=("table 4",),
    ),
}
