from __future__ import annotations

import logging

import pytest

import mpt
from mpt.files import DamagedError
from mpt.ticket import hub
from tests.ticket import hub_server

pytest.importorskip("huggingface_hub", reason="needs the extra hub")


@pytest.fixture
def server(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with hub_server.running() as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        yield server


@pytest.fixture
def ticket():
    return mpt.zoo.load("digits-mlp")


@pytest.mark.slow
def test_a_ticket_comes_back_by_its_digest_and_by_its_revision(server, ticket):
    address = ticket.push_to_hub("user/first", result={"test_acc": 0.9443, "data": "digits | x", "num_test": 359})
    newer = mpt.zoo.load("digits-conv4").push_to_hub("user/first")
    assert mpt.Ticket.load(address).digest == ticket.digest
    assert (
        mpt.Ticket.load("hf://user/first").digest
        == mpt.zoo.load("digits-conv4").digest
        == mpt.Ticket.load(newer).digest
    )
    card = server.commits["user/first"][0][1]["README.md"].decode()
    assert f"mpt_digest: {ticket.digest}" in card
    assert "| test accuracy | 94.43 % |" in card
    assert 'mpt.Ticket.load("hf://user/first")' in card


def test_a_file_that_was_altered_or_replaced_is_refused(server, ticket):
    ticket.push_to_hub("user/altered")
    _, files = server.commits["user/altered"][0]
    content = bytearray(files[hub.FILE])
    content[-1] ^= 1
    server.commits["user/altered"] = [("1" * 40, files | {hub.FILE: bytes(content)})]
    with pytest.raises(ValueError, match=r"altered|damaged"):
        mpt.Ticket.load("hf://user/altered")
    mpt.zoo.load("digits-conv4").push_to_hub("user/other")
    other = server.commits["user/other"][0][1][hub.FILE]
    server.commits["user/altered"] = [("2" * 40, files | {hub.FILE: other})]
    with pytest.raises(DamagedError, match="not the one that its card names"):
        mpt.Ticket.load("hf://user/altered")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hf://user/none", "the hub has no user/none"),
        (f"hf://user/there@{'0' * 40}", "has no revision"),
        ("hf://alone", "is named user/name"),
        ("hf://user/../x", "is named user/name"),
        ("hf://user/empty", "holds no ticket of mpt"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(server, ticket, address, words):
    ticket.push_to_hub("user/there")
    server.commits["user/empty"] = [("3" * 40, {"README.md": b"# nothing"})]
    with pytest.raises((ValueError, OSError), match=words) as caught:
        mpt.Ticket.load(address)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_uploading_needs_a_token_that_may_write_and_a_network(server, ticket, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "another")
    with pytest.raises(ValueError, match="refused user/x with status 403"):
        ticket.push_to_hub("user/x")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="run hf auth login, or set HF_TOKEN"):
        ticket.push_to_hub("user/x")
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    with pytest.raises(OSError, match="the hub cannot be reached"):
        ticket.push_to_hub("user/x")
    with pytest.raises(OSError, match="the hub cannot be reached"):
        mpt.Ticket.load("hf://user/x")
    logged = [record.getMessage() for record in caplog.records]
    assert not [line for line in logged if "Retrying" not in line]  # one short line each time that it tries again
