from __future__ import annotations

import multiprocessing
import resource
import sys
import threading
import weakref
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

import mpt
from mpt.search import weight as weights
from mpt.search.fast import memory
from mpt.search.fast.loops import LARGE
from mpt.search.fast.memory import MOST, _glibc, empty_like, freed_memory_kept

MEBI = 2**20
KEPT = {
    "itself": lambda x: x,
    "a view": lambda x: x[1:],
    "detached": lambda x: x.detach(),
    "its storage": lambda x: x.untyped_storage(),
    "as numpy": lambda x: x.numpy(),
    "as a gradient": lambda x: [setattr(p := nn.Parameter(torch.zeros_like(x)), "grad", x), p],
    "by autograd": lambda x: nn.Parameter(torch.ones(())) * x,
}


@pytest.fixture
def like():
    return torch.zeros(LARGE)


def test_memory_is_lent_again_once_nothing_uses_it(like):
    address = empty_like(like).data_ptr()
    first, second = empty_like(like), empty_like(like)
    assert first.data_ptr() == address != second.data_ptr()
    del first
    assert empty_like(like).data_ptr() == address


@pytest.mark.parametrize("how", KEPT)
def test_memory_that_something_uses_is_not_lent(how, like):
    lent = empty_like(like)
    address, kept = lent.data_ptr(), KEPT[how](lent)
    del lent
    assert address not in {empty_like(like).data_ptr() for _ in range(3)}
    del kept
    assert address in {one.data_ptr() for one in [empty_like(like) for _ in range(MOST)]}


def test_only_the_memory_of_one_step_is_kept(like):
    tensors = [empty_like(like) for _ in range(5)]
    assert len({x.data_ptr() for x in tensors}) == 5
    assert len(memory._loans[id(like)][1]) == MOST
    for i, x in enumerate(tensors):
        x.fill_(i)
    assert [x.unique().item() for x in tensors] == [0, 1, 2, 3, 4]


def test_memory_is_freed_with_the_tensor_that_it_is_like():
    like = torch.zeros(LARGE)
    empty_like(like)
    lent = weakref.ref(memory._loans[id(like)][1][0].memory)
    del like
    assert lent() is None


def test_lent_memory_has_the_current_layout_and_dtype():
    weight = nn.Parameter(torch.zeros(64, 64, 3, 3), requires_grad=False)
    assert empty_like(weight).stride() == weight.stride()
    for change in (lambda x: x.to(memory_format=torch.channels_last), lambda x: x.double()):
        weight.data = change(weight.data)
        lent = empty_like(weight)
        assert (lent.shape, lent.stride(), lent.dtype) == (weight.shape, weight.stride(), weight.dtype)
        assert not lent.requires_grad
        assert len(memory._loans[id(weight)][1]) == 1  # what does not fit any more is forgotten
        del lent


def test_small_tensors_and_other_devices_are_left_to_torch():
    for x in (torch.zeros(LARGE - 1), torch.zeros(LARGE, device="meta")):
        lent = empty_like(x)
        assert (lent.shape, lent.device) == (x.shape, x.device)
        assert id(x) not in memory._loans


def test_several_forwards_before_one_backward_give_the_gradients_of_fresh_memory(monkeypatch):
    def gradient():
        backbone = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
        net = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=1)
        images = torch.rand(4, 8, 256, generator=torch.Generator().manual_seed(2))
        for pair in (images[:2], images[2:]):
            losses = []
            for one in pair:
                losses.append(net(one).square().sum())
                net[0].scores.data = net[0].scores.data.roll(1)  # the next forward's ticket is another
            sum(losses).backward()
        return net[0].scores.grad

    gradient_in_lent_memory = gradient()
    monkeypatch.setattr(weights, "empty_like", torch.empty_like)
    assert torch.equal(gradient_in_lent_memory, gradient())


def test_two_threads_are_never_lent_the_same_memory(like):
    wrong = []

    def use(number):
        for _ in range(300):
            x = empty_like(like).fill_(number)
            wrong.extend([number] * int((x != number).sum() > 0))

    threads = [threading.Thread(target=use, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def resident():
    """MiB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MEBI


def left(mebi=64):
    """MiB by which the resident memory grows when a tensor of ``mebi`` MiB is created and freed."""
    before = resident()
    torch.ones(mebi * MEBI, dtype=torch.uint8)
    return resident() - before


def around(error):
    """What a tensor leaves before ``freed_memory_kept``, each of sixty inside, it itself, and a tensor after it."""
    left()  # threads and libraries
    before, start = left(), resident()
    with suppress(ZeroDivisionError), freed_memory_kept():
        inside = [left() for _ in range(60)]
        if error:
            1 / 0  # noqa: B018
    behind = resident() - start
    return before, inside, behind, left(1024)  # for which nothing that was freed has room


@pytest.mark.slow
@pytest.mark.skipif(
    _glibc() is None or sys.platform != "linux", reason="the C library is not glibc, or the system has no /proc"
)
@pytest.mark.parametrize("error", [False, True])
def test_freed_memory_is_used_again_inside_and_returned_outside(error):
    # in a process of its own: what the heap of this one has room for depends on the tests before
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        before, inside, behind, after = pool.submit(around, error).result()
    assert before < 16
    assert inside[0] > 48
    assert sum(inside[30:]) < 16  # the first few may find the freed memory a little too small
    assert behind < 16
    assert after < 16


@pytest.mark.skipif(_glibc() is None, reason="another C library")
def test_only_the_largest_are_lent_memory_while_the_c_library_keeps_what_is_freed(like):
    largest = torch.zeros(memory.LARGEST)
    with freed_memory_kept():
        kept = empty_like(like, dtype=torch.bfloat16)
        assert (kept.shape, kept.dtype) == (like.shape, torch.bfloat16)
        assert id(like) not in memory._loans
        empty_like(largest)
        assert len(memory._loans[id(largest)][1]) == 1
    lent = empty_like(like, dtype=torch.bfloat16)
    assert (lent.shape, lent.dtype) == (like.shape, torch.bfloat16)
    assert len(memory._loans[id(like)][1]) == 1
