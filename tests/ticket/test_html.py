from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import mpt
from mpt import backbones
from mpt.ticket.html import filters


def ticket_of(backbone, method=None, **about):
    return mpt.Ticket.from_network(mpt.convert(backbone, method or mpt.Biprop(prune=0.8), seed=0), **about)


def test_a_ticket_is_shown_in_three_lines():
    ticket = ticket_of(backbones.conv2(width=0.25, image_size=8), class_names=["a", "b"])
    lines = repr(ticket).splitlines()
    assert len(lines) == 3
    assert "'conv2'" in lines[0]
    assert "'Biprop'" in lines[0]
    assert f"{ticket.num_kept:,} of {ticket.num_weights:,} weights kept (20.00 %) in 5 layers" in lines[1]
    assert "2 classes" in lines[2]
    assert ticket.digest in lines[2]
    ticket.header["method"]["name"] = "x\x1b[2J\n" + "y" * 1000
    assert len(repr(ticket)) < 400
    assert len(repr(ticket).splitlines()) == 3
    assert "\x1b" not in repr(ticket)
    assert len(repr(ticket_of(backbones.mlp(hidden=[8]), mpt.Dense())).splitlines()) == 3


def test_html_has_the_layer_table_and_a_picture_of_the_first_layer():
    ticket = ticket_of(backbones.conv2(width=0.25, image_size=8))
    text = ticket._repr_html_()
    for layer in ticket.layers:
        assert f"<td>{layer.name}</td>" in text
        assert f"<td>{layer.kept:,}</td>" in text
    data = base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])
    with Image.open(io.BytesIO(data)) as picture:
        pixels = np.asarray(picture)
    expected = filters(ticket.layers[0].weight(), image=(3, 8))
    assert np.array_equal(pixels, expected)
    assert len(text) < 20_000


def test_each_weight_is_a_square_of_its_colour():
    weight = torch.tensor([[[[1.0, 0.0], [-1.0, 1.0]]] * 3, [[[0.0, 0.0], [0.0, -1.0]]] * 3])
    pixels = filters(weight, image=(3, 8))
    assert pixels.shape == (32, 32 + 2 + 32, 3)
    assert pixels[::16, [0, 16]].tolist() == [[[255] * 3, [128] * 3], [[0] * 3, [255] * 3]]
    assert (pixels[:, 32:34] == 255).all()
    assert (pixels[16:, 50:] == 0).all()


@pytest.mark.parametrize(
    "backbone",
    [
        lambda: backbones.mlp(hidden=[300], in_channels=1, image_size=8),
        lambda: torch.nn.Linear(6, 4),
        lambda: torch.nn.Conv1d(2, 4, 5),
        lambda: torch.nn.ConvTranspose2d(3, 4, 5),
        lambda: torch.nn.Conv3d(1, 2, 3),
    ],
)
def test_every_kind_of_first_layer_has_a_picture(backbone):
    text = ticket_of(backbone())._repr_html_()
    assert "<img" in text
    assert len(text) < 100_000


def test_a_dense_baseline_has_a_table_without_a_picture_and_names_are_escaped():
    assert "<img" not in ticket_of(backbones.mlp(hidden=[8]), mpt.Dense())._repr_html_()
    ticket = ticket_of(torch.nn.Linear(6, 4))
    ticket.header["method"]["name"] = "<script>"
    assert "<script>" not in ticket._repr_html_()
