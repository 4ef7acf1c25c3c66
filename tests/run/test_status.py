from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import fields

import pytest

from mpt.analysis.table import read_runs
from mpt.files import checksum
from mpt.run import status
from mpt.run.claim import hold_claim
from mpt.run.config import write_config
from mpt.run.result import Result, write_result
from mpt.run.settings import plain
from mpt.signals import Interrupted
from tests.console import SMALL, command, compose


def make_run(folder, name, *, result=None, epochs=0, ticket=False):
    directory = folder / name
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text("{}\n")
    if result is not None:
        (directory / "result.json").write_text(json.dumps(result))
    if epochs:
        (directory / "metrics.jsonl").write_text("{}\n" * epochs)
        (directory / "last.ckpt").write_bytes(b"")
    if ticket:
        (directory / "ticket.safetensors").write_bytes(b"")
    return directory


def make_finished(folder, name, **changes):
    """A finished run whose ticket is three bytes."""
    directory = make_run(folder, name)
    (directory / "ticket.safetensors").write_bytes(b"abc")
    values = {"str": "x", "int": 3, "float": 0.5, "str | None": None, "dict[str, Any]": {}, "dict[str, str]": {}}
    result = {f.name: values[f.type] for f in fields(Result) if not f.metadata["optional"]} | {"status": "done"}
    write_result(directory, result | {"ticket_checksum": checksum(directory / "ticket.safetensors")} | changes)
    return directory


def test_each_run_is_done_running_failed_or_missing(tmp_path):
    make_finished(tmp_path, "a")
    make_run(tmp_path, "b", result={"status": "failed", "error": "it broke"})
    make_run(tmp_path, "c", epochs=3)
    make_run(tmp_path, "f", result={"status": "done"})  # its ticket is missing: to be run again
    (tmp_path / status.LIST).write_text(json.dumps({"a": [], "d": []}))
    with hold_claim(make_run(tmp_path, "e", epochs=2)):
        output = command("status", str(tmp_path), cwd=tmp_path).stdout.splitlines()
    assert [line.split()[:2] for line in output[:-1]] == [
        ["done", "a"],
        ["failed", "b"],
        ["interrupted", "c"],
        ["missing", "d"],
        ["running", "e"],
        ["missing", "f"],
    ]
    assert "it broke" in output[1]
    assert "after epoch 3" in output[2]
    assert output[-1].endswith("1 done, 1 running, 0 queued, 1 interrupted, 1 failed, 2 missing")


def test_an_interrupted_run_has_not_failed(tmp_path):
    status.record_failure(tmp_path, compose(), Interrupted(signal.SIGTERM))
    assert status.result(tmp_path)["error"] == "interrupted by SIGTERM"
    assert status.state(tmp_path).state == "interrupted"


def test_a_run_whose_other_process_was_interrupted_is_interrupted(tmp_path):
    status.record_rank_failure(tmp_path, 1, Interrupted(signal.SIGUSR2))
    status.record_failure(tmp_path, compose(), RuntimeError("Connection closed by peer"))
    assert status.state(tmp_path).state == "interrupted"


