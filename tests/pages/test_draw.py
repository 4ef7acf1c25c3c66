"""The drawing of a ticket: an SVG file that says what the ticket holds and nothing else."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

import mpt
from mpt.pages.draw import draw_ticket
from tests.pages.conftest import BAD

SVG = "{http://www.w3.org/2000/svg}"


def ticket_of(method, **options):
    net = mpt.convert(mpt.backbones.conv2(in_channels=3, image_size=8, width=0.125), method, seed=0, **options)
    return mpt.Ticket.from_network(net)


@pytest.mark.parametrize(
    "method",
    [mpt.Biprop(prune=0.8), mpt.Biprop(prune=0.5, gains="channel"), mpt.EdgePopup(prune=0.5, init="kaiming_normal")],
)
def test_a_drawing_names_every_layer_and_loads_nothing(method):
    ticket = ticket_of(method)
    root = ElementTree.fromstring(draw_ticket(ticket))
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    for layer in ticket.layers:
        assert layer.name in texts
    assert all(image.get("href").startswith("data:image/png") for image in root.iter(f"{SVG}image"))
    assert len(list(root.iter(f"{SVG}image"))) == len(ticket.layers)


def test_there_is_a_square_for_each_weight_of_the_first_layer():
    ticket = ticket_of(mpt.Biprop(prune=0.75))
    root = ElementTree.fromstring(draw_ticket(ticket))
    paths = {path.get("fill"): path.get("d").count("z") for path in root.iter(f"{SVG}path")}
    weight = ticket.weight(ticket.layers[0].name)
    assert paths["#0072b2"] == int((weight > 0).sum())
    assert paths["#d55e00"] == int((weight < 0).sum())
    assert paths["#e4e7eb"] == int((weight == 0).sum())


def test_a_name_from_a_file_is_text():
    ticket = ticket_of(mpt.Biprop(prune=0.5))
    header = ticket.header | {"backbone": {"target": BAD, "arguments": {}}}
    header["method"] = header["method"] | {"name": BAD}
    root = ElementTree.fromstring(draw_ticket(replace(ticket, header=header)))
    assert not [tag for tag in root.iter() if tag.tag.endswith(("script", "img"))]


def test_a_dense_network_is_refused():
    with pytest.raises(ValueError, match="dense baseline"):
        draw_ticket(ticket_of(mpt.Dense()))
