"""What a page says of many runs: the numbers of the tables, figures and verdicts of the other commands."""

from __future__ import annotations

import pytest

from mpt.analysis import load
from mpt.analysis.marks import COLORS, marks
from mpt.pages.overview import choose_figure, line_colours, over_epochs, overview
from mpt.pages.read import read_run
from mpt.run.status import states
from tests.analysis.conftest import curve, result, write
from tests.pages.conftest import repeat

WITH_INIT = (("biprop", "normal"), ("edge_popup", "constant"), ("dense", "normal"))


def read_all(folder):
    return [
        read_run(state, key=f"run-{i}", name=str(state.directory.relative_to(folder)))
        for i, state in enumerate(states(folder), 1)
    ]


def table_of(folder, *rows):
    return load(write(folder, *rows))


@pytest.mark.slow
def test_the_table_has_means_and_n(runs):
    whole = overview(read_all(runs), most=100)
    assert whole.head[-4:] == ["mean %", "lowest %", "highest %", "n"]
    assert [row[-1] for row in whole.rows] == ["1", "1"]
    accs = sorted(f"{100 * run.result['test_acc']:.2f}" for run in read_all(runs))
    assert sorted(row[-4] for row in whole.rows) == accs


def test_seeds_become_one_point_with_its_spread(one, tmp_path):
    folder = repeat(one, tmp_path / "many", number=6)
    whole = overview(read_all(folder), most=100)
    line = whole.charts[0]["lines"][0]
    assert (line["label"], line["x"], line["n"]) == ("MPT-1/32", [50.0, 80.0], [3, 3])
    assert line["low"][0] < line["y"][0] < line["high"][0]
    assert whole.title == "Test accuracy over weights pruned"


def test_every_run_has_a_line_that_leads_to_it(runs):
    read = read_all(runs)
    [chart] = over_epochs(read, most=100)
    assert [(line["label"], line["link"]) for line in chart["lines"]] == [(run.name, run.key) for run in read]


@pytest.mark.slow
def test_states_are_counted_and_unfinished_runs_stay_out_of_the_table(every_state):
    whole = overview(read_all(every_state), most=100)
    assert whole.counts == {"done": 2, "running": 1, "interrupted": 1, "failed": 1, "missing": 1}
    assert len(whole.rows) == 2


def test_an_empty_folder_and_one_without_a_finished_run_say_so(tmp_path, one):
    (tmp_path / "empty").mkdir()
    assert overview([], most=100).notes == ["There is no run yet."]
    (one / "ticket.safetensors").unlink()
    (one / "result.json").unlink()
    whole = overview(read_all(one.parent), most=100)
    assert len(whole.rows) == 1
    (only := one.parent / "only").mkdir()
    one.rename(only / "run")
    assert overview(read_all(only), most=100).notes[0].startswith("No run has a result yet")
    assert len(overview(read_all(only), most=100).charts) == 1  # its epochs so far


def test_a_sweep_of_the_papers_has_its_own_figure(tmp_path):
    rows = [*curve({0.2: 0.6, 0.8: 0.5}, sweep="fig2"), *curve({0.0: 0.7}, sweep="fig2", method="dense")]
    folder = write(tmp_path, *rows)
    for path in folder.iterdir():
        (path / "ticket.safetensors").write_bytes(b"")
    whole = overview(read_all(folder), most=100)  # these results lack a checksum, so the runs count as damaged
    assert whole.counts == {"failed": 9}
    assert whole.notes == ["No run has a result, so there is no figure, table or verdict."]  # none is to come
    assert choose_figure(load(folder)).x == "prune"


@pytest.mark.parametrize(
    ("rows", "x", "hue"),
    [
        ([result(prune=0.2), result(prune=0.8)], "prune", ("variant",)),
        ([result(width=0.5), result(width=1.0)], "width", ("variant",)),
        ([result(optim__lr=0.1), result(optim__lr=0.2)], "optim.lr", ("variant",)),
        ([result(prune=0.2), result(prune=0.8, width=2.0)], "prune", ("variant", "width")),
        ([result()], "prune", ("variant",)),
    ],
)
def test_the_figure_suits_what_varies(tmp_path, rows, x, hue):
    figure = choose_figure(table_of(tmp_path, *rows))
    assert (figure.x, figure.hue) == (x, hue)


def test_what_follows_from_the_method_is_not_in_the_name_of_a_line(tmp_path):
    rows = [result(prune=p, method=m, method__init=init) for p in (0.5, 0.8) for m, init in WITH_INIT]
    assert choose_figure(table_of(tmp_path, *rows)).hue == ("variant",)
    other = result(prune=0.5, seed=1, method__init="another")
    assert choose_figure(table_of(tmp_path / "more", *rows, other)).hue == ("variant", "method.init")


@pytest.mark.slow
def test_claims_that_can_be_tested_come_first(runs):
    verdicts = overview(read_all(runs), most=100).verdicts
    tested = [verdict.word in ("shown", "not shown") for verdict in verdicts]
    assert tested == sorted(tested, reverse=True)
    assert len(tested) == 15


def test_an_unknown_figure_is_refused_by_name(runs):
    with pytest.raises(ValueError, match="there is no figure 'fig7'"):
        overview(read_all(runs), figure="fig7", most=100)


def test_a_figure_that_does_not_suit_the_runs_leaves_its_reason_and_the_rest(runs):
    whole = overview(read_all(runs), figure="finetune_grid", most=100)
    assert whole.notes[0].startswith("finetune_grid cannot be drawn: ")
    assert whole.title == "Test accuracy over weights pruned"


def test_a_line_has_the_colour_that_it_has_in_a_figure_for_print():
    names = ["MPT-1/1", "MPT-1/32", "rms 1/1", "rms 1/32", "edge-popup", "dense"]
    alone = line_colours({name: name for name in names})
    assert alone == {"MPT-1/32": 0, "MPT-1/1": 1, "edge-popup": 2, "rms 1/1": 3, "rms 1/32": 4, "dense": "dense"}
    drawn = {name: mark.color for name, mark in marks({name: name for name in names}).items() if name != "dense"}
    assert drawn == {name: COLORS[alone[name]] for name in drawn}
    several = line_colours({"a": "MPT-1/32", "b": "MPT-1/32", "MPT-1/1": "MPT-1/1"})
    assert len({*several.values()}) == 3
    assert several["MPT-1/1"] == 1
