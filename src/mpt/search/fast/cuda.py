"""The inner loops of a search on a CUDA GPU, in Triton: each formula in one pass over memory, and nothing waits.

    function        computes                                         passes over the layer
    select          the mask of the largest entries                  four to find the threshold, one to write
    gain            sum(m |w|) / sum(m)                              one
    binary_weight   g m sign(w)                                      one
    gradient        dL/db w sign(s), and its variants                one

``select`` finds the threshold digit by digit (radix 256): a pass counts the next eight bits of the entries that agree
with the threshold so far, and every block of the next pass reads from these counts how the threshold goes on. The
numbers are those of the torch operations that run where Triton, float32 or a common layout is missing; only the float64
sum of a gain adds in another order. :func:`fits` decides.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

BLOCK = 4096  # entries that a program reads at a time
PROGRAMS = 528  # most programs of a launch: four for each multiprocessor of a large GPU
DIGITS, RADIX = 4, 256  # of a float32
FITTING = (torch.float32, torch.bool)


def fits(*tensors: Tensor) -> bool:
    """Whether the kernels support ``tensors``: float32 or bool, of one shape and layout, on a GPU."""
    first = tensors[0]
    if not first.is_cuda or first.numel() == 0 or torch.compiler.is_compiling() or not available():
        return False
    if any(not x.is_cuda or x.dtype not in FITTING or x.shape != first.shape for x in tensors):
        return False
    return all(x.is_contiguous() for x in tensors) or _all_channels_last(tensors)


@cache
def available() -> bool:
    """Whether Triton is installed and torch's GPUs are NVIDIA's."""
    return torch.version.cuda is not None and importlib.util.find_spec("triton") is not None


def select(importance: Tensor, *, kept: int, absolute: bool) -> Tensor:
    """:func:`mpt.search.mask.select` for a tensor that fits."""
    kernels, n = _kernels(), importance.numel()
    counts = torch.zeros(DIGITS, RADIX, dtype=torch.int32, device=importance.device)
    cut = torch.empty(2, dtype=torch.int64, device=importance.device)
    mask = torch.empty_like(importance, dtype=torch.bool)
    grid = _grid(n)
    for digit in range(DIGITS):
        kernels.count_digits[grid](importance, counts, n, kept, digit, absolute, RADIX, BLOCK)
    inner, taps = _order(importance)
    kernels.find_cut[(1,)](importance, counts, cut, n, kept, inner, taps, absolute, DIGITS, RADIX, BLOCK)
    kernels.write_mask[grid](importance, cut, mask.view(torch.uint8), n, inner, taps, absolute, BLOCK)
    return mask


def gain(weight: Tensor, mask: Tensor) -> Tensor:
    """:func:`mpt.search.weight.gain` for tensors that fit."""
    kernels, n = _kernels(), weight.numel()
    grid = _grid(n)
    sums = torch.empty(grid[0], dtype=torch.float64, device=weight.device)
    ones = torch.empty(grid[0], dtype=torch.int64, device=weight.device)
    out = torch.empty((), dtype=torch.float32, device=weight.device)
    kernels.kept_sums[grid](weight, mask.view(torch.uint8), sums, ones, n, BLOCK)
    kernels.divide_sums[(1,)](sums, ones, out, grid[0], 1024)
    return out


def binary_weight(weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
    """:func:`mpt.search.weight.binary_weight` with one gain, for tensors that fit."""
    out, n = torch.empty_like(weight), weight.numel()
    _kernels().binary_weight[(-(-n // BLOCK),)](weight, mask.view(torch.uint8), gain, out, n, BLOCK)
    return out


def gradient(
    grad: Tensor, weight: Tensor, scores: Tensor, gain: Tensor, *, by_weight: bool, by_gain: bool, score_abs: bool
) -> Tensor:
    """:func:`mpt.search.weight.score_gradient` with one gain, for tensors that fit."""
    out, n = torch.empty_like(weight), weight.numel()
    _kernels().gradient[(-(-n // BLOCK),)](grad, weight, scores, gain, out, n, by_weight, by_gain, score_abs, BLOCK)
    return out


def _kernels() -> Any:
    from mpt.search.fast import triton_kernels

    return triton_kernels


def _grid(n: int) -> tuple[int]:
    return (min(-(-n // BLOCK), PROGRAMS),)


def _all_channels_last(tensors: tuple[Tensor, ...]) -> bool:
    return tensors[0].dim() == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in tensors)


def _order(x: Tensor) -> tuple[int, int]:
    """How memory is ordered: (input channels, taps of a kernel) if channels come last, (1, 1) if contiguous."""
    return (1, 1) if x.is_contiguous() else (x.shape[1], x.shape[2] * x.shape[3])
