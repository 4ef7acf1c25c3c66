"""Charts and pictures: the numbers of the run, to the digits that a chart shows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mpt.pages.charts import STEPS, curves, distinct, gains, pictures, short, thin, zero_kernels
from mpt.ticket.pictures import pack
from mpt.ticket.ticket import Ticket


def test_curves_are_the_metrics_of_the_run(one, read):
    run = read(one)
    charts = {chart["title"]: chart for chart in curves(run, most=100, layers=True)}
    assert list(charts) == ["Loss", "Accuracy", "Flips", "Density", "Flips of each layer", "Gain of each layer"]
    line = charts["Accuracy"]["lines"][-1]
    assert line["label"] == "test images"
    assert line["x"] == (1, 2, 3)
    assert line["y"] == [short(100 * row["test/acc"]) for row in run.metrics]
    assert len(charts["Gain of each layer"]["lines"]) == 5


def test_numbers_that_are_missing_leave_a_gap(one, read):
    run = read(one)
    rows = [row | {"test/acc": None} for row in run.metrics[:1]] + run.metrics[1:]
    chart = curves(dataclasses.replace(run, metrics=rows), most=100, layers=True)[1]
    assert chart["lines"][-1]["x"] == (2, 3)


def test_a_run_without_epochs_has_no_curves(one, read):
    assert curves(dataclasses.replace(read(one), metrics=[]), most=100, layers=True) == []


@pytest.mark.parametrize(("number", "most"), [(3, 10), (250, 100), (11, 10), (10, 10)])
def test_thinning_keeps_the_first_and_the_last(number, most):
    rows = thin(range(number), most)
    assert (rows[0], rows[-1], len(rows)) == (0, number - 1, min(number, most))
    assert rows == sorted(set(rows))


def test_zero_kernels_stand_next_to_chance(one, read):
    run = read(one)
    [chart] = zero_kernels(run)
    assert chart["factors"] == ["features.0", "features.2"]
    assert [line["label"] for line in chart["lines"]] == ["this ticket", "by chance"]
    assert chart["lines"][0]["y"][0] == short(100 * run.facts["layers"][0]["zero"])


def test_gains_have_a_spread_where_a_layer_has_several(one, read):
    run = read(one)
    assert "low" not in gains(run)[0]["lines"][0]
    run.facts["layers"][0]["largest_gain"] *= 2
    assert gains(run)[0]["lines"][0]["high"][0] == short(2 * run.facts["layers"][0]["gain"])


def test_bars_of_equal_names_stay_apart():
    assert distinct(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]


def test_kernels_show_the_signs_of_the_ticket(one, read):
    picture = pictures(read(one), side=64)[0]
    signs = np.sign(Ticket.load(one / "ticket.safetensors").weight("features.0").numpy())
    assert picture["cells"] == "".join("012"[int(v) + 1] for v in signs.ravel())
    assert (picture["kind"], picture["top"], picture["shape"]) == ("kernels", 2, list(signs.shape))


def test_densities_get_coarser_with_fewer_blocks(one, read):
    run = read(one)
    fine, coarse = pictures(run, side=64)[-2], pictures(run, side=4)[-2]
    assert coarse["shape"] == [4, 4]
    assert len(fine["cells"]) == np.prod(fine["shape"])
    assert fine["low"] <= coarse["low"] <= coarse["high"] <= fine["high"]
    assert max(map(ord, coarse["cells"])) == ord("0") + STEPS


def test_weights_of_several_sizes_keep_a_level_for_zero(one, read):
    run = read(one)
    cells = np.array([-127, 0, 127, 64], dtype=np.int8).reshape(1, 1, 2, 2)
    run.facts["first"] = pack(cells, steps=127, scale=2.0, of=[1, 1])
    picture = pictures(run, side=64)[0]
    levels = [2 * (ord(c) - 48) / picture["top"] - 1 for c in picture["cells"]]
    assert levels == pytest.approx([-1, 0, 1, 0.5], abs=0.04)
    assert levels[1] == 0
