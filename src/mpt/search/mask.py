"""Scores to mask: exactly the right number of weights, never by sorting.

For a layer of ``n`` weights and a pruned fraction ``P`` the mask keeps exactly

    k = max(1, n - floor(P n + 1/2))

weights, those of largest importance; among equals the lowest flat index is kept first. Importance is ``|s|``, or ``s``
itself where a method says so.

On the CPU the k-th largest value is found by ``np.partition`` on the tensor's own memory; on any other device by
``torch.topk``, with every count left on the device, so that the host never waits. Both give the same mask, bit for bit.

:func:`select_jointly` does the same for several layers together (global pruning): exactly ``k`` of all their weights,
at least one of each layer, which counts among the ``k``; among equals the earlier layer comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def check_prune(prune: float, *, name: str = "prune") -> None:
    """Raise ValueError unless ``prune``, the fraction removed, lies in [0, 1)."""
    if not isinstance(prune, (int, float)) or not 0 <= prune < 1:  # also refuses nan
        raise ValueError(f"{name} is the fraction removed and must be in [0, 1), got {prune}")


def num_kept(n: int, *, prune: float) -> int:
    """Number of weights kept of ``n``: ``max(1, n - floor(prune n + 1/2))``."""
    check_prune(prune)
    return max(1, n - math.floor(prune * n + 0.5))


def ramped(prune: float, *, epoch: int, ramp: int) -> float:
    """Fraction removed in ``epoch`` (from 0) while it rises from 1/2 to ``prune`` over the first ``ramp`` epochs.

    ``P + (1/2 - P) (1 - e / E)^3`` for ``e < E``, then ``P``; a ``P`` below 1/2 does not rise but is ``P`` at once.
    Source: the ramp of the authors' update for global pruning, E = 10.
    """
    if prune < 0.5 or epoch >= ramp:
        return prune
    return prune + (0.5 - prune) * (1 - epoch / ramp) ** 3


def select(importance: Tensor, *, kept: int) -> Tensor:
    """Mask of the ``kept`` largest entries of ``importance``; among equals the lowest flat index comes first.

    Args:
        importance: any shape, floating point, ``n`` entries without NaN. Its contents are left alone.
        kept: how many entries to keep, ``1 <= kept <= n``.

    Returns:
        bool tensor of the shape, device and memory format of ``importance`` with exactly ``kept`` ones.

    Raises:
        ValueError: an entry is NaN (noticed on the CPU only; elsewhere looking would make the host wait).
    """
    n = importance.numel()
    if not 1 <= kept <= n:
        raise ValueError(f"kept must be between 1 and the {n} weights of the layer, got {kept}")
    if kept == n:
        return torch.ones_like(importance, dtype=torch.bool)
    if importance.device.type == "cpu":
        return _select_by_partition(importance, kept)
    return select_on_device(importance, kept=kept)


def _select_by_partition(importance: Tensor, kept: int) -> Tensor:
    threshold = torch.tensor(_kth_largest(importance, kept), dtype=importance.dtype)
    mask = importance >= threshold
    if np.count_nonzero(mask.numpy()) == kept:
        return mask
    if bool(torch.isnan(importance).any()):
        raise ValueError("scores are not numbers any more (NaN): the search diverged, lower optim.lr")
    above = importance > threshold
    first = (importance == threshold).flatten().nonzero()[: kept - int(torch.count_nonzero(above))]
    flat = above.flatten()
    flat[first] = True
    return torch.empty_like(above).copy_(flat.view(above.shape))  # keeps the memory format of the importance


def _kth_largest(importance: Tensor, kept: int) -> float:
    """Value of the ``kept``-th largest entry: introselect on a copy of the memory, O(n)."""
    values = memory(importance).numpy().copy()
    position = values.size - kept
    values.partition(position)
    return float(values[position])


def memory(x: Tensor) -> Tensor:
    """All entries of a CPU tensor as NumPy can take them, (n,), in the order of its memory: for what needs no order."""
    x = x.detach() if x.dtype in (torch.float32, torch.float64, torch.bool) else x.detach().float()
    dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return x.as_strided((x.numel(),), (1,)) if dense else x.flatten()


def select_on_device(importance: Tensor, *, kept: int) -> Tensor:
    """:func:`select` in device-side operations only: no value travels to the host. Works on any device."""
    threshold = kth_largest_on_device(importance.flatten(), kept)
    above = importance > threshold
    equal = importance == threshold
    missing = kept - above.sum()  # 0-d, stays on the device
    rank = equal.flatten().cumsum(0, dtype=torch.int64).view(importance.shape)  # 1 for the first equal, then 2 ...
    return torch.empty_like(above).copy_(above | (equal & (rank <= missing)))


def select_jointly(importances: Sequence[Tensor], *, kept: int) -> list[Tensor]:
    """Masks of the ``kept`` largest entries of all ``importances`` together, at least one of each.

    Among equals the earlier tensor comes first, then the lowest flat index. A tensor that has none among the largest
    keeps its own largest (the first of them) in the place of the least important one of the others.

    Args:
        importances: one tensor a layer, as for :func:`select`.
        kept: how many entries to keep of all ``n``, at least one a tensor.

    Returns:
        One bool tensor for each, with exactly ``kept`` ones together.

    Raises:
        ValueError: ``kept`` is out of range; an entry is NaN (noticed on the CPU only).
    """
    n = sum(importance.numel() for importance in importances)
    if not len(importances) <= kept <= n:
        raise ValueError(
            f"kept must be between one for each of the {len(importances)} layers and their {n} weights, got {kept}"
        )
    if all(importance.device.type == "cpu" for importance in importances):
        threshold = kth_largest(importances, kept)
        masks = [importance >= threshold for importance in importances]
        ones = [np.count_nonzero(mask.numpy()) for mask in masks]
        if min(ones) > 0 and sum(ones) == kept:
            return masks
    return _select_jointly_first_of_each(importances, kept)


def _select_jointly_first_of_each(importances: Sequence[Tensor], kept: int) -> list[Tensor]:
    """:func:`select_jointly` of one long tensor in which the first largest entry of each layer outweighs all others."""
    flats = [importance.flatten() for importance in importances]
    firsts = []
    for flat in flats:
        largest = flat == flat.amax()
        firsts.append(largest & (largest.cumsum(0) == 1))
    chosen = select(torch.cat(flats).masked_fill(torch.cat(firsts), torch.inf), kept=kept)
    parts = torch.split(chosen, [flat.numel() for flat in flats])
    return [
        torch.empty_like(importance, dtype=torch.bool).copy_(part.view(importance.shape))
        for importance, part in zip(importances, parts, strict=True)
    ]


def kth_largest(importances: Sequence[Tensor], k: int) -> Tensor:
    """The ``k``-th largest of all entries together, 0-d, of the dtype and device of the entries, ``1 <= k <= n``."""
    if all(importance.device.type == "cpu" for importance in importances):
        values = np.concatenate([memory(importance).numpy() for importance in importances])
        position = values.size - k
        values.partition(position)
        return torch.tensor(values[position], dtype=importances[0].dtype)
    return kth_largest_on_device(torch.cat([importance.flatten() for importance in importances]), k)


def kth_largest_on_device(flat: Tensor, k: int) -> Tensor:
    """The ``k``-th largest entry of ``flat``, (n,), 0-d, in device-side operations only."""
    if k <= flat.numel() // 2:
        return torch.topk(flat, k, sorted=False).values.amin()
    # the k-th largest is the (n - k + 1)-th smallest
    return torch.topk(flat, flat.numel() - k + 1, largest=False, sorted=False).values.amax()


def kept_fraction(masks: list[Tensor]) -> float:
    """Fraction of ones over all ``masks`` together (the *density*)."""
    ones = sum(int(torch.count_nonzero(mask)) for mask in masks)
    return ones / max(1, sum(mask.numel() for mask in masks))


def flips(before: list[Tensor], after: list[Tensor]) -> float:
    """Share of all mask bits that differ between two lists of masks of the same shapes."""
    changed = sum(int(torch.count_nonzero(a ^ b)) for a, b in zip(before, after, strict=True))
    return changed / max(1, sum(mask.numel() for mask in after))


def packed_bits(bits: np.ndarray) -> np.ndarray:
    """Eight bits a byte, lowest bit first, zeros behind the last: bool (n,) -> uint8 (ceil(n / 8),)."""
    return np.packbits(bits.ravel(), bitorder="little")


def unpacked_bits(packed: np.ndarray, *, n: int) -> np.ndarray:
    """The first ``n`` bits of :func:`packed_bits`: uint8 (ceil(n / 8),) -> bool (n,)."""
    return np.unpackbits(packed, count=n, bitorder="little").astype(bool)
