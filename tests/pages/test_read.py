"""A run as a page reads it: its files, or what is wrong with them."""

from __future__ import annotations

import json
import subprocess
import sys


def test_a_finished_run_has_everything(one, read):
    run = read(one)
    assert (run.state, run.notes) == ("done", ())
    assert run.config["prune"] == run.result["prune"]
    assert [row["epoch"] for row in run.metrics] == [1, 2, 3]
    assert len(run.facts["layers"]) == 5


def test_facts_that_a_run_lacks_are_made_from_its_ticket_and_kept(one, read):
    before = json.loads((one / "ticket.json").read_text())
    (one / "ticket.json").unlink()
    assert read(one).facts == before
    assert json.loads((one / "ticket.json").read_text()) == before


def test_damaged_facts_are_made_again(one, read):
    before = json.loads((one / "ticket.json").read_text())
    (one / "ticket.json").write_text("{}")
    assert read(one).facts == before


def test_damaged_files_leave_a_note_and_the_rest(one, read):
    (one / "metrics.jsonl").write_text("no row\n")
    (one / "report.json").write_text("[]")
    run = read(one)
    assert len(run.notes) == 2
    assert run.notes[0].startswith("metrics.jsonl cannot be read")
    assert run.notes[1] == "report.json cannot be read: it is not a report"
    assert run.facts["layers"]


def test_a_run_at_work_shows_its_settings_and_epochs(every_state, read):
    run = read(every_state / "working")
    assert (run.state, run.facts) == ("running", {})
    assert run.config["epochs"] == len(run.metrics) == 3


def test_finished_runs_are_read_without_torch(one):
    code = (
        "import sys, pathlib; from mpt.pages.read import read_run; from mpt.run.status import states; "
        f"[state] = states(pathlib.Path({str(one)!r})); run = read_run(state, key='run-1', name='x'); "
        "sys.exit('torch' in sys.modules or not run.facts)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
