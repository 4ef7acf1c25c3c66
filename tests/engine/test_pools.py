"""Pools look at the entries of their windows, and a pool whose windows are one entry is a copy without a loop."""

import ctypes
import mmap
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mpt.engine.code import Machine
from mpt.engine.fuse import fuse
from mpt.engine.program import program
from mpt.engine.trace import trace
from tests.engine.networks import compiled


def compiled_behind(net, shape, **options):
    """``net`` and a convolution that leaves its values as they are: a ticket has one."""
    same = nn.Conv2d(shape[0], shape[0], 1, groups=shape[0], bias=False)
    nn.init.ones_(same.weight)
    return compiled(nn.Sequential(net, same), shape, **options)


class Every(nn.Module):
    """Every ``step``-th row and column from ``first`` on."""

    def __init__(self, step, first=0):
        super().__init__()
        self.part = slice(first, None, step)

    def forward(self, x):
        return x[:, :, self.part, self.part]


@pytest.mark.parametrize("lanes", [None, 8, 4])
@pytest.mark.parametrize("side", [2, 3, 7, 16, 31, 33, 66])
def test_entries_of_a_slice_are_those_of_torch(side, lanes):
    for step, first in ((2, 0), (2, 1), (3, 0)):
        net = Every(step, first)
        run = compiled_behind(net, (3, side, side), lanes=lanes)
        for n in (1, 17):
            images = torch.randn(n, 3, side, side)
            wanted = net(images)
            assert torch.equal(run(images).reshape(wanted.shape), wanted), (step, first, n)


@pytest.mark.parametrize("side", [4, 31, 32])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)])
def test_pools_are_those_of_torch(pool, side):
    images = torch.randn(17, 5, side, side)
    wanted = pool(images)
    got = compiled_behind(pool, (5, side, side))(images)
    torch.testing.assert_close(got.reshape(wanted.shape), wanted, rtol=0, atol=1e-6)


def test_a_slice_of_every_second_entry_needs_no_loop_of_llvm():
    texts = [
        program(fuse(trace(net, shape=(3, 32, 32))), machine=Machine.host()).text
        for net in (Every(2), nn.MaxPool2d(3, 3))
    ]
    assert ['"loops"' in text for text in texts] == [False, True]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a page that cannot be read behind the images")
@pytest.mark.parametrize("side", [15, 16, 31])
def test_nothing_behind_the_images_is_read(side):
    memory = mmap.mmap(-1, 4 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + 3 * mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    values = np.frombuffer(memory, np.float32, side * side, 3 * mmap.PAGESIZE - 4 * side * side)
    images = values.reshape(1, 1, side, side)
    images[:] = np.arange(side * side).reshape(side, side)
    first = side % 2 == 0
    got = compiled_behind(Every(2, first), (1, side, side))(images)
    assert np.array_equal(got.ravel(), images[..., first::2, first::2].ravel())
