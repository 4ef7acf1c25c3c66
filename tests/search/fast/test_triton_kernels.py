"""The Triton kernels in Triton's interpreter, on the CPU; tests/test_cuda.py runs them on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

CHECK = """
import torch
from mpt.search import mask, weight
from mpt.search.fast import cuda

torch.manual_seed(0)
cuda.BLOCK, cuda.PROGRAMS = 256, 3
for shape, last in (((700,), False), ((8, 17, 3, 3), False), ((8, 17, 3, 3), True)):
    drawn = torch.randn(shape)
    equal = torch.zeros(shape).masked_fill(torch.rand(shape) < 0.5, -0.0)
    for values in (drawn, (3 * drawn).round() / 3, equal):
        x = values.contiguous(memory_format=torch.channels_last) if last else values
        for kept in (1, x.numel() // 5, x.numel() - 1):
            for absolute in (True, False):
                found = cuda.select(x, kept=kept, absolute=absolute)
                assert torch.equal(found, mask.select(x, kept=kept, absolute=absolute)), (shape, kept, absolute)
                assert found.stride() == x.stride()
w, s, grad = (torch.randn(8, 17, 3, 3).contiguous(memory_format=torch.channels_last) for _ in range(3))
m = cuda.select(s, kept=300, absolute=True)
g = cuda.gain(w, m)
assert torch.equal(g, weight.gain(w, m))
assert torch.equal(cuda.binary_weight(w, m, g), weight.binary_weight(w, m, g))
for score_grad in ("weight", "sign", "gain"):
    for score_abs in (True, False):
        by = {"by_weight": score_grad == "weight", "by_gain": score_grad == "gain"}
        found = cuda.gradient(grad, w, s, g, score_abs=score_abs, **by)
        assert torch.equal(found, weight.score_gradient(grad, w, s, g, score_grad=score_grad, score_abs=score_abs))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_give_the_bits_of_the_plain_formulas():
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
