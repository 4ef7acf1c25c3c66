from __future__ import annotations

import time

import matplotlib as mpl
import pytest

from mpt.analysis.plotting import plot, save
from tests.analysis.conftest import curve, result, write


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_the_bytes_of_a_figure_depend_on_the_table_alone(tmp_path, suffix, monkeypatch):
    rows = [*curve({0.2: 0.6, 0.5: 0.7}), *curve({0.0: 0.71}, method="dense")]
    save(plot(write(tmp_path / "a", *rows), figure="fig2"), tmp_path / f"a{suffix}")
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setitem(mpl.rcParams, "lines.linewidth", 9)
    save(plot(write(tmp_path / "b", *rows[::-1]), figure="fig2"), tmp_path / f"b{suffix}")
    a, b = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert a == b
    assert len(a) > 3000


def test_a_custom_figure_has_a_line_for_each_method(tmp_path):
    runs = write(tmp_path, *curve({0.2: 0.6, 0.5: 0.7}), *curve({0.2: 0.5}, method="edge_popup"))
    drawing = plot(runs, x="prune", y="test_acc", hue=("method",), panel="model", where={"width": [1]})
    labels = [text.get_text() for text in drawing.legends[0].get_texts()]
    assert labels == ["biprop", "edge_popup"]


def efficient(model, **more):
    return result(model=model, data="cifar10", method__power=1.0, method__selection="global", **more)


@pytest.mark.parametrize(
    ("figure", "panel"),
    [("fig1", "CIFAR-10"), ("threshold", "ResNet-18, 50 % pruned"), ("acceleration", "ResNet-18")],
)
def test_published_numbers_are_drawn_in_our_panel_of_the_same_network(tmp_path, figure, panel):
    row = efficient("cifar_resnet18", report={"acceleration": 1.2, "acceleration_chance": 1.1})
    drawing = plot(write(tmp_path, row), figure=figure, published=True)
    first = drawing.axes[0]
    assert first.get_title() == panel
    assert [line for line in first.get_lines() if not line.get_label().endswith("(published)")]  # ours, of one seed
    assert [line for line in first.get_lines() if line.get_label().endswith("(published)")]
    assert all(axes.lines or axes.containers for axes in drawing.axes)
    assert len(drawing.axes) == {"fig1": 2, "threshold": 2, "acceleration": 1}[figure]  # imagenet; accuracy


def test_a_published_network_without_a_run_of_ours_has_its_own_panel(tmp_path):
    drawing = plot(write(tmp_path, efficient("conv4")), figure="threshold", published=True)
    assert [(axes.get_title(), axes.get_ylabel()) for axes in drawing.axes] == [
        ("Conv4, 50 % pruned", "seconds an epoch"),
        ("ResNet-18", "seconds an epoch"),
        ("Conv4, 50 % pruned", "test accuracy (%)"),
    ]


def test_figure_1_has_tickets_dense_and_published_networks_at_their_sizes(tmp_path):
    runs = write(tmp_path, *curve({0.8: 0.9}), *curve({0.0: 0.95}, method="dense"))
    drawing = plot(runs, figure="fig1", published=True)
    axes = {axes.get_title(): axes for axes in drawing.axes}
    ours = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in axes["digits"].containers}
    assert ours == {"MPT-1/32": [[200, pytest.approx(90)]], "dense": [[1000, pytest.approx(95)]]}
    theirs = {line.get_label(): line.get_xydata().tolist() for line in axes["CIFAR-10"].get_lines()}
    assert [2.2e6, pytest.approx(94.66)] in theirs["MPT (published)"]
    assert [11.2e6, pytest.approx(93.02)] in theirs["full precision (published)"]


def test_an_impossible_figure_is_refused_in_one_sentence(tmp_path):
    runs = write(tmp_path, result())
    for words, sentence in (
        ({"figure": "fig22"}, "did you mean fig2"),
        ({"figure": "power"}, "power needs runs with method.power"),
        ({"figure": "finetune"}, "has a readable metrics.jsonl"),
        ({"figure": "fig2", "published": True}, "print no numbers for fig2"),
        ({"figure": "fig4"}, "no run has variant=MPT-1/1,dense: take one of MPT-1/32"),
        ({"x": "depth"}, "no column depth"),
        ({}, "say what to draw"),
    ):
        with pytest.raises(ValueError, match=sentence):
            plot(runs, **words)
    with pytest.raises(ValueError, match="there is no folder"):
        save(plot(runs, figure="fig2"), tmp_path / "no" / "x.svg")
    with pytest.raises(ValueError, match=r"must end in \.svg"):
        save(plot(runs, figure="fig2"), tmp_path / "x.jpg")


def test_over_measured_bits_the_seeds_of_one_setting_are_one_point(tmp_path):
    rows = [
        result(prune=p, seed=seed, test_acc=acc + 0.01 * seed, bits_per_weight=bits + 1e-4 * seed, method__gains=gains)
        for gains, more in (("layer", 0.0), ("learned", 0.02))
        for p, acc, bits in ((0.8, 0.7, 0.72 + more), (0.9, 0.6, 0.47 + more))
        for seed in (0, 1, 2)
    ]
    drawing = plot(write(tmp_path, *rows), x="bits_per_weight")
    (axes,) = drawing.axes
    drawn = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in axes.containers}
    assert drawn.keys() == {"MPT-1/32", "MPT-1/32, learned gains"}
    for label, more in (("MPT-1/32", 0.0), ("MPT-1/32, learned gains", 0.02)):
        expected = [[0.4701 + more, 61.0], [0.7201 + more, 71.0]]
        assert drawn[label] == [pytest.approx(point) for point in expected]
    assert axes.get_xlabel() == "bits a weight"
    assert "mean of 3 seeds" in " ".join(drawing.get_suptitle().split())
