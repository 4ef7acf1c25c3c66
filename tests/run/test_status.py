from __future__ import annotations

import json

import pytest

from mpt.run import status
from mpt.run.claim import hold_claim
from tests.console import command, compose


def make_run(folder, name, *, result=None, epochs=0, ticket=False):
    directory = folder / name
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text("{}\n")
    if result is not None:
        (directory / "result.json").write_text(json.dumps(result))
    if epochs:
        (directory / "metrics.jsonl").write_text("{}\n" * epochs)
    if ticket:
        (directory / "ticket.safetensors").write_bytes(b"")
    return directory


def test_each_run_is_done_running_failed_or_missing(tmp_path):
    make_run(tmp_path, "a", result={"status": "done"}, ticket=True)
    make_run(tmp_path, "b", result={"status": "failed", "error": "it broke"})
    make_run(tmp_path, "c", epochs=3)
    make_run(tmp_path, "f", result={"status": "done"})  # its ticket is missing: to be run again
    (tmp_path / status.LIST).write_text(json.dumps({"a": [], "d": []}))
    with hold_claim(make_run(tmp_path, "e", epochs=2)):
        output = command("status", str(tmp_path), cwd=tmp_path).stdout.splitlines()
    assert [line.split()[:2] for line in output[:-1]] == [
        ["done", "a"],
        ["failed", "b"],
        ["missing", "c"],
        ["missing", "d"],
        ["running", "e"],
        ["missing", "f"],
    ]
    assert "it broke" in output[1]
    assert "after epoch 3" in output[2]
    assert output[-1].endswith("1 done, 1 running, 1 failed, 3 missing")


def test_an_interrupted_run_has_not_failed(tmp_path):
    status.record_failure(tmp_path, compose(), KeyboardInterrupt())
    assert status.state(tmp_path).state == "missing"


def test_a_missing_folder_is_refused(tmp_path):
    done = command("status", "nowhere", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "there is no folder nowhere" in done.stderr
    assert "name one folder" in command("status", cwd=tmp_path, check=False).stderr


def test_the_process_that_broke_is_quoted_not_one_that_lost_its_connection(tmp_path):
    status.record_rank_failure(tmp_path, 1, ValueError("the loss is not a number"))
    status.record_failure(tmp_path, compose(), RuntimeError("Connection closed by peer"))
    assert status.result(tmp_path)["error"] == "the loss is not a number"
    status.forget_failure(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[1]", "{", "null"])
def test_an_unreadable_result_counts_as_none(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    assert status.result(tmp_path) == {}
