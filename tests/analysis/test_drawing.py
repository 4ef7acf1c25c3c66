"""Figures are checked by reading the drawn values back from matplotlib's artists."""

from __future__ import annotations

import itertools

import pytest

from mpt.analysis.aggregate import points
from mpt.analysis.drawing import draw, lines, select_runs
from mpt.analysis.figures import FIGURES, Figure
from mpt.analysis.papers import published as published_rows
from mpt.analysis.table import load
from mpt.files import HOME
from tests.analysis.conftest import curve, result


def drawn_points(drawing):
    """(panel, label) -> points, lower ends and upper ends of the bars, read from the artists."""
    lines = {}
    for axes in drawing.axes:
        for bars in axes.containers:
            line, _, (segments,) = bars.lines
            ends = segments.get_segments()
            low, high = [end[0][1] for end in ends], [end[1][1] for end in ends]
            lines[axes.get_title(), bars.get_label()] = line.get_xydata().tolist(), low, high
    return lines


def horizontal_lines(drawing):
    """(panel, label) -> height of each horizontal line."""
    return {
        (axes.get_title(), line.get_label()): line.get_ydata()[0]
        for axes in drawing.axes
        for line in axes.get_lines()
        if list(line.get_xdata()) == [0, 1]
    }


@pytest.fixture
def fig2(table):
    rows = []
    for shift, model in enumerate(("conv2", "conv4", "conv10")):
        rows += curve({0.2: 0.6 + shift / 50, 0.5: 0.7, 0.9: 0.3}, model=model)
        rows += curve({0.2: 0.5, 0.9: 0.2}, model=model, binary_activations=True, scatter=0.02)
        rows += curve({0.0: 0.71}, model=model, method="dense")
    return table(*rows)


def test_the_points_of_figure_2_are_the_points_of_the_table(fig2):
    drawn = drawn_points(draw(FIGURES["fig2"], select_runs(FIGURES["fig2"], fig2)))
    expected = points(fig2[fig2["method"] != "dense"], by=("model", "variant", "prune"), y="test_acc")
    assert len(drawn) == 6
    for (model, variant), group in expected.groupby(["model", "variant"]):
        xy, low, high = drawn[model.capitalize(), variant]
        assert xy == [[100 * x, 100 * y] for x, y in zip(group["prune"], group["mean"], strict=True)]
        assert low == pytest.approx(100 * group["lowest"])
        assert high == pytest.approx(100 * group["highest"])


def test_the_dense_network_is_a_horizontal_line_in_every_panel(fig2):
    drawing = draw(FIGURES["fig2"], select_runs(FIGURES["fig2"], fig2))
    assert horizontal_lines(drawing) == {(model, "dense"): pytest.approx(71) for model in ("Conv2", "Conv4", "Conv10")}
    assert [axes.get_title() for axes in drawing.axes] == ["Conv2", "Conv4", "Conv10"]
    assert drawing.axes[0].get_xlabel() == "weights pruned (%)"
    assert [text.get_text() for text in drawing.legends[0].get_texts()][-1] == "dense"


def test_a_dense_network_over_width_has_its_own_line(table):
    rows = [row for w in (0.5, 1.0) for p in (0.6, 0.9) for row in curve({p: w / 2 + p / 10}, width=w)]
    rows += [row for w in (0.5, 1.0) for row in curve({0.0: 0.4 + w / 10}, width=w, method="dense")]
    drawn = drawn_points(draw(FIGURES["fig3"], select_runs(FIGURES["fig3"], table(*rows))))
    assert {label for _, label in drawn} == {"MPT-1/32, 60 % pruned", "MPT-1/32, 90 % pruned", "dense"}
    assert [x for x, _ in drawn["Conv2", "dense"][0]] == [0.5, 1.0]
    assert [y for _, y in drawn["Conv2", "dense"][0]] == pytest.approx([45, 50])


