"""Fetches of unrolled code: what is asked for, where, and that it is all that follows."""

from __future__ import annotations

import numpy as np
import pytest

from mpt.engine.code import Machine
from mpt.engine.encode import FLOATS, FUSED, Block, Encoder, functions
from mpt.engine.fetches import AHEAD
from tests.engine.instructions import assemble, read


@pytest.mark.skipif(not Machine.host().encoded, reason="LLVM cannot assemble x86-64 here")
def test_a_fetch_and_what_moves_it_are_those_of_the_assembler():
    (made,) = functions(*dense(400), [Block("f", 0, 400, 30)], Encoder(64, True, FLOATS, space=64))
    begin = assemble([f"lea {AHEAD + 128 - 7}(%rip), %rax", "mov $256, %ecx"])
    assert made.startswith(begin)
    for line in ("prefetcht1 -128(%rax)", "prefetcht1 -64(%rax)", "prefetcht1 (%rax)", "prefetcht1 64(%rax)"):
        assert assemble([line]) in made
    assert assemble(["add %rcx, %rax", "prefetcht1 -128(%rax)"]) in made


def dense(kept):
    """Taps and signs of weights that are kept, one of each input."""
    return np.stack([np.arange(kept) * 64, np.arange(kept) % 30], axis=1).astype(np.int32), np.ones(kept, np.int8)


@pytest.mark.parametrize("space", [64, 96])
@pytest.mark.parametrize("kind", [(32, False, FLOATS), (32, True, FLOATS), (16, True, FUSED)], ids=str)
def test_code_fetches_each_line_that_follows_it_once_and_in_time(kind, space):
    make, (taps, signs) = Encoder(*kind, space=space), dense(4001)
    blocks = [Block("f", 0, 3000, 14), Block("g", 3000, 3000, 14), Block("h", 3000, 4001, 14, True)]
    taps[:, 1] %= 14
    for block, made in zip(blocks, functions(taps, signs, blocks, make), strict=True):
        fetches = []
        read(made, make, fetches)
        if block.start == block.stop:
            assert fetches == []
            continue
        places, lines = np.array(fetches).T
        wanted = AHEAD + space * np.arange(len(fetches))
        assert (lines == wanted).all()
        assert 0 <= AHEAD + space * len(fetches) - (AHEAD + len(made)) <= 8 * space
        assert np.abs(lines - AHEAD - places).max() <= 1200  # what is written before and behind the taps has none
