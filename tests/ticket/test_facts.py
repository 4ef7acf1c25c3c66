"""``ticket.json``: the numbers of the ticket's report, without torch when it is read, and of this ticket alone."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import mpt
from mpt.files import checksum
from mpt.ticket.facts import FILE, read_facts, write_facts
from mpt.ticket.pictures import unpack
from mpt.ticket.report import report


@pytest.fixture
def ticket(tmp_path):
    net = mpt.convert(mpt.backbones.conv2(in_channels=3, image_size=8, width=0.125), mpt.Biprop(prune=0.6), seed=0)
    ticket = mpt.Ticket.from_network(net)
    ticket.save(tmp_path / "ticket.safetensors")
    return ticket


def facts(folder):
    return read_facts(folder, ticket_checksum=checksum(folder / "ticket.safetensors"))


def test_facts_are_the_numbers_of_the_report(ticket, tmp_path):
    write_facts(ticket, tmp_path / "ticket.safetensors")
    rows = report(ticket, ticket.network(), image=torch.zeros(1, 3, 8, 8))["layers"]
    for own, theirs in zip(facts(tmp_path)["layers"], rows, strict=True):
        assert {key: own[key] for key in theirs} == theirs


def test_the_first_layer_is_shown_weight_by_weight(ticket, tmp_path):
    write_facts(ticket, tmp_path / "ticket.safetensors")
    first, layer = facts(tmp_path)["first"], ticket.layers[0]
    np.testing.assert_array_equal(unpack(first, signed=True), np.sign(layer.weight().numpy()))
    assert first["scale"] == pytest.approx(float(layer.gain))


@pytest.mark.parametrize(
    "method",
    [
        mpt.EdgePopup(prune=0.5, init="kaiming_normal"),
        mpt.Multicoated(prune=0.5),
        mpt.Biprop(prune=0.5, gains="channel"),
    ],
)
def test_other_kinds_of_tickets_have_facts(method, tmp_path):
    net = mpt.convert(mpt.backbones.conv2(in_channels=1, image_size=8, width=0.125), method, seed=0)
    ticket = mpt.Ticket.from_network(net)
    ticket.save(tmp_path / "ticket.safetensors")
    write_facts(ticket, tmp_path / "ticket.safetensors")
    assert facts(tmp_path)["first"]["steps"] > 1
    row = facts(tmp_path)["layers"][0]
    assert row["least_gain"] < row["gain"] < row["largest_gain"]


def test_a_dense_network_has_no_layers(tmp_path):
    net = mpt.convert(mpt.backbones.conv2(in_channels=1, image_size=8, width=0.125), mpt.Dense(), seed=0)
    ticket = mpt.Ticket.from_network(net)
    ticket.save(tmp_path / "ticket.safetensors")
    write_facts(ticket, tmp_path / "ticket.safetensors")
    assert facts(tmp_path)["layers"] == []
    assert facts(tmp_path)["first"] is None


def test_facts_of_another_ticket_are_not_taken(ticket, tmp_path):
    write_facts(ticket, tmp_path / "ticket.safetensors")
    with pytest.raises(ValueError, match="of another ticket"):
        read_facts(tmp_path, ticket_checksum="0" * 32)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.clear(),
        lambda content: content["layers"][0].pop("density"),
        lambda content: content["layers"][0].update(gain="<script>"),
        lambda content: content["layers"][0]["pairs"].pop("cells"),
        lambda content: content["layers"][0]["pairs"].update(shape=[1, 2, 3]),
        lambda content: content["first"].update(shape=[9, 9]),
        lambda content: content["first"].pop("of"),
        lambda content: content.update(layers="many"),
    ],
)
def test_damaged_facts_are_refused(ticket, tmp_path, change):
    content = write_facts(ticket, tmp_path / "ticket.safetensors")
    change(content)
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=FILE.replace(".", r"\.") + "|picture"):
        facts(tmp_path)


def test_reading_facts_imports_no_torch(ticket, tmp_path):
    write_facts(ticket, tmp_path / "ticket.safetensors")
    code = (
        "import sys, pathlib; from mpt.ticket.facts import read_facts; "
        f"read_facts(pathlib.Path({str(tmp_path)!r}), ticket_checksum={checksum(tmp_path / 'ticket.safetensors')!r}); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