def test_the_figure_of_a_sweep_shows_only_the_runs_of_that_sweep(table):
    rows = table(*curve({0.5: 0.6}, sweep="fig2"), *curve({0.5: 0.9}, sweep="fig5", epochs=20))
    assert len(select_runs(FIGURES["fig2"], rows, name=None)) == 6
    panels = lines(FIGURES["fig2"], select_runs(FIGURES["fig2"], rows, name="fig2"), y="test_acc")
    assert [line.mean for line in panels["Conv2"]] == [[pytest.approx(60)]]


def test_the_caption_states_data_budget_and_n(table):
    rows = table(*curve({0.5: 0.6, 0.8: 0.6}, budget="mini"))
    caption = draw(FIGURES["fig2"], rows).get_suptitle().replace("\n", " ")
    assert caption == "Depth and pruning rate: digits, small runs, mean of 3 seeds, bars from lowest to highest"
    one = draw(FIGURES["fig2"], rows[rows["seed"] == 0]).get_suptitle().replace("\n", " ")
    assert one == "Depth and pruning rate: digits, small runs, one seed"


def test_text_on_the_horizontal_axis_is_drawn_as_adjacent_bars(table):
    rows = table(result()).assign(layer="a", zero=0.4, zero_chance=0.3, model="conv2")
    drawing = draw(FIGURES["zero_kernels"], rows)
    (axes,) = drawing.axes
    bars = {c.get_label(): [p.get_height() for p in c.patches] for c in axes.containers if getattr(c, "patches", None)}
    assert bars == {"zero kernels (%)": [pytest.approx(40)], "zero kernels by chance (%)": [pytest.approx(30)]}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a"]


def test_each_measure_has_its_own_panels(table):
    rows = table(*curve({0.5: 0.6}, method__power=1.0, method__selection="global"))
    drawing = draw(FIGURES["threshold"], select_runs(FIGURES["threshold"], rows))
    assert [axes.get_ylabel() for axes in drawing.axes] == ["seconds an epoch", "test accuracy (%)"]


def finetuned(layers, **same):
    return result(method=f"finetune_{layers}", layers=layers, ticket_digest="a", **same)


def test_the_search_has_no_line_and_no_panel_in_figures_of_fine_tuning(table):
    search, rows = result(method__power=1.0), [finetuned("last", batch=128), finetuned("first", batch=256)]
    grid = FIGURES["finetune_grid"]
    settings = {"optim.name": "sgd", "optim.schedule": "cosine"}
    panels = lines(grid, select_runs(grid, table(search, *rows).assign(**settings)), y="test_acc")
    assert {title: [line.label for line in drawn] for title, drawn in panels.items()} == {
        "first layers, batch 256": ["SGD, cosine schedule"],
        "last layers, batch 128": ["SGD, cosine schedule"],
    }
    epochs = table(search, *rows).assign(epoch=1, **{"test/acc": 0.5})
    panels = lines(FIGURES["finetune"], select_runs(FIGURES["finetune"], epochs), y="test/acc")
    assert sorted(line.label for line in panels["Conv2"]) == ["first layers", "last layers"]


def test_only_a_dense_network_is_called_dense(table):
    rows = table(finetuned("last"), result(method__power=3.0, seed=1), result(method="dense", prune=0.0))
    figure = Figure("", "width", hue=("method.power",))
    assert [line.label for line in lines(figure, select_runs(figure, rows), y="test_acc")["Conv2"]] == [
        *("power 3", "no power", "dense"),
    ]


def test_every_panel_of_several_measures_names_its_measure(table):
    same = {"method__power": 1.0, "method__selection": "global"}
    rows = table(*curve({0.5: 0.6, 0.8: 0.5}, **same), *curve({0.5: 0.6}, model="conv4", **same))
    drawing = draw(FIGURES["threshold"], select_runs(FIGURES["threshold"], rows))
    assert [axes.get_ylabel() for axes in drawing.axes] == ["seconds an epoch"] * 3 + ["test accuracy (%)"] * 3


