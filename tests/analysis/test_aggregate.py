from __future__ import annotations

import pytest

from mpt.analysis.aggregate import points, require, select, select_sweep, sort_naturally, spell, summary
from tests.analysis.conftest import curve, result


def test_a_point_is_mean_lowest_highest_and_n_over_seeds(table):
    rows = points(table(*curve({0.5: 0.6, 0.8: 0.4}, scatter=0.1)), by=("model", "prune"), y="test_acc")
    assert rows["mean"].tolist() == pytest.approx([0.6, 0.4])
    assert rows["lowest"].tolist() == pytest.approx([0.5, 0.3])
    assert rows["highest"].tolist() == pytest.approx([0.7, 0.5])
    assert rows["n"].tolist() == [3, 3]


def test_runs_that_differ_in_more_than_their_seed_are_never_averaged(table):
    rows = table(result(epochs=10), result(epochs=20, seed=1))
    with pytest.raises(ValueError, match=r"also differ in epochs: 10, 20; select one with --where epochs="):
        points(rows, by=("model", "prune"), y="test_acc")
    assert points(select(rows, {"epochs": ["20"]}), by=("model", "prune"), y="test_acc")["n"].tolist() == [1]
    with pytest.raises(ValueError, match=r"differ in optim\.lr"):
        points(table(result(), result(optim__lr=0.2, seed=1)), by=("model", "prune"), y="test_acc")


def test_a_setting_that_some_runs_lack_differs(table):
    for rows in (table(result(), result(seed=1, optim__x=3)), table(result(optim__x=3), result(seed=1))):
        with pytest.raises(ValueError, match=r"differ in optim\.x: 3, none"):
            points(rows, by=("model", "prune"), y="test_acc")


def test_equal_rows_of_two_sweeps_count_once(table):
    rows = table(result(sweep="fig2"), result(sweep="fig5"), result(seed=1))
    assert points(rows, by=("prune",), y="test_acc")["n"].tolist() == [2]


def test_select_accepts_values_as_they_are_written_on_a_command_line(table):
    rows = table(result(), result(prune=0.8, learn_batchnorm=True, model="conv4"))
    assert len(select(rows, {"prune": ["0.50"]})) == 1
    assert len(select(rows, {"learn_batchnorm": ["true"]})) == 1
    assert len(select(rows, {"model": ["conv2", "conv4"]})) == 2
    with pytest.raises(ValueError, match=r"no run has prune=0.7: take one of 0.5, 0.8"):
        select(rows, {"prune": ["0.7"]})
    with pytest.raises(ValueError, match=r"no column prunes: did you mean prune"):
        select(rows, {"prunes": ["0.7"]})


def test_a_missing_column_is_answered_with_the_nearest_and_where_all_are(table):
    rows = table(result(), result(seed=1))
    with pytest.raises(ValueError, match=r"^the table has no column qqx: take one such as ") as caught:
        require(rows, ["qqx"])
    words = str(caught.value)
    named = words.partition("such as ")[2].partition(";")[0].split(", ")
    assert len(named) == 5
    assert set(named) < set(rows.columns)
    assert f"mpt-results DIR -o runs.csv writes all {len(rows.columns)}" in words
    with pytest.raises(ValueError, match=r"take one such as test_acc"):
        require(rows, ["acc"])


def test_a_summary_has_the_main_columns_and_those_that_distinguish_its_rows(table):
    rows = summary(table(*curve({0.5: 0.6}), *curve({0.5: 0.7}, optim__lr=0.2), *curve({0.0: 0.8}, method="dense")))
    assert list(rows.columns) == [
        *("data", "model", "variant", "width", "prune", "optim.lr", "mean", "lowest", "highest", "n")
    ]
    assert rows["mean"].tolist() == pytest.approx([0.6, 0.7, 0.8])


def test_values_are_sorted_as_people_count():
    assert sort_naturally(["conv10", "conv2", "conv4"]) == ["conv2", "conv4", "conv10"]
    assert sort_naturally([0.9, 0.2, None])[:2] == [0.2, 0.9]
    assert [spell(value) for value in (True, 0.50, 20, "x", None)] == ["true", "0.5", "20", "x", "none"]


def test_select_sweep_keeps_the_runs_of_that_sweep_or_all_if_there_are_none(table):
    rows = table(result(sweep="fig2"), result(sweep="fig5", seed=1))
    assert len(select_sweep(rows, "fig2")) == 1
    assert len(select_sweep(rows, "fig3")) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"spline_t": 2.0},
        {"data_checksum": "b"},
        {"processes": 2},
        {"precision": "bf16-mixed"},
        {"trainer__limit_batches": 1},
        {"trainer__channels_last": False},
        {"trainer__sync_batchnorm": True},
    ],
)
def test_no_mean_is_taken_over_a_setting_that_affects_results(table, other):
    (name,) = (key.rpartition("__")[2] for key in other)
    with pytest.raises(ValueError, match=f"differ in {name}: .*; select one with --where {name}="):
        points(table(result(), result(seed=1, **other)), by=("prune",), y="test_acc")


def test_the_way_images_are_read_is_not_a_setting(table):
    rows = table(result(data__workers=1), result(data__workers=8, data__stream=True, seed=1))
    assert points(rows, by=("prune",), y="test_acc")["n"].tolist() == [2]


def test_a_seed_never_counts_twice(table):
    twice = table(result(sweep="fig2"), result(sweep="fig5", test_acc=0.501))
    with pytest.raises(ValueError, match=r"seed 0 occurs 2 times .* run000-0, run001-1; .* --where sweep=fig2 or"):
        points(twice, by=("prune",), y="test_acc")
    assert points(select(twice, {"sweep": ["fig5"]}), by=("prune",), y="test_acc")["mean"].tolist() == [0.501]


def test_a_summary_has_one_row_for_each_of_several_results_of_a_seed(table):
    repeated = [result(sweep="fig2"), result(sweep="fig5", test_acc=0.7), result(sweep="fig5", prune=0.8)]
    rows = summary(table(*repeated))
    assert rows["sweep"].tolist() == ["fig2", "fig5", "fig5"]
    assert rows["n"].tolist() == [1, 1, 1]
    twice = summary(table(result(), result(test_acc=0.7)))
    assert twice["run"].tolist() == ["run000-0", "run001-1"]


def test_tickets_of_one_point_may_differ_only_if_their_seeds_do(table):
    tuned = {"method": "finetune_last", "layers": "last"}
    rows = table(result(ticket_digest="a", **tuned), result(ticket_digest="b", seed=1, **tuned))
    assert points(rows, by=("prune",), y="test_acc")["n"].tolist() == [2]
    rows = table(result(ticket_digest="a", **tuned), result(ticket_digest="b", test_acc=0.9, **tuned))
    with pytest.raises(ValueError, match=r"--where ticket_digest=a or --where run="):
        points(rows, by=("prune",), y="test_acc")
