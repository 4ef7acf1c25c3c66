"""The lines and the table that say how far a sweep is."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console

from mpt.multirun.expand import Run
from mpt.multirun.watch import Watch
from mpt.run import status
from mpt.run.claim import hold_claim
from tests.console import SMALL, command, compose, on_terminal, results


@pytest.fixture
def runs(tmp_path):
    settings = compose("epochs=4")
    return [Run((f"seed={i}",), settings, tmp_path / f"run{i}") for i in range(3)]


def fail(run):
    run.directory.mkdir(exist_ok=True)
    status.record_failure(run.directory, run.settings, ValueError("diverged"))


def drawn(watch):
    text = io.StringIO()
    Console(file=text, width=100).print(watch.table())
    return text.getvalue()


def test_a_run_that_any_command_ended_is_one_line_and_a_failure_from_before_is_none(runs, capsys):
    fail(runs[0])
    time.sleep(0.02)
    with Watch(runs, started=time.time(), works=[1, 1, 1]) as watch:
        fail(runs[1])  # as another process would
        watch.look()
        watch.look()
    assert capsys.readouterr().out == "1 of 3   failed   run1\n"
    assert watch.ended == {runs[1].directory: "failed"}


def test_the_table_has_the_runs_that_somebody_works_on(runs):
    with Watch(runs, started=time.time(), works=[1, 1, 1]) as watch, hold_claim(runs[2].directory):
        rows = [{"epoch": 1, "test/acc": 0.5}, {"epoch": 2, "test/acc": 0.625}]
        (runs[2].directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        watch.look()
        text = drawn(watch)
        watch.begin -= 100  # seconds, in which a sixth of the work was done
        left = watch.left()
    assert "0 of 3 runs ended, 1 at work" in text
    assert text.splitlines()[1].split()[:7] == ["run2", "epoch", "3", "of", "4", "62.50", "%"]
    assert "run1" not in text
    assert left == "8 minutes left"


@pytest.mark.slow
def test_a_sweep_prints_a_line_a_run_and_a_table_and_counts_what_was_done_before(tmp_path):
    sweep = ("train", "-m", *(word for word in SMALL if word != "epochs=3"), "epochs=1", "prune=0.5,0.8", "runs=runs")
    out = command(*sweep, "seed=0", cwd=tmp_path).stdout.splitlines()
    rows = results(tmp_path / "runs")
    lines = [line for line in out if " of 2  " in line]
    assert [line[:6] for line in lines] == ["1 of 2", "2 of 2"]
    for name, row in rows.items():
        assert any(f"{100 * row['test_acc']:6.2f} %  {name}  " in line for line in lines)
    assert not [line for line in out if line.startswith(("epoch", "directory", "layer", "accuracy", "evaluate"))]
    table = out[out.index("prune  n  accuracy %  lowest  highest  time of a run") :]
    assert [line.split()[:2] for line in table[1:3]] == [["0.5", "1"], ["0.8", "1"]]
    assert table[-1].startswith("2 of 2 runs in runs done")
    shown = on_terminal(*sweep, "seed=0,1", cwd=tmp_path)
    words = (
        "expanding the sweep",
        "importing torch",
        "estimating the time",
        "2 of 4 runs ended",
        "3 of 4  ",
        "4 of 4  ",
    )
    missing = [word for word in (*words, "prune  n  accuracy", "4 of 4 runs in runs done") if word not in shown]
    assert not missing, shown
    places = [shown.index(word) for word in (*words, "prune  n  accuracy", "4 of 4 runs in runs done")]
    assert places == sorted(places)
    assert "1 of 4  " not in shown
