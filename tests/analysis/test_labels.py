from __future__ import annotations

from mpt.analysis.labels import line_label, panel_title, percent


def test_fractions_are_percent_and_nothing_else_is():
    assert [percent(c) for c in ("prune", "test_acc", "test/acc", "density", "report/all_kernels/zero")] == [100] * 5
    assert [percent(c) for c in ("width", "num_kept", "seconds", "optim.lr", "report/acceleration")] == [1] * 5


def test_a_panel_says_what_is_known_of_it():
    assert panel_title({"model": "conv4", "prune": 0.5}, ("model", "prune")) == "conv4, prune 0.5"
    assert panel_title({"model": "conv4"}, ("model", "prune")) == "conv4"


def test_a_line_says_its_settings_and_whether_it_is_dense():
    hue = ("variant", "prune")
    assert line_label({"variant": "MPT-1/32", "prune": 0.9}, hue) == "MPT-1/32, 90 % pruned"
    assert line_label({"variant": "dense", "prune": 0.0}, hue) == "dense"
    assert line_label({"method.power": 3.0}, ("method.power",)) == "power 3"
    assert line_label({"method.power": None}, ("method.power",)) == "no power"
    assert line_label({"optim.lr": 0.1}, ("optim.lr",), dense=True) == "dense, lr 0.1"
