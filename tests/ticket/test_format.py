from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

import mpt
from mpt import backbones
from mpt.ticket.format import read

OLD = Path(__file__).parent / "files"
DIGESTS = {"biprop": "e6e42f2872a510e0a9169f0241f67257", "edge_popup": "b9324b3c055db3ccb8d7ea8ec0d648a9"}


@pytest.mark.parametrize("name", DIGESTS)
def test_tickets_of_mpt_0_1_0_are_read_and_keep_their_digest_in_either_format(tmp_path, name):
    ticket = mpt.Ticket.load(OLD / f"{name}-0.1.0.safetensors")
    assert ticket.digest == DIGESTS[name]
    assert (ticket.header["format"], "signs" in ticket.header) == (2, False)
    ticket.save(tmp_path / "2", format=2)
    ticket.save(tmp_path / "3")
    assert (tmp_path / "2").read_bytes() == (OLD / f"{name}-0.1.0.safetensors").read_bytes()
    again = mpt.Ticket.load(tmp_path / "3")
    assert again.digest == DIGESTS[name]
    again.save(tmp_path / "2 again", format=2)
    assert (tmp_path / "2 again").read_bytes() == (tmp_path / "2").read_bytes()
    channels, side = (3, 4) if name == "biprop" else (1, 4)
    x = torch.randn(2, channels, side, side)
    assert torch.equal(again.network()(x), ticket.network()(x))


def test_format_2_is_the_tensors_of_the_content_and_their_header(tmp_path):
    ticket = mpt.Ticket.from_network(mpt.convert(backbones.conv2(width=0.25, image_size=8), mpt.Biprop(prune=0.8)))
    ticket.save(tmp_path / "t", format=2)
    content = json.dumps({"digest": ticket.digest, "header": ticket.header}, sort_keys=True)
    assert (tmp_path / "t").read_bytes() == save(ticket.tensors, {"ticket": content})


def test_an_older_mpt_sees_a_newer_format_in_the_header(tmp_path):
    ticket = mpt.Ticket.from_network(mpt.convert(backbones.conv2(width=0.25, image_size=8), mpt.Biprop(prune=0.8)))
    ticket.save(tmp_path / "t")
    with safe_open(tmp_path / "t", "pt") as file:
        about = json.loads(file.metadata()["ticket"])
    assert about["header"]["format"] == 3
    assert about["digest"] == ticket.digest


@pytest.mark.parametrize(
    "change", [{"seed": "0"}, {"class_names": "abc"}, {"normalization": {"mean": [0.0], "std": [0.0]}}]
)
def test_a_header_that_could_not_be_read_again_is_not_written(tmp_path, change):
    ticket = mpt.Ticket.from_network(mpt.convert(backbones.conv2(width=0.25, image_size=8), mpt.Biprop(prune=0.8)))
    with pytest.raises(ValueError, match=f"its header's {next(iter(change))} is"):
        mpt.Ticket(ticket.header | change, ticket.tensors).save(tmp_path / "t")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        (b"PK\x03\x04 and so on, for a while", "mpt-ticket import converts"),
        (b"\x89PNG\r\n and so on, for a while", "is no ticket but a picture"),
    ],
)
def test_a_file_that_is_no_ticket_is_called_what_it_is(tmp_path, content, sentence):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path / "x.safetensors")


def test_a_folder_is_refused_with_the_file_in_it(tmp_path):
    (tmp_path / "ticket.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is a folder: name the ticket file in it, as in .*/ticket\.safetensors"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("place", "error", "sentence"),
    [
        (".", ValueError, r"is a folder: name a file in it, as in .*/ticket\.safetensors"),
        ("none/x", FileNotFoundError, r"^there is no folder .*none for x: create it first"),
        ("x" * 300, OSError, r"^/.*xxx cannot be written \(File name too long\): name another place"),
    ],
)
def test_a_place_where_no_ticket_can_be_is_refused_in_a_sentence(tmp_path, place, error, sentence):
    ticket = mpt.Ticket.load(OLD / "biprop-0.1.0.safetensors")
    with pytest.raises(error, match=sentence):
        ticket.save(tmp_path / place)
    assert not list(tmp_path.iterdir())
