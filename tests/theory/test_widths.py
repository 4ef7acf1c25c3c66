from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mpt.theory import widths
from mpt.theory.theorems import THEOREMS
from tests.theory.networks import mlp

TABLE = Path(__file__).parents[2] / "results" / "theory" / "widths.csv"


def run(variant, width, acc):
    return {"variant": variant, "width": width, "test_acc": acc, "model.hidden": "[32]"}


def test_the_searched_width_is_the_narrowest_that_is_as_accurate():
    runs = [run("dense", 1, 0.9), run("dense", 1, 0.8)]
    runs += [run("MPT-1/32", width, acc) for width, acc in ((0.5, 0.7), (1, 0.84), (2, 0.9), (2, 0.8), (4, 0.99))]
    trained, searched = widths.searched(runs)
    assert (trained["width"], trained["acc"]) == (32, pytest.approx(0.85))
    assert (searched["width"], searched["acc"]) == (64, pytest.approx(0.85))


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([run("MPT-1/32", 1, 0.9)], "one dense network and tickets"),
        ([run("dense", 1, 0.9)], "one dense network and tickets"),
        ([run("dense", 1, 0.9), run("MPT-1/32", 1, 0.5)], "no width of the search reaches"),
    ],
)
def test_runs_that_answer_nothing_are_refused(runs, words):
    with pytest.raises(ValueError, match=words):
        widths.searched(runs)


@pytest.mark.slow
def test_widths_asked_of_a_network():
    zeros = torch.zeros(1, 4, 4)
    rows = widths.asked(mlp(), inputs=(zeros, zeros + 1), radius=4.0)
    found = {(row["kind"], row["source"]): row["width"] for row in rows}
    assert len(found) == 3 + len(THEOREMS)
    assert found["promised", "malach"] > found["promised", "diffenderfer"] > found["constructed", "binary"] > 12


def test_the_committed_table_is_read_written_and_drawn(tmp_path):
    rows = widths.read(TABLE)
    widths.write(rows, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == TABLE.read_bytes()
    assert widths.is_table(TABLE)
    bars = widths.draw(rows).axes[0].patches
    assert sorted(bar.get_width() for bar in bars) == sorted(row["width"] for row in rows)
    (tmp_path / "t.csv").write_text("kind,source,width,acc\nnope,x,1,\n")
    with pytest.raises(ValueError, match="no table of mpt-theory figure"):
        widths.read(tmp_path / "t.csv")
