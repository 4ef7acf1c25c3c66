from __future__ import annotations

import io
from pathlib import Path

import pytest

from mpt.theory import curves
from mpt.theory.theorems import THEOREMS

TABLE = Path(__file__).parents[2] / "results" / "theory" / "promised.csv"
HEAD = "theorem,accuracy,delta,promised,needed\n"


def test_the_committed_table_is_what_the_theorems_promise():
    rows = curves.read(TABLE)
    assert len(rows) == len(THEOREMS) * len(curves.ACCURACIES)
    for row in rows:
        theorem = THEOREMS[row["theorem"]]
        assert row["promised"] == theorem.neurons(row["accuracy"], row["delta"])
        if row["theorem"] != "subset_sum" or row["accuracy"] == 0.01:
            assert row["needed"] == theorem.needed(row["accuracy"], row["delta"])


def test_a_table_is_read_as_it_was_written(tmp_path):
    rows = curves.read(TABLE)
    curves.write(rows, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == TABLE.read_bytes()


@pytest.mark.slow
def test_the_figure_shows_the_numbers_of_the_table_and_follows_from_it_alone():
    rows = curves.read(TABLE)
    drawing = curves.draw(rows)
    lines = [line for line in drawing.axes[0].lines if len(line.get_xdata())]
    shown = {(round(float(x), 9), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True)}
    expected = {(row["accuracy"], float(row[key])) for row in rows for key in ("promised", "needed") if row[key]}
    assert shown == expected
    first, second = io.StringIO(), io.StringIO()
    for file in (first, second):
        from mpt.analysis.drawing import NO_DATE, deterministic

        with deterministic():
            curves.draw(rows).savefig(file, format="svg", metadata=NO_DATE[".svg"])
    assert first.getvalue() == second.getvalue()


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n1,2\n", f"{HEAD}nope,0.1,0.05,3,\n", f"{HEAD}malach,2,0.05,3,\n"],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match="no table of mpt-theory figure"):
        curves.read(tmp_path / "t.csv")
