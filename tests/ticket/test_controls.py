from __future__ import annotations

import pytest
import torch

import mpt
from mpt import backbones
from mpt.ticket.controls import control


@pytest.fixture
def ticket():
    return mpt.Ticket.from_network(
        mpt.convert(backbones.conv2(width=0.25, image_size=8), mpt.Biprop(prune=0.8), seed=0)
    )


def test_a_shuffled_mask_keeps_counts_signs_and_gains_and_moves_the_weights(ticket):
    shuffled = control(ticket, "shuffled_mask", seed=1)
    assert shuffled.num_kept == ticket.num_kept
    for row in ticket.header["layers"]:
        name = row["name"]
        assert int(shuffled.mask(name).sum()) == row["kept"]
        assert torch.equal(shuffled.tensors[f"{name}.signs"], ticket.tensors[f"{name}.signs"])
        agree = (shuffled.mask(name) & ticket.mask(name)).sum() / row["kept"]
        assert agree < 0.4 or row["kept"] < 100  # by chance 0.2
    assert torch.equal(control(ticket, "shuffled_mask", seed=1).mask("classifier.0"), shuffled.mask("classifier.0"))
    assert not torch.equal(control(ticket, "shuffled_mask", seed=2).mask("classifier.0"), shuffled.mask("classifier.0"))


def test_unknown_controls_and_dense_tickets_are_refused(ticket):
    with pytest.raises(ValueError, match="control must be one of shuffled_mask, got 'nope'"):
        control(ticket, "nope")
    dense = mpt.Ticket.from_network(mpt.convert(backbones.conv2(width=0.25, image_size=8), mpt.Dense(), seed=0))
    with pytest.raises(ValueError, match="dense baseline"):
        control(dense, "shuffled_mask")
