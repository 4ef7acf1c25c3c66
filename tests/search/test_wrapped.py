from __future__ import annotations

import pytest
import torch
from torch import nn

import mpt
from mpt.search.wrapped import unwrap, without_wrappers


def test_wrappers_are_left_out():
    net = nn.Linear(2, 2)
    assert unwrap(nn.DataParallel(torch.compile(net))) is net
    assert unwrap(net) is net


def test_names_lose_the_wrappers_inside_a_network_and_nothing_else():
    inner = nn.Sequential(nn.DataParallel(nn.Sequential(nn.Linear(2, 2))))
    inner.add_module("module", nn.Linear(2, 2))
    rename = without_wrappers(torch.compile(nn.Sequential(nn.ReLU(), torch.compile(inner))))
    assert rename("1._orig_mod.0.module.0.weight") == "1.0.0.weight"
    for name in ("", "0", "1.module.weight", "1.0.0", "0._orig_mod.weight"):
        assert rename(name) == name


NO_NETWORKS = {
    "nothing": (None, "got NoneType$"),
    "a name": ("conv2", "got the text 'conv2': mpt.backbones builds networks"),
    "a function": (mpt.backbones.conv2, "got conv2: call it, and hand over what it builds"),
    "a class": (nn.Linear, "got Linear: call it"),
    "the class of tickets": (mpt.Ticket, "got Ticket: call it"),
    "weights": ({}, "got dict$"),
}
FUNCTIONS = {
    "to_dense": mpt.to_dense,
    "layer_table": mpt.layer_table,
    "start_epoch": lambda net: mpt.start_epoch(net, 0),
    "frozen": lambda net: mpt.frozen(net).__enter__(),
    "from_network": mpt.Ticket.from_network,
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", NO_NETWORKS)
def test_what_is_no_network_is_refused_by_every_function_that_takes_one(function, kind):
    value, message = NO_NETWORKS[kind]
    with pytest.raises(ValueError, match=f"a network is needed, a torch module, {message}"):
        FUNCTIONS[function](value)


def test_a_ticket_in_the_place_of_its_network_is_refused_with_what_to_write():
    ticket = mpt.Ticket.from_network(mpt.convert(nn.Sequential(nn.Linear(4, 3)), mpt.Biprop(prune=0.5)))
    with pytest.raises(ValueError, match=r"got Ticket: write .network\(\) behind it"):
        mpt.to_dense(ticket)
