"""Recipes: the second time a ticket is compiled, it is neither decoded nor traced."""

from __future__ import annotations

import pytest
import torch

import mpt
from mpt.engine import engine, objects, recipe
from mpt.engine.code import Machine
from mpt.engine.engine import operations
from tests.engine.networks import ticket


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "objects"))
    ticket(mpt.backbones.conv2(width=0.1, image_size=8)).save(tmp_path / "ticket.safetensors")
    return tmp_path / "ticket.safetensors"


def logits(run):
    return run(torch.ones(2, 3, 8, 8))


@pytest.mark.parametrize("unroll", [False, True], ids=["lists", "unrolled"])
def test_the_second_time_the_file_is_neither_decoded_nor_traced(saved, unroll, monkeypatch):
    run = mpt.compile(saved, unroll=unroll)
    monkeypatch.setattr(mpt.Ticket, "load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(engine, "operations", lambda *_, **__: pytest.fail("traced"))
    again = mpt.compile(saved, unroll=unroll)
    assert torch.equal(logits(again), logits(run))
    assert repr(again) == repr(run)


def test_a_ticket_in_memory_and_its_file_share_a_recipe(saved, monkeypatch):
    wanted = logits(mpt.compile(mpt.Ticket.load(saved)))
    monkeypatch.setattr(engine, "operations", lambda *_, **__: pytest.fail("traced"))
    assert torch.equal(logits(mpt.compile(saved)), wanted)


def test_a_file_that_was_altered_since_is_refused(saved):
    mpt.compile(saved)
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(ValueError, match="altered"):
        mpt.compile(saved)


@pytest.mark.slow
def test_a_missing_object_is_made_again(saved):
    wanted = logits(mpt.compile(saved, unroll=True))
    whole = {path: path.read_bytes() for path in objects.directory().iterdir()}
    for path in whole:
        path.unlink()
        assert torch.equal(logits(mpt.compile(saved, unroll=True)), wanted)
    assert {path: path.read_bytes() for path in objects.directory().iterdir()} == whole


def test_options_and_other_tickets_have_other_recipes(saved, tmp_path):
    keys = {recipe.key_of("0", unroll, size) for unroll in (False, True) for size in (None, 8, (8, 16))}
    assert len(keys) == 6
    assert recipe.key_of("1", True, 8) not in keys
    other = tmp_path / "other.safetensors"
    ticket(mpt.backbones.conv2(width=0.2, image_size=8)).save(other)
    assert not torch.equal(logits(mpt.compile(other)), logits(mpt.compile(saved)))


def test_a_recipe_is_read_as_it_was_written():
    machine = Machine.host()
    found = ticket(mpt.backbones.conv2(width=0.1, image_size=8))
    made, contents = recipe.make(operations(found), machine=machine, unroll=True, name="a name")
    assert recipe.Recipe.from_bytes(made.to_bytes()) == made
    assert len(contents) == len(made.keys)
    assert made.entries
