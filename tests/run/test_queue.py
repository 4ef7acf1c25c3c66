from __future__ import annotations

import os

import pytest

from mpt.run import queue
from mpt.run.status import State, states
from tests.console import command


@pytest.fixture
def program(tmp_path, monkeypatch):
    """``program(name, text)``: a program first on PATH that prints ``text``, as one of SLURM's would, or fails."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()

    def go(name, text):
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n" if text is not None else "#!/bin/sh\nexit 1\n")
        path.chmod(0o755)

    return go


def test_a_run_whose_job_waits_is_queued_with_its_job_and_why(tmp_path, program):
    queue.record_jobs(tmp_path, {"a": "7_0", "b": "7_1"})
    queue.record_jobs(tmp_path, {"c": "9_0"})
    (tmp_path / "sweep.json").write_text('{"a": [], "b": [], "c": [], "d": []}')
    program("squeue", "7_1|PENDING|PartitionConfig\n9|RUNNING|None\n8_0|PENDING|Priority")
    assert queue.queued_runs(tmp_path) == {"b": ("7_1", "PartitionConfig"), "c": ("9_0", "RUNNING")}
    found = {state.directory.name: state for state in states(tmp_path)}
    assert found["b"] == State(tmp_path / "b", "queued", "SLURM job 7_1, PartitionConfig")
    assert [found[name].state for name in "acd"] == ["missing", "queued", "missing"]
    assert "2 queued" in command("status", str(tmp_path), cwd=tmp_path).stdout


def test_a_cancelled_job_is_no_reason_to_submit_its_run_again(tmp_path, program):
    queue.record_jobs(tmp_path, {"a": "7_0"})
    for listed in ("7_1\n7_0", "7"):
        program("squeue", listed)
        assert queue.is_cancelled(tmp_path / "a")
        assert not queue.is_cancelled(tmp_path / "b")
    program("squeue", "7_1")
    assert not queue.is_cancelled(tmp_path / "a")


def test_jobs_are_still_queued_when_slurm_does_not_answer_and_none_is_where_there_is_no_slurm(
    tmp_path, program, monkeypatch
):
    queue.record_jobs(tmp_path, {"a": "7_0"})
    program("squeue", None)
    assert queue.queued_runs(tmp_path) == {"a": ("7_0", "unknown")}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queue.queued_runs(tmp_path) == {}


@pytest.mark.parametrize(("why", "expected"), [("Priority", True), ("RUNNING", True), ("PartitionConfig", False)])
def test_only_an_unusual_reason_is_worth_a_word(why, expected):
    assert queue.is_expected(why) is expected


def test_a_partition_has_the_cpus_of_its_largest_machine(program):
    program("sinfo", "main*|4+|(null)\nmain*|16|(null)\nfast|64|gpu:h100:8(S:0)")
    assert queue.describe_partition(None) == (16, False)
    program("sinfo", "fast|64|gpu:h100:8(S:0)")
    assert queue.describe_partition("fast") == (64, True)
    program("sinfo", None)
    assert queue.describe_partition("fast") is None
