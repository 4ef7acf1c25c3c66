from __future__ import annotations

import torch

from mpt.search.fast import cuda


def test_the_kernels_are_for_float32_on_a_gpu_alone():
    assert not cuda.fits(torch.zeros(4))
    assert not cuda.fits(torch.zeros(0))
