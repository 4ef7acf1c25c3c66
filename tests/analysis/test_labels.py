from __future__ import annotations

from mpt.analysis.labels import axis_factor, line_label, panel_title


def test_only_fractions_are_shown_in_percent():
    fractions = ("prune", "test_acc", "test/acc", "density", "report/all_kernels/zero")
    assert [axis_factor(column) for column in fractions] == [100] * 5
    others = ("width", "num_kept", "seconds", "optim.lr", "report/acceleration")
    assert [axis_factor(column) for column in others] == [1] * 5


def test_a_panel_title_names_the_known_columns_only():
    assert panel_title({"model": "conv4", "prune": 0.5}, ("model", "prune")) == "Conv4, 50 % pruned"
    assert panel_title({"model": "conv4"}, ("model", "prune")) == "Conv4"


def test_a_line_label_names_its_settings_and_a_dense_network():
    hue = ("variant", "prune")
    assert line_label({"variant": "MPT-1/32", "prune": 0.9}, hue) == "MPT-1/32, 90 % pruned"
    assert line_label({"variant": "dense", "prune": 0.0}, hue) == "dense"
    assert line_label({"method.power": 3.0}, ("method.power",)) == "power 3"
    assert line_label({"method.power": None}, ("method.power",)) == "no power"
    assert line_label({"optim.lr": 0.1}, ("optim.lr",), dense=True) == "dense, lr 0.1"


def test_text_of_files_is_no_mathematics_and_has_no_control_characters():
    assert line_label({"variant": "$\\frac{1}$\x1b"}, ("variant",)) == "\\$\\frac{1}\\$\\x1b"
    assert panel_title({"model": "a" * 500}, ("model",)) == "a" * 200 + "..."