TABLES = {"fig1": "digits/runs", "fig2": "mini/fig2", "fig3": "digits/runs", "fig4": "digits/runs", "fig5": "mini/fig5"}


def texts(drawing):
    """Every text that is drawn, with its box in pixels."""
    drawing.draw_without_rendering()
    found = [drawing._suptitle] if drawing._suptitle else []
    found += [text for legend in drawing.legends for text in legend.get_texts()]
    for axes in drawing.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        found += [tick.label1 for axis in (axes.xaxis, axes.yaxis) for tick in axis._update_ticks()]  # those in view
    return [(text, text.get_window_extent()) for text in found if text.get_visible() and text.get_text().strip()]


@pytest.mark.slow
@pytest.mark.parametrize("style", ["screen", "paper"])
@pytest.mark.parametrize("name", TABLES)
def test_no_label_is_small_and_none_covers_another(name, style):
    table = load(HOME / "results" / f"{TABLES[name]}.csv")
    quoted = published_rows(FIGURES[name].published) if FIGURES[name].published else None
    drawing = draw(FIGURES[name], select_runs(FIGURES[name], table), published=quoted, style=style)
    boxes = texts(drawing)
    assert len(boxes) > 10
    assert min(text.get_fontsize() for text, _ in boxes) >= 6
    covering = [
        (a.get_text(), b.get_text())
        for (a, box), (b, other) in itertools.combinations(boxes, 2)
        if box.shrunk(0.98, 0.9).overlaps(other.shrunk(0.98, 0.9))
    ]
    assert not covering
    width, height = drawing.get_size_inches() * drawing.dpi
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for _, box in boxes)
    if style == "paper":
        assert drawing.get_figwidth() == 3.3
        assert drawing.get_suptitle() == ""


def test_one_seed_is_hollow_and_several_are_not(table):
    rows = table(*curve({0.5: 0.6}, seeds=(0,)), *curve({0.8: 0.5}))
    (axes,) = draw(FIGURES["fig2"], rows).axes
    hollow = {tuple(x): line.get_mfc() == "white" for line in axes.get_lines() for x in [line.get_xdata()]}
    assert hollow[(50.0,)]
    assert not hollow[(50.0, 80.0)]


def test_the_legend_lists_lines_by_value_whether_they_have_bars_or_not(table):
    rows = [*curve({0.2: 0.6, 0.8: 0.5}, seeds=(0,)), *curve({0.5: 0.6, 0.9: 0.3}), *curve({0: 0.6}, method="dense")]
    (legend,) = draw(FIGURES["fig3"], table(*rows)).legends
    pruned = [f"MPT-1/32, {percent} % pruned" for percent in (20, 50, 80, 90)]
    assert [text.get_text() for text in legend.get_texts()] == [*pruned, "dense"]


def test_equal_points_of_one_seed_stand_side_by_side(table):
    rows = [*curve({0.5: 0.6, 0.7: 0.6}, seeds=(0,)), *curve({0: 0.6}, method="dense", seeds=(0,))]
    drawing = draw(FIGURES["fig3"], table(*rows))
    drawing.draw_without_rendering()
    (axes,) = drawing.axes
    places = sorted(line.get_transform().transform(line.get_xydata())[0][0] for line in axes.get_lines())
    assert len(places) == 3
    assert all(right - left > 2 for left, right in itertools.pairwise(places))


def test_the_width_has_a_logarithmic_axis_with_the_measured_values(table):
    rows = [row for w in (0.125, 0.25, 1.0) for row in curve({0.6: w / 2}, width=w)]
    (axes,) = draw(FIGURES["fig3"], table(*rows)).axes
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.125", "0.25", "1"]


def test_a_title_replaces_the_caption_and_an_empty_one_removes_it(table):
    rows = table(*curve({0.5: 0.6}))
    assert draw(FIGURES["fig2"], rows, title="Ours").get_suptitle() == "Ours"
    assert draw(FIGURES["fig2"], rows, title="").get_suptitle() == ""
