from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

import mpt
from tests.commands.test_cli import refused
from tests.console import command
from tests.engine.networks import ticket


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small ticket, and a cache of its own."""
    folder = tmp_path_factory.mktemp("bench")
    ticket(mpt.backbones.conv2(width=0.1, image_size=8), prune=0.8).save(folder / "ticket")
    return folder


def bench(folder, *arguments):
    return command("ticket", "bench", "ticket", "seconds=0.01", *arguments, cwd=folder).stdout


def test_a_table_names_every_contestant_and_the_machine_and_the_json_has_the_same_rows(folder):
    text = bench(folder, "batch=1,2", "json=speed.json")
    content = json.loads((folder / "speed.json").read_text())
    assert [(row["batch"], row["threads"]) for row in content["rows"]] == [(1, 1), (2, 1)]
    assert content["digest"] == mpt.Ticket.load(folder / "ticket").digest
    assert "batch 1, 1 thread " in text
    assert "batch 2, 1 thread " in text
    assert text.count("unrolled") == 2
    assert text.count("onnxruntime") == 2 * bool(find_spec("onnxruntime"))
    for row in content["rows"]:
        assert f"{row['ms']['lists']:.3f}" in text
        assert f"{row['ratio']['lists']:.2f}" in text
    assert f"machine  {content['rows'][0]['machine']}" in text
    assert "processor time" in text


def test_threads_are_measured_in_wall_time_and_unrolled_code_can_be_left_out(folder):
    row = json.loads(bench(folder, "batch=2", "threads=2", "unroll=false", "--json"))["rows"][0]
    assert (row["threads"], row["clock"], list(row["error"])) == (2, "wall", ["lists"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ticket", "batch=0"], ["batch", "whole numbers"]),
        (["ticket", "threads=1,x"], ["threads", "whole numbers"]),
        (["ticket", "batch="], ["batch", "write batch=VALUE"]),
        (["ticket", "seconds=0"], ["seconds", "above 0"]),
        (["ticket", "json=nowhere/speed.json"], ["json", "existing folder"]),
        (["ticket", "image_size=16"], ["classifier.0"]),
        (["ticket", "prune=0.5"], ["no option prune"]),
        (["nowhere"], ["nowhere"]),
    ],
)
def test_a_wrong_command_ends_with_one_sentence_and_writes_nothing(folder, arguments, words):
    before = sorted(folder.rglob("*"))
    sentence = refused("ticket", "bench", *arguments, cwd=folder)
    for word in words:
        assert word in sentence
    assert sorted(folder.rglob("*")) == before
