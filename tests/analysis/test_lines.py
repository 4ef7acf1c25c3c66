"""A line knows what gives it its colour."""

from __future__ import annotations

from mpt.analysis.drawing import lines, select_runs
from mpt.analysis.figures import FIGURES, Figure
from tests.analysis.conftest import curve


def test_the_kind_of_a_line_is_its_variant_and_else_its_label(table):
    rows = table(*curve({0.5: 0.6}, method__power=1.0), *curve({0.0: 0.7}, method="dense"))
    panels = lines(FIGURES["fig2"], select_runs(FIGURES["fig2"], rows), y="test_acc")
    assert [(line.label, line.kind) for line in panels["Conv2"]] == [("MPT-1/32", "MPT-1/32"), ("dense", "dense")]
    figure = Figure("", "prune", hue=("method.power",))
    assert {line.kind for line in lines(figure, rows, y="test_acc")["Conv2"]} == {"power 1", "dense"}
