from __future__ import annotations

import json

import pytest

from mpt.run import status
from mpt.run.claim import hold_claim
from tests.console import command, compose


def made(folder, name, *, row=None, epochs=0, ticket=False):
    directory = folder / name
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text("{}\n")
    if row is not None:
        (directory / "result.json").write_text(json.dumps(row))
    if epochs:
        (directory / "metrics.jsonl").write_text("{}\n" * epochs)
    if ticket:
        (directory / "ticket.safetensors").write_bytes(b"")
    return directory


def test_each_run_is_done_running_failed_or_missing(tmp_path):
    made(tmp_path, "a", row={"status": "done"}, ticket=True)
    made(tmp_path, "b", row={"status": "failed", "error": "it broke"})
    made(tmp_path, "c", epochs=3)
    made(tmp_path, "f", row={"status": "done"})  # its ticket is away: to be made again
    (tmp_path / status.LIST).write_text(json.dumps({"a": [], "d": []}))
    with hold_claim(made(tmp_path, "e", epochs=2)):
        said = command("status", str(tmp_path), cwd=tmp_path).stdout.splitlines()
    assert [line.split()[:2] for line in said[:-1]] == [
        ["done", "a"],
        ["failed", "b"],
        ["missing", "c"],
        ["missing", "d"],
        ["running", "e"],
        ["missing", "f"],
    ]
    assert "it broke" in said[1]
    assert "after epoch 3" in said[2]
    assert said[-1].endswith("1 done, 1 running, 1 failed, 3 missing")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    done = command("status", "nowhere", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "there is no folder nowhere" in done.stderr
    assert "name one folder" in command("status", cwd=tmp_path, check=False).stderr


def test_the_process_that_broke_is_quoted_not_the_one_that_lost_it(tmp_path):
    status.record_rank_failure(tmp_path, 1, ValueError("the loss is not a number"))
    status.record_failure(tmp_path, compose(), RuntimeError("Connection closed by peer"))
    assert status.result(tmp_path)["error"] == "the loss is not a number"
    status.forget_failure(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[1]", "{", "null"])
def test_an_unreadable_row_is_no_row(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    assert status.result(tmp_path) == {}