def test_a_job_that_finishes_no_epoch_in_two_tries_is_told_that_its_limit_is_too_short(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    run = tmp_path / "not" / "begun"  # a signal may come before the run has created its directory
    assert [bool(status.name_limit(run, signal.SIGUSR2)) for _ in range(2)] == [False, True]
    assert status.state(run).state == "missing"
    assert [bool(status.name_limit(tmp_path, signal.SIGUSR2)) for _ in range(2)] == [False, True]
    for name in ("metrics.jsonl", "last.ckpt"):
        (tmp_path / name).write_text("{}\n")
    found = [status.name_limit(tmp_path, signal.SIGUSR1) for _ in range(3)]
    assert found[:2] == ["", ""]  # the first of them finished epoch 1
    assert "stopped epoch 2 twice" in found[2]
    assert not status.name_limit(tmp_path, signal.SIGTERM)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert not status.name_limit(tmp_path, signal.SIGUSR1)


def test_a_missing_folder_is_refused(tmp_path):
    done = command("status", "nowhere", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "there is no folder nowhere" in done.stderr
    (tmp_path / "file").write_text("")
    assert "file is a file: name a folder" in command("status", "file", cwd=tmp_path, check=False).stderr
    assert "name one folder" in command("status", cwd=tmp_path, check=False).stderr


def test_the_process_that_broke_is_quoted_not_one_that_lost_its_connection(tmp_path):
    status.record_rank_failure(tmp_path, 1, ValueError("the loss is not a number"))
    status.record_failure(tmp_path, compose(), RuntimeError("Connection closed by peer"))
    assert status.result(tmp_path)["error"] == "the loss is not a number"
    status.forget_failure(tmp_path)
    assert not list(tmp_path.iterdir())


BAD = {
    **{
        content: content
        for content in ("", "[1]", "{", "null", "{}", '{"status": 1}', '{"status": "done", "epoch": "x"}')
    },
    "deep": "[" * 100_000 + "]" * 100_000,
    "not utf-8": b"\xff\xfe",
    "done alone": '{"status": "done"}',
}


@pytest.mark.parametrize("content", BAD.values(), ids=list(BAD))
def test_a_damaged_result_is_named_and_the_listing_goes_on(tmp_path, content):
    make_finished(tmp_path, "a")
    bad = make_finished(tmp_path, "b")
    (bad / "result.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    first, second, total = status.status_table(tmp_path).splitlines()
    assert first.split() == ["done", "a"]
    assert re.match(r"failed      b  \(result.json (is|does|lacks|holds)", second), second
    assert "1 done" in total


@pytest.mark.parametrize("name", ["metrics.jsonl", "ticket.safetensors", "ticket.json", "report.json", "claim"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/full")])
def test_what_is_no_file_in_the_place_of_one_is_refused_before_the_run(tmp_path, name, make):
    settings = compose(*SMALL)
    write_config(tmp_path, plain(settings))
    assert status.finished_result(settings, tmp_path) is None
    make(tmp_path / name)
    with pytest.raises(ValueError, match=rf"/{name} is not a regular file: remove it"):
        status.finished_result(settings, tmp_path)


@pytest.mark.parametrize("kept", [0, 2])
def test_a_ticket_that_is_not_the_one_of_the_result_is_named(tmp_path, kept):
    directory = make_finished(tmp_path, "a")
    (directory / "ticket.safetensors").write_bytes(b"abd"[:kept] if kept else b"abd")
    state = status.state(directory)
    assert state.state == "failed"
    assert "ticket.safetensors is not the file that result.json describes: remove the directory" in state.text
    (directory / "last.ckpt").touch()
    assert "repeat the command to make it again" in status.state(directory).text


@pytest.mark.slow
def test_any_flipped_bit_of_a_result_is_noticed_or_changes_no_value(tmp_path):
    directory = make_finished(tmp_path, "a")
    whole, before = (directory / "result.json").read_bytes(), status.result(directory)
    silent = []
    for at in range(0, 8 * len(whole), 7):
        altered = bytearray(whole)
        altered[at // 8] ^= 1 << at % 8
        (directory / "result.json").write_bytes(altered)
        content, damage = status.examine(directory)
        if not damage:
            silent += [key for key in before if content.get(key) != before[key]]
    assert set(silent) <= {"checksum"}


def test_a_result_of_mpt_0_1_0_has_no_checksums(tmp_path):
    directory = make_finished(tmp_path, "a")
    content = status.result(directory)
    del content["checksum"], content["ticket_checksum"]
    (directory / "result.json").write_text(json.dumps(content))
    assert status.state(directory).state == "done"
    (directory / "ticket.safetensors").write_bytes(b"ab")
    assert status.state(directory).state == "failed"


def test_the_list_of_a_sweep_names_only_directories_in_its_folder(tmp_path):
    entries = {"a": ["seed=1"], "../b": [], "/etc": [], "..": [], "": [], "c/d": [], "e": "x", "f": [1], "g" * 300: []}
    (tmp_path / status.LIST).write_text(json.dumps(entries))
    assert status.read_list(tmp_path) == {"a": ["seed=1"]}
    assert [state.directory for state in status.states(tmp_path)] == [tmp_path / "a"]


def test_control_characters_of_errors_and_names_are_printed_escaped(tmp_path):
    make_run(tmp_path, "a\x1b[2J", result={"status": "failed", "error": "\x1b]0;x\x07\nb"})
    table = status.status_table(tmp_path)
    assert "\x1b" not in table
    assert len(table.splitlines()) == 2


def test_a_directory_that_cannot_be_read_is_named_and_the_listing_goes_on(tmp_path, monkeypatch):
    make_finished(tmp_path, "a")
    make_finished(tmp_path, "b")
    scandir = os.scandir

    def refuse(path):  # root may read everything, so permissions alone would test nothing there
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    table = status.status_table(tmp_path).splitlines()
    assert table[0].split() == ["done", "a"]
    assert table[1].split()[:2] == ["failed", "b"]
    assert "/b: Permission denied" in table[1]
    assert list(read_runs(tmp_path).unreadable) == ["b"]
    with pytest.raises(PermissionError):
        status.status_table(tmp_path / "b")
