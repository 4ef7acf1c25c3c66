"""What a sweep prints before and after its runs."""

from __future__ import annotations

import pytest

from mpt.multirun.expand import Run
from mpt.multirun.summary import conclude, count_done, table
from mpt.run.status import record_failure
from tests.console import compose


@pytest.fixture
def finished(run_here):
    """One finished run."""
    _, directory = run_here("epochs=1")
    return directory


@pytest.mark.slow
def test_a_line_is_one_setting_and_its_seeds_are_averaged(finished):
    settings = compose()
    runs = [
        Run((f"prune={prune}", "width=0.5", f"seed={seed}"), settings, finished)
        for prune in (0.5, 0.8)
        for seed in (0, 1)
    ]
    head, *rows = table(runs).splitlines()
    assert head == "prune  n  accuracy %  lowest  highest  time of a run"  # width has one value
    assert [row.split()[:2] for row in rows] == [["0.5", "2"], ["0.8", "2"]]
    assert rows[0].split()[2] == rows[0].split()[3] == rows[0].split()[4]
    assert table([]) == ""
    assert count_done(runs) == "4 of 4 runs done"


def test_a_run_that_an_axis_does_not_name_shows_its_value_all_the_same(finished):
    settings = compose()
    runs = [Run(overrides, settings, finished) for overrides in (("recipe=demo",), ("method=mine", "prune=0.9"))]
    head, *rows = table(runs).splitlines()
    assert head.split()[:3] == ["recipe", "method", "prune"]
    assert rows[0].split()[:3] == ["demo", "biprop", "0.5"]


def test_values_are_shown_without_what_escapes_them(finished):
    values = (r"optim.lr=$\{times_kept\:0.4\}", r"optim.lr=$\{times_kept\:0.2\}")
    runs = [Run((value,), compose(), finished) for value in values]
    assert [row.split()[0] for row in table(runs).splitlines()[1:]] == ["${times_kept:0.4}", "${times_kept:0.2}"]


def test_a_ticket_is_called_by_its_run(finished):
    settings = compose()
    runs = [Run((f"ticket='/far/{name}/ticket.safetensors'",), settings, finished) for name in ("one", "two")]
    assert [row.split()[0] for row in table(runs).splitlines()] == ["ticket", "one", "two"]


def test_a_reason_of_several_runs_is_printed_once(tmp_path, capsys):
    runs = [Run((f"seed={name}",), compose(), tmp_path / str(name)) for name in range(3)]
    for run in (runs[0], runs[2]):
        run.directory.mkdir()
        record_failure(run.directory, run.settings, ValueError("the loss is no number"))
    with pytest.raises(SystemExit):
        conclude(runs, {runs[1].directory: "it could not start"}, tmp_path)
    head, several, first, third, other = capsys.readouterr().err.splitlines()
    assert head == "mpt-train: 3 runs failed:"
    assert several == "  2 runs: the loss is no number"
    assert (first, third) == (f"    {runs[0].directory}", f"    {runs[2].directory}")
    assert other == f"  {runs[1].directory}: it could not start"


@pytest.mark.slow
def test_failed_runs_are_listed_with_their_reasons_and_the_status_is_one(finished, tmp_path, capsys):
    settings = compose()
    runs = [Run(("seed=0",), settings, finished), Run(("seed=1",), settings, tmp_path / "broken")]
    with pytest.raises(SystemExit) as ended:
        conclude(runs, {tmp_path / "broken": "it could not start"}, tmp_path)
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert "1 of 2 runs in" in said.out
    assert said.err == f"mpt-train: 1 run failed:\n  {tmp_path / 'broken'}: it could not start\n"
